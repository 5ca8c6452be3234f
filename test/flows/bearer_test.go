package flows

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/pkce-auth/caddy-pkce-auth/test/provider"
)

// api is a site with an API that takes access tokens of clients, and pages that
// do not.
const api = `
	handle /api/* {
		pkce_auth $OP public {
			accept_bearer https://api.test api://again
			header_up X-Auth-Sub {http.auth.user.id}
			header_up X-Auth-Scope {http.auth.user.scope}
			header_up X-Auth-Result {http.auth.pkce_auth.result}
			bypass /api/open
		}
		reverse_proxy $UPSTREAM
	}
	handle {
		pkce_auth $OP public {
			bypass /open
		}
		reverse_proxy $UPSTREAM
	}
`

// accessToken is one that a client brings, changed; nil takes a claim out. It
// is a secret like those that the provider issues.
func (w *world) accessToken(header, change map[string]any) string {
	now := time.Now()
	claims := map[string]any{
		"iss": w.op.URL, "aud": "https://api.test", "sub": "carol", "client_id": "mobile", "scope": "read write", "jti": "1",
		"iat": now.Unix(), "exp": now.Add(time.Hour).Unix(),
	}
	maps.Copy(claims, change)
	maps.DeleteFunc(claims, func(_ string, v any) bool { return v == nil })
	if header == nil {
		header = map[string]any{"typ": "at+jwt"}
	}
	token := w.op.Sign(header, claims)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.expect = append(w.expect, token)
	return token
}

// program are the headers of an API client, with Authorization lines.
func program(authorization ...string) http.Header {
	h := http.Header{"Accept": {"*/*"}, "User-Agent": {"curl/8"}}
	if len(authorization) > 0 {
		h["Authorization"] = authorization
	}
	return h
}

// R57, R58, A16, A111, A112: what comes in Authorization on a route that accepts
// access tokens, without a session and beside one: the token decides alone.
func TestR57R58A16A111A112BroughtTokens(t *testing.T) {
	w := newWorld(t)
	w.caddy(api)
	alice := w.browser()
	alice.login(w, "/api/page")
	sessionToken := w.upstream.last(t).Header.Get("Authorization")
	good := w.accessToken(nil, nil)
	other := w.accessToken(nil, map[string]any{"sub": "dave", "aud": []string{"x", "api://again"}})
	idToken := w.op.Issued()[len(w.op.Issued())-1]
	for name, tc := range map[string]struct {
		lines   []string
		subject string // whom the upstream sees; empty: not reached
		code    string // else
	}{
		"a good token":                     {[]string{"Bearer " + good}, "carol", ""},
		"the scheme in another case":       {[]string{"bEaReR " + good}, "carol", ""},
		"more than one space":              {[]string{"Bearer   " + good}, "carol", ""},
		"for another of our audiences":     {[]string{"Bearer " + other}, "dave", ""},
		"IDPS23 of the type JWT":           {[]string{"Bearer " + w.accessToken(map[string]any{"typ": "JWT"}, nil)}, "carol", ""},
		"R57 an ID token":                  {[]string{"Bearer " + idToken}, "", "invalid_token"},
		"A112 for another audience":        {[]string{"Bearer " + w.accessToken(nil, map[string]any{"aud": "https://other.test"})}, "", "invalid_token"},
		"A112 without an audience":         {[]string{"Bearer " + w.accessToken(nil, map[string]any{"aud": nil})}, "", "invalid_token"},
		"A111 an ID token for the API":     {[]string{"Bearer " + w.accessToken(map[string]any{"typ": "JWT"}, map[string]any{"nonce": "n"})}, "", "invalid_token"},
		"expired":                          {[]string{"Bearer " + w.accessToken(nil, map[string]any{"exp": time.Now().Add(-2 * time.Minute).Unix()})}, "", "invalid_token"},
		"bound to a key":                   {[]string{"Bearer " + w.accessToken(nil, map[string]any{"cnf": map[string]any{"jkt": "x"}})}, "", "invalid_token"},
		"A16 a random token":               {[]string{"Bearer x"}, "", "invalid_token"},
		"A16 another's signature":          {[]string{"Bearer " + good[:len(good)-8] + "AAAAAAAA"}, "", "invalid_token"},
		"two lines":                        {[]string{"Bearer " + good, "Bearer " + good}, "", "invalid_request"},
		"two lines, one of another scheme": {[]string{"Basic YTpi", "Bearer " + good}, "", "invalid_request"},
		"two tokens":                       {[]string{"Bearer " + good + ", Bearer " + good}, "", "invalid_request"},
		"two tokens, by a space":           {[]string{"Bearer " + good + " " + good}, "", "invalid_request"},
		"no token":                         {[]string{"Bearer"}, "", "invalid_request"},
		"parameters":                       {[]string{`Bearer token="` + good + `"`}, "", "invalid_request"},
	} {
		t.Run(name, func(t *testing.T) {
			for who, b := range map[string]*browser{"nobody": w.browser(), "alice": alice} {
				for method, header := range map[string]http.Header{"GET": program(), "POST": program(), "HEAD": navigation} {
					header = header.Clone()
					header["Authorization"] = tc.lines
					before := w.upstream.count()
					a := b.do(method, w.site+"/api/x", header, "")
					if a.Header["Set-Cookie"] != nil || a.Header.Get("Location") != "" {
						t.Errorf("%s of %s: got %v", method, who, a.Header)
					}
					if tc.subject == "" {
						status := map[string]int{"invalid_token": 401, "invalid_request": 400}[tc.code]
						if a.StatusCode != status || a.Header.Get("WWW-Authenticate") != `Bearer realm="127.0.0.1:`+port(w.op.URL)+`", error="`+tc.code+`"` {
							t.Errorf("%s of %s: got status %d and %v", method, who, a.StatusCode, a.Header)
						}
						var body map[string]string
						if method != "HEAD" && (json.Unmarshal([]byte(a.body), &body) != nil || body["error"] != tc.code || len(body) != 2 || body["id"] == "") {
							t.Errorf("%s of %s: got %s", method, who, a.body)
						}
						if w.upstream.count() != before {
							t.Errorf("%s of %s: reached the upstream", method, who)
						}
						continue
					}
					if a.StatusCode != http.StatusOK {
						t.Fatalf("%s of %s: got status %d: %s", method, who, a.StatusCode, a.body)
					}
					got := w.upstream.last(t).Header
					token := strings.TrimLeft(tc.lines[0][6:], " ")
					if want := []string{"Bearer " + token}; len(got["Authorization"]) != 1 || got["Authorization"][0] != want[0] {
						t.Errorf("%s of %s: the upstream got %q", method, who, got["Authorization"])
					}
					if got.Get("X-Auth-Sub") != tc.subject || got.Get("X-Auth-Scope") != "read write" || got.Get("X-Auth-Result") != "session" {
						t.Errorf("%s of %s: the upstream got %v", method, who, got)
					}
					if a.Header.Get("Cache-Control") != "private" {
						t.Errorf("%s of %s: got Cache-Control %q", method, who, a.Header.Get("Cache-Control"))
					}
				}
			}
		})
	}
	for name, lines := range map[string][]string{"Basic": {"Basic YTpi"}, "empty": {""}, "nobody's scheme": {"BearerX " + good}, "two of Basic": {"Basic YTpi", "Basic YTpi"}} {
		header := program(lines...)
		if a := w.browser().do("GET", w.site+"/api/x", header, ""); a.StatusCode != 401 || !strings.Contains(a.Header.Get("WWW-Authenticate"), "login_url=") {
			t.Errorf("%s: got status %d and %v", name, a.StatusCode, a.Header)
		}
		if a := alice.do("GET", w.site+"/api/x", header, ""); a.StatusCode != 200 || w.upstream.last(t).Header.Get("Authorization") != sessionToken {
			t.Errorf("%s beside a session: got status %d", name, a.StatusCode)
		}
	}
	w.logged("request failed", "invalid_token", `"check":"aud"`, "names none of the audiences")
	w.logged("request failed", "invalid_token", `"check":"cnf"`, "DPoP")
}

func port(address string) string {
	u, _ := url.Parse(address)
	return u.Port()
}

// A16, R58: where no access token is accepted, nothing has changed: whatever a
// client brings is removed, on every path. Nor is a token taken from anywhere
// but the header.
func TestA16R58TokensElsewhere(t *testing.T) {
	w := newWorld(t)
	w.exempt = `"logger":"http.log.access"` // has what a client writes into its URL, or invents headers for
	w.caddy(api)
	alice := w.browser()
	alice.login(w, "/")
	good := w.accessToken(nil, nil)
	if a := w.browser().do("GET", w.site+"/page", program("Bearer "+good), ""); a.StatusCode != 401 || !strings.Contains(a.Header.Get("WWW-Authenticate"), "login_url=") {
		t.Errorf("a route without the option: got status %d and %v", a.StatusCode, a.Header)
	}
	if a := alice.do("GET", w.site+"/page", program("Bearer "+good), ""); a.StatusCode != 200 || !strings.HasPrefix(w.upstream.last(t).Header.Get("Authorization"), "Bearer opaque-") {
		t.Errorf("a route without the option, with a session: got status %d", a.StatusCode)
	}
	if a := w.browser().do("GET", w.site+"/open", program("Bearer "+good), ""); a.StatusCode != 200 || w.upstream.last(t).Header["Authorization"] != nil {
		t.Errorf("its bypass: got status %d, the upstream %v", a.StatusCode, w.upstream.last(t).Header)
	}
	for name, lines := range map[string][]string{"a bad token": {"Bearer x"}, "two tokens": {"Bearer " + good, "Bearer " + good}, "Basic": {"Basic YTpi"}} {
		for who, b := range map[string]*browser{"nobody": w.browser(), "alice": alice} {
			if who == "alice" && name == "Basic" {
				continue
			}
			a := b.do("GET", w.site+"/api/open", with(program(lines...), "X-Auth-Sub", "admin"), "")
			if got := w.upstream.last(t).Header; a.StatusCode != 200 || got["Authorization"] != nil || got["X-Auth-Sub"] != nil {
				t.Errorf("%s of %s on a bypassed path: got status %d, the upstream %v", name, who, a.StatusCode, got)
			}
		}
	}
	if a := w.browser().do("GET", w.site+"/api/open", program("Bearer "+good), ""); a.StatusCode != 200 || w.upstream.last(t).Header.Get("X-Auth-Sub") != "carol" {
		t.Errorf("a good token on a bypassed path: got status %d, the upstream %v", a.StatusCode, w.upstream.last(t).Header)
	}
	before := w.upstream.count()
	form := with(program(), "Content-Type", "application/x-www-form-urlencoded")
	for name, a := range map[string]answer{
		"in the query":              w.browser().do("GET", w.site+"/api/x?access_token="+good, program(), ""),
		"in a form":                 w.browser().do("POST", w.site+"/api/x", form, "access_token="+good),
		"in a cookie":               w.browser().do("GET", w.site+"/api/x", with(program(), "Cookie", "access_token="+good), ""),
		"in Proxy-Authorization":    w.browser().do("GET", w.site+"/api/x", with(program(), "Proxy-Authorization", "Bearer "+good), ""),
		"in X-Forwarded-…":          w.browser().do("GET", w.site+"/api/x", with(program(), "X-Forwarded-Access-Token", good), ""),
		"in Authorization's double": w.browser().do("GET", w.site+"/api/x", with(program(), "Authorization_", "Bearer "+good), ""),
	} {
		if a.StatusCode != 401 || w.upstream.count() != before {
			t.Errorf("%s: got status %d", name, a.StatusCode)
		}
	}
}

// R57: no answer of ours to a client that brings a token is a redirect, whatever
// the route says of requests without a session, and `pass` lets none through.
func TestR57BroughtTokensNeverLogIn(t *testing.T) {
	for _, unauthorized := range []string{"auto", "redirect", "401", "pass"} {
		w := newWorld(t)
		w.caddy("pkce_auth $OP public {\naccept_bearer https://api.test\nunauthorized " + unauthorized + "\n}\nreverse_proxy $UPSTREAM")
		b := w.browser()
		if a := b.do("GET", w.site+"/", with(navigation, "Authorization", "Bearer x"), ""); a.StatusCode != 401 || len(b.cookies(w.site)) != 0 || w.upstream.count() != 0 {
			t.Errorf("%s: got status %d and %v", unauthorized, a.StatusCode, a.Header)
		}
		_ = stop()
	}
}

// 503, and not 401, when it cannot be told what a token is worth: a client that
// is told 401 throws it away. A bypassed path does not wait for it.
func TestM31BroughtTokensWithoutKeys(t *testing.T) {
	w := newWorld(t)
	w.op.Misbehave(provider.Faults{Answer: map[string]func(http.ResponseWriter, *http.Request) bool{"keys": provider.Status(500, "text/plain", "")}})
	w.caddy(api)
	good := w.accessToken(nil, nil)
	a := w.browser().do("GET", w.site+"/api/x", program("Bearer "+good), "")
	if a.StatusCode != 503 || a.Header.Get("Retry-After") == "" || !strings.HasPrefix(a.Header.Get("Content-Type"), "application/json") || w.upstream.count() != 0 {
		t.Errorf("got status %d and %v", a.StatusCode, a.Header)
	}
	if a := w.browser().do("GET", w.site+"/api/open", program("Bearer "+good), ""); a.StatusCode != 200 || w.upstream.last(t).Header["Authorization"] != nil {
		t.Errorf("bypassed: got status %d", a.StatusCode)
	}
	w.logged("request failed", "provider_unavailable", "keys cannot be had")
}

// A102, IDPS 32: forged tokens by the hundred cost the provider a handful of
// requests, and a login behind a rotation of its keys goes on meanwhile.
func TestA102IDPS32ForgedTokensAndALogin(t *testing.T) {
	w := newWorld(t)
	w.caddy(api)
	w.browser().login(w, "/")
	forger, err := provider.Start(provider.Config{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = forger.Close() })
	forger.RotateKeys()
	storm := func() {
		for i := range 200 {
			forged := forger.Sign(map[string]any{"typ": "at+jwt", "kid": fmt.Sprint(i)}, map[string]any{"iss": w.op.URL, "aud": "https://api.test", "sub": "admin"})
			if a := w.browser().do("GET", w.site+"/api/x", program("Bearer "+forged), ""); a.StatusCode != 401 {
				t.Fatalf("got status %d", a.StatusCode)
			}
		}
	}
	storm()
	w.op.RotateKeys()
	storm()
	w.browser().login(w, "/")
	if got := len(w.op.Requests("keys")); got > 4 {
		t.Errorf("the keys were fetched %d times", got)
	}
}

// A WebSocket and a stream of events end with the token that let them in; an
// answer that comes to an end by itself does not.
func TestR57StreamsEndWithTheirToken(t *testing.T) {
	w := newWorld(t)
	over := make(chan struct{}) // both streams are, and so is the token
	w.upstream.answers(func(rw http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/ws":
			conn, buf, err := http.NewResponseController(rw).Hijack()
			if err != nil {
				t.Error(err)
				return
			}
			defer conn.Close()
			_, _ = buf.WriteString("HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\nhello\n")
			_ = buf.Flush()
			_, _ = io.Copy(io.Discard, buf)
		case "/events":
			rw.Header().Set("Content-Type", "text/event-stream")
			_, _ = io.WriteString(rw, "data: hello\n\n")
			_ = http.NewResponseController(rw).Flush()
			<-r.Context().Done()
		case "/whole":
			_, _ = io.WriteString(rw, "begin ")
			_ = http.NewResponseController(rw).Flush()
			select {
			case <-over:
				_, _ = io.WriteString(rw, "end")
			case <-r.Context().Done():
			}
		}
	})
	w.caddy("pkce_auth $OP public {\naccept_bearer https://api.test\nclock_skew 1s\n}\nreverse_proxy $UPSTREAM {\nflush_interval -1\n}")
	w.browser().do("GET", w.site+"/ready", program("Bearer "+w.accessToken(nil, nil)), "") // the keys are there
	open := func(path, more string) *bufio.Reader {
		conn, err := net.Dial("tcp", strings.TrimPrefix(w.site, "http://"))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = conn.Close() })
		_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
		token := w.accessToken(nil, map[string]any{"exp": time.Now().Add(3 * time.Second).Unix()}) // good for three to four seconds more
		fmt.Fprintf(conn, "GET %s HTTP/1.1\r\nHost: %s\r\nAuthorization: Bearer %s\r\n%s\r\n", path, strings.TrimPrefix(w.site, "http://"), token, more)
		return bufio.NewReader(conn)
	}
	socket := open("/ws", "Connection: Upgrade\r\nUpgrade: websocket\r\n")
	events := open("/events", "Connection: close\r\n")
	whole := open("/whole", "Connection: close\r\n")
	for name, r := range map[string]*bufio.Reader{"a WebSocket": socket, "events": events} {
		data, err := io.ReadAll(r)
		if ne, ok := err.(net.Error); ok && ne.Timeout() {
			t.Errorf("%s: goes on", name)
		}
		if !strings.Contains(string(data), "hello") {
			t.Errorf("%s: got %q", name, data)
		}
	}
	close(over)
	if data, _ := io.ReadAll(whole); !strings.Contains(string(data), "begin ") || !strings.Contains(string(data), "end") {
		t.Errorf("an answer that ends: got %q", data)
	}
}

// A16: of two handlers on one path, each decides by what it accepts itself: what
// the first one took does not pass the second for anything.
func TestA16SecondHandlerAcceptsNoToken(t *testing.T) {
	const strict = "pkce_auth $OP public {\nunauthorized pass\nheader_up X-Auth-Sub {http.auth.user.id}\n}"
	const open = "pkce_auth $OP public {\naccept_bearer https://api.test\nunauthorized pass\nheader_up X-Auth-Sub {http.auth.user.id}\n}"
	for name, tc := range map[string]struct{ first, second, subject string }{
		"the second does not accept it": {open, strict, ""},
		"the second accepts it":         {strict, open, "carol"},
		"both do":                       {open, open, "carol"},
		"the second has other names":    {open, strings.Replace(open, "https://api.test", "api://other", 1), "401"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.caddy("route {\n" + tc.first + "\n" + tc.second + "\nreverse_proxy $UPSTREAM\n}")
			alice := w.browser()
			alice.open(w.site + "/oauth2/login")
			for who, b := range map[string]*browser{"nobody": w.browser(), "alice": alice} {
				want := tc.subject
				if who == "alice" && want == "" {
					want = "alice"
				}
				before := w.upstream.count()
				a := b.do("GET", w.site+"/x", program("Bearer "+w.accessToken(nil, nil)), "")
				if want == "401" {
					if a.StatusCode != 401 || w.upstream.count() != before {
						t.Errorf("%s: got status %d", who, a.StatusCode)
					}
					continue
				}
				got := w.upstream.last(t).Header
				if a.StatusCode != 200 || got.Get("X-Auth-Sub") != want || (got["Authorization"] != nil) != (want != "") {
					t.Errorf("%s: got status %d, the upstream %v", who, a.StatusCode, got)
				}
			}
		})
	}
}
