package session

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pkce-auth/caddy-pkce-auth/caddyauth/internal/rp"
)

// somebodyElses refresh makes the Refresher tidy up.
func somebodyElses(t *testing.T, r *Refresher) {
	t.Helper()
	s := refreshable()
	s.TokenExpiry = time.Now()
	if _, err := new(office).fresh(r, s); err != nil {
		t.Fatal(err)
	}
}

// An outcome is kept for a minute after it was shown, and no longer; one that
// was not shown, or of which only an older generation was, is kept on. A
// further refresh begins anew.
func TestOutcomesOfTheirTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var r Refresher
		o := &office{}
		s := refreshable()
		kept := func(what string, want bool) {
			t.Helper()
			somebodyElses(t, &r)
			if (r.sessions[s.ID] != nil) != want {
				t.Errorf("%s: kept: %v", what, !want)
			}
		}
		current := s
		for generation := uint64(1); generation <= 2; generation++ {
			expired := *current
			expired.TokenExpiry = time.Now()
			var err error
			if current, err = o.fresh(&r, &expired); err != nil || current.Generation != generation {
				t.Fatalf("got %+v, %v", current, err)
			}
			r.Presented(s.ID, generation-1, time.Now())
			time.Sleep(2 * StragglerTime)
			kept("never shown", true)
			r.Presented(s.ID, generation, time.Now())
			time.Sleep(30 * time.Second)
			kept("shown half a minute ago", true)
		}
		time.Sleep(time.Minute)
		kept("shown a minute and a half ago", false)
	})
}

// What the newest request knows of the last use is not lost.
func TestLatestKeepsTheLastUse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var r Refresher
		s := refreshable()
		time.Sleep(6 * time.Minute)
		if _, err := new(office).fresh(&r, s); err != nil {
			t.Fatal(err)
		}
		used := *s
		used.Seen = time.Now()
		if got, _ := r.Latest(s.ID, &used); got.Generation != 1 || !got.Seen.Equal(used.Seen) {
			t.Errorf("got generation %d, seen %s", got.Generation, got.Seen)
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

// A session that is refreshed again goes to the end of the line, wherever it
// stood.
func TestARefreshIsNew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var r Refresher
		big := strings.Repeat("x", 5000)
		refresh := func(s *Session) *Session {
			expired := *s
			expired.TokenExpiry = time.Now()
			got, _, err := r.Fresh(t.Context(), &expired, Refresh{Key: s.ID, Now: time.Now(), Keep: time.Hour, Do: func(_ context.Context, s *Session) (*Session, error) {
				return s.Refreshed(&rp.Grant{AccessToken: rp.NewSecret(big), RefreshToken: rp.NewSecret("r"), Expiry: time.Now().Add(time.Hour)}, nil, time.Now())
			}})
			if err != nil {
				t.Fatal(err)
			}
			return got
		}
		s := refreshable()
		first := refresh(s)
		r.Presented(s.ID, 1, time.Now())
		for range 2000 {
			refresh(refreshable())
		}
		refresh(first)
		for range 2000 {
			refresh(refreshable())
		}
		if latest, _ := r.Latest(s.ID, s); latest.Generation != 2 {
			t.Error("a new outcome went before older ones")
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

// What was shown is forgotten a minute later, however many come after it.
func TestShownOutcomesLeave(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var r Refresher
		o := &office{}
		for range 200 { // 100 minutes, one user every 30 s
			s := refreshable()
			s.TokenExpiry = time.Now()
			got, err := o.fresh(&r, s)
			if err != nil {
				t.Fatal(err)
			}
			r.Presented(s.ID, got.Generation, time.Now())
			time.Sleep(30 * time.Second)
		}
		if len(r.sessions) > 5 {
			t.Errorf("%d outcomes are kept, though all but 3 were shown more than a minute ago", len(r.sessions))
		}
	})
}

// When memory is short, those that were shown longest ago go first: the
// stragglers of the others are still to come.
func TestStragglersOfTheNewest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var r Refresher
		big := strings.Repeat("x", 5000)
		refresh := func(_ context.Context, s *Session) (*Session, error) {
			return s.Refreshed(&rp.Grant{AccessToken: rp.NewSecret(big), RefreshToken: rp.NewSecret("r"), Expiry: time.Now().Add(time.Hour)}, nil, time.Now())
		}
		shown := func() *Session {
			s := refreshable()
			s.TokenExpiry = time.Now()
			got, _, err := r.Fresh(t.Context(), s, Refresh{Key: s.ID, Do: refresh, Keep: 24 * time.Hour, Now: time.Now()})
			if err != nil {
				t.Fatal(err)
			}
			r.Presented(s.ID, got.Generation, time.Now())
			return s
		}
		lost := 0
		before := shown()
		for range 10_000 { // one refresh a second: 60 are within the straggler time
			time.Sleep(time.Second)
			next := shown()
			if latest, _ := r.Latest(before.ID, before); latest.Generation != 1 {
				lost++
			}
			before = next
		}
		if lost > 0 {
			t.Errorf("%d of 10000 outcomes were gone a second after they were shown, while older ones were kept", lost)
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

// Long after a refresh nothing is known of it any more, and that is said.
func TestRefreshesOfLongAgoAreNotKnown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var r Refresher
		o := &office{}
		s := refreshable()
		time.Sleep(4*time.Minute + time.Second)
		_, _ = o.fresh(&r, s)
		synctest.Wait()
		r.Presented(s.ID, 1, time.Now())
		time.Sleep(StragglerTime + time.Second)
		other := refreshable()
		other.TokenExpiry = time.Now()
		_, _ = o.fresh(&r, other) // anybody else's refresh
		if latest, known := r.Latest(s.ID, s); latest != s || known {
			t.Error("a slow answer that slides generation 0 is told that it is the newest")
		}
	})
}
