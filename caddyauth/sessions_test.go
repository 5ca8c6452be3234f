package caddyauth

import (
	"context"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pkce-auth/caddy-pkce-auth/caddyauth/internal/rp"
	"github.com/pkce-auth/caddy-pkce-auth/caddyauth/internal/session"
)

// A74: what shapes the provider's answer is part of a flight's name.
func TestA74FlightKeys(t *testing.T) {
	one := newHandler(t, inlineProvider)
	two := newHandler(t, `{"inline":{"issuer":"https://op.test","client_id":"public","authorization":{"audience":"https://api.test"}}}`)
	s := &session.Session{ID: "x"}
	if one.party.flightKey(s) == two.party.flightKey(s) || !strings.HasPrefix(one.party.flightKey(s), "x") {
		t.Error("tokens for one audience pass for those of another")
	}
}

// A request that comes with refreshed tokens shows that they were delivered.
func TestShownTokensAreForgotten(t *testing.T) {
	h := newHandler(t, inlineProvider)
	p := h.party
	now := time.Now()
	p.now = func() time.Time { return now }
	refresh := func(s *session.Session) *session.Session {
		got, _, err := p.shared.refresher.Fresh(t.Context(), s, session.Refresh{
			Key: p.flightKey(s), Keep: 24 * time.Hour, Now: now, Do: func(_ context.Context, s *session.Session) (*session.Session, error) {
				return s.Refreshed(&rp.Grant{AccessToken: rp.NewSecret("new"), RefreshToken: rp.NewSecret("r"), Expiry: now.Add(time.Hour)}, nil, now), nil
			},
		})
		if err != nil {
			t.Fatal(err)
		}
		return got
	}
	old := session.New(&rp.Grant{AccessToken: rp.NewSecret("old"), RefreshToken: rp.NewSecret("r"), Expiry: now}, new(rp.Identity), now)
	renewed := refresh(old)
	header := http.Header{}
	if err := p.sessions.https.Save(t.Context(), header, nil, renewed); err != nil {
		t.Fatal(err)
	}
	cookie := (&http.Response{Header: header}).Cookies()[0]
	for _, shown := range []bool{false, true} {
		if shown {
			r := newRequest(http.MethodGet, "https://app.test/", http.Header{"Cookie": {cookie.Name + "=" + cookie.Value}})
			a, _ := p.authState(r)
			if got, err := p.load(r, a, true); err != nil || got.Generation != 1 {
				t.Fatalf("got %+v, %v", got, err)
			}
		}
		now = now.Add(5 * time.Minute)
		refresh(session.New(&rp.Grant{AccessToken: rp.NewSecret("x"), RefreshToken: rp.NewSecret("r"), Expiry: now}, new(rp.Identity), now))
		if latest, _ := p.shared.refresher.Latest(p.flightKey(old), old); (latest != old) == shown {
			t.Errorf("shown: %v, kept: %v", shown, latest != old)
		}
	}
}

// An answer that took longer than anything is known of refreshes slides no
// session: its tokens may be spent.
func TestSlowAnswersSlideNothing(t *testing.T) {
	h := newHandler(t, inlineProvider)
	p := h.party
	now := time.Now()
	p.now = func() time.Time { return now }
	for _, tc := range []struct {
		took    time.Duration
		refresh string
		slides  bool
	}{{time.Second, "r", true}, {session.StragglerTime, "r", false}, {session.StragglerTime, "", true}} {
		r := newRequest(http.MethodGet, "https://app.test/", http.Header{})
		a, _ := p.authState(r)
		a.asked = now.Add(-tc.took)
		a.session = session.New(&rp.Grant{AccessToken: rp.NewSecret("x"), RefreshToken: rp.NewSecret(tc.refresh), Expiry: now.Add(time.Hour)}, new(rp.Identity), now)
		w := http.Header{}
		if err := p.save(w, r, a, a.session); err != nil {
			t.Fatal(err)
		}
		p.catchUp(w, a)
		if slides := len(a.written) > 0; slides != tc.slides {
			t.Errorf("after %s: slides %v", tc.took, slides)
		}
	}
}

// An answer is held back for its refresh for as long as it may, once: two
// handlers of one provider look at it. When the refresh lands, it goes out.
func TestAnswersAreHeldOnceAndNotForLong(t *testing.T) {
	p := newHandler(t, inlineProvider).party
	synctest.Test(t, func(t *testing.T) {
		for _, lands := range []time.Duration{0, 100 * time.Millisecond, time.Hour} {
			a, _ := p.authState(newRequest(http.MethodGet, "https://app.test/", http.Header{}))
			landing := make(chan struct{})
			time.AfterFunc(lands, func() { close(landing) })
			a.due, a.landing, a.asked = true, landing, time.Now()
			a.session = session.New(&rp.Grant{AccessToken: rp.NewSecret("x"), RefreshToken: rp.NewSecret("r"), Expiry: time.Now().Add(time.Hour)}, new(rp.Identity), time.Now())
			began := time.Now()
			for range 2 {
				p.catchUp(http.Header{}, a)
			}
			if took := time.Since(began); took != min(lands, deliveryTime) || len(a.written) != 0 {
				t.Errorf("a refresh that lands after %s: held back for %s, %d cookies", lands, took, len(a.written))
			}
		}
		time.Sleep(time.Hour)
	})
}
