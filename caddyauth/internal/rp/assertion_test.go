package rp

import (
	"crypto"
	"crypto/ecdh"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/pkce-auth/caddy-pkce-auth/test/provider"
)

func pemOf(t testing.TB, blockType string, key any, marshal func(any) ([]byte, error)) []byte {
	t.Helper()
	der, err := marshal(key)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: blockType, Bytes: der})
}

func pkcs8(key any) ([]byte, error) { return x509.MarshalPKCS8PrivateKey(key) }

func must[T any](t testing.TB) func(T, error) T {
	return func(value T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return value
	}
}

// IDPS 20, R54: private_key_jwt with every kind of key, in every encoding, on
// code exchange, refresh and revocation; each assertion is new, short-lived
// and for the issuer. The provider checks all of that.
func TestIDPS20R54PrivateKeyJWT(t *testing.T) {
	rsaKey := must[*rsa.PrivateKey](t)(rsa.GenerateKey(rand.Reader, 2048))
	ecKey := must[*ecdsa.PrivateKey](t)(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
	_, edKey, _ := ed25519.GenerateKey(rand.Reader)
	for _, tc := range []struct {
		name       string
		pem        []byte
		public     crypto.PublicKey
		advertised []string
		algorithm  string
	}{
		{"RSA, PKCS #8", pemOf(t, "PRIVATE KEY", rsaKey, pkcs8), &rsaKey.PublicKey, nil, "RS256"},
		{"RSA, PKCS #1, PS256 advertised", pemOf(t, "RSA PRIVATE KEY", rsaKey, func(any) ([]byte, error) { return x509.MarshalPKCS1PrivateKey(rsaKey), nil }), &rsaKey.PublicKey, []string{"RS256", "PS256"}, "PS256"},
		{"P-256, SEC 1", pemOf(t, "EC PRIVATE KEY", ecKey, func(any) ([]byte, error) { return x509.MarshalECPrivateKey(ecKey) }), &ecKey.PublicKey, []string{"RS256"}, "ES256"},
		{"Ed25519", pemOf(t, "PRIVATE KEY", edKey, pkcs8), edKey.Public(), nil, "EdDSA"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			op := start(t, provider.Config{Clients: map[string]provider.Client{"signed": {Key: tc.public}}})
			op.Misbehave(provider.Faults{Metadata: func(doc map[string]any) {
				if tc.advertised != nil {
					doc["token_endpoint_auth_signing_alg_values_supported"] = tc.advertised
				}
			}})
			c := newClient(op)
			c.ClientID, c.Auth = "signed", AuthPrivateKeyJWT
			c.Assertion = PrivateKeyJWT(func() ([]byte, error) { return tc.pem, nil }, "key-1")
			c.Scopes = append(c.Scopes, "offline_access")
			grant, _, err := exchange(t, c)
			if err != nil {
				t.Fatal(err)
			}
			m := metadata(t, c)
			if grant, err = c.Refresh(t.Context(), m, Renewal{Token: grant.RefreshToken}); err != nil {
				t.Fatal(err)
			}
			if err := c.Revoke(t.Context(), m, grant.RefreshToken); err != nil {
				t.Fatal(err)
			}
			requests := append(op.Requests("token"), op.Requests("revoke")...)
			if len(requests) != 3 {
				t.Errorf("%d requests, want 3: nothing is tried", len(requests))
			}
			for _, r := range requests {
				if r.Header.Get("Authorization") != "" || r.Form.Has("client_secret") || r.Form.Get("client_id") != "signed" {
					t.Errorf("got %v, %v", r.Header, r.Form)
				}
				encoded, _, _ := strings.Cut(r.Form.Get("client_assertion"), ".")
				var header struct{ Alg, Kid, Typ string }
				if err := json.Unmarshal(must[[]byte](t)(base64.RawURLEncoding.DecodeString(encoded)), &header); err != nil || header.Alg != tc.algorithm || header.Kid != "key-1" || header.Typ != "JWT" {
					t.Errorf("header: %+v, %v", header, err)
				}
				if size := len(r.Form.Get("client_assertion")); size > 2048 {
					t.Errorf("the assertion has %d bytes, Auth0 takes 2048", size)
				}
			}
		})
	}
}

// The key is read whenever it is needed: one that is replaced in its file is
// used at once.
func TestPrivateKeyIsReadAtUse(t *testing.T) {
	first := must[*ecdsa.PrivateKey](t)(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
	second := must[*ecdsa.PrivateKey](t)(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
	file := filepath.Join(t.TempDir(), "key.pem")
	write := func(key *ecdsa.PrivateKey) {
		if err := os.WriteFile(file, pemOf(t, "PRIVATE KEY", key, pkcs8), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(first)
	op := start(t, provider.Config{Clients: map[string]provider.Client{"signed": {Key: &second.PublicKey}}})
	c := newClient(op)
	c.ClientID, c.Auth = "signed", AuthPrivateKeyJWT
	c.Assertion = PrivateKeyJWT(func() ([]byte, error) { return os.ReadFile(file) }, "")
	if _, _, err := exchange(t, c); !errors.Is(err, ErrMisconfigured) {
		t.Errorf("with the wrong key: got %v", err)
	}
	write(second)
	if _, _, err := exchange(t, c); err != nil {
		t.Errorf("with the right key: got %v", err)
	}
	_ = os.Remove(file)
	if _, _, err := exchange(t, c); !errors.Is(err, ErrMisconfigured) || !strings.Contains(err.Error(), "client assertion") {
		t.Errorf("without the file: got %v", err)
	}
}

// assertion_file: what stands in the file is sent as it is, and read anew.
func TestAssertionFile(t *testing.T) {
	content := "  aa.bb.cc\n"
	assertion := AssertionFile(func() ([]byte, error) { return []byte(content), nil })
	for _, want := range []string{"aa.bb.cc", "dd.ee.ff"} {
		if got, err := assertion(&Metadata{}, "id", time.Now()); err != nil || got.Reveal() != want {
			t.Errorf("got %q, %v", got.Reveal(), err)
		}
		content = "dd.ee.ff"
	}
	for _, bad := range []string{"", "not a JWT", "a.b", "a.b.c\nd.e.f", strings.Repeat("a", maxAssertion) + ".b.c"} {
		content = bad
		if _, err := assertion(&Metadata{}, "id", time.Now()); err == nil {
			t.Errorf("%.20q is sent", bad)
		}
	}
}

// Keys that cannot do: each with an error that says why, and quotes nothing.
func TestCheckPrivateKey(t *testing.T) {
	small := must[*rsa.PrivateKey](t)(rsa.GenerateKey(rand.Reader, 1024)) //nolint:gosec // that is the point
	odd := must[*ecdsa.PrivateKey](t)(ecdsa.GenerateKey(elliptic.P224(), rand.Reader))
	exchange := must[*ecdh.PrivateKey](t)(ecdh.X25519().GenerateKey(rand.Reader))
	good := must[*ecdsa.PrivateKey](t)(ecdsa.GenerateKey(elliptic.P384(), rand.Reader))
	for _, tc := range []struct {
		data []byte
		want string
	}{
		{nil, "not PEM"},
		{[]byte("hello"), "not PEM"},
		{pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: []byte("x")}), `"CERTIFICATE"`},
		{pem.EncodeToMemory(&pem.Block{Type: "ENCRYPTED PRIVATE KEY", Bytes: []byte("x")}), "without a password"},
		{pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: []byte("secret")}), "cannot be read"},
		{pemOf(t, "PRIVATE KEY", small, pkcs8), "1024 bits"},
		{pemOf(t, "PRIVATE KEY", odd, pkcs8), "RSA, P-256 or Ed25519"},
		{pemOf(t, "PRIVATE KEY", exchange, pkcs8), "cannot sign"},
		{pemOf(t, "PRIVATE KEY", good, pkcs8), ""},
	} {
		err := CheckPrivateKey(tc.data)
		if tc.want == "" && err == nil {
			continue
		}
		if err == nil || !strings.Contains(err.Error(), tc.want) || strings.Contains(err.Error(), "secret") {
			t.Errorf("got %v, want %q in it", err, tc.want)
		}
		// One that cannot do makes no assertion either, though nobody checked it.
		assertion, err := PrivateKeyJWT(func() ([]byte, error) { return tc.data, nil }, "")(&Metadata{}, "id", time.Now())
		if err == nil || !strings.Contains(err.Error(), tc.want) || !assertion.Empty() {
			t.Errorf("an assertion: got %v, want %q in it", err, tc.want)
		}
	}
}

// FuzzPrivateKey: whatever the file holds, it is a key that signs or an error.
func FuzzPrivateKey(f *testing.F) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(pemOf(f, "PRIVATE KEY", key, pkcs8))
	f.Add([]byte("-----BEGIN EC PRIVATE KEY-----\nAAAA\n-----END EC PRIVATE KEY-----"))
	f.Fuzz(func(t *testing.T, data []byte) {
		if CheckPrivateKey(data) != nil {
			return
		}
		assertion, err := PrivateKeyJWT(func() ([]byte, error) { return data, nil }, "")(&Metadata{Issuer: "https://op.test"}, "id", time.Now())
		if err != nil || strings.Count(assertion.Reveal(), ".") != 2 {
			t.Fatalf("got %v", err)
		}
	})
}
