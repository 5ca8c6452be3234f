package caddyauth

import (
	"bytes"
	"crypto/sha256"
	_ "embed"
	"encoding/base64"
	"html/template"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"go.uber.org/zap"
)

var (
	//go:embed pages/page.html
	pageHTML string

	//go:embed pages/page.css
	pageCSS string

	pageTemplate = template.Must(template.New("page").Parse(pageHTML))
)

// pagePolicy lets a page of ours have its style, post its form to this site,
// and nothing else: no script, no picture, no frame around it.
var pagePolicy = func() string {
	sum := sha256.Sum256([]byte(pageCSS))
	return "default-src 'none'; style-src 'sha256-" + base64.StdEncoding.EncodeToString(sum[:]) +
		"'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
}()

// formPolicy is that of a page whose form ends at the provider, by redirects
// that browsers hold to form-action, too, and that nobody can list beforehand.
var formPolicy = strings.Replace(pagePolicy, "form-action 'self'; ", "", 1)

// page is what a page of ours says.
type page struct {
	Title       string
	Text        string
	Description string // the provider's words
	Facts       []fact // what it is about
	Links       []link // the first is the way on
	Post        *post
	Continue    string // where the page leads by itself
	ID          string // to find the log line by
	Style       template.CSS
}

type link struct{ URL, Label string }

type post struct {
	Action, Label string
	Exact         template.HTMLAttr // in place of the action, which the template would spell in its own way
	Field, Value  string            // the one there is, if any
}

type fact struct{ Name, Value string }

// text is what a person reads. It says what happened and what to do, and no
// word of what only an operator understands.
type text struct{ title, text string }

var texts = map[reason]text{
	reasonUnauthorized: {"Not logged in", "You need to log in to see this."},
	reasonMethod:       {"That does not work here", "This address cannot be used in that way."},
	reasonMisdirected:  {"Wrong address", "This site cannot log you in under the address you used. Please use its usual address."},
	reasonUnavailable:  {"Login is not available right now", "The service that logs people in does not answer. Please try again in a moment."},
	reasonMisconfigured: {"Login is not set up correctly", "The login could not be completed because of a mistake in this site's settings. " +
		"You did nothing wrong; please tell whoever runs this site."},
	reasonInvalid: {"The login could not be completed", "The answer of the service that logs people in could not be accepted. " +
		"Please try again. If it happens again, tell whoever runs this site."},
	reasonDenied: {"Access denied", "The service that logs people in did not let you in."},
	reasonInsufficient: {"Access denied", "This site wants to be sure that it is you, and the service that logs people in did not say enough about that. " +
		"Please log in there anew, with a second factor if you have one, then try again."},
	reasonStepUp: {"Please log in again", "This part of the site wants to be sure that it is you. Please log in once more, with a second factor if you are asked for one. " +
		"You stay logged in elsewhere."},
	reasonRefused: {"The login could not be completed", "The service that logs people in reported a problem. Please try again."},
	reasonStateGone: {"Please try again", "The login took too long, or it was begun in another window or browser. " +
		"Nothing is lost: just try again."},
	reasonCookies: {"Your browser does not keep cookies", "To log in, this site has to keep a cookie for a few minutes, and it does not come back. " +
		"Please allow cookies for this site, then try again."},
	reasonMalformed: {"Please try again", "The address that led you here is not complete. Nothing is lost: just try again."},
	reasonTooLarge: {"Login is not set up correctly", "You are known, but what the service that logs people in says about you is too long for this site. " +
		"Please tell whoever runs this site."},
	reasonNoToken: {"This page is not set up correctly", "You are logged in, but this part of the site needs a permission that could not be had for you. " +
		"Please tell whoever runs this site."},
	reasonSessionUnavailable: {"Your session cannot be checked right now", "Please try again in a moment. You stay logged in."},
	reasonToken:              {"Not logged in", "The access token that came with the request cannot be used here."},
	reasonUntrusted:          {"Nothing to see here", "This address is there for other programs of this site."},
	reasonForeignIssuer:      {"Wrong login service", "The link that led you here belongs to another service than the one this site uses."},
	reasonForbidden:          {"Access denied", "You are logged in, but your account may not see this. If it should, tell whoever runs this site."},
	reasonCrossSite:          {"Not from here", "Another site asked for this in your name, and that is not allowed. Nothing was changed."},
	reasonTooEarly:           {"Please try again", "Your browser was faster than is safe. Nothing is lost: just try again."},
	reasonNothing:            {"Nothing to see here", "This page explains what went wrong with a login. Nothing did."},
	reasonInternal:           {"Something went wrong", "The login could not be completed. Please try again."},
}

// final are the reasons that trying again does not help against.
var final = map[reason]bool{
	reasonMisdirected: true, reasonMisconfigured: true, reasonTooLarge: true, reasonForeignIssuer: true,
	reasonNothing: true, reasonMethod: true, reasonForbidden: true, reasonCrossSite: true, reasonTooEarly: true, reasonUntrusted: true, reasonNoToken: true,
}

func (p *relyingParty) errorPage(f failure) page {
	said := texts[f.reason]
	shown := page{Title: said.title, Text: said.text, Description: f.description, ID: f.id}
	start := link{"/", "Go to the start page"}
	signOut := link{p.site.endpoints.prefix + pathLogout, "Sign out"}
	if final[f.reason] {
		shown.Links = []link{start}
		switch f.reason {
		case reasonTooLarge, reasonMisconfigured, reasonNoToken: // another account may fare better
			shown.Links = append(shown.Links, signOut)
		case reasonForbidden:
			signOut.Label = "Use another account"
			shown.Links = []link{signOut, start}
		}
		return shown
	}
	again := p.site.endpoints.prefix + pathLogin
	if f.returnTo != "" && f.returnTo != "/" {
		again += "?return_to=" + url.QueryEscape(f.returnTo)
	}
	if f.login != "" {
		again = f.login
	}
	label := "Try again"
	switch f.reason {
	case reasonUnauthorized:
		label = "Log in"
	case reasonStepUp:
		label = "Log in again"
	}
	shown.Links = []link{{again, label}, start}
	if f.reason == reasonDenied || f.reason == reasonInsufficient { // the provider knows somebody whom it does not let in
		signOut.Label = "Use another account"
		shown.Links = []link{{again, label}, signOut}
	}
	return shown
}

func (p *relyingParty) signedOutPage() page {
	return page{
		Title: "You are signed out",
		Text:  "You are no longer logged in to this site. On a shared computer, also sign out of the service that logged you in, or close the browser.",
		Links: []link{{"/", "Log in again"}},
	}
}

func (p *relyingParty) askLogoutPage() page {
	return page{
		Title: "Sign out?",
		Text:  "This ends your session on this site.",
		Post:  &post{Action: p.site.endpoints.prefix + pathLogout, Label: "Sign out"},
		Links: []link{{"/", "Stay signed in"}},
	}
}

// continuePage leads on by itself, from this site's own origin: after a
// redirect from the provider, browsers would not send a SameSite=Strict
// cookie along.
func continuePage(target string) page {
	return page{
		Title:    "You are logged in",
		Text:     "One moment: this page leads on by itself.",
		Links:    []link{{target, "Continue"}},
		Continue: target,
	}
}

// of adds what matters to who has sent something.
func (shown page) of(r *http.Request) page {
	if isSubmitted(r) {
		shown.Text += " What you sent was not delivered."
	}
	return shown
}

// writePage writes a page of ours.
func (p *relyingParty) writePage(w http.ResponseWriter, status int, shown page) {
	shown.Style = template.CSS(pageCSS) //nolint:gosec // our own file
	var body bytes.Buffer
	if err := pageTemplate.Execute(&body, shown); err != nil { // the template and its data are ours
		p.logger.Error("page cannot be shown", zap.Error(err))
	}
	authored(w.Header())
	if shown.Post != nil {
		w.Header().Set("Content-Security-Policy", formPolicy)
		// Else browsers would say "Origin: null" of the form, and those without
		// Fetch Metadata nothing by which it could be told from a foreign one.
		w.Header().Set("Referrer-Policy", "same-origin")
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.Header().Set("Content-Length", strconv.Itoa(body.Len()))
	w.WriteHeader(status)
	_, _ = w.Write(body.Bytes()) // the client is gone if this fails
}
