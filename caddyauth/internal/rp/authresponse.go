package rp

import (
	"fmt"
	"net/url"
)

// AuthResponse is the authorization response: what the callback's query says
// (RFC 6749 section 4.1.2). Nothing in it is to be believed before its state
// is known to be ours.
type AuthResponse struct {
	State string
	Code  Secret
	Error *OAuthError // nil when the provider sent none

	issuer    string
	hasIssuer bool
}

// Issuer is what the response says of its issuer, empty if it says nothing.
func (r *AuthResponse) Issuer() string { return r.issuer }

// Empty reports whether the provider said nothing.
func (r *AuthResponse) Empty() bool { return r.Code.Empty() && r.Error == nil }

// responseParams must not stand twice. All others are ignored.
var responseParams = []string{"state", "code", "iss", "error", "error_description"}

const (
	maxCodeSize     = 4 << 10
	maxResponseSize = 16 << 10
)

// ParseAuthResponse reads the callback's query, or the form that was posted to
// it. What could be read in two
// ways is refused: a malformed query, of which url.Values keeps the rest
// (F19), a parameter that stands twice (A49), a code beside an error (M43).
func ParseAuthResponse(rawQuery string) (*AuthResponse, error) {
	if len(rawQuery) > maxResponseSize {
		return nil, fmt.Errorf("%w: response is larger than %d bytes", ErrInvalid, maxResponseSize)
	}
	q, err := url.ParseQuery(rawQuery)
	if err != nil {
		return nil, fmt.Errorf("%w: malformed query", ErrInvalid)
	}
	for _, name := range responseParams {
		if len(q[name]) > 1 {
			return nil, fmt.Errorf("%w: %s stands twice", ErrInvalid, name)
		}
	}
	r := &AuthResponse{
		State:     q.Get("state"),
		Code:      NewSecret(q.Get("code")),
		issuer:    q.Get("iss"),
		hasIssuer: q.Has("iss"),
	}
	if q.Has("error") {
		r.Error = newOAuthError(q.Get("error"), q.Get("error_description"))
	}
	switch {
	case !r.Code.Empty() && r.Error != nil:
		return nil, fmt.Errorf("%w: both a code and an error", ErrInvalid)
	case len(r.Code.Reveal()) > maxCodeSize:
		return nil, fmt.Errorf("%w: code is larger than %d bytes", ErrInvalid, maxCodeSize)
	default:
		return r, nil
	}
}

// CheckIssuer compares the response's issuer with the one that the request
// went to (RFC 9207 section 2.4): it must be the same whenever it is there,
// and be there when the provider announces it. Errors are checked like codes.
func (c *Client) CheckIssuer(m *Metadata, r *AuthResponse) error {
	switch {
	case !r.hasIssuer && m.IssuerInResponse:
		return fmt.Errorf("%w: iss is missing, which the provider announces", ErrInvalid)
	case r.hasIssuer && !c.IsIssuer(m, r.issuer):
		return fmt.Errorf("%w: iss names another provider", ErrInvalid)
	default:
		return nil
	}
}
