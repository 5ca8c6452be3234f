package replicas

import (
	"context"
	"fmt"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/pkce-auth/caddy-pkce-auth/test/provider"
)

const (
	// short is how long access tokens live that are to expire; the next ones
	// live for long.
	short, long = 2 * time.Second, time.Hour

	// many is how many requests come at once.
	many = 200
)

// expired logs browsers in and waits until their access tokens have expired.
// Those of the next refresh last.
func (w *world) expired(count int) []*browser {
	w.t.Helper()
	w.op.Change(func(c *provider.Config) { c.TokenLifetime = short })
	var browsers []*browser
	for range count {
		b := w.browser()
		b.login()
		browsers = append(browsers, b)
	}
	w.op.Change(func(c *provider.Config) { c.TokenLifetime = long })
	time.Sleep(short)
	return browsers
}

// asked is how often the provider was asked to refresh.
func (w *world) asked() (n int) {
	for _, r := range w.op.Requests("token") {
		if r.Form.Get("grant_type") == "refresh_token" {
			n++
		}
	}
	return n
}

// spoilt reports whether the provider has seen a refresh token twice, and has
// revoked what came of it: that session ends at its next refresh.
func (w *world) spoilt() bool {
	for _, r := range w.op.Requests("token") {
		if w.op.Revoked(r.Form.Get("refresh_token")) {
			return true
		}
	}
	return false
}

// slowly has the token endpoint take its time.
func slowly(latency time.Duration) provider.Faults {
	return provider.Faults{Answer: map[string]func(http.ResponseWriter, *http.Request) bool{
		"token": func(http.ResponseWriter, *http.Request) bool { time.Sleep(latency); return false },
	}}
}

// T1, A80, M100: 200 parallel requests on an expired token, at a provider that
// takes three seconds, replaces refresh tokens, and takes one that comes twice
// for stolen. There is one grant, and everybody is served.
func TestT1A80M100IDPS25ParallelExpiredRequests(t *testing.T) {
	each(t, append([]kind{cookieThree}, promising...), named, func(t *testing.T, k kind) {
		w := newWorld(t, setup{kind: k})
		b := w.expired(1)[0]
		w.op.Misbehave(slowly(3 * time.Second))
		o := b.fetchAll(many)
		w.op.Misbehave(provider.Faults{})
		bad := o.not(http.StatusOK)
		grants, lost := w.asked(), 0
		if after := b.fetch("/api", anyone); after.status != http.StatusOK || w.spoilt() {
			lost++
		}
		measured.add(row{
			"a. 200 requests on an expired token, 3 s at the provider", k.String(), grants, o.total(), len(bad), lost,
			fmt.Sprintf("slowest answer %s", o.slowest()),
		})
		if k == cookieThree {
			// Nothing tells the replicas of each other: measured, not promised.
			// But nobody sees an error, and a login mends it.
			if odd := o.not(http.StatusOK, http.StatusUnauthorized, http.StatusFound); len(odd) > 0 {
				t.Errorf("these requests got an error: %s", few(odd))
			}
			b.login()
			return
		}
		if len(bad) > 0 || grants != 1 || lost > 0 {
			t.Errorf("%d grants, want 1; %d sessions lost; these requests failed: %s", grants, lost, few(bad))
		}
	})
}

// A80, where the provider does not replace refresh tokens: then cookies do in
// any number of replicas.
func TestA80M102CookiesWithoutRotation(t *testing.T) {
	each(t, []kind{cookieThree}, named, func(t *testing.T, k kind) {
		w := newWorld(t, setup{kind: k})
		b := w.expired(1)[0]
		faults := slowly(3 * time.Second)
		faults.KeepRefreshTokens = true
		w.op.Misbehave(faults)
		o := b.fetchAll(many)
		bad := o.not(http.StatusOK)
		measured.add(row{"a. the same, provider does not rotate", k.String(), w.asked(), o.total(), len(bad), 0, fmt.Sprintf("slowest answer %s", o.slowest())})
		if len(bad) > 0 || w.asked() > k.replicas {
			t.Errorf("%d grants; these requests failed: %s", w.asked(), few(bad))
		}
	})
}

// T2: most of those who wait for a refresh hang up, the one that began it among
// them. It comes to its end all the same, and the next request finds it.
func TestT2ClientsHangUpMidRefresh(t *testing.T) {
	each(t, promising, named, func(t *testing.T, k kind) {
		w := newWorld(t, setup{kind: k})
		b := w.expired(1)[0]
		w.op.Misbehave(slowly(3 * time.Second))
		stayed := new(outcome)
		var all sync.WaitGroup
		for i := range many {
			all.Go(func() {
				ctx := t.Context()
				if i%20 != 19 {
					var cancel context.CancelFunc
					ctx, cancel = context.WithTimeout(ctx, 100*time.Millisecond)
					defer cancel()
				} else {
					time.Sleep(50 * time.Millisecond) // not the first
				}
				a, err := b.send(ctx, b.request(http.MethodGet, "/api", fetched), anyone)
				if ctx.Err() == nil {
					stayed.note(a, err)
				}
			})
		}
		all.Wait()
		w.op.Misbehave(provider.Faults{})
		bad := stayed.not(http.StatusOK)
		next := b.fetch("/api", anyone)
		lost := 0
		if next.status != http.StatusOK || w.spoilt() {
			lost++
		}
		measured.add(row{"b. 190 of 200 hang up after 100 ms", k.String(), w.asked(), stayed.total(), len(bad), lost, ""})
		if len(bad) > 0 || lost > 0 || w.asked() != 1 {
			t.Errorf("%d grants, want 1; then %s; those who stayed got %s", w.asked(), next, few(bad))
		}
	})
}
