package e2e

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/chromedp"
)

// shortLifetime is that of access tokens in the tests that wait for their end,
// or rather for what must happen before it.
const shortLifetime = 3 * time.Second

// guarded are the directives of a site whose upstream is told who the user is.
// It speaks HTTPS, at localhost.
func guarded(options string) string {
	return `
		tls internal
		pkce_auth {
			issuer $ISSUER
			` + options + `
			header_up X-Auth-Subject {http.auth.user.id}
			header_up X-Auth-Email {http.auth.user.email}
		}
		reverse_proxy $UPSTREAM
	`
}

// asks waits for a login form of a provider's own, in which there are fields of
// these names.
func asks(t *testing.T, ctx context.Context, issuer string, fields ...string) {
	t.Helper()
	expression := quote(issuer) + `.startsWith(location.origin)`
	for _, field := range fields {
		expression += ` && document.querySelector("input[name=` + field + `]")`
	}
	shows(t, ctx, expression)
}

// reached checks what the upstream got with the latest request for a path, and
// gives the access token.
func reached(t *testing.T, w *world, path, email string) (string, accessClaims) {
	t.Helper()
	r := w.upstream.last(t, path)
	token, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	if !ok || strings.Contains(r.Header.Get("Cookie"), "pkce_auth") {
		t.Fatalf("the upstream got %v", r.Header)
	}
	if strings.Contains(w.caddy.output(), token) {
		t.Error("the token stands in Caddy's log")
	}
	claims := accessTokenClaims(t, token)
	if claims.Issuer != w.issuer || claims.Subject == "" || r.Header.Get("X-Auth-Subject") != claims.Subject {
		t.Errorf("the access token says %+v, the upstream got %v", claims, r.Header)
	}
	if got := r.Header.Get("X-Auth-Email"); got != email {
		t.Errorf("the upstream got the address %q, want %q", got, email)
	}
	return token, claims
}

// logins is how many logins began, without that of ready.
func (w *world) logins() int {
	return strings.Count(w.caddy.output(), `"msg":"login started"`) - 1
}

// fetchStatus lets the page that is shown fetch a path, as applications do in
// the background.
func fetchStatus(t *testing.T, ctx context.Context, path string) int {
	t.Helper()
	return run(t, ctx, chromedp.Evaluate[int](`fetch(`+quote(path)+`).then((r) => r.status)`, chromedp.EvalAwaitPromise))
}

// fetchAcrossExpiry lets the page fetch until the upstream has seen the third
// access token, and returns how many it has seen.
func fetchAcrossExpiry(t *testing.T, browser context.Context, w *world) int {
	t.Helper()
	for deadline := time.Now().Add(40 * time.Second); time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
		asked := time.Now()
		got := run(t, browser, chromedp.Evaluate[string](
			`Promise.all([1, 2, 3].map((n) => fetch("/api?" + n).then((r) => r.status))).then(String)`, chromedp.EvalAwaitPromise))
		if got != "200,200,200" {
			t.Fatalf("three fetches got %s", got)
		}
		tokens := w.upstream.bearers("/page", "/api")
		latest := accessTokenClaims(t, tokens[len(tokens)-1])
		// A resource server would go by what the token itself says.
		if ended := time.Unix(latest.Expires, 0); asked.After(ended) {
			t.Fatalf("at %v the upstream got a token that had ended at %v", asked, ended)
		}
		if len(tokens) >= 3 {
			return len(tokens)
		}
	}
	t.Fatal("in vain waited for a third access token")
	return 0
}

// rotated checks that refreshes gave the upstream so many access tokens, and
// that each brought a refresh token of its own.
func rotated(t *testing.T, w *world, tokens int) []note {
	t.Helper()
	refreshed := w.front.noted(t, tokens-1, refreshes(200))
	// Requests that come together share a refresh; the last one's token may not
	// have been needed yet.
	if len(refreshed) > tokens {
		t.Errorf("%d refreshes gave the upstream %d access tokens", len(refreshed), tokens)
	}
	granted := map[string]bool{}
	for _, n := range refreshed {
		granted[n.refreshToken] = true
	}
	if granted[""] || len(granted) != len(refreshed) {
		t.Errorf("%d refreshes brought %d refresh tokens", len(refreshed), len(granted))
	}
	return refreshed
}

// fetchUntilRefused lets the page fetch until the session is over.
func fetchUntilRefused(t *testing.T, browser context.Context) {
	t.Helper()
	for deadline := time.Now().Add(5 * shortLifetime); time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
		switch status := fetchStatus(t, browser, "/api"); status {
		case 200:
		case 401:
			return
		default:
			t.Fatalf("a fetch got %d", status)
		}
	}
	t.Fatal("after five lifetimes, fetches still get 200")
}

// siteLogsOut uses a form of a page of the site, as applications have it for
// their logout.
func siteLogsOut(t *testing.T, browser context.Context, w *world) {
	t.Helper()
	do(t, browser, chromedp.Navigate(w.site+"/form"), chromedp.WaitReady(css(`#upstream`)))
	const form = `<form method="post" action="/oauth2/logout"><button>out</button></form>`
	run(t, browser, chromedp.Evaluate[bool]("document.body.insertAdjacentHTML('beforeend', `"+form+"`), true"))
	do(t, browser, chromedp.Click(css(`form button`)))
}

// confirmsLogout uses the button of the page that asks whether to log out.
func confirmsLogout(t *testing.T, browser context.Context, w *world) {
	t.Helper()
	do(t, browser, chromedp.Navigate(w.site+"/oauth2/logout"), chromedp.WaitVisible(css(`button`)), chromedp.Click(css(`button`)))
}
