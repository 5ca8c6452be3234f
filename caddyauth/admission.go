package caddyauth

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"golang.org/x/net/idna"

	"github.com/pkce-auth/caddy-pkce-auth/caddyauth/internal/claims"
	"github.com/pkce-auth/caddy-pkce-auth/caddyauth/internal/session"
)

// AdmissionConfig says which sessions may pass, and from where requests may
// come with one. Whoever is logged in and may not pass gets 403, never another
// login.
type AdmissionConfig struct {
	// What the claims of a session must say: all of it. A claim that is missing
	// denies. Default: nothing, so that every session passes.
	Require []Requirement `json:"require,omitempty"`

	// Expressions in CEL, as in Caddy's matcher `expression`, that must all be
	// true of a request with its session, whose claims are in
	// `{http.auth.user.*}`. One that fails, or is not true, denies. Default: none.
	RequireExpressions []string `json:"require_expressions,omitempty"`

	// Whether requests that can change something, and WebSockets, are refused
	// when another site's page makes them with the user's session: `on` or
	// `off`. The browser says so in `Sec-Fetch-Site`, else in `Origin`; a request
	// with neither comes from no page. Default: `on`.
	CSRF string `json:"csrf,omitempty"`

	// Origins whose pages may make such requests all the same, as
	// `https://admin.example.com`: compared exactly with `Origin`. Default: none.
	TrustedOrigins []string `json:"trusted_origins,omitempty"`
}

// Requirement is a claim, and the values of which any lets a session pass.
type Requirement struct {
	// The claim: its name, or a path through objects, with dots
	// (`realm_access.roles`).
	Claim string `json:"claim"`

	// The values. A text, a number or a boolean must be one of them, a list must
	// hold one, an object must have a member that is named so and not empty. Of
	// the claim `email` they are addresses, or domains as `@example.com`, and
	// count only where `email_verified` is true (OpenID Connect Core, section
	// 5.7).
	Values []string `json:"values"`
}

// validate finds out at adapt time what could never work: an operator must not
// learn of it from a user who is denied, or who is not.
func (c *AdmissionConfig) validate() error {
	if _, err := c.requirements(); err != nil {
		return misconfigured("require", "%v", err)
	}
	for i, expression := range c.RequireExpressions {
		switch {
		case strings.TrimSpace(expression) == "":
			return misconfigured("require", "an expression is empty")
		case slices.Contains(c.RequireExpressions[:i], expression):
			return misconfigured("require", "the expression %q is given twice", expression)
		}
	}
	_, err := newCrossSite(c)
	return err
}

func (c *AdmissionConfig) requirements() (all []claims.Requirement, err error) {
	for _, given := range c.Require {
		for _, value := range given.Values {
			if i := strings.IndexByte(value, '{'); i >= 0 && strings.Contains(value[i:], "}") {
				return nil, fmt.Errorf("%q: placeholders are not replaced here: write the value itself, or an expression in backquotes", value)
			}
		}
		q, err := claims.NewRequirement(given.Claim, given.Values, idna.Registration.ToASCII)
		if err != nil {
			return nil, err
		}
		if slices.ContainsFunc(all, q.Equal) {
			return nil, fmt.Errorf("%s is required twice with the same values: leave one line out", given.Claim)
		}
		all = append(all, q)
	}
	return all, nil
}

func (c *AdmissionConfig) load(ctx caddy.Context) (a admission, err error) {
	if a.requirements, err = c.requirements(); err != nil {
		return a, misconfigured("require", "%v", err)
	}
	if a.crossSite, err = newCrossSite(c); err != nil {
		return a, err
	}
	for _, expression := range c.RequireExpressions {
		matcher, err := newExpression(ctx, expression)
		if err != nil {
			return a, misconfigured("require", "%v", err)
		}
		a.expressions = append(a.expressions, matcher)
	}
	return a, nil
}

// newExpression compiles an expression.
func newExpression(ctx caddy.Context, text string) (*caddyhttp.MatchExpression, error) {
	expression := &caddyhttp.MatchExpression{Expr: text}
	if err := expression.Provision(ctx); err != nil {
		return nil, fmt.Errorf("the expression %q: %w", text, err)
	}
	return expression, nil
}

// admission is who may pass a route.
type admission struct {
	requirements []claims.Requirement
	expressions  []*caddyhttp.MatchExpression
	crossSite    crossSite
}

// errNotAdmitted says that a session is there, but does not suffice. Which
// claim is missing is for the log: neither its value nor what was required
// may help anybody to guess.
var errNotAdmitted = errors.New("the session does not meet what the route requires")

// errVague says that an expression cannot be evaluated: it may be about the method
// or the URL of the request, and the client has the word there.
var errVague = fmt.Errorf("%w: the proxy that asks does not say X-Forwarded-Method and X-Forwarded-Uri, or the client says otherwise, and require has an expression", errNotAdmitted)

// judge says whether a request may use its session: nil if it may. What admits
// it again, when more is known of the user, is kept with the request.
//
// A foreign page is looked for first: it must not learn from the answer whom
// the route would admit.
func (h *Handler) judge(r *http.Request, a *authState, s *session.Session) *failure {
	if !isSafe(r) {
		if !a.brought && h.admission.crossSite.forged(r, h.party.site.origins) { // no page can make a browser send a token
			return &failure{reason: reasonCrossSite, err: errCrossSite}
		}
		if isEarly(r) {
			return &failure{reason: reasonTooEarly, err: errEarlyData}
		}
	}
	if err := h.admission.meets(s); err != nil {
		return &failure{reason: reasonForbidden, err: err}
	}
	if len(h.admission.expressions) == 0 {
		a.admitter = h
		return nil
	}
	if a.vague {
		return &failure{reason: reasonForbidden, err: errVague}
	}
	as := h.remember(r, a)
	a.admitter = as
	if err := as.evaluate(s); err != nil {
		return &failure{reason: reasonForbidden, err: err}
	}
	return nil
}

// meets compares the claims of a session with what is required of them.
func (a *admission) meets(s *session.Session) error {
	for i := range a.requirements {
		if !a.requirements[i].MetBy(s.Claims) {
			return fmt.Errorf("%w: require %s", errNotAdmitted, a.requirements[i].Claim())
		}
	}
	return nil
}

// admits implements admitter.
func (h *Handler) admits(s *session.Session) bool {
	return h.party.client.Admits(&s.Identity) && h.admission.meets(s) == nil
}

// setAside takes a session out of a request that must not use it. What a
// refresh has just brought reaches the browser all the same, for the tokens
// before are spent; and what another handler of this provider has told the
// upstream of the user is taken back. The session is nil where only that
// handler could use it: it lacks the token of this route, whose upstream must
// not get the other one in its place.
func (h *Handler) setAside(w http.ResponseWriter, r *http.Request, a *authState, s *session.Session) {
	if s != nil {
		if s.Generation > a.loaded {
			h.party.write(w.Header(), r, a, s)
		}
		a.dormant = s
	}
	a.session = nil
	h.party.disown(r, a)
}

// remembered is a request as the expressions of its route saw it. They are
// evaluated on it, at once and whenever more is known of the user: by then the
// request itself belongs to others, who may be changing it.
type remembered struct {
	handler *Handler
	request *http.Request
	vars    map[string]any
	values  map[string]any // of the placeholders that the expressions name
}

// remember makes the private copy. Only a route with expressions pays for it.
func (h *Handler) remember(r *http.Request, a *authState) *remembered {
	as := &remembered{
		handler: h,
		request: r.Clone(context.WithoutCancel(r.Context())),
		vars:    make(map[string]any),
		values:  make(map[string]any),
	}
	as.request.Body, as.request.Trailer = http.NoBody, nil
	as.request.Header["Cookie"] = a.cookies // a handler of ours that ran before may have taken some out
	for name, value := range r.Context().Value(caddyhttp.VarsCtxKey).(map[string]any) {
		if name != stateVar {
			as.vars[name] = value
		}
	}
	repl := r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer)
	for _, expression := range h.admission.expressions {
		for _, name := range expression.Placeholders() {
			if strings.HasPrefix(name, "http.auth.") || h.verifying && strings.HasPrefix(name, "http.request.") {
				continue // else it would be about the question, and not about the request that is asked about
			}
			if value, ok := repl.Get(name); ok {
				as.values[name] = value
			}
		}
	}
	return as
}

// admits implements admitter.
func (as *remembered) admits(s *session.Session) bool {
	return as.handler.admits(s) && as.evaluate(s) == nil
}

// evaluate evaluates the expressions for a session. It may be called
// concurrently: each call has placeholders and variables of its own.
func (as *remembered) evaluate(s *session.Session) error {
	ctx := as.request.Context()
	server, _ := ctx.Value(caddyhttp.ServerCtxKey).(*caddyhttp.Server)
	repl := caddy.NewReplacer()
	r := caddyhttp.PrepareRequest(as.request, repl, nil, server)
	vars := r.Context().Value(caddyhttp.VarsCtxKey).(map[string]any)
	for name, value := range as.vars {
		vars[name] = value
	}
	*r = *r.WithContext(context.WithValue(r.Context(), caddyhttp.OriginalRequestCtxKey, ctx.Value(caddyhttp.OriginalRequestCtxKey)))
	state := &requestState{request: r, cookies: r.Header["Cookie"]}
	state.first = authState{requestState: state, party: as.handler.party, session: s, result: resultSession}
	state.current = &state.first
	vars[stateVar] = state
	repl.Map(state.placeholder)
	for name, value := range as.values {
		repl.Set(name, value)
	}
	for i, expression := range as.handler.admission.expressions {
		if ok, err := expression.MatchWithError(r); err != nil {
			return fmt.Errorf("%w: expression %d of require fails: %w", errNotAdmitted, i+1, err)
		} else if !ok {
			return fmt.Errorf("%w: expression %d of require", errNotAdmitted, i+1)
		}
	}
	return nil
}

// Interface guards
var (
	_ admitter = (*Handler)(nil)
	_ admitter = (*remembered)(nil)
)
