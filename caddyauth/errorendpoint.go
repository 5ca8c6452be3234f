package caddyauth

import (
	"errors"
	"net/http"
	"time"

	"github.com/pkce-auth/caddy-pkce-auth/caddyauth/internal/sealed"
)

// failureLifetime is how long the error endpoint tells of a failure.
const failureLifetime = time.Hour

// failCallback logs why a callback failed, and sends the browser to the error
// endpoint, so that neither the code nor the state stays in the address bar,
// in a Referer or in a log. What is to be said there travels sealed: nobody
// can make this site say what it did not mean.
func (p *relyingParty) failCallback(w http.ResponseWriter, r *http.Request, f failure) error {
	p.log(r, &f)
	text, err := p.sealFailure(f)
	if err != nil {
		return p.writePage(w, http.StatusInternalServerError, p.errorPage(failure{reason: reasonInternal, id: f.id}))
	}
	return redirect(w, http.StatusSeeOther, p.site.endpoints.prefix+pathError+"?e="+text)
}

// serveError raises the error of a callback that failed.
func (p *relyingParty) serveError(w http.ResponseWriter, r *http.Request) error {
	f, err := p.openFailure(r.URL.Query().Get("e"))
	if err != nil {
		return p.fail(w, r, failure{reason: reasonNothing, err: err})
	}
	return p.show(w, r, f)
}

func (p *relyingParty) sealFailure(f failure) (string, error) {
	var w sealed.Writer
	w.Text(string(f.reason))
	w.Text(f.id)
	w.Text(f.description)
	w.Text(f.returnTo)
	w.Time(p.now())
	return p.failures.Seal(w.Bytes())
}

func (p *relyingParty) openFailure(text string) (failure, error) {
	data, err := p.failures.Open(text)
	if err != nil {
		return failure{}, err
	}
	r := sealed.NewReader(data)
	f := failure{reason: reason(r.Text()), id: r.Text(), description: r.Text(), returnTo: r.Text()}
	at := r.Time()
	switch {
	case r.Err() != nil:
		return failure{}, r.Err()
	case statuses[f.reason] == 0:
		return failure{}, errors.New("unknown reason")
	case p.now().Sub(at) > failureLifetime:
		return failure{}, errors.New("too long ago")
	}
	return f, nil
}
