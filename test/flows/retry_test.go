package flows

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pkce-auth/caddy-pkce-auth/test/provider"
)

const invalidToken = `Bearer error="invalid_token", error_description="expired"`

// picky is an upstream that takes each access token for invalid so many times.
type picky struct {
	mu      sync.Mutex
	refuses int
	tokens  []string // that it saw, below /api
	lines   []string // the requests
	headers []http.Header
}

func (p *picky) serve(w http.ResponseWriter, r *http.Request) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.tokens = append(p.tokens, r.Header.Get("Authorization"))
	p.lines = append(p.lines, r.Method+" "+r.RequestURI)
	p.headers = append(p.headers, r.Header.Clone())
	w.Header().Set("X-Answer", fmt.Sprint(len(p.lines)))
	if p.refuses > 0 {
		p.refuses--
		w.Header().Set("WWW-Authenticate", invalidToken)
		w.Header().Set("X-Refused", "1")
		w.WriteHeader(http.StatusUnauthorized)
		_, _ = fmt.Fprint(w, "their 401")
		return
	}
	_, _ = fmt.Fprintf(w, "upstream %s", r.RequestURI)
}

func (p *picky) refuse(n int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.refuses, p.tokens, p.lines, p.headers = n, nil, nil, nil
}

// refusing logs in, with an upstream that can refuse tokens.
func (w *world) refusing(directives string) (*picky, *browser) {
	w.t.Helper()
	w.caddy(directives)
	b := w.browser()
	b.login(w, "/")
	p := new(picky)
	w.upstream.answers(p.serve)
	return p, b
}

const retrying = "pkce_auth $OP public {\nretry_invalid_token on\n}\nreverse_proxy $UPSTREAM"

// R58: an upstream that takes a token for invalid gets a new one, once, with a
// request that may be sent twice; the browser gets the new session, and nothing
// of the first answer. The conformance suite's refresh-token-test: two requests
// to a resource that says so each time are two refreshes, of tokens that rotate.
func TestR58InvalidTokenIsReplaced(t *testing.T) {
	w := newWorld(t)
	w.notIn("storage") // where a copy of the session may be half a second old: its token is replaced by what is there by now
	p, b := w.refusing(retrying)
	for n, method := range []string{http.MethodGet, http.MethodDelete} {
		p.refuse(1)
		a := b.do(method, w.site+"/api?x=1", fetched, "")
		if a.body != "upstream /api?x=1" || a.Header["X-Refused"] != nil || a.Header["Www-Authenticate"] != nil || !slices.Equal(a.Header["X-Answer"], []string{"2"}) {
			t.Errorf("%s: got status %d, %v, %q", method, a.StatusCode, a.Header, a.body)
		}
		if len(p.tokens) != 2 || p.tokens[0] == p.tokens[1] || !strings.HasPrefix(p.tokens[1], "Bearer ") || p.lines[0] != p.lines[1] {
			t.Errorf("%s: the upstream got %q", method, p.lines)
		}
		if !w.stored() && len(a.Cookies()) == 0 {
			t.Errorf("%s: the browser was not given the new tokens", method)
		}
		seen := p.tokens[1]
		p.refuse(0)
		if b.fetch(w.site + "/api"); p.tokens[0] != seen {
			t.Errorf("%s: the next request has another token", method)
		}
		refreshes := w.refreshes()
		if len(refreshes) != n+1 || n > 0 && refreshes[n].Form.Get("refresh_token") == refreshes[n-1].Form.Get("refresh_token") {
			t.Errorf("%s: %d refreshes", method, len(refreshes))
		}
	}
	w.logged("took an access token for invalid", `"path":"/api"`)
}

// R58: an upstream that takes no token at all costs two refreshes a minute, not
// one for each request; its answer passes.
func TestR58UpstreamTakesNoToken(t *testing.T) {
	w := newWorld(t)
	w.notIn("storage") // as above
	p, b := w.refusing(retrying)
	p.refuse(1000)
	for i := range 6 {
		a := b.fetch(w.site + "/api")
		if a.StatusCode != http.StatusUnauthorized || a.body != "their 401" || a.Header.Get("WWW-Authenticate") != invalidToken {
			t.Errorf("request %d: got status %d and %q", i, a.StatusCode, a.body)
		}
	}
	if len(p.lines) != 8 || len(w.refreshes()) != 2 {
		t.Errorf("%d requests reached the upstream, and %d refreshes the provider", len(p.lines), len(w.refreshes()))
	}
}

// R58, A74: many requests whose token is taken for invalid at once make one
// refresh, and so do stragglers with the old one.
func TestR58OneRefreshForMany(t *testing.T) {
	w := newWorld(t)
	w.caddy(retrying)
	b := w.browser()
	b.login(w, "/")
	old := w.upstream.last(t).Header.Get("Authorization")
	w.upstream.answers(func(rw http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") == old {
			rw.Header().Set("WWW-Authenticate", invalidToken)
			rw.WriteHeader(http.StatusUnauthorized)
		}
	})
	w.op.Misbehave(provider.Faults{Answer: answering(func(http.ResponseWriter, *http.Request) bool {
		time.Sleep(200 * time.Millisecond)
		return false
	})})
	cookies := b.cookieHeader(w)
	for range 2 {
		var wg sync.WaitGroup
		for range 20 {
			wg.Go(func() {
				if a := w.present(cookies); a.StatusCode != http.StatusOK {
					t.Errorf("got status %d", a.StatusCode)
				}
			})
		}
		wg.Wait()
	}
	if got := len(w.refreshes()); got != 1 {
		t.Errorf("%d refreshes", got)
	}
}

// R58: what may not be sent twice is not, and nothing is when nobody said so,
// when the provider does not refresh, or when there is nothing to refresh with.
func TestR58NotRetried(t *testing.T) {
	for name, tc := range map[string]struct {
		options, method, body string
		faults                provider.Faults
		refreshes             int
	}{
		"switched off":             {"", "GET", "", provider.Faults{}, 0},
		"a POST":                   {"retry_invalid_token on", "POST", "", provider.Faults{}, 0},
		"a body":                   {"retry_invalid_token on", "PUT", "x", provider.Faults{}, 0},
		"no refreshes":             {"retry_invalid_token on\nrefresh off\nscopes openid", "GET", "", provider.Faults{}, 0},
		"no refresh token":         {"retry_invalid_token on\nscopes openid", "GET", "", provider.Faults{}, 0},
		"the provider refuses":     {"retry_invalid_token on", "GET", "", provider.Faults{Answer: answering(provider.Status(400, "application/json", `{"error":"invalid_grant"}`))}, 1},
		"the provider is not well": {"retry_invalid_token on", "GET", "", provider.Faults{Answer: answering(provider.Status(503, "", ""))}, 1},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			p, b := w.refusing("pkce_auth $OP public {\n" + tc.options + "\n}\nreverse_proxy $UPSTREAM")
			w.op.Misbehave(tc.faults)
			p.refuse(9)
			a := b.do(tc.method, w.site+"/api", fetched, tc.body)
			if a.StatusCode != http.StatusUnauthorized || a.body != "their 401" || a.Header.Get("X-Refused") != "1" || len(p.lines) != 1 {
				t.Errorf("got status %d and %q, %d requests upstream", a.StatusCode, a.body, len(p.lines))
			}
			if got := len(w.refreshes()); got < tc.refreshes || tc.refreshes == 0 && got != 0 {
				t.Errorf("%d refreshes", got)
			}
		})
	}
}

// R58: the second try goes the way of the first. Rewrites, header operations,
// `handle` groups and variables of Caddy find the request as it was, and the
// answer of one try is not added to that of the other.
func TestR58SecondTryGoesTheSameWay(t *testing.T) {
	for name, directives := range map[string]string{
		"strip_prefix": "uri strip_prefix /pre\nreverse_proxy $UPSTREAM",
		"handle_path":  "handle_path /pre/* {\nreverse_proxy $UPSTREAM\n}\nhandle {\nrespond \"elsewhere\" 404\n}",
		"groups":       "handle /other {\nrespond 404\n}\nhandle /pre/* {\nuri strip_prefix /pre\nreverse_proxy $UPSTREAM\n}\nhandle {\nrespond 404\n}",
		"route":        "route /pre/* {\nvars seen {http.vars.seen}x\nrewrite * {path}?seen={http.vars.seen}\nuri strip_prefix /pre\nreverse_proxy $UPSTREAM\n}",
		"query":        "uri query +added yes\nuri strip_prefix /pre\nreverse_proxy $UPSTREAM",
		"headers":      "request_header +X-Added {http.auth.user.id}\nuri strip_prefix /pre\nheader +X-Down one\nreverse_proxy $UPSTREAM {\nheader_up +X-Added two\nheader_down +X-Down two\n}",
		"encode":       "encode gzip\nuri strip_prefix /pre\nreverse_proxy $UPSTREAM",
		"map":          "map {path} {there} {\n/pre/* yes\ndefault no\n}\nuri strip_prefix /pre\nreverse_proxy $UPSTREAM {\nheader_up X-There {there}\n}",
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			// In a route, for Caddy's own order would put some of them before ours.
			p, b := w.refusing("route {\npkce_auth $OP public {\nretry_invalid_token on\nheader_up X-Sub {http.auth.user.id}\n}\n@pre path /pre*\nroute @pre {\n" + directives + "\n}\nreverse_proxy $UPSTREAM\n}")
			p.refuse(0)
			once := b.fetch(w.site + "/pre/api?x=1")
			p.refuse(1)
			twice := b.fetch(w.site + "/pre/api?x=1")
			if once.StatusCode != http.StatusOK || twice.StatusCode != http.StatusOK || once.body != twice.body {
				t.Fatalf("got %d and %q, want %d and %q", twice.StatusCode, twice.body, once.StatusCode, once.body)
			}
			if len(p.lines) != 2 || p.lines[0] != p.lines[1] || !strings.HasPrefix(p.lines[0], "GET /api?") {
				t.Fatalf("the upstream got %q", p.lines)
			}
			for name := range p.headers[0] {
				if name != "Authorization" && !slices.Equal(p.headers[0][name], p.headers[1][name]) {
					t.Errorf("%s was %q, then %q", name, p.headers[0][name], p.headers[1][name])
				}
			}
			if p.headers[1].Get("X-Sub") != "alice" || !slices.Equal(once.Header["X-Down"], twice.Header["X-Down"]) {
				t.Errorf("X-Sub %q, X-Down %q and %q", p.headers[1].Get("X-Sub"), once.Header["X-Down"], twice.Header["X-Down"])
			}
		})
	}
}

// R58: what the second try says of the login counts as from any upstream.
func TestR58R56SecondTryAsksForALogin(t *testing.T) {
	w := newWorld(t)
	_, b := w.refusing(retrying)
	n := 0
	w.upstream.answers(func(rw http.ResponseWriter, _ *http.Request) {
		challenge := insufficient
		if n++; n == 1 {
			challenge = invalidToken
		}
		rw.Header().Set("WWW-Authenticate", challenge)
		rw.WriteHeader(http.StatusUnauthorized)
	})
	a := b.visit(w.site + "/api")
	if q := query(t, a.location(t)); q.Get("acr_values") != "urn:mfa" || n != 2 || len(w.refreshes()) != 1 {
		t.Errorf("got status %d, %v after %d requests", a.StatusCode, q, n)
	}
	if a := b.follow(a); a.StatusCode != http.StatusUnauthorized || len(w.asked()) != 2 {
		t.Errorf("in the end: status %d after %d authorization requests", a.StatusCode, len(w.asked()))
	}
}

// A13, R58: a request that is sent a second time is as clean as it was the first
// time, also of what another provider's handler behind the one that repeats it
// takes away: that begins anew, too.
func TestA13R58SecondTryIsScrubbed(t *testing.T) {
	second := bobsProvider(t)
	w := newWorld(t)
	p, b := w.refusing(`
		pkce_auth {
			issuer $OP
			client_id public
		}
		pkce_auth two {
			issuer ` + second.URL + `
			client_id public
		}
		---
		route {
		pkce_auth {
			retry_invalid_token on
		}
		pkce_auth two {
			unauthorized pass
			forward_token none
			header_up X-Two {http.auth.user.id}
		}
		reverse_proxy $UPSTREAM
		}
	`)
	p.refuse(1)
	spoofed := with(fetched, "X-Two", "root", "Authorization", "Bearer of-the-client", "Connection", "X-Two")
	if a := b.do(http.MethodGet, w.site+"/api", spoofed, ""); a.StatusCode != 200 {
		t.Errorf("got status %d", a.StatusCode)
	}
	if len(p.headers) != 2 {
		t.Fatalf("the upstream got %q", p.lines)
	}
	for n, h := range p.headers {
		if h["X-Two"] != nil || h["Authorization"] != nil {
			t.Errorf("try %d: the upstream got %v", n+1, h)
		}
	}
}
