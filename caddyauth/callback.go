package caddyauth

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"time"

	"go.uber.org/zap"

	"github.com/pkce-auth/caddy-pkce-auth/caddyauth/internal/rp"
	"github.com/pkce-auth/caddy-pkce-auth/caddyauth/internal/sealed"
	"github.com/pkce-auth/caddy-pkce-auth/caddyauth/internal/session"
)

// outcome is what a callback led to: a session, or a failure.
type outcome struct {
	session *session.Session
	token   *gotToken // for the session that is there, and then none comes
	failure failure
}

// callback is the redirection endpoint. In this order: the state, whose login
// and whose browser; then the issuer, an error, the code. Nothing before the
// state is known to be ours is believed, and nothing of the grant is used
// before the ID token has passed all checks (RFC 9700 section 4.5.3).
//
// It raises no error and shows no page for one: Caddy would log the URL, and
// the address bar keep it, code and all (F20, A58). What failed is said at the
// error endpoint.
func (p *relyingParty) callback(w http.ResponseWriter, r *http.Request) {
	text := originalURL(r).RawQuery
	if r.Method == http.MethodPost {
		var status int
		if text, status = readForm(r); status != 0 {
			w.Header().Set("Connection", "close") // what is left of it is not waited for
			w.WriteHeader(status)
			return
		}
	}
	response, err := rp.ParseAuthResponse(text)
	if err != nil {
		p.failCallback(w, r, failure{reason: reasonMalformed, err: err})
		return
	}
	param := parseStateParam(response.State)
	if param.tag != p.logins.tag {
		p = p.app.sharing(p, param.tag)
	}
	at, err := p.site.origins.of(r)
	if err != nil {
		p.failCallback(w, r, failure{reason: reasonMisdirected, err: err})
		return
	}
	a, _ := p.authState(r)
	state, err := p.logins.open(param)
	if errors.Is(err, sealed.ErrKeys) {
		p.failCallback(w, r, failure{reason: reasonSessionUnavailable, err: err})
		return
	}
	if err != nil {
		p.leadOn(w, r, &loginState{attempt: param.attempt, returnTo: "/"}, response, fmt.Errorf("%w: state: %w", errStateGone, err))
		return
	}
	if p.logins.post && r.Method == http.MethodGet && response.Empty() {
		p.leadOn(w, r, state, response, errStateNotPosted)
		return
	}
	names := p.site.cookies(at.secure())
	if err := p.logins.complete(state, names.login, a.cookies, p.now()); err != nil {
		p.leadOn(w, r, state, response, err)
		return
	}
	_ = a.setCookies(w.Header(), func(h http.Header) error {
		p.logins.cookie(state.cookieName(names.login), at.secure()).Delete(h)
		return nil
	})
	flight, first := p.shared.callbacks.begin(state.id, p.now())
	if first {
		// Whatever becomes of the browser: the code is spent now.
		flight.run(func() *outcome { return p.complete(context.WithoutCancel(r.Context()), state, response, at) })
	}
	if o := flight.wait(r.Context()); o != nil {
		p.answerCallback(w, r, state, o, at)
		return
	}
	p.leadOn(w, r, state, response, fmt.Errorf("%w: it was used before", errStateGone))
}

// answerCallback sends the browser on: to where its user wanted to go, once
// more to the provider if that may help, or to what there is to say.
func (p *relyingParty) answerCallback(w http.ResponseWriter, r *http.Request, state *loginState, o *outcome, at origin) {
	if p.leadBack(w, r, state, o, at) {
		return
	}
	anew := loginStart{returnTo: state.returnTo, attempt: state.attempt, params: state.params, ask: state.ask}
	switch {
	case o.session != nil:
		p.finish(w, r, o.session, state, at)
		return
	case o.token != nil:
		p.finishTarget(w, r, o.token, state, at)
		return
	case state.silent && wantsInteraction(o.failure.err):
		anew.interactive = true
	case o.failure.reason == reasonInsufficient && !state.again:
		p.logger.Info("the login was not fresh or strong enough, and is asked for once more", zap.String("provider", p.name), zap.Error(o.failure.err))
		anew.again = true
	case !state.ask.Target.Empty():
		p.failTarget(w, r, state, o.failure)
		return
	default:
		f := o.failure
		f.returnTo = state.returnTo
		p.failCallback(w, r, f)
		return
	}
	if f := p.startLogin(w, r, anew); f != nil {
		p.failCallback(w, r, *f)
	}
}

// wantsInteraction reports whether the provider says that it must show
// something to the user, which prompt=none kept it from (OpenID Connect Core
// section 3.1.2.6).
func wantsInteraction(err error) bool {
	oauthErr, ok := errors.AsType[*rp.OAuthError](err)
	return ok && slices.Contains([]string{"login_required", "consent_required", "interaction_required", "account_selection_required"}, oauthErr.Code)
}

// complete turns an authorization response into a session: one token request,
// then the checks.
func (p *relyingParty) complete(ctx context.Context, state *loginState, response *rp.AuthResponse, at origin) *outcome {
	fail := func(err error) *outcome {
		f := failure{reason: reasonFor(err), err: err}
		if oauthErr, ok := errors.AsType[*rp.OAuthError](err); ok && f.reason == reasonDenied {
			f.description = oauthErr.Description
		}
		return &outcome{failure: f}
	}
	began := p.now()
	metadata, err := p.client.Provider.Metadata(ctx)
	if err != nil {
		return fail(err)
	}
	if err := p.client.CheckIssuer(metadata, response); err != nil {
		return &outcome{failure: failure{reason: reasonMalformed, err: err}}
	}
	if response.Error != nil {
		return fail(response.Error)
	}
	if response.Code.Empty() {
		return &outcome{failure: failure{reason: reasonMalformed, err: errors.New("neither a code nor an error")}}
	}
	request := rp.AuthRequest{Transaction: state.tx, Ask: state.ask, RedirectURI: p.redirectURI(at)}
	grant, err := p.client.Exchange(ctx, metadata, response.Code, request)
	if err != nil {
		return fail(err)
	}
	if !state.ask.Target.Empty() {
		got, err := p.completeTarget(ctx, metadata, grant, request)
		if err != nil {
			return fail(err)
		}
		return &outcome{token: got}
	}
	who, err := p.client.Identify(ctx, metadata, grant, request)
	if err != nil {
		p.revokeToken(grant.RefreshToken) // nobody will use it
		return fail(err)
	}
	p.noteOpaqueToken(grant)
	p.noteOverage(who)
	p.noteLeakedKeys()
	if !p.policy.refresh {
		grant.RefreshToken = rp.Secret{} // what is not used is not kept
	}
	made := session.New(grant, who, p.now())
	made.Created = began // whoever is logged out from here on is not logged in by what comes later
	made.Step = state.before.Next(state.ask, began)
	if !made.TokenAlive(p.now()) { // or the next request would begin another login, and so on
		return fail(fmt.Errorf("%w: the access token expired before it was here", rp.ErrInvalid))
	}
	return &outcome{session: made}
}

// finish gives the browser its session, a new one at every login (A61), and
// sends it to where its user wanted to go.
func (p *relyingParty) finish(w http.ResponseWriter, r *http.Request, s *session.Session, state *loginState, at origin) {
	a, _ := p.authState(r)
	before := []*session.Session{&state.before}
	if shown, err := p.sessions.of(at.secure()).Load(r.Context(), a.cookies); err == nil {
		before = append(before, shown)
		p.noteOtherUser(shown, s)
	}
	if err := p.save(w.Header(), r, a, s); err != nil && !errors.Is(err, errSlimmed) {
		p.failCallback(w, r, failure{reason: reasonFor(err), err: fmt.Errorf("keeping the session: %w", err), returnTo: state.returnTo})
		return
	}
	ended, err := p.endedMeanwhile(r.Context(), s)
	if ended || err != nil { // what would be there of it opens nothing, and may stand in another's place
		a.written = p.withoutSession(a, a.written)
		w.Header()["Set-Cookie"] = p.withoutSession(a, w.Header()["Set-Cookie"])
	}
	switch {
	case err != nil:
		p.failCallback(w, r, failure{reason: reasonFor(err), err: err, returnTo: state.returnTo})
		return
	case ended:
		p.logger.Info("a login was undone: its session was ended meanwhile", zap.String("provider", p.name), zap.String("sub", s.Subject))
	default:
		for _, replaced := range before {
			p.supersede(r.Context(), replaced, s)
		}
		p.logger.Info("login", zap.String("provider", p.name), zap.String("sub", s.Subject), zap.String("client_ip", clientIP(r)), zap.String("host", at.host))
	}
	p.goOn(w, at, state)
}

// goOn sends the browser to where its user wanted to go.
func (p *relyingParty) goOn(w http.ResponseWriter, at origin, state *loginState) {
	target := at.String() + state.returnTo
	if p.site.strict && !state.silence.framed { // in a frame of this site, its cookies are not a foreign site's
		p.writePage(w, http.StatusOK, continuePage(target))
		return
	}
	redirect(w, http.StatusSeeOther, target)
}

// supersede ends a session that was replaced by another in its browser: no
// answer under way brings it back, and where sessions are in a store, no copy
// of its cookie opens any more (A61).
func (p *relyingParty) supersede(ctx context.Context, before, by *session.Session) {
	if before.ID == "" || before.ID == by.ID { // a callback may come twice
		return
	}
	p.shared.superseded.Mark(before.ID, p.now(), before.Created.Add(p.sessions.limits.Lifetime))
	if p.sessions.stored != nil {
		p.endReplaced(ctx, before)
		p.remember(ctx, before)
	}
	p.sayCut(before, p.shared.live.endSession(before.ID, errReplaced, nil), errReplaced)
}

// The store is asked once more so many times, with a pause that doubles, to let
// go of a session that was replaced: it is remembered for less long than it could
// be used.
const replacedTries, replacedPause = 8, time.Second

// endReplaced ends a replaced session in the store; if that does not take it now,
// in the background, for nobody waits for it.
func (p *relyingParty) endReplaced(ctx context.Context, before *session.Session) {
	end := func() error {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), endTime)
		defer cancel()
		return p.sessions.stored.End(ctx, before.Handle())
	}
	err := end()
	if err == nil {
		return
	}
	p.logger.Warn("a session that another login has replaced is still in the store", zap.String("provider", p.name), zap.Error(err),
		zap.String("hint", howToMendStore))
	go func() {
		for try, pause := 0, replacedPause; try < replacedTries && !p.app.stopped.Load(); try, pause = try+1, 2*pause {
			time.Sleep(pause)
			if end() == nil {
				return
			}
		}
	}()
}

// endedMeanwhile ends a new session that was ended while it was being made:
// whoever ended it looked for it before it was there, and left word. Where that
// cannot be told it is an error, and the session goes, too.
func (p *relyingParty) endedMeanwhile(ctx context.Context, s *session.Session) (ended bool, err error) {
	if p.sessions.stored == nil { // else every request looks at that
		return false, nil
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*rememberTime) // it is in the store, whoever hangs up now
	defer cancel()
	err = p.sessions.revocations.LookNow(ctx)
	if ended = p.sessions.revocations.Has(s); err == nil && !ended {
		return false, nil
	}
	if err != nil {
		err = fmt.Errorf("was the session ended while it was made: %w", err)
	}
	return ended, errors.Join(err, p.sessions.stored.End(ctx, s.Handle()))
}

// leadOn is for a callback whose state is gone: too old, used before, of
// another browser, or a URL that somebody made up. The code in it is not
// used. Who is logged in gets where they wanted to go; who is not begins one
// new login, and if that ends here again, reads a page. So there is no loop.
func (p *relyingParty) leadOn(w http.ResponseWriter, r *http.Request, state *loginState, response *rp.AuthResponse, cause error) {
	a, _ := p.authState(r)
	at, err := p.site.origins.of(r)
	if err != nil {
		p.failCallback(w, r, failure{reason: reasonMisdirected, err: err})
		return
	}
	if r.Method == http.MethodPost {
		p.redirectPost(w, at, response)
		return
	}
	target := p.returnTo(at.String()+state.returnTo, at)
	s, err := p.load(r, a, true)
	switch {
	case err == nil:
		a.session = s
		p.renew(w.Header(), r, a)
		p.logger.Debug("callback without its login state, but with a session", zap.String("provider", p.name), zap.Error(cause))
		redirect(w, http.StatusSeeOther, at.String()+target)
	case !errors.Is(err, session.ErrNone):
		p.failCallback(w, r, failure{reason: reasonFor(err), err: err, returnTo: target})
	case response.Error != nil || kindOf(r) != navigation:
		p.failCallback(w, r, failure{reason: reasonStateGone, err: cause, returnTo: target})
	case state.attempt > 0:
		p.failCallback(w, r, failure{reason: reasonCookies, err: cause, returnTo: target})
	default:
		if f := p.startLogin(w, r, loginStart{returnTo: target, attempt: state.attempt + 1}); f != nil {
			p.failCallback(w, r, *f)
		}
	}
}
