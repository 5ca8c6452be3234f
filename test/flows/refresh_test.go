package flows

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pkce-auth/caddy-pkce-auth/test/provider"
)

// shortLived has the login's access token live for two seconds, counted from
// a whole one, and refreshed ones for an hour.
func shortLived(doc map[string]any) { doc["expires_in"] = 2 }

// outliveShortLived waits until such a token is over. Its lifetime is real.
func outliveShortLived() {
	time.Sleep(time.Until(time.Now().Truncate(time.Second).Add(2 * time.Second)))
}

// expired logs in, and waits until the access token is over.
func (w *world) expired(b *browser, faults provider.Faults) {
	w.t.Helper()
	faults.TokenResponse = shortLived
	w.op.Misbehave(faults)
	b.login(w, "/")
	outliveShortLived() // nothing happens at its end
}

// refreshes are the refresh requests that the provider got.
func (w *world) refreshes() (got []provider.Request) {
	for _, r := range w.op.Requests("token") {
		if r.Form.Get("grant_type") == "refresh_token" {
			got = append(got, r)
		}
	}
	return got
}

// answering lets the token endpoint answer refreshes in its own way.
func answering(answer func(http.ResponseWriter, *http.Request) bool) map[string]func(http.ResponseWriter, *http.Request) bool {
	return map[string]func(http.ResponseWriter, *http.Request) bool{"token": func(w http.ResponseWriter, r *http.Request) bool {
		return r.PostForm.Get("grant_type") == "refresh_token" && answer(w, r)
	}}
}

// cookieHeader is what the browser sends to the site.
func (b *browser) cookieHeader(w *world) string {
	var pairs []string
	for name, value := range b.cookies(w.site) {
		pairs = append(pairs, name+"="+value)
	}
	slices.Sort(pairs)
	return strings.Join(pairs, "; ")
}

// T1, IDPS 24, A80: parallel requests with an expired token, a slow provider
// that rotates: one grant, all succeed, all carry the new token, and get the
// new session, where it is in a cookie. Stragglers with the old cookie still
// do, long after.
func TestR15T1IDPS24A80ParallelExpiredRequests(t *testing.T) {
	w := newWorld(t)
	w.caddy("pkce_auth $OP public {\naudience https://api.test\nheader_up X-Auth-Result {http.auth.pkce_auth.result}\n}\nreverse_proxy $UPSTREAM")
	b := w.browser()
	w.expired(b, provider.Faults{Answer: answering(func(http.ResponseWriter, *http.Request) bool {
		time.Sleep(500 * time.Millisecond)
		return false
	})})
	old := b.cookieHeader(w)
	first := w.upstream.last(t).Header.Get("Authorization")
	var wg sync.WaitGroup
	var mu sync.Mutex
	cookies := map[string]bool{}
	for range 50 {
		wg.Go(func() {
			a := w.present(old)
			mu.Lock()
			defer mu.Unlock()
			if a.StatusCode != http.StatusOK || len(a.Cookies()) == 0 && !w.stored() {
				t.Errorf("got status %d, %d cookies", a.StatusCode, len(a.Cookies()))
				return
			}
			cookies[a.Header.Get("Cache-Control")] = true
		})
	}
	wg.Wait()
	cacheControl, straggler := "private, no-store", "refreshed"
	if w.stored() { // it has the new tokens, and the answers set no cookie
		cacheControl, straggler = "private", "session"
	}
	if len(w.refreshes()) != 1 || len(cookies) != 1 || !cookies[cacheControl] {
		t.Errorf("%d grants; Cache-Control: %v", len(w.refreshes()), cookies)
	}
	tokens := map[string]bool{}
	w.upstream.mu.Lock()
	for _, r := range w.upstream.requests[1:] {
		tokens[r.Header.Get("Authorization")+r.Header.Get("X-Auth-Result")] = true
	}
	w.upstream.mu.Unlock()
	if len(tokens) != 1 || tokens[first+"session"] || tokens[first+"refreshed"] {
		t.Errorf("the upstream saw %d tokens", len(tokens))
	}
	if a := w.present(old); a.StatusCode != http.StatusOK || w.upstream.last(t).Header.Get("X-Auth-Result") != straggler {
		t.Errorf("a straggler: got status %d", a.StatusCode)
	}
	if a := b.fetch(w.site + "/x"); a.StatusCode != http.StatusOK {
		t.Errorf("got status %d", a.StatusCode)
	}
	if a := b.fetch(w.site + "/x"); a.Header["Set-Cookie"] != nil || w.upstream.last(t).Header.Get("X-Auth-Result") != "session" {
		t.Error("the browser has the new session, and is given it again")
	}
	if len(w.refreshes()) != 1 {
		t.Errorf("%d grants in the end", len(w.refreshes()))
	}
}

// T2, promise 3: the client hangs up while its refresh is under way; the next
// request finds what came of it.
func TestT2AbortMidRefresh(t *testing.T) {
	w := newWorld(t)
	w.caddy(basic)
	b := w.browser()
	begun := make(chan struct{}, 10)
	w.expired(b, provider.Faults{Answer: answering(func(http.ResponseWriter, *http.Request) bool {
		begun <- struct{}{}
		time.Sleep(300 * time.Millisecond)
		return false
	})})
	ctx, cancel := context.WithCancel(t.Context())
	go func() { <-begun; cancel() }()
	req, _ := http.NewRequestWithContext(ctx, http.MethodGet, w.site+"/x", nil)
	req.Header.Set("Cookie", b.cookieHeader(w))
	if _, err := plain.RoundTrip(req); err == nil {
		t.Error("nobody hung up")
	}
	if a := b.fetch(w.site + "/x"); a.StatusCode != http.StatusOK {
		t.Errorf("the next: got status %d", a.StatusCode)
	}
	if len(w.refreshes()) != 1 {
		t.Errorf("%d grants", len(w.refreshes()))
	}
	if strings.Contains(w.log(), `"level":"error","logger":"http.handlers.pkce_auth"`) {
		t.Error("who hangs up is no error of ours")
	}
}

// T3, IDPS 27, M105: the provider fails. While the token is good it is used;
// once it is over, 503 with Retry-After, no login, and the cookie stays; when
// the provider is back, all goes on.
func TestT3IDPS27M105ProviderFails(t *testing.T) {
	for name, answer := range map[string]func(http.ResponseWriter, *http.Request) bool{
		"500": provider.Status(500, "text/plain", "oops"),
		"429": func(w http.ResponseWriter, r *http.Request) bool {
			w.Header().Set("Retry-After", "2")
			return provider.Status(429, "application/json", `{"error":"slow_down"}`)(w, r)
		},
		"cut": func(http.ResponseWriter, *http.Request) bool { panic(http.ErrAbortHandler) },
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.caddy("pkce_auth $OP public {\nbypass /public/*\n}\nreverse_proxy $UPSTREAM")
			b := w.browser()
			w.op.Misbehave(provider.Faults{
				TokenResponse: func(doc map[string]any) { doc["expires_in"] = 3 },
				Answer:        answering(answer),
			})
			b.login(w, "/")
			refused := false
			w.eventually("the token is over", func() bool {
				a := b.fetch(w.site + "/x")
				switch a.StatusCode {
				case http.StatusOK:
					return false
				case http.StatusServiceUnavailable:
					refused = a.Header.Get("Retry-After") != "" && a.Header["Set-Cookie"] == nil
					return true
				default:
					t.Fatalf("got status %d", a.StatusCode)
					return true
				}
			})
			if !refused {
				t.Error("503 without Retry-After, or with a cookie")
			}
			if n := len(w.refreshes()); n < 1 || n > 6 {
				t.Errorf("%d tries", n)
			}
			if a := b.visit(w.site + "/page"); a.StatusCode != http.StatusServiceUnavailable || a.Header["Set-Cookie"] != nil {
				t.Errorf("a navigation: got status %d to %q", a.StatusCode, a.Header.Get("Location"))
			}
			if a := b.visit(w.site + "/public/page"); a.StatusCode != http.StatusOK || w.upstream.last(t).Header.Get("Authorization") != "" {
				t.Errorf("a bypass: got status %d", a.StatusCode)
			}
			w.logged("refresh failed", "provider_unavailable", `"sub":"alice"`)
			w.op.Misbehave(provider.Faults{})
			w.eventually("all goes on", func() bool { return b.fetch(w.site+"/x").StatusCode == http.StatusOK })
			if n := len(w.op.Requests("authorize")); n != 1 {
				t.Errorf("it took %d logins", n)
			}
		})
	}
}

// IDPS 27, M103: the provider refuses the refresh token: a navigation goes to
// the login, a fetch gets 401; the token is not sent again.
func TestR19eIDPS27M103GrantIsOver(t *testing.T) {
	for name, body := range map[string]string{"invalid_grant": `{"error":"invalid_grant"}`, "mfa_required": `{"error":"mfa_required"}`, "nothing": ``} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.caddy(basic)
			b := w.browser()
			w.expired(b, provider.Faults{Answer: answering(provider.Status(400, "application/json", body))})
			for range 5 {
				if a := b.fetch(w.site + "/x"); a.StatusCode != http.StatusUnauthorized {
					t.Errorf("a fetch: got status %d", a.StatusCode)
				}
			}
			if len(w.refreshes()) != 1 {
				t.Errorf("%d tries", len(w.refreshes()))
			}
			w.logged("session ended", `"sub":"alice"`)
			w.op.Misbehave(provider.Faults{})
			b.login(w, "/again")
		})
	}
}

// A user who was disabled is out at the next refresh (A73), and a session that
// is refreshed for ever still ends with its lifetime.
func TestA73RefreshIsNoWayAround(t *testing.T) {
	w := newWorldWith(t, provider.Config{TokenLifetime: 2 * time.Second})
	w.caddy("pkce_auth $OP public {\nsession {\nlifetime 5s\n}\n}\nreverse_proxy $UPSTREAM")
	b := w.browser()
	b.login(w, "/")
	w.eventually("the session ends", func() bool { return b.fetch(w.site+"/x").StatusCode == http.StatusUnauthorized })
	if n := len(w.refreshes()); n < 2 {
		t.Errorf("%d refreshes", n)
	}
	other := w.browser()
	other.login(w, "/")
	w.op.RevokeAll()
	w.eventually("the disabled user is out", func() bool { return other.fetch(w.site+"/x").StatusCode == http.StatusUnauthorized })
	w.logged("session ended: the provider does not refresh")
}

// IDPS 26, M100, M101, M102: answers without a refresh token or an ID token
// keep the old ones, and the claims; with rotation, each token is sent once.
func TestIDPS26M100M101M102KeepWhatIsMissing(t *testing.T) {
	for name, faults := range map[string]provider.Faults{
		"rotation":                 {},
		"no rotation":              {KeepRefreshTokens: true},
		"the same token again":     {KeepRefreshTokens: true, RefreshResponse: func(doc map[string]any) { doc["refresh_token"] = "$SAME" }},
		"no ID token":              {RefreshResponse: func(doc map[string]any) { delete(doc, "id_token") }},
		"an empty ID token":        {RefreshResponse: func(doc map[string]any) { doc["id_token"] = "" }},
		"an ID token with few":     {RefreshedIDToken: func(claims map[string]any) { delete(claims, "auth_time") }},
		"nothing but access token": {KeepRefreshTokens: true, RefreshResponse: func(doc map[string]any) { delete(doc, "id_token"); delete(doc, "scope") }},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorldWith(t, provider.Config{TokenLifetime: 2 * time.Second})
			w.caddy("pkce_auth $OP public {\nrefresh 1h\nheader_up X-Who {http.auth.user.id}/{http.auth.user.email}/{http.auth.user.sid}\n}\nreverse_proxy $UPSTREAM")
			b := w.browser()
			if change := faults.RefreshResponse; name == "the same token again" {
				faults.RefreshResponse = func(doc map[string]any) {
					change(doc)
					requests := w.op.Requests("token")
					doc["refresh_token"] = requests[len(requests)-1].Form.Get("refresh_token")
				}
			}
			w.op.Misbehave(faults)
			b.login(w, "/")
			who := w.upstream.last(t).Header.Get("X-Who")
			if !strings.HasPrefix(who, "alice/alice@example.com/sid-") {
				t.Fatalf("at login: %q", who)
			}
			w.eventually("two refreshes", func() bool {
				if a := b.fetch(w.site + "/x"); a.StatusCode != http.StatusOK {
					t.Fatalf("got status %d", a.StatusCode)
				}
				return len(w.refreshes()) >= 2
			})
			if got := w.upstream.last(t).Header.Get("X-Who"); got != who {
				t.Errorf("after the refreshes: %q, before %q", got, who)
			}
			if len(w.op.Requests("authorize")) != 1 {
				t.Error("there was another login")
			}
		})
	}
}

// IDPS 28, M106, T6: a refreshed ID token that must not be used destroys the
// session, and nothing of the answer reaches the upstream.
func TestIDPS28M106T6RefreshedIDToken(t *testing.T) {
	for name, change := range map[string]func(map[string]any){
		"another user":     func(claims map[string]any) { claims["sub"] = "mallory" },
		"another issuer":   func(claims map[string]any) { claims["iss"] = "https://evil.test" },
		"another audience": func(claims map[string]any) { claims["aud"] = "another" },
		"another nonce":    func(claims map[string]any) { claims["nonce"] = "another" },
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.caddy(basic)
			b := w.browser()
			w.expired(b, provider.Faults{RefreshedIDToken: change})
			before := w.upstream.count()
			for range 3 {
				if a := b.fetch(w.site + "/x"); a.StatusCode != http.StatusUnauthorized {
					t.Errorf("got status %d", a.StatusCode)
				}
			}
			if w.upstream.count() != before || len(w.refreshes()) != 1 {
				t.Errorf("%d requests reached the upstream, after %d refreshes", w.upstream.count()-before, len(w.refreshes()))
			}
			w.logged("refresh failed", "invalid_answer")
			b.login(w, "/again")
		})
	}
}

// IDPS 08: with refresh off nothing is asked for and nothing refreshed; a
// token that comes all the same is not even kept.
func TestIDPS08RefreshOff(t *testing.T) {
	w := newWorldWith(t, provider.Config{TokenLifetime: 2 * time.Second})
	w.op.Misbehave(provider.Faults{TokenResponse: func(doc map[string]any) { doc["refresh_token"] = "unasked-for-refresh-token" }})
	w.expect = append(w.expect, "unasked-for-refresh-token")
	w.caddy("pkce_auth $OP public {\nrefresh off\n}\nreverse_proxy $UPSTREAM")
	b := w.browser()
	b.login(w, "/")
	if scope := w.op.Requests("authorize")[0].Form.Get("scope"); scope != "openid profile email" {
		t.Errorf("scope: got %q", scope)
	}
	w.eventually("the session is over", func() bool { return b.fetch(w.site+"/x").StatusCode == http.StatusUnauthorized })
	b.logout(w)
	if len(w.refreshes()) != 0 || len(w.op.Requests("revoke")) != 0 {
		t.Error("the token was kept")
	}
}

// refresh <duration>: so long before the end.
func TestRefreshEarly(t *testing.T) {
	w := newWorld(t)
	w.caddy("pkce_auth $OP public {\nrefresh 59m59s\n}\nreverse_proxy $UPSTREAM")
	b := w.browser()
	w.op.Misbehave(provider.Faults{TokenResponse: func(doc map[string]any) { doc["expires_in"] = 3 }})
	b.login(w, "/")
	w.eventually("a refresh, long before the end", func() bool {
		if a := b.fetch(w.site + "/x"); a.StatusCode != http.StatusOK {
			t.Fatalf("got status %d", a.StatusCode)
		}
		return len(w.refreshes()) > 0
	})
}

// A configuration is reloaded between a refresh and the next request: what
// was rotated is not lost.
func TestK8RefreshAcrossReload(t *testing.T) {
	w := newWorld(t)
	load := w.reloads()
	load("timeout 5s")
	b := w.browser()
	w.expired(b, provider.Faults{})
	old := b.cookieHeader(w)
	if a := w.present(old); a.StatusCode != http.StatusOK {
		t.Fatalf("got status %d", a.StatusCode)
	}
	load("timeout 6s")
	if a := b.fetch(w.site + "/x"); a.StatusCode != http.StatusOK || len(w.refreshes()) != 1 {
		t.Errorf("after a reload: got status %d, %d refreshes", a.StatusCode, len(w.refreshes()))
	}
}

// A82: a request that is slow outlives its token; nobody minds.
func TestA82SlowRequestAcrossExpiry(t *testing.T) {
	w := newWorldWith(t, provider.Config{TokenLifetime: 2 * time.Second})
	w.caddy(basic)
	b := w.browser()
	b.login(w, "/")
	w.upstream.answers(func(rw http.ResponseWriter, _ *http.Request) {
		time.Sleep(2100 * time.Millisecond)
		fmt.Fprint(rw, "at last")
	})
	var wg sync.WaitGroup
	cookies := b.cookieHeader(w)
	for range 5 {
		wg.Go(func() {
			if a := w.present(cookies); a.StatusCode != http.StatusOK || a.body != "at last" {
				t.Errorf("got status %d and %q", a.StatusCode, a.body)
			}
		})
	}
	wg.Wait()
	if a := b.fetch(w.site + "/x"); a.StatusCode != http.StatusOK {
		t.Errorf("afterwards: got status %d", a.StatusCode)
	}
}

// M107: the provider's answer is lost on the way; the same refresh token is
// sent once more, and where the provider takes that for theft, the user logs
// in again: no 500.
func TestM107A81LostRefreshAnswer(t *testing.T) {
	w := newWorld(t)
	w.caddy(basic)
	b := w.browser()
	n := 0
	w.expired(b, provider.Faults{Answer: answering(func(rw http.ResponseWriter, r *http.Request) bool {
		if n++; n == 1 {
			conn, _, _ := http.NewResponseController(rw).Hijack()
			_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Length: 900\r\n\r\n{")
			_ = conn.Close()
			return true
		}
		return provider.Status(400, "application/json", `{"error":"invalid_grant"}`)(rw, r)
	})})
	if a := b.fetch(w.site + "/x"); a.StatusCode != http.StatusUnauthorized || n != 2 {
		t.Errorf("got status %d after %d tries", a.StatusCode, n)
	}
	b.login(w, "/again")
}

// M31, M105: the provider's keys are gone just when a refreshed ID token comes:
// it is not used, and the refresh token beside it is not lost.
func TestM31M105RefreshWithoutKeys(t *testing.T) {
	for name, answer := range map[string]func(http.ResponseWriter, *http.Request) bool{
		"503": provider.Status(503, "text/html", "x"), "404": provider.Status(404, "text/html", "x"), "HTML": provider.Status(200, "text/html", "<html>"),
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.notIn("memory") // which does not outlive a restart
			load := w.reloads()
			load("timeout 5s")
			b := w.browser()
			w.op.Misbehave(provider.Faults{TokenResponse: shortLived})
			b.login(w, "/")
			if err := stop(); err != nil {
				t.Fatal(err)
			}
			load("timeout 5s")
			w.op.Misbehave(provider.Faults{
				Answer:          map[string]func(http.ResponseWriter, *http.Request) bool{"keys": answer},
				RefreshResponse: shortLived,
			})
			w.eventually("two refreshes", func() bool {
				if a := b.fetch(w.site + "/x"); a.StatusCode != http.StatusOK {
					t.Fatalf("got status %d", a.StatusCode)
				}
				return len(w.refreshes()) == 2
			})
			w.logged("refreshed tokens cannot be checked for claims, and the old claims stay")
		})
	}
}

// Trouble of the provider never passes for "nobody is logged in": under
// unauthorized pass, such a request does not go upstream.
func TestPromise1TroubleIsNotAnonymity(t *testing.T) {
	for name, answer := range map[string]func(http.ResponseWriter, *http.Request) bool{
		"an error in JSON": provider.Status(500, "application/json", `{"status":500,"error":"Internal Server Error"}`),
		"a wall of HTML":   provider.Status(200, "text/html", `<html>`),
		"a wrong secret":   provider.Status(401, "application/json", `{"error":"unauthorized_client"}`),
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.caddy("pkce_auth $OP public {\nunauthorized pass\n}\nreverse_proxy $UPSTREAM")
			b := w.browser()
			w.op.Misbehave(provider.Faults{TokenResponse: shortLived, Answer: answering(answer)})
			b.open(w.site + "/oauth2/login?return_to=/in")
			outliveShortLived()
			before := w.upstream.count()
			if a := b.fetch(w.site + "/x"); a.StatusCode < 500 || w.upstream.count() != before {
				t.Errorf("got status %d, and %d requests reached the upstream", a.StatusCode, w.upstream.count()-before)
			}
			if strings.Contains(w.log(), "storage readable") {
				t.Error("the log blames the storage")
			}
		})
	}
}

// A request that needs no session does not wait for one.
func TestBypassDoesNotWait(t *testing.T) {
	w := newWorld(t)
	w.caddy("pkce_auth $OP public {\nbypass /static/*\n}\nreverse_proxy $UPSTREAM")
	b := w.browser()
	release := make(chan struct{})
	w.expired(b, provider.Faults{Answer: answering(func(http.ResponseWriter, *http.Request) bool { <-release; return false })})
	if a := b.fetch(w.site + "/static/x"); a.StatusCode != http.StatusOK || w.upstream.last(t).Header.Get("Authorization") != "" { // it would hang here
		t.Errorf("got status %d", a.StatusCode)
	}
	close(release)
	w.eventually("the session is used again", func() bool {
		b.fetch(w.site + "/static/x")
		return w.upstream.last(t).Header.Get("Authorization") != ""
	})
}

// refreshTokens are those that the provider issued, the newest last.
func (w *world) refreshTokens() []string {
	return slices.DeleteFunc(slices.Clone(w.op.Issued()), func(s string) bool { return !strings.HasPrefix(s, "refresh-") })
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
