package caddyauth

import (
	"context"
	"net/http"
	"net/http/httptest"
	"runtime"
	"sync"
	"testing"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// Issue 7: no goroutine for a session, and none for a request under way but the
// one in which it came, be it that a handler derives a context from its
// own, as reverse_proxy does. When all have gone, nothing is left of them.
func TestPromise6NoGoroutineOfASessionOrRequest(t *testing.T) {
	for _, kind := range []string{"cookie", "memory"} {
		t.Run(kind, func(t *testing.T) {
			const n = 1000
			h, cookies := withSessions(t, kind, n)
			kept := keptBy(h)
			before := runtime.NumGoroutine()
			var arrived, ended sync.WaitGroup
			leave := make(chan struct{})
			arrived.Add(n)
			next := caddyhttp.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) error {
				ctx, cancel := context.WithCancel(r.Context())
				defer cancel()
				arrived.Done()
				select {
				case <-leave:
					return nil
				case <-ctx.Done():
					return ctx.Err()
				}
			})
			for i := range n {
				ctx, cancel := context.WithCancel(t.Context())
				template := httptest.NewRequestWithContext(ctx, http.MethodGet, "https://app.test/page", nil)
				ended.Go(func() {
					defer cancel()
					if err := h.ServeHTTP(httptest.NewRecorder(), prepared(template, cookies[i]), next); err != nil {
						t.Error(err)
					}
				})
			}
			arrived.Wait()
			if got := runtime.NumGoroutine() - before; got > n {
				t.Errorf("%d goroutines for %d requests under way", got, n)
			}
			if got := keptBy(h) - kept; got < n {
				t.Errorf("only %d more things are kept while %d sessions are in use: what is counted is not what there is", got, n)
			}
			close(leave)
			ended.Wait()
			settled(t, before)
			for i := range h.party.shared.live.shards {
				if left := len(h.party.shared.live.shards[i].sessions); left != 0 {
					t.Errorf("%d sessions are still taken for in use", left)
				}
			}
		})
	}
}
