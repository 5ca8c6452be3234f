package adapt

import (
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
)

// What the documents show adapts, and is formatted as `caddy fmt` would.
func TestDocumentsAdapt(t *testing.T) {
	read := func(name string) string {
		data, err := os.ReadFile("../../" + name)
		if err != nil {
			t.Fatal(err)
		}
		return string(data)
	}
	examples := map[string][]string{"Caddyfile.example": {read("Caddyfile.example")}}
	block := regexp.MustCompile("(?ms)^```caddyfile\n(.*?)^```$")
	t.Setenv("OIDC_ISSUER", "https://op.example.com")
	t.Setenv("OIDC_CLIENT_ID", "abc")
	t.Setenv("OIDC_AUDIENCE", "https://api.example.com")
	t.Setenv("PUBLIC_URL", "https://app.example.com")
	for _, name := range []string{"README.md", "xcaddy.md", "SECURITY.md", "docs/recipes.md", "docs/providers.md"} {
		for _, match := range block.FindAllStringSubmatch(read(name), -1) {
			examples[name] = append(examples[name], match[1])
		}
	}
	if len(examples["README.md"]) < 4 {
		t.Errorf("README.md shows %d Caddyfiles", len(examples["README.md"]))
	}
	if len(examples["docs/recipes.md"]) < 7 {
		t.Errorf("docs/recipes.md shows %d Caddyfiles", len(examples["docs/recipes.md"]))
	}
	if len(examples["docs/providers.md"]) < 5 {
		t.Errorf("docs/providers.md shows %d Caddyfiles", len(examples["docs/providers.md"]))
	}
	for name, texts := range examples {
		for _, text := range texts {
			if got := adapt(t, text); !strings.HasPrefix(got, "{") {
				t.Errorf("%s: %s\n%s", name, got, text)
			}
			if formatted := string(caddyfile.Format([]byte(text))); formatted != text {
				t.Errorf("%s: caddy fmt makes it\n%s", name, formatted)
			}
		}
	}
}

// Caddyfile.example has every option that exists; the README names each, too.
func TestDocumentsNameEveryOption(t *testing.T) {
	usage := adapt(t, "app.example.com {\n\tpkce_auth https://op.example.com id {\n\t\tnonsense\n\t}\n}\n")
	_, list, ok := strings.Cut(usage, "the options are: ")
	if !ok {
		t.Fatal(usage)
	}
	list, _, _ = strings.Cut(list, ", at ")
	for _, name := range []string{"Caddyfile.example", "README.md"} {
		data, err := os.ReadFile("../../" + name)
		if err != nil {
			t.Fatal(err)
		}
		for _, option := range append(strings.Fields(list), "lifetime", "idle", "cookie_name", "cookie_domain", "same_site") {
			if !regexp.MustCompile(`(?m)(^\s*|` + "`" + `)` + option + `\b`).Match(data) {
				t.Errorf("%s does not show %s", name, option)
			}
		}
	}
}
