package caddyauth

import (
	"context"
	"encoding/base64"
	"fmt"
	"net/http"
	"net/http/httptest"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/pkce-auth/caddy-pkce-auth/caddyauth/internal/rp"
	"github.com/pkce-auth/caddy-pkce-auth/caddyauth/internal/session"
)

// token2k is an access token of some 2 kB, as a JWT with permissions.
var token2k = func() string {
	var permissions []string
	for i := range 70 {
		permissions = append(permissions, fmt.Sprintf(`"%s:%s%d"`, []string{"read", "write"}[i%2], []string{"orders", "invoices", "customers"}[i%3], i))
	}
	b64 := base64.RawURLEncoding.EncodeToString
	return b64([]byte(`{"alg":"RS256","typ":"at+jwt"}`)) + "." +
		b64([]byte(`{"iss":"https://op.test","aud":"https://api.test","permissions":[`+strings.Join(permissions, ",")+`]}`)) + "." + b64(make([]byte, 256))
}()

var nop = caddyhttp.HandlerFunc(func(http.ResponseWriter, *http.Request) error { return nil })

// hotRequests makes requests with a live session, as they come from Caddy's
// server. Each serves once, for the handler changes it.
func hotRequests(tb testing.TB, cookies []string, n int) []*http.Request {
	requests := make([]*http.Request, n)
	like := likeFromServer(tb)
	for i := range requests {
		requests[i] = hotRequest(like, cookies[0])
	}
	return requests
}

// likeFromServer is a request as net/http reads it. Its context can end, which
// makes it cost more to derive from.
func likeFromServer(tb testing.TB) *http.Request {
	ctx, cancel := context.WithCancel(context.Background())
	tb.Cleanup(cancel)
	return httptest.NewRequest("GET", "https://app.test/page?x=1", nil).WithContext(ctx)
}

// hotRequest makes a request from one like it, as cheaply as it can be made.
func hotRequest(like *http.Request, cookie string) *http.Request {
	r := like.WithContext(like.Context())
	r.Header = http.Header{
		"Cookie": {cookie}, "Accept": {"text/html"}, "User-Agent": {"Mozilla/5.0"}, "Connection": {"keep-alive"},
		"Accept-Encoding": {"gzip"}, "Accept-Language": {"en"}, "Sec-Fetch-Mode": {"navigate"}, "Sec-Fetch-Dest": {"document"},
	}
	return caddyhttp.PrepareRequest(r, caddy.NewReplacer(), nil, new(caddyhttp.Server))
}

// BenchmarkHotPath is the price of the middleware alone: a request with a
// live session, whose cookie was opened before, and a 2 kB access token.
//
// What the handler is given must be new each time, and lie in the processor's
// cache as it does when Caddy's server has just read it. So the figures are
// those of making a request and serving it, less those of making it, taken by
// turns.
func BenchmarkHotPath(b *testing.B) {
	for name, config := range map[string]string{
		"plain":   inlineProvider,
		"memory":  `{"inline":{"issuer":"https://op.test","client_id":"public","session":{"store":{"kind":"memory"}}}}`,
		"headers": `{"inline":{"issuer":"https://op.test","client_id":"public"},"header_up":{"X-Auth-Sub":"{http.auth.user.id}","X-Auth-Groups":"{http.auth.user.groups}"}}`,
	} {
		b.Run(name, func(b *testing.B) {
			h := newHandler(b, config)
			like, cookie := likeFromServer(b), sessionCookies(b, h, token2k)[0]
			w := httptest.NewRecorder()
			pairedBenchmark(b, func() { hotRequest(like, cookie) }, func() {
				if err := h.ServeHTTP(w, hotRequest(like, cookie), nop); err != nil {
					b.Fatal(err)
				}
			})
		})
	}
}

// pairedBenchmark reports what one function costs more than another: the
// median of the differences of rounds that take turns.
func pairedBenchmark(b *testing.B, without, with func()) {
	const round = 200
	var differences []float64
	took := func(do func()) float64 {
		began := time.Now()
		for range round {
			do()
		}
		return float64(time.Since(began).Nanoseconds()) / round
	}
	for b.Loop() {
		base := took(without)
		differences = append(differences, took(with)-base)
	}
	slices.Sort(differences)
	b.ReportMetric(differences[len(differences)/2], "ns/request")
	allocations := testing.AllocsPerRun(round, with) - testing.AllocsPerRun(round, without)
	b.ReportMetric(allocations, "allocs/request")
	b.ReportMetric(bytesPerRun(round, with)-bytesPerRun(round, without), "B/request")
	b.ReportMetric(0, "ns/op") // of a round, which says nothing
}

// bytesPerRun is testing.AllocsPerRun for bytes.
func bytesPerRun(runs int, do func()) float64 {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	do()
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	for range runs {
		do()
	}
	runtime.ReadMemStats(&after)
	return float64((after.TotalAlloc - before.TotalAlloc) / uint64(runs))
}

// Promise 6: the allocations of the hot path are exact, so they are held here: more than
// these fail the build. Time is measured, never asserted.
func TestPromise6HotPathAllocations(t *testing.T) {
	const runs, limit, most = 1000, 3, 800
	h := newHandler(t, inlineProvider)
	t.Run("for a handler that wants to know when the request ends", func(t *testing.T) {
		const listening = 5 // more than for others: a context that ends with the session (A82), made only for these
		listen := caddyhttp.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) error {
			_, cancel := context.WithCancel(r.Context())
			cancel()
			return nil
		})
		measure := func(serve func(http.ResponseWriter, *http.Request) error) float64 {
			requests := hotRequests(t, sessionCookies(t, h, token2k), runs+1)
			w := httptest.NewRecorder()
			return testing.AllocsPerRun(runs, func() {
				if err := serve(w, requests[0]); err != nil {
					t.Fatal(err)
				}
				requests = requests[1:]
			})
		}
		alone := measure(listen)
		with := measure(func(w http.ResponseWriter, r *http.Request) error { return h.ServeHTTP(w, r, listen) })
		t.Logf("%v allocations, %v without us", with, alone)
		if with-alone > limit+listening {
			t.Errorf("got %v allocations more than without us, want at most %d", with-alone, limit+listening)
		}
	})
	requests := hotRequests(t, sessionCookies(t, h, token2k), runs+1)
	w := httptest.NewRecorder()
	forwarded := 0
	want := "Bearer " + token2k
	next := caddyhttp.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) error {
		if r.Header.Get("Authorization") == want && r.Header["Cookie"] == nil {
			forwarded++
		}
		return nil
	})
	allocations := testing.AllocsPerRun(runs, func() {
		if err := h.ServeHTTP(w, requests[0], next); err != nil {
			t.Fatal(err)
		}
		requests = requests[1:]
	})
	requests = hotRequests(t, sessionCookies(t, h, token2k), runs+1)
	bytes := bytesPerRun(runs, func() {
		if err := h.ServeHTTP(w, requests[0], nop); err != nil {
			t.Fatal(err)
		}
		requests = requests[1:]
	})
	t.Logf("%v allocations, %v bytes", allocations, bytes)
	if allocations > limit || bytes > most {
		t.Errorf("got %v allocations of %v bytes, want at most %d of %d", allocations, bytes, limit, most)
	}
	if forwarded != runs+1 {
		t.Errorf("only %d of %d requests were forwarded with their token", forwarded, runs+1)
	}
}

// Promise 6: no store that answers from memory makes the hot path longer, nor
// does it matter that some sessions were ended. Storage is asked twice a second,
// and not by each request.
func TestPromise6HotPathAllocationsWithStores(t *testing.T) {
	const runs, limit = 500, 3
	for _, kind := range []string{"cookie", "memory", "storage"} {
		t.Run(kind, func(t *testing.T) {
			h := newHandler(t, `{"inline":{"issuer":"https://op.test","client_id":"public","session":{"store":{"kind":"`+kind+`"}}}}`)
			if err := h.party.sessions.revocations.RevokeAll(t.Context(), session.Selector{Subject: "bob"}, time.Now()); err != nil {
				t.Fatal(err)
			}
			now := time.Now()
			h.party.now = func() time.Time { return now } // or a slow machine asks a store in between
			requests := hotRequests(t, sessionCookies(t, h, token2k), runs+1)
			w := httptest.NewRecorder()
			allocations := testing.AllocsPerRun(runs, func() {
				if err := h.ServeHTTP(w, requests[0], nop); err != nil {
					t.Fatal(err)
				}
				requests = requests[1:]
			})
			t.Logf("%v allocations", allocations)
			if allocations > limit {
				t.Errorf("got %v allocations, want at most %d", allocations, limit)
			}
		})
	}
}

// Promise 6, G3: a route with a token of its own costs a look-up, and no
// allocation more than any other.
func TestPromise6HotPathAllocationsWithTokenOfTheRoute(t *testing.T) {
	const runs = 500
	measure := func(config string) (allocations float64, got string) {
		h := newHandler(t, config)
		now := time.Now()
		h.party.now = func() time.Time { return now }
		s := session.New(&rp.Grant{AccessToken: rp.NewSecret(token2k), Expiry: now.Add(time.Hour)}, new(rp.Identity), now)
		if h.token.key != session.MainToken {
			s = s.With(session.NewFurther(h.token.key, &rp.Grant{AccessToken: rp.NewSecret("for-the-route"), Expiry: now.Add(time.Hour)}, now))
		}
		header := http.Header{}
		if err := h.party.sessions.https.Save(t.Context(), header, nil, s); err != nil {
			t.Fatal(err)
		}
		var pairs []string
		for _, c := range (&http.Response{Header: header}).Cookies() {
			pairs = append(pairs, c.Name+"="+c.Value)
		}
		requests := hotRequests(t, []string{strings.Join(pairs, "; ")}, runs+1)
		w := httptest.NewRecorder()
		next := caddyhttp.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) error {
			got = r.Header.Get("Authorization")
			return nil
		})
		return testing.AllocsPerRun(runs, func() {
			if err := h.ServeHTTP(w, requests[0], next); err != nil {
				t.Fatal(err)
			}
			requests = requests[1:]
		}), got
	}
	plain, got := measure(inlineProvider)
	if got != "Bearer "+token2k {
		t.Errorf("without a target: got %.20q", got)
	}
	with, got := measure(`{"inline":{"issuer":"https://op.test","client_id":"public"},"audience":"https://a.test"}`)
	if got != "Bearer for-the-route" {
		t.Errorf("with a target: got %.20q", got)
	}
	t.Logf("%v allocations, %v without a target", with, plain)
	if with > plain {
		t.Errorf("%v allocations, %v without a target", with, plain)
	}
}
