package caddyauth

import (
	"fmt"
	"net/http"
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.uber.org/zap"
	"golang.org/x/net/http/httpguts"

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
	secure, _ := h.party.site.origins.secure(r)
	rw := &responseWriter{own: h.own.at(secure), auth: a}
	rw.ResponseWriter = w
	if kept := sealed.Strip(a.cookies, rw.own); len(kept) > 0 {
		r.Header["Cookie"] = kept
	} else {
		delete(r.Header, "Cookie")
	}
	if a.session != nil {
		h.party.renew(w.Header(), r, a)
		r.Header["Authorization"] = []string{a.session.Authorization()}
		h.setIdentityHeaders(r) // without a session there is no identity, not even a constant one
	}
	err := next.ServeHTTP(rw, r)
	if !rw.wroteHeader { // an error route answers, or net/http does
		rw.adjust(w.Header())
	}
	if err != nil {
		delete(r.Header, "Authorization")
		for _, header := range h.identity {
			delete(r.Header, header.name)
		}
	}
	return err // as it is: Caddy knows a HandlerError only unwrapped (K3)
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
