package caddyauth

import (
	"fmt"
	"reflect"
	"strings"

	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
)

// Two providers on one site must not have an endpoint or a cookie name in
// common: one of them would answer the other's requests, and log its users
// out with every login. This file finds that out while the Caddyfile is read.

// claim is what a provider takes up on a site.
type claim struct {
	identity string // of the provider
	label    string // of the provider, for people
	line     int
}

// siteClaims are the claims of a site, by what is claimed. Caddy keeps them
// for us while it adapts.
type siteClaims map[string]claim

const claimsKey = "pkce_auth.claims"

// collisions reports a claim that a provider before this one has made on the
// same site.
func (p *parser) collisions(d declared, directive caddyfile.Token) error {
	site, ok := siteOf(*p.helper)
	if !ok {
		return nil
	}
	sites, _ := p.helper.State[claimsKey].(map[string]siteClaims)
	if sites == nil {
		sites = make(map[string]siteClaims)
		p.helper.State[claimsKey] = sites
	}
	if sites[site] == nil {
		sites[site] = make(siteClaims)
	}
	own, err := newClaim(d, directive)
	if err != nil {
		return err
	}
	_, _, paths := d.cfg.endpointPaths(d.name)
	cookie := "cookie " + d.cfg.Session.names(stem(d.name, d.cfg.Issuer, d.cfg.ClientID), true).session
	for i, want := range append(paths, cookie) {
		taken, ok := sites[site][want]
		if ok && taken.identity != own.identity {
			return fmt.Errorf("%s already belongs to provider %s on line %d: declare both providers with names in the global option pkce_auth, or give this one another prefix, callback_path and cookie_name, at %s:%d",
				want, taken.label, taken.line, directive.File, directive.Line)
		}
		if i > 0 { // the callback comes first, and may be shared: its state says whose it is
			sites[site][want] = own
		}
	}
	return nil
}

func newClaim(d declared, directive caddyfile.Token) (claim, error) {
	if d.name != "" {
		return claim{identity: "named " + d.name, label: d.name, line: directive.Line}, nil
	}
	fingerprint, err := fingerprint(d.cfg)
	return claim{identity: "inline " + fingerprint, label: d.cfg.Issuer, line: directive.Line}, err
}

// siteOf tells which site block a directive stands in. Caddy's Helper knows,
// but has no word for it: the block's keys are read by reflection, and where
// a later Caddy has none, nothing is found and nothing fails.
func siteOf(h httpcaddyfile.Helper) (string, bool) {
	block := reflect.ValueOf(h).FieldByName("parentBlock")
	if block.Kind() != reflect.Struct {
		return "", false
	}
	keys := block.FieldByName("Keys")
	if keys.Kind() != reflect.Slice || keys.Len() == 0 {
		return "", false
	}
	var site strings.Builder
	for i := range keys.Len() {
		text, line := keys.Index(i).FieldByName("Text"), keys.Index(i).FieldByName("Line")
		if text.Kind() != reflect.String || line.Kind() != reflect.Int {
			return "", false
		}
		fmt.Fprintf(&site, "%d %s\n", line.Int(), text.String())
	}
	return site.String(), true
}
