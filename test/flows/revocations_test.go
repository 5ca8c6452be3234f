package flows

import (
	"net/http"
	"testing"

	"github.com/pkce-auth/caddy-pkce-auth/test/provider"
)

// A72, T8: what was ended stays so across reloads and restarts, whoever ended
// it, and however many copies of its cookie there are.
func TestA72T8EndedStaysEnded(t *testing.T) {
	inEveryStore(t, func(w *world) {
		t := w.t
		w.withAdmin()
		load := w.reloads()
		load("timeout 5s")
		var copies []string
		for _, end := range []func(b *browser, sid string){
			func(b *browser, _ string) { b.logout(w) },
			func(_ *browser, sid string) { w.sends(w.op.LogoutToken("public", "", sid, provider.LogoutFault{})) },
			func(*browser, string) { w.operator(http.MethodDelete, "?sub=alice") },
		} {
			b, sid := w.loggedIn()
			copies = append(copies, b.cookieHeader(w))
			end(b, sid)
		}
		check := func(when string) {
			t.Helper()
			for i, cookies := range copies {
				if a := w.present(cookies); a.StatusCode != http.StatusUnauthorized {
					t.Errorf("%s: copy %d: got status %d", when, i, a.StatusCode)
				}
			}
		}
		check("at once")
		load("timeout 6s")
		check("after a reload")
		if err := stop(); err != nil {
			t.Fatal(err)
		}
		load("timeout 6s")
		check("after a restart")
		b, _ := w.loggedIn()
		w.alive(b, true, "who logs in again")
	})
}

// `revocations memory`: sessions in cookies need nothing to be written down,
// and a copy of a cookie that was made before a logout opens again after a
// restart, until its time is up. This is what that option says.
func TestRevocationsInMemory(t *testing.T) {
	w := newWorld(t)
	load := w.reloads()
	const options = "cookie_secret " + cookieSecret + "\nsession cookie {\nrevocations memory\n}"
	load(options)
	b, _ := w.loggedIn()
	copied := b.cookieHeader(w)
	b.logout(w)
	for _, when := range []string{"at once", "after a reload"} {
		if a := w.present(copied); a.StatusCode != http.StatusUnauthorized {
			t.Errorf("%s: got status %d", when, a.StatusCode)
		}
		load(options + "\ntimeout 6s")
	}
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	load(options)
	if a := w.present(copied); a.StatusCode != http.StatusOK {
		t.Errorf("after a restart: got status %d", a.StatusCode)
	}
}

// R45: the ID tokens of refreshes need not name the provider's session; the sid
// of the login still ends it.
func TestR45BackChannelLogoutAfterARefresh(t *testing.T) {
	inEveryStore(t, func(w *world) {
		w.caddy(basic)
		b := w.browser()
		w.expired(b, provider.Faults{})
		w.alive(b, true, "after a refresh")
		sid := w.op.Logins()[0].SessionID
		if a := w.sends(w.op.LogoutToken("public", "", sid, provider.LogoutFault{})); a.Status != http.StatusOK || len(w.refreshes()) != 1 {
			w.t.Errorf("got status %d after %d refreshes", a.Status, len(w.refreshes()))
		}
		w.alive(b, false, "after the logout token")
	})
}
