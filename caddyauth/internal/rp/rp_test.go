package rp

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"github.com/pkce-auth/caddy-pkce-auth/test/provider"
)

// start starts an honest provider that stops with the test.
func start(t testing.TB, cfg provider.Config) *provider.Provider {
	t.Helper()
	op, err := provider.Start(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := op.Close(); err != nil {
			t.Error(err)
		}
	})
	return op
}

// newClient is the public client of a test provider.
func newClient(op *provider.Provider) *Client {
	return &Client{
		Provider:      NewProvider(ProviderConfig{Issuer: op.URL}),
		ClientID:      "public",
		Authorization: Authorization{Scopes: []string{"openid", "profile", "email"}},
	}
}

func metadata(t testing.TB, c *Client) *Metadata {
	t.Helper()
	m, err := c.Provider.Metadata(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// However a secret is printed or marshalled, it does not show.
func TestSecretIsNeverShown(t *testing.T) {
	const token = "opaque-0123456789"
	type holder struct {
		Exported   Secret
		unexported Secret
	}
	secret := NewSecret(token)
	h := holder{secret, secret}
	m := map[string]Secret{"a": secret}
	for _, format := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d", "%T%v"} {
		for _, value := range []any{secret, h, &h, m, []Secret{secret}, [1]holder{h}, map[string]holder{"a": h}} {
			got := fmt.Sprintf(format, value)
			if format == "%T%v" {
				got = fmt.Sprintf(format, value, value)
			}
			if containsAny(got, token, fmt.Sprintf("%x", token), fmt.Sprintf("%X", token)) {
				t.Errorf("Sprintf(%q, %T) shows the secret: %s", format, value, got)
			}
		}
	}
	data, err := json.Marshal(map[string]any{"a": secret, "b": h, "c": m})
	if err != nil || containsAny(string(data), token) {
		t.Errorf("json.Marshal: %s, %v", data, err)
	}
	var logged strings.Builder // as text: by String or MarshalText, whichever a log asks for
	slog.New(slog.NewTextHandler(&logged, nil)).Info("x", "a", secret, "b", fmt.Stringer(secret).String())
	if strings.Contains(logged.String(), token) || strings.Count(logged.String(), redacted) != 2 {
		t.Errorf("slog: %s", logged.String())
	}
	if got := secret.Reveal(); got != token || secret.Empty() {
		t.Errorf("Reveal: got %q", got)
	}
	if zero := NewSecret(""); !zero.Empty() || zero.Reveal() != "" {
		t.Error("the zero Secret must be empty")
	}
}
