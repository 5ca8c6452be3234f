package e2e

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/chromedp"
)

// The main job at another real provider: a person opens a page, logs in in
// LemonLDAP's own form, and is back at that page with its query.
func TestLemonldapMainJobInChromium(t *testing.T) {
	for _, tc := range []struct{ name, clientID, secret string }{
		{"public client", "public", ""},
		{"confidential client", "confidential", "client_secret " + lemonldapSecret},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			w := newLemonldapWorld(t, time.Hour, guarded("client_id "+tc.clientID+"\n"+tc.secret))
			browser := newBrowser(t)
			const page = "/reports?year=2026&q=a%20b"
			do(t, browser, chromedp.Navigate(w.site+page))
			lemonldapAsks(t, browser, w)
			screenshot(t, browser, "lemonldap-login-"+tc.clientID)
			lemonldapLogIn(t, browser, w)
			arrives(t, browser, w.site+page)
			if got := run(t, browser, chromedp.Text(css(`#upstream`))); got != "GET "+page {
				t.Errorf("the page shows %q", got)
			}
			r := w.upstream.last(t, "/reports")
			// Both are claims of the ID token, which LemonLDAP fills.
			if r.Header.Get("X-Auth-Subject") != "dwho" || r.Header.Get("X-Auth-Email") != "dwho@badwolf.org" {
				t.Errorf("the upstream got %v", r.Header)
			}
			tokens := w.upstream.bearers("/reports")
			if len(tokens) != 1 {
				t.Fatalf("the upstream got %d access tokens, want one", len(tokens))
			}
			claims := accessTokenClaims(t, tokens[0])
			if claims.Issuer != w.issuer || claims.Subject != "dwho" || claims.ClientID != tc.clientID {
				t.Errorf("the access token says %+v", claims)
			}
			if strings.Contains(w.caddy.output(), tokens[0]) {
				t.Error("the token stands in Caddy's log")
			}
		})
	}
}

// An administrator can tell LemonLDAP to leave ID tokens unsigned (M71), or to
// sign them with the client's secret (M72); it announces both. Neither opens a
// session: only a key of the provider proves who somebody is.
func TestLemonldapIDTokenWithoutItsSignatureOpensNoSession(t *testing.T) {
	for _, tc := range []struct{ name, options, title, logged string }{
		{"none", "client_id unsigned", "The login could not be completed", `"reason":"invalid_answer"`},
		{"HS256", "client_id symmetric\nclient_secret " + lemonldapSecret, "Login is not set up correctly", `signed with \"HS256\"`},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			w := newLemonldapWorld(t, time.Hour, guarded(tc.options))
			browser := newBrowser(t)
			do(t, browser, chromedp.Navigate(w.site+"/page"))
			lemonldapLogIn(t, browser, w)
			refused := func() {
				t.Helper()
				shows(t, browser, `location.href.startsWith(`+quote(w.site+"/oauth2/error?e=")+`)`)
				if got := run(t, browser, chromedp.Text(css(`h1`))); got != tc.title {
					t.Errorf("the page says %q", got)
				}
			}
			refused()
			// LemonLDAP knows the user by now, and sends the browser back at once.
			do(t, browser, chromedp.Navigate(w.site+"/page"))
			refused()
			if !strings.Contains(w.caddy.output(), tc.logged) {
				t.Errorf("the log does not say %s", tc.logged)
			}
			if n := w.upstream.count("/page"); n != 0 {
				t.Errorf("%d requests reached the upstream", n)
			}
			// It was the ID token, not the code: LemonLDAP gave all there is.
			grants := lemonldapNotes(t, w, 2, "grant", "authorization_code")
			if len(grants) != 2 || !slices.Contains(grants[1].Members, "id_token") {
				t.Errorf("LemonLDAP granted %+v", grants)
			}
		})
	}
}
