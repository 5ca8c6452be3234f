package flows

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"

	"github.com/pkce-auth/caddy-pkce-auth/test/provider"
)

// sessionInfo is what the session endpoint says.
type sessionInfo struct {
	Active         bool           `json:"active"`
	Claims         map[string]any `json:"claims"`
	TokenExpiresIn int            `json:"token_expires_in"`
	IdleExpiresIn  int            `json:"idle_expires_in"`
	ExpiresIn      int            `json:"expires_in"`
	LoginURL       string         `json:"login_url"`
	LogoutURL      string         `json:"logout_url"`
}

// session asks the session endpoint, as a page of the site does.
func (b *browser) session(w *world, query string) (sessionInfo, answer) {
	b.t.Helper()
	a := b.fetch(w.site + "/oauth2/session" + query)
	var info sessionInfo
	if a.StatusCode != http.StatusOK || a.Header.Get("Content-Type") != "application/json; charset=utf-8" {
		b.t.Fatalf("got status %d and %s", a.StatusCode, a.body)
	}
	if err := json.Unmarshal([]byte(a.body), &info); err != nil {
		b.t.Fatalf("%v: %s", err, a.body)
	}
	for _, secret := range w.op.Issued() {
		if strings.Contains(a.body, secret) {
			b.t.Errorf("the answer holds a secret: %s", a.body)
		}
	}
	return info, a
}

// A84, R19f: from nobody to somebody and back, in every store: who only looks
// changes nothing; who asks has tokens refreshed, and is told of the new one;
// and a session that was ended elsewhere is none.
func TestA84R19fSessionEndpoint(t *testing.T) {
	inEveryStore(t, func(w *world) {
		t := w.t
		w.caddy(basic)
		b := w.browser()
		if info, a := b.session(w, ""); info.Active || a.body != `{"active":false,"login_url":"`+w.site+`/oauth2/login"}` || a.Header["Set-Cookie"] != nil {
			t.Errorf("nobody: got %s", a.body)
		}
		w.expired(b, provider.Faults{})
		_, before := b.sessionCookie(w)
		info, a := b.session(w, "?extend=false")
		if !info.Active || info.TokenExpiresIn != 0 || info.Claims["sub"] != "alice" || info.Claims["email"] != "alice@example.com" {
			t.Errorf("who looks: got %s", a.body)
		}
		if _, now := b.sessionCookie(w); now != before || a.Header["Set-Cookie"] != nil || len(w.refreshes()) != 0 {
			t.Errorf("who looks: %d refreshes, and the cookies %q", len(w.refreshes()), a.Header["Set-Cookie"])
		}
		info, a = b.session(w, "")
		if !info.Active || info.TokenExpiresIn < 3000 || info.TokenExpiresIn > 3600 || len(w.refreshes()) != 1 {
			t.Errorf("who asks: %d refreshes, and got %s", len(w.refreshes()), a.body)
		}
		if (len(a.sessionLines()) > 0) == w.stored() {
			t.Errorf("who asks: got the cookies %q", a.Header["Set-Cookie"])
		}
		w.alive(b, true, "with the new tokens")
		sid := w.op.Logins()[0].SessionID
		w.sends(w.op.LogoutToken("public", "", sid, provider.LogoutFault{}))
		for _, query := range []string{"?extend=false", ""} {
			if info, a := b.session(w, query); info.Active || a.Header["Set-Cookie"] != nil {
				t.Errorf("ended elsewhere: got %s", a.body)
			}
		}
	})
}

// A token that is due, and still good, is refreshed in the page's sight: it is
// told how long the new one lasts, in every store.
func TestSessionEndpointTellsOfTheNewToken(t *testing.T) {
	inEveryStore(t, func(w *world) {
		w.caddy(basic)
		b := w.browser()
		w.dueSoon(b)
		if info, a := b.session(w, "?extend=false"); info.TokenExpiresIn > 2 || len(w.refreshes()) != 0 {
			w.t.Errorf("who looks: got %s", a.body)
		}
		if info, a := b.session(w, ""); info.TokenExpiresIn < 3000 || len(w.refreshes()) != 1 {
			w.t.Errorf("%d refreshes, and got %s", len(w.refreshes()), a.body)
		}
	})
}

// A82: a logout that comes while the endpoint waits for a refresh counts: nobody
// is told of a session that is over, nor given it back.
func TestA82SessionEndpointEndedMeanwhile(t *testing.T) {
	inEveryStore(t, func(w *world) {
		t := w.t
		w.caddy(basic)
		b := w.browser()
		w.dueSoon(b)
		held, release := make(chan struct{}), make(chan struct{})
		w.op.Misbehave(provider.Faults{Answer: answering(func(http.ResponseWriter, *http.Request) bool {
			close(held)
			<-release
			return false
		})})
		answers := make(chan answer)
		go func() { answers <- b.fetch(w.site + "/oauth2/session") }()
		<-held
		if a := w.sends(w.op.LogoutToken("public", "", w.op.Logins()[0].SessionID, provider.LogoutFault{})); a.Status != http.StatusOK {
			t.Errorf("the logout token: got status %d", a.Status)
		}
		close(release)
		if a := <-answers; !strings.HasPrefix(a.body, `{"active":false,`) || len(a.sessionLines()) != 0 {
			t.Errorf("got %s, and the cookies %q", a.body, a.Header["Set-Cookie"])
		}
	})
}

// A96, A119: when it cannot be told, the answer is 503, in JSON for whatever the
// site has error routes, and the cookie stays: a page must not take that for
// "nobody is logged in".
func TestA96A119SessionEndpointCannotTell(t *testing.T) {
	unavailable := func(t *testing.T, a answer, why string) {
		t.Helper()
		if a.StatusCode != http.StatusServiceUnavailable || a.Header.Get("Retry-After") == "" || a.Header["Set-Cookie"] != nil ||
			a.Header.Get("Content-Type") != "application/json; charset=utf-8" || !strings.HasPrefix(a.body, `{"error":"`+why+`","id":"`) {
			t.Errorf("got status %d with %v and %s", a.StatusCode, a.Header, a.body)
		}
	}
	const errorRoutes = "\nhandle_errors {\nrespond \"<h1>Oops</h1>\"\n}"
	t.Run("the store", func(t *testing.T) {
		theirs := newTheirs()
		w := newWorld(t)
		w.caddy("pkce_auth $OP public {\nsession thirdparty\n}\nreverse_proxy $UPSTREAM" + errorRoutes)
		b, _ := w.loggedIn()
		theirs.down.Store(true)
		for _, query := range []string{"", "?extend=false"} {
			unavailable(t, b.fetch(w.site+"/oauth2/session"+query), "session_unavailable")
		}
		unavailable(t, b.visit(w.site+"/oauth2/session"), "session_unavailable")
		theirs.down.Store(false)
		if info, _ := b.session(w, ""); !info.Active {
			t.Error("afterwards: not active")
		}
	})
	t.Run("the provider", func(t *testing.T) {
		w := newWorld(t)
		w.caddy(basic + errorRoutes)
		b := w.browser()
		w.expired(b, provider.Faults{Answer: answering(provider.Status(503, "text/plain", "x"))})
		unavailable(t, b.fetch(w.site+"/oauth2/session"), "provider_unavailable")
		if info, _ := b.session(w, "?extend=false"); !info.Active {
			t.Error("who looks: not active, though it may be refreshed later")
		}
	})
}

// The endpoint is there whatever the directive's matcher and the route's policy,
// below the prefix, and answers GET only.
func TestSessionEndpointIsThere(t *testing.T) {
	for _, options := range []string{
		"pkce_auth /app/* $OP public", "pkce_auth $OP public {\nunauthorized redirect\n}", "pkce_auth $OP public {\nbypass /oauth2/*\n}",
		"handle /app/* {\npkce_auth $OP public\n}\nhandle {\npkce_auth $OP public\n}",
	} {
		w := newWorld(t)
		w.caddy(options + "\nreverse_proxy $UPSTREAM")
		b := w.browser()
		if info, a := b.session(w, ""); info.Active || info.LoginURL != w.site+"/oauth2/login" {
			t.Errorf("%s: got %s", options, a.body)
		}
		for _, method := range []string{"POST", "HEAD", "OPTIONS"} {
			if a := b.do(method, w.site+"/oauth2/session", fetched, ""); a.StatusCode != http.StatusMethodNotAllowed || a.Header.Get("Allow") != "GET" {
				t.Errorf("%s: got status %d", method, a.StatusCode)
			}
		}
		if w.upstream.count() != 0 {
			t.Error("a request reached the upstream")
		}
	}
}

// A95, A126: a 401 tells a script where to log in, in its body and in the
// challenge, and nothing else; it does not let other origins read it.
func TestA95A126RefusalsForScripts(t *testing.T) {
	w := newWorld(t)
	w.caddy(basic)
	for _, header := range []http.Header{fetched, with(fetched, "Origin", "https://evil.test", "Sec-Fetch-Site", "cross-site")} {
		a := w.browser().do(http.MethodPost, w.site+"/api/orders?secret=1", header, "{}")
		login := w.site + "/oauth2/login"
		if a.StatusCode != http.StatusUnauthorized || a.body != `{"error":"unauthorized","login_url":"`+login+`"}` || a.Header.Get("Content-Type") != "application/json; charset=utf-8" {
			t.Errorf("got status %d and %s", a.StatusCode, a.body)
		}
		if got := a.Header["Www-Authenticate"]; len(got) != 1 || !strings.HasPrefix(got[0], `Bearer realm="`) || !strings.HasSuffix(got[0], `", login_url="`+login+`"`) {
			t.Errorf("got the challenge %q", got)
		}
		for name := range a.Header {
			if strings.HasPrefix(name, "Access-Control-") {
				t.Errorf("got %s", name)
			}
		}
	}
}

// A27, A95: a preflight carries no cookie. It is refused like any request, by an
// answer that allows nothing, unless the operator names it; then it reaches the
// application that answers it, without any identity that a client could bring.
func TestA27A95Preflights(t *testing.T) {
	const preflights = `@preflight {
		method OPTIONS
		header Origin *
		header Access-Control-Request-Method *
	}`
	preflight := http.Header{
		"Origin": {"https://partner.test"}, "Access-Control-Request-Method": {"PUT"}, "Sec-Fetch-Mode": {"cors"}, "Sec-Fetch-Site": {"cross-site"},
		"Sec-Fetch-Dest": {"empty"}, "Authorization": {"Bearer forged"}, "X-Auth-Email": {"admin@example.com"}, "X_auth_email": {"admin@example.com"},
	}
	for name, tc := range map[string]struct {
		bypass string
		header http.Header
		method string
		want   int
	}{
		"without the matcher":        {"", preflight, "OPTIONS", http.StatusUnauthorized},
		"with it":                    {"bypass @preflight", preflight, "OPTIONS", http.StatusNoContent},
		"what only looks like one":   {"bypass @preflight", with(preflight, "Access-Control-Request-Method", ""), "OPTIONS", http.StatusUnauthorized},
		"without an origin":          {"bypass @preflight", with(preflight, "Origin", ""), "OPTIONS", http.StatusUnauthorized},
		"another method":             {"bypass @preflight", preflight, "PUT", http.StatusUnauthorized},
		"another, by an override":    {"bypass @preflight", with(preflight, "X-HTTP-Method-Override", "OPTIONS"), "DELETE", http.StatusUnauthorized},
		"a path that reads two ways": {"bypass @preflight", preflight, "OPTIONS ", http.StatusUnauthorized},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.caddy(preflights + "\npkce_auth $OP public {\n" + tc.bypass + "\nheader_up X-Auth-Email {http.auth.user.email}\n}\nreverse_proxy $UPSTREAM")
			w.upstream.answers(func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Access-Control-Allow-Origin", "https://partner.test")
				w.WriteHeader(http.StatusNoContent)
			})
			path := "/api/orders"
			if strings.HasSuffix(tc.method, " ") {
				path = "/api/..%2forders"
			}
			a := w.browser().do(strings.TrimSpace(tc.method), w.site+path, tc.header, "")
			if a.StatusCode != tc.want {
				t.Errorf("got status %d, want %d", a.StatusCode, tc.want)
			}
			if tc.want != http.StatusNoContent {
				if a.Header.Get("Access-Control-Allow-Origin") != "" || w.upstream.count() != 0 {
					t.Errorf("%d requests reached the upstream; got %v", w.upstream.count(), a.Header)
				}
				return
			}
			r := w.upstream.last(t)
			for name := range r.Header {
				if strings.EqualFold(name, "Authorization") || strings.EqualFold(strings.ReplaceAll(name, "_", "-"), "X-Auth-Email") {
					t.Errorf("the upstream got %s: %q", name, r.Header[name])
				}
			}
		})
	}
}
