package session

import "github.com/pkce-auth/caddy-pkce-auth/caddyauth/internal/rp"

// Brought is what stands in for a session where a client brings an access token
// of its own: whose it is, what it says, and the token itself. It has no ID, no
// keeper knows it, and there is nothing to refresh: it lasts for one request.
func Brought(token *rp.AccessToken, raw rp.Secret) *Session {
	s := &Session{
		Identity: rp.Identity{Subject: token.Subject, Sources: []rp.SourcedClaims{{From: rp.FromAccessToken, Claims: token.Claims}}},
		Claims:   token.Claims,
		Tokens:   Tokens{TokenExpiry: token.GoodUntil},
	}
	s.setToken(raw.Reveal())
	return s
}
