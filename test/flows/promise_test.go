package flows

import (
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/pkce-auth/caddy-pkce-auth/test/provider"
)

// Promise 1: no request reaches the upstream without a valid session, or a
// rule that says it may. Thousands of requests, put together from methods,
// paths, headers and cookies, at a provider that is honest, down or mad, on a
// site with a bypass: each that arrives at the upstream is one that matches
// the bypass, or carries the token of the one real session.
func TestPromise1NothingPassesWithoutASession(t *testing.T) {
	w := newWorld(t)
	w.caddy(guarded)
	real := w.browser()
	real.login(w, "/")
	name, value := real.sessionCookie(w)
	callback := w.browser().callback(w, "/")
	rng := rand.New(rand.NewPCG(1, 2))
	pick := func(list ...string) string { return list[rng.IntN(len(list))] }
	faults := []provider.Faults{
		{},
		{Answer: map[string]func(http.ResponseWriter, *http.Request) bool{"metadata": provider.Status(500, "text/plain", "")}},
		{Answer: map[string]func(http.ResponseWriter, *http.Request) bool{"token": provider.Status(200, "application/json", `{"access_token":"x","token_type":"Bearer"}`)}},
		{IDToken: func(_, claims map[string]any) { claims["nonce"] = "x" }},
		{Callback: func(q url.Values) { q.Set("iss", "x") }},
	}
	const requests = 3000
	passed, sessions := 0, 0
	for i := range requests {
		if i%300 == 0 {
			w.op.Misbehave(faults[i/300%len(faults)])
		}
		method := pick("GET", "GET", "POST", "HEAD", "PUT", "DELETE", "PATCH", "TRACE", "PROPFIND", "X")
		target := pick("/", "/secret", "/public/../secret", "/public/%2e%2e/secret", "//public/x", `/public/..\x`, "/public/..;/x", "/secret#/public/", "/PUBLIC/x",
			"/oauth2/callback", "/oauth2/callback?code=x&state=y", strings.TrimPrefix(callback, w.site), "/oauth2/error?e=x", "/oauth2/login?return_to=//x", "/oauth2/other", "/secret?/public/")
		cookie := pick("", "", name+"="+value[:len(value)-2], name+"=x", name+"="+strings.Repeat("A", 5000), name+"0="+value, strings.ToUpper(name)+"="+value,
			name+"=2."+value, "x="+value, name+"=;"+name+".1="+value)
		header := pick("Accept: text/html", "Accept: */*", "Authorization: Bearer x", "X-Forwarded-Uri: /public/x", "X-Original-URL: /public/x", "X-HTTP-Method-Override: OPTIONS",
			"Connection: Upgrade\nUpgrade: websocket", "Sec-Fetch-Mode: navigate", "Expect: 100-continue", "Transfer-Encoding: chunked\n\n0\n")
		authentic := rng.IntN(20) == 0
		if authentic {
			cookie = name + "=" + value
		}
		before := w.upstream.count()
		request := fmt.Sprintf("%s %s HTTP/1.1\nHost: $HOST\n%s\nConnection: close\n", method, target, header)
		switch {
		case strings.HasSuffix(header, "\n0\n"):
			request = fmt.Sprintf("%s %s HTTP/1.1\nHost: $HOST\nConnection: close\nCookie: %s\nTransfer-Encoding: chunked\n\n0\n\n", method, target, cookie)
		case cookie != "":
			request += "Cookie: " + cookie + "\n\n"
		default:
			request += "\n"
		}
		w.raw(&browser{t: t, jar: w.noCookies()}, request)
		if w.upstream.count() == before {
			continue
		}
		passed++
		got := w.upstream.last(t)
		if authentic && strings.HasPrefix(got.Header.Get("Authorization"), "Bearer opaque-") {
			sessions++
			continue
		}
		t.Fatalf("this reached the upstream:\n%s\nas %s %s with %v", request, got.Method, got.RequestURI, got.Header)
	}
	t.Logf("%d requests, %d of them with the session reached the upstream", requests, sessions)
	if sessions < 20 || passed != sessions {
		t.Errorf("only %d with the session, %d in all", sessions, passed)
	}
}

// Promise 2 is checked after every test of this package, at debug level, with
// every secret that took part; this one makes sure that the check can fail,
// and that pages and URLs are looked at as well.
func TestPromise2SecretsStayIn(t *testing.T) {
	w := newWorld(t)
	w.caddy(guarded)
	b := w.browser()
	var seen strings.Builder
	a := b.visit(w.site + "/page")
	for {
		seen.WriteString(a.body)
		location := a.location(t)
		if location == "" {
			break
		}
		if strings.HasPrefix(location, w.site) && !strings.Contains(location, "/callback?") {
			seen.WriteString(location)
		}
		a = b.visit(location)
	}
	seen.WriteString(b.fetch(w.site+"/oauth2/signed-out").body + b.visit(w.site+"/oauth2/logout").body + b.visit(w.site+"/oauth2/error").body)
	secrets := w.op.Issued()
	if len(secrets) != 4 { // code, access token, refresh token, ID token
		t.Fatalf("the provider issued %d secrets", len(secrets))
	}
	for _, r := range w.op.Requests("token") {
		secrets = append(secrets, r.Form.Get("code_verifier"))
	}
	for _, secret := range secrets {
		if strings.Contains(seen.String(), secret) {
			t.Errorf("%.12s… stands in a page or a URL", secret)
		}
		for name, value := range b.cookies(w.site) {
			if strings.Contains(value, secret) {
				t.Errorf("%.12s… stands in cookie %s", secret, name)
			}
		}
	}
	if !strings.Contains(w.log(), "127.0.0.1") || !strings.Contains(w.logged("handled request", "/page"), `"Cookie":["REDACTED"]`) {
		t.Error("the log that is searched is not the one that is written")
	}
}

// Promise 5, as far as it goes without a session: a flood of requests makes
// no call to the provider but the first for its metadata.
func TestPromise5FloodsCallNobody(t *testing.T) {
	w := newWorld(t)
	w.caddy(basic)
	b := w.browser()
	for i := range 300 {
		fresh := &browser{t: t, jar: w.noCookies()}
		fresh.fetch(fmt.Sprintf("%s/random/%d", w.site, i))
		fresh.visit(fmt.Sprintf("%s/random/%d", w.site, i))
		fresh.visit(fmt.Sprintf("%s/oauth2/callback?code=x%d&state=0%08x.%s", w.site, i, i, incompressible(120)))
	}
	_ = b
	if got := len(w.op.Requests("metadata")); got != 1 {
		t.Errorf("metadata: got %d requests", got)
	}
	for _, endpoint := range []string{"token", "keys", "authorize"} {
		if got := len(w.op.Requests(endpoint)); got != 0 {
			t.Errorf("%s: got %d requests", endpoint, got)
		}
	}
}
