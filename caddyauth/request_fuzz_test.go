package caddyauth

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"path"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// fuzzedSite is a site of the real handler: with a rule, a bypass by path and
// one by method, identity headers, and error routes that lead to a server of
// their own.
type fuzzedSite struct {
	*Handler
	server *caddyhttp.Server
	admin  string // cookies of a session that is admitted
	guest  string // of one that is not
}

const fuzzedToken = "the-one-token"

func newFuzzedSite(f testing.TB) *fuzzedSite {
	h := newHandler(f, `{
		"inline": {"issuer":"https://op.test","client_id":"public","authorization":{"scopes":["openid"]},"endpoints":{
			"authorization":"https://op.test/authorize","token":"https://127.0.0.1:1/token","jwks":"https://127.0.0.1:1/jwks"}},
		"bypass_paths": ["/public/*"],
		"bypass": [{"method":["OPTIONS"]}],
		"require": [{"claim":"groups","values":["admin"]}],
		"header_up": {"X-Auth-Sub":"{http.auth.user.id}","X-Auth-Groups":"{http.auth.user.groups}","X-Auth-Absent":"{http.auth.user.absent}"}
	}`)
	routes := caddyhttp.RouteList{{Handlers: []caddyhttp.MiddlewareHandler{h}}} // which handler makes no difference: it is there
	return &fuzzedSite{
		Handler: h,
		server:  &caddyhttp.Server{Errors: &caddyhttp.HTTPErrorConfig{Routes: routes}},
		admin:   sessionCookies(f, h, fuzzedToken)[0],
		guest:   sessionCookiesOf(f, h, fuzzedToken, `{"sub":"mallory","groups":["a,admin","ADMIN"],"admin":true}`)[0],
	}
}

// handle has the site serve a request, as Caddy's server would, and returns
// what reached the upstream, or the server of its error routes; nil: nothing
// did.
func (s *fuzzedSite) handle(t *testing.T, r *http.Request, failing bool) (upstream, errorRoute *http.Request) {
	r.TLS = &tls.ConnectionState{HandshakeComplete: true, ServerName: "app.test"}
	r.RemoteAddr = "192.0.2.1:1234"
	r = caddyhttp.PrepareRequest(r, caddy.NewReplacer(), nil, s.server)
	w := httptest.NewRecorder()
	err := s.ServeHTTP(w, r, caddyhttp.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) error {
		_, _ = io.Copy(io.Discard, r.Body) // trailers come at its end
		upstream = r.Clone(r.Context())
		if failing {
			return caddyhttp.Error(http.StatusBadGateway, errors.New("upstream is down"))
		}
		return nil
	}))
	for name := range w.Header() {
		if strings.HasPrefix(name, "Access-Control-") {
			t.Errorf("A95: an answer of ours has %s", name)
		}
	}
	if err != nil {
		errorRoute = r
	}
	return upstream, errorRoute
}

// FuzzRequests is promise 1 and R18, for requests of all kinds: the upstream is
// reached only with a live session that the route admits, or by the bypass of
// a path that reads in one way only. Without a session it learns of no
// identity, whatever the client says of itself; with one, of exactly ours. And
// no cookie of ours reaches it, or the server of an error page.
func FuzzRequests(f *testing.F) {
	for _, target := range []string{
		"/", "/secret", "/public/x", "/public/../secret", "/public/%2e%2e/secret", "//public/x", `/public\..\x`, "/public/..;/x", "/public/%252e%252e/x", "/secret#/public/",
		"/PUBLIC/x", "*", "http://app.test/public/x", "x:http://app/secret", "/oauth2/callback", "/oauth2/callback?code=x&state=y", "/oauth2/callback/", "/oauth2/Callback",
		"/oauth2/error?e=x", "/oauth2/login", "/oauth2/logout", "/oauth2/signed-out", "/oauth2/backchannel-logout", "/public/%00", "/public/a%2fb",
	} {
		f.Add("GET", target, "Accept: text/html\nSec-Fetch-Mode: navigate", uint8(len(target)%4), false)
	}
	methods := []string{"GET", "POST", "OPTIONS", "CONNECT", "TRACE"}
	for i, headers := range []string{ // few: all of Caddy is instrumented, and each costs a while
		"Authorization: Bearer x", "X-Auth-Sub: root", "X_Auth_Sub: root\nx.auth-groups: admin\nX-AUTH-SUB: root", "Connection: x-auth-sub, Authorization\nKeep-Alive: x",
		"Connection: Upgrade\nUpgrade: websocket\nOrigin: https://evil.test", "Connection: upgrade, HTTP2-Settings\nUpgrade: h2c\nHTTP2-Settings: x", "Origin: https://app.test", "Origin: null",
		"Sec-Fetch-Site: cross-site", "Sec-Fetch-Site: same-origin\nSec-Fetch-Site: cross-site", "Transfer-Encoding: chunked\nTrailer: X-Auth-Sub\n\n0\nX-Auth-Sub: root\n",
		"X-HTTP-Method-Override: OPTIONS", "X-Forwarded-Uri: /public/x", "Early-Data: 1", "Cookie: __Host-Http-pkce_auth=x; a=b", "Cookie: a=\"\nCookie: pkce_auth.l1=x\"", "Sec-Purpose: prefetch",
	} {
		f.Add(methods[i%5], "/page", headers, uint8(1), i%2 == 0)
		f.Add(methods[(i+1)%5], "/public/x", headers, uint8(i%4), i%2 == 1)
	}
	site := newFuzzedSite(f)
	f.Fuzz(func(t *testing.T, method, target, headers string, who uint8, failing bool) {
		head, body, _ := strings.Cut(headers, "\n\n")
		raw := method + " " + target + " HTTP/1.1\r\nHost: app.test\r\n" + strings.ReplaceAll(head, "\n", "\r\n") + "\r\n\r\n" + strings.ReplaceAll(body, "\n", "\r\n") + "\r\n"
		r, err := http.ReadRequest(bufio.NewReader(bytes.NewReader([]byte(raw))))
		if err != nil || r.Host != "app.test" {
			return // net/http refuses it, or it is another site's
		}
		cookies := []string{"", site.admin, site.guest, site.admin[:len(site.admin)-2]}[who%4]
		if cookies != "" {
			r.Header["Cookie"] = append(r.Header["Cookie"], cookies)
		}
		asked := r.Clone(r.Context())
		upstream, errorRoute := site.handle(t, r, failing)
		if upstream != nil {
			authenticated := checkIdentity(t, upstream)
			switch {
			case authenticated && (who%4 != 1 || forgedBySpecification(asked, upstream)):
				t.Fatalf("%q passes with a session that must not be used", raw)
			case !authenticated && !passesBySpecification(asked, target):
				t.Fatalf("%q passes without a session", raw)
			}
			checkCookies(t, upstream, site.admin, site.guest)
		}
		if errorRoute != nil {
			if checkIdentity(t, errorRoute) {
				t.Fatalf("%q: an error route has the token", raw)
			}
			checkCookies(t, errorRoute, site.admin, site.guest)
		}
	})
}

// What the fuzz target goes by: its site lets in whom it should.
func TestPromise1FuzzedSite(t *testing.T) {
	site := newFuzzedSite(t)
	for _, tc := range []struct {
		target, cookies string
		reached, known  bool
	}{
		{"/", site.admin, true, true},
		{"/", site.guest, false, false},
		{"/", "", false, false},
		{"/public/x", site.admin, true, true},
		{"/public/x", site.guest, true, false},
		{"/public/x", "", true, false},
	} {
		for _, failing := range []bool{false, true} {
			r := httptest.NewRequest(http.MethodGet, tc.target, nil)
			r.Host = "app.test"
			r.Header.Set("Cookie", tc.cookies)
			upstream, errorRoute := site.handle(t, r, failing)
			if (upstream != nil) != tc.reached || tc.reached && checkIdentity(t, upstream) != tc.known || (errorRoute != nil) != (failing || !tc.reached) {
				t.Errorf("%+v: the upstream got %v, the error route %v", tc, upstream, errorRoute)
			}
		}
	}
}

// forgedBySpecification says in other words what crossSite does.
func forgedBySpecification(r, passed *http.Request) bool {
	unsafe := !slices.Contains([]string{"GET", "HEAD", "OPTIONS", "TRACE"}, r.Method) || passed.Header.Get("Upgrade") != "" // others than to a WebSocket are taken off
	sites, origins := r.Header["Sec-Fetch-Site"], r.Header["Origin"]
	foreign := len(origins) > 0 && strings.Join(origins, ",") != "https://app.test"
	if len(sites) > 0 {
		foreign = strings.Trim(strings.NewReplacer("same-origin", "", "none", "").Replace(strings.Join(sites, ",")), ",") != "" || strings.Contains(","+strings.Join(sites, ",")+",", ",,")
	}
	return unsafe && foreign
}

// passesBySpecification says in other words what the bypasses let pass: the
// method OPTIONS, and paths below /public/, in the only spelling that every
// server reads alike.
func passesBySpecification(r *http.Request, target string) bool {
	if i := strings.Index(target, "://app.test"); i > 0 {
		target = target[i+len("://app.test"):]
	}
	written, _, _ := strings.Cut(target, "?")
	p := r.URL.Path
	clean := path.Clean(p)
	if strings.HasSuffix(p, "/") && clean != "/" {
		clean += "/"
	}
	odd := regexp.MustCompile(`(?i)%(25)?(2e|2f|5c|00)|//|\\|#|\x00|(^|/)\.\.?(;[^/]*)?(/|$)`)
	if !strings.HasPrefix(p, "/") || clean != p || odd.MatchString(written) || odd.MatchString(p) {
		return false
	}
	return r.Method == http.MethodOptions || strings.HasPrefix(p, "/public/")
}

// checkIdentity reports whether a request carries the one session's identity,
// and fails if it carries any other, or a part of it.
func checkIdentity(t *testing.T, r *http.Request) bool {
	t.Helper()
	want := map[string]string{"Authorization": "Bearer " + fuzzedToken, "X-Auth-Sub": "alice", "X-Auth-Groups": "staff,admin"}
	found := 0
	check := func(h http.Header) {
		for name, values := range h {
			folded := strings.ToLower(strings.NewReplacer("_", "-", ".", "-").Replace(name))
			switch {
			case folded != "authorization" && folded != "x-auth-sub" && folded != "x-auth-groups" && folded != "x-auth-absent":
			case len(values) != 1 || values[0] != want[name] || want[name] == "":
				t.Fatalf("%s: %q", name, values)
			default:
				found++
			}
		}
	}
	check(r.Header)
	inHeader := found
	check(r.Trailer)
	if found != inHeader || found != 0 && found != len(want) {
		t.Fatalf("a part of an identity: %v, %v", r.Header, r.Trailer)
	}
	for _, line := range r.Header["Connection"] {
		for token := range strings.SplitSeq(line, ",") {
			folded := strings.ToLower(strings.NewReplacer("_", "-", ".", "-").Replace(strings.TrimSpace(token)))
			if folded == "authorization" || folded == "cookie" || strings.HasPrefix(folded, "x-auth-sub") {
				t.Fatalf("Connection: %q", line)
			}
		}
	}
	return found > 0
}

var ourCookieName = regexp.MustCompile(`^(__[A-Za-z-]+-)?pkce_auth([._].*)?$`)

func checkCookies(t *testing.T, r *http.Request, sessions ...string) {
	t.Helper()
	for _, line := range r.Header["Cookie"] {
		for _, s := range sessions {
			if _, value, _ := strings.Cut(s, "="); strings.Contains(line, value) {
				t.Fatalf("a session goes on: %q", line)
			}
		}
		for pair := range strings.SplitSeq(line, ";") {
			name, _, _ := strings.Cut(pair, "=")
			if ourCookieName.MatchString(strings.TrimSpace(name)) {
				t.Fatalf("a cookie of ours goes on: %q", line)
			}
		}
	}
}
