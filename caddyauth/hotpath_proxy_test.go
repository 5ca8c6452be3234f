package caddyauth

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

func init() { caddy.RegisterModule(atOnce{}) }

// atOnce is an upstream without a network: it asks, as Go's transport does, for
// the end of the request's context, and answers.
type atOnce struct{}

func (atOnce) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "http.reverse_proxy.transport.at_once", New: func() caddy.Module { return new(atOnce) }}
}

func (*atOnce) RoundTrip(r *http.Request) (*http.Response, error) {
	ctx, cancel := context.WithCancelCause(r.Context())
	defer cancel(nil)
	select {
	case <-ctx.Done():
		return nil, ctx.Err()
	default:
	}
	return &http.Response{
		StatusCode: http.StatusOK, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1, ContentLength: 2, Request: r,
		Header: http.Header{"Content-Length": {"2"}, "Content-Type": {"text/plain"}, "Date": {"Mon, 23 Nov 2026 08:00:00 GMT"}},
		Body:   io.NopCloser(strings.NewReader("ok")),
	}, nil
}

// BenchmarkBeforeReverseProxy is what a request through reverse_proxy costs more
// with the middleware before it than without, but for what the network does: the
// context that can be cut, and the look at the answer, are in it.
func BenchmarkBeforeReverseProxy(b *testing.B) {
	for _, store := range []string{"cookie", "memory"} {
		b.Run(store, func(b *testing.B) {
			without, with := beforeReverseProxy(b, store)
			pairedBenchmark(b, without, with)
		})
	}
}

// Promise 6: the allocations of a request are exact with all that belongs to it,
// too: the context that ends with the session (A82) is made here, for
// reverse_proxy asks for it.
func TestPromise6HotPathAllocationsBeforeReverseProxy(t *testing.T) {
	const runs, limit = 500, 8
	for _, store := range []string{"cookie", "memory", "storage"} {
		without, with := beforeReverseProxy(t, store)
		got := testing.AllocsPerRun(runs, with) - testing.AllocsPerRun(runs, without)
		t.Logf("%s: %v allocations", store, got)
		if got > limit {
			t.Errorf("%s: got %v allocations, want at most %d", store, got, limit)
		}
	}
}

// beforeReverseProxy serves a request with a live session by reverse_proxy alone,
// and by our handler and reverse_proxy.
func beforeReverseProxy(tb testing.TB, store string) (without, with func()) {
	h := newHandler(tb, `{"inline":{"issuer":"https://op.test","client_id":"public","session":{"store":{"kind":"`+store+`"}}}}`)
	now := time.Now()
	h.party.now = func() time.Time { return now } // or a store is asked in between
	proxy := newReverseProxy(tb)
	like, cookie := likeFromServer(tb), sessionCookies(tb, h, token2k)[0]
	serve := func(handle func(http.ResponseWriter, *http.Request) error) func() {
		return func() {
			w := httptest.NewRecorder()
			if err := handle(w, hotRequest(like, cookie)); err != nil || w.Code != http.StatusOK {
				tb.Fatalf("got %d, %v", w.Code, err)
			}
		}
	}
	next := caddyhttp.HandlerFunc(func(w http.ResponseWriter, r *http.Request) error { return proxy.ServeHTTP(w, r, nop) })
	return serve(next), serve(func(w http.ResponseWriter, r *http.Request) error { return h.ServeHTTP(w, r, next) })
}

func newReverseProxy(tb testing.TB) caddyhttp.MiddlewareHandler {
	module, err := newContext(tb).LoadModuleByID("http.handlers.reverse_proxy", json.RawMessage(`{"transport":{"protocol":"at_once"},"upstreams":[{"dial":"127.0.0.1:1"}]}`))
	if err != nil {
		tb.Fatal(err)
	}
	return module.(caddyhttp.MiddlewareHandler)
}
