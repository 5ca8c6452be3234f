package caddyauth

import (
	"slices"
	"strings"

	"github.com/pkce-auth/caddy-pkce-auth/caddyauth/internal/rp"
)

// ClaimsConfig is where claims about the user come from, and which of them
// this site's pages see.
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

	// The claims that `<prefix>/session` shows to this site's own pages, nested
	// with dots (`realm_access.roles`) or by their literal names; each stands
	// there under the name that it has here, and one that is missing is left
	// out. What belongs to the protocol, from `iss` to `sid`, and tokens are
	// refused, and a token within a claim is left out. Default: `sub`, `name`,
	// `email`, `picture`. Source: OAuth 2.0 for Browser-Based Applications,
	// section 6.1.
	Session []string `json:"session,omitempty"`
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
	return c.validateSession()
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

// defaultShown are the claims that pages see where nobody says which.
var defaultShown = []string{"sub", "name", "email", "picture"}

// shown are the claims that pages see.
func (c *ClaimsConfig) shown() []string {
	if c == nil || len(c.Session) == 0 {
		return defaultShown
	}
	return c.Session
}

// withheld are the claims that no page sees: they are between the provider and
// us, say who we are there, or lead to tokens (OpenID Connect Core sections 2
// and 5.6.2).
var withheld = []string{
	"iss", "aud", "azp", "client_id", "exp", "iat", "nbf", "jti", "nonce", "at_hash", "c_hash", "s_hash", "sid", "session_state",
	"_claim_names", "_claim_sources",
}

// namesToken reports whether what has this name may be a token, as some
// providers put those of others into their claims.
func namesToken(name string) bool {
	name = strings.ToLower(name)
	return name == "token" || strings.HasSuffix(name, "_token") || strings.HasSuffix(name, "accesstoken") || strings.HasSuffix(name, "refreshtoken")
}

func (c *ClaimsConfig) validateSession() error {
	for i, name := range c.Session {
		first, _, _ := strings.Cut(name, ".")
		last := name[strings.LastIndexByte(name, '.')+1:]
		switch {
		case name == "":
			return misconfigured("session_claims", "a claim needs a name")
		case hasPlaceholder(name):
			return misconfigured("session_claims", "%q: write the claim's name itself, as sub or realm_access.roles", name)
		case slices.Contains(withheld, first):
			return misconfigured("session_claims", "%s is between the provider and Caddy, and no page sees it: leave it out", name)
		case namesToken(first) || namesToken(last):
			return misconfigured("session_claims", "%s may hold a token, which no page gets: leave it out", name)
		case slices.Contains(c.Session[:i], name):
			return misconfigured("session_claims", "%s stands twice", name)
		}
	}
	return nil
}
