package caddyauth

import (
	"strings"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

func routeOptions() map[string]option {
	return map[string]option{
		"bypass":       {of: ofRoute, usage: "<path> | @<matcher> | <matcher> <arguments>", repeatable: true, parse: parseBypass},
		"unauthorized": {of: ofRoute, usage: "auto|redirect|401|pass", parse: text1(func(p *parser) *string { return &p.handler.Unauthorized })},
		"require":      {of: ofRoute, usage: "<claim> <value>… | `<expression>`", repeatable: true, parse: parseRequire},
		"csrf":         {of: ofRoute, usage: "on|off|<trusted origin>…", parse: parseCSRF},
		"step_up":      {of: ofRoute, usage: "on|off", parse: parseStepUp},
		"header_up":    {of: ofRoute, usage: "<name> <value>", repeatable: true, parse: parseHeaderUp},

		"replay_posts":        {of: ofRoute, usage: "<size>", parse: parseReplayPosts},
		"forward_token":       {of: ofRoute, usage: "access|id|none", parse: text1(func(p *parser) *string { return &p.handler.ForwardToken })},
		"verify":              {of: ofRoute, usage: "on|off", parse: parseVerify},
		"accept_bearer":       {of: ofRoute, usage: "<audience>…", repeatable: true, parse: texts1(func(p *parser) *[]string { return &p.handler.AcceptBearer })},
		"retry_invalid_token": {of: ofRoute, usage: "on|off", parse: parseRetryInvalidToken},
	}
}

// The options of the route that are more than a text.

// adopt makes those options the route's that stand in a block without a
// provider, and could have been a provider's.
func (h *Handler) adopt(a *Authorization) {
	if a == nil {
		return
	}
	h.MaxAge, h.ACRValues = a.MaxAge, a.ACRValues
	h.Audience, h.Resources, h.Scopes = a.Audience, a.Resources, a.Scopes
}

func parseStepUp(p *parser) error {
	on, err := p.onOff("step_up")
	p.handler.StepUp = &on
	return err
}

func parseRetryInvalidToken(p *parser) (err error) {
	p.handler.RetryInvalidToken, err = p.onOff("retry_invalid_token")
	return err
}

func parseHeaderUp(p *parser) error {
	var name, value string
	if !p.Args(&name, &value) {
		return p.usage("header_up", options["header_up"])
	}
	if err := checkIdentityHeader(name); err != nil {
		return p.Errf("header_up: %v", err)
	}
	for given := range p.handler.HeaderUp {
		if strings.EqualFold(given, name) {
			return p.Errf("header_up %s is given twice", name)
		}
	}
	if p.handler.HeaderUp == nil {
		p.handler.HeaderUp = make(map[string]string)
	}
	p.handler.HeaderUp[name] = value
	return nil
}

// parseBypass reads a path, a named matcher, an inline matcher, a block of
// matchers or a CEL expression. A path is kept as it is, for it is compared
// with its case; the rest goes to Caddy's matchers.
func parseBypass(p *parser) error {
	if p.NextArg() {
		if strings.HasPrefix(p.Val(), "/") {
			return p.bypassPaths()
		}
		if p.Val() == "*" {
			return p.Errf("bypass * would let every request pass")
		}
		named := strings.HasPrefix(p.Val(), "@") && !p.Token().Quoted()
		p.Prev()
		if named {
			set, _, err := p.helper.MatcherToken()
			if err != nil {
				return p.WrapErr(err)
			}
			p.handler.BypassRaw = append(p.handler.BypassRaw, set)
			return nil
		}
	}
	set, err := caddyhttp.ParseCaddyfileNestedMatcherSet(p.Dispenser)
	if err != nil {
		return err
	}
	if len(set) == 0 {
		return p.usage("bypass", options["bypass"])
	}
	p.handler.BypassRaw = append(p.handler.BypassRaw, set)
	return nil
}

func (p *parser) bypassPaths() error {
	for _, path := range append([]string{p.Val()}, p.RemainingArgs()...) {
		if err := checkBypassPath(path); err != nil {
			return p.Errf("bypass: %v", err)
		}
		p.handler.BypassPaths = append(p.handler.BypassPaths, path)
	}
	return nil
}
