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
	"sync/atomic"
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

// ErrKeys says that there is no key to seal or to open with now. Nothing can
// be told then of a sealed value, least of all that it is worthless.
var ErrKeys = errors.New("keys are not available")

// Keys is where a Box gets its keys. They may change while it is in use.
type Keys interface {
	// Keyring returns the keys to use now; an error is an ErrKeys.
	Keyring() (*Keyring, error)

	// Reload returns keys among which one may be that the last ones lacked. It
	// is called for every value that names an unknown key, forged ones
	// included, and bounds by itself what that costs.
	Reload() (*Keyring, error)
}

// Keyring is a list of secrets: the first one seals, all of them open. It is
// immutable, and gives itself where Keys are wanted.
type Keyring struct {
	secrets []secret
}

// Keyring implements Keys.
func (k *Keyring) Keyring() (*Keyring, error) { return k, nil }

// Reload implements Keys.
func (k *Keyring) Reload() (*Keyring, error) { return k, nil }

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
	keys    Keys
	purpose string
	context []byte
	derived atomic.Pointer[derived]
}

// derived is a keyring's keys for one purpose.
type derived struct {
	from  *Keyring
	aeads []*xaes
}

// NewBox makes a box for one purpose. What is sealed opens only with the same
// purpose and the same binding, which says whose values these are: the
// cookie's name, the provider, the client. HKDF gives every purpose a key of
// its own (RFC 5869 section 3.2); the binding is authenticated with every
// value.
func NewBox(keys Keys, purpose string, binding ...string) *Box {
	return &Box{keys: keys, purpose: purpose, context: appendList(appendText([]byte{envelopeVersion}, purpose), binding)}
}

// derive returns the keys of this purpose for a keyring.
func (b *Box) derive(k *Keyring) (*derived, error) {
	if d := b.derived.Load(); d != nil && d.from == k {
		return d, nil
	}
	d := &derived{from: k}
	for _, s := range k.secrets {
		key, err := hkdf.Key(sha256.New, s.key, []byte("pkce_auth/v1"), b.purpose, xaesKeySize)
		if err != nil {
			return nil, fmt.Errorf("%w: deriving the one for %s: %w", ErrKeys, b.purpose, err)
		}
		aead, err := newXAES(key)
		if err != nil {
			return nil, fmt.Errorf("%w: making the cipher for %s: %w", ErrKeys, b.purpose, err)
		}
		d.aeads = append(d.aeads, aead)
	}
	b.derived.Store(d)
	return d, nil
}

// Seal returns plaintext sealed with the first secret, as base64url. What is
// given as extra must be given to Open again.
func (b *Box) Seal(plaintext []byte, extra ...string) (string, error) {
	envelope, err := b.SealBytes(plaintext, extra...)
	return encoding.EncodeToString(envelope), err
}

// SealBytes is Seal without the base64url, for what does not have to be text.
func (b *Box) SealBytes(plaintext []byte, extra ...string) ([]byte, error) {
	keyring, err := b.keys.Keyring()
	if err != nil {
		return nil, err
	}
	d, err := b.derive(keyring)
	if err != nil {
		return nil, err
	}
	envelope := make([]byte, 0, Overhead+len(plaintext))
	envelope = append(envelope, envelopeVersion)
	envelope = append(envelope, keyring.secrets[0].id[:]...)
	if envelope, err = d.aeads[0].seal(envelope, plaintext, b.aad(extra)); err != nil {
		return nil, fmt.Errorf("sealing: %w", err)
	}
	return envelope, nil
}

// Open returns what Seal was given. The error is ErrOpen when the value is
// worthless, ErrKeys when that cannot be told.
func (b *Box) Open(text string, extra ...string) ([]byte, error) {
	// encoding/base64 skips line breaks, even when it is strict.
	if strings.IndexByte(text, '\r') >= 0 || strings.IndexByte(text, '\n') >= 0 { // each many bytes at a time
		return nil, ErrOpen
	}
	envelope, err := encoding.DecodeString(text)
	if err != nil {
		return nil, ErrOpen
	}
	return b.OpenBytes(envelope, extra...)
}

// OpenBytes is Open for what SealBytes made.
func (b *Box) OpenBytes(envelope []byte, extra ...string) ([]byte, error) {
	if len(envelope) < Overhead || envelope[0] != envelopeVersion {
		return nil, ErrOpen
	}
	aead, err := b.opener([keyIDSize]byte(envelope[1:headerSize]))
	if err != nil {
		return nil, err
	}
	plaintext, err := aead.open(envelope[headerSize:], b.aad(extra))
	if err != nil {
		return nil, ErrOpen
	}
	return plaintext, nil
}

// opener finds the key of an ID.
func (b *Box) opener(id [keyIDSize]byte) (*xaes, error) {
	keyring, err := b.keys.Keyring()
	if err != nil {
		return nil, err
	}
	i := keyring.index(id)
	if i < 0 {
		if keyring, err = b.keys.Reload(); err != nil {
			return nil, err
		}
		if i = keyring.index(id); i < 0 {
			return nil, ErrOpen
		}
	}
	d, err := b.derive(keyring)
	if err != nil {
		return nil, err
	}
	return d.aeads[i], nil
}

func (k *Keyring) index(id [keyIDSize]byte) int {
	return slices.IndexFunc(k.secrets, func(s secret) bool { return s.id == id })
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
