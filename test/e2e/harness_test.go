// Package e2e runs the real thing: Caddy as people build it, a certified
// OpenID Provider, and Chromium. It is a module of its own, so that nobody who
// imports the module downloads what only its tests need.
package e2e

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/chromedp"
)

// caddyBinary is built once, for all tests.
var caddyBinary string

func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == "supervise" {
		os.Exit(supervise(os.Args[2:]))
	}
	os.Exit(func() int {
		dir, err := os.MkdirTemp("", "e2e-")
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		defer os.RemoveAll(dir)
		caddyBinary = filepath.Join(dir, "caddy")
		build := exec.Command("go", "build", "-o", caddyBinary, "./cmd/caddy")
		build.Dir = "../.."
		if out, err := build.CombinedOutput(); err != nil {
			fmt.Fprintf(os.Stderr, "building Caddy: %v\n%s", err, out)
			return 1
		}
		for _, tool := range []string{
			chromiumPath(), "node", "oidc-provider/node_modules/oidc-provider/package.json", dexBinary, "glewlwyd", "sqlite3",
			nginxBinary,
		} {
			_, err := exec.LookPath(tool)
			if _, statErr := os.Stat(tool); err != nil && statErr != nil {
				fmt.Fprintf(os.Stderr, "%s is missing: `make test` installs what the end-to-end tests need\n", tool)
				return 1
			}
		}
		return m.Run()
	}())
}

func chromiumPath() string {
	if path := os.Getenv("CHROMIUM"); path != "" {
		return path
	}
	return "chromium"
}

// process is a program that a test started, and ends.
type process struct {
	t     *testing.T
	cmd   *exec.Cmd
	stdin io.WriteCloser
	mu    sync.Mutex
	lines []string
	more  chan struct{}
	ended chan struct{} // closed when it prints no more
}

// start starts a program, and keeps what it prints.
func start(t *testing.T, dir, name string, args ...string) *process {
	t.Helper()
	cmd := exec.Command(name, args...)
	cmd.Dir = dir
	p := &process{t: t, cmd: cmd, more: make(chan struct{}, 1), ended: make(chan struct{})}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stderr = cmd.Stdout
	if p.stdin, err = cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var reading sync.WaitGroup
	reading.Go(func() {
		defer close(p.ended)
		scanner := bufio.NewScanner(out)
		scanner.Buffer(nil, 1<<20)
		for scanner.Scan() {
			p.mu.Lock()
			p.lines = append(p.lines, scanner.Text())
			p.mu.Unlock()
			select {
			case p.more <- struct{}{}:
			default:
			}
		}
	})
	t.Cleanup(func() {
		_ = p.stdin.Close()
		_ = cmd.Process.Signal(os.Interrupt)
		timer := time.AfterFunc(10*time.Second, func() { _ = cmd.Process.Kill() })
		reading.Wait()
		_ = cmd.Wait()
		timer.Stop()
		if t.Failed() {
			t.Logf("%s printed:\n%s", filepath.Base(name), p.output())
		}
	})
	return p
}

func (p *process) output() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return strings.Join(p.lines, "\n")
}

// printed waits for a line that matches, and returns its first group.
func (p *process) printed(pattern string) string {
	p.t.Helper()
	re := regexp.MustCompile(pattern)
	deadline := time.After(60 * time.Second)
	for {
		if found := re.FindStringSubmatch(p.output()); found != nil {
			return found[len(found)-1]
		}
		select {
		case <-p.more:
		case <-deadline:
			p.t.Fatalf("%q was not printed; this was:\n%s", pattern, p.output())
		}
	}
}

// world is a site behind Caddy, with a provider and an upstream.
type world struct {
	t        *testing.T
	idp      *process
	front    *front // of a provider that stands behind one
	issuer   string
	caddy    *process
	site     string
	login    string // the path of its login, if it is not /oauth2/login
	upstream *upstream
}

// newWorld starts a provider and a Caddy whose site has the given directives.
// $ISSUER and $UPSTREAM stand for the addresses of both. Global options come
// before a line "---". The provider's environment is added to.
func newWorld(t *testing.T, address, directives string, env ...string) *world {
	t.Helper()
	w := &world{t: t, upstream: newUpstream(t)}
	w.begin(address, directives, env...)
	return w
}

// newWorldWithLogin is newWorld for a site whose login is elsewhere.
func newWorldWithLogin(t *testing.T, directives, login string) *world {
	t.Helper()
	w := &world{t: t, upstream: newUpstream(t), login: login}
	w.begin("http://127.0.0.1:0", directives)
	return w
}

func (w *world) begin(address, directives string, env ...string) {
	t := w.t
	t.Helper()
	for _, variable := range env {
		name, value, _ := strings.Cut(variable, "=")
		t.Setenv(name, value)
	}
	w.idp = start(t, "oidc-provider", "node", "idp.mjs")
	w.issuer = "http://127.0.0.1:" + w.idp.printed(`\{"port":(\d+)\}`)
	w.startCaddy(address, directives)
	origins, err := json.Marshal([]string{w.site})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.idp.stdin.Write(append(origins, '\n')); err != nil {
		t.Fatal(err)
	}
	w.idp.printed(`"issuer":"(.*)"`)
	w.ready()
}

// ready waits until logins begin: Caddy may have asked the provider before
// that was up, and asks again some seconds later.
func (w *world) ready() {
	w.t.Helper()
	login := w.login
	if login == "" {
		login = "/oauth2/login"
	}
	client := &http.Client{
		Timeout:       5 * time.Second,
		Transport:     &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, DisableKeepAlives: true},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
		if resp, err := client.Get(w.site + login); err == nil {
			_ = resp.Body.Close()
			if resp.StatusCode == http.StatusFound {
				return
			}
		}
	}
	w.t.Fatal("no login begins")
}

func (w *world) startCaddy(address, directives string) {
	w.t.Helper()
	dir := w.t.TempDir()
	global := ""
	if before, after, ok := strings.Cut(directives, "\n---\n"); ok {
		global, directives = before, after
	}
	text := fmt.Sprintf(`{
	admin off
	persist_config off
	skip_install_trust
	storage file_system %q
	auto_https disable_redirects
	log {
		level DEBUG
		format json
	}
	%s
}

%s {
	bind 127.0.0.1
	log
	%s
}
`, filepath.Join(dir, "storage"), global, address, directives)
	text = strings.NewReplacer("$ISSUER", w.issuer, "$UPSTREAM", strings.TrimPrefix(w.upstream.server.URL, "http://")).Replace(text)
	caddyfile := filepath.Join(dir, "Caddyfile")
	if err := os.WriteFile(caddyfile, []byte(text), 0o600); err != nil {
		w.t.Fatal(err)
	}
	w.caddy = start(w.t, dir, caddyBinary, "run", "--config", caddyfile, "--adapter", "caddyfile")
	_, port, err := net.SplitHostPort(w.caddy.printed(`"actual_address":"([^"]+)"`))
	if err != nil {
		w.t.Fatal(err)
	}
	w.site = strings.TrimSuffix(address, ":0") + ":" + port
}

// newBrowser starts a Chromium of its own, without any past.
func newBrowser(t *testing.T) context.Context {
	t.Helper()
	return newBrowserIn(t, t.TempDir())
}

// newBrowserIn starts a Chromium with a profile that may hold preferences.
func newBrowserIn(t *testing.T, profile string) context.Context {
	t.Helper()
	// Chromium leaves folders behind when it is ended; and the path of its
	// socket must be short, so this is none of the test's own.
	temporary, err := os.MkdirTemp("", "e2e-")
	if err != nil {
		t.Fatal(err)
	}
	options := append(chromedp.DefaultExecAllocatorOptions[:], chromedp.Env("TMPDIR="+temporary),
		chromedp.ExecPath(chromiumPath()), chromedp.UserDataDir(profile), chromedp.NoSandbox,
		chromedp.Flag("disable-gpu", true), chromedp.Flag("disable-quic", true), chromedp.Flag("no-first-run", true),
		chromedp.Flag("disable-background-networking", true), chromedp.Flag("disable-component-update", true), chromedp.Flag("disable-sync", true),
		chromedp.Flag("ignore-certificate-errors", true),
	)
	ctx, cancelAllocator := chromedp.NewExecAllocator(context.Background(), options...)
	ctx, cancelContext := chromedp.NewContext(ctx)
	ctx, cancelTimeout := context.WithTimeout(ctx, 90*time.Second)
	t.Cleanup(func() {
		cancelTimeout()
		cancelContext()
		cancelAllocator()
		_ = os.RemoveAll(temporary)
	})
	if err := chromedp.Do(ctx, chromedp.EmulateViewport(1000, 760)); err != nil {
		t.Fatal(err)
	}
	return ctx
}

// css selects by CSS; a plain string would also match text, that of a style
// sheet included.
func css(selector string) chromedp.CSS { return chromedp.CSS(selector) }

func do(t *testing.T, ctx context.Context, steps ...chromedp.Action[chromedp.Void]) {
	t.Helper()
	if err := chromedp.Do(ctx, steps...); err != nil {
		at, _ := chromedp.Run(ctx, chromedp.Location())
		body, _ := chromedp.Run(ctx, chromedp.Text(css(`body`)))
		t.Fatalf("%v; the browser is at %s, and shows: %.500s", err, at, body)
	}
}

func run[T any](t *testing.T, ctx context.Context, action chromedp.Action[T]) T {
	t.Helper()
	value, err := chromedp.Run(ctx, action)
	if err != nil {
		t.Fatal(err)
	}
	return value
}

// shows waits until an expression is true of a page that has loaded.
func shows(t *testing.T, ctx context.Context, expression string) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		ok, err := chromedp.Run(ctx, chromedp.Evaluate[bool](`document.readyState === "complete" && Boolean(`+expression+`)`))
		if ok && err == nil {
			return
		}
	}
	at, _ := chromedp.Run(ctx, chromedp.Location())
	body, _ := chromedp.Run(ctx, chromedp.Evaluate[string](`document.body.innerText`))
	t.Fatalf("in vain waited for %s; the browser is at %s, and shows: %.500s", expression, at, body)
}

// arrives waits until the browser is at a URL.
func arrives(t *testing.T, ctx context.Context, want string) {
	t.Helper()
	shows(t, ctx, `location.href === `+quote(want))
}

// screenshot keeps a picture of what the browser shows, for people to look at.
func screenshot(t *testing.T, ctx context.Context, name string) {
	t.Helper()
	dir := os.Getenv("E2E_SCREENSHOTS")
	if dir == "" {
		dir = "screenshots"
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, name+".png"), run(t, ctx, chromedp.FullScreenshot(100)), 0o644); err != nil {
		t.Fatal(err)
	}
}

// logIn fills in the provider's own form, and consents.
func logIn(t *testing.T, ctx context.Context, user string) {
	t.Helper()
	fillIn(t, ctx, user)
	shows(t, ctx, `document.querySelector("input[name=prompt][value=consent]")`)
	do(t, ctx, chromedp.Click(css(`button.login-submit`)))
}

// logOut says yes to the provider's own question.
func logOut(t *testing.T, ctx context.Context) {
	t.Helper()
	shows(t, ctx, `document.querySelector("button[name=logout][value=yes]")`)
	do(t, ctx, chromedp.Click(css(`button[name=logout][value=yes]`)))
}

// signedOut waits for the page after a logout.
func signedOut(t *testing.T, ctx context.Context, site string) {
	t.Helper()
	shows(t, ctx, `location.href.startsWith(`+quote(site+"/oauth2/signed-out")+`) && document.querySelector("h1").innerText === "You are signed out"`)
}

func fillIn(t *testing.T, ctx context.Context, user string) {
	t.Helper()
	shows(t, ctx, `document.querySelector("input[name=prompt][value=login]")`)
	do(t, ctx,
		chromedp.SendKeys(css(`input[name=login]`), user), chromedp.SendKeys(css(`input[name=password]`), "x"),
		chromedp.Click(css(`button.login-submit`)),
	)
}
