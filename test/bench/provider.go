package main

import (
	"crypto/rand"
	"fmt"
	"maps"
	"time"

	"github.com/pkce-auth/caddy-pkce-auth/test/provider"
)

// audience is the API that access tokens are for: with one they are JWTs.
const audience = "https://api.example.com"

// Who the peers are: they want a secret.
const peerClient, peerSecret = "peer", "a-secret-that-all-may-know"

// users is how many people can log in.
const users = 20_000

func user(n int) string { return fmt.Sprintf("auth0|6561f2a1c7d4e9b0%08x", n%users) }

// startProvider starts the provider, where login_hint says who logs in.
func startProvider() (*provider.Provider, error) {
	return provider.Start(provider.Config{
		Clients:       map[string]provider.Client{"bench": {}, peerClient: {Secret: peerSecret}},
		Users:         everybody(profile(nil)),
		Login:         user(0),
		LoginHint:     true,
		TokenLifetime: 12 * time.Hour,
	})
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
func (b *bench) tokensOf(size int) { b.tokensSignedBy("RS256", size) }

// manyTokensOf is tokensOf where thousands log in: ES256 signs in a fiftieth of the
// time of RS256, which would be most of what such a scenario takes.
func (b *bench) manyTokensOf(size int) { b.tokensSignedBy("ES256", size) }

func (b *bench) tokensSignedBy(algorithm string, size int) {
	now := time.Now().Unix()
	access := grown(size, func(n int) map[string]any { return map[string]any{"permissions": b.permissions(n)} }, func(claims map[string]any) string {
		return b.op.Sign(map[string]any{"typ": "at+jwt", "alg": algorithm}, with(claims, map[string]any{
			"iss": b.op.URL, "aud": []string{audience}, "sub": user(0), "client_id": "bench", "scope": scopes,
			"iat": now, "exp": now, "jti": random(32),
		}))
	})
	identity := grown(size, func(n int) map[string]any { return profile(b.permissions(n)) }, func(claims map[string]any) string {
		return b.op.Sign(map[string]any{"typ": "JWT", "alg": algorithm}, with(claims, map[string]any{
			"iss": b.op.URL, "aud": "bench", "sub": user(0), "nonce": random(43), "iat": now, "exp": now, "auth_time": now,
			"sid": "sid-" + random(32), "at_hash": random(22),
		}))
	})
	everybody := everybody(identity)
	b.op.Change(func(cfg *provider.Config) {
		cfg.AccessTokenClaims = access
		cfg.Users, cfg.Algorithm = everybody, algorithm
	})
}

// with adds claims to others.
func with(claims, more map[string]any) map[string]any {
	all := maps.Clone(claims)
	maps.Copy(all, more)
	return all
}

// random stands for what is random in a token, of that length.
func random(length int) string { return (rand.Text() + rand.Text())[:length] }

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
func (b *bench) permissions(n int) []string {
	verbs := []string{"read", "list", "create", "update", "delete", "approve"}
	nouns := []string{"appointments", "contacts", "invoices", "orders", "reports", "users", "warehouses", "price-lists", "audit-log"}
	for len(b.granted) < n {
		entry := guid()
		if i := len(b.granted) / 2; len(b.granted)%2 == 0 {
			entry = verbs[i%len(verbs)] + ":" + nouns[i%len(nouns)]
		}
		b.granted = append(b.granted, entry)
	}
	return b.granted[:n]
}

func guid() string {
	var b [16]byte
	_, _ = rand.Read(b[:])
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}
