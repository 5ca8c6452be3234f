package main

import (
	"crypto/rand"
	"fmt"
	"time"

	"github.com/pkce-auth/caddy-pkce-auth/test/provider"
)

// audience is the API that access tokens are for: with one they are JWTs.
const audience = "https://api.example.com"

// users is how many people can log in.
const users = 20_000

func user(n int) string { return fmt.Sprintf("auth0|6561f2a1c7d4e9b0%08x", n%users) }

// startProvider starts the provider, where login_hint says who logs in.
func startProvider() (*provider.Provider, error) {
	op, err := provider.Start(provider.Config{
		Clients:       map[string]provider.Client{"bench": {}},
		Users:         everybody(profile(nil)),
		Login:         user(0),
		LoginHint:     true,
		TokenLifetime: 12 * time.Hour,
	})
	if err != nil {
		return nil, err
	}
	return op, nil
}

func everybody(claims map[string]any) map[string]map[string]any {
	all := make(map[string]map[string]any, users)
	for n := range users {
		all[user(n)] = claims
	}
	return all
}

// profile is what stands in an ID token of openid, profile and email, and in
// which groups the user is.
func profile(groups []string) map[string]any {
	claims := map[string]any{"name": "Alice Ash", "email": "alice@example.com", "email_verified": true}
	if len(groups) > 0 {
		claims["groups"] = groups
	}
	return claims
}

// tokensOf has the provider issue access and ID tokens of about that many bytes
// from now on. They grow as real ones do, by the names of permissions, which a
// compressor finds alike, and by GUIDs of groups, which it does not.
func (b *bench) tokensOf(size int) {
	access := grown(size, func(n int) map[string]any { return map[string]any{"permissions": permissions(n)} }, func(claims map[string]any) string {
		all := map[string]any{
			"iss": b.op.URL, "aud": []string{audience}, "sub": user(0), "client_id": "bench", "scope": scopes,
			"iat": time.Now().Unix(), "exp": time.Now().Unix(), "jti": rand.Text(),
		}
		for name, value := range claims {
			all[name] = value
		}
		return b.op.Sign(map[string]any{"typ": "at+jwt"}, all)
	})
	identity := grown(size, func(n int) map[string]any { return profile(permissions(n)) }, func(claims map[string]any) string {
		all := map[string]any{
			"iss": b.op.URL, "aud": "bench", "sub": user(0), "nonce": rand.Text() + rand.Text()[:17], "iat": time.Now().Unix(),
			"exp": time.Now().Unix(), "auth_time": time.Now().Unix(), "sid": "sid-" + rand.Text(), "at_hash": rand.Text()[:22],
		}
		for name, value := range claims {
			all[name] = value
		}
		return b.op.Sign(nil, all)
	})
	everybody := everybody(identity)
	b.op.Change(func(cfg *provider.Config) {
		cfg.AccessTokenClaims = access
		cfg.Users = everybody
	})
}

const scopes = "openid profile email offline_access"

// grown are the claims with as many entries as make a token of that size, or of
// a few bytes more.
func grown(size int, claims func(int) map[string]any, token func(map[string]any) string) map[string]any {
	n := 0
	for len(token(claims(n))) < size {
		n++
	}
	return claims(n)
}

// permissions are the first n entries of a list that is the same for everybody in
// one run.
func permissions(n int) []string {
	for len(granted) < n {
		verb, noun := verbs[len(granted)%len(verbs)], nouns[len(granted)/2%len(nouns)]
		if len(granted)%2 == 1 {
			granted = append(granted, guid())
		} else {
			granted = append(granted, verb+":"+noun)
		}
	}
	return granted[:n]
}

var (
	granted []string
	verbs   = []string{"read", "list", "create", "update", "delete", "approve"}
	nouns   = []string{"appointments", "contacts", "invoices", "orders", "reports", "users", "warehouses", "price-lists", "audit-log"}
)

func guid() string {
	var b [16]byte
	_, _ = rand.Read(b[:])
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}
