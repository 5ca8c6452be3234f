// Package adapt holds golden files: a Caddyfile, a line of dashes, and the
// JSON it adapts to or the text of its error. A line of equals signs begins
// another case of the same file. `go test ./test/adapt -update` writes what
// comes out now; read the difference before you commit it.
package adapt

import (
	"bytes"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	_ "github.com/caddyserver/caddy/v2/modules/standard"

	_ "github.com/pkce-auth/caddy-pkce-auth/caddyauth"
	_ "github.com/pkce-auth/caddy-pkce-auth/caddyauth/redisstore"
)

var update = flag.Bool("update", false, "write what comes out now into the golden files")

const (
	dashes = "----------\n"
	equals = "==========\n"
)

func TestGolden(t *testing.T) {
	files, err := filepath.Glob("*.caddyfiletest")
	if err != nil || len(files) == 0 {
		t.Fatalf("no golden files: %v", err)
	}
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		var written []string
		for _, text := range strings.Split(string(data), equals) {
			source, want, ok := strings.Cut(text, dashes)
			if !ok {
				t.Fatalf("%s: a case has no line of dashes", file)
			}
			var got string
			t.Run(name(file, source), func(t *testing.T) {
				if formatted := caddyfile.Format([]byte(source)); string(formatted) != source {
					t.Errorf("caddy fmt changes it to:\n%s", formatted)
				}
				if got = adapt(t, source); got != want && !*update {
					t.Errorf("got:\n%s\nwant:\n%s", got, want)
				}
			})
			written = append(written, source+dashes+got)
		}
		if *update {
			if err := os.WriteFile(file, []byte(strings.Join(written, equals)), 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// name is the file's, and the comment that a case begins with.
func name(file, source string) string {
	name := strings.TrimSuffix(file, ".caddyfiletest")
	if comment, ok := strings.CutPrefix(source, "# "); ok {
		line, _, _ := strings.Cut(comment, "\n")
		return name + "/" + line
	}
	return name
}

// adapt gives the JSON, or the error's text.
func adapt(t *testing.T, source string) string {
	t.Helper()
	config, warnings, err := caddyconfig.GetAdapter("caddyfile").Adapt([]byte(source), map[string]any{"filename": "Caddyfile"})
	if err != nil {
		return err.Error() + "\n"
	}
	for _, warning := range warnings {
		t.Errorf("warning: %s", warning)
	}
	var out bytes.Buffer
	if err := json.Indent(&out, config, "", "\t"); err != nil {
		t.Fatal(err)
	}
	return out.String() + "\n"
}
