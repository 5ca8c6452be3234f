package caddyauth

import (
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/pkce-auth/caddy-pkce-auth/caddyauth/internal/rp"
)

// origin is the origin of a site as browsers see it. The host is in lower
// case and has no port where the scheme's own is meant.
type origin struct {
	scheme string
	host   string
}

func (o origin) String() string { return o.scheme + "://" + o.host }

// secure reports whether cookies can be Secure there.
func (o origin) secure() bool { return o.scheme == "https" }

// parseOrigin reads an origin that an operator wrote: https, or http for a
// loopback name, a host, perhaps a port, nothing behind it but one slash.
func parseOrigin(text string) (origin, error) {
	u, err := url.Parse(text)
	switch {
	case err != nil || u.Host == "" || u.Opaque != "":
		return origin{}, errors.New("is not an origin: write it as https://app.example.com")
	case u.User != nil || u.Path != "" && u.Path != "/" || u.RawQuery != "" || u.ForceQuery || strings.Contains(text, "#"):
		return origin{}, errors.New("is more than an origin: leave out what follows the host; endpoints below a path are what prefix is for")
	case u.Scheme != "https" && u.Scheme != "http":
		return origin{}, errors.New("must be https")
	case u.Scheme == "http" && !rp.IsLoopback(u.Hostname()):
		return origin{}, errors.New("must be https: over http, anybody on the way can read the session")
	}
	return newOrigin(u.Scheme, u.Host), nil
}

func newOrigin(scheme, host string) origin {
	host = strings.ToLower(host)
	switch scheme {
	case "https":
		host = strings.TrimSuffix(host, ":443")
	case "http":
		host = strings.TrimSuffix(host, ":80")
	}
	return origin{scheme: scheme, host: host}
}

// hostname takes the port off a Host header.
func hostname(host string) string {
	if i := strings.LastIndexByte(host, ':'); i > strings.LastIndexByte(host, ']') {
		return host[:i]
	}
	return host
}

// origins tells which origin a request was sent to.
type origins struct {
	public []origin // public_url; empty: tell from the request
}

// errMisdirected says that the origin of a request cannot be relied on, or is
// not ours.
var errMisdirected = errors.New("origin not known")

// of returns the origin that the browser sees, for redirects and the redirect
// URI. It never takes the word of a header that anybody may send (A19, A20):
// with public_url, the host must be one of those; without, it must be the
// name that TLS was negotiated for, or a trusted proxy's word, or loopback.
func (o origins) of(r *http.Request) (origin, error) {
	host, proto := r.Host, ""
	if fromTrustedProxy(r) {
		if forwarded := lastForwarded(r, "X-Forwarded-Host"); forwarded != "" {
			host = forwarded
		}
		switch proto = lastForwarded(r, "X-Forwarded-Proto"); proto { // some say so of WebSockets
		case "wss":
			proto = "https"
		case "ws":
			proto = "http"
		}
	}
	if !validHost(host) {
		return origin{}, fmt.Errorf("%w: malformed host", errMisdirected)
	}
	if len(o.public) > 0 {
		for _, public := range o.public {
			if public == newOrigin(public.scheme, host) {
				return public, nil
			}
		}
		return origin{}, fmt.Errorf("%w: host %.100q is not that of a public_url", errMisdirected, host)
	}
	switch {
	case proto == "https" || proto == "http" && isLoopbackHost(host):
		return newOrigin(proto, host), nil
	case proto != "":
		return origin{}, fmt.Errorf("%w: a trusted proxy says that the browser uses %.10q", errMisdirected, proto)
	case r.TLS != nil && (strings.EqualFold(r.TLS.ServerName, hostname(host)) || isLoopbackHost(host)):
		return newOrigin("https", host), nil
	case r.TLS != nil:
		return origin{}, fmt.Errorf("%w: host %.100q is not the name in TLS, %.100q", errMisdirected, host, r.TLS.ServerName)
	case isLoopbackHost(host):
		return newOrigin("http", host), nil
	default:
		return origin{}, fmt.Errorf("%w: the request came over plain http", errMisdirected)
	}
}

// secure is the part of the answer that every request needs: whether the
// site's cookies are those of HTTPS. The second result is false when nobody
// can be logged in there.
func (o origins) secure(r *http.Request) (secure, ok bool) {
	if r.TLS != nil {
		return true, true
	}
	at, err := o.of(r)
	return at.secure(), err == nil
}

func fromTrustedProxy(r *http.Request) bool {
	trusted, _ := caddyhttp.GetVar(r.Context(), caddyhttp.TrustedProxyVarKey).(bool)
	return trusted
}

// lastForwarded gives the last value of a forwarding header: that of the
// proxy in front of us. Those before it may be the client's invention.
func lastForwarded(r *http.Request, name string) string {
	values := r.Header[name]
	if len(values) == 0 {
		return ""
	}
	last := values[len(values)-1]
	return strings.ToLower(strings.TrimSpace(last[strings.LastIndexByte(last, ',')+1:]))
}

// validHost reports whether a host can stand in a URL of ours as it is.
func validHost(host string) bool {
	if hostname(host) == "" || len(host) > 255 {
		return false
	}
	for i := range len(host) {
		c := host[i]
		if c != '.' && c != '-' && c != ':' && c != '[' && c != ']' && c != '_' &&
			(c < '0' || c > '9') && (c|0x20 < 'a' || c|0x20 > 'z') {
			return false
		}
	}
	return true
}
