package session

import (
	"fmt"
	"net/http"
	"runtime"
	"testing"
	"time"

	"github.com/pkce-auth/caddy-pkce-auth/caddyauth/store"
)

// heap is what is in use after all garbage is gone.
func heap() int {
	runtime.GC()
	runtime.GC() // pools take two
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int(m.HeapAlloc)
}

// held is what a cache says that it holds.
func (c *cache) held() (size, entries int) {
	for i := range c.shards {
		size += c.shards[i].size
		entries += len(c.shards[i].ring)
	}
	return size, entries
}

// remeasure has the hand come by all entries.
func (c *cache) remeasure() {
	for i := range c.shards {
		for j := range c.shards[i].ring {
			c.shards[i].ring[j].used = false
		}
	}
}

// Promise 6: the memory that sessions take is bounded in bytes, so what is counted
// must be what the heap grows by. No session has a goroutine.
func TestPromise6MemoryOfSessions(t *testing.T) {
	const n = 50
	for _, f := range families {
		for _, size := range []int{800, 2000, 6000} {
			t.Run(fmt.Sprintf("%s/%d", f.name, size), func(t *testing.T) {
				var sessions []*Session
				for i := range n {
					sessions = append(sessions, f.login(size, uint64(i)))
				}
				memory := &store.Memory{Now: func() time.Time { return begin }}
				stored := newStored(t, memory, hours, func() time.Time { return begin })
				before := heap()
				var tickets [n][]string
				for i, s := range sessions {
					h := http.Header{}
					if err := stored.Save(t.Context(), h, nil, s); err != nil {
						t.Fatal(err)
					}
					c := (&http.Response{Header: h}).Cookies()[0]
					tickets[i] = []string{c.Name + "=" + c.Value}
				}
				kept := (heap() - before) / n
				opened := opens(t, stored, stored.opened, tickets[:])

				stateless := newKeeper(t, hours, func() time.Time { return begin })
				var cookies [n][]string
				for i, s := range sessions {
					cookies[i] = save(t, stateless, s)
				}
				inCookie := opens(t, stateless, stateless.opened, cookies[:])
				if most := 2*(len(sessions[0].AccessToken.Reveal())+len(sessions[0].IDToken.Reveal()))/3 + 3<<10; kept > most {
					t.Errorf("%d bytes of a session are kept in memory, want at most %d", kept, most)
				}
				t.Logf("bytes of a session, opened and read: from a cookie %d; in memory %d, from there %d", inCookie, kept, opened)
				runtime.KeepAlive(memory)
				runtime.KeepAlive(sessions)
			})
		}
	}
}

// opens loads sessions, and returns how many bytes each takes when it was opened,
// and when its claims were read.
func opens(t *testing.T, k Keeper, c *cache, cookies [][]string) (each []int) {
	t.Helper()
	before, goroutines := heap(), runtime.NumGoroutine()
	for _, doing := range []string{"opened", "read"} {
		for _, lines := range cookies {
			opened, err := k.Load(t.Context(), lines)
			if err != nil {
				t.Fatal(err)
			}
			if doing == "read" {
				opened.Claims.Has("sub")
				c.remeasure()
				if _, err := k.Load(t.Context(), lines); err != nil {
					t.Fatal(err)
				}
			}
		}
		grown := heap() - before
		counted, entries := c.held()
		if got := float64(grown) / float64(counted); got > 1.05 || got < 0.8 {
			t.Errorf("%s: the heap grew by %d bytes, %d are counted for %d sessions", doing, grown, counted, entries)
		}
		each = append(each, grown/entries)
	}
	if got := runtime.NumGoroutine(); got > goroutines {
		t.Errorf("%d goroutines, %d before", got, goroutines)
	}
	runtime.KeepAlive(k)
	runtime.KeepAlive(cookies)
	return each
}
