package caddyauth

import (
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddytls"

	"github.com/pkce-auth/caddy-pkce-auth/caddyauth/internal/rp"
)

// The options of the provider that are more than a text.

func parseResourceOnRefresh(p *parser) error {
	on, err := p.onOff("resource_on_refresh")
	p.authorization().ResourceOnRefresh = &on
	return err
}

func parseRevokeOnLogout(p *parser) error {
	on, err := p.onOff("revoke_on_logout")
	p.logout().Revoke = &on
	return err
}

func parseBackChannelLogout(p *parser) error {
	on, err := p.onOff("backchannel_logout")
	p.logout().BackChannel = &on
	return err
}

func parseUserinfo(p *parser) error {
	on, err := p.onOff("userinfo")
	p.claims().Userinfo = &on
	return err
}

// parseEndpoints reads the block of endpoints, each a name and a URL.
func parseEndpoints(p *parser) error {
	if p.NextArg() {
		return p.Errf("write it as a block: endpoints { authorization <url> … }")
	}
	e := new(EndpointsConfig)
	p.provider.Endpoints = e
	for nesting := p.Nesting(); p.NextBlock(nesting); {
		name := p.Val()
		into, ok := endpointOptions[name]
		if !ok {
			return p.Errf("endpoints: unknown endpoint %s%s; the endpoints are: %s", name, didYouMean(name, keys(endpointOptions)), strings.Join(keys(endpointOptions), " "))
		}
		if *into(e) != "" {
			return p.Errf("endpoints: %s is given twice", name)
		}
		if !p.Args(into(e)) || *into(e) == "" || p.NextArg() {
			return p.Errf("endpoints: write it as: %s <url>", name)
		}
	}
	if *e == (EndpointsConfig{}) {
		return p.Errf("write it as a block: endpoints { authorization <url> … }")
	}
	return nil
}

// parseTrustPool hands the line, and its block, to one of Caddy's modules.
func parseTrustPool(p *parser) error {
	if !p.NextArg() {
		return p.usage("tls_trust_pool", options["tls_trust_pool"])
	}
	name := p.Val()
	if _, err := caddy.GetModule("tls.ca_pool.source." + name); err != nil {
		return p.Errf("tls_trust_pool: there is no module %s; write it as: tls_trust_pool file <ca.pem>", name)
	}
	module, err := caddyfile.UnmarshalModule(p.Dispenser, "tls.ca_pool.source."+name)
	if err != nil {
		return err
	}
	pool, ok := module.(caddytls.CA)
	if !ok {
		return p.Errf("tls_trust_pool: %s holds no certificates", name)
	}
	p.provider.TrustPoolRaw = caddyconfig.JSONModuleObject(pool, "provider", name, nil)
	return nil
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
	case rp.AuthTLS:
		c := new(ClientCertificate)
		p.provider.ClientCertificate = c
		if !p.Args(&c.CertificateFile, &c.KeyFile) {
			return p.Errf("write it as: client_auth tls <cert.pem> <key.pem>")
		}
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
