package replicas

import (
	"fmt"
	"net/http"
	"net/url"
	"sync"
	"testing"
	"time"

	"github.com/pkce-auth/caddy-pkce-auth/test/provider"
)

// logoutBound is how soon a logout must hold on every replica, and how soon
// streams must be cut: within a second by contract, and some time more for a
// machine that does other things, too. Cookie sessions ask every two seconds.
func logoutBound(k kind) (requests, streams time.Duration) {
	if k.store == "cookie" {
		return 4 * time.Second, 4500 * time.Millisecond
	}
	return time.Second, 2500 * time.Millisecond
}

// as logs a browser in as somebody.
func (w *world) as(user string) *browser {
	w.op.Change(func(c *provider.Config) { c.Login = user })
	b := w.browser()
	b.login()
	return b
}

// streams opens one of each kind at a replica.
func (b *browser) streams(at int) []*stream { return []*stream{b.events(at), b.socket(at)} }

// ends does what must end the sessions of browsers, and measures when they are
// dead: each replica is asked with a copy of the cookies, over and over.
func (w *world) ends(what string, browsers []*browser, streams []*stream, do func()) {
	w.t.Helper()
	var thieves []*browser
	for _, b := range browsers {
		thief := b.copied()
		thieves = append(thieves, thief)
		for to := range w.replicas {
			if a := thief.fetch("/api", to); a.status != http.StatusOK {
				w.t.Fatalf("%s: there is no session: %s", what, a)
			}
		}
	}
	do()
	began := time.Now()
	took := make([]time.Duration, len(w.replicas))
	var all sync.WaitGroup
	for to := range w.replicas {
		all.Go(func() {
			for _, thief := range thieves {
				for thief.fetch("/api", to).status != http.StatusUnauthorized && time.Since(began) < 10*time.Second {
					time.Sleep(10 * time.Millisecond)
				}
			}
			took[to] = time.Since(began).Round(time.Millisecond)
		})
	}
	all.Wait()
	requestBound, streamBound := logoutBound(w.setup.kind)
	cut := ""
	for _, s := range streams {
		select {
		case <-s.ended:
			took := s.at.Sub(began).Round(time.Millisecond)
			cut += fmt.Sprintf("; %s cut after %s (%s)", s.what, took, s.said)
			if took > streamBound {
				w.t.Errorf("%s: a stream of %s was cut after %s", what, s.what, took)
			}
		case <-time.After(10 * time.Second):
			w.t.Errorf("%s: a stream of %s goes on", what, s.what)
		}
	}
	w.t.Logf("%s, %s: dead on the replicas after %s%s", w.setup.kind, what, took, cut)
	slowest := time.Duration(0)
	for to, d := range took {
		slowest = max(slowest, d)
		for _, thief := range thieves {
			if a := thief.fetch("/api", to); a.status != http.StatusUnauthorized || d > requestBound {
				w.t.Errorf("%s: dead on replica %d after %s: %s", what, to, d, a)
			}
		}
	}
	measured.add(row{"f. " + what, w.setup.String(), 0, 0, 0, 0, fmt.Sprintf("dead everywhere after %s%s", slowest, cut)})
}

// logout logs out at a replica.
func (b *browser) logout(at int) {
	b.w.t.Helper()
	a, err := b.send(b.w.t.Context(), b.request(http.MethodPost, "/oauth2/logout", map[string]string{
		"Sec-Fetch-Site": "same-origin", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document", "Origin": site,
	}), at)
	if err != nil || a.status != http.StatusSeeOther {
		b.w.t.Errorf("logout: got %s, %v", a, err)
	}
	if a.lasted > time.Second { // R43
		b.w.t.Errorf("the logout took %s", a.lasted)
	}
}

// backChannel has the provider send a logout token to a replica.
func (w *world) backChannel(at int, sub, sid string) {
	w.t.Helper()
	answer, err := provider.SendLogoutToken(w.t.Context(), &http.Client{Transport: w.replicas[at].direct}, site+"/oauth2/backchannel-logout",
		w.op.LogoutToken("public", sub, sid, provider.LogoutFault{}), url.Values{})
	if err != nil || answer.Status != http.StatusOK || answer.Header.Get("Cache-Control") != "no-store" {
		w.t.Errorf("back-channel logout: got %+v, %v", answer, err)
	}
}

// T8, R43, R45, A82: a logout on one replica, by the user, the provider or an
// operator, is one on all of them, and cuts what is open there. It does not wait
// for the provider, which takes its time to revoke.
func TestT8R43R45A82LogoutReachesEveryReplica(t *testing.T) {
	for _, k := range []kind{redisThree, storageThree, cookieThree} {
		t.Run(named(k), func(t *testing.T) {
			w := newWorld(t, setup{kind: k})
			w.op.Misbehave(provider.Faults{Answer: map[string]func(http.ResponseWriter, *http.Request) bool{
				"revoke": func(http.ResponseWriter, *http.Request) bool { time.Sleep(3 * time.Second); return false },
			}})
			bob, other := w.as("bob"), w.as("alice")
			stay := append(bob.streams(2), other.streams(2)...)
			goesOn := func() {
				t.Helper()
				for _, b := range []*browser{bob, other} {
					for to := range w.replicas {
						if a := b.fetch("/api", to); a.status != http.StatusOK {
							t.Errorf("another session was ended: %s", a)
						}
					}
				}
				for _, s := range stay {
					if !s.open() {
						t.Errorf("a stream of %s of another session was cut", s.what)
					}
				}
			}

			b := w.as("alice")
			w.ends("logout on one replica", []*browser{b}, b.streams(2), func() { b.logout(0) })
			goesOn()

			b = w.as("alice")
			logins := w.op.Logins()
			sid := logins[len(logins)-1].SessionID
			w.ends("back-channel logout of a sid", []*browser{b}, b.streams(2), func() { w.backChannel(1, "", sid) })
			goesOn()

			b = w.as("alice")
			stay = stay[:2]
			w.ends("back-channel logout of a sub, two sessions", []*browser{b, other}, append(b.streams(2), other.streams(1)...), func() { w.backChannel(0, "alice", "") })
			other = w.as("alice") // who begins later is not meant
			goesOn()

			b = w.as("alice")
			w.ends("DELETE at one admin endpoint", []*browser{b, other}, b.streams(2), func() {
				req, err := http.NewRequest(http.MethodDelete, "http://127.0.0.1/pkce_auth/sessions?sub=alice", nil)
				if err != nil {
					t.Fatal(err)
				}
				resp, err := w.replicas[0].admin.Do(req)
				if err != nil || resp.StatusCode != http.StatusOK {
					t.Errorf("DELETE gave %v, %v", resp, err)
				}
			})
			other = w.as("alice")
			goesOn()
			bob.logout(1)
		})
	}
}

// A82: what happens on another replica keeps streams open: a refresh, and use
// when they would be cut for idleness. When nobody uses the session any more,
// they are cut.
func TestA82StreamsLiveWithTheirSession(t *testing.T) {
	const idle = 3 * time.Second
	each(t, append([]kind{cookieThree}, shared...), named, func(t *testing.T, k kind) {
		w := newWorld(t, setup{kind: k, session: "idle 3s"})
		if k != cookieThree {
			w.op.Change(func(c *provider.Config) { c.TokenLifetime = short })
		}
		b := w.as("alice")
		streams := b.streams(2)
		stop := w.busy([]*browser{b}, "/api") // all replicas; the streams' own learns no more by that than it would
		time.Sleep(time.Second)
		if o := stop(); len(o.not(http.StatusOK)) > 0 {
			t.Errorf("these requests failed: %s", few(o.not(http.StatusOK)))
		}
		for began := time.Now(); time.Since(began) < 2*idle; time.Sleep(100 * time.Millisecond) {
			if a := b.fetch("/api", 0); a.status != http.StatusOK {
				t.Fatalf("the session has ended: %s", a)
			}
			for _, s := range streams {
				if !s.open() && k == cookieThree { // its replica cannot know: measured, not promised
					measured.add(row{"f. stream, session used on another replica", k.String(), w.asked(), 0, 0, 0, fmt.Sprintf(
						"cut at idle (%s), %s after its own replica last saw the session", idle, time.Since(began).Round(100*time.Millisecond))})
					return
				}
				if !s.open() {
					t.Fatalf("a stream of %s was cut %s after the session was last used on its own replica", s.what, time.Since(began))
				}
			}
		}
		if n := w.asked(); n < 2 || w.spoilt() {
			t.Errorf("there were %d grants", n)
		}
		measured.add(row{"f. stream, session used on another replica", k.String(), w.asked(), 0, 0, 0, fmt.Sprintf("open after %s", 2*idle)})
		last := time.Now()
		for _, s := range streams {
			select {
			case <-s.ended:
				took := s.at.Sub(last).Round(time.Millisecond)
				t.Logf("%s: %s cut %s after the last use, of %s idle (%s)", k, s.what, took, idle, s.said)
				if took < idle*8/10 || took > idle+2500*time.Millisecond {
					t.Errorf("%s was cut %s after the last use", s.what, took)
				}
			case <-time.After(10 * time.Second):
				t.Errorf("a stream of %s goes on", s.what)
			}
		}
		if a := b.fetch("/api", anyone); a.status != http.StatusUnauthorized {
			t.Errorf("an idle session goes on: %s", a)
		}
	})
}
