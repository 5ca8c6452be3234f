package caddyauth

import (
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// endpoint is a path of ours: it ends there, whatever the policy says.
type endpoint struct {
	methods []string
	serve   func(*relyingParty, http.ResponseWriter, *http.Request) error
	secret  bool // the callback: its URL holds secrets, which must not get into Caddy's logs
	once    bool // it changes something, and must not be had again by whoever has recorded the request
}

// endpoints are the paths that a provider answers itself. They are compared
// with the original URL, exactly: "/oauth2/Callback", "/oauth2/callback/" and
// "/oauth2/%63allback" are paths of the application, and protected (A31).
type endpoints struct {
	prefix   string
	callback string
	verify   string // of handlers that have it on
	verifies bool   // whether any has; else it is the application's
	byPath   map[string]endpoint
}

// The endpoints below the prefix. The callback may be elsewhere.
const (
	pathCallback  = "/callback"
	pathLogin     = "/login"
	pathLogout    = "/logout"
	pathSession   = "/session"
	pathSignedOut = "/signed-out"
	pathError     = "/error"
	pathReplay    = "/replay"

	pathBackChannel  = "/backchannel-logout"
	pathFrontChannel = "/frontchannel-logout"
)

// endpointPaths gives the endpoints' paths for a provider: in the Caddyfile
// they get a route of their own, so that a matcher of the directive does not
// hide them.
func (p *Provider) endpointPaths(name string) (prefix, callback string, all []string) {
	prefix = p.Prefix
	if prefix == "" {
		prefix = defaultPrefix
		if name != "" && name != defaultProvider {
			prefix += "/" + name
		}
	}
	callback = p.CallbackPath
	if callback == "" {
		callback = prefix + pathCallback
	}
	all = []string{callback, prefix + pathLogin, prefix + pathLogout, prefix + pathSession, prefix + pathSignedOut, prefix + pathError, prefix + pathReplay}
	if p.Logout.takesLogouts() {
		all = append(all, prefix+pathBackChannel, prefix+pathFrontChannel)
	}
	return prefix, callback, all
}

func newEndpoints(p *Provider, name string) endpoints {
	prefix, callback, _ := p.endpointPaths(name)
	get := []string{http.MethodGet}
	e := endpoints{prefix: prefix, callback: callback, verify: prefix + pathVerify, byPath: map[string]endpoint{
		callback:               {methods: get, serve: serveCallback, secret: true, once: true},
		prefix + pathLogin:     {methods: get, serve: (*relyingParty).serveLogin},
		prefix + pathLogout:    {methods: []string{http.MethodGet, http.MethodPost}, serve: (*relyingParty).serveLogout, once: true},
		prefix + pathSession:   {methods: get, serve: (*relyingParty).serveSession},
		prefix + pathSignedOut: {methods: get, serve: (*relyingParty).serveSignedOut},
		prefix + pathError:     {methods: get, serve: (*relyingParty).serveError},
		prefix + pathReplay:    {methods: get, serve: (*relyingParty).serveReplay},
	}}
	if p.Logout.takesLogouts() {
		e.byPath[prefix+pathBackChannel] = endpoint{methods: []string{http.MethodPost}, serve: (*relyingParty).serveBackChannelLogout, once: true}
		e.byPath[prefix+pathFrontChannel] = endpoint{methods: get, serve: (*relyingParty).serveFrontChannelLogout, once: true}
	}
	return e
}

// serveCallback never raises an error: Caddy would log it with its URL.
func serveCallback(p *relyingParty, w http.ResponseWriter, r *http.Request) error {
	p.callback(w, r)
	return nil
}

// find returns the endpoint that a request is for.
func (e *endpoints) find(u *url.URL) (endpoint, bool) {
	if u.Path != e.callback && !strings.HasPrefix(u.Path, e.prefix) || u.RawPath != "" {
		return endpoint{}, false
	}
	found, ok := e.byPath[u.Path]
	return found, ok
}

// isVerify reports whether a request is for the endpoint that a proxy in front
// asks.
func (e *endpoints) isVerify(u *url.URL) bool { return u.Path == e.verify && u.RawPath == "" }

// has reports whether a path is an endpoint's.
func (e *endpoints) has(path string) bool {
	_, ok := e.byPath[path]
	return ok || e.verifies && path == e.verify
}

// serveEndpoint answers a request for one of our endpoints.
func (p *relyingParty) serveEndpoint(e endpoint, w http.ResponseWriter, r *http.Request) error {
	authored(w.Header())
	if e.secret {
		skipAccessLog(r)
	}
	if e.once && isEarly(r) { // RFC 8470 section 5.2: the browser repeats it by itself
		if e.secret { // no error, whose log line would hold the URL
			w.WriteHeader(http.StatusTooEarly)
			return nil
		}
		return p.fail(w, r, failure{reason: reasonTooEarly, err: errEarlyData})
	}
	posted := e.secret && r.Method == http.MethodPost && p.app.expectsForm(p.site.endpoints.callback)
	if !posted && !slices.Contains(e.methods, r.Method) {
		w.Header().Set("Allow", strings.Join(e.methods, ", "))
		if e.secret { // and no error, whose log line would hold the URL
			w.WriteHeader(http.StatusMethodNotAllowed)
			return nil
		}
		return p.fail(w, r, failure{reason: reasonMethod})
	}
	return e.serve(p, w, r)
}

// authored sets what every answer of ours carries: it is nobody's business to
// keep it, to frame it, or to guess what it is.
func authored(h http.Header) {
	h.Set("Cache-Control", "private, no-store")
	varyCookie(h)
	h.Set("Referrer-Policy", "no-referrer")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("X-Frame-Options", "DENY")
	h.Set("Content-Security-Policy", pagePolicy)
}

func varyCookie(h http.Header) {
	if !slices.Contains(h["Vary"], "Cookie") {
		h.Add("Vary", "Cookie")
	}
}

// redirect sends the browser on. The location is one that we built; it is
// set as it is, for http.Redirect would clean its path into something else
// (F18). 303 makes a GET of any method, and never repeats a body elsewhere
// (R17).
func redirect(w http.ResponseWriter, status int, location string) {
	w.Header().Set("Location", location)
	w.Header().Set("Content-Length", "0")
	w.WriteHeader(status)
}

// skipAccessLog keeps a request out of Caddy's access log, whose line would
// hold the URL with code and state, or the Location with the state (F20). Who
// calls it logs a line of its own.
func skipAccessLog(r *http.Request) {
	caddyhttp.SetVar(r.Context(), caddyhttp.LogSkipVar, true)
}
