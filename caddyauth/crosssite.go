package caddyauth

import (
	"errors"
	"net/http"
	"slices"
)

// What other sites' pages, and other people's recordings, can make of a session
// that is not theirs.

// errCrossSite says that a page of a foreign origin has made a request.
var errCrossSite = errors.New("a page of a foreign origin makes the request with the user's session")

// errEarlyData says that a request could be somebody's recording of it.
var errEarlyData = errors.New("the request came in early data, which can be replayed")

// crossSite refuses what foreign pages make a browser send along with its
// session. SameSite is not enough: it lets every page of a neighbour below the
// same registrable domain in, and may be set to none.
type crossSite struct {
	off     bool
	trusted []string // origins, as browsers write them
}

func newCrossSite(c *AdmissionConfig) (crossSite, error) {
	guard := crossSite{off: c.CSRF == "off"}
	switch {
	case c.CSRF != "" && c.CSRF != "on" && c.CSRF != "off":
		return guard, misconfigured("csrf", "%q is none of on, off, and origins to trust, as https://admin.example.com", c.CSRF)
	case guard.off && len(c.TrustedOrigins) > 0:
		return guard, misconfigured("csrf", "off trusts every origin already: leave off or the origins out")
	}
	for _, text := range c.TrustedOrigins {
		at, err := parseOrigin(text)
		if err == nil && !validHost(at.host) {
			err = errors.New("has a host that no browser sends: write an internationalized name as xn--…, and no wildcard")
		}
		if err != nil {
			return guard, misconfigured("csrf", "%q %v", text, err)
		}
		if slices.Contains(guard.trusted, at.String()) {
			return guard, misconfigured("csrf", "%s is given twice", at)
		}
		guard.trusted = append(guard.trusted, at.String())
	}
	return guard, nil
}

// forged reports whether a foreign page makes a request that is not safe. What
// says neither Sec-Fetch-Site nor Origin comes from no page: browsers send one of
// them with every unsafe request, and Origin with every WebSocket's (RFC 6455
// section 4.1); no page can leave them out.
func (c *crossSite) forged(r *http.Request, ours origins) bool {
	if c.off {
		return false
	}
	from, hasOrigin := r.Header["Origin"]
	if len(from) == 1 && slices.Contains(c.trusted, from[0]) {
		return false
	}
	if sites, ok := r.Header["Sec-Fetch-Site"]; ok {
		return slices.ContainsFunc(sites, func(site string) bool { return site != "same-origin" && site != "none" })
	}
	if !hasOrigin {
		return false
	}
	at, err := ours.of(r)
	return err != nil || len(from) != 1 || from[0] != at.String() // "null" is nobody's
}

// isSafe reports whether a request asks for nothing to be changed (RFC 9110
// section 9.2.1), and for no connection that goes both ways.
func isSafe(r *http.Request) bool {
	switch r.Method {
	case http.MethodGet, http.MethodHead, http.MethodOptions, http.MethodTrace:
		return !isUpgrade(r)
	default:
		return false
	}
}

// isEarly reports whether a request came, or may have come, in TLS early data.
// Anybody who has recorded it can send it again. A proxy in front says so in
// Early-Data, of which anything counts as "1" (RFC 8470 section 5.1); who says
// so without need only has to repeat the request.
func isEarly(r *http.Request) bool {
	_, said := r.Header["Early-Data"]
	return said || r.TLS != nil && !r.TLS.HandshakeComplete
}
