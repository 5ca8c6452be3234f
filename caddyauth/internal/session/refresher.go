package session

import (
	"container/list"
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/pkce-auth/caddy-pkce-auth/caddyauth/internal/rp"
)

// Refresher gets new tokens for sessions: one request to the provider for a
// session at a time, whoever asks, and whether or not they wait for it. The
// outcome is kept for those who still come with what it replaced, for a
// refresh token is good for one use. The zero value is ready.
type Refresher struct {
	mu       sync.Mutex
	sessions map[string]*refreshed
	order    list.List // of *refreshed, the least recently refreshed first
	size     int
	paused   time.Time // until when nobody is to ask the provider
}

// refreshed is what is known of one session's refreshes.
type refreshed struct {
	key       string
	place     *list.Element // in Refresher.order; nil before the first refresh has ended
	flight    *flight       // under way; nil when there is none
	latest    *Session      // of the last that succeeded
	size      int           // in bytes
	expires   time.Time     // when this may be forgotten
	presented bool          // whether the browser has shown that it got latest
	over      bool          // whether the provider has refused the refresh token…
	overAt    uint64        // …of this generation
	failures  int           // in a row
	notBefore time.Time     // of the next try
	failure   error         // the last one
}

// flight is one refresh.
type flight struct {
	done    chan struct{}
	session *Session
	err     error
}

// Refresh is how to get a session's tokens refreshed.
type Refresh struct {
	// Key names the session and everything else that shapes the answer, so
	// that nobody gets the outcome of another's refresh (A74).
	Key string

	// Do asks the provider. Its context is not the request's: who asked first
	// may hang up, the others still wait.
	Do func(context.Context, *Session) (*Session, error)

	// Keep is for how long the outcome is kept for a browser that has not
	// shown yet that it got it.
	Keep time.Duration

	// Now is the time.
	Now time.Time
}

const (
	// refreshMemory bounds the outcomes that are kept, in bytes.
	refreshMemory = 16 << 20

	// stragglerTime is how long requests with the old tokens may still come
	// once the browser has shown the new ones: those that it had sent before.
	stragglerTime = time.Minute

	// overTime is how long a refused refresh token is remembered.
	overTime = time.Hour

	// The time between tries after a failure doubles from the first to the
	// second.
	firstBackoff, lastBackoff = time.Second, time.Minute
)

// Fresh returns the session with the newest tokens there are, for one whose
// access token has expired or soon will. Who comes with a token that is still
// good gets it back at once, if there is no newer one, and the refresh goes on
// without them. Who comes with an expired one waits.
//
// The error is ErrEnded when only a login helps. Any other says that there is
// no good token now, but may be one later.
func (r *Refresher) Fresh(ctx context.Context, s *Session, how Refresh) (*Session, error) {
	f, s, err := r.begin(s, how)
	if f == nil || err != nil {
		return s, err
	}
	if s.TokenAlive(how.Now) {
		return s, nil
	}
	select {
	case <-f.done:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	switch {
	case f.err == nil:
		return f.session, nil
	case errors.Is(f.err, rp.ErrUnavailable), errors.Is(f.err, rp.ErrMisconfigured) && !isOver(f.err):
		return nil, f.err
	default:
		return nil, fmt.Errorf("%w: %w", ErrEnded, f.err)
	}
}

// begin returns the newest session that is known, and the flight that gets a
// newer one, if one is needed and may be had.
func (r *Refresher) begin(s *Session, how Refresh) (*flight, *Session, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	e := r.sessions[how.Key]
	if e != nil && how.Now.After(e.expires) && e.flight == nil {
		r.forget(e)
		e = nil
	}
	if e != nil {
		switch newer := e.newer(s, how.Now); {
		case newer != s && newer.TokenAlive(how.Now):
			return nil, newer, nil
		default:
			s = newer
		}
		if e.over && s.Generation <= e.overAt {
			return nil, nil, fmt.Errorf("%w: %w", ErrEnded, e.failure)
		}
		if e.flight != nil {
			return e.flight, s, nil
		}
	}
	if until := r.blocked(e); how.Now.Before(until) {
		if s.TokenAlive(how.Now) {
			return nil, s, nil
		}
		return nil, nil, &BackoffError{Wait: until.Sub(how.Now), Err: e.lastFailure()}
	}
	if e == nil {
		e = &refreshed{key: how.Key}
		if r.sessions == nil {
			r.sessions = make(map[string]*refreshed)
		}
		r.sessions[how.Key] = e
	}
	e.flight = &flight{done: make(chan struct{})}
	go r.fly(e, e.flight, s, how)
	return e.flight, s, nil
}

// newer returns the session that the last refresh made, if it is newer than
// the given one, with what the given one knows better.
func (e *refreshed) newer(s *Session, now time.Time) *Session {
	switch {
	case e.latest == nil:
		return s
	case s.Generation >= e.latest.Generation:
		if !e.presented {
			e.presented, e.expires = true, now.Add(stragglerTime)
		}
		return s
	case s.Seen.After(e.latest.Seen):
		newer := *e.latest
		newer.Seen = s.Seen
		return &newer
	default:
		return e.latest
	}
}

// blocked is until when the provider must not be asked.
func (r *Refresher) blocked(e *refreshed) time.Time {
	if e != nil && e.notBefore.After(r.paused) {
		return e.notBefore
	}
	return r.paused
}

func (e *refreshed) lastFailure() error {
	if e == nil || e.failure == nil {
		return fmt.Errorf("%w: it asked not to be asked", rp.ErrUnavailable)
	}
	return e.failure
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

// fly refreshes a session, and keeps the outcome before anybody is told.
func (r *Refresher) fly(e *refreshed, f *flight, s *Session, how Refresh) {
	began := time.Now()
	f.session, f.err = guarded(s, how)
	now := how.Now.Add(time.Since(began))
	r.mu.Lock()
	defer r.mu.Unlock()
	defer close(f.done)
	e.flight = nil
	if f.err == nil {
		r.keep(e, f.session, how, now)
		return
	}
	e.failure = f.err
	e.failures++
	wait := min(firstBackoff<<min(e.failures-1, 10), lastBackoff)
	if refused, ok := errors.AsType[*rp.EndpointError](f.err); ok && refused.RetryAfter > 0 && errors.Is(f.err, rp.ErrUnavailable) {
		wait = max(wait, refused.RetryAfter)
		r.paused = now.Add(refused.RetryAfter) // it speaks to all of us
	}
	e.notBefore = now.Add(wait)
	e.expires = now.Add(how.Keep)
	if isOver(f.err) {
		e.over, e.overAt = true, s.Generation
		e.expires = now.Add(overTime)
	}
	r.queue(e, now)
}

// isOver reports whether a failure means that the refresh token is worthless,
// or that what came for it must not be used.
func isOver(err error) bool {
	_, refused := errors.AsType[*rp.CheckError](err)
	return errors.Is(err, rp.ErrGrantOver) || errors.Is(err, ErrNone) || refused && errors.Is(err, rp.ErrInvalid)
}

// guarded keeps a panic from ending the process, or from leaving a flight that
// never lands.
func guarded(s *Session, how Refresh) (renewed *Session, err error) {
	defer func() {
		if recover() != nil {
			renewed, err = nil, errors.New("the refresh panicked")
		}
	}()
	return how.Do(context.Background(), s)
}

func (r *Refresher) keep(e *refreshed, latest *Session, how Refresh, now time.Time) {
	e.latest, e.presented = latest, false
	e.over, e.failures, e.failure, e.notBefore = false, 0, nil, time.Time{}
	e.expires = now.Add(how.Keep)
	r.queue(e, now)
}

// queue puts an entry at the end, and forgets from the front what is over or
// does not fit any longer.
func (r *Refresher) queue(e *refreshed, now time.Time) {
	r.size -= e.size
	e.size = 512
	if s := e.latest; s != nil {
		e.size += 3*len(s.Claims.Raw()) + len(s.AccessToken.Reveal()) + len(s.RefreshToken.Reveal()) + len(s.IDToken.Reveal())
	}
	r.size += e.size
	if e.place == nil {
		e.place = r.order.PushBack(e)
	} else {
		r.order.MoveToBack(e.place)
	}
	for front := r.order.Front(); front != e.place; front = r.order.Front() {
		oldest := front.Value.(*refreshed)
		switch {
		case r.size <= refreshMemory && !now.After(oldest.expires):
			return
		case oldest.flight != nil: // its outcome will queue it anew
			r.order.MoveAfter(front, e.place)
			return
		default:
			r.forget(oldest)
		}
	}
}

func (r *Refresher) forget(e *refreshed) {
	if e.place != nil {
		r.order.Remove(e.place)
	}
	r.size -= e.size
	delete(r.sessions, e.key)
}

// Latest returns the newest copy of a session that is known.
func (r *Refresher) Latest(key string, s *Session) *Session {
	r.mu.Lock()
	defer r.mu.Unlock()
	if e := r.sessions[key]; e != nil && e.latest != nil && e.latest.Generation > s.Generation {
		return e.latest
	}
	return s
}
