package e2e

import (
	"strings"
	"testing"
	"time"

	"github.com/chromedp/chromedp"
)

// refreshing is a site whose access tokens live for three seconds. This
// provider hands out refresh tokens only with the user's consent.
const refreshing = `
	pkce_auth {
		issuer $ISSUER
		client_id public
		scopes openid profile email offline_access read
		audience https://api.example.test
		authorize_param prompt consent
	}
	reverse_proxy $UPSTREAM
`

// Refresh in a real browser: a page fetches in parallel, across several
// expiries of its access token. The provider rotates refresh tokens, and
// revokes everything if one is used twice; so a single request too many, or a
// single answer lost, and a fetch would fail.
func TestRefreshUnderParallelFetchesInChromium(t *testing.T) {
	w := newWorld(t, "http://127.0.0.1:0", refreshing, "ACCESS_TOKEN_SECONDS=3")
	browser := newBrowser(t)
	do(t, browser, chromedp.Navigate(w.site+"/app"))
	logIn(t, browser, "alice")
	arrives(t, browser, w.site+"/app")
	const script = `(async () => {
		const bad = [];
		const until = Date.now() + 9500;
		let rounds = 0;
		while (Date.now() < until) {
			const statuses = await Promise.all(Array.from({length: 12}, (_, i) => fetch("/api?" + i).then((r) => r.status)));
			bad.push(...statuses.filter((s) => s !== 200));
			rounds++;
			await new Promise((ok) => setTimeout(ok, rounds % 3 ? 50 : 1200));
		}
		return JSON.stringify(bad);
	})()`
	if got := run(t, browser, chromedp.Evaluate[string](script, chromedp.EvalAwaitPromise)); got != "[]" {
		t.Errorf("these fetches failed: %s", got)
	}
	tokens := w.upstream.tokens("/api")
	refreshes := strings.Count(w.idp.output(), `"event":"grant.success","client":"public","grant":"refresh_token"`)
	if len(tokens) < 3 || refreshes < 2 || refreshes > 5 {
		t.Errorf("the upstream saw %d access tokens, of %d refreshes", len(tokens), refreshes)
	}
	if strings.Contains(w.idp.output(), "grant.error") || strings.Contains(w.idp.output(), "grant.revoked") {
		t.Error("the provider refused something")
	}
	if n := strings.Count(w.caddy.output(), `"msg":"login started"`); n != 2 { // and one of w.ready
		t.Errorf("it took %d logins", n-1)
	}
	// After a long silence, the first request waits for its refresh.
	do(t, browser, chromedp.Sleep(3500*time.Millisecond), chromedp.Navigate(w.site+"/later"))
	arrives(t, browser, w.site+"/later")
}

// Logout in a real browser, at the provider, too: its session is over, its
// refresh tokens are revoked, and nobody is logged in again without a click.
func TestIDPS30LogoutInChromium(t *testing.T) {
	w := newWorld(t, "http://127.0.0.1:0", refreshing)
	browser := newBrowser(t)
	do(t, browser, chromedp.Navigate(w.site+"/app"))
	logIn(t, browser, "alice")
	arrives(t, browser, w.site+"/app")
	// A form of the application's own, as the README has it.
	const form = `<form method="post" action="/oauth2/logout"><button>out</button></form>`
	run(t, browser, chromedp.Evaluate[bool]("document.body.insertAdjacentHTML('beforeend', `"+form+"`), true"))
	do(t, browser, chromedp.Click(css(`form button`)))
	shows(t, browser, `document.querySelector("button[name=logout][value=yes]")`)
	screenshot(t, browser, "provider-logout")
	if got := run(t, browser, chromedp.Location()); !strings.Contains(got, "id_token_hint=") {
		t.Errorf("the provider was not told whose session it is: %s", got)
	}
	logOut(t, browser)
	signedOut(t, browser, w.site)
	if !strings.Contains(w.idp.output(), `"event":"end_session.success"`) {
		t.Error("the provider's session goes on")
	}
	w.idp.printed(`"event":"(grant.revoked)"`)
	logins := strings.Count(w.caddy.output(), `"msg":"login started"`)
	do(t, browser, chromedp.Reload())
	signedOut(t, browser, w.site)
	if strings.Count(w.caddy.output(), `"msg":"login started"`) != logins {
		t.Error("the page after the logout began a login")
	}
	do(t, browser, chromedp.Click(css(`nav a.first`)))
	shows(t, browser, `document.querySelector("input[name=prompt][value=login]")`)
}
