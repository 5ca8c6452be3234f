package caddyauth

import (
	"bytes"
	"errors"
	"fmt"
	"html"
	"html/template"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/dustin/go-humanize"
	"go.uber.org/zap"

	"github.com/pkce-auth/caddy-pkce-auth/caddyauth/internal/session"
)

// serveReplay is the page after a login that a form had to wait for. It says
// what would be sent, and where to; its button sends it, from this very site, to
// the URL that it was for. Opening the page does nothing, whoever leads there.
func (p *relyingParty) serveReplay(w http.ResponseWriter, r *http.Request) error {
	if kindOf(r) != navigation {
		return p.refuse(w, r)
	}
	at, err := p.site.origins.of(r)
	if err != nil {
		return p.fail(w, r, failure{reason: reasonMisdirected, err: err})
	}
	a, _ := p.authState(r)
	s, err := p.load(r, a, true)
	switch {
	case errors.Is(err, session.ErrNone):
		if f := p.startLogin(w, r, loginStart{returnTo: p.returnAfter(keep)}); f != nil {
			return p.fail(w, r, *f)
		}
		return nil
	case err != nil:
		return p.failSession(w, r, err)
	}
	a.session = s
	p.renew(w.Header(), r, a)
	kept, err := p.findKept(r.Context(), a.cookies, at)
	switch {
	case errors.Is(err, errKeptSent):
		p.writePage(w, http.StatusOK, sentPage)
	case errors.Is(err, errKeptGone):
		p.writePage(w, http.StatusGone, keptGonePage)
	case err != nil:
		return p.fail(w, r, failure{reason: reasonSessionUnavailable, err: err})
	case kept.subject != s.Subject:
		p.logger.Info("a kept form is dropped: another user has logged in", zap.String("provider", p.name),
			zap.String("sub", s.Subject), zap.String("of", kept.subject))
		p.dropKept(r.Context(), w, a, at.secure())
		p.writePage(w, http.StatusForbidden, keptOthersPage)
	default:
		token, err := p.sealing.resends.Seal([]byte(kept.id), s.ID)
		if err != nil {
			return p.fail(w, r, failure{reason: reasonFor(err), err: err})
		}
		p.writePage(w, http.StatusOK, p.replayPage(kept.keptPost, token, at))
	}
	return nil
}

// replayPage asks whether to send a form. Of the form it shows what helps its
// user to know it again, and nothing that was in it.
func (p *relyingParty) replayPage(kept *keptPost, token string, at origin) page {
	shown, _, _ := strings.Cut(kept.uri, "?")
	if path, err := url.PathUnescape(shown); err == nil {
		shown = path
	}
	if letters := []rune(shown); len(letters) > maxShownPath {
		shown = string(letters[:maxShownPath]) + "…"
	}
	return page{
		Title: "Send your form again?",
		Text: "Your session had ended when you sent it, so it was not delivered. It was kept for you while you logged in, " +
			"and is sent once if you say so.",
		Facts: []fact{
			{"To", shown},
			{"Size", humanize.Bytes(uint64(len(kept.body)))},
			{"Sent", ago(p.now().Sub(kept.at))},
		},
		Post: &post{
			// An absolute URL, for the path may begin with two slashes; and as it
			// is, for the template would escape what browsers do not.
			Exact: template.HTMLAttr(`action="` + html.EscapeString(at.String()+kept.uri) + `"`), //nolint:gosec // it is escaped
			Label: "Send again", Field: replayField, Value: token,
		},
		Links: []link{{p.formPage(kept, at), "Do not send"}},
	}
}

const maxShownPath = 200

// formPage is the page that a form was on, or else the start page.
func (p *relyingParty) formPage(kept *keptPost, at origin) string {
	if kept.referer == "" {
		return "/"
	}
	return at.String() + p.returnTo(kept.referer, at)
}

// ago says how long ago something was, as people do.
func ago(d time.Duration) string {
	switch minutes := int(d / time.Minute); {
	case minutes < 1:
		return "just now"
	case minutes == 1:
		return "a minute ago"
	default:
		return strconv.Itoa(minutes) + " minutes ago"
	}
}

var (
	sentPage = page{
		Title: "Your form was sent",
		Text:  "It was sent once, and is not sent again. If you did not see the answer, look whether what you wanted has happened.",
		Links: []link{{"/", "Go to the start page"}},
	}
	keptGonePage = page{
		Title: "Your form is no longer here",
		Text:  "It could be kept for a few minutes only, and was not delivered unless you sent it. Please fill it in again.",
		Links: []link{{"/", "Go to the start page"}},
	}
	keptOthersPage = page{
		Title: "That form was someone else's",
		Text: "You are logged in as another user than the one who filled in the form. It was not delivered, and it is deleted now. " +
			"If both are you, please fill it in again.",
		Links: []link{{"/", "Go to the start page"}},
	}
)

// resend puts what was kept in the place of the form on our page, and leaves it
// to the caller to forward it. Where that may not be, it sends the browser back
// to our page, which says why; so whatever is decided of the request, that form
// itself goes nowhere.
//
// A session that only lacks one more visit to the provider, by which it is fresh
// enough or gets this route's token, is led there first: our page cannot know of
// that, and would offer the same click again and again.
func (h *Handler) resend(w http.ResponseWriter, r *http.Request, f facts, d decision) (answered bool, err error) {
	token, ours := h.party.replayForm(r)
	if !ours {
		return false, nil
	}
	switch {
	case d == forward:
		err = h.sendKept(r, f.session, token)
		if err == nil {
			return false, nil
		}
	case d == refuse && f.short != nil && !f.again: // nothing helps, and that is what the answer says
		return false, nil
	case (d == login || d == keep || d == refuse) && f.lacksVisit() && h.isOwnForm(r):
		return true, h.beginLogin(w, r, f, keep)
	case d == forwardBypassed, d == forwardAnonymous, d == login, d == keep, d == refuse:
		err = session.ErrNone
	default: // it has an answer of its own
		return false, nil
	}
	h.party.logger.Info("a kept form is not sent", zap.String("provider", h.party.name), zap.String("path", originalURL(r).Path), zap.Error(err))
	if errors.Is(err, session.ErrStore) {
		return true, h.party.failSession(w, r, err)
	}
	at, err := h.party.site.origins.of(r)
	if err != nil {
		return true, h.party.fail(w, r, failure{reason: reasonMisdirected, err: err})
	}
	authored(w.Header())
	redirect(w, http.StatusSeeOther, at.String()+h.party.returnAfter(keep))
	return true, nil
}

var (
	errForeignForm = errors.New("it does not come from our own page")
	errOtherForm   = errors.New("our page was about another form, session or URL")
)

// sendKept has a request say what was kept: for the session that was shown it,
// from our page, at the same URL, and once.
func (h *Handler) sendKept(r *http.Request, s *session.Session, token string) error {
	p := h.party
	at, err := p.site.origins.of(r)
	if err != nil {
		return err
	}
	if !isOwnForm(r, at) {
		return errForeignForm
	}
	a, _ := p.authState(r)
	kept, err := p.findKept(r.Context(), a.cookies, at)
	if err != nil {
		return err
	}
	id, err := p.sealing.resends.Open(token, s.ID)
	if err != nil || string(id) != kept.id || kept.uri != originalURL(r).RequestURI() {
		return errOtherForm
	}
	if kept.subject != s.Subject {
		return fmt.Errorf("%w: another user", errOtherForm)
	}
	if err := p.takeKept(r.Context(), kept); err != nil {
		return err
	}
	p.logger.Info("a kept form is sent", zap.String("provider", p.name), zap.String("sub", s.Subject),
		zap.String("path", originalURL(r).Path), zap.Int("bytes", len(kept.body)))
	setBody(r, kept.keptPost)
	return nil
}

// setBody makes a request the one that was kept.
func setBody(r *http.Request, kept *keptPost) {
	_ = r.Body.Close()
	r.Body = io.NopCloser(bytes.NewReader(kept.body))
	r.ContentLength = int64(len(kept.body))
	r.TransferEncoding, r.Trailer = nil, nil
	r.Header["Content-Length"] = []string{strconv.Itoa(len(kept.body))}
	for name, value := range map[string]string{"Content-Type": kept.mimeType, "Referer": kept.referer} {
		if delete(r.Header, name); value != "" {
			r.Header[name] = []string{value}
		}
	}
}
