package caddyauth

import (
	"crypto/rand"
	"encoding/json"
	"errors"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/pkce-auth/caddy-pkce-auth/caddyauth/internal/rp"
	"github.com/pkce-auth/caddy-pkce-auth/caddyauth/internal/sealed"
	"github.com/pkce-auth/caddy-pkce-auth/caddyauth/internal/session"
)

// reason is why a request failed, as one word of a closed list. It stands in
// the log, in {http.auth.pkce_auth.error} and nowhere else; people get
// sentences.
type reason string

const (
	reasonUnauthorized       reason = "unauthorized"       // no session, and no way to log in from here
	reasonMethod             reason = "method_not_allowed" // an endpoint does not know the method
	reasonMisdirected        reason = "misdirected"        // not an origin of this site
	reasonUnavailable        reason = "provider_unavailable"
	reasonMisconfigured      reason = "misconfigured"                    // here or at the provider
	reasonInvalid            reason = "invalid_answer"                   // the provider's answer must not be used
	reasonDenied             reason = "access_denied"                    // the provider, or the user there, said no
	reasonInsufficient       reason = "insufficient_authentication"      // the user was not seen lately enough, or in the right way
	reasonStepUp             reason = "insufficient_user_authentication" // a session whose login is not what the route, or the upstream, wants
	reasonRefused            reason = "login_refused"                    // the provider reported another error
	reasonStateGone          reason = "login_state_gone"                 // too old, used, or without its cookie
	reasonCookies            reason = "cookies_blocked"                  // gone again at once
	reasonMalformed          reason = "malformed_response"               // a callback that reads in two ways
	reasonTooLarge           reason = "session_too_large"
	reasonNoToken            reason = "token_unavailable"   //nolint:gosec // there is none for what this route sends upstream
	reasonSessionUnavailable reason = "session_unavailable" // it cannot be told whether there is one
	reasonLogoutToken        reason = "logout_token"        // something was sent to the back channel that is no good logout token
	reasonLogoutFailed       reason = "logout_failed"       // the provider wants to end sessions, and that cannot be done now
	reasonToken              reason = "invalid_token"       // a client brought an access token that is no good
	reasonUntrusted          reason = "untrusted_proxy"     // what may only be asked by a proxy in front was asked by somebody else
	reasonForeignIssuer      reason = "foreign_issuer"      // a login for another provider
	reasonNothing            reason = "nothing_to_say"      // the error page without an error
	reasonForbidden          reason = "forbidden"           // a session that does not suffice here
	reasonCrossSite          reason = "cross_site"          // a foreign page rides on a session
	reasonTooEarly           reason = "too_early"           // in early data, which can be replayed
	reasonInternal           reason = "internal"
)

// failure is a request that we answer with an error.
type failure struct {
	reason      reason
	err         error  // for the log; never shown
	description string // the provider's words, shown escaped
	returnTo    string // where "try again" leads; empty: the start page
	login       string // the login that leads there, if it is not a plain one
	id          string // of the log line, shown on the page
	retryAfter  time.Duration
}

// Levels: an operator must act on Error, may look at Warn, and can read the
// course of logins in Info.
var reasonLevels = map[reason]zapcore.Level{
	reasonUnauthorized:       zapcore.DebugLevel,
	reasonMethod:             zapcore.DebugLevel,
	reasonStepUp:             zapcore.DebugLevel,
	reasonNothing:            zapcore.DebugLevel,
	reasonDenied:             zapcore.InfoLevel,
	reasonInsufficient:       zapcore.WarnLevel,
	reasonStateGone:          zapcore.InfoLevel,
	reasonCookies:            zapcore.InfoLevel,
	reasonMalformed:          zapcore.InfoLevel,
	reasonForeignIssuer:      zapcore.InfoLevel,
	reasonToken:              zapcore.InfoLevel,
	reasonLogoutToken:        zapcore.InfoLevel,
	reasonLogoutFailed:       zapcore.ErrorLevel,
	reasonForbidden:          zapcore.InfoLevel,
	reasonCrossSite:          zapcore.InfoLevel,
	reasonTooEarly:           zapcore.DebugLevel,
	reasonMisdirected:        zapcore.WarnLevel,
	reasonUntrusted:          zapcore.WarnLevel,
	reasonUnavailable:        zapcore.WarnLevel,
	reasonRefused:            zapcore.WarnLevel,
	reasonInvalid:            zapcore.ErrorLevel,
	reasonMisconfigured:      zapcore.ErrorLevel,
	reasonTooLarge:           zapcore.ErrorLevel,
	reasonNoToken:            zapcore.ErrorLevel,
	reasonSessionUnavailable: zapcore.ErrorLevel,
	reasonInternal:           zapcore.ErrorLevel,
}

// hints tell an operator what to do, where that can be said.
var hints = map[reason]string{
	reasonMisdirected:   "if this is the site's own address, set public_url, or name the proxy in front in trusted_proxies",
	reasonUntrusted:     "if it is the proxy in front that asks, name its address in trusted_proxies, in the global option servers",
	reasonUnavailable:   "check that Caddy can reach the issuer; it is asked again by itself",
	reasonMisconfigured: "compare issuer, client_id, client_secret, client_auth, scopes and audience with the provider's settings",
	reasonInsufficient:  "the provider was asked twice, and its ID token does not say what max_age or acr_values want: look whether it can",
	reasonCookies:       "if it happens to many: instances that share the site need the same cookie_secret, or the same storage",
	reasonLogoutToken:   "if it comes from the provider, compare its issuer and client with this configuration; anybody can send such a request",
	reasonLogoutFailed:  "the sessions go on until the provider sends its logout token again",
	reasonForbidden:     "a claim that the user should have: look whether the provider sends it, and whether claims_from or scopes have to ask for it",
	reasonCrossSite:     "if the page is one of yours, name its origin in the option csrf of this route",
	reasonToken:         "if it comes from a client of yours, look at the check; anybody can send such a request",
	reasonNoToken:       hintNoToken,
	reasonTooLarge:      "have the provider put fewer claims into the tokens: groups and permissions are the usual cause",
	reasonInvalid:       "the provider, or someone in its place, sent what must not be used; if it began after a change there, look at that",
}

// statuses of the reasons.
var statuses = map[reason]int{
	reasonUnauthorized:       http.StatusUnauthorized,
	reasonMethod:             http.StatusMethodNotAllowed,
	reasonMisdirected:        http.StatusMisdirectedRequest,
	reasonUnavailable:        http.StatusServiceUnavailable,
	reasonMisconfigured:      http.StatusBadGateway,
	reasonInvalid:            http.StatusBadGateway,
	reasonDenied:             http.StatusForbidden,
	reasonInsufficient:       http.StatusForbidden,
	reasonStepUp:             http.StatusUnauthorized,
	reasonRefused:            http.StatusBadGateway,
	reasonStateGone:          http.StatusBadRequest,
	reasonCookies:            http.StatusBadRequest,
	reasonMalformed:          http.StatusBadRequest,
	reasonForeignIssuer:      http.StatusBadRequest,
	reasonToken:              http.StatusUnauthorized,
	reasonUntrusted:          http.StatusForbidden,
	reasonLogoutToken:        http.StatusBadRequest,
	reasonLogoutFailed:       http.StatusServiceUnavailable,
	reasonNothing:            http.StatusBadRequest,
	reasonTooLarge:           http.StatusInternalServerError,
	reasonForbidden:          http.StatusForbidden,
	reasonCrossSite:          http.StatusForbidden,
	reasonTooEarly:           http.StatusTooEarly,
	reasonNoToken:            http.StatusBadGateway,
	reasonSessionUnavailable: http.StatusServiceUnavailable,
	reasonInternal:           http.StatusInternalServerError,
}

// denials are the errors by which a provider, or the user there, says no; the
// last is Apple's.
var denials = []string{"access_denied", "unauthorized", "user_cancelled_authorize"}

// reasonFor sorts an error of the rp package.
func reasonFor(err error) reason {
	oauthErr, reported := errors.AsType[*rp.OAuthError](err)
	_, atEndpoint := errors.AsType[*rp.EndpointError](err)
	check, checked := errors.AsType[*rp.CheckError](err)
	switch {
	case errors.Is(err, rp.ErrTarget):
		return reasonNoToken
	case checked && check.NeedsReauthentication(), reported && oauthErr.Code == "unmet_authentication_requirements":
		return reasonInsufficient
	case checked && check.RefusesUser() && errors.Is(err, rp.ErrInvalid):
		return reasonDenied
	case reported && slices.Contains(denials, oauthErr.Code):
		if atEndpoint { // it speaks to us, not to the user: Auth0 says so of a wrong secret
			return reasonMisconfigured
		}
		return reasonDenied
	case errors.Is(err, rp.ErrUnavailable):
		return reasonUnavailable
	case errors.Is(err, rp.ErrMisconfigured):
		return reasonMisconfigured
	case reported:
		return reasonRefused
	case errors.Is(err, rp.ErrInvalid):
		return reasonInvalid
	case errors.Is(err, sealed.ErrKeys), errors.Is(err, session.ErrStore):
		return reasonSessionUnavailable
	default:
		if _, ok := errors.AsType[*sealed.TooLargeError](err); ok {
			return reasonTooLarge
		}
		return reasonInternal
	}
}

// log writes the one line of a failure, and gives it an ID that the page
// shows, too.
func (p *relyingParty) log(r *http.Request, f *failure) {
	if f.id == "" {
		f.id = strings.ToLower(rand.Text()[:10])
	}
	failures.WithLabelValues(p.name, string(f.reason)).Inc()
	level := reasonLevels[f.reason]
	if r.Context().Err() != nil { // nobody is there any more to whom anything could fail
		level = zapcore.DebugLevel
	}
	c := p.logger.Check(level, "request failed")
	if c == nil {
		return
	}
	fields := []zap.Field{
		zap.String("reason", string(f.reason)),
		zap.String("id", f.id),
		zap.String("provider", p.name),
		zap.String("client_ip", clientIP(r)),
		zap.String("path", originalURL(r).Path),
		zap.Error(f.err),
	}
	if checkErr, ok := errors.AsType[*rp.CheckError](f.err); ok {
		fields = append(fields, zap.String("check", checkErr.Check))
	}
	if hint := hintFor(f.reason, f.err); hint != "" {
		fields = append(fields, zap.String("hint", hint))
	}
	c.Write(fields...)
}

// hintFor is what an operator can do about a failure, whatever the user is told.
func hintFor(why reason, err error) string {
	switch {
	case why == reasonNoToken:
		return hints[why]
	case errors.Is(err, rp.ErrMisconfigured):
		return hints[reasonMisconfigured]
	case errors.Is(err, sealed.ErrKeys):
		return howToMendKeys
	case errors.Is(err, session.ErrStore):
		return howToMendStore
	default:
		return hints[why]
	}
}

func clientIP(r *http.Request) string {
	ip, _ := caddyhttp.GetVar(r.Context(), caddyhttp.ClientIPVarKey).(string)
	return ip
}

// fail logs a failure and answers with it: through the site's own
// handle_errors where one of its routes matches this request, else with a
// page for people, or JSON for programs.
func (p *relyingParty) fail(w http.ResponseWriter, r *http.Request, f failure) error {
	p.log(r, &f)
	return p.show(w, r, f)
}

// show answers with a failure that is in the log already.
func (p *relyingParty) show(w http.ResponseWriter, r *http.Request, f failure) error {
	a, _ := p.authState(r)
	a.reason, a.result = f.reason, resultDenied
	authored(w.Header())
	f.sayWhen(w.Header())
	status := statuses[f.reason]
	public := caddyhttp.Error(status, errors.New(texts[f.reason].title))
	if errorRouteMatches(r, public) {
		return public
	}
	if acceptsHTML(r) {
		p.writePage(w, status, p.errorPage(f))
		return nil
	}
	p.writeJSON(w, status, f.json())
	return nil
}

// sayWhen says when to come again, where that may help.
func (f *failure) sayWhen(h http.Header) {
	if f.reason == reasonUnavailable || f.reason == reasonSessionUnavailable {
		wait := max(f.retryAfter, rp.RetryAfter)
		h.Set("Retry-After", strconv.Itoa(int((wait+time.Second-1)/time.Second)))
	}
}

// json is what a program is told.
func (f *failure) json() any {
	return map[string]string{"error": string(f.reason), "id": f.id}
}

// failSession answers when there may be a session that cannot be used now: its
// cookie stays, and the request does not pass for anonymous.
func (p *relyingParty) failSession(w http.ResponseWriter, r *http.Request, err error) error {
	if r.Context().Err() != nil { // it was waiting for a refresh, and went away
		return caddyhttp.Error(statusClientClosedRequest, r.Context().Err())
	}
	return p.fail(w, r, sessionFailure(err))
}

// sessionFailure says of a session that cannot be used now why that is.
func sessionFailure(err error) failure {
	why := reasonFor(err)
	switch why {
	case reasonUnavailable, reasonMisconfigured, reasonNoToken:
	case reasonInvalid, reasonRefused: // an odd answer to a refresh, which is tried again
		why = reasonUnavailable
	default:
		why = reasonSessionUnavailable
	}
	f := failure{reason: why, err: err, retryAfter: rp.RetryAfter}
	if backoff, ok := errors.AsType[*session.BackoffError](err); ok {
		f.retryAfter = max(time.Second, backoff.Wait)
	}
	return f
}

// statusClientClosedRequest is what Caddy, too, notes of a client that did not
// wait for the answer.
const statusClientClosedRequest = 499

// refuse answers 401: with a challenge (RFC 9110 section 11.6.1), and with
// where to log in, as JSON for programs that can send a person there, as a
// page for a person. It sets no cookie and makes no login state, however often
// it is asked.
func (p *relyingParty) refuse(w http.ResponseWriter, r *http.Request) error {
	a, _ := p.authState(r)
	a.reason, a.result = reasonUnauthorized, resultDenied
	authored(w.Header())
	loginURL := p.loginURL(r, a.loginFor("").ask, "")
	w.Header().Set("WWW-Authenticate", "Bearer realm="+quoted(p.name)+", login_url="+quoted(loginURL))
	public := caddyhttp.Error(http.StatusUnauthorized, errors.New(texts[reasonUnauthorized].title))
	if errorRouteMatches(r, public) {
		return public
	}
	if kindOf(r) == navigation || isSubmitted(r) {
		f := failure{reason: reasonUnauthorized}
		if at, err := p.site.origins.of(r); err == nil {
			f.returnTo = p.pageOf(r, at)
			if a.start != nil && !a.start.ask.Empty() {
				f.login = p.loginURL(r, a.start.ask, f.returnTo)
			}
		}
		p.writePage(w, http.StatusUnauthorized, p.errorPage(f).of(r))
		return nil
	}
	p.writeJSON(w, http.StatusUnauthorized, map[string]string{"error": string(reasonUnauthorized), "login_url": loginURL})
	return nil
}

// quoted is a quoted-string (RFC 9110 section 5.6.4). What may not stand in one,
// and no name or URL of ours holds, is percent-encoded.
func quoted(text string) string {
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(escapeNonASCII(text)) + `"`
}

func (p *relyingParty) writeJSON(w http.ResponseWriter, status int, body any) {
	data, err := json.Marshal(body)
	if err != nil { // what was JSON once, or is text, has no reason to
		p.logger.Error("answer cannot be written", zap.Error(err))
		status, data = http.StatusInternalServerError, []byte(`{"error":"internal"}`)
	}
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	w.Header().Set("Content-Length", strconv.Itoa(len(data)))
	w.WriteHeader(status)
	_, _ = w.Write(data) // the client is gone if this fails
}

// errorRouteMatches reports whether the site's handle_errors would answer
// this request. The routes belong to the listener, and may be a neighbour
// site's; then a returned error would become an empty page.
func errorRouteMatches(r *http.Request, err error) bool {
	server, ok := r.Context().Value(caddyhttp.ServerCtxKey).(*caddyhttp.Server)
	if !ok || server == nil || server.Errors == nil {
		return false
	}
	return anyRouteMatches(server.Errors.Routes, server.Errors.WithError(r, err))
}

func anyRouteMatches(routes caddyhttp.RouteList, r *http.Request) bool {
	for _, route := range routes {
		if ok, err := route.MatcherSets.AnyMatchWithError(r); !ok || err != nil {
			continue
		}
		for _, handler := range route.Handlers {
			subroute, ok := handler.(*caddyhttp.Subroute)
			if !ok || anyRouteMatches(subroute.Routes, r) {
				return true
			}
		}
	}
	return false
}
