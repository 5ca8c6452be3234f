package caddyauth

import (
	"net/http"
	"net/url"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/pkce-auth/caddy-pkce-auth/caddyauth/internal/rp"
	"github.com/pkce-auth/caddy-pkce-auth/caddyauth/internal/sealed"
)

func age(d time.Duration) *time.Duration { return &d }

var asks = []rp.Ask{
	{},
	{MaxAge: age(0)},
	{MaxAge: age(15 * time.Minute), ACRValues: []string{"gold", "silver"}, Essential: true},
	{ACRValues: []string{"urn:mace:incommon:iap:silver"}},
	{Target: rp.Target{Audience: "billing api", Resources: []string{"https://a.test/", "urn:b"}, Scopes: []string{"openid", "read:x"}}},
}

// A54: what a link to our login asks of the provider is what we have put there,
// to the last word, or nothing: a link that somebody else made, altered, or
// brought from another provider asks for nothing.
func TestA54AskOnlyFromUs(t *testing.T) {
	h, other := newHandler(t, inlineProvider), newHandler(t, `{"inline":{"issuer":"https://op.test","client_id":"other"}}`)
	r := newRequest(http.MethodGet, "https://app.test/x", nil)
	for _, ask := range asks {
		link, err := url.Parse(h.party.loginURL(r, ask, "/x?y=1"))
		if err != nil {
			t.Fatal(err)
		}
		q := link.Query()
		if got := h.party.asked(q); !sameAsk(got, ask) {
			t.Errorf("got %+v, want %+v", got, ask)
		}
		if got := q.Get("return_to"); got != "/x?y=1" {
			t.Errorf("return_to: got %q", got)
		}
		if ask.Empty() {
			if q.Has(askParam) {
				t.Errorf("nothing is asked for, in %s", link)
			}
			continue
		}
		if got := other.party.asked(q); !got.Empty() {
			t.Errorf("another client opens it: %+v", got)
		}
		sealedAsk := q.Get(askParam)
		for _, forged := range []string{sealedAsk[1:], sealedAsk[:len(sealedAsk)-1], sealedAsk + "A", strings.ToUpper(sealedAsk), "AAAA", "gold"} {
			if got := h.party.asked(url.Values{askParam: {forged}}); !got.Empty() {
				t.Errorf("%q: got %+v", forged, got)
			}
		}
	}
}

func sameAsk(a, b rp.Ask) bool {
	same := func(x, y []string) bool { return strings.Join(x, " ") == strings.Join(y, " ") }
	return reflect.DeepEqual(a.MaxAge, b.MaxAge) && a.Essential == b.Essential && same(a.ACRValues, b.ACRValues) &&
		a.Target.Audience == b.Target.Audience && same(a.Target.Resources, b.Target.Resources) && same(a.Target.Scopes, b.Target.Scopes)
}

// Whatever a record holds, reading it ends, and what is read is written the
// same again.
func FuzzAsk(f *testing.F) {
	for _, ask := range asks {
		var w sealed.Writer
		writeAsk(&w, ask)
		f.Add(w.Bytes())
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		r := sealed.NewReader(data)
		ask := readAsk(r)
		if r.Err() != nil {
			return
		}
		if ask.MaxAge != nil && *ask.MaxAge < 0 {
			t.Fatalf("max_age %s", *ask.MaxAge)
		}
		var w sealed.Writer
		writeAsk(&w, ask)
		if again := readAsk(sealed.NewReader(w.Bytes())); !sameAsk(again, ask) {
			t.Fatalf("got %+v, want %+v", again, ask)
		}
	})
}
