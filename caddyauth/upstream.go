package caddyauth

import (
	"fmt"
	"io"
	"net/http"
	"net/textproto"
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.uber.org/zap"
	"golang.org/x/net/http/httpguts"

	"github.com/pkce-auth/caddy-pkce-auth/caddyauth/internal/sealed"
)

// This file is the border to the upstream: what a client says about its
// identity ends here, and what we say begins. Nothing else in the module
// calls the next handler with a request of ours.

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

// headerSet is the identity headers of all routes of a provider: what any of
// them sets, none takes from a client. It grows while a configuration loads,
// and is only read afterwards.
type headerSet struct {
	names []string // canonical
}

func (s *headerSet) add(headers []identityHeader) {
	for _, h := range headers {
		if !slices.Contains(s.names, h.name) {
			s.names = append(s.names, h.name)
		}
	}
}

// has reports whether a header is one of the set, or Authorization; also
// under a spelling that servers take for the same: case, underscores and dots
// (A14).
func (s *headerSet) has(name string) bool {
	if strings.EqualFold(name, "Authorization") {
		return true
	}
	return slices.ContainsFunc(s.names, func(own string) bool {
		if len(own) != len(name) {
			return false
		}
		for i := range len(own) {
			if !alike(own[i], name[i]) {
				return false
			}
		}
		return true
	})
}

// alike compares a character of one of our header names with one of a
// client's.
func alike(own, c byte) bool {
	if own == '-' {
		return c == '-' || c == '_' || c == '.'
	}
	return c|0x20 == own|0x20
}

// enter begins our part of a request: it finds or makes what we know of it,
// and takes away what a client may not say about itself. That comes before
// any branch: a request that needs no session must not smuggle in an identity
// either (A13).
func (h *Handler) enter(r *http.Request) *authState {
	a, first := h.party.authState(r)
	if first {
		h.party.scrub(r)
	}
	return a
}

// scrub takes from a request what only we may say: Authorization, the
// identity headers, as trailers, too, and the names of either in Connection,
// by which a client could have a proxy behind us remove what we set (K1).
func (p *relyingParty) scrub(r *http.Request) {
	delete(r.Header, "Authorization")
	if len(p.headers.names) > 0 {
		for name := range r.Header {
			if p.headers.has(name) {
				delete(r.Header, name)
			}
		}
	}
	if lines, ok := r.Header["Connection"]; ok {
		p.scrubConnection(r.Header, lines)
	}
	if r.Trailer != nil {
		p.scrubTrailers(r)
	}
}

// scrubConnection removes the tokens of Connection that name a header of
// ours, in any case, on any line (A15).
func (p *relyingParty) scrubConnection(h http.Header, lines []string) {
	if !slices.ContainsFunc(lines, p.namesOurs) {
		return
	}
	var kept []string
	for _, line := range lines {
		tokens := slices.DeleteFunc(strings.Split(line, ","), p.namesOurs)
		if len(tokens) > 0 {
			kept = append(kept, strings.Join(tokens, ","))
		}
	}
	if h["Connection"] = kept; len(kept) == 0 {
		delete(h, "Connection")
	}
}

// namesOurs reports whether a Connection header line names a header of ours.
func (p *relyingParty) namesOurs(line string) bool {
	for line != "" {
		var token string
		token, line, _ = strings.Cut(line, ",")
		token = textproto.TrimString(token)
		if p.headers.has(token) || strings.EqualFold(token, "Cookie") {
			return true
		}
	}
	return false
}

// scrubTrailers keeps identity headers out of the request's trailers, which
// arrive only with the end of the body (A17).
func (p *relyingParty) scrubTrailers(r *http.Request) {
	arriving := r.Trailer
	r.Trailer = make(http.Header, len(arriving))
	body := &trailerBody{ReadCloser: r.Body, publish: func() {
		for name, values := range arriving {
			if !p.headers.has(name) {
				r.Trailer[name] = values
			}
		}
	}}
	body.publish() // the names that were announced
	r.Body = body
}

// trailerBody publishes the trailers when the body has been read.
type trailerBody struct {
	io.ReadCloser
	publish func()
}

func (b *trailerBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if err == io.EOF {
		b.publish()
	}
	return n, err
}

// forward hands the request on, with what the session says if there is one,
// and without our cookies. When the next handler fails, the credentials are
// taken off again: Caddy runs its error routes with the same headers, and a
// token must not reach an error page's upstream (K2).
func (h *Handler) forward(w http.ResponseWriter, r *http.Request, a *authState, next caddyhttp.Handler) error {
	rw := &responseWriter{own: h.own, auth: a}
	rw.ResponseWriter = w
	if kept := sealed.Strip(a.cookies, h.own); len(kept) > 0 {
		r.Header["Cookie"] = kept
	} else {
		delete(r.Header, "Cookie")
	}
	if a.session != nil {
		h.party.renew(w.Header(), r, a)
		r.Header["Authorization"] = []string{a.session.Authorization()}
	}
	h.setIdentityHeaders(r)
	err := next.ServeHTTP(rw, r)
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
