package rp

import (
	"encoding/json"
	"fmt"
)

// Secret is a token, code, verifier or key. However it is printed, marshalled
// or logged, it shows as "[redacted]"; only Reveal gives the text. The zero
// Secret is empty.
//
// The text stands behind a pointer because fmt calls no methods on unexported
// fields: there, a string would show.
type Secret struct {
	text *string
	_    [0]func() // == would compare pointers; see crypto/subtle
}

const redacted = "[redacted]"

// NewSecret makes a Secret.
func NewSecret(text string) Secret {
	if text == "" {
		return Secret{}
	}
	return Secret{text: &text}
}

// Reveal returns the secret itself, for the one place that must have it.
func (s Secret) Reveal() string {
	if s.text == nil {
		return ""
	}
	return *s.text
}

// Empty reports whether there is no secret.
func (s Secret) Empty() bool { return s.text == nil }

// String implements fmt.Stringer.
func (Secret) String() string { return redacted }

// Format implements fmt.Formatter: without it, %#v would not call String.
func (Secret) Format(f fmt.State, _ rune) { _, _ = f.Write([]byte(redacted)) }

// MarshalJSON implements json.Marshaler.
func (Secret) MarshalJSON() ([]byte, error) { return json.Marshal(redacted) }

// MarshalText implements encoding.TextMarshaler.
func (Secret) MarshalText() ([]byte, error) { return []byte(redacted), nil }
