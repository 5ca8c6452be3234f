package flows

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"net/http"
	"net/url"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/pkce-auth/caddy-pkce-auth/test/provider"
)

// authorizeParams are all parameters that an authorization request carries
// when nobody configured more.
var authorizeParams = []string{
	"client_id", "code_challenge", "code_challenge_method", "nonce", "redirect_uri", "response_type", "scope", "state",
}

func names(q url.Values) []string {
	var names []string
	for name, values := range q {
		for range values {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// The seed's first flow, as the provider sees it: adding login. No audience,
// an ID token, an opaque access token, of which the log says something once.
func TestR01IDPS01IDPS02IDPS03IDPS05IDPS10AddingLogin(t *testing.T) {
	w := newWorld(t)
	w.caddy(basic)
	for range 2 {
		w.browser().login(w, "/reports?year=2026&q=a%20b")
	}
	requests := w.op.Requests("authorize")
	if len(requests) != 2 {
		t.Fatalf("got %d authorization requests, want 2", len(requests))
	}
	for _, r := range requests {
		if got := names(r.Form); !slices.Equal(got, authorizeParams) {
			t.Errorf("parameters: got %q, want %q", got, authorizeParams)
		}
		for name, want := range map[string]string{
			"response_type": "code", "client_id": "public", "code_challenge_method": "S256", "scope": "openid profile email offline_access",
			"redirect_uri": w.site + "/oauth2/callback",
		} {
			if got := r.Form.Get(name); got != want {
				t.Errorf("%s: got %q, want %q", name, got, want)
			}
		}
		if got := r.Form.Get("nonce"); !regexp.MustCompile(`^[A-Za-z0-9_-]{43}$`).MatchString(got) {
			t.Errorf("nonce: got %q", got)
		}
		if got := r.Form.Get("state"); !regexp.MustCompile(`^[A-Za-z0-9._~-]{64,500}$`).MatchString(got) {
			t.Errorf("state: got %q", got)
		}
	}
	for _, name := range []string{"state", "nonce", "code_challenge"} {
		if requests[0].Form.Get(name) == requests[1].Form.Get(name) {
			t.Errorf("two logins share their %s", name)
		}
	}
	for i, r := range w.op.Requests("token") {
		sum := sha256.Sum256([]byte(r.Form.Get("code_verifier")))
		if got := base64.RawURLEncoding.EncodeToString(sum[:]); got != requests[i].Form.Get("code_challenge") {
			t.Errorf("login %d: the verifier does not fit the challenge", i)
		}
	}
	if got := w.upstream.last(t).Header["Authorization"]; len(got) != 1 || !strings.HasPrefix(got[0], "Bearer opaque-") {
		t.Errorf("Authorization: got %q", got)
	}
	w.logged("the access token is opaque", "set audience")
	if n := strings.Count(w.log(), "the access token is opaque"); n != 1 {
		t.Errorf("the hint about opaque tokens stands %d times in the log, want once", n)
	}
}

// The seed's second flow: calling an API. Audience and API scopes, each as
// the seed writes it; without openid no ID token, and nobody misses it.
func TestIDPS07IDPS09IDPS11CallingAnAPI(t *testing.T) {
	w := newWorld(t)
	w.caddy(`
		pkce_auth $OP public {
			scopes appointments contacts
			audience appointments:api
			connection github
		}
		reverse_proxy $UPSTREAM
	`)
	b := w.browser()
	toProvider := b.visit(w.site + "/").location(t)
	if !strings.Contains(toProvider, "audience=appointments%3Aapi") {
		t.Errorf("audience: %s", toProvider)
	}
	b.login(w, "/calendar")
	form := w.op.Requests("authorize")[0].Form
	if got, want := names(form), append([]string{"audience", "client_id", "code_challenge", "code_challenge_method", "connection"}, authorizeParams[3:]...); !slices.Equal(got, want) {
		t.Errorf("parameters: got %q, want %q", got, want)
	}
	if form.Get("scope") != "appointments contacts" || form.Get("connection") != "github" {
		t.Errorf("scope and connection: got %q and %q", form.Get("scope"), form.Get("connection"))
	}
	token := strings.TrimPrefix(w.upstream.last(t).Header.Get("Authorization"), "Bearer ")
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		t.Fatalf("the upstream got no JWT: %q", token)
	}
	claims, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil || !strings.Contains(string(claims), `"aud":["appointments:api"]`) {
		t.Errorf("access token: got %s, %v", claims, err)
	}
	if strings.Contains(w.log(), "opaque") {
		t.Error("the log speaks of opaque tokens")
	}
}

// IDPS 12: with openid, both tokens, and a missing ID token fails the login:
// one token request, no session, no upstream, a page, and a line for the
// operator.
func TestIDPS12MissingIDToken(t *testing.T) {
	w := newWorld(t)
	w.caddy(`
		pkce_auth $OP public {
			scopes openid read
			audience https://api.example.com
		}
		reverse_proxy $UPSTREAM
	`)
	w.browser().login(w, "/")
	before := w.upstream.count()
	w.op.Misbehave(provider.Faults{TokenResponse: func(doc map[string]any) { delete(doc, "id_token") }})
	b := w.browser()
	a := b.open(w.site + "/")
	if a.StatusCode != http.StatusBadGateway || !strings.Contains(a.body, "could not be completed") {
		t.Errorf("got status %d and %s", a.StatusCode, a.body)
	}
	if got := len(w.op.Requests("token")); got != 2 {
		t.Errorf("got %d token requests, want one for each login", got)
	}
	if w.upstream.count() != before {
		t.Error("the upstream was reached")
	}
	if got := b.cookies(w.site); len(got) != 0 {
		t.Errorf("cookies stay: %v", got)
	}
	w.logged("request failed", "invalid_answer", "no ID token came")
}

// IDPS 13, IDPS 20: what the token endpoint sees of each kind of client.
func TestIDPS13IDPS20TokenRequest(t *testing.T) {
	for _, tc := range []struct {
		name, options string
		basic, post   bool
	}{
		{"public", "client_id public", false, false},
		{"basic", "client_id confidential\nclient_secret {env.TEST_CLIENT_SECRET}\nclient_auth client_secret_basic", true, false},
		{"auto", "client_id confidential\nclient_secret {env.TEST_CLIENT_SECRET}", true, false},
		{"post", "client_id post\nclient_secret {file.$DIR/secret}\nclient_auth client_secret_post", false, true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Setenv("TEST_CLIENT_SECRET", "s3cr:t%+é")
			w := newWorld(t)
			writeFile(t, w.dir+"/secret", "s3cr:t%+é\n")
			w.caddy("pkce_auth {\nissuer $OP\n" + tc.options + "\n}\nreverse_proxy $UPSTREAM")
			callback := w.browser().callback(w, "/")
			code := query(t, callback).Get("code")
			b := w.browser()
			b.login(w, "/")
			requests := w.op.Requests("token")
			if len(requests) != 1 {
				t.Fatalf("got %d token requests, want 1", len(requests))
			}
			r := requests[0]
			want := []string{"code", "code_verifier", "grant_type", "redirect_uri"}
			if !tc.basic {
				want = append(want, "client_id")
			}
			if tc.post {
				want = append(want, "client_secret")
			}
			slices.Sort(want)
			if got := names(r.Form); !slices.Equal(got, want) {
				t.Errorf("parameters: got %q, want %q", got, want)
			}
			if _, _, basic := basicAuth(r.Header); basic != tc.basic {
				t.Errorf("Basic authentication: got %v, want %v", basic, tc.basic)
			}
			if r.Form.Get("grant_type") != "authorization_code" || r.Form.Get("redirect_uri") != w.site+"/oauth2/callback" || r.Form.Get("code") == code {
				t.Errorf("got %v", r.Form)
			}
		})
	}
}

func basicAuth(h http.Header) (string, string, bool) {
	return (&http.Request{Header: h}).BasicAuth()
}

// IDPS 14, R19b, A56: where a login ends, and what it leaves behind.
func TestIDPS14R19bA56WhereALoginEnds(t *testing.T) {
	w := newWorld(t)
	w.caddyTLS(basic)
	b := w.browser()
	a := b.visit(w.site + "/page?a=1&b=%2F%3F&a=2")
	if a.StatusCode != http.StatusFound || a.Header.Get("Cache-Control") != "private, no-store" {
		t.Errorf("to the provider: status %d, %v", a.StatusCode, a.Header)
	}
	cookie := a.Header["Set-Cookie"]
	if len(cookie) != 1 || !regexp.MustCompile(`^__Host-Http-pkce_auth_[0-9a-f]{8}\.l[0-9a-f]{8}-[0-9a-f]{12}=[A-Za-z0-9_-]+; Path=/; Max-Age=600; HttpOnly; Secure; SameSite=Lax$`).MatchString(cookie[0]) {
		t.Errorf("login state: got %q", cookie)
	}
	a = b.visit(b.visit(a.location(t)).location(t))
	if a.StatusCode != http.StatusSeeOther || a.Header.Get("Location") != w.site+"/page?a=1&b=%2F%3F&a=2" || a.body != "" {
		t.Errorf("callback: got status %d to %s with %q", a.StatusCode, a.Header.Get("Location"), a.body)
	}
	for name, want := range map[string]string{"Referrer-Policy": "no-referrer", "Cache-Control": "private, no-store"} {
		if got := a.Header.Get(name); got != want {
			t.Errorf("callback: %s: got %q, want %q", name, got, want)
		}
	}
	set := a.Header["Set-Cookie"]
	slices.Sort(set)
	want, age := 3, "86400" // as long as an idle session
	if w.stored() {
		want, age = 2, "604800" // the ticket stays the same, and the ID token is kept with the session
	}
	if len(set) != want || !strings.HasSuffix(set[0], "=; Path=/; Max-Age=0; HttpOnly; Secure; SameSite=Lax") ||
		!regexp.MustCompile(`^__Host-Http-pkce_auth_[0-9a-f]{8}=[A-Za-z0-9_-]+; Path=/; Max-Age=`+age+`; HttpOnly; Secure; SameSite=Lax$`).MatchString(set[1]) ||
		!w.stored() && !regexp.MustCompile(`^__Secure-pkce_auth_[0-9a-f]{8}\.h=[A-Za-z0-9_-]+; Path=/oauth2/logout; Max-Age=604800; HttpOnly; Secure; SameSite=Lax$`).MatchString(set[2]) {
		t.Errorf("callback: Set-Cookie: got %q", set)
	}
	if a = b.follow(a); a.body != "upstream /page?a=1&b=%2F%3F&a=2" {
		t.Errorf("in the end: got %q", a.body)
	}
	// Neither redirect stands in the access log, but each has a line of its own.
	w.logged("handled request", "/page?a=1")
	for line := range strings.Lines(w.log()) {
		if strings.Contains(line, "handled request") && (strings.Contains(line, "callback") || strings.Contains(line, `"status":302`)) {
			t.Errorf("access log: %s", line)
		}
	}
	w.logged(`"login started"`, `"path":"/page"`)
	w.logged(`"msg":"login"`, `"sub":"alice"`)
}

// IDPS 15: a namespaced claim, in a header and in a rule.
func TestIDPS15ClaimsInHeadersAndRules(t *testing.T) {
	w := newWorld(t)
	w.caddy(`
		pkce_auth $OP public {
			header_up X-Auth-Roles {http.auth.user.https://example.com/roles}
			header_up X-Auth-Nested {http.auth.user.realm_access.roles}
			header_up X-Auth-Groups {http.auth.user.groups}
			header_up X-Auth-User "{http.auth.user.id} <{http.auth.user.email}>"
			header_up X-Auth-None {http.auth.user.nothing}
		}
		@admins expression ` + "`\"admin\" in {http.auth.user.groups} && ph(req, 'http.auth.user.https://example.com/roles')[0] == 'reader'`" + `
		route {
			header @admins X-Admin yes
			reverse_proxy $UPSTREAM
		}
	`)
	a := w.browser().login(w, "/")
	for name, want := range map[string]string{
		"X-Auth-Roles": "reader", "X-Auth-Nested": "offline", "X-Auth-Groups": "staff,admin", "X-Auth-User": "alice <alice@example.com>", "X-Auth-None": "",
	} {
		if got := w.upstream.last(t).Header.Get(name); got != want {
			t.Errorf("%s: got %q, want %q", name, got, want)
		}
	}
	if _, ok := w.upstream.last(t).Header["X-Auth-None"]; ok {
		t.Error("a claim that is missing makes an empty header")
	}
	if a.Header.Get("X-Admin") != "yes" {
		t.Error("the rule over claims does not match")
	}
}

// IDPS 17: what else a provider adds to the callback is ignored.
func TestM48R19aIDPS17ExtraCallbackParameters(t *testing.T) {
	w := newWorld(t)
	w.op.Misbehave(provider.Faults{Callback: func(q url.Values) {
		q.Set("strategy", "x")
		q.Set("nonce", "x")
		q.Set("audience", "evil")
		q.Set("scope", "admin")
		q.Set("id_token", "x")
		q["session_state"] = []string{"a", "b"}
	}})
	w.caddy(basic)
	w.browser().login(w, "/")
}

// IDPS 19, A50, A51: the issuer in the response.
func TestM41R13IDPS19A50A51IssuerInTheCallback(t *testing.T) {
	for _, tc := range []struct {
		name      string
		announced bool
		change    func(url.Values)
		ok        bool
	}{
		{"right and announced", true, nil, true},
		{"right though not announced", false, nil, true},
		{"absent and not announced", false, func(q url.Values) { q.Del("iss") }, true},
		{"absent though announced", true, func(q url.Values) { q.Del("iss") }, false},
		{"wrong", false, func(q url.Values) { q.Set("iss", "https://evil.test") }, false},
		{"wrong, with an error", true, func(q url.Values) { q.Set("iss", "x"); q.Del("code"); q.Set("error", "access_denied") }, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			w := newWorld(t)
			w.op.Misbehave(provider.Faults{
				Metadata: func(doc map[string]any) { doc["authorization_response_iss_parameter_supported"] = tc.announced },
				Callback: func(q url.Values) {
					if tc.change != nil {
						tc.change(q)
					}
				},
			})
			w.caddy(basic)
			a := w.browser().open(w.site + "/")
			if tc.ok {
				if a.StatusCode != http.StatusOK || w.upstream.count() != 1 {
					t.Errorf("got status %d", a.StatusCode)
				}
				return
			}
			if a.StatusCode != http.StatusBadRequest || len(w.op.Requests("token")) != 0 || w.upstream.count() != 0 {
				t.Errorf("got status %d, %d token requests, %d at the upstream", a.StatusCode, len(w.op.Requests("token")), w.upstream.count())
			}
		})
	}
}

// IDPS 21: Auth0's issuer, with the slash and without.
func TestIDPS21RootIssuerWithAndWithoutSlash(t *testing.T) {
	for _, configured := range []string{"$OP", "$OP/"} {
		for _, own := range []string{"", "/"} {
			w := newWorld(t)
			w.op.Misbehave(provider.Faults{
				Metadata: func(doc map[string]any) { doc["issuer"] = w.op.URL + own },
				Callback: func(q url.Values) { q.Set("iss", w.op.URL+own) },
				IDToken:  func(_, claims map[string]any) { claims["iss"] = w.op.URL + own },
			})
			w.caddy("pkce_auth " + configured + " public\nreverse_proxy $UPSTREAM")
			w.browser().login(w, "/")
			if err := stop(); err != nil {
				t.Fatal(err)
			}
		}
	}
	w := newWorld(t)
	w.op.Misbehave(provider.Faults{Metadata: func(doc map[string]any) { doc["issuer"] = w.op.URL + "1" }})
	w.caddy(basic)
	if a := w.browser().open(w.site + "/"); a.StatusCode != http.StatusServiceUnavailable || len(w.op.Requests("authorize")) != 0 {
		t.Errorf("another issuer: got status %d and %d authorization requests", a.StatusCode, len(w.op.Requests("authorize")))
	}
	w.logged("provider_unavailable", "configure exactly that as issuer")
}

// A54, R35: nothing in a URL changes the authorization request.
func TestIDPS02IDPS09A54R35URLsChangeNothing(t *testing.T) {
	w := newWorld(t)
	w.caddy(basic)
	const evil = "scope=admin&state=x&redirect_uri=https://evil.test&response_type=token&client_id=evil&nonce=x&code_challenge=x&" +
		"code_challenge_method=plain&prompt=none&connection=evil&acr_values=x&audience=evil&resource=https://evil.test&request_uri=https://evil.test&max_age=0"
	for _, path := range []string{"/?" + evil, "/oauth2/login?" + evil + "&return_to=/"} {
		b := w.browser()
		q := query(t, b.visit(w.site+path).location(t))
		if got := names(q); !slices.Equal(got, authorizeParams) {
			t.Errorf("%s: parameters: got %q, want %q", path, got, authorizeParams)
		}
		for name, want := range map[string]string{
			"scope": "openid profile email offline_access", "redirect_uri": w.site + "/oauth2/callback", "client_id": "public", "code_challenge_method": "S256", "response_type": "code",
		} {
			if got := q.Get(name); got != want {
				t.Errorf("%s: %s: got %q, want %q", path, name, got, want)
			}
		}
		if a := b.open(w.site + path); a.StatusCode != http.StatusOK {
			t.Errorf("%s: got status %d", path, a.StatusCode)
		}
	}
}

// authorize_param: static, and from the request; an empty value is not sent.
func TestAuthorizeParam(t *testing.T) {
	w := newWorld(t)
	w.caddy(`
		pkce_auth $OP public {
			authorize_param prompt login
			authorize_param ui_locales {http.request.header.Accept-Language}
			authorize_param ext-absent {http.request.header.X-Absent}
			resource https://b.test/ https://a.test/
		}
		reverse_proxy $UPSTREAM
	`)
	b := w.browser()
	header := navigation.Clone()
	header.Set("Accept-Language", "de&client_id=evil")
	q := query(t, b.do(http.MethodGet, w.site+"/", header, "").location(t))
	if q.Get("prompt") != "login" || q.Get("ui_locales") != "de&client_id=evil" || q.Has("ext-absent") || len(q["client_id"]) != 1 {
		t.Errorf("got %v", q)
	}
	if got := q["resource"]; !slices.Equal(got, []string{"https://b.test/", "https://a.test/"}) {
		t.Errorf("resource: got %q", got)
	}
	b.login(w, "/")
	if got := w.op.Requests("token")[0].Form["resource"]; len(got) != 2 {
		t.Errorf("resource with the code: got %q", got)
	}
}

// IDPS 42, A105, M03: Caddy starts while the provider is down, says 503 with
// Retry-After where a login would begin, and heals by itself; who has a
// session notices nothing.
func TestT10M03IDPS42A105ProviderDown(t *testing.T) {
	w := newWorld(t)
	down := provider.Faults{Answer: map[string]func(http.ResponseWriter, *http.Request) bool{
		"metadata": provider.Status(503, "text/plain", "busy"),
	}}
	w.op.Misbehave(down)
	w.caddy(`
		pkce_auth $OP public {
			bypass /healthz
		}
		reverse_proxy $UPSTREAM
	`)
	b := w.browser()
	a := b.visit(w.site + "/")
	if a.StatusCode != http.StatusServiceUnavailable || a.Header.Get("Retry-After") != "5" || !strings.Contains(a.body, "not available right now") {
		t.Errorf("got status %d, %v and %s", a.StatusCode, a.Header, a.body)
	}
	if len(b.cookies(w.site)) != 0 || w.upstream.count() != 0 {
		t.Errorf("cookies %v, %d requests at the upstream", b.cookies(w.site), w.upstream.count())
	}
	if a := b.fetch(w.site + "/"); a.StatusCode != http.StatusUnauthorized {
		t.Errorf("a fetch: got status %d", a.StatusCode)
	}
	if a := b.visit(w.site + "/healthz"); a.body != "upstream /healthz" {
		t.Errorf("a bypassed path: got %q", a.body)
	}
	w.logged("provider_unavailable", "status 503")
	w.op.Misbehave(provider.Faults{})
	w.eventually("the provider is asked again", func() bool { return b.visit(w.site+"/").StatusCode == http.StatusFound })
	b.login(w, "/after")
	w.op.Misbehave(down)
	b.login(w, "/still")
}

// R12: a provider that does not advertise S256 gets it all the same, never
// plain, and the log says so once.
func TestR12MetadataWithoutS256(t *testing.T) {
	w := newWorld(t)
	w.op.Misbehave(provider.Faults{Metadata: func(doc map[string]any) { doc["code_challenge_methods_supported"] = []string{"plain"} }})
	w.caddy(basic)
	w.browser().login(w, "/")
	if got := w.op.Requests("authorize")[0].Form.Get("code_challenge_method"); got != "S256" {
		t.Errorf("got %q", got)
	}
	w.logged("does not advertise PKCE with S256")
}

// Several tabs, in any order, each to its own URL (A09, A77).
func TestM47A09A77TenTabsInAnyOrder(t *testing.T) {
	w := newWorld(t)
	w.caddy(basic)
	b := w.browser()
	var callbacks []string
	for i := range 10 {
		callbacks = append(callbacks, b.callback(w, "/tab/"+string(rune('a'+i))+"?q="+strings.Repeat("x", 10*i)))
	}
	for _, i := range []int{3, 9, 0, 1, 8, 2, 7, 4, 6, 5} {
		a := b.visit(callbacks[i])
		want := w.site + "/tab/" + string(rune('a'+i)) + "?q=" + strings.Repeat("x", 10*i)
		if a.StatusCode != http.StatusSeeOther || a.Header.Get("Location") != strings.TrimSuffix(want, "") {
			t.Errorf("tab %d: got status %d to %s, want %s", i, a.StatusCode, a.Header.Get("Location"), want)
		}
	}
	if got := len(w.op.Requests("token")); got != 10 {
		t.Errorf("got %d token requests, want 10", got)
	}
	if got := b.loginStates(w.site); len(got) != 0 {
		t.Errorf("login states stay: %q", got)
	}
}

// A45: logins at the same time do not get into each other's way.
func TestA45ParallelLogins(t *testing.T) {
	w := newWorld(t)
	w.caddy(basic)
	done := make(chan string)
	for i := range 50 {
		b := w.browser()
		path := "/parallel/" + string(rune('a'+i%26))
		go func() { done <- b.open(w.site+path).body + " want upstream " + path }()
	}
	for range 50 {
		if got := <-done; strings.Split(got, " want ")[0] != strings.Split(got, " want ")[1] {
			t.Error(got)
		}
	}
	seen := map[string]bool{}
	for _, r := range w.op.Requests("token") {
		if v := r.Form.Get("code_verifier"); seen[v] {
			t.Error("two logins share a verifier")
		} else {
			seen[v] = true
		}
	}
	if len(seen) != 50 {
		t.Errorf("got %d logins, want 50", len(seen))
	}
}

// Large requests, long URLs: over 2 kB the return URL loses its query.
func TestReturnURLBeyondItsBound(t *testing.T) {
	w := newWorld(t)
	w.caddy(basic)
	for _, tc := range []struct{ path, want string }{
		{"/a?q=" + strings.Repeat("x", 2000), "/a?q=" + strings.Repeat("x", 2000)},
		{"/a?q=" + strings.Repeat("x", 2100), "/a"},
		{"/" + strings.Repeat("y", 2100) + "?q=1", "/"}, // A08
	} {
		b := w.browser()
		if a := b.open(w.site + tc.path); a.body != "upstream "+tc.want {
			t.Errorf("%.20s…: got %.60q, want upstream %.60q", tc.path, a.body, tc.want)
		}
	}
}

func TestFlowsOverHTTP2(t *testing.T) {
	w := newWorld(t)
	w.caddyTLS(basic)
	w.h2()
	b := w.browser()
	a := b.login(w, "/over/h2?x=1")
	if a.ProtoMajor != 2 {
		t.Errorf("got HTTP/%d", a.ProtoMajor)
	}
}

// client_auth private_key_jwt and assertion_file, as the provider sees them;
// neither key nor assertion stands anywhere else.
func TestIDPS20ClientAssertions(t *testing.T) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	w := newWorldWith(t, provider.Config{Clients: map[string]provider.Client{"signed": {Key: &key.PublicKey}}})
	file := filepath.Join(w.dir, "key.pem")
	writeFile(t, file, string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})))
	w.caddy("pkce_auth $OP signed {\nclient_auth private_key_jwt $DIR/key.pem k1\n}\nreverse_proxy $UPSTREAM")
	b := w.browser()
	b.login(w, "/x")
	b.logout(w)
	w.eventually("the refresh token is revoked", func() bool { return w.op.Revoked(w.refreshTokens()[0]) })
	for _, r := range append(w.op.Requests("token"), w.op.Requests("revoke")...) {
		w.expect = append(w.expect, r.Form.Get("client_assertion"))
		writeFile(t, filepath.Join(w.dir, "assertion"), r.Form.Get("client_assertion"))
	}
	// An assertion that somebody else made is sent as it stands in its file;
	// this provider has seen that one before.
	w.caddy("pkce_auth $OP signed {\nclient_auth assertion_file $DIR/assertion\n}\nreverse_proxy $UPSTREAM")
	other := w.browser()
	if a := other.open(w.site + "/x"); a.StatusCode != http.StatusBadGateway {
		t.Errorf("got status %d", a.StatusCode)
	}
	requests := w.op.Requests("token")
	if got := requests[len(requests)-1].Form.Get("client_assertion"); got != w.expect[len(w.expect)-1] {
		t.Errorf("sent %.20s…", got)
	}
	w.logged("misconfigured", "invalid_client", "jti")
	// What cannot work is an error before anything runs.
	for options, want := range map[string]string{
		"client_auth private_key_jwt $DIR/none.pem":  "no such file",
		"client_auth private_key_jwt $DIR/assertion": "not PEM",
		"client_auth assertion_file $DIR/none":       "no such file",
	} {
		if err := w.load("http://127.0.0.1:0", "pkce_auth $OP signed {\n"+options+"\n}"); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v", options, err)
		}
	}
}
