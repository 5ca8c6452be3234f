package provider

import (
	"net/http"
	"net/url"
	"slices"
	"strings"
)

// refreshToken is one refresh token. They rotate: each is good for one use,
// and a second use revokes the whole family, as a theft would have to.
type refreshToken struct {
	grant  *grant
	family *family
	spent  bool
}

// family is all refresh tokens that came of one login.
type family struct{ revoked bool }

func (p *Provider) newRefreshToken(g *grant, f *family) string {
	token := p.issue("refresh-" + randomText())
	p.mu.Lock()
	defer p.mu.Unlock()
	p.refreshes[token] = &refreshToken{grant: g, family: f}
	return token
}

// refresh spends a refresh token (RFC 6749 section 6). As at Auth0, the ID
// token of a refresh has no sid, and it has no nonce (OpenID Connect Core
// section 12.2).
func (p *Provider) refresh(client string, form url.Values) (doc map[string]any, code, problem string) {
	p.mu.Lock()
	t := p.refreshes[form.Get("refresh_token")]
	keep := p.faults.KeepRefreshTokens
	switch {
	case t == nil || t.grant.client != client || t.family.revoked:
		problem = "unknown or invalid refresh token"
	case t.spent:
		t.family.revoked = true
		p.reused++
		problem = "refresh token was used before"
	}
	var meant *grant
	if code = "invalid_grant"; problem == "" {
		if meant, code = p.target(t.grant, form); code != "" {
			problem = "not for this client"
		} else {
			t.spent = !keep
		}
	}
	p.mu.Unlock()
	if problem != "" {
		return nil, code, problem
	}
	doc = p.tokens(meant, nil)
	if !keep {
		doc["refresh_token"] = p.newRefreshToken(t.grant, t.family)
	}
	if slices.Contains(meant.scopes, "openid") {
		doc["id_token"] = p.issue(p.idToken(meant, doc["access_token"].(string), func(claims map[string]any) {
			delete(claims, "nonce")
			delete(claims, "sid")
			if change := p.fault().RefreshedIDToken; change != nil {
				change(claims)
			}
		}))
	}
	return doc, "", ""
}

// target is what a refresh is for: the grant, or what it asks for in its place.
func (p *Provider) target(g *grant, form url.Values) (*grant, string) {
	if refuse := p.faults.RefuseTarget; refuse != nil {
		if code := refuse("token", form); code != "" {
			return nil, code
		}
	}
	wanted := slices.Clone(form["resource"])
	if audience := form.Get("audience"); audience != "" {
		wanted = append(wanted, audience)
	}
	scopes := strings.Fields(form.Get("scope"))
	if p.faults.IgnoreTargets || len(wanted) == 0 && len(scopes) == 0 {
		return g, ""
	}
	other := *g
	for _, audience := range wanted {
		if !slices.Contains(g.audience, audience) && !slices.Contains(p.cfg.APIs, audience) {
			return nil, "invalid_target"
		}
		other.audience = wanted
	}
	for _, scope := range scopes {
		if len(wanted) == 0 && !slices.Contains(g.scopes, scope) { // RFC 6749 section 6
			return nil, "invalid_scope"
		}
		other.scopes = scopes
	}
	return &other, ""
}

// Reused is how often a refresh token came that was spent.
func (p *Provider) Reused() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.reused
}

// RevokeAll makes every refresh token worthless, as when a user is disabled.
func (p *Provider) RevokeAll() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, t := range p.refreshes {
		t.family.revoked = true
	}
}

// Revoked reports whether a refresh token is worthless by revocation.
func (p *Provider) Revoked(token string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	t := p.refreshes[token]
	return t != nil && t.family.revoked
}

// serveRevoke is the revocation endpoint (RFC 7009).
func (p *Provider) serveRevoke(w http.ResponseWriter, r *http.Request) {
	if _, problem := p.authenticate(r); problem != "" {
		tokenError(w, http.StatusUnauthorized, "invalid_client", problem)
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if t := p.refreshes[r.PostForm.Get("token")]; t != nil {
		t.family.revoked = true
	}
}

// serveEndSession ends a session that nobody has, and sends the browser back
// (OpenID Connect RP-Initiated Logout 1.0).
func (p *Provider) serveEndSession(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	to, err := url.Parse(q.Get("post_logout_redirect_uri"))
	if _, ok := p.cfg.Clients[q.Get("client_id")]; !ok || err != nil || !to.IsAbs() {
		http.Error(w, "unknown client_id or post_logout_redirect_uri", http.StatusBadRequest)
		return
	}
	if hint := q.Get("id_token_hint"); hint != "" && !slices.Contains(p.Issued(), hint) {
		http.Error(w, "this id_token_hint is not ours", http.StatusBadRequest)
		return
	}
	back := to.Query()
	back.Set("state", q.Get("state"))
	to.RawQuery = back.Encode()
	w.Header().Set("Location", to.String())
	w.WriteHeader(http.StatusSeeOther)
}
