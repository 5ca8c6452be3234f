package caddyauth

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"go.uber.org/zap"

	"github.com/pkce-auth/caddy-pkce-auth/caddyauth/internal/rp"
	"github.com/pkce-auth/caddy-pkce-auth/caddyauth/internal/sealed"
	"github.com/pkce-auth/caddy-pkce-auth/caddyauth/internal/session"
)

// A login that gets a further token for the session that is there. It never
// makes a session, and the token never becomes that of the login.

// gotToken is what such a login brought.
type gotToken struct {
	token   *session.Further
	subject string
	issuer  string
}

var errOtherUser = errors.New("somebody else is logged in at the provider than in this session")

// fits reports whether the token is for the user of the session.
func (g *gotToken) fits(s *session.Session) error {
	token, _ := s.Source(rp.FromIDToken)
	issuer, _ := token.Text("iss")
	if g.subject != s.Subject || g.issuer != issuer {
		return errOtherUser
	}
	return nil
}

// narrow makes what is asked for fit what is there. Without a session, or where
// the user must prove anew who they are, the login is the provider's own: one
// session for all. The token for the target is got afterwards, by whoever asked
// for it.
func (p *relyingParty) narrow(start *loginStart, before *session.Session) {
	if start.ask.Target.Empty() || before != nil && start.ask.MaxAge == nil && len(start.ask.ACRValues) == 0 {
		return
	}
	start.ask.Target, start.silent = rp.Target{}, false
}

// comingBack is where a login on request leads: a target needs a session first,
// and then comes here again.
func (p *relyingParty) comingBack(r *http.Request, start loginStart, at origin) loginStart {
	if start.ask.Target.Empty() {
		return start
	}
	a, _ := p.authState(r)
	if _, err := p.sessions.of(at.secure()).Load(r.Context(), a.cookies); err == nil {
		start.silent = true
		return start
	}
	if u, err := url.Parse(p.loginURL(r, start.ask, start.returnTo)); err == nil && len(u.RequestURI()) <= maxReturnTo {
		start.returnTo = u.RequestURI()
	}
	return start
}

// completeTarget checks what came for a target, and whose it is.
func (p *relyingParty) completeTarget(ctx context.Context, m *rp.Metadata, grant *rp.Grant, r rp.AuthRequest) (*gotToken, error) {
	got := &gotToken{token: session.NewFurther(targetKey(r.Ask.Target), grant, p.now())}
	who, err := p.client.IdentifyTarget(ctx, m, grant, r)
	if err == nil {
		err = r.Ask.Target.Check(grant)
	}
	if err == nil && !p.now().Before(grant.Expiry) {
		err = fmt.Errorf("%w: the access token expired before it was here", rp.ErrInvalid)
	}
	if err != nil {
		p.revokeToken(grant.RefreshToken)
		return nil, err
	}
	if p.policy.refresh {
		got.token.RefreshToken = grant.RefreshToken
	}
	got.subject, got.issuer = who.Subject, who.Issuer
	return got, nil
}

// finishTarget adds the token to the session of the browser, the one that it had
// when the login began, and leads on. Where the callback does not see that
// session, for it came from the provider's site, the token waits for it.
func (p *relyingParty) finishTarget(w http.ResponseWriter, r *http.Request, got *gotToken, state *loginState, at origin) {
	a, _ := p.authState(r)
	keeper := p.sessions.of(at.secure())
	s, err := keeper.Load(r.Context(), a.cookies)
	if err == nil && p.sessions.revocations.Has(s) {
		err = session.ErrEnded
	}
	switch {
	case err == nil && s.ID != state.before.ID:
		p.revokeToken(got.token.RefreshToken)
		p.logger.Info("a token came for a session that another login has replaced", zap.String("provider", p.name), zap.String("sub", s.Subject))
	case err == nil:
		err = p.giveToken(w, r, s, got)
	case errors.Is(err, session.ErrNone) && (p.site.strict || p.logins.post) && state.before.ID != "":
		p.shared.parked.put(state.before.ID+got.token.Key, got, p.now())
		p.countParked(w, a, got.token.Key, at.secure())
		err = nil
	}
	switch {
	case err == nil:
		p.goOn(w, at, state)
	case errors.Is(err, session.ErrNone):
		p.revokeToken(got.token.RefreshToken)
		p.leadOn(w, r, state, &rp.AuthResponse{}, fmt.Errorf("the session that the token was for: %w", err))
	default:
		p.revokeToken(got.token.RefreshToken)
		p.failTarget(w, r, state, failure{reason: reasonFor(err), err: err})
	}
}

// giveToken adds a token to the session that the browser shows.
func (p *relyingParty) giveToken(w http.ResponseWriter, r *http.Request, s *session.Session, got *gotToken) error {
	a, _ := p.authState(r)
	secure, _ := a.secure()
	with, err := p.addToken(r.Context(), p.sessions.of(secure), s, got)
	if err != nil {
		return err
	}
	a.session, a.loaded = with, s.Generation
	if p.sessions.stored != nil {
		return nil
	}
	return p.save(w.Header(), r, a, with)
}

// failTarget says why there is no token for a target, and sees to it that the
// page which needs it does not begin another login at once.
func (p *relyingParty) failTarget(w http.ResponseWriter, r *http.Request, state *loginState, f failure) {
	f.returnTo = state.returnTo
	if f.reason != reasonUnavailable && f.reason != reasonDenied && f.reason != reasonSessionUnavailable {
		p.noteRefusal(refusedLogin, state.before.ID, targetKey(state.ask.Target), false)
		if f.reason != reasonTooLarge {
			f.reason, f.err = reasonNoToken, fmt.Errorf("%s: %w", describe(state.ask.Target), f.err)
		}
	}
	p.failCallback(w, r, f)
}

const (
	// parkedTime is how long a token waits for its session.
	parkedTime = time.Minute

	// maxParked is how often in a row a browser's token may wait in a process that
	// its next request does not come to, as behind replicas without stickiness.
	maxParked = 3
)

// parkedCookie counts, in the browser, how often a token waited for it of late: no
// process knows that of the others. It is no secret, and who forges it gets an
// error sooner.
func (p *relyingParty) parkedCookie(key string, secure bool) sealed.Cookie {
	return p.logins.cookie(p.site.cookies(secure).login+"p"+key[:min(8, len(key))], secure)
}

func (p *relyingParty) timesParked(a *authState, key string, secure bool) int {
	text, _ := sealed.Value(a.cookies, p.parkedCookie(key, secure).Name, 0)
	n, err := strconv.Atoi(text)
	if err != nil {
		return 0
	}
	return n
}

func (p *relyingParty) countParked(w http.ResponseWriter, a *authState, key string, secure bool) {
	times := min(max(0, p.timesParked(a, key, secure)), maxParked) + 1
	_ = a.setCookies(w.Header(), func(h http.Header) error {
		p.parkedCookie(key, secure).Set(h, strconv.Itoa(times), parkedTime)
		return nil
	})
}
