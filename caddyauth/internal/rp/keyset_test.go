package rp

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"errors"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/pkce-auth/caddy-pkce-auth/test/provider"
)

// verifies runs only the signature check.
func verifies(t testing.TB, c *Client, token string) error {
	t.Helper()
	m := metadata(t, c)
	_, _, err := c.Provider.keys.verify(t.Context(), &signedBy{uri: m.JWKSURI, algorithms: m.IDTokenAlgorithms}, token)
	return err
}

// F01, M24, M25, M33: one key that nobody can use must not cost the others.
func TestM24M25M29M33F01OddKeysAmongGood(t *testing.T) {
	for name, odd := range map[string]any{
		"M25 secp256k1 without alg":     map[string]any{"kty": "EC", "crv": "secp256k1", "x": "AA", "y": "AA"},
		"M25 an unknown kind":           map[string]any{"kty": "AKP", "alg": "ML-DSA-44", "pub": "AA"},
		"M25 X448":                      map[string]any{"kty": "OKP", "crv": "X448", "x": "AA"},
		"M25 a point off the curve":     map[string]any{"kty": "EC", "crv": "P-256", "x": "AA", "y": "AA"},
		"M25 RSA without n":             map[string]any{"kty": "RSA", "e": "AQAB"},
		"M25 bad base64":                map[string]any{"kty": "RSA", "e": "AQAB", "n": "!!"},
		"M25 a numeric kid":             map[string]any{"kty": "RSA", "e": "AQAB", "n": "AQAB", "kid": 7},
		"M25 a broken certificate":      map[string]any{"kty": "RSA", "e": "AQAB", "n": "AQAB", "x5c": []string{"AA"}},
		"M25 no object":                 "key",
		"M25 null":                      nil,
		"M29 a shared secret":           map[string]any{"kty": "oct", "k": "c2VjcmV0", "alg": "HS256"},
		"M28 RSA of 16 kbit (no prime)": map[string]any{"kty": "RSA", "e": "AQAB", "n": string(make([]byte, 0))},
	} {
		t.Run(name, func(t *testing.T) {
			op := start(t, provider.Config{})
			op.Misbehave(provider.Faults{Keys: func(keys []any) []any { return append([]any{odd}, keys...) }})
			if err := verifies(t, newClient(op), op.Sign(map[string]any{}, map[string]any{"sub": "x"})); err != nil {
				t.Error(err)
			}
		})
	}
}

// R33, M22 to M30: which key verifies what.
func TestR33KeySelection(t *testing.T) {
	token := func(header map[string]any) func(*provider.Provider) string {
		return func(op *provider.Provider) string { return op.Sign(header, map[string]any{"sub": "x"}) }
	}
	each := func(change func(key map[string]any)) func([]any) []any {
		return func(keys []any) []any {
			for _, key := range keys {
				change(key.(map[string]any))
			}
			return keys
		}
	}
	for _, tc := range []struct {
		name  string
		keys  func([]any) []any
		token func(*provider.Provider) string
		ok    bool
	}{
		{"RS256", nil, token(map[string]any{"alg": "RS256"}), true},
		{"ES256", nil, token(map[string]any{"alg": "ES256"}), true},
		{"EdDSA", nil, token(map[string]any{"alg": "EdDSA"}), true},
		{"M23 no kid in the token", nil, token(map[string]any{"kid": ""}), true},
		{"M22 no kid in the keys", each(func(key map[string]any) { delete(key, "kid") }), token(nil), true},
		{"M24 one kid for keys of several kinds", each(func(key map[string]any) { key["kid"] = "k" }), token(map[string]any{"kid": "k"}), true},
		{"keys that name no algorithm", each(func(key map[string]any) { delete(key, "alg") }), token(nil), true},
		{"M21 an unknown kid", nil, token(map[string]any{"kid": "unknown"}), false},
		{"M27 keys for encryption", each(func(key map[string]any) { key["use"] = "enc" }), token(nil), false},
		{"F03 RS256 with a key for PS256", each(func(key map[string]any) { key["alg"] = "PS256" }), token(nil), false},
		{"M26 an empty set", func([]any) []any { return []any{} }, token(nil), false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			op := start(t, provider.Config{})
			op.Misbehave(provider.Faults{Keys: tc.keys})
			err := verifies(t, newClient(op), tc.token(op))
			if (err == nil) != tc.ok {
				t.Errorf("got %v, want ok %v", err, tc.ok)
			}
			if !tc.ok && !errors.Is(err, ErrInvalid) {
				t.Errorf("got %v, want ErrInvalid", err)
			}
		})
	}
}

// F03, M28: keys too weak or too large are no keys.
func TestF03M28KeySizes(t *testing.T) {
	for bits, want := range map[int]bool{1024: false, 2048: true, 8192: true, 8200: false, 16384: false} {
		key := jose.JSONWebKey{Key: &rsa.PublicKey{N: oddOf(bits), E: 65537}}
		if got := usable(&key); got != want {
			t.Errorf("%d bits: got %v, want %v", bits, got, want)
		}
	}
	key := jose.JSONWebKey{Key: &rsa.PublicKey{N: oddOf(2048), E: 1}}
	if usable(&key) {
		t.Error("an exponent of 1 is accepted")
	}
}

// F02, A102, M32: forged tokens cost a handful of fetches, and do not keep a
// real rotation from getting through.
func TestF02A102M32ForgedTokensCostNothing(t *testing.T) {
	op := start(t, provider.Config{})
	forger := start(t, provider.Config{})
	forger.RotateKeys()
	c := newClient(op)
	good := op.Sign(nil, map[string]any{"sub": "x"})
	unknown := forger.Sign(nil, map[string]any{"sub": "x"})
	known := good[:len(good)-8] + "AAAAAAAA"
	for i := range 200 {
		if verifies(t, c, unknown) == nil || verifies(t, c, known) == nil {
			t.Fatal("a forged token verifies")
		}
		if i%50 == 0 {
			if err := verifies(t, c, good); err != nil {
				t.Fatal(err)
			}
		}
	}
	if got := len(op.Requests("keys")); got != 1+fetchBurst {
		t.Errorf("400 forged tokens: got %d fetches, want %d", got, 1+fetchBurst)
	}
}

// M30: a rotation just before signing is followed at once, twice in a row.
func TestM30IDPS41RotationJustBeforeSigning(t *testing.T) {
	op := start(t, provider.Config{})
	c := newClient(op)
	for range 1 + fetchBurst {
		if err := verifies(t, c, op.Sign(nil, map[string]any{"sub": "x"})); err != nil {
			t.Fatal(err)
		}
		op.RotateKeys()
	}
}

// M31: while no keys can be had, old ones serve on, and a token of a new one
// is refused as something to try again, not as forged.
func TestM31KeysUnavailable(t *testing.T) {
	op := start(t, provider.Config{})
	c := newClient(op)
	old := op.Sign(nil, map[string]any{"sub": "x"})
	if err := verifies(t, c, old); err != nil {
		t.Fatal(err)
	}
	op.RotateKeys()
	op.Misbehave(provider.Faults{Answer: map[string]func(http.ResponseWriter, *http.Request) bool{"keys": provider.Status(500, "text/plain", "")}})
	if err := verifies(t, c, op.Sign(nil, map[string]any{"sub": "x"})); !errors.Is(err, ErrUnavailable) {
		t.Errorf("a token of a new key: got %v, want ErrUnavailable", err)
	}
	if err := verifies(t, c, old); err != nil {
		t.Errorf("a token of an old key: %v", err)
	}
	if err := verifies(t, newClient(op), old); !errors.Is(err, ErrUnavailable) {
		t.Errorf("without any keys: got %v, want ErrUnavailable", err)
	}
}

// M36: keys are asked for again in the background, when their time is up: what
// the provider says of it counts between a minute and a day. Those that nobody
// asked about for long are renewed first; if that fails, they serve on.
func TestM36KeysAreAskedForAgain(t *testing.T) {
	for name, tc := range map[string]struct {
		cacheControl string
		lifetime     time.Duration
	}{
		"nothing said":      {"", keysLifetime},
		"no-store":          {"no-store", keysLifetime},
		"at once":           {"public, max-age=0", time.Minute},
		"ten minutes":       {"public,MAX-AGE=600, must-revalidate", 10 * time.Minute},
		"a year":            {"max-age=31536000", 24 * time.Hour},
		"what is no time":   {"max-age=soon", keysLifetime},
		"a negative time":   {"max-age=-1", keysLifetime},
		"more than fits":    {"max-age=99999999999999999999", keysLifetime},
		"with quotes":       {`max-age="600"`, 10 * time.Minute},
		"of something else": {"s-maxage=1", keysLifetime},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var calls atomic.Int32
				var down atomic.Bool
				p := NewProvider(ProviderConfig{Issuer: "https://op.test", Transport: roundTripper(func(*http.Request) (*http.Response, error) {
					calls.Add(1)
					time.Sleep(time.Second)
					if down.Load() {
						return nil, errors.New("down")
					}
					return (&recorder{header: http.Header{"Cache-Control": {tc.cacheControl}}}).response(200, []byte(`{"keys":[]}`)), nil
				})})
				ask := func(when string, wantWait time.Duration, wantCalls int32) {
					t.Helper()
					began := time.Now()
					if _, err := p.keys.current(t.Context(), "https://op.test/keys"); err != nil {
						t.Fatalf("%s: %v", when, err)
					}
					if waited := time.Since(began); waited != wantWait {
						t.Errorf("%s: waited %s, want %s", when, waited, wantWait)
					}
					time.Sleep(2 * time.Second) // what goes on in the background ends
					if calls.Load() != wantCalls {
						t.Errorf("%s: got %d fetches, want %d", when, calls.Load(), wantCalls)
					}
				}
				ask("first", time.Second, 1)
				time.Sleep(tc.lifetime - 10*time.Second)
				ask("still good", 0, 1)
				time.Sleep(10 * time.Second)
				ask("their time is up", 0, 2)
				ask("just renewed", 0, 2)
				time.Sleep(tc.lifetime + keysLifetime)
				ask("long forgotten", time.Second, 3)
				down.Store(true)
				time.Sleep(tc.lifetime + keysLifetime)
				ask("long forgotten, and down", time.Second, 4)
				ask("asked a moment ago", 0, 4)
			})
		})
	}
}

// M33: a provider that publishes what nobody else may know is noticed, for the
// operator must hear of it; its public half serves all the same.
func TestM33LeakedKeys(t *testing.T) {
	op := start(t, provider.Config{})
	c := newClient(op)
	token := op.Sign(nil, map[string]any{"sub": "x"})
	if err := verifies(t, c, token); err != nil || c.Provider.LeaksKeys() {
		t.Errorf("an honest provider: %v, leaks: %v", err, c.Provider.LeaksKeys())
	}
	op.Misbehave(provider.Faults{Keys: func(keys []any) []any {
		return append(keys, map[string]any{"kty": "EC", "crv": "P-256", "x": "AA", "y": "AA", "d": "AA"})
	}})
	c = newClient(op)
	if err := verifies(t, c, token); err != nil || !c.Provider.LeaksKeys() {
		t.Errorf("one that leaks: %v, leaks: %v", err, c.Provider.LeaksKeys())
	}
}

// M26, M34: what is no set, or one so large that its order would decide, is no
// set of keys: nothing is known then, rather than that the token is forged.
func TestM26SetsThatAreNone(t *testing.T) {
	many := make([]any, maxKeys+1)
	for i := range many {
		many[i] = map[string]any{"kty": "AKP"}
	}
	for name, tc := range map[string]struct {
		body string
		keys func([]any) []any
		ok   bool
	}{
		"no JSON":           {body: "<html>"},
		"a list":            {body: "[]"},
		"no keys":           {body: "{}"},
		"null":              {body: `{"keys":null}`},
		"keys in an object": {body: `{"keys":{}}`},
		"too many":          {keys: func(keys []any) []any { return append(keys, many...) }},
		"as many as may be": {keys: func(keys []any) []any { return append(keys, many[:maxKeys-len(keys)]...) }, ok: true},
	} {
		op := start(t, provider.Config{})
		faults := provider.Faults{Keys: tc.keys}
		if tc.body != "" {
			faults.Answer = map[string]func(http.ResponseWriter, *http.Request) bool{"keys": provider.Status(200, "application/json", tc.body)}
		}
		op.Misbehave(faults)
		err := verifies(t, newClient(op), op.Sign(nil, map[string]any{"sub": "x"}))
		if (err == nil) != tc.ok || !tc.ok && !errors.Is(err, ErrNoKeys) {
			t.Errorf("%s: got %v, want ok %v", name, err, tc.ok)
		}
	}
}

// F02: of many tokens whose key is unknown at the same time, the first fetches,
// and the others take what it brought: they spend nothing of the bucket.
func TestF02RenewedBySomebodyElse(t *testing.T) {
	op := start(t, provider.Config{})
	c := newClient(op)
	if err := verifies(t, c, op.Sign(nil, map[string]any{"sub": "x"})); err != nil {
		t.Fatal(err)
	}
	uri := metadata(t, c).JWKSURI
	tried, err := c.Provider.keys.current(t.Context(), uri)
	if err != nil {
		t.Fatal(err)
	}
	op.RotateKeys()
	for range 10 * fetchBurst {
		keys, err := c.Provider.keys.renewed(t.Context(), uri, tried, 0)
		if err != nil || len(keys) != len(tried) || sameKeys(keys, tried) {
			t.Fatalf("got %d keys, %v", len(keys), err)
		}
	}
	if got := len(op.Requests("keys")); got != 2 {
		t.Errorf("got %d fetches, want 2", got)
	}
}

// Keys at another address are other keys.
func TestKeysAtAnotherAddress(t *testing.T) {
	op, other := start(t, provider.Config{}), start(t, provider.Config{})
	p := NewProvider(ProviderConfig{Issuer: op.URL})
	for _, uri := range []string{op.URL + "/keys", other.URL + "/keys"} {
		if _, err := p.keys.current(t.Context(), uri); err != nil {
			t.Fatal(err)
		}
	}
	if len(op.Requests("keys")) != 1 || len(other.Requests("keys")) != 1 {
		t.Errorf("got %d and %d fetches", len(op.Requests("keys")), len(other.Requests("keys")))
	}
	if _, err := p.keys.current(t.Context(), ""); !errors.Is(err, ErrMisconfigured) {
		t.Errorf("without an address: %v", err)
	}
}

// FuzzJWKS: whatever is accepted is a public key of a kind and size we use.
func FuzzJWKS(f *testing.F) {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		f.Fatal(err)
	}
	good, _ := (&jose.JSONWebKey{Key: &key.PublicKey, KeyID: "k", Use: "sig"}).MarshalJSON()
	private, _ := (&jose.JSONWebKey{Key: key, KeyID: "k"}).MarshalJSON()
	f.Add([]byte(`{"keys":[` + string(good) + `]}`))
	f.Add([]byte(`{"keys":[` + string(private) + `,{"kty":"EC","crv":"secp256k1","x":"AA","y":"AA"},1,null]}`))
	f.Add([]byte(`{"keys":[{"kty":"oct","k":"AA"}]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		keys, err := parseKeys(data)
		if err != nil {
			return
		}
		for i := range keys {
			if !keys[i].IsPublic() || !usable(&keys[i].JSONWebKey) {
				t.Fatalf("accepted %T", keys[i].Key)
			}
		}
	})
}

// M31: whatever the reason why the keys cannot be had, the error says that
// nothing is known of the signature.
func TestM31NoKeys(t *testing.T) {
	verify := func(ctx context.Context, b *bench) error {
		_, err := b.client.VerifyIDToken(ctx, metadata(t, b.client), NewSecret(b.op.Sign(nil, b.claims(nil))), Expected{Nonce: NewSecret("the-nonce")})
		return err
	}
	t.Run("404", func(t *testing.T) {
		b := newBench(t)
		b.op.Misbehave(provider.Faults{Answer: map[string]func(http.ResponseWriter, *http.Request) bool{"keys": provider.Status(404, "text/html", "x")}})
		if err := verify(t.Context(), b); !errors.Is(err, ErrNoKeys) {
			t.Errorf("got %v", err)
		}
	})
	t.Run("too slow", func(t *testing.T) {
		b := newBench(t)
		metadata(t, b.client)
		release := make(chan struct{})
		defer close(release)
		b.op.Misbehave(provider.Faults{Answer: map[string]func(http.ResponseWriter, *http.Request) bool{"keys": func(http.ResponseWriter, *http.Request) bool {
			<-release
			return false
		}}})
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		defer cancel()
		if err := verify(ctx, b); !errors.Is(err, ErrNoKeys) || !errors.Is(err, ErrUnavailable) {
			t.Errorf("got %v", err)
		}
	})
	t.Run("fetched too often", func(t *testing.T) {
		b := newBench(t)
		forged := b.op.Sign(nil, b.claims(nil))
		forged = forged[:len(forged)-20] + strings.Repeat("A", 20)
		var err error
		for range fetchBurst + 2 {
			_, err = b.client.VerifyIDToken(t.Context(), metadata(t, b.client), NewSecret(forged), Expected{})
		}
		if !errors.Is(err, ErrNoKeys) || !errors.Is(err, ErrInvalid) {
			t.Errorf("got %v", err)
		}
	})
}

// A key set at another address is another one, though the fetch of the first
// is still under way.
func TestKeysOfTheRightAddress(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := NewProvider(ProviderConfig{Issuer: "https://op.test", Transport: roundTripper(func(r *http.Request) (*http.Response, error) {
			time.Sleep(time.Second)
			if r.URL.Path == "/old" {
				return nil, errors.New("gone")
			}
			return (&recorder{header: http.Header{}}).response(200, []byte(`{"keys":[]}`)), nil
		})})
		go func() { _, _ = p.keys.current(t.Context(), "https://op.test/old") }()
		time.Sleep(time.Millisecond)
		if _, err := p.keys.current(t.Context(), "https://op.test/new"); err != nil || p.keys.uri != "https://op.test/new" {
			t.Errorf("got %v, and the keys of %s", err, p.keys.uri)
		}
	})
}

// M33: what counts as a private key that is published.
func TestM33HoldsPrivateKey(t *testing.T) {
	for data, want := range map[string]bool{
		`{"keys":[{"kty":"RSA","n":"x","d":"secret"}]}`: true, `{"keys":[{"kty":"RSA","n":"x"},{"kty":"EC","d":"x"}]}`: true,
		`{"keys":[{"kty":"RSA","n":"x","d":null}]}`: false, `{"keys":[{"d":""}]}`: false, `{"keys":[{"d":7}]}`: false, `{"keys":[]}`: false, `x`: false,
	} {
		if got := holdsPrivateKey([]byte(data)); got != want {
			t.Errorf("%s: got %v", data, got)
		}
	}
}
