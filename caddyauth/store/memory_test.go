package store_test

import (
	"errors"
	"fmt"
	"io/fs"
	"sync"
	"testing"
	"time"

	"github.com/pkce-auth/caddy-pkce-auth/caddyauth/store"
	"github.com/pkce-auth/caddy-pkce-auth/caddyauth/store/storetest"
)

func TestMemoryConforms(t *testing.T) {
	storetest.Run(t, func(*testing.T) store.Store { return new(store.Memory) })
}

// A full memory forgets who logged in longest ago and has not been seen since,
// and never the one who just came.
func TestFullMemoryDropsTheOldestFirst(t *testing.T) {
	m := &store.Memory{Limit: 10_000}
	save := func(key string, version uint64, size int) {
		t.Helper()
		err := m.Save(t.Context(), key, store.Record{Value: make([]byte, size), Version: version, Expires: time.Now().Add(time.Hour), Indexes: []string{"all"}})
		if err != nil {
			t.Fatal(err)
		}
	}
	for i := range 3 {
		save(fmt.Sprint("k", i), 1, 2000)
	}
	save("k0", 2, 2000) // in use
	save("k3", 1, 2000)
	for key, want := range map[string]error{"k0": nil, "k1": fs.ErrNotExist, "k2": nil, "k3": nil} {
		if _, err := m.Load(t.Context(), key); !errors.Is(err, want) {
			t.Errorf("Load of %s: got %v, want %v", key, err, want)
		}
	}
	save("huge", 1, 20_000)
	if _, err := m.Load(t.Context(), "huge"); err != nil {
		t.Errorf("a record larger than the limit: got %v, want it kept alone", err)
	}
	if keys, _ := m.Find(t.Context(), "all"); len(keys) != 1 {
		t.Errorf("Find: got %v, want the only record that is left", keys)
	}
	if got := m.Evicted(); got != 4 {
		t.Errorf("got %d evicted, want 4", got)
	}
}

// What has expired makes room before anything that has not, and is no
// eviction: an operator is not called for it.
func TestMemoryDropsWhatHasExpired(t *testing.T) {
	now := time.Unix(1_000_000, 0)
	m := &store.Memory{Limit: 10_000, Now: func() time.Time { return now }}
	for i := range 100 {
		err := m.Save(t.Context(), fmt.Sprint("k", i), store.Record{Value: make([]byte, 1500), Version: 1, Expires: now.Add(90 * time.Second), Indexes: []string{"all"}})
		if err != nil {
			t.Fatal(err)
		}
		now = now.Add(30 * time.Second)
	}
	if got := m.Evicted(); got != 0 {
		t.Errorf("got %d evicted, want 0", got)
	}
	if keys, _ := m.Find(t.Context(), "all"); len(keys) > 4 {
		t.Errorf("got %d records, want those of the last 90 s", len(keys))
	}
}

// All at once, for the race detector.
func TestMemoryFromManySides(t *testing.T) {
	m := &store.Memory{Limit: 20_000}
	var all sync.WaitGroup
	for i := range 8 {
		all.Go(func() {
			for j := range 500 {
				key := fmt.Sprint("k", (i+j)%13)
				r, _ := m.Load(t.Context(), key)
				err := m.Save(t.Context(), key, store.Record{Value: make([]byte, 10*j), Version: r.Version + 1, Expires: time.Now().Add(time.Hour), Indexes: []string{"all"}})
				if err != nil && !errors.Is(err, store.ErrConflict) {
					t.Error(err)
				}
				if j%50 == 0 {
					_ = m.Delete(t.Context(), key)
				}
				_, _ = m.Find(t.Context(), "all")
				if unlock, ok, _ := m.TryLock(t.Context(), key); ok {
					unlock()
				}
			}
		})
	}
	all.Wait()
}
