package caddyauth

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// The grammar:
//
//	{
//		pkce_auth [<name>] {
//			<provider options>
//		}
//	}
//
//	pkce_auth [<matcher>] [<name> | <issuer> [<client_id>]] {
//		<provider options>
//		<route options>
//	}
//
// A block declares a provider inline when it names an issuer, or when the
// directive does. The options stand in options.go, as a table.

func init() {
	httpcaddyfile.RegisterDirective("pkce_auth", parseDirective)
	httpcaddyfile.RegisterDirectiveOrder("pkce_auth", httpcaddyfile.Before, "basic_auth")
	httpcaddyfile.RegisterGlobalOption("pkce_auth", parseGlobalOption)
}

// parser reads one block: a global option's or a directive's.
type parser struct {
	*caddyfile.Dispenser
	helper   *httpcaddyfile.Helper // nil in the global option
	provider *Provider
	handler  *Handler // nil in the global option
	given    map[string]caddyfile.Token
}

// parseGlobalOption reads a provider declaration. Caddy calls it once for
// each; the declarations before come as existing.
func parseGlobalOption(d *caddyfile.Dispenser, existing any) (any, error) {
	app := &App{Providers: map[string]*Provider{}}
	if previous, ok := existing.(httpcaddyfile.App); ok {
		if err := json.Unmarshal(previous.Value, app); err != nil {
			return nil, err
		}
	}
	d.Next() // the option's name
	directive := d.Token()
	name := defaultProvider
	if args := d.RemainingArgs(); len(args) == 1 {
		name = args[0]
	} else if len(args) > 1 {
		return nil, d.Errf("write it as: pkce_auth [<name>] { … }, with the issuer and all else in the block")
	}
	if !providerName.MatchString(name) {
		return nil, d.Errf("%q is no name for a provider, which may hold letters, digits, - and _; an issuer goes into the block, as: issuer https://…", name)
	}
	if app.Providers[name] != nil {
		return nil, d.Errf("provider %s is declared twice", name)
	}
	p := &parser{Dispenser: d, provider: new(Provider), given: map[string]caddyfile.Token{}}
	if err := p.block(); err != nil {
		return nil, err
	}
	if err := errors.Join(p.provider.validate(), p.provider.validateEndpoints(name)); err != nil {
		return nil, p.locate(err, directive)
	}
	app.Providers[name] = p.provider
	return httpcaddyfile.App{Name: "pkce_auth", Value: caddyconfig.JSON(app, nil)}, nil
}

// parseDirective reads a directive and makes its routes: one for the policy,
// under the directive's matcher; and, if there is a matcher, one for the
// endpoints, which must be served whatever it says.
func parseDirective(h httpcaddyfile.Helper) ([]httpcaddyfile.ConfigValue, error) {
	h.Next() // the directive's name
	directive := h.Token()
	h.Reset()
	h.Next()
	matcher, err := h.ExtractMatcherSet()
	if err != nil {
		return nil, h.WrapErr(err)
	}
	h.Next()
	p := &parser{
		Dispenser: h.Dispenser,
		helper:    &h,
		provider:  new(Provider),
		handler:   new(Handler),
		given:     map[string]caddyfile.Token{},
	}
	if err := p.arguments(); err != nil {
		return nil, err
	}
	if err := p.block(); err != nil {
		return nil, err
	}
	declared, err := p.finish(directive)
	if err != nil {
		return nil, err
	}
	values := h.NewRoute(matcher, p.handler)
	if matcher != nil {
		values = append(values, p.endpointRoute(declared)...)
	}
	return values, nil
}

// arguments reads what stands behind the directive: nothing, a name, or an
// issuer and perhaps a client ID.
func (p *parser) arguments() error {
	args := p.RemainingArgsAsTokens()
	if len(args) == 0 {
		return nil
	}
	first := args[0].Text
	switch {
	case strings.ContainsAny(first, "{}"):
		return p.Errf("%s cannot stand here, for a placeholder does not show whether it is a name or an issuer: write it in the block, as: issuer %s", first, first)
	case !strings.Contains(first, "://"):
		if len(args) > 1 {
			return p.Errf("%s is a provider's name, and nothing may follow it; an issuer is a URL, https://…", first)
		}
		p.handler.Provider = first
		return nil
	case len(args) > 2:
		return p.Errf("too many arguments: <issuer> [<client_id>], everything else goes into the block")
	}
	p.provider.Issuer = first
	p.given["issuer"] = args[0]
	if len(args) == 2 {
		p.provider.ClientID = args[1].Text
		p.given["client_id"] = args[1]
	}
	return nil
}

// block reads the options.
func (p *parser) block() error {
	for nesting := p.Nesting(); p.NextBlock(nesting); {
		name := p.Val()
		opt, ok := options[name]
		switch {
		case !ok:
			return p.Errf("unknown option %s%s; the options are: %s", name, didYouMean(name, p.allowed()), strings.Join(p.allowed(), " "))
		case opt.later != "":
			return p.Errf("%s is not yet supported%s", name, opt.later)
		case p.handler == nil && opt.of == ofRoute:
			return p.Errf("%s is an option of a route: it goes into the directive in a site", name)
		}
		if err := p.option(name, opt); err != nil {
			return err
		}
	}
	return nil
}

// option reads one option, or adds to a repeatable one.
func (p *parser) option(name string, opt option) error {
	token := p.Token()
	if before, ok := p.given[name]; ok && !opt.repeatable {
		return p.Errf("%s is given twice, first on line %d", name, before.Line)
	}
	if _, ok := p.given[name]; !ok {
		p.given[name] = token
	}
	if err := opt.parse(p); err != nil {
		return err
	}
	if p.CountRemainingArgs() > 0 {
		return p.usage(name, opt)
	}
	return nil
}

func (p *parser) usage(name string, opt option) error {
	return p.Errf("write it as: %s %s", name, opt.usage)
}

// allowed are the options that the block may hold.
func (p *parser) allowed() []string {
	var names []string
	for name, opt := range options {
		if opt.later == "" && (p.handler != nil || opt.of != ofRoute) {
			names = append(names, name)
		}
	}
	return sorted(names)
}

// finish decides whether the block declared a provider or refers to one, and
// returns that provider's configuration and name.
func (p *parser) finish(directive caddyfile.Token) (declared, error) {
	h := p.handler
	if p.provider.Issuer != "" {
		if h.Provider != "" {
			return declared{}, p.locate(misconfigured("issuer", "contradicts the provider's name %s: leave one of them out", h.Provider), directive)
		}
		if err := errors.Join(p.provider.validate(), p.provider.validateEndpoints("")); err != nil {
			return declared{}, p.locate(err, directive)
		}
		h.Inline = p.provider
	} else {
		for _, name := range keys(p.given) {
			if opt, ok := options[name]; ok && opt.of == ofProvider {
				return declared{}, p.locate(misconfigured(name, "belongs to a provider: name its issuer in this block, too, or put it into the provider's global option"), directive)
			}
		}
		h.adopt(p.provider.Authorization)
	}
	if err := h.validate(); err != nil {
		return declared{}, p.locate(err, directive)
	}
	d, err := p.declared()
	if err == nil {
		asksOpenID := d.cfg.Authorization.asksOpenID()
		err = errors.Join(h.checkOpenID(asksOpenID), h.checkProvider(asksOpenID), h.validateAudiences(d.cfg))
	}
	if err != nil {
		return declared{}, p.locate(err, directive)
	}
	if err := p.collisions(d, directive); err != nil {
		return declared{}, err
	}
	return d, p.oneVerify(d, directive)
}

// declared is a provider as the Caddyfile knows it.
type declared struct {
	name string // empty: inline
	cfg  *Provider
}

// declared finds the provider that the directive refers to.
func (p *parser) declared() (declared, error) {
	if p.handler.Inline != nil {
		return declared{cfg: p.handler.Inline}, nil
	}
	name := p.handler.Provider
	if name == "" {
		name = defaultProvider
	}
	app := new(App)
	if global, ok := p.helper.Option("pkce_auth").(httpcaddyfile.App); ok {
		if err := json.Unmarshal(global.Value, app); err != nil {
			return declared{}, err
		}
	}
	if cfg := app.Providers[name]; cfg != nil {
		return declared{name: name, cfg: cfg}, nil
	}
	if name == defaultProvider {
		return declared{}, errors.New("there is no provider: write pkce_auth <issuer> <client_id>, or declare one in the global option pkce_auth")
	}
	var names []string
	for known := range app.Providers {
		names = append(names, known)
	}
	return declared{}, fmt.Errorf("provider %s is not declared%s; declare it with the global option pkce_auth %s { … }", name, didYouMean(name, names), name)
}

// endpointRoute makes the route of the endpoints. Its matcher compares the
// original path, exactly. The path matcher beside it matches everything, and
// is there for the sorting: Caddy sorts the routes of a directive by the
// length of their one path, and a route without any would get in the way.
func (p *parser) endpointRoute(d declared) []httpcaddyfile.ConfigValue {
	prefix, _, paths := d.cfg.endpointPaths(d.name)
	handler := &Handler{Provider: p.handler.Provider, Inline: p.handler.Inline, EndpointsOnly: true}
	if p.handler.Verify {
		handler, paths = p.handler.verifyOnly(), append(paths, prefix+pathVerify)
	}
	paths = append(paths, "") // targets without a path, which the handler refuses
	return p.helper.NewRoute(caddy.ModuleMap{
		"path": p.helper.JSON(caddyhttp.MatchPath{"*"}),
		"vars": p.helper.JSON(caddyhttp.VarsMatcher{"{http.request.orig_uri.path}": paths}),
	}, handler)
}

// locate adds file and line to an error: those of the option that it is
// about, if that is known, else of the directive.
func (p *parser) locate(err error, directive caddyfile.Token) error {
	at := directive
	if ce, ok := errors.AsType[*configError](err); ok {
		if token, ok := p.given[ce.option]; ok {
			at = token
		}
	}
	return fmt.Errorf("%w, at %s:%d", err, at.File, at.Line)
}
