package flows

import (
	"encoding/json"
	"os"
	"slices"
	"testing"
)

// storeOfAll is the session store that the journeys of this package are walked
// with, all of them, where a configuration names none: PKCE_AUTH_TEST_STORE,
// else the default. `make flows` walks them with each.
func storeOfAll() string { return os.Getenv("PKCE_AUTH_TEST_STORE") } // asked in a test, so that the cache of tests knows

// everyStore are the stores that need nothing to run.
var everyStore = []string{"cookie", "memory", "storage"}

// inEveryStore walks a journey once with each; where all journeys are walked with
// one store, with that alone.
func inEveryStore(t *testing.T, walk func(*world)) {
	t.Helper()
	kinds := everyStore
	if one := storeOfAll(); one != "" {
		kinds = []string{one}
	}
	for _, kind := range kinds {
		t.Run(kind, func(t *testing.T) {
			w := newWorld(t)
			w.store = kind
			walk(w)
		})
	}
}

// notIn walks the journey with sessions in cookies, where it is not for the
// store of all.
func (w *world) notIn(kinds ...string) {
	if slices.Contains(kinds, w.store) {
		w.store = "cookie"
	}
}

// stored reports whether sessions are in a store, and the browser has a ticket
// that stays the same.
func (w *world) stored() bool { return w.store != "" && w.store != "cookie" }

// withStore gives every provider of a configuration the world's store.
func (w *world) withStore(config []byte) []byte {
	w.t.Helper()
	if w.store == "" {
		return config
	}
	var parsed map[string]any
	if err := json.Unmarshal(config, &parsed); err != nil {
		w.t.Fatal(err)
	}
	apps, _ := parsed["apps"].(map[string]any)
	if app, ok := apps["pkce_auth"].(map[string]any); ok {
		for _, p := range app["providers"].(map[string]any) {
			w.setStore(p.(map[string]any))
		}
	}
	inlineProviders(apps["http"], w.setStore)
	config, err := json.Marshal(parsed)
	if err != nil {
		w.t.Fatal(err)
	}
	return config
}

func (w *world) setStore(provider map[string]any) {
	s, ok := provider["session"].(map[string]any)
	if !ok {
		s = map[string]any{}
		provider["session"] = s
	}
	if s["store"] == nil {
		s["store"] = map[string]any{"kind": w.store}
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
