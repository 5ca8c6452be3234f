package caddyauth

import (
	"bufio"
	"io"
	"math"
	"net"
	"net/http"
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// responseWriter looks at the headers of the upstream's answer, once, when
// they are written. Everything else passes: flushing, hijacking, ReadFrom.
//
// It is there for four things: a cookie that the upstream sets under one of
// our names is dropped (A21); an answer that sets a cookie of ours is not for
// caches (A86); one to an authenticated request that says nothing of caching
// is for nobody else's; and a 401 that says that the access token is not good
// enough leads to a better one, where that can be had (see rejected).
//
// It is also where the answer ends with the session (A82): nothing passes any
// more, then.
type responseWriter struct {
	caddyhttp.ResponseWriterWrapper
	own         func(cookie string) bool
	auth        *authState
	handler     *Handler
	wroteHeader bool
	webSocket   bool
	live        liveRequest // of the session, if there is one
	second      *second     // try at the request; nil: there is none, whatever the upstream says
	gone        *discarded  // what follows of the answer; nil: it passes
	private     [1]string   // what Cache-Control says where it says nothing
}

// Header implements http.ResponseWriter.
func (w *responseWriter) Header() http.Header {
	if w.gone != nil {
		return w.gone.header
	}
	return w.ResponseWriter.Header()
}

// WriteHeader implements http.ResponseWriter.
func (w *responseWriter) WriteHeader(status int) {
	h := w.Header()
	switch {
	case w.gone != nil:
		return
	case w.wroteHeader:
	case w.live.ended() != nil:
		return
	case status == http.StatusUnauthorized && w.rejected():
		return
	case status >= 200 || status == http.StatusSwitchingProtocols:
		w.adjust(h)
		if w.auth.brought && w.auth.session != nil {
			w.endsWithToken(status, h)
		}
		if w.live.answer() != nil { // since then: that may take its time
			return
		}
		w.wroteHeader = true
		w.webSocket = status == http.StatusSwitchingProtocols && strings.EqualFold(h.Get("Upgrade"), "websocket")
	default: // 1xx, before the answer that counts: no cookie, be it ours or the upstream's
		cookies := h["Set-Cookie"]
		delete(h, "Set-Cookie")
		w.ResponseWriter.WriteHeader(status)
		if cookies != nil {
			h["Set-Cookie"] = cookies
		}
		return
	}
	w.ResponseWriter.WriteHeader(status)
}

// Write implements http.ResponseWriter.
func (w *responseWriter) Write(p []byte) (int, error) {
	if !w.wroteHeader {
		w.WriteHeader(http.StatusOK)
	}
	if w.gone != nil {
		return len(p), w.gone.take(int64(len(p)))
	}
	if why := w.live.ended(); why != nil {
		return 0, why
	}
	return w.ResponseWriter.Write(p)
}

// FlushError implements what http.ResponseController looks for. Flushing
// writes the headers, too.
func (w *responseWriter) FlushError() error {
	if !w.wroteHeader {
		w.WriteHeader(http.StatusOK)
	}
	if w.gone != nil {
		return nil
	}
	if why := w.live.ended(); why != nil {
		return why
	}
	return http.NewResponseController(w.ResponseWriter).Flush()
}

// copiedAtOnce is how much is copied before anybody looks whether the session
// goes on. Copying that blocks is freed by a deadline; a fast client would
// get all of a long answer.
const copiedAtOnce = 1 << 20

// ReadFrom implements io.ReaderFrom, by which the server may copy without a
// buffer.
func (w *responseWriter) ReadFrom(r io.Reader) (n int64, err error) {
	if !w.wroteHeader {
		w.WriteHeader(http.StatusOK)
	}
	whole, ok := r.(*io.LimitedReader) // as files come: a limit within a limit would hide them
	if !ok {
		whole = &io.LimitedReader{R: r, N: math.MaxInt64}
	}
	for w.gone == nil {
		if why := w.live.ended(); why != nil {
			return n, why
		}
		part := io.LimitedReader{R: whole.R, N: min(whole.N, copiedAtOnce)}
		copied, err := w.ResponseWriterWrapper.ReadFrom(&part)
		n += copied
		whole.N -= copied
		if err != nil || part.N > 0 || whole.N == 0 {
			return n, err
		}
	}
	if n, err = io.Copy(io.Discard, io.LimitReader(r, w.gone.left+1)); err == nil {
		err = w.gone.take(n)
	}
	return n, err
}

// Hijack implements http.Hijacker. What a handler takes over is cut with the
// session, too.
func (w *responseWriter) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	if w.gone != nil {
		return nil, nil, errDiscarded
	}
	return w.live.hijack(w.ResponseWriter, w.webSocket, func() { w.auth.party.shared.live.leave(&w.live) })
}

func (w *responseWriter) adjust(h http.Header) {
	p := w.auth.party
	kept := !w.auth.brought // in a browser: what a client brought is no session, and of no cookie's concern
	if kept && (w.auth.session != nil || w.auth.dormant != nil) {
		p.catchUp(h, w.auth)
	}
	if s := w.auth.session; kept && s != nil && w.auth.written != nil && (p.sessions.revocations.Has(s) || p.shared.superseded.Marked(s.ID)) {
		// It was ended meanwhile, or another login has taken its place: it must
		// not come back with this answer.
		w.auth.written = p.withoutSession(w.auth, w.auth.written)
	}
	written := w.auth.written
	if lines, ok := h["Set-Cookie"]; ok {
		lines = slices.DeleteFunc(lines, func(line string) bool {
			name, _, _ := strings.Cut(line, "=")
			return w.own(strings.TrimSpace(name)) && !slices.Contains(written, line)
		})
		if h["Set-Cookie"] = lines; len(lines) == 0 {
			delete(h, "Set-Cookie")
		}
	}
	switch {
	case len(written) > 0:
		neverCache(h)
	case w.auth.session != nil && h["Cache-Control"] == nil && h["Expires"] == nil:
		w.private[0] = "private"
		h["Cache-Control"] = w.private[:]
	}
}

// neverCache keeps an answer that sets a cookie of ours from everybody else,
// whatever else it says: also from caches that have a header of their own,
// which wins over Cache-Control there (RFC 9213).
func neverCache(h http.Header) {
	for name := range h {
		if strings.HasSuffix(name, "Cdn-Cache-Control") || name == "Surrogate-Control" || name == "X-Accel-Expires" {
			delete(h, name)
		}
	}
	h["Cache-Control"] = []string{"private, no-store"}
	varyCookie(h)
}
