package caddyauth

import (
	"fmt"
	"net/http"
	"net/url"
	"path"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// BypassConfig says which requests need no session. A session that is there is
// used all the same.
type BypassConfig struct {
	// Paths that pass without a session, compared case-sensitively; `*` as in
	// the `path` matcher. A session that is there is used all the same.
	BypassPaths []string `json:"bypass_paths,omitempty"`

	// Requests that pass without a session: those that match any of the sets.
	// Whatever the matcher, a path that servers may read differently does not
	// pass: `//`, `.` and `..` segments, `\`, and encoded dots, slashes,
	// backslashes and NULs.
	BypassRaw caddyhttp.RawMatcherSets `json:"bypass,omitempty" caddy:"namespace=http.matchers"`
}

func (c *BypassConfig) validate() error {
	for _, path := range c.BypassPaths {
		if err := checkBypassPath(path); err != nil {
			return misconfigured("bypass", "%v", err)
		}
	}
	for _, set := range c.BypassRaw {
		if len(set) == 0 {
			return misconfigured("bypass", "a matcher set without matchers would let every request pass")
		}
	}
	return nil
}

func (c *BypassConfig) load(ctx caddy.Context) (b bypass, err error) {
	b.paths = c.BypassPaths
	if len(c.BypassRaw) == 0 { // loading none would make a list that matches everything
		return b, nil
	}
	sets, err := ctx.LoadModule(c, "BypassRaw")
	if err == nil {
		err = b.matchers.FromInterface(sets)
	}
	if err != nil {
		return b, fmt.Errorf("bypass: %w", err)
	}
	return b, nil
}

// bypass says which requests pass without a session.
type bypass struct {
	paths    []string // as given: compared case-sensitively, with * as in Caddy
	matchers caddyhttp.MatcherSets
}

// matches reports whether a request passes. A path that servers may read
// differently never does, whatever matches it, and a matcher that fails
// counts as "no" (A23 to A26).
func (b *bypass) matches(r *http.Request) bool {
	if len(b.paths) == 0 && len(b.matchers) == 0 {
		return false
	}
	if ambiguousURL(r.URL) || ambiguousURL(originalURL(r)) {
		return false
	}
	for _, pattern := range b.paths {
		if matchPath(pattern, r.URL.Path) {
			return true
		}
	}
	if len(b.matchers) == 0 { // no sets at all would match everything
		return false
	}
	ok, err := b.matchers.AnyMatchWithError(r)
	return ok && err == nil
}

// matchPath compares a path with a pattern as Caddy's path matcher does,
// except that case counts: "*" at the end stands for any ending, elsewhere
// for any text without a slash.
func matchPath(pattern, requestPath string) bool {
	prefix, open := strings.CutSuffix(pattern, "*")
	if strings.ContainsAny(prefix, `*?[\`) {
		ok, err := path.Match(pattern, requestPath)
		return ok && err == nil
	}
	return requestPath == prefix || open && strings.HasPrefix(requestPath, prefix)
}

// ambiguousURL reports whether servers may see another path in a URL than the
// matchers do.
func ambiguousURL(u *url.URL) bool {
	if u.Opaque != "" || !strings.HasPrefix(u.Path, "/") { // "OPTIONS *", "GET x:http://host/path"
		return true
	}
	raw := u.RawPath
	if raw == "" {
		raw = u.Path
	}
	return ambiguousPath(raw) || u.RawPath != "" && ambiguousPath(u.Path) || strings.Contains(u.RawPath, "#")
}

// ambiguousSequences are what one server decodes and the next does not, each
// singly and doubly encoded: dot, slash, backslash, NUL.
var ambiguousSequences = []string{"%2e", "%2f", "%5c", "%00", "%252e", "%252f", "%255c", "%2500"}

func ambiguousPath(p string) bool {
	if strings.Contains(p, "//") || strings.ContainsAny(p, "\\\x00") {
		return true
	}
	if strings.Contains(p, "%") {
		lower := strings.ToLower(p)
		for _, sequence := range ambiguousSequences {
			if strings.Contains(lower, sequence) {
				return true
			}
		}
	}
	for segment := range strings.SplitSeq(p, "/") {
		name, _, _ := strings.Cut(segment, ";") // servers that know path parameters cut them off first
		if name == "." || name == ".." {
			return true
		}
	}
	return false
}

// checkBypassPath says whether a path can be bypassed.
func checkBypassPath(pattern string) error {
	switch {
	case strings.Contains(pattern, "*") && strings.Trim(pattern, "/*") == "":
		return fmt.Errorf("%q would let every request pass", pattern)
	case !strings.HasPrefix(pattern, "/"):
		return fmt.Errorf("%q must begin with a slash", pattern)
	case strings.ContainsAny(pattern, "{}"):
		return fmt.Errorf("%q: placeholders do not work here: use a matcher", pattern)
	case ambiguousPath(pattern):
		return fmt.Errorf("%q can never match: paths with //, dot segments, backslashes or encoded slashes do not pass", pattern)
	}
	if _, err := path.Match(pattern, "/"); err != nil {
		return fmt.Errorf("%q is not a pattern", pattern)
	}
	return nil
}
