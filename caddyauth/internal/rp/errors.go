package rp

import (
	"cmp"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"
)

// ErrUnavailable says that the provider could not be reached, or answered
// that it cannot serve now. Trying again later may help; nothing is wrong
// with the configuration as far as we can tell.
var ErrUnavailable = errors.New("provider unavailable")

// ErrMisconfigured says that what the operator configured, here or at the
// provider, cannot work. Trying again will not help.
var ErrMisconfigured = errors.New("misconfigured")

// ErrInvalid says that the provider, or someone in its name, sent something
// that must not be used.
var ErrInvalid = errors.New("invalid answer")

// ErrNoKeys says that the keys to check a signature with could not be had:
// nothing is known of the signature then. It comes with an error that says
// why.
var ErrNoKeys = errors.New("the provider's keys cannot be had")

// OAuthError is an error that the provider reported by the protocol, in the
// callback (RFC 6749 section 4.1.2.1) or at the token endpoint (section 5.2).
// Code and Description are the provider's words, cut to a bound and freed of
// characters that the RFC does not allow: they may be shown, escaped.
type OAuthError struct {
	Code        string
	Description string
}

func (e *OAuthError) Error() string {
	if e.Description == "" {
		return fmt.Sprintf("provider says %s", e.Code)
	}
	return fmt.Sprintf("provider says %s: %s", e.Code, e.Description)
}

// Is places the error among ErrUnavailable and ErrMisconfigured.
func (e *OAuthError) Is(target error) bool {
	switch e.Code {
	case "temporarily_unavailable", "server_error", "slow_down":
		return target == ErrUnavailable
	case "invalid_request", "invalid_client", "unauthorized_client", "unsupported_response_type",
		"unsupported_grant_type", "invalid_scope", "invalid_target":
		return target == ErrMisconfigured
	default:
		return false
	}
}

// EndpointError is an answer of the token or revocation endpoint that is not
// what was asked for.
type EndpointError struct {
	Status     int           // of the HTTP answer
	Silent     bool          // it had no body
	RetryAfter time.Duration // how long not to ask again, if it says so; else 0
	Err        error         // an *OAuthError, or what the status means
}

func (e *EndpointError) Error() string { return e.Err.Error() }

// Unwrap gives the reason.
func (e *EndpointError) Unwrap() error { return e.Err }

// Is makes every "too many requests" and every server error an
// ErrUnavailable, whatever else it says.
func (e *EndpointError) Is(target error) bool {
	return target == ErrUnavailable && (e.Status == http.StatusTooManyRequests || e.Status >= 500)
}

// Bounds of what is kept of a provider's words.
const (
	maxErrorCode        = 64
	maxErrorDescription = 300
)

// without takes secrets out of a provider's words: some quote the token that
// they refuse.
func without(text string, secrets []string) string {
	for _, secret := range secrets {
		if len(secret) >= 6 { // shorter ones are no secrets, and would tear words apart
			text = strings.ReplaceAll(text, secret, "…")
			text = strings.ReplaceAll(text, url.QueryEscape(secret), "…")
		}
	}
	return text
}

// newOAuthError keeps only the characters that RFC 6749 section 5.2 allows in
// a description (printable ASCII without quote and backslash), and what else
// people's names and languages need, but no control characters.
func newOAuthError(code, description string) *OAuthError {
	return &OAuthError{Code: printable(code, maxErrorCode), Description: printable(description, maxErrorDescription)}
}

// CheckError says which check of a token's checklist failed, or that the
// access token must not be used for claims.
type CheckError struct {
	Token string // the kind of token; empty means an ID token
	Check string // the name of the check, as in the log
	Err   error
}

// checkOfAccessToken is the name of the one check that is not of an ID token.
const checkOfAccessToken = "access_token"

func (e *CheckError) Error() string {
	if e.Check == checkOfAccessToken {
		return e.Err.Error()
	}
	return fmt.Sprintf("%s: %s: %v", cmp.Or(e.Token, "ID token"), e.Check, e.Err)
}

// Unwrap gives the reason.
func (e *CheckError) Unwrap() error { return e.Err }

// NeedsReauthentication reports whether the user is who they say, but proved
// it too long ago or in another way than was asked for.
func (e *CheckError) NeedsReauthentication() bool { return e.Check == "auth_time" || e.Check == "acr" }

// RefusesUser reports whether nothing is wrong with the token, but its user is
// not one of those who may log in.
func (e *CheckError) RefusesUser() bool { return e.Check == "organization" || e.Check == "tenant" }

// Is makes every failed check an ErrInvalid, unless the keys to check with
// could not be had.
func (e *CheckError) Is(target error) bool {
	return target == ErrInvalid && !errors.Is(e.Err, ErrUnavailable) && !errors.Is(e.Err, ErrMisconfigured)
}
