package caddyauth

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"time"

	"go.uber.org/zap"

	"github.com/pkce-auth/caddy-pkce-auth/caddyauth/internal/rp"
	"github.com/pkce-auth/caddy-pkce-auth/caddyauth/internal/sealed"
	"github.com/pkce-auth/caddy-pkce-auth/caddyauth/internal/session"
)

// errTokenExpired says that the session's access token is over, and that
// there is no way to get another without a login.
var errTokenExpired = fmt.Errorf("%w: its access token has expired", session.ErrNone)

// unneededTime bounds what a request that needs no session waits for a store: a
// slow one answers by then, and one that hangs does not hold up a health check.
const unneededTime = time.Second

// storePatience is longer than anybody waits for a store, and for revocations: a
// token that ends later than that is good yet when they have answered.
const storePatience = time.Minute

// load returns the session that a request's cookies stand for, if it may be
// used now, with an access token that is good. Errors are those of
// session.Keeper, and of session.Refresher. A request that needs no session
// does not wait for one either.
func (p *relyingParty) load(r *http.Request, a *authState, needed bool) (*session.Session, error) {
	secure, ok := a.secure()
	if !ok {
		return nil, session.ErrNone // nobody can have logged in there
	}
	ctx := r.Context()
	if !needed {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, unneededTime)
		defer cancel()
	}
	keeper := p.sessions.of(secure)
	now := p.now()
	a.asked = now
	s, err := p.present(ctx, keeper, a)
	if err != nil {
		return nil, err
	}
	if s.TokenExpiry.Sub(now) < storePatience { // the store may have taken its time
		now = p.now()
		a.asked = now
	}
	if s.Generation > 0 && s.FirstShown() {
		p.shared.refresher.Presented(p.flightKey(s), s.Generation, now)
	}
	if p.policy.refresh && s.Due(now, p.policy.early) {
		a.due = true
		how := p.renewal(keeper, s, session.Renew{Do: p.renewTokens}, now)
		how.NoWait = !needed
		fresh, landing, err := p.shared.refresher.Fresh(ctx, s, how)
		finishFirst(landing)
		a.landing = landing
		if err != nil && !needed {
			a.dormant = s
		}
		if errors.Is(err, session.ErrEnded) {
			p.endRequests(s, err)
		}
		return fresh, err
	}
	if !s.TokenAlive(now) {
		return nil, errTokenExpired
	}
	return s, nil
}

// present returns the session that a request's cookies stand for, if its time
// is not up and nobody has ended it, whatever has become of its access token.
// The request's time must be known.
func (p *relyingParty) present(ctx context.Context, keeper session.Keeper, a *authState) (*session.Session, error) {
	s, err := keeper.Load(ctx, a.cookies)
	if err != nil {
		return nil, err
	}
	a.loaded = s.Generation
	if p.sessions.stored == nil { // else the store has told already
		if err := p.sessions.revocations.Fresh(ctx, a.asked); err != nil {
			return nil, err
		}
	}
	if p.sessions.revocations.Has(s) || !p.client.Admits(&s.Identity) {
		return nil, session.ErrEnded
	}
	return s, nil
}

// flightKey names a session's refreshes: the session, and all that shapes the
// provider's answer (A74).
func (p *relyingParty) flightKey(s *session.Session) string { return s.ID + "\x00" + p.sealing.binding }

// renewal is how one of the tokens of a keeper's session is got.
func (p *relyingParty) renewal(keeper session.Keeper, s *session.Session, how session.Renew, now time.Time) session.Refresh {
	return session.Refresh{
		Key: p.flightKey(s), Token: how.Key, Keep: p.sessions.limits.Idle, Now: now,
		Do: func(ctx context.Context, s *session.Session) (*session.Session, error) {
			return p.refresh(ctx, keeper, s, how)
		},
	}
}

// refresh asks the provider for a new token, if nobody else has. It runs once
// for all requests of a session, and for none of them in particular.
func (p *relyingParty) refresh(ctx context.Context, keeper session.Keeper, s *session.Session, how session.Renew) (renewed *session.Session, err error) {
	if p.sessions.stored != nil { // else no request comes any more that could take the outcome to the browser
		defer unfinished.begin()()
	}
	defer func() {
		if panicked := recover(); panicked != nil {
			p.logger.Error("a refresh panicked", zap.String("provider", p.name), zap.Any("panic", panicked), zap.Stack("stack"))
			panic(panicked)
		}
	}()
	var got *session.Session // from the provider, in this very flight
	ask := how.Do
	how.Do = func(ctx context.Context, s *session.Session) (*session.Session, error) {
		var err error
		got, err = ask(ctx, s)
		return got, err
	}
	renewed, err = keeper.Refresh(ctx, s, how)
	if renewed != nil && p.sessions.revocations.Has(s) { // logged out meanwhile
		renewed, err = nil, session.ErrEnded
	}
	if errors.Is(err, session.ErrEnded) && got != nil {
		p.revoke(got)
	}
	if renewed != nil {
		p.shared.live.learn(renewed)
	}
	p.sayRefreshed(ctx, s, err)
	return renewed, err
}

// sayRefreshed tells what became of a refresh. A session whose provider does not
// refresh it any longer is remembered as over.
func (p *relyingParty) sayRefreshed(ctx context.Context, s *session.Session, err error) {
	switch {
	case err == nil:
		p.logger.Debug("tokens refreshed", zap.String("provider", p.name), zap.String("sub", s.Subject))
	case errors.Is(err, session.ErrEnded):
	case errors.Is(err, rp.ErrTarget):
		p.logger.Info("a refresh brings no token for a route", zap.String("provider", p.name), zap.String("sub", s.Subject), zap.Error(err))
	case errors.Is(err, rp.ErrGrantOver):
		if p.sessions.stored != nil { // else another instance may well have newer tokens
			p.remember(ctx, s)
		}
		p.logger.Info("session ended: the provider does not refresh its tokens any longer",
			zap.String("provider", p.name), zap.String("sub", s.Subject), zap.Error(err))
	default:
		why := reasonFor(err)
		failures.WithLabelValues(p.name, string(why)).Inc()
		p.logger.Warn("refresh failed", zap.String("provider", p.name), zap.String("sub", s.Subject), zap.String("reason", string(why)),
			zap.Error(err), zap.String("hint", hintFor(why, err)))
	}
}

func (p *relyingParty) renewTokens(ctx context.Context, s *session.Session) (*session.Session, error) {
	metadata, err := p.client.Provider.Metadata(ctx)
	if err != nil {
		return nil, err
	}
	grant, err := p.client.Refresh(ctx, metadata, rp.Renewal{Token: s.RefreshToken})
	if err != nil {
		return nil, err
	}
	// From here on the old refresh token is spent: what is not kept is revoked.
	who, err := p.client.IdentifyAgain(ctx, metadata, grant, &s.Identity)
	if errors.Is(err, rp.ErrNoKeys) {
		p.logger.Warn("refreshed tokens cannot be checked for claims, and the old claims stay", zap.String("provider", p.name), zap.Error(err))
		who, err = nil, nil
	}
	if err != nil {
		p.revokeToken(grant.RefreshToken)
		return nil, err
	}
	return s.Refreshed(grant, who, p.now()), nil
}

// renew writes a session that is newer than the one the browser has: its
// tokens were refreshed, or its idle clock is set back. One that cannot be
// written ends when it would have.
func (p *relyingParty) renew(h http.Header, r *http.Request, a *authState) {
	renewed, due := p.sessions.limits.Renew(a.session, a.asked) // it was loaded then: to look at the clock again costs more than this
	if !due && !a.refreshed() {
		return
	}
	p.write(h, r, a, renewed)
}

// write gives the browser a session that takes the place of the one it has.
func (p *relyingParty) write(h http.Header, r *http.Request, a *authState, s *session.Session) {
	if err := p.save(h, r, a, s); err != nil && !errors.Is(err, errSlimmed) {
		if r.Context().Err() != nil { // nobody is there, and the next request does it
			return
		}
		p.logger.Error("a session cannot be renewed, and will end", zap.String("provider", p.name), zap.String("sub", s.Subject),
			zap.Error(err), zap.String("hint", hintFor(reasonFor(err), err)))
		return
	}
	a.session, a.loaded = s, s.Generation // for a further handler of this provider
}

// deliveryTime is how long an answer's header is held back for the refresh
// that its request began. The request itself is long under way; but tokens
// that reach the browser with this answer are safe from a restart, and known
// to the other replicas, while those that are only kept here are not.
const deliveryTime = 250 * time.Millisecond

// catchUp sees to it, when an answer's header is written, that the browser
// gets the newest tokens there are: those of a refresh that has ended since the
// request came, and never older ones than it has by now.
func (p *relyingParty) catchUp(h http.Header, a *authState) {
	if !a.due && a.written == nil {
		return // as nearly always
	}
	if p.sessions.stored == nil { // else nothing has to reach the browser
		a.awaitRefresh(deliveryTime)
	}
	s := a.session
	if s == nil {
		s = a.dormant
	}
	switch latest, known := p.shared.refresher.Latest(p.flightKey(s), s); {
	case latest.Generation > s.Generation:
		a.written = p.withoutSession(a, a.written)
		p.write(h, a.request, a, latest)
	case !known && !s.RefreshToken.Empty() && p.now().Sub(a.asked) >= session.StragglerTime:
		// So much later, nobody knows any more whether there are newer tokens: a
		// lost slide is cheap, and these may be spent.
		a.written = p.withoutSession(a, a.written)
	}
}

// awaitRefresh waits for the refresh that this request began, once, and not for
// long.
func (a *authState) awaitRefresh(atMost time.Duration) {
	if a.landing == nil {
		return
	}
	timer := time.NewTimer(atMost)
	defer timer.Stop()
	select {
	case <-a.landing:
	case <-timer.C:
	}
	a.landing = nil // another handler of this provider does not wait again
}

// withoutSession takes this provider's session, and what belongs to it, out of
// Set-Cookie lines.
func (p *relyingParty) withoutSession(a *authState, lines []string) []string {
	secure, _ := a.secure()
	names := p.site.cookies(secure)
	return slices.DeleteFunc(slices.Clone(lines), func(line string) bool {
		name, _, _ := strings.Cut(line, "=")
		return names.isSession(name) || name == names.hint
	})
}

// errSlimmed says that a session was kept, but without the tokens that not every
// session has: they did not fit.
var errSlimmed = errors.New("the tokens that some routes send upstream do not fit the session's cookies")

// save is saveWhole; what does not fit goes, if the session is one without it.
func (p *relyingParty) save(h http.Header, r *http.Request, a *authState, s *session.Session) error {
	err := p.saveWhole(h, r, a, s)
	if _, large := errors.AsType[*sealed.TooLargeError](err); !large {
		return err
	}
	slim, ok := s.Slim()
	if !ok || p.saveWhole(h, r, a, slim) != nil {
		return err
	}
	p.shared.slimmed.Do(func() {
		p.logger.Error("the tokens that some routes send upstream do not fit the session's cookies beside the session; those routes fail, or are slow",
			zap.String("provider", p.name), zap.Error(err), zap.String("hint", "keep sessions elsewhere: session storage, or session redis"))
	})
	return fmt.Errorf("%w: %w", errSlimmed, err)
}

// saveWhole keeps a session, and gives the browser what it needs to come back: if
// that fits, together with all other cookies of ours, what servers take.
func (p *relyingParty) saveWhole(h http.Header, r *http.Request, a *authState, s *session.Session) error {
	secure, _ := a.secure()
	names := p.site.cookies(secure)
	return a.setCookies(h, func(h http.Header) error {
		made := http.Header{}
		if err := p.sessions.of(secure).Save(r.Context(), made, a.cookies, s); err != nil {
			return err
		}
		size := othersSize(a.cookies, names)
		for _, c := range (&http.Response{Header: made}).Cookies() {
			size += len(c.Name) + len(c.Value)
		}
		if size > maxAllCookies {
			return &sealed.TooLargeError{Size: size, Limit: maxAllCookies}
		}
		maps.Copy(h, made)
		p.saveHint(h, s, secure)
		return nil
	})
}

// hintJar is the cookie that keeps the ID token for the logout. No request
// but that for the logout carries it.
func (p *relyingParty) hintJar(secure bool) *sealed.Jar {
	cookie := loginCookie(p.site.cookies(secure).hint, secure)
	cookie.Path = p.site.endpoints.prefix + pathLogout
	return &sealed.Jar{Cookie: cookie, Box: p.sealing.hints, MaxChunks: 1}
}

// maxHint bounds the ID token that goes into the logout's URL: servers refuse
// long ones.
const maxHint = 4 << 10

// saveHint keeps a new ID token for the logout. One that does not fit is let
// go: the provider can be told by other means whose session it is.
func (p *relyingParty) saveHint(h http.Header, s *session.Session, secure bool) {
	if s.IDToken.Empty() || p.policy.logout == rp.LogoutLocal || p.sessions.stored != nil || p.policy.forwardsID { // a store keeps it with the session
		return
	}
	data, err := session.EncodeHint(s)
	if size := len(s.IDToken.Reveal()); err == nil && size > maxHint {
		err = fmt.Errorf("it has %d bytes", size)
	}
	if err == nil { // it is not written again as the session slides
		err = p.hintJar(secure).Write(h, nil, data, s.Created.Add(p.sessions.limits.Lifetime).Sub(p.now()))
	}
	if err != nil {
		p.logger.Debug("the ID token is not kept for the logout", zap.String("provider", p.name), zap.Error(err))
	}
}

// revoke has the provider forget a session's refresh tokens, without anybody
// waiting for it.
func (p *relyingParty) revoke(s *session.Session) {
	for _, token := range s.RefreshTokens() {
		p.revokeToken(token)
	}
}

func (p *relyingParty) revokeToken(token rp.Secret) {
	if !p.policy.revoke || token.Empty() {
		return
	}
	done := unfinished.begin()
	go func() {
		defer done()
		ctx, cancel := context.WithTimeout(context.Background(), revocationTimeout)
		defer cancel()
		metadata, err := p.client.Provider.Metadata(ctx)
		if err == nil {
			err = p.client.Revoke(ctx, metadata, token)
		}
		if err != nil {
			p.logger.Warn("a refresh token could not be revoked at the provider", zap.String("provider", p.name), zap.Error(err))
		}
	}()
}

// revocationTimeout bounds how long a revocation may take.
const revocationTimeout = 10 * time.Second
