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
	shown    list.List // of those that were presented, the first to expire first
	size     int
	failures int       // of all sessions, in a row
	paused   time.Time // until when nobody is to ask the provider
}

// refreshed is what is known of one session's refreshes.
type refreshed struct {
	key       string
	place     *list.Element // in Refresher.order or .shown; nil before the first refresh has ended
	flight    *flight       // under way; nil when there is none
	latest    *Session      // of the last that succeeded
	size      int           // in bytes
	expires   time.Time     // when this may be forgotten
	presented bool          // whether the browser has shown that it got latest
	refused   refusals

	trouble
}

// trouble is what went wrong with one session's refreshes of late.
type trouble struct {
	over      bool      // the provider has refused the refresh token…
	overAt    uint64    // …of this generation…
	overSince time.Time // …at this time
	failures  int       // in a row
	odd       int       // of them, those in a row that no trouble of the provider explains
	tried     uint64    // the generation that failed last
	notBefore time.Time // of the next try
	failure   error     // the last one
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

	// NoWait gives an error to who would have to wait.
	NoWait bool

	// Refused says that an upstream does not take the access token, though its
	// time is not up: then all wait for a newer one.
	Refused bool
}

const (
	// refreshMemory bounds the outcomes that are kept, in bytes.
	refreshMemory = 16 << 20

	// StragglerTime is how long requests with the old tokens may still come
	// once the browser has shown the new ones: those that it had sent before.
	StragglerTime = time.Minute

	// overTime is how long a refused refresh token is remembered.
	overTime = time.Hour

	// flightTime bounds a refresh: two requests to the provider, and what else
	// it may take to check the answer.
	flightTime = 30 * time.Second

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

// Fresh returns the session with the newest tokens there are, for one whose
// access token has expired or soon will. Who comes with a token that is still
// good gets it back at once, if there is no newer one, and the refresh goes on
// without them: landing is closed when it ends, and nil for those who did not
// begin it. Who comes with an expired one waits.
//
// The error is ErrEnded when only a login helps. Any other says that there is
// no good token now, but may be one later.
func (r *Refresher) Fresh(ctx context.Context, s *Session, how Refresh) (fresh *Session, landing <-chan struct{}, err error) {
	f, s, began, err := r.begin(s, how)
	if began {
		landing = f.done
	}
	switch {
	case err != nil:
		return nil, nil, err
	case f == nil, s.TokenAlive(how.Now) && !how.Refused:
		return s, landing, nil
	case how.NoWait:
		return nil, landing, fmt.Errorf("%w: a refresh is under way", rp.ErrUnavailable)
	}
	select {
	case <-f.done:
		return f.session, nil, f.err
	case <-ctx.Done():
		return nil, landing, ctx.Err()
	}
}

// begin returns the newest session that is known, and the flight that gets a
// newer one, if one is needed and may be had.
func (r *Refresher) begin(s *Session, how Refresh) (f *flight, newest *Session, began bool, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	e := r.sessions[how.Key]
	if e != nil && how.Now.After(e.expires) && e.flight == nil {
		r.forget(e)
		e = nil
	}
	if e != nil {
		newer := e.newer(s)
		if newer != s && newer.TokenAlive(how.Now) {
			return nil, newer, false, nil
		}
		s = newer
		if e.over && s.Generation <= e.overAt {
			return nil, nil, false, fmt.Errorf("%w: %w", ErrEnded, e.failure)
		}
		if e.flight != nil {
			return e.flight, s, false, nil
		}
	}
	known := e
	if e != nil && e.failure != nil && s.Generation > e.tried {
		known = nil // these tokens have not failed
	}
	if until := r.blocked(known); how.Now.Before(until) {
		if s.TokenAlive(how.Now) {
			return nil, s, false, nil
		}
		return nil, nil, false, &BackoffError{Wait: until.Sub(how.Now), Err: known.verdict()}
	}
	if e == nil {
		e = &refreshed{key: how.Key}
		if r.sessions == nil {
			r.sessions = make(map[string]*refreshed)
		}
		r.sessions[how.Key] = e
	}
	if how.Refused && s.TokenAlive(how.Now) && !e.refused.takeTurn(how.Now) {
		return nil, s, false, nil
	}
	e.flight = &flight{done: make(chan struct{})}
	go r.fly(e, e.flight, s, how)
	return e.flight, s, true, nil
}

// newer returns the session that the last refresh made, if it is newer than
// the given one, with what the given one knows better.
func (e *refreshed) newer(s *Session) *Session {
	switch {
	case e.latest == nil, s.Generation >= e.latest.Generation:
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

// verdict is what the failures of a session's refreshes mean to who has no
// good token.
func (e *refreshed) verdict() error {
	switch {
	case e == nil || e.failure == nil:
		return fmt.Errorf("%w: it asked not to be asked", rp.ErrUnavailable)
	case isOver(e.failure), e.odd >= maxOddFailures:
		return fmt.Errorf("%w: %w", ErrEnded, e.failure)
	default:
		return e.failure
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

// fly refreshes a session, and keeps the outcome before anybody is told.
func (r *Refresher) fly(e *refreshed, f *flight, s *Session, how Refresh) {
	began := time.Now()
	renewed, err := guarded(s, how)
	now := how.Now.Add(time.Since(began))
	r.mu.Lock()
	defer r.mu.Unlock()
	defer close(f.done)
	e.flight = nil
	e.expires = now.Add(how.Keep)
	if renewed != nil { // even if its token is dead already: the refresh token is not
		e.latest, e.over = renewed, false
		if err = nil; !renewed.TokenAlive(now) {
			err = fmt.Errorf("%w: the access token expired before it was here", rp.ErrUnavailable)
		}
	}
	if err == nil {
		e.trouble, r.failures = trouble{}, 0
		f.session = renewed
	} else {
		r.failed(e, s, err, now)
		f.err = e.verdict()
	}
	r.queue(e, now)
}

// failed puts off the next try.
func (r *Refresher) failed(e *refreshed, s *Session, err error, now time.Time) {
	e.failure = err
	e.failures++
	e.tried = s.Generation
	if e.odd++; errors.Is(err, rp.ErrUnavailable) {
		e.odd = 0
	}
	e.notBefore = now.Add(min(firstBackoff<<min(e.failures-1, 10), lastBackoff))
	if isOver(err) {
		e.over, e.overAt, e.overSince, e.expires = true, s.Generation, now, now.Add(overTime)
		return
	}
	if !errors.Is(err, rp.ErrUnavailable) {
		return
	}
	if r.failures++; r.failures >= troubled {
		r.pause(now.Add(troubledPause))
	}
	if refused, ok := errors.AsType[*rp.EndpointError](err); ok && refused.RetryAfter > 0 {
		r.pause(now.Add(refused.RetryAfter)) // it speaks to all of us
	}
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

// guarded keeps a panic from ending the process, or from leaving a flight that
// never lands.
func guarded(s *Session, how Refresh) (renewed *Session, err error) {
	defer func() {
		if panicked := recover(); panicked != nil {
			renewed, err = nil, fmt.Errorf("the refresh panicked: %v", panicked)
		}
	}()
	ctx, cancel := context.WithTimeout(context.Background(), flightTime)
	defer cancel()
	renewed, err = how.Do(ctx, s)
	if err != nil {
		return nil, err
	}
	return renewed, nil
}

// Presented says that a browser has shown a generation of its session: what
// is kept for it goes first from now on, and soon.
func (r *Refresher) Presented(key string, generation uint64, now time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	e := r.sessions[key]
	if e == nil || e.presented || e.place == nil || e.latest == nil || generation < e.latest.Generation {
		return
	}
	e.presented, e.expires = true, now.Add(StragglerTime)
	r.order.Remove(e.place)
	e.place = r.shown.PushBack(e)
}

// queue puts an entry at the end, and forgets from the front what is over or
// does not fit any longer.
func (r *Refresher) queue(e *refreshed, now time.Time) {
	r.size -= e.size
	e.size = 512
	if s := e.latest; s != nil {
		e.size += s.claimsSize() + len(s.AccessToken.Reveal()) + len(s.RefreshToken.Reveal()) + len(s.IDToken.Reveal())
	}
	r.size += e.size
	r.unlist(e)
	e.presented, e.place = false, r.order.PushBack(e)
	r.tidy(&r.shown, e, now)
	r.tidy(&r.order, e, now)
}

// tidy forgets from the front of a list, but for e.
func (r *Refresher) tidy(l *list.List, e *refreshed, now time.Time) {
	for front := l.Front(); front != nil && front != e.place; front = l.Front() {
		oldest := front.Value.(*refreshed)
		switch {
		case r.size <= refreshMemory && !now.After(oldest.expires):
			return
		case oldest.flight != nil: // its outcome will queue it anew
			l.MoveToBack(front)
			return
		default:
			r.forget(oldest)
		}
	}
}

func (r *Refresher) forget(e *refreshed) {
	r.unlist(e)
	r.size -= e.size
	delete(r.sessions, e.key)
}

func (r *Refresher) unlist(e *refreshed) {
	if e.place != nil {
		r.order.Remove(e.place)
		r.shown.Remove(e.place) // one of the two does nothing
	}
}

// Latest returns the newest copy of a session that is known. The second result
// is false when nothing is known of its refreshes, be it that there were none,
// or that they are long ago.
func (r *Refresher) Latest(key string, s *Session) (latest *Session, known bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if e := r.sessions[key]; e != nil {
		return e.newer(s), true
	}
	return s, false
}

// Over reports whether the provider is known to refresh these tokens no more,
// nor any newer ones of the session.
func (r *Refresher) Over(key string, s *Session) bool {
	_, over := r.OverSince(key, s)
	return over
}
