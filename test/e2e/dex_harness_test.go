package e2e

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/chromedp/chromedp"
)

// dexBinary is built by the Makefile: nobody packages Dex.
const dexBinary = "../../bin/dex"

// dexSecret is that of its confidential client.
const dexSecret = "secret-secret-secret-secret-secret"

// newDexWorld is newWorld with Dex for the provider.
func newDexWorld(t *testing.T, accessTokenLifetime time.Duration, directives string) *world {
	t.Helper()
	w := &world{t: t, upstream: newUpstream(t), front: newFront(t, nil)}
	w.issuer = w.front.server.URL + "/dex"
	w.startCaddy("https://localhost:0", directives)
	startDex(t, w, accessTokenLifetime)
	close(w.front.open)
	w.ready()
	return w
}

// startDex starts a Dex that knows nothing yet but its configuration. It is
// that of Dex's own example: users consent, refresh tokens are for one use, and
// everything is kept in memory, the keys too.
func startDex(t *testing.T, w *world, accessTokenLifetime time.Duration) {
	t.Helper()
	type object = map[string]any
	client := func(id string, more object) object {
		c := object{"id": id, "name": "The site, as " + id, "redirectURIs": []string{w.site + "/oauth2/callback"}}
		for name, value := range more {
			c[name] = value
		}
		return c
	}
	file := filepath.Join(t.TempDir(), "dex.json")
	w.idp = w.front.serve(t, func(address string) []string {
		config, err := json.Marshal(object{
			"issuer":           w.issuer,
			"storage":          object{"type": "memory"},
			"web":              object{"http": address},
			"expiry":           object{"idTokens": accessTokenLifetime.String()}, // and of access tokens
			"enablePasswordDB": true,
			"staticPasswords": []object{{
				"email": "alice@example.test", "username": "alice", "userID": "08a8684b-db88-4b73-90a9-3cd1661f5466",
				"hash": "$2a$10$zv/YunKWu3waj8ctYi7NA.RVUX7y8U1hcdxHnxSjINB0s3g3qbrLi", // of "password"
			}},
			"staticClients": []object{client("public", object{"public": true}), client("confidential", object{"secret": dexSecret})},
		})
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, config, 0o600); err != nil {
			t.Fatal(err)
		}
		return []string{dexBinary, "serve", file}
	}, "/dex/.well-known/openid-configuration", quote(w.issuer))
}

// dexAsks waits for Dex's own login form.
func dexAsks(t *testing.T, ctx context.Context, w *world) {
	t.Helper()
	asks(t, ctx, w.issuer, "login", "password")
}

// dexLogIn fills in that form, and consents.
func dexLogIn(t *testing.T, ctx context.Context, w *world) {
	t.Helper()
	dexAsks(t, ctx, w)
	do(t, ctx,
		chromedp.SendKeys(css(`input[name=login]`), "alice@example.test"), chromedp.SendKeys(css(`input[name=password]`), "password"),
		chromedp.Click(css(`#submit-login`)),
	)
	shows(t, ctx, `document.querySelector("input[name=approval][value=approve]")`)
	do(t, ctx, chromedp.Click(css(`form:has(input[value=approve]) button`)))
}
