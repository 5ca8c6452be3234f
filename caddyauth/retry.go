package caddyauth

import (
	"context"
	"maps"
	"net/http"
	"net/url"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.uber.org/zap"

	"github.com/pkce-auth/caddy-pkce-auth/caddyauth/internal/rp"
	"github.com/pkce-auth/caddy-pkce-auth/caddyauth/internal/session"
)

// second is a second try at a request whose access token the upstream calls
// invalid, though it should be good (RFC 6750 section 3.1): it was revoked, or
// the upstream's keys or clock are not what they were.
type second struct {
	abort func()           // ends the first
	fresh *session.Session // with the token to try with; nil: there is no second try
}

// wanted gets a new token for the second try, if the route wants one. The first
// answer passes if that brings none; so it is got now, while that can still be
// said.
func (s *second) wanted(w *responseWriter) bool {
	if s == nil || s.fresh != nil {
		return false
	}
	a := w.auth
	a.steps.retried = true // by this handler, or by one around it: once
	token := w.handler.tokenFor(a)
	fresh, err := a.party.replace(a.request, a, token)
	if err != nil || fresh.Since(token.key) <= a.session.Since(token.key) || !w.live.route.admits(fresh) || w.live.ended() != nil {
		a.party.logger.Debug("the upstream takes the access token for invalid, and there is no newer one", zap.String("provider", a.party.name), zap.Error(err))
		return false
	}
	s.fresh = fresh
	w.discard(s.abort)
	return true
}

// replace gets a token in place of one that an upstream has refused.
func (p *relyingParty) replace(r *http.Request, a *authState, token *routeToken) (*session.Session, error) {
	secure, _ := a.secure()
	if held, _ := a.session.RefreshTokenFor(token.key); token.none || !p.policy.refresh || held.Empty() {
		return a.session, nil
	}
	how := p.renewal(p.sessions.of(secure), a.session, p.renewFor(token), p.now())
	how.Refused = true
	fresh, _, err := p.shared.refresher.Fresh(r.Context(), a.session, how)
	return fresh, err
}

// next calls the next handler; where the route wants that, a second time with a
// new token, when the upstream took the first for invalid.
func (h *Handler) next(w *responseWriter, r *http.Request, next caddyhttp.Handler) error {
	if !h.RetryInvalidToken || w.auth.steps.retried || !repeatable(r) {
		return w.call(r, next)
	}
	m := remember(w.ResponseWriter.Header(), r)
	if !m.divert(r) {
		return w.call(r, next)
	}
	others := len(w.auth.more)
	w.second = &second{abort: m.cancel}
	err := w.call(r, next)
	m.cancel()
	fresh := w.second.fresh
	w.second = nil
	if fresh == nil || w.live.ended() != nil {
		m.keep(r)
		return err
	}
	w.gone = nil
	m.restore(w.ResponseWriter.Header(), r)
	a, p := w.auth, h.party
	a.more, a.current = a.more[:others], a // handlers of other providers behind this one begin anew: what they took out is there again
	a.session, a.result = fresh, resultRefreshed
	a.written = p.withoutSession(a, a.written)
	p.renew(w.ResponseWriter.Header(), a.request, a)
	for _, header := range h.identity {
		delete(r.Header, header.name)
	}
	if !h.identify(r, a) {
		return h.party.failSession(w.ResponseWriter, r, &rp.TargetError{Err: errNoToken})
	}
	p.logger.Info("the upstream took an access token for invalid, and gets a new one", zap.String("provider", p.name),
		zap.String("sub", fresh.Subject), zap.String("path", originalURL(r).Path))
	return w.call(r, next)
}

// repeatable reports whether a request may be sent twice: it has no body, and
// means the same twice (RFC 9110 section 9.2.2).
func repeatable(r *http.Request) bool {
	switch r.Method {
	case http.MethodGet, http.MethodHead, http.MethodOptions, http.MethodPut, http.MethodDelete:
		return r.ContentLength == 0 && !isUpgrade(r)
	default:
		return false
	}
}

// memory is what handlers change of a request as they handle it, and of the
// answer before it is there: all that must be as it was for who handles it
// again. Caddy's rewrites change the request where it is, its routes note which
// of a group had their turn, and its variables pile up.
//
// The first try gets variables and groups of its own, for what it has begun may
// go on looking at them: connections are made in the background.
type memory struct {
	answer  http.Header
	request http.Request
	url     url.URL
	header  http.Header
	vars    map[string]any      // of the first try
	groups  map[string]struct{} // likewise
	cancel  func()
}

// routeGroups is the key of the context by which Caddy's routes know which
// groups of `handle` blocks have had their turn: a second walk through them
// would pass them all by.
const routeGroups caddy.CtxKey = "route_group"

// firstTryVar is the variable by which a first try is known.
const firstTryVar = stateVar + "_try"

func remember(answer http.Header, r *http.Request) *memory {
	vars, groups := notes(r)
	return &memory{
		answer: answer.Clone(), request: *r, url: *r.URL, header: r.Header.Clone(),
		vars: maps.Clone(vars), groups: maps.Clone(groups), cancel: func() {},
	}
}

// notes are the variables and groups of a request, which all its copies share.
func notes(r *http.Request) (vars map[string]any, groups map[string]struct{}) {
	vars, _ = r.Context().Value(caddyhttp.VarsCtxKey).(map[string]any)
	groups, _ = r.Context().Value(routeGroups).(map[string]struct{})
	return vars, groups
}

// divert makes a request that of the first try. That cannot be where it is a
// copy of the one that placeholders show, as some handlers make: what is noted
// of it would not be seen.
func (m *memory) divert(r *http.Request) bool {
	if m.vars == nil || m.groups == nil {
		return false
	}
	m.vars[firstTryVar] = true
	ctx, cancel := context.WithCancel(r.Context())
	ctx = context.WithValue(ctx, caddyhttp.VarsCtxKey, m.vars)
	*r = *r.WithContext(context.WithValue(ctx, routeGroups, m.groups))
	m.cancel = cancel
	if seen, _ := r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer).Get("http.vars." + firstTryVar); seen != true {
		cancel()
		*r = m.request
		return false
	}
	return true
}

// keep makes the first try the only one: what it has noted counts.
func (m *memory) keep(r *http.Request) {
	*r = *r.WithContext(m.request.Context())
	vars, groups := notes(r)
	delete(m.vars, firstTryVar)
	maps.Copy(vars, m.vars)
	maps.Copy(groups, m.groups)
}

// restore makes all as it was, each in its place, for others hold on to it.
func (m *memory) restore(answer http.Header, r *http.Request) {
	refill(answer, m.answer)
	*r = m.request
	*r.URL = m.url
	refill(r.Header, m.header)
}

func refill(into, from http.Header) {
	clear(into)
	maps.Copy(into, from)
}
