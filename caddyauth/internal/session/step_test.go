package session

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/pkce-auth/caddy-pkce-auth/caddyauth/internal/rp"
)

func wanting(maxAge time.Duration, acr ...string) rp.Ask {
	ask := rp.Ask{ACRValues: acr}
	if maxAge >= 0 {
		ask.MaxAge = &maxAge
	}
	return ask
}

// R56: what a login was asked for stays with the session, through refreshes and
// wherever it is kept; and so does how many there were in a row.
func TestR56StepIsKept(t *testing.T) {
	s := refreshable()
	for _, ask := range []rp.Ask{{}, wanting(0), wanting(90 * time.Second), wanting(-1, "b", "a"), wanting(time.Hour, "a")} {
		s.Step = new(Session).Next(ask, time.Now())
		for _, whole := range []bool{true, false} {
			data, err := encode(s.Refreshed(&rp.Grant{AccessToken: rp.NewSecret("x")}, nil, time.Now()), whole)
			if err != nil {
				t.Fatal(err)
			}
			got, err := decode(data)
			if err != nil {
				t.Fatal(err)
			}
			if got.Step.Row != s.Step.Row || got.Step.Asks(ask) != s.Step.Asks(ask) {
				t.Errorf("got %+v, want %+v", got.Step, s.Step)
			}
		}
		if asked := ask.MaxAge != nil || len(ask.ACRValues) > 0; s.Step.Asks(ask) != asked {
			t.Errorf("%+v: it was asked for: %v", ask, !asked)
		}
	}
	for _, tc := range []struct {
		made, asked rp.Ask
		same        bool
	}{
		{wanting(-1, "a", "b"), wanting(-1, "b", "a"), true},
		{wanting(-1, "a", "b"), wanting(-1, "a"), false},
		{wanting(60*time.Second, "a"), wanting(-1, "a"), false},
		{wanting(60*time.Second, "a"), wanting(30*time.Second, "a"), false},
		{wanting(0), wanting(-1), false},
		{rp.Ask{}, rp.Ask{}, false},
	} {
		step := new(Session).Next(tc.made, time.Now())
		if got := step.Asks(tc.asked); got != tc.same {
			t.Errorf("made for %+v, asked for %+v: got %v", tc.made, tc.asked, got)
		}
	}
}

func TestR56StepsInARow(t *testing.T) {
	start := time.Now()
	before := &Session{Created: start}
	for i, tc := range []struct {
		after time.Duration
		ask   rp.Ask
		row   uint64
	}{
		{time.Second, wanting(0), 1},
		{time.Second, wanting(-1, "a"), 2},
		{59 * time.Second, wanting(-1, "b"), 3},
		{time.Minute, wanting(-1, "a"), 1},
		{time.Second, rp.Ask{}, 0},
		{time.Second, wanting(-1, "a"), 1},
	} {
		next := &Session{Created: before.Created.Add(tc.after)}
		next.Step = before.Next(tc.ask, next.Created)
		if next.Step.Row != tc.row {
			t.Errorf("login %d: row %d, want %d", i, next.Step.Row, tc.row)
		}
		before = next
	}
}

// R58: an upstream refuses a token that is alive. All who come with it wait for
// one refresh; who comes late gets what it brought; and it is done twice a
// minute at the most.
func TestR58RefusedToken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var r Refresher
		o := &office{delay: time.Second}
		refused := func(s *Session) *Session {
			got, _, err := r.Fresh(t.Context(), s, Refresh{Key: s.ID, Do: o.refresh, Keep: time.Hour, Now: time.Now(), Refused: true})
			if err != nil {
				t.Error(err)
				return s
			}
			return got
		}
		s := refreshable()
		results := make(chan *Session)
		for range 20 {
			go func() { results <- refused(s) }()
		}
		for range 20 {
			if got := <-results; got.Generation != 1 {
				t.Errorf("got generation %d", got.Generation)
			}
		}
		if got := refused(s); got.Generation != 1 || o.calls.Load() != 1 {
			t.Errorf("late: generation %d after %d refreshes", got.Generation, o.calls.Load())
		}
		second := refused(refused(s))
		if second.Generation != 2 || o.calls.Load() != 2 {
			t.Errorf("the next: generation %d after %d refreshes", second.Generation, o.calls.Load())
		}
		if got := refused(second); got != second || o.calls.Load() != 2 {
			t.Errorf("a third at once: generation %d after %d refreshes", got.Generation, o.calls.Load())
		}
		time.Sleep(refusedTime)
		if got := refused(second); got.Generation != 3 || o.calls.Load() != 3 {
			t.Errorf("a minute later: generation %d after %d refreshes", got.Generation, o.calls.Load())
		}
		if o.reused.Load() != 0 {
			t.Error("a refresh token was used twice")
		}
	})
}

// R58: who cannot get a newer token now gets back the one that is alive, or
// hears that the session is over.
func TestR58RefusedTokenAndNoOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var r Refresher
		o := new(office)
		o.refuse(rp.ErrUnavailable)
		s := refreshable()
		ask := func() (*Session, error) {
			got, _, err := r.Fresh(t.Context(), s, Refresh{Key: s.ID, Do: o.refresh, Keep: time.Hour, Now: time.Now(), Refused: true})
			return got, err
		}
		if got, err := ask(); err == nil {
			t.Errorf("got generation %d from a provider that is down", got.Generation)
		}
		if got, err := ask(); err != nil || got != s || o.calls.Load() != 1 {
			t.Errorf("at once again: got %v, %v after %d refreshes", got, err, o.calls.Load())
		}
	})
}
