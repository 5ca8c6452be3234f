package adapt

import (
	"io/fs"
	"os"
	"path/filepath"
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
	documents, err := filepath.Glob("../../docs/*.md")
	if err != nil {
		t.Fatal(err)
	}
	for i, path := range documents {
		documents[i] = "docs/" + filepath.Base(path)
	}
	for _, name := range append(documents, "README.md", "xcaddy.md", "SECURITY.md") {
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

// The tests that documents name exist.
func TestDocumentsNameTestsThatExist(t *testing.T) {
	exist := map[string]bool{}
	function := regexp.MustCompile(`(?m)^func ((?:Test|Fuzz)\w+)\(`)
	err := filepath.WalkDir("../..", func(path string, _ fs.DirEntry, err error) error {
		if err != nil || !strings.HasSuffix(path, "_test.go") {
			return err
		}
		data, err := os.ReadFile(path)
		for _, match := range function.FindAllSubmatch(data, -1) {
			exist[string(match[1])] = true
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	documents, err := filepath.Glob("../../docs/*.md")
	if err != nil {
		t.Fatal(err)
	}
	named := regexp.MustCompile("`((?:Test|Fuzz)[A-Z]\\w+)`")
	count := 0
	for _, document := range append(documents, "../../SECURITY.md", "../../README.md") {
		data, err := os.ReadFile(document)
		if err != nil {
			t.Fatal(err)
		}
		for _, match := range named.FindAllSubmatch(data, -1) {
			if count++; !exist[string(match[1])] {
				t.Errorf("%s names %s, which does not exist", document, match[1])
			}
		}
	}
	if count < 40 {
		t.Errorf("the documents name %d tests", count)
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
