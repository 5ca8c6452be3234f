package session

import (
	"container/list"
	"context"
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

// refreshed is what is known of one session's refreshes. All of a session's
// tokens are refreshed one after the other, for its refresh token may be good
// for one use; each flight brings one of them.
type refreshed struct {
	key       string
	place     *list.Element // in Refresher.order or .shown; nil before the first refresh has ended
	flight    *flight       // under way; nil when there is none
	latest    *Session      // of the last that succeeded
	size      int           // in bytes
	expires   time.Time     // when this may be forgotten
	presented bool          // whether the browser has shown that it got latest
	refused   refusals
	ending
	troubles map[string]*trouble
}

// ending is that the provider has refused a session's refresh token.
type ending struct {
	over      bool
	overAt    uint64 // of this generation…
	overSince time.Time
	failure   error // …in this way
}

// flight is one refresh.
type flight struct {
	key     string // of the token
	done    chan struct{}
	session *Session
	err     error
}

// Refresh is how to get a session's tokens refreshed.
type Refresh struct {
	// Key names the session and everything else that shapes the answer, so
	// that nobody gets the outcome of another's refresh (A74).
	Key string

	// Token is which of the session's tokens is wanted.
	Token string

	// Adds says that Do asks nobody: it adds what is here already, whatever went
	// wrong lately, and whoever else has such a token.
	Adds bool

	// Refused says that an upstream does not take the token, though its time is
	// not up: then all wait for a newer one.
	Refused bool

	// Do asks the provider. Its context is not the request's: who asked first
	// may hang up, the others still wait. It may return both a session and an
	// error: then that is the newest there is, but without the token.
	Do func(context.Context, *Session) (*Session, error)

	// Keep is for how long the outcome is kept for a browser that has not
	// shown yet that it got it.
	Keep time.Duration

	// Now is the time.
	Now time.Time

	// NoWait gives an error to who would have to wait.
	NoWait bool
}

const (
	// refreshMemory bounds the outcomes that are kept, in bytes.
	refreshMemory = 16 << 20

	// StragglerTime is how long requests with the old tokens may still come
	// once the browser has shown the new ones: those that it had sent before.
	StragglerTime = time.Minute

	// flightTime bounds a refresh: two requests to the provider, and what else
	// it may take to check the answer.
	flightTime = 30 * time.Second
)

// Fresh returns the session with the newest tokens there are, for one whose
// access token has expired or soon will. Who comes with a token that is still
// good gets it back at once, if there is no newer one, and the refresh goes on
// without them: landing is closed when it ends, and nil for those who did not
// begin it. Who comes with an expired one waits.
//
// The error is ErrEnded when only a login helps. Any other says that there is
// no good token now, but may be one later.
//
// Who needs a token while another of the session is under way waits for that
// first.
func (r *Refresher) Fresh(ctx context.Context, s *Session, how Refresh) (fresh *Session, landing <-chan struct{}, err error) {
	asked, now := time.Now(), how.Now
	for {
		f, newest, began, err := r.begin(s, how)
		if began {
			landing = f.done
		}
		switch {
		case err != nil:
			return nil, nil, err
		case f == nil, newest.Has(how.Token, how.Now) && !how.Adds && !how.Refused:
			return newest, landing, nil
		case how.NoWait:
			return nil, landing, fmt.Errorf("%w: a refresh is under way", rp.ErrUnavailable)
		}
		select {
		case <-f.done:
		case <-ctx.Done():
			return nil, landing, ctx.Err()
		}
		if began || f.key == how.Token && !how.Adds {
			return f.session, nil, f.err
		}
		s, how.Now = newest, now.Add(time.Since(asked))
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
		if newer.Since(how.Token) > s.Since(how.Token) && newer.Has(how.Token, how.Now) && !how.Adds {
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
	known := e.trouble(how.Token)
	if known != nil && how.Token == MainToken && s.Generation > known.tried {
		known = nil // these tokens have not failed
	}
	if until := r.blocked(known); how.Now.Before(until) && !how.Adds {
		if s.Has(how.Token, how.Now) {
			return nil, s, false, nil
		}
		return nil, nil, false, &BackoffError{Wait: until.Sub(how.Now), Err: known.verdict(how.Token)}
	}
	if e == nil {
		e = &refreshed{key: how.Key}
		if r.sessions == nil {
			r.sessions = make(map[string]*refreshed)
		}
		r.sessions[how.Key] = e
	}
	if how.Refused && s.Has(how.Token, how.Now) && !e.refused.takeTurn(how.Now) {
		return nil, s, false, nil
	}
	e.flight = &flight{key: how.Token, done: make(chan struct{})}
	go r.fly(e, e.flight, s, how)
	return e.flight, s, true, nil
}

// newer returns the session that the last refresh made, if it is newer than
// the given one, with what the given one knows better.
func (e *refreshed) newer(s *Session) *Session {
	switch {
	case e.latest == nil, s.Generation > e.latest.Generation:
		return s
	case s.Generation == e.latest.Generation && len(s.further.tokens) >= len(e.latest.further.tokens):
		return s // else it did not fit the cookie, and is known here only
	case s.Seen.After(e.latest.Seen):
		newer := *e.latest
		newer.Seen = s.Seen
		return &newer
	default:
		return e.latest
	}
}

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
		if err == nil && !renewed.Has(f.key, now) {
			err = fmt.Errorf("%w: the token expired before it was here", rp.ErrUnavailable)
		}
	}
	if err == nil {
		delete(e.troubles, f.key)
		r.failures = 0
		f.session = renewed
	} else {
		f.err = r.failed(e, s, f.key, err, now).verdict(f.key)
	}
	r.queue(e, now)
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
	return how.Do(ctx, s)
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
		e.size += s.size()
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
