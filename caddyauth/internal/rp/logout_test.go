package rp

import (
	"errors"
	"net/http"
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
			m := &Metadata{Endpoints: Endpoints{AuthorizationEndpoint: "https://op.test/authorize", EndSessionEndpoint: tc.endpoint}, Quirk: QuirkOf(tc.issuer)}
			got, err := c.LogoutURL(m, tc.style, tc.request)
			if got != tc.want || !errors.Is(err, tc.is) {
				t.Errorf("got  %s, %v\nwant %s", got, err, tc.want)
			}
		})
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
	if _, err := c.Refresh(t.Context(), m, Renewal{Token: grant.RefreshToken}); !errors.Is(err, ErrGrantOver) {
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

// Parameters of the endpoint's own URL do not stand twice.
func TestLogoutURLParamsOnce(t *testing.T) {
	c := &Client{ClientID: "us"}
	got, err := c.LogoutURL(&Metadata{Endpoints: Endpoints{EndSessionEndpoint: "https://op.test/end?client_id=them&x=1"}}, LogoutOIDC, LogoutRequest{RedirectURI: "https://app.test/bye"})
	if err != nil || got != "https://op.test/end?client_id=us&post_logout_redirect_uri=https%3A%2F%2Fapp.test%2Fbye&x=1" {
		t.Errorf("got %s, %v", got, err)
	}
}
