package caddyauth

import (
	"encoding/json"
	"fmt"
	"slices"
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

// sessionKinds are the kinds of stores that have no options of their own.
var sessionKinds = []string{"cookie", "memory", "storage"}

// revocationKinds are what `revocations` may say.
var revocationKinds = []string{"storage", "memory", "redis"}

func parseSession(p *parser) error {
	s := p.session()
	kind, revocations := p.Token(), caddyfile.Token{}
	kind.Text = ""
	if p.NextArg() {
		kind = p.Token()
		if p.NextArg() {
			return p.usage("session", options["session"])
		}
	}
	var ofStore []caddyfile.Segment
	for nesting := p.Nesting(); p.NextBlock(nesting); {
		name := p.Val()
		if before, ok := p.given[name]; ok && (name == "revocations" || sessionOptions[name] != nil) {
			return p.Errf("session: %s is given twice, first on line %d", name, before.Line)
		}
		p.given[name] = p.Token()
		parse := sessionOptions[name]
		switch {
		case name == "revocations":
			if !p.NextArg() || !slices.Contains(revocationKinds, p.Val()) {
				return p.Errf("session: write it as: revocations %s", strings.Join(revocationKinds, "|"))
			}
			revocations = p.Token()
		case parse == nil:
			ofStore = append(ofStore, p.NextSegment())
			continue
		default:
			if err := parse(p, s); err != nil {
				return err
			}
		}
		if p.NextArg() {
			return p.ArgErr()
		}
	}
	return p.sessionStore(kind, revocations, ofStore)
}

// sessionStore makes the store of the kind and the options that a session block
// names.
func (p *parser) sessionStore(kind, revocations caddyfile.Token, ofStore []caddyfile.Segment) (err error) {
	s := p.session()
	switch {
	case kind.Text != "" && kind.Text != "cookie":
		if revocations.Text != "" {
			return errAt(revocations, "session: revocations is for cookie sessions only: with session %s, what is ended is gone from the store", kind.Text)
		}
		s.StoreRaw, err = p.storeModule(kind, ofStore)
		return err
	case revocations.Text == "":
		if kind.Text != "" {
			s.StoreRaw = caddyconfig.JSONModuleObject(new(CookieSessions), "kind", kind.Text, nil)
		}
		return p.noStoreOptions(ofStore)
	default:
		cookies := new(CookieSessions)
		cookies.RevocationsRaw, err = p.storeModule(revocations, ofStore)
		s.StoreRaw = caddyconfig.JSONModuleObject(cookies, "kind", "cookie", nil)
		return err
	}
}

// storeModule makes the module of a kind from the options that are its own.
func (p *parser) storeModule(kind caddyfile.Token, ofStore []caddyfile.Segment) (json.RawMessage, error) {
	if slices.Contains(sessionKinds, kind.Text) {
		if err := p.noStoreOptions(ofStore); err != nil {
			return nil, err
		}
	}
	tokens := []caddyfile.Token{kind}
	if len(ofStore) > 0 {
		opening, closing := kind, ofStore[len(ofStore)-1][len(ofStore[len(ofStore)-1])-1]
		opening.Text, closing.Text = "{", "}"
		closing.Line++
		tokens = append(tokens, opening)
		for _, segment := range ofStore {
			tokens = append(tokens, segment...)
		}
		tokens = append(tokens, closing)
	}
	if _, err := caddy.GetModule("pkce_auth.sessions." + kind.Text); err != nil {
		if kind.Text == "redis" {
			return nil, errAt(kind, "session: this Caddy was built without redis: build it with the package caddyauth/redisstore, too")
		}
		return nil, errAt(kind, "session: there is no store %s%s; the stores are: %s redis", kind.Text,
			didYouMean(kind.Text, append(slices.Clone(sessionKinds), "redis")), strings.Join(sessionKinds, " "))
	}
	d := caddyfile.NewDispenser(tokens)
	d.Next() // a module's segment begins where its dispenser stands
	module, err := caddyfile.UnmarshalModule(d, "pkce_auth.sessions."+kind.Text)
	if err != nil {
		return nil, fmt.Errorf("session: %w", err) // it says where
	}
	return caddyconfig.JSONModuleObject(module, "kind", kind.Text, nil), nil
}

// noStoreOptions refuses what is no option of the session, where the store has
// none.
func (p *parser) noStoreOptions(ofStore []caddyfile.Segment) error {
	if len(ofStore) == 0 {
		return nil
	}
	first := ofStore[0][0]
	names := append(keys(sessionOptions), "revocations")
	slices.Sort(names)
	return errAt(first, "session: unknown option %s%s; the options are: %s", first.Text, didYouMean(first.Text, names), strings.Join(names, " "))
}

// errAt is an error about a token that was passed already.
func errAt(token caddyfile.Token, format string, args ...any) error {
	return fmt.Errorf("%s, at %s:%d", fmt.Sprintf(format, args...), token.File, token.Line)
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
