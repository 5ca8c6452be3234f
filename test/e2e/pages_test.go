package e2e

import (
	"context"
	"os"
	"strings"
	"testing"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/chromedp"
)

// The pages that we author, as Chromium shows them, each with a picture to
// look at. Their policy holds: nothing in them runs, nothing is loaded.
func TestPagesInChromium(t *testing.T) {
	w := newWorld(t, "http://127.0.0.1:0", `
		pkce_auth $ISSUER public {
			bypass /free
		}
		reverse_proxy $UPSTREAM
	`)
	browser := newBrowser(t)
	do(t, browser, chromedp.Navigate(w.site+"/page?x=1"), chromedp.WaitVisible(css(`input[name=login]`)))
	do(t, browser, chromedp.Click(css(`a[href$="/abort"]`)), chromedp.WaitVisible(css(`h1`)))
	if got := run(t, browser, chromedp.Text(css(`h1`))); got != "Access denied" {
		t.Errorf("after the user said no: %q", got)
	}
	if got := run(t, browser, chromedp.Location()); strings.Contains(got, "code=") || strings.Contains(got, "state=") || !strings.HasPrefix(got, w.site+"/oauth2/error?e=") {
		t.Errorf("the address bar holds %s", got)
	}
	screenshot(t, browser, "page-access-denied")
	dark(t, browser, true)
	screenshot(t, browser, "page-access-denied-dark")
	dark(t, browser, false)

	do(t, browser, chromedp.Click(css(`nav a.first`)))
	logIn(t, browser, "alice")
	arrives(t, browser, w.site+"/page?x=1")

	// Typed into the address bar, the logout asks; its button is the site's own.
	do(t, browser, chromedp.Navigate(w.site+"/oauth2/logout"), chromedp.WaitVisible(css(`button`)))
	screenshot(t, browser, "page-sign-out")
	do(t, browser, chromedp.Click(css(`button`)))
	logOut(t, browser)
	signedOut(t, browser, w.site)
	screenshot(t, browser, "page-signed-out")
	if got := run(t, browser, chromedp.Evaluate[string](`fetch("/page").then((r) => String(r.status)).catch(() => "blocked by the policy")`, chromedp.EvalAwaitPromise)); got != "blocked by the policy" {
		t.Errorf("a fetch from our page: %s", got)
	}
	do(t, browser, chromedp.Navigate(w.site+"/free"))
	if got := run(t, browser, chromedp.Evaluate[int](`fetch("/page").then((r) => r.status)`, chromedp.EvalAwaitPromise)); got != 401 {
		t.Errorf("after the logout, a fetch got %d", got)
	}

	// A login that had begun anew before, because its cookie was gone.
	do(t, browser, chromedp.Navigate(w.site+"/oauth2/callback?code=a&state=1.x"), chromedp.WaitVisible(css(`h1`)))
	if got := run(t, browser, chromedp.Text(css(`h1`))); got != "Your browser does not keep cookies" {
		t.Errorf("without cookies: %q", got)
	}
	screenshot(t, browser, "page-cookies-blocked")

	do(t, browser, chromedp.Navigate(w.site+"/oauth2/callback?code=a&code=b"), chromedp.WaitVisible(css(`h1`)))
	screenshot(t, browser, "page-please-try-again")
	if got := run(t, browser, chromedp.Location()); strings.Contains(got, "code=") {
		t.Errorf("the address bar holds %s", got)
	}
}

// The page when the client secret is wrong: the user learns that it is not
// their fault, the log says the rest.
func TestLoginFailedPageInChromium(t *testing.T) {
	w := newWorld(t, "http://127.0.0.1:0", `
		pkce_auth {
			issuer $ISSUER
			client_id basic
			client_secret this-is-not-the-secret
		}
		reverse_proxy $UPSTREAM
	`)
	browser := newBrowser(t)
	do(t, browser, chromedp.Navigate(w.site+"/page"))
	logIn(t, browser, "alice")
	shows(t, browser, `document.querySelector("h1")?.innerText === "Login is not set up correctly"`)
	screenshot(t, browser, "page-login-failed")
	w.caddy.printed(`"reason":"(misconfigured)"`)
}

// The page when the provider is down.
func TestProviderDownPageInChromium(t *testing.T) {
	w := &world{t: t, upstream: newUpstream(t), issuer: "http://127.0.0.1:1"}
	w.startCaddy("http://127.0.0.1:0", "pkce_auth $ISSUER public\nreverse_proxy $UPSTREAM")
	browser := newBrowser(t)
	do(t, browser, chromedp.Navigate(w.site+"/page"), chromedp.WaitVisible(css(`h1`)))
	if got := run(t, browser, chromedp.Text(css(`h1`))); got != "Login is not available right now" {
		t.Errorf("got %q", got)
	}
	screenshot(t, browser, "page-provider-down")
}

func dark(t *testing.T, ctx context.Context, on bool) {
	t.Helper()
	value := "light"
	if on {
		value = "dark"
	}
	do(t, ctx, func(ctx context.Context, target *chromedp.Target) (chromedp.Void, error) {
		_, err := cdp.Call(ctx, target, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{
			Features: []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: value}},
		})
		return chromedp.Void{}, err
	})
}

// A03, A12: what Chromium makes of every Location that we could send for the
// corpus of open redirects: it stays on the site.
func TestA03A12LocationsInChromium(t *testing.T) {
	w := newWorld(t, "http://127.0.0.1:0", "pkce_auth $ISSUER public {\nbypass /free\n}\nreverse_proxy $UPSTREAM")
	data, err := os.ReadFile("../../caddyauth/testdata/openredirects.txt")
	if err != nil {
		t.Fatal(err)
	}
	browser := newBrowser(t)
	do(t, browser, chromedp.Navigate(w.site+"/free"))
	// Chromium itself asks for the login with each text, and says where the
	// redirect would go if the return URL were taken from it.
	for _, prefix := range strings.Split(strings.TrimSpace(string(data)), "\n") {
		prefix = strings.NewReplacer("<TAB>", "\t", "<CR>", "\r", "<LF>", "\n", "<NUL>", "\x00", "<SP>", " ", "<BS>", "\b", "<NBSP>", "\u00a0", "<IDEO>", "\u3002").Replace(prefix)
		got := returnedTo(t, w, prefix+"evil.test/x")
		origin := run(t, browser, chromedp.Evaluate[string](`new URL(`+quote(got)+`, "https://elsewhere.test/").origin`))
		if origin != w.site {
			t.Errorf("%q: %q leads to %s", prefix, got, origin)
		}
	}
}
