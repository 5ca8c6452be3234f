package rp

import (
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync/atomic"
	"time"
)

// AuthMethod is how we prove at the token endpoint who we are (OpenID Connect
// Core section 9).
type AuthMethod string

// The methods. AuthAuto chooses from what is configured and what the provider
// advertises; it never tries one after the other, for the first try already
// spends the code (F09).
const (
	AuthAuto  AuthMethod = "auto"
	AuthNone  AuthMethod = "none"
	AuthBasic AuthMethod = "client_secret_basic"
	AuthPost  AuthMethod = "client_secret_post"

	AuthPrivateKeyJWT AuthMethod = "private_key_jwt"
	AuthAssertionFile AuthMethod = "assertion_file" // an assertion that somebody else made

	// AuthTLS proves it by the certificate of the connection (RFC 8705 section
	// 2), which is the business of ProviderConfig.ClientTransport.
	AuthTLS AuthMethod = "tls"
)

// DefaultClockSkew is how far the provider's clock may be off ours.
const DefaultClockSkew = time.Minute

// Client is us: one client, registered at one provider. It is safe for
// concurrent use, and its exported fields must not change.
type Client struct {
	Provider *Provider
	ClientID string

	// Secret reads the client secret when it is needed; nil for a public
	// client.
	Secret func() (Secret, error)

	// Auth is the method of client authentication; empty means AuthAuto.
	Auth AuthMethod

	// Assertion makes what AuthPrivateKeyJWT and AuthAssertionFile send.
	Assertion Assertion

	// ClockSkew is how far the provider's clock may be off ours; 0 means
	// DefaultClockSkew, a negative value none.
	ClockSkew time.Duration

	// ClaimsFrom are the sources of claims, in order; empty means the ID token.
	ClaimsFrom []ClaimSource

	// Userinfo adds userinfo to them, as the last.
	Userinfo bool

	Authorization

	// signedWith is the algorithm of the last ID token that was accepted.
	signedWith atomic.Pointer[string]
}

// Authorization is what every login asks for.
type Authorization struct {
	// Scopes are asked for as they are written. With "openid" among them, an
	// ID token is required; without, none is expected.
	Scopes []string

	// OfflineAccess asks for a refresh token, too: by the scope for it where
	// the provider advertises that, or in the way its quirk says.
	OfflineAccess bool

	// ScopesAsWritten leaves the scopes as they are.
	ScopesAsWritten bool

	// Audience is the API the access token is for, as Auth0 names it; empty
	// sends none.
	Audience string

	// Resources are the APIs as RFC 8707 names them, sent with the
	// authorization request and with the code.
	Resources []string

	// ResourceOnRefresh sends them with refresh requests, too; nil leaves it to
	// the provider's quirk.
	ResourceOnRefresh *bool

	// ResponseMode is how the authorization response comes; empty leaves it to
	// the provider's quirk, and to the protocol.
	ResponseMode string

	// Tenants are those whose users may log in, at a provider for many; empty
	// means any, at a provider for one.
	Tenants []string

	// Connection is the Auth0 connection to log in with; empty sends none.
	Connection string

	// Organizations are the Auth0 organizations, by ID or name, that a user
	// may belong to: the first is sent, and the ID token must name one of them.
	Organizations []string

	// MaxAge is how long ago the user may have proved who they are, at the
	// most; 0 sends none. The ID token must agree.
	MaxAge time.Duration

	// ACRValues are the authentication contexts to ask for; the ID token must
	// name one of them.
	ACRValues []string
}

// ExpectsIDToken reports whether "openid" is among the scopes.
func (a *Authorization) ExpectsIDToken() bool { return slices.Contains(a.Scopes, "openid") }

// MayAskAgain reports whether a login may have to begin anew because it was not
// fresh or strong enough.
func (a *Authorization) MayAskAgain() bool { return a.MaxAge > 0 || len(a.ACRValues) > 0 }

// offlineAccess is the scope that asks for a refresh token (OpenID Connect
// Core section 11).
const offlineAccess = "offline_access"

// scope gives the scope parameter for a provider.
func (a *Authorization) scope(m *Metadata) string {
	scopes := a.Scopes
	if !a.ScopesAsWritten && len(m.Quirk.Scopes) > 0 {
		scopes = m.Quirk.Scopes
	}
	if a.OfflineAccess && !a.ScopesAsWritten && m.OfflineAccess && !slices.Contains(scopes, offlineAccess) {
		scopes = append(slices.Clip(scopes), offlineAccess)
	}
	return strings.Join(scopes, " ")
}

func (c *Client) clockSkew() time.Duration {
	if c.ClockSkew == 0 {
		return DefaultClockSkew
	}
	return max(0, c.ClockSkew)
}

// authenticate adds the client authentication to a token request: exactly
// one method, RFC 6749 section 2.3.
func (c *Client) authenticate(m *Metadata, header http.Header, form url.Values) error {
	method, err := c.authMethod(m)
	if err != nil {
		return err
	}
	switch method {
	case AuthNone, AuthTLS:
		form.Set("client_id", c.ClientID)
		return nil
	case AuthPrivateKeyJWT, AuthAssertionFile:
		assertion, err := c.Assertion(m, c.ClientID, c.Provider.now())
		if err != nil {
			return fmt.Errorf("%w: client assertion: %w", ErrMisconfigured, err)
		}
		form.Set("client_id", c.ClientID)
		form.Set("client_assertion_type", assertionType)
		form.Set("client_assertion", assertion.Reveal())
		return nil
	}
	secret, err := c.Secret()
	if err != nil {
		return fmt.Errorf("%w: client secret: %w", ErrMisconfigured, err)
	}
	if method == AuthPost {
		form.Set("client_id", c.ClientID)
		form.Set("client_secret", secret.Reveal())
		return nil
	}
	// Both parts are form-urlencoded before they are put together, so that
	// neither a colon nor a letter beyond ASCII changes them (RFC 6749
	// section 2.3.1).
	req := http.Request{Header: header}
	req.SetBasicAuth(url.QueryEscape(c.ClientID), url.QueryEscape(secret.Reveal()))
	return nil
}

// authMethod chooses the method; see AuthAuto.
func (c *Client) authMethod(m *Metadata) (AuthMethod, error) {
	switch {
	case c.Auth != "" && c.Auth != AuthAuto:
		return c.Auth, nil
	case c.Secret == nil:
		return AuthNone, nil
	case m.TokenAuthMethods == nil, // silence means client_secret_basic (Discovery section 3)
		slices.Contains(m.TokenAuthMethods, string(AuthBasic)):
		return AuthBasic, nil
	case slices.Contains(m.TokenAuthMethods, string(AuthPost)):
		return AuthPost, nil
	default:
		return "", fmt.Errorf("%w: the provider accepts none of client_secret_basic and client_secret_post, only %.200q", ErrMisconfigured, m.TokenAuthMethods)
	}
}
