package rp

import (
	"net/url"
	"regexp"
	"slices"
	"strings"
	"testing"

	"golang.org/x/oauth2"
)

// RFC 7636 appendix B. Its challenge is the one in Auth0's example URLs, from
// which this project began.
func TestIDPS04ChallengeVector(t *testing.T) {
	const (
		verifier  = "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk"
		challenge = "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM"
	)
	c := &Client{ClientID: "id", Authorization: Authorization{Scopes: []string{"openid", "profile"}}}
	q := authQuery(t, c, "https://tenant.auth0.com/authorize", AuthRequest{Transaction: Transaction{Verifier: NewSecret(verifier), Nonce: NewSecret("n")}})
	if got := q.Get("code_challenge"); got != challenge {
		t.Errorf("code_challenge: got %s, want %s", got, challenge)
	}
	if got := q.Get("code_challenge_method"); got != "S256" {
		t.Errorf("code_challenge_method: got %s, want S256", got)
	}
}

func authQuery(t *testing.T, c *Client, endpoint string, r AuthRequest) url.Values {
	t.Helper()
	text, err := c.AuthorizationURL(&Metadata{Endpoints: Endpoints{AuthorizationEndpoint: endpoint}}, r)
	if err != nil {
		t.Fatal(err)
	}
	u, err := url.Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	q, err := url.ParseQuery(u.RawQuery)
	if err != nil {
		t.Fatal(err)
	}
	return q
}

// The seed's first table: adding login. Every parameter once, none besides,
// none empty.
func TestIDPS01IDPS02IDPS03IDPS10AddingLogin(t *testing.T) {
	c := &Client{ClientID: "my client/1", Authorization: Authorization{Scopes: []string{"openid", "profile"}}}
	r := AuthRequest{
		Transaction: Transaction{Verifier: NewSecret("dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk"), Nonce: NewSecret("the-nonce")},
		RedirectURI: "https://app.example.com/oauth2/callback?x=1&y=2",
		State:       "the-state",
	}
	text, err := c.AuthorizationURL(&Metadata{Endpoints: Endpoints{AuthorizationEndpoint: "https://tenant.auth0.com/authorize"}}, r)
	if err != nil {
		t.Fatal(err)
	}
	const want = "https://tenant.auth0.com/authorize?" +
		"client_id=my+client%2F1&" +
		"code_challenge=E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM&" +
		"code_challenge_method=S256&" +
		"nonce=the-nonce&" +
		"redirect_uri=https%3A%2F%2Fapp.example.com%2Foauth2%2Fcallback%3Fx%3D1%26y%3D2&" +
		"response_type=code&" +
		"scope=openid+profile&" +
		"state=the-state"
	if text != want {
		t.Errorf("got  %s\nwant %s", text, want)
	}
}

// The seed's second table: calling an API.
func TestIDPS07IDPS09IDPS11CallingAnAPI(t *testing.T) {
	c := &Client{ClientID: "id", Authorization: Authorization{
		Scopes: []string{"appointments", "contacts"}, Audience: "appointments:api", Connection: "github",
	}}
	r := AuthRequest{Transaction: NewTransaction(), RedirectURI: "https://app.example.com/oauth2/callback", State: "s"}
	q := authQuery(t, c, "https://tenant.auth0.com/authorize", r)
	for name, want := range map[string]string{
		"audience": "appointments:api", "scope": "appointments contacts", "connection": "github", "response_type": "code",
	} {
		if got := q[name]; !slices.Equal(got, []string{want}) {
			t.Errorf("%s: got %q, want %q once", name, got, want)
		}
	}
	text, _ := c.AuthorizationURL(&Metadata{Endpoints: Endpoints{AuthorizationEndpoint: "https://tenant.auth0.com/authorize"}}, r)
	if !strings.Contains(text, "audience=appointments%3Aapi") {
		t.Errorf("audience is not encoded as the seed has it: %s", text)
	}
	if c.ExpectsIDToken() {
		t.Error("without openid no ID token is expected")
	}
	c.Audience, c.Connection = "", ""
	q = authQuery(t, c, "https://tenant.auth0.com/authorize", r)
	for _, name := range []string{"audience", "connection", "resource", "prompt", "response_mode"} {
		if q.Has(name) {
			t.Errorf("%s is sent though nobody configured it", name)
		}
	}
}

// R02: what stands in the endpoint's own URL stays; R16: resources repeat.
func TestR02R16EndpointQueryAndResources(t *testing.T) {
	c := &Client{ClientID: "id", Authorization: Authorization{Scopes: []string{"openid"}, Resources: []string{"https://b.test/", "https://a.test/"}}}
	r := AuthRequest{Transaction: NewTransaction(), Extra: []Param{{"prompt", "login"}, {"ext-empty", ""}}}
	q := authQuery(t, c, "https://op.test/a?tenant=1", r)
	if got := q["tenant"]; !slices.Equal(got, []string{"1"}) {
		t.Errorf("tenant: got %q", got)
	}
	if got := q["resource"]; !slices.Equal(got, c.Resources) {
		t.Errorf("resource: got %q, want both, in order", got)
	}
	if got := q["prompt"]; !slices.Equal(got, []string{"login"}) {
		t.Errorf("prompt: got %q", got)
	}
	if q.Has("ext-empty") {
		t.Error("an empty parameter is sent")
	}
	if _, err := c.AuthorizationURL(&Metadata{Endpoints: Endpoints{AuthorizationEndpoint: "https://op.test/a?state=theirs"}}, AuthRequest{Transaction: r.Transaction, State: "ours"}); err == nil {
		t.Error("an endpoint that sets our state: got no error")
	}
}

// F12, A55: no configured parameter replaces one of the protocol's.
func TestF12A55CheckExtraParam(t *testing.T) {
	for _, name := range []string{
		"", "response_type", "client_id", "redirect_uri", "state", "nonce", "code_challenge", "code_challenge_method",
		"scope", "audience", "resource", "connection", "organization", "max_age", "acr_values", "response_mode", "request", "request_uri",
	} {
		if CheckExtraParam(name) == nil {
			t.Errorf("%q: got no error", name)
		}
	}
	for _, name := range []string{"prompt", "ui_locales", "ext-x", "access_type", "hd"} {
		if err := CheckExtraParam(name); err != nil {
			t.Errorf("%q: %v", name, err)
		}
	}
}

// R11, A44, A45: every login has a verifier and a nonce of its own, of 256
// random bits.
func TestIDPS05R11A44A45TransactionsDiffer(t *testing.T) {
	form := regexp.MustCompile(`^[A-Za-z0-9_-]{43}$`)
	seen := map[string]bool{}
	for range 10_000 {
		tx := NewTransaction()
		for _, s := range []string{tx.Verifier.Reveal(), tx.Nonce.Reveal()} {
			if !form.MatchString(s) || seen[s] {
				t.Fatalf("%q: malformed or seen before", s)
			}
			seen[s] = true
		}
		if challenge := oauth2.S256ChallengeFromVerifier(tx.Verifier.Reveal()); len(challenge) != 43 {
			t.Fatalf("challenge %q", challenge)
		}
	}
}

func TestM40M49ParseAuthResponse(t *testing.T) {
	long := strings.Repeat("x", 5000)
	for _, tc := range []struct {
		name, query string
		ok          bool
	}{
		{"a code", "code=c&state=s", true},
		{"M48 unknown parameters are ignored", "code=c&state=s&session_state=1&session_state=2&scope=admin", true},
		{"an error", "error=access_denied&error_description=no&state=s", true},
		{"nothing", "", true},
		{"A49 two codes", "code=a&code=b&state=s", false},
		{"A49 two states", "code=a&state=s&state=t", false},
		{"A49 two issuers", "code=a&state=s&iss=a&iss=b", false},
		{"A49 two errors", "error=a&error=b&state=s", false},
		{"M43 code and error", "code=a&error=b&state=s", false},
		{"M49 semicolons", "code=a;state=s", false},
		{"M49 bad percent", "code=%zz&state=s", false},
		{"M42 a code of 5 kB", "code=" + long + "&state=s", false},
		{"an enormous query", "x=" + strings.Repeat(long, 4), false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r, err := ParseAuthResponse(tc.query)
			if (err == nil) != tc.ok {
				t.Errorf("got %v, want ok %v", err, tc.ok)
			}
			if err == nil && r.Empty() != (tc.name == "nothing") {
				t.Errorf("the provider said nothing: got %v", r.Empty())
			}
		})
	}
	r, err := ParseAuthResponse("error=access_denied&error_description=" + url.QueryEscape("a\r\nb\x00<i>\u202e"+long))
	if err != nil {
		t.Fatal(err)
	}
	if d := r.Error.Description; strings.ContainsAny(d, "\r\n\x00\u202e") || len(d) > maxErrorDescription+len("…") {
		t.Errorf("description: got %d bytes, %.20q", len(d), d)
	}
}

// IDPS 19, A50, A51, R13, RFC 9207.
func TestIDPS19A50A51R13CheckIssuer(t *testing.T) {
	announced := &Metadata{Issuer: "https://op.test", IssuerInResponse: true}
	silent := &Metadata{Issuer: "https://op.test"}
	for _, tc := range []struct {
		name, query string
		metadata    *Metadata
		ok          bool
	}{
		{"there and announced", "iss=https://op.test", announced, true},
		{"there though not announced", "iss=https://op.test", silent, true},
		{"absent and not announced", "code=c", silent, true},
		{"absent though announced", "code=c", announced, false},
		{"empty", "iss=", silent, false},
		{"another", "iss=https://evil.test", silent, false},
		{"another spelling", "iss=https://op.test/", silent, false},
		{"another, with an error", "error=x&iss=https://evil.test", announced, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r, err := ParseAuthResponse(tc.query)
			if err != nil {
				t.Fatal(err)
			}
			if err := new(Client).CheckIssuer(tc.metadata, r); (err == nil) != tc.ok {
				t.Errorf("got %v, want ok %v", err, tc.ok)
			}
		})
	}
}

// FuzzCallbackQuery: whatever is accepted has each of the protocol's
// parameters at most once, and never a code beside an error.
func FuzzCallbackQuery(f *testing.F) {
	for _, seed := range []string{"code=a&state=b", "code=a&code=b", "error=x&code=y", "code=a;state=b", "%63ode=a&code=b", "iss=&iss"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, query string) {
		r, err := ParseAuthResponse(query)
		if err != nil {
			return
		}
		q, err := url.ParseQuery(query)
		if err != nil {
			t.Fatalf("accepted a malformed query: %v", err)
		}
		for _, name := range responseParams {
			if len(q[name]) > 1 {
				t.Fatalf("accepted %s twice", name)
			}
		}
		if !r.Code.Empty() && r.Error != nil {
			t.Fatal("accepted a code beside an error")
		}
	})
}

// A54: what shapes the tokens cannot come from a link, whoever configures it.
func TestA54LoginParams(t *testing.T) {
	for name, ok := range map[string]bool{
		"login_hint": true, "connection": true, "organization": true, "max_age": true, "acr_values": true, "prompt": true,
		"scope": false, "audience": false, "resource": false, "response_mode": false, "state": false, "redirect_uri": false, "request": false, "": false,
	} {
		if err := CheckLoginParam(name); (err == nil) != ok {
			t.Errorf("%s: got %v", name, err)
		}
	}
}

// IDPS 08: offline_access is asked for exactly where refreshing is wanted and
// the provider advertises it; scopes that are written stay as they are.
func TestIDPS08OfflineAccess(t *testing.T) {
	for _, tc := range []struct {
		asked      Authorization
		advertised bool
		want       string
	}{
		{Authorization{Scopes: []string{"openid"}, OfflineAccess: true}, true, "openid offline_access"},
		{Authorization{Scopes: []string{"openid"}, OfflineAccess: true}, false, "openid"},
		{Authorization{Scopes: []string{"openid"}}, true, "openid"},
		{Authorization{Scopes: []string{"openid", "x"}, OfflineAccess: true, ScopesAsWritten: true}, true, "openid x"},
		{Authorization{Scopes: []string{"offline_access", "x"}, OfflineAccess: true, ScopesAsWritten: true}, false, "offline_access x"},
	} {
		if got := tc.asked.scope(&Metadata{OfflineAccess: tc.advertised}); got != tc.want {
			t.Errorf("%+v, advertised %v: got %q, want %q", tc.asked, tc.advertised, got, tc.want)
		}
	}
}

// IDPS 16: what an operator may let a link add, and what not.
func TestIDPS16A54LoginParams(t *testing.T) {
	for name, ok := range map[string]bool{
		"login_hint": true, "prompt": true, "ui_locales": true, "screen_hint": true, "invitation": true, "connection_scope": true, "ext-x": true,
		"connection": true, "organization": true, "max_age": true, "acr_values": true,
		"scope": false, "audience": false, "resource": false, "response_mode": false, "response_type": false, "client_id": false, "redirect_uri": false,
		"state": false, "nonce": false, "code_challenge": false, "code_challenge_method": false, "request": false, "request_uri": false, "": false,
	} {
		if err := CheckLoginParam(name); (err == nil) != ok {
			t.Errorf("%q: got %v", name, err)
		}
	}
	c := &Client{ClientID: "id", Authorization: Authorization{
		Scopes: []string{"openid"}, Connection: "github", Organizations: []string{"org_1", "org_2"}, MaxAge: 90 * 1e9, ACRValues: []string{"a", "b"},
	}}
	m := &Metadata{Endpoints: Endpoints{AuthorizationEndpoint: "https://op.test/authorize"}}
	text, err := c.AuthorizationURL(m, AuthRequest{Transaction: NewTransaction()})
	if err != nil {
		t.Fatal(err)
	}
	if q := mustQuery(t, text); q.Get("connection") != "github" || q.Get("organization") != "org_1" || q.Get("max_age") != "90" || q.Get("acr_values") != "a b" {
		t.Errorf("got %v", q)
	}
	text, err = c.AuthorizationURL(m, AuthRequest{Transaction: NewTransaction(), Extra: []Param{{"connection", "google"}, {"organization", "org_2"}, {"max_age", "0"}}})
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{"connection": "google", "organization": "org_2", "max_age": "0", "acr_values": "a b"} {
		if got := mustQuery(t, text)[name]; len(got) != 1 || got[0] != want {
			t.Errorf("for one login, %s: got %q, want %q", name, got, want)
		}
	}
}
