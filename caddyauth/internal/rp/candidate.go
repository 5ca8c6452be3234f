package rp

import (
	"context"
	"time"

	"github.com/pkce-auth/caddy-pkce-auth/caddyauth/internal/claims"
)

// tokenKind is what tells the checks that several kinds of tokens share of the
// kind at hand.
type tokenKind struct {
	name     string
	guarded  []string
	allows   func(typ string) bool // in the header
	spares   int                   // fetches of keys that are left to others
	mismatch error                 // what a token is that the provider could be told to make otherwise
}

// candidate is a token under examination. The checks before "claims" fill it;
// what stands in it before "signature" is the sender's word alone.
type candidate struct {
	kind     *tokenKind
	client   *Client
	metadata *Metadata
	raw      string
	expected Expected
	now      time.Time

	audiences []string // of an access token

	typ       string // as the header has it
	algorithm string
	keyIssuer string // whose tokens the key signs, where it says so
	payload   []byte
	claims    claims.Set
}

// tokenCheck is a row of a checklist.
type tokenCheck struct {
	name  string
	check func(context.Context, *candidate) error
}

// run holds the candidate to a checklist, up to the first check that fails.
func (t *candidate) run(ctx context.Context, checks []tokenCheck) error {
	for _, step := range checks {
		if err := step.check(ctx, t); err != nil {
			return &CheckError{Token: t.kind.name, Check: step.name, Err: err}
		}
	}
	return nil
}
