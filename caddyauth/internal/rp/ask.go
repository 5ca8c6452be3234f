package rp

import (
	"slices"
	"time"
)

// Ask is what one authorization request asks for in place of what is
// configured for all: because of the route that the user wants to go to, or of
// what the upstream there has said. The zero value asks for nothing.
type Ask struct {
	// MaxAge is how long ago the user may have proved who they are, down to 0;
	// nil: as configured. The ID token must bear it out (OpenID Connect Core
	// section 3.1.2.1).
	MaxAge *time.Duration

	// ACRValues are the authentication contexts that will do; none: as
	// configured.
	ACRValues []string

	// Essential says that the ID token must name one of ACRValues. An upstream
	// that asks judges by itself, by its access token (RFC 9470 section 5).
	Essential bool

	// Target is what the access token is for.
	Target Target
}

// Empty reports whether nothing is asked for.
func (a *Ask) Empty() bool {
	return a.MaxAge == nil && len(a.ACRValues) == 0 && a.Target.Empty()
}

// Target is what an access token is for, where that is not what is configured
// for the provider. The zero value is what is configured.
type Target struct {
	Audience  string
	Resources []string // RFC 8707
	Scopes    []string
}

// Empty reports whether the target is what is configured.
func (t *Target) Empty() bool {
	return t.Audience == "" && len(t.Resources) == 0 && len(t.Scopes) == 0
}

// maxAge is what the ID token must keep to: the shorter of what is configured
// and what was asked for. The second result is false when neither says
// anything.
func (c *Client) maxAge(ask Ask) (time.Duration, bool) {
	switch {
	case ask.MaxAge == nil:
		return c.MaxAge, c.MaxAge > 0
	case c.MaxAge > 0:
		return min(c.MaxAge, *ask.MaxAge), true
	default:
		return *ask.MaxAge, true
	}
}

// acrValues are those to ask for.
func (c *Client) acrValues(ask Ask) []string {
	if len(ask.ACRValues) > 0 {
		return ask.ACRValues
	}
	return c.ACRValues
}

// essentialACRs are those of which the ID token must name one; none: it need
// not. What an upstream asks for may take the place of what is configured, but
// nothing at all may not.
func (c *Client) essentialACRs(ask Ask) []string {
	switch {
	case len(ask.ACRValues) == 0 || ask.Essential:
		return c.acrValues(ask)
	case len(c.ACRValues) == 0:
		return nil
	default:
		return slices.Concat(c.ACRValues, ask.ACRValues)
	}
}
