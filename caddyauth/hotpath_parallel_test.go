package caddyauth

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"runtime"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/pkce-auth/caddy-pkce-auth/caddyauth/internal/rp"
	"github.com/pkce-auth/caddy-pkce-auth/caddyauth/internal/session"
	"github.com/pkce-auth/caddy-pkce-auth/caddyauth/store"
)

// slowStore is a store beyond a network: each answer takes its time.
type slowStore struct {
	store.Memory
	delay time.Duration
	loads atomic.Int64
}

func (s *slowStore) Load(ctx context.Context, key string) (store.Record, error) {
	s.loads.Add(1)
	time.Sleep(s.delay)
	return s.Memory.Load(ctx, key)
}

// withSessions gives a handler, and the cookies of so many sessions.
func withSessions(tb testing.TB, kind string, n int) (h *Handler, cookies []string) {
	tb.Helper()
	if kind == "slow store" {
		h = newReplica(tb, `{}`, keptIn{sessions: &slowStore{delay: time.Millisecond}, revocations: new(store.Memory)})
	} else {
		h = newHandler(tb, `{"inline":{"issuer":"https://op.test","client_id":"public","session":{"store":{"kind":"`+kind+`"}}}}`)
	}
	if err := h.party.sessions.revocations.RevokeAll(tb.Context(), session.Selector{Subject: "mallory"}, time.Now()); err != nil {
		tb.Fatal(err)
	}
	for i := range n {
		grant := &rp.Grant{AccessToken: rp.NewSecret(fmt.Sprintf("%s%d", token2k[:2000], i)), Expiry: time.Now().Add(time.Hour)}
		header := http.Header{}
		s := session.New(grant, &rp.Identity{Subject: fmt.Sprintf("alice%d", i)}, time.Now())
		if err := h.party.sessions.https.Save(tb.Context(), header, nil, s); err != nil {
			tb.Fatal(err)
		}
		c := (&http.Response{Header: header}).Cookies()[0]
		cookies = append(cookies, c.Name+"="+c.Value)
	}
	return h, cookies
}

// BenchmarkHotPathParallel is the hot path from many sides at once. To see who
// waits for whom:
//
//	go test ./caddyauth -run '^$' -bench HotPathParallel -cpu 2 -mutexprofile mutex.out -blockprofile block.out
//
// No lock of ours stands in front of all sessions, and none is held while a store
// is asked: of a store that takes a millisecond, 256 requests get their answers in
// little more than that.
func BenchmarkHotPathParallel(b *testing.B) {
	for _, kind := range []string{"cookie", "memory", "slow store"} {
		for _, sessions := range []int{1, 10_000} {
			h, cookies := withSessions(b, kind, sessions)
			for _, connections := range []int{1, 16, 256} {
				b.Run(fmt.Sprintf("%s/sessions=%d/connections=%d", kind, sessions, connections), func(b *testing.B) {
					before := runtime.GOMAXPROCS(0)
					if connections == 1 {
						runtime.GOMAXPROCS(1)
						defer runtime.GOMAXPROCS(before)
					} else {
						b.SetParallelism(connections / before)
					}
					var next atomic.Int64
					b.ReportAllocs()
					b.RunParallel(func(pb *testing.PB) {
						at := int(next.Add(1)) * 7919
						w := httptest.NewRecorder()
						template := httptest.NewRequest(http.MethodGet, "https://app.test/page?x=1", nil)
						for pb.Next() {
							at++
							r := prepared(template, cookies[at%len(cookies)])
							if err := h.ServeHTTP(w, r, nop); err != nil {
								b.Error(err)
							}
						}
					})
				})
			}
		}
	}
}

// prepared makes a request as Caddy's server does.
func prepared(template *http.Request, cookie string) *http.Request {
	r := template.Clone(template.Context())
	r.Header["Cookie"] = []string{cookie}
	return caddyhttp.PrepareRequest(r, caddy.NewReplacer(), nil, nil)
}
