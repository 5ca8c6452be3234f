package e2e

import (
	"context"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/chromedp/chromedp"
)

// pagesOfOthers serves pages that are not the site's: at cross, of another
// site; at neighbour, of the same site for SameSite, which does not look at
// ports, but of another origin.
func pagesOfOthers(t *testing.T) (cross, neighbour string) {
	server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/html")
		_, _ = w.Write([]byte(`<!DOCTYPE html><title>elsewhere</title><body>`))
	}))
	t.Cleanup(server.Close)
	return server.URL, strings.Replace(server.URL, "127.0.0.1", "localhost", 1)
}

// newTrustingBrowser starts a Chromium that sends cookies with SameSite=None to
// third parties, as its user can choose, and other browsers do.
func newTrustingBrowser(t *testing.T) context.Context {
	t.Helper()
	profile := t.TempDir()
	if err := os.Mkdir(filepath.Join(profile, "Default"), 0o700); err != nil {
		t.Fatal(err)
	}
	preferences := `{"profile":{"cookie_controls_mode":0,"block_third_party_cookies":false}}`
	if err := os.WriteFile(filepath.Join(profile, "Default", "Preferences"), []byte(preferences), 0o600); err != nil {
		t.Fatal(err)
	}
	return newBrowserIn(t, profile)
}

// tries has a foreign page do in the background what such pages can do: read
// and write by fetch, with cookies, show a frame, open a socket.
func tries(t *testing.T, browser context.Context, page, site, name string) {
	t.Helper()
	do(t, browser, chromedp.Navigate(page))
	shows(t, browser, `document.title === "elsewhere"`)
	got := run(t, browser, chromedp.Evaluate[string](`(async (site, name) => {
		await fetch(site + "/read-" + name, {mode: "no-cors", credentials: "include"});
		await fetch(site + "/write-" + name, {mode: "no-cors", credentials: "include", method: "POST", body: "x"});
		await new Promise((ok) => { const f = document.createElement("iframe"); f.onload = ok; f.src = site + "/frame-" + name; document.body.append(f); });
		return await new Promise((ok) => {
			const s = new WebSocket(site.replace("https", "wss") + "/socket-" + name);
			s.onopen = () => ok("open"); s.onerror = () => ok("failed");
		});
	})(`+quote(site)+`, `+quote(name)+`)`, chromedp.EvalAwaitPromise))
	if got != "failed" {
		t.Errorf("%s: the socket is %s", name, got)
	}
}

// posts has a foreign page post a form to the site, as a navigation, and waits
// for the page that answers.
func posts(t *testing.T, browser context.Context, page, target string) string {
	t.Helper()
	do(t, browser, chromedp.Navigate(page))
	shows(t, browser, `document.title === "elsewhere"`)
	_ = run(t, browser, chromedp.Evaluate[bool](`(() => {
		const f = document.createElement("form"); f.method = "post"; f.action = `+quote(target)+`; document.body.append(f);
		setTimeout(() => f.submit()); return true;
	})()`))
	arrives(t, browser, target)
	return run(t, browser, chromedp.Evaluate[string](`document.body.innerText`))
}

// follows has a foreign page lead to a page of the site.
func follows(t *testing.T, browser context.Context, page, target string) {
	t.Helper()
	do(t, browser, chromedp.Navigate(page))
	shows(t, browser, `document.title === "elsewhere"`)
	_ = run(t, browser, chromedp.Evaluate[bool](`setTimeout(() => { location.href = `+quote(target)+` }) > 0`))
	arrives(t, browser, target)
	shows(t, browser, `document.querySelector("#upstream")`)
}

// A90, A92, R19d: what each SameSite lets a foreign page do with the session,
// in a browser that knows of it, and what is left for csrf: whatever changes
// something does not reach the upstream, from another site or from a neighbour
// on the same. Reading is the browser's to forbid; it shows nobody the answer.
func TestA90A92R19dSameSiteInChromium(t *testing.T) {
	for sameSite, sent := range map[string]bool{"lax": false, "strict": false, "none": true} { // from another site, in the background
		t.Run(sameSite, func(t *testing.T) {
			cross, neighbour := pagesOfOthers(t)
			w := newWorld(t, "https://localhost:0", guarded("client_id public\nsession {\nsame_site "+sameSite+"\n}"))
			browser := newTrustingBrowser(t)
			do(t, browser, chromedp.Navigate(w.site+"/page"))
			logIn(t, browser, "alice")
			arrives(t, browser, w.site+"/page")
			begun := w.logins()

			follows(t, browser, neighbour, w.site+"/link-neighbour")
			tries(t, browser, neighbour, w.site, "neighbour")
			if text := posts(t, browser, neighbour, w.site+"/form-neighbour"); !strings.Contains(text, "Not from here") {
				t.Errorf("the neighbour's form got: %s", text)
			}
			if sameSite == "lax" {
				screenshot(t, browser, "cross-site")
			}
			tries(t, browser, cross, w.site, "cross")
			refused := "Not logged in"
			if sent {
				refused = "Not from here"
			}
			if text := posts(t, browser, cross, w.site+"/form-cross"); !strings.Contains(text, refused) && !strings.Contains(text, "unauthorized") {
				t.Errorf("the other site's form got: %s", text)
			}
			if n := w.logins(); n != begun {
				t.Errorf("%d logins began", n-begun)
			}
			follows(t, browser, cross, w.site+"/link-cross")
			if n := w.logins() - begun; n != 0 && sameSite != "strict" || n != 1 && sameSite == "strict" { // then the provider is asked, without a word to the user
				t.Errorf("a link of another site began %d logins", n)
			}
			for path, want := range map[string]bool{
				"/link-neighbour": true, "/read-neighbour": true, "/frame-neighbour": true, "/write-neighbour": false, "/socket-neighbour": false, "/form-neighbour": false,
				"/link-cross": true, "/read-cross": sent, "/frame-cross": sent, "/write-cross": false, "/socket-cross": false, "/form-cross": false,
			} {
				if got := w.upstream.count(path) > 0; got != want {
					t.Errorf("%s reached the upstream: %v, want %v", path, got, want)
				}
				if !want {
					continue
				}
				if r := w.upstream.last(t, path); !strings.HasPrefix(r.Header.Get("Authorization"), "Bearer ") || r.Header.Get("X-Auth-Subject") == "" {
					t.Errorf("%s reached the upstream with %v", path, r.Header)
				}
			}
		})
	}
}

// An origin that csrf trusts may post, and its neighbours may not.
func TestA90TrustedOriginInChromium(t *testing.T) {
	cross, neighbour := pagesOfOthers(t)
	w := newWorld(t, "https://localhost:0", guarded("client_id public\ncsrf "+neighbour+"\nsession {\nsame_site none\n}"))
	browser := newBrowser(t)
	do(t, browser, chromedp.Navigate(w.site+"/page"))
	logIn(t, browser, "alice")
	arrives(t, browser, w.site+"/page")
	if text := posts(t, browser, neighbour, w.site+"/trusted"); !strings.Contains(text, "POST /trusted") {
		t.Errorf("the trusted page's form got: %s", text)
	}
	if text := posts(t, browser, cross, w.site+"/other"); !strings.Contains(text, "Not from here") || w.upstream.count("/other") != 0 {
		t.Errorf("another page's form got: %s", text)
	}
}

// Who is logged in and may not pass reads so, and gets another account by the
// page's first link.
func TestForbiddenPageInChromium(t *testing.T) {
	w := newWorld(t, "https://localhost:0", guarded("client_id public\nrequire sub nobody"))
	browser := newBrowser(t)
	do(t, browser, chromedp.Navigate(w.site+"/page"))
	logIn(t, browser, "alice")
	shows(t, browser, `document.querySelector("h1") && document.body.innerText.includes("You are logged in, but")`)
	arrives(t, browser, w.site+"/page")
	screenshot(t, browser, "forbidden")
	if w.upstream.count("/page") != 0 {
		t.Error("the upstream was reached")
	}
	do(t, browser, chromedp.Click(css(`a.first`)))
	logOut(t, browser)
	signedOut(t, browser, w.site)
}
