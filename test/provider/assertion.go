package provider

import (
	"crypto"
	"encoding/json"
	"net/url"
	"time"

	"github.com/go-jose/go-jose/v4"
)

// checkAssertion checks a client assertion as strictly as Auth0 does: for
// this issuer as one string, good for a minute at most, and not used before
// (RFC 7523 section 3).
func (p *Provider) checkAssertion(client string, key crypto.PublicKey, form url.Values) (problem string) {
	if form.Get("client_assertion_type") != "urn:ietf:params:oauth:client-assertion-type:jwt-bearer" || form.Has("client_secret") {
		return "a client assertion is wanted"
	}
	jws, err := jose.ParseSignedCompact(form.Get("client_assertion"), []jose.SignatureAlgorithm{jose.RS256, jose.PS256, jose.ES256, jose.EdDSA})
	if err != nil {
		return "malformed client assertion"
	}
	payload, err := jws.Verify(key)
	if err != nil {
		return "wrong signature of the client assertion"
	}
	var claims struct {
		Iss, Sub, Aud, Jti string
		Iat, Exp           int64
	}
	if err := json.Unmarshal(payload, &claims); err != nil {
		return "malformed claims of the client assertion"
	}
	now := p.cfg.Now()
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case claims.Iss != client || claims.Sub != client:
		return "iss and sub must be the client ID"
	case claims.Aud != p.URL:
		return "aud must be the issuer"
	case time.Unix(claims.Exp, 0).Sub(now) > time.Minute || now.After(time.Unix(claims.Exp, 0)) || time.Unix(claims.Iat, 0).After(now):
		return "exp or iat"
	case claims.Jti == "" || len(claims.Jti) > 64 || p.jtis[claims.Jti]:
		return "jti"
	}
	if p.jtis == nil {
		p.jtis = make(map[string]bool)
	}
	p.jtis[claims.Jti] = true
	return ""
}
