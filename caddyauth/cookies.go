package caddyauth

import (
	"errors"
	"fmt"
	"net/http"
	"strings"

	"golang.org/x/net/http/httpguts"

	"github.com/pkce-auth/caddy-pkce-auth/caddyauth/internal/rp"
)

// Cookie name prefixes. Browsers that know them accept such a cookie only
// over HTTPS and from this very host, and with __Host-Http- only from an HTTP
// response, not from a script (draft-ietf-httpbis-layered-cookies); browsers
// that do not know __Host-Http- take it for a __Host- one.
const (
	prefixHostHTTP = "__Host-Http-"
	prefixHost     = "__Host-"
	prefixSecure   = "__Secure-"
	prefixHTTP     = "__Http-"
)

// cookieStem begins the names of all our cookies, without the prefix.
const cookieStem = "pkce_auth"

// maxCookieName leaves room for the values.
const maxCookieName = 100

// bare takes the browser-enforced prefix off a cookie's name.
func bare(name string) string {
	for _, prefix := range []string{prefixHostHTTP, prefixHost, prefixSecure, prefixHTTP} {
		if rest, ok := strings.CutPrefix(name, prefix); ok {
			return rest
		}
	}
	return name
}

func checkCookieName(name string, withDomain bool) error {
	switch {
	case !httpguts.ValidHeaderFieldName(name) || strings.Contains(name, "."):
		return fmt.Errorf("%q may hold letters, digits, - and _, nothing else", name)
	case len(name) > maxCookieName:
		return fmt.Errorf("is longer than %d characters", maxCookieName)
	case bare(name) == "":
		return fmt.Errorf("%q is a prefix without a name", name)
	case withDomain && strings.HasPrefix(name, prefixHost):
		return fmt.Errorf("browsers refuse a cookie called %s with a domain: leave out cookie_name or cookie_domain", name)
	default:
		return nil
	}
}

func checkCookieDomain(domain string) error {
	if strings.ContainsAny(domain, "/:*{} ") || !strings.Contains(strings.Trim(domain, "."), ".") {
		return errors.New("must be a domain that the site's host ends in, such as example.com")
	}
	return nil
}

// cookieNames are the names of a provider's cookies, over HTTPS and over
// plain HTTP on loopback, where the prefixes and Secure cannot be had.
type cookieNames struct {
	session string
	login   string // login states have a name each, which begins with this
	failure string // who may read the provider's words on the error page
	hint    string // the ID token, for the logout
	kept    string // what opens a form that is kept over a login
}

// names derives the names of a provider's cookies. The stem is "pkce_auth",
// with the provider's name behind it if it has one.
func (s *SessionConfig) names(stem string, secure bool) cookieNames {
	session := prefixHostHTTP + stem
	switch {
	case s != nil && s.CookieName != "":
		session = s.CookieName
		stem = bare(s.CookieName)
	case s != nil && s.CookieDomain != "":
		session = prefixSecure + stem
	}
	if !secure {
		return cookieNames{session: bare(session), login: stem + loginInfix, failure: stem + failureSuffix, hint: stem + hintSuffix, kept: stem + keptSuffix}
	}
	return cookieNames{
		session: session,
		login:   prefixHostHTTP + stem + loginInfix,
		failure: prefixHostHTTP + stem + failureSuffix,
		hint:    prefixSecure + stem + hintSuffix, // __Host- would ask for the path /
		kept:    prefixHostHTTP + stem + keptSuffix,
	}
}

const (
	loginInfix    = ".l" // between the stem and the rest of a login state's name
	failureSuffix = ".e"
	hintSuffix    = ".h"
	keptSuffix    = ".r"
)

func (s *SessionConfig) sameSite() http.SameSite {
	if s == nil {
		return http.SameSiteLaxMode
	}
	return map[string]http.SameSite{
		"":       http.SameSiteLaxMode,
		"lax":    http.SameSiteLaxMode,
		"strict": http.SameSiteStrictMode,
		"none":   http.SameSiteNoneMode,
	}[s.SameSite]
}

// ownCookies knows our cookies from others': those of every provider of the
// configuration, whichever guards the request. One function for sites over
// HTTPS, one for plain HTTP on loopback, where a custom name is another.
type ownCookies struct {
	https, http func(name string) bool
}

func (o ownCookies) at(secure bool) func(name string) bool {
	if secure {
		return o.https
	}
	return o.http
}

// isOwnCookie reports whether a cookie is one of ours. Whatever begins with
// pkce_auth is, with any prefix; of custom names, exactly those that are
// configured: an application may well call its own cookie "session".
func isOwnCookie(name string, custom []cookieNames) bool {
	stem := bare(name)
	if rest, ok := strings.CutPrefix(stem, cookieStem); ok && (rest == "" || rest[0] == '.' || rest[0] == '_') {
		return true
	}
	for _, own := range custom {
		if own.isSession(name) {
			return true
		}
		if strings.HasPrefix(name, own.login) || name == own.failure || name == own.hint || name == own.kept {
			return true
		}
	}
	return false
}

// isSession reports whether a cookie is the session's: the first, or one of
// the parts that follow it.
func (n cookieNames) isSession(name string) bool {
	rest, ok := strings.CutPrefix(name, n.session)
	return ok && (rest == "" || len(rest) == 2 && rest[0] == '.' && '1' <= rest[1] && rest[1] <= '9')
}

// isLoopbackHost reports whether a Host header names this machine.
func isLoopbackHost(host string) bool { return rp.IsLoopback(hostname(host)) }
