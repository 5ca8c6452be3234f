package e2e

import (
	"context"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/chromedp"
)

// The main job at Dex: a person opens a page, logs in in Dex's own form, and is
// back at that page with its query.
func TestDexMainJobInChromium(t *testing.T) {
	for _, tc := range []struct{ name, clientID, secret string }{
		{"public client", "public", ""},
		{"confidential client", "confidential", "client_secret " + dexSecret},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			w := newDexWorld(t, time.Hour, guarded("client_id "+tc.clientID+"\n"+tc.secret))
			browser := newBrowser(t)
			const page = "/reports?year=2026&q=a%20b"
			do(t, browser, chromedp.Navigate(w.site+page))
			dexAsks(t, browser, w)
			screenshot(t, browser, "dex-login-"+tc.clientID)
			dexLogIn(t, browser, w)
			arrives(t, browser, w.site+page)
			if got := run(t, browser, chromedp.Text(css(`#upstream`))); got != "GET "+page {
				t.Errorf("the page shows %q", got)
			}
			token, _ := reached(t, w, "/reports", "alice@example.test")
			if got := audience(t, token); got != tc.clientID {
				t.Errorf("the access token is for %q", got)
			}
			// It advertises offline_access, so it was asked for.
			codes := w.front.noted(t, 1, func(n note) bool { return n.Grant == "authorization_code" })
			if len(codes) != 1 || !slices.Contains(codes[0].Members, "refresh_token") || !slices.Contains(codes[0].Parameters, "code_verifier") {
				t.Errorf("Dex granted %+v", codes)
			}
		})
	}
}

// A page goes on fetching while one access token after another ends. Dex takes
// every refresh token once, so each refresh needs that of the one before.
func TestDexRefreshRotatesTheRefreshToken(t *testing.T) {
	for _, tc := range []struct{ name, options string }{
		{"public client", "client_id public"},
		{"confidential client, at half time", "client_id confidential\nclient_secret " + dexSecret + "\nrefresh 2s"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			w := newDexWorld(t, shortLifetime, guarded(tc.options))
			browser := newBrowser(t)
			do(t, browser, chromedp.Navigate(w.site+"/page"))
			dexLogIn(t, browser, w)
			arrives(t, browser, w.site+"/page")
			tokens := fetchAcrossExpiry(t, browser, w)

			rotated(t, w, tokens)
			reached(t, w, "/api", "alice@example.test")
			if n := w.logins(); n != 1 {
				t.Errorf("it took %d logins", n)
			}
		})
	}
}

// When Dex refuses to refresh, it says invalid_request, not invalid_grant. The
// session is over all the same: what a page does in the background gets 401,
// and the next navigation Dex's form.
func TestDexRefusedRefreshLeadsToALogin(t *testing.T) {
	for _, tc := range []struct {
		name string
		end  func(*testing.T, *world)
	}{
		// Dex keeps one refresh token for a user and a client: that of the login
		// with another browser takes the place of this one's.
		{"logged in with another browser", func(t *testing.T, w *world) {
			other := newBrowser(t)
			do(t, other, chromedp.Navigate(w.site+"/elsewhere"))
			dexLogIn(t, other, w)
			arrives(t, other, w.site+"/elsewhere")
		}},
		{"used by somebody else", func(t *testing.T, w *world) {
			w.front.atProvider(t, "/dex/token", "", url.Values{"grant_type": {"refresh_token"}, "refresh_token": {""}})
		}},
		// Its keys are others, too.
		{"forgotten by a Dex that was started again", func(t *testing.T, w *world) {
			startDex(t, w, shortLifetime)
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			w := newDexWorld(t, shortLifetime, guarded("client_id public"))
			browser := newBrowser(t)
			do(t, browser, chromedp.Navigate(w.site+"/page?x=1"))
			dexLogIn(t, browser, w)
			arrives(t, browser, w.site+"/page?x=1")
			tc.end(t, w)
			fetchUntilRefused(t, browser)
			// It was asked once, not by every fetch.
			if refused := w.front.noted(t, 1, refreshes(400)); len(refused) != 1 || refused[0].Error != "invalid_request" {
				t.Errorf("Dex refused %+v", refused)
			}
			do(t, browser, chromedp.Navigate(w.site+"/page?x=2"))
			dexLogIn(t, browser, w)
			arrives(t, browser, w.site+"/page?x=2")
		})
	}
}

// Dex has no session of its own and nowhere to log out at, so the logout is
// ours alone, and the next login asks for the password.
func TestDexLogoutIsLocal(t *testing.T) {
	for _, tc := range []struct {
		name   string
		logOut func(*testing.T, context.Context, *world)
	}{
		{"a form of the site", siteLogsOut},
		{"the button of the page that asks", confirmsLogout},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			w := newDexWorld(t, time.Hour, guarded("client_id public"))
			browser := newBrowser(t)
			do(t, browser, chromedp.Navigate(w.site+"/page"))
			dexLogIn(t, browser, w)
			arrives(t, browser, w.site+"/page")

			tc.logOut(t, browser, w)
			signedOut(t, browser, w.site)
			if n := w.logins(); n != 1 {
				t.Errorf("the logout began a login: there were %d", n)
			}
			do(t, browser, chromedp.Navigate(w.site+"/page"))
			dexAsks(t, browser, w)
			if n := w.upstream.count("/page"); n != 1 || strings.Contains(w.caddy.output(), `"level":"error"`) {
				t.Errorf("%d requests reached the upstream, and the log says\n%s", n, w.caddy.output())
			}
		})
	}
}
