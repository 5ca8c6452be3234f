package provider

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"
)

const idTokenLifetime = time.Hour

func (p *Provider) serveMetadata(w http.ResponseWriter, _ *http.Request) {
	doc := map[string]any{
		"issuer":                                         p.URL,
		"authorization_endpoint":                         p.at("/authorize"),
		"token_endpoint":                                 p.at("/token"),
		"jwks_uri":                                       p.at("/keys"),
		"response_types_supported":                       []string{"code"},
		"subject_types_supported":                        []string{"public"},
		"code_challenge_methods_supported":               []string{"S256"},
		"id_token_signing_alg_values_supported":          []string{"RS256", "ES256", "EdDSA"},
		"token_endpoint_auth_methods_supported":          []string{"none", "client_secret_basic", "client_secret_post"},
		"authorization_response_iss_parameter_supported": true,
		"scopes_supported":                               []string{"openid", "profile", "email", "offline_access"},
		"revocation_endpoint":                            p.at("/revoke"),
		"end_session_endpoint":                           p.at("/end-session"),
		"userinfo_endpoint":                              p.at("/userinfo"),
		"backchannel_logout_supported":                   true,
		"backchannel_logout_session_supported":           true,
	}
	if change := p.fault().Metadata; change != nil {
		change(doc)
	}
	writeJSON(w, http.StatusOK, doc)
}

func (p *Provider) serveKeys(w http.ResponseWriter, _ *http.Request) {
	keys := p.keys.public()
	if change := p.fault().Keys; change != nil {
		keys = change(keys)
	}
	writeJSON(w, http.StatusOK, map[string]any{"keys": keys})
}

// serveToken is the token endpoint (RFC 6749 section 4.1.3).
func (p *Provider) serveToken(w http.ResponseWriter, r *http.Request) {
	form := r.PostForm
	id, problem := p.authenticate(r)
	if problem != "" {
		tokenError(w, http.StatusUnauthorized, "invalid_client", problem)
		return
	}
	var doc map[string]any
	change := p.fault().TokenResponse
	switch form.Get("grant_type") {
	case "authorization_code":
		var g *grant
		if g, problem = p.redeem(id, form); problem == "" {
			doc = p.tokens(g, form)
			if slices.Contains(g.scopes, "offline_access") {
				doc["refresh_token"] = p.newRefreshToken(g, new(family))
			}
		}
	case "refresh_token":
		var code string
		if doc, code, problem = p.refresh(id, form); problem != "" {
			tokenError(w, http.StatusBadRequest, code, problem)
			return
		}
		change = p.fault().RefreshResponse
	default:
		tokenError(w, http.StatusBadRequest, "unsupported_grant_type", form.Get("grant_type"))
		return
	}
	if problem != "" {
		tokenError(w, http.StatusBadRequest, "invalid_grant", problem)
		return
	}
	if change != nil {
		change(doc)
	}
	w.Header().Set("Cache-Control", "no-store")
	writeJSON(w, http.StatusOK, doc)
}

// authenticate wants exactly the method that the client is registered with.
func (p *Provider) authenticate(r *http.Request) (id, problem string) {
	basicID, basicSecret, basic := r.BasicAuth()
	id, secret, method := r.PostForm.Get("client_id"), r.PostForm.Get("client_secret"), "none"
	switch {
	case basic && (r.PostForm.Has("client_secret") || r.PostForm.Has("client_id")):
		return "", "more than one client authentication"
	case basic:
		id, _ = url.QueryUnescape(basicID)
		secret, _ = url.QueryUnescape(basicSecret)
		method = "client_secret_basic"
	case r.PostForm.Has("client_secret"):
		method = "client_secret_post"
	}
	p.mu.Lock()
	client, ok := p.cfg.Clients[id]
	p.mu.Unlock()
	if !ok {
		return "", "unknown client"
	}
	if client.Certificate != nil {
		if r.TLS == nil || len(r.TLS.PeerCertificates) == 0 || !bytes.Equal(r.TLS.PeerCertificates[0].Raw, client.Certificate) {
			return "", "the client's certificate is wanted"
		}
		if basic || r.PostForm.Has("client_secret") || r.PostForm.Has("client_assertion") {
			return "", "more than one client authentication"
		}
		return id, ""
	}
	if client.Key != nil {
		return id, p.checkAssertion(id, client.Key, r.PostForm)
	}
	want := client.AuthMethod
	if want == "" {
		want = "none"
		if client.Secret != "" {
			want = "client_secret_basic"
		}
	}
	if method != want || secret != client.Secret {
		return "", "wrong client authentication"
	}
	return id, ""
}

// redeem spends a code.
func (p *Provider) redeem(client string, form url.Values) (*grant, string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	g := p.codes[form.Get("code")]
	sum := sha256.Sum256([]byte(form.Get("code_verifier")))
	switch {
	case g == nil || p.cfg.Now().After(g.expires):
		return nil, "unknown code"
	case g.spent && !p.faults.ReuseCodes:
		return nil, "code was used before"
	case g.client != client:
		return nil, "code of another client"
	case g.redirectURI != form.Get("redirect_uri"):
		return nil, "another redirect_uri"
	case base64.RawURLEncoding.EncodeToString(sum[:]) != g.challenge && !p.faults.IgnorePKCE:
		return nil, "wrong code_verifier"
	}
	g.spent = true
	p.logins = append(p.logins, Login{Client: g.client, Subject: g.user, SessionID: g.sid})
	return g, ""
}

func (p *Provider) tokens(g *grant, form url.Values) map[string]any {
	now := p.cfg.Now()
	audience := slices.Clone(g.audience)
	for _, resource := range form["resource"] {
		if !slices.Contains(audience, resource) {
			audience = append(audience, resource)
		}
	}
	access := "opaque-" + randomText()
	if len(audience) > 0 { // as Auth0 does: without an audience, the token is opaque
		claims := map[string]any{
			"iss": p.URL, "aud": audience, "sub": g.user, "client_id": g.client, "scope": strings.Join(g.scopes, " "),
			"iat": now.Unix(), "exp": now.Add(p.cfg.TokenLifetime).Unix(), "jti": randomText(),
		}
		p.mu.Lock()
		maps.Copy(claims, p.cfg.AccessTokenClaims)
		algorithm := p.cfg.Algorithm
		p.mu.Unlock()
		access = p.Sign(map[string]any{"typ": "at+jwt", "alg": algorithm}, claims)
	}
	p.mu.Lock()
	p.accesses[access] = g
	p.mu.Unlock()
	doc := map[string]any{
		"access_token": p.issue(access),
		"token_type":   "Bearer",
		"expires_in":   int(p.cfg.TokenLifetime.Seconds()),
		"scope":        strings.Join(g.scopes, " "),
	}
	if slices.Contains(g.scopes, "openid") {
		doc["id_token"] = p.issue(p.idToken(g, access, nil))
	}
	return doc
}

func (p *Provider) idToken(g *grant, access string, change func(claims map[string]any)) string {
	now := p.cfg.Now()
	sum := sha256.Sum256([]byte(access))
	header := map[string]any{"typ": "JWT", "alg": p.cfg.Algorithm}
	claims := map[string]any{
		"iss": p.URL, "aud": g.client, "sub": g.user, "nonce": g.nonce,
		"iat": now.Unix(), "exp": now.Add(idTokenLifetime).Unix(), "auth_time": now.Unix(), "sid": g.sid,
		"at_hash": base64.RawURLEncoding.EncodeToString(sum[:16]),
	}
	maps.Copy(claims, p.cfg.Users[g.user])
	if change != nil {
		change(claims)
	}
	f := p.fault()
	if f.IDToken != nil {
		f.IDToken(header, claims)
	}
	token := p.Sign(header, claims)
	if f.SignedIDToken != nil {
		token = f.SignedIDToken(token)
	}
	return token
}

func tokenError(w http.ResponseWriter, status int, code, description string) {
	writeJSON(w, status, map[string]any{"error": code, "error_description": description})
}

func writeJSON(w http.ResponseWriter, status int, doc any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(doc)
}
