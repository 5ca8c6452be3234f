package flows

import (
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/pkce-auth/caddy-pkce-auth/test/provider"
)

// The relying-party modules of the OpenID Foundation's conformance suite, by
// their names, with the suite's verdict: its provider does one thing wrong in
// each, and then looks whether the next endpoint is called. Ours does the same.
// docs/conformance.md says how to run the suite itself.

// suite is what every module of the suite has: an issuer with a path and a
// slash behind it, a client with a secret, and a key set with a key that many
// libraries stumble over (F01), and with decoys that have the real keys' IDs.
type suite struct {
	*world
	formPost bool
}

func newSuite(t *testing.T, formPost bool) *suite {
	s := &suite{formPost: formPost, world: newWorldWith(t, provider.Config{Path: "/test/a/caddy/", Clients: map[string]provider.Client{
		"client": {Secret: "a-secret-of-the-suite-0123456789"},
	}})}
	s.expect = []string{"a-secret-of-the-suite-0123456789"}
	return s
}

// faults adds what the suite always does.
func suiteFaults(f provider.Faults) provider.Faults {
	change := f.Keys
	f.Keys = func(keys []any) []any {
		decoys := []any{map[string]any{"kty": "EC", "crv": "secp256k1", "x": "hUqEwsmyGDGGKxK5iJ2kNhBh0XOTMuQ8BwhfCrYKHqM", "y": "R8fm2pHHgkd4SLvqZPdDbiR9sJ4hxoNjFWbVWnvVIj4"}}
		for _, key := range keys {
			members := key.(map[string]any)
			decoys = append(decoys, map[string]any{"kty": "OKP", "crv": "X25519", "use": "enc", "x": "3p7bfXt9wbTTW2HC7OQ1Nz-DQ8hbeGdNrfx-FG-IK08", "kid": members["kid"]})
		}
		keys = append(decoys, keys...)
		if change != nil {
			keys = change(keys)
		}
		return keys
	}
	return f
}

// run loads the site: what docs/conformance.md says, with further options.
func (s *suite) run(options string) {
	s.t.Helper()
	if s.formPost {
		options += "\nresponse_mode form_post"
	}
	text := "pkce_auth {\nissuer " + s.op.URL + "\nclient_id client\nclient_secret a-secret-of-the-suite-0123456789\nuserinfo on\n" + options +
		"\n}\nreverse_proxy $UPSTREAM"
	if s.formPost {
		s.caddyTLS(text)
		return
	}
	s.caddy(text)
}

// open goes through a login, by whichever way the answer comes.
func (s *suite) open(b *browser, path string) answer {
	s.t.Helper()
	a := b.visit(s.site + path)
	for a.location(s.t) != "" || strings.Contains(a.body, "document.forms[0].submit()") {
		if location := a.location(s.t); location != "" {
			a = b.visit(location)
			continue
		}
		a = b.post(a.form(s.t))
	}
	return a
}

func alone(wanted string) func([]any) []any {
	return func(keys []any) []any {
		kept := slices.DeleteFunc(keys, func(key any) bool { return key.(map[string]any)["alg"] != wanted })
		for _, key := range kept {
			delete(key.(map[string]any), "kid")
		}
		return kept
	}
}

func claim(name string, value any) func(_, claims map[string]any) {
	return func(_, claims map[string]any) {
		if value == nil {
			delete(claims, name)
			return
		}
		if suffix, ok := value.(string); ok && strings.HasPrefix(suffix, "+") {
			value, _ := claims[name].(string)
			claims[name] = value + suffix[1:]
			return
		}
		claims[name] = value
	}
}

// loginModules end with a call of userinfo, or without one.
var loginModules = map[string]struct {
	faults provider.Faults
	reject bool
	log    string // what the log says of a rejection
}{
	"oidcc-client-test":                        {},
	"oidcc-client-test-invalid-iss":            {provider.Faults{IDToken: claim("iss", "+1")}, true, `"check":"iss"`},
	"oidcc-client-test-missing-sub":            {provider.Faults{IDToken: claim("sub", nil)}, true, `"check":"sub"`},
	"oidcc-client-test-invalid-aud":            {provider.Faults{IDToken: claim("aud", "+1")}, true, `"check":"aud"`},
	"oidcc-client-test-missing-aud":            {provider.Faults{IDToken: claim("aud", nil)}, true, `"check":"aud"`},
	"oidcc-client-test-missing-iat":            {provider.Faults{IDToken: claim("iat", nil)}, true, `"check":"iat"`},
	"oidcc-client-test-nonce-invalid":          {provider.Faults{IDToken: claim("nonce", "+1")}, true, `"check":"nonce"`},
	"oidcc-client-test-invalid-athash":         {provider.Faults{IDToken: claim("at_hash", "+1")}, true, `"check":"at_hash"`},
	"oidcc-client-test-idtoken-sig-rs256":      {},
	"oidcc-client-test-client-secret-basic":    {},
	"oidcc-client-test-userinfo-bearer-header": {},
	"oidcc-client-test-kid-absent-single-jwks": {provider.Faults{
		IDToken: func(header, _ map[string]any) { header["kid"] = "" },
		Keys:    alone("RS256"),
	}, false, ""},
	"oidcc-client-test-kid-absent-multiple-jwks": {provider.Faults{ // either verdict would do
		IDToken: func(header, _ map[string]any) { header["kid"] = "" },
	}, false, ""},
	"oidcc-client-test-idtoken-sig-none": {provider.Faults{SignedIDToken: func(token string) string {
		return "eyJhbGciOiJub25lIn0." + strings.Split(token, ".")[1] + "."
	}}, true, `"check":"header"`},
	"oidcc-client-test-invalid-sig-rs256": {provider.Faults{SignedIDToken: func(token string) string {
		at := len(token) - 10
		return token[:at] + map[bool]string{true: "A", false: "B"}[token[at] != 'A'] + token[at+1:]
	}}, true, `"check":"signature"`},
	"oidcc-client-test-invalid-sig-es256": {provider.Faults{
		IDToken:       func(header, _ map[string]any) { header["alg"] = "ES256" },
		SignedIDToken: func(token string) string { return token[:len(token)-4] + "AAAA" },
	}, true, `"check":"signature"`},
	"oidcc-client-test-invalid-sig-hs256": {provider.Faults{SignedIDToken: func(token string) string {
		parts := strings.Split(token, ".")
		return "eyJhbGciOiJIUzI1NiJ9." + parts[1] + "." + parts[2]
	}}, true, "switch the application to RS256"},
	"oidcc-client-test-userinfo-invalid-sub": {provider.Faults{Userinfo: func(claims map[string]any) {
		claims["sub"] = claims["sub"].(string) + "invalid"
	}}, true, "userinfo"},
	"oidcc-client-test-discovery-openid-config":   {},
	"oidcc-client-test-discovery-jwks-uri-keys":   {},
	"oidcc-client-test-discovery-issuer-mismatch": {provider.Faults{Metadata: func(doc map[string]any) { doc["issuer"] = doc["issuer"].(string) + "1" }}, true, "calls itself"},
	"oidcc-client-test-distributed-claims":        {provider.Faults{Userinfo: distributed}, false, ""},
	"oidcc-client-test-aggregated-claims":         {provider.Faults{Userinfo: distributed}, false, ""},
}

func distributed(claims map[string]any) {
	claims["_claim_names"] = map[string]any{"credit_score": "src1"}
	claims["_claim_sources"] = map[string]any{"src1": map[string]any{"endpoint": "https://127.0.0.1:1/score"}}
}

// The plans Basic RP, Config RP and Form Post RP, and of the comprehensive one
// what concerns the code flow.
func TestOIDCCLoginModules(t *testing.T) {
	for _, plan := range []struct {
		name     string
		formPost bool
	}{
		{"oidcc-client-basic-certification-test-plan", false},
		{"oidcc-client-formpost-basic-certification-test-plan", true},
	} {
		for module, tc := range loginModules {
			t.Run(plan.name+"/"+module, func(t *testing.T) {
				s := newSuite(t, plan.formPost)
				s.op.Misbehave(suiteFaults(tc.faults))
				s.run("")
				b := s.browser()
				a := s.open(b, "/page")
				if tc.reject {
					s.rejected(b, a, module, tc.log)
					return
				}
				if a.body != "upstream /page" {
					t.Fatalf("got status %d and %.300s", a.StatusCode, a.body)
				}
				s.accepted()
			})
		}
	}
}

// accepted asserts what a positive module of the suite sees: code, token
// request with client_secret_basic, and userinfo with the token in its header.
func (s *suite) accepted() {
	s.t.Helper()
	token, info := s.op.Requests("token"), s.op.Requests("userinfo")
	if len(token) != 1 || len(info) != 1 {
		s.t.Fatalf("%d token requests, %d of userinfo", len(token), len(info))
	}
	if user, _, ok := (&http.Request{Header: token[0].Header}).BasicAuth(); !ok || user != "client" || token[0].Form.Has("client_secret") {
		s.t.Errorf("client authentication: %v", token[0].Form)
	}
	if !strings.HasPrefix(info[0].Header.Get("Authorization"), "Bearer ") || info[0].Form.Has("access_token") {
		s.t.Errorf("userinfo: %v", info[0].Header)
	}
}

func (s *suite) rejected(b *browser, a answer, module, cause string) {
	s.t.Helper()
	if a.StatusCode < 400 || s.upstream.count() != 0 {
		s.t.Errorf("got status %d, and %d requests reached the upstream", a.StatusCode, s.upstream.count())
	}
	if calls := len(s.op.Requests("userinfo")); calls != 0 && !strings.Contains(module, "userinfo") {
		s.t.Errorf("userinfo was called %d times", calls)
	}
	if strings.Contains(module, "discovery") && len(s.op.Requests("authorize")) != 0 {
		s.t.Error("the authorization endpoint was reached")
	}
	s.logged("http.handlers.pkce_auth", cause)
	if a := b.fetch(s.site + "/x"); a.StatusCode != http.StatusUnauthorized && a.StatusCode != http.StatusServiceUnavailable {
		s.t.Errorf("there is a session: status %d", a.StatusCode)
	}
}

// oidcc-client-test-scope-userinfo-claims: all scopes that bring claims.
func TestOIDCCScopeUserinfoClaims(t *testing.T) {
	s := newSuite(t, false)
	s.op.Misbehave(suiteFaults(provider.Faults{Userinfo: func(claims map[string]any) { claims["address"] = map[string]any{"country": "DE"} }}))
	s.run("scopes openid profile email address phone\nheader_up X-Country {http.auth.user.address.country}")
	s.open(s.browser(), "/page")
	if got := s.upstream.last(t).Header.Get("X-Country"); got != "DE" {
		t.Errorf("got %q", got)
	}
	if got := s.op.Requests("authorize")[0].Form.Get("scope"); got != "openid profile email address phone" {
		t.Errorf("scope: got %q", got)
	}
}

// oidcc-client-test-userinfo-signed: userinfo as a JWT.
func TestOIDCCUserinfoSigned(t *testing.T) {
	s := newSuite(t, false)
	s.op.Misbehave(suiteFaults(provider.Faults{Answer: endpointAnswers{"userinfo": func(w http.ResponseWriter, _ *http.Request) bool {
		w.Header().Set("Content-Type", "application/jwt")
		_, _ = w.Write([]byte(s.op.Sign(nil, map[string]any{"iss": s.op.URL, "aud": "client", "sub": "alice", "phone_number": "1"})))
		return true
	}}}))
	s.run("header_up X-Phone {http.auth.user.phone_number}")
	s.open(s.browser(), "/page")
	if got := s.upstream.last(t).Header.Get("X-Phone"); got != "1" {
		t.Errorf("got %q", got)
	}
}

// oidcc-client-test-form-post-error: an error comes in the form.
func TestOIDCCFormPostError(t *testing.T) {
	s := newSuite(t, true)
	s.op.Misbehave(suiteFaults(provider.Faults{Callback: func(q url.Values) {
		q.Del("code")
		q.Set("error", "server_error")
		q.Set("error_description", "This is a test")
	}}))
	s.run("")
	b := s.browser()
	if a := s.open(b, "/page"); a.StatusCode != http.StatusServiceUnavailable {
		t.Errorf("got status %d", a.StatusCode)
	}
	if len(s.op.Requests("token")) != 0 {
		t.Error("the token endpoint was called")
	}
}

// oidcc-client-test-signing-key-rotation, and -just-before-signing: the keys
// are fetched again.
func TestOIDCCSigningKeyRotation(t *testing.T) {
	s := newSuite(t, false)
	s.op.Misbehave(suiteFaults(provider.Faults{}))
	s.run("")
	s.open(s.browser(), "/first")
	s.op.RotateKeys()
	if a := s.open(s.browser(), "/second"); a.body != "upstream /second" || len(s.op.Requests("keys")) != 2 {
		t.Errorf("rotated between logins: got %q after %d fetches", a.body, len(s.op.Requests("keys")))
	}
	s.op.Misbehave(suiteFaults(provider.Faults{IDToken: func(_, _ map[string]any) { s.op.RotateKeys() }}))
	if a := s.open(s.browser(), "/third"); a.body != "upstream /third" || len(s.op.Requests("keys")) != 3 {
		t.Errorf("rotated just before signing: got %q after %d fetches", a.body, len(s.op.Requests("keys")))
	}
}

// oidcc-client-test-refresh-token, -refresh-token-invalid-issuer and
// -refresh-token-invalid-sub.
func TestOIDCCRefreshToken(t *testing.T) {
	for module, fault := range map[string]func(map[string]any){
		"oidcc-client-test-refresh-token":                func(map[string]any) {},
		"oidcc-client-test-refresh-token-invalid-issuer": func(claims map[string]any) { claims["iss"] = claims["iss"].(string) + "1" },
		"oidcc-client-test-refresh-token-invalid-sub":    func(claims map[string]any) { claims["sub"] = claims["sub"].(string) + "1" },
	} {
		t.Run(module, func(t *testing.T) {
			s := newSuite(t, false)
			s.op.Misbehave(suiteFaults(provider.Faults{TokenResponse: shortLived, RefreshedIDToken: fault}))
			s.run("")
			b := s.browser()
			s.open(b, "/in")
			first := s.upstream.last(t).Header.Get("Authorization")
			outliveShortLived()
			a := b.fetch(s.site + "/later")
			if strings.Contains(module, "invalid") {
				if a.StatusCode == http.StatusOK || s.upstream.last(t).Header.Get("Authorization") != first {
					t.Errorf("got status %d", a.StatusCode)
				}
				return
			}
			if again := s.upstream.last(t).Header.Get("Authorization"); a.StatusCode != http.StatusOK || again == first || again == "" {
				t.Errorf("got status %d", a.StatusCode)
			}
		})
	}
}

// oidcc-client-test-3rd-party-init-login (R36, IDPS 33): the provider sends
// the browser to us, and we send it to the provider to log in.
func TestOIDCC3rdPartyInitLogin(t *testing.T) {
	s := newSuite(t, false)
	s.op.Misbehave(suiteFaults(provider.Faults{}))
	s.run("")
	for name, tc := range map[string]struct {
		query  url.Values
		status int
		ends   string
	}{
		"with our issuer":       {url.Values{"iss": {s.op.URL}, "target_link_uri": {s.site + "/there?x=1"}, "login_hint": {"alice"}}, http.StatusFound, "/there?x=1"},
		"with another issuer":   {url.Values{"iss": {"https://evil.test/"}}, http.StatusBadRequest, ""},
		"without the slash":     {url.Values{"iss": {strings.TrimSuffix(s.op.URL, "/")}}, http.StatusBadRequest, ""},
		"with an empty issuer":  {url.Values{"iss": {""}}, http.StatusBadRequest, ""},
		"to somewhere else":     {url.Values{"iss": {s.op.URL}, "target_link_uri": {"https://evil.test/x"}}, http.StatusFound, "/"},
		"with an invitation":    {url.Values{"iss": {s.op.URL}, "invitation": {"i-1"}, "organization": {"org_1"}, "organization_name": {"acme"}}, http.StatusFound, "/"},
		"with what is not ours": {url.Values{"iss": {s.op.URL}, "scope": {"admin"}, "redirect_uri": {"https://evil.test"}, "state": {"x"}}, http.StatusFound, "/"},
	} {
		t.Run(name, func(t *testing.T) {
			b := s.browser()
			a := b.visit(s.site + "/oauth2/login?" + tc.query.Encode())
			if a.StatusCode != tc.status {
				t.Fatalf("got status %d, want %d", a.StatusCode, tc.status)
			}
			if tc.ends == "" {
				return
			}
			sent := query(t, a.location(t))
			for _, name := range []string{"login_hint", "invitation", "organization"} {
				if sent.Get(name) != tc.query.Get(name) {
					t.Errorf("%s: got %q, want %q", name, sent.Get(name), tc.query.Get(name))
				}
			}
			if sent.Get("scope") == "admin" || sent.Get("redirect_uri") != s.site+"/oauth2/callback" || sent.Get("state") == "x" || sent.Has("organization_name") {
				t.Errorf("got %v", sent)
			}
			if a := b.follow(a); a.body != "upstream "+tc.ends {
				t.Errorf("ends at %q, want %s", a.body, tc.ends)
			}
		})
	}
}

// The plan RP-Initiated Logout RP: oidcc-client-test-rp-init-logout, and with
// another state, and with none, on the way back.
func TestM136R41OIDCCRPInitiatedLogout(t *testing.T) {
	for module, back := range map[string]string{
		"oidcc-client-test-rp-init-logout":             "?state=STATE",
		"oidcc-client-test-rp-init-logout-other-state": "?state=STATE_INVALID",
		"oidcc-client-test-rp-init-logout-no-state":    "",
	} {
		t.Run(module, func(t *testing.T) {
			s := newSuite(t, false)
			s.op.Misbehave(suiteFaults(provider.Faults{}))
			s.run("")
			b := s.browser()
			s.open(b, "/page")
			logout := navigation.Clone()
			logout.Set("Sec-Fetch-Site", "same-origin")
			a := b.do(http.MethodGet, s.site+"/oauth2/logout", logout, "")
			q := query(t, a.location(t))
			if !strings.HasPrefix(a.location(t), strings.TrimSuffix(s.op.URL, "/")+"/end-session?") || !slices.Contains(s.op.Issued(), q.Get("id_token_hint")) ||
				q.Get("post_logout_redirect_uri") != s.site+"/oauth2/signed-out" || q.Get("state") == "" || q.Get("client_id") != "client" {
				t.Fatalf("got %s", a.location(t))
			}
			a = b.visit(q.Get("post_logout_redirect_uri") + strings.Replace(back, "STATE", url.QueryEscape(q.Get("state")), 1))
			if a.StatusCode != http.StatusOK || !strings.Contains(a.body, "You are signed out") {
				t.Errorf("got status %d", a.StatusCode)
			}
			if a := b.visit(s.site + "/page"); a.StatusCode != http.StatusFound {
				t.Errorf("after the logout: got status %d", a.StatusCode)
			}
		})
	}
}

// The plan Back-Channel RP, oidcc-client-back-channel-logout-rp-basic: the first
// module wants a logout, all others a refusal.
func TestM120M127OIDCCBackChannelLogout(t *testing.T) {
	const prefix = "oidcc-client-test-rp-backchannel-rpinitlogout"
	for module, fault := range map[string]string{
		prefix:                  "",
		prefix + "-alg-none":    "M121 alg none",
		prefix + "-wrong-alg":   "M122 signed in another way than ID tokens",
		prefix + "-no-event":    "M123 no events",
		prefix + "-wrong-event": "M124 another event",
		prefix + "-with-nonce":  "M125 a nonce",
		prefix + "-wrong-aud":   "M126 another audience",
		prefix + "-wrong-iss":   "M127 another issuer",
	} {
		t.Run(module, func(t *testing.T) {
			s := newSuite(t, false)
			s.op.Misbehave(suiteFaults(provider.Faults{}))
			s.run("")
			b := s.browser()
			s.open(b, "/page")
			sid := s.op.Logins()[0].SessionID
			wrong, known := s.op.LogoutFaults()[fault]
			if known != (fault != "") {
				t.Fatalf("there is no fault %q", fault)
			}
			want := http.StatusBadRequest
			if fault == "" { // the browser has been here before the provider
				want = http.StatusOK
				b.logout(s.world)
			}
			a := s.sendsWith(s.op.LogoutToken("client", "alice", sid, wrong), url.Values{"ignored_parameter": {"ignored"}})
			if a.Status != want {
				t.Errorf("got status %d and %s, want %d", a.Status, a.Body, want)
			}
			s.alive(b, fault != "", "afterwards")
			if fault != "" && s.sends(s.op.LogoutToken("client", "alice", sid, provider.LogoutFault{})).Status != http.StatusOK {
				t.Error("one without the fault is refused, too")
			}
			s.alive(b, false, "in the end")
		})
	}
}
