package caddyauth

import (
	"encoding/json"
	"fmt"
	"strings"

	"github.com/caddyserver/caddy/v2"

	"github.com/pkce-auth/caddy-pkce-auth/caddyauth/internal/rp"
)

// Address is where a provider is, and how it is called.
type Address struct {
	// The issuer identifier: the URL of the provider, `https` (or `http` on a
	// loopback name). Its metadata are fetched from below it when they are
	// first needed, and must name exactly this issuer; an issuer without a path
	// is forgiven its trailing slash. For Microsoft Entra, `{tenantid}` may
	// stand for the tenant. Required. Source: OpenID Connect Discovery 1.0,
	// section 4.
	Issuer string `json:"issuer,omitempty"`

	// Where the metadata are, if they are elsewhere: as in a cluster, where the
	// provider's public name does not lead to it. They must name the issuer all
	// the same. Default: `<issuer>/.well-known/openid-configuration`.
	DiscoveryURL string `json:"discovery_url,omitempty"`

	// Endpoints that take the place of those in the metadata. With
	// `authorization` and `token`, and without a `discovery_url`, no metadata
	// are asked for: for providers that publish none.
	Endpoints *EndpointsConfig `json:"endpoints,omitempty"`

	// The certificate authorities to trust for calls to the provider: one of
	// Caddy's modules. Default: those of the system.
	TrustPoolRaw json.RawMessage `json:"tls_trust_pool,omitempty" caddy:"namespace=tls.ca_pool.source inline_key=provider"`

	// The longest time that one call to the provider may take. Default: `10s`.
	Timeout caddy.Duration `json:"timeout,omitempty"`
}

// EndpointsConfig are a provider's endpoints, as URLs.
type EndpointsConfig struct {
	// Where browsers log in. Source: RFC 6749, section 3.1.
	Authorization string `json:"authorization,omitempty"`

	// Where codes and refresh tokens are exchanged. Source: RFC 6749, section
	// 3.2.
	Token string `json:"token,omitempty"`

	// Where the keys are that ID tokens are signed with. Source: RFC 7517.
	JWKS string `json:"jwks,omitempty"`

	// Where more is known of the user. Source: OpenID Connect Core 1.0, section
	// 5.3.
	Userinfo string `json:"userinfo,omitempty"`

	// Where browsers log out. Source: OpenID Connect RP-Initiated Logout 1.0.
	EndSession string `json:"end_session,omitempty"`

	// Where refresh tokens are revoked. Source: RFC 7009.
	Revocation string `json:"revocation,omitempty"`
}

// endpointOptions are the endpoints by their names in a Caddyfile.
var endpointOptions = map[string]func(*EndpointsConfig) *string{
	"authorization": func(e *EndpointsConfig) *string { return &e.Authorization },
	"token":         func(e *EndpointsConfig) *string { return &e.Token },
	"jwks":          func(e *EndpointsConfig) *string { return &e.JWKS },
	"userinfo":      func(e *EndpointsConfig) *string { return &e.Userinfo },
	"end_session":   func(e *EndpointsConfig) *string { return &e.EndSession },
	"revocation":    func(e *EndpointsConfig) *string { return &e.Revocation },
}

// resolved replaces placeholders in the endpoints.
func (e *EndpointsConfig) resolved() (rp.Endpoints, error) {
	if e == nil {
		return rp.Endpoints{}, nil
	}
	out := *e
	for _, name := range keys(endpointOptions) {
		into := endpointOptions[name](&out)
		var err error
		if *into, err = resolve(*into); err != nil {
			return rp.Endpoints{}, fmt.Errorf("%s: %w", name, err)
		}
	}
	return rp.Endpoints{
		AuthorizationEndpoint: out.Authorization, TokenEndpoint: out.Token, JWKSURI: out.JWKS,
		UserinfoEndpoint: out.Userinfo, EndSessionEndpoint: out.EndSession, RevocationEndpoint: out.Revocation,
	}, nil
}

// withoutTenant gives an issuer without the one placeholder that is none of
// Caddy's: Entra's metadata have it.
func withoutTenant(issuer string) string { return strings.Replace(issuer, rp.TenantPlaceholder, "", 1) }

// resolveIssuer replaces placeholders in an issuer, but for that one.
func resolveIssuer(text string) (string, error) {
	before, after, isTemplate := strings.Cut(text, rp.TenantPlaceholder)
	before, err := resolve(before)
	if err != nil || !isTemplate {
		return before, err
	}
	after, err = resolve(after)
	return before + rp.TenantPlaceholder + after, err
}

func (p *Provider) validateAddress() error {
	if p.Issuer == "" {
		return misconfigured("issuer", "is required: the URL of the OpenID Provider")
	}
	issuer := withoutTenant(p.Issuer)
	if err := checkPlaceholders(issuer); err != nil {
		return misconfigured("issuer", "%v", err)
	}
	if !hasPlaceholder(issuer) {
		if err := p.checkIssuer(p.Issuer); err != nil {
			return err
		}
	}
	if err := checkPlaceholders(p.DiscoveryURL); err != nil {
		return misconfigured("discovery_url", "%v", err)
	}
	if p.DiscoveryURL != "" && !hasPlaceholder(p.DiscoveryURL) {
		if err := checkAbsoluteURL(p.DiscoveryURL); err != nil {
			return misconfigured("discovery_url", "%v", err)
		}
	}
	if p.Timeout < 0 {
		return misconfigured("timeout", "must be positive")
	}
	return p.validateProviderEndpoints()
}

// checkIssuer says whether there can be a login at an issuer, in which no
// placeholder stands any more.
func (p *Provider) checkIssuer(issuer string) error {
	if err := rp.CheckIssuer(issuer); err != nil {
		return misconfigured("issuer", "%v: write it as the provider does, https://…", err)
	}
	if quirk := rp.QuirkOf(issuer); quirk.Refuse != "" {
		return misconfigured("issuer", "%s", quirk.Refuse)
	}
	if rp.NeedsTenants(issuer) && (p.Authorization == nil || len(p.Authorization.Tenants) == 0) {
		return misconfigured("issuer", "%s is for users of many tenants: name those who may log in with allowed_tenants <id>…", issuer)
	}
	return nil
}

func (p *Provider) validateProviderEndpoints() error {
	e := p.Endpoints
	if e == nil {
		return nil
	}
	placeholders := hasPlaceholder(withoutTenant(p.Issuer))
	for _, name := range keys(endpointOptions) {
		text := *endpointOptions[name](e)
		if err := checkPlaceholders(text); err != nil {
			return misconfigured("endpoints", "%s: %v", name, err)
		}
		placeholders = placeholders || hasPlaceholder(text)
	}
	discovered := p.DiscoveryURL != "" || e.Authorization == "" || e.Token == ""
	switch {
	case discovered || e.JWKS != "":
	case p.Authorization.asksOpenID():
		return misconfigured("endpoints", "jwks is needed to check ID tokens: add it, or leave openid out of the scopes")
	case p.Claims != nil && contains(p.Claims.From, rp.FromAccessToken):
		return misconfigured("endpoints", "jwks is needed to check access tokens: add it, or take access_token out of claims_from")
	}
	if !discovered && rp.NeedsTenants(p.Issuer) && !rp.IsTemplate(p.Issuer) {
		return misconfigured("issuer", "without discovery, nothing says where the tenant stands in %s: write {tenantid} in its place", p.Issuer)
	}
	if !discovered && e.Userinfo == "" && p.Claims.asksUserinfo() {
		return misconfigured("endpoints", "userinfo is needed for the claims: add it")
	}
	if placeholders {
		return nil
	}
	resolved, err := e.resolved()
	if err == nil {
		err = resolved.Check(p.Issuer)
	}
	if err != nil {
		return misconfigured("endpoints", "%v", err)
	}
	return nil
}
