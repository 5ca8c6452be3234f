package main

import (
	"fmt"
	"io"
	"math"
	"slices"
	"strings"
	"unicode/utf8"
)

// table writes the report as text: a table for each scenario, its targets and
// its notes.
func (r *report) table(out io.Writer) {
	m := r.Machine
	fmt.Fprintf(out, "%s, %d cores, Linux %s, %s, Caddy %s, %s\n", m.CPU, m.Cores, m.Kernel, m.Go, m.Caddy, m.Date)
	fmt.Fprintf(out, "%d slices of %s each; fixed load: %d requests/s\n", r.Method.Rounds, r.Method.Slice, r.Method.Rate)
	for _, scenario := range r.scenarios() {
		fmt.Fprintf(out, "\n%s\n", scenario)
		writeRows(out, r.rows(scenario))
		for _, f := range r.Figures {
			if f.Scenario == scenario && f.Target != nil {
				fmt.Fprintf(out, "  %s  %s: %s, %s\n", map[bool]string{true: "yes", false: "NO "}[f.Target.Met], f.Target.Says, f.Subject, number(f.Value))
			}
		}
		for _, n := range r.Notes {
			if n.Scenario == scenario {
				fmt.Fprintf(out, "  %s\n", n.Text)
			}
		}
	}
}

// scenarios are those that have something to say, in order.
func (r *report) scenarios() []string {
	var names []string
	for _, f := range r.Figures {
		if !slices.Contains(names, f.Scenario) {
			names = append(names, f.Scenario)
		}
	}
	for _, n := range r.Notes {
		if !slices.Contains(names, n.Scenario) {
			names = append(names, n.Scenario)
		}
	}
	return names
}

// rows are the cells of a scenario's table, the head first.
func (r *report) rows(scenario string) [][]string {
	head, subjects := []string{""}, []string{}
	cells := map[[2]string]string{}
	for _, f := range r.Figures {
		if f.Scenario != scenario {
			continue
		}
		if !slices.Contains(head, f.Measure) {
			head = append(head, f.Measure)
		}
		if !slices.Contains(subjects, f.Subject) {
			subjects = append(subjects, f.Subject)
		}
		cells[[2]string{f.Subject, f.Measure}] = f.cell()
	}
	if len(subjects) == 0 {
		return nil
	}
	rows := [][]string{head}
	for _, subject := range subjects {
		row := []string{subject}
		for _, measure := range head[1:] {
			row = append(row, cells[[2]string{subject, measure}])
		}
		rows = append(rows, row)
	}
	return rows
}

// cell is the figure with its quartiles.
func (f figure) cell() string {
	if f.Narrow || f.Q1 == 0 && f.Q3 == 0 {
		return number(f.Value)
	}
	return fmt.Sprintf("%s [%s %s]", number(f.Value), number(f.Q1), number(f.Q3))
}

// number has three digits that mean something, or all of those before the point.
func number(v float64) string {
	switch abs := math.Abs(v); {
	case abs < 0.005:
		return "0"
	case abs >= 10_000:
		return thousands(int64(math.Round(v)))
	case abs >= 100 || v == math.Trunc(v):
		return fmt.Sprintf("%.0f", v)
	case abs >= 10:
		return fmt.Sprintf("%.1f", v)
	default:
		return fmt.Sprintf("%.2f", v)
	}
}

func thousands(n int64) string {
	text := fmt.Sprint(n)
	for i := len(text) - 3; i > 0 && text[i-1] != '-'; i -= 3 {
		text = text[:i] + " " + text[i:]
	}
	return text
}

// writeRows writes the cells below each other: the first column to the left, the
// others to the right.
func writeRows(out io.Writer, rows [][]string) {
	if len(rows) == 0 {
		return
	}
	widths := make([]int, len(rows[0]))
	for _, row := range rows {
		for i, cell := range row {
			widths[i] = max(widths[i], utf8.RuneCountInString(cell))
		}
	}
	for _, row := range rows {
		line := "  " + row[0] + strings.Repeat(" ", widths[0]-utf8.RuneCountInString(row[0]))
		for i, cell := range row[1:] {
			line += "  " + strings.Repeat(" ", widths[i+1]-utf8.RuneCountInString(cell)) + cell
		}
		fmt.Fprintln(out, strings.TrimRight(line, " "))
	}
}
