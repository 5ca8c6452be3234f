package caddyauth

import (
	"net/http"
	"strings"
)

// requestKind is what a browser is up to.
type requestKind int

const (
	// background is a script's fetch, an image, a frame, a form that is posted,
	// a program: a redirect to the provider would lead a script into a CORS
	// error and an image nowhere, and each would leave login state behind.
	background requestKind = iota

	// navigation is going to a page in the top-level window: only then does a
	// redirect to the provider lead a person to a login.
	navigation

	// prefetch is loading a page in the hope that somebody will want it.
	// Nobody does yet, so nobody needs to log in.
	prefetch
)

// kindOf tells the kinds of requests apart. Browsers say it themselves, in
// the headers of Fetch Metadata, which no script can set. From those that do
// not send them, a GET that accepts HTML and shows no sign of a script has to
// do.
func kindOf(r *http.Request) requestKind {
	switch {
	case isPrefetch(r):
		return prefetch
	case r.Method != http.MethodGet || isUpgrade(r):
		return background
	}
	if mode := r.Header.Get("Sec-Fetch-Mode"); mode != "" {
		if dest := r.Header.Get("Sec-Fetch-Dest"); mode == "navigate" && (dest == "document" || dest == "") {
			return navigation
		}
		return background
	}
	if wantsHTML(r) && !strings.HasSuffix(originalURL(r).Path, "/favicon.ico") {
		return navigation
	}
	return background
}

func isPrefetch(r *http.Request) bool {
	for _, name := range []string{"Sec-Purpose", "Purpose", "X-Purpose", "X-Moz"} {
		for _, value := range r.Header[name] {
			if value = strings.ToLower(value); strings.Contains(value, "prefetch") || strings.Contains(value, "prerender") || value == "preview" {
				return true
			}
		}
	}
	return r.Header.Get("Next-Router-Prefetch") != "" || r.Header.Get("X-Middleware-Prefetch") != ""
}

// isUpgrade reports whether a request asks for a WebSocket or another
// protocol, over HTTP/1.1 or as an extended CONNECT.
func isUpgrade(r *http.Request) bool {
	return len(r.Header["Upgrade"]) > 0 || len(r.Header[":protocol"]) > 0 || r.Method == http.MethodConnect
}

// acceptsHTML reports whether a client asks for a page by name. "*/*" is what
// programs send.
func acceptsHTML(r *http.Request) bool {
	for _, value := range r.Header["Accept"] {
		for part := range strings.SplitSeq(value, ",") {
			mediaType, _, _ := strings.Cut(part, ";")
			switch strings.ToLower(strings.TrimSpace(mediaType)) {
			case "text/html", "application/xhtml+xml":
				return true
			}
		}
	}
	return false
}

// fromOwnOrigin reports whether a request was made by a page of this site: by
// Sec-Fetch-Site, else by Origin. A request that says neither, and one typed
// into the address bar or clicked in a mail, is not.
func fromOwnOrigin(r *http.Request, at origin) bool {
	if site := r.Header.Get("Sec-Fetch-Site"); site != "" {
		return site == "same-origin"
	}
	own := r.Header.Get("Origin")
	return own != "" && own == at.String()
}

// isSubmitted reports whether a browser posts a form, and shows the answer to a
// person: by Fetch Metadata, else by what else tells a page from a script.
func isSubmitted(r *http.Request) bool {
	if r.Method != http.MethodPost {
		return false
	}
	if mode := r.Header.Get("Sec-Fetch-Mode"); mode != "" {
		return mode == "navigate" && r.Header.Get("Sec-Fetch-Dest") == "document"
	}
	return wantsHTML(r)
}

// wantsHTML tells a page from a script where a browser sends no Fetch Metadata.
func wantsHTML(r *http.Request) bool {
	return acceptsHTML(r) && r.Header.Get("X-Requested-With") == ""
}
