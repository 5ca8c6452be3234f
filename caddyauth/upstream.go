package caddyauth

import (
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.uber.org/zap"
	"golang.org/x/net/http/httpguts"

	"github.com/pkce-auth/caddy-pkce-auth/caddyauth/internal/rp"
	"github.com/pkce-auth/caddy-pkce-auth/caddyauth/internal/sealed"
)

// This file is the border to the upstream: what we say of a request begins
// here. Nothing else in the module calls the next handler with a request that
// the policy is about.

// identityHeader is a header that tells the upstream who the user is.
type identityHeader struct {
	name  string // canonical
	value string // with placeholders
}

func newIdentityHeaders(config map[string]string) []identityHeader {
	headers := make([]identityHeader, 0, len(config))
	for name, value := range config {
		headers = append(headers, identityHeader{http.CanonicalHeaderKey(name), value})
	}
	slices.SortFunc(headers, func(a, b identityHeader) int { return strings.Compare(a.name, b.name) })
	return headers
}

// reservedHeaders are no business of header_up: they steer the connection,
// or belong to others.
var reservedHeaders = []string{
	"Connection", "Content-Length", "Cookie", "Host", "Keep-Alive", "Proxy-Authorization",
	"Proxy-Connection", "Te", "Trailer", "Transfer-Encoding", "Upgrade",
}

func checkIdentityHeader(name string) error {
	switch {
	case !httpguts.ValidHeaderFieldName(name):
		return fmt.Errorf("%q is not a header name", name)
	case strings.ContainsAny(name, "_."):
		return fmt.Errorf("%s: use hyphens: Caddy drops headers with underscores or dots, for servers take them for hyphens", name)
	case strings.EqualFold(name, "Authorization"):
		return fmt.Errorf("the access token goes into Authorization by itself")
	case slices.Contains(reservedHeaders, http.CanonicalHeaderKey(name)):
		return fmt.Errorf("%s steers the connection and cannot carry an identity", name)
	default:
		return nil
	}
}

// forward hands the request on, with what the session says if there is one,
// and without our cookies. When the next handler fails, the credentials are
// taken off again: Caddy runs its error routes with the same headers, and a
// token must not reach an error page's upstream (K2).
func (h *Handler) forward(w http.ResponseWriter, r *http.Request, a *authState, next caddyhttp.Handler) error {
	rw := &responseWriter{own: h.hideCookies(r, a), auth: a, handler: h}
	rw.ResponseWriter = w
	var err error
	if a.session != nil {
		if !a.brought {
			h.party.renew(w.Header(), r, a)
		}
		if !h.identify(r, a) { // without a session there is no identity, not even a constant one
			return h.party.failSession(w, r, &rp.TargetError{Err: errNoToken})
		}
		err = h.forwardLive(rw, r, next)
	} else {
		err = next.ServeHTTP(rw, r)
	}
	if !rw.wroteHeader { // an error route answers, or net/http does
		rw.adjust(w.Header())
	}
	if err != nil {
		if !h.tokenFor(a).none {
			delete(r.Header, "Authorization")
		}
		for _, header := range h.identity {
			delete(r.Header, header.name)
		}
	}
	return err // as it is: Caddy knows a HandlerError only unwrapped (K3)
}

// hideCookies takes our cookies out of a request, and returns what tells them
// from others'.
func (h *Handler) hideCookies(r *http.Request, a *authState) (own func(string) bool) {
	secure, _ := a.secure()
	own = h.own.at(secure)
	if kept := sealed.Strip(a.cookies, own); len(kept) > 0 {
		r.Header["Cookie"] = kept
	} else {
		delete(r.Header, "Cookie")
	}
	return own
}

// forwardLive hands on a request that carries a session, and cuts it when the
// session ends (A82). If the answer had begun, it is aborted, so that half of
// it does not look like the whole; if not, the client gets our refusal, and
// nothing of what the upstream would have said.
func (h *Handler) forwardLive(rw *responseWriter, r *http.Request, next caddyhttp.Handler) (err error) {
	p, a, live := h.party, rw.auth, &rw.live
	s := a.session // a handler behind this one may set it aside
	live.route, live.judge, live.began = a.admitter, p, a.asked
	live.hold(rw.ResponseWriter, r)
	if !a.brought {
		p.shared.live.enter(live, s)
	}
	defer func() {
		why, hijacked := live.let()
		if errors.Is(why, errNoLonger) { // others are counted by who ends the session
			p.sayCut(s, 1, why)
		}
		if !hijacked { // else when the connection is closed
			p.shared.live.leave(live)
		}
		if why == nil || hijacked {
			return
		}
		*r = *r.WithContext(live.context.parent) // an error's routes run with it
		switch panicked := recover(); {
		case panicked != nil && panicked != http.ErrAbortHandler: //nolint:errorlint // as net/http compares it
			panic(panicked)
		case rw.wroteHeader:
			panic(http.ErrAbortHandler)
		}
		err = h.refuseLate(rw, r)
	}()
	if !a.brought && p.sessions.revocations.Has(s) { // since it was loaded
		live.cut(errLoggedOut)
		return nil
	}
	return h.next(rw, r, next)
}

// identify says upstream whose the request is. It reports whether there is the
// token that goes there: without it the request must not go on.
func (h *Handler) identify(r *http.Request, a *authState) bool {
	if !h.authorize(r, a) {
		return false
	}
	a.sent = h.tokenFor(a)
	h.setIdentityHeaders(r)
	return true
}

// keptHeaders are those of the server, and those without which a script could
// not read an answer of ours.
var keptHeaders = []string{
	"Server", "Alt-Svc", "Strict-Transport-Security", "Vary",
	"Access-Control-Allow-Credentials", "Access-Control-Allow-Origin", "Access-Control-Expose-Headers",
}

// refuseLate answers a request whose session has ended before the upstream
// answered. What the upstream wanted to say may stand in the headers already.
func (h *Handler) refuseLate(rw *responseWriter, r *http.Request) error {
	a, header := rw.auth, rw.ResponseWriter.Header()
	a.session, a.dormant = nil, nil
	a.written = h.party.withoutSession(a, a.written)
	rw.clear()
	if r.ProtoMajor == 1 && r.ContentLength != 0 {
		header.Set("Connection", "close") // nothing more is read from it
	}
	refuse := h.party.refuse
	if a.brought {
		refuse = func(w http.ResponseWriter, r *http.Request) error { return h.refuseBearer(w, r, errTokenOver) }
	}
	err := refuse(rw.ResponseWriter, r)
	rw.wroteHeader = err == nil
	return err
}

// setIdentityHeaders sets what header_up says. Placeholders are replaced once
// and the outcome is not looked at again, so that a claim that looks like a
// placeholder stays what it is.
func (h *Handler) setIdentityHeaders(r *http.Request) {
	if len(h.identity) == 0 {
		return
	}
	repl := r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer)
	for _, header := range h.identity {
		value := repl.ReplaceAll(header.value, "")
		if value == "" {
			continue
		}
		if !safeHeaderValue(value) {
			h.logger.Warn("identity header dropped: its value holds a control character",
				zap.String("header", header.name), zap.String("provider", h.party.name))
			continue
		}
		r.Header[header.name] = []string{value}
	}
}

// safeHeaderValue refuses control characters, line breaks first of all (A22).
func safeHeaderValue(value string) bool {
	return !strings.ContainsFunc(value, func(r rune) bool { return r < ' ' || r == 0x7f || 0x80 <= r && r < 0xa0 })
}
