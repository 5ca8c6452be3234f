package flows

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/pkce-auth/caddy-pkce-auth/test/provider"
)

// withAdmin gives Caddy an admin endpoint: a socket with a short name, for the
// names of sockets must be.
func (w *world) withAdmin() {
	w.t.Helper()
	dir, err := os.MkdirTemp("", "admin")
	if err != nil {
		w.t.Fatal(err)
	}
	w.admin = "unix/" + filepath.Join(dir, "s")
	w.t.Cleanup(func() {
		if err := caddy.Load([]byte(`{"admin":{"disabled":true}}`), true); err != nil { // else it would outlive the test
			w.t.Error(err)
		}
		_ = os.RemoveAll(dir)
	})
}

// listed is a session as the admin endpoint shows it.
type listed struct {
	ID, Provider, Sub, Sid     string
	Created, LastSeen, Expires time.Time
}

// operator sends a request to the admin endpoint.
func (w *world) operator(method, target string) answer {
	w.t.Helper()
	transport := &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", strings.TrimPrefix(w.admin, "unix/"))
	}}
	req, err := http.NewRequest(method, "http://127.0.0.1/pkce_auth/sessions"+target, nil)
	if err != nil {
		w.t.Fatal(err)
	}
	resp, err := transport.RoundTrip(req)
	if err != nil {
		w.t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		w.t.Fatal(err)
	}
	return answer{resp, string(body)}
}

// list gives the sessions that the admin endpoint lists, and the providers whose
// sessions it cannot.
func (w *world) list(target string) (sessions []listed, unlisted []string) {
	w.t.Helper()
	a := w.operator(http.MethodGet, target)
	var doc struct {
		Sessions []struct {
			listed
			LastSeen time.Time `json:"last_seen"`
		}
		Unlisted []string `json:"unlisted_providers"`
	}
	if err := json.Unmarshal([]byte(a.body), &doc); err != nil || a.StatusCode != http.StatusOK || doc.Sessions == nil {
		w.t.Fatalf("GET %s: status %d, %v: %s", target, a.StatusCode, err, a.body)
	}
	if a.Header.Get("Content-Type") != "application/json" || a.Header.Get("Cache-Control") != "no-store" {
		w.t.Errorf("GET %s: %v", target, a.Header)
	}
	secrets := w.op.Issued()
	for _, b := range w.browsers {
		secrets = append(secrets, b.secrets...)
	}
	for _, secret := range secrets {
		if len(secret) > 8 && strings.Contains(a.body, secret) {
			w.t.Errorf("GET %s gives a secret: %.12s…", target, secret)
		}
	}
	for _, s := range doc.Sessions {
		s.listed.LastSeen = s.LastSeen
		sessions = append(sessions, s.listed)
	}
	return sessions, doc.Unlisted
}

// deletes ends sessions, and wants to hear of so many.
func (w *world) deletes(target string, revoked int) {
	w.t.Helper()
	if a := w.operator(http.MethodDelete, target); a.StatusCode != http.StatusOK || a.body != fmt.Sprintf("{\"revoked\":%d}\n", revoked) {
		w.t.Errorf("DELETE %s: got status %d and %s, want %d revoked", target, a.StatusCode, a.body, revoked)
	}
}

// twoUsers are two browsers of alice and one of bob.
func (w *world) twoUsers() (alice1, alice2, bob *browser) {
	w.t.Helper()
	alice1, _ = w.loggedIn()
	alice2, _ = w.loggedIn()
	w.op.Change(func(c *provider.Config) { c.Login, c.Users = "bob", map[string]map[string]any{"alice": {}, "bob": {}} })
	bob, _ = w.loggedIn()
	w.op.Change(func(c *provider.Config) { c.Login = "alice" })
	return alice1, alice2, bob
}

// The admin endpoint lists who is logged in, since when and where, and never a
// token; after a reload, too; the provider may be a handler's own, or one of the
// app's.
func TestAdminListsSessions(t *testing.T) {
	inline := "pkce_auth $OP public {\n%s\n}\nreverse_proxy $UPSTREAM"
	named := "pkce_auth {\nissuer $OP\nclient_id public\n%s\n}\n---\npkce_auth\nreverse_proxy $UPSTREAM"
	for _, kind := range []string{"memory", "storage"} {
		for name, config := range map[string]string{"": inline, "default": named} {
			t.Run(kind+" "+name, func(t *testing.T) {
				w := newWorld(t)
				w.store = kind
				w.withAdmin()
				w.caddy(fmt.Sprintf(config, "timeout 5s"))
				if sessions, _ := w.list(""); len(sessions) != 0 {
					t.Errorf("before anybody has logged in: %+v", sessions)
				}
				before := time.Now().Add(-time.Second)
				w.twoUsers()
				if name == "" { // an inline provider goes by its host
					name = strings.TrimPrefix(w.op.URL, "http://")
				}
				logins := w.op.Logins()
				check := func() {
					t.Helper()
					sessions, unlisted := w.list("")
					if len(sessions) != 3 || unlisted != nil {
						t.Fatalf("got %+v, and not %v", sessions, unlisted)
					}
					for i, s := range sessions {
						now := time.Now()
						if s.Provider != name || s.Sub != logins[i].Subject || s.Sid != logins[i].SessionID || len(s.ID) != 64 || s.Created.Before(before) || s.Created.After(now) ||
							s.LastSeen.Before(s.Created) || s.LastSeen.After(now) || s.Expires.Before(now.Add(23*time.Hour)) || s.Expires.After(now.Add(24*time.Hour)) {
							t.Errorf("got %+v", s)
						}
					}
				}
				check()
				w.caddy(fmt.Sprintf(config, "timeout 6s"))
				check()
				for filter, want := range map[string]int{
					"?sub=alice": 2, "?sub=bob": 1, "?sub=nobody": 0, "?sid=" + logins[2].SessionID: 1, "?sub=alice&sid=" + logins[2].SessionID: 0,
					"?sub=alice&sid=" + logins[1].SessionID: 1, "?provider=" + name: 3, "?provider=" + name + "&sub=alice": 2,
				} {
					if sessions, _ := w.list(filter); len(sessions) != want {
						t.Errorf("%s: got %+v, want %d", filter, sessions, want)
					}
				}
			})
		}
	}
}

// Sessions in cookies cannot be listed, and the answer says so.
func TestAdminSaysWhatItCannotList(t *testing.T) {
	w := newWorld(t)
	w.store = "cookie"
	w.withAdmin()
	w.caddy("pkce_auth {\nissuer $OP\nclient_id public\n}\n---\npkce_auth\nreverse_proxy $UPSTREAM")
	w.loggedIn()
	if sessions, unlisted := w.list(""); len(sessions) != 0 || !slices.Equal(unlisted, []string{"default"}) {
		t.Errorf("got %+v, and not %v", sessions, unlisted)
	}
}

// An operator ends one session, all of a user, all of a provider: copies of
// their cookies are dead, and what is under way with them is cut.
func TestAdminEndsSessions(t *testing.T) {
	inEveryStore(t, func(w *world) {
		t := w.t
		w.withAdmin()
		w.caddy("pkce_auth {\nissuer $OP\nclient_id public\n}\n---\npkce_auth\nreverse_proxy $UPSTREAM")
		one, two, bob := w.twoUsers()
		count := func(n int) int { // of sessions in cookies nobody knows how many there are
			if w.stored() {
				return n
			}
			return 0
		}
		if w.stored() {
			copied, ended := one.cookieHeader(w), w.stream(one)
			sessions, _ := w.list("?sid=" + w.op.Logins()[0].SessionID)
			w.deletes("/"+sessions[0].ID, 1)
			ended()
			if a := w.present(copied); a.StatusCode != http.StatusUnauthorized {
				t.Errorf("a copy of the cookie: got status %d", a.StatusCode)
			}
			w.deletes("/"+sessions[0].ID, 0)
			w.logged("session ended by an operator", `"sub":"alice"`, `"requests_cut":1`)
		} else {
			w.deletes("?sid="+w.op.Logins()[0].SessionID, 0)
		}
		w.alive(one, false, "the one")
		w.alive(two, true, "another of the same user")

		copied, ended := two.cookieHeader(w), w.stream(two)
		w.deletes("?sub=alice", count(1))
		ended()
		if a := w.present(copied); a.StatusCode != http.StatusUnauthorized {
			t.Errorf("a copy of the cookie: got status %d", a.StatusCode)
		}
		w.alive(two, false, "by sub")
		w.alive(bob, true, "another user")
		one.login(w, "/again")

		w.deletes("?provider=default&sub=nobody", 0)
		w.alive(bob, true, "after nobody's end")
		w.deletes("?provider=default", count(2))
		w.alive(bob, false, "by provider")
		w.alive(one, false, "by provider")
		bob.login(w, "/again")
	})
}

// What the admin endpoint does not understand ends nobody's session: a filter
// that is misspelt is not one that is missing.
func TestAdminRefuses(t *testing.T) {
	inEveryStore(t, func(w *world) {
		t := w.t
		w.withAdmin()
		w.caddy(basic)
		b, _ := w.loggedIn()
		unknown := strings.Repeat("ab", 32)
		for _, tc := range []struct {
			method, target string
			status         int
		}{
			{"GET", "?user=alice", 400},
			{"GET", "?sub=alice&sub=bob", 400},
			{"GET", "?sub=", 400},
			{"GET", "?sub=%zz", 400},
			{"GET", "?provider=other", 404},
			{"DELETE", "", 400},
			{"DELETE", "?", 400},
			{"DELETE", "?user=alice", 400},
			{"DELETE", "?sub=alice&x=1", 400},
			{"DELETE", "?sub=alice&sub=alice", 400},
			{"DELETE", "?sub=", 400},
			{"DELETE", "?provider=other", 404},
			{"DELETE", "/", 404},
			{"DELETE", "/x", 404},
			{"DELETE", "/" + strings.ToUpper(unknown), 404},
			{"DELETE", "/" + unknown + "/x", 404},
			{"DELETE", "/" + unknown, 200},
			{"GET", "/" + unknown, 405},
			{"POST", "", 405},
			{"PUT", "?sub=alice", 405},
		} {
			a := w.operator(tc.method, tc.target)
			if a.StatusCode != tc.status {
				t.Errorf("%s %s: got status %d, want %d: %s", tc.method, tc.target, a.StatusCode, tc.status, a.body)
			}
			if a.StatusCode == http.StatusMethodNotAllowed && a.Header.Get("Allow") == "" {
				t.Errorf("%s %s: no Allow", tc.method, tc.target)
			}
		}
		w.alive(b, true, "after all that")
	})
}

// stream opens a stream for a browser's session; ended waits until it is over.
func (w *world) stream(b *browser) (ended func()) {
	w.t.Helper()
	w.upstream.answers(func(rw http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(rw, "data: first\n\n")
		_ = http.NewResponseController(rw).Flush()
		if r.URL.Path == "/stream" {
			<-r.Context().Done()
		}
	})
	defer w.upstream.answers(nil)
	ctx, cancel := context.WithCancel(w.t.Context())
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, w.site+"/stream", nil)
	if err != nil {
		w.t.Fatal(err)
	}
	req.Header.Set("Cookie", b.cookieHeader(w))
	resp, err := plain.RoundTrip(req)
	if err != nil {
		w.t.Fatal(err)
	}
	first := make([]byte, 4)
	if _, err := io.ReadFull(resp.Body, first); err != nil || resp.StatusCode != http.StatusOK {
		w.t.Fatalf("the stream: status %d, %v", resp.StatusCode, err)
	}
	over := make(chan struct{})
	go func() {
		_, _ = io.Copy(io.Discard, resp.Body)
		close(over)
	}()
	return func() {
		w.t.Helper()
		defer cancel()
		select {
		case <-over:
		case <-time.After(10 * time.Second):
			w.t.Error("the stream goes on without its session")
		}
	}
}
