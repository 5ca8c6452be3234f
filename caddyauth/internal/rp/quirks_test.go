package rp

import (
	"testing"
)

// Each quirk's row, by hosts that it is for and hosts that only look like it.
func TestQuirks(t *testing.T) {
	for issuer, want := range map[string]string{
		"https://tenant.eu.auth0.com/": "auth0", "https://TENANT.auth0.com": "auth0", "https://auth0.com": "", "https://tenant.auth0.com.evil.test": "",
		"https://cognito-idp.eu-west-1.amazonaws.com/eu-west-1_x": "cognito", "https://s3.amazonaws.com": "",
		"https://accounts.google.com": "google", "https://accounts.google.com.evil.test": "", "https://op.test": "", "": "",
	} {
		if got := QuirkOf(issuer).Name; got != want {
			t.Errorf("%s: got %q, want %q", issuer, got, want)
		}
	}
	c := &Client{ClientID: "id", Authorization: Authorization{Scopes: []string{"openid"}, OfflineAccess: true}}
	google := &Metadata{Endpoints: Endpoints{AuthorizationEndpoint: "https://accounts.google.com/o/oauth2/v2/auth"}, Quirk: QuirkOf("https://accounts.google.com")}
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
