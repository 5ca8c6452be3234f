package caddyauth

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/pkce-auth/caddy-pkce-auth/caddyauth/internal/rp"
	"github.com/pkce-auth/caddy-pkce-auth/caddyauth/internal/sealed"
	"github.com/pkce-auth/caddy-pkce-auth/caddyauth/internal/session"
)

// A key is kept as long as anything lasts that it sealed: from when its
// successor began to seal, not from when that was made.
func TestKeysThatAreNeeded(t *testing.T) {
	now := time.Now()
	const lifetime = 90 * 24 * time.Hour
	k := &storedKeys{lifetime: lifetime, now: func() time.Time { return now }}
	for since, want := range map[time.Duration]int{
		keyRotation:                             3,
		lifetime:                                3,
		lifetime + keyPublication + time.Minute: 3,
		lifetime + keyPublication + keyMargin + time.Minute: 2,
	} {
		keys := []storedKey{{Created: now}, {Created: now.Add(-since)}, {Created: now.Add(-since - keyRotation)}}
		if got := len(k.needed(keys)); got != want {
			t.Errorf("replaced %s ago: %d keys are kept, want %d", since, got, want)
		}
	}
}

// A54: what a link adds to a login is bounded, and holds no control character.
func TestA54LoginParamBounds(t *testing.T) {
	h := newHandler(t, inlineProvider)
	for value, ok := range map[string]bool{
		"alice@example.com": true, strings.Repeat("x", maxLoginParam): true, strings.Repeat("x", maxLoginParam+1): false,
		"a\nb": false, "a\x7fb": false, "": false,
	} {
		if got := h.party.loginParams(url.Values{"login_hint": {value}, "scope": {"x"}}); (len(got) == 1) != ok {
			t.Errorf("%.20q: got %v", value, got)
		}
	}
}

// What the provider's token endpoint calls access_denied speaks to us; in the
// callback it speaks to the user.
func TestReasonOfAccessDenied(t *testing.T) {
	denied := &rp.OAuthError{Code: "access_denied"}
	if got := reasonFor(&rp.EndpointError{Status: http.StatusUnauthorized, Err: denied}); got != reasonMisconfigured {
		t.Errorf("at the token endpoint: %s", got)
	}
	if got := reasonFor(fmt.Errorf("x: %w", denied)); got != reasonDenied {
		t.Errorf("in the callback: %s", got)
	}
}

// A94: the error endpoint tells of a failure for an hour, and the provider's
// words only to the browser that it happened to.
func TestA94ErrorEndpointReaders(t *testing.T) {
	h := newHandler(t, inlineProvider)
	p := h.party
	text, err := p.sealFailure(failure{reason: reasonDenied, id: "x", description: "the provider's words"}, "reader")
	if err != nil {
		t.Fatal(err)
	}
	name := p.site.cookies(true).failure
	ask := func(cookie string) string {
		w := httptest.NewRecorder()
		r := newRequest(http.MethodGet, "https://app.test"+p.site.endpoints.prefix+pathError+"?e="+text, http.Header{"Accept": {"text/html"}, "Cookie": {cookie}})
		if err := p.serveError(w, r); err != nil {
			t.Fatal(err)
		}
		return w.Body.String()
	}
	for cookie, want := range map[string]bool{name + "=reader": true, name + "=other": false, "x=reader": false} {
		if got := ask(cookie); strings.Contains(got, "words") != want || !strings.Contains(got, texts[reasonDenied].title) {
			t.Errorf("%s: the words are shown: %v", cookie, !want)
		}
	}
	p.now = func() time.Time { return time.Now().Add(failureLifetime + time.Minute) }
	if got := ask(name + "=reader"); strings.Contains(got, "words") {
		t.Error("the words are shown for ever")
	}
}

// R42, M137: the page that asks lets its form end anywhere, but nobody frames
// it; and its form says where it comes from.
func TestR42PageThatAsks(t *testing.T) {
	h := newHandler(t, inlineProvider)
	w := httptest.NewRecorder()
	h.party.writePage(w, http.StatusOK, h.party.askLogoutPage())
	policy := w.Header().Get("Content-Security-Policy")
	if strings.Contains(policy, "form-action") || !strings.Contains(policy, "frame-ancestors 'none'") || !strings.Contains(policy, "default-src 'none'") ||
		w.Header().Get("Referrer-Policy") != "same-origin" {
		t.Errorf("got %v", w.Header())
	}
	w = httptest.NewRecorder()
	h.party.writePage(w, http.StatusOK, h.party.signedOutPage())
	if policy := w.Header().Get("Content-Security-Policy"); !strings.Contains(policy, "form-action 'self'") {
		t.Errorf("another page: %s", policy)
	}
}

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
				return s.Refreshed(&rp.Grant{AccessToken: rp.NewSecret("new"), RefreshToken: rp.NewSecret("r"), Expiry: now.Add(time.Hour)}, nil, now)
			},
		})
		if err != nil {
			t.Fatal(err)
		}
		return got
	}
	old := session.New(&rp.Grant{AccessToken: rp.NewSecret("old"), RefreshToken: rp.NewSecret("r"), Expiry: now}, nil, now)
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
		refresh(session.New(&rp.Grant{AccessToken: rp.NewSecret("x"), RefreshToken: rp.NewSecret("r"), Expiry: now}, nil, now))
		if latest, _ := p.shared.refresher.Latest(p.flightKey(old), old); (latest != old) == shown {
			t.Errorf("shown: %v, kept: %v", shown, latest != old)
		}
	}
}

// What a request gets whose session cannot be used now: when to come again,
// whose trouble it is; and nothing at all if it went away.
func TestFailSession(t *testing.T) {
	h := newHandler(t, inlineProvider)
	for name, tc := range map[string]struct {
		err    error
		status int
		reason reason
		wait   string
	}{
		"backoff":     {&session.BackoffError{Wait: 90 * time.Second, Err: rp.ErrUnavailable}, 503, reasonUnavailable, "90"},
		"odd answer":  {rp.ErrInvalid, 503, reasonUnavailable, "5"},
		"odd refusal": {&rp.EndpointError{Status: 404, Err: &rp.OAuthError{Code: "Not Found"}}, 503, reasonUnavailable, "5"},
		"our mistake": {rp.ErrMisconfigured, 502, reasonMisconfigured, ""},
		"our keys":    {sealed.ErrKeys, 503, reasonSessionUnavailable, "5"},
	} {
		w := httptest.NewRecorder()
		if err := h.party.failSession(w, newRequest(http.MethodGet, "https://app.test/", nil), tc.err); err != nil {
			t.Fatal(err)
		}
		if w.Code != tc.status || !strings.Contains(w.Body.String(), `"`+string(tc.reason)+`"`) || w.Header().Get("Retry-After") != tc.wait {
			t.Errorf("%s: got %d %s, Retry-After %q", name, w.Code, w.Body, w.Header().Get("Retry-After"))
		}
	}
	r := newRequest(http.MethodGet, "https://app.test/", nil)
	ctx, cancel := context.WithCancel(r.Context())
	cancel()
	err := h.party.failSession(httptest.NewRecorder(), r.WithContext(ctx), context.Canceled)
	if gone, ok := errors.AsType[caddyhttp.HandlerError](err); !ok || gone.StatusCode != statusClientClosedRequest {
		t.Errorf("who went away: got %v", err)
	}
}

// Only what says "I must show something" begins a silent login anew.
func TestWantsInteraction(t *testing.T) {
	for code, want := range map[string]bool{
		"login_required": true, "consent_required": true, "interaction_required": true, "account_selection_required": true,
		"access_denied": false, "server_error": false,
	} {
		if got := wantsInteraction(fmt.Errorf("x: %w", &rp.OAuthError{Code: code})); got != want {
			t.Errorf("%s: %v", code, got)
		}
	}
	if wantsInteraction(rp.ErrUnavailable) {
		t.Error("trouble is no wish")
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
		a.session = session.New(&rp.Grant{AccessToken: rp.NewSecret("x"), RefreshToken: rp.NewSecret(tc.refresh), Expiry: now.Add(time.Hour)}, nil, now)
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
			a.session = session.New(&rp.Grant{AccessToken: rp.NewSecret("x"), RefreshToken: rp.NewSecret("r"), Expiry: time.Now().Add(time.Hour)}, nil, time.Now())
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
