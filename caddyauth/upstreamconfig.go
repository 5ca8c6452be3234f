package caddyauth

import (
	"crypto/sha256"
	"encoding/base64"
	"strings"

	"github.com/pkce-auth/caddy-pkce-auth/caddyauth/internal/rp"
	"github.com/pkce-auth/caddy-pkce-auth/caddyauth/internal/sealed"
	"github.com/pkce-auth/caddy-pkce-auth/caddyauth/internal/session"
)

// UpstreamConfig is what goes upstream on a route: which token, and who the user
// is.
type UpstreamConfig struct {
	// Headers to send upstream with a session, by name; values may hold
	// placeholders. A header that is named here, on any route of the provider,
	// is never accepted from a client on any route of the provider. An empty
	// value is not sent.
	HeaderUp map[string]string `json:"header_up,omitempty"`

	// What goes upstream as `Authorization: Bearer`: `access`, the access token;
	// `id`, the ID token as the provider sent it, and never an expired one;
	// `none`, nothing of ours, and then the client's own `Authorization` is left
	// alone. Default: `access`. Source: RFC 6750, section 2.1.
	ForwardToken string `json:"forward_token,omitempty"`

	// The identifier of the API that this route's access token is for, where that
	// is another than the provider's. The session then holds a token of its own
	// for the route, which is got by a refresh where the provider can do so, else
	// by a silent authorization. Default: the provider's, and the same token.
	// Source: Auth0's multi-resource refresh tokens.
	Audience string `json:"audience,omitempty"`

	// Likewise, the APIs as absolute URIs. Default: the provider's. Source: RFC
	// 8707, section 2.
	Resources []string `json:"resources,omitempty"`

	// Likewise, the scopes of this route's access token. Default: the provider's.
	// Source: RFC 6749, section 6.
	Scopes []string `json:"scopes,omitempty"`
}

const (
	forwardAccess = "access"
	forwardID     = "id"
	forwardNone   = "none"
)

// routeToken is which token goes upstream on a route.
type routeToken struct {
	key    string    // in the session
	target rp.Target // what it is for; empty: what is configured for the provider
	none   bool      // no token at all
	said   bool      // whether the route says so itself
}

// describe names the token in logs.
func (t *routeToken) describe() string {
	if t.key == session.IDToken {
		return "ID token"
	}
	return describe(t.target)
}

func describe(t rp.Target) string {
	var parts []string
	if t.Audience != "" {
		parts = append(parts, "audience "+t.Audience)
	}
	if len(t.Resources) > 0 {
		parts = append(parts, "resource "+strings.Join(t.Resources, " "))
	}
	if len(t.Scopes) > 0 {
		parts = append(parts, "scopes "+strings.Join(t.Scopes, " "))
	}
	return "access token for " + strings.Join(parts, ", ")
}

func (c *UpstreamConfig) target() rp.Target {
	return rp.Target{Audience: c.Audience, Resources: c.Resources, Scopes: c.Scopes}
}

func (c *UpstreamConfig) validate() error {
	switch c.ForwardToken {
	case "", forwardAccess:
	case forwardID, forwardNone:
		for _, given := range []struct {
			option string
			given  bool
		}{{"audience", c.Audience != ""}, {"resource", c.Resources != nil}, {"scopes", c.Scopes != nil}} {
			if given.given {
				return misconfigured(given.option, "is about the route's access token, which forward_token %s does not send: leave one of them out", c.ForwardToken)
			}
		}
	default:
		return misconfigured("forward_token", "%q is none of access, id, none", c.ForwardToken)
	}
	for name := range c.HeaderUp {
		if err := checkIdentityHeader(name); err != nil {
			return misconfigured("header_up", "%v", err)
		}
	}
	if err := checkScopes(c.Scopes); err != nil {
		return err
	}
	if err := checkResources(c.Resources); err != nil {
		return err
	}
	if hasPlaceholder(c.Audience) {
		return misconfigured("audience", "cannot hold placeholders: write the value itself, or {$NAME} for one from the environment")
	}
	return nil
}

// checkProvider says when the provider cannot give what goes upstream.
func (c *UpstreamConfig) checkProvider(asksOpenID bool) error {
	if c.ForwardToken == forwardID && !asksOpenID {
		return misconfigured("forward_token", "id needs an ID token, and the provider's scopes do not ask for one: add openid to them")
	}
	return nil
}

// load gives the token that the configuration means.
func (c *UpstreamConfig) load() routeToken {
	t := routeToken{target: c.target(), none: c.ForwardToken == forwardNone}
	t.said = c.ForwardToken != "" || !t.target.Empty()
	switch {
	case c.ForwardToken == forwardID:
		t.key = session.IDToken
	case !t.target.Empty():
		t.key = targetKey(t.target)
	}
	return t
}

// targetKey is what a session keeps the tokens of a target under: a digest of all
// that shapes the provider's answer, and is not what the session is bound to
// anyway (A74). Another target is another token, also after a reload.
func targetKey(t rp.Target) string {
	var w sealed.Writer
	w.Text(t.Audience)
	for _, list := range [][]string{t.Resources, t.Scopes} {
		w.Number(uint64(len(list)))
		for _, text := range list {
			w.Text(text)
		}
	}
	sum := sha256.Sum256(w.Bytes())
	return base64.RawURLEncoding.EncodeToString(sum[:16])
}
