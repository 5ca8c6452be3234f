package caddyauth

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/pkce-auth/caddy-pkce-auth/caddyauth/internal/claims"
	"github.com/pkce-auth/caddy-pkce-auth/caddyauth/internal/rp"
	"github.com/pkce-auth/caddy-pkce-auth/caddyauth/internal/session"
)

// These tests are about what no option does by itself: two handlers on the way
// of one request, and two options on one route.

// newHandlers provisions handlers of one configuration, with the providers "a"
// and "b".
func newHandlers(t testing.TB, configs ...string) (handlers []*Handler) {
	t.Helper()
	disabled := false
	provider := func(name string) string {
		return `{"issuer":"https://` + name + `.test","client_id":"public","cookie_secret":["0badc0ffee15900d7ea5e7a57e5b1e55ed0ddba11cab1e5caffe1nea0fab1e5eed"],` +
			`"authorization":{"scopes":["openid"]},"prefix":"/` + name + `"}`
	}
	ctx, err := caddy.ProvisionContext(&caddy.Config{
		Admin:      &caddy.AdminConfig{Disabled: true, Config: &caddy.ConfigSettings{Persist: &disabled}},
		Logging:    &caddy.Logging{Logs: map[string]*caddy.CustomLog{"default": {BaseLog: caddy.BaseLog{Level: "ERROR"}}}},
		StorageRaw: json.RawMessage(`{"module":"file_system","root":` + strconv.Quote(folderFor(t)) + `}`),
		AppsRaw:    caddy.ModuleMap{"pkce_auth": json.RawMessage(`{"providers":{"a":` + provider("a") + `,"b":` + provider("b") + `}}`)},
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, config := range configs {
		module, err := ctx.LoadModuleByID("http.handlers.pkce_auth", json.RawMessage(config))
		if err != nil {
			t.Fatal(err)
		}
		handlers = append(handlers, module.(*Handler))
	}
	t.Cleanup(func() {
		if err := handlers[0].party.app.Cleanup(); err != nil {
			t.Error(err)
		}
	})
	return handlers
}

// securely makes a request that came to https://app.test.
func securely(r *http.Request) *http.Request {
	r.Host, r.TLS = "app.test", &tls.ConnectionState{HandshakeComplete: true, ServerName: "app.test"}
	return r
}

// through sends a request by several handlers, and returns what reached the
// upstream behind them; nil: nothing did.
func through(t testing.TB, r *http.Request, handlers ...*Handler) (upstream http.Header, w *httptest.ResponseRecorder) {
	t.Helper()
	w = httptest.NewRecorder()
	var next caddyhttp.Handler = caddyhttp.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) error {
		upstream = r.Header.Clone()
		return nil
	})
	for i := len(handlers) - 1; i >= 0; i-- {
		h, behind := handlers[i], next
		next = caddyhttp.HandlerFunc(func(w http.ResponseWriter, r *http.Request) error { return h.ServeHTTP(w, r, behind) })
	}
	if err := next.ServeHTTP(w, r); err != nil {
		t.Errorf("got %v", err)
	}
	return upstream, w
}

// R47, A13: a route whose own token cannot be had lets a request pass that needs
// none. What the handler before it has said of the user is for another upstream:
// the main token must not go where only that for b.test may.
func TestR47NoOtherTokenWithoutTheRoutesOwn(t *testing.T) {
	for name, policy := range map[string]string{"bypass": `"bypass_paths":["/b/*"]`, "pass": `"unauthorized":"pass"`} {
		t.Run(name, func(t *testing.T) {
			hs := newHandlers(t, `{"provider":"a","header_up":{"X-Auth-Sub":"{http.auth.user.id}"}}`, `{"provider":"a","audience":"https://b.test",`+policy+`}`)
			r := securely(newRequest("GET", "/b/x", http.Header{"Cookie": sessionCookies(t, hs[0], "main-token")}))
			upstream, w := through(t, r, hs...)
			if upstream == nil {
				t.Fatalf("got status %d", w.Code)
			}
			if upstream["Authorization"] != nil || upstream["X-Auth-Sub"] != nil {
				t.Errorf("the upstream got %v", upstream)
			}
		})
	}
}

// A13: what one provider's handler has put into Authorization is not what
// another provider's anonymous route, or one that forwards no token, lets
// through.
func TestA13NoTokenOfAnotherProvider(t *testing.T) {
	for name, policy := range map[string]string{
		"bypass": `"bypass_paths":["/b/*"]`, "pass": `"unauthorized":"pass"`, "none": `"unauthorized":"pass","forward_token":"none"`,
	} {
		t.Run(name, func(t *testing.T) {
			hs := newHandlers(t, `{"provider":"a"}`, `{"provider":"b",`+policy+`}`)
			r := securely(newRequest("GET", "/b/x", http.Header{"Cookie": sessionCookies(t, hs[0], "token-of-a"), "Authorization": {"Bearer of-the-client"}}))
			if upstream, w := through(t, r, hs...); upstream == nil || upstream["Authorization"] != nil {
				t.Errorf("got status %d, the upstream %v", w.Code, upstream)
			}
		})
	}
}

// fewerGroups has a session refreshed, by somebody else, whose user is no admin
// any more; it has a token for a target then.
func fewerGroups(t testing.TB, h *Handler, cookies []string) {
	t.Helper()
	p := h.party
	s, err := p.sessions.https.Load(t.Context(), cookies)
	if err != nil {
		t.Fatal(err)
	}
	grant := &rp.Grant{AccessToken: rp.NewSecret("newer"), RefreshToken: rp.NewSecret("its refresh token"), Expiry: time.Now().Add(time.Hour)}
	set, err := claims.Parse([]byte(`{"sub":"alice","groups":["staff"]}`))
	if err != nil {
		t.Fatal(err)
	}
	_, landing, err := p.shared.refresher.Fresh(t.Context(), s, session.Refresh{
		Key: p.flightKey(s), Keep: time.Hour, Now: time.Now(), Refused: true,
		Do: func(_ context.Context, s *session.Session) (*session.Session, error) {
			s = s.Refreshed(grant, &rp.Identity{Subject: "alice", Sources: []rp.SourcedClaims{{From: rp.FromIDToken, Claims: set}}}, time.Now())
			return s.With(session.NewFurther(h.token.key, grant, time.Now())), nil
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	if landing != nil {
		<-landing
	}
}

// A44, promise 1: the session that goes upstream is the one that the route
// admits. Where its token is looked for, a newer copy may turn up, by which the
// user is no admin any more.
func TestA44NewerCopyIsJudgedToo(t *testing.T) {
	hs := newHandlers(t, `{"provider":"a","audience":"https://b.test","require":[{"claim":"groups","values":["admin"]}]}`)
	cookies := sessionCookies(t, hs[0], "main-token")
	fewerGroups(t, hs[0], cookies)
	upstream, w := through(t, securely(newRequest("GET", "/x", http.Header{"Cookie": cookies})), hs...)
	if upstream != nil || w.Code != http.StatusForbidden {
		t.Errorf("got status %d, the upstream %v", w.Code, upstream)
	}
}

// R58, promise 1: likewise where an upstream does not take a token, and there is
// a newer one: it is not sent for who is no admin any more.
func TestR58NewerTokenIsJudgedToo(t *testing.T) {
	h := newHandlers(t, `{"provider":"a","retry_invalid_token":true,"require":[{"claim":"groups","values":["admin"]}]}`)[0]
	loaded, err := h.party.sessions.https.Load(t.Context(), sessionCookies(t, h, "main-token"))
	if err != nil {
		t.Fatal(err)
	}
	header := http.Header{}
	if err := h.party.sessions.https.Save(t.Context(), header, nil, loaded.WithRefreshToken(rp.NewSecret("its refresh token"))); err != nil {
		t.Fatal(err)
	}
	cookies := cookiesOf(header)
	fewerGroups(t, h, cookies)
	var tokens []string
	w := httptest.NewRecorder()
	err = h.ServeHTTP(w, securely(newRequest("GET", "/x", http.Header{"Cookie": cookies})), caddyhttp.HandlerFunc(func(w http.ResponseWriter, r *http.Request) error {
		tokens = append(tokens, r.Header.Get("Authorization"))
		w.Header().Set("WWW-Authenticate", `Bearer error="invalid_token"`)
		w.WriteHeader(http.StatusUnauthorized)
		return nil
	}))
	if err != nil || len(tokens) != 1 || w.Code != http.StatusUnauthorized {
		t.Errorf("got status %d and %v; the upstream got %q", w.Code, err, tokens)
	}
}

// question is what a proxy in front asks.
func question(cookies []string, header http.Header) *http.Request {
	if header == nil {
		header = http.Header{}
	}
	if cookies != nil {
		header["Cookie"] = cookies
	}
	r := securely(newRequest("GET", "/a/verify", header))
	caddyhttp.SetVar(r.Context(), caddyhttp.TrustedProxyVarKey, true)
	return r
}

func asking(method, uri string) http.Header {
	return http.Header{"X-Forwarded-Method": {method}, "X-Forwarded-Uri": {uri}, "Accept": {"text/html"}}
}

// R47: who lacks the token of a route is sent for just that by a proxy in front,
// too: another login like the one before would lead back here, for ever.
func TestR47VerifySendsForTheToken(t *testing.T) {
	for unauthorized, name := range map[string]string{"auto": "X-Login-Url", "redirect": "Location"} {
		hs := newHandlers(t, `{"provider":"a","verify":true,"audience":"https://b.test","unauthorized":"`+unauthorized+`"}`)
		_, w := through(t, question(sessionCookies(t, hs[0], "main-token"), asking("GET", "/page")), hs...)
		if got := w.Header().Get(name); !strings.Contains(got, "ask=") || !strings.Contains(got, "return_to=%2Fpage") {
			t.Errorf("%s: got status %d and %q", unauthorized, w.Code, got)
		}
	}
}

// A13, K2: a question that is not answered has error routes, too, and what the
// client says of itself must not get there.
func TestA13UnansweredQuestionIsScrubbed(t *testing.T) {
	for method, trusted := range map[string]bool{"GET": false, "POST": true} {
		h := newHandlers(t, `{"provider":"a","verify":true,"header_up":{"X-Auth-Sub":"{http.auth.user.id}"}}`)[0]
		server := &caddyhttp.Server{Errors: &caddyhttp.HTTPErrorConfig{Routes: caddyhttp.RouteList{{Handlers: []caddyhttp.MiddlewareHandler{h}}}}}
		cookies := sessionCookies(t, h, "main-token")
		r := httptest.NewRequest(method, "/a/verify", nil)
		r.Header = http.Header{"Cookie": cookies, "Authorization": {"Bearer x"}, "X-Auth-Sub": {"root"}}
		r = securely(caddyhttp.PrepareRequest(r, caddy.NewReplacer(), nil, server))
		caddyhttp.SetVar(r.Context(), caddyhttp.TrustedProxyVarKey, trusted)
		err := h.ServeHTTP(httptest.NewRecorder(), r, caddyhttp.HandlerFunc(func(http.ResponseWriter, *http.Request) error { return errors.New("it went on") }))
		if _, ok := errors.AsType[caddyhttp.HandlerError](err); !ok {
			t.Fatalf("%s: got %v", method, err)
		}
		if r.Header["Authorization"] != nil || r.Header["X-Auth-Sub"] != nil || r.Header["Cookie"] != nil {
			t.Errorf("%s: the error route got %v", method, r.Header)
		}
	}
}

// A13, A44: a proxy in front asks about a request of its client's: that is what
// an expression is about, however it names it, and never about the question.
func TestA44VerifyIsAboutTheRequestAskedAbout(t *testing.T) {
	for _, expression := range []string{
		`!{http.request.uri.path}.startsWith('/admin') || 'root' in {http.auth.user.groups}`,
		`!{http.request.orig_uri.path}.startsWith('/admin') || 'root' in {http.auth.user.groups}`,
		`!path('/admin/*') || 'root' in {http.auth.user.groups}`,
		`{http.request.method} == 'GET' && !path('/admin/*')`,
	} {
		text, _ := json.Marshal(expression)
		hs := newHandlers(t, `{"provider":"a","verify":true,"require_expressions":[`+string(text)+`]}`)
		cookies := sessionCookies(t, hs[0], "main-token")
		both := asking("GET", "/open")
		both["X-Original-Uri"] = []string{"/admin/x"}
		for name, tc := range map[string]struct {
			header http.Header
			want   int
		}{
			"open":      {asking("GET", "/open"), 204},
			"denied":    {asking("GET", "/admin/x"), 403},
			"two":       {both, 403}, // the client says one, and the proxy the other
			"not said":  {nil, 403},
			"malformed": {asking("GET", "admin"), 403},
		} {
			if _, w := through(t, question(cookies, tc.header), hs...); w.Code != tc.want {
				t.Errorf("%s: %s: got status %d, want %d", expression, name, w.Code, tc.want)
			}
		}
	}
}

// R47, R56: a kept form cannot be sent with the session that there is: its route
// wants another token, which only a login brings, or a fresher login. Its user is
// sent there, and back to our page; else the page would offer the form for ever.
func TestR47R56KeptFormWaitsForWhatItsRouteWants(t *testing.T) {
	for name, policy := range map[string]string{"audience": `"audience":"https://b.test"`, "max_age": `"max_age":60000000000`} {
		t.Run(name, func(t *testing.T) {
			h := newHandler(t, `{"inline":{"issuer":"https://op.test","client_id":"public","authorization":{"scopes":["openid"]},"endpoints":{
				"authorization":"https://op.test/authorize","token":"https://127.0.0.1:1/token","jwks":"https://127.0.0.1:1/jwks"}},
				"replay_posts":65536,`+policy+`}`)
			r := httptest.NewRequest("POST", "https://app.test/form", strings.NewReader(replayField+"=x"))
			r.Header = http.Header{
				"Cookie": sessionCookies(t, h, "main-token"), "Content-Type": {"application/x-www-form-urlencoded"}, "Accept": {"text/html"},
				"Referer": {"https://app.test/oauth2/replay"}, "Origin": {"https://app.test"},
				"Sec-Fetch-Site": {"same-origin"}, "Sec-Fetch-Mode": {"navigate"}, "Sec-Fetch-Dest": {"document"},
			}
			r = securely(caddyhttp.PrepareRequest(r, caddy.NewReplacer(), nil, nil))
			upstream, w := through(t, r, h)
			if to := w.Header().Get("Location"); upstream != nil || w.Code != http.StatusSeeOther || !strings.HasPrefix(to, "https://op.test/authorize?") {
				t.Errorf("got status %d to %q, the upstream %v", w.Code, to, upstream)
			}
		})
	}
}

// Promise 4: where the callback does not see the session, its token waits in the
// process that got it. A browser whose next request comes to another process is
// sent for it again, but not for ever.
func TestPromise4TokensThatWaitElsewhere(t *testing.T) {
	h := newHandler(t, `{"inline":{"issuer":"https://op.test","client_id":"public","session":{"same_site":"strict"},"authorization":{"scopes":["openid"]},"endpoints":{
		"authorization":"https://op.test/authorize","token":"https://127.0.0.1:1/token","jwks":"https://127.0.0.1:1/jwks"}},"audience":"https://a.test"}`)
	session := sessionCookies(t, h, "main-token")
	cookies, visits := session, 0
	for range 2 * maxParked {
		r := newRequest(http.MethodGet, "https://app.test/x", http.Header{"Cookie": cookies, "Accept": {"text/html"}})
		upstream, w := through(t, securely(r), h)
		if upstream != nil {
			t.Fatal("the upstream was reached without its token")
		}
		if w.Code != http.StatusFound {
			if w.Code != http.StatusBadGateway {
				t.Errorf("got status %d", w.Code)
			}
			break
		}
		visits++
		callback := newRequest(http.MethodGet, "https://app.test/oauth2/callback", http.Header{"Cookie": cookies})
		a, _ := h.party.authState(callback)
		w = httptest.NewRecorder()
		h.party.countParked(w, a, h.token.key, true) // as a process does that nobody comes back to
		for _, c := range w.Result().Cookies() {
			cookies = []string{session[0] + "; " + c.Name + "=" + c.Value}
		}
	}
	if visits != maxParked {
		t.Errorf("the browser was sent %d times, want %d", visits, maxParked)
	}
	// What anybody puts there counts as nothing, or ends it sooner.
	for _, odd := range []string{"", "x", "-7", "99999999999999999999"} {
		r := newRequest(http.MethodGet, "https://app.test/x", http.Header{"Cookie": {h.party.parkedCookie(h.token.key, true).Name + "=" + odd}})
		a, _ := h.party.authState(r)
		w := httptest.NewRecorder()
		h.party.countParked(w, a, h.token.key, true)
		if got := w.Result().Cookies(); len(got) != 1 || got[0].Value != "1" {
			t.Errorf("%q: got %v", odd, got)
		}
	}
	h.party.parkedCookie("id", true) // the shortest key there is
}
