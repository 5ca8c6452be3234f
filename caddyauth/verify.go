package caddyauth

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"

	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// Another proxy may stand in front, and ask us of each request whether it may
// pass: nginx by auth_request, Traefik by forwardAuth, another Caddy by
// forward_auth. It gets what the policy of this route makes of the request,
// told from the headers of the question. What would go upstream stands in the
// answer's headers.

// VerifyConfig has a proxy in front ask for its requests.
type VerifyConfig struct {
	// Whether a proxy in front may ask, at `<prefix>/verify`, what this handler
	// makes of a request: 204 with `Authorization` and the identity headers to
	// send upstream; 401 with where to log in; 403. Only Caddy's
	// `trusted_proxies` get such an answer. What the request is, the proxy says in
	// `X-Forwarded-Method`, `X-Forwarded-Uri` and so on. Which requests need no
	// session is the proxy's to decide: `bypass` does not count. With
	// `unauthorized redirect`, a navigation gets 302 to the login in place of 401.
	// Default: no.
	Verify bool `json:"verify,omitempty"`
}

const pathVerify = "/verify"

func parseVerify(p *parser) (err error) {
	p.handler.Verify, err = p.onOff("verify")
	return err
}

// newVerifier makes of a handler that is provisioned the one that judges for
// the proxy in front: by the same policy, but that nothing is bypassed. The
// URL of such a request is what a client made the proxy say.
func (h *Handler) newVerifier() *Handler {
	if !h.Verify {
		return nil
	}
	h.party.site.endpoints.verifies = true
	v := *h
	v.bypass, v.verifying = bypass{}, true
	v.ReplayPosts = 0 // the body is the proxy's
	return &v
}

// verifyOnly is a handler's policy for the endpoint alone.
func (h *Handler) verifyOnly() *Handler {
	only := *h
	only.EndpointsOnly, only.BypassConfig = true, BypassConfig{}
	return &only
}

// oneVerify refuses a second handler for the same endpoint on a site: one of
// both policies would never count.
func (p *parser) oneVerify(d declared, directive caddyfile.Token) error {
	site, ok := siteOf(*p.helper)
	if !p.handler.Verify || !ok {
		return nil
	}
	prefix, _, _ := d.cfg.endpointPaths(d.name)
	claims := p.helper.State[claimsKey].(map[string]siteClaims)[site] // collisions made it
	want := "verify at " + prefix + pathVerify
	if taken, ok := claims[want]; ok {
		return p.locate(misconfigured("verify", "is on already in the pkce_auth on line %d, whose policy is that of %s: leave it out here", taken.line, prefix+pathVerify), directive)
	}
	claims[want] = claim{line: directive.Line}
	return nil
}

// serveVerify answers the proxy in front. The request is the question, whose
// headers are those of the client's, and whose body nobody reads.
func (h *Handler) serveVerify(w http.ResponseWriter, r *http.Request) error {
	authored(w.Header())
	asked, known, unasked := r, false, (*failure)(nil)
	switch {
	case r.Method != http.MethodGet:
		w.Header().Set("Allow", http.MethodGet)
		unasked = &failure{reason: reasonMethod}
	case !fromTrustedProxy(r):
		unasked = &failure{reason: reasonUntrusted, err: errors.New("who asks is none of the trusted_proxies")}
	default:
		asked, known = askedAbout(r)
	}
	a := h.enter(asked)
	a.vague = !known
	var err error
	if unasked != nil {
		err = h.party.fail(w, r, *unasked)
	} else {
		err = h.serve(w, asked, a, caddyhttp.HandlerFunc(h.vouch))
	}
	if err != nil { // the site's error routes run with the same headers
		h.hideCookies(asked, a)
	}
	return err
}

// askedAbout is the request that the proxy asks about, as far as policy is
// concerned. What the proxy did not say, or what it says in two ways because
// it passed on a client's word as well, is not known: the method, then, is that
// of no navigation and of no safe request, and the URL that of the start page;
// and no expression of a policy is true of it.
func askedAbout(r *http.Request) (asked *http.Request, known bool) {
	method := agreedOn(r.Header, func(text string) string { return text }, "X-Forwarded-Method", "X-Original-Method")
	target := &url.URL{Path: "/"}
	if text := agreedOn(r.Header, pathAndQuery, "X-Forwarded-Uri", "X-Original-Uri", "X-Original-Url"); text != "" {
		target, _ = url.ParseRequestURI(text) // pathAndQuery could, too
		known = method != ""
	}
	if method == "" {
		method = "UNKNOWN"
	}
	original := http.Request{Method: method, RemoteAddr: r.RemoteAddr, RequestURI: target.RequestURI(), URL: target}
	asked = r.WithContext(context.WithValue(r.Context(), caddyhttp.OriginalRequestCtxKey, original))
	asked.Method, asked.RequestURI, asked.URL = method, original.RequestURI, target
	asked.Body, asked.ContentLength, asked.Trailer = http.NoBody, 0, nil
	if r.Header["Sec-Websocket-Key"] != nil { // what upgrades, proxies keep to themselves
		asked.Header["Upgrade"] = []string{"websocket"}
	}
	return asked, known
}

// agreedOn returns what all of the headers that are there say, as it is read;
// empty when they differ, or say nothing that can be read.
func agreedOn(h http.Header, read func(string) string, names ...string) (said string) {
	first := true
	for _, name := range names {
		for _, line := range h[name] {
			text := read(line)
			if text == "" || !first && text != said {
				return ""
			}
			said, first = text, false
		}
	}
	return said
}

// pathAndQuery reads a request's target, which may be a path or a whole URL;
// empty: it is neither.
func pathAndQuery(text string) string {
	u, err := url.ParseRequestURI(text)
	if err != nil || u.Opaque != "" || !strings.HasPrefix(u.Path, "/") {
		return ""
	}
	target := u.EscapedPath()
	if strings.HasPrefix(target, "//") { // would be read as a host
		return ""
	}
	if u.RawQuery != "" {
		target += "?" + u.RawQuery
	}
	return target
}

// vouch is what stands in the upstream's place: it hands all that would go there
// to the proxy in front. No identity header is left out, for some proxies set
// on their request only those that they get, and pass the client's own
// otherwise (A13).
func (h *Handler) vouch(w http.ResponseWriter, r *http.Request) error {
	header := w.Header()
	tell := func(name string) {
		if header[name] = r.Header[name]; len(header[name]) == 0 {
			header[name] = []string{""}
		}
	}
	tell("Authorization")
	for _, name := range h.party.headers.names {
		tell(name)
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

// loginURLHeader tells the proxy in front where to send a browser that has
// navigated, as an absolute URL that leads back. It is not there for requests
// that a redirect would break.
const loginURLHeader = "X-Login-Url"

// refuse answers a request that may not pass as it is: 401, with where to log in,
// or what the proxy in front can make a login of.
func (h *Handler) refuse(w http.ResponseWriter, r *http.Request, a *authState, f facts) error {
	p := h.party
	a.result = resultDenied
	h.keepSession(w, r, a, f)
	if h.verifying && f.kind == navigation && f.unauthorized != "401" && (f.session == nil || f.again) {
		at, err := p.site.origins.of(r)
		if err != nil {
			return p.fail(w, r, failure{reason: reasonMisdirected, err: fmt.Errorf("asked by a proxy: %w", err)})
		}
		login := p.loginURL(r, a.loginFor("").ask, p.requested(r, at))
		if f.unauthorized == "redirect" {
			authored(w.Header())
			redirect(w, http.StatusFound, login)
			return nil
		}
		w.Header().Set(loginURLHeader, login)
	}
	if f.short != nil {
		return p.challenge(w, r, a.ask())
	}
	return p.refuse(w, r)
}
