package e2e

import (
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/chromedp/chromedp"
)

const nginxBinary = "/usr/sbin/nginx"

var (
	fencedNginx     = regexp.MustCompile("(?ms)^```nginx\n(.*?)^```$")
	fencedCaddyfile = regexp.MustCompile("(?ms)^```caddyfile\n(.*?)^```$")
)

// freePort is one that nobody listens on.
func freePort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return strconv.Itoa(l.Addr().(*net.TCPAddr).Port)
}

// newNginxWorld starts a site behind nginx, which asks Caddy: both as the
// documentation has them, but for the addresses, and without TLS.
func newNginxWorld(t *testing.T) *world {
	t.Helper()
	data, err := os.ReadFile("../../docs/behind-another-proxy.md")
	if err != nil {
		t.Fatal(err)
	}
	nginx, caddyfile := fencedNginx.FindStringSubmatch(string(data)), fencedCaddyfile.FindStringSubmatch(string(data))
	if nginx == nil || caddyfile == nil {
		t.Fatal("the page has no configuration")
	}
	w := &world{t: t, upstream: newUpstream(t)}
	w.idp = start(t, "oidc-provider", "node", "idp.mjs")
	w.issuer = "http://127.0.0.1:" + w.idp.printed(`\{"port":(\d+)\}`)
	dir, public, asked := t.TempDir(), freePort(t), freePort(t)
	w.site = "http://127.0.0.1:" + public
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	t.Setenv("OIDC_CLIENT_ID", "public")
	config := write("Caddyfile", strings.NewReplacer(
		"{\n\tauto_https off\n", fmt.Sprintf("{\n\tauto_https off\n\tadmin off\n\tpersist_config off\n\tstorage file_system %q\n", filepath.Join(dir, "storage")),
		"http://:8080", "http://:"+asked, "https://tenant.eu.auth0.com", w.issuer, "https://app.example.com", w.site,
	).Replace(caddyfile[1]))
	w.caddy = start(t, dir, caddyBinary, "run", "--config", config, "--adapter", "caddyfile")
	w.caddy.printed(`serving initial configuration`)
	lines := regexp.MustCompile(`(?m)^\s*ssl_.*\n`).ReplaceAllString(nginx[1], "")
	servers := strings.NewReplacer(
		"listen 443 ssl", "listen 127.0.0.1:"+public, "127.0.0.1:8080", "127.0.0.1:"+asked,
		"127.0.0.1:3000", strings.TrimPrefix(w.upstream.server.URL, "http://"), "app.example.com", "127.0.0.1",
	).Replace(lines)
	temporary := ""
	for _, kind := range []string{"client_body", "proxy", "fastcgi", "uwsgi", "scgi"} {
		temporary += fmt.Sprintf("%s_temp_path %s;\n", kind, filepath.Join(dir, kind))
	}
	server := write("nginx.conf", fmt.Sprintf("daemon off;\nmaster_process off;\nerror_log stderr notice;\npid %s;\nevents {}\nhttp {\naccess_log off;\n%s%s}\n",
		filepath.Join(dir, "nginx.pid"), temporary, servers))
	start(t, dir, nginxBinary, "-p", dir, "-e", "stderr", "-c", server)
	origins, err := json.Marshal([]string{w.site})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.idp.stdin.Write(append(origins, '\n')); err != nil {
		t.Fatal(err)
	}
	w.idp.printed(`"issuer":"(.*)"`)
	w.ready()
	return w
}

// A13, A19: nginx in front, by auth_request. A person who opens a page logs in
// and is back; whatever a client says of its identity, and of what it asks for,
// counts nowhere; a script gets 401.
func TestA13A19NginxAuthRequest(t *testing.T) {
	w := newNginxWorld(t)
	browser := newBrowser(t)
	do(t, browser, chromedp.Navigate(w.site+"/page?x=1"))
	logIn(t, browser, "alice")
	arrives(t, browser, w.site+"/page?x=1")
	got := w.upstream.last(t, "/page").Header
	if got.Get("X-Auth-Sub") != "alice" || !strings.HasPrefix(got.Get("Authorization"), "Bearer ") || strings.Contains(got.Get("Cookie"), "pkce_auth") {
		t.Errorf("the upstream got %v", got)
	}
	token := got.Get("Authorization")
	run(t, browser, chromedp.Evaluate[string](`document.cookie = "sessionid=7"`))
	shows(t, browser, `(window.asked = window.asked || fetch("/spoofed", {method: "POST", body: "x", headers: {
		"X-Auth-Sub": "admin", "X-Auth-Email": "admin@example.com", "Authorization": "Bearer x",
		"X-Forwarded-Uri": "/evil", "X-Original-URL": "/evil", "X-Forwarded-Method": "GET", "X-Forwarded-Host": "evil.test",
	}}).then(r => { window.status = r.status })) && window.status == 200`)
	got = w.upstream.last(t, "/spoofed").Header
	if got.Get("X-Auth-Sub") != "alice" || len(got["X-Auth-Sub"]) != 1 || strings.Contains(got.Get("X-Auth-Email"), "admin") || got.Get("Authorization") != token || got.Get("Cookie") != "sessionid=7" {
		t.Errorf("the upstream got %v", got)
	}

	transport := &http.Transport{DisableKeepAlives: true}
	ask := func(method, path string, header http.Header) *http.Response {
		req, err := http.NewRequest(method, w.site+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header = header
		resp, err := transport.RoundTrip(req)
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()
		return resp
	}
	spoofs := http.Header{
		"X-Auth-Sub": {"admin"}, "X-Auth-Email": {"admin@example.com"}, "X_auth_sub": {"admin"}, "X-Forwarded-Uri": {"/evil"}, "X-Forwarded-Host": {"evil.test"},
		"X-Original-Url": {"https://evil.test/evil"}, "X-Original-Method": {"GET"}, "X-Forwarded-For": {"127.0.0.1"}, "Connection": {"close, X-Auth-Sub"},
	}
	navigate, script := spoofs.Clone(), spoofs.Clone()
	navigate.Set("Accept", "text/html")
	navigate.Set("Sec-Fetch-Mode", "navigate")
	script.Set("Accept", "*/*")
	if resp := ask("GET", "/secret?y=2", navigate); resp.StatusCode != 302 || resp.Header.Get("Location") != w.site+"/oauth2/login?return_to=%2Fsecret%3Fy%3D2" {
		t.Errorf("a navigation without a session: got status %d to %q", resp.StatusCode, resp.Header.Get("Location"))
	}
	for method, header := range map[string]http.Header{"GET": script, "POST": navigate, "OPTIONS": script} {
		resp := ask(method, "/secret", header)
		if resp.StatusCode != 401 || resp.Header.Get("Location") != "" || !strings.Contains(resp.Header.Get("WWW-Authenticate"), `login_url="`+w.site+`/oauth2/login"`) {
			t.Errorf("%s without a session: got status %d and %v", method, resp.StatusCode, resp.Header)
		}
	}
	if resp := ask("GET", "/oauth2/verify", navigate); resp.StatusCode != 404 { // for nginx's own questions only
		t.Errorf("verify from outside: got status %d", resp.StatusCode)
	}
	w.upstream.mu.Lock()
	for _, r := range w.upstream.seen {
		if r.URL.Path == "/secret" {
			t.Errorf("%s %s reached the upstream without a session", r.Method, r.URL)
		}
	}
	w.upstream.mu.Unlock()
	do(t, browser, chromedp.Navigate(w.site+"/oauth2/logout"), chromedp.WaitVisible(css(`button`)), chromedp.Click(css(`button`)))
	logOut(t, browser)
	signedOut(t, browser, w.site)
	do(t, browser, chromedp.Navigate(w.site+"/page"))
	shows(t, browser, `document.querySelector("input[name=prompt][value=login]")`)
}
