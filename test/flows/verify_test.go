package flows

import (
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/pkce-auth/caddy-pkce-auth/test/provider"
)

// inFront is a Caddy that asks another one, both as the documentation has them,
// but for the addresses.
type inFront struct {
	*world
	auth string // the address of the one behind
}

var fenced = regexp.MustCompile("(?ms)^```caddyfile\n(.*?)^```$")

func freePort(t testing.TB) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return strconv.Itoa(l.Addr().(*net.TCPAddr).Port)
}

func newInFront(t testing.TB, options ...string) *inFront {
	t.Helper()
	w := newWorldWith(t, provider.Config{Users: map[string]map[string]any{"alice": {}}}) // who has no email
	w.exempt = `"logger":"http.handlers.reverse_proxy"`                                  // of the Caddy in front, which says at debug level which URLs it passes on
	page, err := os.ReadFile("../../docs/behind-another-proxy.md")
	if err != nil {
		t.Fatal(err)
	}
	found := fenced.FindAllStringSubmatch(string(page), -1)
	if len(found) != 2 {
		t.Fatalf("the page has %d Caddyfiles", len(found))
	}
	behind, front := found[0][1], found[1][1]
	public, asked := freePort(t), freePort(t)
	t.Setenv("OIDC_CLIENT_ID", "public")
	global := "{\nadmin off\npersist_config off\nstorage file_system " + strconv.Quote(filepath.Join(w.dir, "storage")) +
		"\nlog {\noutput file " + w.logFile() + " {\nroll_disabled\n}\nformat json\nlevel DEBUG\n}\n"
	text := strings.NewReplacer(
		"{\n\tauto_https off\n\tservers {", global+"auto_https off\nservers 127.0.0.1:"+asked+" {", // the one in front trusts nobody
		"http://:8080", "http://:"+asked, "127.0.0.1:8080", "127.0.0.1:"+asked, "127.0.0.1:3000", "$UPSTREAM",
		"https://tenant.eu.auth0.com", "$OP", "https://app.example.com", "http://127.0.0.1:"+public,
		"app.example.com {", "http://127.0.0.1:"+public+" {\nbind 127.0.0.1\n", "verify on", "verify on\n"+strings.Join(options, "\n"),
	).Replace(behind + front)
	if err := w.loadFile(text); err != nil {
		t.Fatalf("%v:\n%s", err, text)
	}
	w.site = "http://127.0.0.1:" + public
	return &inFront{w, "http://127.0.0.1:" + asked}
}

// A13, A19: a Caddy in front, with its own forward_auth: whoever navigates logs
// in and is back; what the client says of its identity, and of where it goes,
// counts nowhere.
func TestA13A19ForwardAuth(t *testing.T) {
	w := newInFront(t, "unauthorized redirect", "accept_bearer https://api.test")
	b := w.browser()
	b.login(w.world, "/page?x=1&y=%2F")
	spoofed := with(navigation, "X-Auth-Sub", "admin", "X-Auth-Email", "admin@example.com", "Authorization", "Basic YTpi", "X-Forwarded-Host", "evil.test",
		"X-Forwarded-Uri", "/evil", "X-Original-Url", "https://evil.test/evil", "X-Forwarded-Proto", "https", "Connection", "close, X-Auth-Sub, Authorization", "Cookie", "theme=dark; sessionid=7")
	spoofed["X-Auth_Sub"], spoofed["x-auth-sub"] = []string{"admin"}, []string{"admin"}
	for name, header := range map[string]http.Header{"honest": navigation, "spoofed": spoofed} {
		a := b.do("GET", w.site+"/again", header, "")
		if a.StatusCode != 200 {
			t.Fatalf("%s: got status %d", name, a.StatusCode)
		}
		got := w.upstream.last(t).Header
		if got.Get("X-Auth-Sub") != "alice" || len(got["X-Auth-Sub"]) != 1 || strings.Contains(got.Get("X-Auth-Email"), "admin") || !strings.HasPrefix(got.Get("Authorization"), "Bearer opaque-") {
			t.Errorf("%s: the upstream got %v", name, got)
		}
		if cookies := strings.Join(got["Cookie"], "; "); strings.Contains(cookies, "pkce_auth") || name == "spoofed" && (!strings.Contains(cookies, "theme=dark") || !strings.Contains(cookies, "sessionid=7")) {
			t.Errorf("%s: the upstream got the cookies %q", name, cookies)
		}
	}
	before := w.upstream.count()
	for name, header := range map[string]http.Header{"honest": navigation, "spoofed": spoofed} {
		a := w.browser().do("GET", w.site+"/secret", header, "")
		u, err := url.Parse(a.Header.Get("Location"))
		if err != nil || a.StatusCode != 302 || !strings.HasPrefix(u.String(), w.site+"/oauth2/login") || strings.Contains(u.String(), "evil") || name == "honest" && u.Query().Get("return_to") != "/secret" {
			t.Errorf("%s without a session: got status %d to %s", name, a.StatusCode, u)
		}
	}
	for method, header := range map[string]http.Header{"GET": fetched, "POST": navigation, "OPTIONS": fetched} {
		a := w.browser().do(method, w.site+"/secret", header, "")
		if a.StatusCode != 401 || !strings.Contains(a.Header.Get("WWW-Authenticate"), `login_url="`+w.site+`/oauth2/login"`) || a.Header["Location"] != nil {
			t.Errorf("%s without a session: got status %d and %v", method, a.StatusCode, a.Header)
		}
	}
	if w.upstream.count() != before {
		t.Error("something reached the upstream without a session")
	}
	good := w.accessToken(nil, nil)
	if a := w.browser().do("GET", w.site+"/api", program("Bearer "+good), ""); a.StatusCode != 200 || w.upstream.last(t).Header.Get("X-Auth-Sub") != "carol" || w.upstream.last(t).Header.Get("Authorization") != "Bearer "+good {
		t.Errorf("an API client: got status %d, the upstream %v", a.StatusCode, w.upstream.last(t).Header)
	}
	if a := w.browser().do("GET", w.site+"/api", with(navigation, "Authorization", "Bearer x"), ""); a.StatusCode != 401 || !strings.Contains(a.Header.Get("WWW-Authenticate"), `error="invalid_token"`) || a.Header["X-Login-Url"] != nil {
		t.Errorf("a forged token: got status %d and %v", a.StatusCode, a.Header)
	}
	if a := b.do("POST", w.site+"/oauth2/logout", with(navigation, "Sec-Fetch-Site", "same-origin", "Origin", w.site), ""); a.StatusCode/100 != 3 {
		t.Errorf("logout: got status %d", a.StatusCode)
	}
	if a := b.visit(w.site + "/again"); a.StatusCode != 302 {
		t.Errorf("behind the logout: got status %d", a.StatusCode)
	}
}

// traefik are the headers that Traefik documents of the requests it makes
// (forwardAuth), beside the client's.
func traefik(method, uri string, client http.Header) http.Header {
	return with(client, "X-Forwarded-Method", method, "X-Forwarded-Proto", "http", "X-Forwarded-Uri", uri, "X-Forwarded-For", "198.51.100.7")
}

// A13, A19: what is asked and answered, by Traefik's headers: every identity
// header is in each 204, so that none of the client's own is left.
func TestA13A19TraefikProtocol(t *testing.T) {
	w := newInFront(t)
	b := w.browser()
	a := b.do("GET", w.auth+"/oauth2/verify", with(traefik("GET", "/deep/page?x=1", navigation), "X-Forwarded-Host", strings.TrimPrefix(w.site, "http://")), "")
	if a.StatusCode != 401 || a.Header.Get("X-Login-Url") != w.site+"/oauth2/login?return_to="+url.QueryEscape("/deep/page?x=1") || a.Header["Set-Cookie"] != nil {
		t.Fatalf("got status %d and %v", a.StatusCode, a.Header)
	}
	if a := b.open(a.Header.Get("X-Login-Url")); a.StatusCode != 200 || a.body != "upstream /deep/page?x=1" {
		t.Fatalf("got status %d: %s", a.StatusCode, a.body)
	}
	ask := func(who *browser, method, uri string, header http.Header) answer {
		header = with(traefik(method, uri, header), "X-Forwarded-Host", strings.TrimPrefix(w.site, "http://"))
		return who.do("GET", w.auth+"/oauth2/verify", header, "")
	}
	for _, method := range []string{"GET", "POST", "DELETE", "OPTIONS", "TRACE"} {
		for _, header := range []http.Header{navigation, fetched} {
			a := ask(b, method, "/x", with(header, "X-Auth-Sub", "admin", "X-Auth-Email", "admin@example.com"))
			if a.StatusCode != 204 || a.Header.Get("X-Auth-Sub") != "alice" || !strings.HasPrefix(a.Header.Get("Authorization"), "Bearer opaque-") {
				t.Errorf("%s: got status %d and %v", method, a.StatusCode, a.Header)
			}
			if email, there := a.Header["X-Auth-Email"]; !there || len(email) != 1 || email[0] != "" {
				t.Errorf("%s: what alice has none of: got %q", method, email)
			}
			if a.Header["X-Login-Url"] != nil || a.Header.Get("Cache-Control") != "private, no-store" {
				t.Errorf("%s: got %v", method, a.Header)
			}
		}
	}
	stranger := w.browser()
	for name, tc := range map[string]struct {
		method, uri string
		header      http.Header
		login       string // where X-Login-Url leads back to; empty: there is none
	}{
		"a navigation":                         {"GET", "/a/b?c=d", navigation, "/a/b?c=d"},
		"a fetch":                              {"GET", "/a", fetched, ""},
		"a form":                               {"POST", "/a", navigation, ""},
		"a WebSocket":                          {"GET", "/a", with(navigation, "Sec-WebSocket-Key", "x"), ""},
		"a prefetch":                           {"GET", "/a", with(navigation, "Sec-Purpose", "prefetch"), ""},
		"A19 another host in the path":         {"GET", "//evil.test/a", navigation, "/"},
		"A19 a URL in place of a path":         {"GET", "https://evil.test/a", navigation, "/a"},
		"A19 a backslash":                      {"GET", `/\evil.test`, navigation, "/%5Cevil.test"},
		"A19 our own logout":                   {"GET", "/oauth2/logout", navigation, "/"},
		"A19 our own verify":                   {"GET", "/oauth2/verify", navigation, "/"},
		"A19 another URL by another header":    {"GET", "/a", with(navigation, "X-Original-URL", w.site+"/b"), "/"},
		"the same URL by another header":       {"GET", "/a?b", with(navigation, "X-Original-URL", w.site+"/a?b"), "/a?b"},
		"A19 another method by another header": {"GET", "/a", with(navigation, "X-Original-Method", "POST"), ""},
	} {
		a := ask(stranger, tc.method, tc.uri, tc.header)
		want := w.site + "/oauth2/login"
		if tc.login != "/" {
			want += "?return_to=" + url.QueryEscape(tc.login)
		}
		if tc.login == "" {
			want = ""
		}
		if got := a.Header.Get("X-Login-Url"); a.StatusCode != 401 || got != want || !strings.HasPrefix(a.Header.Get("WWW-Authenticate"), "Bearer ") {
			t.Errorf("%s: got status %d, X-Login-Url %q, want %q", name, a.StatusCode, got, want)
		}
	}
	if a := ask(stranger, "GET", "/a", navigation); len(stranger.cookies(w.auth)) != 0 || a.Header["Set-Cookie"] != nil {
		t.Error("a question leaves cookies behind")
	}
	// A method that nobody says is that of no navigation.
	if a := stranger.do("GET", w.auth+"/oauth2/verify", with(navigation, "X-Forwarded-Host", strings.TrimPrefix(w.site, "http://")), ""); a.StatusCode != 401 || a.Header["X-Login-Url"] != nil {
		t.Errorf("without a method: got status %d and %v", a.StatusCode, a.Header)
	}
	for _, method := range []string{"POST", "HEAD", "OPTIONS", "PUT"} {
		if a := b.do(method, w.auth+"/oauth2/verify", traefik("GET", "/x", navigation), ""); a.StatusCode != 405 || a.Header["Authorization"] != nil {
			t.Errorf("asked by %s: got status %d and %v", method, a.StatusCode, a.Header)
		}
	}
}

// A19, A27: whoever asks without being a trusted proxy learns nothing, with a
// session or without, by whatever headers; and the log says what to do if it
// was the proxy.
func TestA19A27VerifyAnswersTrustedProxiesOnly(t *testing.T) {
	w := newInFront(t)
	b := w.browser()
	b.follow(b.visit(w.site + "/oauth2/login?return_to=/page"))
	before := plain
	t.Cleanup(func() { plain = before })
	plain = before.Clone()
	plain.DialContext = (&net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, 2)}}).DialContext
	for _, method := range []string{"GET", "POST", "OPTIONS"} {
		header := with(traefik("GET", "/page", navigation), "X-Forwarded-For", "127.0.0.1", "X-Forwarded-Host", strings.TrimPrefix(w.site, "http://"), "X-Real-IP", "127.0.0.1", "Forwarded", "for=127.0.0.1")
		a := b.do(method, w.auth+"/oauth2/verify", header, "")
		status := 403
		if method != "GET" {
			status = 405
		}
		for _, name := range []string{"Authorization", "X-Auth-Sub", "X-Auth-Email", "X-Login-Url", "Set-Cookie"} {
			if a.Header[name] != nil {
				t.Errorf("%s: got %s", method, name)
			}
		}
		if a.StatusCode != status {
			t.Errorf("%s: got status %d", method, a.StatusCode)
		}
	}
	line := w.logged("request failed", "untrusted_proxy")
	if !strings.Contains(line, `"client_ip":"127.0.0.2"`) || !strings.Contains(line, "trusted_proxies") {
		t.Errorf("got %s", line)
	}
}

// Where verify is off, its path is one of the application's, and protected.
// Where it is on, the directive's own matcher does not hide it; and nothing is
// bypassed there, whatever a client has the proxy say.
func TestVerifyAndItsRoute(t *testing.T) {
	w := newWorld(t)
	w.caddy(basic)
	if a := w.browser().fetch(w.site + "/oauth2/verify"); a.StatusCode != 401 {
		t.Errorf("off: got status %d", a.StatusCode)
	}
	w.browser().login(w, "/oauth2/verify")
	for _, matcher := range []string{"/app/*", ""} {
		w := newWorld(t)
		w.caddy(`
	servers {
		trusted_proxies static 127.0.0.1/32
	}
	---
	pkce_auth ` + matcher + ` $OP public {
		verify on
		header_up X-Auth-Sub {http.auth.user.id}
		bypass /public/* /oauth2/verify
		bypass remote_ip 127.0.0.1
	}
	reverse_proxy $UPSTREAM`)
		for _, uri := range []string{"/public/x", "/app/x", "/other"} {
			a := w.browser().do("GET", w.site+"/oauth2/verify", traefik("GET", uri, fetched), "")
			if a.StatusCode != 401 || a.Header["X-Auth-Sub"] != nil {
				t.Errorf("matcher %q, %s: got status %d and %v", matcher, uri, a.StatusCode, a.Header)
			}
		}
		b := w.browser()
		b.open(w.site + "/oauth2/login?return_to=/app/")
		a := b.do("GET", w.site+"/oauth2/verify", traefik("GET", "/other", fetched), "")
		if a.StatusCode != 204 || a.Header.Get("X-Auth-Sub") != "alice" || !strings.HasPrefix(a.Header.Get("Authorization"), "Bearer ") {
			t.Errorf("matcher %q, with a session: got status %d and %v", matcher, a.StatusCode, a.Header)
		}
		_ = stop()
	}
}
