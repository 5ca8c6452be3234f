package flows

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pkce-auth/caddy-pkce-auth/test/provider"
)

// stepUpSite is a site one part of which wants more of a login than the rest.
func stepUpSite(options string) string {
	return `
		pkce_auth {
			issuer $OP
			client_id public
		}
		---
		pkce_auth
		pkce_auth /vault* {
			` + options + `
		}
		reverse_proxy $UPSTREAM
	`
}

// loggedIn has the provider say so of the next logins.
func (w *world) provedBy(ago time.Duration, acr string) {
	w.op.Misbehave(provider.Faults{IDToken: func(_, claims map[string]any) {
		delete(claims, "auth_time")
		if ago >= 0 {
			claims["auth_time"] = time.Now().Add(-ago).Unix()
		}
		if acr != "" {
			claims["acr"] = acr
		}
	}})
}

// asked are the authorization requests so far.
func (w *world) asked() []provider.Request { return w.op.Requests("authorize") }

var challengeParam = regexp.MustCompile(`([a-z_]+)="([^"]*)"`)

// challenged takes a Bearer challenge apart.
func challenged(t testing.TB, a answer) map[string]string {
	t.Helper()
	lines := a.Header["Www-Authenticate"]
	if a.StatusCode != http.StatusUnauthorized || len(lines) != 1 || !strings.HasPrefix(lines[0], "Bearer ") {
		t.Fatalf("got status %d and the challenges %q", a.StatusCode, lines)
	}
	params := map[string]string{}
	for _, m := range challengeParam.FindAllStringSubmatch(lines[0], -1) {
		params[m[1]] = m[2]
	}
	return params
}

// R56: a route that wants a fresher or stronger login than the session's sends
// a navigation to the provider with that, and back to where it wanted to go;
// anything else is told, and where to log in. Other routes go on meanwhile, and
// a session that does is asked for nothing.
func TestR56RouteStepsUp(t *testing.T) {
	for name, tc := range map[string]struct {
		options     string
		before      func(w *world)
		after       func(w *world)
		maxAge, acr string
	}{
		"max_age":               {"max_age 5m", func(w *world) { w.provedBy(time.Hour, "") }, func(w *world) { w.provedBy(0, "") }, "300", ""},
		"max_age, nothing said": {"max_age 5m", func(w *world) { w.provedBy(-1, "") }, func(w *world) { w.provedBy(time.Minute, "") }, "300", ""},
		"max_age, in the future": {
			"max_age 5m", func(w *world) { w.provedBy(-1, ""); w.op.Misbehave(provider.Faults{IDToken: inAnHour}) }, func(w *world) { w.provedBy(0, "") }, "300", "",
		},
		"acr_values":               {"acr_values urn:mfa urn:key", func(w *world) { w.provedBy(0, "urn:password") }, func(w *world) { w.provedBy(0, "urn:key") }, "", "urn:mfa urn:key"},
		"acr_values, nothing said": {"acr_values urn:mfa", func(w *world) { w.provedBy(0, "") }, func(w *world) { w.provedBy(0, "urn:mfa") }, "", "urn:mfa"},
		"both":                     {"max_age 5m\nacr_values urn:mfa", func(w *world) { w.provedBy(0, "urn:password") }, func(w *world) { w.provedBy(0, "urn:mfa") }, "300", "urn:mfa"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.caddy(stepUpSite(tc.options))
			tc.before(w)
			b := w.browser()
			b.login(w, "/")
			tc.after(w)
			const page = "/vault/page?x=1&y=%2F"
			for _, r := range []struct{ name, method, mode, site string }{
				{"a fetch", "GET", "cors", "same-origin"}, {"a form", "POST", "navigate", "same-origin"}, {"a HEAD", "HEAD", "cors", "same-origin"},
			} {
				header := fetched.Clone()
				header.Set("Sec-Fetch-Mode", r.mode)
				a := b.do(r.method, w.site+page, header, "")
				params := challenged(t, a)
				if params["error"] != "insufficient_user_authentication" || params["max_age"] != tc.maxAge || params["acr_values"] != tc.acr || !strings.HasPrefix(params["login_url"], w.site+"/oauth2/login?ask=") {
					t.Errorf("%s: got %v", r.name, params)
				}
				if a.Header["Set-Cookie"] != nil || a.Header.Get("Cache-Control") != "private, no-store" {
					t.Errorf("%s: %v", r.name, a.Header)
				}
				if r.mode == "navigate" && (!strings.Contains(a.body, "Please log in again") || !strings.Contains(a.body, "Log in again</a>")) {
					t.Errorf("%s: got %.300s", r.name, a.body)
				}
				var body map[string]string
				if r.mode == "cors" && r.method == "GET" {
					if err := json.Unmarshal([]byte(a.body), &body); err != nil || body["error"] != "insufficient_user_authentication" || body["login_url"] == "" || len(body) != 2 {
						t.Errorf("%s: got %v, %v", r.name, body, err)
					}
				}
			}
			prefetch := navigation.Clone()
			prefetch.Set("Sec-Purpose", "prefetch")
			if a := b.do("GET", w.site+page, prefetch, ""); a.StatusCode != http.StatusUnauthorized {
				t.Errorf("a prefetch: got status %d", a.StatusCode)
			}
			if before := len(w.asked()); before != 1 || w.upstream.count() != 1 {
				t.Fatalf("%d authorization requests, %d upstream", before, w.upstream.count())
			}
			toProvider := b.visit(w.site + page).location(t)
			if q := query(t, toProvider); q.Get("max_age") != tc.maxAge || q.Get("acr_values") != tc.acr {
				t.Errorf("the provider is asked for %v", q)
			}
			if a := b.fetch(w.site + "/other"); a.StatusCode != http.StatusOK {
				t.Errorf("another route meanwhile: got status %d", a.StatusCode)
			}
			if a := b.open(toProvider); a.body != "upstream "+page {
				t.Fatalf("got status %d and %.200q", a.StatusCode, a.body)
			}
			if a := b.fetch(w.site + page); a.StatusCode != http.StatusOK || len(w.asked()) != 2 {
				t.Errorf("afterwards: got status %d, %d authorization requests", a.StatusCode, len(w.asked()))
			}
		})
	}
}

func inAnHour(_, claims map[string]any) { claims["auth_time"] = time.Now().Add(time.Hour).Unix() }

// R56, A54: the link of a challenge brings what the route wants; what is
// forged, another provider's, or written by whoever makes a link, counts for
// nothing.
func TestR56A54LoginURLCarriesTheAsk(t *testing.T) {
	w := newWorld(t)
	w.caddy(stepUpSite("max_age 5m\nacr_values urn:mfa"))
	b := w.browser()
	b.login(w, "/")
	login := challenged(t, b.fetch(w.site+"/vault"))["login_url"]
	for name, link := range map[string]string{
		"written out":      w.site + "/oauth2/login?acr_values=urn:none&max_age=99999",
		"no seal":          w.site + "/oauth2/login?ask=AAAA",
		"a changed seal":   login[:len(login)-4] + "AAAA",
		"the ask twice":    w.site + "/oauth2/login?ask=AAAA&ask=" + query(t, login).Get("ask"),
		"with other words": login + "&acr_values=urn:none&max_age=99999",
	} {
		q := query(t, b.visit(link).location(t))
		acr, age := q.Get("acr_values"), q.Get("max_age")
		if sealed := name == "with other words"; sealed && (acr != "urn:mfa" || age != "300") || !sealed && acr+age != "" {
			t.Errorf("%s: asks for acr_values %q, max_age %q", name, acr, age)
		}
	}
	w.provedBy(0, "urn:mfa")
	if a := b.open(login + "&return_to=/vault/x"); a.body != "upstream /vault/x" {
		t.Errorf("got status %d and %.200q", a.StatusCode, a.body)
	}
}

// R27, R56, M84: a provider that does not comply is asked twice, the second
// time to see the user whatever it thinks; then there is 403, and the session
// that was there goes on elsewhere.
func TestR27R56M84ProviderDoesNotComply(t *testing.T) {
	for name, tc := range map[string]struct {
		options string
		said    func(w *world)
	}{
		"ignores max_age":     {"max_age 5m", func(w *world) { w.provedBy(time.Hour, "") }},
		"no auth_time":        {"max_age 5m", func(w *world) { w.provedBy(-1, "") }},
		"auth_time to come":   {"max_age 5m", func(w *world) { w.op.Misbehave(provider.Faults{IDToken: inAnHour}) }},
		"another acr":         {"acr_values urn:mfa", func(w *world) { w.provedBy(0, "urn:password") }},
		"no acr":              {"acr_values urn:mfa", func(w *world) { w.provedBy(0, "") }},
		"says that it cannot": {"acr_values urn:mfa", func(w *world) { w.op.Misbehave(provider.Faults{Callback: cannot}) }},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.caddy(stepUpSite(tc.options))
			w.provedBy(time.Hour, "urn:password")
			b := w.browser()
			b.login(w, "/")
			tc.said(w)
			a := b.open(w.site + "/vault")
			if a.StatusCode != http.StatusForbidden || !strings.Contains(a.body, "did not say enough about that") {
				t.Errorf("got status %d and %.300s", a.StatusCode, a.body)
			}
			requests := w.asked()
			if len(requests) != 3 || requests[1].Form.Get("prompt") != "" || requests[2].Form.Get("prompt") != "login" {
				t.Errorf("%d authorization requests: %v", len(requests), requests)
			}
			for _, r := range requests[1:] {
				if r.Form.Get("max_age")+r.Form.Get("acr_values") == "" {
					t.Errorf("got %v", r.Form)
				}
			}
			if a := b.visit(w.site + "/other"); a.body != "upstream /other" {
				t.Errorf("another route: got status %d", a.StatusCode)
			}
		})
	}
}

func cannot(q url.Values) { q.Del("code"); q.Set("error", "unmet_authentication_requirements") }

// R56: where a route never redirects, a session that does not do gets the
// challenge, as a page for a person; with `pass`, too, for who it is is known;
// with `redirect` a script is redirected. Who has no session logs in once, with
// what the route wants. A path that is bypassed wants nothing.
func TestR56UnauthorizedAndBypass(t *testing.T) {
	for unauthorized, redirects := range map[string]bool{"auto": true, "redirect": true, "401": false, "pass": false} {
		w := newWorld(t)
		w.caddy(stepUpSite("acr_values urn:mfa\nbypass /vault/health\nunauthorized " + unauthorized))
		b := w.browser()
		b.login(w, "/")
		got := b.visit(w.site + "/vault")
		if (got.StatusCode == http.StatusFound) != redirects {
			t.Errorf("%s: got status %d", unauthorized, got.StatusCode)
		}
		if !redirects && (challenged(t, got)["acr_values"] != "urn:mfa" || !strings.Contains(got.body, "ask=")) {
			t.Errorf("%s: got %.300s", unauthorized, got.body)
		}
		if a := b.fetch(w.site + "/vault"); (a.StatusCode == http.StatusFound) != (unauthorized == "redirect") {
			t.Errorf("%s: a script got status %d", unauthorized, a.StatusCode)
		}
		if a := b.fetch(w.site + "/vault/health"); a.StatusCode != http.StatusOK || w.upstream.last(t).Header.Get("Authorization") == "" {
			t.Errorf("%s: a path that is bypassed got status %d", unauthorized, a.StatusCode)
		}
		if unauthorized == "auto" {
			w.provedBy(0, "urn:mfa")
			before := len(w.asked())
			w.browser().login(w, "/vault/first")
			if got := w.asked()[before:]; len(got) != 1 || got[0].Form.Get("acr_values") != "urn:mfa" {
				t.Errorf("the first login of all: %v", got)
			}
		}
	}
}

// R56, promise 4: what two routes want of one request is asked for together; if
// no login can do for both, there is no loop.
func TestR56RoutesCompose(t *testing.T) {
	site := func(one, two string) string {
		return "pkce_auth {\nissuer $OP\nclient_id public\n}\n---\nroute {\npkce_auth {\n" + one + "\n}\npkce_auth {\n" + two + "\n}\nreverse_proxy $UPSTREAM\n}"
	}
	t.Run("both are met", func(t *testing.T) {
		w := newWorld(t)
		w.caddy(site("acr_values a b\nmax_age 10m", "acr_values b c\nmax_age 5m"))
		w.op.Misbehave(provider.Faults{IDToken: func(_, claims map[string]any) {
			requests := w.asked()
			wanted := strings.Fields(requests[len(requests)-1].Form.Get("acr_values"))
			claims["acr"] = wanted[0]
		}})
		b := w.browser()
		b.login(w, "/page")
		requests := w.asked()
		if len(requests) != 2 || requests[0].Form.Get("acr_values") != "a b" || requests[1].Form.Get("acr_values") != "b" || requests[1].Form.Get("max_age") != "300" {
			t.Errorf("got %v", requests)
		}
	})
	t.Run("nothing does for both", func(t *testing.T) {
		w := newWorld(t)
		w.caddy(site("acr_values a", "acr_values b"))
		w.op.Misbehave(provider.Faults{IDToken: func(_, claims map[string]any) { claims["acr"] = "a" }})
		b := w.browser()
		if a := b.open(w.site + "/page"); a.StatusCode != http.StatusUnauthorized || len(w.asked()) != 1 || w.upstream.count() != 0 {
			t.Errorf("got status %d after %d authorization requests", a.StatusCode, len(w.asked()))
		}
	})
}

// R56: a refresh is no login. A provider that says so all the same does not
// keep a session fresh; one that says nothing does not make it stale.
func TestR56RefreshIsNoLogin(t *testing.T) {
	for name, said := range map[string]func(claims map[string]any){
		"says that it was now": func(claims map[string]any) { claims["auth_time"] = time.Now().Unix() },
		"says nothing":         func(claims map[string]any) { delete(claims, "auth_time") },
	} {
		for ago, want := range map[time.Duration]int{time.Hour: http.StatusUnauthorized, 0: http.StatusOK} {
			w := newWorld(t)
			w.caddy(stepUpSite("max_age 5m"))
			b := w.browser()
			w.expired(b, provider.Faults{
				IDToken:          func(_, claims map[string]any) { claims["auth_time"] = time.Now().Add(-ago).Unix() },
				RefreshedIDToken: said,
			})
			w.op.Misbehave(provider.Faults{RefreshedIDToken: said})
			if a := b.fetch(w.site + "/other"); a.StatusCode != http.StatusOK || len(w.refreshes()) != 1 {
				t.Fatalf("%s: got status %d, %d refreshes", name, a.StatusCode, len(w.refreshes()))
			}
			if a := b.fetch(w.site + "/vault"); a.StatusCode != want {
				t.Errorf("%s, logged in %s ago: got status %d, want %d", name, ago, a.StatusCode, want)
			}
		}
	}
}

// R56: somebody else may be the one who logs in again. The session is theirs.
func TestR56SomebodyElseLogsIn(t *testing.T) {
	w := newWorldWith(t, provider.Config{Users: map[string]map[string]any{"alice": {}, "bob": {}}})
	w.caddy(strings.Replace(stepUpSite("max_age 5m"), "pkce_auth\n", "pkce_auth {\nheader_up X-Sub {http.auth.user.id}\n}\n", 1))
	w.provedBy(time.Hour, "")
	b := w.browser()
	b.login(w, "/")
	w.provedBy(0, "")
	w.op.Change(func(c *provider.Config) { c.Login = "bob" })
	if a := b.open(w.site + "/vault"); a.body != "upstream /vault" || w.upstream.last(t).Header.Get("X-Sub") != "bob" {
		t.Errorf("got status %d and %q as %q", a.StatusCode, a.body, w.upstream.last(t).Header.Get("X-Sub"))
	}
	w.logged("somebody else now", `"sub":"bob"`, `"before":"alice"`)
}

// insists has the upstream refuse a path with a challenge until ok says so.
func (w *world) insists(challenge string, ok func(*http.Request) bool) {
	w.upstream.answers(func(rw http.ResponseWriter, r *http.Request) {
		if strings.HasPrefix(r.URL.Path, "/api") && !ok(r) {
			rw.Header().Set("WWW-Authenticate", challenge)
			rw.Header().Set("X-Theirs", "1")
			rw.Header().Set("Content-Type", "text/plain")
			rw.Header().Add("Set-Cookie", "theirs=1")
			rw.WriteHeader(http.StatusUnauthorized)
			_, _ = fmt.Fprint(rw, "their 401")
			return
		}
		_, _ = fmt.Fprintf(rw, "upstream %s", r.RequestURI)
	})
}

const insufficient = `Bearer realm="api", error="insufficient_user_authentication", acr_values="urn:mfa", max_age="60"`

// R56: an upstream's challenge sends a navigation to the provider with what it
// asks for, and nothing of its answer to the browser; a script gets the
// challenge, and where to log in.
func TestR56UpstreamChallenges(t *testing.T) {
	w := newWorld(t)
	w.caddy(basic)
	b := w.browser()
	b.login(w, "/")
	var satisfied atomic.Bool
	w.insists(insufficient, func(*http.Request) bool { return satisfied.Load() })
	a := b.fetch(w.site + "/api/x")
	params := challenged(t, a)
	if a.body != "their 401" || a.Header.Get("X-Theirs") != "1" || params["realm"] != "api" || params["acr_values"] != "urn:mfa" || !strings.HasPrefix(params["login_url"], w.site+"/oauth2/login?ask=") {
		t.Errorf("a fetch: got %v and %q", a.Header, a.body)
	}
	if q := query(t, b.visit(params["login_url"]).location(t)); q.Get("acr_values") != "urn:mfa" || q.Get("max_age") != "60" {
		t.Errorf("its link asks for %v", q)
	}
	for _, method := range []string{http.MethodPost, http.MethodHead} {
		if a := b.do(method, w.site+"/api/x", navigation, ""); a.StatusCode != http.StatusUnauthorized || a.Header.Get("X-Theirs") != "1" {
			t.Errorf("%s: got status %d", method, a.StatusCode)
		}
	}
	if a := b.do(http.MethodGet, w.site+"/api/x", navigation, "a body"); a.StatusCode != http.StatusUnauthorized || a.body != "their 401" {
		t.Errorf("with a body: got status %d", a.StatusCode)
	}
	a = b.visit(w.site + "/api/x?y=1")
	q := query(t, a.location(t))
	if a.StatusCode != http.StatusFound || q.Get("acr_values") != "urn:mfa" || q.Get("max_age") != "60" || a.body != "" {
		t.Fatalf("a navigation: got status %d, %v, %q", a.StatusCode, q, a.body)
	}
	for _, name := range []string{"X-Theirs", "Www-Authenticate", "Content-Type"} {
		if a.Header[name] != nil {
			t.Errorf("%s: %v", name, a.Header[name])
		}
	}
	for _, c := range a.Cookies() {
		if c.Name == "theirs" {
			t.Error("the upstream's cookie went out with the redirect")
		}
	}
	satisfied.Store(true)
	if a := b.follow(a); a.body != "upstream /api/x?y=1" || len(w.asked()) != 2 {
		t.Errorf("got status %d and %q after %d authorization requests", a.StatusCode, a.body, len(w.asked()))
	}
}

// R56, promise 4: an upstream that is never satisfied costs one more login; then
// its 401 reaches the browser as it is. One that thinks of something new each
// time comes to an end, too.
func TestR56UpstreamIsNeverSatisfied(t *testing.T) {
	t.Run("the same each time", func(t *testing.T) {
		w := newWorld(t)
		w.caddy(basic)
		b := w.browser()
		b.login(w, "/")
		w.insists(insufficient, func(*http.Request) bool { return false })
		for range 3 { // however often it is tried
			a := b.open(w.site + "/api/x")
			if a.StatusCode != http.StatusUnauthorized || a.body != "their 401" || a.Header.Get("WWW-Authenticate") != insufficient || len(w.asked()) != 2 {
				t.Errorf("got status %d and %q, %q, after %d authorization requests", a.StatusCode, a.body, a.Header["Www-Authenticate"], len(w.asked()))
			}
		}
		w.logged("not content with a login that was made for it", `"acr_values":["urn:mfa"]`)
		if a := b.visit(w.site + "/other"); a.body != "upstream /other" {
			t.Errorf("another page: got status %d", a.StatusCode)
		}
	})
	t.Run("another each time", func(t *testing.T) {
		w := newWorld(t)
		w.caddy(basic)
		b := w.browser()
		b.login(w, "/")
		var n atomic.Int32
		w.upstream.answers(func(rw http.ResponseWriter, _ *http.Request) {
			rw.Header().Set("WWW-Authenticate", fmt.Sprintf(`Bearer error="insufficient_user_authentication", acr_values="level-%d"`, n.Add(1)))
			rw.WriteHeader(http.StatusUnauthorized)
		})
		if a := b.open(w.site + "/api/x"); a.StatusCode != http.StatusUnauthorized || len(w.asked()) != 4 {
			t.Errorf("got status %d after %d authorization requests", a.StatusCode, len(w.asked()))
		}
	})
	t.Run("and the provider does not comply", func(t *testing.T) {
		w := newWorld(t)
		w.caddy(basic)
		w.provedBy(time.Hour, "")
		b := w.browser()
		b.login(w, "/")
		w.insists(insufficient, func(*http.Request) bool { return false })
		if a := b.open(w.site + "/api/x"); a.StatusCode != http.StatusForbidden || len(w.asked()) != 3 {
			t.Errorf("got status %d after %d authorization requests", a.StatusCode, len(w.asked()))
		}
		if a := b.visit(w.site + "/other"); a.body != "upstream /other" {
			t.Errorf("another page: got status %d", a.StatusCode)
		}
	})
}

// R56: what is not for us passes as it is: requests without a session, an
// option that says so, other errors, challenges that are odd.
func TestR56UpstreamChallengePasses(t *testing.T) {
	for name, tc := range map[string]struct{ options, challenge string }{
		"switched off":                {"step_up off", insufficient},
		"another error":               {"", `Bearer error="invalid_token"`},
		"nothing is asked for":        {"", `Bearer error="insufficient_user_authentication"`},
		"a value that is odd":         {"", `Bearer error="insufficient_user_authentication", acr_values="a\"b"`},
		"max_age that is odd":         {"", `Bearer error="insufficient_user_authentication", max_age="-1"`},
		"another scheme":              {"", `DPoP error="insufficient_user_authentication", max_age=1`},
		"it says where to log in":     {"", insufficient + `, login_url="https://elsewhere.test/"`},
		"no challenge at all":         {"", ""},
		"a path that needs no login":  {"bypass /api*", insufficient},
		"nobody, where nobody passes": {"unauthorized pass", insufficient},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.caddy("pkce_auth $OP public {\n" + tc.options + "\n}\nreverse_proxy $UPSTREAM")
			b := w.browser()
			if !strings.Contains(tc.options, "bypass") && !strings.Contains(tc.options, "pass") {
				b.login(w, "/")
			}
			before := len(w.asked())
			w.insists(tc.challenge, func(*http.Request) bool { return false })
			a := b.fetch(w.site + "/api/x")
			if a.body != "their 401" || a.Header.Get("WWW-Authenticate") != tc.challenge {
				t.Errorf("a fetch: got status %d, %q, %q", a.StatusCode, a.Header["Www-Authenticate"], a.body)
			}
			a = b.visit(w.site + "/api/x")
			if a.body != "their 401" || a.Header.Get("WWW-Authenticate") != tc.challenge {
				t.Errorf("a navigation: got status %d, %q, %q", a.StatusCode, a.Header["Www-Authenticate"], a.body)
			}
			if len(w.asked()) != before {
				t.Errorf("%d authorization requests", len(w.asked()))
			}
		})
	}
}

// R56: an answer that is not for the browser may be as long as it likes, or
// never end: the redirect is there at once, and the connection free again.
func TestR56DiscardedAnswers(t *testing.T) {
	for name, body := range map[string]func(http.ResponseWriter, *http.Request){
		"far too long": func(rw http.ResponseWriter, r *http.Request) {
			for r.Context().Err() == nil {
				if _, err := rw.Write(make([]byte, 64<<10)); err != nil {
					return
				}
			}
		},
		"without an end": func(rw http.ResponseWriter, r *http.Request) {
			_ = http.NewResponseController(rw).Flush()
			<-r.Context().Done()
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.caddy(basic)
			b := w.browser()
			b.login(w, "/")
			ended := make(chan struct{}, 1)
			w.upstream.answers(func(rw http.ResponseWriter, r *http.Request) {
				rw.Header().Set("WWW-Authenticate", insufficient)
				rw.WriteHeader(http.StatusUnauthorized)
				body(rw, r)
				ended <- struct{}{}
			})
			if a := b.visit(w.site + "/api/x"); a.StatusCode != http.StatusFound || a.body != "" {
				t.Errorf("got status %d and %q", a.StatusCode, a.body)
			}
			<-ended
		})
	}
}

// R56: an upgrade that the upstream refuses, whatever it says, is none of our
// business; nor is what comes before the answer that counts.
func TestR56UpgradesAndHintsPass(t *testing.T) {
	w := newWorld(t)
	w.caddy(basic)
	b := w.browser()
	b.login(w, "/")
	w.upstream.answers(func(rw http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Upgrade") == "" {
			rw.Header().Set("Link", "</style.css>; rel=preload")
			rw.WriteHeader(http.StatusEarlyHints)
		}
		rw.Header().Set("WWW-Authenticate", insufficient)
		rw.WriteHeader(http.StatusUnauthorized)
		_, _ = fmt.Fprint(rw, "their 401")
	})
	a := w.raw(b, "GET /api HTTP/1.1\nHost: $HOST\nAccept: text/html\nSec-Fetch-Mode: navigate\nSec-Fetch-Dest: document\nConnection: Upgrade\nUpgrade: websocket\n"+
		"Sec-WebSocket-Version: 13\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\n\n")
	if a.StatusCode != http.StatusUnauthorized || a.Header.Get("WWW-Authenticate") != insufficient || a.body != "their 401" {
		t.Errorf("got status %d, %q, %q", a.StatusCode, a.Header["Www-Authenticate"], a.body)
	}
	if a := b.visit(w.site + "/api"); a.StatusCode != http.StatusFound {
		t.Errorf("a navigation, behind hints: got status %d", a.StatusCode)
	}
	if len(w.asked()) != 1 {
		t.Errorf("%d authorization requests", len(w.asked()))
	}
}

// R56: over HTTP/2, where an answer that is cut off looks otherwise, and the
// connection goes on.
func TestR56StepUpOverHTTP2(t *testing.T) {
	w := newWorld(t)
	w.h2()
	w.caddyTLS(basic)
	b := w.browser()
	b.login(w, "/")
	var satisfied atomic.Bool
	w.upstream.answers(func(rw http.ResponseWriter, r *http.Request) {
		if satisfied.Load() {
			_, _ = fmt.Fprintf(rw, "upstream %s", r.RequestURI)
			return
		}
		rw.Header().Set("WWW-Authenticate", insufficient)
		rw.Header().Set("Trailer", "X-Late")
		rw.WriteHeader(http.StatusUnauthorized)
		_, _ = rw.Write(make([]byte, 3<<20))
		rw.Header().Set("X-Late", "1")
	})
	a := b.visit(w.site + "/api")
	if a.StatusCode != http.StatusFound || a.ProtoMajor != 2 || a.body != "" || len(a.Trailer) != 0 {
		t.Fatalf("got status %d over %s, %d bytes, %v", a.StatusCode, a.Proto, len(a.body), a.Trailer)
	}
	satisfied.Store(true)
	if a := b.follow(a); a.body != "upstream /api" || len(w.asked()) != 2 {
		t.Errorf("got status %d and %q", a.StatusCode, a.body)
	}
}
