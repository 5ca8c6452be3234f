package session

import (
	"errors"
	"fmt"
	"time"

	"github.com/pkce-auth/caddy-pkce-auth/caddyauth/internal/rp"
)

const (
	// overTime is how long a refused refresh token is remembered.
	overTime = time.Hour

	// The time between tries after a failure doubles from the first to the
	// second.
	firstBackoff, lastBackoff = time.Second, time.Minute

	// maxOddFailures is how often in a row a refresh may fail in a way that no
	// provider in good health, or in trouble, explains, before a session
	// without a good token counts as over: a login may help, or will say what
	// is wrong.
	maxOddFailures = 3

	// From so many failures in a row on, of whatever sessions, a provider that
	// is in trouble is left alone by all for a while.
	troubled, troubledPause = 8, 2 * time.Second
)

// trouble is what went wrong with the refreshes of one of a session's tokens of
// late. It concerns no other: a target that the provider refuses is no reason to
// put off the rest.
type trouble struct {
	failures  int       // in a row
	odd       int       // of them, those in a row that no trouble of the provider explains
	tried     uint64    // the generation that failed last
	notBefore time.Time // of the next try
	failure   error     // the last one
}

// blocked is until when the provider must not be asked.
func (r *Refresher) blocked(t *trouble) time.Time {
	if t != nil && t.notBefore.After(r.paused) {
		return t.notBefore
	}
	return r.paused
}

// trouble is that with the tokens of a key; nil if there is none.
func (e *refreshed) trouble(key string) *trouble {
	if e == nil {
		return nil
	}
	return e.troubles[key]
}

// verdict is what the failures of refreshing a token mean to who has no good
// one. The session is over only where that of the login cannot be had, or where
// what came was for somebody else.
func (t *trouble) verdict(key string) error {
	switch {
	case t == nil || t.failure == nil:
		return fmt.Errorf("%w: it asked not to be asked", rp.ErrUnavailable)
	case isOver(t.failure), t.odd >= maxOddFailures && key == MainToken:
		return fmt.Errorf("%w: %w", ErrEnded, t.failure)
	default:
		return t.failure
	}
}

// BackoffError says that the provider is left alone for a while, after it
// failed.
type BackoffError struct {
	Wait time.Duration
	Err  error // why
}

func (e *BackoffError) Error() string {
	return fmt.Sprintf("next try in %s: %v", e.Wait.Round(time.Second), e.Err)
}

// Unwrap gives the reason.
func (e *BackoffError) Unwrap() error { return e.Err }

// maxTroubles bounds of how many tokens of a session it is known that they could
// not be had: as many as it can have, and some of a configuration before.
const maxTroubles = 2 * maxFurther

// failed puts off the next try.
func (r *Refresher) failed(e *refreshed, s *Session, key string, err error, now time.Time) *trouble {
	t := e.troubles[key]
	if t == nil {
		if e.troubles == nil || len(e.troubles) >= maxTroubles {
			e.troubles = make(map[string]*trouble)
		}
		t = new(trouble)
		e.troubles[key] = t
	}
	t.failure = err
	t.failures++
	t.tried = s.Generation
	if t.odd++; errors.Is(err, rp.ErrUnavailable) {
		t.odd = 0
	}
	t.notBefore = now.Add(min(firstBackoff<<min(t.failures-1, 10), lastBackoff))
	if isOver(err) {
		e.over, e.overAt, e.overSince, e.failure = true, s.Generation, now, err
		e.expires = now.Add(overTime)
		return t
	}
	if !errors.Is(err, rp.ErrUnavailable) {
		return t
	}
	if r.failures++; r.failures >= troubled {
		r.pause(now.Add(troubledPause))
	}
	if refused, ok := errors.AsType[*rp.EndpointError](err); ok && refused.RetryAfter > 0 {
		r.pause(now.Add(refused.RetryAfter)) // it speaks to all of us
	}
	return t
}

func (r *Refresher) pause(until time.Time) {
	if until.After(r.paused) {
		r.paused = until
	}
}

// isOver reports whether a failure means that the refresh token is worthless,
// or that what came for it must not be used.
func isOver(err error) bool {
	_, refused := errors.AsType[*rp.CheckError](err)
	return errors.Is(err, rp.ErrGrantOver) || errors.Is(err, ErrNone) || refused && !errors.Is(err, rp.ErrNoKeys)
}
