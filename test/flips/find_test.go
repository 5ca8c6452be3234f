package main

import (
	"go/format"
	"slices"
	"strings"
	"testing"
)

const source = `package rp

var idTokenChecks = []struct{}{
	{"iss", checkIssuer},
	{"claims", checkClaims},
}

var guardedClaims = []string{"iss"}

func checkOne(t *candidate) error {
	if t.a && !(t.b || t.c > 1) {
		return errors.New("no")
	}
	switch t.kind {
	case "x":
		return nil
	}
	return check(t.d)
}

func load(t *candidate) (*token, error) {
	if err := checkOne(t); err != nil {
		return nil, err
	}
	return parse(t)
}

func known(names []string) bool {
	return slices.ContainsFunc(names, func(name string) bool { return name == "x" })
}
`

// Each check of a file becomes a switch of its own, and what comes of all of
// them together is still Go. A kind that was found no longer would pass for one
// without survivors.
func TestRead(t *testing.T) {
	f := &finder{seen: map[string]int{}}
	changed, err := f.read("x.go", []byte(source))
	if err != nil {
		t.Fatal(err)
	}
	var keys []string
	for i := range f.flips {
		keys = append(keys, f.flips[i].key())
	}
	want := []string{
		`idTokenChecks: iss accepts everything`,
		`idTokenChecks: claims guards no name`,
		`idTokenChecks: claims accepts what it cannot read`,
		`guardedClaims: without "iss"`,
		`checkOne: not t.a && !(t.b || t.c > 1)`,
		`checkOne: without t.a`,
		`checkOne: not t.a`,
		`checkOne: without !(t.b || t.c > 1)`,
		`checkOne: not !(t.b || t.c > 1)`,
		`checkOne: without t.b`,
		`checkOne: not t.b`,
		`checkOne: without t.c > 1`,
		`checkOne: not t.c > 1`,
		`checkOne: t.c >= 1`,
		`checkOne: no error in return errors.New("no")`,
		`checkOne: never t.kind = "x"`,
		`checkOne: no error in return check(t.d)`,
		`load: not err != nil`,
		`load: no error in return nil, err`,
		`load: going on at return nil, err`,
		`load: no error in return parse(t)`,
		`known: not slices.ContainsFunc(names, func(name string) bool { return name == "x" })`,
		`known: not name == "x"`,
	}
	if !slices.Equal(keys, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(keys, "\n"), strings.Join(want, "\n"))
	}
	if _, err := format.Source(changed); err != nil {
		t.Fatalf("%v in\n%s", err, changed)
	}
	for _, line := range []string{
		`{"iss", flippedCheck(1, checkIssuer, func(context.Context, *candidate) error { return nil })},`,
		`{"claims", flippedCheck(2, flippedCheck(3, checkClaims, `,
		`var guardedClaims = []string{flippedText(4, "iss")}`,
		`if flippedBool(5, flippedOut(6, flippedBool(7, t.a), true) && flippedOut(8, flippedBool(9, !(flippedOut(10, flippedBool(11, t.b), false) || ` +
			`flippedOut(12, flippedBool(13, flippedOut(14, t.c > 1, t.c >= 1)), false))), true)) {`,
		`if flipping(15) { return nil }; return errors.New("no")`,
		`case flippedText(16, "x"):`,
		`if flipping(19) { return nil, nil }; if !flipping(20) { return nil, err }`,
		`if flipping(21) { flipped, _ := parse(t); return flipped, nil }; return parse(t)`,
		`return flippedBool(22, slices.ContainsFunc(names, func(name string) bool { return flippedBool(23, name == "x") }))`,
	} {
		if !strings.Contains(string(changed), line) {
			t.Errorf("%s is not in\n%s", line, changed)
		}
	}
}

// The list of equivalent flips must not outlive the code that it speaks of, and
// every kind of flip must still be found there.
func TestFindInThePackage(t *testing.T) {
	t.Chdir("../..")
	flips, _, err := find(packageDir)
	if err != nil {
		t.Fatal(err)
	}
	if err := stale(flips); err != nil {
		t.Error(err)
	}
	for key, reason := range equivalents {
		if reason == "" {
			t.Errorf("%s: no reason", key)
		}
	}
}
