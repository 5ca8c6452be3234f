package caddyauth

import (
	"fmt"
	"net/http"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/pkce-auth/caddy-pkce-auth/caddyauth/internal/sealed"
	"github.com/pkce-auth/caddy-pkce-auth/caddyauth/internal/session"
	"github.com/pkce-auth/caddy-pkce-auth/caddyauth/store"
)

func init() { caddy.RegisterModule(CookieSessions{}) }

// SessionStore is what a module of the namespace `pkce_auth.sessions` is: where
// sessions are kept.
type SessionStore interface {
	// Store gives the store. It is called when the module is provisioned, once
	// for each provider that uses it, and calls nobody: whatever is behind the
	// store may still be down.
	Store() (store.Store, error)
}

// keeperMaker is a module that keeps sessions in a way of its own.
type keeperMaker interface {
	keeper(cfg keeperConfig) (session.Keeper, error)
}

type keeperConfig struct {
	cookie  sealed.Cookie
	keys    sealed.Keys
	binding []string
	limits  session.Limits
	now     func() time.Time
}

// CookieSessions keeps a session whole in a sealed cookie, or in two when it
// is large. Nothing has to run for it, and it survives restarts and works
// with any number of replicas that share the `cookie_secret`.
//
// What it cannot do is take a session back everywhere: after a logout, a copy
// of the cookie is dead for the process that saw the logout, and opens for
// others until its lifetime or idle time is over.
type CookieSessions struct{}

// CaddyModule returns the Caddy module information.
func (CookieSessions) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "pkce_auth.sessions.cookie",
		New: func() caddy.Module { return new(CookieSessions) },
	}
}

// UnmarshalCaddyfile reads "cookie", which has no options of its own.
func (*CookieSessions) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next()
	if d.NextArg() {
		return d.ArgErr()
	}
	return nil
}

func (*CookieSessions) keeper(cfg keeperConfig) (session.Keeper, error) {
	box := sealed.NewBox(cfg.keys, "session", append(cfg.binding, cfg.cookie.Name)...)
	return session.NewStateless(cfg.cookie, box, cfg.limits, cfg.now), nil
}

// keepers are the two keepers of a provider: for HTTPS, and for plain HTTP on
// loopback, where cookies have other names and sessions are others.
type keepers struct {
	https, http session.Keeper
	limits      session.Limits
}

func (k keepers) of(secure bool) session.Keeper {
	if secure {
		return k.https
	}
	return k.http
}

func newKeepers(store keeperMaker, s *SessionConfig, stem string, cfg keeperConfig) (keepers, error) {
	cfg.limits = session.Limits{Lifetime: time.Duration(s.lifetime()), Idle: time.Duration(s.idle())}
	var made [2]session.Keeper
	for i, secure := range []bool{true, false} {
		cfg.cookie = sealed.Cookie{
			Name:     s.names(stem, secure).session,
			Path:     "/",
			SameSite: s.sameSite(),
			Secure:   secure,
		}
		if s != nil {
			cfg.cookie.Domain = s.CookieDomain
		}
		if !secure && cfg.cookie.SameSite == http.SameSiteNoneMode {
			cfg.cookie.SameSite = http.SameSiteLaxMode // browsers want Secure for None
		}
		var err error
		if made[i], err = store.keeper(cfg); err != nil {
			return keepers{}, fmt.Errorf("session: %w", err)
		}
	}
	return keepers{https: made[0], http: made[1], limits: cfg.limits}, nil
}

// Interface guards
var (
	_ keeperMaker           = (*CookieSessions)(nil)
	_ caddyfile.Unmarshaler = (*CookieSessions)(nil)
)
