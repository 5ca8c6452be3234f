package caddyauth

import (
	"strings"

	"go.uber.org/zap"

	"github.com/pkce-auth/caddy-pkce-auth/caddyauth/internal/claims"
	"github.com/pkce-auth/caddy-pkce-auth/caddyauth/internal/rp"
)

// What an operator should know of a provider, and is told once in a process's
// life: nothing of it keeps anybody from logging in.

// noteOpaqueToken says once that the access token is not a JWT where nobody
// said what it is for: with Auth0 that means it is good for userinfo only.
func (p *relyingParty) noteOpaqueToken(grant *rp.Grant) {
	if p.client.Audience != "" || len(p.client.Resources) > 0 || strings.Count(grant.AccessToken.Reveal(), ".") == 2 {
		return
	}
	p.shared.opaqueToken.Do(func() {
		p.logger.Info("the access token is opaque: if the upstream is to check it as a JWT, set audience (Auth0) or resource",
			zap.String("provider", p.name))
	})
}

// noteOverage says once that the provider leaves claims out for their size, and
// says where they are instead (OpenID Connect Core section 5.6.2). They are not
// fetched. Entra does so with more than 200 groups.
func (p *relyingParty) noteOverage(who *rp.Identity) {
	names, ok := who.Claims().Lookup("_claim_names")
	if !ok {
		return
	}
	p.shared.overage.Do(func() {
		p.logger.Warn("the provider leaves claims out, and says that they are elsewhere; rules on them do not match",
			zap.String("provider", p.name), zap.String("claims", short(claims.Text(names))),
			zap.String("hint", "have the provider send fewer groups: those assigned to the application, or app roles"))
	})
}

// short bounds what is quoted of a provider's words.
func short(text string) string {
	const most = 300
	if len(text) <= most {
		return text
	}
	return strings.ToValidUTF8(text[:most], "") + "…"
}

// noteLeakedKeys says once that the provider shows its private keys.
func (p *relyingParty) noteLeakedKeys() {
	if !p.client.Provider.LeaksKeys() {
		return
	}
	p.shared.leakedKeys.Do(func() {
		p.logger.Error("the provider publishes private keys: anybody can sign ID tokens in its name",
			zap.String("provider", p.name), zap.String("hint", "tell whoever runs the provider to replace its keys, and to publish only the public parts"))
	})
}
