package rp

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/pkce-auth/caddy-pkce-auth/test/provider"
)

// The clock skew is a minute unless the operator says otherwise; a negative
// one means none.
func TestClockSkew(t *testing.T) {
	b := newBench(t)
	for _, tc := range []struct {
		name    string
		skew    time.Duration
		expired time.Duration
		ok      bool
	}{
		{"unsaid, within a minute", 0, 59 * time.Second, true},
		{"unsaid, beyond it", 0, time.Minute, false},
		{"five minutes, within", 5 * time.Minute, 299 * time.Second, true},
		{"five minutes, beyond", 5 * time.Minute, 5 * time.Minute, false},
		{"none, a second late", -1, time.Second, false},
		{"none, in time", -1, -time.Second, true},
	} {
		b.client.ClockSkew = tc.skew
		err := b.verify(t, b.op.Sign(nil, b.claims(map[string]any{"exp": b.now.Add(-tc.expired).Unix()})))
		checkErr, failed := errors.AsType[*CheckError](err)
		if failed == tc.ok || failed && checkErr.Check != "exp" {
			t.Errorf("%s: got %v, want ok %v", tc.name, err, tc.ok)
		}
	}
}

// Without a way to prove who we are, the code is not sent anywhere: a request
// that must fail would spend it, and show it.
func TestR03CodeStaysWithoutClientAuthentication(t *testing.T) {
	for name, tc := range map[string]struct {
		change func(*Client, *Metadata)
		want   error
	}{
		"no method in common": {func(c *Client, m *Metadata) {
			c.Secret = func() (Secret, error) { return NewSecret("s"), nil }
			m.TokenAuthMethods = []string{"tls_client_auth"}
		}, ErrMisconfigured},
		"a secret that cannot be read": {func(c *Client, _ *Metadata) {
			c.Secret = func() (Secret, error) { return Secret{}, errors.New("no such file") }
		}, ErrMisconfigured},
		"a key that is none": {func(c *Client, _ *Metadata) {
			c.Auth, c.Assertion = AuthPrivateKeyJWT, PrivateKeyJWT(func() ([]byte, error) { return []byte("hello"), nil }, "")
		}, ErrMisconfigured},
		"an assertion that cannot be read": {func(c *Client, _ *Metadata) {
			c.Auth, c.Assertion = AuthAssertionFile, AssertionFile(func() ([]byte, error) { return nil, errors.New("no such file") })
		}, ErrMisconfigured},
		"an endpoint that is no URL":            {func(_ *Client, m *Metadata) { m.TokenEndpoint = "https://op.test/%zz" }, ErrMisconfigured},
		"M143 a broken endpoint for mutual TLS": {func(c *Client, m *Metadata) { c.Auth, m.aliasesErr = AuthTLS, ErrInvalid }, ErrInvalid},
	} {
		t.Run(name, func(t *testing.T) {
			op := start(t, provider.Config{})
			c := newClient(op)
			m := *metadata(t, c)
			tc.change(c, &m)
			if _, err := c.Exchange(t.Context(), &m, NewSecret("the-code"), AuthRequest{Transaction: NewTransaction()}); !errors.Is(err, tc.want) || containsAny(err.Error(), "the-code") {
				t.Errorf("got %v, want %v", err, tc.want)
			}
			if got := len(op.Requests("token")); got != 0 {
				t.Errorf("%d token requests went out", got)
			}
		})
	}
}

// M143, RFC 8705: what proves who we are by the connection's certificate goes
// over the connection that has one, to the endpoint that asks for it; nothing
// else does.
func TestM143MutualTLS(t *testing.T) {
	var plain, withCertificate []string
	answer := func(into *[]string) http.RoundTripper {
		return roundTripper(func(r *http.Request) (*http.Response, error) {
			*into = append(*into, r.URL.String())
			body := []byte(`{"access_token":"a","token_type":"Bearer"}`)
			if r.Method == http.MethodGet {
				body = document("https://op.test", map[string]any{"mtls_endpoint_aliases": map[string]any{"token_endpoint": "https://mtls.op.test/token"}})
			}
			return (&recorder{header: http.Header{}}).response(http.StatusOK, body), nil
		})
	}
	c := &Client{
		Provider: NewProvider(ProviderConfig{Issuer: "https://op.test", Transport: answer(&plain), ClientTransport: answer(&withCertificate)}),
		ClientID: "id", Auth: AuthTLS,
	}
	if _, err := c.Exchange(t.Context(), metadata(t, c), NewSecret("code"), AuthRequest{}); err != nil {
		t.Fatal(err)
	}
	if got, want := strings.Join(withCertificate, " "), "https://mtls.op.test/token"; got != want {
		t.Errorf("with the certificate: got %q, want %q", got, want)
	}
	if got, want := strings.Join(plain, " "), "https://op.test/.well-known/openid-configuration"; got != want {
		t.Errorf("without: got %q, want %q", got, want)
	}
}

// F10: a login that is broken off in the middle says that, and nothing of what
// was sent.
func TestF10ExchangeThatIsBrokenOff(t *testing.T) {
	op := start(t, provider.Config{})
	c := newClient(op)
	m := metadata(t, c)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := c.Exchange(ctx, m, NewSecret("the-code"), AuthRequest{Transaction: NewTransaction()})
	if !errors.Is(err, context.Canceled) || containsAny(err.Error(), "the-code", op.URL) {
		t.Errorf("got %v, want context.Canceled", err)
	}
}

// Which failed checks a new login can put right, and which say that the user
// is not let in: nothing else may be taken for either.
func TestCheckErrorKinds(t *testing.T) {
	for _, step := range idTokenChecks {
		err := &CheckError{Check: step.name, Err: errors.New("x")}
		if got, want := err.NeedsReauthentication(), step.name == "auth_time" || step.name == "acr"; got != want {
			t.Errorf("%s: needs reauthentication: got %v, want %v", step.name, got, want)
		}
		if got, want := err.RefusesUser(), step.name == "organization" || step.name == "tenant"; got != want {
			t.Errorf("%s: refuses the user: got %v, want %v", step.name, got, want)
		}
	}
}
