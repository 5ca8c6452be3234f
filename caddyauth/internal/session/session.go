// Package session knows who is logged in: what a session holds, how long it
// lasts, and how it is kept.
package session

import (
	"crypto/rand"
	"errors"
	"fmt"
	"time"

	"github.com/pkce-auth/caddy-pkce-auth/caddyauth/internal/claims"
	"github.com/pkce-auth/caddy-pkce-auth/caddyauth/internal/rp"
)

// ErrNone says that a request has no session that may be used: nobody is
// logged in there. Other errors say that it cannot be told.
var ErrNone = errors.New("no session")

// ErrEnded says that there was one whose time is up.
var ErrEnded = fmt.Errorf("%w: its time is up", ErrNone)

// Session is one login, in one browser. It is shared between requests and
// must not be changed: who renews it makes a new one.
type Session struct {
	// ID names the session; drawn anew at every login (A61).
	ID string

	// Subject is the "sub" of the ID token; empty where none was asked for.
	Subject string

	// ProviderID is the provider's name for its session, the "sid" claim of
	// the ID token; empty where it gave none.
	ProviderID string

	// Claims are those of the ID token.
	Claims claims.Set

	// AccessToken is what goes upstream, until TokenExpiry.
	AccessToken rp.Secret
	TokenExpiry time.Time

	// bearer is "Bearer " and the access token, made once: it is needed with
	// every request.
	bearer rp.Secret

	// Scope is what the provider granted; empty means what was asked for.
	Scope string

	// Created is when the login ended, from which Limits.Lifetime counts.
	Created time.Time

	// Seen is when the session was last in use, from which Limits.Idle
	// counts. It is kept in steps; see Limits.Renew.
	Seen time.Time
}

// New makes the session of a login. The ID token is nil where none was asked
// for.
func New(grant *rp.Grant, token *rp.IDToken, now time.Time) *Session {
	s := &Session{
		ID:          rand.Text(),
		TokenExpiry: grant.Expiry,
		Scope:       grant.Scope,
		Created:     now,
		Seen:        now,
	}
	s.setToken(grant.AccessToken.Reveal())
	if token != nil {
		s.Subject, s.Claims = token.Subject, token.Claims
		s.ProviderID, _ = token.Claims.Text("sid")
	}
	return s
}

// setToken sets the access token. Both secrets share their memory.
func (s *Session) setToken(token string) {
	const scheme = "Bearer "
	bearer := scheme + token
	s.bearer, s.AccessToken = rp.NewSecret(bearer), rp.NewSecret(bearer[len(scheme):])
}

// Authorization is the value of the Authorization header that carries the
// access token (RFC 6750 section 2.1).
func (s *Session) Authorization() string { return s.bearer.Reveal() }

// TokenAlive reports whether the access token may still be used.
func (s *Session) TokenAlive(now time.Time) bool { return now.Before(s.TokenExpiry) }

// Limits are how long sessions last. They are those of the configuration in
// use, not of the one under which a session began: who shortens them means
// it.
type Limits struct {
	Lifetime time.Duration // since the login
	Idle     time.Duration // since the last use
}

// Alive reports whether the session may still be used.
func (l Limits) Alive(s *Session, now time.Time) bool { return l.Left(s, now) > 0 }

// Left is how long the session lasts if it is not used again.
func (l Limits) Left(s *Session, now time.Time) time.Duration {
	return min(s.Created.Add(l.Lifetime).Sub(now), s.Seen.Add(l.Idle).Sub(now))
}

// Renew returns the session as seen now. The second result is false when it
// is too early for that: Seen moves in steps of a tenth of the idle time, so
// that a busy session is not written at every request.
func (l Limits) Renew(s *Session, now time.Time) (*Session, bool) {
	if now.Sub(s.Seen) < l.Idle/10 {
		return s, false
	}
	renewed := *s
	renewed.Seen = now
	return &renewed, true
}
