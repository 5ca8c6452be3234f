package caddyauth

import (
	"errors"
	"net/http"
	"net/url"
	"slices"

	"go.uber.org/zap"

	"github.com/pkce-auth/caddy-pkce-auth/caddyauth/internal/rp"
	"github.com/pkce-auth/caddy-pkce-auth/caddyauth/internal/session"
)

// A page of this site may ask for a login that shows nothing: by prompt=none
// (OpenID Connect Core section 3.1.2.1), in a frame, or in its own window. Either
// the provider knows the user still, and there is a session, or the browser comes
// back to the page without one; the page then asks the session endpoint which it
// is. Nobody is led to a form that they cannot see, or did not ask for.

// silence is how little of a login is to be seen.
type silence struct {
	// asked says that a page wants to be back, whether or not the provider could
	// log in without showing anything.
	asked bool

	// framed says that the login is in a frame of the page, where nothing can be
	// shown at all: the provider's forms and our pages refuse to be framed.
	framed bool
}

// promptNone is the parameter that asks for it.
var promptNone = rp.Param{Name: "prompt", Value: "none"}

// silenceOf reads from a request for our login whether it asks for silence. Only
// this site's own pages may: who links here from elsewhere does not say how
// somebody logs in (A54). Browsers say who asks, in a header that no page can
// set; from those that do not, it is not taken.
func silenceOf(r *http.Request, q url.Values) silence {
	if !slices.Equal(q["prompt"], []string{"none"}) || r.Method != http.MethodGet ||
		r.Header.Get("Sec-Fetch-Site") != "same-origin" || r.Header.Get("Sec-Fetch-Mode") != "navigate" {
		return silence{}
	}
	dest := r.Header.Get("Sec-Fetch-Dest")
	return silence{asked: dest == "document" || dest == "iframe", framed: dest == "iframe"}
}

// add has the provider asked for silence, too.
func (s silence) add(params []rp.Param) []rp.Param {
	if !s.asked || slices.Contains(params, promptNone) {
		return params
	}
	return append(params, promptNone)
}

// leadBack sends a login that was to show nothing back to the page that asked
// for it, if that is all there is to do. In a window of its own, what is no
// matter of silence is said as ever.
func (p *relyingParty) leadBack(w http.ResponseWriter, r *http.Request, state *loginState, o *outcome, at origin) bool {
	f := o.failure
	switch {
	case !state.silence.asked, o.token != nil:
		return false
	case o.session != nil:
		if !state.silence.framed || !p.swaps(r, state, o.session, at) {
			return false
		}
	case wantsInteraction(f.err), f.reason == reasonInsufficient:
		p.logger.Debug("the provider does not log in without showing something", zap.String("provider", p.name), zap.Error(f.err))
	case state.silence.framed:
		p.log(r, &f)
	default:
		return false
	}
	redirect(w, http.StatusSeeOther, at.String()+state.returnTo)
	return true
}

// swaps reports whether a login in a frame would put another user's session in
// the place of the one that the browser has. The page around it goes on, with
// one user's text in its fields, and does not know that it speaks as another
// from then on. So nothing is changed: who wants to be the other logs in, or
// out, where it can be seen. The same if it cannot be told who is logged in.
func (p *relyingParty) swaps(r *http.Request, state *loginState, made *session.Session, at origin) bool {
	a, _ := p.authState(r)
	before := &state.before
	shown, err := p.sessions.of(at.secure()).Load(r.Context(), a.cookies)
	if err == nil {
		before = shown
	}
	switch {
	case err != nil && !errors.Is(err, session.ErrNone):
		p.logger.Warn("a login in a frame was not used: it cannot be told who is logged in here", zap.String("provider", p.name), zap.Error(err),
			zap.String("hint", hintFor(reasonFor(err), err)))
	case before.ID == "" || before.Subject == made.Subject:
		return false
	default:
		p.logger.Warn("a login in a frame was not used: another user is logged in at the provider than here", zap.String("provider", p.name),
			zap.String("sub", before.Subject), zap.String("sub_at_provider", made.Subject), zap.String("client_ip", clientIP(r)))
	}
	p.revoke(made)
	return true
}
