// Package rows counts which rows of the project's tables stand in the name of
// a test: the duties from the standards (R01 …), what a provider can do wrong
// (M01 …), what attackers try (A01 …), what providers need (IDPS01 …), and what
// sessions must survive (T1 …). A row that no test bears is listed here, with
// its reason.
package rows

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// tables are the rows there are, by letter: ranges of numbers.
var tables = map[string][][2]int{
	"M":    {{1, 36}, {40, 49}, {50, 66}, {70, 93}, {100, 109}, {110, 113}, {120, 137}, {140, 143}, {150, 153}},
	"R":    {{1, 18}, {20, 37}, {40, 48}, {50, 61}},
	"A":    {{1, 31}, {40, 87}, {90, 97}, {113, 116}, {118, 121}},
	"IDPS": {{1, 44}},
	"T":    {{1, 10}},
}

// lettered are the rows that stand between two numbers.
var lettered = []string{"R19", "R19a", "R19b", "R19c", "R19d", "R19e", "R19f", "R19g", "R19h", "R19i"}

// open are the rows without a test, and why.
var open = map[string]string{
	"IDPS40": "PAR is a later capability",
	"M140":   "PAR is a later capability", "M141": "DPoP is a later capability", "M142": "DPoP is a later capability",
	"R48": "session management by frames is not implemented, on purpose: browsers block what it needs",
	"R50": "PAR is a later capability", "R51": "request objects are a later capability", "R52": "DPoP is a later capability",
	"R55": "token exchange is a later capability",
}

func TestEveryRowHasATestOrAReason(t *testing.T) {
	borne := rowsInTestNames(t)
	all := slices.Clone(lettered)
	for letter, ranges := range tables {
		for _, r := range ranges {
			for n := r[0]; n <= r[1]; n++ {
				all = append(all, row(letter, n))
			}
		}
	}
	covered := map[string]int{}
	for _, row := range all {
		switch reason := open[row]; {
		case borne[row] && reason != "":
			t.Errorf("%s has a test by now: take it out of the list", row)
		case !borne[row] && reason == "":
			t.Errorf("%s stands in no test's name", row)
		case borne[row]:
			covered[row[:1]]++
		}
	}
	for row := range open {
		if !slices.Contains(all, row) {
			t.Errorf("%s is in no table", row)
		}
	}
	t.Logf("rows with a test: %v; %d have a reason", covered, len(open))
}

// row names a row: those of T have no leading zero.
func row(letter string, n int) string {
	if letter == "T" {
		return fmt.Sprintf("T%d", n)
	}
	return fmt.Sprintf("%s%02d", letter, n)
}

var rowID = regexp.MustCompile(`[AMR]\d{2,3}[a-i]?|IDPS\d{2}|T\d{1,2}`)

// rowsInTestNames finds the rows in the names of test functions, and at the
// beginning of texts in test files, which name cases. A range in a function's
// name, such as M70M91, names its ends only.
func rowsInTestNames(t *testing.T) map[string]bool {
	t.Helper()
	found := map[string]bool{}
	add := func(text string) {
		for _, row := range rowID.FindAllString(text, -1) {
			found[row] = true
		}
	}
	err := filepath.WalkDir("../..", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() && (d.Name() == "node_modules" || d.Name() == ".git" || d.Name() == "rows") {
			if d != nil && d.IsDir() && err == nil {
				return filepath.SkipDir
			}
			return err
		}
		if !strings.HasSuffix(path, "_test.go") {
			return nil
		}
		parsed, err := parser.ParseFile(token.NewFileSet(), path, nil, 0)
		if err != nil {
			return err
		}
		ast.Inspect(parsed, func(node ast.Node) bool {
			switch n := node.(type) {
			case *ast.FuncDecl:
				if strings.HasPrefix(n.Name.Name, "Test") || strings.HasPrefix(n.Name.Name, "Fuzz") {
					add(n.Name.Name)
				}
			case *ast.BasicLit:
				if text, err := strconv.Unquote(n.Value); n.Kind == token.STRING && err == nil && rowID.MatchString(text) && strings.HasPrefix(text, rowID.FindString(text)) {
					add(text)
				}
			}
			return true
		})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}
