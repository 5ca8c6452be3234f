package caddyauth

import (
	"fmt"
	"net/http"

	"go.uber.org/zap"

	"github.com/pkce-auth/caddy-pkce-auth/caddyauth/internal/session"
)

// serveLogout ends the session of this site. Only a page of this site may ask
// for it without further ado; whoever comes from elsewhere is asked, so that
// no foreign page, picture or mail logs anybody out (R42). A prefetch does
// nothing.
func (p *relyingParty) serveLogout(w http.ResponseWriter, r *http.Request) error {
	if kindOf(r) == prefetch {
		return p.refuse(w, r)
	}
	at, _ := p.site.origins.of(r) // one that is not known is nobody's own
	if !fromOwnOrigin(r, at) {
		p.writePage(w, http.StatusOK, p.askLogoutPage())
		return nil
	}
	a, _ := p.authState(r)
	subject := ""
	if s, err := p.load(r, a.cookies); err == nil {
		subject = s.Subject
	}
	for _, keeper := range []session.Keeper{p.sessions.https, p.sessions.http} {
		if err := a.setCookies(w.Header(), func(h http.Header) error { return keeper.Delete(r.Context(), h, a.cookies) }); err != nil {
			return p.fail(w, r, failure{reason: reasonSessionUnavailable, err: fmt.Errorf("ending the session: %w", err)})
		}
	}
	p.logger.Info("logout", zap.String("provider", p.name), zap.String("sub", subject), zap.String("client_ip", clientIP(r)))
	redirect(w, http.StatusSeeOther, p.site.endpoints.prefix+pathSignedOut)
	return nil
}

// serveSignedOut is the page after a logout. It ignores its query, and never
// logs in by itself.
func (p *relyingParty) serveSignedOut(w http.ResponseWriter, _ *http.Request) error {
	p.writePage(w, http.StatusOK, p.signedOutPage())
	return nil
}
