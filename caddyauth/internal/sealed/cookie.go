package sealed

import (
	"net/http"
	"strings"
	"time"
)

// MaxCookieSize bounds name and value of one cookie together. RFC 6265bis
// section 5.5 lets browsers drop what is over 4096 octets; a few bytes stay
// free for those that also count the "=".
const MaxCookieSize = 4090

// Cookie is the shape of a cookie of ours. HttpOnly it is always.
type Cookie struct {
	Name     string
	Path     string
	Domain   string // empty: this host only
	SameSite http.SameSite
	Secure   bool
}

// Set adds the cookie with a value that must consist of cookie octets, as
// base64url does. It lives for maxAge, rounded up to whole seconds.
func (c Cookie) Set(h http.Header, value string, maxAge time.Duration) {
	c.add(h, value, max(1, int((maxAge+time.Second-1)/time.Second)))
}

// Delete tells the browser to drop the cookie. It repeats every attribute
// the cookie was set with: RFC 6265bis lets a browser ignore a deletion
// without the path, the domain or the Secure that its name's prefix asks for.
func (c Cookie) Delete(h http.Header) { c.add(h, "", -1) }

func (c Cookie) add(h http.Header, value string, maxAge int) {
	cookie := http.Cookie{ //nolint:gosec // Secure is missing on plain-http loopback only
		Name: c.Name, Value: value, Path: c.Path, Domain: c.Domain, MaxAge: maxAge,
		Secure: c.Secure, HttpOnly: true, SameSite: c.SameSite,
	}
	h.Add("Set-Cookie", cookie.String())
}

// Value returns the value of the n-th cookie called name, counted from 0, in
// the Cookie header lines of a request. Browsers send several of one name
// when a sibling domain or another path has planted one (A62); which of them
// is ours only opening tells. It allocates nothing.
func Value(lines []string, name string, n int) (string, bool) {
	for _, line := range lines {
		for line != "" {
			var pair string
			pair, line, _ = strings.Cut(line, ";")
			value, ok := valueOf(pair, name)
			if !ok {
				continue
			}
			if n == 0 {
				return value, true
			}
			n--
		}
	}
	return "", false
}

// HasValue reports whether one of the cookies called name has the value.
func HasValue(lines []string, name, value string) bool {
	for n := range MaxTries {
		got, ok := Value(lines, name, n)
		if !ok || got == value {
			return ok
		}
	}
	return false
}

func valueOf(pair, name string) (string, bool) {
	pair = trimSpace(pair)
	if len(pair) <= len(name) || pair[len(name)] != '=' || pair[:len(name)] != name {
		return "", false
	}
	return pair[len(name)+1:], true
}

// Names calls yield with the name and the size, name and value together, of
// each cookie in the header lines.
func Names(lines []string, yield func(name string, size int)) {
	for _, line := range lines {
		for line != "" {
			var pair string
			pair, line, _ = strings.Cut(line, ";")
			pair = trimSpace(pair)
			if name, _, ok := strings.Cut(pair, "="); ok && name != "" {
				yield(trimSpace(name), len(pair)-1)
			}
		}
	}
}

// Strip returns the Cookie header lines without the cookies whose names own
// claims, and with all others as they are, byte for byte. It returns nil when
// nothing is left, and does not change the lines it is given.
func Strip(lines []string, own func(name string) bool) []string {
	if len(lines) == 1 { // as nearly always, HTTP/2 included: net/http joins its crumbs
		switch line := stripLine(lines[0], own); line {
		case "":
			return nil
		case lines[0]:
			return lines
		default:
			return []string{line}
		}
	}
	var kept []string
	for _, line := range lines {
		if line = stripLine(line, own); line != "" {
			kept = append(kept, line)
		}
	}
	return kept
}

// stripLine copies nothing as long as what stays is one piece of the line,
// which it is for all but the oddest requests.
func stripLine(line string, own func(name string) bool) string {
	kept := ""
	from := 0 // where the piece under way begins
	for at := 0; at < len(line); {
		end, next := len(line), len(line)
		if i := strings.IndexByte(line[at:], ';'); i >= 0 {
			end, next = at+i, at+i+1
		}
		if name, _, ok := strings.Cut(line[at:end], "="); ok && own(trimSpace(name)) {
			if from < at {
				kept = join(kept, line[from:at-1])
			}
			from = next
		}
		at = next
	}
	switch {
	case from == 0:
		return line
	case from < len(line):
		kept = join(kept, line[from:])
	}
	return trimSpace(kept)
}

func join(a, b string) string {
	if a == "" {
		return b
	}
	return a + ";" + b
}

// trimSpace trims what RFC 6265 lets stand around a pair: spaces and tabs.
// It must not trim more: strings.TrimSpace would turn a cookie whose name
// begins with U+2000 into one of ours (A63).
func trimSpace(s string) string {
	for s != "" && isSpace(s[0]) {
		s = s[1:]
	}
	for s != "" && isSpace(s[len(s)-1]) {
		s = s[:len(s)-1]
	}
	return s
}

func isSpace(c byte) bool { return c == ' ' || c == '\t' }
