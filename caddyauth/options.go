package caddyauth

import (
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/pkce-auth/caddy-pkce-auth/caddyauth/internal/rp"
)

// option is one line of a block.
type option struct {
	of         optionScope
	usage      string // what stands behind the name
	repeatable bool
	parse      func(*parser) error // reads the arguments; what is left over is an error
	later      string              // why it is refused; it is known, but not there yet
}

type optionScope int

const (
	ofProvider optionScope = iota
	ofRoute
)

// options are all options that a block may hold, by name.
var options map[string]option

// notYet begins the refusal of an option that is part of the contract, and
// comes later.
const notYet = ": leave it out for now"

func init() {
	options = map[string]option{
		// of the provider
		"issuer":          {usage: "<url>", parse: text1(func(p *parser) *string { return &p.provider.Issuer })},
		"client_id":       {usage: "<id>", parse: text1(func(p *parser) *string { return &p.provider.ClientID })},
		"client_secret":   {usage: "<secret>", parse: text1(func(p *parser) *string { return &p.provider.ClientSecret })},
		"client_auth":     {usage: "auto|none|client_secret_basic|client_secret_post|private_key_jwt <key.pem> [<kid>]|assertion_file <path>", parse: parseClientAuth},
		"scopes":          {usage: "<scope>…", parse: texts1(func(p *parser) *[]string { return &p.authorization().Scopes })},
		"audience":        {usage: "<identifier>", parse: text1(func(p *parser) *string { return &p.authorization().Audience })},
		"resource":        {usage: "<uri>…", repeatable: true, parse: texts1(func(p *parser) *[]string { return &p.authorization().Resources })},
		"connection":      {usage: "<name>", parse: text1(func(p *parser) *string { return &p.authorization().Connection })},
		"authorize_param": {usage: "<name> <value>", repeatable: true, parse: parseAuthorizeParam},
		"public_url":      {usage: "<origin>…", repeatable: true, parse: texts1(func(p *parser) *[]string { return &p.provider.PublicURL })},
		"prefix":          {usage: "<path>", parse: text1(func(p *parser) *string { return &p.provider.Prefix })},
		"callback_path":   {usage: "<path>", parse: text1(func(p *parser) *string { return &p.provider.CallbackPath })},
		"cookie_secret":   {usage: "<secret> [<older secret>…]", parse: texts1(func(p *parser) *[]string { return &p.provider.CookieSecret })},
		"session":         {usage: "[cookie] { … }", parse: parseSession},
		"login_param":     {usage: "<name>…", repeatable: true, parse: texts1(func(p *parser) *[]string { return &p.authorization().LoginParams })},
		"organization":    {usage: "<id or name>…", parse: texts1(func(p *parser) *[]string { return &p.authorization().Organizations })},
		"max_age":         {usage: "<duration>", parse: duration1(func(p *parser) *caddy.Duration { return &p.authorization().MaxAge })},
		"acr_values":      {usage: "<value>…", parse: texts1(func(p *parser) *[]string { return &p.authorization().ACRValues })},
		"refresh":         {usage: "auto|off|<duration before expiry>", parse: parseRefresh},
		"logout":          {usage: "auto|oidc|auth0|cognito|local", parse: text1(func(p *parser) *string { return &p.logout().Style })},
		"clock_skew":      {usage: "<duration>", parse: duration1(func(p *parser) *caddy.Duration { return &p.provider.ClockSkew })},
		"timeout":         {usage: "<duration>", parse: duration1(func(p *parser) *caddy.Duration { return &p.provider.Timeout })},

		"resource_on_refresh":  {usage: "on|off", parse: parseResourceOnRefresh},
		"post_logout_redirect": {usage: "<url>", parse: text1(func(p *parser) *string { return &p.logout().Redirect })},
		"revoke_on_logout":     {usage: "on|off", parse: parseRevokeOnLogout},

		// of the route
		"bypass":       {of: ofRoute, usage: "<path> | @<matcher> | <matcher> <arguments>", repeatable: true, parse: parseBypass},
		"unauthorized": {of: ofRoute, usage: "auto|redirect|401|pass", parse: text1(func(p *parser) *string { return &p.handler.Unauthorized })},
		"header_up":    {of: ofRoute, usage: "<name> <value>", repeatable: true, parse: parseHeaderUp},
	}
	for _, name := range []string{
		"allowed_tenants", "discovery_url", "endpoints", "claims_from", "session_claims", "response_mode", "par", "dpop", "profile",
		"request_object", "userinfo", "backchannel_logout", "tls_trust_pool",
	} {
		options[name] = option{later: notYet}
	}
	for _, name := range []string{
		"require", "forward_token", "step_up", "retry_invalid_token", "replay_posts", "verify", "exchange", "accept_bearer", "csrf",
	} {
		options[name] = option{of: ofRoute, later: notYet}
	}
}

// authorization returns the provider's authorization part, made when the
// first of its options comes.
func (p *parser) authorization() *Authorization {
	if p.provider.Authorization == nil {
		p.provider.Authorization = new(Authorization)
	}
	return p.provider.Authorization
}

func (p *parser) logout() *LogoutConfig {
	if p.provider.Logout == nil {
		p.provider.Logout = new(LogoutConfig)
	}
	return p.provider.Logout
}

func parseResourceOnRefresh(p *parser) (err error) {
	p.authorization().ResourceOnRefresh, err = p.onOff("resource_on_refresh")
	return err
}

func parseRevokeOnLogout(p *parser) error {
	on, err := p.onOff("revoke_on_logout")
	p.logout().Revoke = &on
	return err
}

// onOff reads a switch.
func (p *parser) onOff(name string) (bool, error) {
	if !p.NextArg() || p.Val() != "on" && p.Val() != "off" {
		return false, p.usage(name, options[name])
	}
	return p.Val() == "on", nil
}

// text1 reads exactly one argument.
func text1(into func(*parser) *string) func(*parser) error {
	return func(p *parser) error {
		name := p.Val()
		if !p.NextArg() || p.Val() == "" {
			return p.usage(name, options[name])
		}
		*into(p) = p.Val()
		return nil
	}
}

// texts1 reads one argument or more.
func texts1(into func(*parser) *[]string) func(*parser) error {
	return func(p *parser) error {
		name := p.Val()
		args := p.RemainingArgs()
		if len(args) == 0 || slices.Contains(args, "") {
			return p.usage(name, options[name])
		}
		list := into(p)
		*list = append(*list, args...)
		return nil
	}
}

// duration1 reads one positive duration.
func duration1(into func(*parser) *caddy.Duration) func(*parser) error {
	return func(p *parser) error {
		name := p.Val()
		if !p.NextArg() {
			return p.Errf("write it as: %s <duration>", name)
		}
		d, err := parseDuration(p.Dispenser)
		if err != nil {
			return err
		}
		*into(p) = d
		return nil
	}
}

func parseDuration(d *caddyfile.Dispenser) (caddy.Duration, error) {
	value, err := caddy.ParseDuration(d.Val())
	if err != nil || value <= 0 {
		return 0, d.Errf("%q is no positive duration: write it as 90s, 15m, 24h or 7d", d.Val())
	}
	return caddy.Duration(value), nil
}

func parseClientAuth(p *parser) error {
	if !p.NextArg() {
		return p.usage("client_auth", options["client_auth"])
	}
	p.provider.ClientAuth = p.Val()
	switch rp.AuthMethod(p.Val()) {
	case rp.AuthPrivateKeyJWT:
		a := new(ClientAssertion)
		p.provider.ClientAssertion = a
		if !p.Args(&a.KeyFile) {
			return p.Errf("write it as: client_auth private_key_jwt <key.pem> [<kid>]")
		}
		if p.NextArg() {
			a.KeyID = p.Val()
		}
	case rp.AuthAssertionFile:
		p.provider.ClientAssertion = new(ClientAssertion)
		if !p.Args(&p.provider.ClientAssertion.File) {
			return p.Errf("write it as: client_auth assertion_file <path>")
		}
	case "tls":
		return p.Errf("client_auth %s is not yet supported%s", p.Val(), notYet)
	}
	return nil
}

func parseAuthorizeParam(p *parser) error {
	var name, value string
	if !p.Args(&name, &value) {
		return p.usage("authorize_param", options["authorize_param"])
	}
	a := p.authorization()
	if _, ok := a.Params[name]; ok {
		return p.Errf("authorize_param %s is given twice", name)
	}
	if a.Params == nil {
		a.Params = make(map[string]string)
	}
	a.Params[name] = value
	if err := rp.CheckExtraParam(name); err != nil {
		return p.Errf("authorize_param: %v", err)
	}
	return nil
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
