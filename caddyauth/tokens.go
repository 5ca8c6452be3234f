package caddyauth

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"go.uber.org/zap"

	"github.com/pkce-auth/caddy-pkce-auth/caddyauth/internal/rp"
	"github.com/pkce-auth/caddy-pkce-auth/caddyauth/internal/session"
)

// Which token goes upstream. A route may want one of its own: for another API, or
// the ID token. The session has it, or gets it by a refresh; where the provider
// does not do that, the browser goes there once more, and shows nothing to the
// user if it can be helped. What is not for a route never reaches its upstream.

// errBrowserNeeded says that there is a session, but that only a visit of the
// browser to the provider gets the token that the route wants.
var errBrowserNeeded = fmt.Errorf("%w: it lacks the token that this route sends upstream", session.ErrNone)

// errNoToken says that not even that does.
var errNoToken = errors.New("neither a refresh nor a login brings the token that this route sends upstream")

// hintNoToken is what an operator can do then.
const hintNoToken = "look at this route's audience, resource and scopes, and whether the provider lets this client have them: at Auth0 the API must be in the " +
	"application's multi-resource refresh token policy, elsewhere the client needs the API, its audience or its scopes; forward_token id needs a provider that gives ID tokens"

const (
	// refusedTime is how long it is remembered that the provider does not give a
	// token by a refresh.
	refusedTime = 10 * time.Minute

	// unavailableTime is how long a route stays closed whose token is not to be
	// had by a login either: long enough that no browser goes in circles.
	unavailableTime = time.Minute

	// A login is not tried for an ID token that the session has lost, or never had,
	// while it is so young: it would be lost again. Nor for one that was dead so
	// soon after the login.
	youngLogin, stillborn = 10 * time.Second, 2 * time.Second
)

// provisionToken gets the provider ready for what this route sends upstream.
func (h *Handler) provisionToken() error {
	h.token = h.UpstreamConfig.load()
	if h.token.key != session.IDToken {
		return nil
	}
	if err := h.checkProvider(h.party.client.ExpectsIDToken()); err != nil {
		return err
	}
	h.party.policy.forwardsID = true
	for _, secure := range []bool{true, false} {
		if k, ok := h.party.sessions.of(secure).(*session.Stateless); ok {
			k.KeepIDToken()
		}
	}
	return nil
}

// tokenFor is what goes upstream. A route that says nothing of it leaves that to
// the one before it on the same path, and adds its policy only; but it never lets
// a client's own Authorization pass, which each route must say itself.
func (h *Handler) tokenFor(a *authState) *routeToken {
	if a.sent != nil && !a.sent.none && !h.token.said {
		return a.sent
	}
	return &h.token
}

// authorize sets what goes upstream. It reports whether there is such a token:
// without it the request must not go on.
func (h *Handler) authorize(r *http.Request, a *authState) bool {
	token := h.tokenFor(a)
	if token.none {
		if a.cleared { // by a handler before: what stands there is not the client's
			delete(r.Header, "Authorization")
		}
		return true
	}
	var value string
	switch {
	case !a.brought:
		value = a.session.AuthorizationFor(token.key)
	case token.key != session.IDToken: // a client's own token is for this route, or was not accepted
		value = a.session.AuthorizationFor(session.MainToken)
	default:
		delete(r.Header, "Authorization")
		return true
	}
	if value == "" {
		return false
	}
	a.credentials[0] = value
	r.Header["Authorization"] = a.credentials[:]
	return true
}

// deliver lets the browser have what came for a session that cannot be used for
// its request: a refresh token that was replaced, say.
func (p *relyingParty) deliver(w http.ResponseWriter, a *authState) {
	if a.dormant != nil && a.session == nil {
		p.catchUp(w.Header(), a)
	}
}

// furnish returns the session with the token that the route wants, if there is
// one or it can be had without the browser. A request that needs no session does
// not wait for it.
func (p *relyingParty) furnish(r *http.Request, a *authState, s *session.Session, t *routeToken, needed bool) (*session.Session, error) {
	now := p.now()
	if !s.DueFor(t.key, now, p.policy.early) {
		return s, nil
	}
	if newest, _ := p.shared.refresher.Latest(p.flightKey(s), s); newest != s && newest.Has(t.key, now) {
		s, a.due = newest, true
		if !s.DueFor(t.key, now, p.policy.early) {
			return s, nil
		}
	}
	secure, _ := a.secure()
	keeper := p.sessions.of(secure)
	if parked := p.shared.parked.take(s.ID+t.key, now); parked != nil {
		if with, err := p.addToken(r.Context(), keeper, s, parked); err == nil {
			a.due = true
			return with, nil
		}
	}
	token, own := s.RefreshTokenFor(t.key)
	if p.policy.refresh && !token.Empty() && (own || !p.refused(refusedRefresh, s, t, now)) {
		a.due = true
		how := p.renewal(keeper, s, p.renewFor(t), now)
		how.NoWait = !needed
		fresh, landing, err := p.shared.refresher.Fresh(r.Context(), s, how)
		finishFirst(landing)
		if p.sessions.stored == nil && landing != nil {
			a.landing = landing
		}
		switch {
		case err == nil:
			return fresh, nil
		case errors.Is(err, session.ErrEnded):
			p.endRequests(s, err)
			return nil, err
		case !errors.Is(err, rp.ErrTarget):
			a.dormant = s
			return nil, err
		}
	}
	if s = p.newestInStore(r.Context(), s); s.Has(t.key, now) {
		return s, nil
	}
	a.dormant = s
	return nil, p.sendForToken(a, s, t, now)
}

// newestInStore looks into the store itself before a browser is sent away: another
// replica may have what it would be sent for.
func (p *relyingParty) newestInStore(ctx context.Context, s *session.Session) *session.Session {
	if p.sessions.stored == nil {
		return s
	}
	if current, err := p.sessions.stored.Current(ctx, s); err == nil && current.Generation > s.Generation {
		return current
	}
	return s
}

// sendForToken says by what login the browser gets the token, if by any.
func (p *relyingParty) sendForToken(a *authState, s *session.Session, t *routeToken, now time.Time) error {
	secure, _ := a.secure()
	switch {
	case t.key == session.IDToken && hopeless(s, now):
		return &rp.TargetError{Err: fmt.Errorf("%w: the session is new, and its ID token has expired, or was too large to keep", errNoToken)}
	case t.key == session.IDToken:
		a.start = &loginStart{silent: true}
	case p.refused(refusedLogin, s, t, now):
		return &rp.TargetError{Err: fmt.Errorf("%s: %w", t.describe(), errNoToken)}
	case p.timesParked(a, t.key, secure) >= maxParked:
		return &rp.TargetError{Err: fmt.Errorf("%s: %w: it waits in another process; behind replicas, have a browser's requests go to the same one", t.describe(), errNoToken)}
	default:
		a.start = &loginStart{silent: true, ask: rp.Ask{Target: t.target}}
	}
	return errBrowserNeeded
}

// hopeless reports whether another login would bring no ID token that is good for
// long enough to be of use. So there is no loop.
func hopeless(s *session.Session, now time.Time) bool {
	if s.IDToken.Empty() {
		return now.Sub(s.Created) < youngLogin
	}
	return s.ExpiryFor(session.IDToken).Sub(s.Created) < stillborn
}

// renewFor gives what gets a route's token by a refresh.
func (p *relyingParty) renewFor(t *routeToken) session.Renew {
	renew := p.renewTarget
	switch t.key {
	case session.MainToken:
		return session.Renew{Do: p.renewTokens}
	case session.IDToken:
		renew = p.renewIDToken
	}
	return session.Renew{Key: t.key, Do: func(ctx context.Context, s *session.Session) (*session.Session, error) {
		renewed, err := renew(ctx, s, t)
		if refused, ok := errors.AsType[*rp.TargetError](err); ok {
			isNew := p.noteRefusal(refusedRefresh, s.ID, t.key, refused.General)
			if isNew && refused.General {
				p.logger.Warn("the provider gives no token for a route by a refresh; browsers are sent there for it instead",
					zap.String("provider", p.name), zap.String("token", t.describe()), zap.Error(err), zap.String("hint", hintNoToken))
			}
		}
		return renewed, err
	}}
}

// renewIDToken is a refresh like any other, from which an ID token should come.
func (p *relyingParty) renewIDToken(ctx context.Context, s *session.Session, _ *routeToken) (*session.Session, error) {
	renewed, err := p.renewTokens(ctx, s)
	if err == nil && renewed.Since(session.IDToken) <= s.Since(session.IDToken) {
		err = &rp.TargetError{General: true, Err: errors.New("no new ID token came with the refresh")}
	}
	return renewed, err
}

// renewTarget asks the provider for a token for a target. Where the refresh token
// was replaced, that is kept even if the access token is not for the target.
func (p *relyingParty) renewTarget(ctx context.Context, s *session.Session, t *routeToken) (*session.Session, error) {
	metadata, err := p.client.Provider.Metadata(ctx)
	if err != nil {
		return nil, err
	}
	token, own := s.RefreshTokenFor(t.key)
	grant, err := p.client.Refresh(ctx, metadata, rp.Renewal{Token: token, Target: t.target, Own: own})
	switch {
	case err != nil && own && errors.Is(err, rp.ErrTarget):
		return s.Without(t.key, p.now()), err // the session's own refresh token may do, or a login
	case err != nil:
		return nil, err
	}
	// From here on the refresh token that was sent is spent.
	if err := p.client.SameUser(ctx, metadata, grant, &s.Identity); err != nil {
		p.revokeToken(grant.RefreshToken)
		return nil, err
	}
	if err := t.target.Check(grant); err != nil {
		switch {
		case own:
			return s.Without(t.key, p.now()), err
		case grant.RefreshToken.Reveal() == token.Reveal():
			return nil, err
		default:
			return s.WithRefreshToken(grant.RefreshToken), err
		}
	}
	f := session.NewFurther(t.key, grant, p.now())
	if own {
		f.RefreshToken = grant.RefreshToken
		return s.With(f), nil
	}
	renewed := s.With(f)
	renewed.RefreshToken = grant.RefreshToken
	return renewed, nil
}

// addToken adds the token of a login to a session: the newest copy that there is,
// when no refresh is under way.
func (p *relyingParty) addToken(ctx context.Context, keeper session.Keeper, s *session.Session, got *gotToken) (*session.Session, error) {
	if err := got.fits(s); err != nil {
		return nil, err
	}
	how := p.renewal(keeper, s, session.Renew{Key: got.token.Key, Anew: true, Do: func(_ context.Context, newest *session.Session) (*session.Session, error) {
		return newest.With(got.token), nil
	}}, p.now())
	how.Adds = true
	with, landing, err := p.shared.refresher.Fresh(ctx, s, how)
	finishFirst(landing)
	return with, err
}

// What was refused: a token by a refresh, or by a login.
const (
	refusedRefresh = "refresh"
	refusedLogin   = "login"
)

// refused reports whether the provider has refused a route's token lately, to
// anybody or in this session.
func (p *relyingParty) refused(how string, s *session.Session, t *routeToken, now time.Time) bool {
	return p.shared.refusals.has(p.refusalKey(how, "", t.key), now) || p.shared.refusals.has(p.refusalKey(how, s.ID, t.key), now)
}

// noteRefusal remembers it. What came through a browser says something of its
// own session only: anybody can make up a callback.
func (p *relyingParty) noteRefusal(how, id, key string, general bool) (isNew bool) {
	now, kept := p.now(), refusedTime
	if how == refusedLogin {
		general, kept = false, unavailableTime
	}
	if general {
		id = ""
	}
	return p.shared.refusals.note(p.refusalKey(how, id, key), now, now.Add(kept))
}

func (p *relyingParty) refusalKey(how, id, key string) string {
	return how + "\x00" + id + "\x00" + key + "\x00" + p.sealing.binding
}
