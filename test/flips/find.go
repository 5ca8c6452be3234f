package main

import (
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// flip is one check that can be taken out. Its number is how it is asked for;
// 0 is none.
type flip struct {
	number   int
	file     string // its name in the package
	line     int
	function string
	kind     string
	what     string
}

// The kinds of flips.
const (
	ofRow       = "row"
	ofName      = "name"
	ofCondition = "condition"
	ofOperand   = "operand"
	ofBound     = "bound"
	ofError     = "error"
)

var kinds = []string{ofRow, ofName, ofCondition, ofOperand, ofBound, ofError}

func (f *flip) String() string {
	return fmt.Sprintf("%s:%d: %s", filepath.Join(packageDir, f.file), f.line, f.key())
}

// key names a flip wherever it stands, for lines move.
func (f *flip) key() string { return f.function + ": " + f.what }

// finder finds the flips of one file after the other, and writes the copies
// that hold them.
type finder struct {
	flips []flip
	seen  map[string]int

	// Of the file under way.
	file       string
	source     []byte
	set        *token.FileSet
	function   string
	insertions []insertion
}

// insertion is text that comes into a file. Of several at one place, those that
// begin something stand in the order in which they were found, outer before
// inner; those that end something the other way round.
type insertion struct {
	at   int // offset
	text string
	ends bool
}

// find finds the flips of the files of the checklist, and gives the copies of
// these files by their names.
func find(dir string) (flips []flip, copies map[string][]byte, err error) {
	f := &finder{seen: map[string]int{}}
	copies = map[string][]byte{}
	for _, file := range files {
		source, err := os.ReadFile(filepath.Join(dir, file))
		if err != nil {
			return nil, nil, err
		}
		if copies[file], err = f.read(file, source); err != nil {
			return nil, nil, err
		}
	}
	for _, kind := range kinds {
		if !slices.ContainsFunc(f.flips, func(f flip) bool { return f.kind == kind }) {
			return nil, nil, errors.New("there is nothing to flip of the kind " + kind)
		}
	}
	return f.flips, copies, nil
}

// read finds the flips of a file and returns its copy.
func (f *finder) read(file string, source []byte) ([]byte, error) {
	f.file, f.source, f.set, f.insertions = file, source, token.NewFileSet(), nil
	parsed, err := parser.ParseFile(f.set, file, source, parser.SkipObjectResolution)
	if err != nil {
		return nil, err
	}
	for _, decl := range parsed.Decls {
		switch d := decl.(type) {
		case *ast.GenDecl:
			f.tables(d)
		case *ast.FuncDecl:
			if f.function = d.Name.Name; d.Body != nil {
				f.body(d.Body, d.Type)
			}
		}
	}
	return f.copied(), nil
}

// copied is the source with the insertions.
func (f *finder) copied() []byte {
	var ordered []insertion
	for _, i := range slices.Backward(f.insertions) {
		if i.ends {
			ordered = append(ordered, i)
		}
	}
	for _, i := range f.insertions {
		if !i.ends {
			ordered = append(ordered, i)
		}
	}
	slices.SortStableFunc(ordered, func(a, b insertion) int { return a.at - b.at })
	var result []byte
	from := 0
	for _, i := range ordered {
		result = append(append(result, f.source[from:i.at]...), i.text...)
		from = i.at
	}
	return append(result, f.source[from:]...)
}

func (f *finder) offset(pos token.Pos) int { return f.set.Position(pos).Offset }

func (f *finder) text(n ast.Node) string {
	return string(f.source[f.offset(n.Pos()):f.offset(n.End())])
}

// add records a flip: before a part of the file comes one text, in which %d
// becomes the flip's number, and behind it another.
func (f *finder) add(kind, what string, part ast.Node, before, behind string) {
	what = strings.Join(strings.Fields(what), " ")
	key := f.function + ": " + what
	if f.seen[key]++; f.seen[key] > 1 {
		what += fmt.Sprintf(" (%d)", f.seen[key])
	}
	number := len(f.flips) + 1
	f.flips = append(f.flips, flip{number, f.file, f.set.Position(part.Pos()).Line, f.function, kind, what})
	f.insertions = append(f.insertions,
		insertion{f.offset(part.Pos()), strings.Replace(before, "%d", strconv.Itoa(number), 1), false},
		insertion{f.offset(part.End()), behind, true})
}

// tables finds the rows of the checklists, and the names that nobody may
// imitate.
func (f *finder) tables(d *ast.GenDecl) {
	for _, spec := range d.Specs {
		value, ok := spec.(*ast.ValueSpec)
		if !ok || len(value.Values) != 1 {
			continue
		}
		list, ok := value.Values[0].(*ast.CompositeLit)
		if !ok {
			continue
		}
		switch f.function = value.Names[0].Name; f.function {
		case "idTokenChecks", "logoutTokenChecks", "accessTokenChecks":
			for _, element := range list.Elts {
				f.row(element)
			}
		case "guardedClaims":
			for _, name := range list.Elts {
				f.add(ofName, "without "+f.text(name), name, "flippedText(%d, ", ")")
			}
		}
	}
}

func (f *finder) row(element ast.Expr) {
	row, ok := element.(*ast.CompositeLit)
	if !ok || len(row.Elts) != 2 {
		return
	}
	name, err := strconv.Unquote(f.text(row.Elts[0]))
	if err != nil {
		return
	}
	instead := rowsInstead[name]
	if instead == nil {
		instead = []replacement{{"accepts everything", accepts}}
	}
	for _, r := range instead {
		f.add(ofRow, name+" "+r.what, row.Elts[1], "flippedCheck(%d, ", ", "+r.code+")")
	}
}

// body finds the conditions and errors of a function, and of the functions
// within it, whose results are their own.
func (f *finder) body(body *ast.BlockStmt, signature *ast.FuncType) {
	types := resultTypes(signature)
	ast.Inspect(body, func(node ast.Node) bool {
		switch n := node.(type) {
		case *ast.FuncLit:
			f.body(n.Body, n.Type)
			return false
		case *ast.IfStmt:
			f.condition(n.Cond)
		case *ast.SwitchStmt:
			f.cases(n)
		case *ast.ReturnStmt:
			f.results(n, types, n == body.List[len(body.List)-1])
		}
		return true
	})
}

// cases finds those of a switch: conditions are negated, values never occur.
func (f *finder) cases(n *ast.SwitchStmt) {
	for _, clause := range n.Body.List {
		for _, expr := range clause.(*ast.CaseClause).List {
			if n.Tag == nil {
				f.condition(expr)
			} else {
				f.add(ofCondition, "never "+f.text(n.Tag)+" = "+f.text(expr), expr, "flippedText(%d, ", ")")
			}
		}
	}
}

// condition negates a condition, and each operand of its && and ||. Where a
// condition refuses, that is soon seen, for now it refuses what is good: so each
// operand is also taken out, as if nobody had thought of it, and each bound
// moved by one.
func (f *finder) condition(e ast.Expr) {
	f.add(ofCondition, "not "+f.text(e), e, "flippedBool(%d, ", ")")
	f.operands(e)
}

// inclusive are the comparisons, and those that differ in the bound itself.
var inclusive = map[token.Token]token.Token{token.LSS: token.LEQ, token.LEQ: token.LSS, token.GTR: token.GEQ, token.GEQ: token.GTR}

func (f *finder) operands(e ast.Expr) {
	switch e := ast.Unparen(e).(type) {
	case *ast.UnaryExpr:
		f.operands(e.X) // what stands behind a ! is negated with it
	case *ast.BinaryExpr:
		if e.Op == token.LAND || e.Op == token.LOR {
			for _, operand := range []ast.Expr{e.X, e.Y} {
				f.add(ofOperand, "without "+f.text(operand), operand, "flippedOut(%d, ", fmt.Sprintf(", %v)", e.Op == token.LAND))
				f.condition(operand)
			}
		}
		if other, ok := inclusive[e.Op]; ok {
			moved := f.text(e.X) + " " + other.String() + " " + f.text(e.Y)
			f.add(ofBound, moved, e, "flippedOut(%d, ", ", "+moved+")")
		}
	}
}

// results negates what is returned as a bool, and takes the error out of a
// return. Where a nil stands beside the error, that would only crash whoever
// relies on it: there the function also goes on, as if nothing had been wrong,
// unless this is its end.
func (f *finder) results(n *ast.ReturnStmt, types []string, atTheEnd bool) {
	if len(n.Results) == 0 || len(types) == 0 {
		return
	}
	last := n.Results[len(n.Results)-1]
	switch kind := types[len(types)-1]; {
	case kind == "bool" && len(n.Results) == len(types) && !isName(last, "true", "false"):
		f.condition(last)
	case kind != "error" || isName(last, "nil"):
	case len(n.Results) < len(types):
		f.add(ofError, "no error in "+f.text(n), n, "if flipping(%d) { flipped, _ := "+f.text(last)+"; return flipped, nil }; ", "")
	default:
		var others strings.Builder
		crashes := false
		for _, other := range n.Results[:len(n.Results)-1] {
			others.WriteString(f.text(other) + ", ")
			crashes = crashes || isName(other, "nil")
		}
		f.add(ofError, "no error in "+f.text(n), n, "if flipping(%d) { return "+others.String()+"nil }; ", "")
		if crashes && !atTheEnd {
			f.add(ofError, "going on at "+f.text(n), n, "if !flipping(%d) { ", " }")
		}
	}
}

func resultTypes(signature *ast.FuncType) []string {
	var types []string
	if signature.Results == nil {
		return nil
	}
	for _, field := range signature.Results.List {
		name := ""
		if ident, ok := field.Type.(*ast.Ident); ok {
			name = ident.Name
		}
		for range max(1, len(field.Names)) {
			types = append(types, name)
		}
	}
	return types
}

func isName(e ast.Expr, names ...string) bool {
	ident, ok := e.(*ast.Ident)
	return ok && slices.Contains(names, ident.Name)
}
