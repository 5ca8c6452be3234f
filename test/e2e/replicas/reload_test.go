package replicas

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"syscall"
	"testing"
	"time"

	"github.com/pkce-auth/caddy-pkce-auth/test/provider"
)

// T9, A120: each replica gets a new configuration under load, more than once.
// No session, no request and no login in progress is lost, nor what was under
// way for longer.
func TestT9A120ReloadUnderLoad(t *testing.T) {
	each(t, append([]kind{cookieThree}, promising...), named, func(t *testing.T, k kind) {
		w := newWorld(t, setup{kind: k})
		browsers := []*browser{w.as("alice"), w.as("alice"), w.as("bob"), w.as("bob")}
		stop, stopSlow, stopLogins := w.busy(browsers[:3], "/api"), w.busy(browsers[3:], "/slow"), w.newcomers()
		inProgress := w.browser()
		at := inProgress.visit("/app", anyone)
		for range 2 {
			for _, r := range w.replicas {
				time.Sleep(400 * time.Millisecond)
				if err := r.reload(""); err != nil {
					t.Fatal(err)
				}
			}
		}
		if a := inProgress.follow(at, anyone); a.status != http.StatusOK {
			t.Errorf("a login that was in progress: %s", a)
		}
		w.drained("h. configuration reloaded under load", browsers, []*outcome{stop(), stopSlow()}, stopLogins())
	})
}

// drained looks at what load was like while replicas were drained.
func (w *world) drained(scenario string, browsers []*browser, outcomes []*outcome, logins int) {
	w.t.Helper()
	total, bad := 7*logins, []string(nil)
	for _, o := range outcomes {
		total += o.total()
		bad = append(bad, o.not(http.StatusOK)...)
	}
	lost := 0
	for _, b := range browsers {
		if a := b.fetch("/api", anyone); a.status != http.StatusOK {
			lost++
		}
	}
	measured.add(row{scenario, w.setup.String(), w.asked(), total, len(bad), lost, fmt.Sprintf("%d logins meanwhile; %d connections reset before they were accepted", logins, w.unbroken())})
	if len(bad) > 0 || lost > 0 {
		w.t.Errorf("%d sessions were lost; these requests failed: %s", lost, few(bad))
	}
}

// T9: a replica is told to end, under load, while those before it pass on what
// it takes no longer. It ends well, and soon, when what it has begun is done;
// then it comes back.
func TestT9TerminatedUnderLoad(t *testing.T) {
	each(t, append([]kind{cookieThree}, shared...), named, func(t *testing.T, k kind) {
		w := newWorld(t, setup{kind: k})
		browsers := []*browser{w.as("alice"), w.as("alice"), w.as("bob"), w.as("bob")}
		stop, stopSlow, stopLogins := w.busy(browsers[:3], "/api"), w.busy(browsers[3:], "/slow"), w.newcomers()
		for to, r := range w.replicas[:2] {
			time.Sleep(400 * time.Millisecond)
			inProgress := w.browser()
			at := inProgress.visit("/app", to) // begun where it cannot end
			r.process.signal(syscall.SIGTERM)
			select {
			case <-r.process.ended:
			case <-time.After(20 * time.Second):
				t.Fatal("it does not end")
			}
			if !r.process.clean {
				t.Errorf("replica %d did not end well", to)
			}
			if a := inProgress.follow(at, anyone); a.status != http.StatusOK {
				t.Errorf("a login that was in progress: %s", a)
			}
			time.Sleep(300 * time.Millisecond)
			r.start()
			r.isUp()
		}
		w.drained("h. two replicas in turn ended by SIGTERM under load", browsers, []*outcome{stop(), stopSlow()}, stopLogins())
	})
}

// T9, promise 3: a replica is told to end while it refreshes a session whose
// browser does not wait for that: it has hung up, or its old token is still
// good. What the provider answers, and will not say again, is kept before the
// process ends.
func TestT9TerminatedMidRefresh(t *testing.T) {
	each(t, shared, named, func(t *testing.T, k kind) {
		w := newWorld(t, setup{kind: k})
		b := w.expired(1)[0]
		w.op.Misbehave(slowly(2 * time.Second))
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		_, _ = b.send(ctx, b.request(http.MethodGet, "/api", fetched), 0)
		within(t, 5*time.Second, "the provider is asked", func() bool { return w.asked() == 1 })
		r := w.replicas[0]
		r.process.signal(syscall.SIGTERM)
		o := b.fetchAll(30)
		<-r.process.ended
		bad, lost := o.not(http.StatusOK), 0
		if w.asked() != 1 || w.spoilt() {
			lost++
		}
		measured.add(row{"h. SIGTERM mid-refresh, nobody waits for it there", k.String(), w.asked(), o.total(), len(bad), lost, "slowest answer " + o.slowest().String()})
		if len(bad) > 0 || lost > 0 || !r.process.clean {
			t.Errorf("there were %d grants; these requests failed: %s", w.asked(), few(bad))
		}
	})
}

// A82: a token expires in the middle of a long upload, the session is refreshed
// by another request, the secret of cookies changes, and the configuration with
// it. The upload, which was let in, ends well.
func TestA82TokensExpireDuringAnUpload(t *testing.T) {
	each(t, promising, named, func(t *testing.T, k kind) {
		w := newWorld(t, setup{kind: k})
		w.op.Change(func(c *provider.Config) { c.TokenLifetime = short })
		b := w.as("alice")
		w.op.Change(func(c *provider.Config) { c.TokenLifetime = long })
		body, writer := io.Pipe()
		req := b.request(http.MethodPost, "/upload", fetched)
		req.Body = body
		const part, parts = 64 << 10, 20
		go func() {
			for range parts {
				time.Sleep(4 * time.Second / parts)
				if _, err := writer.Write(make([]byte, part)); err != nil {
					t.Error(err)
					return
				}
			}
			_ = writer.Close()
		}()
		failed := make(chan int, 1)
		go func() {
			time.Sleep(short + 500*time.Millisecond)
			bad := b.fetchAll(10).not(http.StatusOK)
			if len(bad) > 0 {
				t.Errorf("meanwhile: %s", few(bad))
			}
			if err := w.replicas[0].reload(secretB + " " + secretA); err != nil {
				t.Error(err)
			}
			failed <- len(bad)
		}()
		a, err := b.send(t.Context(), req, 0)
		bad := <-failed
		if want := fmt.Sprint(part*parts, " <nil>"); err != nil || a.status != http.StatusOK || a.body != want {
			t.Errorf("got %s, %v", a, err)
			bad++
		}
		measured.add(row{"i. token expires during an upload of 4 s", k.String(), w.asked(), 11, bad, 0, ""})
		if n := w.asked(); n != 1 || w.spoilt() {
			t.Errorf("there were %d grants", n)
		}
	})
}
