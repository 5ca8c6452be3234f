package rp

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/pkce-auth/caddy-pkce-auth/test/provider"
)

// M107: an answer is lost, too, when the connection is closed or reset before
// its first byte.
func TestM107AnswersLostWhole(t *testing.T) {
	for name, linger := range map[string]int{"closed": -1, "reset": 0} {
		t.Run(name, func(t *testing.T) {
			op, c, grant := loggedIn(t)
			n := 0
			op.Misbehave(provider.Faults{Answer: map[string]func(http.ResponseWriter, *http.Request) bool{
				"token": func(w http.ResponseWriter, _ *http.Request) bool {
					if n++; n > 1 {
						return false
					}
					conn, _, err := http.NewResponseController(w).Hijack()
					if err != nil {
						t.Error(err)
						return true
					}
					_ = conn.(*net.TCPConn).SetLinger(linger)
					_ = conn.Close()
					return true
				},
			}})
			if _, err := c.Refresh(t.Context(), metadata(t, c), grant.RefreshToken); err != nil || n != 2 {
				t.Errorf("after %d requests: %v", n, err)
			}
		})
	}
}

// A57: neither the error code nor the URL-encoded form quotes a token.
func TestA57QuotesInEveryForm(t *testing.T) {
	_, c, _ := loggedIn(t)
	token := "tok/en+with=signs"
	for _, body := range []string{
		`{"error":"invalid_grant","error_description":"not ` + url.QueryEscape(token) + `"}`,
		`{"error":"bad ` + token + `"}`,
	} {
		_, err := c.grant(&response{status: 400, body: []byte(body)}, url.Values{"refresh_token": {token}}, time.Now())
		if err == nil || strings.Contains(err.Error(), token) || strings.Contains(err.Error(), url.QueryEscape(token)) {
			t.Errorf("%s: got %v", body, err)
		}
	}
}

// IDPS 27: every code that says "the user must be seen" ends the grant.
func TestIDPS27OverCodes(t *testing.T) {
	for _, code := range []string{
		"invalid_grant", "invalid_request", "access_denied", "mfa_required",
		"login_required", "consent_required", "interaction_required", "account_selection_required",
	} {
		if err := grantOver(&EndpointError{Status: 400, Err: newOAuthError(code, "")}); !errors.Is(err, ErrGrantOver) {
			t.Errorf("%s: got %v", code, err)
		}
	}
}

// IDPS 28: a refreshed ID token may leave the organization out, but must not
// name another.
func TestIDPS28RefreshedOrganization(t *testing.T) {
	b := newBench(t)
	login, err := b.client.VerifyIDToken(t.Context(), metadata(t, b.client), NewSecret(b.op.Sign(nil, b.claims(nil))), Expected{Nonce: NewSecret("the-nonce")})
	if err != nil {
		t.Fatal(err)
	}
	b.client.Organizations = []string{"org_1", "acme"}
	for _, tc := range []struct {
		name   string
		change map[string]any
		ok     bool
	}{
		{"nothing said", nil, true},
		{"the ID", map[string]any{"org_id": "org_1"}, true},
		{"another ID", map[string]any{"org_id": "org_2"}, false},
		{"another name", map[string]any{"org_name": "other"}, false},
		{"an ID that is no text", map[string]any{"org_id": 1}, false},
	} {
		_, err := b.client.VerifyIDToken(t.Context(), metadata(t, b.client), NewSecret(b.op.Sign(nil, b.claims(tc.change))), Expected{
			AccessToken: NewSecret("opaque-token"), Previous: login,
		})
		if (err == nil) != tc.ok {
			t.Errorf("%s: got %v", tc.name, err)
		}
	}
}

// M31: whatever the reason why the keys cannot be had, the error says that
// nothing is known of the signature.
func TestM31NoKeys(t *testing.T) {
	verify := func(ctx context.Context, b *bench) error {
		_, err := b.client.VerifyIDToken(ctx, metadata(t, b.client), NewSecret(b.op.Sign(nil, b.claims(nil))), Expected{Nonce: NewSecret("the-nonce")})
		return err
	}
	t.Run("404", func(t *testing.T) {
		b := newBench(t)
		b.op.Misbehave(provider.Faults{Answer: map[string]func(http.ResponseWriter, *http.Request) bool{"keys": provider.Status(404, "text/html", "x")}})
		if err := verify(t.Context(), b); !errors.Is(err, ErrNoKeys) {
			t.Errorf("got %v", err)
		}
	})
	t.Run("too slow", func(t *testing.T) {
		b := newBench(t)
		metadata(t, b.client)
		release := make(chan struct{})
		defer close(release)
		b.op.Misbehave(provider.Faults{Answer: map[string]func(http.ResponseWriter, *http.Request) bool{"keys": func(http.ResponseWriter, *http.Request) bool {
			<-release
			return false
		}}})
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		defer cancel()
		if err := verify(ctx, b); !errors.Is(err, ErrNoKeys) || !errors.Is(err, ErrUnavailable) {
			t.Errorf("got %v", err)
		}
	})
	t.Run("fetched too often", func(t *testing.T) {
		b := newBench(t)
		forged := b.op.Sign(nil, b.claims(nil))
		forged = forged[:len(forged)-20] + strings.Repeat("A", 20)
		var err error
		for range fetchBurst + 2 {
			_, err = b.client.VerifyIDToken(t.Context(), metadata(t, b.client), NewSecret(forged), Expected{})
		}
		if !errors.Is(err, ErrNoKeys) || !errors.Is(err, ErrInvalid) {
			t.Errorf("got %v", err)
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

// Parameters of the endpoint's own URL do not stand twice.
func TestLogoutURLParamsOnce(t *testing.T) {
	c := &Client{ClientID: "us"}
	got, err := c.LogoutURL(&Metadata{Endpoints: Endpoints{EndSessionEndpoint: "https://op.test/end?client_id=them&x=1"}}, LogoutOIDC, LogoutRequest{RedirectURI: "https://app.test/bye"})
	if err != nil || got != "https://op.test/end?client_id=us&post_logout_redirect_uri=https%3A%2F%2Fapp.test%2Fbye&x=1" {
		t.Errorf("got %s, %v", got, err)
	}
}

// A57: only secrets are taken out of a provider's words, and that of
// client_secret_basic is one.
func TestA57WordsOfTheProtocolAreNoSecrets(t *testing.T) {
	op := start(t, provider.Config{})
	c := newClient(op)
	m := metadata(t, c)
	op.Misbehave(provider.Faults{Answer: map[string]func(http.ResponseWriter, *http.Request) bool{
		"token": provider.Status(401, "application/json", `{"error":"invalid_client","error_description":"the refresh_token is not for this client"}`),
	}})
	c.ClientID = "client"
	_, err := c.Refresh(t.Context(), m, NewSecret("r-123456"))
	if !errors.Is(err, ErrMisconfigured) || !strings.Contains(err.Error(), "the refresh_token is not for this client") {
		t.Errorf("got %v", err)
	}
	secret := NewSecret("s3cret-of-the-client")
	c.Secret = func() (Secret, error) { return secret, nil }
	c.Auth = AuthBasic
	op.Misbehave(provider.Faults{Answer: map[string]func(http.ResponseWriter, *http.Request) bool{
		"token": provider.Status(401, "application/json", `{"error":"invalid_client","error_description":"wrong secret s3cret-of-the-client"}`),
	}})
	if _, err := c.Refresh(t.Context(), m, NewSecret("r-123456")); strings.Contains(err.Error(), secret.Reveal()) {
		t.Errorf("got %v", err)
	}
}
