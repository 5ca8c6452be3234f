package e2e

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/chromedp/chromedp"
)

// The main job on real input: a person opens a page, logs in at a certified
// provider, in its own form, and is back at that page with its query. Every
// kind of client that there is so far.
func TestMainJobInChromium(t *testing.T) {
	for _, tc := range []struct {
		name, options string
		audience      string // of the access token; empty: it is opaque
	}{
		{"public", "client_id public", ""},
		{"confidential, basic", "client_id basic\nclient_secret secret-secret-secret-secret-secret", ""},
		{"confidential, post", "client_id post\nclient_secret secret-secret-secret-secret-secret\nclient_auth client_secret_post", ""},
		{"ES256", "client_id es256", ""},
		{"audience", "client_id public\nscopes openid profile email read\naudience https://api.example.test", "https://api.example.test"},
		{"resource", "client_id public\nscopes openid profile email read\nresource https://api.example.test/v1", "https://api.example.test/v1"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			w := newWorld(t, "http://127.0.0.1:0", `
				pkce_auth {
					issuer $ISSUER
					`+tc.options+`
					header_up X-Auth-Email {http.auth.user.email}
				}
				reverse_proxy $UPSTREAM
			`)
			browser := newBrowser(t)
			const page = "/reports?year=2026&q=a%20b"
			do(t, browser, chromedp.Navigate(w.site+page))
			screenshot(t, browser, "provider-login")
			logIn(t, browser, "alice")
			arrives(t, browser, w.site+page)
			if got := run(t, browser, chromedp.Text(css(`#upstream`))); got != "GET "+page {
				t.Errorf("the page shows %q", got)
			}
			r := w.upstream.last(t, "/reports")
			token, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
			if !ok || r.Header.Get("X-Auth-Email") != "alice@example.test" || strings.Contains(r.Header.Get("Cookie"), "pkce_auth") {
				t.Errorf("the upstream got %v", r.Header)
			}
			if got := audience(t, token); got != tc.audience {
				t.Errorf("the token is for %q, want %q", got, tc.audience)
			}
			if token == "" || strings.Contains(w.caddy.output(), token) {
				t.Error("the token stands in Caddy's log")
			}
			// What a script can see: nothing.
			if got := run(t, browser, chromedp.Evaluate[string](`document.cookie`)); got != "" {
				t.Errorf("document.cookie: %q", got)
			}
		})
	}
}

// A client that proves who it is by a signature: the certified provider
// accepts our assertions.
func TestIDPS20PrivateKeyJWTInChromium(t *testing.T) {
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	ecKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for name, key := range map[string]any{"RSA": rsaKey, "P-256": ecKey} {
		t.Run(name, func(t *testing.T) {
			der, err := x509.MarshalPKCS8PrivateKey(key)
			if err != nil {
				t.Fatal(err)
			}
			file := filepath.Join(t.TempDir(), "key.pem")
			if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), 0o600); err != nil {
				t.Fatal(err)
			}
			w := newWorld(t, "http://127.0.0.1:0", "pkce_auth {\nissuer $ISSUER\nclient_id signed\nclient_auth private_key_jwt "+file+"\n}\nreverse_proxy $UPSTREAM", "CLIENT_KEY="+file)
			browser := newBrowser(t)
			do(t, browser, chromedp.Navigate(w.site+"/page?x=1"))
			logIn(t, browser, "alice")
			arrives(t, browser, w.site+"/page?x=1")
		})
	}
}

// audience gives the audience of a JWT, empty if it is none.
func audience(t *testing.T, token string) string {
	t.Helper()
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		return ""
	}
	data, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		t.Fatal(err)
	}
	var claims struct {
		Aud any `json:"aud"`
	}
	if err := json.Unmarshal(data, &claims); err != nil {
		t.Fatal(err)
	}
	return fmt.Sprint(claims.Aud)
}

// Over HTTPS, Chromium takes the __Host-Http- cookies, and refuses to let a
// script or a sibling plant one (A62).
func TestA62PrefixesInChromium(t *testing.T) {
	w := newWorld(t, "https://localhost:0", `
		tls internal
		pkce_auth $ISSUER public
		reverse_proxy $UPSTREAM
	`)
	browser := newBrowser(t)
	do(t, browser, chromedp.Navigate(w.site+"/page"))
	logIn(t, browser, "alice")
	arrives(t, browser, w.site+"/page")
	planted := run(t, browser, chromedp.Evaluate[string](`document.cookie = "__Host-Http-pkce_auth=planted; Path=/; Secure"; document.cookie = "__Host-pkce_auth=x; Path=/; Secure"; document.cookie`))
	if strings.Contains(planted, "__Host-Http-") {
		t.Errorf("a script planted %q", planted)
	}
	do(t, browser, chromedp.Navigate(w.site+"/again"), chromedp.WaitReady(css(`#upstream`)))
	if got := w.upstream.last(t, "/again").Header.Get("Cookie"); strings.Contains(got, "pkce_auth") {
		t.Errorf("the upstream got %q", got)
	}
}

// SameSite=Strict: Chromium sends such a cookie only after the page in
// between; without it, this would be a loop.
func TestSameSiteStrictInChromium(t *testing.T) {
	w := newWorld(t, "https://localhost:0", `
		tls internal
		pkce_auth $ISSUER public {
			session {
				same_site strict
			}
		}
		reverse_proxy $UPSTREAM
	`)
	browser := newBrowser(t)
	do(t, browser, chromedp.Navigate(w.site+"/page?x=1&y=2"))
	logIn(t, browser, "alice")
	arrives(t, browser, w.site+"/page?x=1&y=2")
	if n := strings.Count(w.caddy.output(), `"msg":"login started"`); n != 2 { // and one of w.ready
		t.Errorf("it took %d logins", n)
	}
}

// What a page does in the background, without a session: Chromium's own
// headers tell it from a navigation, and nothing of it begins a login.
func TestIDPS35A60BackgroundRequestsInChromium(t *testing.T) {
	w := newWorld(t, "http://127.0.0.1:0", `
		route /free/* {
			header Content-Type text/html
			respond "<title>free</title>"
		}
		pkce_auth $ISSUER public {
			bypass /free/*
		}
		reverse_proxy $UPSTREAM
	`)
	browser := newBrowser(t)
	do(t, browser, chromedp.Navigate(w.site+"/free/page"))
	const script = `(async () => {
		const seen = {};
		const r = await fetch("/api");
		seen.fetch = r.status + " " + (await r.json()).login_url;
		seen.post = (await fetch("/api", {method: "POST", body: "x"})).status;
		seen.xhr = await new Promise((ok) => { const x = new XMLHttpRequest(); x.onload = () => ok(x.status); x.open("GET", "/xhr"); x.setRequestHeader("Accept", "text/html"); x.send(); });
		seen.image = await new Promise((ok) => { const i = new Image(); i.onload = () => ok("loaded"); i.onerror = () => ok("failed"); i.src = "/image"; });
		seen.events = await new Promise((ok) => { const e = new EventSource("/events"); e.onerror = () => { e.close(); ok("failed"); }; });
		seen.socket = await new Promise((ok) => { const s = new WebSocket(location.origin.replace("http", "ws") + "/socket"); s.onopen = () => ok("open"); s.onerror = () => ok("failed"); });
		seen.frame = await new Promise((ok) => { const f = document.createElement("iframe"); f.onload = () => ok("loaded"); f.src = "/frame"; document.body.append(f); });
		const p = document.createElement("link"); p.rel = "prefetch"; p.href = "/prefetched"; document.head.append(p);
		await new Promise((ok) => { p.onload = p.onerror = ok; setTimeout(ok, 1000); });
		return JSON.stringify(seen);
	})()`
	got := run(t, browser, chromedp.Evaluate[string](script, chromedp.EvalAwaitPromise))
	want := `{"fetch":"401 ` + w.site + `/oauth2/login","post":401,"xhr":401,"image":"failed","events":"failed","socket":"failed","frame":"loaded"}`
	if got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	if n := strings.Count(w.caddy.output(), `"msg":"login started"`); n != 1 { // that of w.ready
		t.Errorf("background requests began %d logins", n-1)
	}
	for _, path := range []string{"/api", "/xhr", "/image", "/events", "/socket", "/frame", "/prefetched"} {
		if w.upstream.count(path) != 0 {
			t.Errorf("%s reached the upstream", path)
		}
	}
}

// Several tabs, each to its own page, in another order than they began.
func TestA77TabsInChromium(t *testing.T) {
	w := newWorld(t, "http://127.0.0.1:0", "pkce_auth $ISSUER public\nreverse_proxy $UPSTREAM")
	first := newBrowser(t)
	second, cancel := chromedp.NewContext(first)
	defer cancel()
	do(t, first, chromedp.Navigate(w.site+"/tab/1?x=1"), chromedp.WaitVisible(css(`input[name=login]`)))
	do(t, second, chromedp.Navigate(w.site+"/tab/2?x=2"), chromedp.WaitVisible(css(`input[name=login]`)))
	logIn(t, second, "alice")
	arrives(t, second, w.site+"/tab/2?x=2")
	// The provider knows the user by now, and asks for no consent.
	fillIn(t, first, "alice")
	arrives(t, first, w.site+"/tab/1?x=1")
}
