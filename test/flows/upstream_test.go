package flows

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pkce-auth/caddy-pkce-auth/test/provider"
)

// guarded is a site with identity headers and something to bypass.
const guarded = `
	pkce_auth $OP public {
		bypass /public/*
		bypass method OPTIONS
		header_up X-Auth-Sub {http.auth.user.id}
		header_up X-Auth-Email {http.auth.user.email}
		header_up X-Auth-Absent {http.auth.user.absent}
	}
	reverse_proxy $UPSTREAM
`

// raw sends a request as text, with the browser's cookies, and returns the
// answer.
func (w *world) raw(b *browser, request string) answer {
	w.t.Helper()
	conn, err := net.Dial("tcp", strings.TrimPrefix(w.site, "http://"))
	if err != nil {
		w.t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
	var cookies []string
	for name, value := range b.cookies(w.site) {
		cookies = append(cookies, name+"="+value)
	}
	request = strings.ReplaceAll(strings.ReplaceAll(request, "$HOST", strings.TrimPrefix(w.site, "http://")), "\n", "\r\n")
	if len(cookies) > 0 {
		request = strings.Replace(request, "\r\n\r\n", "\r\nCookie: "+strings.Join(cookies, "; ")+"\r\n\r\n", 1)
	}
	if _, err := io.WriteString(conn, request); err != nil {
		w.t.Fatal(err)
	}
	resp, err := http.ReadResponse(bufio.NewReader(conn), &http.Request{Method: request[:strings.IndexByte(request, ' ')]})
	if err != nil {
		w.t.Fatal(err)
	}
	defer resp.Body.Close()
	body, _ := io.ReadAll(resp.Body)
	return answer{resp, string(body)}
}

// identity are the headers of a request that say who the user is.
func identity(r *http.Request) map[string][]string {
	found := map[string][]string{}
	for name, values := range r.Header {
		folded := strings.ToLower(strings.NewReplacer("_", "-", ".", "-").Replace(name))
		if strings.HasPrefix(folded, "x-auth-") || folded == "authorization" {
			found[name] = values
		}
	}
	return found
}

// What a client says about its identity never reaches the upstream: with a
// session or without, on bypassed paths and methods, in any spelling that a
// server might take for ours.
func TestA13A14A16A18K12R18SpoofedIdentity(t *testing.T) {
	spoofed := func(h http.Header) http.Header {
		h = h.Clone()
		for _, name := range []string{"X-Auth-Sub", "X-Auth-Email", "X-Auth-Absent", "x-auth-sub", "X_Auth_Sub", "X_Auth_Email", "X_Auth-Sub", "X.Auth.Sub", "X.Auth-Email"} {
			h[name] = []string{"admin", "root"}
		}
		h["Authorization"] = []string{"Bearer stolen", "Basic YWRtaW46eA=="}
		return h
	}
	for name, global := range map[string]string{
		"A13 A16 A18 K12 R18 as Caddy is":                                         "",
		"A14 where Caddy was told to let underscores and dots through (K12, F16)": "servers {\nexpected_underscore_headers X_Auth*\nexpected_dot_headers X.Auth*\n}\n---\n",
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.caddy(global + guarded)
			b := w.browser()
			for _, tc := range []struct {
				what, method, path string
				want               map[string][]string
			}{
				{"bypassed path, no session", "GET", "/public/x", map[string][]string{}},
				{"bypassed method, no session", "OPTIONS", "/x", map[string][]string{}},
				{"bypassed POST, no session", "POST", "/public/x", map[string][]string{}},
			} {
				b.do(tc.method, w.site+tc.path, spoofed(fetched), "")
				if got := identity(w.upstream.last(t)); len(got) != 0 {
					t.Errorf("%s: the upstream got %v", tc.what, got)
				}
			}
			count := w.upstream.count()
			if a := b.do("GET", w.site+"/x", spoofed(fetched), ""); a.StatusCode != http.StatusUnauthorized || w.upstream.count() != count {
				t.Errorf("no session: got status %d", a.StatusCode)
			}
			b.login(w, "/")
			for _, path := range []string{"/x", "/public/x"} {
				b.do("GET", w.site+path, spoofed(fetched), "")
				got := identity(w.upstream.last(t))
				if len(got) != 3 || len(got["Authorization"]) != 1 || !strings.HasPrefix(got["Authorization"][0], "Bearer opaque-") ||
					!slices.Equal(got["X-Auth-Sub"], []string{"alice"}) || !slices.Equal(got["X-Auth-Email"], []string{"alice@example.com"}) {
					t.Errorf("%s with a session: the upstream got %v", path, got)
				}
			}
		})
	}
}

// A15, F13, K1: no Connection token of a client's removes what we set.
func TestA15F13K1ConnectionTokens(t *testing.T) {
	w := newWorld(t)
	w.caddy(guarded)
	b := w.browser()
	b.login(w, "/")
	for _, lines := range []string{
		"Connection: close, Authorization, X-Auth-Sub",
		"connection: AUTHORIZATION,x-auth-sub , close",
		"Connection: close\nConnection: authorization\nConnection: x-auth-sub,X-Auth-Email",
		"Connection: close,\tauthorization\t,,x-auth-sub",
		"Connection: close, cookie, authorization",
		"Proxy-Connection: authorization\nKeep-Alive: authorization\nTE: authorization\nConnection: close",
		"Connection: close, authorization, x-custom\nX-Custom: 1",
	} {
		a := w.raw(b, "GET /x HTTP/1.1\nHost: $HOST\n"+lines+"\nX-Auth-Sub: admin\nOther: kept\n\n")
		got := w.upstream.last(t)
		if a.StatusCode != http.StatusOK || got.Header.Get("Authorization") == "" || got.Header.Get("X-Auth-Sub") != "alice" || got.Header.Get("X-Auth-Email") == "" {
			t.Errorf("%q: status %d, the upstream got %v", lines, a.StatusCode, got.Header)
		}
		if got.Header.Get("Other") != "kept" || got.Header.Get("X-Custom") != "" {
			t.Errorf("%q: other headers: %v", lines, got.Header)
		}
	}
}

// A17: an identity in the trailers of a request.
func TestA17Trailers(t *testing.T) {
	w := newWorld(t)
	var trailer http.Header
	w.upstream.answers(func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.ReadAll(r.Body)
		trailer = r.Trailer
	})
	w.caddy(guarded)
	b := w.browser()
	b.open(w.site + "/")
	for _, path := range []string{"/x", "/public/x"} {
		trailer = nil
		w.raw(b, "POST "+path+" HTTP/1.1\nHost: $HOST\nTransfer-Encoding: chunked\nTrailer: X-Auth-Email, X-Checksum\nConnection: close\n\n5\nhello\n0\nX-Auth-Email: admin\nX-Checksum: abc\nx-auth-sub: root\n\n")
		for name := range trailer {
			if strings.HasPrefix(strings.ToLower(name), "x-auth") {
				t.Errorf("%s: the upstream got trailer %s", path, name)
			}
		}
		if trailer.Get("X-Checksum") != "abc" {
			t.Errorf("%s: another trailer is lost: %v", path, trailer)
		}
		if got := w.upstream.last(t).Header.Get("X-Auth-Email"); got != "alice@example.com" {
			t.Errorf("%s: X-Auth-Email: got %q", path, got)
		}
	}
}

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

// A22: claims that cannot be a header, or could pass for more than one.
func TestA22ClaimsInHeaders(t *testing.T) {
	claims := map[string]any{
		"crlf": "a\r\nX-Admin: yes", "nul": "a\x00b", "tab": "a\tb", "c1": "a\u0085b", "utf8": "Grüße, 世界",
		"groups": []string{"a,admin", `quo"te`}, "plain": []string{"a", "b"}, "placeholder": "{env.HOME} {http.request.header.Cookie}",
	}
	w := newWorld(t)
	w.op.Misbehave(provider.Faults{IDToken: func(_, c map[string]any) {
		for name, value := range claims {
			c[name] = value
		}
	}})
	var options strings.Builder
	for name := range claims {
		fmt.Fprintf(&options, "header_up X-Auth-%s {http.auth.user.%s}\n", name, name)
	}
	w.caddy("pkce_auth $OP public {\n" + options.String() + "}\nreverse_proxy $UPSTREAM")
	w.browser().login(w, "/")
	got := w.upstream.last(t).Header
	for name, want := range map[string]string{
		"X-Auth-Crlf": "", "X-Auth-Nul": "", "X-Auth-Tab": "", "X-Auth-C1": "", "X-Admin": "", "X-Auth-Utf8": "Grüße, 世界",
		"X-Auth-Groups": `["a,admin","quo\"te"]`, "X-Auth-Plain": "a,b", "X-Auth-Placeholder": "{env.HOME} {http.request.header.Cookie}",
	} {
		if len(got[name]) > 1 || got.Get(name) != want {
			t.Errorf("%s: got %q, want %q", name, got[name], want)
		}
	}
	w.logged("identity header dropped", "X-Auth-Crlf")
}

// R19g, A85: our cookies go, all others arrive byte for byte.
func TestR19gA85OtherCookiesArriveAsTheyAre(t *testing.T) {
	w := newWorld(t)
	w.caddy(guarded)
	b := w.browser()
	b.login(w, "/")
	own := ""
	for name, value := range b.cookies(w.site) {
		own = name + "=" + value
	}
	for sent, want := range map[string]string{
		own + "; a=b; c=\"d e\"":           "a=b; c=\"d e\"",
		"a=b;" + own + ";  odd = x,y{} ;;": "a=b;  odd = x,y{} ;;",
		"a=b; " + own:                      "a=b",
		own:                                "",
		own + "; pkce_auth_other=x; pkce_auth.l0-1=y; __Host-Http-pkce_auth=z; pkce_authx=kept": "pkce_authx=kept",
	} {
		req, _ := http.NewRequest(http.MethodGet, w.site+"/x", nil)
		req.Header = fetched.Clone()
		req.Header.Set("Cookie", sent)
		if a := (&browser{t: t, jar: copyJar(t, w.browser().jar, w.site)}).send(req); a.StatusCode != http.StatusOK {
			t.Errorf("%q: got status %d", sent, a.StatusCode)
		}
		if got := strings.Join(w.upstream.last(t).Header["Cookie"], "|"); got != want {
			t.Errorf("the upstream got %q, want %q", got, want)
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
			session {
				idle 1s
				lifetime 1h
			}
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
		if got := a.Header.Get("Cache-Control"); got != tc.want && a.Header["Set-Cookie"] == nil {
			t.Errorf("%s, upstream says %q: got %q, want %q", tc.path, tc.says, got, tc.want)
		}
	}
	// An answer that renews the session is for no cache, whatever the upstream says.
	cacheControl = "public, max-age=60"
	w.eventually("the session is renewed", func() bool {
		a := b.fetch(w.site + "/x")
		if a.Header["Set-Cookie"] == nil {
			return false
		}
		if got := a.Header["Cache-Control"]; !slices.Equal(got, []string{"private, no-store"}) || !slices.Contains(a.Header["Vary"], "Cookie") {
			t.Errorf("with our cookie: got %q, Vary %q", got, a.Header["Vary"])
		}
		return true
	})
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

// WebSockets, server-sent events and large uploads pass untouched.
func TestWebSocketPasses(t *testing.T) {
	w := newWorld(t)
	w.upstream.answers(func(rw http.ResponseWriter, r *http.Request) {
		if !strings.EqualFold(r.Header.Get("Upgrade"), "websocket") {
			fmt.Fprint(rw, "no upgrade")
			return
		}
		conn, buf, err := http.NewResponseController(rw).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer conn.Close()
		fmt.Fprintf(buf, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nX-Token: %v\r\n\r\n", r.Header.Get("Authorization") != "")
		_ = buf.Flush()
		line, _ := buf.ReadString('\n')
		fmt.Fprintf(buf, "echo %s", line)
		_ = buf.Flush()
	})
	w.caddy(guarded)
	b := w.browser()
	b.open(w.site + "/")
	dial := func(cookies string) (*http.Response, net.Conn, *bufio.Reader) {
		conn, err := net.Dial("tcp", strings.TrimPrefix(w.site, "http://"))
		if err != nil {
			t.Fatal(err)
		}
		_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
		fmt.Fprintf(conn, "GET /ws HTTP/1.1\r\nHost: %s\r\nConnection: keep-alive, Upgrade, authorization\r\nUpgrade: websocket\r\nSec-WebSocket-Key: x\r\nSec-WebSocket-Version: 13\r\nAccept: text/html\r\n%s\r\n", strings.TrimPrefix(w.site, "http://"), cookies)
		r := bufio.NewReader(conn)
		resp, err := http.ReadResponse(r, nil)
		if err != nil {
			t.Fatal(err)
		}
		return resp, conn, r
	}
	resp, conn, _ := dial("")
	conn.Close()
	if resp.StatusCode != http.StatusUnauthorized {
		t.Errorf("without a session: got status %d", resp.StatusCode)
	}
	cookies := "Cookie: "
	for name, value := range b.cookies(w.site) {
		cookies += name + "=" + value + "; "
	}
	resp, conn, r := dial(strings.TrimSuffix(cookies, "; ") + "\r\n")
	defer conn.Close()
	if resp.StatusCode != http.StatusSwitchingProtocols || resp.Header.Get("X-Token") != "true" {
		t.Fatalf("with a session: got status %d and %v", resp.StatusCode, resp.Header)
	}
	fmt.Fprint(conn, "hello\n")
	if line, _ := r.ReadString('\n'); line != "echo hello\n" {
		t.Errorf("over the socket: got %q", line)
	}
}

func TestServerSentEventsPass(t *testing.T) {
	w := newWorld(t)
	next := make(chan string)
	w.upstream.answers(func(rw http.ResponseWriter, _ *http.Request) {
		rw.Header().Set("Content-Type", "text/event-stream")
		for event := range next {
			fmt.Fprintf(rw, "data: %s\n\n", event)
			_ = http.NewResponseController(rw).Flush()
		}
	})
	w.caddy(guarded)
	b := w.browser()
	go func() { next <- "login"; close(next) }()
	b.open(w.site + "/")
	next = make(chan string)
	req, _ := http.NewRequest(http.MethodGet, w.site+"/events", nil)
	for _, c := range b.jar.Cookies(req.URL) {
		req.AddCookie(c)
	}
	go func() { next <- "one" }()
	resp, err := plain.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	r := bufio.NewReader(resp.Body)
	for _, event := range []string{"one", "two", "three"} {
		if event != "one" {
			next <- event
		}
		if line, err := r.ReadString('\n'); err != nil || line != "data: "+event+"\n" {
			t.Fatalf("got %q, %v", line, err)
		}
		_, _ = r.ReadString('\n')
	}
	close(next)
}

func TestLargeUploadsPass(t *testing.T) {
	w := newWorld(t)
	var got int64
	w.upstream.answers(func(_ http.ResponseWriter, r *http.Request) { got, _ = io.Copy(io.Discard, r.Body) })
	w.caddy(guarded)
	b := w.browser()
	b.open(w.site + "/")
	const size = 64 << 20
	req, _ := http.NewRequest(http.MethodPost, w.site+"/upload", io.LimitReader(zeros{}, size))
	req.ContentLength = size
	if a := b.send(req); a.StatusCode != http.StatusOK || got != size {
		t.Errorf("got status %d, %d bytes arrived", a.StatusCode, got)
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }
