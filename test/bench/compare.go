package main

import (
	"fmt"
)

const (
	compareTable = "compare"
	sizeTable    = "token size"
)

// The columns that others read, too.
const (
	cpuColumn   = "CPU µs"
	extraColumn = "above control µs"
)

// match is a subject with what it is compared with.
type match struct {
	*subject
	control *subject // the same bytes, without pkce_auth; nil: bare
	store   string   // empty: a control
	size    int
}

// compare is the main question: what does a request cost with pkce_auth, beside
// the same Caddy without it that carries the same bytes?
func compare(b *bench) error {
	f, err := b.fleet(compareTable)
	if err != nil {
		return err
	}
	bare := newSubject("bare", f.bare, plainPath, []string{""})
	matches := f.matches(bare)
	peers, err := b.peers(compareTable)
	if err != nil {
		return err
	}
	for _, p := range peers {
		matches = append(matches, match{subject: p})
	}
	subjects := make([]*subject, len(matches))
	for i, m := range matches {
		subjects[i] = m.subject
	}
	samples, err := b.rounds(subjects)
	if err != nil {
		return err
	}
	for _, m := range matches {
		b.reportMatch(m, bare, samples)
		if err := b.allocations(m.subject); err != nil {
			return err
		}
	}
	b.report.note(compareTable, "control: bare Caddy that carries a meaningless cookie of the same length; of a control itself: bare")
	b.report.note(compareTable, "+ token: the client, too, sends an Authorization header as long as the one pkce_auth makes for the upstream")
	b.sizes(f)
	return nil
}

// matches are bare Caddy, its controls, and each store with each size of tokens.
// Tickets are as long whatever is behind them, so that stores share a control.
func (f *fleet) matches(bare *subject) []match {
	controls, ours := []match{{subject: bare}}, []match(nil)
	made := map[string]*subject{}
	control := func(name string, cookie int, token string) *subject {
		key := fmt.Sprint(cookie, "+", len(token))
		if made[key] == nil {
			made[key] = f.carrying(name, cookie, token)
			controls = append(controls, match{subject: made[key], control: bare})
		}
		return made[key]
	}
	for _, s := range f.stores {
		for _, size := range tokenSizes {
			length, token := len(s.logins[size].cookie), s.tokens[size][0]
			name := fmt.Sprintf("bare + cookie %d B", length)
			m := match{subject: s.subject(size), control: control(name, length, ""), store: s.store, size: size}
			control(name+" + token "+kB(size), length, token)
			ours = append(ours, m)
		}
	}
	return append(controls, ours...)
}

// reportMatch adds the row of one subject. Targets are those of issue 7 for
// tokens of the usual size.
func (b *bench) reportMatch(m match, bare *subject, samples map[*subject][]sample) {
	cpu := func(s *subject) []float64 { return each(samples[s], sample.perRequest) }
	own := cpu(m.subject)
	b.report.add(spreadOf(own).as(compareTable, m.name, cpuColumn))
	if m.subject == bare {
		b.report.add(figure{Scenario: compareTable, Subject: m.name, Measure: "× bare", Value: 1})
	} else {
		control := m.control
		if control == nil {
			control = bare
		}
		extra := paired(own, cpu(control), difference).as(compareTable, m.name, extraColumn)
		if m.store != "" && m.store != "redis" && m.size == usualSize {
			extra = extra.wanting(6, "CPU per request at most 6 µs above the control")
		}
		times := paired(own, cpu(bare), ratio).as(compareTable, m.name, "× bare")
		if m.store == "memory" && m.size == usualSize {
			times = times.wanting(1.12, "CPU per request at most 1.12 × bare")
		}
		b.report.add(extra, times)
	}
	perSecond := spreadOf(each(samples[m.subject], sample.perSecond)).as(compareTable, m.name, "req/s")
	perSecond.Q1, perSecond.Q3 = 0, 0 // one more column of quartiles is too wide
	b.report.add(perSecond)
}

// allocations adds what a proxy's runtime says of its allocations for one
// request. It is asked before and after some thousand requests, outside the
// slices, for asking it stops the process for a moment; what asking itself
// allocates is taken off.
func (b *bench) allocations(s *subject) error {
	if s.proxy.admin == nil {
		return nil
	}
	requests := 4000
	if b.opts.quick {
		requests = 400
	}
	defer s.disconnect()
	if _, err := s.saturate(b.ctx, 0, 100); err != nil { // opens the connections
		return err
	}
	var asked [3]memory
	for i := range asked {
		var err error
		if i == 2 {
			var got sample
			if got, err = s.saturate(b.ctx, 0, requests); err != nil {
				return err
			}
			requests = got.requests
		}
		if asked[i], err = s.proxy.memory(); err != nil {
			return err
		}
	}
	perRequest := func(of func(memory) float64) float64 {
		own := of(asked[1]) - of(asked[0])
		return max(0, of(asked[2])-of(asked[1])-own) / float64(requests)
	}
	b.report.add(
		figure{Scenario: compareTable, Subject: s.name, Measure: "allocs", Value: round(perRequest(func(m memory) float64 { return m.Mallocs }))},
		figure{Scenario: compareTable, Subject: s.name, Measure: "B", Value: round(perRequest(func(m memory) float64 { return m.TotalAlloc }))},
	)
	return nil
}

// sizes shows the same by the size of tokens: what is above the control, which
// the bytes themselves are not part of.
func (b *bench) sizes(f *fleet) {
	smallest, largest := tokenSizes[0], tokenSizes[len(tokenSizes)-1]
	for _, s := range f.stores {
		var ends [2]float64
		for _, size := range tokenSizes {
			extra, _ := b.report.find(compareTable, s.store+" "+kB(size), extraColumn)
			b.report.add(figure{Scenario: sizeTable, Subject: s.store, Measure: kB(size), Value: extra.Value, Q1: extra.Q1, Q3: extra.Q3, Slices: extra.Slices})
			switch size {
			case smallest:
				ends[0] = extra.Value
			case largest:
				ends[1] = extra.Value
			}
		}
		b.report.add(figure{Scenario: sizeTable, Subject: s.store, Measure: "each kB", Value: (ends[1] - ends[0]) / float64(largest-smallest) * 1000})
	}
	b.report.note(sizeTable, "CPU µs above the control, by the size of the access token")
}
