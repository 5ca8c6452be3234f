package flows

import (
	"net/http"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pkce-auth/caddy-pkce-auth/test/provider"
)

// noSession asserts that a callback led to no session, reached no upstream
// and spent no code beyond those already spent.
func (w *world) noSession(b *browser, tokenRequests int) {
	w.t.Helper()
	for name := range b.cookies(w.site) {
		if !strings.Contains(name, ".l") && !strings.HasSuffix(name, ".e") {
			w.t.Errorf("a session was made: %s", name)
		}
	}
	if got := len(w.op.Requests("token")); got != tokenRequests {
		w.t.Errorf("got %d token requests, want %d", got, tokenRequests)
	}
}

// A40, A41: an attacker's callback URL in a victim's browser. The victim has
// no such login state, so the code is not used; the victim is led into a
// login of their own.
func TestA40A41LoginCSRF(t *testing.T) {
	w := newWorld(t)
	w.caddy(basic)
	attacker, victim := w.browser(), w.browser()
	callback := attacker.callback(w, "/attacker")
	a := victim.visit(callback)
	if location := a.location(t); !strings.HasPrefix(location, w.op.URL+"/authorize?") {
		t.Errorf("got status %d to %q, want a login of the victim's own", a.StatusCode, location)
	}
	w.noSession(victim, 0)
	// The victim with a login of their own under way, too.
	victim.callback(w, "/victim")
	victim.visit(callback)
	w.noSession(victim, 0)
	// And the attacker's own login still works.
	if a := attacker.open(callback); a.body != "upstream /attacker" {
		t.Errorf("the attacker's own login: got %q", a.body)
	}
}

// A42, R07, IDPS 36: the same callback twice. With a session it leads to the
// page; without one, into one new login. The code is sent once.
func TestIDPS36A42R07SameCallbackTwice(t *testing.T) {
	w := newWorld(t)
	w.caddy(basic)
	b := w.browser()
	callback := b.callback(w, "/page?x=1")
	b.open(callback)
	for range 3 {
		a := b.visit(callback)
		if a.StatusCode != http.StatusSeeOther || a.Header.Get("Location") != w.site+"/page?x=1" {
			t.Errorf("again, with a session: got status %d to %s", a.StatusCode, a.Header.Get("Location"))
		}
	}
	other := w.browser()
	if a := other.open(callback); a.body != "upstream /page?x=1" {
		t.Errorf("in another browser, in the end: got %q", a.body)
	}
	if got := len(w.op.Requests("token")); got != 2 {
		t.Errorf("got %d token requests, want one for each browser", got)
	}
	for i, r := range w.op.Requests("token") {
		if i > 0 && r.Form.Get("code") == query(t, callback).Get("code") {
			t.Error("the code of the first callback was sent again")
		}
	}
}

// Two callbacks at once, as when a browser repeats a request that it gave up
// on: one token request, and both lead to the session.
func TestA42TwoCallbacksAtOnce(t *testing.T) {
	w := newWorld(t)
	release := make(chan struct{})
	w.op.Misbehave(provider.Faults{Answer: map[string]func(http.ResponseWriter, *http.Request) bool{
		"token": func(http.ResponseWriter, *http.Request) bool { <-release; return false },
	}})
	w.caddy(basic)
	b := w.browser()
	callback := b.callback(w, "/page")
	var wg sync.WaitGroup
	locations := make([]string, 5)
	for i := range locations {
		copied := &browser{t: t, jar: copyJar(t, b.jar, w.site)}
		wg.Go(func() { locations[i] = copied.visit(callback).Header.Get("Location") })
	}
	w.eventually("the token request", func() bool { return len(w.op.Requests("token")) > 0 })
	time.Sleep(50 * time.Millisecond) // for the others to arrive; they must wait, whenever they do
	close(release)
	wg.Wait()
	for i, location := range locations {
		if location != w.site+"/page" {
			t.Errorf("callback %d led to %q", i, location)
		}
	}
	if got := len(w.op.Requests("token")); got != 1 {
		t.Errorf("got %d token requests, want 1", got)
	}
}

// A48: an attacker's code in the victim's own pending login. An honest
// provider refuses it by PKCE; one that does not check falls to the nonce.
func TestA47A48R10CodeInjection(t *testing.T) {
	for name, faults := range map[string]provider.Faults{
		"an honest provider":                     {},
		"one that ignores PKCE":                  {IgnorePKCE: true},
		"one that ignores PKCE and reuses codes": {IgnorePKCE: true, ReuseCodes: true},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.op.Misbehave(faults)
			w.caddy(basic)
			code := query(t, w.browser().callback(w, "/")).Get("code")
			victim := w.browser()
			callback, err := url.Parse(victim.callback(w, "/"))
			if err != nil {
				t.Fatal(err)
			}
			q := callback.Query()
			q.Set("code", code)
			callback.RawQuery = q.Encode()
			a := victim.open(callback.String())
			if a.StatusCode != http.StatusBadGateway || w.upstream.count() != 0 {
				t.Errorf("got status %d, %d requests at the upstream", a.StatusCode, w.upstream.count())
			}
			w.noSession(victim, 1)
		})
	}
}

// A49, M40 to M49: what a callback must not get away with. Each ends at a
// page with status 400, without a token request.
func TestM40M49A49A53MalformedCallbacks(t *testing.T) {
	w := newWorld(t)
	w.caddy(basic)
	b := w.browser()
	good := b.callback(w, "/")
	q := query(t, good)
	code, state := q.Get("code"), url.QueryEscape(q.Get("state"))
	for name, raw := range map[string]string{
		"two codes":                       "code=" + code + "&code=" + code + "&state=" + state,
		"two states":                      "code=" + code + "&state=" + state + "&state=x",
		"code and error":                  "code=" + code + "&error=access_denied&state=" + state,
		"a semicolon":                     "code=" + code + ";state=" + state,
		"bad percent":                     "code=%zz&state=" + state,
		"an enormous code":                "code=" + strings.Repeat("x", 5000) + "&state=" + state,
		"A53 an error, no state":          "error=access_denied&error_description=hello",
		"A53 an error, a wrong state":     "error=access_denied&error_description=%3Cscript%3Ealert(1)%3C/script%3E&state=0" + strings.Repeat("A", 60),
		"A53 an error, a state cut short": "error=server_error&state=" + state[:len(state)-4],
	} {
		a := b.visit(w.site + "/oauth2/callback?" + raw)
		if a.StatusCode != http.StatusSeeOther || !strings.HasPrefix(a.Header.Get("Location"), "/oauth2/error?e=") || a.body != "" {
			t.Errorf("%s: got status %d to %q", name, a.StatusCode, a.Header.Get("Location"))
			continue
		}
		a = b.follow(a)
		if a.StatusCode != http.StatusBadRequest || strings.Contains(a.body, "hello") || strings.Contains(a.body, "alert") || strings.Contains(a.body, "script") {
			t.Errorf("%s: got status %d and %s", name, a.StatusCode, a.body)
		}
	}
	w.noSession(b, 0)
	if got := b.loginStates(w.site); len(got) != 1 {
		t.Errorf("the pending login was touched: %q", got)
	}
	if a := b.open(good); a.StatusCode != http.StatusOK {
		t.Errorf("the pending login, in the end: got status %d", a.StatusCode)
	}
}

// M42: a response to our own request with neither code nor error.
func TestM42NeitherCodeNorError(t *testing.T) {
	for name, change := range map[string]func(url.Values){
		"no code":       func(q url.Values) { q.Del("code") },
		"an empty code": func(q url.Values) { q.Set("code", "") },
	} {
		w := newWorld(t)
		w.op.Misbehave(provider.Faults{Callback: change})
		w.caddy(basic)
		b := w.browser()
		if a := b.open(w.site + "/"); a.StatusCode != http.StatusBadRequest {
			t.Errorf("%s: got status %d", name, a.StatusCode)
		}
		w.noSession(b, 0)
		if err := stop(); err != nil {
			t.Fatal(err)
		}
	}
}

// IDPS 18, R06, A94: errors that the provider reports become pages that a
// person understands; a description is shown only where it is for people, and
// escaped.
func TestIDPS18R06A94ProviderErrors(t *testing.T) {
	for _, tc := range []struct {
		code, description string
		status            int
		shown             string // on the page
		logged            string
	}{
		{"access_denied", "You are not in the <b>staff</b> group.", 403, "You are not in the &lt;b&gt;staff&lt;/b&gt; group.", `"reason":"access_denied"`},
		{"unauthorized", "user is blocked", 403, "user is blocked", `"reason":"access_denied"`},
		{"invalid_scope", "scope offline is unknown", 502, "settings", "scope offline is unknown"},
		{"unauthorized_client", "no grant", 502, "settings", "compare issuer, client_id"},
		{"invalid_request", "Service not found: https://api", 502, "settings", "Service not found"},
		{"unsupported_response_type", "", 502, "settings", "unsupported_response_type"},
		{"temporarily_unavailable", "busy", 503, "try again in a moment", `"reason":"provider_unavailable"`},
		{"server_error", "oops", 503, "try again in a moment", `"reason":"provider_unavailable"`},
		{"login_required", "", 502, "try again", `"reason":"login_refused"`},
		{"';alert(1)//", "<script>alert(2)</script>", 502, "try again", `"reason":"login_refused"`},
	} {
		t.Run(tc.code, func(t *testing.T) {
			w := newWorld(t)
			w.op.Misbehave(provider.Faults{Callback: func(q url.Values) {
				q.Del("code")
				q.Set("error", tc.code)
				q.Set("error_description", tc.description)
			}})
			w.caddy(basic)
			b := w.browser()
			a := b.open(w.site + "/page?x=1")
			if a.StatusCode != tc.status || !strings.Contains(a.body, tc.shown) {
				t.Errorf("got status %d and %s", a.StatusCode, a.body)
			}
			if strings.Contains(a.body, "alert(") || tc.status != 403 && tc.description != "" && strings.Contains(a.body, tc.description) {
				t.Errorf("the page shows the provider's words: %s", a.body)
			}
			if got := a.Header.Get("Retry-After"); (got != "") != (tc.status == 503) {
				t.Errorf("Retry-After: got %q", got)
			}
			if path := a.Request; path != nil && strings.Contains(path.URL.String(), "code=") {
				t.Errorf("the address bar holds %s", path.URL)
			}
			w.noSession(b, 0)
			if len(b.loginStates(w.site)) != 0 {
				t.Error("a failed login leaves its state")
			}
			line := w.logged("request failed", tc.logged)
			// The number on the page is that of the log line.
			_, id, _ := strings.Cut(line, `"id":"`)
			if id, _, _ = strings.Cut(id, `"`); id == "" || !strings.Contains(a.body, "<code>"+id+"</code>") {
				t.Errorf("the page does not show the id %q: %s", id, a.body)
			}
		})
	}
}

// Trying again leads to the page that was wanted.
func TestTryAgainLeadsOn(t *testing.T) {
	w := newWorld(t)
	w.op.Misbehave(provider.Faults{Callback: func(q url.Values) { q.Del("code"); q.Set("error", "access_denied") }})
	w.caddy(basic)
	b := w.browser()
	a := b.open(w.site + "/page?x=1&y=2")
	_, rest, _ := strings.Cut(a.body, `href="/oauth2/login?return_to=`)
	href, _, ok := strings.Cut(rest, `"`)
	if !ok {
		t.Fatalf("the page has no way on: %s", a.body)
	}
	w.op.Misbehave(provider.Faults{})
	if a = b.open(w.site + "/oauth2/login?return_to=" + strings.ReplaceAll(href, "&amp;", "&")); a.body != "upstream /page?x=1&y=2" {
		t.Errorf("got %q", a.body)
	}
}

// The token endpoint: what each answer becomes for the user and the operator.
func TestM50M51TokenEndpointErrors(t *testing.T) {
	for _, tc := range []struct {
		name   string
		answer func(http.ResponseWriter, *http.Request) bool
		status int
		logged string
	}{
		{"invalid_client", provider.Status(401, "application/json", `{"error":"invalid_client","error_description":"wrong secret"}`), 502, "wrong secret"},
		{"invalid_grant", provider.Status(400, "application/json", `{"error":"invalid_grant"}`), 502, "invalid_grant"},
		{"an HTML error", provider.Status(502, "text/html", "<html>secret-body"), 503, "status 502"},
		{"too many requests", provider.Status(429, "text/plain", "slow"), 503, "status 429"},
		{"A108 a redirect", provider.Redirect(307, "https://evil.test/"), 502, "redirects"},
		{"no JSON", provider.Status(200, "text/plain", "secret-body"), 502, "not a JSON object"},
		{"half an answer", func(http.ResponseWriter, *http.Request) bool { panic(http.ErrAbortHandler) }, 503, "provider unavailable"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			w := newWorld(t)
			w.expect = append(w.expect, "secret-body")
			w.op.Misbehave(provider.Faults{Answer: map[string]func(http.ResponseWriter, *http.Request) bool{"token": tc.answer}})
			w.caddy(basic)
			b := w.browser()
			a := b.open(w.site + "/")
			if a.StatusCode != tc.status || strings.Contains(a.body, "secret") {
				t.Errorf("got status %d and %s", a.StatusCode, a.body)
			}
			w.noSession(b, 1)
			w.logged("request failed", tc.logged)
		})
	}
}

// Each check of the ID token, seen from outside: no session, a page that
// names nothing, a log line that names the check.
func TestR20M70IDPS22RejectedIDTokens(t *testing.T) {
	for check, change := range map[string]func(header, claims map[string]any){
		"iss":     func(_, claims map[string]any) { claims["iss"] = "https://evil.test" },
		"aud":     func(_, claims map[string]any) { claims["aud"] = "other" },
		"azp":     func(_, claims map[string]any) { claims["aud"] = []string{"public", "other"} },
		"exp":     func(_, claims map[string]any) { claims["exp"] = time.Now().Add(-2 * time.Minute).Unix() },
		"nbf":     func(_, claims map[string]any) { claims["nbf"] = time.Now().Add(2 * time.Minute).Unix() },
		"iat":     func(_, claims map[string]any) { delete(claims, "iat") },
		"nonce":   func(_, claims map[string]any) { claims["nonce"] = "other" },
		"at_hash": func(_, claims map[string]any) { claims["at_hash"] = "AAAAAAAAAAAAAAAAAAAAAA" },
		"sub":     func(_, claims map[string]any) { delete(claims, "sub") },
		"header":  func(header, _ map[string]any) { header["typ"] = "logout+jwt" },
	} {
		t.Run(check, func(t *testing.T) {
			w := newWorld(t)
			w.op.Misbehave(provider.Faults{IDToken: change})
			w.caddy(basic)
			b := w.browser()
			a := b.open(w.site + "/")
			if a.StatusCode != http.StatusBadGateway || strings.Contains(a.body, check+":") || w.upstream.count() != 0 {
				t.Errorf("got status %d and %s", a.StatusCode, a.body)
			}
			w.noSession(b, 1)
			w.logged("request failed", `"check":"`+check+`"`, `"reason":"invalid_answer"`)
		})
	}
}

// A43, M46: a login page that was left open for too long, or whose state was
// evicted: one new login, and the user is where they wanted to be. If it is
// gone again, because no cookie ever comes back, a page, and no loop.
func TestM46IDPS37A43GoneStatesAndBlockedCookies(t *testing.T) {
	w := newWorld(t)
	w.caddy(basic)
	b := w.browser()
	callback := b.callback(w, "/page?x=1")
	evict(t, b, w.site)
	if a := b.open(callback); a.body != "upstream /page?x=1" {
		t.Errorf("evicted: got %q", a.body)
	}
	blocked := w.browser()
	a := blocked.visit(w.site + "/page")
	redirects := 0
	for ; a.location(t) != ""; redirects++ {
		evict(t, blocked, w.site)
		a = blocked.visit(a.location(t))
		if redirects > 10 {
			t.Fatal("a loop")
		}
	}
	if a.StatusCode != http.StatusBadRequest || !strings.Contains(a.body, "does not keep cookies") {
		t.Errorf("cookies blocked: got status %d and %s", a.StatusCode, a.body)
	}
	if redirects != 5 { // provider, callback, provider, callback, error
		t.Errorf("cookies blocked: got %d redirects", redirects)
	}
}

// A58: a failed callback leaves no code in the address bar, and burns the
// state.
func TestA58FailedCallbackBurnsItsState(t *testing.T) {
	w := newWorld(t)
	w.op.Misbehave(provider.Faults{Callback: func(q url.Values) { q.Set("iss", "https://evil.test") }})
	w.caddy(basic)
	b := w.browser()
	callback := b.callback(w, "/")
	kept := copyJar(t, b.jar, w.site)
	if a := b.visit(callback); !strings.HasPrefix(a.Header.Get("Location"), "/oauth2/error?e=") || a.Header.Get("Referrer-Policy") != "no-referrer" {
		t.Errorf("got %v", a.Header)
	}
	w.op.Misbehave(provider.Faults{})
	stolen := &browser{t: t, jar: kept}
	q := query(t, callback)
	q.Set("iss", w.op.URL)
	if a := stolen.visit(w.site + "/oauth2/callback?" + q.Encode()); strings.HasPrefix(a.Header.Get("Location"), w.site+"/") {
		t.Errorf("the state worked again: %s", a.Header.Get("Location"))
	}
	w.noSession(stolen, 0)
}

// The error endpoint says only what was sealed for it.
func TestErrorEndpoint(t *testing.T) {
	w := newWorld(t)
	w.caddy(basic)
	b := w.browser()
	for _, e := range []string{"", "?e=", "?e=x", "?e=" + strings.Repeat("A", 300), "?error=hello"} {
		a := b.visit(w.site + "/oauth2/error" + e)
		if a.StatusCode != http.StatusBadRequest || !strings.Contains(a.body, "Nothing to see here") || strings.Contains(a.body, "hello") {
			t.Errorf("%s: got status %d and %s", e, a.StatusCode, a.body)
		}
	}
}

// A31: endpoints are exact; their variants are paths of the application.
func TestA31EndpointsAreExact(t *testing.T) {
	w := newWorld(t)
	w.caddy(basic)
	b := w.browser()
	for _, path := range []string{"/oauth2/Callback", "/oauth2/callback/", "/OAUTH2/callback", "/oauth2/%63allback", "/oauth2//callback", "/oauth2/callbackx", "/oauth2", "/callback"} {
		if a := b.visit(w.site + path); !strings.HasPrefix(a.Header.Get("Location"), w.op.URL) {
			t.Errorf("%s: got status %d to %q, want a login", path, a.StatusCode, a.Header.Get("Location"))
		}
	}
	for method, want := range map[string]int{"POST": 405, "PUT": 405, "DELETE": 405, "HEAD": 405, "OPTIONS": 405} {
		for _, path := range []string{"/oauth2/callback", "/oauth2/login", "/oauth2/error", "/oauth2/signed-out"} {
			if a := b.do(method, w.site+path, navigation, ""); a.StatusCode != want || a.Header.Get("Allow") != "GET" {
				t.Errorf("%s %s: got status %d, Allow %q", method, path, a.StatusCode, a.Header.Get("Allow"))
			}
		}
	}
}

// A76, IDPS 34: fifty navigations leave at most twelve login states of 4 KiB
// after the next one, and the latest login works. Two cookies of one name do
// not get in its way.
func TestIDPS34A76LoginStatesAreBounded(t *testing.T) {
	w := newWorld(t)
	w.caddy(basic)
	b := w.browser()
	var callback string
	for i := range 50 {
		callback = b.callback(w, "/page/"+strings.Repeat("x", i*3))
		size := 0
		for _, name := range b.loginStates(w.site) {
			size += len(name) + len(b.cookies(w.site)[name])
		}
		if n := len(b.loginStates(w.site)); n > 12 || size > 4096 {
			t.Fatalf("after %d navigations: %d login states, %d bytes", i+1, n, size)
		}
	}
	if a := b.open(callback); a.StatusCode != http.StatusOK {
		t.Errorf("the latest login: got status %d", a.StatusCode)
	}
	// Fifty at once, of which none knows the others' cookies, then one more.
	b = w.browser()
	var wg sync.WaitGroup
	tabs := make([]*browser, 50)
	for i := range tabs {
		tabs[i] = w.browser()
		wg.Go(func() { tabs[i].visit(w.site + "/parallel") })
	}
	wg.Wait()
	site, err := url.Parse(w.site)
	if err != nil {
		t.Fatal(err)
	}
	for _, tab := range tabs {
		b.jar.SetCookies(site, tab.jar.Cookies(site))
	}
	if got := len(b.loginStates(w.site)); got != 50 {
		t.Fatalf("got %d login states, want 50 at first", got)
	}
	callback = b.callback(w, "/next")
	if got := len(b.loginStates(w.site)); got > 12 {
		t.Errorf("after the next navigation: got %d login states", got)
	}
	name := b.loginStates(w.site)[len(b.loginStates(w.site))-1]
	req, _ := http.NewRequest(http.MethodGet, callback, nil)
	req.Header = navigation.Clone()
	req.Header.Set("Cookie", name+"=planted")
	if a := b.send(req); a.Header.Get("Location") != w.site+"/next" {
		t.Errorf("with a planted cookie of the same name: got status %d to %q", a.StatusCode, a.Header.Get("Location"))
	}
}

// A58, F20: whatever goes wrong with a callback, Caddy logs no error for it,
// whose line would hold the URL.
func TestR19A58F20CallbackSecretsStayOutOfTheLog(t *testing.T) {
	const code, state = "a-code-of-somebody", "0abc.a-state-of-somebody"
	for name, tc := range map[string]struct {
		faults provider.Faults
		errors string
	}{
		"the provider is down": {provider.Faults{Answer: map[string]func(http.ResponseWriter, *http.Request) bool{
			"metadata": provider.Status(500, "text/plain", ""),
		}}, ""},
		"with error routes": {provider.Faults{Answer: map[string]func(http.ResponseWriter, *http.Request) bool{
			"metadata": provider.Status(500, "text/plain", ""),
		}}, "handle_errors {\nrespond \"own {err.status_code}\"\n}"},
		"with error routes that fail": {provider.Faults{Metadata: func(doc map[string]any) {
			doc["authorization_endpoint"] = doc["authorization_endpoint"].(string) + "?state=x"
		}}, "handle_errors {\nreverse_proxy 127.0.0.1:1\n}"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.expect = []string{code, state[5:]}
			w.op.Misbehave(tc.faults)
			w.caddy(basic + tc.errors)
			b := w.browser()
			a := b.visit(w.site + "/oauth2/callback?code=" + code + "&state=" + state)
			if !strings.HasPrefix(a.location(t), w.site+"/oauth2/error?e=") {
				t.Errorf("got status %d to %q", a.StatusCode, a.Header.Get("Location"))
			}
			b.visit(a.location(t))
			w.logged("request failed", `"path":"/oauth2/callback"`)
		})
	}
}

// An error of the provider's that an attacker had sealed at our callback is
// shown without the attacker's words to anybody else who opens the link.
func TestA94ErrorPagesOfOthers(t *testing.T) {
	w := newWorld(t)
	w.caddy(basic)
	attacker, victim := w.browser(), w.browser()
	state := query(t, attacker.visit(w.site+"/x").location(t)).Get("state")
	link := attacker.visit(w.site + "/oauth2/callback?error=access_denied&error_description=" + url.QueryEscape("Your account was locked. Call +1 555 0100.") +
		"&state=" + url.QueryEscape(state) + "&iss=" + url.QueryEscape(w.op.URL)).location(t)
	if a := victim.visit(link); a.StatusCode != http.StatusForbidden || strings.Contains(a.body, "555") {
		t.Errorf("the victim: got status %d and %s", a.StatusCode, a.body)
	}
	if a := attacker.visit(link); !strings.Contains(a.body, "555") {
		t.Errorf("whose login it was: got %s", a.body)
	}
}
