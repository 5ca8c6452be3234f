package sealed

import (
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"sync/atomic"
)

// Tagger names things by tags that say nothing of them to whoever lacks the
// keys: where sessions are kept it must not stand whose they are, not even for
// those who can guess a subject and try. It is safe for concurrent use.
type Tagger struct {
	keys    Keys
	purpose string
	context []byte
	derived atomic.Pointer[tagKeys]
}

type tagKeys struct {
	from *Keyring
	keys [][]byte
}

// tagSize is the size of a tag in bytes: two things never have the same.
const tagSize = 16

// NewTagger makes a tagger for one purpose and one binding; see NewBox.
func NewTagger(keys Keys, purpose string, binding ...string) *Tagger {
	return &Tagger{keys: keys, purpose: purpose, context: appendList(appendText(nil, purpose), binding)}
}

// Keyring is what the tags of now are made with. As long as it is the same,
// they are.
func (t *Tagger) Keyring() (*Keyring, error) { return t.keys.Keyring() }

// Tags returns the tags of a thing, in hexadecimal: the first to name it by,
// all of them to find it by, for others may have named it while another key
// came first. The thing is named by one or several texts.
func (t *Tagger) Tags(texts ...string) ([]string, error) {
	keyring, err := t.keys.Keyring()
	if err != nil {
		return nil, err
	}
	d, err := t.derive(keyring)
	if err != nil {
		return nil, err
	}
	tags := make([]string, len(d.keys))
	thing := appendList(append([]byte(nil), t.context...), texts)
	for i, key := range d.keys {
		mac := hmac.New(sha256.New, key)
		mac.Write(thing)
		tags[i] = hex.EncodeToString(mac.Sum(nil)[:tagSize])
	}
	return tags, nil
}

func (t *Tagger) derive(k *Keyring) (*tagKeys, error) {
	if d := t.derived.Load(); d != nil && d.from == k {
		return d, nil
	}
	d := &tagKeys{from: k}
	for _, s := range k.secrets {
		key, err := hkdf.Key(sha256.New, s.key, []byte("pkce_auth/v1"), "tag "+t.purpose, sha256.Size)
		if err != nil {
			return nil, fmt.Errorf("%w: deriving the one for tags of %s: %w", ErrKeys, t.purpose, err)
		}
		d.keys = append(d.keys, key)
	}
	t.derived.Store(d)
	return d, nil
}
