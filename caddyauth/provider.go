package caddyauth

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/pkce-auth/caddy-pkce-auth/caddyauth/internal/rp"
)

// Provider is an OpenID Provider, and how we are registered there: who logs
// users in, and what for. Providers are declared in the app `pkce_auth`, by
// name, or inline in a handler.
type Provider struct {
	// The issuer identifier: the URL of the provider, `https` (or `http` on a
	// loopback name). Its metadata are fetched from below it when they are
	// first needed, and must name exactly this issuer; an issuer without a path
	// is forgiven its trailing slash. Required. Source: OpenID Connect
	// Discovery 1.0, section 4.
	Issuer string `json:"issuer,omitempty"`

	// The client ID that the provider knows this site by. Required.
	ClientID string `json:"client_id,omitempty"`

	// The client secret. Without one the site is a public client, which PKCE
	// protects. Give it as `{env.NAME}` or `{file./path}`: the placeholder is
	// read whenever the secret is needed, and the secret stands in no
	// configuration. Default: none.
	ClientSecret string `json:"client_secret,omitempty"`

	// How the client authenticates at the token endpoint: `auto`, `none`,
	// `client_secret_basic` or `client_secret_post`. `auto` takes what the
	// provider's metadata advertise, and never tries one after the other.
	// Default: `auto`. Source: OpenID Connect Core 1.0, section 9.
	ClientAuth string `json:"client_auth,omitempty"`

	// What is asked for at login.
	Authorization *Authorization `json:"authorization,omitempty"`

	// The origins of this site as browsers see them, such as
	// `https://app.example.com`. Needed when something in front of Caddy ends
	// TLS and is not among Caddy's `trusted_proxies`. Requests to any other
	// origin cannot log in: they get 421. Default: the request's own origin,
	// where it can be relied on.
	PublicURL []string `json:"public_url,omitempty"`

	// The path below which the endpoints are: `callback`, `login`, `logout`,
	// `signed-out` and `error`. Default: `/oauth2`, for a named provider
	// `/oauth2/<name>`.
	Prefix string `json:"prefix,omitempty"`

	// The path of the redirect URI, which must be registered at the provider.
	// Default: `<prefix>/callback`.
	CallbackPath string `json:"callback_path,omitempty"`

	// The secrets that seal cookies: the first seals, all of them open. Each is
	// 64 or more hexadecimal digits, else base64 of at least 32 bytes, else at
	// least 32 bytes as they are. Give them as `{env.NAME}` or `{file./path}`.
	// Default: one made at random for the life of the process, so that sessions
	// end with it and are not shared.
	CookieSecret []string `json:"cookie_secret,omitempty"`

	// How sessions are kept and how long they last.
	Session *SessionConfig `json:"session,omitempty"`

	// How far the provider's clock may be off ours, in the dates of its
	// tokens. Default: `60s`.
	ClockSkew caddy.Duration `json:"clock_skew,omitempty"`

	// The longest time that one call to the provider may take. Default: `10s`.
	Timeout caddy.Duration `json:"timeout,omitempty"`
}

// Authorization is what the authorization request asks for.
type Authorization struct {
	// The scopes, sent exactly as written. With `openid` among them an ID token
	// is required, and the session knows who the user is; without it, none is
	// expected. Default: `openid`, `profile`, `email`.
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
}

// SessionConfig is how sessions are kept and how long they last.
type SessionConfig struct {
	// How long a session lasts from the login, however much it is used.
	// Default: `7d`.
	Lifetime caddy.Duration `json:"lifetime,omitempty"`

	// How long a session lasts without being used. Default: `24h`, or the
	// lifetime if that is shorter.
	Idle caddy.Duration `json:"idle,omitempty"`

	// The name of the session cookie. Default: `__Host-Http-pkce_auth`, with
	// the provider's name behind it if it has one.
	CookieName string `json:"cookie_name,omitempty"`

	// The domain of the session cookie, if subdomains are to share the session.
	// It gives up the `__Host-` prefix, and with it the protection from cookies
	// that a sibling domain plants. Default: none, this host only.
	CookieDomain string `json:"cookie_domain,omitempty"`

	// The SameSite attribute of the session cookie: `lax`, `strict` or `none`.
	// Default: `lax`.
	SameSite string `json:"same_site,omitempty"`

	// Where sessions are kept. Default: `cookie`.
	StoreRaw json.RawMessage `json:"store,omitempty" caddy:"namespace=pkce_auth.sessions inline_key=kind"`
}

const (
	defaultLifetime = 7 * 24 * time.Hour
	defaultIdle     = 24 * time.Hour
	defaultPrefix   = "/oauth2"
)

var defaultScopes = []string{"openid", "profile", "email"}

// configError is a mistake in one option. In a Caddyfile, the option's line
// is added.
type configError struct {
	option  string
	problem string
}

func (e *configError) Error() string { return e.option + ": " + e.problem }

func misconfigured(option, format string, args ...any) error {
	return &configError{option: option, problem: fmt.Sprintf(format, args...)}
}

// validate finds every mistake that can be found without looking at the
// environment. Caddyfile and JSON come by here alike.
func (p *Provider) validate() error {
	for _, check := range []func() error{
		p.validateClient, p.validateAuthorization, p.validateSite, p.validateSecrets, p.validateSession,
	} {
		if err := check(); err != nil {
			return err
		}
	}
	if p.ClockSkew < 0 {
		return misconfigured("clock_skew", "must be positive")
	}
	if p.Timeout < 0 {
		return misconfigured("timeout", "must be positive")
	}
	return nil
}

func (p *Provider) validateClient() error {
	if p.Issuer == "" {
		return misconfigured("issuer", "is required: the URL of the OpenID Provider")
	}
	if err := checkPlaceholders(p.Issuer); err != nil {
		return misconfigured("issuer", "%v", err)
	}
	if !hasPlaceholder(p.Issuer) {
		if err := rp.CheckIssuer(p.Issuer); err != nil {
			return misconfigured("issuer", "%v: write it as the provider does, https://…", err)
		}
	}
	if p.ClientID == "" {
		return misconfigured("client_id", "is required: the ID under which this site is registered at the provider")
	}
	if err := checkPlaceholders(p.ClientID); err != nil {
		return misconfigured("client_id", "%v", err)
	}
	if err := checkPlaceholders(p.ClientSecret); err != nil {
		return misconfigured("client_secret", "%v", err)
	}
	switch rp.AuthMethod(p.ClientAuth) {
	case "", rp.AuthAuto:
	case rp.AuthNone:
		if p.ClientSecret != "" {
			return misconfigured("client_auth", "none contradicts client_secret: leave one of them out")
		}
	case rp.AuthBasic, rp.AuthPost:
		if p.ClientSecret == "" {
			return misconfigured("client_auth", "%s needs a client_secret", p.ClientAuth)
		}
	case "private_key_jwt", "assertion_file", "tls":
		return misconfigured("client_auth", "%s is not yet supported", p.ClientAuth)
	default:
		return misconfigured("client_auth", "%q is none of auto, none, client_secret_basic, client_secret_post", p.ClientAuth)
	}
	return nil
}

func (p *Provider) validateAuthorization() error {
	a := p.Authorization
	if a == nil {
		return nil
	}
	for i, scope := range a.Scopes {
		if strings.ContainsFunc(scope, func(r rune) bool { return r <= ' ' || r > '~' || r == '"' || r == '\\' }) || scope == "" {
			return misconfigured("scopes", "%q is not a scope: give each as an argument of its own", scope)
		}
		if slices.Contains(a.Scopes[:i], scope) {
			return misconfigured("scopes", "%s stands twice", scope)
		}
	}
	for i, resource := range a.Resources {
		if !strings.Contains(resource, ":") || strings.Contains(resource, "#") {
			return misconfigured("resource", "%q must be an absolute URI without fragment (RFC 8707 section 2); for an API identifier, use audience", resource)
		}
		if slices.Contains(a.Resources[:i], resource) {
			return misconfigured("resource", "%s stands twice", resource)
		}
	}
	for name := range a.Params {
		if err := rp.CheckExtraParam(name); err != nil {
			return misconfigured("authorize_param", "%v", err)
		}
	}
	for _, literal := range []struct{ option, value string }{{"audience", a.Audience}, {"connection", a.Connection}} {
		if hasPlaceholder(literal.value) {
			return misconfigured(literal.option, "cannot hold placeholders: write the value itself, or {$NAME} for one from the environment")
		}
	}
	return nil
}

func (p *Provider) validateSite() error {
	for i, u := range p.PublicURL {
		if err := checkPlaceholders(u); err != nil {
			return misconfigured("public_url", "%v", err)
		}
		if hasPlaceholder(u) {
			continue
		}
		if _, err := parseOrigin(u); err != nil {
			return misconfigured("public_url", "%s: %v", u, err)
		}
		if slices.Contains(p.PublicURL[:i], u) {
			return misconfigured("public_url", "%s stands twice", u)
		}
	}
	if err := checkEndpointPath(p.Prefix); err != nil {
		return misconfigured("prefix", "%v", err)
	}
	if err := checkEndpointPath(p.CallbackPath); err != nil {
		return misconfigured("callback_path", "%v", err)
	}
	return nil
}

// validateEndpoints needs the name under which the provider is declared, for
// that is a part of its default prefix.
func (p *Provider) validateEndpoints(name string) error {
	_, callback, all := p.endpointPaths(name)
	if slices.Contains(all[1:], callback) {
		return misconfigured("callback_path", "%s is another endpoint: call it something else", callback)
	}
	return nil
}

// checkEndpointPath wants a path that is matched exactly as it is written.
func checkEndpointPath(path string) error {
	switch {
	case path == "":
		return nil
	case !strings.HasPrefix(path, "/") || path == "/":
		return fmt.Errorf("%q must begin with a slash and name something, such as /oauth2", path)
	case strings.HasSuffix(path, "/"):
		return fmt.Errorf("%q must not end in a slash", path)
	case ambiguousPath(path) || strings.ContainsFunc(path, func(r rune) bool { return !isPathRune(r) }):
		return fmt.Errorf("%q may hold letters, digits and - . _ ~ in its segments, nothing else", path)
	default:
		return nil
	}
}

func isPathRune(r rune) bool {
	return r == '/' || r == '-' || r == '.' || r == '_' || r == '~' ||
		'a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' || '0' <= r && r <= '9'
}

func (p *Provider) validateSecrets() error {
	for _, s := range p.CookieSecret {
		if err := checkPlaceholders(s); err != nil {
			return misconfigured("cookie_secret", "%v", err)
		}
		if hasPlaceholder(s) {
			continue
		}
		if _, err := parseCookieSecret(s); err != nil {
			return misconfigured("cookie_secret", "%v", err)
		}
	}
	return nil
}

func (p *Provider) validateSession() error {
	s := p.Session
	if s == nil {
		return nil
	}
	if s.Lifetime < 0 {
		return misconfigured("lifetime", "must be positive")
	}
	if s.Idle < 0 {
		return misconfigured("idle", "must be positive")
	}
	if s.Idle > 0 && s.Idle > s.lifetime() {
		return misconfigured("idle", "%s is longer than the lifetime of %s", time.Duration(s.Idle), time.Duration(s.lifetime()))
	}
	if s.CookieName != "" {
		if err := checkCookieName(s.CookieName, s.CookieDomain != ""); err != nil {
			return misconfigured("cookie_name", "%v", err)
		}
	}
	if s.CookieDomain != "" {
		if err := checkCookieDomain(s.CookieDomain); err != nil {
			return misconfigured("cookie_domain", "%v", err)
		}
	}
	switch s.SameSite {
	case "", "lax", "strict", "none":
		return nil
	default:
		return misconfigured("same_site", "%q is none of lax, strict, none", s.SameSite)
	}
}

func (s *SessionConfig) lifetime() caddy.Duration {
	if s == nil || s.Lifetime == 0 {
		return caddy.Duration(defaultLifetime)
	}
	return s.Lifetime
}

func (s *SessionConfig) idle() caddy.Duration {
	if s == nil || s.Idle == 0 {
		return min(caddy.Duration(defaultIdle), s.lifetime())
	}
	return s.Idle
}
