package caddyauth

import (
	"io"
	"net/http"
	"net/textproto"
	"slices"
	"strings"
)

// This file takes from a request what a client may not say about itself.

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
	switch {
	case !h.tokenFor(a).none && !a.cleared: // where nothing of ours goes upstream, the client's own may
		delete(r.Header, "Authorization")
		a.cleared = true
	case first && a.cleared: // what stands there is another provider's, and for its routes alone
		delete(r.Header, "Authorization")
	}
	if first {
		h.party.scrub(r)
	}
	return a
}

// scrub takes from a request what only we may say beside Authorization: the
// identity headers, as trailers, too, and the names of either in Connection, by
// which a client could have a proxy behind us remove what we set (K1).
func (p *relyingParty) scrub(r *http.Request) {
	p.scrubIdentity(r.Header)
	if !fromTrustedProxy(r) {
		delete(r.Header, "Forwarded") // Caddy replaces the X-Forwarded ones, but passes this on (F15)
	}
	if lines, ok := r.Header["Connection"]; ok {
		p.scrubConnection(r.Header, lines)
	}
	if r.Trailer != nil {
		p.scrubTrailers(r)
	}
}

// scrubIdentity removes what tells the upstream who the user is, but for
// Authorization.
func (p *relyingParty) scrubIdentity(h http.Header) {
	if len(p.headers.names) == 0 {
		return
	}
	for name := range h {
		if p.headers.has(name) && name != "Authorization" {
			delete(h, name)
		}
	}
}

// disown takes back what a handler of ours has told the upstream of the user: not
// Authorization where that is still the client's own.
func (p *relyingParty) disown(r *http.Request, a *authState) {
	a.sent = nil
	p.scrubIdentity(r.Header)
	if a.cleared {
		delete(r.Header, "Authorization")
	}
}

// scrubConnection removes the tokens of Connection that name a header of
// ours, in any case, on any line (A15), and any upgrade but that to a
// WebSocket: what follows a successful upgrade is a tunnel, and an upstream
// that speaks HTTP/2 in it (h2c) would read whole requests there that nobody
// has looked at.
func (p *relyingParty) scrubConnection(h http.Header, lines []string) {
	websocket := len(h["Upgrade"]) == 1 && strings.EqualFold(h["Upgrade"][0], "websocket")
	if !websocket {
		delete(h, "Upgrade")
		delete(h, "Http2-Settings")
	}
	if len(lines) == 1 && lines[0] == "keep-alive" { // as nearly always
		return
	}
	unwanted := func(token string) bool { return p.namesOurs(token) || !websocket && namesUpgrade(token) }
	if !slices.ContainsFunc(lines, unwanted) {
		return
	}
	var kept []string
	for _, line := range lines {
		tokens := slices.DeleteFunc(strings.Split(line, ","), unwanted)
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

func namesUpgrade(line string) bool {
	lower := strings.ToLower(line)
	return strings.Contains(lower, "upgrade") || strings.Contains(lower, "http2-settings")
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
