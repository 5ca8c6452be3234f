package e2e

import (
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/cdproto/target"
	"github.com/chromedp/chromedp"
)

// newOrdersAPI is an API that has some orders.
func newOrdersAPI(t *testing.T) *upstream {
	u := &upstream{}
	u.server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		u.mu.Lock()
		u.seen = append(u.seen, r.Clone(context.Background()))
		u.mu.Unlock()
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode([]map[string]string{{"title": "A pound of flax"}, {"title": "Two <b>boxes</b> of nails"}})
	}))
	t.Cleanup(u.server.Close)
	return u
}

// newDocumentedApp is a world whose site is that of docs/single-page-apps.md: its
// Caddyfile, but for the addresses, with further options, and its pages.
func newDocumentedApp(t *testing.T, options string, env ...string) *world {
	t.Helper()
	text, err := os.ReadFile("../../docs/single-page-apps.md")
	if err != nil {
		t.Fatal(err)
	}
	site := regexp.MustCompile("(?ms)^```caddyfile\napp\\.example\\.com \\{\n(.*?)^\\}\n```$").FindSubmatch(text)
	pages := regexp.MustCompile("(?ms)^```html\n(.*?)^```$").FindAllSubmatch(text, -1)
	if site == nil || len(pages) != 2 {
		t.Fatalf("the document has %d pages, and a Caddyfile: %v", len(pages), site != nil)
	}
	root := t.TempDir()
	for i, name := range []string{"index.html", "silent.html"} {
		if err := os.WriteFile(filepath.Join(root, name), pages[i][1], 0o600); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("CLIENT_ID", "public")
	directives := string(site[1])
	for from, to := range map[string]string{
		"/srv/app": root, "https://id.example.com": "$ISSUER", "api:9000": "$UPSTREAM", "bypass /silent.html\n": "bypass /silent.html\n" + options + "\n",
	} {
		if strings.Count(directives, from) != 1 {
			t.Fatalf("the Caddyfile of the document does not say %q, once", from)
		}
		directives = strings.Replace(directives, from, to, 1)
	}
	w := &world{t: t, upstream: newOrdersAPI(t)}
	w.begin("http://127.0.0.1:0", directives, env...)
	return w
}

// hasOrders waits until the page shows the orders, as text.
func hasOrders(t *testing.T, ctx context.Context) {
	t.Helper()
	shows(t, ctx, `document.querySelector("#orders").innerText === "A pound of flax\nTwo <b>boxes</b> of nails"`)
}

// noticed waits for the page's notice.
func noticed(t *testing.T, ctx context.Context, begins string) {
	t.Helper()
	shows(t, ctx, `!document.querySelector("#notice").hidden && document.querySelector("#notice").innerText.startsWith(`+quote(begins)+`)`)
}

// The page that docs/single-page-apps.md shows works as that says: it says who is
// logged in; its tokens are refreshed under it; when the session is ended in
// another tab, it offers a login, and is back where it was, with what was typed;
// and it logs out, there and at the provider.
func TestDocumentedSinglePageApplication(t *testing.T) {
	w := newDocumentedApp(t, "authorize_param prompt consent", "ACCESS_TOKEN_SECONDS=3") // else this provider gives no refresh token
	browser := newBrowser(t)
	at := w.site + "/orders?x=1"
	do(t, browser, chromedp.Navigate(at))
	logIn(t, browser, "alice")
	arrives(t, browser, at)
	shows(t, browser, `document.querySelector("#who").innerText === "User alice" && document.querySelector("#logout").action === `+quote(w.site+"/oauth2/logout"))
	info := run(t, browser, chromedp.Evaluate[string](`fetch("/oauth2/session").then((r) => r.text())`, chromedp.EvalAwaitPromise))
	if !strings.Contains(info, `"claims":{"email":"alice@example.test","name":"User alice","sub":"alice"}`) {
		t.Errorf("the session endpoint says %s", info)
	}

	for deadline := time.Now().Add(40 * time.Second); len(w.upstream.bearers("/api/orders")) < 3; time.Sleep(200 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("in vain waited for a third access token")
		}
		do(t, browser, chromedp.Click(css(`#load`)))
		hasOrders(t, browser)
	}
	if w.logins() != 1 {
		t.Errorf("%d logins were begun, want one, and refreshes", w.logins())
	}
	for _, token := range w.upstream.bearers("/api/orders") {
		if strings.Contains(info, token) {
			t.Error("the page was told a token")
		}
	}
	if !run(t, browser, chromedp.Evaluate[bool](`document.querySelector("#notice").hidden`)) {
		t.Error("the page says something, and has nothing to say")
	}
	screenshot(t, browser, "spa-logged-in")

	do(t, browser, chromedp.SendKeys(css(`#note`), "ask for \"more\""))
	run(t, browser, chromedp.Evaluate[string](`location.hash = "#row-7"`))
	tab, cancel := chromedp.NewContext(browser)
	defer cancel()
	confirmsLogout(t, tab, w)
	logOut(t, tab)
	signedOut(t, tab, w.site)
	do(t, browser, chromedp.Click(css(`#load`)))
	noticed(t, browser, "You are not logged in any more.")
	if frames := run(t, browser, chromedp.Evaluate[int](`document.querySelectorAll("iframe").length`)); frames != 0 {
		t.Errorf("the page has %d frames left", frames)
	}
	screenshot(t, browser, "spa-login-offered")

	do(t, browser, chromedp.Click(css(`#notice button`)))
	logIn(t, browser, "alice")
	arrives(t, browser, at+"#row-7")
	shows(t, browser, `document.querySelector("#note").value === 'ask for "more"'`)
	do(t, browser, chromedp.Click(css(`#load`)))
	hasOrders(t, browser)

	do(t, browser, chromedp.Click(css(`#logout button`)))
	logOut(t, browser)
	signedOut(t, browser, w.site)
	do(t, browser, chromedp.Navigate(w.site+"/silent.html")) // which needs no session, and lets scripts fetch
	if status := fetchStatus(t, browser, "/api/orders"); status != http.StatusUnauthorized {
		t.Errorf("after the logout, a fetch got %d", status)
	}
}

// When only the session here is over, and the provider still knows the user, the
// documented page logs in again in a hidden frame, and stays as it is.
func TestDocumentedSinglePageApplicationLogsInSilently(t *testing.T) {
	for _, sameSite := range []string{"lax", "strict"} {
		t.Run(sameSite, func(t *testing.T) {
			w := newDocumentedApp(t, "session {\nsame_site "+sameSite+"\n}")
			browser := newBrowser(t)
			do(t, browser, chromedp.Navigate(w.site+"/orders"))
			logIn(t, browser, "alice")
			arrives(t, browser, w.site+"/orders")
			shows(t, browser, `document.querySelector("#who").innerText === "User alice"`)
			run(t, browser, chromedp.Evaluate[int](`window.mark = 7`))
			logins := w.logins()
			do(t, browser, chromedp.SendKeys(css(`#note`), "half a wor"))
			// The session ends, as by its lifetime; the provider's goes on.
			if got := run(t, browser, chromedp.Evaluate[string](`fetch("/oauth2/logout", { method: "POST", redirect: "manual" }).then((r) => r.type)`, chromedp.EvalAwaitPromise)); got != "opaqueredirect" {
				t.Errorf("a logout by fetch: got %q", got)
			}
			do(t, browser, chromedp.Click(css(`#load`)))
			hasOrders(t, browser)
			shows(t, browser, `window.mark === 7 && document.querySelector("#note").value === "half a wor" && document.querySelector("#notice").hidden && !document.querySelector("iframe")`)
			if got := w.logins() - logins; got != 1 {
				t.Errorf("%d logins were begun, want one", got)
			}
		})
	}
}

// A login in a window that pops up leaves the page as it is, too, and the window
// closes itself.
func TestDocumentedLoginInAWindow(t *testing.T) {
	w := newDocumentedApp(t, "bypass /index.html /")
	browser := newBrowser(t)
	do(t, browser, chromedp.Navigate(w.site+"/"))
	noticed(t, browser, "You are not logged in.")
	window := chromedp.WaitNewTarget(browser, func(info *target.Info) bool { return info.Type == "page" })
	clicked := true
	gesture := func(p *runtime.EvaluateParams) { p.UserGesture = &clicked }
	run(t, browser, chromedp.Evaluate[bool](`Boolean(window.popup = open("/oauth2/login?return_to=/silent.html", "login", "width=500,height=650"))`, gesture))
	popup, cancel := chromedp.NewContext(browser, chromedp.WithTargetID(<-window))
	defer cancel()
	logIn(t, popup, "alice")
	shows(t, browser, `window.popup.closed`)
	if status := fetchStatus(t, browser, "/api/orders"); status != http.StatusOK {
		t.Errorf("afterwards, a fetch got %d", status)
	}
}

// The documented page warns before the session ends, and keeps it when asked to.
func TestDocumentedWarningBeforeTheEnd(t *testing.T) {
	w := newDocumentedApp(t, "session {\nidle 60s\nlifetime 1h\n}")
	browser := newBrowser(t)
	do(t, browser, chromedp.Navigate(w.site+"/orders"))
	logIn(t, browser, "alice")
	arrives(t, browser, w.site+"/orders")
	noticed(t, browser, "You will soon be logged out.")
	screenshot(t, browser, "spa-warning")
	const left = `fetch("/oauth2/session?extend=false").then((r) => r.json()).then((info) => info.idle_expires_in)`
	idle := func(enough func(seconds int) bool) {
		t.Helper()
		for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(100 * time.Millisecond) {
			seconds := run(t, browser, chromedp.Evaluate[int](left, chromedp.EvalAwaitPromise))
			if enough(seconds) {
				return
			}
			if time.Now().After(deadline) {
				t.Fatalf("in vain waited: %d seconds are left", seconds)
			}
		}
	}
	idle(func(seconds int) bool { return seconds <= 53 }) // looking does not put the end off
	do(t, browser, chromedp.Click(css(`#notice button`)))
	idle(func(seconds int) bool { return seconds > 54 })
}
