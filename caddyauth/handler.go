package caddyauth

import (
	"errors"
	"net/http"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/pkce-auth/caddy-pkce-auth/caddyauth/internal/rp"
	"github.com/pkce-auth/caddy-pkce-auth/caddyauth/internal/session"
)

func init() { caddy.RegisterModule(Handler{}) }

// Handler lets a request pass to the next handlers only with a session, and
// with the session's access token in its `Authorization` header. A browser
// without a session is sent to the OpenID Provider to log in; anything else
// gets 401.
//
// It also answers the provider's endpoints: the callback, `login`, `logout`,
// `session`, `signed-out`, `error` and `replay`, below the provider's prefix, and
// `verify` where that is on.
//
// Placeholder | Description
// ------------|---------------
// `{http.auth.user.id}` | The subject, the `sub` claim: of the ID token where there is one
// `{http.auth.user.*}` | Any claim of the ID token, and of the other sources that the provider's `claims` name, nested with dots (`realm_access.roles`) or by its literal name (`https://example.com/roles`). Lists print comma-separated and work with `in` in CEL
// `{http.auth.pkce_auth.result}` | `session`, `refreshed`, `bypass`, `anonymous` or `denied`
// `{http.auth.pkce_auth.provider}` | The provider's name
// `{http.auth.pkce_auth.login_url}` | Where to log in
// `{http.auth.pkce_auth.logout_url}` | Where to log out
// `{http.auth.pkce_auth.error}` | On error routes, why: a word of the closed list in docs/policy.md
//
// On requests that pass without a session they all have neutral values: empty
// text, or an empty list for claims that are not known to be text.
type Handler struct {
	// The provider, by its name in the app `pkce_auth`. Default: `default`.
	Provider string `json:"provider,omitempty"`

	// A provider of this handler's own, in place of a name.
	Inline *Provider `json:"inline,omitempty"`

	// Only answer the provider's endpoints, and let all other requests pass
	// untouched. The Caddyfile makes such a handler beside one that has a
	// matcher, which would hide the endpoints.
	EndpointsOnly bool `json:"endpoints_only,omitempty"`

	BypassConfig

	// What happens to a request without a session: `auto` sends a browser that
	// navigates to a page to the login, and gives 401 to anything else;
	// `redirect` sends everything to the login; `401` nothing; `pass` lets the
	// request through, without a token. Default: `auto`.
	Unauthorized string `json:"unauthorized,omitempty"`

	AdmissionConfig
	StepUpConfig
	UpstreamConfig
	ReplayConfig
	BearerConfig
	VerifyConfig

	route
}

// route is a handler's policy at work.
type route struct {
	party     *relyingParty
	bypass    bypass
	admission admission
	wanted    *rp.Ask // of a login; nil: nothing
	token     routeToken
	identity  []identityHeader
	own       ownCookies
	bearer    *rp.ResourceServer // what access tokens that clients bring are held to; nil: none is accepted
	logger    *zap.Logger

	verifier  *Handler // by whom a proxy in front is answered; nil: by nobody
	verifying bool     // whether this is one
}

// CaddyModule returns the Caddy module information.
func (Handler) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "http.handlers.pkce_auth",
		New: func() caddy.Module { return new(Handler) },
	}
}

// Provision finds the provider, and puts the policy to work.
func (h *Handler) Provision(ctx caddy.Context) error {
	h.logger = ctx.Logger()
	if err := h.validate(); err != nil {
		return err
	}
	app, err := h.findProvider(ctx)
	if err != nil {
		return err
	}
	if h.bypass, err = h.BypassConfig.load(ctx); err != nil {
		return err
	}
	if h.admission, err = h.AdmissionConfig.load(ctx); err != nil {
		return err
	}
	if err := h.checkOpenID(h.party.client.ExpectsIDToken()); err != nil {
		return err
	}
	h.wanted = h.rule()
	if h.bearer, err = h.BearerConfig.load(h.party.client); err != nil {
		return err
	}
	if err := h.provisionToken(); err != nil {
		return err
	}
	h.identity = newIdentityHeaders(h.HeaderUp)
	h.party.headers.add(h.identity)
	h.own = app.ownCookies()
	h.outliveSessions(h.party)
	h.verifier = h.newVerifier()
	return nil
}

func (h *Handler) findProvider(ctx caddy.Context) (*App, error) {
	module, err := ctx.App("pkce_auth")
	if err != nil {
		return nil, err
	}
	app := module.(*App)
	if h.Inline != nil {
		h.party, err = app.inline(ctx, h.Inline)
	} else {
		h.party, err = app.named(h.Provider)
	}
	return app, err
}

func (h *Handler) validate() error {
	if h.Provider != "" && h.Inline != nil {
		return errors.New("provider and inline contradict each other: leave one of them out")
	}
	switch h.Unauthorized {
	case "", "auto", "redirect", "401", "pass":
	default:
		return misconfigured("unauthorized", "%q is none of auto, redirect, 401, pass", h.Unauthorized)
	}
	return errors.Join(
		h.BypassConfig.validate(), h.AdmissionConfig.validate(), h.StepUpConfig.validate(),
		h.UpstreamConfig.validate(), h.BearerConfig.validate(), h.ReplayConfig.validate(h.Unauthorized),
	)
}

// ServeHTTP is the way of a request. The rest of the module hangs from here.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
	original := originalURL(r)
	opaque := original.Opaque != "" // "GET x:http://host/path": no matcher sees the path, the upstream does
	e, isEndpoint := h.party.site.endpoints.find(original)
	switch {
	case h.verifier != nil && !opaque && h.party.site.endpoints.isVerify(original):
		return h.verifier.serveVerify(w, r)
	case h.EndpointsOnly && !isEndpoint && !opaque:
		return next.ServeHTTP(w, r)
	}
	a := h.enter(r)
	var err error
	switch {
	case opaque:
		err = caddyhttp.Error(http.StatusBadRequest, errors.New("malformed request target"))
	case isEndpoint:
		err = h.party.serveEndpoint(e, w, r)
	default:
		err = h.serve(w, r, a, next)
	}
	if err != nil { // the site's error routes run with the same headers
		h.hideCookies(r, a)
	}
	return err
}

// serve is the way of a request that is not for us.
func (h *Handler) serve(w http.ResponseWriter, r *http.Request, a *authState, next caddyhttp.Handler) error {
	f, err := h.examine(r, a)
	if err != nil {
		h.party.deliver(w, a)
		return h.party.failSession(w, r, err)
	}
	d := decide(f)
	if h.ReplayPosts > 0 {
		var answered bool
		if d, answered, err = h.replay(w, r, f, d); answered {
			return err
		}
	}
	if c := h.logger.Check(zapcore.DebugLevel, "decided"); c != nil {
		c.Write(zap.Stringer("decision", d), zap.String("provider", h.party.name), zap.NamedError("session", errors.Join(f.why, f.short)))
	}
	switch d {
	case forward, forwardBypassed, forwardAnonymous:
		if d != forward && (f.session != nil || a.session != nil) {
			h.setAside(w, r, a, f.session)
			f.session = nil
		}
		a.session, a.result = f.session, d.result()
		if a.refreshed() {
			a.result = resultRefreshed
		}
		return h.forward(w, r, a, next)
	case login, keep:
		if h.verifying { // where to log in, the proxy in front is told
			return h.refuse(w, r, a, f)
		}
		return h.beginLogin(w, r, f, d)
	case forbid:
		h.setAside(w, r, a, f.session)
		return h.party.fail(w, r, *f.objection)
	case rejectToken:
		return h.refuseBearer(w, r, f.why)
	default:
		return h.refuse(w, r, a, f)
	}
}

// beginLogin sends the browser to the login that would let its request pass.
func (h *Handler) beginLogin(w http.ResponseWriter, r *http.Request, f facts, d decision) error {
	a, _ := h.party.authState(r)
	h.keepSession(w, r, a, f)
	if f := h.party.startLogin(w, r, a.loginFor(h.party.returnAfter(d))); f != nil {
		return h.party.fail(w, r, *f)
	}
	return nil
}

// facts are all that a decision hangs on.
type facts struct {
	unauthorized string // as configured
	bypassed     bool
	brought      bool             // an access token came with it, which decides alone
	session      *session.Session // that may be used now; nil: none
	why          error            // there is none
	admitted     bool             // whether the request may use the session
	objection    *failure         // why not, where no login helps
	short        error            // what its login lacks of what the route wants
	again        bool             // whether another login may help
	kind         requestKind      // where it makes a difference
	ended        *session.Session // until a moment ago, and this is a form that may be kept; else nil
}

// examine finds out what there is to know of a request. An error says that
// there may be a session, but that it cannot be told now.
func (h *Handler) examine(r *http.Request, a *authState) (f facts, err error) {
	f = facts{unauthorized: h.Unauthorized, bypassed: h.bypass.matches(r), kind: background}
	a.start = nil
	if err = h.examineBearer(r, a, &f); err == nil && !f.brought {
		err = h.examineSession(r, a, &f)
	}
	if err != nil {
		return f, err
	}
	if f.session != nil {
		f.objection = h.judge(r, a, f.session)
	}
	if h.wanted != nil && !f.bypassed && f.objection == nil {
		f.short, f.again = h.falls(a, f.session)
	}
	f.admitted = f.objection == nil && f.short == nil
	if f.admitted && !f.brought {
		if err := h.examineToken(r, a, &f); err != nil {
			return f, err
		}
	}
	if f.session == nil || f.short != nil {
		f.kind = kindOf(r)
	}
	if f.session == nil && !f.brought {
		f.ended = h.endedBefore(r, a, f)
	}
	return f, nil
}

// examineSession finds out whether a request has a session.
func (h *Handler) examineSession(r *http.Request, a *authState, f *facts) error {
	if f.session = a.session; f.session == nil {
		f.session, f.why = h.party.load(r, a, !f.bypassed)
	}
	return f.doubt()
}

// examineToken finds out whether a session that may be used has the token that
// the route sends upstream. One that has not, and cannot get it, counts as none.
// A newer copy of the session, which may turn up then, may say something else of
// the user: it must be admitted, too.
func (h *Handler) examineToken(r *http.Request, a *authState, f *facts) error {
	token := h.tokenFor(a)
	if f.session == nil || token.key == session.MainToken {
		return nil
	}
	judged := f.session
	f.session, f.why = h.party.furnish(r, a, judged, token, !f.bypassed)
	if s := f.session; s != nil && s != judged && !a.admitter.admits(s) {
		f.objection, f.admitted = &failure{reason: reasonForbidden, err: errNotAdmitted}, false
	}
	return f.doubt()
}

// doubt is why it cannot be told whether there is a session, where that matters.
func (f *facts) doubt() error {
	if f.why == nil || errors.Is(f.why, session.ErrNone) || f.bypassed {
		return nil
	}
	return f.why
}

// decision is what happens to a request.
type decision int

const (
	refuse           decision = iota // 401; the zero value, so that a mistake refuses
	login                            // to the provider
	forbid                           // 403, or what else the objection says: to log in would not help
	keep                             // to the provider, and the form that was sent is offered for sending again afterwards
	forward                          // with the session's token
	forwardBypassed                  // without a session, for it needs none
	forwardAnonymous                 // without a session, as `unauthorized pass` says
	rejectToken                      // 401 to a client whose access token is no good
)

// String names the decision in logs.
func (d decision) String() string {
	return [...]string{"refuse", "login", "forbid", "keep", "forward", "bypass", "anonymous", "reject token"}[d]
}

func (d decision) result() string {
	switch d {
	case forward:
		return resultSession
	case forwardBypassed:
		return resultBypass
	default:
		return resultAnonymous
	}
}

// decide is the policy of a route, without the world around it.
func decide(f facts) decision {
	switch {
	case f.session != nil && f.admitted:
		return forward
	case f.bypassed: // a session that must not be used counts as none
		return forwardBypassed
	case f.objection != nil:
		return forbid
	case f.brought && f.session == nil:
		return rejectToken
	case f.session != nil && (f.unauthorized == "pass" || !f.again): // who it is is known: they do not pass for nobody
		return refuse
	case f.unauthorized == "pass":
		return forwardAnonymous
	case f.kind == prefetch, f.unauthorized == "401":
		return refuse
	case f.ended != nil:
		return keep
	case f.kind == navigation, f.unauthorized == "redirect":
		return login
	default:
		return refuse
	}
}

// Interface guards
var (
	_ caddy.Provisioner           = (*Handler)(nil)
	_ caddyhttp.MiddlewareHandler = (*Handler)(nil)
)
