package main

import (
	"bytes"
	"encoding/json"
	"encoding/xml"
	"errors"
	"flag"
	"io"
	"math"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
)

var update = flag.Bool("update", false, "write the golden files")

// One run of everything, as short as can be: it is not looked at how fast
// anything was. That each answer is right, and that the upstream got what it has
// to, the bench itself sees to.
func TestBenchRuns(t *testing.T) {
	docs, out := t.TempDir(), t.TempDir()
	page := filepath.Join(docs, "performance.md")
	if err := os.WriteFile(page, []byte("before\n"+docsBegin+"old\n"+docsEnd+"after\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	opts := options{rounds: 2, slice: 20 * time.Millisecond, rate: 500, quick: true, only: regexp.MustCompile(""), out: out, docs: docs}
	var text bytes.Buffer
	if err := run(t.Context(), opts, &text); err != nil {
		t.Fatal(err)
	}
	r := readReport(t, filepath.Join(out, "bench.json"))
	for _, s := range scenarios {
		if !slices.Contains(r.scenarios(), s.name) {
			t.Errorf("%s found nothing", s.name)
		}
		if !strings.Contains(text.String(), "\n"+s.name+"\n") {
			t.Errorf("the table lacks %s", s.name)
		}
	}
	for _, f := range r.Figures {
		if math.IsNaN(f.Value) || math.IsInf(f.Value, 0) {
			t.Errorf("%s, %s, %s: %v", f.Scenario, f.Subject, f.Measure, f.Value)
		}
		if f.Scenario == compareTable && f.Measure == cpuColumn && (f.Value <= 0 || f.Slices != opts.rounds) {
			t.Errorf("%s: %v µs of %d slices", f.Subject, f.Value, f.Slices)
		}
	}
	for _, store := range []string{"cookie", "memory"} {
		for _, size := range tokenSizes {
			got, ok := r.find(cookieTable, store+" "+kB(size), "access token B")
			if !ok || got.Value < float64(size) || got.Value > float64(size)+100 {
				t.Errorf("%s: an access token of %v bytes, want about %d", store, got.Value, size)
			}
		}
	}
	drawn, err := os.ReadFile(filepath.Join(docs, "performance.svg"))
	if err != nil || !strings.Contains(string(drawn), ">cookie 2 kB<") {
		t.Errorf("the drawing of the docs: %v, %d bytes", err, len(drawn))
	}
	wellFormed(t, drawn)
	written, _ := os.ReadFile(page)
	if got := string(written); !strings.HasPrefix(got, "before\n") || !strings.HasSuffix(got, docsEnd+"after\n") || !strings.Contains(got, text.String()) || strings.Contains(got, "old") {
		t.Errorf("performance.md is %.200q …", got)
	}
}

func readReport(t *testing.T, file string) *report {
	t.Helper()
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	r := &report{}
	if err := json.Unmarshal(data, r); err != nil {
		t.Fatal(err)
	}
	return r
}

func wellFormed(t *testing.T, svg []byte) {
	t.Helper()
	for d := xml.NewDecoder(bytes.NewReader(svg)); ; {
		if _, err := d.Token(); errors.Is(err, io.EOF) {
			return
		} else if err != nil {
			t.Fatalf("the drawing: %v", err)
		}
	}
}

// The text and the drawing of a report, whole: testdata is looked at when it
// changes.
func TestReportIsDrawn(t *testing.T) {
	r := readReport(t, "testdata/bench.json")
	var text, svg bytes.Buffer
	r.table(&text)
	if err := r.plot(&svg); err != nil {
		t.Fatal(err)
	}
	wellFormed(t, svg.Bytes())
	for name, got := range map[string][]byte{"testdata/bench.txt": text.Bytes(), "testdata/bench.svg": svg.Bytes()} {
		if *update {
			if err := os.WriteFile(name, got, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got, want) {
			t.Errorf("%s is not what comes out now: go test ./test/bench -run Drawn -update, and look at it", name)
		}
	}
	for line := range strings.Lines(text.String()) {
		if n := len([]rune(strings.TrimSuffix(line, "\n"))); n > 110 {
			t.Errorf("%d columns: %s", n, line)
		}
	}
}

// A report without figures, as of a scenario that is no comparison, is drawn, too.
func TestEmptyReportIsDrawn(t *testing.T) {
	var text, svg bytes.Buffer
	r := &report{}
	r.note("compare", "not measured: %v", errNoRedis)
	r.table(&text)
	if err := r.plot(&svg); err != nil {
		t.Fatal(err)
	}
	wellFormed(t, svg.Bytes())
	if !strings.Contains(text.String(), "not measured: redis-server is not installed") {
		t.Errorf("got %s", text.String())
	}
}

func TestSpreads(t *testing.T) {
	for _, c := range []struct {
		values         []float64
		q1, median, q3 float64
	}{
		{[]float64{7}, 7, 7, 7},
		{[]float64{4, 2}, 2.5, 3, 3.5},
		{[]float64{5, 1, 3}, 2, 3, 4},
		{[]float64{5, 1, 3, 2, 4}, 2, 3, 4},
		{[]float64{1, 1, 1, 1000}, 1, 1, 250.75},
	} {
		got := spreadOf(c.values)
		if want := (spread{c.q1, c.median, c.q3, len(c.values)}); got != want {
			t.Errorf("%v: got %+v, want %+v", c.values, got, want)
		}
	}
	if got := spreadOf(nil); !math.IsNaN(got.median) {
		t.Errorf("of nothing: got %v", got.median)
	}
}

// A slow moment that meets both subjects of a round leaves what is paired alone.
func TestPairsAreOfOneRound(t *testing.T) {
	bare, ours := []float64{100, 300, 100, 200}, []float64{110, 330, 110, 220}
	if got := paired(ours, bare, ratio); math.Abs(got.median-1.1) > 1e-9 || math.Abs(got.q3-got.q1) > 1e-9 {
		t.Errorf("ratio: got %+v", got)
	}
	if got := paired(ours, bare[:2], difference); got != (spread{15, 20, 25, 2}) {
		t.Errorf("difference: got %+v", got)
	}
}

func TestNumbers(t *testing.T) {
	for value, want := range map[float64]string{0: "0", -0.0001: "0", 0.834: "0.83", 1: "1", 12.34: "12.3", 123.4: "123", 9999: "9999", 12345.6: "12 346", -1234567: "-1 234 567", -0.5: "-0.50"} {
		if got := number(value); got != want {
			t.Errorf("%v: got %s, want %s", value, got, want)
		}
	}
}

func TestTargets(t *testing.T) {
	for value, want := range map[float64]bool{5.9: true, 6: true, 6.1: false} {
		if got := (figure{Value: value}).wanting(6, "at most %d", 6); got.Target.Met != want || got.Target.Says != "at most 6" {
			t.Errorf("%v: got %+v", value, got.Target)
		}
	}
}

// The table of the docs stays what it is when the page lacks its place.
func TestDocsWithoutAPlace(t *testing.T) {
	for _, text := range []string{"", docsBegin, docsEnd, docsEnd + docsBegin} {
		if got, err := between([]byte(text), []byte("table")); err == nil {
			t.Errorf("%q became %q", text, got)
		}
	}
}
