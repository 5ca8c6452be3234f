package flows

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"
)

// with gives headers with some more.
func with(h http.Header, pairs ...string) http.Header {
	h = h.Clone()
	for i := 0; i < len(pairs); i += 2 {
		if pairs[i+1] == "" {
			h.Del(pairs[i])
		} else {
			h.Set(pairs[i], pairs[i+1])
		}
	}
	return h
}

// IDPS 35, A60, A97: only a top-level navigation begins a login. Everything
// else gets 401 with a challenge and, as JSON, a form as a page, where to log in; no cookie, no
// login state, however often.
func TestIDPS35A60A97OnlyNavigationsBeginALogin(t *testing.T) {
	w := newWorld(t)
	w.caddy(basic)
	old := http.Header{"Accept": {"text/html,*/*;q=0.8"}, "User-Agent": {"an old browser"}}
	for _, tc := range []struct {
		name, method string
		header       http.Header
		login        bool
	}{
		{"a navigation", "GET", navigation, true},
		{"a navigation, cross-site", "GET", with(navigation, "Sec-Fetch-Site", "cross-site"), true},
		{"a navigation of an old browser", "GET", old, true},
		{"a navigation without Sec-Fetch-Dest", "GET", with(navigation, "Sec-Fetch-Dest", ""), true},
		{"fetch", "GET", fetched, false},
		{"fetch that asks for HTML", "GET", with(fetched, "Accept", "text/html"), false},
		{"XHR of an old browser", "GET", with(old, "X-Requested-With", "XMLHttpRequest"), false},
		{"EventSource", "GET", with(fetched, "Accept", "text/event-stream"), false},
		{"an image", "GET", with(fetched, "Sec-Fetch-Mode", "no-cors", "Sec-Fetch-Dest", "image", "Accept", "image/*"), false},
		{"a frame", "GET", with(navigation, "Sec-Fetch-Dest", "iframe"), false},
		{"an embedded object", "GET", with(navigation, "Sec-Fetch-Dest", "embed"), false},
		{"a prefetch", "GET", with(navigation, "Sec-Purpose", "prefetch"), false},
		{"a prerender", "GET", with(navigation, "Sec-Purpose", "prefetch;prerender"), false},
		{"an old prefetch", "GET", with(old, "Purpose", "prefetch"), false},
		{"Next.js", "GET", with(navigation, "Next-Router-Prefetch", "1"), false},
		{"a form", "POST", navigation, false},
		{"HEAD", "HEAD", navigation, false},
		{"a WebSocket", "GET", with(navigation, "Connection", "Upgrade", "Upgrade", "websocket"), false},
		{"a program", "GET", http.Header{"Accept": {"*/*"}}, false},
		{"a program without Accept", "GET", http.Header{}, false},
		{"a program that wants JSON", "GET", http.Header{"Accept": {"application/json"}}, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			b := w.browser()
			a := b.do(tc.method, w.site+"/page", tc.header, "")
			if tc.login {
				if a.StatusCode != http.StatusFound || len(b.loginStates(w.site)) != 1 {
					t.Errorf("got status %d, login states %q", a.StatusCode, b.loginStates(w.site))
				}
				return
			}
			if a.StatusCode != http.StatusUnauthorized || a.Header["Set-Cookie"] != nil || a.Header.Get("Location") != "" {
				t.Errorf("got status %d and %v", a.StatusCode, a.Header)
			}
			if got, want := a.Header.Get("WWW-Authenticate"), `login_url="`+w.site+`/oauth2/login"`; !strings.HasPrefix(got, "Bearer ") || !strings.Contains(got, want) {
				t.Errorf("WWW-Authenticate: got %q", got)
			}
			if tc.method == "HEAD" {
				return
			}
			if tc.name == "a form" { // somebody reads the answer
				if !strings.Contains(a.body, "You need to log in to see this. What you sent was not delivered.") || !strings.Contains(a.body, `href="/oauth2/login?return_to=%2Fpage"`) {
					t.Errorf("body: got %s", a.body)
				}
				return
			}
			var body map[string]string
			if err := json.Unmarshal([]byte(a.body), &body); err != nil || body["login_url"] != w.site+"/oauth2/login" || a.Header.Get("Content-Type") != "application/json; charset=utf-8" {
				t.Errorf("body: got %s", a.body)
			}
		})
	}
	b := w.browser()
	if a := b.do("GET", w.site+"/favicon.ico", old, ""); a.StatusCode != http.StatusUnauthorized {
		t.Errorf("favicon: got status %d", a.StatusCode)
	}
	for range 40 {
		b.fetch(w.site + "/api")
	}
	if len(b.cookies(w.site)) != 0 || w.upstream.count() != 0 {
		t.Errorf("forty fetches: cookies %v", b.cookies(w.site))
	}
}

// unauthorized: redirect, 401, pass.
func TestR17Unauthorized(t *testing.T) {
	for _, tc := range []struct {
		option                             string
		navigate, fetch, post, prefetching int
	}{
		{"auto", 302, 401, 401, 401},
		{"redirect", 302, 302, 303, 401},
		{"401", 401, 401, 401, 401},
		{"pass", 200, 200, 200, 200},
	} {
		t.Run(tc.option, func(t *testing.T) {
			w := newWorld(t)
			w.caddy("pkce_auth $OP public {\nunauthorized " + tc.option + "\n}\nreverse_proxy $UPSTREAM")
			for what, got := range map[string][2]int{
				"a navigation": {w.browser().visit(w.site + "/").StatusCode, tc.navigate},
				"a fetch":      {w.browser().fetch(w.site + "/").StatusCode, tc.fetch},
				"a form":       {w.browser().do("POST", w.site+"/", navigation, "a=b").StatusCode, tc.post},
				"a prefetch":   {w.browser().do("GET", w.site+"/", with(navigation, "Sec-Purpose", "prefetch"), "").StatusCode, tc.prefetching},
			} {
				if got[0] != got[1] {
					t.Errorf("%s: got status %d, want %d", what, got[0], got[1])
				}
			}
			if tc.option != "pass" && w.upstream.count() != 0 {
				t.Error("the upstream was reached")
			}
		})
	}
}

// A person who is refused reads a page that leads to the login.
func TestRefusedNavigationShowsAPage(t *testing.T) {
	w := newWorld(t)
	w.caddy("pkce_auth $OP public {\nunauthorized 401\n}\nreverse_proxy $UPSTREAM")
	b := w.browser()
	a := b.visit(w.site + "/page?x=1")
	if a.StatusCode != http.StatusUnauthorized || a.Header["Set-Cookie"] != nil || a.Header.Get("WWW-Authenticate") == "" ||
		!strings.Contains(a.body, `href="/oauth2/login?return_to=%2fpage%3fx%3d1"`) && !strings.Contains(a.body, `href="/oauth2/login?return_to=%2Fpage%3Fx%3D1"`) {
		t.Errorf("got status %d, %v and %s", a.StatusCode, a.Header, a.body)
	}
	if a = b.open(w.site + "/oauth2/login?return_to=%2Fpage%3Fx%3D1"); a.body != "upstream /page?x=1" {
		t.Errorf("got %q", a.body)
	}
}

// With `pass`, who is not logged in passes without a token and without any
// identity header, and who is, with them. Login is by the login endpoint.
func TestUnauthorizedPassWithLogin(t *testing.T) {
	w := newWorld(t)
	w.caddy("pkce_auth $OP public {\nunauthorized pass\nheader_up X-Auth-Result {http.auth.pkce_auth.result}\nheader_up X-Auth-Constant yes\n}\nreverse_proxy $UPSTREAM")
	b := w.browser()
	b.open(w.site + "/shop")
	if got := identity(w.upstream.last(t)); len(got) != 0 {
		t.Errorf("anonymous: the upstream got %v", got)
	}
	if a := b.open(w.site + "/oauth2/login?return_to=/shop"); a.body != "upstream /shop" {
		t.Errorf("got %q", a.body)
	}
	if got := identity(w.upstream.last(t)); len(got) != 3 || got["X-Auth-Result"][0] != "session" || got["X-Auth-Constant"][0] != "yes" {
		t.Errorf("logged in: the upstream got %v", got)
	}
}

// K9: every form of bypass; A23, A24, A25, A26: what must not pass by it.
func TestK9A23A24A25A26Bypass(t *testing.T) {
	w := newWorld(t)
	w.caddy(`
		@public path /named/*
		pkce_auth $OP public {
			bypass /public/* /healthz
			bypass @public
			bypass path /inline
			bypass {
				method HEAD
				path /block
			}
			bypass ` + "`path('/cel') && method('GET')`" + `
			bypass path_regexp /status$
			bypass expression {http.no.such.thing}.startsWith("x")
		}
		reverse_proxy $UPSTREAM
	`)
	b := w.browser()
	status := func(method, target string) int {
		return w.raw(b, method+" "+target+" HTTP/1.1\nHost: $HOST\nConnection: close\n\n").StatusCode
	}
	for _, target := range []string{"/public/x", "/healthz", "/healthz?x=1", "/named/x", "/inline", "/cel", "/a/status", "/public/a%20b", "/public/..x/...", "/public/x;y=1"} {
		if got := status("GET", target); got != 200 {
			t.Errorf("%s: got status %d, want it to pass", target, got)
		}
	}
	if got := status("HEAD", "/block"); got != 200 {
		t.Errorf("HEAD /block: got status %d", got)
	}
	count := w.upstream.count()
	for _, target := range []string{
		"/public", "/healthz/", "/Public/x", "/PUBLIC/x", "/block", "/celery",
		"/api/secret?x=/status", "/api/secret?/public/x", // A24
		"/secret#/public/x", "/secret#/a/status", // A25
		"/public/../secret", "/public/./x", "/public//x", "//public/x", `/public/\..\secret`, "/public/..;/secret", "/public/.;x/y",
		"/public/%2e%2e/secret", "/public/%2E%2E/secret", "/public/..%2fsecret", "/public/x%2f..%2f..%2fsecret", "/public/%5c..%5csecret", "/public/x%00",
		"/public/%252e%252e/secret", "/public/%252fx", "/public/%255cx", "/public/x%2500", "/named/%2e%2e/x", "/named//x",
	} {
		if got := status("GET", target); got != 401 && got != 400 {
			t.Errorf("%s: got status %d, want it refused", target, got)
		}
	}
	for _, method := range []string{"POST", "OPTIONS", "TRACE"} { // A27
		if got := status(method, "/cel"); got != 401 {
			t.Errorf("%s /cel: got status %d", method, got)
		}
	}
	if w.upstream.count() != count {
		t.Errorf("%d requests reached the upstream", w.upstream.count()-count)
	}
}

// A session that exists is used on bypassed paths; one that cannot be used
// counts as none.
func TestBypassUsesASession(t *testing.T) {
	w := newWorld(t)
	w.caddy(guarded)
	b := w.browser()
	b.fetch(w.site + "/public/x")
	if got := identity(w.upstream.last(t)); len(got) != 0 {
		t.Errorf("without a session: %v", got)
	}
	b.login(w, "/")
	b.fetch(w.site + "/public/x")
	if got := identity(w.upstream.last(t)); len(got) != 3 {
		t.Errorf("with a session: %v", got)
	}
}

// K10: placeholders are neutral, not unknown, where there is no user, so that
// expressions over them can be evaluated.
func TestK10NeutralPlaceholders(t *testing.T) {
	w := newWorld(t)
	w.caddy(`
		pkce_auth $OP public {
			bypass /public
			unauthorized pass
		}
		route {
			@admin expression ` + "`\"admin\" in {http.auth.user.groups} || \"x\" in {http.auth.user.realm_access.roles} || {http.auth.user.email}.endsWith(\"@corp.test\") || {http.auth.user.email_verified} && false`" + `
			header @admin X-Admin yes
			respond "id={http.auth.user.id} groups={http.auth.user.groups} result={http.auth.pkce_auth.result} error={http.auth.pkce_auth.error} login={http.auth.pkce_auth.login_url} logout={http.auth.pkce_auth.logout_url} vars={http.vars.pkce_auth}"
		}
	`)
	b := w.browser()
	tail := " error= login=" + w.site + "/oauth2/login logout=" + w.site + "/oauth2/logout vars="
	for path, result := range map[string]string{"/public": "bypass", "/other": "anonymous"} {
		if a := b.visit(w.site + path); a.StatusCode != 200 || a.body != "id= groups= result="+result+tail+result || a.Header.Get("X-Admin") != "" {
			t.Errorf("%s: got status %d and %q", path, a.StatusCode, a.body)
		}
	}
	a := b.open(w.site + "/oauth2/login?return_to=/other")
	if a.body != "id=alice groups=staff,admin result=session"+tail+"session" || a.Header.Get("X-Admin") != "yes" {
		t.Errorf("logged in: got %q", a.body)
	}
	w.logged("handled request", `"user_id":"alice"`, `"uri":"/other"`)
}

// A matcher of the directive does not hide the endpoints; and what it does
// not cover is left alone.
func TestMatcherDoesNotHideEndpoints(t *testing.T) {
	w := newWorld(t)
	w.caddy("pkce_auth /admin/* $OP public\nreverse_proxy $UPSTREAM")
	b := w.browser()
	header := with(fetched, "Authorization", "Bearer own")
	if b.do("GET", w.site+"/free", header, ""); w.upstream.last(t).Header.Get("Authorization") != "Bearer own" {
		t.Error("a request beyond the matcher was touched")
	}
	b.login(w, "/admin/x")
	if got := identity(w.upstream.last(t)); len(got) != 1 {
		t.Errorf("the upstream got %v", got)
	}
	if a := b.visit(w.site + "/oauth2/signed-out"); !strings.Contains(a.body, "signed out") {
		t.Errorf("an endpoint: got %q", a.body)
	}
}

// K5: endpoints and return URLs are those of the original request, whatever
// try_files, rewrite and handle_path make of it.
func TestK5OriginalURL(t *testing.T) {
	w := newWorld(t)
	w.exempt = "http.handlers.rewrite" // which logs the URLs that it rewrites, at debug level, before we see them
	w.caddy(`
		rewrite /app/* /index.html
		rewrite /oauth2/* /index.html
		pkce_auth $OP public
		reverse_proxy $UPSTREAM
	`)
	b := w.browser()
	a := b.visit(b.callback(w, "/app/route?x=1"))
	if a.Header.Get("Location") != w.site+"/app/route?x=1" {
		t.Errorf("got status %d to %q", a.StatusCode, a.Header.Get("Location"))
	}
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	w.caddy(`
		handle_path /prefix/* {
			pkce_auth $OP public {
				prefix /prefix/auth
			}
			reverse_proxy $UPSTREAM
		}
	`)
	b = w.browser()
	a = b.visit(b.callback(w, "/prefix/page?x=1"))
	if a.Header.Get("Location") != w.site+"/prefix/page?x=1" {
		t.Errorf("handle_path: got status %d to %q", a.StatusCode, a.Header.Get("Location"))
	}
	if a = b.follow(a); a.body != "upstream /page?x=1" {
		t.Errorf("handle_path: got %q", a.body)
	}
}

// Two handlers of one provider on one path: the second only adds its policy.
func TestTwoHandlersOfOneProvider(t *testing.T) {
	w := newWorld(t)
	w.caddy(`
		pkce_auth {
			issuer $OP
			client_id public
		}
		---
		pkce_auth /admin/* {
			header_up X-Auth-Admin {http.auth.user.id}
		}
		pkce_auth {
			header_up X-Auth-Sub {http.auth.user.id}
		}
		reverse_proxy $UPSTREAM
	`)
	b := w.browser()
	b.login(w, "/admin/x")
	if got := identity(w.upstream.last(t)); len(got) != 3 || len(got["Authorization"]) != 1 {
		t.Errorf("the upstream got %v", got)
	}
	b.do("GET", w.site+"/y", with(fetched, "X-Auth-Admin", "root"), "")
	if got := identity(w.upstream.last(t)); len(got) != 2 {
		t.Errorf("a header of another route of the provider was accepted: %v", got)
	}
}

// Two providers on one site: sessions, endpoints and login states of each are
// its own; on a path that both guard, both must be passed.
func TestA52TwoProvidersOnOneSite(t *testing.T) {
	w := newWorld(t)
	w.caddy(`
		pkce_auth staff {
			issuer $OP
			client_id confidential
			client_secret s3cr:t%+é
			scopes openid
			audience https://staff.test
		}
		pkce_auth customers {
			issuer $OP
			client_id public
		}
		---
		pkce_auth /staff/* staff {
			header_up X-Auth-Staff {http.auth.user.id}
		}
		@not-staff not path /staff/*
		pkce_auth @not-staff customers
		reverse_proxy $UPSTREAM
	`)
	b := w.browser()
	customer := b.callback(w, "/shop")
	staff := b.callback(w, "/staff/x")
	if !strings.HasPrefix(customer, w.site+"/oauth2/customers/callback?") || !strings.HasPrefix(staff, w.site+"/oauth2/staff/callback?") {
		t.Fatalf("got %s and %s", customer, staff)
	}
	// The callback of one at the endpoint of the other makes no session there.
	crossed := strings.Replace(customer, "/oauth2/customers/", "/oauth2/staff/", 1)
	(&browser{t: t, jar: copyJar(t, b.jar, w.site)}).visit(crossed)
	if got := len(w.op.Requests("token")); got != 0 {
		t.Errorf("a crossed callback: got %d token requests", got)
	}
	if a := b.open(customer); a.body != "upstream /shop" {
		t.Errorf("shop: got %q", a.body)
	}
	customerToken := w.upstream.last(t).Header.Get("Authorization")
	if a := b.fetch(w.site + "/staff/x"); a.StatusCode != http.StatusUnauthorized {
		t.Errorf("a customer at the staff's: got status %d", a.StatusCode)
	}
	if a := b.open(staff); a.body != "upstream /staff/x" || w.upstream.last(t).Header.Get("Authorization") == customerToken {
		t.Errorf("staff: got %q", a.body)
	}
	if a := b.fetch(w.site + "/shop"); a.StatusCode != 200 || w.upstream.last(t).Header.Get("Authorization") != customerToken {
		t.Errorf("shop, after the staff's login: got status %d", a.StatusCode)
	}
}

// A path that two providers guard wants both; the second is the one whose
// token goes upstream.
func TestAPathOfTwoProviders(t *testing.T) {
	w := newWorld(t)
	w.caddy(`
		pkce_auth one {
			issuer $OP
			client_id public
			scopes openid
		}
		pkce_auth two {
			issuer $OP
			client_id confidential
			client_secret s3cr:t%+é
			audience https://two.test
		}
		---
		route {
			pkce_auth one
			pkce_auth two
			reverse_proxy $UPSTREAM
		}
	`)
	b := w.browser()
	a := b.open(w.site + "/x")
	if a.body != "upstream /x" || len(w.op.Requests("token")) != 2 {
		t.Errorf("got %q after %d logins", a.body, len(w.op.Requests("token")))
	}
	if got := w.upstream.last(t).Header["Authorization"]; len(got) != 1 || strings.Count(got[0], ".") != 2 {
		t.Errorf("the upstream got %q, want the second's JWT", got)
	}
}

// Two providers that share a callback path: the state says whose it is.
func TestSharedCallback(t *testing.T) {
	w := newWorld(t)
	w.caddy(`
		pkce_auth one {
			issuer $OP
			client_id public
			callback_path /cb
		}
		pkce_auth two {
			issuer $OP
			client_id confidential
			client_secret s3cr:t%+é
			callback_path /cb
		}
		---
		pkce_auth /one/* one
		pkce_auth /two/* two
		reverse_proxy $UPSTREAM
	`)
	b := w.browser()
	one, two := b.callback(w, "/one/x"), b.callback(w, "/two/x")
	if a := b.open(two); a.body != "upstream /two/x" {
		t.Errorf("two: got %q", a.body)
	}
	if a := b.open(one); a.body != "upstream /one/x" {
		t.Errorf("one: got %q", a.body)
	}
}

// A23: a request target without a path, "x:http://host/admin", which no path
// matcher sees and an upstream may understand, passes neither by a bypass nor
// by the directive's own matcher.
func TestA23OpaqueTargets(t *testing.T) {
	for name, directives := range map[string]string{
		"a bypass of all but": "pkce_auth $OP public {\nbypass {\nnot path /admin/*\n}\n}\nreverse_proxy $UPSTREAM",
		"a matcher":           "pkce_auth /admin/* $OP public\nreverse_proxy $UPSTREAM",
		"unauthorized pass":   "pkce_auth $OP public {\nunauthorized pass\n}\nreverse_proxy $UPSTREAM",
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.caddy(directives)
			b := w.browser()
			for _, target := range []string{"x:http://app/admin/secret", "x:admin/secret", "x:*"} {
				a := w.raw(b, "GET "+target+" HTTP/1.1\nHost: $HOST\nConnection: close\n\n")
				if a.StatusCode < 400 || a.StatusCode >= 500 {
					t.Errorf("%s: got status %d", target, a.StatusCode)
				}
			}
			if w.upstream.count() != 0 {
				t.Errorf("the upstream got %s", w.upstream.last(t).RequestURI)
			}
		})
	}
}

// K5: a rewrite that puts something into the query does not hide the
// callback's.
func TestK5RewrittenQuery(t *testing.T) {
	w := newWorld(t)
	w.exempt = "http.handlers.rewrite"
	w.caddy(`
		rewrite * /index.php?route={path}
		pkce_auth $OP public
		reverse_proxy $UPSTREAM
	`)
	b := w.browser()
	if a := b.open(w.site + "/page?x=1"); a.StatusCode != 200 || a.Request.URL.RequestURI() != "/page?x=1" {
		t.Errorf("got status %d at %s", a.StatusCode, a.Request.URL.RequestURI())
	}
}

// Handlers of two providers in turn: what placeholders say is always the
// business of the one that ran last, also when it runs again.
func TestPlaceholdersAreOfTheHandlerThatRan(t *testing.T) {
	other := bobsProvider(t)
	w := newWorld(t)
	w.caddy(`
		pkce_auth one {
			issuer $OP
			client_id public
		}
		pkce_auth two {
			issuer ` + other.URL + `
			client_id public
		}
		---
		route {
			pkce_auth one {
				header_up X-Auth-First {http.auth.user.id}
			}
			pkce_auth two {
				header_up X-Auth-Second {http.auth.user.id}
			}
			pkce_auth one {
				header_up X-Auth-Third {http.auth.user.id}-{http.auth.pkce_auth.provider}
			}
			reverse_proxy $UPSTREAM
		}
	`)
	w.browser().login(w, "/x")
	got := w.upstream.last(t).Header
	if got.Get("X-Auth-First") != "alice" || got.Get("X-Auth-Second") != "bob" || got.Get("X-Auth-Third") != "alice-one" {
		t.Errorf("the upstream got %v", identity(w.upstream.last(t)))
	}
}
