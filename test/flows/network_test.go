package flows

import (
	"crypto/tls"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/pkce-auth/caddy-pkce-auth/test/provider"
)

// M150: a name that does not resolve, and one that leads to somebody else, as
// after a change of its address: the provider is unavailable, and whoever
// answers in its place learns nothing.
func TestM150NamesThatLeadAstray(t *testing.T) {
	w := newWorld(t)
	w.caddy("pkce_auth https://no-such-provider.invalid public\nreverse_proxy $UPSTREAM")
	b := w.browser()
	if a := b.open(w.site + "/"); a.StatusCode != http.StatusServiceUnavailable || a.Header.Get("Retry-After") == "" {
		t.Errorf("got status %d", a.StatusCode)
	}
	w.logged("http.handlers.pkce_auth", "provider_unavailable", "lookup")
	w.noSession(b, 0)

	dir := t.TempDir()
	makeCertificate(t, dir, "real", nil)
	stranger := makeCertificate(t, dir, "stranger", nil)
	w = newWorldWith(t, provider.Config{TLS: &tls.Config{Certificates: []tls.Certificate{stranger}}})
	w.caddy("pkce_auth $OP public {\ntls_trust_pool file " + filepath.Join(dir, "real.pem") + "\n}\nreverse_proxy $UPSTREAM")
	if a := w.browser().open(w.site + "/"); a.StatusCode != http.StatusServiceUnavailable {
		t.Errorf("a stranger: got status %d", a.StatusCode)
	}
	if got := len(w.op.Requests("metadata")); got != 0 {
		t.Errorf("a stranger got %d requests", got)
	}
}

// M152: clocks that differ, ours and theirs, and dates far ahead. What is off
// is said, so that an operator compares the clocks.
func TestM152A121ClocksThatDiffer(t *testing.T) {
	for name, tc := range map[string]struct {
		off time.Duration
		ok  bool
	}{
		"ten minutes behind":   {-10 * time.Minute, true}, // old, but not over
		"twelve minutes":       {-12 * time.Minute, false},
		"fifty seconds ahead":  {50 * time.Second, true},
		"ten minutes ahead":    {10 * time.Minute, false},
		"two hours behind":     {-2 * time.Hour, false},
		"in the year 2038":     {time.Until(time.Date(2038, 1, 20, 0, 0, 0, 0, time.UTC)), false},
		"in the year 9999":     {0, false},
		"the clocks are right": {0, true},
	} {
		t.Run(name, func(t *testing.T) {
			now := func() time.Time { return time.Now().Add(tc.off) }
			if name == "in the year 9999" {
				now = func() time.Time { return time.Date(9999, 12, 31, 0, 0, 0, 0, time.UTC) }
			}
			w := newWorldWith(t, provider.Config{Now: now})
			w.caddy(basic)
			b := w.browser()
			a := b.open(w.site + "/")
			if tc.ok {
				if a.StatusCode != http.StatusOK {
					t.Errorf("got status %d", a.StatusCode)
				}
				return
			}
			if a.StatusCode != http.StatusBadGateway {
				t.Errorf("got status %d", a.StatusCode)
			}
			w.noSession(b, 1)
			w.logged("invalid_answer", "compare the clocks")
		})
	}
}

// M153: a provider that only speaks IPv6.
func TestM153IPv6(t *testing.T) {
	listener, err := net.Listen("tcp", "[::1]:0")
	if err != nil {
		t.Fatalf("this test needs IPv6 on loopback: %v", err)
	}
	op := provider.StartOn(listener, provider.Config{})
	t.Cleanup(func() { _ = op.Close() })
	w := newWorld(t)
	w.caddy("pkce_auth " + op.URL + " public\nreverse_proxy $UPSTREAM")
	a := w.browser().visit(w.site + "/page")
	if !strings.HasPrefix(a.location(t), op.URL+"/authorize?") {
		t.Errorf("got status %d to %s", a.StatusCode, a.location(t))
	}
}

// M65: a provider that takes a code as often as it comes. Ours goes out once
// all the same.
func TestM65CodesThatCanBeReused(t *testing.T) {
	w := newWorld(t)
	w.op.Misbehave(provider.Faults{ReuseCodes: true})
	w.caddy(basic)
	b, other := w.browser(), w.browser()
	callback := b.callback(w, "/page")
	other.jar = copyJar(t, b.jar, w.site) // a thief with the whole browser
	b.open(callback)
	other.visit(callback)
	evict(t, other, w.site)
	other.visit(callback)
	if got := len(w.op.Requests("token")); got != 1 {
		t.Errorf("the code was sent %d times", got)
	}
}

// R58: neither a token in the query nor one that a client brings itself counts
// as a login.
func TestR58A13TokensOfTheClient(t *testing.T) {
	w := newWorld(t)
	w.caddy(basic)
	b := w.browser()
	b.login(w, "/")
	token := strings.TrimPrefix(w.upstream.last(t).Header.Get("Authorization"), "Bearer ")
	before := w.upstream.count()
	stranger := w.browser()
	if a := stranger.fetch(w.site + "/x?access_token=" + token); a.StatusCode != http.StatusUnauthorized {
		t.Errorf("in the query: got status %d", a.StatusCode)
	}
	for _, value := range []string{"Bearer " + token, "Bearer x", "Basic YTpi"} {
		if a := stranger.do(http.MethodGet, w.site+"/x", with(fetched, "Authorization", value), ""); a.StatusCode != http.StatusUnauthorized {
			t.Errorf("%.10s…: got status %d", value, a.StatusCode)
		}
	}
	if w.upstream.count() != before {
		t.Error("the upstream was reached")
	}
	w.exempt = "access_token=" // Caddy's access log has the URL that the test made up
}

// R19h: a request target that names another host cannot choose the upstream.
func TestR19hAbsoluteTargets(t *testing.T) {
	w := newWorld(t)
	w.caddy(basic)
	b := w.browser()
	b.login(w, "/")
	before := w.upstream.count()
	a := w.raw(b, "GET http://evil.test/x HTTP/1.1\nHost: $HOST\nConnection: close\n\n")
	if w.upstream.count() != before || strings.Contains(a.body, "upstream") {
		t.Errorf("got status %d and %q", a.StatusCode, a.body)
	}
}
