package rp

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pkce-auth/caddy-pkce-auth/test/provider"
)

func jwtWith(header, payload string) string {
	b64 := base64.RawURLEncoding.EncodeToString
	return b64([]byte(header)) + "." + b64([]byte(payload)) + "." + b64([]byte("signature"))
}

// R16, IDPS 1.7: a token that came for a target is for that, as far as it can be
// told. The attack: Auth0 ignores an audience that it does not know, and the token
// of another API would go to this route's upstream.
func TestR16TargetCheck(t *testing.T) {
	const at = `{"alg":"RS256","typ":"at+jwt"}`
	api := Target{Audience: "https://a.test", Scopes: []string{"openid", "read"}}
	for _, tc := range []struct {
		name   string
		target Target
		token  string
		scope  string
		fits   bool
	}{
		{"aud is the audience", api, jwtWith(at, `{"aud":"https://a.test"}`), "", true},
		{"aud is a list with it", api, jwtWith(at, `{"aud":["https://op.test/userinfo","https://a.test"]}`), "openid read", true},
		{"aud is another", api, jwtWith(at, `{"aud":"https://b.test"}`), "", false},
		{"aud begins like it", api, jwtWith(at, `{"aud":"https://a.test.evil.test"}`), "", false},
		{"aud differs by a slash", api, jwtWith(at, `{"aud":"https://a.test/"}`), "", false},
		{"no aud", api, jwtWith(at, `{"sub":"alice"}`), "", false},
		{"aud in another case", api, jwtWith(at, `{"AUD":"https://a.test"}`), "", false},
		{"aud stands twice", api, jwtWith(at, `{"aud":"https://b.test","aud":"https://a.test"}`), "", false},
		{"claims that are no JSON", api, jwtWith(at, `{`), "", false},
		{"claims that are no base64", api, strings.Replace(jwtWith(at, `{"aud":"https://a.test"}`), ".", ".!", 1), "", false},
		{"a header that others may read", api, jwtWith("{\"alg\":\"\x8e\"}", `{"aud":"https://b.test"}`), "", false},
		{"a header that is cut off", api, jwtWith(`{`, `{"aud":"https://b.test"}`), "", false},
		{"a header that is no object", api, jwtWith(`0`, `{"aud":"https://b.test"}`), "", true},
		{"a header that is no base64", api, strings.Replace(jwtWith(`{"alg":"RS256"}`, `{"aud":"https://b.test"}`), ".", "!.", 1), "", true},
		{"a header without an algorithm", api, jwtWith(`{}`, `{"aud":"https://b.test"}`), "", true},
		{"an opaque token", api, "opaque", "", true},
		{"an opaque token with dots", api, "a.b.c", "", true},
		{"one of two resources", Target{Resources: []string{"https://a.test/", "https://b.test/"}}, jwtWith(at, `{"aud":"https://b.test/"}`), "", true},
		{"several audiences, as Hydra has them", Target{Audience: "a b"}, jwtWith(at, `{"aud":["a","b"]}`), "", true},
		{"scopes only, and whatever aud", Target{Scopes: []string{"read"}}, jwtWith(at, `{"aud":"account"}`), "openid read", true},
		{"none of the scopes", Target{Scopes: []string{"openid", "read"}}, "opaque", "openid profile", false},
		{"some of the scopes", Target{Scopes: []string{"read", "write"}}, "opaque", "read", true},
		{"scopes that are not told", Target{Scopes: []string{"read"}}, "opaque", "", true},
		{"nothing but openid was asked for", Target{Audience: "https://a.test", Scopes: []string{"openid"}}, "opaque", "email", true},
		{"a scope that begins like one", Target{Scopes: []string{"api"}}, "opaque", "api/read", false},
		{"Entra's .default", Target{Scopes: []string{"api://x/.default"}}, "opaque", "api://x/read", true},
		{"Entra's .default of another API", Target{Scopes: []string{"api://x/.default"}}, "opaque", "api://xy/read", false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			err := tc.target.Check(&Grant{AccessToken: NewSecret(tc.token), Scope: tc.scope})
			if (err == nil) != tc.fits || err != nil && (!errors.Is(err, ErrTarget) || errors.Is(err, ErrGrantOver)) {
				t.Errorf("got %v", err)
			}
		})
	}
}

// The invariant: what passes as a JWT names the audience, by another reader of
// JSON, too.
func FuzzTargetCheck(f *testing.F) {
	f.Add(`{"alg":"none"}`, `{"aud":["x","https://a.test"]}`)
	f.Add(`{"alg":"RS256"}`, `{"aud":"https://a.test","aud":"x"}`)
	f.Add(`{"typ":"JWT"}`, `{"Aud":"https://a.test"}`)
	f.Add(`{"alg":1}`, `[]`)
	f.Add("{\"alg\":\"\x8e\"}", "0") // which not every reader of JSON refuses
	f.Fuzz(func(t *testing.T, header, payload string) {
		target := Target{Audience: "https://a.test"}
		token := jwtWith(header, payload)
		if target.Check(&Grant{AccessToken: NewSecret(token)}) != nil {
			return
		}
		var head map[string]json.RawMessage
		if json.Unmarshal([]byte(header), &head) != nil || head["alg"] == nil {
			return // nobody takes it for a JWT
		}
		var doc map[string]json.RawMessage
		if err := json.Unmarshal([]byte(payload), &doc); err != nil {
			t.Fatalf("%s: %v", payload, err)
		}
		var one string
		var many []string
		if json.Unmarshal(doc["aud"], &one) != nil {
			_ = json.Unmarshal(doc["aud"], &many)
		}
		if one != target.Audience && !slices.Contains(many, target.Audience) {
			t.Errorf("%s passed", payload)
		}
	})
}

// R16: a refresh for a target asks for it, by what the target has and nothing
// else; one with a refresh token of the target's own asks for nothing (Rauthy,
// better-auth: a stale resource is invalid_target), unless the provider wants its
// resources again.
func TestR16RefreshForTarget(t *testing.T) {
	op, c, grant := loggedIn(t)
	op.Change(func(cfg *provider.Config) {
		cfg.APIs = []string{"https://a.test", "https://a.test/", "https://b.test/"}
	})
	c.Audience = "https://main.test"
	target := Target{Audience: "https://a.test", Resources: []string{"https://b.test/", "https://a.test/"}, Scopes: []string{"read", "write"}}
	for _, tc := range []struct {
		name    string
		renewal Renewal
		want    url.Values
	}{
		{"of the session", Renewal{Target: target}, url.Values{"audience": {"https://a.test"}, "resource": target.Resources, "scope": {"read write"}}},
		{"scopes only", Renewal{Target: Target{Scopes: []string{"openid"}}}, url.Values{"scope": {"openid"}}},
		{"of its own", Renewal{Target: target, Own: true}, url.Values{}},
	} {
		tc.renewal.Token = grant.RefreshToken
		renewed, err := c.Refresh(t.Context(), metadata(t, c), tc.renewal)
		if err != nil {
			t.Fatalf("%s: %v", tc.name, err)
		}
		requests := op.Requests("token")
		got := requests[len(requests)-1].Form
		for _, name := range []string{"grant_type", "refresh_token", "client_id"} {
			got.Del(name)
		}
		if got.Encode() != tc.want.Encode() {
			t.Errorf("%s: got %s, want %s", tc.name, got.Encode(), tc.want.Encode())
		}
		grant = renewed
	}
}

// What the token endpoint says of a target never ends the session's own grant; what
// it says of itself, or of the client, is what it always is.
func TestTargetRefused(t *testing.T) {
	for code, want := range map[string]struct{ target, general bool }{
		"invalid_target": {true, true}, "invalid_scope": {true, true}, "unauthorized_client": {true, true}, "invalid_request": {true, true},
		"invalid_grant": {true, false}, "consent_required": {true, false}, "mfa_required": {true, false},
		"invalid_client": {}, "server_error": {}, "temporarily_unavailable": {},
	} {
		op, c, grant := loggedIn(t)
		op.Misbehave(provider.Faults{RefuseTarget: func(string, url.Values) string { return code }})
		_, err := c.Refresh(t.Context(), metadata(t, c), Renewal{Token: grant.RefreshToken, Target: Target{Audience: "https://a.test"}})
		refused, is := errors.AsType[*TargetError](err)
		if said, ok := errors.AsType[*OAuthError](err); !want.target && (!ok || said.Code != code) {
			t.Errorf("%s: got %v, which does not say so", code, err)
		}
		if err == nil || is != want.target || errors.Is(err, ErrTarget) != want.target || is && refused.General != want.general || errors.Is(err, ErrGrantOver) {
			t.Errorf("%s: got %v", code, err)
		}
	}
	// What says nothing is the refresh token's fault (Glewlwyd), or the provider's.
	for name, tc := range map[string]struct {
		answer func(http.ResponseWriter, *http.Request) bool
		target bool
		is     error
	}{
		"nothing at all":          {provider.Status(http.StatusBadRequest, "text/plain", ""), true, ErrTarget},
		"a proxy's refusal":       {provider.Status(http.StatusForbidden, "text/html", "<p>no</p>"), false, nil},
		"trouble":                 {provider.Status(http.StatusBadGateway, "text/html", "<p>no</p>"), false, ErrUnavailable},
		"trouble, with its words": {provider.Status(http.StatusServiceUnavailable, "application/json", `{"error":"invalid_request"}`), false, ErrUnavailable},
	} {
		op, c, grant := loggedIn(t)
		op.Misbehave(provider.Faults{Answer: map[string]func(http.ResponseWriter, *http.Request) bool{"token": tc.answer}})
		got, err := c.Refresh(t.Context(), metadata(t, c), Renewal{Token: grant.RefreshToken, Target: Target{Audience: "https://a.test"}})
		refused, is := errors.AsType[*TargetError](err)
		if got != nil || err == nil || is != tc.target || is && refused.General || tc.is != nil && !errors.Is(err, tc.is) || errors.Is(err, ErrGrantOver) {
			t.Errorf("%s: got %v, %v", name, got, err)
		}
	}
}

// R16: an authorization request for a target has its audience, resources and
// scopes in place of the configured ones, and asks for an ID token and for a
// refresh token where the login does.
func TestR16AuthorizationForTarget(t *testing.T) {
	c := &Client{ClientID: "public", Provider: NewProvider(ProviderConfig{})}
	c.Scopes, c.OfflineAccess, c.Audience = []string{"openid", "email"}, true, "https://main.test"
	m := &Metadata{OfflineAccess: true, Endpoints: Endpoints{AuthorizationEndpoint: "https://op.test/authorize"}}
	for _, tc := range []struct {
		name   string
		target Target
		want   url.Values
	}{
		{"scopes that have what the login has", Target{Scopes: []string{"openid", "read", "offline_access"}}, url.Values{"audience": {"https://main.test"}, "scope": {"openid read offline_access"}}},
		{"none", Target{}, url.Values{"audience": {"https://main.test"}, "scope": {"openid email offline_access"}}},
		{"an audience", Target{Audience: "a"}, url.Values{"audience": {"a"}, "scope": {"openid email offline_access"}}},
		{"a resource", Target{Resources: []string{"https://r.test/", "https://s.test/"}}, url.Values{"resource": {"https://r.test/", "https://s.test/"}, "scope": {"openid email offline_access"}}},
		{"scopes", Target{Scopes: []string{"read"}}, url.Values{"audience": {"https://main.test"}, "scope": {"read openid offline_access"}}},
	} {
		location, err := c.AuthorizationURL(m, AuthRequest{Transaction: NewTransaction(), Ask: Ask{Target: tc.target}, RedirectURI: "https://app.test/cb", State: "s"})
		if err != nil {
			t.Fatal(err)
		}
		u, _ := url.Parse(location)
		got := url.Values{}
		for _, name := range []string{"audience", "resource", "scope"} {
			if values := u.Query()[name]; values != nil {
				got[name] = values
			}
		}
		if got.Encode() != tc.want.Encode() {
			t.Errorf("%s: got %v, want %v", tc.name, got, tc.want)
		}
	}
	// What the login does without, its targets do without, too.
	c.Scopes, c.OfflineAccess = []string{"email"}, false
	if _, _, scope := c.authorizationFor(m, Target{Scopes: []string{"read"}}); scope != "read" {
		t.Errorf("got the scope %q", scope)
	}
}

// Without an ID token, the access token tells whose it is, if it does.
func TestIdentifyTargetWithoutOpenID(t *testing.T) {
	c := &Client{Provider: NewProvider(ProviderConfig{})}
	who, err := c.IdentifyTarget(t.Context(), nil, &Grant{AccessToken: NewSecret(jwtWith(`{"alg":"RS256"}`, `{"sub":"alice"}`)), Expiry: time.Now()}, AuthRequest{})
	if err != nil || who.Subject != "alice" {
		t.Errorf("got %+v, %v", who, err)
	}
	if who, err := c.IdentifyTarget(t.Context(), nil, &Grant{AccessToken: NewSecret(strings.Repeat("x", 10))}, AuthRequest{}); err != nil || who.Subject != "" {
		t.Errorf("got %+v, %v", who, err)
	}
}

// refreshed is a good ID token as it comes with a refresh, changed.
func (b *bench) refreshed(change map[string]any) *Grant {
	claims := b.claims(map[string]any{"nonce": nil})
	for name, value := range change {
		if claims[name] = value; value == nil {
			delete(claims, name)
		}
	}
	return &Grant{AccessToken: NewSecret("opaque-token"), IDToken: NewSecret(b.op.Sign(nil, claims))}
}

// A48, R26, R32: a token that came for a target is of whoever its ID token names,
// and that is held to all that the ID token of a login is. The attack: a code of
// the attacker's login is slipped into the victim's, and the victim's session
// sends the attacker's token upstream.
func TestA48R26R32IdentifyTarget(t *testing.T) {
	b := newBench(t)
	r := AuthRequest{Transaction: NewTransaction()}
	r.Nonce = NewSecret("the-nonce")
	hour := time.Hour
	stepUp := r
	stepUp.Ask.MaxAge = &hour
	for _, tc := range []struct {
		name    string
		request AuthRequest
		change  map[string]any
		check   string // that fails
	}{
		{"good", r, nil, ""},
		{"the nonce of another login", r, map[string]any{"nonce": "other"}, "nonce"},
		{"no nonce, as with a refresh", r, map[string]any{"nonce": nil}, "nonce"},
		{"another's access token", r, map[string]any{"at_hash": "x"}, "at_hash"},
		{"another client's", r, map[string]any{"aud": "other"}, "aud"},
		{"another issuer's", r, map[string]any{"iss": "https://evil.test"}, "iss"},
		{"an expired one", r, map[string]any{"exp": b.now.Add(-hour).Unix()}, "exp"},
		{"no subject", r, map[string]any{"sub": nil}, "sub"},
		{"asked for a recent login, and it does not say when", stepUp, nil, "auth_time"},
		{"asked for a recent login", stepUp, map[string]any{"auth_time": b.now.Unix()}, ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			grant := &Grant{AccessToken: NewSecret("opaque-token"), IDToken: NewSecret(b.op.Sign(nil, b.claims(tc.change)))}
			who, err := b.client.IdentifyTarget(t.Context(), metadata(t, b.client), grant, tc.request)
			if tc.check == "" {
				if want := (Whose{Subject: "alice", Issuer: b.op.URL}); err != nil || who != want {
					t.Errorf("got %+v, %v", who, err)
				}
				return
			}
			refused, ok := errors.AsType[*CheckError](err)
			if !ok || refused.Check != tc.check || who != (Whose{}) {
				t.Errorf("got %+v, %v, want the check %s", who, err, tc.check)
			}
		})
	}
	// What an access token says instead is not asked for.
	grant := &Grant{AccessToken: NewSecret(jwtWith(`{"alg":"RS256"}`, `{"sub":"alice"}`))}
	if who, err := b.client.IdentifyTarget(t.Context(), metadata(t, b.client), grant, r); !errors.Is(err, ErrInvalid) || who != (Whose{}) {
		t.Errorf("without an ID token: got %+v, %v", who, err)
	}
}

// IDPS 28, A73: the ID token that comes with a refresh for a target is of the user
// of the session, or the token is not taken.
func TestIDPS28A73RefreshForTargetIsOfTheSameUser(t *testing.T) {
	b := newBench(t)
	login, err := b.client.VerifyIDToken(t.Context(), metadata(t, b.client), NewSecret(b.op.Sign(nil, b.claims(nil))), Expected{Nonce: NewSecret("the-nonce")})
	if err != nil {
		t.Fatal(err)
	}
	who := &Identity{Subject: "alice", Sources: []SourcedClaims{{From: FromIDToken, Claims: login.Claims}}}
	for _, tc := range []struct {
		name   string
		change map[string]any
		check  string
	}{
		{"of the same", nil, ""},
		{"of another", map[string]any{"sub": "mallory"}, "sub"},
		{"of another issuer", map[string]any{"iss": "https://evil.test"}, "iss"},
		{"of another client", map[string]any{"aud": "other"}, "aud"},
		{"of another access token", map[string]any{"at_hash": "x"}, "at_hash"},
		{"that has expired", map[string]any{"exp": b.now.Add(-time.Hour).Unix()}, "exp"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			err := b.client.SameUser(t.Context(), metadata(t, b.client), b.refreshed(tc.change), who)
			refused, checked := errors.AsType[*CheckError](err)
			if (tc.check == "") != (err == nil) || err != nil && (!checked || refused.Check != tc.check) {
				t.Errorf("got %v, want the check %q", err, tc.check)
			}
		})
	}
	if err := b.client.SameUser(t.Context(), metadata(t, b.client), &Grant{AccessToken: NewSecret("x")}, who); err != nil {
		t.Errorf("without an ID token, which nobody must send: %v", err)
	}
	// Nobody looks at what was not asked for, and nothing speaks against what
	// cannot be checked now; see IdentifyAgain.
	wrong := b.refreshed(map[string]any{"sub": "mallory"})
	b.client.Scopes = []string{"read"}
	if err := b.client.SameUser(t.Context(), metadata(t, b.client), wrong, who); err != nil {
		t.Errorf("where no ID token is expected: %v", err)
	}
	unavailable := newBench(t)
	unavailable.op.Misbehave(provider.Faults{Answer: map[string]func(http.ResponseWriter, *http.Request) bool{"keys": provider.Status(http.StatusServiceUnavailable, "text/plain", "")}})
	if err := unavailable.client.SameUser(t.Context(), metadata(t, unavailable.client), unavailable.refreshed(nil), who); err != nil {
		t.Errorf("without keys: %v", err)
	}
}
