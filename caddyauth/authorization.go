package caddyauth

import (
	"regexp"
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2"

	"github.com/pkce-auth/caddy-pkce-auth/caddyauth/internal/rp"
)

// Authorization is what the authorization request asks for.
type Authorization struct {
	// The scopes, sent exactly as written. With `openid` among them an ID token
	// is required, and the session knows who the user is; without it, none is
	// expected. Default: `openid`, `profile`, `email`, and `offline_access`
	// where the provider advertises it.
	Scopes []string `json:"scopes,omitempty"`

	// The identifier of the API that the access token is for, as Auth0, Ory
	// Hydra and Authelia take it. Default: none, and the parameter is not sent.
	Audience string `json:"audience,omitempty"`

	// The APIs that the access token is for, as absolute URIs. Sent with the
	// authorization request and with the code. Default: none. Source: RFC 8707.
	Resources []string `json:"resources,omitempty"`

	// The Auth0 connection to log in with, by name. Default: none.
	Connection string `json:"connection,omitempty"`

	// Further parameters of the authorization request. Values may hold
	// placeholders of the request; an empty value is not sent. Those of the
	// protocol, and those that have an option of their own, are refused.
	Params map[string]string `json:"params,omitempty"`

	// Parameters that a link to the `login` endpoint may add to the
	// authorization request. Default: `login_hint`, `ui_locales`,
	// `screen_hint`, `organization`, `invitation`.
	LoginParams []string `json:"login_params,omitempty"`

	// The Auth0 organizations, by ID or name, whose members may log in: the
	// first is sent, and the ID token must name one of them. Default: none.
	Organizations []string `json:"organizations,omitempty"`

	// How long ago users may have proved who they are when they log in; the ID
	// token must say that it was no longer. Default: none. Source: OpenID
	// Connect Core 1.0, section 3.1.2.1.
	MaxAge caddy.Duration `json:"max_age,omitempty"`

	// The authentication contexts to ask for; the ID token must name one of
	// them. Default: none. Source: OpenID Connect Core 1.0, section 3.1.2.1.
	ACRValues []string `json:"acr_values,omitempty"`

	// Whether the resources are sent with refresh requests, too. Default:
	// false, but at Logto.
	ResourceOnRefresh *bool `json:"resource_on_refresh,omitempty"`

	// How the provider's answer comes: `query`, in the URL of a redirect, or
	// `form_post`, in a form that the browser posts. Default: `query`, but at
	// Apple. Source: OAuth 2.0 Form Post Response Mode.
	ResponseMode string `json:"response_mode,omitempty"`

	// The tenants whose users may log in, by ID: the claim `tid` of the ID token
	// must be one of them. Required for an issuer that is for many tenants, as
	// Microsoft Entra's `common`. Default: not looked at.
	Tenants []string `json:"allowed_tenants,omitempty"`
}

// asksOpenID reports whether "openid" is among the scopes.
func (a *Authorization) asksOpenID() bool {
	return a == nil || len(a.Scopes) == 0 || slices.Contains(a.Scopes, "openid")
}

// formPost reports whether the answer of the provider with that issuer, in
// which no placeholder stands any more, comes in a form.
func (p *Provider) formPost(issuer string) bool {
	if a := p.Authorization; a != nil && a.ResponseMode != "" {
		return a.ResponseMode == rp.ResponseModeFormPost
	}
	return rp.QuirkOf(issuer).ResponseMode == rp.ResponseModeFormPost
}

var (
	defaultScopes      = []string{"openid", "profile", "email"}
	defaultLoginParams = []string{"login_hint", "ui_locales", "screen_hint", "organization", "invitation"}
)

func (p *Provider) validateAuthorization() error {
	a := p.Authorization
	if a == nil {
		return nil
	}
	if err := checkScopes(a.Scopes); err != nil {
		return err
	}
	if err := checkResources(a.Resources); err != nil {
		return err
	}
	for name := range a.Params {
		if err := rp.CheckExtraParam(name); err != nil {
			return misconfigured("authorize_param", "%v", err)
		}
	}
	if p.Session != nil && p.Session.Refresh == refreshOff && slices.Contains(a.Scopes, "offline_access") {
		return misconfigured("scopes", "offline_access asks for a refresh token, which refresh off never uses: leave one of them out")
	}
	for i, name := range a.LoginParams {
		if err := rp.CheckLoginParam(name); err != nil {
			return misconfigured("login_param", "%v", err)
		}
		if slices.Contains(a.LoginParams[:i], name) {
			return misconfigured("login_param", "%s stands twice", name)
		}
	}
	if a.MaxAge < 0 {
		return misconfigured("max_age", "must be positive")
	}
	if needsOpenID := a.MaxAge > 0 || len(a.ACRValues) > 0 || len(a.Organizations) > 0 || len(a.Tenants) > 0; needsOpenID && !a.asksOpenID() {
		return misconfigured("scopes", "without openid there is no ID token that max_age, acr_values, organization or allowed_tenants could be checked with: add openid")
	}
	switch a.ResponseMode {
	case "", rp.ResponseModeQuery, rp.ResponseModeFormPost:
	default:
		return misconfigured("response_mode", "%q is none of query, form_post", a.ResponseMode)
	}
	for _, tenant := range a.Tenants {
		if !tenantID.MatchString(tenant) {
			return misconfigured("allowed_tenants", "%q is not the ID of a tenant, which looks like 8eaef023-2b34-4da1-9baa-8bc8c9d6a490", tenant)
		}
	}
	return a.validateLiterals()
}

func checkScopes(scopes []string) error {
	for i, scope := range scopes {
		if strings.ContainsFunc(scope, func(r rune) bool { return r <= ' ' || r > '~' || r == '"' || r == '\\' }) || scope == "" {
			return misconfigured("scopes", "%q is not a scope: give each as an argument of its own", scope)
		}
		if slices.Contains(scopes[:i], scope) {
			return misconfigured("scopes", "%s stands twice", scope)
		}
	}
	return nil
}

func checkResources(resources []string) error {
	for i, resource := range resources {
		if strings.ContainsFunc(resource, func(r rune) bool { return r <= ' ' || r == 0x7f }) || !strings.Contains(resource, ":") || strings.Contains(resource, "#") {
			return misconfigured("resource", "%q must be an absolute URI without fragment (RFC 8707 section 2); for an API identifier, use audience", resource)
		}
		if slices.Contains(resources[:i], resource) {
			return misconfigured("resource", "%s stands twice", resource)
		}
	}
	return nil
}

// tenantID is the ID of a tenant.
var tenantID = regexp.MustCompile(`(?i)^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$`)

// validateLiterals refuses placeholders where they would be sent as they are.
func (a *Authorization) validateLiterals() error {
	for _, literal := range []struct{ option, value string }{
		{"audience", a.Audience},
		{"connection", a.Connection},
		{"organization", strings.Join(a.Organizations, " ")},
		{"acr_values", strings.Join(a.ACRValues, " ")},
	} {
		if hasPlaceholder(literal.value) {
			return misconfigured(literal.option, "cannot hold placeholders: write the value itself, or {$NAME} for one from the environment")
		}
	}
	return nil
}
