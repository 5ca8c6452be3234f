package session

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pkce-auth/caddy-pkce-auth/caddyauth/internal/rp"
)

// office is a provider that refreshes tokens: each refresh token once. A
// second use is what it counts.
type office struct {
	calls  atomic.Int32
	reused atomic.Int32
	delay  time.Duration

	mu    sync.Mutex
	fail  error
	spent map[string]bool
}

func (o *office) refuse(err error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.fail = err
}

func (o *office) refresh(_ context.Context, s *Session) (*Session, error) {
	n := o.calls.Add(1)
	time.Sleep(o.delay)
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.fail != nil {
		return nil, o.fail
	}
	if o.spent[s.RefreshToken.Reveal()] {
		o.reused.Add(1)
		return nil, fmt.Errorf("%w: used before", rp.ErrGrantOver)
	}
	if o.spent == nil {
		o.spent = map[string]bool{}
	}
	o.spent[s.RefreshToken.Reveal()] = true
	return s.Refreshed(&rp.Grant{
		AccessToken: rp.NewSecret(fmt.Sprintf("access-%d", n)), RefreshToken: rp.NewSecret(fmt.Sprintf("refresh-%d-%s", n, s.ID)), Expiry: time.Now().Add(5 * time.Minute),
	}, nil, time.Now()), nil
}

// fresh asks as a handler does.
func (o *office) fresh(r *Refresher, s *Session) (*Session, error) {
	got, _, err := r.Fresh(context.Background(), s, Refresh{Key: s.ID, Do: o.refresh, Keep: time.Hour, Now: time.Now()})
	return got, err
}

// refreshable is a session whose access token lives for five minutes.
func refreshable() *Session {
	s := New(&rp.Grant{AccessToken: rp.NewSecret("access-0"), Expiry: time.Now().Add(5 * time.Minute)}, new(rp.Identity), time.Now())
	s.RefreshToken = rp.NewSecret("refresh-0-" + s.ID)
	return s
}

// T1, IDPS 24, A80: however many come at once with an expired token, one
// request goes out, and all get what it brought.
func TestT1IDPS24A80OneFlight(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var r Refresher
		o := &office{delay: 3 * time.Second}
		s := refreshable()
		time.Sleep(6 * time.Minute)
		var wg sync.WaitGroup
		for range 200 {
			wg.Go(func() {
				got, err := o.fresh(&r, s)
				if err != nil || got.AccessToken.Reveal() != "access-1" || got.Generation != 1 {
					t.Errorf("got %+v, %v", got, err)
				}
			})
		}
		wg.Wait()
		// Those that still come with the old cookie get the successor.
		for range 10 {
			time.Sleep(20 * time.Second)
			if got, err := o.fresh(&r, s); err != nil || got.AccessToken.Reveal() != "access-1" {
				t.Errorf("a straggler: got %+v, %v", got, err)
			}
		}
		if o.calls.Load() != 1 {
			t.Errorf("the provider was asked %d times", o.calls.Load())
		}
	})
}

// Who finds the token still good never waits, and gets the successor as soon
// as there is one.
func TestNobodyWaitsForAGoodToken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var r Refresher
		o := &office{delay: 8 * time.Second}
		s := refreshable()
		time.Sleep(4*time.Minute + 5*time.Second)
		began := time.Now()
		for range 50 {
			if got, err := o.fresh(&r, s); err != nil || got != s {
				t.Errorf("got %+v, %v", got, err)
			}
		}
		if waited := time.Since(began); waited != 0 {
			t.Errorf("waited %s", waited)
		}
		time.Sleep(9 * time.Second)
		if got, err := o.fresh(&r, s); err != nil || got.Generation != 1 {
			t.Errorf("afterwards: got %+v, %v", got, err)
		}
		if o.calls.Load() != 1 {
			t.Errorf("the provider was asked %d times", o.calls.Load())
		}
	})
}

// T2, promise 3: who asked first hangs up; the refresh goes on, and what it
// brought is there for whoever comes next.
func TestT2HangingUpLosesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var r Refresher
		o := &office{delay: 3 * time.Second}
		s := refreshable()
		time.Sleep(6 * time.Minute)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, _, err := r.Fresh(ctx, s, Refresh{Key: s.ID, Do: o.refresh, Keep: time.Hour, Now: time.Now()})
		if !errors.Is(err, context.DeadlineExceeded) || errors.Is(err, ErrNone) {
			t.Errorf("the one who hung up: got %v", err)
		}
		time.Sleep(time.Minute)
		if got, err := o.fresh(&r, s); err != nil || got.Generation != 1 {
			t.Errorf("the next: got %+v, %v", got, err)
		}
		if o.calls.Load() != 1 || o.reused.Load() != 0 {
			t.Errorf("the provider was asked %d times", o.calls.Load())
		}
	})
}

// T3, M105, IDPS 27: a provider in trouble ends no session. The token that is
// still good is used; tries become rarer; once it is over, the error says that
// it cannot be told. When the provider is back, all goes on.
func TestT3M105ProviderInTrouble(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var r Refresher
		o := &office{fail: fmt.Errorf("%w: status 500", rp.ErrUnavailable)}
		s := refreshable()
		time.Sleep(4*time.Minute + time.Second)
		perSecond := map[int64]int32{}
		for range 580 { // 58 s, ten requests a second
			before := o.calls.Load()
			if got, err := o.fresh(&r, s); err != nil || got != s {
				t.Fatalf("with a good token: got %+v, %v", got, err)
			}
			synctest.Wait()
			perSecond[time.Now().Unix()] += o.calls.Load() - before
			time.Sleep(100 * time.Millisecond)
		}
		for second, n := range perSecond {
			if n > 1 {
				t.Errorf("second %d: %d tries", second, n)
			}
		}
		if n := o.calls.Load(); n < 4 || n > 8 {
			t.Errorf("%d tries in a minute", n)
		}
		time.Sleep(3 * time.Second)
		_, err := o.fresh(&r, s)
		if backoff, ok := errors.AsType[*BackoffError](err); !ok || backoff.Wait <= 0 || !errors.Is(err, rp.ErrUnavailable) || errors.Is(err, ErrNone) {
			t.Errorf("with an expired token: got %v", err)
		}
		time.Sleep(2 * time.Minute)
		if _, err := o.fresh(&r, s); !errors.Is(err, rp.ErrUnavailable) || errors.Is(err, ErrNone) {
			t.Errorf("at the next try: got %v", err)
		}
		o.refuse(nil)
		time.Sleep(2 * time.Minute)
		if got, err := o.fresh(&r, s); err != nil || got.Generation != 1 {
			t.Errorf("when the provider is back: got %+v, %v", got, err)
		}
	})
}

// IDPS 27: "too many requests" speaks to all sessions: nobody asks before its
// time is over, and tokens that are good are used meanwhile.
func TestIDPS27RetryAfterIsForAll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var r Refresher
		o := &office{fail: &rp.EndpointError{Status: 429, RetryAfter: 30 * time.Second, Err: rp.ErrUnavailable}}
		a, b := refreshable(), refreshable()
		time.Sleep(4*time.Minute + time.Second)
		for range 29 {
			for _, s := range []*Session{a, b} {
				if got, err := o.fresh(&r, s); err != nil || got != s {
					t.Errorf("got %+v, %v", got, err)
				}
				synctest.Wait()
			}
			time.Sleep(time.Second)
		}
		if o.calls.Load() != 1 {
			t.Errorf("the provider was asked %d times", o.calls.Load())
		}
		o.refuse(nil)
		time.Sleep(2 * time.Second)
		for _, s := range []*Session{a, b} {
			_, _ = o.fresh(&r, s)
			synctest.Wait()
			if got, err := o.fresh(&r, s); err != nil || got.Generation != 1 {
				t.Errorf("afterwards: got %+v, %v", got, err)
			}
		}
	})
}

// M103, IDPS 27: a refused refresh token ends the session, also while the
// access token is good; it is not tried again for a while; and a browser that
// has newer tokens is not concerned.
func TestM103RefusedRefreshToken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var r Refresher
		o := &office{fail: fmt.Errorf("%w: invalid_grant", rp.ErrGrantOver)}
		s := refreshable()
		time.Sleep(4*time.Minute + time.Second)
		_, _ = o.fresh(&r, s)
		synctest.Wait()
		for range 20 {
			if _, err := o.fresh(&r, s); !errors.Is(err, ErrEnded) {
				t.Errorf("got %v", err)
			}
			time.Sleep(time.Minute)
		}
		if o.calls.Load() != 1 {
			t.Errorf("the provider was asked %d times", o.calls.Load())
		}
		o.refuse(nil)
		newer := *s
		newer.Generation, newer.RefreshToken = 1, rp.NewSecret("another")
		if got, err := o.fresh(&r, &newer); err != nil || got.Generation != 2 {
			t.Errorf("with newer tokens: got %+v, %v", got, err)
		}
	})
}

// IDPS 28: an ID token that must not be used ends the session at once. Whatever
// else is odd, an answer that cannot be read or a refusal that speaks of the
// client, does so only without a good token, and when it happens again and
// again: then a login may help. When it is put right, the session goes on.
func TestIDPS28UnusableAnswers(t *testing.T) {
	for name, tc := range map[string]struct {
		fail error
		over bool // at once
		odd  bool // after some time
	}{
		"another user":   {&rp.CheckError{Check: "sub", Err: errors.New("another user")}, true, false},
		"encrypted":      {&rp.CheckError{Check: "format", Err: rp.ErrMisconfigured}, true, false},
		"keys not there": {&rp.CheckError{Check: "signature", Err: fmt.Errorf("%w: %w", rp.ErrNoKeys, rp.ErrInvalid)}, false, true},
		"not JSON":       {fmt.Errorf("%w: not JSON", rp.ErrInvalid), false, true},
		"wrong secret":   {rp.ErrMisconfigured, false, true},
		"down":           {rp.ErrUnavailable, false, false},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var r Refresher
				o := &office{fail: tc.fail}
				s := refreshable()
				time.Sleep(4*time.Minute + time.Second)
				for range 10 {
					_, _ = o.fresh(&r, s)
					synctest.Wait()
					if _, err := o.fresh(&r, s); errors.Is(err, ErrEnded) != tc.over {
						t.Errorf("with a good token: got %v", err)
					}
					time.Sleep(time.Second)
				}
				time.Sleep(2 * time.Minute)
				for range maxOddFailures {
					_, _ = o.fresh(&r, s)
					time.Sleep(2 * time.Minute)
				}
				if _, err := o.fresh(&r, s); err == nil || errors.Is(err, ErrEnded) != (tc.over || tc.odd) {
					t.Errorf("with an expired token: got %v", err)
				}
				if tc.over {
					return
				}
				o.refuse(nil)
				time.Sleep(2 * time.Minute)
				if got, err := o.fresh(&r, s); err != nil || got.Generation != 1 {
					t.Errorf("put right: got %+v, %v", got, err)
				}
			})
		})
	}
}

// M108: the answer takes longer than its token lives. The refresh token in it
// is good all the same, and the only one that is.
func TestM108DeadOnArrival(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var r Refresher
		o := &office{delay: 6 * time.Minute}
		slow := func(ctx context.Context, s *Session) (*Session, error) {
			got, err := o.refresh(ctx, s)
			time.Sleep(6 * time.Minute)
			return got, err
		}
		s := refreshable()
		time.Sleep(6 * time.Minute)
		if _, _, err := r.Fresh(t.Context(), s, Refresh{Key: s.ID, Do: slow, Keep: time.Hour, Now: time.Now()}); !errors.Is(err, rp.ErrUnavailable) || errors.Is(err, ErrNone) {
			t.Errorf("got %v", err)
		}
		o.delay = 0
		time.Sleep(2 * time.Second)
		if got, err := o.fresh(&r, s); err != nil || got.Generation != 2 || o.reused.Load() != 0 {
			t.Errorf("the next: got %+v, %v", got, err)
		}
	})
}

// Who began a refresh and need not wait for it is told when it has landed; who
// must not wait does not.
func TestLandingAndNoWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var r Refresher
		o := &office{delay: time.Second}
		s := refreshable()
		ask := func(noWait bool) (*Session, <-chan struct{}, error) {
			return r.Fresh(t.Context(), s, Refresh{Key: s.ID, Do: o.refresh, Keep: time.Hour, Now: time.Now(), NoWait: noWait})
		}
		time.Sleep(4*time.Minute + time.Second)
		_, landing, _ := ask(false)
		if _, second, _ := ask(false); landing == nil || second != nil {
			t.Fatal("one of two began the refresh")
		}
		<-landing
		if got, _ := r.Latest(s.ID, s); got.Generation != 1 {
			t.Errorf("when it has landed: %+v", got)
		}
		expired := *s
		expired.ID = "another"
		expired.RefreshToken = rp.NewSecret("another")
		s = &expired
		time.Sleep(2 * time.Minute)
		began := time.Now()
		if _, _, err := ask(true); !errors.Is(err, rp.ErrUnavailable) || !time.Now().Equal(began) {
			t.Errorf("who must not wait waited %s: %v", time.Since(began), err)
		}
		time.Sleep(2 * time.Second)
		if got, _, err := ask(true); err != nil || got.Generation != 1 {
			t.Errorf("afterwards: got %+v, %v", got, err)
		}
	})
}

// IDPS 27: of two that say when to come again, the later one counts.
func TestIDPS27PausesAreNotCutShort(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var r Refresher
		refuse := func(after, wait time.Duration) func(context.Context, *Session) (*Session, error) {
			return func(context.Context, *Session) (*Session, error) {
				time.Sleep(after)
				return nil, &rp.EndpointError{Status: 429, RetryAfter: wait, Err: rp.ErrUnavailable}
			}
		}
		a, b := refreshable(), refreshable()
		time.Sleep(4*time.Minute + time.Second)
		_, _, _ = r.Fresh(t.Context(), a, Refresh{Key: a.ID, Do: refuse(time.Second, time.Second), Keep: time.Hour, Now: time.Now()})
		_, _, _ = r.Fresh(t.Context(), b, Refresh{Key: b.ID, Do: refuse(0, 20*time.Second), Keep: time.Hour, Now: time.Now()})
		time.Sleep(10 * time.Second)
		o := &office{}
		c := refreshable()
		c.TokenExpiry = time.Now()
		if _, err := o.fresh(&r, c); o.calls.Load() != 0 {
			t.Errorf("asked after ten of twenty seconds: %v", err)
		}
	})
}

// A provider in trouble is not asked by each of many sessions at its own pace.
func TestTroubleIsEverybodys(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var r Refresher
		o := &office{fail: rp.ErrUnavailable}
		sessions := make([]*Session, 500)
		for i := range sessions {
			sessions[i] = refreshable()
		}
		time.Sleep(6 * time.Minute)
		for range 600 { // a minute
			for _, s := range sessions[:50] {
				_, _ = o.fresh(&r, s)
			}
			sessions = append(sessions[50:], sessions[:50]...)
			synctest.Wait()
			time.Sleep(100 * time.Millisecond)
		}
		if n := o.calls.Load(); n > 50+30*50 {
			t.Errorf("the provider in trouble was asked %d times in a minute", n)
		}
		o.refuse(nil)
		time.Sleep(time.Minute)
		for _, s := range sessions {
			if got, err := o.fresh(&r, s); err != nil || got.Generation != 1 {
				t.Fatalf("afterwards: got %+v, %v", got, err)
			}
		}
	})
}

// A panic in a refresh ends that refresh, and nothing else.
func TestRefreshThatPanics(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var r Refresher
		s := refreshable()
		time.Sleep(6 * time.Minute)
		how := Refresh{Key: s.ID, Do: func(context.Context, *Session) (*Session, error) { panic("x") }, Keep: time.Hour, Now: time.Now()}
		if _, _, err := r.Fresh(t.Context(), s, how); err == nil || errors.Is(err, ErrNone) || !strings.Contains(err.Error(), "panicked: x") {
			t.Errorf("got %v", err)
		}
		time.Sleep(time.Minute)
		if got, err := new(office).fresh(&r, s); err != nil || got.Generation != 1 {
			t.Errorf("the next: got %+v, %v", got, err)
		}
	})
}

// A74: the outcome of one key is nobody else's, whatever the tokens.
func TestA74FlightsAreKeyed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var r Refresher
		s := refreshable()
		time.Sleep(6 * time.Minute)
		for _, key := range []string{"provider one", "provider two"} {
			o := &office{}
			got, _, err := r.Fresh(t.Context(), s, Refresh{Key: s.ID + key, Do: o.refresh, Keep: time.Hour, Now: time.Now()})
			if err != nil || o.calls.Load() != 1 || got.Generation != 1 {
				t.Errorf("%s: got %+v, %v after %d calls", key, got, err, o.calls.Load())
			}
		}
	})
}

// Failures that a success interrupts are not "in a row".
func TestASuccessEndsTheTrouble(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var r Refresher
		o := &office{}
		for range 3 {
			for range troubled - 1 {
				s := refreshable()
				s.TokenExpiry = time.Now()
				o.refuse(rp.ErrUnavailable)
				_, _ = o.fresh(&r, s)
			}
			s := refreshable()
			s.TokenExpiry = time.Now()
			o.refuse(nil)
			if _, err := o.fresh(&r, s); err != nil {
				t.Errorf("got %v", err)
			}
		}
	})
}

// M103: a refused refresh token is remembered however short the idle time is,
// and a refresh does not take for ever.
func TestM103RefusedIsRemembered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var r Refresher
		s := refreshable()
		s.TokenExpiry = time.Now()
		calls := 0
		for range 10 {
			_, _, err := r.Fresh(t.Context(), s, Refresh{Key: s.ID, Keep: time.Minute, Now: time.Now(), Do: func(ctx context.Context, _ *Session) (*Session, error) {
				if until, ok := ctx.Deadline(); !ok || time.Until(until) > flightTime {
					t.Error("the refresh has no end")
				}
				calls++
				return nil, fmt.Errorf("%w: invalid_grant", rp.ErrGrantOver)
			}})
			if err == nil {
				t.Error("no error")
			}
			time.Sleep(5 * time.Minute)
		}
		if calls != 1 {
			t.Errorf("the provider was asked %d times", calls)
		}
	})
}

// M103: a straggler with spent tokens is refused; the browser that has newer
// ones is not made to wait for it.
func TestM103RefusalOfAnOlderGeneration(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var r Refresher
		o := &office{fail: fmt.Errorf("%w: invalid_grant", rp.ErrGrantOver)}
		s := refreshable()
		time.Sleep(6 * time.Minute)
		_, _ = o.fresh(&r, s)
		o.refuse(nil)
		newer := *s
		newer.Generation, newer.RefreshToken = 1, rp.NewSecret("another")
		if _, err := o.fresh(&r, &newer); errors.Is(err, ErrEnded) {
			t.Errorf("got %v", err)
		}
	})
}

// T3: an odd answer after trouble of the provider is one odd answer.
func TestT3TroubleThenOneOddAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var r Refresher
		o := &office{fail: rp.ErrUnavailable}
		s := refreshable()
		time.Sleep(6 * time.Minute)
		for range 2 {
			_, _ = o.fresh(&r, s)
			time.Sleep(2 * time.Minute)
		}
		o.refuse(rp.ErrMisconfigured) // one 404 of a gateway that comes up
		if _, err := o.fresh(&r, s); errors.Is(err, ErrEnded) {
			t.Errorf("after one odd answer: %v", err)
		}
	})
}
