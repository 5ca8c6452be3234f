package session

import (
	"slices"
	"time"

	"github.com/pkce-auth/caddy-pkce-auth/caddyauth/internal/claims"
	"github.com/pkce-auth/caddy-pkce-auth/caddyauth/internal/rp"
)

// A session has one access token that its login brought, and may have others
// beside it, each for a target: what a route's upstream wants. A token is told by
// its key. None is ever used for another key than its own.

// The keys of what every session has.
const (
	MainToken = ""   // the access token of the login
	IDToken   = "id" // the raw ID token, where that is what goes upstream
)

// maxFurther bounds the further tokens of a session; the one that was got
// longest ago goes first.
const maxFurther = 16

// Further is an access token for a target.
type Further struct {
	Key         string // a digest of all that shapes the provider's answer
	AccessToken rp.Secret
	Issued      time.Time
	Expiry      time.Time
	Scope       string // that the provider granted; empty: as asked for

	// RefreshToken is of an authorization for this very target; empty where the
	// session's own gets the next one.
	RefreshToken rp.Secret

	since  uint64 // the generation of the session that brought it
	bearer rp.Secret
}

// NewFurther makes the token of a grant that was checked to be for its target.
func NewFurther(key string, grant *rp.Grant, now time.Time) *Further {
	f := &Further{Key: key, Issued: now, Expiry: grant.Expiry, Scope: grant.Scope}
	f.bearer, f.AccessToken = bearer(grant.AccessToken.Reveal())
	return f
}

// further are the tokens beside that of the login, and what is known of the ID
// token: what goes upstream in place of the access token must not have expired.
type further struct {
	tokens []Further

	idBearer rp.Secret
	idClaims claims.Set // of the ID token, where it is kept
}

// idTime is a date of the ID token; zero where there is none.
func (f *further) idTime(claim string) time.Time {
	at, _ := f.idClaims.Time(claim)
	return at
}

// bearer gives the value of the Authorization header that carries a token (RFC
// 6750 section 2.1), and the token. Both share their memory.
func bearer(token string) (header, secret rp.Secret) { return bearerOf(scheme + token) }

const scheme = "Bearer "

func bearerOf(header string) (whole, secret rp.Secret) {
	return rp.NewSecret(header), rp.NewSecret(header[len(scheme):])
}

// Further returns the token of a key; nil when there is none.
func (s *Session) Further(key string) *Further {
	for i := range s.further.tokens {
		if s.further.tokens[i].Key == key {
			return &s.further.tokens[i]
		}
	}
	return nil
}

// AuthorizationFor is the value of the Authorization header that carries the
// token of a key; empty when there is none.
func (s *Session) AuthorizationFor(key string) string {
	switch key {
	case MainToken:
		return s.bearer.Reveal()
	case IDToken:
		return s.further.idBearer.Reveal()
	}
	if f := s.Further(key); f != nil {
		return f.bearer.Reveal()
	}
	return ""
}

// times are from when to when the token of a key may be used; nothing when there
// is none.
func (s *Session) times(key string) (issued, expiry time.Time) {
	switch key {
	case MainToken:
		return s.TokenIssued, s.TokenExpiry
	case IDToken:
		return s.further.idTime("iat"), s.further.idTime("exp")
	}
	if f := s.Further(key); f != nil {
		return f.Issued, f.Expiry
	}
	return time.Time{}, time.Time{}
}

// Has reports whether there is a token of a key that may still be used.
func (s *Session) Has(key string, now time.Time) bool {
	return now.Before(s.ExpiryFor(key))
}

// ExpiryFor is when the token of a key must not be used any longer; zero when
// there is none.
func (s *Session) ExpiryFor(key string) time.Time {
	_, expiry := s.times(key)
	return expiry
}

// DueFor is Due for the token of a key. One that is not there is due.
func (s *Session) DueFor(key string, now time.Time, early time.Duration) bool {
	issued, expiry := s.times(key)
	return due(issued, expiry, early, now)
}

// Since tells the tokens of a key apart: of two copies of a session, the one
// with the higher number has the newer.
func (s *Session) Since(key string) uint64 {
	switch key {
	case MainToken:
		return s.since
	case IDToken:
		return uint64(max(0, s.further.idTime("exp").Unix()))
	}
	if f := s.Further(key); f != nil {
		return f.since
	}
	return 0
}

// RefreshTokenFor is what gets the next token of a key, and whether it is of an
// authorization for that alone.
func (s *Session) RefreshTokenFor(key string) (token rp.Secret, own bool) {
	if f := s.Further(key); f != nil && !f.RefreshToken.Empty() {
		return f.RefreshToken, true
	}
	return s.RefreshToken, false
}

// RefreshTokens are all that the session has.
func (s *Session) RefreshTokens() (tokens []rp.Secret) {
	if !s.RefreshToken.Empty() {
		tokens = append(tokens, s.RefreshToken)
	}
	for _, f := range s.further.tokens {
		if !f.RefreshToken.Empty() {
			tokens = append(tokens, f.RefreshToken)
		}
	}
	return tokens
}

// renewed begins the next generation of the session.
func (s *Session) renewed() *Session {
	renewed := *s
	renewed.Generation++
	renewed.loaded = nil
	if record := s.record(); record != nil {
		renewed.loaded = &loaded{record: record}
	}
	return &renewed
}

// With returns the session with a further token, in place of one of the same key.
func (s *Session) With(f *Further) *Session {
	renewed := s.renewed()
	added := *f
	added.since = renewed.Generation
	renewed.further.tokens = append(s.others(f.Key, added.Issued), added)
	if over := len(renewed.further.tokens) - maxFurther; over > 0 {
		renewed.further.tokens = renewed.further.tokens[over:]
	}
	return renewed
}

// Without returns the session without the further token of a key, and without
// its refresh token.
func (s *Session) Without(key string, now time.Time) *Session {
	renewed := s.renewed()
	renewed.further.tokens = s.others(key, now)
	return renewed
}

// WithRefreshToken returns the session with the refresh token that came in place
// of its own.
func (s *Session) WithRefreshToken(token rp.Secret) *Session {
	renewed := s.renewed()
	renewed.RefreshToken = token
	return renewed
}

// others are the further tokens of other keys, but those that nobody can use
// again: of a route that is gone, say.
func (s *Session) others(key string, now time.Time) []Further {
	return slices.DeleteFunc(slices.Clone(s.further.tokens), func(f Further) bool {
		return f.Key == key || f.RefreshToken.Empty() && !now.Before(f.Expiry)
	})
}

// Slim returns the session with no more than every session has. The second
// result is false when that is all it has.
func (s *Session) Slim() (*Session, bool) {
	if len(s.further.tokens) == 0 && s.IDToken.Empty() {
		return s, false
	}
	slim := *s
	slim.IDToken, slim.further = rp.Secret{}, further{}
	return &slim, true
}

// setIDToken keeps an ID token that was verified, with its claims.
func (s *Session) setIDToken(token string, verified claims.Set) {
	if token == "" {
		s.IDToken, s.further.idBearer, s.further.idClaims = rp.Secret{}, rp.Secret{}, claims.Set{}
		return
	}
	s.further.idBearer, s.IDToken = bearer(token)
	s.further.idClaims = verified
}

func writeFurther(w *packer, tokens []Further) {
	w.Number(uint64(len(tokens)))
	for _, f := range tokens {
		w.Text(f.Key)
		writeToken(w, f.AccessToken)
		w.Time(f.Issued)
		w.Time(f.Expiry)
		w.Text(f.Scope)
		writeToken(w, f.RefreshToken)
		w.Number(f.since)
	}
}

func readFurther(r *unpacker) (tokens []Further) {
	for range min(r.Number(), maxFurther) {
		f := Further{Key: r.Text()}
		f.bearer, f.AccessToken = readBearer(r)
		f.Issued, f.Expiry = r.Time(), r.Time()
		f.Scope = r.Text()
		f.RefreshToken = rp.NewSecret(readToken(r))
		f.since = r.Number()
		if f.Key == MainToken || f.Key == IDToken || f.AccessToken.Empty() {
			continue
		}
		tokens = append(tokens, f)
	}
	return tokens
}
