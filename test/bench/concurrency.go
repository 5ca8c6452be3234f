package main

import "fmt"

const concurrencyTable = "concurrency"

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
			cpu := spreadOf(each(samples[subjects[name][i]], sample.perRequest)).as(concurrencyTable, name, fmt.Sprintf("CPU µs, %d", n))
			cpu.At = float64(n)
			b.report.add(cpu)
		}
		for i, n := range counts {
			perSecond := spreadOf(each(samples[subjects[name][i]], sample.perSecond))
			b.report.add(figure{Scenario: concurrencyTable, Subject: name, Measure: fmt.Sprintf("req/s, %d", n), Value: perSecond.median, Slices: perSecond.n})
		}
	}
	b.report.note(concurrencyTable, "by the number of connections, each of which sends one request after another")
	return nil
}
