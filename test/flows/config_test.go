package flows

import (
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"

	"github.com/pkce-auth/caddy-pkce-auth/test/provider"
)

const (
	cookieSecret = "3f2a9c4be1d07786a5c3f09e4b1d2c6789ab34cdef015e72c4d8b6a190f3e25d"
	olderSecret  = "b7c1e05f9a2d4468831ce7f6d05b9a3e2147c8fd60ab93e5174f2c8d0b6ea931"
	thirdSecret  = "0d94f3b2c85a617e2fd80c47ab1e9536c7f0284bd16ea95378c3e0fa4b2d7196"
)

// K4, A57, A123: secrets stand neither in the adapted configuration, when
// they are given as {env.} or {file.}, nor in the log of a server that traces
// its handlers at debug level, not even when they were given as they are.
func TestK4A57A123IDPS44SecretsInConfigAndLog(t *testing.T) {
	t.Setenv("TEST_CLIENT_SECRET", "s3cr:t%+é")
	t.Setenv("TEST_COOKIE_SECRET", cookieSecret)
	for name, options := range map[string]string{
		"placeholders": "client_secret {env.TEST_CLIENT_SECRET}\ncookie_secret {env.TEST_COOKIE_SECRET} {file.$DIR/old}",
		"as they are":  "client_secret s3cr:t%+é\ncookie_secret " + cookieSecret,
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.expect = append(w.expect, cookieSecret)
			writeFile(t, w.dir+"/old", olderSecret+"\n")
			directives := "pkce_auth {\nissuer $OP\nclient_id confidential\n" + strings.ReplaceAll(options, "$DIR", w.dir) + "\n}\nreverse_proxy $UPSTREAM"
			w.caddy(directives)
			w.browser().login(w, "/")
			w.logged(`"logger":"http.log.trace"`, `"msg":"pkce_auth"`, `"client_id":"confidential"`)
			warned := strings.Contains(w.log(), "a secret stands in the configuration")
			if warned != (name == "as they are") {
				t.Errorf("warned of secrets in the configuration: %v", warned)
			}
			adapted, _, err := caddyconfig.GetAdapter("caddyfile").Adapt([]byte("http://127.0.0.1:0 {\n"+strings.ReplaceAll(directives, "$OP", w.op.URL)+"\n}"), nil)
			if err != nil {
				t.Fatal(err)
			}
			if name == "placeholders" && (strings.Contains(string(adapted), "s3cr") || strings.Contains(string(adapted), cookieSecret)) {
				t.Errorf("adapted configuration: %s", adapted)
			}
		})
	}
}

// A configuration that cannot work does not load, and says why.
func TestBrokenConfigurations(t *testing.T) {
	t.Setenv("TEST_SHORT", "short")
	w := newWorld(t)
	for options, want := range map[string]string{
		"client_secret {env.TEST_UNSET}":                     "client_secret: evaluated placeholder {env.TEST_UNSET} is empty",
		"client_secret {file./no/such/file}":                 "client_secret: evaluated placeholder {file./no/such/file} is empty",
		"cookie_secret {env.TEST_UNSET}":                     "cookie_secret: evaluated placeholder {env.TEST_UNSET} is empty",
		"cookie_secret {env.TEST_SHORT}":                     "cookie_secret: is too short",
		"cookie_secret " + cookieSecret + " {env.TEST_SAME}": "cookie_secret: secret 2 stands twice",
		"public_url {env.TEST_SHORT}":                        "public_url: {env.TEST_SHORT}: is not an origin",
	} {
		t.Setenv("TEST_SAME", cookieSecret)
		err := w.load("http://127.0.0.1:0", "pkce_auth {\nissuer $OP\nclient_id public\n"+options+"\n}\nrespond ok")
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want %q", options, err, want)
		}
		if err != nil && strings.Contains(err.Error(), cookieSecret) {
			t.Errorf("%s: the error holds a secret: %v", options, err)
		}
	}
	for config, want := range map[string]string{
		`{"handler":"pkce_auth","provider":"nobody"}`:                                                                            `no provider "nobody" is declared`,
		`{"handler":"pkce_auth","provider":"a","inline":{"issuer":"https://op.test","client_id":"x"}}`:                           "contradict",
		`{"handler":"pkce_auth","inline":{"issuer":"http://op.test","client_id":"x"}}`:                                           "issuer: must be https",
		`{"handler":"pkce_auth","inline":{"issuer":"https://op.test"}}`:                                                          "client_id: is required",
		`{"handler":"pkce_auth","inline":{"issuer":"https://op.test","client_id":"x"},"bypass":[{}]}`:                            "would let every request pass",
		`{"handler":"pkce_auth","inline":{"issuer":"https://op.test","client_id":"x"},"bypass_paths":["/*"]}`:                    "would let every request pass",
		`{"handler":"pkce_auth","inline":{"issuer":"https://op.test","client_id":"x"},"header_up":{"Connection":"x"}}`:           "header_up",
		`{"handler":"pkce_auth","inline":{"issuer":"https://op.test","client_id":"x"},"unauthorized":"always"}`:                  "unauthorized",
		`{"handler":"pkce_auth","inline":{"issuer":"https://op.test","client_id":"x","clock_skew":-1}}`:                          "clock_skew",
		`{"handler":"pkce_auth","inline":{"issuer":"https://op.test","client_id":"x","session":{"store":{"kind":"x"}}}}`:         "pkce_auth.sessions.x",
		`{"handler":"pkce_auth","inline":{"issuer":"https://op.test","client_id":"x","sesion":{}}}`:                              "unknown field",
		`{"handler":"pkce_auth","inline":{"issuer":"https://op.test","client_id":"x","authorization":{"params":{"state":"x"}}}}`: "belongs to the protocol",
	} {
		err := caddy.Load([]byte(`{"admin":{"disabled":true,"config":{"persist":false}},"apps":{"http":{"servers":{"a":{"listen":["127.0.0.1:0"],"routes":[{"handle":[`+config+`]}]}}}}}`), true)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want %q", config, err, want)
		}
	}
}

// K7: provisioning, which `caddy validate` does, too, calls nobody.
func TestK7ProvisioningCallsNobody(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	var calls atomic.Int32
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			calls.Add(1)
			conn.Close()
		}
	}()
	config, _, err := caddyconfig.GetAdapter("caddyfile").Adapt([]byte("{\nadmin off\n}\nhttp://127.0.0.1:0 {\npkce_auth http://"+listener.Addr().String()+" public\n}"), nil)
	if err != nil {
		t.Fatal(err)
	}
	var cfg caddy.Config
	if err := json.Unmarshal(config, &cfg); err != nil {
		t.Fatal(err)
	}
	if err := caddy.Validate(&cfg); err != nil {
		t.Fatal(err)
	}
	time.Sleep(100 * time.Millisecond) // a call, if there were one, takes less
	if calls.Load() != 0 {
		t.Errorf("got %d calls", calls.Load())
	}
}

// reloads gives a function that loads one configuration after the other, all
// on one port, as in real life.
func (w *world) reloads() func(options string) {
	w.t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		w.t.Fatal(err)
	}
	w.site, w.reloading = "http://"+listener.Addr().String(), true
	listener.Close()
	return func(options string) {
		w.t.Helper()
		if err := w.load(w.site, "pkce_auth $OP public {\n"+options+"\n}\nreverse_proxy $UPSTREAM"); err != nil {
			w.t.Fatal(err)
		}
		w.settle()
	}
}

// settle waits for what a reload leaves behind: Caddy closes the listener of the
// old configuration after the reload has ended. Until then the kernel gives it
// some of who comes, and they are answered by the old one, or hung up on.
func (w *world) settle() {
	w.t.Helper()
	_, port, _ := strings.Cut(strings.TrimPrefix(strings.TrimPrefix(w.site, "https://"), "http://"), ":")
	number, err := strconv.ParseUint(port, 10, 16)
	if err != nil {
		return // nobody can have reloaded a site of which the port is not known
	}
	const listens = "0A"
	address := fmt.Sprintf("0100007F:%04X", number)
	w.eventually("one listener is left", func() bool {
		table, err := os.ReadFile("/proc/net/tcp")
		if err != nil {
			return true // elsewhere than on Linux, browsers try again
		}
		left := 0
		for line := range strings.Lines(string(table)) {
			if fields := strings.Fields(line); len(fields) > 3 && fields[1] == address && fields[3] == listens {
				left++
			}
		}
		return left == 1
	})
}

// K8: a reload loses no session, no login that is under way, and no key; not
// even one that changes a timeout, without a cookie_secret.
func TestK8ReloadLosesNothing(t *testing.T) {
	w := newWorld(t)
	load := w.reloads()
	load("timeout 5s")
	b, other := w.browser(), w.browser()
	b.login(w, "/")
	callback := other.callback(w, "/under/way")
	load("timeout 6s")
	if a := b.fetch(w.site + "/x"); a.StatusCode != http.StatusOK {
		t.Errorf("the session: got status %d", a.StatusCode)
	}
	if a := other.open(callback); a.body != "upstream /under/way" {
		t.Errorf("the login under way: got %q", a.body)
	}
	metadata := len(w.op.Requests("metadata"))
	load("timeout 6s\nunauthorized 401")
	b.fetch(w.site + "/x")
	w.browser().visit(w.site + "/oauth2/login")
	if got := len(w.op.Requests("metadata")); got != metadata {
		t.Errorf("a reload that changes nothing about the provider fetched its metadata anew")
	}
	// A failed load takes nothing from the configuration in use.
	if err := w.load(w.site, "pkce_auth $OP public {\ncookie_secret {env.TEST_UNSET}\n}"); err == nil {
		t.Error("a broken configuration loaded")
	}
	if a := b.fetch(w.site + "/x"); a.StatusCode != http.StatusOK {
		t.Errorf("after a failed load: got status %d", a.StatusCode)
	}
	// Another audience means other tokens: sessions of the old one are none.
	load("timeout 6s\naudience https://api.test")
	if a := b.fetch(w.site + "/x"); a.StatusCode != http.StatusUnauthorized {
		t.Errorf("after a change of the audience: got status %d", a.StatusCode)
	}
}

// Requests that are under way while the configuration is reloaded, again and
// again, are all answered, by one configuration or the other.
func TestReloadUnderLoad(t *testing.T) {
	w := newWorld(t)
	load := w.reloads()
	load("header_up X-Auth-N n")
	b := w.browser()
	b.login(w, "/")
	done := make(chan struct{})
	var wg sync.WaitGroup
	var answered atomic.Int32
	for range 4 {
		wg.Go(func() {
			for {
				select {
				case <-done:
					return
				default:
				}
				req, _ := http.NewRequest(http.MethodGet, w.site+"/x", nil)
				for _, c := range b.jar.Cookies(req.URL) {
					req.AddCookie(c)
				}
				resp, err := plain.RoundTrip(req)
				if err != nil {
					continue // the connection waited at a listener that Caddy was closing
				}
				resp.Body.Close()
				if resp.StatusCode != http.StatusOK {
					t.Errorf("got status %d", resp.StatusCode)
				}
				answered.Add(1)
			}
		})
	}
	for i := range 5 {
		load("header_up X-Auth-N n" + strings.Repeat("n", i))
		before := answered.Load()
		w.eventually("requests are answered after a reload", func() bool { return answered.Load() >= before+10 })
	}
	close(done)
	wg.Wait()
}

// cookie_secret is rotated in three steps, and nobody is logged out.
func TestCookieSecretRotation(t *testing.T) {
	const second, third = olderSecret, thirdSecret
	w := newWorld(t)
	load := w.reloads()
	load("cookie_secret " + cookieSecret)
	early, late := w.browser(), w.browser()
	early.login(w, "/")
	load("cookie_secret " + cookieSecret + " " + second)
	callback := late.callback(w, "/late")
	load("cookie_secret " + second + " " + cookieSecret)
	if a := late.open(callback); a.body != "upstream /late" {
		t.Errorf("a login across a rotation: got %q", a.body)
	}
	if a := early.fetch(w.site + "/x"); a.StatusCode != http.StatusOK {
		t.Errorf("the session of the old secret: got status %d", a.StatusCode)
	}
	load("cookie_secret " + second)
	if a := late.fetch(w.site + "/x"); a.StatusCode != http.StatusOK {
		t.Errorf("the session of the new secret: got status %d", a.StatusCode)
	}
	if a := early.fetch(w.site + "/x"); a.StatusCode != http.StatusUnauthorized {
		t.Errorf("without the old secret: got status %d", a.StatusCode)
	}
	// Key lost: everybody logs in again, no loop, no 500.
	stale := late.callback2(w)
	load("cookie_secret " + third)
	if a := late.open(stale); a.StatusCode != http.StatusOK {
		t.Errorf("a login whose key is lost: got status %d and %q", a.StatusCode, a.body)
	}
}

// Identical inline providers share one session, as routes of one site should.
func TestIdenticalInlineProvidersShareTheirSession(t *testing.T) {
	w := newWorld(t)
	w.caddy(`
		handle /a/* {
			pkce_auth $OP public
			reverse_proxy $UPSTREAM
		}
		handle /b/* {
			pkce_auth $OP public
			reverse_proxy $UPSTREAM
		}
		pkce_auth /oauth2/* $OP public
	`)
	b := w.browser()
	b.login(w, "/a/x")
	if a := b.fetch(w.site + "/b/x"); a.StatusCode != http.StatusOK {
		t.Errorf("got status %d", a.StatusCode)
	}
}

// JSON alone, without a Caddyfile: the same things.
func TestJSONConfiguration(t *testing.T) {
	w := newWorld(t)
	config := `{
		"admin": {"disabled": true, "config": {"persist": false}},
		"storage": {"module": "file_system", "root": "$DIR"},
		"logging": {"logs": {"default": {"level": "DEBUG", "writer": {"output": "file", "filename": "$DIR/caddy.log"}}}},
		"apps": {
			"pkce_auth": {"providers": {"default": {"issuer": "$OP", "client_id": "public", "authorization": {"scopes": ["openid"]}}}},
			"http": {"servers": {"a": {"listen": ["127.0.0.1:0"], "automatic_https": {"disable": true}, "routes": [{"handle": [
				{"handler": "pkce_auth", "bypass_paths": ["/free"], "header_up": {"X-Auth-Sub": "{http.auth.user.id}"}},
				{"handler": "reverse_proxy", "upstreams": [{"dial": "$UPSTREAM"}]}
			]}]}}}
		}
	}`
	config = strings.NewReplacer("$OP", w.op.URL, "$UPSTREAM", strings.TrimPrefix(w.upstream.server.URL, "http://"), "$DIR", w.dir).Replace(config)
	if err := caddy.Load([]byte(config), true); err != nil {
		t.Fatal(err)
	}
	w.site = "http://" + listenAddress(t)
	b := w.browser()
	if a := b.visit(w.site + "/free"); a.body != "upstream /free" {
		t.Errorf("bypassed: got %q", a.body)
	}
	b.login(w, "/x")
	if got := w.upstream.last(t).Header.Get("X-Auth-Sub"); got != "alice" {
		t.Errorf("X-Auth-Sub: got %q", got)
	}
	if b.cookies(w.site)["pkce_auth"] == "" {
		t.Errorf("the default provider's cookie: got %v", b.cookies(w.site))
	}
}

// M30: keys that the provider rotates just before it signs.
func TestM30KeyRotationBetweenLogins(t *testing.T) {
	w := newWorld(t)
	w.caddy(basic)
	w.browser().login(w, "/")
	w.op.RotateKeys()
	w.browser().login(w, "/after")
	w.op.Misbehave(provider.Faults{IDToken: func(header, _ map[string]any) { header["alg"] = "ES256" }})
	w.browser().login(w, "/es256")
}
