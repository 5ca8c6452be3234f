package flows

import (
	"net/http"
	"net/http/httptrace"
	"net/textproto"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/pkce-auth/caddy-pkce-auth/test/provider"
)

// A21: the upstream cannot set our cookies; others of its own pass.
func TestA21UpstreamSetsOurCookies(t *testing.T) {
	w := newWorld(t)
	w.upstream.answers(func(w http.ResponseWriter, _ *http.Request) {
		for _, line := range []string{
			"__Host-Http-pkce_auth=x; Path=/; Secure", "pkce_auth=x", "pkce_auth.1=x", "pkce_auth_abcd1234=x", "__Secure-pkce_auth=x", " pkce_auth=x", "app=kept; Path=/", "not_pkce_auth=kept",
		} {
			w.Header().Add("Set-Cookie", line)
		}
		_, _ = w.Write([]byte("ok"))
	})
	w.caddy(guarded)
	b := w.browser()
	b.open(w.site + "/")
	before := b.cookies(w.site)
	for _, path := range []string{"/x", "/public/x"} {
		a := b.visit(w.site + path)
		if got := a.Header["Set-Cookie"]; !slices.Equal(got, []string{"app=kept; Path=/", "not_pkce_auth=kept"}) {
			t.Errorf("%s: got %q", path, got)
		}
	}
	for name, value := range before {
		if b.cookies(w.site)[name] != value {
			t.Errorf("%s changed", name)
		}
	}
}

// A86: nobody caches what belongs to one user.
func TestA86R59Caching(t *testing.T) {
	w := newWorld(t)
	var cacheControl string
	w.upstream.answers(func(w http.ResponseWriter, _ *http.Request) {
		if cacheControl != "" {
			w.Header().Set("Cache-Control", cacheControl)
		}
		_, _ = w.Write([]byte("ok"))
	})
	w.caddy(`
		pkce_auth $OP public {
			bypass /public/*
		}
		reverse_proxy $UPSTREAM
	`)
	b := w.browser()
	b.open(w.site + "/")
	for _, tc := range []struct{ path, says, want string }{
		{"/x", "", "private"},
		{"/x", "public, max-age=60", "public, max-age=60"},
		{"/public/x", "", "private"}, // a session is used where there is one
	} {
		cacheControl = tc.says
		a := b.fetch(w.site + tc.path)
		if got := a.Header.Get("Cache-Control"); got != tc.want || a.Header["Set-Cookie"] != nil {
			t.Errorf("%s, upstream says %q: got %q, want %q", tc.path, tc.says, got, tc.want)
		}
	}
	cacheControl = ""
	if a := w.browser().fetch(w.site + "/public/x"); a.Header.Get("Cache-Control") != "" {
		t.Errorf("without a session: got %q", a.Header.Get("Cache-Control"))
	}
}

// A87: what is refused shows nothing of what it protects.
func TestA87RefusalsShowNothing(t *testing.T) {
	w := newWorld(t)
	w.upstream.answers(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("TOP SECRET")) })
	w.caddy(guarded)
	b := w.browser()
	for _, method := range []string{"GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "TRACE", "PROPFIND"} {
		for _, header := range []http.Header{navigation, fetched, {}} {
			a := b.do(method, w.site+"/secret", header, "")
			if a.StatusCode != http.StatusFound && a.StatusCode != http.StatusUnauthorized || strings.Contains(a.body, "SECRET") {
				t.Errorf("%s: got status %d and %q", method, a.StatusCode, a.body)
			}
		}
	}
	if w.upstream.count() != 0 {
		t.Error("the upstream was reached")
	}
}

// K2, K3: when the next handler fails, error routes get no credentials, and
// the error as it is.
func TestK2K3CredentialsAndErrorRoutes(t *testing.T) {
	w := newWorld(t)
	w.caddy(`
		pkce_auth $OP public {
			header_up X-Auth-Sub {http.auth.user.id}
		}
		route /broken {
			error "broken" 418
		}
		reverse_proxy /down 127.0.0.1:1
		reverse_proxy $UPSTREAM
		handle_errors {
			rewrite * /error/{err.status_code}
			reverse_proxy $UPSTREAM
		}
	`)
	b := w.browser()
	b.login(w, "/")
	for path, status := range map[string]string{"/broken": "418", "/down": "502"} {
		a := b.visit(w.site + path)
		if a.body != "upstream /error/"+status {
			t.Errorf("%s: got status %d and %q", path, a.StatusCode, a.body)
		}
		if got := identity(w.upstream.last(t)); len(got) != 0 {
			t.Errorf("%s: the error route's upstream got %v", path, got)
		}
	}
}

// handle_errors is honoured where it matches this request, and only there.
func TestHandleErrorsWinsWhereItMatches(t *testing.T) {
	w := newWorld(t)
	w.op.Misbehave(provider.Faults{Callback: func(q url.Values) {
		q.Del("code")
		q.Set("error", "access_denied")
		q.Set("error_description", "secret words")
	}})
	w.caddy(basic + `
		handle_errors 403 {
			respond "own page: {err.status_code} {err.message} {http.auth.pkce_auth.error}" 403
		}
	`)
	b := w.browser()
	if a := b.open(w.site + "/"); a.StatusCode != 403 || a.body != "own page: 403 Access denied access_denied" {
		t.Errorf("403: got status %d and %q", a.StatusCode, a.body)
	}
	if a := b.fetch(w.site + "/"); a.StatusCode != 401 || !strings.Contains(a.body, "login_url") {
		t.Errorf("401: got status %d and %q", a.StatusCode, a.body)
	}
	if a := b.visit(w.site + "/oauth2/error"); a.StatusCode != 400 || !strings.Contains(a.body, "Nothing to see here") {
		t.Errorf("400: got status %d and %q", a.StatusCode, a.body)
	}
}

// renewing is a site whose sessions are renewed after a second.
const renewing = `
	pkce_auth $OP public {
		bypass /public/*
		session {
			idle 10s
			lifetime 1h
		}
	}
	handle /missing* {
		root * $DIR
		file_server
	}
	handle {
		reverse_proxy $UPSTREAM
	}
`

// renewed asks until an answer renews the session.
func (b *browser) renewed(w *world, path string) (a answer) {
	b.t.Helper()
	w.eventually("the session is renewed", func() bool {
		a = b.fetch(w.site + path)
		return len(a.Header["Set-Cookie"]) > 0
	})
	return a
}

// A86, R59: an answer that renews the session is for no cache, whatever the
// upstream says, in whatever header, and whoever answers in its place.
func TestA86R59RenewedSessionsAreNotCached(t *testing.T) {
	w := newWorld(t)
	w.upstream.answers(func(rw http.ResponseWriter, _ *http.Request) {
		for _, name := range []string{"Cache-Control", "CDN-Cache-Control", "Cloudflare-CDN-Cache-Control", "Surrogate-Control"} {
			rw.Header().Set(name, "public, max-age=600")
		}
		rw.Header().Set("X-Accel-Expires", "600")
		rw.Header().Set("Vary", "Cookie")
	})
	w.caddy(renewing)
	for _, path := range []string{"/x", "/public/x", "/missing.css"} {
		b := w.browser()
		b.open(w.site + "/")
		a := b.renewed(w, path)
		h := a.Header
		if !slices.Equal(h["Cache-Control"], []string{"private, no-store"}) || !slices.Contains(h["Vary"], "Cookie") ||
			h["Cdn-Cache-Control"] != nil || h["Cloudflare-Cdn-Cache-Control"] != nil || h["Surrogate-Control"] != nil || h["X-Accel-Expires"] != nil {
			t.Errorf("%s: status %d, got %v", path, a.StatusCode, h)
		}
	}
}

// A86: 103 Early Hints go out before the answer, without a cookie: neither
// ours nor one in our name.
func TestA86EarlyHints(t *testing.T) {
	w := newWorld(t)
	w.caddy(renewing)
	b := w.browser()
	b.login(w, "/")
	w.upstream.answers(func(rw http.ResponseWriter, _ *http.Request) {
		rw.Header().Set("Link", "</a.css>; rel=preload")
		rw.Header().Add("Set-Cookie", "pkce_auth=evil")
		rw.WriteHeader(http.StatusEarlyHints)
		_, _ = rw.Write([]byte("ok"))
	})
	req, err := http.NewRequest(http.MethodGet, w.site+"/x", nil)
	if err != nil {
		t.Fatal(err)
	}
	hints := 0
	w.eventually("the session is renewed", func() bool {
		trace := &httptrace.ClientTrace{Got1xxResponse: func(code int, h textproto.MIMEHeader) error {
			hints++
			if code != http.StatusEarlyHints || len(h["Link"]) == 0 || h["Set-Cookie"] != nil {
				t.Errorf("got %d with %v", code, h)
			}
			return nil
		}}
		return len(b.send(req.Clone(httptrace.WithClientTrace(t.Context(), trace))).Header["Set-Cookie"]) == 1
	})
	if hints == 0 {
		t.Error("no hints came")
	}
}

// Two handlers of one provider renew a session once.
func TestOneRenewalPerRequest(t *testing.T) {
	w := newWorld(t)
	w.caddy(`
		pkce_auth {
			issuer $OP
			client_id public
			session {
				idle 10s
				lifetime 1h
			}
		}
		---
		pkce_auth /page*
		pkce_auth
		reverse_proxy $UPSTREAM
	`)
	b := w.browser()
	b.login(w, "/page")
	if got := b.renewed(w, "/page").Header["Set-Cookie"]; len(got) != 1 {
		t.Errorf("got %d cookies", len(got))
	}
}
