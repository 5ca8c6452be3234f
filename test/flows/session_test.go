package flows

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/pkce-auth/caddy-pkce-auth/test/provider"
)

// sessionCookie is the name and value of the browser's session.
func (b *browser) sessionCookie(w *world) (name, value string) {
	b.t.Helper()
	for name, value := range b.cookies(w.site) {
		if !strings.Contains(name, ".") {
			return name, value
		}
	}
	b.t.Fatal("no session cookie")
	return "", ""
}

// present sends a fetch with exactly the given Cookie header.
func (w *world) present(cookie string) answer {
	w.t.Helper()
	req, err := http.NewRequest(http.MethodGet, w.site+"/x", nil)
	if err != nil {
		w.t.Fatal(err)
	}
	req.Header = fetched.Clone()
	req.Header.Set("Cookie", cookie)
	return w.browser().send(req)
}

// A61, T5: a session is new at every login; a cookie that was there before does
// not become the session, and is dead where sessions are in a store.
func TestA61T5Fixation(t *testing.T) {
	w := newWorld(t)
	w.caddy(basic)
	attacker, victim := w.browser(), w.browser()
	attacker.login(w, "/")
	name, before := attacker.sessionCookie(w)
	victim.login(w, "/")
	_, value := victim.sessionCookie(w)
	if value == before {
		t.Error("two browsers share a session")
	}
	victim.visit(victim.callback2(w))
	_, again := victim.sessionCookie(w)
	if again == value {
		t.Error("a second login kept the session")
	}
	if a := w.present(name + "=" + value); w.stored() && a.StatusCode != http.StatusUnauthorized {
		t.Errorf("T5: the session before: got status %d", a.StatusCode)
	}
	// With a planted cookie of the same name in front, the victim's is found,
	// and after a login the planted one is not what is used.
	if a := w.present(name + "=planted; " + name + "=" + again); a.StatusCode != http.StatusOK {
		t.Errorf("A62: with a planted cookie: got status %d", a.StatusCode)
	}
}

// A62, A63, A64, A66, A71: whatever a Cookie header holds, it is the session
// that was sealed, or none: 401 for a fetch, a login for a navigation, never
// the upstream, never 500, and always the same answer.
func TestA62A63A64A66A71CookiesThatAreNoSession(t *testing.T) {
	w := newWorld(t)
	w.caddyTLS(basic)
	b := w.browser()
	b.login(w, "/")
	name, value := b.sessionCookie(w)
	b.callback2(w) // for a login state
	state := ""
	for _, n := range b.loginStates(w.site) {
		state = b.cookies(w.site)[n]
	}
	if a := w.present(name + "=" + value); a.StatusCode != http.StatusOK {
		t.Fatalf("the session itself: got status %d", a.StatusCode)
	}
	count := w.upstream.count()
	first := w.present(name + "=x")
	refused := func(what, cookie string) {
		t.Helper()
		a := w.present(cookie)
		if a.StatusCode != http.StatusUnauthorized || a.body != first.body || a.Header.Get("Set-Cookie") != "" {
			t.Errorf("%s: got status %d, %v, %s", what, a.StatusCode, a.Header, a.body)
		}
	}
	for what, cookie := range map[string]string{
		"empty":                           name + "=",
		"no value":                        name,
		"rubbish":                         name + "=%00%ff",
		"truncated":                       name + "=" + value[:len(value)-1],
		"extended":                        name + "=" + value + "A",
		"quoted":                          name + `="` + value + `"`,
		"10 kB":                           name + "=" + strings.Repeat("A", 10_000),
		"A64 a login state":               name + "=" + state,
		"A64 the name without its prefix": strings.TrimPrefix(name, "__Host-Http-") + "=" + value,
		"A64 another provider's name":     name + "0=" + value,
		"A63 in lower case":               strings.ToLower(name) + "=" + value,
		"A63 $Version":                    "$Version=1; $" + name + "=" + value,
		"A63 in quotes":                   `a="; ` + name + `0=x; b="`,
		"A65 as two parts":                name + "=2." + value[:100] + "; " + name + ".1=" + value[100:],
		"A65 a count of 2^31":             name + "=2147483648." + value,
	} {
		refused(what, cookie)
	}
	for i := 0; i < len(value); i += max(1, len(value)/97) { // A66: any character changed
		changed := []byte(value)
		changed[i] = map[bool]byte{true: 'B', false: 'A'}[changed[i] == 'A']
		refused("A66 a character changed", name+"="+string(changed))
	}
	if a := w.browser().visit(w.site + "/"); a.StatusCode != http.StatusFound {
		t.Errorf("a navigation: got status %d", a.StatusCode)
	}
	if w.upstream.count() != count {
		t.Errorf("%d requests reached the upstream", w.upstream.count()-count)
	}
}

// A70: sessions end by the times under the seal, absolute and idle, whatever
// the browser keeps.
func TestA70LifetimeAndIdle(t *testing.T) {
	for name, block := range map[string]string{
		"lifetime": "session {\nlifetime 1s\nidle 1s\n}",
		"idle":     "session {\nlifetime 1h\nidle 1s\n}",
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.caddy("pkce_auth $OP public {\n" + block + "\n}\nreverse_proxy $UPSTREAM")
			b := w.browser()
			b.login(w, "/")
			cookie, value := b.sessionCookie(w)
			time.Sleep(1100 * time.Millisecond) // unused: where sessions are in a store, any use counts
			if a := w.present(cookie + "=" + value); a.StatusCode != http.StatusUnauthorized {
				t.Errorf("got status %d", a.StatusCode)
			}
			b.login(w, "/again")
		})
	}
}

// A session in use outlives its idle time, by being renewed; the cookie that
// it began with does not.
func TestSessionSlides(t *testing.T) {
	w := newWorld(t)
	w.caddy("pkce_auth $OP public {\nsession {\nidle 4s\nlifetime 1h\n}\n}\nreverse_proxy $UPSTREAM")
	b := w.browser()
	b.login(w, "/")
	name, value := b.sessionCookie(w)
	began := time.Now()
	w.eventually("the first cookie is too old", func() bool {
		if a := b.fetch(w.site + "/x"); a.StatusCode != http.StatusOK {
			t.Fatalf("the session in use ended: status %d", a.StatusCode)
		}
		if w.stored() { // the ticket stays the same
			return time.Since(began) > 5*time.Second
		}
		return w.present(name+"="+value).StatusCode == http.StatusUnauthorized
	})
	if a := b.fetch(w.site + "/x"); a.StatusCode != http.StatusOK {
		t.Errorf("got status %d", a.StatusCode)
	}
	if len(w.op.Requests("token")) != 1 {
		t.Error("there was another login")
	}
}

// When the access token has expired and is not refreshed, the session is over:
// the upstream never sees a dead token.
func TestExpiredAccessToken(t *testing.T) {
	w := newWorldWith(t, provider.Config{TokenLifetime: 2e9})
	w.caddy("pkce_auth $OP public {\nrefresh off\n}\nreverse_proxy $UPSTREAM")
	b := w.browser()
	b.login(w, "/")
	w.eventually("the token expires", func() bool { return b.fetch(w.site+"/x").StatusCode == http.StatusUnauthorized })
	b.login(w, "/again")
	if got := len(w.op.Requests("token")); got < 2 {
		t.Errorf("got %d logins", got)
	}
}

// Sessions over their budget: an error for the user, the way out for the
// operator, and no half of a session.
func TestSessionTooLarge(t *testing.T) {
	w := newWorld(t)
	w.notIn("memory", "storage") // which have the room
	w.op.Misbehave(provider.Faults{TokenResponse: func(doc map[string]any) { doc["access_token"] = incompressible(9000); delete(doc, "id_token") }})
	w.caddy("pkce_auth $OP public {\nscopes read\n}\nreverse_proxy $UPSTREAM")
	b := w.browser()
	a := b.open(w.site + "/")
	if a.StatusCode != http.StatusInternalServerError || !strings.Contains(a.body, "too long for this site") {
		t.Errorf("got status %d and %s", a.StatusCode, a.body)
	}
	w.noSession(b, 1)
	w.logged("session_too_large", "are the limit", "groups and permissions")
	// One that fits two cookies does.
	w.op.Misbehave(provider.Faults{TokenResponse: func(doc map[string]any) { doc["access_token"] = incompressible(4500) }})
	b = w.browser()
	b.login(w, "/two")
	if got := len(b.cookies(w.site)); got != 2 {
		t.Errorf("got %d cookies, want 2", got)
	}
	if a := b.fetch(w.site + "/x"); a.StatusCode != http.StatusOK || len(w.upstream.last(t).Header.Get("Authorization")) != len("Bearer ")+4500 {
		t.Errorf("got status %d", a.StatusCode)
	}
	// And when it shrinks, no part stays (T7).
	w.op.Misbehave(provider.Faults{})
	b.follow(b.visit(b.callback2(w)))
	if got := len(b.cookies(w.site)); got != 1 {
		t.Errorf("T7: got %d cookies, want 1: %v", got, b.cookies(w.site))
	}
}

// callback2 begins another login although there is a session.
func (b *browser) callback2(w *world) string {
	b.t.Helper()
	return b.visit(b.visit(w.site + "/oauth2/login?return_to=/x").location(b.t)).location(b.t)
}

func incompressible(n int) string {
	var b strings.Builder
	x := uint64(88172645463325252)
	for b.Len() < n {
		x ^= x << 13
		x ^= x >> 7
		x ^= x << 17
		b.WriteByte("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"[x%64])
	}
	return b.String()
}

// Logout: from the site's own pages it ends the session; from anywhere else a
// page asks, and nothing is touched (A91, R42).
func TestR42A91Logout(t *testing.T) {
	w := newWorld(t)
	w.caddy(basic)
	own := with(navigation, "Sec-Fetch-Site", "same-origin")
	for _, tc := range []struct {
		name, method string
		header       http.Header
		ends         bool
	}{
		{"a form of the site", "POST", own, true},
		{"a link of the site", "GET", own, true},
		{"a fetch of the site", "POST", fetched, true},
		{"a form of the site, in an old browser", "POST", http.Header{"Origin": {"$SITE"}, "Accept": {"text/html"}}, true},
		{"a foreign form", "POST", with(navigation, "Sec-Fetch-Site", "cross-site", "Origin", "https://evil.test"), false},
		{"a foreign form, in an old browser", "POST", http.Header{"Origin": {"https://evil.test"}}, false},
		{"a form of a sibling", "POST", with(navigation, "Sec-Fetch-Site", "same-site"), false},
		{"a foreign link", "GET", with(navigation, "Sec-Fetch-Site", "cross-site"), false},
		{"an image", "GET", with(fetched, "Sec-Fetch-Site", "cross-site", "Sec-Fetch-Dest", "image"), false},
		{"typed, or from a mail", "GET", navigation, false},
		{"a program", "GET", http.Header{}, false},
		{"an opaque origin", "POST", http.Header{"Origin": {"null"}}, false},
		{"a prefetch", "GET", with(own, "Sec-Purpose", "prefetch"), false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			b := w.browser()
			b.login(w, "/")
			header := tc.header.Clone()
			if header.Get("Origin") == "$SITE" {
				header.Set("Origin", w.site)
			}
			a := b.do(tc.method, w.site+"/oauth2/logout?rd=https://evil.test&post_logout_redirect_uri=https://evil.test", header, "")
			if tc.ends {
				if a.StatusCode != http.StatusSeeOther || len(b.cookies(w.site)) != 0 || len(b.cookies(w.site+"/oauth2/logout")) != 0 {
					t.Errorf("got status %d, cookies %v", a.StatusCode, b.cookies(w.site))
				}
				// A script's fetch cannot go on at the provider.
				if atProvider := strings.HasPrefix(a.location(t), w.op.URL+"/end-session?"); atProvider == strings.Contains(tc.name, "fetch") {
					t.Errorf("it leads to %s", a.location(t))
				}
				if a = b.follow(a); !strings.Contains(a.body, "You are signed out") {
					t.Errorf("got %s", a.body)
				}
				return
			}
			if len(b.cookies(w.site)) != 1 || a.Header["Set-Cookie"] != nil || a.Header.Get("Location") != "" {
				t.Errorf("the session was touched: status %d, %v", a.StatusCode, a.Header)
			}
			if !strings.Contains(tc.name, "prefetch") && (a.StatusCode != 200 || !strings.Contains(a.body, `<form method="post" action="/oauth2/logout">`)) {
				t.Errorf("got status %d and %s", a.StatusCode, a.body)
			}
			if a := b.fetch(w.site + "/x"); a.StatusCode != http.StatusOK {
				t.Errorf("the session is gone: status %d", a.StatusCode)
			}
		})
	}
	w.logged(`"msg":"logout"`, `"sub":"alice"`)
}

// The page after a logout needs no session, ignores its query and logs nobody
// in (A10, R41).
func TestA10R41SignedOut(t *testing.T) {
	w := newWorld(t)
	w.caddy(basic)
	b := w.browser()
	a := b.visit(w.site + "/oauth2/signed-out?state=x&return_to=https://evil.test&rd=//evil.test&error=<script>")
	if a.StatusCode != http.StatusOK || strings.Contains(a.body, "evil") || strings.Contains(a.body, "script") || len(w.op.Requests("authorize")) != 0 {
		t.Errorf("got status %d and %s", a.StatusCode, a.body)
	}
	b.login(w, "/")
	b.do("POST", w.site+"/oauth2/logout", fetched, "")
	b.visit(w.site + "/oauth2/signed-out")
	if a := b.fetch(w.site + "/x"); a.StatusCode != http.StatusUnauthorized {
		t.Errorf("after the logout: got status %d", a.StatusCode)
	}
}

// A session cookie with SameSite=Strict does not come along when a redirect
// chain began at the provider: the callback answers with a page that leads on
// from the site itself.
func TestSameSiteStrict(t *testing.T) {
	w := newWorld(t)
	w.caddy("pkce_auth $OP public {\nsession {\nsame_site strict\n}\n}\nreverse_proxy $UPSTREAM")
	b := w.browser()
	a := b.visit(b.callback(w, "/page?a=1&b=\"'<>"))
	if a.StatusCode != http.StatusOK || !strings.Contains(a.body, `content="0; url=`+w.site+`/page?a=1&amp;b=%22%27%3C%3E"`) && !strings.Contains(a.body, `/page?a=1&amp;b=`) {
		t.Errorf("got status %d and %s", a.StatusCode, a.body)
	}
	strict, lax := false, false
	for _, line := range a.Header["Set-Cookie"] {
		strict = strict || strings.Contains(line, "SameSite=Strict") && strings.HasPrefix(line, "pkce_auth_") && !strings.Contains(line, ".l")
		lax = lax || strings.Contains(line, "SameSite=Lax") && strings.Contains(line, ".l")
	}
	if !strict || !lax {
		t.Errorf("got %q", a.Header["Set-Cookie"])
	}
	if a := b.fetch(w.site + "/x"); a.StatusCode != http.StatusOK {
		t.Errorf("got status %d", a.StatusCode)
	}
}

// A session that subdomains share gives up the __Host- prefix, on purpose;
// login states keep theirs.
func TestCookieDomain(t *testing.T) {
	w := newWorld(t)
	w.caddyTLS("pkce_auth $OP public {\nsession {\ncookie_domain app.test\n}\n}\nreverse_proxy $UPSTREAM")
	b := w.browser()
	a := b.visit(w.site + "/")
	if !strings.HasPrefix(a.Header.Get("Set-Cookie"), "__Host-Http-pkce_auth_") || strings.Contains(a.Header.Get("Set-Cookie"), "Domain") {
		t.Errorf("login state: got %q", a.Header.Get("Set-Cookie"))
	}
	a = b.visit(b.visit(a.location(t)).location(t))
	found := false
	for _, line := range a.Header["Set-Cookie"] {
		found = found || strings.HasPrefix(line, "__Secure-pkce_auth_") && strings.Contains(line, "; Domain=app.test;")
	}
	if !found {
		t.Errorf("session: got %q", a.Header["Set-Cookie"])
	}
}

// A token that is dead when it comes would be a login again and again.
func TestA104TokenDeadOnArrival(t *testing.T) {
	w := newWorld(t)
	w.op.Misbehave(provider.Faults{
		TokenResponse: func(doc map[string]any) { doc["expires_in"] = 1 },
		Answer: map[string]func(http.ResponseWriter, *http.Request) bool{"token": func(http.ResponseWriter, *http.Request) bool {
			time.Sleep(1100 * time.Millisecond) // the lifetime counts from when the request was sent
			return false
		}},
	})
	w.caddy(basic)
	if a := w.browser().open(w.site + "/page"); a.StatusCode != http.StatusBadGateway {
		t.Errorf("got status %d and %s", a.StatusCode, a.body)
	}
	w.logged("request failed", "expired before it was here")
}

// A cookie_domain that does not cover the site's host would be a login again
// and again, for no browser keeps the cookie.
func TestA104CookieDomainOfAnotherSite(t *testing.T) {
	w := newWorld(t)
	w.caddyTLS("pkce_auth $OP public {\nsession {\ncookie_domain other.example\n}\n}\nreverse_proxy $UPSTREAM")
	if a := w.browser().open(w.site + "/page"); a.StatusCode != http.StatusBadGateway {
		t.Errorf("got status %d and %s", a.StatusCode, a.body)
	}
	w.logged("request failed", "cookie_domain other.example does not cover the host app.test")
}

// Sessions of several providers share the browser's budget for one site. What
// would not fit with the others is refused at the login, before a server
// refuses the whole request, logout included.
func TestA81ManyLargeSessions(t *testing.T) {
	w := newWorld(t)
	w.notIn("memory", "storage") // which have the room
	w.op.Misbehave(provider.Faults{TokenResponse: func(doc map[string]any) {
		doc["access_token"] = incompressible(6000)
		delete(doc, "id_token")
	}})
	var providers, routes strings.Builder
	for _, name := range []string{"a", "b", "c"} {
		fmt.Fprintf(&providers, "pkce_auth %s {\nissuer $OP\nclient_id public\nscopes read\n}\n", name)
		fmt.Fprintf(&routes, "pkce_auth /%[1]s* %[1]s\n", name)
	}
	w.caddyTLS(providers.String() + "---\n" + routes.String() + "reverse_proxy $UPSTREAM")
	b := w.browser()
	if a := b.open(w.site + "/a"); a.StatusCode != http.StatusOK {
		t.Fatalf("the first: got status %d and %s", a.StatusCode, a.body)
	}
	refused := 0
	for _, path := range []string{"/b", "/c"} {
		a := b.open(w.site + path)
		if a.StatusCode == http.StatusInternalServerError && strings.Contains(a.body, "too long for this site") {
			refused++
		} else if a.StatusCode != http.StatusOK {
			t.Errorf("%s: got status %d and %s", path, a.StatusCode, a.body)
		}
	}
	if refused == 0 {
		t.Error("all of them fit: the test shows nothing")
	}
	if a := b.fetch(w.site + "/a"); a.StatusCode != http.StatusOK {
		t.Errorf("the first, afterwards: got status %d", a.StatusCode)
	}
	if a := b.do(http.MethodPost, w.site+"/oauth2/a/logout", fetched, ""); a.StatusCode >= 400 {
		t.Errorf("logout: got status %d", a.StatusCode)
	}
}
