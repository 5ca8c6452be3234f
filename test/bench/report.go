package main

import (
	"bufio"
	"fmt"
	"os"
	"runtime"
	"strings"
	"time"
)

// report is all that the bench found: what bench.json holds.
type report struct {
	Machine machine  `json:"machine"`
	Method  method   `json:"method"`
	Figures []figure `json:"figures"`
	Notes   []note   `json:"notes"`
}

// machine says where that was.
type machine struct {
	CPU    string `json:"cpu"`
	Cores  int    `json:"cores"`
	Kernel string `json:"kernel"`
	Go     string `json:"go"`
	Caddy  string `json:"caddy"`
	Date   string `json:"date"`
}

// method says how it was measured.
type method struct {
	Rounds int    `json:"rounds"`
	Slice  string `json:"slice"`
	Rate   int    `json:"requests_per_second_at_fixed_load"`
	Quick  bool   `json:"quick,omitempty"`
}

// figure is one cell of the report: of the table of its scenario, in the row of
// its subject and the column of its measure. Rows and columns stand in the order
// in which they came.
type figure struct {
	Scenario string  `json:"scenario"`
	Subject  string  `json:"subject"`
	Measure  string  `json:"measure"` // with its unit, as "CPU µs"
	Value    float64 `json:"value"`   // a median, where there are quartiles
	Q1       float64 `json:"q1,omitempty"`
	Q3       float64 `json:"q3,omitempty"`
	Slices   int     `json:"slices,omitempty"` // of how many that is the median
	At       float64 `json:"at,omitempty"`     // where it stands in a chart, if it grows with something
	Target   *target `json:"target,omitempty"`
	Narrow   bool    `json:"narrow,omitempty"` // the table shows it without its quartiles
}

// target is what issue 7 wants of a figure. A missed one is said, and fails
// nothing: machines differ.
type target struct {
	AtMost float64 `json:"at_most"`
	Says   string  `json:"says"`
	Met    bool    `json:"met"`
}

// note is a sentence below the table of a scenario: what could not be measured,
// and why.
type note struct {
	Scenario string `json:"scenario"`
	Text     string `json:"text"`
}

func newReport(opts options) (*report, error) {
	kernel, err := os.ReadFile("/proc/sys/kernel/osrelease")
	if err != nil {
		return nil, fmt.Errorf("the bench needs Linux: %w", err)
	}
	return &report{
		Machine: machine{
			CPU: cpuModel(), Cores: runtime.NumCPU(), Kernel: strings.TrimSpace(string(kernel)),
			Go: runtime.Version(), Date: time.Now().UTC().Format(time.DateOnly),
		},
		Method: method{Rounds: opts.rounds, Slice: opts.slice.String(), Rate: opts.rate, Quick: opts.quick},
	}, nil
}

func cpuModel() string {
	file, err := os.Open("/proc/cpuinfo")
	if err != nil {
		return "unknown"
	}
	defer file.Close()
	for lines := bufio.NewScanner(file); lines.Scan(); {
		name, value, _ := strings.Cut(lines.Text(), ":")
		if strings.TrimSpace(name) == "model name" {
			return strings.TrimSpace(value)
		}
	}
	return runtime.GOARCH
}

// add adds figures, each after those before.
func (r *report) add(figures ...figure) { r.Figures = append(r.Figures, figures...) }

// note adds a sentence below a scenario's table.
func (r *report) note(scenario, format string, args ...any) {
	r.Notes = append(r.Notes, note{scenario, fmt.Sprintf(format, args...)})
}

// wanting gives the figure a target.
func (f figure) wanting(atMost float64, format string, args ...any) figure {
	f.Target = &target{AtMost: atMost, Says: fmt.Sprintf(format, args...), Met: f.Value <= atMost}
	return f
}

// inShort has the table show the figure without its quartiles.
func (f figure) inShort() figure {
	f.Narrow = true
	return f
}

// find gives a figure that was added before.
func (r *report) find(scenario, subject, measure string) (figure, bool) {
	for _, f := range r.Figures {
		if f.Scenario == scenario && f.Subject == subject && f.Measure == measure {
			return f, true
		}
	}
	return figure{}, false
}
