package caddyauth

import (
	"context"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/pkce-auth/caddy-pkce-auth/caddyauth/internal/rp"
	"github.com/pkce-auth/caddy-pkce-auth/caddyauth/internal/session"
	"github.com/pkce-auth/caddy-pkce-auth/caddyauth/store"
)

// tardyStore answers late.
type tardyStore struct {
	store.Memory
	takes time.Duration
}

func (s *tardyStore) Load(ctx context.Context, key string) (store.Record, error) {
	time.Sleep(s.takes)
	return s.Memory.Load(ctx, key)
}

// T3: a token whose time is up when the store has answered does not go upstream,
// however early the request came.
func TestTokensEndWhileAStoreIsSlow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &tardyStore{}
		p := replicaOf(t, struct{ store.Store }{s})
		made := session.New(&rp.Grant{AccessToken: rp.NewSecret("a"), Expiry: time.Now().Add(10 * time.Second)}, &rp.Identity{Subject: "alice"}, time.Now())
		_, cookies := finish(t, p, nil, made)
		time.Sleep(7 * time.Second)
		s.takes = 4 * time.Second
		a, _ := p.authState(newRequest(http.MethodGet, "https://app.test/", http.Header{"Cookie": cookies}))
		got, err := p.load(a.request, a, true)
		if err == nil {
			t.Errorf("a token is used %s after its end", time.Since(got.TokenExpiry))
		}
		a, _ = p.authState(newRequest(http.MethodGet, "https://app.test/oauth2/session?extend=false", http.Header{"Cookie": cookies}))
		s.takes = 0
		if _, err := p.lookAt(a.request, a); err == nil {
			t.Error("it is shown as one in use")
		}
		time.Sleep(time.Minute)
	})
}

// A, K2: what one request sent upstream is its own, whatever others and a second
// handler send: who holds on to a copy of the headers, as reverse_proxy does, keeps
// what was there then.
func TestCredentialsAreOfOneRequest(t *testing.T) {
	one, two := newHandler(t, inlineProvider), newHandler(t, `{"inline":{"issuer":"https://two.test","client_id":"public","prefix":"/two"}}`)
	var group sync.WaitGroup
	for i := range 8 {
		group.Go(func() {
			mine, other := strings.Repeat(string(rune('a'+i)), 20), strings.Repeat(string(rune('A'+i)), 20)
			lines := []string{sessionCookies(t, one, mine)[0] + "; " + sessionCookies(t, two, other)[0]}
			for range 50 {
				r := newRequest(http.MethodGet, "https://app.test/", http.Header{"Cookie": lines})
				var first http.Header
				err := one.ServeHTTP(httptest.NewRecorder(), r, caddyhttp.HandlerFunc(func(w http.ResponseWriter, r *http.Request) error {
					first = r.Header.Clone()
					return two.ServeHTTP(w, r, caddyhttp.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) error {
						if got := r.Header["Authorization"]; len(got) != 1 || cap(got) != 1 || got[0] != "Bearer "+other {
							t.Errorf("second: %q", got)
						}
						r.Header.Add("Authorization", "more")
						return nil
					}))
				}))
				if got := first["Authorization"]; err != nil || len(got) != 1 || got[0] != "Bearer "+mine {
					t.Errorf("first: %q, %v", got, err)
				}
			}
		})
	}
	group.Wait()
}
