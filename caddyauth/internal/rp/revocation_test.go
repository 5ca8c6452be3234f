package rp

import (
	"testing"

	"github.com/pkce-auth/caddy-pkce-auth/test/provider"
)

// R43: a provider that lets only clients with a secret revoke is not asked by
// one without, for it would only say no (Glewlwyd). Where it says nothing, it
// is asked.
func TestR43RevocationByAPublicClient(t *testing.T) {
	for name, tc := range map[string]struct {
		methods []string
		client  string
		asked   int
	}{
		"nothing said":               {nil, "public", 1},
		"public clients may":         {[]string{"client_secret_basic", "none"}, "public", 1},
		"public clients may not":     {[]string{"client_secret_basic"}, "public", 0},
		"a client that has a secret": {[]string{"client_secret_basic"}, "confidential", 1},
	} {
		t.Run(name, func(t *testing.T) {
			op := start(t, provider.Config{})
			op.Misbehave(provider.Faults{Metadata: func(doc map[string]any) {
				if tc.methods != nil {
					doc["revocation_endpoint_auth_methods_supported"] = tc.methods
				}
			}})
			c := newClient(op)
			if c.ClientID = tc.client; tc.client == "confidential" {
				c.Secret = func() (Secret, error) { return NewSecret("s3cr:t%+é"), nil }
			}
			if err := c.Revoke(t.Context(), metadata(t, c), NewSecret("refresh-token")); err != nil {
				t.Error(err)
			}
			if got := len(op.Requests("revoke")); got != tc.asked {
				t.Errorf("asked %d times, want %d", got, tc.asked)
			}
		})
	}
}
