package flows

import (
	"bufio"
	"encoding/json"
	"net/http"
	"regexp"
	"strings"
	"testing"
)

// ours checks that an answer of ours can be neither framed (A93), nor read
// by others (A95), nor taken for what it is not (A96).
func ours(t *testing.T, a answer) {
	t.Helper()
	h := a.Header
	if !strings.Contains(h.Get("Content-Security-Policy"), "frame-ancestors 'none'") || h.Get("X-Frame-Options") != "DENY" || !strings.Contains(h.Get("Content-Security-Policy"), "default-src 'none'") {
		t.Errorf("A93: status %d can be framed: %v", a.StatusCode, h)
	}
	for name := range h {
		if strings.HasPrefix(name, "Access-Control-") {
			t.Errorf("A95: status %d has %s", a.StatusCode, name)
		}
	}
	if h.Get("X-Content-Type-Options") != "nosniff" {
		t.Errorf("A96: status %d may be sniffed: %v", a.StatusCode, h)
	}
	if kind := h.Get("Content-Type"); a.body != "" && kind != "text/html; charset=utf-8" && kind != "application/json; charset=utf-8" {
		t.Errorf("A96: status %d is %q", a.StatusCode, kind)
	}
}

// A90, A92, R19d: what a foreign page makes a browser do with its session is
// refused, where it can change something: an unsafe method, or a WebSocket. A
// neighbour below the same domain is foreign, too; SameSite would let it in.
func TestA90A92R19dForeignPages(t *testing.T) {
	w := newWorld(t)
	w.caddy("pkce_auth $OP public {\nbypass /public/*\nheader_up X-Auth-Sub {http.auth.user.id}\n}\nreverse_proxy $UPSTREAM")
	b := w.browser()
	b.login(w, "/")
	old := http.Header{"Accept": {"*/*"}}
	socket := func(h http.Header) http.Header { return with(h, "Connection", "Upgrade", "Upgrade", "websocket") }
	for _, tc := range []struct {
		name, method string
		header       http.Header
		pass         bool
	}{
		{"a POST of the site", "POST", with(old, "Sec-Fetch-Site", "same-origin", "Origin", "$SITE"), true},
		{"a POST typed in", "POST", with(old, "Sec-Fetch-Site", "none"), true},
		{"a POST of a neighbour", "POST", with(old, "Sec-Fetch-Site", "same-site", "Origin", "https://other.app.test"), false},
		{"a POST of a stranger", "POST", with(old, "Sec-Fetch-Site", "cross-site", "Origin", "https://evil.test"), false},
		{"a POST of a stranger that claims our origin", "POST", with(old, "Sec-Fetch-Site", "cross-site", "Origin", "$SITE"), false},
		{"a POST of an unknown relation", "POST", with(old, "Sec-Fetch-Site", "sideways"), false},
		{"a POST of two relations", "POST", http.Header{"Sec-Fetch-Site": {"same-origin", "cross-site"}}, false},
		{"a POST of an empty relation", "POST", http.Header{"Sec-Fetch-Site": {""}}, false},
		{"an old browser's POST of the site", "POST", with(old, "Origin", "$SITE"), true},
		{"an old browser's POST of a stranger", "POST", with(old, "Origin", "https://evil.test"), false},
		{"an old browser's POST of a sandbox", "POST", with(old, "Origin", "null"), false},
		{"an old browser's POST of a name like ours", "POST", with(old, "Origin", "$SITE.evil.test"), false},
		{"an old browser's POST of our host by another scheme", "POST", with(old, "Origin", "https://$HOST"), false},
		{"an old browser's POST of our path", "POST", with(old, "Origin", "$SITE/"), false},
		{"a POST of two origins", "POST", http.Header{"Origin": {"$SITE", "https://evil.test"}}, false},
		{"a program's POST", "POST", old, true},
		{"PUT", "PUT", with(old, "Sec-Fetch-Site", "cross-site"), false},
		{"DELETE", "DELETE", with(old, "Sec-Fetch-Site", "same-site"), false},
		{"PATCH", "PATCH", with(old, "Sec-Fetch-Site", "cross-site"), false},
		{"a method of the application's", "PROPFIND", with(old, "Sec-Fetch-Site", "cross-site"), false},
		{"a method in lower case", "get", with(old, "Sec-Fetch-Site", "cross-site"), false},
		{"a link", "GET", with(navigation, "Sec-Fetch-Site", "cross-site"), true},
		{"HEAD", "HEAD", with(old, "Sec-Fetch-Site", "cross-site"), true},
		{"a preflight", "OPTIONS", with(old, "Sec-Fetch-Site", "cross-site", "Origin", "https://evil.test"), true},
		{"a socket of the site", "GET", socket(with(old, "Origin", "$SITE")), true},
		{"a socket of a stranger", "GET", socket(with(old, "Origin", "https://evil.test")), false},
		{"a socket of a stranger, as Chromium says", "GET", socket(with(old, "Origin", "https://evil.test", "Sec-Fetch-Site", "cross-site")), false},
		{"a socket of a neighbour", "GET", socket(with(old, "Origin", "https://other.test", "Sec-Fetch-Site", "same-site")), false},
		{"a socket of a sandbox", "GET", socket(with(old, "Origin", "null")), false},
		{"a program's socket", "GET", socket(old), true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			header := http.Header{}
			for name, values := range tc.header {
				for _, value := range values {
					header.Add(name, strings.NewReplacer("$SITE", w.site, "$HOST", strings.TrimPrefix(w.site, "http://")).Replace(value))
				}
			}
			header.Set("Cookie", b.cookieHeader(w)) // as with SameSite=None, or from a neighbour
			stranger := &browser{t: t, jar: w.noCookies()}
			before := w.upstream.count()
			a := stranger.do(tc.method, w.site+"/transfer", header, "")
			if reached := w.upstream.count() > before; reached != tc.pass {
				t.Fatalf("got status %d, and the upstream was reached: %v", a.StatusCode, reached)
			}
			if tc.pass {
				return
			}
			var body map[string]string
			if err := json.Unmarshal([]byte(a.body), &body); err != nil || a.StatusCode != http.StatusForbidden || body["error"] != "cross_site" {
				t.Errorf("got status %d and %s", a.StatusCode, a.body)
			}
			ours(t, a)
			// On a bypassed path the page is as anonymous as its request would be
			// without cookies.
			a = stranger.do(tc.method, w.site+"/public/x", header, "")
			if w.upstream.count() != before+1 || len(identity(w.upstream.last(t))) != 0 || w.upstream.last(t).URL.Path != "/public/x" {
				t.Errorf("on a bypassed path: got status %d", a.StatusCode)
			}
		})
	}
	w.logged(`"request failed"`, `"level":"info"`, `"reason":"cross_site"`, "the option csrf", `"path":"/transfer"`)
}

// csrf off, and origins that are trusted.
func TestA90A115CSRFOptions(t *testing.T) {
	const trusted = "https://admin.example.com"
	for _, tc := range []struct {
		option, origin, site string
		want                 int
	}{
		{"", trusted, "cross-site", 403},
		{"csrf on", trusted, "cross-site", 403},
		{"csrf off", trusted, "cross-site", 200},
		{"csrf off", "null", "", 200},
		{"csrf " + trusted, trusted, "cross-site", 200},
		{"csrf " + trusted, trusted, "", 200},
		{"csrf " + trusted, "https://admin.example.com.evil.test", "cross-site", 403},
		{"csrf " + trusted, "https://evil.test", "cross-site", 403},
		{"csrf " + trusted, "http://admin.example.com", "", 403},
		{"csrf " + trusted, "https://Admin.example.com", "", 403}, // no browser writes it so
		{"csrf " + trusted, "null", "cross-site", 403},
		{"csrf " + trusted, "", "cross-site", 403},
		{"csrf " + trusted, "", "same-origin", 200},
		{"csrf " + trusted + "\nunauthorized pass", "https://evil.test", "cross-site", 403},
	} {
		w := newWorld(t)
		w.caddy("pkce_auth $OP public {\n" + tc.option + "\n}\nreverse_proxy $UPSTREAM")
		b := w.browser()
		b.open(w.site + "/oauth2/login?return_to=/")
		a := (&browser{t: t, jar: w.noCookies()}).do("POST", w.site+"/x", with(http.Header{"Cookie": {b.cookieHeader(w)}}, "Origin", tc.origin, "Sec-Fetch-Site", tc.site), "")
		if a.StatusCode != tc.want {
			t.Errorf("%s, Origin %q, Sec-Fetch-Site %q: got status %d, want %d", tc.option, tc.origin, tc.site, a.StatusCode, tc.want)
		}
		_ = stop()
	}
}

// A92: a socket of the site's own page passes, and one of a foreign page does
// not reach the upstream.
func TestA92SocketsOfForeignPages(t *testing.T) {
	w := newWorld(t)
	w.sockets(func(buf *bufio.ReadWriter) { _ = buf.Flush() })
	w.caddy(basic)
	b := w.browser()
	b.open(w.site + "/")
	before := w.upstream.count()
	shake := func(origin string) int {
		return w.raw(b, "GET /ws HTTP/1.1\nHost: $HOST\nConnection: Upgrade\nUpgrade: WebSocket\nSec-WebSocket-Key: x\nSec-WebSocket-Version: 13\nOrigin: "+origin+"\n\n").StatusCode
	}
	if got := shake("https://evil.test"); got != http.StatusForbidden || w.upstream.count() != before {
		t.Errorf("a foreign page: got status %d", got)
	}
	if got := shake(w.site); got != http.StatusSwitchingProtocols {
		t.Errorf("the site's page: got status %d", got)
	}
}

// A93, A95, A96: every answer of ours, page or JSON, endpoint or refusal.
func TestA93A95A96AnswersOfOurOwn(t *testing.T) {
	w := newWorld(t)
	w.caddy("pkce_auth $OP public {\nrequire groups nobody\n}\nreverse_proxy $UPSTREAM")
	b := w.browser()
	b.open(w.site + "/")
	for _, who := range []*browser{b, w.browser()} {
		for _, path := range []string{"/", "/oauth2/login", "/oauth2/login?iss=https://evil.test", "/oauth2/logout", "/oauth2/signed-out", "/oauth2/error", "/oauth2/callback", "/oauth2/callback?code=x&state=y", "/oauth2/backchannel-logout"} {
			for _, method := range []string{"GET", "HEAD", "POST", "OPTIONS", "DELETE"} {
				for _, header := range []http.Header{
					with(navigation, "Sec-Fetch-Site", "cross-site", "Origin", "https://evil.test"),
					with(fetched, "Sec-Fetch-Site", "cross-site", "Origin", "https://evil.test", "Access-Control-Request-Method", "POST"),
				} {
					a := who.do(method, w.site+path, header, "")
					if a.StatusCode/100 == 5 {
						t.Errorf("%s %s: got status %d", method, path, a.StatusCode)
					}
					if a.StatusCode != http.StatusFound || path != "/" { // the redirect to the login shows nothing
						ours(t, a)
					}
				}
			}
		}
	}
	if w.upstream.count() != 0 {
		t.Error("the upstream was reached")
	}
}

// A97: a prefetch or prerender of somebody who is not logged in starts no
// login; of somebody who is, it ends no session; the page itself may come.
func TestA97PrefetchesChangeNothing(t *testing.T) {
	w := newWorld(t)
	w.caddy(basic)
	b := w.browser()
	b.login(w, "/")
	cookies := b.cookieHeader(w)
	for _, purpose := range []string{"prefetch", "prefetch;prerender", "prefetch;anonymous-client-ip"} {
		header := with(navigation, "Sec-Purpose", purpose, "Sec-Fetch-Site", "same-origin")
		if a := b.do("GET", w.site+"/oauth2/logout", header, ""); a.StatusCode != http.StatusUnauthorized || a.Header["Set-Cookie"] != nil {
			t.Errorf("%s of the logout: got status %d and %v", purpose, a.StatusCode, a.Header)
		}
		if a := w.browser().do("GET", w.site+"/oauth2/login", header, ""); a.Header["Set-Cookie"] != nil || a.Header.Get("Location") != "" {
			t.Errorf("%s of the login: got status %d and %v", purpose, a.StatusCode, a.Header)
		}
		if a := w.browser().do("GET", w.site+"/", header, ""); a.StatusCode != http.StatusUnauthorized || a.Header["Set-Cookie"] != nil {
			t.Errorf("%s of a page: got status %d and %v", purpose, a.StatusCode, a.Header)
		}
	}
	if a := b.fetch(w.site + "/"); a.StatusCode != http.StatusOK || b.cookieHeader(w) != cookies {
		t.Errorf("after all that: got status %d", a.StatusCode)
	}
}

// A29: what came in early data can be somebody's recording, and changes
// nothing; nor does an address in a header open anything.
func TestA28A29EarlyDataAndSpoofedAddresses(t *testing.T) {
	w := newWorld(t)
	w.caddy(basic)
	b := w.browser()
	b.login(w, "/")
	callback := w.browser().callback(w, "/")
	before, tokens, cookies := w.upstream.count(), len(w.op.Requests("token")), b.cookieHeader(w)
	for _, tc := range [][2]string{
		{"POST", "/order"},
		{"DELETE", "/order"},
		{"GET", "/oauth2/logout"},
		{"POST", "/oauth2/logout"},
		{"POST", "/oauth2/backchannel-logout"},
		{"GET", "/oauth2/frontchannel-logout"},
		{"GET", strings.TrimPrefix(callback, w.site)},
	} {
		if a := b.do(tc[0], w.site+tc[1], with(fetched, "Early-Data", "1"), ""); a.StatusCode != http.StatusTooEarly || a.Header["Set-Cookie"] != nil {
			t.Errorf("%s %.40s: got status %d and %v", tc[0], tc[1], a.StatusCode, a.Header)
		}
	}
	if w.upstream.count() != before || len(w.op.Requests("token")) != tokens || b.cookieHeader(w) != cookies {
		t.Error("something has changed")
	}
	if a := b.do("GET", w.site+"/order", with(fetched, "Early-Data", "1"), ""); a.StatusCode != http.StatusOK {
		t.Errorf("a GET: got status %d", a.StatusCode)
	}
	before = w.upstream.count()
	for _, header := range []http.Header{
		{"X-Forwarded-For": {"127.0.0.1"}},
		{"X-Real-Ip": {"127.0.0.1"}},
		{"X-Original-Url": {"/healthz"}},
		{"X-Rewrite-Url": {"/healthz"}},
		{"Forwarded": {"for=127.0.0.1"}},
		{"User-Agent": {"kube-probe/1.30"}},
		{"User-Agent": {"GoogleHC/1.0"}},
		{"X-Http-Method-Override": {"OPTIONS"}},
	} {
		for _, path := range []string{"/", "/healthz", "/ping"} {
			if a := (&browser{t: t, jar: w.noCookies()}).do("GET", w.site+path, header, ""); a.StatusCode != http.StatusUnauthorized {
				t.Errorf("%s with %v: got status %d", path, header, a.StatusCode)
			}
		}
	}
	if w.upstream.count() != before {
		t.Error("the upstream was reached")
	}
}

// A27: no method is a way in, whatever it is called, nor does one carry an
// identity of the client's own where a bypass lets it pass.
func TestA27MethodsAreNoWayIn(t *testing.T) {
	w := newWorld(t)
	w.caddy(guarded) // with a bypass of OPTIONS
	for _, request := range []string{
		"HEAD /x", "POST /x", "TRACE /x", "PROPFIND /x", "QUERY /x", "options /x", "OPTIONSX /x", "GET /x", "CONNECT $HOST", "OPTIONS *", "GET *", "CONNECT /x",
	} {
		a := w.raw(&browser{t: t, jar: w.noCookies()}, request+" HTTP/1.1\nHost: $HOST\nX-HTTP-Method-Override: OPTIONS\nX-HTTP-Method: OPTIONS\nX-Auth-Sub: root\nAuthorization: Bearer x\nAccept: */*\nConnection: close\n\n")
		if a.StatusCode < 400 && a.StatusCode != http.StatusOK || a.StatusCode >= 500 || w.upstream.count() != 0 {
			t.Fatalf("%s: got status %d, and %d requests reached the upstream", request, a.StatusCode, w.upstream.count())
		}
	}
	a := w.raw(&browser{t: t, jar: w.noCookies()}, "OPTIONS /x HTTP/1.1\nHost: $HOST\nX-Auth-Sub: root\nX_Auth_Sub: root\nAuthorization: Bearer x\nConnection: close\n\n")
	if a.StatusCode != http.StatusOK || len(identity(w.upstream.last(t))) != 0 {
		t.Errorf("a bypassed preflight: got status %d and %v", a.StatusCode, identity(w.upstream.last(t)))
	}
}

// A30: requests that two servers would cut in different places. What follows
// in the connection is never a request of its own.
func TestA30SmuggledRequests(t *testing.T) {
	w := newWorld(t)
	w.caddy(guarded)
	b := w.browser()
	b.login(w, "/")
	before := w.upstream.count()
	const hidden = "GET /secret HTTP/1.1\nHost: $HOST\nX-Auth-Sub: root\n\n"
	for name, tc := range map[string]struct{ head, body string }{
		"length and chunks":      {"Content-Length: 5\nTransfer-Encoding: chunked", "0\n\n" + hidden},
		"chunks, misspelt":       {"Transfer-Encoding: xchunked", "0\n\n" + hidden},
		"chunks, twice":          {"Transfer-Encoding: chunked\nTransfer-Encoding: identity", "0\n\n" + hidden},
		"chunks behind a space":  {"Transfer-Encoding : chunked", "0\n\n" + hidden},
		"two lengths":            {"Content-Length: 0\nContent-Length: 70", hidden},
		"a length with a sign":   {"Content-Length: +70", hidden},
		"a length upgraded away": {"Content-Length: 0\nConnection: Upgrade, HTTP2-Settings\nUpgrade: h2c\nHTTP2-Settings: AAMAAABkAAQAAP__", hidden},
	} {
		t.Run(name, func(t *testing.T) {
			w.raw(&browser{t: t, jar: w.noCookies()}, "POST /public/x HTTP/1.1\nHost: $HOST\n"+tc.head+"\n\n"+tc.body)
			w.upstream.mu.Lock()
			defer w.upstream.mu.Unlock()
			for _, r := range w.upstream.requests[before:] {
				if r.URL.Path != "/public/x" || len(identity(r)) != 0 {
					t.Errorf("the upstream got %s with %v", r.URL, identity(r))
				}
			}
		})
	}
}

// A59: what is posted here is never posted to the provider: no redirect of ours
// keeps the method.
func TestA59NothingIsPostedElsewhere(t *testing.T) {
	w := newWorld(t)
	w.caddy("pkce_auth $OP public {\nunauthorized redirect\n}\nreverse_proxy $UPSTREAM")
	b := w.browser()
	for _, request := range [][2]string{{"POST", "/form"}, {"PUT", "/form"}, {"POST", "/oauth2/login"}, {"POST", "/oauth2/callback"}, {"POST", "/oauth2/logout"}, {"GET", "/form"}} {
		a := b.do(request[0], w.site+request[1], with(navigation, "Sec-Fetch-Site", "same-origin"), "password=x")
		switch a.StatusCode {
		case http.StatusTemporaryRedirect, http.StatusPermanentRedirect:
			t.Errorf("%s %s: got status %d", request[0], request[1], a.StatusCode)
		case http.StatusFound, http.StatusMovedPermanently:
			if request[0] != "GET" {
				t.Errorf("%s %s: got status %d, by which some keep the method", request[0], request[1], a.StatusCode)
			}
		}
	}
}

// A116: nobody learns from an answer whether a state, a session or a key is
// known: what was never there reads like what was altered, but for the code of
// the log line.
func TestA116UnknownIsUnknown(t *testing.T) {
	w := newWorld(t)
	w.caddy(basic)
	real := w.browser()
	real.login(w, "/")
	name, value := real.sessionCookie(w)
	pending := w.browser()
	callback := pending.callback(w, "/")
	state := query(t, callback).Get("state")
	anonymous := func(target, cookie string, header http.Header) answer {
		return (&browser{t: t, jar: w.noCookies()}).do("GET", w.site+target, with(header, "Cookie", cookie), "")
	}
	same := func(what string, answers ...answer) {
		t.Helper()
		for _, a := range answers[1:] {
			if a.StatusCode != answers[0].StatusCode || withoutIDs(a.body) != withoutIDs(answers[0].body) || len(a.Header) != len(answers[0].Header) {
				t.Errorf("%s: got status %d and %v, %.200s; and %d and %v, %.200s", what, answers[0].StatusCode, answers[0].Header, answers[0].body, a.StatusCode, a.Header, a.body)
			}
		}
	}
	tampered := value[:len(value)-3] + "AAA"
	same("sessions", anonymous("/x", "", fetched), anonymous("/x", name+"=x", fetched), anonymous("/x", name+"="+tampered, fetched), anonymous("/x", name+"="+value[:20], fetched))
	same("error pages", anonymous("/oauth2/error?e=x", "", navigation), anonymous("/oauth2/error", "", navigation))
	// A pending state without its cookie, one that was never there, and rubbish.
	first := anonymous("/oauth2/callback?code=x&state="+state[:len(state)-3]+"AAA", "", navigation)
	second := anonymous("/oauth2/callback?code=x&state=rubbish", "", navigation)
	if first.StatusCode != second.StatusCode || len(w.op.Requests("token")) != 1 {
		t.Errorf("callbacks: got status %d and %d", first.StatusCode, second.StatusCode)
	}
}

// withoutIDs takes out what differs with every answer.
func withoutIDs(body string) string { return logID.ReplaceAllString(body, "") }

var logID = regexp.MustCompile(`<code>\w+</code>|"id":"\w+"`)
