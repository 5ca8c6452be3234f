package session

import (
	"context"
	"errors"
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
				return s.Refreshed(&rp.Grant{AccessToken: rp.NewSecret(big), RefreshToken: rp.NewSecret("r"), Expiry: time.Now().Add(time.Hour)}, nil, time.Now()), nil
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
			return s.Refreshed(&rp.Grant{AccessToken: rp.NewSecret(big), RefreshToken: rp.NewSecret("r"), Expiry: time.Now().Add(time.Hour)}, nil, time.Now()), nil
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

// The successor is kept until the browser has shown it, and a minute longer;
// one that was never shown, for the idle time. Afterwards nothing is left.
func TestSuccessorsAreForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var r Refresher
		o := &office{}
		s := refreshable()
		time.Sleep(6 * time.Minute)
		latest, err := o.fresh(&r, s)
		if err != nil {
			t.Fatal(err)
		}
		if got, known := r.Latest(s.ID, s); got != latest || !known {
			t.Errorf("the latest is %+v", got)
		}
		time.Sleep(4*time.Minute + 30*time.Second) // latest is due
		again, err := o.fresh(&r, latest)          // and presented by this
		if err != nil || again != latest {
			t.Fatalf("got %+v, %v", again, err)
		}
		synctest.Wait()
		if got, _ := o.fresh(&r, s); got == nil || got.Generation != 2 {
			t.Errorf("a straggler of two generations ago: got %+v", got)
		}
		other := refreshable()
		time.Sleep(2 * time.Hour)
		if _, err := o.fresh(&r, other); err != nil {
			t.Fatal(err)
		}
		if len(r.sessions) != 1 || r.order.Len() != 1 || r.sessions[other.ID] == nil {
			t.Errorf("%d entries, %d in order, %d bytes", len(r.sessions), r.order.Len(), r.size)
		}
		// A copy from before has a spent refresh token now, as after a restart:
		// the provider refuses it, and the session is over.
		if _, err := o.fresh(&r, s); !errors.Is(err, ErrEnded) {
			t.Errorf("long afterwards: got %v", err)
		}
	})
}

// Outcomes that browsers have shown go before those that may be lost.
func TestShownOutcomesGoFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var r Refresher
		big := strings.Repeat("x", 5000)
		refresh := func(_ context.Context, s *Session) (*Session, error) {
			return s.Refreshed(&rp.Grant{AccessToken: rp.NewSecret(big), RefreshToken: rp.NewSecret("r"), Expiry: time.Now().Add(time.Hour)}, nil, time.Now()), nil
		}
		lost := refreshable()
		time.Sleep(6 * time.Minute)
		for i := range 10_000 {
			s := lost
			if i > 0 {
				s = refreshable()
				s.TokenExpiry = time.Now()
			}
			got, _, err := r.Fresh(t.Context(), s, Refresh{Key: s.ID, Do: refresh, Keep: 24 * time.Hour, Now: time.Now()})
			if err != nil {
				t.Fatal(err)
			}
			if i > 0 {
				r.Presented(s.ID, got.Generation, time.Now())
			}
		}
		if latest, _ := r.Latest(lost.ID, lost); latest.Generation != 1 {
			t.Error("the one that was never shown is gone")
		}
		r.Presented("unknown", 1, time.Now())
		r.Presented(lost.ID, 0, time.Now())
		time.Sleep(time.Hour)
		if latest, _ := r.Latest(lost.ID, lost); latest.Generation != 1 {
			t.Error("an older generation counts as shown")
		}
	})
}

// Promise 5: outcomes are bounded in bytes; the oldest go, those under way
// never do.
func TestOutcomesAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var r Refresher
		big := strings.Repeat("x", 100_000)
		slow, release := refreshable(), make(chan struct{})
		time.Sleep(6 * time.Minute)
		ask := func(s *Session, do func(context.Context, *Session) (*Session, error)) (*Session, error) {
			got, _, err := r.Fresh(context.Background(), s, Refresh{Key: s.ID, Do: do, Keep: time.Hour, Now: time.Now()})
			return got, err
		}
		o := &office{}
		if _, err := ask(slow, o.refresh); err != nil { // it has an entry in order
			t.Fatal(err)
		}
		known, _ := r.Latest(slow.ID, slow)
		expired := *known
		expired.TokenExpiry = time.Now()
		done := make(chan error)
		go func() {
			_, err := ask(&expired, func(ctx context.Context, s *Session) (*Session, error) { <-release; return o.refresh(ctx, s) })
			done <- err
		}()
		synctest.Wait()
		for range 400 {
			s := refreshable()
			s.TokenExpiry = time.Now()
			if _, err := ask(s, func(_ context.Context, s *Session) (*Session, error) {
				return s.Refreshed(&rp.Grant{AccessToken: rp.NewSecret(big), RefreshToken: rp.NewSecret("r"), Expiry: time.Now().Add(time.Hour)}, nil, time.Now()), nil
			}); err != nil {
				t.Fatal(err)
			}
		}
		size := 0
		for _, e := range r.sessions {
			size += e.size
		}
		if size > refreshMemory || size != r.size || len(r.sessions) != r.order.Len()+r.shown.Len() {
			t.Errorf("%d bytes kept, %d counted, %d entries, %d in order", size, r.size, len(r.sessions), r.order.Len())
		}
		close(release)
		if err := <-done; err != nil {
			t.Errorf("the one under way: %v", err)
		}
		if latest, _ := r.Latest(slow.ID, slow); latest.Generation != 2 {
			t.Error("the outcome of the one under way is lost")
		}
	})
}
