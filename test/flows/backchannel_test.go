package flows

import (
	"encoding/json"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pkce-auth/caddy-pkce-auth/test/provider"
)

// backChannel is where the site takes logout tokens.
func (w *world) backChannel() string { return w.site + "/oauth2/backchannel-logout" }

// sends sends a logout token, and gives the answer, which is never to be kept.
func (w *world) sends(token string) *provider.LogoutAnswer {
	w.t.Helper()
	return w.sendsWith(token, nil)
}

func (w *world) sendsWith(token string, further url.Values) *provider.LogoutAnswer {
	w.t.Helper()
	a, err := provider.SendLogoutToken(w.t.Context(), &http.Client{Transport: plain}, w.backChannel(), token, further)
	for tries := 0; w.reloading && tries < 3 && hungUp(err); tries++ {
		a, err = provider.SendLogoutToken(w.t.Context(), &http.Client{Transport: plain}, w.backChannel(), token, further)
	}
	if err != nil {
		w.t.Fatal(err)
	}
	if got := a.Header["Cache-Control"]; !slices.Equal(got, []string{"no-store"}) || a.Header["Set-Cookie"] != nil {
		w.t.Errorf("status %d: Cache-Control %q, Set-Cookie %q", a.Status, got, a.Header["Set-Cookie"])
	}
	return a
}

// loggedIn is a browser with a session, and what the provider calls it.
func (w *world) loggedIn() (b *browser, sid string) {
	w.t.Helper()
	b = w.browser()
	b.login(w, "/")
	logins := w.op.Logins()
	return b, logins[len(logins)-1].SessionID
}

// alive asserts whether a browser has a session.
func (w *world) alive(b *browser, want bool, when string) {
	w.t.Helper()
	status := http.StatusUnauthorized
	if want {
		status = http.StatusOK
	}
	if a := b.fetch(w.site + "/x"); a.StatusCode != status {
		w.t.Errorf("%s: got status %d, want %d", when, a.StatusCode, status)
	}
}

// R45, A72, T8: a sid ends that session, a sub without one ends all of that
// user, and nobody else's. Copies of their cookies are dead; the logout of
// nobody is one, too (section 2.8 of Back-Channel Logout).
func TestR45A72T8M132BackChannelLogout(t *testing.T) {
	inEveryStore(t, func(w *world) {
		t := w.t
		w.caddy(basic)
		one, sid := w.loggedIn()
		two, _ := w.loggedIn()
		copied := one.cookieHeader(w)
		if a := w.sends(w.op.LogoutToken("public", "alice", sid, provider.LogoutFault{})); a.Status != http.StatusOK || a.Body != "" {
			t.Errorf("got status %d and %q", a.Status, a.Body)
		}
		w.alive(one, false, "the session of the sid")
		w.alive(two, true, "another session of the user")
		if a := w.present(copied); a.StatusCode != http.StatusUnauthorized {
			t.Errorf("a copy of the cookie: got status %d", a.StatusCode)
		}
		if a := one.visit(w.site + "/page"); !strings.HasPrefix(a.location(t), w.op.URL+"/authorize?") {
			t.Errorf("a navigation: got status %d", a.StatusCode)
		}
		w.logged("logout by the provider", `"sub":"alice"`, sid)

		three, _ := w.loggedIn()
		w.op.Change(func(c *provider.Config) { c.Login, c.Users = "bob", map[string]map[string]any{"alice": {}, "bob": {}} })
		bob, _ := w.loggedIn()
		copied = three.cookieHeader(w)
		if a := w.sends(w.op.LogoutToken("public", "alice", "", provider.LogoutFault{})); a.Status != http.StatusOK {
			t.Errorf("sub alone: got status %d", a.Status)
		}
		w.alive(two, false, "sub alone: one session")
		w.alive(three, false, "sub alone: another")
		w.alive(bob, true, "sub alone: another user's")
		if a := w.present(copied); a.StatusCode != http.StatusUnauthorized {
			t.Errorf("sub alone: a copy of the cookie: got status %d", a.StatusCode)
		}

		// M132: a sid alone, be it one that is not known, and a user who is not.
		for _, token := range []string{
			w.op.LogoutToken("public", "", sid, provider.LogoutFault{}),
			w.op.LogoutToken("public", "", "sid-unknown", provider.LogoutFault{}),
			w.op.LogoutToken("public", "nobody", "", provider.LogoutFault{}),
		} {
			if a := w.sends(token); a.Status != http.StatusOK {
				t.Errorf("nobody's logout: got status %d", a.Status)
			}
		}
		w.alive(bob, true, "after the logout of nobody")
	})
}

// R45: a session that begins after the logout lives, be it the same user's, or
// the same session's at the provider.
func TestR45LoginAfterBackChannelLogout(t *testing.T) {
	inEveryStore(t, func(w *world) {
		w.caddy(basic)
		before, sid := w.loggedIn()
		for _, token := range []string{w.op.LogoutToken("public", "alice", "", provider.LogoutFault{}), w.op.LogoutToken("public", "", sid, provider.LogoutFault{})} {
			if a := w.sends(token); a.Status != http.StatusOK {
				w.t.Errorf("got status %d", a.Status)
			}
		}
		w.alive(before, false, "the session before")
		w.op.Misbehave(provider.Faults{IDToken: func(_, claims map[string]any) { claims["sid"] = sid }})
		b := w.browser()
		b.login(w, "/")
		w.alive(b, true, "of the same user and sid")
		time.Sleep(600 * time.Millisecond) // whatever is asked again in the background
		w.alive(b, true, "a while later")
		before.login(w, "/again")
	})
}

// R44, M121 to M135: whatever is wrong with a logout token, it is refused with
// 400, and nothing happens; that nothing happens to a good one would be seen
// at the end.
func TestR44M121M135WrongLogoutTokens(t *testing.T) {
	w := newWorld(t)
	w.caddy("pkce_auth $OP confidential {\nclient_secret s3cr:t%+é\n}\nreverse_proxy $UPSTREAM")
	b, sid := w.loggedIn()
	for name, fault := range w.op.LogoutFaults() {
		t.Run(name, func(t *testing.T) {
			a := w.sends(w.op.LogoutToken("confidential", "alice", sid, fault))
			var answer struct{ Error string }
			if err := json.Unmarshal([]byte(a.Body), &answer); a.Status != http.StatusBadRequest || err != nil || answer.Error != "invalid_request" {
				t.Errorf("got status %d and %q", a.Status, a.Body)
			}
			if a := b.fetch(w.site + "/x"); a.StatusCode != http.StatusOK {
				t.Fatalf("the session: got status %d", a.StatusCode)
			}
		})
	}
	w.logged(`"reason":"logout_token"`, "compare its issuer and client")
	if a := w.sends(w.op.LogoutToken("confidential", "alice", sid, provider.LogoutFault{})); a.Status != http.StatusOK {
		t.Errorf("a good one: got status %d", a.Status)
	}
	w.alive(b, false, "after a good one")
}

// M134, A118: what is no form with one logout token, of a reasonable size.
func TestM134A118WrongLogoutRequests(t *testing.T) {
	w := newWorld(t)
	w.exempt = "backchannel-logout?logout_token=" // who writes it into a URL has it in logs
	w.caddy(basic)
	b, sid := w.loggedIn()
	token := func() string { return w.op.LogoutToken("public", "alice", sid, provider.LogoutFault{}) }
	form := http.Header{"Content-Type": {"application/x-www-form-urlencoded"}}
	ofJSON := http.Header{"Content-Type": {"application/json"}}
	encoded := func(values url.Values) string { return values.Encode() }
	for _, tc := range []struct {
		name, method string
		header       http.Header
		query, body  string
		status       int
	}{
		{"GET", "GET", nil, "?logout_token=" + token(), "", http.StatusMethodNotAllowed},
		{"PUT", "PUT", form, "", encoded(url.Values{"logout_token": {token()}}), http.StatusMethodNotAllowed},
		{"in the query", "POST", form, "?logout_token=" + token(), "", http.StatusBadRequest},
		{"nothing", "POST", form, "", "", http.StatusBadRequest},
		{"another parameter", "POST", form, "", encoded(url.Values{"token": {token()}}), http.StatusBadRequest},
		{"an empty one", "POST", form, "", "logout_token=", http.StatusBadRequest},
		{"two", "POST", form, "", encoded(url.Values{"logout_token": {token(), token()}}), http.StatusBadRequest},
		{"JSON", "POST", ofJSON, "", `{"logout_token":"` + token() + `"}`, http.StatusBadRequest},
		{"a form that is called JSON", "POST", ofJSON, "", encoded(url.Values{"logout_token": {token()}}), http.StatusBadRequest},
		{"without a type", "POST", http.Header{}, "", encoded(url.Values{"logout_token": {token()}}), http.StatusBadRequest},
		{"more than 16 KiB", "POST", form, "", encoded(url.Values{"logout_token": {token()}, "x": {strings.Repeat("x", 16<<10)}}), http.StatusBadRequest},
		{"rubbish", "POST", form, "", "logout_token=%zz", http.StatusBadRequest},
		{"no JWT", "POST", form, "", "logout_token=a.b.c", http.StatusBadRequest},
	} {
		t.Run(tc.name, func(t *testing.T) {
			header := tc.header
			if header == nil {
				header = http.Header{}
			}
			stranger := w.browser()
			a := stranger.do(tc.method, w.backChannel()+tc.query, header, tc.body)
			if a.StatusCode != tc.status || a.Header["Set-Cookie"] != nil {
				t.Errorf("got status %d, want %d; %v", a.StatusCode, tc.status, a.Header)
			}
			if tc.status == http.StatusMethodNotAllowed && a.Header.Get("Allow") != "POST" {
				t.Errorf("Allow: %q", a.Header.Get("Allow"))
			}
			if got := a.Header.Get("Cache-Control"); tc.status == http.StatusBadRequest && got != "no-store" {
				t.Errorf("Cache-Control: %q", got)
			}
		})
	}
	// A megabyte is not waited for: who sends it may be hung up on before they
	// have read why.
	req, err := http.NewRequest(http.MethodPost, w.backChannel(), strings.NewReader(url.Values{"logout_token": {token()}, "x": {strings.Repeat("x", 1<<20)}}.Encode()))
	if err != nil {
		t.Fatal(err)
	}
	req.Header = form.Clone()
	if resp, err := plain.RoundTrip(req); err == nil {
		resp.Body.Close()
		if resp.StatusCode != http.StatusBadRequest {
			t.Errorf("a megabyte: got status %d", resp.StatusCode)
		}
	}
	w.alive(b, true, "after all that")
	// What else is in the form is ignored (section 2.5), and so is who sends it.
	if a := w.sendsWith(token(), url.Values{"state": {"x"}, "client_id": {"another"}}); a.Status != http.StatusOK {
		t.Errorf("with further parameters: got status %d", a.Status)
	}
	w.alive(b, false, "after a good one")
}

// M129, A118: a logout token is good for one use, whatever happens in between:
// else who has got hold of one logs the user out as often as they like.
func TestM129A118ReplayedLogoutToken(t *testing.T) {
	inEveryStore(t, func(w *world) {
		t := w.t
		load := w.reloads()
		load("timeout 5s")
		b, sid := w.loggedIn()
		token := w.op.LogoutToken("public", "alice", "", provider.LogoutFault{})
		if a := w.sends(token); a.Status != http.StatusOK {
			t.Fatalf("the first time: got status %d", a.Status)
		}
		w.alive(b, false, "after the first time")
		b, _ = w.loggedIn()
		again := func(when string) {
			t.Helper()
			if a := w.sends(token); a.Status != http.StatusBadRequest {
				t.Errorf("%s: got status %d", when, a.Status)
			}
			w.alive(b, true, when)
		}
		again("at once")
		w.logged("the logout token was used before")
		load("timeout 6s")
		again("after a reload")
		if w.store != "memory" { // where nothing outlives a restart
			if err := stop(); err != nil {
				t.Fatal(err)
			}
			load("timeout 6s")
			again("after a restart")
		}
		// Another one is as good as ever.
		if a := w.sends(w.op.LogoutToken("public", "", sid, provider.LogoutFault{})); a.Status != http.StatusOK {
			t.Errorf("another: got status %d", a.Status)
		}
	})
}

// M129: a logout token that comes twenty times at once is good for one of them.
func TestM129ParallelLogoutTokens(t *testing.T) {
	inEveryStore(t, func(w *world) {
		w.caddy(basic)
		b, sid := w.loggedIn()
		token := w.op.LogoutToken("public", "alice", sid, provider.LogoutFault{})
		var wg sync.WaitGroup
		var good, refused atomic.Int32
		for range 20 {
			wg.Go(func() {
				switch a := w.sends(token); a.Status {
				case http.StatusOK:
					good.Add(1)
				case http.StatusBadRequest:
					refused.Add(1)
				default:
					w.t.Errorf("got status %d", a.Status)
				}
			})
		}
		wg.Wait()
		if good.Load() != 1 || refused.Load() != 19 {
			w.t.Errorf("%d were good, %d refused", good.Load(), refused.Load())
		}
		w.alive(b, false, "afterwards")
	})
}

// R45, IDPS 31: an answer under way when the logout token comes is cut, and
// brings no session back, be it renewed or refreshed.
func TestR45IDPS31AnswersUnderWayAtBackChannelLogout(t *testing.T) {
	inEveryStore(t, func(w *world) {
		t := w.t
		w.caddy("pkce_auth $OP public {\nsession {\nidle 10s\n}\n}\nreverse_proxy $UPSTREAM")
		b := w.browser()
		b.login(w, "/")
		sid := w.op.Logins()[0].SessionID
		time.Sleep(1100 * time.Millisecond) // it is renewed from now on
		held, release := w.upstream.holds("/slow")
		answers := make(chan answer)
		go func() { answers <- b.fetch(w.site + "/slow") }()
		<-held
		if a := w.sends(w.op.LogoutToken("public", "", sid, provider.LogoutFault{})); a.Status != http.StatusOK {
			t.Errorf("got status %d", a.Status)
		}
		close(release)
		if a := <-answers; a.StatusCode != http.StatusUnauthorized || len(a.sessionLines()) != 0 {
			t.Errorf("the answer under way: got status %d, %q", a.StatusCode, a.Header["Set-Cookie"])
		}
		w.alive(b, false, "afterwards")
		w.logged("logout by the provider", `"requests_cut":1`)
	})
}

// R45, IDPS 31: a refresh under way when the logout token comes: the session
// stays dead, and what the refresh has got is revoked.
func TestR45IDPS31RefreshUnderWayAtBackChannelLogout(t *testing.T) {
	inEveryStore(t, func(w *world) {
		t := w.t
		w.caddy(basic)
		b := w.browser()
		held, release := make(chan struct{}), make(chan struct{})
		w.expired(b, provider.Faults{Answer: answering(func(http.ResponseWriter, *http.Request) bool {
			close(held)
			<-release
			return false
		})})
		sid := w.op.Logins()[0].SessionID
		cookies := b.cookieHeader(w)
		answers := make(chan answer)
		go func() { answers <- w.present(cookies) }()
		<-held
		if a := w.sends(w.op.LogoutToken("public", "", sid, provider.LogoutFault{})); a.Status != http.StatusOK {
			t.Errorf("got status %d", a.Status)
		}
		close(release)
		if a := <-answers; a.StatusCode != http.StatusUnauthorized || len(a.sessionLines()) != 0 {
			t.Errorf("the request that waited: got status %d, %q", a.StatusCode, a.Header["Set-Cookie"])
		}
		w.eventually("what the refresh has got is revoked", func() bool {
			tokens := w.refreshTokens()
			return len(tokens) == 2 && slices.Contains(w.revokes(), tokens[1])
		})
		for range 3 {
			if a := w.present(cookies); a.StatusCode != http.StatusUnauthorized {
				t.Errorf("afterwards: got status %d", a.StatusCode)
			}
		}
		if n := len(w.refreshes()); n != 1 {
			t.Errorf("%d refreshes", n)
		}
	})
}

// R45: a logout token comes while a login is under way, its tokens are just
// being fetched: the session it makes is dead.
func TestR45LoginUnderWayAtBackChannelLogout(t *testing.T) {
	inEveryStore(t, func(w *world) {
		t := w.t
		for _, who := range []string{"sub", "sid"} {
			held, release := make(chan struct{}), make(chan struct{})
			w.op.Misbehave(provider.Faults{
				Answer: map[string]func(http.ResponseWriter, *http.Request) bool{"token": func(http.ResponseWriter, *http.Request) bool {
					close(held)
					<-release
					return false
				}},
				IDToken: claim("sid", "sid-of-the-login"),
			})
			w.caddy(basic)
			b := w.browser()
			callback := b.callback(w, "/page")
			answers := make(chan answer)
			go func() { answers <- b.visit(callback) }()
			<-held
			token := w.op.LogoutToken("public", "alice", "", provider.LogoutFault{})
			if who == "sid" {
				token = w.op.LogoutToken("public", "", "sid-of-the-login", provider.LogoutFault{})
			}
			if a := w.sends(token); a.Status != http.StatusOK {
				t.Errorf("%s: got status %d", who, a.Status)
			}
			close(release)
			<-answers
			w.alive(b, false, who)
		}
	})
}

// A118: the provider's keys cannot be had, or its metadata: it cannot be told
// whether the token is good, and the provider is asked to send it again.
func TestA118LogoutTokenWhileTheProviderIsDown(t *testing.T) {
	for _, endpoint := range []string{"keys", "metadata"} {
		t.Run(endpoint, func(t *testing.T) {
			w := newWorld(t)
			w.notIn("memory") // which does not outlive a restart
			load := w.reloads()
			load("timeout 5s")
			b, sid := w.loggedIn()
			if err := stop(); err != nil {
				t.Fatal(err)
			}
			load("timeout 5s")
			w.op.Misbehave(provider.Faults{Answer: map[string]func(http.ResponseWriter, *http.Request) bool{endpoint: provider.Status(503, "text/plain", "")}})
			token := w.op.LogoutToken("public", "", sid, provider.LogoutFault{})
			if a := w.sends(token); a.Status != http.StatusServiceUnavailable || a.Header.Get("Retry-After") == "" {
				t.Errorf("got status %d", a.Status)
			}
			w.alive(b, true, "meanwhile")
			w.logged(`"reason":"logout_failed"`)
			w.op.Misbehave(provider.Faults{})
			w.eventually("the same token works", func() bool { return w.sends(token).Status == http.StatusOK })
			w.alive(b, false, "in the end")
		})
	}
}

// Where back-channel logout is off, its paths are the application's, and
// protected like all others; so is the path of front-channel logout.
func TestBackChannelLogoutOff(t *testing.T) {
	w := newWorld(t)
	w.caddy("pkce_auth $OP public {\nbackchannel_logout off\n}\nreverse_proxy $UPSTREAM")
	b, sid := w.loggedIn()
	before := w.upstream.count()
	for _, path := range []string{"/oauth2/backchannel-logout", "/oauth2/frontchannel-logout"} {
		if a := w.browser().fetch(w.site + path); a.StatusCode != http.StatusUnauthorized {
			t.Errorf("%s: got status %d", path, a.StatusCode)
		}
	}
	token := url.Values{"logout_token": {w.op.LogoutToken("public", "", sid, provider.LogoutFault{})}}.Encode()
	post := http.Header{"Content-Type": {"application/x-www-form-urlencoded"}}
	if a := w.browser().do(http.MethodPost, w.backChannel(), post, token); a.StatusCode != http.StatusUnauthorized || w.upstream.count() != before {
		t.Errorf("a logout token: got status %d", a.StatusCode)
	}
	for _, path := range []string{"/oauth2/backchannel-logout", "/oauth2/frontchannel-logout"} {
		if a := b.fetch(w.site + path); a.StatusCode != http.StatusOK || a.body != "upstream "+path {
			t.Errorf("%s, logged in: got status %d and %s", path, a.StatusCode, a.body)
		}
	}
}
