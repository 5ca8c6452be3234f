package rp

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/pkce-auth/caddy-pkce-auth/caddyauth/internal/claims"
)

// Grant is what the token endpoint returned, checked.
type Grant struct {
	AccessToken  Secret
	Expiry       time.Time // of the access token; never zero
	RefreshToken Secret    // empty when there is none
	IDToken      Secret    // empty when there is none
	Scope        string    // empty: as requested
}

// DefaultTokenLifetime counts when the token endpoint says nothing of how
// long the access token lives, which RFC 6749 section 5.1 lets it. Without
// a bound, a session would hold a dead token for ever.
const DefaultTokenLifetime = time.Hour

// maxTokenLifetime is the longest lifetime that is believed, some 30 years.
const maxTokenLifetime = 1e9 * time.Second

// tokenNames are the members of a token response whose names nobody may
// imitate.
var tokenNames = []string{"access_token", "token_type", "expires_in", "refresh_token", "id_token", "scope", "error", "error_description"}

// Exchange sends the code to the token endpoint, once (RFC 6749 section
// 4.1.3, RFC 7636 section 4.5). Whatever happens, the code counts as spent.
func (c *Client) Exchange(ctx context.Context, m *Metadata, code Secret, r AuthRequest) (*Grant, error) {
	form := url.Values{
		"grant_type":    {"authorization_code"},
		"code":          {code.Reveal()},
		"redirect_uri":  {r.RedirectURI},
		"code_verifier": {r.Verifier.Reveal()},
	}
	if _, resources, _ := c.authorizationFor(m, r.Ask.Target); len(resources) > 0 {
		form["resource"] = resources
	}
	grant, err := c.tokenRequest(ctx, m, form)
	if err != nil {
		return nil, fmt.Errorf("exchanging the code: %w", err)
	}
	return grant, nil
}

func (c *Client) tokenRequest(ctx context.Context, m *Metadata, form url.Values) (*Grant, error) {
	sent := c.Provider.now()
	endpoint, err := c.endpoint(m, func(e *Endpoints) *string { return &e.TokenEndpoint })
	if err != nil {
		return nil, err
	}
	resp, err := c.post(ctx, m, endpoint, form)
	if err != nil {
		return nil, err
	}
	return c.grant(resp, form, sent)
}

// grant reads the answer to a token request, which was sent at that time.
func (c *Client) grant(resp *response, form url.Values, sent time.Time) (*Grant, error) {
	doc, malformed := claims.Parse(resp.body, tokenNames...)
	if err := c.refusal(resp, doc, form); err != nil {
		return nil, err
	}
	if malformed != nil {
		return nil, fmt.Errorf("%w: token response: %w", ErrInvalid, malformed)
	}
	return readGrant(doc, sent)
}

// post sends a form to an endpoint where we must prove who we are.
func (c *Client) post(ctx context.Context, m *Metadata, endpoint string, form url.Values) (*response, error) {
	header := http.Header{"Content-Type": {"application/x-www-form-urlencoded"}}
	if err := c.authenticate(m, header, form); err != nil {
		return nil, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, endpoint, strings.NewReader(form.Encode()))
	if err != nil {
		return nil, fmt.Errorf("%w: endpoint: not a URL", ErrMisconfigured)
	}
	// net/http sends a POST again only where it knows that nothing of the first
	// was processed, so the code still goes out once.
	req.Header = header
	// One connection per token request: what a provider sends after its answer
	// on a connection that is kept, net/http writes into the process's log.
	req.Close = true
	if c.Auth == AuthTLS {
		return c.Provider.clientCaller.do(req, maxTokenResponseSize)
	}
	return c.Provider.caller.do(req, maxTokenResponseSize)
}

// endpoint is where a request goes in which we must prove who we are: one that
// comes with a certificate, to the endpoint that asks for it.
func (c *Client) endpoint(m *Metadata, of func(*Endpoints) *string) (string, error) {
	if c.Auth != AuthTLS {
		return *of(&m.Endpoints), nil
	}
	return *of(&m.aliases), m.aliasesErr
}

// refusal reads an answer that is not what was asked for; nil if it may be.
// Nothing of it is kept but error and error_description, without the secrets
// that were sent, and when to come again: the body may hold anything (F10).
// Some say that they refuse with status 200. A body that is malformed is an
// empty document.
func (c *Client) refusal(resp *response, doc claims.Set, sent url.Values) error {
	var said *OAuthError
	if code, _ := doc.Text("error"); code != "" {
		secrets := c.secretsOf(sent)
		description, _ := doc.Text("error_description")
		said = newOAuthError(without(code, secrets), without(description, secrets))
	}
	if said == nil && resp.status == http.StatusOK {
		return nil
	}
	refused := &EndpointError{
		Status:     resp.status,
		Silent:     len(bytes.TrimSpace(resp.body)) == 0,
		RetryAfter: retryAfter(resp.status, resp.header, c.Provider.now()),
		Err:        said,
	}
	if said == nil {
		refused.Err = statusError(resp.status)
	}
	return refused
}

// secretFields are the fields of a token request that nobody may see.
var secretFields = []string{"code", "code_verifier", "refresh_token", "token", "client_secret", "client_assertion"}

// secretsOf are the secrets in a request, be they in its form or in the client
// authentication.
func (c *Client) secretsOf(form url.Values) (secrets []string) {
	for _, name := range secretFields {
		secrets = append(secrets, form[name]...)
	}
	if c.Secret != nil {
		if secret, err := c.Secret(); err == nil {
			secrets = append(secrets, secret.Reveal())
		}
	}
	return secrets
}

// readGrant reads a token response (RFC 6749 section 5.1). Unknown members
// are ignored; known ones must be what the RFC says (F05, F11).
func readGrant(doc claims.Set, sent time.Time) (*Grant, error) {
	fail := func(member string, err error) error {
		return fmt.Errorf("%w: token response: %s: %w", ErrInvalid, member, err)
	}
	g := &Grant{}
	access, err := doc.Text("access_token")
	if err != nil {
		return nil, fail("access_token", err)
	}
	if err := checkToken(access); err != nil {
		return nil, fail("access_token", err)
	}
	g.AccessToken = NewSecret(access)
	tokenType, err := doc.Text("token_type")
	if err != nil {
		return nil, fail("token_type", err)
	}
	// The type is compared without case, RFC 6749 section 5.1. Tokens of
	// other types must not be used as bearer tokens (section 7.1).
	if !strings.EqualFold(tokenType, "Bearer") {
		return nil, fail("token_type", fmt.Errorf("%.32q is not Bearer", tokenType))
	}
	if g.Expiry, err = tokenExpiry(doc, sent); err != nil {
		return nil, fail("expires_in", err)
	}
	for _, optional := range []struct {
		name  string
		check func(string) error
		into  func(string)
	}{
		{"refresh_token", checkToken, func(s string) { g.RefreshToken = NewSecret(s) }},
		{"id_token", func(string) error { return nil }, func(s string) { g.IDToken = NewSecret(s) }},
		{"scope", func(string) error { return nil }, func(s string) { g.Scope = s }},
	} {
		text, err := doc.Text(optional.name)
		if errors.Is(err, claims.ErrMissing) || (err == nil && text == "") {
			continue
		}
		if err == nil {
			err = optional.check(text)
		}
		if err != nil {
			return nil, fail(optional.name, err)
		}
		optional.into(text)
	}
	return g, nil
}

// checkToken holds tokens to the characters of RFC 6749 appendix A.12: a line
// break in one would break every request it is forwarded with.
func checkToken(token string) error {
	if token == "" {
		return errors.New("is empty")
	}
	for i := range len(token) {
		if token[i] < 0x21 || token[i] > 0x7e {
			return errors.New("has a character that no token may have")
		}
	}
	return nil
}

// tokenExpiry counts from when the request was sent, in whole seconds as the
// token's own dates are, so that our idea of its end is never later than the
// provider's. A number in quotes, which
// some send, is read; what is absent counts as the default; what is not a
// positive number of seconds is refused, for it is anybody's guess what such
// a token is good for.
func tokenExpiry(doc claims.Set, sent time.Time) (time.Time, error) {
	sent = sent.Truncate(time.Second)
	v, ok := doc.Lookup("expires_in")
	if !ok {
		return sent.Add(DefaultTokenLifetime), nil
	}
	seconds, err := strconv.ParseFloat(claims.Text(v), 64)
	switch {
	case err != nil || seconds != math.Trunc(seconds):
		return time.Time{}, errors.New("is not a whole number of seconds")
	case seconds < 1 || seconds > maxTokenLifetime.Seconds():
		return time.Time{}, errors.New("is not between 1 and 1000000000 seconds")
	default:
		return sent.Add(time.Duration(seconds) * time.Second), nil
	}
}
