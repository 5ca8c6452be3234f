package caddyauth

import (
	"maps"
	"slices"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
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
	ofEither // the provider's where the block declares one, else the route's
)

// options are all options that a block may hold, by name.
var options map[string]option

// notYet begins the refusal of an option that is part of the contract, and
// comes later.
const notYet = ": leave it out for now"

func init() {
	options = providerOptions()
	maps.Copy(options, routeOptions())
	for name, of := range map[string]optionScope{
		"par": ofProvider, "dpop": ofProvider, "profile": ofProvider, "request_object": ofProvider,
		"exchange": ofRoute,
	} {
		options[name] = option{of: of, later: notYet}
	}
}

func providerOptions() map[string]option {
	return map[string]option{
		"issuer":          {usage: "<url>", parse: text1(func(p *parser) *string { return &p.provider.Issuer })},
		"client_id":       {usage: "<id>", parse: text1(func(p *parser) *string { return &p.provider.ClientID })},
		"client_secret":   {usage: "<secret>", parse: text1(func(p *parser) *string { return &p.provider.ClientSecret })},
		"client_auth":     {usage: "auto|none|client_secret_basic|client_secret_post|private_key_jwt <key.pem> [<kid>]|assertion_file <path>|tls <cert.pem> <key.pem>", parse: parseClientAuth},
		"scopes":          {of: ofEither, usage: "<scope>…", parse: texts1(func(p *parser) *[]string { return &p.authorization().Scopes })},
		"audience":        {of: ofEither, usage: "<identifier>", parse: text1(func(p *parser) *string { return &p.authorization().Audience })},
		"resource":        {of: ofEither, usage: "<uri>…", repeatable: true, parse: texts1(func(p *parser) *[]string { return &p.authorization().Resources })},
		"connection":      {usage: "<name>", parse: text1(func(p *parser) *string { return &p.authorization().Connection })},
		"authorize_param": {usage: "<name> <value>", repeatable: true, parse: parseAuthorizeParam},
		"public_url":      {usage: "<origin>…", repeatable: true, parse: texts1(func(p *parser) *[]string { return &p.provider.PublicURL })},
		"prefix":          {usage: "<path>", parse: text1(func(p *parser) *string { return &p.provider.Prefix })},
		"callback_path":   {usage: "<path>", parse: text1(func(p *parser) *string { return &p.provider.CallbackPath })},
		"cookie_secret":   {usage: "<secret> [<older secret>…]", parse: texts1(func(p *parser) *[]string { return &p.provider.CookieSecret })},
		"session":         {usage: "[cookie|memory|storage|redis] { … }", parse: parseSession},
		"login_param":     {usage: "<name>…", repeatable: true, parse: texts1(func(p *parser) *[]string { return &p.authorization().LoginParams })},
		"organization":    {usage: "<id or name>…", parse: texts1(func(p *parser) *[]string { return &p.authorization().Organizations })},
		"max_age":         {of: ofEither, usage: "<duration>", parse: duration1(func(p *parser) *caddy.Duration { return &p.authorization().MaxAge })},
		"acr_values":      {of: ofEither, usage: "<value>…", parse: texts1(func(p *parser) *[]string { return &p.authorization().ACRValues })},
		"refresh":         {usage: "auto|off|<duration before expiry>", parse: parseRefresh},
		"logout":          {usage: "auto|oidc|auth0|cognito|local", parse: text1(func(p *parser) *string { return &p.logout().Style })},
		"clock_skew":      {usage: "<duration>", parse: duration1(func(p *parser) *caddy.Duration { return &p.provider.ClockSkew })},
		"timeout":         {usage: "<duration>", parse: duration1(func(p *parser) *caddy.Duration { return &p.provider.Timeout })},

		"discovery_url":   {usage: "<url>", parse: text1(func(p *parser) *string { return &p.provider.DiscoveryURL })},
		"endpoints":       {usage: "{ … }", parse: parseEndpoints},
		"tls_trust_pool":  {usage: "<module> …", parse: parseTrustPool},
		"allowed_tenants": {usage: "<id>…", parse: texts1(func(p *parser) *[]string { return &p.authorization().Tenants })},
		"response_mode":   {usage: "query|form_post", parse: text1(func(p *parser) *string { return &p.authorization().ResponseMode })},
		"claims_from":     {usage: "<source>…", parse: texts1(func(p *parser) *[]string { return &p.claims().From })},
		"userinfo":        {usage: "on|off", parse: parseUserinfo},
		"session_claims":  {usage: "<claim>…", repeatable: true, parse: texts1(func(p *parser) *[]string { return &p.claims().Session })},

		"resource_on_refresh":  {usage: "on|off", parse: parseResourceOnRefresh},
		"post_logout_redirect": {usage: "<url>", parse: text1(func(p *parser) *string { return &p.logout().Redirect })},
		"revoke_on_logout":     {usage: "on|off", parse: parseRevokeOnLogout},
		"backchannel_logout":   {usage: "on|off", parse: parseBackChannelLogout},
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

func (p *parser) claims() *ClaimsConfig {
	if p.provider.Claims == nil {
		p.provider.Claims = new(ClaimsConfig)
	}
	return p.provider.Claims
}

func (p *parser) logout() *LogoutConfig {
	if p.provider.Logout == nil {
		p.provider.Logout = new(LogoutConfig)
	}
	return p.provider.Logout
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
