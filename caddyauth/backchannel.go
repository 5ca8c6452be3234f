package caddyauth

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"go.uber.org/zap"

	"github.com/pkce-auth/caddy-pkce-auth/caddyauth/internal/rp"
	"github.com/pkce-auth/caddy-pkce-auth/caddyauth/internal/session"
)

// Here the provider ends sessions: by a request of its own, which reaches every
// session (OpenID Connect Back-Channel Logout 1.0), or by a frame in the
// user's browser, which reaches that browser's, if the browser lets it
// (Front-Channel Logout 1.0).

// backChannelTime bounds the work for one logout token.
const backChannelTime = 15 * time.Second

// serveBackChannelLogout ends sessions for which the provider has signed a
// logout token. Anybody may send one here, so nothing is done before it has
// passed all checks, and what was wrong with it is for the log. The answer is
// 200 when the sessions are ended, be it that there were none (section 2.8);
// 400 to what is no good token; 503, which says that it may come again, where
// that cannot be told, or done, now.
func (p *relyingParty) serveBackChannelLogout(w http.ResponseWriter, r *http.Request) error {
	w.Header().Set("Cache-Control", "no-store") // the very words of section 2.8
	ctx, cancel := context.WithTimeout(context.WithoutCancel(r.Context()), backChannelTime)
	defer cancel()
	raw, err := readLogoutToken(r)
	if err != nil {
		w.Header().Set("Connection", "close") // what is left of the body is not waited for
		return p.refuseLogoutToken(w, r, err)
	}
	metadata, err := p.client.Provider.Metadata(ctx)
	if err != nil {
		return p.refuseLogoutToken(w, r, err)
	}
	token, err := p.client.VerifyLogoutToken(ctx, metadata, raw)
	if err != nil {
		return p.refuseLogoutToken(w, r, err)
	}
	first, undo, err := p.sessions.revocations.Once(ctx, token.Issuer+" "+token.ID, token.GoodUntil)
	if err == nil && !first {
		err = errReplayed
	}
	if err != nil {
		return p.refuseLogoutToken(w, r, err)
	}
	who := session.Selector{ProviderID: token.SessionID}
	if token.SessionID == "" {
		who.Subject = token.Subject
	}
	ended, err := p.endSessionsOf(ctx, who)
	if err != nil {
		undo() // so that it can come again
		return p.refuseLogoutToken(w, r, err)
	}
	p.logger.Info("logout by the provider", zap.String("provider", p.name), zap.String("sub", token.Subject), zap.String("sid", token.SessionID),
		zap.Int("in_store", ended.inStore), zap.Int("requests_cut", ended.cut))
	w.WriteHeader(http.StatusOK)
	return nil
}

var (
	errNoLogoutToken = errors.New("no form with one logout_token")
	errReplayed      = errors.New("the logout token was used before")
)

// readLogoutToken reads the form (section 2.5), which is bounded (A118): one
// logout_token, and whatever else, which is ignored.
func readLogoutToken(r *http.Request) (rp.Secret, error) {
	text, status := readForm(r)
	form, err := url.ParseQuery(text)
	if tokens := form["logout_token"]; status != 0 || err != nil || len(tokens) != 1 || tokens[0] == "" {
		return rp.Secret{}, errNoLogoutToken
	}
	return rp.NewSecret(form.Get("logout_token")), nil
}

// refuseLogoutToken answers what did not lead to a logout.
func (p *relyingParty) refuseLogoutToken(w http.ResponseWriter, r *http.Request, err error) error {
	status, answer := http.StatusBadRequest, "invalid_request"
	if errors.Is(err, rp.ErrNoKeys) || errors.Is(err, rp.ErrUnavailable) || reasonFor(err) == reasonSessionUnavailable {
		status, answer = http.StatusServiceUnavailable, "temporarily_unavailable"
		w.Header().Set("Retry-After", "5")
	}
	f := failure{reason: reasonLogoutToken, err: err}
	if status == http.StatusServiceUnavailable {
		f.reason = reasonLogoutFailed
	}
	p.log(r, &f)
	p.writeJSON(w, status, map[string]string{"error": answer, "id": f.id})
	return nil
}

// endings are what came of ending sessions.
type endings struct {
	inStore int // sessions
	cut     int // requests under way here
}

// endSessionsOf ends the sessions that are meant and have begun by now, on every
// instance. None that begins later is touched, and none that is just being made
// and began before escapes: who makes one looks afterwards whether it was
// ended.
func (p *relyingParty) endSessionsOf(ctx context.Context, who session.Selector) (ended endings, err error) {
	if who.Subject != "" && who.ProviderID != "" {
		return p.endSessionsOfBoth(ctx, who)
	}
	began := p.now()
	revoking := p.sessions.revocations.RevokeAll(ctx, who, began)
	if p.sessions.stored != nil {
		var gone []session.Summary
		gone, err = p.sessions.stored.EndAll(ctx, who, began)
		ended.inStore = len(gone)
	}
	ended.cut = p.cutRevoked()
	if err := errors.Join(revoking, err); err != nil {
		return ended, fmt.Errorf("ending sessions: %w", err)
	}
	return ended, nil
}

// errBoth says that sessions in cookies are found by one name only: a revocation
// that needs two would have to be looked for by each request.
var errBoth = errors.New("sessions in cookies are ended by sub or by sid, not by both")

// endSessionsOfBoth ends the sessions that two names mean together, one by one:
// a revocation of one of the names would end those of others, too.
func (p *relyingParty) endSessionsOfBoth(ctx context.Context, who session.Selector) (ended endings, err error) {
	if p.sessions.stored == nil {
		return ended, errBoth
	}
	gone, err := p.sessions.stored.EndAll(ctx, who, p.now())
	for _, s := range gone {
		err = errors.Join(err, p.sessions.revocations.Revoke(ctx, s.Handle))
	}
	ended.inStore, ended.cut = len(gone), p.cutRevoked()
	if err != nil {
		return ended, fmt.Errorf("ending sessions: %w", err)
	}
	return ended, nil
}

// serveFrontChannelLogout ends the session of the browser in which the provider
// shows this address in a frame, if it is the one that the provider names. That
// takes a cookie which browsers send into foreign frames: `same_site none`, and
// a browser that does not block it. Without the cookie nothing happens, for
// anybody can ask (R47), and the tokens stay as they are at the provider.
func (p *relyingParty) serveFrontChannelLogout(w http.ResponseWriter, r *http.Request) error {
	h := w.Header()
	h.Set("Cache-Control", "no-store")
	h.Del("X-Frame-Options")
	h.Set("Content-Security-Policy", strings.Replace(pagePolicy, "frame-ancestors 'none'", "frame-ancestors "+p.providerOrigins(), 1))
	query, err := url.ParseQuery(originalURL(r).RawQuery)
	if issuers, sids := query["iss"], query["sid"]; err != nil || len(issuers) != len(sids) || len(sids) > 1 {
		return p.fail(w, r, failure{reason: reasonMalformed, err: errors.New("front-channel logout wants iss and sid, each once")})
	}
	if sid := query.Get("sid"); sid != "" {
		if err := p.endNamed(w, r, query.Get("iss"), sid); err != nil {
			return p.fail(w, r, failure{reason: reasonSessionUnavailable, err: fmt.Errorf("ending the session: %w", err)})
		}
	}
	w.WriteHeader(http.StatusOK)
	return nil
}

// endNamed ends the session that the browser has, if the provider calls it so.
func (p *relyingParty) endNamed(w http.ResponseWriter, r *http.Request, issuer, sid string) error {
	a, _ := p.authState(r)
	secure, _ := a.secure()
	s, err := p.sessions.of(secure).Load(r.Context(), a.cookies)
	if errors.Is(err, session.ErrNone) || err == nil && s.ProviderID() != sid {
		return nil
	}
	if err != nil {
		return err
	}
	if !p.isOurIssuer(r.Context(), issuer) { // last, for it may have to ask the provider
		return nil
	}
	if _, err = p.endSession(w, r, false); err == nil {
		p.logger.Info("logout by the provider, in a frame", zap.String("provider", p.name), zap.String("sub", s.Subject), zap.String("sid", sid))
	}
	return err
}

// providerOrigins are those who may show our front-channel logout in a frame:
// the issuer's, and that of where logouts go there, as far as it is known.
func (p *relyingParty) providerOrigins() string {
	places := []string{p.client.Provider.Issuer()}
	known, cancel := context.WithCancel(context.Background())
	cancel() // nobody is asked for it
	if m, err := p.client.Provider.Metadata(known); err == nil {
		places = append(places, m.EndSessionEndpoint)
	}
	var origins []string
	for _, place := range places {
		u, err := url.Parse(place)
		if err != nil || u.Host == "" || strings.ContainsAny(u.Host, "{};, ") {
			continue
		}
		if origin := u.Scheme + "://" + u.Host; !slices.Contains(origins, origin) {
			origins = append(origins, origin)
		}
	}
	if len(origins) == 0 {
		return "'none'"
	}
	return strings.Join(origins, " ")
}
