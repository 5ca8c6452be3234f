package replicas

import (
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/pkce-auth/caddy-pkce-auth/caddyauth/store"
	"github.com/pkce-auth/caddy-pkce-auth/test/provider"
)

// trap holds a request to the token endpoint until whoever sent it is dead.
type trap struct {
	caught chan struct{} // closed when one is in it
	once   sync.Once
	dead   chan struct{} // closed by the test
}

func newTrap() *trap { return &trap{caught: make(chan struct{}), dead: make(chan struct{})} }

// hold holds the first, and lets the others pass.
func (tr *trap) hold() {
	first := false
	tr.once.Do(func() { first = true })
	if !first {
		return
	}
	close(tr.caught)
	<-tr.dead
	panic(http.ErrAbortHandler)
}

// killed is a refresh whose replica is killed while the provider is at it. It
// returns what the browser gets from the others, which are asked at once.
func (w *world) killed(b *browser, tr *trap) *outcome {
	w.t.Helper()
	go func() {
		_, _ = b.send(w.t.Context(), b.request(http.MethodGet, "/api", fetched), 0)
	}()
	select {
	case <-tr.caught:
	case <-time.After(10 * time.Second):
		w.t.Fatal("the provider is not asked")
	}
	w.replicas[0].process.kill()
	close(tr.dead)
	if len(w.replicas) == 1 { // something starts it again
		w.replicas[0].start()
		w.replicas[0].isUp()
	}
	return b.fetchAll(30)
}

// bounded is for how long anybody may wait for a replica that was killed: for
// its lock, and what it takes to refresh.
const bounded = store.LockLease + 5*time.Second

// A80, T2: the replica that refreshes is killed before the provider has spent
// the refresh token. Another one takes over when the lock runs out; nobody is
// logged out, nobody sees an error.
func TestA80KilledBeforeTheProviderSaw(t *testing.T) {
	each(t, []kind{redisThree, storageThree, cookieThree, cookieOne}, named, func(t *testing.T, k kind) {
		w := newWorld(t, setup{kind: k})
		b := w.expired(1)[0]
		tr := newTrap()
		w.op.Misbehave(provider.Faults{Answer: map[string]func(http.ResponseWriter, *http.Request) bool{
			"token": func(http.ResponseWriter, *http.Request) bool { tr.hold(); return false },
		}})
		o := w.killed(b, tr)
		bad, lost := o.not(http.StatusOK), 0
		if a := b.fetch("/api", anyone); a.status != http.StatusOK || w.spoilt() {
			lost++
		}
		measured.add(row{"c. replica killed mid-refresh, before the provider saw", k.String(), w.asked(), o.total(), len(bad), lost, "slowest answer " + o.slowest().String()})
		if o.slowest() > bounded {
			t.Errorf("an answer took %s", o.slowest())
		}
		if k == cookieThree { // the others do not know of each other
			if bad := o.not(http.StatusOK, http.StatusUnauthorized, http.StatusFound); len(bad) > 0 {
				t.Errorf("these requests got an error: %s", few(bad))
			}
			return
		}
		if len(bad) > 0 || lost > 0 || w.asked() != 2 {
			t.Errorf("%d tries, want 2; these requests failed: %s", w.asked(), few(bad))
		}
	})
}

// A81, M107: the replica that refreshes is killed when the provider has
// answered, and before anybody else has the answer. Nothing can save that
// session: it ends with a login, in a bounded time and without an error.
func TestA81M107KilledAfterTheProviderAnswered(t *testing.T) {
	each(t, []kind{redisThree, storageThree, cookieThree, cookieOne}, named, func(t *testing.T, k kind) {
		w := newWorld(t, setup{kind: k})
		b, other := w.expired(1)[0], w.as("bob")
		tr := newTrap()
		w.op.Misbehave(provider.Faults{RefreshResponse: func(map[string]any) { tr.hold() }})
		stop := w.busy([]*browser{other}, "/api")
		o := w.killed(b, tr)
		elsewhere := stop()
		w.op.Misbehave(provider.Faults{})
		bad := o.not(http.StatusUnauthorized, http.StatusFound)
		measured.add(row{
			"c. replica killed mid-refresh, after the provider answered", k.String(), w.asked(), o.total(), o.total() - o.count(http.StatusOK), 1,
			"ends with a login; slowest answer " + o.slowest().String(),
		})
		if o.slowest() > bounded || len(bad) > 0 {
			t.Errorf("the slowest answer took %s; these requests were neither refused nor sent to log in: %s", o.slowest(), few(bad))
		}
		for _, a := range elsewhere.answers { // whom the killed one served just then cannot be served
			if a.status != http.StatusOK {
				t.Errorf("another session: got %s", a)
			}
		}
		if len(elsewhere.errs) > 3 && k.replicas > 1 {
			t.Errorf("another session: %v", elsewhere.errs[0])
		}
		asked := w.asked()
		b.login()
		if a := b.fetch("/api", anyone); a.status != http.StatusOK || w.asked() != asked {
			t.Errorf("after the login: got %s", a)
		}
	})
}

// A80: while the token is still good, nobody waits for a replica that was
// killed as it refreshed.
func TestA80KilledWhileTheTokenIsGood(t *testing.T) {
	each(t, shared, named, func(t *testing.T, k kind) {
		w := newWorld(t, setup{kind: k, options: "refresh 1h"}) // in the second half of the lifetime, that is
		w.op.Change(func(c *provider.Config) { c.TokenLifetime = 32 * time.Second })
		b := w.browser()
		b.login()
		w.op.Change(func(c *provider.Config) { c.TokenLifetime = long })
		time.Sleep(16*time.Second + 100*time.Millisecond)
		tr := newTrap()
		w.op.Misbehave(provider.Faults{Answer: map[string]func(http.ResponseWriter, *http.Request) bool{
			"token": func(http.ResponseWriter, *http.Request) bool { tr.hold(); return false },
		}})
		o := w.killed(b, tr)
		if bad := o.not(http.StatusOK); len(bad) > 0 || o.slowest() > 2*time.Second {
			t.Errorf("the slowest answer took %s; these requests failed: %s", o.slowest(), few(bad))
		}
		within(t, bounded, "another replica has refreshed", func() bool {
			if a := b.fetch("/api", anyone); a.status != http.StatusOK {
				t.Fatalf("got %s", a)
			}
			time.Sleep(50 * time.Millisecond)
			return w.asked() == 2
		})
		measured.add(row{"c. the same, the old token is still good", k.String(), w.asked(), o.total(), 0, 0, "slowest answer " + o.slowest().String()})
		if w.spoilt() {
			t.Error("the provider has revoked the tokens")
		}
	})
}
