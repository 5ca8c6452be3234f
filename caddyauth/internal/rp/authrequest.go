package rp

import (
	"cmp"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/oauth2"
)

// Transaction is what one login must remember from the authorization request
// until the callback. It is made anew for each login and leaves this process
// only sealed.
type Transaction struct {
	Verifier Secret // code_verifier, 43 characters from 32 random bytes (RFC 7636 section 4.1)
	Nonce    Secret // 256 random bits as base64url, 43 characters
}

// NewTransaction draws a fresh verifier and nonce.
func NewTransaction() Transaction {
	return Transaction{Verifier: NewSecret(oauth2.GenerateVerifier()), Nonce: NewSecret(randomText())}
}

// randomText gives 256 random bits as base64url.
func randomText() string {
	var b [32]byte
	_, _ = rand.Read(b[:]) // never fails: crypto/rand crashes the program instead
	return base64.RawURLEncoding.EncodeToString(b[:])
}

// Param is one parameter of a request.
type Param struct{ Name, Value string }

// protocolParams are the parameters that belong to the protocol: always
// computed, never configured, never taken from a request.
var protocolParams = []string{
	"response_type", "client_id", "redirect_uri", "state", "nonce", "code_challenge", "code_challenge_method",
}

// optionParams are the parameters that have an option of their own.
var optionParams = map[string]string{
	"scope":         "scopes",
	"audience":      "audience",
	"resource":      "resource",
	"connection":    "connection",
	"organization":  "organization",
	"max_age":       "max_age",
	"acr_values":    "acr_values",
	"response_mode": "response_mode",
}

// CheckExtraParam says whether an operator may add a parameter of that name
// to the authorization request (F12, A55).
func CheckExtraParam(name string) error {
	switch option := optionParams[name]; {
	case name == "":
		return fmt.Errorf("a parameter needs a name")
	case option != "":
		return fmt.Errorf("%s has an option of its own: %s", name, option)
	case slices.Contains(protocolParams, name):
		return fmt.Errorf("%s belongs to the protocol and cannot be configured", name)
	case name == "request" || name == "request_uri":
		return fmt.Errorf("%s would replace the whole request", name)
	default:
		return nil
	}
}

// AuthRequest is what differs from one authorization request to the next.
type AuthRequest struct {
	Transaction
	Ask         Ask
	RedirectURI string
	State       string
	Extra       []Param // that CheckExtraParam or CheckLoginParam accepts; an empty value is not sent
}

// options are the configured parameters that one login may have otherwise.
// What the ID token must agree with stays what is configured, or asked for.
func (c *Client) options(ask Ask) []Param {
	params := []Param{{"connection", c.Connection}, {"acr_values", strings.Join(c.acrValues(ask), " ")}}
	if len(c.Organizations) > 0 {
		params = append(params, Param{"organization", c.Organizations[0]})
	}
	if maxAge, asked := c.maxAge(ask); asked {
		params = append(params, Param{"max_age", strconv.FormatInt(int64(maxAge/time.Second), 10)})
	}
	return params
}

// extra are the further parameters, without those that a link could take away
// from what is asked for.
func (r *AuthRequest) extra() []Param {
	return slices.DeleteFunc(slices.Clone(r.Extra), func(p Param) bool {
		return p.Name == "max_age" && r.Ask.MaxAge != nil || p.Name == "acr_values" && len(r.Ask.ACRValues) > 0
	})
}

// The response modes (OAuth 2.0 Multiple Response Type Encoding Practices
// section 2.1, OAuth 2.0 Form Post Response Mode). The first is what the
// protocol does unasked.
const (
	ResponseModeQuery    = "query"
	ResponseModeFormPost = "form_post"
)

// responseMode is how the authorization response comes.
func (a *Authorization) responseMode(m *Metadata) string {
	return cmp.Or(a.ResponseMode, m.Quirk.ResponseMode, ResponseModeQuery)
}

// CheckLoginParam says whether a link to our login may add a parameter of that
// name. What shapes the tokens may not come from a link.
func CheckLoginParam(name string) error {
	switch name {
	case "connection", "organization", "max_age", "acr_values":
		return nil
	case "scope", "audience", "resource", "response_mode":
		return fmt.Errorf("%s cannot come from a link: it says what the tokens are good for", name)
	default:
		return CheckExtraParam(name)
	}
}

// AuthorizationURL returns the URL to send a browser to: the authorization
// endpoint with the request's parameters, each once (but resource, which may
// repeat, RFC 8707 section 2), and none without a value. Parameters that the
// endpoint's own URL has stay, RFC 6749 section 3.1; one of ours among them
// is an error, for the provider would get it twice.
func (c *Client) AuthorizationURL(m *Metadata, r AuthRequest) (string, error) {
	if err := errors.Join(c.CheckTenants(m), m.Quirk.refusal()); err != nil {
		return "", err
	}
	endpoint, err := url.Parse(m.AuthorizationEndpoint)
	if err != nil {
		return "", fmt.Errorf("%w: authorization endpoint: not a URL", ErrMisconfigured)
	}
	q, err := url.ParseQuery(endpoint.RawQuery)
	if err != nil {
		return "", fmt.Errorf("%w: authorization endpoint: malformed query", ErrMisconfigured)
	}
	add := func(name, value string) {
		if value == "" || err != nil {
			return
		}
		if q.Has(name) {
			err = fmt.Errorf("%w: authorization endpoint: its URL already has %s", ErrMisconfigured, name)
			return
		}
		q.Set(name, value)
	}
	add("response_type", "code")
	add("client_id", c.ClientID)
	add("redirect_uri", r.RedirectURI)
	audience, resources, scope := c.authorizationFor(m, r.Ask.Target)
	add("scope", scope)
	add("state", r.State)
	add("nonce", r.Nonce.Reveal())
	add("code_challenge", oauth2.S256ChallengeFromVerifier(r.Verifier.Reveal()))
	add("code_challenge_method", "S256")
	add("audience", audience)
	if mode := c.responseMode(m); mode != ResponseModeQuery {
		add("response_mode", mode)
	}
	extra := r.extra()
	for _, p := range c.options(r.Ask) {
		if !slices.ContainsFunc(extra, func(extra Param) bool { return extra.Name == p.Name }) {
			add(p.Name, p.Value)
		}
	}
	for _, p := range extra {
		add(p.Name, p.Value)
	}
	if c.OfflineAccess && m.Quirk.OfflineParam.Name != "" && !q.Has(m.Quirk.OfflineParam.Name) {
		add(m.Quirk.OfflineParam.Name, m.Quirk.OfflineParam.Value)
	}
	if err != nil {
		return "", err
	}
	if len(resources) > 0 {
		q["resource"] = resources
	}
	endpoint.RawQuery = q.Encode()
	return endpoint.String(), nil
}
