package e2e

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/chromedp"
)

// demanding is an API that wants a login for itself: whatever access token it
// sees first does not do (RFC 9470).
type demanding struct {
	server *httptest.Server
	mu     sync.Mutex
	first  string
}

func newDemanding(t *testing.T) *demanding {
	d := &demanding{}
	d.server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		d.mu.Lock()
		defer d.mu.Unlock()
		if d.first == "" {
			d.first = r.Header.Get("Authorization")
		}
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		if r.Header.Get("Authorization") == d.first {
			w.Header().Set("WWW-Authenticate", `Bearer error="insufficient_user_authentication", max_age="0"`)
			w.WriteHeader(http.StatusUnauthorized)
			_, _ = fmt.Fprint(w, `<!DOCTYPE html><main id="refused">too long ago</main>`)
			return
		}
		_, _ = fmt.Fprintf(w, `<!DOCTYPE html><title>API</title><main id="upstream">%s %s</main>`, r.Method, r.URL.Path)
	}))
	t.Cleanup(d.server.Close)
	return d
}

// again fills in the provider's form for who is asked once more, and consents
// if that is asked, too.
func again(t *testing.T, browser context.Context, user, want string) {
	t.Helper()
	fillIn(t, browser, user)
	shows(t, browser, `location.href === `+quote(want)+` || document.querySelector("input[name=prompt][value=consent]")`)
	if run(t, browser, chromedp.Location()) != want {
		do(t, browser, chromedp.Click(css(`button.login-submit`)))
	}
	arrives(t, browser, want)
}

// guardedParts is a site of which some parts want more than the rest.
func guardedParts(routes string) string {
	return `
	pkce_auth {
		issuer $ISSUER
		client_id public
		scopes openid profile email
	}
---
	pkce_auth
	` + routes + `
	reverse_proxy $UPSTREAM
	`
}

// R27, R56: a person with a session opens a page that wants a fresher login. The
// certified provider, which would let them pass otherwise, shows its form
// again; then they are back at the page, and that was once. A script learns
// where to log in, and the rest of the site goes on meanwhile.
func TestR27R56StepUpOfARouteInChromium(t *testing.T) {
	const maxAge = 5 * time.Second // to the provider; here, its clock may be off by a minute
	w := newWorld(t, "http://127.0.0.1:0", guardedParts(fmt.Sprintf("pkce_auth /vault* {\nmax_age %s\n}", maxAge)))
	browser := newBrowser(t)
	do(t, browser, chromedp.Navigate(w.site+"/home"))
	logIn(t, browser, "alice")
	arrives(t, browser, w.site+"/home")
	time.Sleep(maxAge + time.Second) // the provider counts real time
	const fetched = `fetch("/vault/data").then((r) => r.json().then((body) => r.status + " " + body.error + " " + r.headers.get("WWW-Authenticate") + " " + body.login_url))`
	got := run(t, browser, chromedp.Evaluate[string](fetched, chromedp.EvalAwaitPromise))
	if !strings.HasPrefix(got, `401 insufficient_user_authentication Bearer error="insufficient_user_authentication", max_age="5", login_url="`) ||
		!strings.Contains(got, " "+w.site+"/oauth2/login?ask=") {
		t.Errorf("a script got %s", got)
	}
	page := w.site + "/vault/page?x=1"
	do(t, browser, chromedp.Navigate(page))
	asks(t, browser, w.issuer, "login", "password")
	screenshot(t, browser, "step-up-asked-again")
	again(t, browser, "alice", page)
	screenshot(t, browser, "step-up-back")
	if got := run(t, browser, chromedp.Text(css(`#upstream`))); got != "GET /vault/page?x=1" {
		t.Errorf("the page shows %q", got)
	}
	if status := fetchStatus(t, browser, "/vault/data"); status != http.StatusOK {
		t.Errorf("afterwards, a script got %d", status)
	}
	if w.logins() != 2 {
		t.Errorf("%d logins began", w.logins())
	}
}

// R56: a form that is posted to such a part gets a page that leads to the login,
// and that leads back to where the form is.
func TestR56StepUpPageInChromium(t *testing.T) {
	w := newWorld(t, "http://127.0.0.1:0", guardedParts("pkce_auth /vault* {\nmax_age 1h\n}"))
	browser := newBrowser(t)
	do(t, browser, chromedp.Navigate(w.site+"/home"))
	logIn(t, browser, "alice") // without max_age, this provider does not say when that was
	arrives(t, browser, w.site+"/home")
	const form = `<form method="post" action="/vault/pay"><input name="sum" value="5"><button>pay</button></form>`
	run(t, browser, chromedp.Evaluate[bool]("document.body.insertAdjacentHTML('beforeend', `"+form+"`), true"))
	do(t, browser, chromedp.Click(css(`form button`)))
	shows(t, browser, `document.querySelector("h1").innerText === "Please log in again"`)
	screenshot(t, browser, "step-up-page")
	dark(t, browser, true)
	screenshot(t, browser, "step-up-page-dark")
	dark(t, browser, false)
	if w.upstream.count("/vault/pay") != 0 {
		t.Error("the form reached the upstream")
	}
	do(t, browser, chromedp.Click(css(`a`)))
	arrives(t, browser, w.site+"/home") // the login was a moment ago
	run(t, browser, chromedp.Evaluate[bool]("document.body.insertAdjacentHTML('beforeend', `"+form+"`), true"))
	do(t, browser, chromedp.Click(css(`form button`)))
	arrives(t, browser, w.site+"/vault/pay")
	if got := run(t, browser, chromedp.Text(css(`#upstream`))); got != "POST /vault/pay" || w.upstream.count("/vault/pay") != 1 {
		t.Errorf("the page shows %q", got)
	}
}

// R56: the upstream itself is not content with the login (RFC 9470). Its 401
// becomes a login that the provider asks for though it knows the user; a script
// gets the challenge, and where to log in.
func TestR56UpstreamStepsUpInChromium(t *testing.T) {
	d := newDemanding(t)
	w := newWorld(t, "http://127.0.0.1:0", guardedParts("handle /api* {\nreverse_proxy "+strings.TrimPrefix(d.server.URL, "http://")+"\n}"))
	browser := newBrowser(t)
	do(t, browser, chromedp.Navigate(w.site+"/home"))
	logIn(t, browser, "alice")
	arrives(t, browser, w.site+"/home")
	const fetched = `fetch("/api/data").then((r) => r.text().then((body) => r.status + " " + r.headers.get("WWW-Authenticate") + " " + body.includes("too long ago")))`
	got := run(t, browser, chromedp.Evaluate[string](fetched, chromedp.EvalAwaitPromise))
	if !strings.HasPrefix(got, `401 Bearer error="insufficient_user_authentication", max_age="0", login_url="`+w.site+`/oauth2/login?ask=`) || !strings.HasSuffix(got, "true") {
		t.Errorf("a script got %s", got)
	}
	page := w.site + "/api/page"
	do(t, browser, chromedp.Navigate(page))
	asks(t, browser, w.issuer, "login", "password")
	screenshot(t, browser, "step-up-upstream")
	again(t, browser, "alice", page)
	if got := run(t, browser, chromedp.Text(css(`#upstream`))); got != "GET /api/page" {
		t.Errorf("the page shows %q", got)
	}
	if w.logins() != 2 {
		t.Errorf("%d logins began", w.logins())
	}
}
