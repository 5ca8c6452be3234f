package caddyauth

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"time"

	"github.com/dustin/go-humanize"
	"go.uber.org/zap"

	"github.com/pkce-auth/caddy-pkce-auth/caddyauth/internal/session"
)

// Somebody fills in a form for an hour, sends it, and the session is over. Such
// a form is kept while its user logs in again, and offered for sending then. Who
// may have something kept is decided here, and it is decided narrowly: what a
// browser posts by itself, from a page of this very site, with a session that
// was good a moment ago. Everything else gets 401, and nothing of it is read.
//
// replayread.go reads such forms, replaykept.go keeps them, replaypage.go offers
// them and sends them.

// ReplayConfig is what happens to a form that is sent when its session has just
// ended.
type ReplayConfig struct {
	// How many bytes of a form's body may be kept while its user logs in again,
	// at most 16777216 (16 MiB). It is for forms that a browser posts from a page of
	// the same origin within ten minutes after the session has ended by its
	// `lifetime`, by `idle`, or because its access token could not be refreshed.
	// After the login the user is asked whether to send the form; it goes upstream
	// at most once, and only for the same `sub`. Fetches and forms of other
	// origins get 401 as ever. Contradicts `unauthorized` `401` and `pass`.
	// Default: 0, nothing is kept.
	ReplayPosts int64 `json:"replay_posts,omitempty"`
}

const (
	// replayGrace is for how long after its session's end a form is kept.
	replayGrace = 10 * time.Minute

	minReplayPosts, maxReplayPosts = 1000, 16 << 20
)

func (c *ReplayConfig) validate(unauthorized string) error {
	switch {
	case c.ReplayPosts == 0:
		return nil
	case c.ReplayPosts < minReplayPosts || c.ReplayPosts > maxReplayPosts:
		return misconfigured("replay_posts", "%d bytes are not between 1kB and 16MiB: write a size such as 1MiB", c.ReplayPosts)
	case unauthorized == "401" || unauthorized == "pass":
		return misconfigured("replay_posts", "would keep nothing, for unauthorized %s sends nobody to the login: leave one of them out", unauthorized)
	default:
		return nil
	}
}

// outliveSessions has what is left of the provider's sessions stay on for long enough to
// tell that one has just ended.
func (c *ReplayConfig) outliveSessions(p *relyingParty) {
	if c.ReplayPosts > 0 {
		p.sessions.https.Outlive(replayGrace)
		p.sessions.http.Outlive(replayGrace)
	}
}

func parseReplayPosts(p *parser) error {
	if !p.NextArg() {
		return p.usage("replay_posts", options["replay_posts"])
	}
	size, err := humanize.ParseBytes(p.Val())
	if err != nil || size == 0 || size > maxReplayPosts {
		return p.Errf("replay_posts: %q is no size between 1kB and 16MiB: write it as 64KiB or 1MB", p.Val())
	}
	p.handler.ReplayPosts = int64(size)
	return nil
}

// replay is what a route that keeps forms does about a decision: it sends one
// that was kept, if that is what was asked for, or keeps one that must wait for
// its user's login; if it cannot, that is decided as any other request is.
func (h *Handler) replay(w http.ResponseWriter, r *http.Request, f facts, d decision) (_ decision, answered bool, err error) {
	if answered, err := h.resend(w, r, f, d); answered {
		return d, true, err
	}
	if d == keep && !h.keepPost(w, r, f.ended) {
		f.ended = nil
		d = decide(f)
	}
	return d, false, nil
}

// isOwnForm reports whether a browser posts a form that is on a page of this
// origin, and shows the answer in the window. Fetch Metadata say so, which no
// script can set; from browsers that do not send them, the Origin has to be
// ours. A page may hide it ("null"), but nobody gets a foreign one past either.
func isOwnForm(r *http.Request, at origin) bool {
	if r.Method != http.MethodPost || isUpgrade(r) || isPrefetch(r) {
		return false
	}
	from := r.Header["Origin"]
	if len(from) > 1 {
		return false
	}
	own := slices.Equal(from, []string{at.String()})
	mode, dest, site := r.Header.Get("Sec-Fetch-Mode"), r.Header.Get("Sec-Fetch-Dest"), r.Header.Get("Sec-Fetch-Site")
	if mode == "" && dest == "" && site == "" {
		return own && wantsHTML(r)
	}
	hidden := len(from) == 0 || from[0] == "null"
	return mode == "navigate" && dest == "document" && site == "same-origin" && (own || hidden)
}

// isOwnForm is that for the request's own origin.
func (h *Handler) isOwnForm(r *http.Request) bool {
	at, err := h.party.site.origins.of(r)
	return err == nil && isOwnForm(r, at)
}

// lacksVisit reports whether there is a session that the request could use after
// one more visit to the provider.
func (f *facts) lacksVisit() bool {
	return f.short != nil && f.session != nil && f.again || errors.Is(f.why, errBrowserNeeded)
}

// endedBefore returns the session that ended just before a form was sent which
// may be kept; nil for all other requests.
func (h *Handler) endedBefore(r *http.Request, a *authState, f facts) *session.Session {
	if h.ReplayPosts == 0 || f.bypassed || r.ContentLength > h.ReplayPosts {
		return nil
	}
	at, err := h.party.site.origins.of(r)
	if err != nil || !isOwnForm(r, at) || !isPlainForm(r) {
		return nil
	}
	return h.party.justEnded(r, a, at)
}

// isPlainForm reports whether all there is to a request's body is the body and
// its type, as with every form of a browser: what is sent again later has
// nothing else.
func isPlainForm(r *http.Request) bool {
	for _, name := range []string{"Content-Encoding", "Content-Range", "Trailer"} {
		if len(r.Header[name]) > 0 {
			return false
		}
	}
	return len(r.Trailer) == 0 && len(r.Header["Content-Type"]) <= 1 && len(originalURL(r).RequestURI()) <= maxKeptURL
}

// justEnded returns the session that a request's cookies stood for until a
// moment ago. It is nil when nothing tells so for certain: then there was none,
// or somebody has ended it, which is another thing than that its time was up.
func (p *relyingParty) justEnded(r *http.Request, a *authState, at origin) *session.Session {
	ctx, cancel := context.WithTimeout(r.Context(), keptTime)
	defer cancel()
	s, err := p.sessions.of(at.secure()).Remains(ctx, a.cookies)
	if err != nil || s.Subject == "" { // nobody could tell afterwards whether it is the same user
		return nil
	}
	ended := p.sessions.revocations
	if p.sessions.stored == nil && (ended.Fresh(ctx, p.now()) != nil || ended.Has(s)) { // else it would be gone from the store
		return nil
	}
	if ended.HasAll(s) || p.shared.superseded.Marked(s.ID) || !p.client.Admits(&s.Identity) {
		return nil
	}
	now := p.now()
	since, over := p.sessions.limits.Since(s, now)
	if !over {
		since, over = p.tokenOver(s, now)
	}
	if !over || now.Sub(since) >= replayGrace {
		return nil
	}
	return s
}

// tokenOver is since when a session has no access token, though its own time is
// not up.
func (p *relyingParty) tokenOver(s *session.Session, now time.Time) (since time.Time, over bool) {
	if since, over := p.shared.refresher.OverSince(p.flightKey(s), s); over {
		return since, true
	}
	switch {
	case s.TokenAlive(now):
		return time.Time{}, false
	case s.RefreshToken.Empty() || !p.policy.refresh:
		return s.TokenExpiry, true
	default: // the provider fails in a way that only a login helps against
		return now, true
	}
}

// keepPost keeps a form, and reports whether it could.
func (h *Handler) keepPost(w http.ResponseWriter, r *http.Request, ended *session.Session) bool {
	p := h.party
	at, err := p.site.origins.of(r)
	if err != nil {
		return false
	}
	body, done, err := p.shared.posts.read(r, h.ReplayPosts, ended.ID)
	defer done()
	size := len(body)
	if err == nil {
		err = p.keep(w, r, at, newKeptPost(r, at, ended.Subject, body, p.now()), ended.ID)
	}
	switch {
	case err == nil:
		p.logger.Info("a form that came just after its session's end is kept over the login", zap.String("provider", p.name),
			zap.String("sub", ended.Subject), zap.String("path", originalURL(r).Path), zap.Int("bytes", size))
	case errors.Is(err, errNotKept):
		p.logger.Info("a form that came just after its session's end is not kept", zap.String("provider", p.name),
			zap.String("sub", ended.Subject), zap.String("path", originalURL(r).Path), zap.Error(err))
	default:
		p.logger.Warn("a form that came just after its session's end could not be kept", zap.String("provider", p.name),
			zap.String("sub", ended.Subject), zap.String("path", originalURL(r).Path), zap.Error(err), zap.String("hint", hintFor(reasonFor(err), err)))
	}
	return err == nil
}

// returnAfter is where a login leads that a decision begins; empty: to the URL
// that was asked for.
func (p *relyingParty) returnAfter(d decision) string {
	if d == keep {
		return p.site.endpoints.prefix + pathReplay
	}
	return ""
}
