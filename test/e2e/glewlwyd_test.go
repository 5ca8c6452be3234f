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

// The main job at Glewlwyd: a person opens a page, logs in in Glewlwyd's own
// form, and is back at that page with its query.
func TestGlewlwydMainJobInChromium(t *testing.T) {
	for _, tc := range []struct{ name, clientID, secret string }{
		{"public client", "public", ""},
		{"confidential client", "confidential", "client_secret " + glewlwydSecret},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			w := newGlewlwydWorld(t, time.Hour, guarded("client_id "+tc.clientID+"\n"+tc.secret))
			browser := newBrowser(t)
			const page = "/reports?year=2026&q=a%20b"
			do(t, browser, chromedp.Navigate(w.site+page))
			glewlwydAsks(t, browser, w)
			screenshot(t, browser, "glewlwyd-login-"+tc.clientID)
			glewlwydLogIn(t, browser, w)
			arrives(t, browser, w.site+page)
			if got := run(t, browser, chromedp.Text(css(`#upstream`))); got != "GET "+page {
				t.Errorf("the page shows %q", got)
			}
			if _, claims := reached(t, w, "/reports", "alice@example.test"); claims.ClientID != tc.clientID {
				t.Errorf("the access token says %+v", claims)
			}
			// It calls the token "bearer", in lower case; the upstream gets "Bearer".
			codes := w.front.noted(t, 1, func(n note) bool { return n.Grant == "authorization_code" })
			if len(codes) != 1 || codes[0].Type != "bearer" || !slices.Contains(codes[0].Members, "refresh_token") {
				t.Errorf("Glewlwyd granted %+v", codes)
			}
		})
	}
}

// A page goes on fetching while one access token after another ends. Glewlwyd
// takes every refresh token once; no ID token comes with the new one, so the
// user is still the one of the login.
func TestGlewlwydRefreshRotatesTheRefreshToken(t *testing.T) {
	for _, tc := range []struct{ name, options string }{
		{"public client", "client_id public"},
		{"confidential client, at half time", "client_id confidential\nclient_secret " + glewlwydSecret + "\nrefresh 2s"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			w := newGlewlwydWorld(t, shortLifetime, guarded(tc.options))
			browser := newBrowser(t)
			do(t, browser, chromedp.Navigate(w.site+"/page"))
			glewlwydLogIn(t, browser, w)
			arrives(t, browser, w.site+"/page")
			tokens := fetchAcrossExpiry(t, browser, w)

			refreshed := rotated(t, w, tokens)
			if slices.ContainsFunc(refreshed, func(n note) bool { return slices.Contains(n.Members, "id_token") }) {
				t.Errorf("Glewlwyd answered %+v", refreshed)
			}
			reached(t, w, "/api", "alice@example.test")
			if n := w.logins(); n != 1 {
				t.Errorf("it took %d logins", n)
			}
			// The ID token of the login has ended, and is still a good hint.
			siteLogsOut(t, browser, w)
			glewlwydLogOut(t, browser, w)
		})
	}
}

// When Glewlwyd refuses to refresh, it answers 400 and says nothing at all.
// The session is over all the same: what a page does in the background gets
// 401, and the next navigation leads to Glewlwyd.
func TestGlewlwydRefusedRefreshLeadsToALogin(t *testing.T) {
	for _, tc := range []struct {
		name, options, endpoint, secret string
		form                            url.Values // with the refresh token in the empty place
	}{
		{
			"used by somebody else", "client_id public", "/api/oidc/token", "",
			url.Values{"grant_type": {"refresh_token"}, "refresh_token": {""}},
		},
		{
			"revoked", "client_id confidential\nclient_secret " + glewlwydSecret, "/api/oidc/revoke", glewlwydSecret,
			url.Values{"token_type_hint": {"refresh_token"}, "token": {""}},
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			w := newGlewlwydWorld(t, shortLifetime, guarded(tc.options))
			browser := newBrowser(t)
			do(t, browser, chromedp.Navigate(w.site+"/page?x=1"))
			glewlwydLogIn(t, browser, w)
			arrives(t, browser, w.site+"/page?x=1")
			w.front.atProvider(t, tc.endpoint, tc.secret, tc.form)
			fetchUntilRefused(t, browser)
			// It was asked once, not by every fetch.
			if refused := w.front.noted(t, 1, refreshes(400)); len(refused) != 1 || !refused[0].Empty {
				t.Errorf("Glewlwyd refused %+v", refused)
			}
			do(t, browser, chromedp.Navigate(w.site+"/page?x=2"))
			glewlwydContinues(t, browser, w) // it knows the user
			arrives(t, browser, w.site+"/page?x=2")
			if n := w.logins(); n != 2 {
				t.Errorf("it took %d logins", n)
			}
		})
	}
}

// The logout goes on at Glewlwyd, which asks and then sends the browser back.
// Its metadata say that the revocation endpoint takes clients with a secret
// only: a public client does not ask there, and its refresh token lives on.
func TestGlewlwydLogoutEndsItsSessionToo(t *testing.T) {
	for _, tc := range []struct {
		name, options string
		logOut        func(*testing.T, context.Context, *world)
		revoked       int // how often it is asked to revoke
	}{
		{"public client, a form of the site", "client_id public", siteLogsOut, 0},
		{"confidential client, the button of the page that asks", "client_id confidential\nclient_secret " + glewlwydSecret, confirmsLogout, 1},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			w := newGlewlwydWorld(t, time.Hour, guarded(tc.options))
			browser := newBrowser(t)
			do(t, browser, chromedp.Navigate(w.site+"/page"))
			glewlwydLogIn(t, browser, w)
			arrives(t, browser, w.site+"/page")
			// Glewlwyd knows the user: another login needs no form.
			do(t, browser, chromedp.Navigate(w.site+"/oauth2/login?return_to=/again"))
			glewlwydContinues(t, browser, w)
			arrives(t, browser, w.site+"/again")

			tc.logOut(t, browser, w)
			glewlwydLogOut(t, browser, w)
			revoked := w.front.noted(t, tc.revoked, func(n note) bool { return n.Endpoint == "revoke" })
			if len(revoked) != tc.revoked || tc.revoked > 0 && revoked[0].Status != 200 {
				t.Errorf("Glewlwyd was asked to revoke: %+v", revoked)
			}
			if strings.Contains(w.caddy.output(), "could not be revoked at the provider") {
				t.Error("the log says that the token could not be revoked")
			}
			do(t, browser, chromedp.Navigate(w.site+"/page"))
			glewlwydAsks(t, browser, w)
			if n := w.upstream.count("/page"); n != 1 {
				t.Errorf("%d requests for the page reached the upstream", n)
			}
		})
	}
}

// glewlwydLogOut says yes to Glewlwyd's own question, and waits for the page
// after the logout.
func glewlwydLogOut(t *testing.T, browser context.Context, w *world) {
	t.Helper()
	shows(t, browser, quote(w.issuer)+`.startsWith(location.origin) && document.body.innerText.includes("redirected to: `+w.site+`/oauth2/signed-out")`)
	screenshot(t, browser, "glewlwyd-logout")
	do(t, browser, chromedp.Click(css(`.card-body button.btn-danger`)))
	signedOut(t, browser, w.site)
	asked := w.front.noted(t, 1, func(n note) bool { return n.Endpoint == "end_session" })
	for _, parameter := range []string{"client_id", "id_token_hint", "post_logout_redirect_uri", "state"} {
		if len(asked) != 1 || !slices.Contains(asked[0].Parameters, parameter) {
			t.Errorf("Glewlwyd's end_session_endpoint got %+v, want one request with %s", asked, parameter)
		}
	}
}
