package caddyauth_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const modulePath = "github.com/pkce-auth/caddy-pkce-auth/"

// The packages, and the arrows between them: each imports only what stands
// below it, and below the face nothing knows of Caddy, logs, or reads the
// environment.
var arrows = map[string][]string{
	"caddyauth":                  {"caddyauth/store", "caddyauth/internal/doctor", "caddyauth/internal/session", "caddyauth/internal/rp", "caddyauth/internal/sealed", "caddyauth/internal/claims"},
	"caddyauth/redisstore":       {"caddyauth", "caddyauth/store"},
	"caddyauth/internal/session": {"caddyauth/store", "caddyauth/internal/rp", "caddyauth/internal/sealed", "caddyauth/internal/claims"},
	"caddyauth/internal/doctor":  {"caddyauth/internal/session", "caddyauth/internal/rp", "caddyauth/internal/sealed", "caddyauth/internal/claims"},
	"caddyauth/internal/rp":      {"caddyauth/internal/claims"},
	"caddyauth/internal/claims":  {},
	"caddyauth/internal/sealed":  {},
	"caddyauth/store/storetest":  {"caddyauth/store"},
	"caddyauth/store":            {},
}

// leaves may import the standard library only.
var leaves = []string{"caddyauth/internal/claims", "caddyauth/internal/sealed", "caddyauth/store"}

// guests are what only one package may bring along: whoever does not import that
// package does not carry them.
var guests = map[string]string{"github.com/redis/rueidis": "caddyauth/redisstore"}

// internals must not import these.
var forbiddenBelowTheFace = []string{"github.com/caddyserver/", "go.uber.org/zap", "log", "log/slog", "os"}

func TestArrows(t *testing.T) {
	eachFile(t, func(pkg, file string, parsed *ast.File, _ *token.FileSet) {
		allowed, known := arrows[pkg]
		if !known {
			t.Errorf("%s: package %s is in no picture: add it to the arrows, and to doc.go", file, pkg)
		}
		for _, spec := range parsed.Imports {
			path, _ := strconv.Unquote(spec.Path.Value)
			if own, ok := strings.CutPrefix(path, modulePath); ok {
				if !slices.Contains(allowed, own) {
					t.Errorf("%s imports %s, against the arrows", file, own)
				}
				continue
			}
			for guest, host := range guests {
				if (path == guest || strings.HasPrefix(path, guest+"/")) && pkg != host {
					t.Errorf("%s: %s is for %s only", file, path, host)
				}
			}
			if slices.Contains(leaves, pkg) && strings.Contains(path, ".") {
				t.Errorf("%s: a leaf imports %s", file, path)
			}
			if strings.Contains(pkg, "/internal/") && slices.ContainsFunc(forbiddenBelowTheFace, func(f string) bool { return path == f || strings.HasSuffix(f, "/") && strings.HasPrefix(path, f) }) {
				t.Errorf("%s: %s does not belong below the face", file, path)
			}
			if path == "math/rand" || path == "math/rand/v2" {
				t.Errorf("%s: A44: randomness comes from crypto/rand", file)
			}
		}
	})
}

// The measures of DESIGN.md: when one is passed, something is in the wrong
// room.
func TestMeasures(t *testing.T) {
	const maxLines, maxFunction, maxParameters, maxFields = 400, 60, 5, 12
	eachFile(t, func(_, file string, parsed *ast.File, set *token.FileSet) {
		if lines := set.File(parsed.Pos()).LineCount(); lines > maxLines {
			t.Errorf("%s has %d lines", file, lines)
		}
		ast.Inspect(parsed, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.FuncDecl:
				if lines := set.Position(n.End()).Line - set.Position(n.Pos()).Line + 1; lines > maxFunction {
					t.Errorf("%s: %s has %d lines", file, n.Name.Name, lines)
				}
				if count := n.Type.Params.NumFields(); count > maxParameters {
					t.Errorf("%s: %s has %d parameters", file, n.Name.Name, count)
				}
			case *ast.StructType:
				if count := n.Fields.NumFields(); count > maxFields {
					t.Errorf("%s: a struct on line %d has %d fields", file, set.Position(n.Pos()).Line, count)
				}
			}
			return true
		})
	})
}

// eachFile parses the module's files that are not tests.
func eachFile(t *testing.T, visit func(pkg, file string, parsed *ast.File, set *token.FileSet)) {
	t.Helper()
	err := filepath.WalkDir(".", func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
			return err
		}
		set := token.NewFileSet()
		parsed, err := parser.ParseFile(set, path, nil, parser.ParseComments)
		if err != nil {
			return err
		}
		visit(filepath.ToSlash(filepath.Join("caddyauth", filepath.Dir(path))), path, parsed, set)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}
