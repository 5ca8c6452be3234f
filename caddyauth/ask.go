package caddyauth

import (
	"math"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/pkce-auth/caddy-pkce-auth/caddyauth/internal/rp"
	"github.com/pkce-auth/caddy-pkce-auth/caddyauth/internal/sealed"
)

// What a route or an upstream asks of a login beyond what is configured for the
// provider. A browser that navigates is sent there at once; anything else gets
// a link to our login that says so, sealed: what is asked of the provider
// never comes from who makes a link (A54).

// askParam is the parameter of our login that holds a sealed rp.Ask.
const askParam = "ask"

// loginURL is where somebody can log in so that what is asked for is met, and
// then comes back.
func (p *relyingParty) loginURL(r *http.Request, ask rp.Ask, returnTo string) string {
	q := url.Values{}
	if returnTo != "" && returnTo != "/" {
		q.Set("return_to", returnTo)
	}
	if !ask.Empty() {
		var w sealed.Writer
		writeAsk(&w, ask)
		if text, err := p.sealing.asks.Seal(w.Bytes()); err == nil { // else a plain login has to do
			q.Set(askParam, text)
		}
	}
	at := p.endpointURL(r, pathLogin)
	if len(q) == 0 {
		return at
	}
	return at + "?" + q.Encode()
}

// asked reads what a link to our login asks for; nothing when that is not from
// us.
func (p *relyingParty) asked(q url.Values) (ask rp.Ask) {
	text := q.Get(askParam)
	if text == "" {
		return rp.Ask{}
	}
	data, err := p.sealing.asks.Open(text)
	if err != nil {
		return rp.Ask{}
	}
	r := sealed.NewReader(data)
	if ask = readAsk(r); r.Err() != nil {
		return rp.Ask{}
	}
	return ask
}

const (
	askedMaxAge = 1 << iota
	askedEssential

	maxAskedAge = math.MaxInt64 // in nanoseconds
)

// writeAsk writes what is asked for. Neither ACR values nor scopes hold spaces,
// nor does a resource, which is a URI.
func writeAsk(w *sealed.Writer, ask rp.Ask) {
	flags, age := uint64(0), time.Duration(0)
	if ask.MaxAge != nil {
		flags, age = askedMaxAge, *ask.MaxAge
	}
	if ask.Essential {
		flags |= askedEssential
	}
	w.Number(flags)
	w.Number(uint64(max(0, age)))
	w.Text(strings.Join(ask.ACRValues, " "))
	w.Text(ask.Target.Audience)
	w.Text(strings.Join(ask.Target.Resources, " "))
	w.Text(strings.Join(ask.Target.Scopes, " "))
}

func readAsk(r *sealed.Reader) (ask rp.Ask) {
	flags, age := r.Number(), time.Duration(min(r.Number(), maxAskedAge)) //nolint:gosec // it fits
	if flags&askedMaxAge != 0 {
		ask.MaxAge = &age
	}
	ask.Essential = flags&askedEssential != 0
	ask.ACRValues = strings.Fields(r.Text())
	ask.Target = rp.Target{Audience: r.Text()}
	ask.Target.Resources = strings.Fields(r.Text())
	ask.Target.Scopes = strings.Fields(r.Text())
	return ask
}
