package main

import (
	"fmt"
	"strings"
)

const sessionTable = "sessions"

// manySessions says whether a request costs more when there are many sessions,
// each of which comes round again and again.
func manySessions(b *bench) error {
	crowds, err := b.crowdsToCompare(sessionTable)
	if err != nil {
		return err
	}
	counts := []int{1, 100, 10_000}
	if b.opts.quick {
		counts = []int{1, 20, 200}
	}
	most := counts[len(counts)-1]
	type row struct {
		name     string
		subjects []*subject // one for each count
	}
	var rows []row
	var all []*subject
	grow := func(name string, p *proxy, path string, headers []string) {
		r := row{name: name}
		for _, n := range counts {
			r.subjects = append(r.subjects, newSubject(fmt.Sprint(name, ", ", n, " sessions"), p, path, headers[:n]))
		}
		rows, all = append(rows, r), append(all, r.subjects...)
	}
	for _, c := range crowds {
		if err := c.grow(b, most); err != nil {
			return err
		}
		grow(c.name, c.proxy, c.path, c.headers)
	}
	samples, err := b.rounds(all)
	if err != nil {
		return err
	}
	for _, r := range rows {
		one := each(samples[r.subjects[0]], sample.perRequest)
		for i, n := range counts {
			cpu := spreadOf(each(samples[r.subjects[i]], sample.perRequest)).as(sessionTable, r.name, "CPU µs, "+thousands(int64(n)))
			cpu.At = float64(n)
			b.report.add(cpu)
		}
		last := each(samples[r.subjects[len(counts)-1]], sample.perRequest)
		times := paired(last, one, ratio).as(sessionTable, r.name, "most ÷ 1")
		if !strings.HasPrefix(r.name, bareName) {
			times = times.wanting(1.05, "%s sessions cost at most 1.05 × one", thousands(int64(most)))
		}
		b.report.add(times)
	}
	b.report.note(sessionTable, "by the number of sessions that take turns, with tokens of %s", kB(usualSize))
	return nil
}
