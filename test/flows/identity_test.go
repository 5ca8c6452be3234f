package flows

import (
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"

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

// A13: the border is there, too, where nobody asked for identity headers.
func TestA13AuthorizationWithoutHeaderUp(t *testing.T) {
	w := newWorld(t)
	w.caddy("pkce_auth $OP public {\nbypass /public/*\n}\nreverse_proxy $UPSTREAM")
	b := w.browser()
	b.do("GET", w.site+"/public/x", with(fetched, "Authorization", "Basic YWRtaW46eA==", "Forwarded", "for=1.2.3.4;host=evil.test"), "")
	if got := w.upstream.last(t).Header; got["Authorization"] != nil || got["Forwarded"] != nil {
		t.Errorf("the upstream got %v", got)
	}
}

// header_up speaks of a user. Where there is none, not even a constant part
// of it is said.
func TestA13HeaderUpNeedsASession(t *testing.T) {
	w := newWorld(t)
	w.caddy(`
		pkce_auth $OP public {
			bypass /public/*
			header_up X-Auth-Constant yes
			header_up X-Auth-Who "user:{http.auth.user.id}"
		}
		reverse_proxy $UPSTREAM
	`)
	b := w.browser()
	b.fetch(w.site + "/public/x")
	if got := identity(w.upstream.last(t)); len(got) != 0 {
		t.Errorf("without a session the upstream got %v", got)
	}
	b.login(w, "/")
	b.fetch(w.site + "/public/x")
	if got := identity(w.upstream.last(t)); len(got) != 3 || got["X-Auth-Who"][0] != "user:alice" {
		t.Errorf("with a session the upstream got %v", got)
	}
}

// A85: with a cookie_name of the operator's, cookies of the application that
// only begin like it stay the application's.
func TestA85CustomCookieName(t *testing.T) {
	w := newWorld(t)
	w.upstream.answers(func(rw http.ResponseWriter, r *http.Request) {
		for _, line := range []string{"session=x", "session.1=x", "session_id=app", "session.sig=app", "__Host-session=app"} {
			rw.Header().Add("Set-Cookie", line)
		}
		fmt.Fprintf(rw, "upstream %s", r.RequestURI)
	})
	w.caddy("pkce_auth $OP public {\nsession {\ncookie_name session\n}\n}\nreverse_proxy $UPSTREAM")
	b := w.browser()
	b.login(w, "/")
	a := b.do(http.MethodGet, w.site+"/x", with(fetched, "Cookie", "session_theme=dark; session.x=1"), "")
	if got := a.Header["Set-Cookie"]; !slices.Equal(got, []string{"session_id=app", "session.sig=app", "__Host-session=app"}) {
		t.Errorf("the browser got %q", got)
	}
	got := strings.Join(w.upstream.last(t).Header["Cookie"], "; ")
	if strings.HasPrefix(got, "session=") || strings.Contains(got, "; session=") || !strings.Contains(got, "session_theme=dark; session.x=1") {
		t.Errorf("the upstream got %q", got)
	}
}
