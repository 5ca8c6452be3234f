package e2e

import (
	"context"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/chromedp"
)

// Each Caddyfile of docs/providers.md, but for the addresses in it, logs in at
// the provider that it is for.
func TestDocumentedCaddyfilesLogIn(t *testing.T) {
	providers := map[string]struct {
		world func(*testing.T, string) *world
		logIn func(*testing.T, context.Context, *world)
	}{
		"oidc-provider": {
			func(t *testing.T, directives string) *world { return newWorld(t, "https://localhost:0", directives) },
			func(t *testing.T, ctx context.Context, _ *world) { logIn(t, ctx, "alice") },
		},
		"LemonLDAP::NG": {
			func(t *testing.T, directives string) *world { return newLemonldapWorld(t, time.Hour, directives) },
			lemonldapLogIn,
		},
		"Dex": {
			func(t *testing.T, directives string) *world { return newDexWorld(t, time.Hour, directives) },
			dexLogIn,
		},
		"Glewlwyd": {
			func(t *testing.T, directives string) *world { return newGlewlwydWorld(t, time.Hour, directives) },
			glewlwydLogIn,
		},
	}
	t.Setenv("CLIENT_ID", "public")
	sections := documented(t)
	if len(sections) != len(providers) {
		t.Errorf("the page has %d providers, the test %d", len(sections), len(providers))
	}
	for name, directives := range sections {
		t.Run(name, func(t *testing.T) {
			provider, ok := providers[name]
			if !ok {
				t.Fatal("the test does not know this provider")
			}
			w := provider.world(t, "tls internal\n"+directives)
			browser := newBrowser(t)
			do(t, browser, chromedp.Navigate(w.site+"/page?x=1"))
			provider.logIn(t, browser, w)
			arrives(t, browser, w.site+"/page?x=1")
			if r := w.upstream.last(t, "/page"); !strings.HasPrefix(r.Header.Get("Authorization"), "Bearer ") || strings.Contains(r.Header.Get("Cookie"), "pkce_auth") {
				t.Errorf("the upstream got %v", r.Header)
			}
		})
	}
}

// documented gives the directives of each provider's site on the page, with the
// addresses of the tests.
func documented(t *testing.T) map[string]string {
	t.Helper()
	page, err := os.ReadFile("../../docs/providers.md")
	if err != nil {
		t.Fatal(err)
	}
	block := regexp.MustCompile("(?ms)^```caddyfile\napp\\.example\\.com \\{\n(.*?)^\\}\n```$")
	issuer := regexp.MustCompile(`https://id\.example\.com[^ ]*`)
	sections := map[string]string{}
	for _, section := range strings.Split(string(page), "\n## ")[1:] {
		name, text, _ := strings.Cut(section, "\n")
		found := block.FindStringSubmatch(text)
		if found == nil || !issuer.MatchString(found[1]) || !strings.Contains(found[1], "app:8080") {
			t.Fatalf("what is under %q is no Caddyfile that this test can use", name)
		}
		sections[name] = strings.ReplaceAll(issuer.ReplaceAllLiteralString(found[1], "$ISSUER"), "app:8080", "$UPSTREAM")
	}
	return sections
}
