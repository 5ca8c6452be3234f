package caddyauth

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/pkce-auth/caddy-pkce-auth/caddyauth/internal/rp"
	"github.com/pkce-auth/caddy-pkce-auth/caddyauth/internal/sealed"
	"github.com/pkce-auth/caddy-pkce-auth/caddyauth/internal/session"
)

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
