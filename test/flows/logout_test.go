package flows

import (
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pkce-auth/caddy-pkce-auth/test/provider"
)

// logout posts the logout form of one of the site's own pages.
func (b *browser) logout(w *world) answer {
	b.t.Helper()
	return b.do(http.MethodPost, w.site+"/oauth2/logout", with(navigation, "Sec-Fetch-Site", "same-origin"), "")
}

// IDPS 30, R40: a logout leads through the provider, which is told whose
// session it is; the session here is gone before; the refresh token is
// revoked; and in the end there is a page.
func TestIDPS30R40R43LogoutAtTheProvider(t *testing.T) {
	w := newWorld(t)
	w.caddy(basic)
	b := w.browser()
	b.login(w, "/")
	a := b.logout(w)
	if a.StatusCode != http.StatusSeeOther || len(b.cookies(w.site+"/oauth2/logout")) != 0 {
		t.Errorf("got status %d, and kept %v", a.StatusCode, b.cookies(w.site+"/oauth2/logout"))
	}
	q := query(t, a.location(t))
	idToken := w.op.Issued()[slices.IndexFunc(w.op.Issued(), func(s string) bool { return strings.HasPrefix(s, "eyJ") })]
	if q.Get("id_token_hint") != idToken || !strings.HasPrefix(q.Get("logout_hint"), "sid-") || q.Get("client_id") != "public" ||
		q.Get("post_logout_redirect_uri") != w.site+"/oauth2/signed-out" || len(q.Get("state")) < 20 || len(q) != 5 {
		t.Errorf("the provider is told %v", q)
	}
	refresh := w.op.Issued()[slices.IndexFunc(w.op.Issued(), func(s string) bool { return strings.HasPrefix(s, "refresh-") })]
	w.eventually("the refresh token is revoked", func() bool { return w.op.Revoked(refresh) })
	if a = b.follow(a); a.StatusCode != http.StatusOK || !strings.Contains(a.body, "You are signed out") || a.Request.URL.Path != "/oauth2/signed-out" {
		t.Errorf("in the end: status %d at %s", a.StatusCode, a.Request.URL)
	}
	if len(w.op.Requests("authorize")) != 1 {
		t.Error("the logout began a login")
	}
	if a := b.fetch(w.site + "/x"); a.StatusCode != http.StatusUnauthorized {
		t.Errorf("afterwards: got status %d", a.StatusCode)
	}
	w.logged(`"msg":"logout"`, `"sub":"alice"`, `"at_provider":true`)
	// Without a session the provider's is ended all the same; there is no hint
	// to give.
	q = query(t, b.logout(w).location(t))
	if q.Get("client_id") != "public" || q.Has("id_token_hint") || q.Has("logout_hint") || q.Get("post_logout_redirect_uri") == "" {
		t.Errorf("without a session, the provider is told %v", q)
	}
}

// IDPS 30: the other ways of logging out.
func TestIDPS30LogoutStyles(t *testing.T) {
	withoutEndSession := func(doc map[string]any) { delete(doc, "end_session_endpoint") }
	for _, tc := range []struct {
		name, options string
		metadata      func(map[string]any)
		want          string // of the redirect; $BACK stands for our own page, encoded
		logged        string
	}{
		{"local", "logout local", nil, "$SITE/oauth2/signed-out", `"at_provider":false`},
		{"auto, and nothing advertised", "", withoutEndSession, "$SITE/oauth2/signed-out", `"at_provider":false`},
		{"oidc, and nothing advertised", "logout oidc", withoutEndSession, "$SITE/oauth2/signed-out", "the session at the provider goes on"},
		{"auth0", "logout auth0", nil, "$OP/v2/logout?client_id=public&returnTo=$BACK", `"at_provider":true`},
		{"cognito", "logout cognito", nil, "$OP/logout?client_id=public&logout_uri=$BACK", `"at_provider":true`},
		{"a page of one's own", "logout auth0\npost_logout_redirect https://www.example.com/bye?x=1", nil, "$OP/v2/logout?client_id=public&returnTo=https%3A%2F%2Fwww.example.com%2Fbye%3Fx%3D1", ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			w := newWorld(t)
			w.op.Misbehave(provider.Faults{Metadata: tc.metadata})
			w.caddy("pkce_auth $OP public {\n" + tc.options + "\n}\nreverse_proxy $UPSTREAM")
			b := w.browser()
			b.login(w, "/")
			want := strings.NewReplacer("$SITE", w.site, "$OP", w.op.URL, "$BACK", url.QueryEscape(w.site+"/oauth2/signed-out")).Replace(tc.want)
			if got := b.logout(w).location(t); got != want {
				t.Errorf("got  %s\nwant %s", got, want)
			}
			if tc.logged != "" {
				w.logged(tc.logged)
			}
			if a := b.fetch(w.site + "/x"); a.StatusCode != http.StatusUnauthorized {
				t.Errorf("afterwards: got status %d", a.StatusCode)
			}
		})
	}
}

// M137, R43: a revocation endpoint that fails, or does not answer, and a
// provider that is down: the logout goes on at once.
func TestR43M137LogoutWaitsForNobody(t *testing.T) {
	w := newWorld(t)
	w.caddy(basic)
	b := w.browser()
	b.login(w, "/")
	release := make(chan struct{})
	w.op.Misbehave(provider.Faults{Answer: map[string]func(http.ResponseWriter, *http.Request) bool{
		"revoke": func(rw http.ResponseWriter, r *http.Request) bool {
			<-release
			return provider.Status(500, "text/plain", "no")(rw, r)
		},
	}})
	if a := b.logout(w); a.StatusCode != http.StatusSeeOther { // it would hang here
		t.Errorf("got status %d", a.StatusCode)
	}
	close(release)
	w.logged("could not be revoked", "status 500")
	if a := b.fetch(w.site + "/x"); a.StatusCode != http.StatusUnauthorized {
		t.Errorf("afterwards: got status %d", a.StatusCode)
	}
	// revoke_on_logout off, and a provider that is down since Caddy started.
	w.op.Misbehave(provider.Faults{})
	revocations := len(w.op.Requests("revoke"))
	w.caddy("pkce_auth $OP public {\nrevoke_on_logout off\ntimeout 1s\n}\nreverse_proxy $UPSTREAM")
	b.login(w, "/")
	b.logout(w)
	other := w.browser()
	other.login(w, "/")
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	_ = w.op.Close()
	w.caddy("pkce_auth $OP public {\nrevoke_on_logout off\ntimeout 2s\n}\nreverse_proxy $UPSTREAM")
	if got := other.logout(w).location(t); got != w.site+"/oauth2/signed-out" {
		t.Errorf("with the provider down: got %s", got)
	}
	w.logged("the session at the provider goes on", "unavailable")
	if len(w.op.Requests("revoke")) != revocations {
		t.Error("revoke_on_logout off revokes")
	}
}

// A72, T8: a copy of the cookie, made before the logout, is dead after it.
func TestA72T8CopiedCookie(t *testing.T) {
	w := newWorld(t)
	load := w.reloads()
	load("timeout 5s")
	b := w.browser()
	b.login(w, "/")
	copied := b.cookieHeader(w)
	if a := w.present(copied); a.StatusCode != http.StatusOK {
		t.Fatalf("before the logout: got status %d", a.StatusCode)
	}
	b.logout(w)
	if a := w.present(copied); a.StatusCode != http.StatusUnauthorized {
		t.Errorf("after the logout: got status %d", a.StatusCode)
	}
	load("timeout 6s")
	if a := w.present(copied); a.StatusCode != http.StatusUnauthorized {
		t.Errorf("after a reload: got status %d", a.StatusCode)
	}
	b.login(w, "/again") // nobody else is concerned, the same user neither
}

// IDPS 31: an answer that was under way when the user logged out is cut, and
// brings no session back, be it renewed or refreshed; a refresh under way
// revokes what it got.
func TestIDPS31AnswersUnderWay(t *testing.T) {
	w := newWorld(t)
	w.caddy("pkce_auth $OP public {\nsession {\nidle 10s\n}\n}\nreverse_proxy $UPSTREAM")
	b := w.browser()
	w.op.Misbehave(provider.Faults{TokenResponse: shortLived})
	b.login(w, "/")
	outliveShortLived() // the token is over, and the session due for renewal
	held, release := w.upstream.holds("/x")
	answers := make(chan answer)
	cookies := b.cookieHeader(w)
	go func() { answers <- w.present(cookies) }()
	<-held
	b.logout(w)
	close(release)
	if a := <-answers; a.StatusCode != http.StatusUnauthorized || len(a.Cookies()) != 0 {
		t.Errorf("the answer under way: status %d, cookies %v", a.StatusCode, a.Header["Set-Cookie"])
	}
	latest := w.op.Issued()
	latest = slices.DeleteFunc(latest, func(s string) bool { return !strings.HasPrefix(s, "refresh-") })
	w.eventually("the newest refresh token is revoked", func() bool { return w.op.Revoked(latest[len(latest)-1]) })

	// The refresh itself is under way.
	w.upstream.answers(nil)
	other := w.browser()
	held, release = make(chan struct{}), make(chan struct{})
	w.expired(other, provider.Faults{Answer: answering(func(http.ResponseWriter, *http.Request) bool {
		close(held)
		<-release
		return false
	})})
	cookies = other.cookieHeader(w)
	go func() { answers <- w.present(cookies) }()
	<-held
	w.op.Misbehave(provider.Faults{}) // the revocation of the old one must not matter here
	other.logout(w)
	close(release)
	if a := <-answers; a.StatusCode != http.StatusUnauthorized || len(a.Cookies()) != 0 {
		t.Errorf("the refresh under way: status %d, cookies %v", a.StatusCode, a.Header["Set-Cookie"])
	}
}

// The ID token travels to the logout, and nowhere else: its cookie is sealed,
// bound to its session, and no other path carries it. A large one is let go.
func TestLogoutHint(t *testing.T) {
	w := newWorld(t)
	w.notIn("memory", "storage") // where the ID token is kept with the session
	w.caddyTLS("pkce_auth $OP public\nreverse_proxy $UPSTREAM")
	b, other := w.browser(), w.browser()
	b.login(w, "/")
	other.login(w, "/")
	for name, value := range b.cookies(w.site + "/oauth2/logout") {
		if strings.HasPrefix(name, "__Secure-") != (b.cookies(w.site)[name] == "") || strings.Contains(value, "eyJhbGciOi") { // as a token begins
			t.Errorf("%s=%.20s…", name, value)
		}
	}
	// The hint of another session is none.
	var pairs []string
	for name, value := range b.cookies(w.site) {
		pairs = append(pairs, name+"="+value)
	}
	for name, value := range other.cookies(w.site + "/oauth2/logout") {
		if strings.HasSuffix(name, ".h") {
			pairs = append(pairs, name+"="+value)
		}
	}
	a := w.browser().do(http.MethodPost, w.site+"/oauth2/logout", with(navigation, "Sec-Fetch-Site", "same-origin", "Cookie", strings.Join(pairs, "; ")), "")
	if q := query(t, a.location(t)); q.Has("id_token_hint") || !strings.HasPrefix(q.Get("logout_hint"), "sid-") {
		t.Errorf("with another session's hint, the provider is told %v", q)
	}
	w.op.Misbehave(provider.Faults{IDToken: func(_, claims map[string]any) { claims["blob"] = strings.Repeat("group,", 900) }})
	large := w.browser()
	large.open(w.site + "/")
	if got := len(large.cookies(w.site + "/oauth2/logout")); got != len(large.cookies(w.site)) {
		t.Errorf("an ID token that does not fit is kept, in %d cookies", got)
	}
	if q := query(t, large.logout(w).location(t)); q.Has("id_token_hint") || q.Get("client_id") == "" {
		t.Errorf("the provider is told %v", q)
	}
}

// Two providers on one site: each logs out its own session, at its own
// provider.
func TestLogoutOfTwoProviders(t *testing.T) {
	second := bobsProvider(t)
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
		handle /two/* {
			pkce_auth two
			reverse_proxy $UPSTREAM
		}
		handle {
			pkce_auth
			reverse_proxy $UPSTREAM
		}
		pkce_auth /oauth2/two/* two
	`)
	b := w.browser()
	b.login(w, "/one")
	b.login(w, "/two/x")
	a := b.do(http.MethodPost, w.site+"/oauth2/two/logout", with(navigation, "Sec-Fetch-Site", "same-origin"), "")
	if got := a.location(t); !strings.HasPrefix(got, second.URL+"/end-session?") || query(t, got).Get("id_token_hint") == "" {
		t.Errorf("got %s", got)
	}
	if b.fetch(w.site+"/two/x").StatusCode != http.StatusUnauthorized || b.fetch(w.site+"/one").StatusCode != http.StatusOK {
		t.Error("the wrong session ended")
	}
}

// R42: a picture in a text on the site itself logs nobody out; and the page
// that asks works in browsers that say nothing but Origin.
func TestR42LogoutByPicturesAndOldBrowsers(t *testing.T) {
	w := newWorld(t)
	w.caddy(basic)
	b := w.browser()
	b.login(w, "/")
	picture := http.Header{"Accept": {"image/*"}, "Sec-Fetch-Site": {"same-origin"}, "Sec-Fetch-Mode": {"no-cors"}, "Sec-Fetch-Dest": {"image"}}
	b.do(http.MethodGet, w.site+"/oauth2/logout", picture, "")
	if a := b.fetch(w.site + "/x"); a.StatusCode != http.StatusOK {
		t.Errorf("a picture logged the user out: status %d", a.StatusCode)
	}
	// Under no-referrer, browsers say "Origin: null" of a form (Fetch standard,
	// "append a request Origin header").
	asked := b.do(http.MethodGet, w.site+"/oauth2/logout", http.Header{"Accept": {"text/html"}}, "")
	if got := asked.Header.Get("Referrer-Policy"); got != "same-origin" || !strings.Contains(asked.body, "Sign out?") {
		t.Errorf("Referrer-Policy of the page that asks: %q", got)
	}
	a := b.do(http.MethodPost, w.site+"/oauth2/logout", http.Header{"Accept": {"text/html"}, "Origin": {w.site}}, "")
	if a.StatusCode != http.StatusSeeOther {
		t.Errorf("its form: got status %d", a.StatusCode)
	}
}

// revokes are the tokens that the provider was asked to revoke.
func (w *world) revokes() (tokens []string) {
	for _, r := range w.op.Requests("revoke") {
		tokens = append(tokens, r.Form.Get("token"))
	}
	return tokens
}

// IDPS 31: a refresh under way when the user logs out revokes what it got; a
// logout with an old cookie revokes the newest token, and gives the newest ID
// token as a hint.
func TestIDPS31RevokesTheNewest(t *testing.T) {
	w := newWorld(t)
	w.caddy(basic)
	b := w.browser()
	held, release := make(chan struct{}), make(chan struct{})
	w.expired(b, provider.Faults{Answer: map[string]func(http.ResponseWriter, *http.Request) bool{
		"token": func(_ http.ResponseWriter, r *http.Request) bool {
			if r.PostForm.Get("grant_type") == "refresh_token" {
				close(held)
				<-release
			}
			return false
		},
		"revoke": func(http.ResponseWriter, *http.Request) bool { return true }, // it does nothing
	}})
	cookies := b.cookieHeader(w)
	answers := make(chan answer)
	go func() { answers <- w.present(cookies) }()
	<-held
	b.logout(w)
	close(release)
	<-answers
	w.eventually("what the refresh got is revoked", func() bool {
		tokens := w.refreshTokens()
		return len(tokens) == 2 && slices.Contains(w.revokes(), tokens[1])
	})

	w.op.Misbehave(provider.Faults{})
	other := w.browser()
	w.expired(other, provider.Faults{})
	w.present(other.cookieHeader(w)) // refreshed; the browser does not get it
	q := query(t, other.logout(w).location(t))
	var idTokens []string
	for _, s := range w.op.Issued() {
		if strings.Count(s, ".") == 2 && strings.HasPrefix(s, "eyJ") {
			idTokens = append(idTokens, s)
		}
	}
	if q.Get("id_token_hint") != idTokens[len(idTokens)-1] {
		t.Error("the hint is not the newest ID token")
	}
	tokens := w.refreshTokens()
	w.eventually("the newest is revoked", func() bool { return slices.Contains(w.revokes(), tokens[len(tokens)-1]) })
}

// Where the logout is local, the ID token is not kept for it.
func TestLocalLogoutKeepsNoHint(t *testing.T) {
	w := newWorld(t)
	w.caddy("pkce_auth $OP public {\nlogout local\n}\nreverse_proxy $UPSTREAM")
	b := w.browser()
	b.login(w, "/")
	if got := len(b.cookies(w.site + "/oauth2/logout")); got != 1 {
		t.Errorf("%d cookies go to the logout", got)
	}
}

// R42: neither does a frame on the site log anybody out.
func TestR42LogoutInAFrame(t *testing.T) {
	w := newWorld(t)
	w.caddy(basic)
	b := w.browser()
	b.login(w, "/")
	for _, dest := range []string{"iframe", "frame", "embed", "object", "script", "style", "image"} {
		b.do(http.MethodGet, w.site+"/oauth2/logout", with(navigation, "Sec-Fetch-Site", "same-origin", "Sec-Fetch-Dest", dest), "")
		if a := b.fetch(w.site + "/x"); a.StatusCode != http.StatusOK {
			t.Fatalf("%s: status %d", dest, a.StatusCode)
		}
	}
}

// IDPS 31: the answer of an error route brings no session back either.
func TestIDPS31ErrorAnswerAfterLogout(t *testing.T) {
	w := newWorld(t)
	load := w.reloads()
	load("session {\nidle 10s\n}")
	b := w.browser()
	b.login(w, "/")
	time.Sleep(1200 * time.Millisecond)
	held, release := make(chan struct{}), make(chan struct{})
	var once sync.Once // Caddy may ask again when the connection breaks
	w.upstream.answers(func(rw http.ResponseWriter, _ *http.Request) {
		once.Do(func() { close(held) })
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

// IDPS 31: one provider's session ends while an answer is under way; the
// other's new tokens are in it all the same.
func TestIDPS31OneLogoutIsNotTheOthers(t *testing.T) {
	second := bobsProvider(t)
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
	outliveShortLived()
	held, release := w.upstream.holds("/both")
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
	want := 1
	if w.stored() { // nothing has to reach the browser
		want = 0
	}
	if n != 1 || got != want {
		t.Errorf("%d refreshes; status %d, %s; the answer sets %v", n, a.StatusCode, a.body, a.Header["Set-Cookie"])
	}
	if a := b.fetch(w.site + "/x"); a.StatusCode != http.StatusOK || len(w.refreshes()) != 1 {
		t.Errorf("the other session: got status %d after %d refreshes", a.StatusCode, len(w.refreshes()))
	}
}
