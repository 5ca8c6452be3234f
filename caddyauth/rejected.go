package caddyauth

import (
	"errors"
	"maps"
	"net/http"
	"slices"
	"time"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.uber.org/zap"

	"github.com/pkce-auth/caddy-pkce-auth/caddyauth/internal/rp"
	"github.com/pkce-auth/caddy-pkce-auth/caddyauth/internal/session"
)

// This file is about 401s of the upstream that are not for the client: they say
// that a request's access token is no good, and there is something that we can
// do about that.

// rejected looks at a 401 of the upstream before it is on its way, and reports
// whether the client is not to get it. Then something else has been done, and
// what follows of the upstream's answer is discarded. What is not known here,
// or does not help, passes as it is.
func (w *responseWriter) rejected() bool {
	a := w.auth
	if a.session == nil || a.brought || isUpgrade(a.request) {
		return false
	}
	lines := w.Header()["Www-Authenticate"]
	if len(lines) == 0 {
		return false
	}
	said, err := parseRejection(lines)
	switch {
	case err != nil, said.linked: // by a route of ours behind this one, or by an upstream that knows better
		return false
	case said.code == errorInvalidToken:
		return w.second.wanted(w)
	case said.code == errorInsufficient && w.handler.stepsUp() && (said.ask.MaxAge != nil || len(said.ask.ACRValues) > 0):
		return w.stepUp(said, lines)
	default:
		return false
	}
}

// stepsUp reports whether the upstream may ask for another login.
func (c *StepUpConfig) stepsUp() bool { return c.StepUp == nil || *c.StepUp }

// stepUp sends the browser to the provider with what the upstream asks for, if
// it navigates, and has not just come from there with it. Anything else learns
// where it could log in.
func (w *responseWriter) stepUp(said rejection, lines []string) bool {
	a := w.auth
	p, r := a.party, a.request
	switch {
	case kindOf(r) != navigation || r.ContentLength != 0:
		w.Header()["Www-Authenticate"] = said.link(lines, p.loginURL(r, said.ask, ""))
		return false
	case answers(a.session, said.ask, p.now()):
		p.logger.Warn("the upstream is not content with a login that was made for it", zap.String("provider", p.name),
			zap.String("sub", a.session.Subject), zap.String("path", originalURL(r).Path), zap.Strings("acr_values", said.ask.ACRValues),
			zap.String("hint", "compare what the upstream looks for in its access token with what the provider puts there: acr and auth_time"))
		return false
	}
	h := w.Header()
	w.adjust(h)
	if w.live.answer() != nil {
		return false // and nothing passes any more
	}
	theirs := maps.Clone(h)
	w.clear()
	if f := p.startLogin(w.ResponseWriter, r, loginStart{ask: said.ask}); f != nil {
		p.log(r, f)
		clear(h)
		maps.Copy(h, theirs)
		return false
	}
	w.wroteHeader = true
	_ = http.NewResponseController(w.ResponseWriter).Flush() // who follows it need not wait for the upstream
	w.discard(w.live.context.end)
	return true
}

// answers reports whether a session was made for just what is asked for, or is
// the last of too many: then one more would bring no more. One that was made for
// a max_age may have become too old for it meanwhile; but for a while nobody is
// asked anew, however short that is.
func answers(s *session.Session, ask rp.Ask, now time.Time) bool {
	const atLeast = 30 * time.Second
	switch {
	case tired(s, now):
		return true
	case !s.Step.Asks(ask):
		return false
	case ask.MaxAge == nil || now.Sub(s.Created) <= atLeast:
		return true
	}
	token, _ := s.Source(rp.FromIDToken)
	authTime, err := token.Time("auth_time")
	return err == nil && now.Sub(authTime) <= *ask.MaxAge
}

// clear takes away what the upstream wanted to say, for we answer in its place.
// What is set so far of our own cookies stays.
func (w *responseWriter) clear() {
	h := w.ResponseWriter.Header()
	maps.DeleteFunc(h, func(name string, _ []string) bool { return !slices.Contains(keptHeaders, name) })
	if len(w.auth.written) > 0 {
		h["Set-Cookie"] = slices.Clone(w.auth.written)
	}
}

// Bounds of an answer that is discarded. Whatever is not over by then is cut
// off.
const (
	discardedSize = 1 << 20
	discardedTime = 5 * time.Second
)

var errDiscarded = errors.New("the answer is discarded, and was too long")

// discarded is an answer of the upstream's that nobody gets.
type discarded struct {
	header http.Header // what the handler may still write into
	left   int64       // that is still read
	abort  func()
	timer  *time.Timer
}

// discard has all that follows of the answer go nowhere. abort is called if that
// is too much, or takes too long.
func (w *responseWriter) discard(abort func()) {
	w.gone = &discarded{header: http.Header{}, left: discardedSize, abort: abort, timer: time.AfterFunc(discardedTime, abort)}
}

// take takes so many bytes.
func (d *discarded) take(n int64) error {
	if d.left -= n; d.left < 0 {
		d.abort()
		return errDiscarded
	}
	return nil
}

// call calls the next handler. How one ends whose answer is discarded is no
// matter: it may have been cut off.
func (w *responseWriter) call(r *http.Request, next caddyhttp.Handler) (err error) {
	defer func() {
		if w.gone == nil {
			return
		}
		w.gone.timer.Stop()
		if panicked := recover(); panicked != nil && panicked != http.ErrAbortHandler { //nolint:errorlint // as net/http compares it
			panic(panicked)
		}
		err = nil
	}()
	return next.ServeHTTP(w, r)
}
