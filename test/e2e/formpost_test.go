package e2e

import (
	"strings"
	"testing"

	"github.com/chromedp/chromedp"
)

// IDPS 39: the provider's page posts its answer, from another site, and the
// browser sends the login state's cookie with it and no other of ours. On the
// way, userinfo is asked.
func TestIDPS39FormPostInChromium(t *testing.T) {
	for name, address := range map[string]string{
		"over https, from another site": "https://localhost:0",
		"over http, on loopback":        "http://localhost:0",
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, address, `
				`+map[bool]string{true: "tls internal"}[strings.HasPrefix(address, "https")]+`
				pkce_auth {
					issuer $ISSUER
					client_id public
					response_mode form_post
					claims_from userinfo id_token
					header_up X-Auth-Email {http.auth.user.email}
				}
				reverse_proxy $UPSTREAM
			`)
			browser := newBrowser(t)
			const page = "/reports?year=2026&q=a%20b"
			do(t, browser, chromedp.Navigate(w.site+page))
			logIn(t, browser, "alice")
			arrives(t, browser, w.site+page)
			if r := w.upstream.last(t, "/reports"); r.Header.Get("X-Auth-Email") != "alice@example.test" {
				t.Errorf("the upstream got %v", r.Header)
			}
			do(t, browser, chromedp.Reload()) // no form to send again: the page came by a GET
			arrives(t, browser, w.site+page)
			if n := strings.Count(w.caddy.output(), `"msg":"login started"`); n != 2 { // and one of w.ready
				t.Errorf("it took %d logins", n-1)
			}
			if strings.Contains(w.caddy.output(), `"method":"POST"`) {
				t.Error("the callback is in the access log")
			}
		})
	}
}
