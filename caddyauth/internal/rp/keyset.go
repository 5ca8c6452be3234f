package rp

import (
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/go-jose/go-jose/v4"
)

// keySet is the provider's published keys, in place of go-oidc's own set,
// which loses all keys over one that it cannot parse (F01) and fetches them
// anew for every forged token (F02).
type keySet struct {
	caller *caller
	now    func() time.Time

	mu     sync.Mutex
	keys   []publicKey
	uri    string    // where keys came from
	until  time.Time // when to ask again whether they still stand
	stale  time.Time // when to wait for the answer
	flight *keyFetch
	leaked bool // whether private keys are published
	failed keyFailure

	// A token bucket: tokens are fetches that may be made for a signature
	// that does not verify. Some may follow each other at once, for a provider
	// may rotate its keys just before it signs; then one per refillEvery. Of
	// tokens that anybody may send, each kind leaves some to what is more certain:
	// access tokens to logout tokens, and both to logins.
	spent    int
	refilled time.Time
}

// keyFailure is a fetch that failed, the latest.
type keyFailure struct {
	uri string
	at  time.Time
	err error
}

type keyFetch struct {
	uri  string
	done chan struct{}
	err  error
}

// publicKey is a key, and whose tokens it signs where it says so: Entra's keys
// have a member "issuer".
type publicKey struct {
	jose.JSONWebKey
	issuer string
}

const (
	fetchBurst  = 3
	refillEvery = time.Minute

	// keysLifetime is how long keys are used without asking whether they
	// still stand, where the provider does not say: a key that it withdrew must
	// go at some time. What it says is kept within bounds.
	keysLifetime    = time.Hour
	minKeysLifetime = time.Minute
	maxKeysLifetime = 24 * time.Hour

	// maxKeys bounds a set: a larger one is no provider's. Which of its keys
	// were the real ones would be a matter of their order.
	maxKeys = 200

	minRSABits = 2048
	maxRSABits = 8192 // beyond, verifying gets expensive: a way to stall us
)

// signedBy implements oidc.KeySet for one token: with the keys at uri, and
// the algorithms that its header may name.
type signedBy struct {
	set        *keySet
	uri        string
	algorithms []string
	spares     int // fetches that are left to others

	// What VerifySignature found: go-oidc gives out the payload only decoded,
	// and of the error only the text.
	payload   []byte
	keyIssuer string
	err       error
}

// VerifySignature checks the signature of a compact JWS and returns its
// payload. Errors: ErrUnavailable when there are no keys because they cannot
// be fetched, ErrInvalid when no key verifies the signature.
func (v *signedBy) VerifySignature(ctx context.Context, jwt string) ([]byte, error) {
	v.payload, v.keyIssuer, v.err = v.set.verify(ctx, v, jwt)
	return v.payload, v.err
}

// verify returns the payload of a JWS that one of the keys signed, and whose
// tokens that key signs.
func (s *keySet) verify(ctx context.Context, by *signedBy, jwt string) (payload []byte, issuer string, err error) {
	jws, err := parseCompact(jwt, by.algorithms)
	if err != nil {
		return nil, "", err
	}
	if err := s.tooSoon(by); err != nil {
		return nil, "", err
	}
	keys, err := s.current(ctx, by.uri)
	if err != nil {
		return nil, "", err
	}
	if payload, issuer, ok := verifyWith(keys, jws); ok {
		return payload, issuer, nil
	}
	// An unknown key, or a known one that was replaced under its old name:
	// perhaps the provider has rotated its keys.
	renewed, err := s.renewed(ctx, by.uri, keys, by.spares)
	if err != nil {
		return nil, "", err
	}
	if payload, issuer, ok := verifyWith(renewed, jws); ok {
		return payload, issuer, nil
	}
	return nil, "", fmt.Errorf("%w: no key of the provider verifies it", ErrInvalid)
}

// current returns the keys, fetching them when there are none or when they
// came from elsewhere. Old ones are renewed in the background: they serve on
// until new ones are here. Those that nobody has asked about for long are
// renewed first, for a key may have been withdrawn; but if they cannot be, they
// serve on, too.
func (s *keySet) current(ctx context.Context, uri string) ([]publicKey, error) {
	if uri == "" {
		return nil, fmt.Errorf("%w: %w: the provider's endpoints name no jwks", ErrNoKeys, ErrMisconfigured)
	}
	s.mu.Lock()
	keys, have := s.keys, s.keys != nil && s.uri == uri
	due := have && !s.now().Before(s.until)
	wait := !have || due && !s.now().Before(s.stale)
	if due {
		s.until = s.now().Add(RetryAfter) // whoever comes meanwhile need not ask again
		s.start(ctx, uri)
	}
	s.mu.Unlock()
	if !wait {
		return keys, nil
	}
	if err := s.fetch(ctx, uri); err != nil && !have {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.keys, nil
}

// tooSoon is for tokens that anybody may send, while there are no keys at all:
// they wait for a fetch under way, but begin none soon after one has failed, for
// else each of them would (A102).
func (s *keySet) tooSoon(by *signedBy) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if by.spares == 0 || s.keys != nil && s.uri == by.uri || s.flight != nil || s.failed.uri != by.uri || s.now().Sub(s.failed.at) >= RetryAfter {
		return nil
	}
	return s.failed.err
}

// renewed fetches the keys once more if the token bucket allows it, and holds
// more than the tokens to spare.
func (s *keySet) renewed(ctx context.Context, uri string, tried []publicKey, spare int) ([]publicKey, error) {
	s.mu.Lock()
	if !sameKeys(s.keys, tried) { // somebody else's fetch got new ones meanwhile
		defer s.mu.Unlock()
		return s.keys, nil
	}
	if s.flight == nil && !s.take(spare) {
		s.mu.Unlock()
		return nil, fmt.Errorf("%w: %w: no key at hand verifies it, and they were fetched too often lately", ErrNoKeys, ErrInvalid)
	}
	s.mu.Unlock()
	if err := s.fetch(ctx, uri); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.keys, nil
}

// take spends a token of the bucket, if it holds more than those to spare; s.mu
// is held.
func (s *keySet) take(spare int) bool {
	if refill := int(s.now().Sub(s.refilled) / refillEvery); refill > 0 {
		s.spent = max(0, s.spent-refill)
		s.refilled = s.now()
	}
	if s.spent >= fetchBurst-spare {
		return false
	}
	s.spent++
	return true
}

// fetch gets the keys; all who want them at the same time share one call,
// which no caller's going away stops.
func (s *keySet) fetch(ctx context.Context, uri string) error {
	for {
		s.mu.Lock()
		f := s.start(ctx, uri)
		s.mu.Unlock()
		select {
		case <-f.done:
			if f.uri == uri { // else it was one of other keys
				return f.err
			}
		case <-ctx.Done():
			return fmt.Errorf("%w: %w: %w", ErrNoKeys, ErrUnavailable, ctx.Err())
		}
	}
}

// start returns the fetch under way, and begins one if there is none; s.mu is
// held.
func (s *keySet) start(ctx context.Context, uri string) *keyFetch {
	if s.flight == nil {
		s.flight = &keyFetch{uri: uri, done: make(chan struct{})}
		go s.run(context.WithoutCancel(ctx), uri, s.flight)
	}
	return s.flight
}

func (s *keySet) run(ctx context.Context, uri string, f *keyFetch) {
	var lifetime time.Duration
	var leaked bool
	keys, err := fetch(ctx, s.caller, uri, maxKeySetSize, func(resp *response) ([]publicKey, error) {
		lifetime = min(max(minKeysLifetime, maxAge(resp.header, keysLifetime)), maxKeysLifetime)
		leaked = holdsPrivateKey(resp.body)
		return parseKeys(resp.body)
	})
	s.mu.Lock()
	defer s.mu.Unlock()
	if err == nil {
		s.keys, s.uri, s.leaked = keys, uri, leaked
		s.until = s.now().Add(lifetime)
		s.stale = s.until.Add(keysLifetime)
	} else {
		f.err = fmt.Errorf("%w: %w", ErrNoKeys, err)
		s.failed = keyFailure{uri, s.now(), f.err}
	}
	s.flight = nil
	close(f.done)
}

// maxAge reads max-age of Cache-Control (RFC 9111 section 5.2.2.1).
func maxAge(h http.Header, otherwise time.Duration) time.Duration {
	for _, line := range h["Cache-Control"] {
		for directive := range strings.SplitSeq(line, ",") {
			name, value, _ := strings.Cut(strings.TrimSpace(directive), "=")
			if !strings.EqualFold(name, "max-age") {
				continue
			}
			if seconds, err := strconv.ParseUint(strings.Trim(value, `"`), 10, 31); err == nil {
				return time.Duration(seconds) * time.Second
			}
		}
	}
	return otherwise
}

// parseKeys reads a JWK Set (RFC 7517 section 5) key by key, and passes over
// those it cannot use, as the RFC asks: one odd key must not cost the others.
func parseKeys(data []byte) ([]publicKey, error) {
	var set struct {
		Keys []json.RawMessage `json:"keys"`
	}
	if err := json.Unmarshal(data, &set); err != nil || set.Keys == nil {
		return nil, fmt.Errorf("%w: not a JWK set", ErrInvalid)
	}
	if len(set.Keys) > maxKeys {
		return nil, fmt.Errorf("%w: a JWK set of %d keys, %d are the limit", ErrInvalid, len(set.Keys), maxKeys)
	}
	keys := []publicKey{} // not nil: that would mean "never fetched"
	for _, raw := range set.Keys {
		var key jose.JSONWebKey
		if key.UnmarshalJSON(raw) != nil {
			continue
		}
		if key = key.Public(); usable(&key) {
			var whose struct {
				Issuer string `json:"issuer"`
			}
			_ = json.Unmarshal(raw, &whose) // what is no text says nothing
			keys = append(keys, publicKey{JSONWebKey: key, issuer: whose.Issuer})
		}
	}
	return keys, nil
}

// holdsPrivateKey reports whether a JWK Set shows what nobody else may know:
// then anybody can sign what its keys verify (M33).
func holdsPrivateKey(data []byte) bool {
	var set struct {
		Keys []struct {
			D any `json:"d"`
		} `json:"keys"`
	}
	_ = json.Unmarshal(data, &set) // what it could read, it did
	for _, key := range set.Keys {
		if text, ok := key.D.(string); ok && text != "" {
			return true
		}
	}
	return false
}

// usable reports whether a key is a public one for signatures, neither too
// weak nor so large that verifying stalls.
func usable(key *jose.JSONWebKey) bool {
	if key.Use != "" && key.Use != "sig" {
		return false
	}
	switch k := key.Key.(type) {
	case *rsa.PublicKey:
		return k.N.BitLen() >= minRSABits && k.N.BitLen() <= maxRSABits && k.E >= 3
	case *ecdsa.PublicKey:
		return k.Curve == elliptic.P256() || k.Curve == elliptic.P384() || k.Curve == elliptic.P521()
	case ed25519.PublicKey:
		return len(k) == ed25519.PublicKeySize
	default:
		return false // symmetric keys among them: Public makes them empty
	}
}

// verifyWith tries the keys that may have signed: those with the token's key
// id, or all when either side names none, of the algorithm's kind.
func verifyWith(keys []publicKey, jws *jose.JSONWebSignature) (payload []byte, issuer string, ok bool) {
	header := jws.Signatures[0].Header
	for i := range keys {
		key := &keys[i]
		if header.KeyID != "" && key.KeyID != "" && key.KeyID != header.KeyID {
			continue
		}
		if !fits(&key.JSONWebKey, header.Algorithm) {
			continue
		}
		if payload, err := jws.Verify(key.Key); err == nil {
			return payload, key.issuer, true
		}
	}
	return nil, "", false
}

// fits reports whether a key signs with an algorithm: the one it says, else
// any of its kind (RFC 7518 section 3.1; for EC, curve and hash belong
// together, section 3.4).
func fits(key *jose.JSONWebKey, algorithm string) bool {
	if key.Algorithm != "" && key.Algorithm != algorithm {
		return false
	}
	switch k := key.Key.(type) {
	case *rsa.PublicKey:
		return slices.Contains([]string{"RS256", "RS384", "RS512", "PS256", "PS384", "PS512"}, algorithm)
	case *ecdsa.PublicKey:
		return map[string]elliptic.Curve{"ES256": elliptic.P256(), "ES384": elliptic.P384(), "ES512": elliptic.P521()}[algorithm] == k.Curve
	case ed25519.PublicKey:
		return algorithm == "EdDSA"
	default:
		return false
	}
}

// parseCompact parses a JWS in compact serialization with one of the given
// algorithms. Nothing in its header is followed: no jku, x5u, jwk or x5c.
func parseCompact(jwt string, algorithms []string) (*jose.JSONWebSignature, error) {
	allowed := make([]jose.SignatureAlgorithm, len(algorithms))
	for i, alg := range algorithms {
		allowed[i] = jose.SignatureAlgorithm(alg)
	}
	jws, err := jose.ParseSignedCompact(jwt, allowed)
	if err != nil {
		return nil, fmt.Errorf("%w: not a JWT signed with an accepted algorithm", ErrInvalid)
	}
	if len(jws.Signatures) != 1 {
		return nil, fmt.Errorf("%w: must have one signature", ErrInvalid)
	}
	return jws, nil
}

func sameKeys(a, b []publicKey) bool {
	return len(a) == len(b) && (len(a) == 0 || &a[0] == &b[0])
}
