package caddyauth

import (
	"net/http"
	"net/url"
	"strings"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// maxReturnTo bounds a return URL. One that is longer loses its query; if
// that is not enough, the start page has to do.
const maxReturnTo = 2048

// returnTo decides whether a URL is ours to return to after a login or a
// logout, and gives its path and query. Anything else gives "/". The result
// begins with one slash at least and is meant to stand behind our origin,
// never alone: "https://app.test" + "//evil.test" is still app.test, where
// "//evil.test" alone would not be.
//
// It takes a path, or an absolute URL of exactly our origin. What browsers
// and servers may read differently is refused: backslashes, control
// characters, spaces, user information, opaque URLs. A fragment is dropped.
// So are our own endpoints, but for the page that offers a kept form: to return
// to a logout is no return (A01 to A12).
func (p *relyingParty) returnTo(text string, at origin) string {
	if strings.ContainsFunc(text, func(r rune) bool { return r <= ' ' || r == 0x7f || r == '\\' }) {
		return "/"
	}
	u, err := url.Parse(text)
	if err != nil || u.User != nil || u.Opaque != "" {
		return "/"
	}
	if (u.Scheme != "" || u.Host != "") && newOrigin(u.Scheme, u.Host) != at {
		return "/"
	}
	path := u.EscapedPath()
	if !strings.HasPrefix(path, "/") || p.site.endpoints.has(u.Path) && u.Path != p.site.endpoints.prefix+pathReplay {
		return "/"
	}
	return shorten(path, u.RawQuery, maxReturnTo)
}

// shorten puts path and query together, in ASCII, within n bytes: without the
// query if it must be, and "/" if not even that fits.
func shorten(path, query string, n int) string {
	path, query = escapeNonASCII(path), escapeNonASCII(query)
	switch {
	case query != "" && len(path)+1+len(query) <= n:
		return path + "?" + query
	case len(path) <= n:
		return path
	default:
		return "/"
	}
}

// withoutQueryBeyond shortens what returnTo gave.
func withoutQueryBeyond(target string, n int) string {
	path, query, _ := strings.Cut(target, "?")
	return shorten(path, query, n)
}

// escapeNonASCII percent-encodes what a header may not hold.
func escapeNonASCII(s string) string {
	const hex = "0123456789ABCDEF"
	var b strings.Builder
	for i := range len(s) {
		if c := s[i]; c > ' ' && c < 0x7f {
			b.WriteByte(c)
		} else {
			b.WriteByte('%')
			b.WriteByte(hex[c>>4])
			b.WriteByte(hex[c&15])
		}
	}
	return b.String()
}

// originalURL is the URL that the client asked for, before try_files, uri and
// handle_path rewrote it (K5).
func originalURL(r *http.Request) *url.URL {
	if original, ok := r.Context().Value(caddyhttp.OriginalRequestCtxKey).(http.Request); ok && original.URL != nil {
		return original.URL
	}
	return r.URL
}

// requested is the return URL of a request that must log in: its own.
func (p *relyingParty) requested(r *http.Request, at origin) string {
	u := originalURL(r)
	target := at.String() + u.EscapedPath()
	if u.RawQuery != "" { // browsers send a backslash there as it is
		target += "?" + strings.ReplaceAll(u.RawQuery, `\`, "%5C")
	}
	return p.returnTo(target, at)
}

// pageOf is where a login leads from a page that refuses a request: to the URL
// that was asked for, but of a form to the page that it is on, for the URL that
// it is sent to may show nothing.
func (p *relyingParty) pageOf(r *http.Request, at origin) string {
	if from := r.Header.Get("Referer"); from != "" && isSubmitted(r) {
		return p.returnTo(from, at)
	}
	return p.requested(r, at)
}
