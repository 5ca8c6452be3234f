package caddyauth

import (
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
)

// sessionOptions are the options of the session block.
var sessionOptions = map[string]func(*parser, *SessionConfig) error{
	"lifetime":      func(p *parser, s *SessionConfig) error { return p.sessionDuration(&s.Lifetime) },
	"idle":          func(p *parser, s *SessionConfig) error { return p.sessionDuration(&s.Idle) },
	"cookie_name":   func(p *parser, s *SessionConfig) error { return p.sessionText(&s.CookieName) },
	"cookie_domain": func(p *parser, s *SessionConfig) error { return p.sessionText(&s.CookieDomain) },
	"same_site":     func(p *parser, s *SessionConfig) error { return p.sessionText(&s.SameSite) },
}

func (p *parser) sessionText(into *string) error {
	if !p.NextArg() || p.Val() == "" {
		return p.ArgErr()
	}
	*into = p.Val()
	return nil
}

func (p *parser) sessionDuration(into *caddy.Duration) (err error) {
	if !p.NextArg() {
		return p.ArgErr()
	}
	*into, err = parseDuration(p.Dispenser)
	return err
}

func parseSession(p *parser) error {
	s := p.session()
	if p.NextArg() {
		store := p.Val()
		switch store {
		case "memory", "storage", "redis":
			return p.Errf("session %s is not yet supported: the only store so far is cookie", store)
		}
		module, err := caddyfile.UnmarshalModule(caddyfile.NewDispenser([]caddyfile.Token{p.Token()}), "pkce_auth.sessions."+store)
		if err != nil {
			return p.Errf("there is no session store %s: the only one so far is cookie", store)
		}
		s.StoreRaw = caddyconfig.JSONModuleObject(module, "kind", store, nil)
		if p.NextArg() {
			return p.usage("session", options["session"])
		}
	}
	for nesting := p.Nesting(); p.NextBlock(nesting); {
		name := p.Val()
		parse, ok := sessionOptions[name]
		switch {
		case name == "revocations":
			return p.Errf("session: revocations is not yet supported%s", notYet)
		case !ok:
			return p.Errf("session: unknown option %s%s; the options are: %s", name, didYouMean(name, keys(sessionOptions)), strings.Join(keys(sessionOptions), " "))
		}
		if before, ok := p.given[name]; ok {
			return p.Errf("session: %s is given twice, first on line %d", name, before.Line)
		}
		p.given[name] = p.Token()
		if err := parse(p, s); err != nil {
			return err
		}
		if p.NextArg() {
			return p.ArgErr()
		}
	}
	return nil
}

// parseRefresh reads what is an option of its own in the Caddyfile, and a part
// of the session.
func parseRefresh(p *parser) error {
	if !p.NextArg() {
		return p.usage("refresh", options["refresh"])
	}
	p.session().Refresh = p.Val()
	return nil
}

// session returns the provider's session part, made when the first of its
// options comes.
func (p *parser) session() *SessionConfig {
	if p.provider.Session == nil {
		p.provider.Session = new(SessionConfig)
	}
	return p.provider.Session
}
