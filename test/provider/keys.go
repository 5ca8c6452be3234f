package provider

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/base64"
	"encoding/json"
	"sync"

	"github.com/go-jose/go-jose/v4"
)

// keyring holds the signing keys: the first of each algorithm signs.
type keyring struct {
	mu   sync.Mutex
	keys []jose.JSONWebKey
}

// first are the keys that every provider of the process starts with: making
// an RSA key takes longer than most tests.
var first = sync.OnceValue(func() []jose.JSONWebKey {
	return []jose.JSONWebKey{newKey("RS256"), newKey("ES256"), newKey("EdDSA")}
})

func newKeyring() *keyring { return &keyring{keys: first()} }

func newKey(algorithm string) jose.JSONWebKey {
	key := jose.JSONWebKey{KeyID: algorithm + "-" + randomText()[:8], Algorithm: algorithm, Use: "sig"}
	var err error
	switch algorithm {
	case "RS256":
		key.Key, err = rsa.GenerateKey(rand.Reader, 2048)
	case "ES256":
		key.Key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	case "EdDSA":
		_, key.Key, err = ed25519.GenerateKey(rand.Reader)
	}
	if err != nil {
		panic(err) // crypto/rand does not fail
	}
	return key
}

func (k *keyring) signing(algorithm string) jose.JSONWebKey {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, key := range k.keys {
		if key.Algorithm == algorithm {
			return key
		}
	}
	panic("no key for " + algorithm)
}

// public gives the keys as they are published.
func (k *keyring) public() []any {
	k.mu.Lock()
	defer k.mu.Unlock()
	var keys []any
	for _, key := range k.keys {
		data, err := key.Public().MarshalJSON()
		if err != nil {
			panic(err)
		}
		var members map[string]any
		_ = json.Unmarshal(data, &members)
		keys = append(keys, members)
	}
	return keys
}

// RotateKeys makes new keys and drops the old ones.
func (p *Provider) RotateKeys() {
	keys := []jose.JSONWebKey{newKey("RS256"), newKey("ES256"), newKey("EdDSA")}
	p.keys.mu.Lock()
	defer p.keys.mu.Unlock()
	p.keys.keys = keys
}

// Sign signs header and claims with the provider's key for the header's
// algorithm, RS256 if it names none. Tests forge tokens with it.
func (p *Provider) Sign(header, claims map[string]any) string {
	algorithm, ok := header["alg"].(string)
	if !ok {
		algorithm = "RS256"
	}
	key := p.keys.signing(algorithm)
	opts := &jose.SignerOptions{}
	for name, value := range header {
		if name != "alg" && name != "kid" {
			opts = opts.WithHeader(jose.HeaderKey(name), value)
		}
	}
	if kid, ok := header["kid"]; ok {
		key.KeyID, _ = kid.(string) // "" signs without a key ID
	}
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.SignatureAlgorithm(algorithm), Key: key}, opts)
	if err != nil {
		panic(err)
	}
	payload, err := json.Marshal(claims)
	if err != nil {
		panic(err)
	}
	jws, err := signer.Sign(payload)
	if err != nil {
		panic(err)
	}
	token, err := jws.CompactSerialize()
	if err != nil {
		panic(err)
	}
	return token
}

func randomText() string {
	var b [24]byte
	_, _ = rand.Read(b[:])
	return base64.RawURLEncoding.EncodeToString(b[:])
}
