package rp

import (
	"errors"
	"net/http"
	"net/url"
	"testing"

	"github.com/pkce-auth/caddy-pkce-auth/test/provider"
)

// IDPS 30, R40: each way of logging out, and how it is chosen.
func TestIDPS30R40LogoutURL(t *testing.T) {
	full := LogoutRequest{IDToken: NewSecret("the.id.token"), SessionID: "sid-1", RedirectURI: "https://app.test/oauth2/signed-out", State: "s"}
	const endSession = "https://op.test/logout?tenant=1"
	for _, tc := range []struct {
		name     string
		style    LogoutStyle
		issuer   string
		endpoint string
		request  LogoutRequest
		want     string
		is       error
	}{
		{"oidc", "", "https://op.test", endSession, full, "https://op.test/logout?client_id=id&id_token_hint=the.id.token&logout_hint=sid-1&post_logout_redirect_uri=https%3A%2F%2Fapp.test%2Foauth2%2Fsigned-out&state=s&tenant=1", nil},
		{"oidc, nothing known", LogoutAuto, "https://op.test", endSession, LogoutRequest{RedirectURI: "https://app.test/x"}, "https://op.test/logout?client_id=id&post_logout_redirect_uri=https%3A%2F%2Fapp.test%2Fx&tenant=1", nil},
		{"auth0 of an older tenant", "", "https://tenant.eu.auth0.com/", "", full, "https://op.test/v2/logout?client_id=id&returnTo=https%3A%2F%2Fapp.test%2Foauth2%2Fsigned-out", nil},
		{"auth0 that advertises", "", "https://tenant.eu.auth0.com/", "https://op.test/oidc/logout", LogoutRequest{}, "https://op.test/oidc/logout?client_id=id", nil},
		{"auth0 by configuration", LogoutAuth0, "https://login.example.com", endSession, LogoutRequest{}, "https://op.test/v2/logout?client_id=id", nil},
		{"cognito", "", "https://cognito-idp.eu-west-1.amazonaws.com/pool", "", full, "https://op.test/logout?client_id=id&logout_uri=https%3A%2F%2Fapp.test%2Foauth2%2Fsigned-out", nil},
		{"nothing to end", "", "https://op.test", "", full, "", nil},
		{"local", LogoutLocal, "https://op.test", endSession, full, "", nil},
		{"oidc, though there is no endpoint", LogoutOIDC, "https://op.test", "", full, "", ErrMisconfigured},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c := &Client{ClientID: "id"}
			m := &Metadata{Endpoints: Endpoints{AuthorizationEndpoint: "https://op.test/authorize", EndSessionEndpoint: tc.endpoint}, Quirk: quirkOf(tc.issuer)}
			got, err := c.LogoutURL(m, tc.style, tc.request)
			if got != tc.want || !errors.Is(err, tc.is) {
				t.Errorf("got  %s, %v\nwant %s", got, err, tc.want)
			}
		})
	}
}

// Each quirk's row, by hosts that it is for and hosts that only look like it.
func TestQuirks(t *testing.T) {
	for issuer, want := range map[string]string{
		"https://tenant.eu.auth0.com/": "auth0", "https://TENANT.auth0.com": "auth0", "https://auth0.com": "", "https://tenant.auth0.com.evil.test": "",
		"https://cognito-idp.eu-west-1.amazonaws.com/eu-west-1_x": "cognito", "https://s3.amazonaws.com": "",
		"https://accounts.google.com": "google", "https://accounts.google.com.evil.test": "", "https://op.test": "", "": "",
	} {
		if got := quirkOf(issuer).Name; got != want {
			t.Errorf("%s: got %q, want %q", issuer, got, want)
		}
	}
	c := &Client{ClientID: "id", Authorization: Authorization{Scopes: []string{"openid"}, OfflineAccess: true}}
	google := &Metadata{Endpoints: Endpoints{AuthorizationEndpoint: "https://accounts.google.com/o/oauth2/v2/auth"}, Quirk: quirkOf("https://accounts.google.com")}
	text, err := c.AuthorizationURL(google, AuthRequest{Transaction: NewTransaction()})
	if err != nil {
		t.Fatal(err)
	}
	if q := mustQuery(t, text); q.Get("access_type") != "offline" || q.Get("scope") != "openid" || q.Has("prompt") {
		t.Errorf("google: got %v", q)
	}
	text, _ = c.AuthorizationURL(google, AuthRequest{Transaction: NewTransaction(), Extra: []Param{{"access_type", "online"}}})
	if q := mustQuery(t, text); q.Get("access_type") != "online" {
		t.Errorf("the operator's word counts: got %v", q)
	}
	c.OfflineAccess = false
	text, _ = c.AuthorizationURL(google, AuthRequest{Transaction: NewTransaction()})
	if q := mustQuery(t, text); q.Has("access_type") {
		t.Errorf("without refresh: got %v", q)
	}
}

func mustQuery(t *testing.T, text string) url.Values {
	t.Helper()
	u, err := url.Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	return u.Query()
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

// R43: revocation, with client authentication, and what it cannot do.
func TestR43M137Revoke(t *testing.T) {
	op, c, grant := loggedIn(t)
	m := metadata(t, c)
	if err := c.Revoke(t.Context(), m, grant.RefreshToken); err != nil {
		t.Fatal(err)
	}
	if !op.Revoked(grant.RefreshToken.Reveal()) {
		t.Error("the refresh token is still good")
	}
	if _, err := c.Refresh(t.Context(), m, grant.RefreshToken); !errors.Is(err, ErrGrantOver) {
		t.Errorf("a refresh afterwards: got %v", err)
	}
	op.Misbehave(provider.Faults{Answer: map[string]func(http.ResponseWriter, *http.Request) bool{"revoke": provider.Status(500, "text/plain", "no")}})
	if err := c.Revoke(t.Context(), m, grant.RefreshToken); !errors.Is(err, ErrUnavailable) {
		t.Errorf("a server error: got %v", err)
	}
	before := len(op.Requests("revoke"))
	if err := errors.Join(c.Revoke(t.Context(), m, Secret{}), c.Revoke(t.Context(), &Metadata{}, grant.RefreshToken)); err != nil || len(op.Requests("revoke")) != before {
		t.Errorf("without a token, or an endpoint: got %v", err)
	}
}
