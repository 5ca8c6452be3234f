package flows

import (
	"net/http"
	"net/url"
	"os"
	"strings"
	"testing"
)

// stays asserts that a Location leads to the site itself, whoever reads it.
func (w *world) stays(what, location string) {
	w.t.Helper()
	u, err := url.Parse(location)
	if err != nil || u.Scheme+"://"+u.Host != w.site || u.User != nil || strings.ContainsAny(location, "\\\t\r\n ") || !strings.HasPrefix(location, w.site+"/") {
		w.t.Errorf("%s: leads to %q", what, location)
	}
}

// A01 to A04, A08, A12, K11: whatever was asked for, after the login the
// browser is on this site. The targets are sent as they are, for a browser
// would tidy them up.
func TestA01A02A03A04A08A12K11RequestedURLs(t *testing.T) {
	w := newWorld(t)
	w.caddy(basic)
	targets := []string{
		"//evil.test/x", "///evil.test", "////evil.test", `/\evil.test`, `/./\evil.test`, `//\evil.test`, "/%5cevil.test", "/%2f%2fevil.test", "/%09/evil.test",
		"/%0d%0aLocation:%20https://evil.test", "/x;y?a;b", "/secret#/public", "/@evil.test", "/.//evil.test", "/?next=https://evil.test", "/%E3%80%82evil.test",
		"/" + strings.Repeat("x", 9000), "/page?" + strings.Repeat("x", 5000),
	}
	for _, target := range targets {
		b := w.browser()
		a := w.raw(b, "GET "+target+" HTTP/1.1\nHost: $HOST\nAccept: text/html\nConnection: close\n\n")
		if a.StatusCode != http.StatusFound {
			t.Errorf("%.60s: got status %d", target, a.StatusCode)
			continue
		}
		u, _ := url.Parse(w.site)
		b.jar.SetCookies(u, a.Cookies())
		a = b.visit(b.visit(a.Header.Get("Location")).location(t))
		if a.StatusCode != http.StatusSeeOther {
			t.Errorf("%.60s: the callback got status %d", target, a.StatusCode)
		}
		w.stays(target, a.Header.Get("Location"))
	}
}

// A01 to A12: the same for what the login endpoint is asked to return to.
func TestR09A01ToA12A90ReturnTo(t *testing.T) {
	w := newWorld(t)
	w.caddy(basic)
	data, err := os.ReadFile("../../caddyauth/testdata/openredirects.txt")
	if err != nil {
		t.Fatal(err)
	}
	for _, prefix := range strings.Split(strings.TrimSpace(string(data)), "\n") {
		for _, name := range []string{"return_to", "target_link_uri"} {
			b := w.browser()
			a := b.visit(w.site + "/oauth2/login?" + name + "=" + url.QueryEscape(prefix+"evil.test/x"))
			if a.StatusCode != http.StatusFound || !strings.HasPrefix(a.Header.Get("Location"), w.op.URL+"/authorize?") {
				t.Errorf("%s: got status %d", prefix, a.StatusCode)
				continue
			}
			w.stays(prefix, b.visit(b.visit(a.Header.Get("Location")).location(t)).Header.Get("Location"))
		}
	}
	for returnTo, want := range map[string]string{
		"/page?x=1": "/page?x=1", w.site + "/page": "/page", "": "/", "/oauth2/logout": "/", "https://evil.test/": "/", // A11
	} {
		b := w.browser()
		a := b.visit(b.visit(b.visit(w.site + "/oauth2/login?return_to=" + url.QueryEscape(returnTo)).location(t)).location(t))
		if got := a.Header.Get("Location"); got != w.site+want {
			t.Errorf("%s: got %s", returnTo, got)
		}
	}
}

// A backslash in a query is data; some readers of a Location take it for a
// slash. It comes back percent-encoded.
func TestA03BackslashInQuery(t *testing.T) {
	w := newWorld(t)
	w.caddy(basic)
	b := w.browser()
	a := w.raw(b, "GET /search?q=a\\b&r=1 HTTP/1.1\nHost: $HOST\nAccept: text/html\nConnection: close\n\n")
	u, _ := url.Parse(w.site)
	b.jar.SetCookies(u, a.Cookies())
	if a = b.visit(b.visit(a.Header.Get("Location")).location(t)); a.Header.Get("Location") != w.site+"/search?q=a%5Cb&r=1" {
		t.Errorf("got status %d to %q", a.StatusCode, a.Header.Get("Location"))
	}
}

// A60: a page elsewhere cannot begin logins in the background, by images of
// our login endpoint; a link, a script of the site's own and a browser
// without Fetch Metadata can.
func TestA60BackgroundLogins(t *testing.T) {
	w := newWorld(t)
	w.caddy(basic)
	for name, tc := range map[string]struct {
		header http.Header
		status int
	}{
		"an image":               {http.Header{"Sec-Fetch-Mode": {"no-cors"}, "Sec-Fetch-Dest": {"image"}, "Sec-Fetch-Site": {"cross-site"}, "Accept": {"image/*"}}, 401},
		"a frame":                {http.Header{"Sec-Fetch-Mode": {"navigate"}, "Sec-Fetch-Dest": {"iframe"}, "Sec-Fetch-Site": {"cross-site"}, "Accept": {"text/html"}}, 401},
		"a link":                 {with(navigation, "Sec-Fetch-Site", "cross-site"), 302},
		"without Fetch Metadata": {http.Header{"Accept": {"text/html"}}, 302},
	} {
		b := w.browser()
		a := b.do(http.MethodGet, w.site+"/oauth2/login", tc.header, "")
		if a.StatusCode != tc.status || (a.Header["Set-Cookie"] != nil) != (tc.status == 302) {
			t.Errorf("%s: got status %d, cookies %q", name, a.StatusCode, a.Header["Set-Cookie"])
		}
	}
}

// IDPS 33, R36: a login that somebody else began names our provider, or none.
func TestIDPS33R36ThirdPartyInitiatedLogin(t *testing.T) {
	w := newWorld(t)
	w.caddy(basic)
	b := w.browser()
	if a := b.visit(w.site + "/oauth2/login?iss=" + url.QueryEscape(w.op.URL)); a.StatusCode != http.StatusFound {
		t.Errorf("our issuer: got status %d", a.StatusCode)
	}
	for _, iss := range []string{"https://evil.test", "", w.op.URL + "/x"} {
		if a := b.visit(w.site + "/oauth2/login?iss=" + url.QueryEscape(iss)); a.StatusCode != http.StatusBadRequest || a.Header["Set-Cookie"] != nil {
			t.Errorf("%q: got status %d", iss, a.StatusCode)
		}
	}
	if a := b.do(http.MethodGet, w.site+"/oauth2/login", with(navigation, "Sec-Purpose", "prefetch"), ""); a.StatusCode != http.StatusUnauthorized || a.Header["Set-Cookie"] != nil {
		t.Errorf("a prefetch: got status %d", a.StatusCode)
	}
}
