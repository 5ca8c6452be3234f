package caddyauth

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"
	"go.uber.org/zap"

	"github.com/pkce-auth/caddy-pkce-auth/caddyauth/internal/rp"
)

// loginStart is what differs from one login to the next. The zero value is
// that of a request that needs a session.
type loginStart struct {
	returnTo    string     // where to go afterwards; empty: the URL that was asked for
	attempt     int        // how often this login had to begin anew
	interactive bool       // whether the user must be able to act, whatever is configured
	silent      bool       // whether the provider must not show anything
	again       bool       // whether the provider must see the user once more
	params      []rp.Param // that the link to our login added, or all that the login before had
	ask         rp.Ask     // in place of what is configured
	silence     silence    // whether anything may be shown
}

// startLogin sends the browser to the provider: a fresh verifier, nonce and
// state, the state's cookie, and a redirect to the authorization endpoint. If
// there is a failure, nothing has been written: who calls knows how to say it.
func (p *relyingParty) startLogin(w http.ResponseWriter, r *http.Request, start loginStart) *failure {
	at, err := p.site.origins.of(r)
	if err != nil {
		return &failure{reason: reasonMisdirected, err: err}
	}
	returnTo := start.returnTo
	if returnTo == "" {
		returnTo = p.requested(r, at)
	}
	if err := p.site.checkCookieDomain(at); err != nil {
		return &failure{reason: reasonMisconfigured, err: err}
	}
	a, _ := p.authState(r)
	before, err := p.sessions.of(at.secure()).Load(r.Context(), a.cookies)
	if err != nil {
		before = nil
	}
	p.narrow(&start, before)
	metadata, err := p.client.Provider.Metadata(r.Context())
	if err != nil {
		return &failure{reason: reasonUnavailable, err: fmt.Errorf("metadata of the provider: %w", err), returnTo: returnTo}
	}
	state := newLoginState(returnTo, start.attempt, p.now())
	extra := p.extraParams(r, start)
	state.silence = start.silence
	state.silent, state.again = slices.Contains(extra, rp.Param{Name: "prompt", Value: "none"}), start.again
	state.ask = start.ask
	if state.silent || p.client.MayAskAgain() || !start.ask.Empty() {
		state.params = extra
	}
	param, err := p.logins.param(state)
	if err != nil {
		return &failure{reason: reasonFor(err), err: err}
	}
	location, err := p.client.AuthorizationURL(metadata, rp.AuthRequest{
		Transaction: state.tx, Ask: state.ask, RedirectURI: p.redirectURI(at), State: param, Extra: extra,
	})
	if err != nil {
		return &failure{reason: reasonFor(err), err: err}
	}
	if before != nil {
		state.replaces(before)
	}
	if err := a.setCookies(w.Header(), func(h http.Header) error {
		return p.logins.write(h, state, p.site.cookies(at.secure()), at.secure(), a.cookies)
	}); err != nil {
		return &failure{reason: reasonFor(err), err: err}
	}
	authored(w.Header())
	skipAccessLog(r) // the Location holds the state
	p.logger.Info("login started", zap.String("provider", p.name), zap.String("client_ip", clientIP(r)),
		zap.String("host", at.host), zap.String("path", originalURL(r).Path), zap.Int("attempt", start.attempt), zap.Bool("silent", state.silent))
	status := http.StatusFound
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		status = http.StatusSeeOther
	}
	redirect(w, status, location)
	return nil
}

// checkCookieDomain says when no browser would keep the session's cookie: the
// login would succeed, and begin again, for ever.
func (s *site) checkCookieDomain(at origin) error {
	host := hostname(at.host)
	if s.domain == "" || host == s.domain || strings.HasSuffix(host, "."+s.domain) {
		return nil
	}
	return fmt.Errorf("%w: cookie_domain %s does not cover the host %s", rp.ErrMisconfigured, s.domain, host)
}

// redirectURI is where the provider sends the browser back to. It never comes
// from what a request says of its host, unless that can be relied on.
func (p *relyingParty) redirectURI(at origin) string {
	return at.String() + p.site.endpoints.callback
}

// extraParams are the configured parameters, with the request's placeholders
// replaced, and those that the link to our login may add, in place of a
// configured one of the same name. Nothing else that a URL says gets in (A54).
// A login that begins anew has what the one before it had.
func (p *relyingParty) extraParams(r *http.Request, start loginStart) []rp.Param {
	params := slices.Clone(start.params)
	given := func(name string) bool {
		return slices.ContainsFunc(params, func(param rp.Param) bool { return param.Name == name })
	}
	if len(p.policy.params) > 0 {
		repl := r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer)
		inCallback := originalURL(r).Path == p.site.endpoints.callback
		for name, value := range p.policy.params {
			if given(name) || inCallback && ofCallback.MatchString(value) {
				continue
			}
			params = append(params, rp.Param{Name: name, Value: repl.ReplaceAll(value, "")})
		}
	}
	if start.interactive || start.again || start.silent {
		params = slices.DeleteFunc(params, func(param rp.Param) bool { return param.Name == "prompt" })
	}
	if start.silent && !start.interactive && !start.again {
		params = append(params, rp.Param{Name: "prompt", Value: "none"})
	}
	if start.again {
		params = append(params, rp.Param{Name: "prompt", Value: "login"})
	}
	return params
}

// ofCallback are the placeholders that, in a callback, stand for its code and
// state: a login that begins there does without them.
var ofCallback = regexp.MustCompile(`\{http\.request\.(orig_)?(uri|body)`)

// loginParams are the parameters in a link to our login that may go on to the
// provider.
func (p *relyingParty) loginParams(q url.Values) (params []rp.Param) {
	for _, name := range p.policy.loginParams {
		value := q.Get(name)
		unfit := strings.ContainsFunc(value, func(r rune) bool { return r < ' ' || r == 0x7f })
		if value != "" && len(value) <= maxLoginParam && !unfit {
			params = append(params, rp.Param{Name: name, Value: value})
		}
	}
	return params
}

// maxLoginParam bounds one such parameter. The longest in use are invitations.
const maxLoginParam = 1024

// serveLogin begins a login on request: that of a program's user after a 401,
// or of a provider's bookmark (OpenID Connect Core section 4). A provider
// that names itself must be ours; where to go afterwards must be, too.
func (p *relyingParty) serveLogin(w http.ResponseWriter, r *http.Request) error {
	q := originalURL(r).Query()
	quiet := silenceOf(r, q)
	if kind := kindOf(r); kind == prefetch || kind == background && r.Header.Get("Sec-Fetch-Mode") != "" && !quiet.framed {
		return p.refuse(w, r) // no browser would show the provider's page for it
	}
	at, err := p.site.origins.of(r)
	if err != nil {
		return p.fail(w, r, failure{reason: reasonMisdirected, err: err})
	}
	if iss := q.Get("iss"); q.Has("iss") && !p.isOurIssuer(r.Context(), iss) {
		return p.fail(w, r, failure{reason: reasonForeignIssuer, err: fmt.Errorf("iss is %.200q", iss)})
	}
	target := q.Get("return_to")
	if target == "" {
		target = q.Get("target_link_uri")
	}
	start := p.comingBack(r, loginStart{returnTo: p.returnTo(target, at), params: quiet.add(p.loginParams(q)), ask: p.asked(q), silence: quiet}, at)
	f := p.startLogin(w, r, start)
	switch {
	case f == nil:
		return nil
	case quiet.framed:
		p.log(r, f)
		redirect(w, http.StatusSeeOther, at.String()+start.returnTo)
		return nil
	default:
		return p.fail(w, r, *f)
	}
}

// isOurIssuer compares an issuer with the provider's own spelling, and with
// the configured one.
func (p *relyingParty) isOurIssuer(ctx context.Context, iss string) bool {
	if iss == p.client.Provider.Issuer() {
		return true
	}
	metadata, err := p.client.Provider.Metadata(ctx)
	return err == nil && p.client.IsIssuer(metadata, iss)
}

// lookAheadAfter leaves this Caddy the time to listen: it may be what stands
// in front of the provider.
const lookAheadAfter = 500 * time.Millisecond

// lookAhead fetches the metadata before anybody needs them, and says what is
// wrong with them.
func (p *relyingParty) lookAhead(ctx context.Context) {
	select {
	case <-time.After(lookAheadAfter):
	case <-ctx.Done():
		return
	}
	metadata, err := p.client.Provider.Metadata(ctx)
	if err != nil {
		if ctx.Err() == nil {
			p.logger.Warn("the provider cannot be asked for its metadata; logins get 503 until it can",
				zap.String("provider", p.name), zap.String("issuer", p.client.Provider.Issuer()), zap.Error(err),
				zap.String("hint", hints[reasonFor(err)]))
		}
		return
	}
	if err := p.client.CheckTenants(metadata); err != nil {
		p.logger.Error("nobody can log in", zap.String("provider", p.name), zap.Error(err))
	}
	if metadata.PKCEWithoutS256 {
		p.shared.noS256.Do(func() {
			p.logger.Warn("the provider does not advertise PKCE with S256; it is used all the same, state and nonce protect the login",
				zap.String("provider", p.name), zap.String("issuer", metadata.Issuer))
		})
	}
}
