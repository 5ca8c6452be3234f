package main

import (
	"fmt"
	"strings"
)

const (
	sessionTable     = "sessions"
	concurrencyTable = "concurrency"
)

// manySessions says whether a request costs more when there are many sessions,
// each of which comes round again and again.
func manySessions(b *bench) error {
	f, err := b.fleet(sessionTable)
	if err != nil {
		return err
	}
	counts := []int{1, 100, 10_000}
	if b.opts.quick {
		counts = []int{1, 20, 200}
	}
	most := counts[len(counts)-1]
	b.tokensOf(usualSize)
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
	for _, s := range f.stores {
		b.logf("%s: %d logins, sessions in %s", sessionTable, most, s.store)
		sessions, err := b.logins(s.proxy, most)
		if err != nil {
			return err
		}
		if s.store == "cookie" {
			grow("bare + cookies", f.bare, plainPath, meaningless(sessions))
		}
		grow(s.store, s.proxy, tokenPath, asSessions(sessions))
	}
	samples, err := b.rounds(all)
	if err != nil {
		return err
	}
	for _, r := range rows {
		one := each(samples[r.subjects[0]], sample.perRequest)
		for i, n := range counts {
			b.report.add(spreadOf(each(samples[r.subjects[i]], sample.perRequest)).as(sessionTable, r.name, "CPU µs, "+thousands(int64(n))))
		}
		last := each(samples[r.subjects[len(counts)-1]], sample.perRequest)
		times := paired(last, one, ratio).as(sessionTable, r.name, "most ÷ 1")
		if !strings.HasPrefix(r.name, "bare") {
			times = times.wanting(1.05, "%s sessions cost at most 1.05 × one", thousands(int64(most)))
		}
		b.report.add(times)
	}
	return nil
}

// meaningless are headers with cookies as long as those of the sessions, each
// another.
func meaningless(sessions []session) []string {
	headers := make([]string, len(sessions))
	for i, s := range sessions {
		number := fmt.Sprintf("%08d", i)
		headers[i] = "Cookie: " + filler(len(s.cookie)-len(number)) + number + "\r\n"
	}
	return headers
}

// concurrency says whether a request costs more when many come at once.
func concurrency(b *bench) error {
	f, err := b.fleet(concurrencyTable)
	if err != nil {
		return err
	}
	counts := []int{1, 16, 256}
	subjects := map[string][]*subject{}
	var names []string
	var all []*subject
	grow := func(name string, fresh func() *subject) {
		for _, n := range counts {
			s := fresh()
			s.parallel = n
			subjects[name] = append(subjects[name], s)
		}
		names, all = append(names, name), append(all, subjects[name]...)
	}
	for _, s := range f.stores {
		if s.store == "cookie" {
			grow("bare + cookie", func() *subject { return f.carrying("bare + cookie", len(s.logins[usualSize].cookie), "") })
		}
		grow(s.store, func() *subject { return s.subject(usualSize) })
	}
	samples, err := b.rounds(all)
	if err != nil {
		return err
	}
	for _, name := range names {
		for i, n := range counts {
			b.report.add(spreadOf(each(samples[subjects[name][i]], sample.perRequest)).as(concurrencyTable, name, fmt.Sprintf("CPU µs, %d", n)))
		}
		for i, n := range counts {
			perSecond := spreadOf(each(samples[subjects[name][i]], sample.perSecond))
			b.report.add(figure{Scenario: concurrencyTable, Subject: name, Measure: fmt.Sprintf("req/s, %d", n), Value: perSecond.median, Slices: perSecond.n})
		}
	}
	b.report.note(concurrencyTable, "by the number of connections, each of which sends one request after another")
	return nil
}
