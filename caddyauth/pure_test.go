package caddyauth

import (
	"crypto/tls"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"net/url"
	"path"
	"strings"
	"testing"

	"github.com/pkce-auth/caddy-pkce-auth/caddyauth/internal/rp"
	"github.com/pkce-auth/caddy-pkce-auth/caddyauth/internal/session"
)

// Decisions, by every combination of what they depend on: promise 1 in small.
func TestDecide(t *testing.T) {
	for _, unauthorized := range []string{"", "auto", "redirect", "401", "pass", "unknown"} {
		for _, kind := range []requestKind{background, navigation, prefetch} {
			for bits := range 1 << 5 {
				f := facts{unauthorized: unauthorized, kind: kind, bypassed: bits&1 != 0, admitted: bits&2 != 0, again: bits&4 != 0}
				if bits&8 != 0 {
					f.session = new(session.Session)
				}
				if bits&16 != 0 {
					f.objection = new(failure)
				}
				if f.objection != nil && (f.admitted || f.session == nil) {
					continue // an objection is to a session
				}
				checkDecision(t, f, decide(f))
			}
		}
	}
	if decision(0) != refuse {
		t.Error("the zero decision must refuse")
	}
}

func checkDecision(t *testing.T, f facts, got decision) {
	t.Helper()
	authenticated := f.session != nil
	forwarded := got == forward || got == forwardBypassed || got == forwardAnonymous
	if forwarded != (authenticated && f.admitted || f.bypassed || !authenticated && f.unauthorized == "pass") {
		t.Errorf("authenticated %v, %+v: got %v", authenticated, f, got)
	}
	if got == forward != (authenticated && f.admitted) {
		t.Errorf("authenticated %v, %+v: got %v", authenticated, f, got)
	}
	// Who is logged in, and may not pass, or need not log in again, would be led
	// round in circles.
	mayLogIn := f.kind == navigation && f.unauthorized != "401" || f.unauthorized == "redirect" && f.kind != prefetch
	if got == login && (!mayLogIn || authenticated && (f.objection != nil || !f.again)) {
		t.Errorf("authenticated %v, %+v: got a login", authenticated, f)
	}
	if got == forbid != (f.objection != nil && !f.bypassed) {
		t.Errorf("authenticated %v, %+v: got %v", authenticated, f, got)
	}
}

// A68: the forms of a cookie secret, and what is none.
func TestParseCookieSecretA68(t *testing.T) {
	random := []byte("\x8f\x03\xd1\x4c\x7a\xe9\x26\xb5\x50\x9d\xc3\x18\xfa\x61\x2e\x97\x44\x0b\xde\x83\x35\xac\x79\xf2\x1d\x66\xc8\x5b\x90\x2f\xe4\x07")
	for name, tc := range map[string]struct {
		text string
		want string // empty: refused
	}{
		"hexadecimal":               {hex.EncodeToString(random), string(random)},
		"hexadecimal in capitals":   {strings.ToUpper(hex.EncodeToString(random)), string(random)},
		"base64":                    {base64.StdEncoding.EncodeToString(random), string(random)},
		"base64url without padding": {base64.RawURLEncoding.EncodeToString(random), string(random)},
		"raw":                       {"correct horse battery staple & 31 more", "correct horse battery staple & 31 more"},
		"31 bytes in base64":        {base64.StdEncoding.EncodeToString(random[:31]), base64.StdEncoding.EncodeToString(random[:31])}, // raw then
		"empty":                     {"", ""},
		"31 raw bytes":              {"correct horse battery staple &3", ""},
		"all zero":                  {strings.Repeat("00", 32), ""},
		"zero bytes in base64":      {base64.StdEncoding.EncodeToString(make([]byte, 32)), ""},
		"one digit":                 {strings.Repeat("a", 64), ""},
		"counted up":                {"000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f", ""},
		"counted in digits":         {strings.Repeat("0123456789abcdef", 4), ""},
		"change me":                 {"please change-me before production use!", ""},
		"an example":                {"this-is-an-example-cookie-secret-32b", ""},
		"a template":                {"<your cookie secret of 32 bytes or more>", ""},
	} {
		got, err := parseCookieSecret(tc.text)
		switch {
		case (err == nil) != (tc.want != ""):
			t.Errorf("%s: got %q, %v", name, got, err)
		case err == nil && string(got) != tc.want:
			t.Errorf("%s: got %x, want %x", name, got, tc.want)
		case err != nil && tc.text != "" && strings.Contains(err.Error(), tc.text):
			t.Errorf("%s: the error shows the secret: %v", name, err)
		}
	}
}

// A122: only what is fixed at the start may be a part of a secret or a URL.
func TestCheckPlaceholdersA122(t *testing.T) {
	for text, ok := range map[string]bool{
		"": true, "plain": true, "{env.X}": true, "{file./run/x}": true, "a{env.X}b{file./y}": true, "{": true, "}{": true,
		"{http.request.host}": false, "{env.X}{http.request.header.X}": false, "{system.hostname}": false, "{}": false, "{ENV.X}": false, "{http.auth.user.id}": false,
	} {
		if err := checkPlaceholders(text); (err == nil) != ok {
			t.Errorf("%q: got %v", text, err)
		}
	}
}

func TestParseOrigin(t *testing.T) {
	for text, want := range map[string]string{
		"https://app.test": "https://app.test", "https://App.Test:443/": "https://app.test", "https://app.test:8443": "https://app.test:8443",
		"http://localhost:8080": "http://localhost:8080", "http://127.0.0.1": "http://127.0.0.1", "http://[::1]:80": "http://[::1]",
		"http://app.localhost": "http://app.localhost",
		"http://app.test":      "", "https://app.test/path": "", "https://app.test?x": "", "https://app.test/#": "", "https://me@app.test": "", "app.test": "", "//app.test": "",
		"ftp://app.test": "", "https://": "", "https:app.test": "", "": "", "http://localhost.evil.test": "", "http://127.0.0.1.evil.test": "",
	} {
		got, err := parseOrigin(text)
		if (err == nil) != (want != "") || err == nil && got.String() != want {
			t.Errorf("%q: got %v, %v; want %q", text, got, err, want)
		}
	}
}

// The origin that TLS vouches for.
func TestOriginsWithTLS(t *testing.T) {
	for _, tc := range []struct{ host, serverName, want string }{
		{"app.test", "app.test", "https://app.test"},
		{"app.test:8443", "APP.test", "https://app.test:8443"},
		{"evil.test", "app.test", ""},
		{"10.0.0.1", "", ""},
		{"127.0.0.1:8443", "", "https://127.0.0.1:8443"},
		{"app.test/x", "app.test", ""},
		{"", "app.test", ""},
	} {
		r := newRequest("GET", "/", nil)
		r.Host, r.TLS = tc.host, &tls.ConnectionState{ServerName: tc.serverName}
		got, err := origins{}.of(r)
		if (err == nil) != (tc.want != "") || err == nil && got.String() != tc.want {
			t.Errorf("%+v: got %v, %v", tc, got, err)
		}
		if secure, _ := (origins{}).secure(r); !secure {
			t.Errorf("%+v: cookies over TLS are those of https", tc)
		}
	}
}

// A14: spellings of an identity header.
func TestHeaderSetA14(t *testing.T) {
	s := &headerSet{names: []string{"X-Auth-Sub"}}
	for name, want := range map[string]bool{
		"X-Auth-Sub": true, "x-auth-sub": true, "X_Auth_Sub": true, "X.Auth.Sub": true, "X-Auth_Sub": true, "Authorization": true, "authorization": true,
		"X-Auth-Su": false, "X-Auth-Subs": false, "XXAuth-Sub": false, "X-Auth-": false, "": false, "X+Auth+Sub": false,
	} {
		if got := s.has(name); got != want {
			t.Errorf("%q: got %v, want %v", name, got, want)
		}
	}
}

func TestMatchPath(t *testing.T) {
	for _, tc := range []struct {
		pattern, path string
		want          bool
	}{
		{"/healthz", "/healthz", true},
		{"/healthz", "/healthz/", false},
		{"/healthz", "/Healthz", false},
		{"/healthz", "/healthzx", false},
		{"/static/*", "/static/", true},
		{"/static/*", "/static/a/b", true},
		{"/static/*", "/static", false},
		{"/static/*", "/Static/x", false},
		{"/a/*/c", "/a/b/c", true},
		{"/a/*/c", "/a/b/b/c", false},
		{"/img-*", "/img-1.png", true},
		{"/a?c", "/abc", true},
	} {
		if got := matchPath(tc.pattern, tc.path); got != tc.want {
			t.Errorf("%s, %s: got %v", tc.pattern, tc.path, got)
		}
	}
}

// FuzzPublicPath: what passes a bypassed path begins with it however it is
// read: as it is, cleaned, decoded once more, with backslashes for slashes,
// without path parameters.
func FuzzPublicPath(f *testing.F) {
	for _, seed := range []string{
		"/public/x", "/public/../secret", "/public/%2e%2e/secret", "/public/..%2fsecret", "/public/..;/secret", `/public/..\secret`, "//public/x",
		"/public/%252e%252e/secret", "/secret#/public/", "/public/%00", "/public/.;/x", "/public/%c0%ae%c0%ae/x",
	} {
		f.Add(seed)
	}
	b := &bypass{paths: []string{"/public/*"}}
	f.Fuzz(func(t *testing.T, target string) {
		u, err := url.ParseRequestURI(target)
		if err != nil || !strings.HasPrefix(target, "/") {
			return
		}
		r := newRequest("GET", "/", nil)
		r.URL = u
		*originalURL(r) = *u
		if !b.matches(r) {
			return
		}
		readings := []string{u.Path, path.Clean(u.Path), path.Clean(strings.ReplaceAll(u.Path, `\`, "/")), path.Clean(withoutParameters(u.Path))}
		if again, err := url.PathUnescape(u.Path); err == nil {
			readings = append(readings, path.Clean(again), path.Clean(strings.ReplaceAll(again, `\`, "/")))
		}
		for _, reading := range readings {
			if !strings.HasPrefix(reading+"/", "/public/") {
				t.Fatalf("%q passes, and can be read as %q", target, reading)
			}
		}
	})
}

func withoutParameters(p string) string {
	segments := strings.Split(p, "/")
	for i := range segments {
		segments[i], _, _ = strings.Cut(segments[i], ";")
	}
	return strings.Join(segments, "/")
}

// FuzzHeaderValue: a value that is sent as an identity is one header value.
func FuzzHeaderValue(f *testing.F) {
	for _, seed := range []string{"alice", "a\r\nb", "a\x00b", "grün", "a\u0085b", "\xff"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, value string) {
		if !safeHeaderValue(value) {
			return
		}
		if strings.ContainsAny(value, "\r\n\x00\t\x0b\x0c\x1b\x7f") {
			t.Fatalf("accepted %q", value)
		}
	})
}

// A54: what a link adds to a login is bounded, and holds no control character.
func TestA54LoginParamBounds(t *testing.T) {
	h := newHandler(t, inlineProvider)
	for value, ok := range map[string]bool{
		"alice@example.com": true, strings.Repeat("x", maxLoginParam): true, strings.Repeat("x", maxLoginParam+1): false,
		"a\nb": false, "a\x7fb": false, "": false,
	} {
		if got := h.party.loginParams(url.Values{"login_hint": {value}, "scope": {"x"}}); (len(got) == 1) != ok {
			t.Errorf("%.20q: got %v", value, got)
		}
	}
}

// Only what says "I must show something" begins a silent login anew.
func TestWantsInteraction(t *testing.T) {
	for code, want := range map[string]bool{
		"login_required": true, "consent_required": true, "interaction_required": true, "account_selection_required": true,
		"access_denied": false, "server_error": false,
	} {
		if got := wantsInteraction(fmt.Errorf("x: %w", &rp.OAuthError{Code: code})); got != want {
			t.Errorf("%s: %v", code, got)
		}
	}
	if wantsInteraction(rp.ErrUnavailable) {
		t.Error("trouble is no wish")
	}
}
