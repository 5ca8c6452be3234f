package caddyauth

import (
	"fmt"
	"net/url"
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2"

	"github.com/pkce-auth/caddy-pkce-auth/caddyauth/internal/rp"
)

// Provider is an OpenID Provider, and how we are registered there: who logs
// users in, and what for. Providers are declared in the app `pkce_auth`, by
// name, or inline in a handler.
type Provider struct {
	Address

	Registration

	// What is asked for at login.
	Authorization *Authorization `json:"authorization,omitempty"`

	// Where claims about the user come from.
	Claims *ClaimsConfig `json:"claims,omitempty"`

	Site

	// The secrets that seal cookies: the first seals, all of them open. Each is
	// 64 or more hexadecimal digits, else base64 of at least 32 bytes, else at
	// least 32 bytes as they are. Give them as `{env.NAME}` or `{file./path}`.
	// Default: one that is made at first use, kept in Caddy's storage and
	// rotated there, so that all who share the storage share the sessions.
	CookieSecret []string `json:"cookie_secret,omitempty"`

	// How sessions are kept and how long they last.
	Session *SessionConfig `json:"session,omitempty"`

	// How a logout goes on at the provider.
	Logout *LogoutConfig `json:"logout,omitempty"`

	// How far the provider's clock may be off ours, in the dates of its
	// tokens. Default: `60s`.
	ClockSkew caddy.Duration `json:"clock_skew,omitempty"`
}

const defaultPrefix = "/oauth2"

// Site is where we are: as browsers see it, and below which paths.
type Site struct {
	// The origins of this site as browsers see them, such as
	// `https://app.example.com`. Needed when something in front of Caddy ends
	// TLS and is not among Caddy's `trusted_proxies`. Requests to any other
	// origin cannot log in: they get 421. Default: the request's own origin,
	// where it can be relied on.
	PublicURL []string `json:"public_url,omitempty"`

	// The path below which the endpoints are: `callback`, `login`, `logout`,
	// `session`, `signed-out` and `error`. Default: `/oauth2`, for a named provider
	// `/oauth2/<name>`.
	Prefix string `json:"prefix,omitempty"`

	// The path of the redirect URI, which must be registered at the provider.
	// Default: `<prefix>/callback`.
	CallbackPath string `json:"callback_path,omitempty"`
}

// LogoutConfig is how a logout goes on at the provider. The session of this
// site ends in any case.
type LogoutConfig struct {
	// How the provider is told: `oidc` at its `end_session_endpoint`, `auth0`
	// at `/v2/logout`, `cognito` at `/logout`, `local` not at all; `auto` takes
	// what the provider's metadata, or its name, say. Default: `auto`. Source:
	// OpenID Connect RP-Initiated Logout 1.0, section 2.
	Style string `json:"style,omitempty"`

	// Where the provider sends the browser afterwards; it must be registered
	// there. Default: `<public origin><prefix>/signed-out`.
	Redirect string `json:"redirect,omitempty"`

	// Whether the refresh token is revoked, too. Default: where the provider
	// advertises an endpoint for that. Source: RFC 7009.
	Revoke *bool `json:"revoke,omitempty"`

	// Whether the provider may end sessions here by itself, as when the user
	// logs out elsewhere: at `<prefix>/backchannel-logout`, which must be
	// registered there, and, as far as browsers let it, at
	// `<prefix>/frontchannel-logout`. Default: true. Source: OpenID Connect
	// Back-Channel Logout 1.0 and Front-Channel Logout 1.0.
	BackChannel *bool `json:"back_channel,omitempty"`
}

// takesLogouts reports whether the provider may end sessions.
func (l *LogoutConfig) takesLogouts() bool { return l == nil || l.BackChannel == nil || *l.BackChannel }

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
		p.validateAddress, p.validateRegistration, p.validateAuthorization, p.validateClaims, p.validateSite, p.validateSecrets,
		p.validateSession, p.validateLogout,
	} {
		if err := check(); err != nil {
			return err
		}
	}
	if p.ClockSkew < 0 {
		return misconfigured("clock_skew", "must be positive")
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

func (p *Provider) validateLogout() error {
	l := p.Logout
	if l == nil {
		return nil
	}
	switch rp.LogoutStyle(l.Style) {
	case "", rp.LogoutAuto, rp.LogoutOIDC, rp.LogoutAuth0, rp.LogoutCognito, rp.LogoutLocal:
	default:
		return misconfigured("logout", "%q is none of auto, oidc, auth0, cognito, local", l.Style)
	}
	if err := checkPlaceholders(l.Redirect); err != nil {
		return misconfigured("post_logout_redirect", "%v", err)
	}
	if l.Redirect != "" && !hasPlaceholder(l.Redirect) {
		if err := checkAbsoluteURL(l.Redirect); err != nil {
			return misconfigured("post_logout_redirect", "%v", err)
		}
	}
	return nil
}

// checkAbsoluteURL wants a URL that a browser can be sent to.
func checkAbsoluteURL(text string) error {
	u, err := url.Parse(text)
	switch {
	case err != nil || u.Host == "" || u.Opaque != "" || u.User != nil || strings.ContainsFunc(text, func(r rune) bool { return r <= ' ' || r == '\\' }):
		return fmt.Errorf("%q is not a URL: write the whole of it, from https:// on", text)
	case u.Scheme != "https" && (u.Scheme != "http" || !rp.IsLoopback(u.Hostname())):
		return fmt.Errorf("%q must be https", text)
	default:
		return nil
	}
}
