package flows

import (
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pkce-auth/caddy-pkce-auth/test/provider"
)

// refreshTokens are those that the provider issued, the newest last.
func (w *world) refreshTokens() []string {
	return slices.DeleteFunc(slices.Clone(w.op.Issued()), func(s string) bool { return !strings.HasPrefix(s, "refresh-") })
}

// revokes are the tokens that the provider was asked to revoke.
func (w *world) revokes() (tokens []string) {
	for _, r := range w.op.Requests("revoke") {
		tokens = append(tokens, r.Form.Get("token"))
	}
	return tokens
}

// sessionLines are the Set-Cookie lines that set a session.
func (a answer) sessionLines() (lines []string) {
	for _, line := range a.Header["Set-Cookie"] {
		if name, _, _ := strings.Cut(line, "="); strings.Contains(name, "pkce_auth") && !strings.Contains(name, ".") {
			lines = append(lines, line)
		}
	}
	return lines
}

// dueSoon logs in with a token that lives for four seconds, and waits until it
// is due for a refresh, and still good.
func (w *world) dueSoon(b *browser) {
	w.t.Helper()
	w.op.Misbehave(provider.Faults{TokenResponse: func(doc map[string]any) { doc["expires_in"] = 5 }})
	time.Sleep(time.Until(time.Now().Truncate(time.Second).Add(time.Second))) // the lifetime counts from a whole second
	began := time.Now()
	b.login(w, "/")
	time.Sleep(time.Until(began.Add(4300 * time.Millisecond)))
}

// IDPS 28: what came with an ID token that must not be used is revoked.
func TestIDPS28RejectedRefreshIsRevoked(t *testing.T) {
	w := newWorld(t)
	w.caddy(basic)
	b := w.browser()
	w.expired(b, provider.Faults{RefreshedIDToken: func(claims map[string]any) { claims["sub"] = "mallory" }})
	b.fetch(w.site + "/x")
	w.eventually("the new refresh token is revoked", func() bool {
		tokens := w.refreshTokens()
		return slices.Contains(w.revokes(), tokens[len(tokens)-1])
	})
}

// M106: the login's own nonce in a refreshed ID token is right.
func TestM106RefreshedNonceOfTheLogin(t *testing.T) {
	w := newWorld(t)
	w.caddy(basic)
	b := w.browser()
	w.expired(b, provider.Faults{RefreshedIDToken: func(claims map[string]any) {
		claims["nonce"] = w.op.Requests("authorize")[0].Form.Get("nonce")
	}})
	if a := b.fetch(w.site + "/x"); a.StatusCode != http.StatusOK {
		t.Errorf("got status %d", a.StatusCode)
	}
}

// IDPS 31: a refresh under way when the user logs out revokes what it got; a
// logout with an old cookie revokes the newest token, and gives the newest ID
// token as a hint.
func TestIDPS31RevokesTheNewest(t *testing.T) {
	w := newWorld(t)
	w.caddy(basic)
	b := w.browser()
	held, release := make(chan struct{}), make(chan struct{})
	w.expired(b, provider.Faults{Answer: map[string]func(http.ResponseWriter, *http.Request) bool{
		"token": func(_ http.ResponseWriter, r *http.Request) bool {
			if r.PostForm.Get("grant_type") == "refresh_token" {
				close(held)
				<-release
			}
			return false
		},
		"revoke": func(http.ResponseWriter, *http.Request) bool { return true }, // it does nothing
	}})
	cookies := b.cookieHeader(w)
	answers := make(chan answer)
	go func() { answers <- w.present(cookies) }()
	<-held
	b.logout(w)
	close(release)
	<-answers
	w.eventually("what the refresh got is revoked", func() bool {
		tokens := w.refreshTokens()
		return len(tokens) == 2 && slices.Contains(w.revokes(), tokens[1])
	})

	w.op.Misbehave(provider.Faults{})
	other := w.browser()
	w.expired(other, provider.Faults{})
	w.present(other.cookieHeader(w)) // refreshed; the browser does not get it
	q := query(t, other.logout(w).location(t))
	var idTokens []string
	for _, s := range w.op.Issued() {
		if strings.Count(s, ".") == 2 && strings.HasPrefix(s, "eyJ") {
			idTokens = append(idTokens, s)
		}
	}
	if q.Get("id_token_hint") != idTokens[len(idTokens)-1] {
		t.Error("the hint is not the newest ID token")
	}
	tokens := w.refreshTokens()
	w.eventually("the newest is revoked", func() bool { return slices.Contains(w.revokes(), tokens[len(tokens)-1]) })
}

// An answer is held back for a short while only; and one with nothing new to
// say sets no cookie.
func TestAnswersAreNotHeldForLong(t *testing.T) {
	w := newWorld(t)
	w.caddy(basic)
	b := w.browser()
	w.dueSoon(b)
	release := make(chan struct{})
	w.op.Misbehave(provider.Faults{Answer: answering(func(w http.ResponseWriter, r *http.Request) bool {
		<-release
		return provider.Status(503, "text/plain", "x")(w, r)
	})})
	a := b.fetch(w.site + "/x") // it would hang here
	close(release)
	if a.StatusCode != http.StatusOK || len(w.refreshes()) != 1 {
		t.Errorf("got status %d after %d refreshes", a.StatusCode, len(w.refreshes()))
	}
	if got := a.sessionLines(); len(got) != 0 {
		t.Errorf("nothing is new, and %d cookies are set", len(got))
	}
}

// Two handlers of one provider write a refreshed session once; so does an
// answer that was to slide the session when newer tokens came.
func TestOneSessionPerAnswer(t *testing.T) {
	w := newWorld(t)
	w.caddy("pkce_auth {\nissuer $OP\nclient_id public\nsession {\nidle 10s\n}\n}\n---\npkce_auth /page*\npkce_auth\nreverse_proxy $UPSTREAM")
	b := w.browser()
	w.expired(b, provider.Faults{})
	if got := b.fetch(w.site + "/page").sessionLines(); len(got) != 1 {
		t.Errorf("refreshed: %d cookies", len(got))
	}
	slow := w.browser()
	w.dueSoon(slow)
	w.upstream.answers(func(rw http.ResponseWriter, _ *http.Request) {
		time.Sleep(500 * time.Millisecond)
		_, _ = rw.Write([]byte("ok"))
	})
	if got := slow.fetch(w.site + "/x").sessionLines(); len(got) != 1 || len(w.refreshes()) != 2 {
		t.Errorf("slid, then refreshed: %d cookies after %d refreshes", len(got), len(w.refreshes()))
	}
}

// Where the logout is local, the ID token is not kept for it.
func TestLocalLogoutKeepsNoHint(t *testing.T) {
	w := newWorld(t)
	w.caddy("pkce_auth $OP public {\nlogout local\n}\nreverse_proxy $UPSTREAM")
	b := w.browser()
	b.login(w, "/")
	if got := len(b.cookies(w.site + "/oauth2/logout")); got != 1 {
		t.Errorf("%d cookies go to the logout", got)
	}
}

// R42: neither does a frame on the site log anybody out.
func TestR42LogoutInAFrame(t *testing.T) {
	w := newWorld(t)
	w.caddy(basic)
	b := w.browser()
	b.login(w, "/")
	for _, dest := range []string{"iframe", "frame", "embed", "object", "script", "style", "image"} {
		b.do(http.MethodGet, w.site+"/oauth2/logout", with(navigation, "Sec-Fetch-Site", "same-origin", "Sec-Fetch-Dest", dest), "")
		if a := b.fetch(w.site + "/x"); a.StatusCode != http.StatusOK {
			t.Fatalf("%s: status %d", dest, a.StatusCode)
		}
	}
}
