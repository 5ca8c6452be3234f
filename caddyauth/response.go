package caddyauth

import (
	"io"
	"net/http"
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// responseWriter looks at the headers of the upstream's answer, once, when
// they are written. Everything else passes: flushing, hijacking, ReadFrom.
//
// It is there for three things: a cookie that the upstream sets under one of
// our names is dropped (A21); an answer that sets a cookie of ours is not for
// caches (A86); and one to an authenticated request that says nothing of
// caching is for nobody else's.
type responseWriter struct {
	caddyhttp.ResponseWriterWrapper
	own         func(cookie string) bool
	auth        *authState
	wroteHeader bool
}

// WriteHeader implements http.ResponseWriter.
func (w *responseWriter) WriteHeader(status int) {
	// 1xx answers come before the one that counts; 101 is the one.
	if !w.wroteHeader && (status >= 200 || status == http.StatusSwitchingProtocols) {
		w.wroteHeader = true
		w.adjust(w.Header())
	}
	w.ResponseWriter.WriteHeader(status)
}

// Write implements http.ResponseWriter.
func (w *responseWriter) Write(p []byte) (int, error) {
	if !w.wroteHeader {
		w.WriteHeader(http.StatusOK)
	}
	return w.ResponseWriter.Write(p)
}

// FlushError implements what http.ResponseController looks for. Flushing
// writes the headers, too.
func (w *responseWriter) FlushError() error {
	if !w.wroteHeader {
		w.WriteHeader(http.StatusOK)
	}
	return http.NewResponseController(w.ResponseWriter).Flush()
}

// ReadFrom implements io.ReaderFrom, by which the server may copy without a
// buffer.
func (w *responseWriter) ReadFrom(r io.Reader) (int64, error) {
	if !w.wroteHeader {
		w.WriteHeader(http.StatusOK)
	}
	return w.ResponseWriterWrapper.ReadFrom(r)
}

func (w *responseWriter) adjust(h http.Header) {
	written := w.auth.root.written
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
		h["Cache-Control"] = []string{"private, no-store"}
		if !slices.Contains(h["Vary"], "Cookie") {
			h.Add("Vary", "Cookie")
		}
	case w.auth.session != nil && h["Cache-Control"] == nil && h["Expires"] == nil:
		h["Cache-Control"] = []string{"private"}
	}
}
