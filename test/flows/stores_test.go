package flows

import (
	"encoding/json"
	"os"
	"testing"
)

// storeOfAll is the session store that the journeys of this package are walked
// with, all of them, where a configuration names none: PKCE_AUTH_TEST_STORE,
// else the default. `make stores` walks them with the others.
var storeOfAll = os.Getenv("PKCE_AUTH_TEST_STORE")

// withStore gives every provider of a configuration the store of all.
func withStore(t testing.TB, config []byte) []byte {
	t.Helper()
	if storeOfAll == "" {
		return config
	}
	var parsed map[string]any
	if err := json.Unmarshal(config, &parsed); err != nil {
		t.Fatal(err)
	}
	apps, _ := parsed["apps"].(map[string]any)
	if app, ok := apps["pkce_auth"].(map[string]any); ok {
		for _, p := range app["providers"].(map[string]any) {
			setStore(p.(map[string]any))
		}
	}
	inlineProviders(apps["http"], setStore)
	config, err := json.Marshal(parsed)
	if err != nil {
		t.Fatal(err)
	}
	return config
}

func setStore(provider map[string]any) {
	s, ok := provider["session"].(map[string]any)
	if !ok {
		s = map[string]any{}
		provider["session"] = s
	}
	if s["store"] == nil {
		s["store"] = map[string]any{"kind": storeOfAll}
	}
}

// inlineProviders visits the providers that handlers have of their own.
func inlineProviders(node any, visit func(map[string]any)) {
	switch n := node.(type) {
	case map[string]any:
		if p, ok := n["inline"].(map[string]any); ok && n["handler"] == "pkce_auth" {
			visit(p)
		}
		for _, child := range n {
			inlineProviders(child, visit)
		}
	case []any:
		for _, child := range n {
			inlineProviders(child, visit)
		}
	}
}
