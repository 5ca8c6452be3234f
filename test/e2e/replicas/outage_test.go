package replicas

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/pkce-auth/caddy-pkce-auth/test/provider"
)

// unavailable ends the test if an answer is not that of a store that cannot be
// asked: 503, when to come again, and neither a cookie touched nor a login
// begun.
func (w *world) unavailable(a answer) {
	w.t.Helper()
	if a.status != http.StatusServiceUnavailable || a.header.Get("Retry-After") == "" || a.header.Get("Location") != "" || len(a.header["Set-Cookie"]) > 0 {
		w.t.Errorf("got %s, with %v", a, a.header)
	}
}

// outage is how sessions come through a time in which their store is away: the
// browsers keep on asking, and what they get is looked at.
func (w *world) outage(scenario string, begin, end func()) {
	w.t.Helper()
	var browsers []*browser
	for range 6 {
		b := w.browser()
		b.login()
		browsers = append(browsers, b)
	}
	logins := len(w.op.Requests("authorize"))
	streams := browsers[0].streams(0)
	stop := w.busy(browsers, "/api")
	time.Sleep(300 * time.Millisecond)
	begin()
	time.Sleep(1500 * time.Millisecond) // what was known just then may be used for a second
	reached := w.upstream.requests()
	var all sync.WaitGroup
	for to := range w.replicas {
		for _, ask := range []func() answer{
			func() answer { return browsers[to].fetch("/api", to) },
			func() answer { return browsers[to].visit("/app", to) },
			func() answer { return browsers[to].fetch("/oauth2/session", to) },
		} {
			all.Go(func() { w.unavailable(ask()) })
		}
	}
	all.Wait()
	if now := w.upstream.requests(); now != reached {
		w.t.Errorf("%d requests reached the upstream", now-reached)
	}
	end()
	lost := 0
	back := within(w.t, 10*time.Second, "the sessions are back", func() bool {
		lost = 0
		for i, b := range browsers {
			if b.fetch("/api", i%len(w.replicas)).status != http.StatusOK {
				lost++
			}
		}
		return lost == 0
	})
	o := stop()
	for _, a := range o.answers {
		if a.status == http.StatusServiceUnavailable {
			w.unavailable(a)
		}
	}
	// An error must come in time, for who waits holds what others wait for.
	if slowest := o.slowest(); slowest > 8*time.Second {
		w.t.Errorf("an answer took %s", slowest)
	}
	if bad := o.not(http.StatusOK, http.StatusServiceUnavailable); len(bad) > 0 {
		w.t.Errorf("these requests got neither 200 nor 503: %s", few(bad))
	}
	for _, s := range streams {
		if !s.open() {
			w.t.Errorf("a stream of %s was cut: %s", s.what, s.said)
		}
	}
	if n := len(w.op.Requests("authorize")) - logins; n != 0 {
		w.t.Errorf("%d logins were begun", n)
	}
	measured.add(row{
		scenario, w.setup.String(), w.asked(), o.total(), o.count(http.StatusServiceUnavailable), lost,
		fmt.Sprintf("failed: 503; back %s after the store, slowest answer %s", back, o.slowest()),
	})
}

// T4, A119: Redis is killed and restarted under load.
func TestT4A119RedisKilledUnderLoad(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setup{kind: redisThree})
	w.outage("e. store killed, restarted after 2 s, under load", w.redis.process.kill, w.redis.start)
}

// T4: Redis hangs for five seconds, which is worse: it says nothing.
func TestT4RedisHangs(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setup{kind: redisThree})
	var began time.Time
	w.outage("e. store hangs for 5 s, under load", func() {
		began = time.Now()
		w.redis.process.signal(syscall.SIGSTOP)
	}, func() {
		time.Sleep(5*time.Second - time.Since(began))
		w.redis.process.signal(syscall.SIGCONT)
	})
}

// T4: what Caddy keeps its storage on goes away, as a disk in the network does,
// and comes back.
func TestT4StorageAway(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setup{kind: storageThree})
	if err := os.WriteFile(filepath.Join(w.dir, "nothing"), nil, 0o600); err != nil { // nor can anything be made in it
		t.Fatal(err)
	}
	w.outage("e. store away for 2 s, under load", func() { w.mount("nothing") }, func() { w.mount("disk") })
}

// T4: a token expires while the store is away. It cannot be seen to that only
// one replica refreshes it, so nobody does.
func TestT4NoRefreshWithoutStore(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setup{kind: redisThree})
	b := w.expired(1)[0]
	w.redis.process.kill()
	time.Sleep(1500 * time.Millisecond)
	for to := range w.replicas {
		w.unavailable(b.fetch("/api", to))
	}
	if n := w.asked(); n != 0 {
		t.Errorf("there were %d grants", n)
	}
	w.redis.start()
	within(t, 10*time.Second, "the session is back", func() bool { return b.fetch("/api", anyone).status == http.StatusOK })
	if n := w.asked(); n != 1 || w.spoilt() {
		t.Errorf("there were %d grants, want 1", n)
	}
}

// T4: Redis dies while the provider is asked, and is back a second later: the
// new tokens, which are good for one use, find their way into it.
func TestT4RedisKilledMidRefresh(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setup{kind: redisThree})
	b := w.expired(1)[0]
	w.op.Misbehave(slowly(time.Second))
	asked := make(chan *outcome, 1)
	go func() { asked <- b.fetchAll(30) }()
	within(t, 5*time.Second, "the provider is asked", func() bool { return w.asked() == 1 })
	w.redis.process.kill()
	time.Sleep(1500 * time.Millisecond)
	w.redis.start()
	o := <-asked
	w.op.Misbehave(provider.Faults{})
	if bad := o.not(http.StatusOK, http.StatusServiceUnavailable); len(bad) > 0 {
		t.Errorf("these requests got neither 200 nor 503: %s", few(bad))
	}
	lost := 0
	for to := range w.replicas {
		within(t, 20*time.Second, "the session goes on", func() bool { return b.fetch("/api", to).status == http.StatusOK })
	}
	if n := w.asked(); n != 1 || w.spoilt() {
		t.Errorf("there were %d grants, want 1", n)
		lost = 1
	}
	measured.add(row{
		"e. store killed mid-refresh, restarted after 1.5 s", redisThree.String(), w.asked(), o.total(), o.total() - o.count(http.StatusOK), lost,
		fmt.Sprintf("failed: 503; slowest answer %s", o.slowest()),
	})
}
