package flows

import (
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/pkce-auth/caddy-pkce-auth/test/provider"
)

// What a browser sends when a page of the site leads a frame, or itself, to our
// login; and when a provider sends that frame back.
var (
	inFrame   = with(navigation, "Sec-Fetch-Dest", "iframe", "Sec-Fetch-Site", "same-origin", "Sec-Fetch-User", "")
	inWindow  = with(navigation, "Sec-Fetch-Site", "same-origin")
	frameBack = with(inFrame, "Sec-Fetch-Site", "cross-site")
)

// silently has a page of the site ask for a login without a sound, and follows
// it up to where the page is again.
func (b *browser) silently(w *world, header http.Header, returnTo string) answer {
	b.t.Helper()
	a := b.do(http.MethodGet, w.site+"/oauth2/login?prompt=none&return_to="+url.QueryEscape(returnTo), header, "")
	header = with(header, "Sec-Fetch-Site", "cross-site")
	for range 5 {
		location := a.location(b.t)
		if location == "" || location == w.site+returnTo {
			return a
		}
		a = b.do(http.MethodGet, location, header, "")
	}
	b.t.Fatalf("it goes on and on, to %s", a.Header.Get("Location"))
	return a
}

// came is whether a silent login ended where it began.
func (a answer) came(w *world, returnTo string) bool {
	return a.StatusCode == http.StatusSeeOther && a.Header.Get("Location") == w.site+returnTo
}

// prompts are the prompt parameters of all authorization requests so far.
func (w *world) prompts() string {
	var prompts []string
	for _, r := range w.op.Requests("authorize") {
		prompts = append(prompts, r.Form.Get("prompt"))
	}
	return strings.Join(prompts, ",")
}

// IDPS 16, R35, A54: prompt=none is honoured where a page of this site asks for
// it, in a frame or in its own window, and nowhere else: not in a link from
// elsewhere, not in a foreign site's frame, not in a script's fetch.
func TestIDPS16R35A54SilentLoginOfOwnPagesOnly(t *testing.T) {
	for name, tc := range map[string]struct {
		header http.Header
		query  string
		want   string // the prompt; "401": refused
	}{
		"a frame of the site":        {inFrame, "prompt=none", "none"},
		"a page of the site":         {inWindow, "prompt=none", "none"},
		"a link from elsewhere":      {with(inWindow, "Sec-Fetch-Site", "cross-site"), "prompt=none", ""},
		"a sibling domain's link":    {with(inWindow, "Sec-Fetch-Site", "same-site"), "prompt=none", ""},
		"the address bar":            {navigation, "prompt=none", ""},
		"no Fetch Metadata":          {http.Header{"Accept": {"text/html"}, "Origin": {"$SITE"}}, "prompt=none", ""},
		"a foreign frame":            {with(inFrame, "Sec-Fetch-Site", "cross-site"), "prompt=none", "401"},
		"a sibling domain's frame":   {with(inFrame, "Sec-Fetch-Site", "same-site"), "prompt=none", "401"},
		"a frame that wants a form":  {inFrame, "", "401"},
		"a frame, another prompt":    {inFrame, "prompt=login", "401"},
		"a frame, two prompts":       {inFrame, "prompt=none&prompt=login", "401"},
		"a page, two prompts":        {inWindow, "prompt=none&prompt=login", ""},
		"a page, another prompt":     {inWindow, "prompt=login", ""},
		"a script":                   {fetched, "prompt=none", "401"},
		"an embedded object":         {with(inFrame, "Sec-Fetch-Dest", "object"), "prompt=none", "401"},
		"an image":                   {with(fetched, "Sec-Fetch-Dest", "image", "Sec-Fetch-Mode", "no-cors"), "prompt=none", "401"},
		"a frame, in a prefetch":     {with(inFrame, "Sec-Purpose", "prefetch"), "prompt=none", "401"},
		"no more than a prompt":      {inFrame, "prompt=none&scope=admin&connection=x&max_age=0", "none"},
		"in place of what is always": {inFrame, "prompt=none", "none"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			always := ""
			if strings.HasPrefix(name, "in place") {
				always = "authorize_param prompt select_account"
			}
			w.caddy("pkce_auth $OP public {\n" + always + "\n}\nreverse_proxy $UPSTREAM")
			header := tc.header.Clone()
			if header.Get("Origin") != "" {
				header.Set("Origin", w.site)
			}
			a := w.browser().do(http.MethodGet, w.site+"/oauth2/login?"+tc.query, header, "")
			if tc.want == "401" {
				if a.StatusCode != http.StatusUnauthorized || a.Header["Set-Cookie"] != nil {
					t.Errorf("got status %d", a.StatusCode)
				}
				return
			}
			q := query(t, a.location(t))
			if got := q.Get("prompt"); got != tc.want || q.Has("prompt") != (tc.want != "") {
				t.Errorf("prompt: got %q, want %q", got, tc.want)
			}
			if q.Get("scope") != "openid profile email offline_access" || q.Has("connection") || q.Has("max_age") {
				t.Errorf("got %v", q)
			}
		})
	}
}

// Who is logged in at the provider gets a session in a frame, and the frame comes
// back, whatever same_site says: in a frame of this site, its cookies are no
// foreign site's.
func TestSilentLoginInAFrame(t *testing.T) {
	for _, sameSite := range []string{"lax", "strict"} {
		w := newWorld(t)
		w.caddy("pkce_auth $OP public {\nsession {\nsame_site " + sameSite + "\n}\n}\nreverse_proxy $UPSTREAM")
		b := w.browser()
		if a := b.silently(w, inFrame, "/frame.html?x=1"); !a.came(w, "/frame.html?x=1") || len(a.sessionLines()) == 0 {
			t.Errorf("%s: got status %d to %q", sameSite, a.StatusCode, a.Header.Get("Location"))
		}
		if info, _ := b.session(w, ""); !info.Active || w.prompts() != "none" {
			t.Errorf("%s: active is %v after %q", sameSite, info.Active, w.prompts())
		}
		if again := b.silently(w, inFrame, "/"); !again.came(w, "/") {
			t.Errorf("%s: once more: got status %d", sameSite, again.StatusCode)
		}
		if info, _ := b.session(w, ""); !info.Active {
			t.Errorf("%s: once more: not active", sameSite)
		}
	}
}

// IDPS 18: a provider that must show something sends the frame back without a
// session, once: neither a form nor an error page could be seen there. The same
// whatever goes wrong.
func TestIDPS18SilentLoginComesBackWithoutSession(t *testing.T) {
	refusing := func(code string) provider.Faults {
		return provider.Faults{Callback: func(q url.Values) { delete(q, "code"); q["error"] = []string{code} }}
	}
	for name, tc := range map[string]struct {
		options string
		faults  provider.Faults
		window  int // what a window of its own gets in the end, if that is not the page
		logged  string
	}{
		"login_required":             {"", refusing("login_required"), 0, ""},
		"consent_required":           {"", refusing("consent_required"), 0, ""},
		"interaction_required":       {"", refusing("interaction_required"), 0, ""},
		"account_selection_required": {"", refusing("account_selection_required"), 0, ""},
		"too long ago": {"max_age 10m", provider.Faults{IDToken: func(_, claims map[string]any) {
			claims["auth_time"] = time.Now().Add(-time.Hour).Unix()
		}}, 0, ""},
		"access_denied": {"", refusing("access_denied"), http.StatusForbidden, "access_denied"},
		"server_error":  {"", refusing("server_error"), http.StatusServiceUnavailable, "provider_unavailable"},
		"the token endpoint is down": {"", provider.Faults{Answer: map[string]func(http.ResponseWriter, *http.Request) bool{
			"token": provider.Status(503, "text/plain", "x"),
		}}, http.StatusServiceUnavailable, "provider_unavailable"},
		"an ID token that must not be used": {"", provider.Faults{IDToken: func(_, claims map[string]any) { claims["nonce"] = "other" }}, http.StatusBadGateway, "invalid_answer"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.caddy("pkce_auth $OP public {\n" + tc.options + "\nbypass /open\n}\nreverse_proxy $UPSTREAM")
			w.op.Misbehave(tc.faults)
			b := w.browser()
			if a := b.silently(w, inFrame, "/open"); !a.came(w, "/open") || w.prompts() != "none" {
				t.Errorf("got status %d to %q after %q", a.StatusCode, a.Header.Get("Location"), w.prompts())
			}
			if info, _ := b.session(w, ""); info.Active || len(b.loginStates(w.site)) != 0 {
				t.Errorf("active is %v; left behind: %q", info.Active, b.loginStates(w.site))
			}
			if tc.logged != "" {
				w.logged(`"reason":"` + tc.logged + `"`)
			}
			a := b.silently(w, inWindow, "/open")
			if came := a.came(w, "/open"); came != (tc.window == 0) || !came && a.StatusCode != tc.window || w.prompts() != "none,none" {
				t.Errorf("a window: got status %d to %q after %q", a.StatusCode, a.Header.Get("Location"), w.prompts())
			}
		})
	}
	t.Run("no metadata", func(t *testing.T) {
		w := newWorld(t)
		w.op.Misbehave(provider.Faults{Answer: map[string]func(http.ResponseWriter, *http.Request) bool{"metadata": provider.Status(503, "text/plain", "x")}})
		w.caddy(basic)
		b := w.browser()
		if a := b.silently(w, inFrame, "/open"); !a.came(w, "/open") {
			t.Errorf("got status %d", a.StatusCode)
		}
		w.logged(`"reason":"provider_unavailable"`)
		if a := b.silently(w, inWindow, "/open"); a.StatusCode != http.StatusServiceUnavailable {
			t.Errorf("a window: got status %d", a.StatusCode)
		}
	})
}

// A silent login in a window that leads back to a page which needs a session
// leads on to a login, once: that page asks for it by itself. A frame does not.
func TestIDPS18SilentLoginBackToAProtectedPage(t *testing.T) {
	w := newWorldWith(t, provider.Config{LoginForm: true})
	w.caddy(basic)
	b := w.browser()
	a := b.silently(w, inWindow, "/page?x=1")
	if !a.came(w, "/page?x=1") {
		t.Fatalf("got status %d", a.StatusCode)
	}
	if a = b.follow(a); a.StatusCode != http.StatusOK || !strings.Contains(a.body, "<form") || w.prompts() != "none," {
		t.Errorf("got status %d after %q: %.200s", a.StatusCode, w.prompts(), a.body)
	}
	if a := b.do(http.MethodGet, w.site+"/page?x=1", frameBack, ""); a.StatusCode != http.StatusUnauthorized || len(w.op.Requests("authorize")) != 2 {
		t.Errorf("the frame's page: got status %d", a.StatusCode)
	}
}

// Somebody else has logged in at the provider, in another tab, on a computer that
// people share. A frame does not put their session under a page that shows the
// first one's work, for what is sent from it would be theirs: nothing is changed,
// and it is logged. A login that can be seen changes users as ever.
func TestSilentLoginDoesNotSwapUsers(t *testing.T) {
	inEveryStore(t, func(w *world) {
		t := w.t
		w.op.Change(func(cfg *provider.Config) { cfg.Users["bob"] = map[string]any{} })
		w.caddy(basic)
		b, _ := w.loggedIn()
		w.op.Change(func(cfg *provider.Config) { cfg.Login = "bob" })
		a := b.silently(w, inFrame, "/frame.html")
		if !a.came(w, "/frame.html") || len(a.sessionLines()) != 0 {
			t.Errorf("got status %d, and the cookies %q", a.StatusCode, a.Header["Set-Cookie"])
		}
		if info, _ := b.session(w, ""); info.Claims["sub"] != "alice" {
			t.Errorf("got %v", info.Claims)
		}
		w.alive(b, true, "the first user")
		w.logged("a login in a frame was not used", `"sub":"alice"`, `"sub_at_provider":"bob"`)
		w.eventually("what nobody will use is revoked", func() bool { return len(w.revokes()) == 1 })
		if a := b.silently(w, inWindow, "/page"); !a.came(w, "/page") {
			t.Errorf("a window: got status %d", a.StatusCode)
		}
		if info, _ := b.session(w, ""); info.Claims["sub"] != "bob" {
			t.Errorf("a window: got %v", info.Claims)
		}
		evict(t, b, w.site)
		w.op.Change(func(cfg *provider.Config) { cfg.Login = "alice" })
		if a := b.silently(w, inFrame, "/frame.html"); !a.came(w, "/frame.html") {
			t.Errorf("without a session: got status %d", a.StatusCode)
		}
		if info, _ := b.session(w, ""); info.Claims["sub"] != "alice" {
			t.Errorf("without a session: got %v", info.Claims)
		}
	})
}

// The session that a login in a frame began under may not be seen by its
// callback, and another may have begun meanwhile: both count.
func TestSilentLoginDoesNotSwapUsersMeanwhile(t *testing.T) {
	for name, tc := range map[string]struct {
		first, now string // who is logged in when it begins, and when it ends; empty: nobody, or it is not seen
		atProvider string
		used       bool
	}{
		"unseen, another user":     {"alice", "", "bob", false},
		"unseen, the same user":    {"alice", "", "alice", true},
		"another user meanwhile":   {"", "alice", "bob", false},
		"the same user meanwhile":  {"", "alice", "alice", true},
		"another user came, and I": {"bob", "alice", "bob", false},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.op.Change(func(cfg *provider.Config) { cfg.Users["bob"] = map[string]any{} })
			as := func(user string) { w.op.Change(func(cfg *provider.Config) { cfg.Login = user }) }
			w.caddy(basic)
			b := w.browser()
			seen := func(user string) {
				for name := range b.cookies(w.site) {
					if !strings.Contains(name, ".l") {
						site, err := url.Parse(w.site)
						if err != nil {
							t.Fatal(err)
						}
						b.jar.SetCookies(site, []*http.Cookie{{Name: name, MaxAge: -1}})
					}
				}
				if user != "" {
					as(user)
					b.login(w, "/")
				}
			}
			seen(tc.first)
			toProvider := b.do(http.MethodGet, w.site+"/oauth2/login?prompt=none&return_to=/x", inFrame, "").location(t)
			as(tc.atProvider)
			callback := b.visit(toProvider).location(t)
			seen(tc.now)
			if a := b.do(http.MethodGet, callback, frameBack, ""); !a.came(w, "/x") || len(a.sessionLines()) > 0 != tc.used {
				t.Errorf("got status %d, and the cookies %q", a.StatusCode, a.Header["Set-Cookie"])
			}
		})
	}
}

// A login in a frame that cannot tell who is logged in, for the store fails,
// changes nothing.
func TestSilentLoginWhileTheStoreFails(t *testing.T) {
	theirs := newTheirs()
	w := newWorld(t)
	w.caddy("pkce_auth $OP public {\nsession thirdparty\n}\nreverse_proxy $UPSTREAM")
	b, _ := w.loggedIn()
	toProvider := b.do(http.MethodGet, w.site+"/oauth2/login?prompt=none&return_to=/x", inFrame, "").location(t)
	callback := b.visit(toProvider).location(t)
	theirs.down.Store(true)
	if a := b.do(http.MethodGet, callback, frameBack, ""); !a.came(w, "/x") || len(a.sessionLines()) != 0 {
		t.Errorf("got status %d, and the cookies %q", a.StatusCode, a.Header["Set-Cookie"])
	}
	theirs.down.Store(false)
	w.alive(b, true, "when the store is back")
}
