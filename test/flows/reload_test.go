package flows

import (
	"fmt"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pkce-auth/caddy-pkce-auth/test/provider"
)

// K8, A120: reloads that change a timeout, under load, while tokens are
// refreshed and rotated: no session is lost, no request, and no grant.
func TestK8A120ReloadsUnderLoadLoseNoSession(t *testing.T) {
	for _, kind := range everyStore {
		t.Run(kind, func(t *testing.T) {
			w := newWorldWith(t, provider.Config{TokenLifetime: 2 * time.Second})
			w.store = kind
			load := w.reloads()
			load("timeout 5s")
			var browsers []*browser
			for range 3 {
				b, _ := w.loggedIn()
				browsers = append(browsers, b)
			}
			done := make(chan struct{})
			var answered atomic.Int32
			var wg sync.WaitGroup
			for _, b := range browsers {
				wg.Go(func() {
					for {
						select {
						case <-done:
							return
						default:
						}
						if a := b.fetch(w.site + "/x"); a.StatusCode != http.StatusOK {
							t.Errorf("got status %d", a.StatusCode)
							return
						}
						answered.Add(1)
					}
				})
			}
			for i := range 8 {
				load(fmt.Sprintf("timeout %ds", 6+i))
				before, began := answered.Load(), time.Now()
				w.eventually("requests are answered after a reload", func() bool {
					return t.Failed() || answered.Load() >= before+10 && time.Since(began) > 500*time.Millisecond
				})
			}
			close(done)
			wg.Wait()
			if logins, refreshes := len(w.op.Requests("authorize")), len(w.refreshes()); logins != 3 || refreshes < 3 {
				t.Errorf("%d logins and %d refreshes", logins, refreshes)
			}
			for _, token := range w.refreshTokens() {
				if w.op.Revoked(token) {
					t.Error("a refresh token was used twice, or thrown away")
				}
			}
		})
	}
}
