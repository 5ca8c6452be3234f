// Package session knows who is logged in: what a session holds, how long it
// lasts, and how it is kept.
package session

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"sync/atomic"
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

	// Identity is who logged in; its Subject is empty where nothing names one.
	rp.Identity

	// Claims are those of all sources of the identity.
	Claims claims.Set

	Tokens

	// IDToken is the ID token as the provider sent it, a hint for the logout.
	// A Stateless keeps it apart from the session, unless it goes upstream: there
	// it is known only where it has just come.
	IDToken rp.Secret

	// further are the tokens beside that of the login.
	further further

	// Created is when the browser came back with a login, from which
	// Limits.Lifetime counts: what ends sessions that began by a later time
	// ends this one, too, be it that its tokens were still being fetched then.
	Created time.Time

	// Step is what the login was asked for, where that was more than what is
	// configured.
	Step Step

	// key opens what a Stored keeps of the session; only the browser has it.
	key rp.Secret

	// loaded is about the copy that this was loaded from, or made of.
	loaded *loaded

	// Seen is when the session was last in use, from which Limits.Idle
	// counts. It is kept in steps; see Limits.Renew.
	Seen time.Time
}

// loaded is what is known of one copy of a session, by all requests that have
// loaded it.
type loaded struct {
	shown atomic.Bool           // whether a request has come with it
	marks atomic.Pointer[marks] // see Revocations

	record *kept // where a Stored has it from; else nil
}

// Tokens are what a refresh renews.
type Tokens struct {
	// AccessToken is what goes upstream, from TokenIssued until TokenExpiry.
	AccessToken rp.Secret
	TokenIssued time.Time
	TokenExpiry time.Time

	// RefreshToken gets the next access token; empty when there is none.
	RefreshToken rp.Secret

	// Scope is what the provider granted; empty means what was asked for.
	Scope string

	// Generation counts the refreshes. Of two copies of a session, as two
	// requests under way may present them, the one of the higher generation has
	// the tokens that are good.
	Generation uint64

	// since is the generation that brought the access token: others may have
	// brought other tokens.
	since uint64

	// bearer is "Bearer " and the access token, made once: it is needed with
	// every request.
	bearer rp.Secret
}

// New makes the session of a login.
func New(grant *rp.Grant, who *rp.Identity, now time.Time) *Session {
	s := &Session{
		ID:       newID(),
		key:      rp.NewSecret(newKey()),
		Identity: *who,
		Claims:   who.Claims(),
		Tokens:   Tokens{TokenIssued: now, TokenExpiry: grant.Expiry, RefreshToken: grant.RefreshToken, Scope: grant.Scope},
		Created:  now,
		Seen:     now,
	}
	s.keepIDToken(grant, who)
	s.setToken(grant.AccessToken.Reveal())
	return s
}

// idSize is how many bytes are drawn for an ID: nobody guesses one (A61).
const idSize = 16

func newID() string {
	drawn := make([]byte, idSize)
	_, _ = rand.Read(drawn) // never fails: crypto/rand crashes the program instead
	return idText.EncodeToString(drawn)
}

// Handle names the session where its ID must not be known: to a store, and to
// who looks after one.
func (s *Session) Handle() string {
	if record := s.record(); record != nil {
		return record.handle
	}
	sum := sha256.Sum256([]byte("pkce_auth session " + s.ID))
	return hex.EncodeToString(sum[:])
}

// IsHandle reports whether a text may be the handle of a session.
func IsHandle(text string) bool {
	sum, err := hex.DecodeString(text)
	return err == nil && len(sum) == sha256.Size && text == hex.EncodeToString(sum)
}

// Refreshed returns the session with the tokens of a refresh. The identity is
// nil where nothing new is known of the user; then what is known stays.
func (s *Session) Refreshed(grant *rp.Grant, who *rp.Identity, now time.Time) *Session {
	renewed := s.renewed()
	renewed.since = renewed.Generation
	renewed.TokenIssued, renewed.TokenExpiry = now, grant.Expiry
	renewed.RefreshToken = grant.RefreshToken
	renewed.setToken(grant.AccessToken.Reveal())
	if grant.Scope != "" {
		renewed.Scope = grant.Scope
	}
	if who != nil {
		renewed.Identity, renewed.Claims = *who, who.Claims()
		renewed.keepIDToken(grant, who)
	}
	return renewed
}

// keepIDToken keeps an ID token that has just come, and was verified. When none
// came, the one before stays what it is.
func (s *Session) keepIDToken(grant *rp.Grant, who *rp.Identity) {
	if claims, verified := who.Source(rp.FromIDToken); verified && !grant.IDToken.Empty() {
		s.setIDToken(grant.IDToken.Reveal(), claims)
	}
}

// ProviderID is the provider's name for its session, the "sid" claim of the
// ID token; empty where it gave none.
func (s *Session) ProviderID() string {
	token, _ := s.Source(rp.FromIDToken)
	id, _ := token.Text("sid")
	return id
}

// setToken sets the access token.
func (t *Tokens) setToken(token string) { t.bearer, t.AccessToken = bearer(token) }

// Authorization is the value of the Authorization header that carries the
// access token of the login.
func (s *Session) Authorization() string { return s.AuthorizationFor(MainToken) }

// TokenAlive reports whether the access token may still be used.
func (s *Session) TokenAlive(now time.Time) bool { return now.Before(s.TokenExpiry) }

// FirstShown reports whether this is the first request that comes with this
// very copy of the session, as far as this process knows.
func (s *Session) FirstShown() bool {
	return s.loaded != nil && !s.loaded.shown.Load() && s.loaded.shown.CompareAndSwap(false, true)
}

// record is where the session was loaded from; nil for one that is kept
// nowhere yet, or in a cookie.
func (s *Session) record() *kept {
	if s.loaded == nil {
		return nil
	}
	return s.loaded.record
}

// Due reports whether the access token should be refreshed, early before its
// end: 0 means the last fifth of its lifetime, at most a minute. Never in the
// first half of the lifetime, or every request would.
func (s *Session) Due(now time.Time, early time.Duration) bool {
	if s.RefreshToken.Empty() {
		return false
	}
	return due(s.TokenIssued, s.TokenExpiry, early, now)
}

func due(issued, expiry time.Time, early time.Duration, now time.Time) bool {
	lifetime := expiry.Sub(issued)
	if early <= 0 {
		early = min(lifetime/5, time.Minute)
	}
	return !now.Before(expiry.Add(-min(early, lifetime/2)))
}

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
	return min(l.LifetimeLeft(s, now), l.IdleLeft(s, now))
}

// LifetimeLeft is how long the session lasts whatever is done in it: until its
// lifetime is over, or until the provider wants it to end, if that is earlier.
func (l Limits) LifetimeLeft(s *Session, now time.Time) time.Duration {
	left := s.Created.Add(l.Lifetime).Sub(now)
	if !s.Ends.IsZero() {
		left = min(left, s.Ends.Sub(now))
	}
	return left
}

// IdleLeft is after what time without use the session ends, if its lifetime
// lasts for so long.
func (l Limits) IdleLeft(s *Session, now time.Time) time.Duration { return s.Seen.Add(l.Idle).Sub(now) }

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
