// Package flows walks through the module as its users do: a browser, Caddy in
// this process, a provider that is honest or not, and an upstream that says
// what reached it.
package flows

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	_ "github.com/caddyserver/caddy/v2/modules/standard"

	_ "github.com/pkce-auth/caddy-pkce-auth/caddyauth"
	"github.com/pkce-auth/caddy-pkce-auth/test/provider"
)

// world is everything that takes part.
type world struct {
	t        testing.TB
	op       *provider.Provider
	upstream *upstream
	dir      string
	site     string // the origin of the site, once Caddy runs
	browsers []*browser
	expect   []string // secrets that a test itself brings
	exempt   string   // lines of the log that hold this are not searched for secrets
}

func newWorld(t testing.TB) *world { return newWorldWith(t, provider.Config{}) }

func newWorldWith(t testing.TB, cfg provider.Config) *world {
	t.Helper()
	op, err := provider.Start(cfg)
	if err != nil {
		t.Fatal(err)
	}
	w := &world{t: t, op: op, upstream: newUpstream(t), dir: t.TempDir()}
	t.Cleanup(func() {
		if err := caddy.Stop(); err != nil {
			t.Errorf("stopping Caddy: %v", err)
		}
		w.keptItsSecrets()
		w.keptItsCookies()
		if err := op.Close(); err != nil {
			t.Errorf("stopping the provider: %v", err)
		}
	})
	return w
}

// keptItsSecrets is promise 2, checked after every test at debug level (A57,
// IDPS 14): no token, code, verifier, state, secret or cookie value stands in
// the log.
func (w *world) keptItsSecrets() {
	secrets := append(w.op.Issued(), w.expect...)
	secrets = append(secrets, "s3cr:t%+é", "s3cr%3At%25%2B%C3%A9")
	for _, r := range w.op.Requests("token") {
		secrets = append(secrets, r.Form.Get("code_verifier"))
	}
	for _, r := range w.op.Requests("authorize") {
		secrets = append(secrets, r.Form.Get("state"), r.Form.Get("nonce"))
	}
	for _, b := range w.browsers {
		secrets = append(secrets, b.secrets...)
	}
	log := w.log()
	if w.exempt != "" {
		log = regexp.MustCompile("(?m)^.*"+regexp.QuoteMeta(w.exempt)+".*$").ReplaceAllString(log, "")
	}
	for _, secret := range secrets {
		if len(secret) < 8 {
			continue
		}
		if i := strings.Index(log, secret); i >= 0 {
			w.t.Errorf("the log holds a secret: …%s…", log[max(0, i-300):min(len(log), i+len(secret)+100)])
			return
		}
	}
}

var ourCookie = regexp.MustCompile(`(^|[; ])(__[A-Za-z-]+-)?pkce_auth[=._]`)

// keptItsCookies is A85 and R19g, checked after every test: no cookie of ours
// reached the upstream, whatever the path.
func (w *world) keptItsCookies() {
	w.upstream.mu.Lock()
	defer w.upstream.mu.Unlock()
	for _, r := range w.upstream.requests {
		for _, line := range r.Header["Cookie"] {
			if ourCookie.MatchString(line) {
				w.t.Errorf("%s %s: the upstream got our cookies: %s", r.Method, r.RequestURI, line)
			}
		}
		for _, secret := range w.op.Issued() {
			if strings.Contains(r.RequestURI, secret) {
				w.t.Errorf("the upstream got a secret in a URL: %s", r.RequestURI)
			}
		}
	}
}

// caddy loads a configuration: one site on loopback, with the given
// directives. $OP and $UPSTREAM stand for the addresses of both. Global
// options come before a line "---".
func (w *world) caddy(directives string) {
	w.t.Helper()
	if err := w.load("http://127.0.0.1:0", directives); err != nil {
		w.t.Fatal(err)
	}
	w.site = "http://" + listenAddress(w.t)
}

// caddyTLS is caddy for a site with a name, https://app.test.
func (w *world) caddyTLS(directives string) {
	w.t.Helper()
	certificate, key := writeCertificate(w.t, w.dir)
	if err := w.load("https://app.test:0", directives+fmt.Sprintf("\ntls %q %q\n", certificate, key)); err != nil {
		w.t.Fatal(err)
	}
	_, port, _ := strings.Cut(listenAddress(w.t), ":")
	w.site = "https://app.test:" + port
}

func (w *world) load(address, directives string) error {
	global := ""
	if at := dashes.FindStringIndex(directives); at != nil {
		global, directives = directives[:at[0]], directives[at[1]:]
	}
	if strings.Contains(global, "servers {") {
		global = strings.Replace(global, "servers {", "servers {\ntrace", 1)
	} else {
		global += "\nservers {\ntrace\n}"
	}
	return w.loadFile(fmt.Sprintf(`{
	admin off
	persist_config off
	auto_https off
	storage file_system %[1]q
	log {
		output file %[2]q {
			roll_disabled
		}
		format json
		level DEBUG
	}
	%[3]s
}

%[4]s {
	bind 127.0.0.1
	log
	%[5]s
}
`, filepath.Join(w.dir, "storage"), w.logFile(), global, address, directives))
}

// loadFile loads a whole Caddyfile.
func (w *world) loadFile(text string) error {
	text = strings.NewReplacer("$OP", w.op.URL, "$UPSTREAM", strings.TrimPrefix(w.upstream.server.URL, "http://"), "$DIR", w.dir).Replace(text)
	adapter := caddyconfig.GetAdapter("caddyfile")
	config, _, err := adapter.Adapt([]byte(text), map[string]any{"filename": "Caddyfile"})
	if err != nil {
		return err
	}
	return caddy.Load(config, true)
}

func listenAddress(t testing.TB) string {
	t.Helper()
	app, err := caddy.ActiveContext().App("http")
	if err != nil {
		t.Fatal(err)
	}
	for _, server := range app.(*caddyhttp.App).Servers {
		for _, listener := range server.Listeners() {
			return listener.Addr().String()
		}
	}
	t.Fatal("Caddy listens nowhere")
	return ""
}

// dashes stand between global options and directives.
var dashes = regexp.MustCompile(`\n\s*---\n`)

func (w *world) logFile() string { return filepath.Join(w.dir, "caddy.log") }

// log returns what Caddy has logged so far.
func (w *world) log() string {
	w.t.Helper()
	data, err := os.ReadFile(w.logFile())
	if err != nil && !os.IsNotExist(err) {
		w.t.Fatal(err)
	}
	return string(data)
}

// logged waits for a line of the log that holds all parts: Caddy writes the
// access log after the answer is on its way.
func (w *world) logged(parts ...string) string {
	w.t.Helper()
	for deadline := time.Now().Add(5 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		for line := range strings.Lines(w.log()) {
			if !slices.ContainsFunc(parts, func(part string) bool { return !strings.Contains(line, part) }) {
				return line
			}
		}
		if time.Now().After(deadline) {
			w.t.Fatalf("no line of the log holds %q; it is:\n%s", parts, w.log())
		}
	}
}

// upstream answers with its body and records what reached it.
type upstream struct {
	server *httptest.Server

	mu       sync.Mutex
	requests []*http.Request
	bodies   []string
	answer   func(http.ResponseWriter, *http.Request) // nil: 200, "upstream <uri>"
}

func newUpstream(t testing.TB) *upstream {
	u := &upstream{}
	u.server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		u.mu.Lock()
		answer := u.answer
		u.mu.Unlock()
		var body []byte
		if answer == nil {
			body, _ = io.ReadAll(r.Body)
		}
		u.mu.Lock()
		u.requests = append(u.requests, r.Clone(r.Context()))
		u.bodies = append(u.bodies, string(body))
		u.mu.Unlock()
		if answer != nil {
			answer(w, r)
			return
		}
		fmt.Fprintf(w, "upstream %s", r.RequestURI)
	}))
	t.Cleanup(u.server.Close)
	return u
}

// answers sets how the upstream answers.
func (u *upstream) answers(answer func(http.ResponseWriter, *http.Request)) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.answer = answer
}

// count is how many requests reached the upstream.
func (u *upstream) count() int {
	u.mu.Lock()
	defer u.mu.Unlock()
	return len(u.requests)
}

// last is the latest request that reached the upstream.
func (u *upstream) last(t testing.TB) *http.Request {
	t.Helper()
	u.mu.Lock()
	defer u.mu.Unlock()
	if len(u.requests) == 0 {
		t.Fatal("nothing reached the upstream")
	}
	return u.requests[len(u.requests)-1]
}

// browser is a browser with one window.
type browser struct {
	t       testing.TB
	jar     http.CookieJar
	secrets []string // the values of all cookies of ours that it got
}

func (w *world) browser() *browser {
	jar, err := cookiejar.New(nil)
	if err != nil {
		w.t.Fatal(err)
	}
	b := &browser{t: w.t, jar: jar}
	w.browsers = append(w.browsers, b)
	return b
}

// answer is what a request got.
type answer struct {
	*http.Response
	body string
}

// navigation are the headers of a top-level navigation in Chromium.
var navigation = http.Header{
	"Accept":                    {"text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8"},
	"Sec-Fetch-Mode":            {"navigate"},
	"Sec-Fetch-Dest":            {"document"},
	"Sec-Fetch-Site":            {"none"},
	"Sec-Fetch-User":            {"?1"},
	"Upgrade-Insecure-Requests": {"1"},
	"User-Agent":                {"Mozilla/5.0 test"},
}

// fetched are the headers of a script's fetch to its own site.
var fetched = http.Header{
	"Accept":         {"*/*"},
	"Sec-Fetch-Mode": {"cors"},
	"Sec-Fetch-Dest": {"empty"},
	"Sec-Fetch-Site": {"same-origin"},
	"User-Agent":     {"Mozilla/5.0 test"},
}

// plain is a transport that adds nothing, reuses nothing, and takes app.test
// for this machine.
var plain = &http.Transport{
	DisableCompression: true,
	DisableKeepAlives:  true,
	TLSClientConfig:    &tls.Config{RootCAs: authority().pool},
	DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
		if _, port, err := net.SplitHostPort(addr); err == nil {
			addr = net.JoinHostPort("127.0.0.1", port)
		}
		return new(net.Dialer).DialContext(ctx, network, addr)
	},
}

// do sends one request with the browser's cookies, keeps those it gets, and
// follows no redirect.
func (b *browser) do(method, target string, header http.Header, body string) answer {
	b.t.Helper()
	req, err := http.NewRequest(method, target, strings.NewReader(body))
	if err != nil {
		b.t.Fatal(err)
	}
	if body == "" {
		req.Body = nil
	}
	req.Header = header.Clone()
	return b.send(req)
}

func (b *browser) send(req *http.Request) answer {
	b.t.Helper()
	for _, c := range b.jar.Cookies(req.URL) {
		req.AddCookie(c)
	}
	resp, err := plain.RoundTrip(req)
	if err != nil {
		b.t.Fatal(err)
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	if err != nil {
		b.t.Fatal(err)
	}
	b.jar.SetCookies(req.URL, resp.Cookies())
	for _, c := range resp.Cookies() {
		if strings.Contains(c.Name, "pkce_auth") {
			b.secrets = append(b.secrets, c.Value)
		}
	}
	return answer{resp, string(data)}
}

// visit goes to one URL, as a navigation, and follows no redirect.
func (b *browser) visit(target string) answer {
	b.t.Helper()
	return b.do(http.MethodGet, target, navigation, "")
}

// open goes to a URL and follows all redirects.
func (b *browser) open(target string) answer {
	b.t.Helper()
	return b.follow(b.visit(target))
}

// follow follows an answer's redirects, to their end.
func (b *browser) follow(a answer) answer {
	b.t.Helper()
	for range 10 {
		location := a.location(b.t)
		if location == "" {
			return a
		}
		a = b.visit(location)
	}
	b.t.Fatalf("more than ten redirects, the last to %s", a.Header.Get("Location"))
	return a
}

// fetch sends a script's request.
func (b *browser) fetch(target string) answer {
	b.t.Helper()
	return b.do(http.MethodGet, target, fetched, "")
}

// location is the absolute URL of a redirect, empty if it is none.
func (a answer) location(t testing.TB) string {
	t.Helper()
	if a.StatusCode < 300 || a.StatusCode >= 400 {
		return ""
	}
	u, err := a.Location()
	if err != nil {
		t.Fatalf("status %d without a location: %v", a.StatusCode, err)
	}
	return u.String()
}

// cookies are the browser's cookies for the site, by name.
func (b *browser) cookies(site string) map[string]string {
	u, err := url.Parse(site)
	if err != nil {
		b.t.Fatal(err)
	}
	cookies := map[string]string{}
	for _, c := range b.jar.Cookies(u) {
		cookies[c.Name] = c.Value
	}
	return cookies
}

// loginStates are the names of the browser's login states.
func (b *browser) loginStates(site string) []string {
	var names []string
	for name := range b.cookies(site) {
		if strings.Contains(name, ".l") {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// login opens a page and checks that the upstream answered in the end.
func (b *browser) login(w *world, path string) answer {
	b.t.Helper()
	a := b.open(w.site + path)
	if a.StatusCode != http.StatusOK || a.body != "upstream "+path {
		b.t.Fatalf("opening %s: got status %d and %q", path, a.StatusCode, a.body)
	}
	return a
}

// callback goes as far as the callback, and returns its URL without opening
// it.
func (b *browser) callback(w *world, path string) string {
	b.t.Helper()
	toProvider := b.visit(w.site + path).location(b.t)
	if !strings.HasPrefix(toProvider, w.op.URL+"/authorize?") {
		b.t.Fatalf("%s: got a redirect to %q, want one to the provider", path, toProvider)
	}
	return b.visit(toProvider).location(b.t)
}

func query(t testing.TB, target string) url.Values {
	t.Helper()
	u, err := url.Parse(target)
	if err != nil {
		t.Fatal(err)
	}
	q, err := url.ParseQuery(u.RawQuery)
	if err != nil {
		t.Fatal(err)
	}
	return q
}

// basic is the shortest configuration.
const basic = `
	pkce_auth $OP public
	reverse_proxy $UPSTREAM
`

// eventually waits for something that takes its time.
func (w *world) eventually(what string, ok func() bool) {
	w.t.Helper()
	for deadline := time.Now().Add(15 * time.Second); !ok(); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(deadline) {
			w.t.Fatalf("in vain waited for: %s", what)
		}
	}
}

// stop stops Caddy before the test ends.
func stop() error { return caddy.Stop() }

// h2 has the browsers speak HTTP/2 from now on.
func (w *world) h2() {
	before := plain
	plain = before.Clone()
	plain.ForceAttemptHTTP2 = true
	w.t.Cleanup(func() { plain = before })
}

func writeFile(t testing.TB, name, content string) {
	t.Helper()
	if err := os.WriteFile(name, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

// copyJar copies the cookies of a site into a jar of its own.
func copyJar(t testing.TB, from http.CookieJar, site string) http.CookieJar {
	t.Helper()
	u, err := url.Parse(site)
	if err != nil {
		t.Fatal(err)
	}
	jar, err := cookiejar.New(nil)
	if err != nil {
		t.Fatal(err)
	}
	jar.SetCookies(u, from.Cookies(u))
	return jar
}

// evict drops a browser's cookies for a site.
func evict(t testing.TB, b *browser, site string) {
	t.Helper()
	u, err := url.Parse(site)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range b.jar.Cookies(u) {
		c.MaxAge = -1
		b.jar.SetCookies(u, []*http.Cookie{c})
	}
}

// noCookies is a jar without cookies.
func (w *world) noCookies() http.CookieJar {
	jar, err := cookiejar.New(nil)
	if err != nil {
		w.t.Fatal(err)
	}
	return jar
}
