package provider

import (
	"maps"
	"net/http"
	"strings"
)

// serveUserinfo is the userinfo endpoint (OpenID Connect Core section 5.3). It
// says one thing more than the ID token.
func (p *Provider) serveUserinfo(w http.ResponseWriter, r *http.Request) {
	token, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	p.mu.Lock()
	g := p.accesses[token]
	p.mu.Unlock()
	if !ok || g == nil || r.Form.Has("access_token") {
		w.Header().Set("WWW-Authenticate", `Bearer error="invalid_token"`)
		w.WriteHeader(http.StatusUnauthorized)
		return
	}
	claims := map[string]any{"sub": g.user, "phone_number": "+49 30 1234567"}
	maps.Copy(claims, p.cfg.Users[g.user])
	if change := p.fault().Userinfo; change != nil {
		change(claims)
	}
	writeJSON(w, http.StatusOK, claims)
}
