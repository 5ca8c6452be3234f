package session

import (
	"context"
	"time"

	"github.com/pkce-auth/caddy-pkce-auth/caddyauth/internal/rp"
)

// What is left of a session whose time is up says whose it was and when it
// ended. Nobody may use it: Limits.Alive says so of it wherever a session is
// looked at, and what the provider refused to refresh has lost the tokens that
// a refresh would need.

// Remains implements Keeper. The store itself is asked, and not what is known of
// it from a moment ago: a session that was ended meanwhile is gone from it.
func (k *Stored) Remains(ctx context.Context, cookies []string) (*Session, error) {
	s, err := k.find(ctx, cookies, k.cfg.Store.Load)
	if err != nil {
		return nil, err
	}
	return k.fetch(ctx, s, k.cfg.Store.Load)
}

// Remember implements Keeper.
func (k *Stored) Remember(size int) { k.opened = newCache(size) }

// Outlive implements Keeper.
func (k *Stored) Outlive(d time.Duration) { k.outlive = d }

// leave puts what is left of a session in its place that the provider does not
// refresh any longer.
func (k *Stored) leave(ctx context.Context, s *Session) error {
	now := k.cfg.Now()
	left := *s
	left.Ends = now
	left.RefreshToken, left.IDToken, left.further = rp.Secret{}, rp.Secret{}, further{}
	return k.writeUntil(ctx, &left, s.record().version+1, now)
}

// Since is when a session ended whose time was up then; the second result is
// false when it is not.
func (l Limits) Since(s *Session, now time.Time) (since time.Time, ended bool) {
	left := l.Left(s, now)
	return now.Add(left), left <= 0
}

// OverSince is Over, and since when that is known.
func (r *Refresher) OverSince(key string, s *Session) (since time.Time, over bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	e := r.sessions[key]
	if e == nil || !e.over || e.newer(s).Generation > e.overAt {
		return time.Time{}, false
	}
	return e.overSince, true
}
