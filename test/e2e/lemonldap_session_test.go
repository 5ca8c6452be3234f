package e2e

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/chromedp"
)

// lemonldapLifetime is that of access tokens in the tests that wait for their
// end, or rather for what must happen before it.
const lemonldapLifetime = 3 * time.Second

// A page goes on fetching while one access token after another ends. Nobody
// logs in again, and the upstream gets no token that has ended. LemonLDAP's
// answer to a refresh carries no refresh token: the old one is kept (RFC 6749
// section 6), so the second refresh is the one that proves it.
func TestLemonldapRefreshKeepsTheOldRefreshToken(t *testing.T) {
	for _, tc := range []struct{ name, options string }{
		{"public client", "client_id public"},
		{"confidential client, at half time", "client_id confidential\nclient_secret " + lemonldapSecret + "\nrefresh 2s"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			w := newLemonldapWorld(t, lemonldapLifetime, tc.options+"\nscopes openid profile email offline_access")
			browser := newBrowser(t)
			do(t, browser, chromedp.Navigate(w.site+"/page"))
			lemonldapLogIn(t, browser, w)
			arrives(t, browser, w.site+"/page")
			tokens := lemonldapFetchAcrossExpiry(t, browser, w)

			// Requests that come together share a refresh; the last one's token
			// may not have been needed yet.
			refreshes := lemonldapNotes(t, w, tokens-1, "grant", "refresh_token")
			if n := len(refreshes) - (tokens - 1); n < 0 || n > 1 {
				t.Errorf("%d refreshes gave the upstream %d access tokens", len(refreshes), tokens)
			}
			for _, refresh := range refreshes {
				if refresh.Status != 200 || slices.Contains(refresh.Members, "refresh_token") {
					t.Errorf("LemonLDAP answered %+v", refresh)
				}
			}
			if r := w.upstream.last(t, "/api"); r.Header.Get("X-Auth-Email") != "dwho@badwolf.org" {
				t.Errorf("after the refreshes, the upstream got %v", r.Header)
			}
			if n := strings.Count(w.caddy.output(), `"msg":"login started"`); n != 2 { // and one of w.ready
				t.Errorf("it took %d logins", n-1)
			}
			// The ID token of a refresh is as good a hint as that of the login.
			lemonldapSiteLogsOut(t, browser, w)
			lemonldapSignedOut(t, browser, w)
		})
	}
}

// lemonldapFetchAcrossExpiry lets the page fetch until the upstream has seen
// the third access token, and returns how many it has seen.
func lemonldapFetchAcrossExpiry(t *testing.T, browser context.Context, w *world) int {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
		asked := time.Now()
		got := run(t, browser, chromedp.Evaluate[string](
			`Promise.all([1, 2, 3].map((n) => fetch("/api?" + n).then((r) => r.status))).then(String)`, chromedp.EvalAwaitPromise))
		if got != "200,200,200" {
			t.Fatalf("three fetches got %s", got)
		}
		tokens := w.upstream.bearers("/page", "/api")
		latest := accessTokenClaims(t, tokens[len(tokens)-1])
		// A resource server would go by what the token itself says.
		if ended := time.Unix(latest.Expires, 0); latest.Subject != "dwho" || asked.After(ended) {
			t.Fatalf("at %v the upstream got a token of %q that had ended at %v", asked, latest.Subject, ended)
		}
		if len(tokens) >= 3 {
			return len(tokens)
		}
	}
	t.Fatal("in vain waited for a third access token")
	return 0
}

// When the provider refuses to refresh, the session is over: what a page does
// in the background gets 401, and the next navigation the login form.
func TestLemonldapRefusedRefreshLeadsToALogin(t *testing.T) {
	for _, tc := range []struct {
		name, scopes, answer string
		end                  func(*testing.T, context.Context, *world)
	}{
		// Without offline_access, LemonLDAP's refresh token ends with its session.
		{"logged out at the provider", "openid profile email", "invalid_grant", lemonldapPortalLogOut},
		// Like Dex, LemonLDAP says this of a refresh token that it does not know.
		{"forgotten by the provider", "openid profile email offline_access", "invalid_request", lemonldapForget},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			w := newLemonldapWorld(t, lemonldapLifetime, "client_id public\nscopes "+tc.scopes)
			browser := newBrowser(t)
			do(t, browser, chromedp.Navigate(w.site+"/page?x=1"))
			lemonldapLogIn(t, browser, w)
			arrives(t, browser, w.site+"/page?x=1")
			tc.end(t, browser, w)
			status := 0
			for deadline := time.Now().Add(3 * lemonldapLifetime); status != 401 && time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
				if status = fetchStatus(t, browser, "/api"); status != 200 && status != 401 {
					t.Fatalf("a fetch got %d", status)
				}
			}
			if status != 401 {
				t.Fatal("after three lifetimes, fetches still get 200")
			}
			// It was asked once, not by every fetch.
			if refused := lemonldapNotes(t, w, 1, "error", tc.answer); len(refused) != 1 || refused[0].Grant != "refresh_token" {
				t.Errorf("LemonLDAP refused %+v", refused)
			}
			do(t, browser, chromedp.Navigate(w.site+"/page?x=2"))
			lemonldapLogIn(t, browser, w)
			arrives(t, browser, w.site+"/page?x=2")
		})
	}
}

// lemonldapPortalLogOut logs out at LemonLDAP itself, in another tab; the site
// hears nothing of it.
func lemonldapPortalLogOut(t *testing.T, browser context.Context, w *world) {
	t.Helper()
	tab, cancel := chromedp.NewContext(browser)
	defer cancel()
	do(t, tab, chromedp.Navigate(w.issuer+"/?logout=1"))
	shows(t, tab, `document.querySelector("[trspan=logoutOK], [trmsg='47']")`)
}

// lemonldapForget is what an administrator does who clears the session store.
func lemonldapForget(t *testing.T, _ context.Context, w *world) {
	t.Helper()
	sessions, err := filepath.Glob(filepath.Join(w.idp.cmd.Args[len(w.idp.cmd.Args)-1], "sessions", "*"))
	if err != nil || len(sessions) == 0 {
		t.Fatalf("LemonLDAP's sessions: %v, %v", sessions, err)
	}
	for _, session := range sessions {
		if err := os.Remove(session); err != nil {
			t.Fatal(err)
		}
	}
}

// The logout ends the session at the provider as well, and leads back to the
// site. LemonLDAP asks nobody for confirmation who shows with an id_token_hint
// whose session it is.
func TestLemonldapLogoutEndsItsSessionToo(t *testing.T) {
	for _, tc := range []struct {
		name   string
		logOut func(*testing.T, context.Context, *world)
	}{
		{"a form of the site", lemonldapSiteLogsOut},
		// Our page may post to few places, says its policy, and Chromium holds
		// what the answer redirects to against that, too.
		{"the button of the page that asks", func(t *testing.T, browser context.Context, w *world) {
			do(t, browser, chromedp.Navigate(w.site+"/oauth2/logout"), chromedp.WaitVisible(css(`button`)), chromedp.Click(css(`button`)))
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			w := newLemonldapWorld(t, time.Hour, "client_id public")
			browser := newBrowser(t)
			do(t, browser, chromedp.Navigate(w.site+"/page"))
			lemonldapLogIn(t, browser, w)
			arrives(t, browser, w.site+"/page")
			// LemonLDAP knows the user: another login needs no form.
			do(t, browser, chromedp.Navigate(w.site+"/oauth2/login?return_to=/again"))
			arrives(t, browser, w.site+"/again")

			tc.logOut(t, browser, w)
			lemonldapSignedOut(t, browser, w)
			do(t, browser, chromedp.Navigate(w.site+"/page"))
			lemonldapAsks(t, browser, w)
		})
	}
}

// lemonldapSiteLogsOut uses a form of a page of the site, as applications have
// it for their logout.
func lemonldapSiteLogsOut(t *testing.T, browser context.Context, w *world) {
	t.Helper()
	do(t, browser, chromedp.Navigate(w.site+"/form"), chromedp.WaitReady(css(`#upstream`)))
	const form = `<form method="post" action="/oauth2/logout"><button>out</button></form>`
	run(t, browser, chromedp.Evaluate[bool]("document.body.insertAdjacentHTML('beforeend', `"+form+"`), true"))
	do(t, browser, chromedp.Click(css(`form button`)))
}

// lemonldapSignedOut waits for the page after the logout, and checks what led
// there.
func lemonldapSignedOut(t *testing.T, browser context.Context, w *world) {
	t.Helper()
	signedOut(t, browser, w.site)
	asked := lemonldapNotes(t, w, 1, "endpoint", "logout")
	want := []string{"client_id", "id_token_hint", "post_logout_redirect_uri", "state"}
	if len(asked) != 1 || !slices.Equal(asked[0].Parameters, want) {
		t.Errorf("LemonLDAP's end_session_endpoint got %+v, want one request with %v", asked, want)
	}
}
