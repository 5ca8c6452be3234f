package caddyauth

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"
	"go.uber.org/zap"

	"github.com/pkce-auth/caddy-pkce-auth/caddyauth/internal/rp"
)

// startLogin sends the browser to the provider: a fresh verifier, nonce and
// state, the state's cookie, and a redirect to the authorization endpoint. An
// empty returnTo means the URL that was asked for. If there is a failure,
// nothing has been written: who calls knows how to say it.
func (p *relyingParty) startLogin(w http.ResponseWriter, r *http.Request, returnTo string, attempt int) *failure {
	at, err := p.site.origins.of(r)
	if err != nil {
		return &failure{reason: reasonMisdirected, err: err}
	}
	if returnTo == "" {
		returnTo = p.requested(r, at)
	}
	if err := p.site.checkCookieDomain(at); err != nil {
		return &failure{reason: reasonMisconfigured, err: err}
	}
	metadata, err := p.client.Provider.Metadata(r.Context())
	if err != nil {
		return &failure{reason: reasonUnavailable, err: fmt.Errorf("metadata of the provider: %w", err), returnTo: returnTo}
	}
	state := newLoginState(returnTo, attempt, p.now())
	location, err := p.authorizationURL(r, metadata, state, at)
	if err != nil {
		return &failure{reason: reasonFor(err), err: err}
	}
	a, _ := p.authState(r)
	if err := a.setCookies(w.Header(), func(h http.Header) error {
		return p.logins.write(h, state, p.site.cookies(at.secure()), at.secure(), a.cookies)
	}); err != nil {
		return &failure{reason: reasonInternal, err: err}
	}
	authored(w.Header())
	skipAccessLog(r) // the Location holds the state
	p.logger.Info("login started", zap.String("provider", p.name), zap.String("client_ip", clientIP(r)),
		zap.String("host", at.host), zap.String("path", originalURL(r).Path), zap.Int("attempt", attempt))
	status := http.StatusFound
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		status = http.StatusSeeOther
	}
	redirect(w, status, location)
	return nil
}

func (p *relyingParty) authorizationURL(r *http.Request, m *rp.Metadata, state *loginState, at origin) (string, error) {
	param, err := p.logins.param(state)
	if err != nil {
		return "", err
	}
	return p.client.AuthorizationURL(m, rp.AuthRequest{
		Transaction: state.tx,
		RedirectURI: p.redirectURI(at),
		State:       param,
		Extra:       p.extraParams(r),
	})
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
// replaced. Nothing that a URL says gets in by itself (A54).
func (p *relyingParty) extraParams(r *http.Request) []rp.Param {
	if len(p.params) == 0 {
		return nil
	}
	repl := r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer)
	params := make([]rp.Param, 0, len(p.params))
	for name, value := range p.params {
		params = append(params, rp.Param{Name: name, Value: repl.ReplaceAll(value, "")})
	}
	return params
}

// serveLogin begins a login on request: that of a program's user after a 401,
// or of a provider's bookmark (OpenID Connect Core section 4). A provider
// that names itself must be ours; where to go afterwards must be, too.
func (p *relyingParty) serveLogin(w http.ResponseWriter, r *http.Request) error {
	if kind := kindOf(r); kind == prefetch || kind == background && r.Header.Get("Sec-Fetch-Mode") != "" {
		return p.refuse(w, r) // no browser would show the provider's page for it
	}
	at, err := p.site.origins.of(r)
	if err != nil {
		return p.fail(w, r, failure{reason: reasonMisdirected, err: err})
	}
	q := originalURL(r).Query()
	if iss := q.Get("iss"); q.Has("iss") && !p.isOurIssuer(r.Context(), iss) {
		return p.fail(w, r, failure{reason: reasonForeignIssuer, err: fmt.Errorf("iss is %.200q", iss)})
	}
	target := q.Get("return_to")
	if target == "" {
		target = q.Get("target_link_uri")
	}
	if f := p.startLogin(w, r, p.returnTo(target, at), 0); f != nil {
		return p.fail(w, r, *f)
	}
	return nil
}

// isOurIssuer compares an issuer with the provider's own spelling, and with
// the configured one.
func (p *relyingParty) isOurIssuer(ctx context.Context, iss string) bool {
	if iss == p.client.Provider.Issuer() {
		return true
	}
	metadata, err := p.client.Provider.Metadata(ctx)
	return err == nil && iss == metadata.Issuer
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
	if metadata.PKCEWithoutS256 {
		p.shared.noS256.Do(func() {
			p.logger.Warn("the provider does not advertise PKCE with S256; it is used all the same, state and nonce protect the login",
				zap.String("provider", p.name), zap.String("issuer", metadata.Issuer))
		})
	}
}
