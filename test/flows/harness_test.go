// Package flows walks through the module as its users do: a browser, Caddy in
// this process, a provider that is honest or not, and an upstream that says
// what reached it.
package flows

import (
	"fmt"
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
	t         testing.TB
	op        *provider.Provider
	upstream  *upstream
	dir       string
	site      string // the origin of the site, once Caddy runs
	admin     string // the address of Caddy's admin endpoint; empty: there is none
	store     string // of sessions, where the configuration names none; empty: the default
	mu        sync.Mutex
	browsers  []*browser
	reloading bool
	expect    []string // secrets that a test itself brings
	exempt    string   // lines of the log that hold this are not searched for secrets
}

func newWorld(t testing.TB) *world { return newWorldWith(t, provider.Config{}) }

func newWorldWith(t testing.TB, cfg provider.Config) *world {
	t.Helper()
	op, err := provider.Start(cfg)
	if err != nil {
		t.Fatal(err)
	}
	w := &world{t: t, op: op, upstream: newUpstream(t), dir: workDir(t), store: storeOfAll()}
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

// workDir is a folder that goes with the test: later than t.TempDir if it must
// be, for a refresh that nobody waits for may give back its lock in the storage
// when Caddy has stopped.
func workDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "flows")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		for tries := 0; os.RemoveAll(dir) != nil; tries++ {
			if tries == 100 {
				t.Errorf("%s cannot be removed", dir)
				return
			}
			time.Sleep(50 * time.Millisecond)
		}
	})
	return dir
}

// bobsProvider starts a provider beside that of the world, where bob is logged
// in.
func bobsProvider(t testing.TB) *provider.Provider {
	t.Helper()
	op, err := provider.Start(provider.Config{Login: "bob", Users: map[string]map[string]any{"bob": {}}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = op.Close() })
	return op
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
	if i := strings.Index(log, "panic serving"); i >= 0 {
		w.t.Errorf("a handler panicked: …%.2000s", log[i:])
	}
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
	return w.loadFile(w.file(address, directives))
}

// file is the Caddyfile of a site.
func (w *world) file(address, directives string) string {
	global := ""
	if at := dashes.FindStringIndex(directives); at != nil {
		global, directives = directives[:at[0]], directives[at[1]:]
	}
	if strings.Contains(global, "servers {") {
		global = strings.Replace(global, "servers {", "servers {\ntrace", 1)
	} else {
		global += "\nservers {\ntrace\n}"
	}
	admin := "off"
	if w.admin != "" {
		admin = w.admin
	}
	return fmt.Sprintf(`{
	admin %[6]s
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
`, filepath.Join(w.dir, "storage"), w.logFile(), global, address, directives, admin)
}

// loadFile loads a whole Caddyfile.
func (w *world) loadFile(text string) error {
	config, err := w.adapt(text)
	if err != nil {
		return err
	}
	return caddy.Load(config, true)
}

// adapt gives the JSON of a Caddyfile.
func (w *world) adapt(text string) ([]byte, error) {
	text = strings.NewReplacer("$OP", w.op.URL, "$UPSTREAM", strings.TrimPrefix(w.upstream.server.URL, "http://"), "$DIR", w.dir).Replace(text)
	adapter := caddyconfig.GetAdapter("caddyfile")
	config, _, err := adapter.Adapt([]byte(text), map[string]any{"filename": "Caddyfile"})
	if err != nil {
		return nil, err
	}
	return w.withStore(config), nil
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
