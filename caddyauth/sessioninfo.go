package caddyauth

import (
	"errors"
	"net/http"
	"time"

	"go.uber.org/zap"

	"github.com/pkce-auth/caddy-pkce-auth/caddyauth/internal/claims"
	"github.com/pkce-auth/caddy-pkce-auth/caddyauth/internal/session"
)

// The session endpoint is what a page of this site asks whether somebody is
// logged in, who that is, and for how long. It names all that it shows: nothing
// of a session gets out because it is in there (A84).

// activeSession is what a page of this site may know of its session. The times
// are whole seconds from now.
type activeSession struct {
	Active         bool           `json:"active"`
	Claims         map[string]any `json:"claims"`
	TokenExpiresIn int64          `json:"token_expires_in"`
	IdleExpiresIn  int64          `json:"idle_expires_in"`
	ExpiresIn      int64          `json:"expires_in"`
	LoginURL       string         `json:"login_url"`
	LogoutURL      string         `json:"logout_url"`
}

// noSession says no more than a request without a session gets from any page
// that needs one (A126).
type noSession struct {
	Active   bool   `json:"active"`
	LoginURL string `json:"login_url"`
}

// foreignPage is the error that pages from elsewhere get.
const foreignPage = "foreign_page"

// refreshInView is how long the session endpoint waits for a refresh that it has
// begun: a page that asks how long its token is good wants to hear of the new
// one. The old one is still good if it takes longer.
const refreshInView = 2 * time.Second

// serveSession answers pages of this site, and programs. All others get the same
// whoever is logged in, and use nobody's session: that is nobody's business, a
// sibling domain's least of all, to whose pages browsers do send the cookie
// along (A95). It is always JSON: a page of the site's own error routes would
// be no answer.
func (p *relyingParty) serveSession(w http.ResponseWriter, r *http.Request) error {
	at, _ := p.site.origins.of(r) // one that is not known is no page's own
	if fromForeignPage(r, at) {
		p.logger.Debug("a page from elsewhere asked for the session", zap.String("provider", p.name),
			zap.String("site", r.Header.Get("Sec-Fetch-Site")), zap.String("origin", r.Header.Get("Origin")))
		p.writeJSON(w, http.StatusForbidden, map[string]string{"error": foreignPage})
		return nil
	}
	a, _ := p.authState(r)
	s, err := p.inspect(w.Header(), r, a)
	switch {
	case err == nil:
		p.writeJSON(w, http.StatusOK, p.describe(r, s))
		return nil
	case errors.Is(err, session.ErrNone):
		p.writeJSON(w, http.StatusOK, noSession{LoginURL: p.endpointURL(r, pathLogin)})
		return nil
	case r.Context().Err() != nil:
		return p.failSession(w, r, err) // to nobody
	default:
		f := sessionFailure(err)
		p.log(r, &f)
		f.sayWhen(w.Header())
		p.writeJSON(w, statuses[f.reason], f.json())
		return nil
	}
}

// fromForeignPage reports whether a page of another origin makes the request, by
// what browsers say of it. Who says nothing is a program, or a browser that
// would have said so of a foreign page's script (Fetch section 3.1).
func fromForeignPage(r *http.Request, at origin) bool {
	switch r.Header.Get("Sec-Fetch-Site") {
	case "same-origin", "none": // "none" is the address bar
		return false
	case "":
		from := r.Header.Get("Origin")
		return from != "" && from != at.String()
	default: // cross-site, same-site, and what nobody knows yet
		return true
	}
}

// inspect returns the session that a request has. Asking uses it, as any request
// does: it slides, and its tokens are refreshed. With `extend=false` it is only
// looked at, so that a page can count down to its end.
func (p *relyingParty) inspect(h http.Header, r *http.Request, a *authState) (*session.Session, error) {
	if originalURL(r).Query().Get("extend") == "false" {
		return p.lookAt(r, a)
	}
	s, err := p.load(r, a, true)
	if err != nil {
		return nil, err
	}
	a.session, a.result = s, resultSession
	a.awaitRefresh(refreshInView)
	p.renew(h, r, a)
	secure, _ := a.secure()
	names := p.site.cookies(secure)
	rw := responseWriter{own: func(cookie string) bool { return names.isSession(cookie) || cookie == names.hint }, auth: a}
	rw.adjust(h) // newer tokens, and nothing of a session that was ended meanwhile
	if p.sessions.revocations.Has(a.session) {
		return nil, errLoggedOut
	}
	return a.session, nil
}

// lookAt returns the session as it is, and leaves it so: nobody is asked for
// tokens, nothing is written, and it counts as no use.
func (p *relyingParty) lookAt(r *http.Request, a *authState) (*session.Session, error) {
	secure, ok := a.secure()
	if !ok {
		return nil, session.ErrNone
	}
	a.asked = p.now()
	s, err := p.present(r.Context(), p.sessions.of(secure), a)
	if err != nil {
		return nil, err
	}
	s, _ = p.shared.refresher.Latest(p.flightKey(s), s)
	return s, p.overdue(s, p.now())
}

func (p *relyingParty) describe(r *http.Request, s *session.Session) activeSession {
	now, limits := p.now(), p.sessions.limits
	return activeSession{
		Active:         true,
		Claims:         shownClaims(s.Claims, p.policy.shown),
		TokenExpiresIn: wholeSeconds(s.TokenExpiry.Sub(now)),
		IdleExpiresIn:  wholeSeconds(limits.IdleLeft(s, now)),
		ExpiresIn:      wholeSeconds(limits.LifetimeLeft(s, now)),
		LoginURL:       p.endpointURL(r, pathLogin),
		LogoutURL:      p.endpointURL(r, pathLogout),
	}
}

// wholeSeconds promises none that is not there.
func wholeSeconds(d time.Duration) int64 { return int64(max(0, d) / time.Second) }

// shownClaims are the claims of those names, each under its name. Those that are
// missing are left out.
func shownClaims(set claims.Set, names []string) map[string]any {
	shown := make(map[string]any, len(names))
	for _, name := range names {
		if value, ok := set.Lookup(name); ok {
			shown[name] = withoutTokens(value)
		}
	}
	return shown
}

// withoutTokens leaves the tokens of others out that providers put into claims:
// Auth0's identities hold the access tokens of where a user comes from.
func withoutTokens(value any) any {
	switch v := value.(type) {
	case claims.List:
		kept := make([]any, len(v))
		for i, member := range v {
			kept[i] = withoutTokens(member)
		}
		return kept
	case claims.Object:
		kept := make(map[string]any, len(v))
		for name, member := range v {
			if !namesToken(name) {
				kept[name] = withoutTokens(member)
			}
		}
		return kept
	default:
		return value
	}
}
