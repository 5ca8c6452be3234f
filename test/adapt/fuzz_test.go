package adapt

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2/caddyconfig"

	"github.com/pkce-auth/caddy-pkce-auth/caddyauth"
)

// ourError is an error of ours, or of what we hand lines to.
var (
	ourError = regexp.MustCompile(`^parsing caddyfile tokens for 'pkce_auth': `)
	located  = regexp.MustCompile(`(at|Caddyfile:|near) ?.*\d`)
)

// FuzzCaddyfile: whatever stands in the block, an error says where; and what
// adapts is JSON that Caddy reads back, strictly, with an issuer that browsers
// may be sent to.
func FuzzCaddyfile(f *testing.F) {
	files, err := filepath.Glob("*.caddyfiletest")
	if err != nil || len(files) == 0 {
		f.Fatalf("no golden files: %v", err)
	}
	block := regexp.MustCompile(`(?s)pkce_auth[^\n]*\{\n(.*?)\n\t\}\n`)
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			f.Fatal(err)
		}
		for _, match := range block.FindAllSubmatch(data, -1) {
			f.Add(string(match[1]))
		}
	}
	f.Fuzz(func(t *testing.T, options string) {
		if strings.Contains(options, "import") { // it reads files, and is Caddy's business
			return
		}
		source := fmt.Sprintf("app.example.com {\n\tpkce_auth https://op.example.com id {\n%s\n\t}\n}\n", options)
		config, _, err := caddyconfig.GetAdapter("caddyfile").Adapt([]byte(source), map[string]any{"filename": "Caddyfile"})
		if err != nil {
			if ourError.MatchString(err.Error()) && !located.MatchString(err.Error()) {
				t.Fatalf("%q does not say where", err)
			}
			return
		}
		var decoded any
		if err := json.Unmarshal(config, &decoded); err != nil {
			t.Fatal(err)
		}
		eachHandler(t, decoded)
	})
}

// eachHandler looks at all handlers of ours in a configuration.
func eachHandler(t *testing.T, config any) {
	switch node := config.(type) {
	case []any:
		for _, child := range node {
			eachHandler(t, child)
		}
	case map[string]any:
		if node["handler"] == "pkce_auth" {
			checkHandler(t, node)
			return
		}
		for _, child := range node {
			eachHandler(t, child)
		}
	}
}

func checkHandler(t *testing.T, node map[string]any) {
	delete(node, "handler")
	data, err := json.Marshal(node)
	if err != nil {
		t.Fatal(err)
	}
	var handler caddyauth.Handler
	decoder := json.NewDecoder(bytes.NewReader(data))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&handler); err != nil {
		t.Fatalf("%v in %s", err, data)
	}
	if handler.Inline == nil {
		return
	}
	issuer := handler.Inline.Issuer
	if !strings.HasPrefix(issuer, "https://") && !strings.HasPrefix(issuer, "http://") && !strings.Contains(issuer, "{") {
		t.Fatalf("issuer %q", issuer)
	}
	if strings.ContainsAny(issuer, "#?@") && !strings.Contains(issuer, "{") {
		t.Fatalf("issuer %q", issuer)
	}
}
