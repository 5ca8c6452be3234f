package flows

import (
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/pkce-auth/caddy-pkce-auth/test/provider"
)

// T9: cookie_secret is replaced in three steps while people work. Whoever did
// anything between the second and the third is not logged out, whoever did not
// logs in again; and at every step, who is to be logged out can be found by the
// names that sessions had before it. Then the key is lost.
func TestT9CookieSecretRotationWhileSessionsLive(t *testing.T) {
	const before, after, another = cookieSecret, olderSecret, thirdSecret
	inEveryStore(t, func(w *world) {
		t := w.t
		load := w.reloads()
		step := func(secrets string) {
			t.Helper()
			load("cookie_secret " + secrets + "\nsession {\nidle 10s\n}")
		}
		end := func(sid string) {
			t.Helper()
			if a := w.sends(w.op.LogoutToken("public", "", sid, provider.LogoutFault{})); a.Status != http.StatusOK {
				t.Errorf("a logout token: got status %d", a.Status)
			}
		}
		step(before)
		active, _ := w.loggedIn()
		absent, _ := w.loggedIn()
		second, sid2 := w.loggedIn()
		third, sid3 := w.loggedIn()

		step(before + " " + after)
		for _, b := range []*browser{active, second, third} {
			w.alive(b, true, "old new")
		}
		end(sid2)
		w.alive(second, false, "old new, logged out")

		step(after + " " + before)
		end(sid3)
		w.alive(third, false, "new old, logged out")
		under := w.browser()
		callback := under.callback(w, "/under/way")
		time.Sleep(1100 * time.Millisecond) // the next use is written down, with the new key
		w.alive(active, true, "new old")

		step(after)
		w.alive(active, true, "new")
		w.alive(absent, false, "new, for who was absent")
		w.alive(second, false, "new, logged out long ago")
		absent.login(w, "/back")
		if a := under.open(callback); a.body != "upstream /under/way" {
			t.Errorf("a login across the third step: got status %d and %q", a.StatusCode, a.body)
		}

		logins := len(w.op.Requests("authorize"))
		stale := under.callback2(w)
		step(another)
		for _, b := range []*browser{active, absent} {
			w.alive(b, false, "without the key")
			b.login(w, "/anew")
			w.alive(b, true, "after another login")
		}
		if a := under.open(stale); a.StatusCode != http.StatusOK {
			t.Errorf("a login whose key is lost: got status %d", a.StatusCode)
		}
		if got := len(w.op.Requests("authorize")) - logins; got != 4 { // one for each, and the one that was under way
			t.Errorf("it took %d logins", got)
		}
	})
}

// T9: the key that made itself is lost: everybody logs in again, once.
func TestT9GeneratedKeyLost(t *testing.T) {
	inEveryStore(t, func(w *world) {
		t := w.t
		load := w.reloads()
		load("timeout 5s")
		b, _ := w.loggedIn()
		files, _ := filepath.Glob(filepath.Join(w.dir, "storage", "pkce_auth", "keys", "*.json"))
		if len(files) != 1 {
			t.Fatalf("keys: %v", files)
		}
		if err := os.Remove(files[0]); err != nil {
			t.Fatal(err)
		}
		w.alive(b, true, "as long as nothing looks for the key")
		load("timeout 6s")
		w.alive(b, false, "when it is gone")
		if a := b.visit(w.site + "/page"); a.StatusCode != http.StatusFound {
			t.Errorf("a navigation: got status %d", a.StatusCode)
		}
		b.login(w, "/again")
		w.alive(b, true, "after another login")
		load("timeout 7s")
		w.alive(b, true, "after another reload")
		if n := len(w.op.Requests("authorize")); n != 2 {
			t.Errorf("it took %d logins", n)
		}
	})
}
