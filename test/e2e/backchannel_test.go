package e2e

import (
	"strings"
	"testing"
	"time"

	"github.com/chromedp/chromedp"
)

// Two applications, each with a session of its own and in a store of its own,
// and one login at a certified provider. Who logs out of one is logged out of
// the other: the provider says so through the back channel (R44, R45).
func TestR44R45BackChannelLogoutInChromium(t *testing.T) {
	w := newWorldWithLogin(t, `
		pkce_auth /mail/* {
			issuer $ISSUER
			client_id mail
			prefix /oauth2/mail
			session memory
		}
		pkce_auth /files/* {
			issuer $ISSUER
			client_id files
			prefix /oauth2/files
		}
		reverse_proxy $UPSTREAM
	`, "/oauth2/mail/login")
	alice, bob := newBrowser(t), newBrowser(t)
	do(t, alice, chromedp.Navigate(w.site+"/mail/a"))
	logIn(t, alice, "alice")
	arrives(t, alice, w.site+"/mail/a")
	do(t, alice, chromedp.Navigate(w.site+"/files/a")) // asks for consent, and for no password
	shows(t, alice, `location.pathname === "/files/a" || document.querySelector("button[type=submit]")`)
	if run(t, alice, chromedp.Location()) != w.site+"/files/a" {
		do(t, alice, chromedp.Click(css(`button[type=submit]`)))
	}
	arrives(t, alice, w.site+"/files/a")
	do(t, bob, chromedp.Navigate(w.site+"/mail/b"))
	logIn(t, bob, "bob")
	arrives(t, bob, w.site+"/mail/b")

	const status = `fetch("%").then((r) => r.status)`
	fetches := func(path string) int {
		return run(t, alice, chromedp.Evaluate[int](strings.Replace(status, "%", path, 1), chromedp.EvalAwaitPromise))
	}
	if got := []int{fetches("/mail/x"), fetches("/files/x")}; got[0] != 200 || got[1] != 200 {
		t.Fatalf("logged in, alice gets %v", got)
	}
	do(t, alice, chromedp.Navigate(w.site+"/oauth2/files/logout"), chromedp.Click(css(`form button`)))
	logOut(t, alice)
	shows(t, alice, `location.pathname === "/oauth2/files/signed-out"`)
	w.idp.printed(`"event":"(backchannel.success)"`)
	do(t, alice, chromedp.Navigate(w.site+"/")) // from our own page nothing is fetched
	for deadline := time.Now().Add(10 * time.Second); fetches("/mail/x") != 401; time.Sleep(50 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("alice is still logged in at the other application")
		}
	}
	if got := run(t, bob, chromedp.Evaluate[int](strings.Replace(status, "%", "/mail/x", 1), chromedp.EvalAwaitPromise)); got != 200 {
		t.Errorf("bob gets %d", got)
	}
	if strings.Count(w.caddy.output(), `"msg":"logout by the provider"`) != 2 || strings.Contains(w.idp.output(), "backchannel.error") {
		t.Errorf("Caddy, or the provider, is not content: %s", w.idp.output())
	}
}
