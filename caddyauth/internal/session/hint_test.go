package session

import (
	"testing"

	"github.com/pkce-auth/caddy-pkce-auth/caddyauth/internal/rp"
)

// A hint opens for its own session only.
func TestHints(t *testing.T) {
	s := newSession(t, "access")
	s.IDToken = rp.NewSecret(jwt(2000))
	data, err := EncodeHint(s)
	if err != nil {
		t.Fatal(err)
	}
	if got := DecodeHint(data, s.ID); got.Reveal() != s.IDToken.Reveal() {
		t.Errorf("got %q", got.Reveal())
	}
	for _, bad := range [][]byte{nil, data[:10], {codecVersion, 0}} {
		if !DecodeHint(bad, s.ID).Empty() {
			t.Errorf("%v gives a hint", bad)
		}
	}
	if !DecodeHint(data, "another").Empty() {
		t.Error("it opens for another session")
	}
}
