package flows

import (
	"encoding/json"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/pkce-auth/caddy-pkce-auth/test/provider"
)

// IDPS 18: a provider that must show something to the user does so once, and the
// token is in the session then.
func TestIDPS18InteractionForATarget(t *testing.T) {
	inEveryStore(t, func(w *world) {
		u := w.ofAPIs("", forA, forB)
		b := w.browser()
		b.login(w, "/")
		w.op.Change(func(c *provider.Config) { c.LoginForm = true })
		form := b.open(w.site + "/a/1")
		if form.StatusCode != http.StatusOK || !strings.Contains(form.body, "<form") || form.Request.URL.Query().Get("prompt") != "" {
			t.Fatalf("got status %d: %.300s", form.StatusCode, form.body)
		}
		w.op.Change(func(c *provider.Config) { c.LoginForm = false })
		if a := b.open(form.Request.URL.String()); a.StatusCode != http.StatusOK || a.body != "upstream /a/1" {
			t.Errorf("got status %d: %.300s", a.StatusCode, a.body)
		}
		u.a.only(t, "https://a.test", 1)
		if got := len(w.op.Requests("authorize")); got != 4 { // the login, the silent one, the form, and who comes from it
			t.Errorf("%d authorizations", got)
		}
	})
}

// No loop: a target that neither a refresh nor a login brings leads to a page, and
// the next visit goes nowhere. The main token is none the worse, and the log says
// what to do. Whatever the user is told, it is nothing of the kind.
func TestG3TargetNobodyGets(t *testing.T) {
	refuse := func(_ string, form url.Values) string {
		if form.Get("audience") == "https://a.test" {
			return "invalid_target"
		}
		return ""
	}
	for name, faults := range map[string]provider.Faults{
		"refused":                   {RefuseTarget: refuse},
		"for something else":        {IgnoreTargets: true},
		"refused by a refresh only": {},
	} {
		t.Run(name, func(t *testing.T) {
			inEveryStore(t, func(w *world) {
				u := w.ofAPIs("", forA, forB)
				b := w.browser()
				b.login(w, "/")
				if name == "for something else" {
					other := w.op.Sign(map[string]any{"typ": "at+jwt"}, map[string]any{"aud": "https://else.test", "sub": "alice"})
					faults.TokenResponse = func(doc map[string]any) { doc["access_token"] = other }
					faults.IDToken = func(_, claims map[string]any) { delete(claims, "at_hash") }
				}
				w.op.Misbehave(faults)
				a := b.open(w.site + "/a/1")
				if name == "refused by a refresh only" {
					if a.StatusCode != http.StatusOK {
						t.Errorf("got status %d", a.StatusCode)
					}
					u.a.only(t, "https://a.test", 1)
					return
				}
				if a.StatusCode != http.StatusBadGateway || strings.Contains(a.body, "audience") {
					t.Fatalf("got status %d: %.500s", a.StatusCode, a.body)
				}
				w.logged("token_unavailable", "multi-resource refresh token policy")
				asked, refreshes := len(w.op.Requests("authorize")), len(w.refreshes())
				for range 3 {
					if a := b.open(w.site + "/a/1"); a.StatusCode != http.StatusBadGateway {
						t.Errorf("again: got status %d", a.StatusCode)
					}
					if a := b.fetch(w.site + "/a/1"); a.StatusCode != http.StatusBadGateway {
						t.Errorf("a script: got status %d", a.StatusCode)
					}
				}
				w.op.Misbehave(provider.Faults{})
				if a := b.open(w.site + "/b/1"); a.StatusCode != http.StatusOK {
					t.Errorf("another target: got status %d", a.StatusCode)
				}
				if a := b.fetch(w.site + "/"); a.StatusCode != http.StatusOK {
					t.Errorf("another route: got status %d", a.StatusCode)
				}
				if got := len(w.op.Requests("authorize")) - asked; got != 1 || u.a.count() != 0 { // that of /b
					t.Errorf("%d authorizations more; %d requests got through", got, u.a.count())
				}
				if got := len(w.refreshes()) - refreshes; got > 1 {
					t.Errorf("%d refreshes more", got)
				}
				u.b.only(t, "https://b.test", 1)
			})
		})
	}
}

// The login for a target brings somebody else's token: it never becomes part of the
// session. The attack: the victim's browser is logged in at the provider as the
// attacker, whose API would get the victim's data (A40).
func TestA40TargetOfAnotherUser(t *testing.T) {
	inEveryStore(t, func(w *world) {
		w.op.Change(func(c *provider.Config) { c.Users["mallory"] = map[string]any{} })
		u := w.ofAPIs("", forA, forB)
		b := w.browser()
		b.login(w, "/")
		w.op.Change(func(c *provider.Config) { c.Login = "mallory" })
		if a := b.open(w.site + "/a/1"); a.StatusCode != http.StatusBadGateway || u.a.count() != 0 {
			t.Errorf("got status %d", a.StatusCode)
		}
		w.logged("token_unavailable", "somebody else is logged in")
		if a := b.fetch(w.site + "/"); a.StatusCode != http.StatusOK {
			t.Errorf("the session: got status %d", a.StatusCode)
		}
		revoked := w.op.Requests("revoke")
		w.eventually("its refresh token to be revoked", func() bool { revoked = w.op.Requests("revoke"); return len(revoked) == 1 })
	})
}

// A74: after a reload, a route with another target gets another token.
func TestA74TargetAfterReload(t *testing.T) {
	inEveryStore(t, func(w *world) {
		w.op.Change(multiResource)
		u := w.ofAPIs("cookie_secret 0badc0ffee15900d7ea5e7a57e5b1e55ed0ddba11cab1e5caffe1ea0fab1e5e0", forA, forB)
		b := w.browser()
		b.open(w.site + "/a/1")
		u.a.only(t, "https://a.test", 1)
		site := w.site
		w.caddy(u.config("cookie_secret 0badc0ffee15900d7ea5e7a57e5b1e55ed0ddba11cab1e5caffe1ea0fab1e5e0", forB, forA))
		evictTo(t, b, site, w.site)
		for _, path := range []string{"/a/2", "/b/2"} {
			if a := b.fetch(w.site + path); a.StatusCode != http.StatusOK {
				t.Errorf("%s: got status %d: %.300s", path, a.StatusCode, a.body)
			}
		}
		if got := u.a.audiences(t); !slices.Equal(got, []string{"https://a.test", "https://b.test"}) {
			t.Errorf("got %q", got)
		}
		u.b.only(t, "https://a.test", 1)
		if got := len(w.op.Requests("authorize")); got != 1 {
			t.Errorf("%d authorizations", got)
		}
	})
}

// evictTo gives a browser's cookies of a site to another: ports make no difference
// to a browser.
func evictTo(t *testing.T, b *browser, from, to string) {
	t.Helper()
	f, err := url.Parse(from)
	if err != nil {
		t.Fatal(err)
	}
	u, err := url.Parse(to)
	if err != nil {
		t.Fatal(err)
	}
	b.jar.SetCookies(u, b.jar.Cookies(f))
}

// A74: two providers, each with a route for the same audience: neither route gets
// the other's token.
func TestA74TargetsOfTwoProviders(t *testing.T) {
	w := newWorld(t)
	w.op.Change(multiResource)
	bob := bobsProvider(t)
	bob.Change(multiResource)
	theirs := newUpstream(t)
	w.caddy(`
	pkce_auth {
		issuer $OP
		client_id public
	}
	pkce_auth other {
		issuer ` + bob.URL + `
		client_id public
	}
	---
	handle /other/* {
		pkce_auth other {
			audience https://a.test
		}
		reverse_proxy ` + strings.TrimPrefix(theirs.server.URL, "http://") + `
	}
	handle {
		pkce_auth {
			audience https://a.test
		}
		reverse_proxy $UPSTREAM
	}
	pkce_auth /oauth2/other/* other
	`)
	b := w.browser()
	b.open(w.site + "/")
	if a := b.open(w.site + "/other/1"); a.StatusCode != http.StatusOK {
		t.Fatalf("got status %d: %.300s", a.StatusCode, a.body)
	}
	b.fetch(w.site + "/")
	ours, other := w.op.Issued(), bob.Issued()
	for _, r := range w.upstream.requests {
		if token := strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer "); !slices.Contains(ours, token) {
			t.Error("a token that is not of this provider")
		}
	}
	for _, r := range theirs.requests {
		if token := strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer "); !slices.Contains(other, token) {
			t.Error("a token that is not of the other provider")
		}
	}
	w.upstream.only(t, "https://a.test", 2)
	theirs.only(t, "https://a.test", 1)
}

// The tokens of routes that do not fit the cookie go, and the session stays. One
// line of the log says where sessions must be for it.
func TestCookieBudgetWithTargets(t *testing.T) {
	w := newWorld(t)
	w.notIn("memory", "storage")
	w.op.Change(multiResource)
	u := w.ofAPIs("", forA, forB)
	b := w.browser()
	b.login(w, "/")
	w.op.Misbehave(provider.Faults{RefreshResponse: func(doc map[string]any) {
		claims := map[string]any{"aud": "https://a.test", "sub": "alice", "noise": w.op.Noise(4000)}
		doc["access_token"] = w.op.Sign(map[string]any{"typ": "at+jwt"}, claims)
		delete(doc, "id_token")
	}})
	if a := b.fetch(w.site + "/a/1"); a.StatusCode != http.StatusOK {
		t.Errorf("got status %d: %.300s", a.StatusCode, a.body)
	}
	w.op.Misbehave(provider.Faults{RefreshResponse: func(doc map[string]any) {
		claims := map[string]any{"aud": "https://b.test", "sub": "alice", "noise": w.op.Noise(4000)}
		doc["access_token"] = w.op.Sign(map[string]any{"typ": "at+jwt"}, claims)
		delete(doc, "id_token")
	}})
	if a := b.fetch(w.site + "/b/1"); a.StatusCode != http.StatusOK {
		t.Errorf("got status %d: %.300s", a.StatusCode, a.body)
	}
	w.logged(`"level":"error"`, "do not fit", "session storage", "session redis")
	for _, path := range []string{"/", "/a/2", "/b/2"} {
		if a := b.fetch(w.site + path); a.StatusCode != http.StatusOK {
			t.Errorf("%s: got status %d: %.300s", path, a.StatusCode, a.body)
		}
	}
	if got := len(w.refreshes()); got > 4 {
		t.Errorf("%d refreshes", got)
	}
	u.a.only(t, "https://a.test", 2)
	u.b.only(t, "https://b.test", 2)
	if strings.Count(w.log(), "do not fit the session's cookies") != 1 {
		t.Error("it is said more than once")
	}
	size := 0
	for name, value := range b.cookies(w.site) {
		size += len(name) + len(value)
	}
	if size > 9<<10 {
		t.Errorf("the cookies have %d bytes", size)
	}
}

// IDPS 30: the logout revokes the refresh tokens of all of a session's tokens.
func TestIDPS30LogoutRevokesFurtherTokens(t *testing.T) {
	inEveryStore(t, func(w *world) {
		w.ofAPIs("", forA, forB)
		b := w.browser()
		b.login(w, "/")
		if a := b.open(w.site + "/a/1"); a.StatusCode != http.StatusOK { // by an authorization of its own
			t.Fatalf("got status %d", a.StatusCode)
		}
		header := navigation.Clone()
		header.Set("Sec-Fetch-Site", "same-origin")
		b.do(http.MethodPost, w.site+"/oauth2/logout", header, "")
		w.eventually("two refresh tokens to be revoked", func() bool {
			var tokens []string
			for _, r := range w.op.Requests("revoke") {
				tokens = append(tokens, r.Form.Get("token"))
			}
			slices.Sort(tokens)
			return len(slices.Compact(tokens)) == 2
		})
	})
}

// Where the callback does not see the session, as with SameSite=Strict or a form
// that the provider's page posts, the token waits for it in the process.
func TestTargetWhereTheCallbackSeesNoSession(t *testing.T) {
	t.Run("SameSite=Strict", func(t *testing.T) {
		w := newWorld(t)
		u := w.ofAPIs("session {\nsame_site strict\n}", forA, forB)
		b := w.browser()
		b.open(w.site + "/")
		callback := b.visit(b.visit(w.site + "/a/1").location(t)).location(t)
		session := copyJar(t, b.jar, w.site)
		dropSession(t, b, w.site)
		if a := b.visit(callback); a.StatusCode != http.StatusOK || !strings.Contains(a.body, "/a/1") {
			t.Fatalf("got status %d: %.300s", a.StatusCode, a.body)
		}
		b.jar = session
		if a := b.visit(w.site + "/a/1"); a.StatusCode != http.StatusOK {
			t.Fatalf("got status %d: %s", a.StatusCode, a.location(t))
		}
		u.a.only(t, "https://a.test", 1)
	})
	t.Run("a session that is gone", func(t *testing.T) {
		w := newWorld(t)
		u := w.ofAPIs("", forA, forB)
		b := w.browser()
		b.login(w, "/")
		callback := b.visit(b.visit(w.site + "/a/1").location(t)).location(t)
		dropSession(t, b, w.site)
		if a := b.open(callback); a.StatusCode != http.StatusOK || a.body != "upstream /a/1" { // by a login first
			t.Errorf("got status %d: %.300s", a.StatusCode, a.body)
		}
		u.a.only(t, "https://a.test", 1)
	})
}

// dropSession takes a browser's session, and leaves its logins.
func dropSession(t *testing.T, b *browser, site string) {
	t.Helper()
	u, err := url.Parse(site)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range b.jar.Cookies(u) {
		if !strings.Contains(c.Name, ".l") {
			c.MaxAge = -1
			b.jar.SetCookies(u, []*http.Cookie{c})
		}
	}
}

// A link to log in for a route's token, in a browser without a session: the login
// is the provider's own, and then the browser goes on for the token.
func TestLoginLinkForATargetWithoutASession(t *testing.T) {
	w := newWorld(t)
	u := w.ofAPIs("", forA, forB)
	b := w.browser()
	b.login(w, "/")
	var said struct {
		LoginURL string `json:"login_url"`
	}
	if err := json.Unmarshal([]byte(b.fetch(w.site+"/a/1").body), &said); err != nil {
		t.Fatal(err)
	}
	other := w.browser()
	if a := other.open(said.LoginURL + "&return_to=/page"); a.StatusCode != http.StatusOK || a.body != "upstream /page" {
		t.Fatalf("got status %d: %.300s", a.StatusCode, a.body)
	}
	asked := w.op.Requests("authorize")
	last := asked[len(asked)-1].Form
	if len(asked) != 3 || asked[1].Form.Get("audience") != "https://main.test" || last.Get("audience") != "https://a.test" || last.Get("prompt") != "none" {
		t.Errorf("%d authorizations, the last for %q", len(asked), last.Get("audience"))
	}
	if a := other.fetch(w.site + "/a/1"); a.StatusCode != http.StatusOK {
		t.Errorf("got status %d", a.StatusCode)
	}
	w.upstream.only(t, "https://main.test", 2)
	u.a.only(t, "https://a.test", 1)
}
