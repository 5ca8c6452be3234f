package caddyauth

import (
	"crypto/rand"
	"crypto/subtle"
	"errors"
	"net/http"
	"strconv"
	"time"

	"github.com/pkce-auth/caddy-pkce-auth/caddyauth/internal/rp"
	"github.com/pkce-auth/caddy-pkce-auth/caddyauth/internal/sealed"
)

// failureLifetime is how long the error endpoint tells of a failure.
const failureLifetime = time.Hour

// failCallback logs why a callback failed, and sends the browser to the error
// endpoint, so that neither the code nor the state stays in the address bar,
// in a Referer or in a log. What is to be said there travels sealed: nobody
// can make this site say what it did not mean.
//
// The provider's words are shown in this browser only, by a cookie: an
// attacker can have an error of their own sealed, description and all, and
// pass the link on.
func (p *relyingParty) failCallback(w http.ResponseWriter, r *http.Request, f failure) {
	p.log(r, &f)
	reader := ""
	if f.description != "" {
		reader = rand.Text()
	}
	text, err := p.sealFailure(f, reader)
	if err != nil { // then it must be said here
		w.Header().Set("Retry-After", strconv.Itoa(int(rp.RetryAfter/time.Second)))
		p.writePage(w, http.StatusServiceUnavailable, p.errorPage(failure{reason: f.reason, id: f.id}))
		return
	}
	if at, err := p.site.origins.of(r); err == nil && reader != "" {
		a, _ := p.authState(r)
		_ = a.setCookies(w.Header(), func(h http.Header) error {
			loginCookie(p.site.cookies(at.secure()).failure, at.secure()).Set(h, reader, failureLifetime)
			return nil
		})
	}
	redirect(w, http.StatusSeeOther, p.site.endpoints.prefix+pathError+"?e="+text)
}

// serveError raises the error of a callback that failed.
func (p *relyingParty) serveError(w http.ResponseWriter, r *http.Request) error {
	f, reader, err := p.openFailure(originalURL(r).Query().Get("e"))
	if err != nil {
		return p.fail(w, r, failure{reason: reasonNothing, err: err})
	}
	if !p.isReader(r, reader) {
		f.description = ""
	}
	return p.show(w, r, f)
}

// isReader reports whether the browser is the one that the failure happened
// to.
func (p *relyingParty) isReader(r *http.Request, reader string) bool {
	a, _ := p.authState(r)
	secure, _ := a.secure()
	for n := range sealed.MaxTries {
		value, ok := sealed.Value(a.cookies, p.site.cookies(secure).failure, n)
		if !ok {
			return false
		}
		if reader != "" && subtle.ConstantTimeCompare([]byte(value), []byte(reader)) == 1 {
			return true
		}
	}
	return false
}

func (p *relyingParty) sealFailure(f failure, reader string) (string, error) {
	var w sealed.Writer
	w.Text(string(f.reason))
	w.Text(f.id)
	w.Text(f.description)
	w.Text(reader)
	w.Text(f.returnTo)
	w.Time(p.now())
	return p.sealing.failures.Seal(w.Bytes())
}

func (p *relyingParty) openFailure(text string) (f failure, reader string, err error) {
	data, err := p.sealing.failures.Open(text)
	if err != nil {
		return failure{}, "", err
	}
	r := sealed.NewReader(data)
	f = failure{reason: reason(r.Text()), id: r.Text(), description: r.Text()}
	reader = r.Text()
	f.returnTo = r.Text()
	at := r.Time()
	switch {
	case r.Err() != nil:
		return failure{}, "", r.Err()
	case statuses[f.reason] == 0:
		return failure{}, "", errors.New("unknown reason")
	case p.now().Sub(at) > failureLifetime:
		return failure{}, "", errors.New("too long ago")
	}
	return f, reader, nil
}
