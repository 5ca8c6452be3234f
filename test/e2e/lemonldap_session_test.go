package e2e

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/chromedp/chromedp"
)

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
			w := newLemonldapWorld(t, shortLifetime, guarded(tc.options+"\nscopes openid profile email offline_access"))
			browser := newBrowser(t)
			do(t, browser, chromedp.Navigate(w.site+"/page"))
			lemonldapLogIn(t, browser, w)
			arrives(t, browser, w.site+"/page")
			tokens := fetchAcrossExpiry(t, browser, w)

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
			if _, claims := reached(t, w, "/api", "dwho@badwolf.org"); claims.Subject != "dwho" {
				t.Errorf("after the refreshes, the upstream got a token of %q", claims.Subject)
			}
			if n := w.logins(); n != 1 {
				t.Errorf("it took %d logins", n)
			}
			// The ID token of a refresh is as good a hint as that of the login.
			siteLogsOut(t, browser, w)
			lemonldapSignedOut(t, browser, w)
		})
	}
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
			w := newLemonldapWorld(t, shortLifetime, guarded("client_id public\nscopes "+tc.scopes))
			browser := newBrowser(t)
			do(t, browser, chromedp.Navigate(w.site+"/page?x=1"))
			lemonldapLogIn(t, browser, w)
			arrives(t, browser, w.site+"/page?x=1")
			tc.end(t, browser, w)
			fetchUntilRefused(t, browser)
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
		{"a form of the site", siteLogsOut},
		// Our page may post to few places, says its policy, and Chromium holds
		// what the answer redirects to against that, too.
		{"the button of the page that asks", confirmsLogout},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			w := newLemonldapWorld(t, time.Hour, guarded("client_id public"))
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
