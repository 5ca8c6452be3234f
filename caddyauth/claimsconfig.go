package caddyauth

import (
	"slices"

	"github.com/pkce-auth/caddy-pkce-auth/caddyauth/internal/rp"
)

// ClaimsConfig is where claims about the user come from.
type ClaimsConfig struct {
	// The sources, in order: `id_token`, `access_token`, which must be a JWT of
	// the provider, and `userinfo`. Of a claim that stands in several, the first
	// counts; what the protocol is about, from `sub` to `sid`, an ID token
	// decides wherever it stands. Default: `id_token`.
	From []string `json:"from,omitempty"`

	// Whether userinfo is asked, too, as the last of the sources: once for each
	// login, never per request. What it says must be about the ID token's
	// subject, else the login fails. Default: if it is one of the sources.
	// Source: OpenID Connect Core 1.0, section 5.3.
	Userinfo *bool `json:"userinfo,omitempty"`
}

var claimSources = []string{string(rp.FromIDToken), string(rp.FromAccessToken), string(rp.FromUserinfo)}

func (p *Provider) validateClaims() error {
	c := p.Claims
	if c == nil {
		return nil
	}
	for i, source := range c.From {
		if !slices.Contains(claimSources, source) {
			return misconfigured("claims_from", "%q is none of id_token, access_token, userinfo", source)
		}
		if slices.Contains(c.From[:i], source) {
			return misconfigured("claims_from", "%s stands twice", source)
		}
	}
	if c.Userinfo != nil && !*c.Userinfo && contains(c.From, rp.FromUserinfo) {
		return misconfigured("claims_from", "userinfo off contradicts a source userinfo: leave one of them out")
	}
	if contains(c.From, rp.FromIDToken) && !p.Authorization.asksOpenID() {
		return misconfigured("claims_from", "without openid in the scopes there is no id_token: add it, or take id_token out")
	}
	return nil
}

// asksUserinfo reports whether userinfo is one of the sources.
func (c *ClaimsConfig) asksUserinfo() bool {
	return c != nil && (c.Userinfo != nil && *c.Userinfo || contains(c.From, rp.FromUserinfo))
}

func contains(sources []string, source rp.ClaimSource) bool {
	return slices.Contains(sources, string(source))
}

// configure tells a client.
func (c *ClaimsConfig) configure(client *rp.Client) {
	if c == nil {
		return
	}
	client.Userinfo = c.asksUserinfo()
	for _, source := range c.From {
		client.ClaimsFrom = append(client.ClaimsFrom, rp.ClaimSource(source))
	}
}
