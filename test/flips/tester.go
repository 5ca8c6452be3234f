package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"time"
)

// outcome is what came of a flip.
type outcome int

const (
	killed     outcome = iota // a test failed, as it should
	equivalent                // it stands in the list of those that change nothing
	survived                  // no test noticed
)

// patience is how long the tests may take for one flip. One that makes them
// hang is killed by that.
const patience = time.Minute

// switches is the file that the copies need besides.
const switches = `package rp

import (
	"context"
	"encoding/base64"
	"os"
	"strconv"
	"strings"
)

var flipNumber, _ = strconv.Atoi(os.Getenv("FLIP"))

func flipping(n int) bool { return n == flipNumber }

func flippedBool(n int, b bool) bool { return b != flipping(n) }

func flippedOut(n int, b, without bool) bool {
	if flipping(n) {
		return without
	}
	return b
}

// flippedText becomes a text that is nowhere else.
func flippedText[T ~string](n int, text T) T {
	if flipping(n) {
		return text + "?"
	}
	return text
}

func flippedCheck(n int, own, other func(context.Context, *candidate) error) func(context.Context, *candidate) error {
	if flipping(n) {
		return other
	}
	return own
}

// believedPayload is that of a token whoever signed it.
func believedPayload(raw string) []byte {
	_, rest, _ := strings.Cut(raw, ".")
	encoded, _, _ := strings.Cut(rest, ".")
	payload, _ := base64.RawURLEncoding.DecodeString(encoded)
	return payload
}
`

// tester runs the package's tests, compiled with the flips in them.
type tester struct{ binary string }

// build compiles the tests with the copies in place of the files.
func build(ctx context.Context, dir string, copies map[string][]byte) (*tester, error) {
	copies["flips_switches.go"] = []byte(switches)
	replace := map[string]string{}
	for file, source := range copies {
		original, err := filepath.Abs(filepath.Join(packageDir, file))
		if err != nil {
			return nil, err
		}
		replace[original] = filepath.Join(dir, file)
		if err := os.WriteFile(replace[original], source, 0o600); err != nil {
			return nil, err
		}
	}
	data, err := json.Marshal(map[string]any{"Replace": replace})
	if err != nil {
		return nil, err
	}
	overlay, binary := filepath.Join(dir, "overlay.json"), filepath.Join(dir, "rp.test")
	if err := os.WriteFile(overlay, data, 0o600); err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, cmp.Or(os.Getenv("GO"), "go"), "test", "-c", "-vet=off", "-overlay="+overlay, "-o", binary, "./"+packageDir)
	if output, err := cmd.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("compiling the flips: %w\n%s", err, output)
	}
	return &tester{binary: binary}, nil
}

// try tries one flip: with the tests that are quick and likely to notice, and
// if they do not, with all of them.
func (t *tester) try(ctx context.Context, f *flip) outcome {
	if equivalents[f.key()] != "" {
		return equivalent
	}
	if t.notices(ctx, f, quickly, slowly) {
		return killed
	}
	// What only the whole package notices must be noticed again: on a busy
	// machine, a test of times and connections may have failed by itself.
	for range 2 {
		if !t.notices(ctx, f, everything, none) {
			return survived
		}
	}
	return killed
}

// notices reports whether one of the tests fails. If it was their time that was
// up, it may be the machine that is slow: that is said.
func (t *tester) notices(ctx context.Context, f *flip, pattern, but string) bool {
	failed, output := t.test(ctx, f.number, pattern, but)
	if bytes.Contains(output, []byte("panic: test timed out")) {
		fmt.Printf("timed out: %s\n", f)
	}
	return failed
}

// test runs the tests that a pattern names, but those that another does, and
// reports whether one failed.
func (t *tester) test(ctx context.Context, number int, pattern, but string) (failed bool, output []byte) {
	cmd := exec.CommandContext(ctx, t.binary, "-test.failfast", "-test.timeout="+patience.String(), "-test.run="+pattern, "-test.skip="+but)
	cmd.Dir = packageDir
	cmd.Env = append(os.Environ(), "FLIP="+strconv.Itoa(number))
	output, err := cmd.CombinedOutput()
	return err != nil, output
}
