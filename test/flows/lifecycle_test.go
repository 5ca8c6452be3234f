package flows

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pkce-auth/caddy-pkce-auth/test/provider"
)

// Without cookie_secret the key is made when it is first needed, not before,
// and kept in Caddy's storage: sessions, and logins under way, survive a
// restart.
func TestGeneratedKeySurvivesARestart(t *testing.T) {
	w := newWorld(t)
	load := w.reloads()
	load("timeout 5s")
	keys := func() []string {
		found, _ := filepath.Glob(filepath.Join(w.dir, "storage", "pkce_auth", "keys", "*.json"))
		return found
	}
	if a := w.browser().fetch(w.site + "/x"); a.StatusCode != http.StatusUnauthorized || len(keys()) != 0 {
		t.Errorf("before the first use: status %d, keys %v", a.StatusCode, keys())
	}
	b, late := w.browser(), w.browser()
	b.login(w, "/")
	callback := late.callback(w, "/late")
	if len(keys()) != 1 {
		t.Fatalf("keys: %v", keys())
	}
	if info, err := os.Stat(keys()[0]); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%s: %v", keys()[0], info.Mode())
	}
	w.logged("the key that seals sessions is kept on this machine's disk", `"level":"warn"`, "openssl rand -hex 32")
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	load("timeout 5s")
	if a := b.fetch(w.site + "/x"); a.StatusCode != http.StatusOK {
		t.Errorf("the session: got status %d", a.StatusCode)
	}
	if a := late.open(callback); a.body != "upstream /late" {
		t.Errorf("the login under way: got %q", a.body)
	}
	// The secret stands in no log (promise 2).
	data, err := os.ReadFile(keys()[0])
	if err != nil {
		t.Fatal(err)
	}
	var stored []struct{ Secret string }
	if err := json.Unmarshal(data, &stored); err != nil || len(stored) != 1 {
		t.Fatalf("%d keys: %v", len(stored), err)
	}
	w.expect = append(w.expect, stored[0].Secret)
}

// Storage that cannot be used: nobody passes, nobody is told that they are
// logged out, the log says what to do, and it heals by itself.
func TestGeneratedKeyWithoutStorage(t *testing.T) {
	w := newWorld(t)
	load := w.reloads()
	load("timeout 5s")
	b := w.browser()
	b.login(w, "/")
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	file, _ := filepath.Glob(filepath.Join(w.dir, "storage", "pkce_auth", "keys", "*.json"))
	good, err := os.ReadFile(file[0])
	if err != nil {
		t.Fatal(err)
	}
	writeFile(t, file[0], "rubbish")
	load("timeout 5s")
	before := w.upstream.count()
	for _, a := range []answer{b.fetch(w.site + "/x"), b.visit(w.site + "/page"), w.browser().visit(w.site + "/page")} {
		if a.StatusCode != http.StatusServiceUnavailable || a.Header.Get("Retry-After") == "" || a.Header["Set-Cookie"] != nil {
			t.Errorf("got status %d with %v", a.StatusCode, a.Header)
		}
	}
	if w.upstream.count() != before {
		t.Error("something reached the upstream")
	}
	w.logged(`"level":"error"`, "cannot be had from Caddy's storage", "delete it", "give a cookie_secret")
	writeFile(t, file[0], string(good))
	w.eventually("it heals", func() bool { return b.fetch(w.site+"/x").StatusCode == http.StatusOK })
	if len(w.op.Requests("authorize")) != 1 {
		t.Error("there was another login")
	}
}

// IDPS 16, IDPS 09, IDPS 33: what a link to the login may add, where it is
// allowed; never what belongs to the protocol.
func TestIDPS16LoginParams(t *testing.T) {
	const asked = "login_hint=a%40b.c&ui_locales=de&screen_hint=signup&organization=org_1&invitation=t1&connection=github&prompt=login&ext-x=1&" +
		"audience=evil&scope=evil&resource=evil&state=evil&redirect_uri=https://evil.test&client_id=evil&nonce=evil&response_type=token"
	for _, tc := range []struct {
		name, options string
		want          map[string]string
	}{
		{"default", "", map[string]string{
			"login_hint": "a@b.c", "ui_locales": "de", "screen_hint": "signup", "organization": "org_1", "invitation": "t1",
		}},
		{"connection, prompt and ext-x", "login_param connection prompt ext-x", map[string]string{"connection": "github", "prompt": "login", "ext-x": "1"}},
		{"in place of what is configured", "login_param connection prompt\nconnection google\nauthorize_param prompt consent\nauthorize_param ui_locales fr", map[string]string{
			"connection": "github", "prompt": "login", "ui_locales": "fr",
		}},
		{"all of Auth0's, static", `connection github
			organization org_1 acme
			max_age 1h
			acr_values urn:mfa
			authorize_param connection_scope a,b
			authorize_param prompt login
			authorize_param login_hint x
			authorize_param screen_hint signup
			authorize_param invitation t2
			authorize_param ui_locales de
			authorize_param ext-x 1
			login_param ext-none`, map[string]string{
			"connection": "github", "organization": "org_1", "max_age": "3600", "acr_values": "urn:mfa", "connection_scope": "a,b",
			"prompt": "login", "login_hint": "x", "screen_hint": "signup", "invitation": "t2", "ui_locales": "de", "ext-x": "1",
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			w := newWorld(t)
			w.caddy("pkce_auth $OP public {\n" + tc.options + "\n}\nreverse_proxy $UPSTREAM")
			q := query(t, w.browser().visit(w.site+"/oauth2/login?"+asked).location(t))
			want := slices.Clone(authorizeParams)
			for name, value := range tc.want {
				want = append(want, name)
				if got := q.Get(name); got != value {
					t.Errorf("%s: got %q, want %q", name, got, value)
				}
			}
			slices.Sort(want)
			if got := names(q); !slices.Equal(got, want) {
				t.Errorf("parameters: got %q, want %q", got, want)
			}
			if q.Get("scope") != "openid profile email offline_access" || q.Get("client_id") != "public" || q.Get("redirect_uri") != w.site+"/oauth2/callback" {
				t.Errorf("got %v", q)
			}
		})
	}
}

// IDPS 16, IDPS 22: organization, max_age and acr_values are not only sent:
// whoever takes them out of the URL does not get in.
func TestIDPS16IDPS22AskedForIsChecked(t *testing.T) {
	for options, good := range map[string]func(map[string]any){
		"organization org_1": func(claims map[string]any) { claims["org_id"] = "org_1" },
		"max_age 10m":        func(claims map[string]any) { claims["auth_time"] = time.Now().Add(-time.Minute).Unix() },
		"acr_values urn:mfa": func(claims map[string]any) { claims["acr"] = "urn:mfa" },
	} {
		t.Run(options, func(t *testing.T) {
			w := newWorld(t)
			w.caddy("pkce_auth $OP public {\n" + options + "\n}\nreverse_proxy $UPSTREAM")
			w.op.Misbehave(provider.Faults{IDToken: func(_, claims map[string]any) { claims["auth_time"] = 1_000_000_000 }})
			b := w.browser()
			if a := b.open(w.site + "/"); a.StatusCode != http.StatusBadGateway {
				t.Errorf("got status %d", a.StatusCode)
			}
			w.noSession(b, 1)
			w.op.Misbehave(provider.Faults{IDToken: func(_, claims map[string]any) { good(claims) }})
			b.login(w, "/x")
		})
	}
}

// IDPS 18: login_required and its kin, after prompt=none, lead to one login
// that shows something, by configuration or by a link; without prompt=none, or
// the second time, to a page.
func TestIDPS18SilentLoginFallsBack(t *testing.T) {
	for _, code := range []string{"login_required", "consent_required", "interaction_required", "account_selection_required"} {
		t.Run(code, func(t *testing.T) {
			w := newWorld(t)
			w.caddy("pkce_auth $OP public {\nauthorize_param prompt none\n}\nreverse_proxy $UPSTREAM")
			refuse := func(q url.Values) { delete(q, "code"); q["error"] = []string{code} }
			once := true
			w.op.Misbehave(provider.Faults{Callback: func(q url.Values) {
				if once {
					refuse(q)
				}
				once = false
			}})
			b := w.browser()
			b.login(w, "/page?x=1")
			requests := w.op.Requests("authorize")
			if len(requests) != 2 || requests[0].Form.Get("prompt") != "none" || requests[1].Form.Has("prompt") {
				t.Errorf("%d authorization requests", len(requests))
			}
			w.op.Misbehave(provider.Faults{Callback: refuse})
			other := w.browser()
			if a := other.open(w.site + "/page"); a.StatusCode != http.StatusBadGateway || !strings.Contains(a.body, "Try again") {
				t.Errorf("refused for ever: got status %d", a.StatusCode)
			}
			if n := len(w.op.Requests("authorize")); n != 4 {
				t.Errorf("%d authorization requests, want 2 more", n)
			}
			w.noSession(other, 1)
		})
	}
	w := newWorld(t)
	w.caddy("pkce_auth $OP public {\nlogin_param prompt\n}\nreverse_proxy $UPSTREAM")
	w.op.Misbehave(provider.Faults{Callback: func(q url.Values) { delete(q, "code"); q["error"] = []string{"login_required"} }})
	b := w.browser()
	if a := b.open(w.site + "/page"); a.StatusCode != http.StatusBadGateway || len(w.op.Requests("authorize")) != 1 {
		t.Errorf("without prompt=none: got status %d after %d requests", a.StatusCode, len(w.op.Requests("authorize")))
	}
	w.caddy("pkce_auth $OP public {\nlogin_param prompt invitation\n}\nreverse_proxy $UPSTREAM")
	if b.open(w.site + "/oauth2/login?prompt=none&invitation=i1&return_to=/page"); len(w.op.Requests("authorize")) != 3 {
		t.Errorf("by a link: %d authorization requests, want 2 more", len(w.op.Requests("authorize"))-1)
	}
	requests := w.op.Requests("authorize")
	if last := requests[len(requests)-1].Form; last.Get("invitation") != "i1" || last.Has("prompt") {
		t.Errorf("the login that shows something asks for %v", last)
	}
}

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

// A79: over HTTPS every cookie of ours is Secure; over plain http, but for
// loopback, none is set at all.
func TestA79CookiesAreSecure(t *testing.T) {
	w := newWorld(t)
	w.caddyTLS("pkce_auth $OP public\nreverse_proxy $UPSTREAM")
	b := w.browser()
	a := b.visit(w.site + "/page")
	for range 10 {
		for _, line := range a.Header["Set-Cookie"] {
			if !strings.Contains(line, "; Secure") || !strings.Contains(line, "; HttpOnly") {
				t.Errorf("got %s", line)
			}
		}
		location := a.location(t)
		if location == "" {
			break
		}
		a = b.visit(location)
	}
	for _, line := range b.logout(w).Header["Set-Cookie"] {
		if !strings.Contains(line, "; Secure") {
			t.Errorf("at the logout: %s", line)
		}
	}
	if err := w.load("http://app.test:0", basic); err != nil {
		t.Fatal(err)
	}
	_, port, _ := strings.Cut(listenAddress(t), ":")
	if a := b.visit("http://app.test:" + port + "/page"); a.StatusCode != http.StatusMisdirectedRequest || a.Header["Set-Cookie"] != nil {
		t.Errorf("over plain http: status %d, %v", a.StatusCode, a.Header["Set-Cookie"])
	}
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
func (blocked) Cookies(*url.URL) []*http.Cookie     { return nil }

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
