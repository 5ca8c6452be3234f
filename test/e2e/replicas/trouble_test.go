package replicas

import (
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pkce-auth/caddy-pkce-auth/test/provider"
)

// tries are when the provider was asked to refresh, by session: the refresh
// token of each does not change as long as it gets no other.
type tries struct {
	mu sync.Mutex
	at map[string][]time.Time
}

// spaced are the shortest time between two tries for one session, and how many
// there were in all.
func (tr *tries) spaced() (shortest time.Duration, all, sessions int) {
	tr.mu.Lock()
	defer tr.mu.Unlock()
	shortest = time.Hour
	for _, at := range tr.at {
		all += len(at)
		for i := 1; i < len(at); i++ {
			shortest = min(shortest, at[i].Sub(at[i-1]).Round(time.Millisecond))
		}
	}
	return shortest, all, len(tr.at)
}

// failing has the token endpoint answer refreshes in the ways given, each
// session's in one of them.
func (tr *tries) failing(ways ...func(http.ResponseWriter, *http.Request) bool) provider.Faults {
	tr.at = map[string][]time.Time{}
	return provider.Faults{Answer: map[string]func(http.ResponseWriter, *http.Request) bool{
		"token": func(w http.ResponseWriter, r *http.Request) bool {
			token := r.PostForm.Get("refresh_token")
			tr.mu.Lock()
			if _, ok := tr.at[token]; !ok {
				tr.at[token] = nil
			}
			number := slices.Index(slices.Sorted(maps.Keys(tr.at)), token)
			tr.at[token] = append(tr.at[token], time.Now())
			tr.mu.Unlock()
			return ways[number%len(ways)](w, r)
		},
	}}
}

// T3, M105: the provider says 500, or nothing at all, while tokens are still
// good. Nobody notices, and it is not asked more often than once a second for
// each session, by however many replicas.
func TestT3M105ProviderInTroubleWhileTokensAreGood(t *testing.T) {
	each(t, promising, named, func(t *testing.T, k kind) {
		w := newWorld(t, setup{kind: k, options: "refresh 1h\ntimeout 1s"}) // in the second half of the lifetime, that is
		w.op.Change(func(c *provider.Config) { c.TokenLifetime = 24 * time.Second })
		browsers := []*browser{w.browser(), w.browser()}
		for _, b := range browsers {
			b.login()
		}
		w.op.Change(func(c *provider.Config) { c.TokenLifetime = long })
		time.Sleep(12 * time.Second)
		var tr tries
		w.op.Misbehave(tr.failing(
			provider.Status(http.StatusInternalServerError, "text/html", "<h1>oops</h1>"),
			func(_ http.ResponseWriter, r *http.Request) bool { <-r.Context().Done(); return true },
		))
		stop := w.busy(browsers, "/api")
		time.Sleep(5 * time.Second)
		w.op.Misbehave(provider.Faults{})
		shortest, all, sessions := tr.spaced()
		within(t, 15*time.Second, "all are refreshed", func() bool {
			n := 0
			for _, token := range w.op.Issued() {
				if strings.HasPrefix(token, "refresh-") {
					n++
				}
			}
			return n == 2*len(browsers)
		})
		o := stop()
		bad := o.not(http.StatusOK)
		measured.add(row{
			"d. provider says 500 or nothing for 5 s, old token good", k.String(), w.asked(), o.total(), len(bad), 0,
			fmt.Sprintf("%d tries for %d sessions in these 5 s, %s between two at least", all, sessions, shortest),
		})
		if len(bad) > 0 || w.spoilt() {
			t.Errorf("these requests failed: %s", few(bad))
		}
		if sessions != len(browsers) || shortest < 900*time.Millisecond { // what is sent a second later may be on its way for less long
			t.Errorf("there were tries for %d sessions, %s between two", sessions, shortest)
		}
	})
}

// T3: the provider is gone for good, and takes no connections.
func TestT3ProviderGoneWhileTokensAreGood(t *testing.T) {
	each(t, promising, named, func(t *testing.T, k kind) {
		w := newWorld(t, setup{kind: k, options: "refresh 1h"})
		w.op.Change(func(c *provider.Config) { c.TokenLifetime = 10 * time.Second })
		b := w.browser()
		b.login()
		_ = w.op.Close()
		time.Sleep(5 * time.Second)
		stop := w.busy([]*browser{b}, "/api")
		time.Sleep(4 * time.Second)
		o := stop()
		bad := o.not(http.StatusOK)
		measured.add(row{"d. provider gone, old token good", k.String(), 0, o.total(), len(bad), 0, ""})
		if len(bad) > 0 {
			t.Errorf("these requests failed: %s", few(bad))
		}
		time.Sleep(1500 * time.Millisecond)
		for to := range w.replicas { // the token has expired: that cannot be helped, but it is no logout
			w.unavailable(b.fetch("/api", to))
		}
	})
}

// M105: "too many requests", with a time to wait, while tokens are still good:
// each replica is told once, and waits.
func TestM105TooManyRequests(t *testing.T) {
	each(t, promising, named, func(t *testing.T, k kind) {
		w := newWorld(t, setup{kind: k, options: "refresh 1h"})
		w.op.Change(func(c *provider.Config) { c.TokenLifetime = 20 * time.Second })
		browsers := []*browser{w.browser(), w.browser(), w.browser()}
		for _, b := range browsers {
			b.login()
		}
		w.op.Change(func(c *provider.Config) { c.TokenLifetime = long })
		time.Sleep(10 * time.Second)
		var tr tries
		w.op.Misbehave(tr.failing(func(rw http.ResponseWriter, _ *http.Request) bool {
			rw.Header().Set("Retry-After", "6")
			rw.WriteHeader(http.StatusTooManyRequests)
			return true
		}))
		stop := w.busy(browsers, "/api")
		time.Sleep(5 * time.Second)
		o := stop()
		w.op.Misbehave(provider.Faults{})
		bad := o.not(http.StatusOK)
		_, all, _ := tr.spaced()
		measured.add(row{"d. provider says 429, Retry-After 6, old token good", k.String(), w.asked(), o.total(), len(bad), 0, fmt.Sprintf("%d tries for 3 sessions in 5 s", all)})
		// Those that were under way already when the first was told do not count.
		if most := len(browsers) * k.replicas; len(bad) > 0 || all > most {
			t.Errorf("%d tries, want at most %d; these requests failed: %s", all, most, few(bad))
		}
	})
}

// way is one way in which a refresh goes wrong, or is odd.
type way struct {
	name     string
	faults   provider.Faults
	statuses []int // of all requests, and of those that come later
	after    int
	asked    int // at most
}

// The ways of PROVIDER_FAULTS.md in which a refresh may go, on a token that has
// expired, with requests on all replicas.
func ways() []way {
	refused := []int{http.StatusUnauthorized, http.StatusFound}
	served := []int{http.StatusOK}
	response := func(change func(doc map[string]any)) provider.Faults { return provider.Faults{RefreshResponse: change} }
	token := func(answer func(http.ResponseWriter, *http.Request) bool) provider.Faults {
		return provider.Faults{Answer: map[string]func(http.ResponseWriter, *http.Request) bool{"token": answer}}
	}
	half := func() func(w http.ResponseWriter, _ *http.Request) bool {
		var once sync.Once
		return func(w http.ResponseWriter, _ *http.Request) (halved bool) {
			once.Do(func() { halved = true })
			if halved {
				w.Header().Set("Content-Type", "application/json")
				w.Header().Set("Content-Length", "1000")
				fmt.Fprint(w, `{"access_token":"half`)
				_ = http.NewResponseController(w).Flush()
				panic(http.ErrAbortHandler)
			}
			return false
		}
	}
	return []way{
		{"M100 a new refresh token", provider.Faults{}, served, http.StatusOK, 1},
		{"M102 no refresh token", provider.Faults{KeepRefreshTokens: true}, served, http.StatusOK, 1},
		{"M109 fewer scopes", response(func(doc map[string]any) { doc["scope"] = "openid" }), served, http.StatusOK, 1},
		{"M51 half an answer, and all of it at the second try", token(half()), served, http.StatusOK, 2},
		{"M107 the answer is lost after the rotation", response(func(map[string]any) { panic(http.ErrAbortHandler) }), refused, http.StatusUnauthorized, 2},
		{"M103 invalid_grant", token(provider.Status(http.StatusBadRequest, "application/json", `{"error":"invalid_grant"}`)), refused, http.StatusUnauthorized, 1},
		{"M106 another sub", provider.Faults{RefreshedIDToken: func(claims map[string]any) { claims["sub"] = "mallory" }}, refused, http.StatusUnauthorized, 1},
		{"M108 slower than the token lives", response(func(doc map[string]any) {
			doc["expires_in"] = 1
			time.Sleep(1500 * time.Millisecond)
		}), []int{http.StatusOK, http.StatusServiceUnavailable}, http.StatusOK, 99},
		{"M105 status 500", token(provider.Status(http.StatusInternalServerError, "text/plain", "")), []int{http.StatusServiceUnavailable}, http.StatusOK, 3},
	}
}

// M100 to M109, at three replicas that share a store.
func TestM100ToM109Refreshes(t *testing.T) {
	each(t, shared, named, func(t *testing.T, k kind) {
		w := newWorld(t, setup{kind: k})
		browsers := w.expired(len(ways()))
		for i, way := range ways() {
			b, before := browsers[i], w.asked()
			w.op.Misbehave(way.faults)
			o := b.fetchAll(30)
			asked := w.asked() - before
			w.op.Misbehave(provider.Faults{})
			bad := o.not(way.statuses...)
			if len(bad) > 0 || asked == 0 || asked > way.asked {
				t.Errorf("%s: asked %d times, want at most %d; these answers are wrong: %s", way.name, asked, way.asked, few(bad))
			}
			for _, a := range o.answers {
				if a.status == http.StatusServiceUnavailable {
					w.unavailable(a)
				}
			}
			within(t, 10*time.Second, way.name+": it goes on as it must", func() bool { return b.fetch("/api", anyone).status == way.after })
			lost := 0
			if way.after != http.StatusOK {
				lost = 1
				b.login() // mends it
			}
			measured.add(row{"d. " + way.name, k.String(), asked, o.total(), o.total() - o.count(http.StatusOK), lost, "slowest answer " + o.slowest().String()})
		}
	})
}

// T10: the provider is down when Caddy starts. Who is logged in stays so, and a
// login works as soon as the provider does.
func TestT10ProviderDownAtStart(t *testing.T) {
	each(t, append([]kind{cookieThree}, shared...), named, func(t *testing.T, k kind) {
		w := newWorld(t, setup{kind: k})
		b := w.as("alice")
		down := func(http.ResponseWriter, *http.Request) bool { panic(http.ErrAbortHandler) }
		w.op.Misbehave(provider.Faults{Answer: map[string]func(http.ResponseWriter, *http.Request) bool{"metadata": down, "keys": down, "token": down}})
		for _, r := range w.replicas {
			r.process.kill()
			r.start()
		}
		for to, r := range w.replicas {
			r.isUp()
			if a := b.fetch("/api", to); a.status != http.StatusOK {
				t.Errorf("got %s", a)
			}
			w.unavailable(w.browser().visit("/app", to))
		}
		w.op.Misbehave(provider.Faults{})
		for to := range w.replicas {
			within(t, 10*time.Second, "logins begin", func() bool {
				time.Sleep(50 * time.Millisecond)
				return w.browser().visit("/app", to).status == http.StatusFound
			})
		}
		w.browser().login()
	})
}
