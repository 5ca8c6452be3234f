package e2e

import (
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/chromedp/chromedp"
)

// The demo in Chromium: from the URL it prints, through the login form, to
// the page that says who one is.
func TestDemoInChromium(t *testing.T) {
	binary := filepath.Join(t.TempDir(), "demo")
	build := exec.Command("go", "build", "-o", binary, "./test/demo")
	build.Dir = "../.."
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("building the demo: %v\n%s", err, out)
	}
	demo := start(t, t.TempDir(), binary)
	site := demo.printed(`(http://localhost:\d+)/`)
	browser := newBrowser(t)
	do(t, browser, chromedp.Navigate(site+"/reports?year=2026"), chromedp.WaitVisible(css(`button[name=allow]`)))
	screenshot(t, browser, "demo-login")
	do(t, browser, chromedp.Click(css(`button[name=allow]`)))
	arrives(t, browser, site+"/reports?year=2026")
	if got := run(t, browser, chromedp.Text(css(`#name`))); got != "Alice Ash" {
		t.Errorf("the page greets %q", got)
	}
	claims := run(t, browser, chromedp.Text(css(`#claims`)))
	if !strings.Contains(claims, "https://api.example.com") || !strings.Contains(claims, `"sub": "alice"`) {
		t.Errorf("the token's claims: %s", claims)
	}
	if body := run(t, browser, chromedp.Text(css(`body`))); strings.Contains(body, "eyJ") {
		t.Error("the page shows the raw token")
	}
	screenshot(t, browser, "demo-page")
	dark(t, browser, true)
	screenshot(t, browser, "demo-page-dark")
	do(t, browser, chromedp.Click(css(`form[action="/oauth2/logout"] button`)))
	signedOut(t, browser, site)
}
