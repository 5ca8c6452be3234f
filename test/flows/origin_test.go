package flows

import (
	"net/http"
	"strings"
	"testing"
)

// A19, A20, F15, IDPS 6: forwarding headers and the host change nothing that
// matters: not the decision, not the redirect URI, not the cookies.
func TestIDPS06A19A20F15ForwardingHeaders(t *testing.T) {
	w := newWorld(t)
	w.caddyTLS(guarded)
	forged := navigation.Clone()
	for name, value := range map[string]string{
		"X-Forwarded-Proto": "http", "X-Forwarded-Host": "evil.test", "X-Forwarded-Port": "1", "X-Forwarded-Prefix": "/public", "X-Forwarded-Uri": "/public/x",
		"Forwarded": "host=evil.test;proto=http", "X-Original-Url": "/public/x", "X-Rewrite-Url": "/public/x", "X-Http-Method-Override": "OPTIONS", "X-Forwarded-Method": "OPTIONS",
		"X-Forwarded-For": "127.0.0.1", "X-Real-Ip": "127.0.0.1",
	} {
		forged.Set(name, value)
	}
	b := w.browser()
	a := b.do(http.MethodGet, w.site+"/x", forged, "")
	q := query(t, a.location(t))
	if q.Get("redirect_uri") != w.site+"/oauth2/callback" || w.upstream.count() != 0 {
		t.Errorf("redirect_uri: got %q", q.Get("redirect_uri"))
	}
	if cookie := a.Header.Get("Set-Cookie"); !strings.HasPrefix(cookie, "__Host-Http-") || !strings.Contains(cookie, "Secure") {
		t.Errorf("cookie: got %q", cookie)
	}
	b.login(w, "/")
	if got := w.op.Requests("token")[0].Form.Get("redirect_uri"); got != w.site+"/oauth2/callback" {
		t.Errorf("token request: redirect_uri: got %q", got)
	}
}

// A20: a host that is not ours gets 421, no cookie, and one line in the log.
func TestA20ForeignHosts(t *testing.T) {
	for name, tc := range map[string]struct {
		options, request string
		status           int
	}{
		"a foreign name over plain http":        {"", "GET /x HTTP/1.1\nHost: evil.test\n", 421},
		"absolute form":                         {"", "GET http://evil.test/x HTTP/1.1\nHost: $HOST\n", 421},
		"a malformed host":                      {"", "GET /x HTTP/1.1\nHost: 127.0.0.1\"x\n", 400},
		"a name that only begins like loopback": {"", "GET /x HTTP/1.1\nHost: localhost.evil.test\n", 421},
		"loopback":                              {"", "GET /x HTTP/1.1\nHost: localhost:1234\n", 302},
		"loopback, where public_url is another": {"public_url https://app.example.com", "GET /x HTTP/1.1\nHost: $HOST\n", 421},
		"public_url":                            {"public_url https://app.example.com https://b.example.com", "GET /x HTTP/1.1\nHost: App.Example.com:443\n", 302},
		"public_url with another port":          {"public_url https://app.example.com", "GET /x HTTP/1.1\nHost: app.example.com:8443\n", 421},
		"an untrusted proxy's word":             {"public_url https://app.example.com", "GET /x HTTP/1.1\nHost: $HOST\nX-Forwarded-Host: app.example.com\nX-Forwarded-Proto: https\n", 421},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			if err := w.load("http://:0", "pkce_auth $OP public {\n"+tc.options+"\n}\nreverse_proxy $UPSTREAM"); err != nil {
				t.Fatal(err)
			}
			w.site = "http://" + listenAddress(t)
			b := w.browser()
			a := w.raw(b, tc.request+"Accept: text/html\nConnection: close\n\n")
			if a.StatusCode != tc.status || w.upstream.count() != 0 {
				t.Fatalf("got status %d and %s", a.StatusCode, a.body)
			}
			switch tc.status {
			case 421:
				if a.Header["Set-Cookie"] != nil || strings.Contains(a.Header.Get("Location"), "evil") || strings.Contains(a.body, "evil") {
					t.Errorf("got %v and %s", a.Header, a.body)
				}
				w.logged("misdirected", "set public_url", "trusted_proxies")
				if n := strings.Count(w.log(), "misdirected"); n != 1 {
					t.Errorf("%d lines in the log, want 1", n)
				}
			case 302:
				want := "http://localhost:1234"
				if tc.options != "" {
					want = "https://app.example.com"
				}
				if got := query(t, a.Header.Get("Location")).Get("redirect_uri"); got != want+"/oauth2/callback" {
					t.Errorf("redirect_uri: got %q", got)
				}
			}
		})
	}
}

// K6: behind a proxy that Caddy was told to trust, its word counts, the last
// value of it.
func TestK6TrustedProxies(t *testing.T) {
	w := newWorld(t)
	w.caddy("servers {\ntrusted_proxies static 127.0.0.1/32\n}\n---\n" + basic)
	for _, tc := range []struct {
		proto, host, want string
	}{
		{"https", "app.example.com", "https://app.example.com"},
		{"http, https", "evil.test, app.example.com", "https://app.example.com"},
		{"https", "", w.site},
		{"http", "app.example.com", ""},
		{"https", "app.example.com/evil", ""},
		{"ftp", "app.example.com", ""},
	} {
		header := navigation.Clone()
		header.Set("X-Forwarded-Proto", tc.proto)
		if tc.host != "" {
			header.Set("X-Forwarded-Host", tc.host)
		}
		b := w.browser()
		a := b.do(http.MethodGet, w.site+"/x", header, "")
		if tc.want == "" {
			if a.StatusCode != http.StatusMisdirectedRequest {
				t.Errorf("%s %s: got status %d", tc.proto, tc.host, a.StatusCode)
			}
			continue
		}
		want := strings.Replace(tc.want, "http://", "https://", 1)
		if got := query(t, a.location(t)).Get("redirect_uri"); got != want+"/oauth2/callback" {
			t.Errorf("%s %s: redirect_uri: got %q, want %s", tc.proto, tc.host, got, want)
		}
		if cookie := a.Header.Get("Set-Cookie"); !strings.HasPrefix(cookie, "__Host-Http-") || !strings.Contains(cookie, "; Secure") {
			t.Errorf("%s %s: cookie: got %q", tc.proto, tc.host, cookie)
		}
	}
}

// K6: proxies in front say wss for the request that opens a WebSocket; it is
// the same origin.
func TestK6WebSocketsBehindAProxy(t *testing.T) {
	w := newWorld(t)
	w.caddy("servers {\ntrusted_proxies static 127.0.0.1/32\n}\n---\n" + basic)
	through := func(proto string) http.Header {
		return with(navigation, "X-Forwarded-Proto", proto, "X-Forwarded-Host", "app.test")
	}
	b := w.browser()
	a := b.do(http.MethodGet, w.site+"/x", through("https"), "")
	cookies := strings.Split(a.Header.Get("Set-Cookie"), ";")[0]
	callback := strings.Replace(b.visit(a.location(t)).location(t), "https://app.test", w.site, 1)
	a = b.do(http.MethodGet, callback, with(through("https"), "Cookie", cookies), "")
	if got := a.Header.Get("Location"); got != "https://app.test/x" {
		t.Fatalf("got status %d to %q", a.StatusCode, got)
	}
	for _, c := range a.Cookies() {
		if c.Value != "" && c.Path == "/" {
			cookies = c.Name + "=" + c.Value
		}
	}
	for _, proto := range []string{"https", "wss", "WSS"} {
		if a := w.browser().do(http.MethodGet, w.site+"/ws", with(through(proto), "Cookie", cookies), ""); a.StatusCode != http.StatusOK {
			t.Errorf("%s: got status %d", proto, a.StatusCode)
		}
	}
	if a := w.browser().do(http.MethodGet, w.site+"/ws", with(through("http"), "Cookie", cookies), ""); a.StatusCode == http.StatusOK {
		t.Error("plain http: the session was accepted")
	}
}

// F15: Forwarded passes from a proxy that is trusted, and from nobody else.
func TestF15Forwarded(t *testing.T) {
	for trusted, want := range map[string]string{"127.0.0.1/32": "for=192.0.2.1", "192.0.2.0/24": ""} {
		w := newWorld(t)
		w.caddy("servers {\ntrusted_proxies static " + trusted + "\n}\n---\n" + "pkce_auth $OP public {\nbypass /public/*\n}\nreverse_proxy $UPSTREAM")
		w.browser().do(http.MethodGet, w.site+"/public/x", with(fetched, "Forwarded", "for=192.0.2.1"), "")
		if got := w.upstream.last(t).Header.Get("Forwarded"); got != want {
			t.Errorf("trusted proxies %s: got %q, want %q", trusted, got, want)
		}
		if err := stop(); err != nil {
			t.Fatal(err)
		}
	}
}

// A79: over HTTPS every cookie of ours is Secure; over plain http, but for
// loopback, none is set at all.
func TestA78A79CookiesAreSecure(t *testing.T) {
	w := newWorld(t)
	w.caddyTLS("pkce_auth $OP public\nreverse_proxy $UPSTREAM")
	b := w.browser()
	a := b.visit(w.site + "/page")
	for range 10 {
		for _, line := range a.Header["Set-Cookie"] {
			if !strings.Contains(line, "; Secure") || !strings.Contains(line, "; HttpOnly") {
				t.Errorf("got %s", line)
			}
		}
		location := a.location(t)
		if location == "" {
			break
		}
		a = b.visit(location)
	}
	for _, line := range b.logout(w).Header["Set-Cookie"] {
		if !strings.Contains(line, "; Secure") {
			t.Errorf("at the logout: %s", line)
		}
	}
	if err := w.load("http://app.test:0", basic); err != nil {
		t.Fatal(err)
	}
	_, port, _ := strings.Cut(listenAddress(t), ":")
	if a := b.visit("http://app.test:" + port + "/page"); a.StatusCode != http.StatusMisdirectedRequest || a.Header["Set-Cookie"] != nil {
		t.Errorf("over plain http: status %d, %v", a.StatusCode, a.Header["Set-Cookie"])
	}
}
