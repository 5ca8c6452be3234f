package caddyauth

import (
	"net/http"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/pkce-auth/caddy-pkce-auth/caddyauth/internal/claims"
	"github.com/pkce-auth/caddy-pkce-auth/caddyauth/internal/session"
)

// authState is what we know of one request. It is made by the first of our
// handlers that the request comes to, and found again by the next: another
// handler of the same provider only adds its own policy, one of another
// provider makes a state of its own.
type authState struct {
	party   *relyingParty
	cookies []string // as the client sent them; handlers behind us see fewer
	session *session.Session
	result  string
	reason  reason
	request *http.Request
	earlier *authState // of another provider
	root    *authState // the earliest
	written []string   // of the root: the Set-Cookie lines that are ours
}

// authVar is where Caddy's variables hold the request's *authState.
const authVar = "pkce_auth"

// Results, as the placeholder says them.
const (
	resultSession   = "session"
	resultBypass    = "bypass"
	resultAnonymous = "anonymous"
	resultDenied    = "denied"
)

// setCookies adds to a response the cookies that write makes, and remembers
// them as ours: another handler of ours may look at the response, and drops
// what the upstream sets under our names.
func (a *authState) setCookies(h http.Header, write func(http.Header) error) error {
	made := http.Header{}
	if err := write(made); err != nil {
		return err
	}
	lines := made["Set-Cookie"]
	h["Set-Cookie"] = append(h["Set-Cookie"], lines...)
	a.root.written = append(a.root.written, lines...)
	return nil
}

// String is what {http.vars.pkce_auth} shows.
func (a *authState) String() string { return a.result }

// authState returns the request's state for this provider, and whether it is
// new. The latest handler's state is what placeholders show.
func (p *relyingParty) authState(r *http.Request) (a *authState, isNew bool) {
	vars := r.Context().Value(caddyhttp.VarsCtxKey).(map[string]any)
	latest, _ := vars[authVar].(*authState)
	for a := latest; a != nil; a = a.earlier {
		if a.party == p {
			return a, false
		}
	}
	a = &authState{party: p, cookies: r.Header["Cookie"], request: r, earlier: latest}
	a.root = a
	vars[authVar] = a
	if latest != nil {
		a.cookies, a.root = latest.cookies, latest.root
		return a, true
	}
	repl := r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer)
	repl.Map(func(key string) (any, bool) {
		if !strings.HasPrefix(key, placeholderPrefix) {
			return nil, false
		}
		latest, _ := vars[authVar].(*authState)
		if latest == nil { // somebody set the variable to something else
			return nil, false
		}
		return latest.placeholder(key[len(placeholderPrefix):])
	})
	return a, true
}

const placeholderPrefix = "http.auth."

// placeholder gives the value of {http.auth.<name>}. Claims are looked up
// only when somebody asks. What is not there is neutral, not unknown: an
// unknown placeholder would fail an expression, and the request with it (K10).
func (a *authState) placeholder(name string) (any, bool) {
	if claim, ok := strings.CutPrefix(name, "user."); ok {
		return a.claim(claim), true
	}
	switch name {
	case "pkce_auth.result":
		return a.result, true
	case "pkce_auth.provider":
		return a.party.name, true
	case "pkce_auth.login_url":
		return a.party.endpointURL(a.request, pathLogin), true
	case "pkce_auth.logout_url":
		return a.party.endpointURL(a.request, pathLogout), true
	case "pkce_auth.error":
		return string(a.reason), true
	default:
		return nil, false
	}
}

func (a *authState) claim(name string) any {
	if a.session != nil {
		if name == "id" {
			return a.session.Subject
		}
		if value, ok := a.session.Claims.Lookup(name); ok {
			return value
		}
	}
	return neutral(name)
}

// textClaims are the standard claims that are text (OpenID Connect Core
// section 5.1) and well-known ones of common providers. A claim that is
// missing is empty text if it stands here, else an empty list, so that both
// {http.auth.user.email}.endsWith(…) and "admin" in {http.auth.user.groups}
// can be evaluated without a user.
var textClaims = map[string]bool{
	"id": true, "sub": true, "iss": true, "azp": true, "acr": true, "sid": true,
	"name": true, "given_name": true, "family_name": true, "middle_name": true, "nickname": true, "preferred_username": true,
	"profile": true, "picture": true, "website": true, "email": true, "gender": true, "birthdate": true, "zoneinfo": true,
	"locale": true, "phone_number": true, "org_id": true, "org_name": true, "tid": true, "oid": true, "upn": true, "hd": true,
	"scope": true, "scp": true, "client_id": true, "username": true, "login": true, "unique_name": true,
}

func neutral(name string) any {
	switch {
	case textClaims[name]:
		return ""
	case strings.HasSuffix(name, "_verified"):
		return false
	default:
		return claims.List{}
	}
}

// endpointURL gives the URL of one of our endpoints, absolute where the
// request's origin is known.
func (p *relyingParty) endpointURL(r *http.Request, path string) string {
	at, err := p.site.origins.of(r)
	if err != nil {
		return p.site.endpoints.prefix + path
	}
	return at.String() + p.site.endpoints.prefix + path
}
