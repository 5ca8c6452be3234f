package flows

import (
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/pkce-auth/caddy-pkce-auth/test/provider"
)

// A75: an attacker's page navigates the victim's browser in a loop, with long
// URLs, over and over. What the browser sends stays within its budget, so no
// server refuses it, and the victim logs in as if nothing had been.
func TestA75NobodyIsLockedOut(t *testing.T) {
	w := newWorld(t)
	w.caddyTLS(basic)
	b := w.browser()
	b.login(w, "/mine")
	for range 2 { // with a session, and without one
		for i := range 60 {
			b.visit(w.site + "/oauth2/login?return_to=/" + strings.Repeat("x", 1900) + fmt.Sprint(i))
			b.visit(w.site + fmt.Sprintf("/page%d?q=%s", i, strings.Repeat("y", 1900)))
			if size := len(b.cookieHeader(w)); size > 8<<10 {
				t.Fatalf("after %d navigations, %d bytes of cookies", i, size)
			}
		}
		callback := b.callback2(w)
		if a := b.open(callback); a.StatusCode != http.StatusOK || a.body != "upstream /x" {
			t.Fatalf("the victim: got status %d and %q", a.StatusCode, a.body)
		}
		b.jar.SetCookies(b.visit(w.site+"/x").Request.URL, []*http.Cookie{{Name: "unrelated", Value: "1"}})
		b.logout(w)
	}
	// Cookies of others fill the header: nobody is locked out by us.
	b.login(w, "/again")
}

// IDPS 34 to 37, promise 4: what can become of a login between its beginning
// and its callback, and where the user is in the end: at the page they wanted,
// after one login more at the most, or at a page that says what to do.
func TestIDPS34IDPS35IDPS36IDPS37LoginStateCannotGoWrong(t *testing.T) {
	const wanted = "/wanted?x=1&y=%2F"
	for name, tc := range map[string]struct {
		between func(w *world, b *browser, callback string, load func(string)) (open string)
		logins  int    // that it takes
		end     string // where it ends, if not there: a path, or the title of a page of ours
	}{
		"nothing happens": {func(_ *world, _ *browser, callback string, _ func(string)) string { return callback }, 1, ""},
		"forty requests of a script, in between": {func(w *world, b *browser, callback string, _ func(string)) string {
			for i := range 40 {
				if a := b.fetch(w.site + fmt.Sprint("/api/", i)); a.StatusCode != http.StatusUnauthorized || a.Header["Set-Cookie"] != nil {
					t.Errorf("request %d: status %d, %v", i, a.StatusCode, a.Header["Set-Cookie"])
				}
			}
			return callback
		}, 1, ""},
		"twenty logins begun afterwards": {func(w *world, b *browser, callback string, _ func(string)) string {
			for i := range 20 {
				b.visit(w.site + fmt.Sprint("/page/", i))
			}
			return callback
		}, 2, ""},
		"the back button, logged in": {func(_ *world, b *browser, callback string, _ func(string)) string {
			b.open(callback)
			return callback
		}, 1, ""},
		"a callback URL that somebody shared": {func(w *world, b *browser, callback string, _ func(string)) string {
			b.open(callback)
			b.jar = w.browser().jar
			return callback
		}, 2, ""},
		"the state's cookie evicted": {func(w *world, b *browser, callback string, _ func(string)) string {
			b.jar = w.browser().jar
			return callback
		}, 2, ""},
		"a foreign state": {func(w *world, _ *browser, callback string, _ func(string)) string {
			q := query(t, callback)
			q.Set("state", q.Get("state")[:40]+strings.Repeat("A", 80))
			return w.site + "/oauth2/callback?" + q.Encode()
		}, 2, "/"},
		"a state that is none": {func(w *world, _ *browser, _ string, _ func(string)) string {
			return w.site + "/oauth2/callback?code=x&state=rubbish"
		}, 2, "/"},
		"another key seals": {func(_ *world, _ *browser, callback string, load func(string)) string {
			load("cookie_secret " + olderSecret + " " + cookieSecret)
			return callback
		}, 1, ""},
		"the key is gone": {func(_ *world, _ *browser, callback string, load func(string)) string {
			load("cookie_secret " + olderSecret)
			return callback
		}, 2, "/"},
		"cookies switched off": {func(_ *world, b *browser, callback string, _ func(string)) string {
			b.jar = blocked{}
			return callback
		}, 2, "Your browser does not keep cookies"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			load := w.reloads()
			load("cookie_secret " + cookieSecret)
			b := w.browser()
			a := b.open(tc.between(w, b, b.callback(w, wanted), load))
			end := tc.end
			if end == "" {
				end = wanted
			}
			// "/" is for those of whom nothing is left that says where they wanted to go.
			if ours := !strings.HasPrefix(end, "/"); ours && !strings.Contains(a.body, end) || !ours && a.body != "upstream "+end {
				t.Errorf("in the end: status %d, %.300s; want %q", a.StatusCode, a.body, end)
			}
			logins := 0 // those that led through the provider, not those that were only begun
			for _, r := range w.op.Requests("authorize") {
				if r.Form.Get("state") != "" {
					logins++
				}
			}
			if logins != tc.logins {
				t.Errorf("it took %d logins, want %d", logins, tc.logins)
			}
		})
	}
}

// Promise 4: whatever happened before, in whatever order, a navigation ends
// after a few redirects: at the page, or at a page of ours that says what to
// do and has a way on. And when nothing is wrong any longer, at the page.
func TestPromise4NoSequenceLoops(t *testing.T) {
	w := newWorldWith(t, provider.Config{TokenLifetime: 2 * time.Second})
	load := w.reloads()
	secrets := []string{cookieSecret, olderSecret, thirdSecret}
	configuration := func(i int) string {
		return fmt.Sprintf("cookie_secret %s\nauthorize_param prompt {http.request.uri.query.silent}", secrets[i%len(secrets)])
	}
	load(configuration(0))
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	b := w.browser()
	callbacks := []string{w.site + "/oauth2/callback?code=x&state=y"}
	refused := func(code string) provider.Faults {
		return provider.Faults{Callback: func(q url.Values) { delete(q, "code"); q["error"] = []string{code} }}
	}
	moves := []func(){
		func() { w.op.Misbehave(provider.Faults{}) },
		func() { w.op.Misbehave(refused("access_denied")) },
		func() { w.op.Misbehave(refused("login_required")) },
		func() { w.op.Misbehave(refused("temporarily_unavailable")) },
		func() {
			w.op.Misbehave(provider.Faults{Answer: answering(provider.Status(400, "application/json", `{"error":"invalid_grant"}`))})
		},
		func() { w.op.Misbehave(provider.Faults{Answer: answering(provider.Status(500, "", ""))}) },
		func() {
			w.op.Misbehave(provider.Faults{RefreshedIDToken: func(c map[string]any) { c["sub"] = "mallory" }})
		},
		func() { w.op.Misbehave(provider.Faults{IDToken: func(_, c map[string]any) { c["nonce"] = "wrong" }}) },
		func() {
			w.op.Misbehave(provider.Faults{TokenResponse: func(d map[string]any) { d["access_token"] = incompressible(9000) }})
		},
		func() {
			callbacks = append(callbacks, b.visit(b.visit(w.site+"/oauth2/login?return_to=/later").location(t)).location(t))
		},
		func() { b.open(callbacks[random.IntN(len(callbacks))]) },
		func() { b.open(callbacks[len(callbacks)-1]) },
		func() { b.logout(w) },
		func() { b.follow(b.logout(w)) },
		func() { b.jar = blocked{} },
		func() { b.jar = w.browser().jar },
		func() { load(configuration(random.IntN(3))) },
		func() { time.Sleep(300 * time.Millisecond) },
		func() { b.fetch(w.site + "/api") },
	}
	pages := []string{"/page?x=1", "/page?silent=none", "/oauth2/login?return_to=/page", "/oauth2/logout", "/oauth2/signed-out", "/oauth2/error"}
	for step := range 150 {
		move := random.IntN(len(moves))
		moves[move]()
		if path := pages[random.IntN(len(pages))]; !w.ends(b, path) {
			t.Fatalf("step %d, after move %d: %s does not end", step, move, path)
		}
	}
	w.op.Misbehave(provider.Faults{})
	b.jar = w.browser().jar
	b.login(w, "/healed")
}

// blocked is the jar of a browser that keeps no cookies.
type blocked struct{}

func (blocked) SetCookies(*url.URL, []*http.Cookie) {}

func (blocked) Cookies(*url.URL) []*http.Cookie { return nil }

// ends follows a navigation, and reports whether it ends within the redirects
// of two logins.
func (w *world) ends(b *browser, path string) bool {
	a := b.visit(w.site + path)
	for range 8 {
		location := a.location(w.t)
		if location == "" {
			ours := strings.Contains(a.body, "<h1>")
			return a.StatusCode == http.StatusOK || ours && strings.Contains(a.body, "<a href=")
		}
		a = b.visit(location)
	}
	return false
}
