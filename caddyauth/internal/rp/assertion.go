package rp

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/go-jose/go-jose/v4"
)

// assertionType is the client_assertion_type of RFC 7523 section 2.2.
const assertionType = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"

// assertionLifetime is how long a client assertion of ours is good: as long
// as it takes to arrive, with clocks that differ a little.
const assertionLifetime = time.Minute

// maxAssertion bounds an assertion that somebody else made, such as a
// Kubernetes service account token.
const maxAssertion = 16 << 10

// Assertion makes the JWT by which a client proves who it is, for one request
// to a provider.
type Assertion func(m *Metadata, clientID string, now time.Time) (Secret, error)

// PrivateKeyJWT signs assertions with a private key that is read whenever it
// is needed, so that one that is replaced in its file needs no reload (OpenID
// Connect Core section 9, RFC 7523 section 3). The key is PEM: PKCS #8, PKCS #1
// or SEC 1.
func PrivateKeyJWT(read func() ([]byte, error), keyID string) Assertion {
	return func(m *Metadata, clientID string, now time.Time) (Secret, error) {
		data, err := read()
		if err != nil {
			return Secret{}, err
		}
		key, err := parsePrivateKey(data)
		if err != nil {
			return Secret{}, err
		}
		algorithm, err := signingAlgorithm(key, m.AssertionAlgorithms)
		if err != nil {
			return Secret{}, err
		}
		return signAssertion(key, algorithm, keyID, map[string]any{
			"iss": clientID, "sub": clientID,
			"aud": assertionAudience(m),
			"jti": rand.Text(), "iat": now.Unix(), "nbf": now.Unix(), "exp": now.Add(assertionLifetime).Unix(),
		})
	}
}

// assertionAudience is the issuer, as one string: the token endpoint's URL would
// let one provider use an assertion at another. But what stands for many
// tenants is nobody's name.
func assertionAudience(m *Metadata) string {
	if IsTemplate(m.Issuer) {
		return m.TokenEndpoint
	}
	return m.Issuer
}

// AssertionFile takes assertions that somebody else makes and renews, such as
// those of a workload's identity in Kubernetes.
func AssertionFile(read func() ([]byte, error)) Assertion {
	return func(*Metadata, string, time.Time) (Secret, error) {
		data, err := read()
		if err != nil {
			return Secret{}, err
		}
		text := strings.TrimSpace(string(data))
		if len(text) > maxAssertion || !compactJWS.MatchString(text) {
			return Secret{}, errors.New("the assertion is not a JWT in compact serialization")
		}
		return NewSecret(text), nil
	}
}

// CheckPrivateKey says whether a PEM file holds a key that can sign.
func CheckPrivateKey(data []byte) error {
	key, err := parsePrivateKey(data)
	if err != nil {
		return err
	}
	_, err = signingAlgorithm(key, nil)
	return err
}

func parsePrivateKey(data []byte) (crypto.Signer, error) {
	block, _ := pem.Decode(data)
	if block == nil {
		return nil, errors.New("the private key is not PEM")
	}
	var parsed any
	var err error
	switch block.Type {
	case "PRIVATE KEY":
		parsed, err = x509.ParsePKCS8PrivateKey(block.Bytes)
	case "RSA PRIVATE KEY":
		parsed, err = x509.ParsePKCS1PrivateKey(block.Bytes)
	case "EC PRIVATE KEY":
		parsed, err = x509.ParseECPrivateKey(block.Bytes)
	default:
		return nil, fmt.Errorf("the PEM block is a %.40q, not a private key without a password", block.Type)
	}
	if err != nil {
		return nil, errors.New("the private key cannot be read") // the error might quote it
	}
	signer, ok := parsed.(crypto.Signer)
	if !ok {
		return nil, errors.New("the private key cannot sign")
	}
	return signer, nil
}

// signingAlgorithm chooses what the key can do and the provider advertises;
// if it advertises nothing of it, what every provider must know. RSA keys
// prefer PS256, for PKCS #1 v1.5 signatures are on their way out.
func signingAlgorithm(key crypto.Signer, advertised []string) (jose.SignatureAlgorithm, error) {
	switch public := key.Public().(type) {
	case *rsa.PublicKey:
		if public.N.BitLen() < minRSABits {
			return "", fmt.Errorf("the RSA key has %d bits, at least %d are needed", public.N.BitLen(), minRSABits)
		}
		if slices.Contains(advertised, "PS256") {
			return jose.PS256, nil
		}
		return jose.RS256, nil
	case *ecdsa.PublicKey:
		if algorithm, ok := map[elliptic.Curve]jose.SignatureAlgorithm{
			elliptic.P256(): jose.ES256, elliptic.P384(): jose.ES384, elliptic.P521(): jose.ES512,
		}[public.Curve]; ok {
			return algorithm, nil
		}
	case ed25519.PublicKey:
		return jose.EdDSA, nil
	}
	return "", errors.New("the private key is of a kind that no provider verifies: use RSA, P-256 or Ed25519")
}

func signAssertion(key crypto.Signer, algorithm jose.SignatureAlgorithm, keyID string, claims map[string]any) (Secret, error) {
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: algorithm, Key: jose.JSONWebKey{Key: key, KeyID: keyID}}, (&jose.SignerOptions{}).WithType("JWT"))
	if err != nil {
		return Secret{}, errors.New("the private key cannot sign")
	}
	payload, err := json.Marshal(claims)
	if err != nil {
		return Secret{}, err
	}
	jws, err := signer.Sign(payload)
	if err != nil {
		return Secret{}, errors.New("the private key cannot sign")
	}
	text, err := jws.CompactSerialize()
	return NewSecret(text), err
}
