package caddyauth

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net/http"
	"time"

	"go.uber.org/zap"

	"github.com/pkce-auth/caddy-pkce-auth/caddyauth/internal/rp"
	"github.com/pkce-auth/caddy-pkce-auth/caddyauth/internal/session"
)

// serveLogout ends the session of this site, and leads on to end that of the
// provider. Only a page of this site may ask for it without further ado;
// whoever comes from elsewhere is asked, so that no foreign page, no mail, and
// no picture in a text on this site logs anybody out (R42). A prefetch does nothing.
//
// It goes on to the provider without a session, too: who wants to be logged
// out need not have come in time.
func (p *relyingParty) serveLogout(w http.ResponseWriter, r *http.Request) error {
	if kindOf(r) == prefetch {
		return p.refuse(w, r)
	}
	at, originErr := p.site.origins.of(r) // one that is not known is nobody's own
	if dest := r.Header.Get("Sec-Fetch-Dest"); !fromOwnOrigin(r, at) || dest != "" && dest != "document" && dest != "empty" {
		p.writePage(w, http.StatusOK, p.askLogoutPage())
		return nil
	}
	ended, err := p.endSession(w, r, true)
	if err != nil {
		return p.fail(w, r, failure{reason: reasonSessionUnavailable, err: fmt.Errorf("ending the session: %w", err)})
	}
	location, err := "", originErr
	if mode := r.Header.Get("Sec-Fetch-Mode"); err == nil && (mode == "" || mode == "navigate") { // a script's fetch cannot go on there
		location, err = p.logoutURL(r, ended, at)
	}
	if err != nil {
		p.logger.Warn("the session at the provider goes on", zap.String("provider", p.name), zap.Error(err))
	}
	p.logger.Info("logout", zap.String("provider", p.name), zap.String("sub", ended.Subject), zap.String("client_ip", clientIP(r)),
		zap.Bool("at_provider", location != ""))
	if location == "" {
		location = p.site.endpoints.prefix + pathSignedOut
	}
	skipAccessLog(r) // the Location may hold the ID token
	redirect(w, http.StatusSeeOther, location)
	return nil
}

// endSession ends the session that the browser has, and returns what was
// known of it; nothing at all is no error. No copy of its cookie opens any
// more, and no answer under way brings it back. Its refresh token is revoked
// if revoke says so.
func (p *relyingParty) endSession(w http.ResponseWriter, r *http.Request, revoke bool) (*session.Session, error) {
	a, _ := p.authState(r)
	// Who asks to be logged out and hangs up is: half of it would leave streams
	// open, and a store that takes its time must not decide.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(r.Context()), endTime)
	defer cancel()
	ended := new(session.Session)
	for _, secure := range []bool{true, false} {
		var s *session.Session
		err := a.setCookies(w.Header(), func(h http.Header) (err error) {
			s, err = p.sessions.of(secure).Delete(ctx, h, a.cookies)
			return err
		})
		if err != nil {
			return nil, err
		}
		hint := p.takeHint(w, a, s, secure)
		p.dropKept(ctx, w, a, secure)
		if s == nil {
			continue
		}
		p.remember(ctx, s)
		p.sayCut(s, p.shared.live.endSession(s.ID, errLoggedOut, nil), errLoggedOut) // after that, for who enters now looks there
		newest, _ := p.shared.refresher.Latest(p.flightKey(s), s)
		latest := *newest
		if revoke {
			p.revoke(&latest)
		}
		if latest.IDToken.Empty() { // it was kept apart
			latest.IDToken = hint
		}
		ended = &latest
	}
	return ended, nil
}

// endTime bounds how long a logout waits for a store.
const endTime = 10 * time.Second

// rememberTime bounds how long a logout waits until others can hear of it.
const rememberTime = 3 * time.Second

// remember sees to it that a session which was ended stays so, here and
// elsewhere.
func (p *relyingParty) remember(ctx context.Context, s *session.Session) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), rememberTime)
	defer cancel()
	if err := p.sessions.revocations.Revoke(ctx, s.Handle()); err != nil {
		p.logger.Error("a session was ended, but other instances do not hear of it, nor this one after a restart",
			zap.String("provider", p.name), zap.String("sub", s.Subject), zap.Error(err), zap.String("hint", howToMendStore))
	}
}

// takeHint returns the ID token that was kept for the logout of a session, and
// deletes its cookie.
func (p *relyingParty) takeHint(w http.ResponseWriter, a *authState, s *session.Session, secure bool) rp.Secret {
	jar := p.hintJar(secure)
	_ = a.setCookies(w.Header(), func(h http.Header) error {
		jar.Delete(h, a.cookies)
		return nil
	})
	data, err := jar.Read(a.cookies)
	if err != nil || s == nil {
		return rp.Secret{}
	}
	return session.DecodeHint(data, s.ID)
}

// logoutMetadataTimeout is how long a logout waits for the provider's
// metadata, if they are not known yet.
const logoutMetadataTimeout = 3 * time.Second

// logoutURL is where the browser ends its session at the provider; empty if
// there is nothing to end.
func (p *relyingParty) logoutURL(r *http.Request, ended *session.Session, at origin) (string, error) {
	if p.policy.logout == rp.LogoutLocal {
		return "", nil
	}
	ctx, cancel := context.WithTimeout(r.Context(), logoutMetadataTimeout)
	defer cancel()
	metadata, err := p.client.Provider.Metadata(ctx)
	if errors.Is(err, context.DeadlineExceeded) {
		err = fmt.Errorf("%w: no metadata in time", rp.ErrUnavailable)
	}
	if err != nil {
		return "", err
	}
	back := p.policy.afterLogout
	if back == "" {
		back = at.String() + p.site.endpoints.prefix + pathSignedOut
	}
	return p.client.LogoutURL(metadata, p.policy.logout, rp.LogoutRequest{
		IDToken: ended.IDToken, SessionID: ended.ProviderID(), RedirectURI: back, State: rand.Text(),
	})
}

// serveSignedOut is the page after a logout. It ignores its query, and never
// logs in by itself (R41).
func (p *relyingParty) serveSignedOut(w http.ResponseWriter, _ *http.Request) error {
	p.writePage(w, http.StatusOK, p.signedOutPage())
	return nil
}
