package flows

import (
	"encoding/json"
	"net/http"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/pkce-auth/caddy-pkce-auth/test/provider"
)

// claimed is a provider whose alice has these claims.
func claimed(claims map[string]any) provider.Config {
	return provider.Config{Users: map[string]map[string]any{"alice": claims}}
}

// A115, A113, M92, M93, R32, IDPS 15, IDPS 38: every way to require something
// lets in who has it, and nobody else: a rule must never be off without a word.
func TestA113A115M92M93R32IDPS15IDPS38EachRequirementDenies(t *testing.T) {
	w := newWorldWith(t, claimed(map[string]any{
		"groups": []string{"staff", "writers"}, "csv": "a,admin", "department": "sales", "level": 3, "insider": true, "scope": "openid read:orders", "flag": "true", "none": nil, "empty": "",
		"email": "Alice@Example.com", "email_verified": true, "https://example.com/roles": []string{"reader"},
		"realm_access":                      map[string]any{"roles": []string{"editor"}},
		"urn:zitadel:iam:org:project:roles": map[string]any{"admin": map[string]any{"1234": "acme.example.com"}},
	}))
	b := w.browser()
	for _, tc := range []struct {
		rules string
		admit bool
	}{
		{"require groups staff admin", true},
		{"require groups admin", false},
		{"require groups staff\nrequire groups writers", true},
		{"require groups staff\nrequire groups admin", false},
		{"require csv admin", false},
		{"require department sales", true},
		{"require department Sales", false},
		{"require level 3", true},
		{"require level 4", false},
		{"require insider true", true},
		{"require insider yes 1", false},
		{"require flag true", true},
		{"require none null", false},
		{"require empty x", false},
		{"require absent x", false},
		{"require email alice@example.com", true},
		{"require email @example.com", true},
		{"require email @sub.example.com @ample.com", false},
		{"require https://example.com/roles reader", true},
		{"require https://example.com/roles writer", false},
		{"require realm_access.roles editor", true},
		{"require realm_access.roles admin", false},
		{"require urn:zitadel:iam:org:project:roles admin", true},
		{"require urn:zitadel:iam:org:project:roles owner", false},
		{"require `\"staff\" in {http.auth.user.groups}`", true},
		{"require `\"admin\" in {http.auth.user.groups}`", false},
		{"require `\"admin\" in {http.auth.user.csv}`", false}, // fails: a text is no list
		{"require `{http.auth.user.absent} == \"x\"`", false},
		{"require `{http.auth.user.insider} == true`", true},
		{"require `{http.auth.user.flag} == true`", false},
		{"require `{http.auth.user.level} >= 3`", true},
		{"require `{http.auth.user.level} > 3`", false},
		{"require `{http.auth.user.email}.endsWith(\"@Example.com\")`", true},
		{"require `ph(req, 'http.auth.user.https://example.com/roles')[0] == 'reader'`", true},
		{"require `ph(req, 'http.auth.user.https://example.com/roles')[7] == 'reader'`", false},
		{"require `{http.no.such.thing} == 1`", false},
		{"require `path('/in') && method('GET')`", true},
		{"require `path('/out')`", false},
		{"require `{http.request.uri.path} == '/in' && {http.request.orig_uri.path} == '/in' && {http.vars.kind} == 'good' && {greeting} == 'hello'`", true},
		{"require `{http.vars.kind} == 'bad'`", false},
		{"require `path_regexp('first', '^/(..)$') && {http.regexp.first.1} == 'in'`", true},
		{"require `header({'Authorization': '*'})`", false}, // what the client says of itself is gone by then
		// as docs/policy.md has them
		{"require `\"read:orders\" in {http.auth.user.scope}.split(\" \")`", true},
		{"require `\"read\" in {http.auth.user.scope}.split(\" \")`", false},
		{"require `method('GET') || \"editor\" in {http.auth.user.realm_access.roles}`", true},
		{"require `client_ip('10.0.0.0/8') || {http.auth.user.acr} == \"mfa\"`", false},
		{"require `client_ip('127.0.0.0/8') || {http.auth.user.acr} == \"mfa\"`", true},
		{"require `{http.request.method} in [\"GET\", \"POST\"] || \"admin\" in {http.auth.user.groups}`", true},
		{"require groups staff\nrequire `false`", false},
		{"require groups admin\nrequire `true`", false},
	} {
		w.caddy("vars kind good\nmap {path} {greeting} {\ndefault hello\n}\npkce_auth $OP public {\n" + tc.rules + "\n}\nreverse_proxy $UPSTREAM")
		b.jar = w.noCookies()
		a := b.open(w.site + "/in")
		before := w.upstream.count()
		posted := b.do("POST", w.site+"/in", with(fetched, "Authorization", "Bearer x"), "a=b")
		if strings.Contains(tc.rules, "method") {
			posted = b.fetch(w.site + "/in")
		}
		if tc.admit && (a.StatusCode != http.StatusOK || posted.StatusCode != http.StatusOK || w.upstream.count() == before) {
			t.Errorf("%s: got status %d and %d", tc.rules, a.StatusCode, posted.StatusCode)
		}
		if !tc.admit && (a.StatusCode != http.StatusForbidden || posted.StatusCode != http.StatusForbidden || w.upstream.count() != before || strings.HasPrefix(a.body, "upstream")) {
			t.Errorf("%s: got status %d and %d, %.80q", tc.rules, a.StatusCode, posted.StatusCode, a.body)
		}
	}
}

// R32, A113: an address that nobody has verified, or that is verified by a
// text, admits nobody.
func TestR32A113UnverifiedAddress(t *testing.T) {
	for _, verified := range []any{nil, false, "true", 1} {
		w := newWorldWith(t, claimed(map[string]any{"email": "alice@example.com", "email_verified": verified}))
		w.caddy("pkce_auth $OP public {\nrequire email @example.com alice@example.com\n}\nreverse_proxy $UPSTREAM")
		if a := w.browser().open(w.site + "/"); a.StatusCode != http.StatusForbidden || w.upstream.count() != 0 {
			t.Errorf("email_verified %v: got status %d", verified, a.StatusCode)
		}
		_ = stop()
	}
}

// Who is logged in and may not pass gets 403, not another login, which would
// end here again: a page for people, JSON for programs, and for both no word of
// what would help. The operator reads which claim it was, by the page's code.
func TestA96ForbiddenPages(t *testing.T) {
	w := newWorldWith(t, claimed(map[string]any{"groups": []string{"secret-group"}, "name": "Alice Ash", "email": "alice@example.com"}))
	w.caddy("pkce_auth $OP public {\nrequire groups wanted-group\n}\nreverse_proxy $UPSTREAM")
	b := w.browser()
	a := b.open(w.site + "/page")
	begun := len(w.op.Requests("authorize"))
	for range 3 {
		a = b.visit(w.site + "/page")
	}
	if a.StatusCode != http.StatusForbidden || len(b.loginStates(w.site)) != 0 || len(w.op.Requests("authorize")) != begun || w.upstream.count() != 0 {
		t.Errorf("got status %d, login states %q", a.StatusCode, b.loginStates(w.site))
	}
	for _, want := range []string{"You are logged in", `href="/oauth2/logout"`, "Use another account", `href="/"`} {
		if !strings.Contains(a.body, want) {
			t.Errorf("the page lacks %q: %s", want, a.body)
		}
	}
	for _, tell := range []string{"groups", "secret-group", "wanted-group", "Alice", "alice"} {
		if strings.Contains(a.body, tell) {
			t.Errorf("the page tells of %q", tell)
		}
	}
	ours(t, a)
	id := regexp.MustCompile(`<code>(\w+)</code>`).FindStringSubmatch(a.body)
	if id == nil {
		t.Fatalf("the page has no code: %s", a.body)
	}
	line := w.logged(`"request failed"`, `"level":"info"`, `"reason":"forbidden"`, id[1], "require groups", `"path":"/page"`, `"hint"`)
	if strings.Contains(line, "wanted-group") || strings.Contains(line, "secret-group") {
		t.Errorf("the log tells of values: %s", line)
	}
	a = b.fetch(w.site + "/api")
	var body map[string]string
	if err := json.Unmarshal([]byte(a.body), &body); err != nil || a.StatusCode != http.StatusForbidden || body["error"] != "forbidden" || body["id"] == "" || len(body) != 2 {
		t.Errorf("a fetch: got status %d and %s", a.StatusCode, a.body)
	}
	if a.Header.Get("Content-Type") != "application/json; charset=utf-8" || a.Header.Get("X-Content-Type-Options") != "nosniff" || a.Header.Get("WWW-Authenticate") != "" {
		t.Errorf("a fetch: got %v", a.Header)
	}
}

// handle_errors shows a 403 of ours where the site has it, with neutral
// placeholders, and whatever stands behind it gets neither token nor cookie.
func TestForbiddenWithHandleErrors(t *testing.T) {
	w := newWorld(t)
	w.caddy(`
		pkce_auth $OP public {
			require groups nobody
			header_up X-Auth-Sub {http.auth.user.id}
		}
		reverse_proxy $UPSTREAM
		handle_errors 403 {
			header X-Said "{http.auth.pkce_auth.result} {http.auth.pkce_auth.error} [{http.auth.user.id}]"
			rewrite * /error/403
			reverse_proxy $UPSTREAM
		}
		handle_errors 401 {
			rewrite * /error/401
			reverse_proxy $UPSTREAM
		}
	`)
	b := w.browser()
	a := b.open(w.site + "/page")
	if a.body != "upstream /error/403" || a.Header.Get("X-Said") != "denied forbidden []" {
		t.Errorf("got %q and %v", a.body, a.Header)
	}
	if got := identity(w.upstream.last(t)); len(got) != 0 {
		t.Errorf("the error route's upstream got %v", got)
	}
	// A login state is no business of an error page's server either.
	other := w.browser()
	other.visit(w.site + "/page")
	if a := other.do("GET", w.site+"/x", with(fetched, "X-Auth-Sub", "root", "Authorization", "Bearer own"), ""); a.body != "upstream /error/401" || len(identity(w.upstream.last(t))) != 0 {
		t.Errorf("got %q and %v", a.body, w.upstream.last(t).Header)
	}
}

// On a path that needs no session, one that is not admitted counts as none; but
// `unauthorized pass` lets through who has none, not who must not pass.
func TestA115RequireWithBypassAndPass(t *testing.T) {
	w := newWorld(t)
	w.caddy(`
		pkce_auth $OP public {
			require groups nobody
			bypass /public/*
			header_up X-Auth-Sub {http.auth.user.id}
			header_up X-Auth-Result {http.auth.pkce_auth.result}
		}
		reverse_proxy $UPSTREAM
	`)
	b := w.browser()
	if a := b.open(w.site + "/"); a.StatusCode != http.StatusForbidden {
		t.Errorf("got status %d", a.StatusCode)
	}
	if a := b.fetch(w.site + "/public/x"); a.StatusCode != http.StatusOK || len(identity(w.upstream.last(t))) != 0 {
		t.Errorf("got status %d and %v", a.StatusCode, identity(w.upstream.last(t)))
	}
	w.caddy("pkce_auth $OP public {\nrequire groups nobody\nunauthorized pass\n}\nreverse_proxy $UPSTREAM")
	b = w.browser()
	if a := b.fetch(w.site + "/shop"); a.StatusCode != http.StatusOK {
		t.Errorf("without a session: got status %d", a.StatusCode)
	}
	if a := b.open(w.site + "/oauth2/login?return_to=/shop"); a.StatusCode != http.StatusForbidden {
		t.Errorf("with one: got status %d", a.StatusCode)
	}
}

// Several handlers of one provider on a path: the second finds the session of
// the first, and adds its policy. Its bypass opens nothing that the first has
// closed; where its own rule is not met, the bypass lets pass without what the
// first has said of the user.
func TestA115HandlersOfOneProviderCompose(t *testing.T) {
	w := newWorld(t)
	w.caddy(`
		pkce_auth {
			issuer $OP
			client_id public
		}
		---
		pkce_auth {
			header_up X-Auth-First {http.auth.user.id}
		}
		route /admin/* {
			pkce_auth {
				require groups admin
				header_up X-Auth-Second {http.auth.user.id}
			}
		}
		route /owner/* {
			pkce_auth {
				require groups owner
			}
		}
		route /open/* {
			pkce_auth {
				require groups owner
				bypass /open/*
				unauthorized pass
			}
		}
		reverse_proxy $UPSTREAM
	`)
	b := w.browser()
	for _, path := range []string{"/", "/admin/x", "/owner/x", "/open/x"} {
		if a := b.fetch(w.site + path); a.StatusCode != http.StatusUnauthorized {
			t.Errorf("%s without a session: got status %d", path, a.StatusCode)
		}
	}
	if w.upstream.count() != 0 {
		t.Fatal("the upstream was reached")
	}
	b.login(w, "/")
	if len(w.op.Requests("token")) != 1 {
		t.Errorf("%d logins", len(w.op.Requests("token")))
	}
	for path, want := range map[string][]string{"/": {"X-Auth-First"}, "/admin/x": {"X-Auth-First", "X-Auth-Second"}, "/open/x": nil} {
		a := b.fetch(w.site + path)
		got := identity(w.upstream.last(t))
		if a.body != "upstream "+path || len(got) != len(want)+min(1, len(want)) {
			t.Errorf("%s: got status %d, %q, and the upstream %v", path, a.StatusCode, a.body, got)
		}
		for _, name := range want {
			if got[name] == nil {
				t.Errorf("%s: the upstream lacks %s", path, name)
			}
		}
	}
	before := w.upstream.count()
	if a := b.visit(w.site + "/owner/x"); a.StatusCode != http.StatusForbidden || w.upstream.count() != before {
		t.Errorf("/owner/x: got status %d", a.StatusCode)
	}
}

// Two providers on one path, each with a rule of its own: both must admit.
func TestA115TwoProvidersOnOnePathBothAdmit(t *testing.T) {
	other := bobsProvider(t)
	w := newWorld(t)
	site := func(one, two string) {
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
					require sub ` + one + `
				}
				pkce_auth two {
					require sub ` + two + `
				}
				reverse_proxy $UPSTREAM
			}
		`)
	}
	for _, tc := range []struct {
		one, two string
		want     int
	}{{"alice", "bob", 200}, {"alice", "alice", 403}, {"bob", "bob", 403}} {
		site(tc.one, tc.two)
		before := w.upstream.count()
		if a := w.browser().open(w.site + "/x"); a.StatusCode != tc.want || (w.upstream.count() > before) != (tc.want == 200) {
			t.Errorf("one wants %s, two %s: got status %d, want %d", tc.one, tc.two, a.StatusCode, tc.want)
		}
	}
}

// G17: a refresh that takes the group away ends what is under way, be it
// required by name or by an expression, and the next request gets 403, with
// the same session.
func TestG17RefreshTakesAGroupAway(t *testing.T) {
	for name, rule := range map[string]string{
		"by name":                        "require groups admin",
		"by an expression":               "require `\"admin\" in {http.auth.user.groups}`",
		"by an expression about request": "require `path('/events*') && header({'Sec-Fetch-Site': 'same-origin'}) && {http.vars.kind} == 'good' && \"admin\" in {http.auth.user.groups}`",
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorldWith(t, provider.Config{TokenLifetime: 2 * time.Second})
			w.streams()
			w.caddy("vars kind good\npkce_auth $OP public {\nsession memory\n" + rule + "\n}\nreverse_proxy $UPSTREAM\n")
			b := w.browser()
			b.open(w.site + "/")
			s := b.begin(t.Context(), "GET", w.site+"/events", nil)
			s.goesOn()
			w.eventually("a refresh that changes nothing", func() bool {
				s.goesOn()
				return len(w.refreshes()) >= 1
			})
			s.goesOn()
			w.op.Misbehave(provider.Faults{RefreshedIDToken: func(claims map[string]any) { claims["groups"] = []string{"staff"} }})
			s.cut()
			w.logged("requests under way were cut")
			a := b.fetch(w.site + "/events")
			if a.StatusCode != http.StatusForbidden {
				t.Errorf("the next request got status %d", a.StatusCode)
			}
		})
	}
}

// A session that was refreshed for a request that it may not make is not lost
// with it: the tokens before are spent, so the refusal brings the new ones.
func TestRefusalsBringRefreshedTokens(t *testing.T) {
	for name, tc := range map[string]struct {
		path   string
		header http.Header
		status int
	}{
		"not admitted":                {"/x", fetched, http.StatusForbidden},
		"not admitted, on a bypass":   {"/public/x", fetched, http.StatusOK},
		"a foreign page":              {"/x", with(fetched, "Sec-Fetch-Site", "same-site"), http.StatusForbidden},
		"a foreign page, on a bypass": {"/public/x", with(fetched, "Sec-Fetch-Site", "same-site"), http.StatusOK},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.notIn("memory", "storage") // where the refresh itself keeps them
			w.caddy("pkce_auth $OP public {\nbypass /public/*\nrequire groups admin\n}\nreverse_proxy $UPSTREAM")
			b := w.browser()
			faults := provider.Faults{TokenResponse: shortLived}
			if !strings.HasPrefix(name, "a foreign") {
				faults.RefreshedIDToken = func(claims map[string]any) { claims["groups"] = []string{"staff"} }
			}
			w.op.Misbehave(faults)
			b.login(w, "/")
			outliveShortLived()
			var a answer
			w.eventually("the new tokens are there", func() bool { // who needs none does not wait for them
				a = b.do("DELETE", w.site+tc.path, tc.header, "")
				return len(a.Header["Set-Cookie"]) > 0
			})
			if a.StatusCode != tc.status || a.Header.Get("Cache-Control") != "private, no-store" {
				t.Errorf("got status %d and %v", a.StatusCode, a.Header)
			}
			if r := w.upstream.last(t); r.URL.Path == tc.path && len(identity(r)) != 0 {
				t.Errorf("the upstream got %v", identity(r))
			}
			b.fetch(w.site + "/x")
			if n := len(w.refreshes()); n != 1 {
				t.Errorf("%d refreshes", n)
			}
		})
	}
}
