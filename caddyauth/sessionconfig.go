package caddyauth

import (
	"encoding/json"
	"time"

	"github.com/caddyserver/caddy/v2"
)

// SessionConfig is how sessions are kept and how long they last.
type SessionConfig struct {
	// How long a session lasts from the login, however much it is used.
	// Default: `7d`.
	Lifetime caddy.Duration `json:"lifetime,omitempty"`

	// How long a session lasts without being used. Default: `24h`, or the
	// lifetime if that is shorter.
	Idle caddy.Duration `json:"idle,omitempty"`

	// Whether access tokens are refreshed while the session lasts: `auto`, in
	// the last fifth of their lifetime, but not earlier than 60 s before the
	// end; `off`; or how long before the end. Default: `auto`.
	Refresh string `json:"refresh,omitempty"`

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

	// Where sessions are kept: `cookie`, whole in a sealed cookie; `memory`,
	// `storage` or `redis`, and then the cookie is a ticket that opens one.
	// Default: `cookie`.
	StoreRaw json.RawMessage `json:"store,omitempty" caddy:"namespace=pkce_auth.sessions inline_key=kind"`
}

const (
	defaultLifetime = 7 * 24 * time.Hour
	defaultIdle     = 24 * time.Hour

	refreshAuto = "auto"
	refreshOff  = "off"
)

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
	if _, err := s.early(); err != nil {
		return err
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

// fingerprint tells apart where sessions are kept. Who writes down the default
// changes nothing: what is known of sessions must outlive that reload.
func (s *SessionConfig) fingerprint() (string, error) {
	if s == nil || s.StoreRaw == nil {
		return "", nil
	}
	var options map[string]json.RawMessage
	if err := json.Unmarshal(s.StoreRaw, &options); err != nil {
		return "", misconfigured("session", "%v", err)
	}
	if len(options) == 1 && string(options["kind"]) == `"cookie"` {
		return "", nil
	}
	return fingerprint(options) // whatever the order and the spaces
}

// refreshes reports whether access tokens are refreshed.
func (s *SessionConfig) refreshes() bool { return s == nil || s.Refresh != refreshOff }

// early is how long before its end a token is refreshed; 0 means auto.
func (s *SessionConfig) early() (time.Duration, error) {
	if s == nil || s.Refresh == "" || s.Refresh == refreshAuto || s.Refresh == refreshOff {
		return 0, nil
	}
	d, err := caddy.ParseDuration(s.Refresh)
	if err != nil || d <= 0 {
		return 0, misconfigured("refresh", "%q is none of auto, off and a positive duration such as 30s", s.Refresh)
	}
	return d, nil
}
