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
	own           func(cookie string) bool
	keep          []string // Set-Cookie lines that are our own
	authenticated bool
	wroteHeader   bool
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
	if lines := h["Set-Cookie"]; len(lines) > len(w.keep) {
		h["Set-Cookie"] = slices.DeleteFunc(lines, func(line string) bool {
			name, _, _ := strings.Cut(line, "=")
			return w.own(strings.TrimSpace(name)) && !slices.Contains(w.keep, line)
		})
		if len(h["Set-Cookie"]) == 0 {
			delete(h, "Set-Cookie")
		}
	}
	switch {
	case len(w.keep) > 0:
		h["Cache-Control"] = []string{"private, no-store"}
		h.Add("Vary", "Cookie")
	case w.authenticated && h["Cache-Control"] == nil && h["Expires"] == nil:
		h["Cache-Control"] = []string{"private"}
	}
}
