package flows

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/pkce-auth/caddy-pkce-auth/test/provider"
)

// IDPS 31: the answer of an error route brings no session back either.
func TestIDPS31ErrorAnswerAfterLogout(t *testing.T) {
	w := newWorld(t)
	load := w.reloads()
	load("session {\nidle 10s\n}")
	b := w.browser()
	b.login(w, "/")
	time.Sleep(1200 * time.Millisecond)
	held, release := make(chan struct{}), make(chan struct{})
	w.upstream.answers(func(rw http.ResponseWriter, _ *http.Request) {
		close(held)
		<-release
		conn, _, _ := http.NewResponseController(rw).Hijack()
		_ = conn.Close() // 502
	})
	answers := make(chan answer)
	go func() { answers <- b.fetch(w.site + "/slow") }()
	<-held
	other := &browser{t: t, jar: b.jar}
	other.logout(w)
	close(release)
	a := <-answers
	if len(a.Cookies()) != 0 {
		t.Errorf("status %d sets %d cookies after the logout", a.StatusCode, len(a.Cookies()))
	}
	w.upstream.answers(nil)
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	load("session {\nidle 10s\n}")
	if a := b.fetch(w.site + "/x"); a.StatusCode != http.StatusUnauthorized {
		t.Errorf("after logout and a restart: got status %d", a.StatusCode)
	}
}

// Promise 3: what a refresh brought goes out with an error, too.
func TestPromise3ErrorAnswersDeliver(t *testing.T) {
	w := newWorld(t)
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
	load := w.reloads()
	load("timeout 5s")
	b := w.browser()
	w.expired(b, provider.Faults{})
	a := b.visit(w.site + "/oauth2/callback?code=x&state=y")
	if len(w.refreshes()) != 1 || len(a.Cookies()) == 0 {
		t.Errorf("status %d: %d refreshes, %d cookies", a.StatusCode, len(w.refreshes()), len(a.Cookies()))
	}
}

// IDPS 31: one provider's session ends while an answer is under way; the
// other's new tokens are in it all the same.
func TestIDPS31OneLogoutIsNotTheOthers(t *testing.T) {
	second, err := provider.Start(provider.Config{Login: "bob", Users: map[string]map[string]any{"bob": {}}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = second.Close() })
	w := newWorld(t)
	w.caddy(`
		pkce_auth {
			issuer $OP
			client_id public
		}
		pkce_auth two {
			issuer ` + second.URL + `
			client_id public
		}
		---
		route {
		pkce_auth /both* two
		pkce_auth
		reverse_proxy $UPSTREAM
		}
	`)
	b := w.browser()
	w.op.Misbehave(provider.Faults{TokenResponse: shortLived})
	b.open(w.site + "/oauth2/two/login?return_to=/y") // where the default one logs in, too
	time.Sleep(time.Until(time.Now().Truncate(time.Second).Add(2 * time.Second)))
	held, release := make(chan struct{}), make(chan struct{})
	w.upstream.answers(func(rw http.ResponseWriter, _ *http.Request) {
		close(held)
		<-release
		_, _ = rw.Write([]byte("late"))
	})
	answers := make(chan answer)
	go func() { answers <- b.fetch(w.site + "/both") }()
	select {
	case <-held:
	case a := <-answers:
		t.Fatalf("status %d %s", a.StatusCode, a.body)
	}
	other := &browser{t: t, jar: b.jar}
	other.do(http.MethodPost, w.site+"/oauth2/two/logout", with(navigation, "Sec-Fetch-Site", "same-origin"), "")
	n := len(w.refreshes())
	close(release)
	a := <-answers
	got := 0
	for _, c := range a.Cookies() {
		if strings.HasSuffix(c.Name, "pkce_auth") && c.Value != "" {
			got++
		}
	}
	if n != 1 || got != 1 {
		t.Errorf("%d refreshes; status %d, %s; the answer sets %v", n, a.StatusCode, a.body, a.Header["Set-Cookie"])
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
	held, release := make(chan struct{}), make(chan struct{})
	w.upstream.answers(func(rw http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/slow" {
			close(held)
			<-release
		}
		_, _ = rw.Write([]byte("ok"))
	})
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
