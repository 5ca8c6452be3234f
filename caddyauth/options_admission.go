package caddyauth

import (
	"context"
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2"
)

// parseRequire reads a claim and its values, or an expression: one argument in
// backquotes. Two arguments can thus never be taken for an expression, or an
// expression for the name of a claim.
func parseRequire(p *parser) error {
	if !p.NextArg() {
		return p.usage("require", options["require"])
	}
	quoted := strings.HasPrefix(p.ValRaw(), "`")
	first, values := p.Val(), p.RemainingArgs()
	switch {
	case quoted && len(values) > 0:
		return p.Errf("require: an expression stands alone: put all of it between two backquotes; the name of a claim needs none")
	case quoted:
		return p.requireExpression(first)
	case len(values) == 0 && strings.ContainsAny(first, " ="):
		return p.Errf("require: put an expression between backquotes: require `%s`", first)
	case len(values) == 0:
		return p.Errf("require: %q lacks a value: %s", first, "write it as: require "+options["require"].usage)
	}
	config := &p.handler.AdmissionConfig
	config.Require = append(config.Require, Requirement{Claim: first, Values: values})
	if err := config.validate(); err != nil { // now, while the line is known
		return p.WrapErr(err)
	}
	return nil
}

func (p *parser) requireExpression(text string) error {
	config := &p.handler.AdmissionConfig
	config.RequireExpressions = append(config.RequireExpressions, text)
	if err := config.validate(); err != nil {
		return p.WrapErr(err)
	}
	ctx, cancel := caddy.NewContext(caddy.Context{Context: context.Background()})
	defer cancel()
	if _, err := newExpression(ctx, text); err != nil {
		return p.WrapErr(misconfigured("require", "%v", err))
	}
	return nil
}

// parseCSRF reads a switch, or the origins to trust.
func parseCSRF(p *parser) error {
	args := p.RemainingArgs()
	config := &p.handler.AdmissionConfig
	switch {
	case len(args) == 0:
		return p.usage("csrf", options["csrf"])
	case len(args) == 1 && (args[0] == "on" || args[0] == "off"):
		config.CSRF = args[0]
	case slices.Contains(args, "on") || slices.Contains(args, "off"):
		return p.Errf("csrf: on and off stand alone; origins to trust turn it on by themselves")
	default:
		config.TrustedOrigins = args
	}
	if err := config.validate(); err != nil {
		return p.WrapErr(err)
	}
	return nil
}
