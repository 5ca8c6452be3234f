package caddyauth

import (
	"net/http"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/pkce-auth/caddy-pkce-auth/caddyauth/internal/claims"
	"github.com/pkce-auth/caddy-pkce-auth/caddyauth/internal/session"
)

// requestState is what our handlers know of one request, together. The first
// that the request comes to makes it; those behind it find it again, for by
// then the cookies are gone and the headers are ours.
type requestState struct {
	request *http.Request
	cookies []string // as the client sent them
	written []string // the Set-Cookie lines that are ours

	authorization []string  // as the client sent it; for routes with accept_bearer
	credentials   [1]string // what Authorization holds instead, kept here to spare an allocation

	current *authState   // of the handler that ran last: what placeholders show
	first   authState    // nearly always the only one
	more    []*authState // one for each further provider
	cleared bool         // whether the client's own Authorization was taken away
}

// authState is what a request means to one provider. Another handler of the
// same provider finds it, and only adds its own policy.
type authState struct {
	*requestState
	party   *relyingParty
	session *session.Session
	brought bool        // whether an access token came with the request, in place of a session
	sent    *routeToken // what a handler of ours has put into Authorization; nil: nothing
	vague   bool        // whether a proxy in front asks about the request, and does not say which it is
	freshness
	result string
	reason reason

	admitter admitter // what let the session in, and decides again when it is refreshed
	steps    steps
	reached  reached
}

// reached is what origins.secure says of the request. It is asked often, and
// says the same each time.
type reached struct{ known, secure, ok bool }

// freshness is what a request knows of its session's copies: which the browser
// has, and whether a newer one is on its way.
type freshness struct {
	loaded  uint64           // the session's generation in the browser's cookie
	due     bool             // whether its access token was to be refreshed
	asked   time.Time        // when the request was looked at
	dormant *session.Session // what is there, but is not used for this request
	start   *loginStart      // by what login it could; nil: by any
	landing <-chan struct{}  // closed when the refresh that this request began has ended
}

// stateVar is where Caddy's variables hold the request's *requestState.
const stateVar = "pkce_auth"

// Results, as the placeholder says them.
const (
	resultSession   = "session"
	resultRefreshed = "refreshed"
	resultBypass    = "bypass"
	resultAnonymous = "anonymous"
	resultDenied    = "denied"
)

// String is what {http.vars.pkce_auth} shows.
func (s *requestState) String() string { return s.current.result }

// authState returns the request's state for this provider, and makes it the
// current one. The second result says whether it is new.
func (p *relyingParty) authState(r *http.Request) (a *authState, isNew bool) {
	vars := r.Context().Value(caddyhttp.VarsCtxKey).(map[string]any)
	s, _ := vars[stateVar].(*requestState)
	if s == nil {
		s = &requestState{request: r, cookies: r.Header["Cookie"], authorization: r.Header["Authorization"]}
		s.first = authState{requestState: s, party: p}
		s.current = &s.first
		vars[stateVar] = s
		r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer).Map(s.placeholder)
		return s.current, true
	}
	if s.current = s.of(p); s.current != nil {
		return s.current, false
	}
	s.current = &authState{requestState: s, party: p}
	s.more = append(s.more, s.current)
	return s.current, true
}

func (s *requestState) of(p *relyingParty) *authState {
	if s.first.party == p {
		return &s.first
	}
	for _, a := range s.more {
		if a.party == p {
			return a
		}
	}
	return nil
}

// secure is origins.secure for the request.
func (a *authState) secure() (secure, ok bool) {
	if !a.reached.known {
		a.reached.secure, a.reached.ok = a.party.site.origins.secure(a.request)
		a.reached.known = true
	}
	return a.reached.secure, a.reached.ok
}

// loginFor is the login that would let the request pass: with what it lacks of
// the routes' rules, or for the token that the session lacks.
func (a *authState) loginFor(returnTo string) loginStart {
	start := loginStart{}
	if a.start != nil {
		start = *a.start
	}
	start.returnTo = returnTo
	if start.ask.Target.Empty() {
		start.ask = a.ask()
	}
	return start
}

// refreshed reports whether the session is newer than what the browser has.
func (a *authState) refreshed() bool { return a.session != nil && a.session.Generation > a.loaded }

// setCookies adds to a response the cookies that write makes, and remembers
// them as ours: another handler of ours may look at the response, and drops
// what the upstream sets under our names. Such a response is for no cache
// (A86).
func (s *requestState) setCookies(h http.Header, write func(http.Header) error) error {
	made := http.Header{}
	if err := write(made); err != nil {
		return err
	}
	lines := made["Set-Cookie"]
	if len(lines) == 0 {
		return nil
	}
	h["Set-Cookie"] = append(h["Set-Cookie"], lines...)
	s.written = append(s.written, lines...)
	neverCache(h)
	return nil
}

// placeholder gives the value of {http.auth.…}. Claims are looked up only when
// somebody asks. What is not there is neutral, not unknown: an unknown
// placeholder would fail an expression, and the request with it (K10).
func (s *requestState) placeholder(key string) (any, bool) {
	name, ok := strings.CutPrefix(key, "http.auth.")
	if !ok {
		return nil, false
	}
	a := s.current
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
