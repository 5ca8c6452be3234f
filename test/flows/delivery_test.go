package flows

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/pkce-auth/caddy-pkce-auth/test/provider"
)

// Promise 3: what a refresh brought goes out with an error, too.
func TestPromise3ErrorAnswersDeliver(t *testing.T) {
	w := newWorld(t)
	w.notIn("memory") // which does not outlive a restart
	load := w.reloads()
	load("refresh 1h")
	b := w.browser()
	w.op.Misbehave(provider.Faults{TokenResponse: func(doc map[string]any) { doc["expires_in"] = 4 }})
	b.login(w, "/")
	w.upstream.answers(func(rw http.ResponseWriter, _ *http.Request) {
		time.Sleep(200 * time.Millisecond)
		conn, _, _ := http.NewResponseController(rw).Hijack()
		_ = conn.Close()
	})
	w.eventually("a refresh", func() bool { b.fetch(w.site + "/x"); return len(w.refreshes()) == 1 })
	w.upstream.answers(nil)
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	w.op.Misbehave(provider.Faults{})
	load("refresh 1h")
	time.Sleep(3 * time.Second)
	if a := b.fetch(w.site + "/x"); a.StatusCode != http.StatusOK {
		t.Errorf("after a restart: got status %d after %d refreshes", a.StatusCode, len(w.refreshes()))
	}
}

// Promise 3: and with the answer to a request that needed no session.
func TestPromise3BypassedRequestsDeliver(t *testing.T) {
	w := newWorld(t)
	w.notIn("memory", "storage") // where nothing has to be delivered
	load := w.reloads()
	load("bypass /static/*")
	b := w.browser()
	w.expired(b, provider.Faults{})
	w.upstream.answers(func(rw http.ResponseWriter, _ *http.Request) {
		time.Sleep(300 * time.Millisecond) // the refresh has long landed
		_, _ = rw.Write([]byte("ok"))
	})
	if a := b.fetch(w.site + "/static/x"); len(w.refreshes()) != 1 || len(a.Cookies()) == 0 {
		t.Error("the refresh has ended, and its outcome is not in the answer")
	}
	if err := stop(); err != nil { // or: the next request comes to another replica
		t.Fatal(err)
	}
	load("bypass /static/*")
	if a := b.fetch(w.site + "/x"); a.StatusCode != http.StatusOK {
		t.Errorf("after a restart: got status %d", a.StatusCode)
	}
}

// Promise 3: and with a callback that leads on.
func TestPromise3CallbacksDeliver(t *testing.T) {
	w := newWorld(t)
	w.notIn("memory", "storage") // where nothing has to be delivered
	load := w.reloads()
	load("timeout 5s")
	b := w.browser()
	w.expired(b, provider.Faults{})
	a := b.visit(w.site + "/oauth2/callback?code=x&state=y")
	if len(w.refreshes()) != 1 || len(a.Cookies()) == 0 {
		t.Errorf("status %d: %d refreshes, %d cookies", a.StatusCode, len(w.refreshes()), len(a.Cookies()))
	}
}

// A61: a slow answer does not put the session of an older login, perhaps of
// another account, in the place of a newer one.
func TestA61SlowAnswerOfAnOlderLogin(t *testing.T) {
	w := newWorld(t)
	w.caddy("pkce_auth $OP public {\nsession {\nidle 10s\n}\n}\nreverse_proxy $UPSTREAM")
	b := w.browser()
	b.login(w, "/")
	time.Sleep(1200 * time.Millisecond)
	held, release := w.upstream.holds("/slow")
	answers := make(chan answer)
	go func() { answers <- b.fetch(w.site + "/slow") }()
	<-held
	tab := &browser{t: t, jar: b.jar}
	tab.open(w.site + "/oauth2/login?return_to=/new") // as somebody else, say
	second := w.upstream.last(t).Header.Get("Authorization")
	close(release)
	<-answers
	b.fetch(w.site + "/x")
	if got := w.upstream.last(t).Header.Get("Authorization"); got != second {
		t.Error("the older login's session is back")
	}
}

// sessionLines are the Set-Cookie lines that set a session.
func (a answer) sessionLines() (lines []string) {
	for _, line := range a.Header["Set-Cookie"] {
		if name, _, _ := strings.Cut(line, "="); strings.Contains(name, "pkce_auth") && !strings.Contains(name, ".") {
			lines = append(lines, line)
		}
	}
	return lines
}

// dueSoon logs in with a token that lives for four seconds, and waits until it
// is due for a refresh, and still good.
func (w *world) dueSoon(b *browser) {
	w.t.Helper()
	w.op.Misbehave(provider.Faults{TokenResponse: func(doc map[string]any) { doc["expires_in"] = 5 }})
	time.Sleep(time.Until(time.Now().Truncate(time.Second).Add(time.Second))) // the lifetime counts from a whole second
	began := time.Now()
	b.login(w, "/")
	time.Sleep(time.Until(began.Add(4300 * time.Millisecond)))
}

// An answer is held back for a short while only; and one with nothing new to
// say sets no cookie.
func TestAnswersAreNotHeldForLong(t *testing.T) {
	w := newWorld(t)
	w.caddy(basic)
	b := w.browser()
	w.dueSoon(b)
	release := make(chan struct{})
	w.op.Misbehave(provider.Faults{Answer: answering(func(w http.ResponseWriter, r *http.Request) bool {
		<-release
		return provider.Status(503, "text/plain", "x")(w, r)
	})})
	a := b.fetch(w.site + "/x") // it would hang here
	w.eventually("the refresh has begun", func() bool { return len(w.refreshes()) == 1 })
	close(release)
	if a.StatusCode != http.StatusOK {
		t.Errorf("got status %d", a.StatusCode)
	}
	w.logged("refresh failed")
	if got := a.sessionLines(); len(got) != 0 {
		t.Errorf("nothing is new, and %d cookies are set", len(got))
	}
}

// Two handlers of one provider write a refreshed session once; so does an
// answer that was to slide the session when newer tokens came.
func TestOneSessionPerAnswer(t *testing.T) {
	w := newWorld(t)
	w.caddy("pkce_auth {\nissuer $OP\nclient_id public\nsession {\nidle 10s\n}\n}\n---\npkce_auth /page*\npkce_auth\nreverse_proxy $UPSTREAM")
	b := w.browser()
	w.expired(b, provider.Faults{})
	if got := b.fetch(w.site + "/page").sessionLines(); len(got) != 1 {
		t.Errorf("refreshed: %d cookies", len(got))
	}
	slow := w.browser()
	w.dueSoon(slow)
	w.upstream.answers(func(rw http.ResponseWriter, _ *http.Request) {
		time.Sleep(500 * time.Millisecond)
		_, _ = rw.Write([]byte("ok"))
	})
	if got := slow.fetch(w.site + "/x").sessionLines(); len(got) != 1 || len(w.refreshes()) != 2 {
		t.Errorf("slid, then refreshed: %d cookies after %d refreshes", len(got), len(w.refreshes()))
	}
}

// Promise 3: what a refresh brought reaches the browser with the answer to the
// very request that began it, be the upstream slow or not; so a restart, or a
// replica that knows nothing of it, loses no session.
func TestPromise3RefreshedTokensAreDelivered(t *testing.T) {
	for name, upstream := range map[string]time.Duration{"fast upstream": 0, "slow upstream": 600 * time.Millisecond} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.notIn("memory") // which does not outlive a restart
			load := w.reloads()
			load("refresh 1h")
			b := w.browser()
			delay := 100 * time.Millisecond
			if upstream > 0 {
				delay = 400 * time.Millisecond // longer than an answer is held back
			}
			w.op.Misbehave(provider.Faults{
				TokenResponse: func(doc map[string]any) { doc["expires_in"] = 4 },
				Answer: answering(func(http.ResponseWriter, *http.Request) bool {
					time.Sleep(delay)
					return false
				}),
			})
			b.login(w, "/")
			w.upstream.answers(func(rw http.ResponseWriter, _ *http.Request) {
				time.Sleep(upstream)
				_, _ = rw.Write([]byte("ok"))
			})
			first := w.upstream.last(t).Header.Get("Authorization")
			w.eventually("a refresh", func() bool { b.fetch(w.site + "/x"); return len(w.refreshes()) == 1 })
			if got := w.upstream.last(t).Header.Get("Authorization"); got != first {
				t.Error("the request waited for its refresh")
			}
			if err := stop(); err != nil {
				t.Fatal(err)
			}
			w.op.Misbehave(provider.Faults{})
			load("refresh 1h")
			for range 3 {
				if a := b.fetch(w.site + "/x"); a.StatusCode != http.StatusOK {
					t.Errorf("after a restart: got status %d", a.StatusCode)
				}
			}
			if w.stored() { // it is asked again when the refresh that was under way has ended
				w.eventually("the new token", func() bool {
					b.fetch(w.site + "/x")
					return w.upstream.last(t).Header.Get("Authorization") != first
				})
			}
			if got := w.upstream.last(t).Header.Get("Authorization"); got == first || len(w.refreshes()) != 1 {
				t.Errorf("after a restart the old token is in use, after %d refreshes", len(w.refreshes()))
			}
		})
	}
}

// A slow answer that was to slide the session does not put older tokens back
// where newer ones are.
func TestSlowAnswersBringNoOldTokensBack(t *testing.T) {
	w := newWorld(t)
	w.notIn("memory") // which does not outlive a restart
	load := w.reloads()
	load("session {\nidle 10s\n}")
	w.op.Misbehave(provider.Faults{TokenResponse: func(doc map[string]any) { doc["expires_in"] = 4 }})
	b := w.browser()
	b.login(w, "/")
	time.Sleep(1200 * time.Millisecond) // it slides from now on
	held, release := w.upstream.holds("/slow")
	answers := make(chan answer)
	go func() { answers <- b.fetch(w.site + "/slow") }()
	<-held
	other := &browser{t: t, jar: b.jar}
	w.eventually("a refresh", func() bool { other.fetch(w.site + "/x"); return len(w.refreshes()) == 1 })
	other.fetch(w.site + "/x")
	close(release)
	<-answers
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	load("session {\nidle 10s\n}")
	time.Sleep(2500 * time.Millisecond) // the first token is over
	if a := b.fetch(w.site + "/x"); a.StatusCode != http.StatusOK || len(w.refreshes()) != 1 {
		t.Errorf("got status %d after %d refreshes", a.StatusCode, len(w.refreshes()))
	}
}
