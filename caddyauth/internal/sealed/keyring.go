// Package sealed keeps what must travel through a browser from being read,
// changed, swapped or replayed elsewhere: a keyring, one AEAD per purpose,
// and cookies that carry sealed values.
package sealed

import (
	"bytes"
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// The envelope, before base64url without padding:
//
//	version 1 ‖ key id 4 ‖ nonce 24 ‖ ciphertext ‖ tag 16
//
// The key is chosen by its id alone, never by trial, so that opening costs
// the same whatever the number of keys, and says nothing about which of them
// would fit.
const (
	envelopeVersion = 1
	keyIDSize       = 4
	headerSize      = 1 + keyIDSize

	// Overhead is the number of bytes that sealing adds, before base64url.
	Overhead = headerSize + xaesOverhead

	// MinSecretSize is the least number of bytes of a secret.
	MinSecretSize = 32
)

// ErrOpen is the one failure of opening: whatever is wrong with a value, its
// sender learns no more than that.
var ErrOpen = errors.New("sealed value cannot be opened")

var encoding = base64.RawURLEncoding.Strict()

// Keyring is a list of secrets: the first one seals, all of them open. It is
// immutable.
type Keyring struct {
	secrets []secret
}

type secret struct {
	id  [keyIDSize]byte
	key []byte
}

// NewKeyring makes a keyring of one or more secrets of at least 32 bytes.
func NewKeyring(secrets ...[]byte) (*Keyring, error) {
	if len(secrets) == 0 {
		return nil, errors.New("no secret")
	}
	k := &Keyring{}
	for i, s := range secrets {
		if len(s) < MinSecretSize {
			return nil, fmt.Errorf("secret %d has %d bytes, at least %d are needed", i+1, len(s), MinSecretSize)
		}
		mac := hmac.New(sha256.New, s)
		mac.Write([]byte("kid"))
		id := [keyIDSize]byte(mac.Sum(nil))
		if slices.ContainsFunc(k.secrets, func(o secret) bool { return o.id == id }) {
			return nil, fmt.Errorf("secret %d stands twice", i+1)
		}
		k.secrets = append(k.secrets, secret{id: id, key: bytes.Clone(s)})
	}
	return k, nil
}

// Box seals and opens values for one purpose. It is safe for concurrent use.
type Box struct {
	context []byte
	aeads   []*xaes
	ids     [][keyIDSize]byte
}

// Box derives the keys of one purpose. What is sealed opens only with the
// same purpose and the same binding, which says whose values these are: the
// cookie's name, the provider, the client. HKDF gives every purpose a key of
// its own (RFC 5869 section 3.2); the binding is authenticated with every
// value.
func (k *Keyring) Box(purpose string, binding ...string) (*Box, error) {
	b := &Box{context: appendList(appendText([]byte{envelopeVersion}, purpose), binding)}
	for _, s := range k.secrets {
		key, err := hkdf.Key(sha256.New, s.key, []byte("pkce_auth/v1"), purpose, xaesKeySize)
		if err != nil {
			return nil, fmt.Errorf("deriving the key for %s: %w", purpose, err)
		}
		aead, err := newXAES(key)
		if err != nil {
			return nil, fmt.Errorf("making the cipher for %s: %w", purpose, err)
		}
		b.aeads = append(b.aeads, aead)
		b.ids = append(b.ids, s.id)
	}
	return b, nil
}

// Seal returns plaintext sealed with the first secret, as base64url. What is
// given as extra must be given to Open again.
func (b *Box) Seal(plaintext []byte, extra ...string) (string, error) {
	envelope := make([]byte, 0, Overhead+len(plaintext))
	envelope = append(envelope, envelopeVersion)
	envelope = append(envelope, b.ids[0][:]...)
	envelope, err := b.aeads[0].seal(envelope, plaintext, b.aad(extra))
	if err != nil {
		return "", fmt.Errorf("sealing: %w", err)
	}
	return encoding.EncodeToString(envelope), nil
}

// Open returns what Seal was given, or ErrOpen.
func (b *Box) Open(text string, extra ...string) ([]byte, error) {
	// encoding/base64 skips line breaks, even when it is strict.
	if strings.ContainsAny(text, "\r\n") {
		return nil, ErrOpen
	}
	envelope, err := encoding.DecodeString(text)
	if err != nil || len(envelope) < Overhead || envelope[0] != envelopeVersion {
		return nil, ErrOpen
	}
	i := slices.Index(b.ids, [keyIDSize]byte(envelope[1:headerSize]))
	if i < 0 {
		return nil, ErrOpen
	}
	plaintext, err := b.aeads[i].open(envelope[headerSize:], b.aad(extra))
	if err != nil {
		return nil, ErrOpen
	}
	return plaintext, nil
}

// TextSize is the length of the text that Seal makes of n bytes.
func TextSize(n int) int { return encoding.EncodedLen(Overhead + n) }

func (b *Box) aad(extra []string) []byte {
	return appendList(slices.Clip(b.context), extra)
}

// appendList writes the number of strings, then each, so that no two lists
// give the same bytes, however they are cut (A69).
func appendList(dst []byte, list []string) []byte {
	dst = binary.AppendUvarint(dst, uint64(len(list)))
	for _, s := range list {
		dst = appendText(dst, s)
	}
	return dst
}

func appendText(dst []byte, s string) []byte {
	dst = binary.AppendUvarint(dst, uint64(len(s)))
	return append(dst, s...)
}
