package rp

import (
	"errors"
	"net/url"
	"slices"
	"testing"

	"github.com/pkce-auth/caddy-pkce-auth/test/provider"
)

// Each quirk's row, by hosts that it is for and hosts that only look like it.
func TestQuirkOf(t *testing.T) {
	for issuer, want := range map[string]string{
		"https://tenant.eu.auth0.com/": "auth0", "https://TENANT.auth0.com": "auth0", "https://auth0.com": "", "https://tenant.auth0.com.evil.test": "",
		"https://cognito-idp.eu-west-1.amazonaws.com/eu-west-1_x": "cognito", "https://s3.amazonaws.com": "",
		"https://accounts.google.com": "google", "https://accounts.google.com.evil.test": "", "https://op.test": "", "": "", "::": "",
		"https://login.microsoftonline.com/common/v2.0": "entra", "https://login.microsoftonline.us/x/v2.0": "entra", "https://login.partner.microsoftonline.cn/x/v2.0": "entra",
		"https://appleid.apple.com": "apple", "https://x.logto.app/oidc": "logto", "https://dev.okta.com/oauth2/default": "okta", "https://dev.oktapreview.com": "okta",
		"https://gitlab.com": "gitlab", "https://gitlab.example.com": "", "https://github.com": "github", "https://www.linkedin.com/oauth": "linkedin",
	} {
		if got := QuirkOf(issuer).Name; got != want {
			t.Errorf("%s: got %q, want %q", issuer, got, want)
		}
	}
	for _, row := range quirks {
		if row.Name == "" || row.Does == "" && row.Note == "" && row.Refuse == "" {
			t.Errorf("%s: the log would not know what to say", row.host)
		}
	}
}

// known is the client of a provider of that issuer, and its metadata.
func known(issuer string, change map[string]any) (*Client, *Metadata) {
	m, err := parseMetadata(document(issuer, change), issuer, Endpoints{})
	if err != nil {
		panic(err)
	}
	return &Client{
		Provider: NewProvider(ProviderConfig{Issuer: issuer}), ClientID: "id",
		Authorization: Authorization{Scopes: []string{"openid", "profile", "email"}, OfflineAccess: true},
	}, m
}

func authorization(t *testing.T, c *Client, m *Metadata, extra ...Param) url.Values {
	t.Helper()
	text, err := c.AuthorizationURL(m, AuthRequest{Transaction: NewTransaction(), Extra: extra})
	if err != nil {
		t.Fatal(err)
	}
	return mustQuery(t, text)
}

// Google: access_type=offline in place of a scope, no prompt; its issuer of
// old in ID tokens; a logout that is ours alone.
func TestQuirkGoogle(t *testing.T) {
	c, google := known("https://accounts.google.com", map[string]any{"scopes_supported": []string{"openid", "email", "profile"}})
	if q := authorization(t, c, google); q.Get("access_type") != "offline" || q.Get("scope") != "openid profile email" || q.Has("prompt") {
		t.Errorf("got %v", q)
	}
	if q := authorization(t, c, google, Param{"access_type", "online"}); q.Get("access_type") != "online" {
		t.Errorf("the operator's word counts: got %v", q)
	}
	c.OfflineAccess = false
	if q := authorization(t, c, google); q.Has("access_type") {
		t.Errorf("without refresh: got %v", q)
	}
	if location, err := c.LogoutURL(google, LogoutAuto, LogoutRequest{}); location != "" || err != nil {
		t.Errorf("logout: got %q, %v", location, err)
	}
	b := newBench(t)
	old := b.op.Sign(nil, b.claims(map[string]any{"iss": "accounts.google.com"}))
	if err := b.verify(t, old); !errors.Is(err, ErrInvalid) {
		t.Errorf("elsewhere: got %v", err)
	}
	metadata(t, b.client).Quirk = google.Quirk
	if err := b.verify(t, old); err != nil {
		t.Errorf("the issuer of old: %v", err)
	}
	if err := b.verify(t, b.op.Sign(nil, b.claims(map[string]any{"iss": ""}))); !errors.Is(err, ErrInvalid) {
		t.Errorf("an empty issuer: got %v", err)
	}
}

// Apple: the scopes that it takes, and the answer in a form.
func TestQuirkApple(t *testing.T) {
	c, apple := known("https://appleid.apple.com", map[string]any{"token_endpoint_auth_methods_supported": []string{"client_secret_post"}})
	if q := authorization(t, c, apple); q.Get("scope") != "openid email name" || q.Get("response_mode") != "form_post" {
		t.Errorf("got %v", q)
	}
	c.ScopesAsWritten, c.Scopes, c.ResponseMode = true, []string{"openid"}, ResponseModeQuery
	if q := authorization(t, c, apple); q.Get("scope") != "openid" || q.Has("response_mode") {
		t.Errorf("the operator's word counts: got %v", q)
	}
	c.Secret = func() (Secret, error) { return NewSecret("x"), nil }
	if method, err := c.authMethod(apple); method != AuthPost || err != nil {
		t.Errorf("client authentication: got %s, %v", method, err)
	}
}

// Logto: the resource goes with refresh requests, too; elsewhere only if the
// operator says so.
func TestIDPS43QuirkLogto(t *testing.T) {
	for name, tc := range map[string]struct {
		quirk Quirk
		again *bool
		sent  bool
	}{
		"elsewhere":            {Quirk{}, nil, false},
		"elsewhere, asked for": {Quirk{}, new(true), true},
		"Logto":                {QuirkOf("https://x.logto.app/oidc"), nil, true},
		"Logto, switched off":  {QuirkOf("https://x.logto.app/oidc"), new(false), false},
	} {
		op := start(t, provider.Config{APIs: []string{"https://a.test", "https://b.test"}})
		c := newClient(op)
		c.Scopes = append(c.Scopes, "offline_access")
		grant, _, err := exchange(t, c)
		if err != nil {
			t.Fatal(err)
		}
		metadata(t, c).Quirk = tc.quirk
		c.Resources, c.ResourceOnRefresh = []string{"https://a.test", "https://b.test"}, tc.again
		if _, err := c.Refresh(t.Context(), metadata(t, c), Renewal{Token: grant.RefreshToken}); err != nil {
			t.Fatal(err)
		}
		requests := op.Requests("token")
		if got := requests[len(requests)-1].Form["resource"]; slices.Equal(got, c.Resources) != tc.sent || !tc.sent && len(got) != 0 {
			t.Errorf("%s: got %q", name, got)
		}
	}
}

// Cognito: no scope for a refresh token, PKCE although it is not advertised,
// and a logout of its own at the host of the endpoints.
func TestQuirkCognito(t *testing.T) {
	c, cognito := known("https://cognito-idp.eu-west-1.amazonaws.com/eu-west-1_x", map[string]any{
		"authorization_endpoint": "https://x.auth.eu-west-1.amazoncognito.com/oauth2/authorize", "scopes_supported": []string{"openid", "email"},
	})
	if q := authorization(t, c, cognito); q.Get("scope") != "openid profile email" || q.Get("code_challenge_method") != "S256" {
		t.Errorf("got %v", q)
	}
	location, err := c.LogoutURL(cognito, LogoutAuto, LogoutRequest{RedirectURI: "https://app.test/bye"})
	if want := "https://x.auth.eu-west-1.amazoncognito.com/logout?client_id=id&logout_uri=https%3A%2F%2Fapp.test%2Fbye"; location != want || err != nil {
		t.Errorf("logout: got %s, %v", location, err)
	}
}

// Both generations of Auth0's tenants: the older does not advertise where to
// log out.
func TestQuirkAuth0(t *testing.T) {
	c, older := known("https://tenant.eu.auth0.com/", nil)
	location, err := c.LogoutURL(older, LogoutAuto, LogoutRequest{RedirectURI: "https://app.test/bye"})
	if want := "https://op.test/v2/logout?client_id=id&returnTo=https%3A%2F%2Fapp.test%2Fbye"; location != want || err != nil {
		t.Errorf("older: got %s, %v", location, err)
	}
	c, newer := known("https://tenant.eu.auth0.com/", map[string]any{"end_session_endpoint": "https://tenant.eu.auth0.com/oidc/logout"})
	location, err = c.LogoutURL(newer, LogoutAuto, LogoutRequest{SessionID: "s", IDToken: NewSecret("hint"), RedirectURI: "https://app.test/bye", State: "x"})
	if want := "https://tenant.eu.auth0.com/oidc/logout?client_id=id&id_token_hint=hint&logout_hint=s&post_logout_redirect_uri=https%3A%2F%2Fapp.test%2Fbye&state=x"; location != want || err != nil {
		t.Errorf("newer: got %s, %v", location, err)
	}
}

// GitHub and LinkedIn: no login begins, and the error says what to do.
func TestQuirkRefused(t *testing.T) {
	for _, issuer := range []string{"https://github.com", "https://www.linkedin.com/oauth"} {
		c, m := known(issuer, nil)
		if _, err := c.AuthorizationURL(m, AuthRequest{Transaction: NewTransaction()}); !errors.Is(err, ErrMisconfigured) {
			t.Errorf("%s: got %v", issuer, err)
		}
	}
}
