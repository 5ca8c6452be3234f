package caddyauth

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddyserver/certmagic"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/pkce-auth/caddy-pkce-auth/caddyauth/internal/sealed"
)

// fakeStorage is a storage that several Caddys share, and that fails by
// switch.
type fakeStorage struct {
	certmagic.Storage // nil: what is not written here is not called

	loads, stores atomic.Int32
	delay         time.Duration

	mu     sync.Mutex
	data   []byte
	fail   error
	locked chan struct{} // holds one element while somebody has the lock
}

func newFakeStorage() *fakeStorage { return &fakeStorage{locked: make(chan struct{}, 1)} }

func (s *fakeStorage) refuse(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fail = err
}

func (s *fakeStorage) Load(context.Context, string) ([]byte, error) {
	s.loads.Add(1)
	time.Sleep(s.delay)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.fail == nil && s.data == nil {
		return nil, fs.ErrNotExist
	}
	return bytes.Clone(s.data), s.fail
}

func (s *fakeStorage) Store(_ context.Context, _ string, data []byte) error {
	s.stores.Add(1)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.fail == nil {
		s.data = bytes.Clone(data)
	}
	return s.fail
}

func (s *fakeStorage) Lock(ctx context.Context, _ string) error {
	select {
	case s.locked <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (s *fakeStorage) Unlock(context.Context, string) error { <-s.locked; return nil }

// replica is one Caddy's view of the keys.
func (s *fakeStorage) replica(logger *zap.Logger) (*storedKeys, *sealed.Box) {
	k := &storedKeys{storage: s, path: "keys.json", lifetime: 7 * 24 * time.Hour, now: time.Now, known: new(atomic.Pointer[sealed.Keyring]), logger: logger}
	return k, sealed.NewBox(k, "session", "provider")
}

func sealNow(t *testing.T, box *sealed.Box) string {
	t.Helper()
	text, err := box.Seal([]byte("x"))
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// sealElsewhere gives a value whose key nobody here knows.
func sealElsewhere(t *testing.T) string {
	t.Helper()
	_, foreign := newFakeStorage().replica(zap.NewNop())
	return sealNow(t, foreign)
}

// The first use makes the key, and all who use the storage get the same:
// however many begin at once.
func TestKeysAreMadeOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		storage := newFakeStorage()
		storage.delay = 300 * time.Millisecond
		var boxes []*sealed.Box
		for range 5 {
			_, box := storage.replica(zap.NewNop())
			boxes = append(boxes, box)
		}
		if storage.loads.Load() != 0 {
			t.Error("the storage was asked before the first use")
		}
		sealedTexts := make([]string, 20)
		var wg sync.WaitGroup
		for i := range sealedTexts {
			wg.Go(func() { sealedTexts[i] = sealNow(t, boxes[i%len(boxes)]) })
		}
		wg.Wait()
		if n := storage.stores.Load(); n != 1 {
			t.Errorf("%d keys were made", n)
		}
		for i, text := range sealedTexts {
			if _, err := boxes[(i+1)%len(boxes)].Open(text); err != nil {
				t.Errorf("another replica: %v", err)
			}
		}
	})
}

// A whole year of one replica that is in use and one that is asleep most of
// the time: keys are rotated, nothing that is younger than a session's
// lifetime ever fails to open anywhere, and old keys go.
func TestKeysRotateWithoutAnybodyNoticing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		storage := newFakeStorage()
		_, busy := storage.replica(zap.NewNop())
		_, sleepy := storage.replica(zap.NewNop())
		type cookie struct {
			text string
			at   time.Time
		}
		var cookies []cookie
		for i := range 365 * 24 {
			cookies = append(cookies, cookie{sealNow(t, busy), time.Now()})
			for time.Since(cookies[0].at) > 7*24*time.Hour {
				cookies = cookies[1:]
			}
			box := busy
			if i%50 == 0 {
				box = sleepy
			}
			for _, c := range []cookie{cookies[0], cookies[len(cookies)/2], cookies[len(cookies)-1]} {
				if _, err := box.Open(c.text); err != nil {
					t.Fatalf("hour %d: a cookie of %s ago: %v", i, time.Since(c.at), err)
				}
			}
			time.Sleep(time.Hour)
		}
		synctest.Wait()
		if n := storage.stores.Load(); n < 12 || n > 13 {
			t.Errorf("%d keys were made in a year", n)
		}
		var keys []storedKey
		if err := json.Unmarshal(storage.data, &keys); err != nil || len(keys) > 2 {
			t.Errorf("%d keys are left: %v", len(keys), err)
		}
	})
}

// A new key seals only when everybody who is in use can know it.
func TestKeysArePublishedBeforeTheySeal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		storage := newFakeStorage()
		_, box := storage.replica(zap.NewNop())
		old := sealNow(t, box)[:6] // version and ID of the key
		time.Sleep(keyRotation)
		sealNow(t, box) // has the new key made
		synctest.Wait()
		if storage.stores.Load() != 2 {
			t.Fatal("no new key")
		}
		for range 5 {
			if got := sealNow(t, box)[:6]; got != old {
				t.Error("the new key seals at once")
			}
			time.Sleep(keyRefresh)
			sealNow(t, box)
			synctest.Wait()
		}
		time.Sleep(2 * keyRefresh)
		sealNow(t, box)
		synctest.Wait()
		if got := sealNow(t, box)[:6]; got == old {
			t.Error("the new key never seals")
		}
	})
}

// Values with forged key IDs cost a look at the storage every few seconds, no
// more, and are worthless.
func TestForgedKeyIDsAreCheap(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		storage := newFakeStorage()
		_, box := storage.replica(zap.NewNop())
		sealNow(t, box)
		forged := sealElsewhere(t)
		before := storage.loads.Load()
		for range 1000 {
			if _, err := box.Open(forged); !errors.Is(err, sealed.ErrOpen) {
				t.Fatalf("got %v", err)
			}
			time.Sleep(20 * time.Millisecond)
		}
		if n := storage.loads.Load() - before; n > 5 {
			t.Errorf("%d looks at the storage in 20 s", n)
		}
	})
}

// When the storage fails, nothing can be told: that is neither "worthless" nor
// a new key. When it is back, all goes on by itself; and keys that are there
// serve on meanwhile.
func TestKeysWithoutStorage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		core, logs := observer.New(zap.ErrorLevel)
		storage := newFakeStorage()
		_, other := storage.replica(zap.NewNop())
		text := sealNow(t, other)
		storage.refuse(errors.New("disk on fire"))
		keys, box := storage.replica(zap.New(core))
		for range 100 {
			if _, err := box.Open(text); !errors.Is(err, sealed.ErrKeys) || errors.Is(err, sealed.ErrOpen) {
				t.Fatalf("got %v", err)
			}
			if _, err := box.Seal([]byte("x")); !errors.Is(err, sealed.ErrKeys) {
				t.Fatalf("got %v", err)
			}
			if reasonFor(keys.failure) != reasonSessionUnavailable {
				t.Fatalf("%v counts as %s", keys.failure, reasonFor(keys.failure))
			}
		}
		if n := logs.Len(); n != 1 || !strings.Contains(logs.All()[0].ContextMap()["error"].(string), "disk on fire") {
			t.Errorf("%d lines: %v", n, logs.All())
		}
		storage.refuse(nil)
		time.Sleep(keyRetry)
		if _, err := box.Open(text); err != nil {
			t.Errorf("when it is back: %v", err)
		}
		storage.refuse(errors.New("disk on fire"))
		time.Sleep(2 * keyRefresh)
		if _, err := box.Open(text); err != nil {
			t.Errorf("with keys that are there: %v", err)
		}
		synctest.Wait()
		storage.refuse(nil)
		for _, bad := range []string{"", "{}", `[{"secret":"AAAA","created":"2026-01-01T00:00:00Z"}]`, `[{"secret":"` + strings.Repeat("A", 44) + `"}]`} {
			storage.data = []byte(bad)
			_, box := storage.replica(zap.NewNop())
			if _, err := box.Seal(nil); !errors.Is(err, sealed.ErrKeys) || !strings.Contains(err.Error(), "delete it") {
				t.Errorf("%q in the storage: got %v", bad, err)
			}
		}
	})
}

// A replica that nobody asked anything for months looks before it seals: its
// key may have been dropped everywhere else.
func TestKeysAfterALongSilence(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		storage := newFakeStorage()
		_, sleepy := storage.replica(zap.NewNop())
		_, busy := storage.replica(zap.NewNop())
		sealNow(t, sleepy)
		for range 100 * 24 {
			sealNow(t, busy)
			time.Sleep(time.Hour)
		}
		if _, err := busy.Open(sealNow(t, sleepy)); err != nil {
			t.Errorf("what it sealed: %v", err)
		}
	})
}

// The key is old, and no new one can be made: the old one serves on.
func TestKeysThatCannotBeRotated(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		core, logs := observer.New(zap.ErrorLevel)
		storage := newFakeStorage()
		_, other := storage.replica(zap.NewNop())
		text := sealNow(t, other)
		time.Sleep(keyRotation + time.Hour)
		storage.locked <- struct{}{} // whoever has the lock never gives it back
		_, box := storage.replica(zap.New(core))
		if _, err := box.Open(text); err != nil {
			t.Errorf("got %v", err)
		}
		if sealNow(t, box)[:6] != text[:6] || logs.FilterMessageSnippet("the old one serves on").Len() != 1 {
			t.Errorf("logged: %v", logs.All())
		}
	})
}

// The configuration changes while the storage fails: what the one before has
// read serves on.
func TestKeysAcrossAReloadWithoutStorage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		storage := newFakeStorage()
		before, box := storage.replica(zap.NewNop())
		text := sealNow(t, box)
		storage.refuse(errors.New("disk on fire"))
		after, again := storage.replica(zap.NewNop())
		after.known = before.known
		if _, err := again.Open(text); err != nil {
			t.Errorf("got %v", err)
		}
		if _, err := again.Open(sealNow(t, again)); err != nil {
			t.Errorf("got %v", err)
		}
	})
}

// A value with an unknown key, while the storage fails: shortly after the
// last look it is worthless, for everybody knows a key before it seals; long
// after, that cannot be told.
func TestUnknownKeyWithoutStorage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		storage := newFakeStorage()
		_, box := storage.replica(zap.NewNop())
		sealNow(t, box)
		text := sealElsewhere(t)
		storage.refuse(errors.New("disk on fire"))
		time.Sleep(time.Minute)
		if _, err := box.Open(text); !errors.Is(err, sealed.ErrOpen) {
			t.Errorf("after a minute: got %v", err)
		}
		time.Sleep(2 * keyPublication)
		if _, err := box.Open(text); !errors.Is(err, sealed.ErrKeys) {
			t.Errorf("after two hours: got %v", err)
		}
	})
}

// A storage that hangs without regard to its context holds nobody up for
// longer than it may, whatever they bring.
func TestKeysInAStorageThatHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		storage := newFakeStorage()
		_, box := storage.replica(zap.NewNop())
		sealNow(t, box)
		text := sealElsewhere(t)
		storage.delay = time.Hour
		time.Sleep(time.Minute)
		began := time.Now()
		if _, err := box.Open(text); err == nil || time.Since(began) > keyPatience {
			t.Errorf("after %s: %v", time.Since(began), err)
		}
		_, fresh := storage.replica(zap.NewNop())
		began = time.Now()
		if _, err := fresh.Seal(nil); !errors.Is(err, sealed.ErrKeys) || time.Since(began) > keyPatience {
			t.Errorf("without any key, after %s: %v", time.Since(began), err)
		}
		time.Sleep(2 * time.Hour)
	})
}

// FuzzStoredKeys: whatever stands in the storage, it gives keys that seal and
// open, or an error that says so.
func FuzzStoredKeys(f *testing.F) {
	for _, seed := range []string{
		`[{"secret":"AQIDBAUGBwgJCgsMDQ4PEBESExQVFhcYGRobHB0eHyA=","created":"2026-01-01T00:00:00Z"}]`, "[]", "null", "{}", "[null]", "",
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		storage := newFakeStorage()
		storage.data = data
		_, box := storage.replica(zap.NewNop())
		text, err := box.Seal([]byte("x"))
		if err != nil {
			if !errors.Is(err, sealed.ErrKeys) {
				t.Fatal(err)
			}
			return
		}
		if opened, err := box.Open(text); err != nil || string(opened) != "x" {
			t.Fatalf("sealed, and not opened: %v", err)
		}
	})
}

// One that hangs for hours holds nobody up at all, and what nobody here can
// know cannot be told.
func TestKeysInAStorageThatHangsForLong(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		core, logs := observer.New(zap.ErrorLevel)
		storage := newFakeStorage()
		_, box := storage.replica(zap.New(core))
		text := sealNow(t, box)
		unknown := sealElsewhere(t)
		storage.delay = 24 * time.Hour
		time.Sleep(11 * time.Minute)
		_, _ = box.Open(text) // begins the look that hangs
		time.Sleep(2 * time.Hour)
		for range 3 {
			began := time.Now()
			if _, err := box.Open(text); err != nil || time.Since(began) > time.Second {
				t.Errorf("a good value, after %s: %v", time.Since(began), err)
			}
		}
		if _, err := box.Open(unknown); !errors.Is(err, sealed.ErrKeys) {
			t.Errorf("an unknown key, two hours after the last look: %v", err)
		}
		if lines := logs.All(); len(lines) != 1 || !strings.Contains(lines[0].Message, "does not answer") || lines[0].ContextMap()["hint"] != howToMendKeys {
			t.Errorf("logged: %v", lines)
		}
		time.Sleep(48 * time.Hour)
	})
}

// A key is kept as long as anything lasts that it sealed: from when its
// successor began to seal, not from when that was made.
func TestKeysThatAreNeeded(t *testing.T) {
	now := time.Now()
	const lifetime = 90 * 24 * time.Hour
	k := &storedKeys{lifetime: lifetime, now: func() time.Time { return now }}
	for since, want := range map[time.Duration]int{
		keyRotation:                             3,
		lifetime:                                3,
		lifetime + keyPublication + time.Minute: 3,
		lifetime + keyPublication + keyMargin + time.Minute: 2,
	} {
		keys := []storedKey{{Created: now}, {Created: now.Add(-since)}, {Created: now.Add(-since - keyRotation)}}
		if got := len(k.needed(keys)); got != want {
			t.Errorf("replaced %s ago: %d keys are kept, want %d", since, got, want)
		}
	}
}

// Promise 6: once there are keys, nobody waits in line for them, though somebody
// holds the lock of those who look at the storage for as long as can be.
func TestPromise6KeysWithoutWaiting(t *testing.T) {
	k, _ := newFakeStorage().replica(zap.NewNop())
	first, err := k.Keyring()
	if err != nil {
		t.Fatal(err)
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	got := make(chan *sealed.Keyring, 1)
	go func() {
		keyring, _ := k.Keyring()
		got <- keyring
	}()
	select {
	case keyring := <-got:
		if keyring != first {
			t.Error("got other keys")
		}
	case <-time.After(10 * time.Second):
		t.Error("the keys are waited for")
	}
}
