package rp

import (
	"context"
	"fmt"
	"net/url"
	"slices"

	"github.com/pkce-auth/caddy-pkce-auth/caddyauth/internal/claims"
)

// LogoutStyle is how a logout goes on at the provider.
type LogoutStyle string

// The styles. LogoutAuto is OpenID Connect where the metadata name an
// endpoint, else what the provider's quirk says, else local.
const (
	LogoutAuto    LogoutStyle = "auto"
	LogoutOIDC    LogoutStyle = "oidc"
	LogoutAuth0   LogoutStyle = "auth0"
	LogoutCognito LogoutStyle = "cognito"
	LogoutLocal   LogoutStyle = "local"
)

// LogoutRequest is what differs from one logout to the next. Any part but the
// redirect URI may be empty.
type LogoutRequest struct {
	IDToken     Secret // the hint by which the provider knows whose session it is
	SessionID   string // the provider's own name for it, the claim "sid"
	RedirectURI string // where the browser comes back to
	State       string
}

// LogoutURL returns the URL at which a browser ends its session at the
// provider, empty if there is none. An ID token stands in that URL if the
// request has one: that is what the specification wants (RP-Initiated Logout
// 1.0 section 2).
func (c *Client) LogoutURL(m *Metadata, style LogoutStyle, r LogoutRequest) (string, error) {
	if style == "" || style == LogoutAuto {
		switch {
		case m.EndSessionEndpoint != "":
			style = LogoutOIDC
		case m.Quirk.Logout != "":
			style = m.Quirk.Logout
		}
	}
	switch style {
	case LogoutOIDC:
		if m.EndSessionEndpoint == "" {
			return "", fmt.Errorf("%w: the provider's metadata name no end_session_endpoint", ErrMisconfigured)
		}
		return withParams(m.EndSessionEndpoint, []Param{
			{"id_token_hint", r.IDToken.Reveal()},
			{"logout_hint", r.SessionID},
			{"client_id", c.ClientID},
			{"post_logout_redirect_uri", r.RedirectURI},
			{"state", r.State},
		})
	case LogoutAuth0:
		return withParams(originOf(m.AuthorizationEndpoint)+"/v2/logout", []Param{{"client_id", c.ClientID}, {"returnTo", r.RedirectURI}})
	case LogoutCognito:
		return withParams(originOf(m.AuthorizationEndpoint)+"/logout", []Param{{"client_id", c.ClientID}, {"logout_uri", r.RedirectURI}})
	default:
		return "", nil
	}
}

// originOf is the origin of a URL that was checked before.
func originOf(endpoint string) string {
	u, err := url.Parse(endpoint)
	if err != nil {
		return ""
	}
	return u.Scheme + "://" + u.Host
}

// withParams adds parameters to an endpoint's URL, in place of any of the
// same name; those without a value are not sent.
func withParams(endpoint string, params []Param) (string, error) {
	u, err := url.Parse(endpoint)
	if err != nil {
		return "", fmt.Errorf("%w: logout endpoint: not a URL", ErrMisconfigured)
	}
	q := u.Query()
	for _, p := range params {
		if p.Value != "" {
			q.Set(p.Name, p.Value)
		}
	}
	u.RawQuery = q.Encode()
	return u.String(), nil
}

// Revoke asks the provider to forget a refresh token, and with it what was
// granted (RFC 7009 section 2.1). Without an endpoint for that it does
// nothing.
func (c *Client) Revoke(ctx context.Context, m *Metadata, refreshToken Secret) error {
	endpoint, err := c.endpoint(m, func(e *Endpoints) *string { return &e.RevocationEndpoint })
	if err != nil || endpoint == "" || refreshToken.Empty() {
		return err
	}
	if method, _ := c.authMethod(m); method == AuthNone && m.RevocationAuthMethods != nil && !slices.Contains(m.RevocationAuthMethods, "none") {
		return nil
	}
	form := url.Values{"token": {refreshToken.Reveal()}, "token_type_hint": {"refresh_token"}}
	resp, err := c.post(ctx, m, endpoint, form)
	if err == nil {
		doc, _ := claims.Parse(resp.body, tokenNames...) // a success may have any body, or none
		err = c.refusal(resp, doc, form)
	}
	if err != nil {
		return fmt.Errorf("revoking the refresh token: %w", err)
	}
	return nil
}
