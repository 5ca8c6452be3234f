package flows

import (
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/pkce-auth/caddy-pkce-auth/test/provider"
)

// framed are the headers of a frame in a page of the provider's.
var framed = with(navigation, "Sec-Fetch-Site", "cross-site", "Sec-Fetch-Dest", "iframe")

// R46, R47: a frame of the provider's ends the session of the browser in which
// it stands, if it names it; and nothing else: not without the cookie, not at
// the provider, not by halves of a name.
func TestR46R47FrontChannelLogout(t *testing.T) {
	inEveryStore(t, func(w *world) {
		t := w.t
		w.caddyTLS("pkce_auth $OP public {\nsession {\nsame_site none\n}\n}\nreverse_proxy $UPSTREAM")
		b, sid := w.loggedIn()
		other, _ := w.loggedIn()
		frame := func(b *browser, query string) answer {
			t.Helper()
			a := b.do(http.MethodGet, w.site+"/oauth2/frontchannel-logout"+strings.ReplaceAll(query, "$OP", url.QueryEscape(w.op.URL)), framed, "")
			policy := a.Header.Get("Content-Security-Policy") + ";"
			if framable := strings.Contains(policy, "frame-ancestors "+w.op.URL+";") && a.Header.Get("X-Frame-Options") == ""; framable != (a.StatusCode == http.StatusOK) {
				t.Errorf("%s: framable: %v, with status %d and %v", query, framable, a.StatusCode, a.Header)
			}
			if !strings.Contains(a.Header.Get("Cache-Control"), "no-store") {
				t.Errorf("%s: Cache-Control: %q", query, a.Header.Get("Cache-Control"))
			}
			return a
		}
		for _, tc := range []struct {
			query  string
			status int
		}{
			{"", 200},
			{"?iss=$OP", 400},
			{"?sid=" + sid, 400},
			{"?iss=$OP&sid=" + sid + "&sid=" + sid, 400},
			{"?iss=$OP&iss=$OP&sid=" + sid + "&sid=" + sid, 400},
			{"?iss=$OP&sid=%zz", 400},
			{"?iss=$OP&sid=sid-of-somebody-else", 200},
			{"?iss=$OP&sid=", 200},
			{"?iss=https%3A%2F%2Fevil.test&sid=" + sid, 200},
		} {
			if a := frame(b, tc.query); a.StatusCode != tc.status || a.Header["Set-Cookie"] != nil {
				t.Errorf("%q: got status %d, %q", tc.query, a.StatusCode, a.Header["Set-Cookie"])
			}
		}
		if a := frame(w.browser(), "?iss=$OP&sid="+sid); a.StatusCode != http.StatusOK {
			t.Errorf("without the cookie: got status %d", a.StatusCode)
		}
		if a := frame(other, "?iss=$OP&sid="+sid); a.StatusCode != http.StatusOK {
			t.Errorf("in another browser: got status %d", a.StatusCode)
		}
		if a := b.do(http.MethodPost, w.site+"/oauth2/frontchannel-logout?iss="+url.QueryEscape(w.op.URL)+"&sid="+sid, with(framed), ""); a.StatusCode != http.StatusMethodNotAllowed {
			t.Errorf("POST: got status %d", a.StatusCode)
		}
		w.alive(b, true, "after all that")
		w.alive(other, true, "the other browser's session, after all that")

		copied := b.cookieHeader(w)
		if a := frame(b, "?iss=$OP&sid="+sid); a.StatusCode != http.StatusOK || len(a.sessionLines()) != 1 {
			t.Errorf("got status %d, %q", a.StatusCode, a.Header["Set-Cookie"])
		}
		w.alive(b, false, "in the end")
		if a := w.present(copied); a.StatusCode != http.StatusUnauthorized {
			t.Errorf("a copy of the cookie: got status %d", a.StatusCode)
		}
		w.alive(other, true, "the other browser's session, in the end")
		w.logged("logout by the provider, in a frame", sid)
		if a := frame(b, "?iss=$OP&sid="+sid); a.StatusCode != http.StatusOK {
			t.Errorf("once more: got status %d", a.StatusCode)
		}

		// R47: what the provider is asked to forget, it forgets for everybody.
		// A logout that does ask comes after it, so that there is something to
		// wait for.
		token := w.refreshTokens()[0]
		other.logout(w)
		w.eventually("the other logout's revocation", func() bool { return len(w.revokes()) > 0 })
		if w.op.Revoked(token) {
			t.Error("a logout in a frame revoked a token at the provider")
		}
	})
}

// R46: this one page may be framed, and by nobody but the provider.
func TestR46NothingElseIsFramed(t *testing.T) {
	w := newWorld(t)
	w.caddy(basic)
	for _, path := range []string{"/oauth2/signed-out", "/oauth2/logout", "/oauth2/error", "/oauth2/login", "/x"} {
		a := w.browser().visit(w.site + path)
		if !strings.Contains(a.Header.Get("Content-Security-Policy"), "frame-ancestors 'none'") || a.Header.Get("X-Frame-Options") != "DENY" {
			t.Errorf("%s: got %v", path, a.Header)
		}
	}
}

// R20, R46: an issuer that is written with a slash behind it is written so in
// what comes from the provider, in a frame's URL as in a logout token.
func TestR20R46IssuerWithASlash(t *testing.T) {
	for name, path := range map[string]string{"the root": "/", "a path": "/tenant/", "without": ""} {
		t.Run(name, func(t *testing.T) {
			w := newWorldWith(t, provider.Config{Path: path})
			w.caddyTLS("pkce_auth $OP public {\nsession {\nsame_site none\n}\n}\nreverse_proxy $UPSTREAM")
			b, sid := w.loggedIn()
			target := w.site + "/oauth2/frontchannel-logout?iss=" + url.QueryEscape(w.op.URL) + "&sid=" + sid
			if a := b.do(http.MethodGet, target, framed, ""); a.StatusCode != http.StatusOK {
				t.Errorf("in a frame: got status %d", a.StatusCode)
			}
			w.alive(b, false, "after the frame")
			b, sid = w.loggedIn()
			if a := w.sends(w.op.LogoutToken("public", "", sid, provider.LogoutFault{})); a.Status != http.StatusOK {
				t.Errorf("a logout token: got status %d and %s", a.Status, a.Body)
			}
			w.alive(b, false, "after the logout token")
		})
	}
}
