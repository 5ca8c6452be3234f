package caddyauth

import (
	"errors"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.uber.org/zap"

	"github.com/pkce-auth/caddy-pkce-auth/caddyauth/internal/rp"
	"github.com/pkce-auth/caddy-pkce-auth/caddyauth/internal/session"
)

// StepUpConfig is what a route wants of a login, beyond that there was one, and
// what happens when the upstream is not content with the access token.
type StepUpConfig struct {
	// How long ago users may have proved who they are, for this route, in
	// addition to the provider's `clock_skew`. A session whose login is older,
	// or whose ID token does not say when it was (`auth_time`), does not do: a
	// browser that navigates logs in again, and comes back; anything else gets
	// 401 with a challenge. Other routes go on with the session meanwhile.
	// Default: none. Source: OpenID Connect Core 1.0, section 3.1.2.1; RFC
	// 9470.
	MaxAge caddy.Duration `json:"max_age,omitempty"`

	// The authentication contexts that do for this route: the ID token of the
	// session's login must name one of them (`acr`). Otherwise as `max_age`.
	// Default: none. Source: OpenID Connect Core 1.0, section 3.1.2.1; RFC
	// 9470.
	ACRValues []string `json:"acr_values,omitempty"`

	// Whether a 401 of the upstream that says
	// `insufficient_user_authentication` to a request with a session leads to
	// the login that it asks for: a browser that navigates is sent to the
	// provider, once; anything else gets the challenge, with a `login_url`.
	// Default: true. Source: RFC 9470, section 3.
	StepUp *bool `json:"step_up,omitempty"`

	// Whether a 401 of the upstream that says `invalid_token` to a request with
	// a session has the access token refreshed, and the request sent once more,
	// if it has no body and is idempotent. The handlers behind this one run
	// twice, then. Default: false. Source: RFC 6750, section 3.1.
	RetryInvalidToken bool `json:"retry_invalid_token,omitempty"`
}

func (c *StepUpConfig) validate() error {
	if c.MaxAge < 0 || c.MaxAge > 0 && time.Duration(c.MaxAge) < time.Second {
		return misconfigured("max_age", "must be a second at least")
	}
	for i, value := range c.ACRValues {
		switch {
		case hasPlaceholder(value):
			return misconfigured("acr_values", "cannot hold placeholders: write the value itself, or {$NAME} for one from the environment")
		case !validACR(value):
			return misconfigured("acr_values", "%q is not one value: give each as an argument of its own, in ASCII, without quotes and backslashes", value)
		case slices.Contains(c.ACRValues[:i], value):
			return misconfigured("acr_values", "%s stands twice", value)
		}
	}
	if len(strings.Join(c.ACRValues, " ")) > maxACRValues {
		return misconfigured("acr_values", "must not exceed %d bytes together: they stand in a URL", maxACRValues)
	}
	return nil
}

// checkOpenID wants the ID token by which the route's rule is judged.
func (c *StepUpConfig) checkOpenID(asked bool) error {
	switch {
	case asked:
		return nil
	case c.MaxAge > 0:
		return misconfigured("max_age", "needs an ID token to be checked with, and the provider's scopes lack openid: add it there")
	case len(c.ACRValues) > 0:
		return misconfigured("acr_values", "needs an ID token to be checked with, and the provider's scopes lack openid: add it there")
	default:
		return nil
	}
}

// rule is what the route wants of a login; nil when that is nothing.
func (c *StepUpConfig) rule() *rp.Ask {
	if c.MaxAge == 0 && len(c.ACRValues) == 0 {
		return nil
	}
	ask := &rp.Ask{ACRValues: c.ACRValues, Essential: true}
	if c.MaxAge > 0 {
		age := time.Duration(c.MaxAge)
		ask.MaxAge = &age
	}
	return ask
}

// steps is what is known of one request about logins that are wanted.
type steps struct {
	wanted  *rp.Ask // by all routes that the request came by so far
	retried bool    // whether the request was sent upstream a second time
}

// ask is what a login must be asked for, so that the request passes.
func (a *authState) ask() rp.Ask {
	if a.steps.wanted == nil {
		return rp.Ask{}
	}
	return *a.steps.wanted
}

// tiringRow is how many logins in a row, each asked for within a minute after
// the one before, are enough: what asks so often is not content with any.
const tiringRow = 3

// falls says why a session does not do for the route, and whether another login
// may help. A request may come by several routes, and must meet what each
// wants; so a login is asked for what all of them want, or two routes could
// send the browser back and forth.
func (h *Handler) falls(a *authState, s *session.Session) (short error, again bool) {
	before := a.steps.wanted
	wanted, possible := h.wanted, true
	if before != nil {
		wanted, possible = both(before, h.wanted)
	}
	a.steps.wanted = wanted
	if s == nil {
		return nil, true
	}
	now := h.party.now()
	if short = h.party.client.Meets(&s.Identity, *h.wanted, now); short == nil {
		return nil, false
	}
	return short, possible && !tired(s, now)
}

// both puts together what two routes want of one login. It is not possible when
// no authentication context does for both.
func both(one, two *rp.Ask) (ask *rp.Ask, possible bool) {
	sum := rp.Ask{MaxAge: one.MaxAge, ACRValues: one.ACRValues, Essential: true}
	if sum.MaxAge == nil || two.MaxAge != nil && *two.MaxAge < *sum.MaxAge {
		sum.MaxAge = two.MaxAge
	}
	switch {
	case len(one.ACRValues) == 0:
		sum.ACRValues = two.ACRValues
	case len(two.ACRValues) > 0:
		sum.ACRValues = slices.DeleteFunc(slices.Clone(one.ACRValues), func(value string) bool { return !slices.Contains(two.ACRValues, value) })
		if len(sum.ACRValues) == 0 {
			return two, false
		}
	}
	return &sum, true
}

// tired reports whether a session is the last of so many logins that one more
// would begin a loop.
func tired(s *session.Session, now time.Time) bool {
	return s.Step.Row >= tiringRow && now.Sub(s.Created) < session.StepRow
}

// keepSession writes the session of a request that does not get through with
// it, where it is newer than what the browser has: other routes go on with it.
func (h *Handler) keepSession(w http.ResponseWriter, r *http.Request, a *authState, f facts) {
	switch {
	case a.session != nil || a.brought:
		return
	case f.session == nil:
		h.party.deliver(w, a)
		return
	}
	a.session = f.session
	h.party.renew(w.Header(), r, a)
	a.session = nil
}

// challenge answers a request whose session is not what the route wants of one
// (RFC 9470 section 3), with where to log in, so that it is.
func (p *relyingParty) challenge(w http.ResponseWriter, r *http.Request, ask rp.Ask) error {
	a, _ := p.authState(r)
	a.reason, a.result = reasonStepUp, resultDenied
	authored(w.Header())
	loginURL := p.loginURL(r, ask, "")
	w.Header().Set("WWW-Authenticate", challengeFor(ask, loginURL))
	public := caddyhttp.Error(http.StatusUnauthorized, errors.New(texts[reasonStepUp].title))
	if errorRouteMatches(r, public) {
		return public
	}
	if !wantsPage(r) {
		p.writeJSON(w, http.StatusUnauthorized, map[string]string{"error": string(reasonStepUp), "login_url": loginURL})
		return nil
	}
	f := failure{reason: reasonStepUp, login: loginURL}
	if at, err := p.site.origins.of(r); err == nil {
		f.login = p.loginURL(r, ask, p.pageOf(r, at))
	}
	p.writePage(w, http.StatusUnauthorized, p.errorPage(f).of(r))
	return nil
}

// challengeFor is the challenge that says what is asked for. Its values were
// checked when they were configured.
func challengeFor(ask rp.Ask, loginURL string) string {
	text := `Bearer error="` + errorInsufficient + `"`
	if len(ask.ACRValues) > 0 {
		text += `, acr_values="` + strings.Join(ask.ACRValues, " ") + `"`
	}
	if ask.MaxAge != nil {
		text += `, max_age="` + strconv.FormatInt(int64(*ask.MaxAge/time.Second), 10) + `"`
	}
	return text + `, login_url=` + quoted(loginURL)
}

// wantsPage reports whether a person will see the answer: of a form that is
// posted, too.
func wantsPage(r *http.Request) bool {
	if mode := r.Header.Get("Sec-Fetch-Mode"); mode != "" {
		return mode == "navigate"
	}
	return wantsHTML(r)
}

// noteOtherUser says when somebody else logged in where a route, or the
// upstream, had asked a user to do so again. The session is theirs from then on.
func (p *relyingParty) noteOtherUser(before, s *session.Session) {
	if s.Step.Row > 0 && before.ID != s.ID && before.Subject != s.Subject {
		p.logger.Info("who was asked to log in again is somebody else now", zap.String("provider", p.name),
			zap.String("sub", s.Subject), zap.String("before", before.Subject))
	}
}
