package main

import (
	"fmt"
	"strings"
)

const (
	compareTable = "compare"
	sizeTable    = "token size"
	peerTable    = "peers"
)

// The columns of compare.
const (
	cpuColumn   = "CPU µs"
	bytesColumn = "bytes µs"
	authColumn  = "auth µs"
	apartColumn = "token apart µs"
	timesColumn = "× bare"
	rateColumn  = "req/s"
)

// match is a subject with what it is compared with.
type match struct {
	*subject
	store     string   // of ours; else empty
	size      int      // of the tokens of ours
	bytes     *subject // bare Caddy with as many bytes; nil: just bare Caddy
	withToken *subject // bare Caddy with as many bytes, and the token
}

// compare is the main question: what does a request cost with pkce_auth, beside
// the same Caddy without it that carries the same bytes?
func compare(b *bench) error {
	f, err := b.fleet(compareTable)
	if err != nil {
		return err
	}
	bare := newSubject("bare", f.bare, plainPath, []string{""})
	controls, matches := f.matches()
	peers, err := b.peers(compareTable)
	if err != nil {
		return err
	}
	for _, p := range peers {
		matches = append(matches, match{subject: p})
	}
	subjects := append([]*subject{bare}, controls...)
	for _, m := range matches {
		subjects = append(subjects, m.subject)
	}
	samples, err := b.rounds(subjects)
	if err != nil {
		return err
	}
	c := comparison{b.report, bare, samples}
	c.plain(bare)
	for _, s := range controls {
		c.control(s)
	}
	for _, m := range matches {
		c.match(m)
	}
	b.report.note(compareTable, "bytes: above bare, of bare Caddy with a cookie that means nothing, as long as that of the session")
	b.report.note(compareTable, "auth: above that; token apart: above bare Caddy that gets the access token from the client, too")
	b.sizes(f)
	b.beside(peers)
	return b.allocations(subjects)
}

// beside sets what authentication takes of ours beside what it takes of the peers.
// Targets are those of issue 7.
func (b *bench) beside(peers []*subject) {
	own, _ := b.report.find(compareTable, "cookie "+kB(usualSize), authColumn)
	for _, p := range peers {
		theirs, _ := b.report.find(compareTable, p.name, authColumn)
		share := figure{Scenario: peerTable, Subject: p.name, Measure: "ours ÷ theirs", Value: own.Value / theirs.Value}
		switch {
		case strings.HasPrefix(p.name, "forward_auth"):
			share = share.wanting(1.0/15, "a fifteenth of forward_auth")
		case p.name == "oauth2-proxy":
			share = share.wanting(1.0/5, "a fifth of oauth2-proxy")
		}
		theirs.Scenario, theirs.Measure = peerTable, "their auth µs"
		b.report.add(theirs, figure{Scenario: peerTable, Subject: p.name, Measure: "our auth µs", Value: own.Value, Q1: own.Q1, Q3: own.Q3, Slices: own.Slices}, share)
	}
	b.report.note(peerTable, "ours: sessions in cookies, tokens of %s", kB(usualSize))
}

// matches are our stores with each size of tokens, and their controls. Tickets
// are as long whatever is behind them, so that stores share a control.
func (f *fleet) matches() (controls []*subject, ours []match) {
	made := map[string]*subject{}
	control := func(name string, cookie int, token string) *subject {
		key := fmt.Sprint(cookie, "+", len(token))
		if made[key] == nil {
			made[key] = f.carrying(name, cookie, token)
			controls = append(controls, made[key])
		}
		return made[key]
	}
	for _, s := range f.stores {
		for _, size := range tokenSizes {
			length, token := len(s.logins[size].cookie), s.tokens[size][0]
			name := fmt.Sprintf("bare %d B", length)
			ours = append(ours, match{
				subject: s.subject(size), store: s.store, size: size,
				bytes:     control(name, length, ""),
				withToken: control(name+", token "+kB(size), length, token),
			})
		}
	}
	return controls, ours
}

// comparison makes rows of samples.
type comparison struct {
	report  *report
	bare    *subject
	samples map[*subject][]sample
}

func (c comparison) cpu(s *subject) []float64 { return each(c.samples[s], sample.perRequest) }

// above is how much CPU time one subject takes above another, by rounds.
func (c comparison) above(s, other *subject) spread {
	return paired(c.cpu(s), c.cpu(other), difference)
}

// plain adds what every row has.
func (c comparison) plain(s *subject) {
	c.report.add(
		spreadOf(c.cpu(s)).as(compareTable, s.name, cpuColumn).inShort(),
		spreadOf(each(c.samples[s], sample.perSecond)).as(compareTable, s.name, rateColumn).inShort(),
	)
}

func (c comparison) control(s *subject) {
	c.plain(s)
	c.report.add(
		c.above(s, c.bare).as(compareTable, s.name, bytesColumn).inShort(),
		paired(c.cpu(s), c.cpu(c.bare), ratio).as(compareTable, s.name, timesColumn),
	)
}

// match adds the row of one of ours, or of a peer. Targets are those of issue 7,
// for tokens of the usual size.
func (c comparison) match(m match) {
	c.plain(m.subject)
	times := paired(c.cpu(m.subject), c.cpu(c.bare), ratio).as(compareTable, m.name, timesColumn)
	if m.bytes == nil {
		c.report.add(c.above(m.subject, c.bare).as(compareTable, m.name, authColumn), times)
		return
	}
	auth := c.above(m.subject, m.bytes).as(compareTable, m.name, authColumn)
	if m.size == usualSize {
		auth = auth.wanting(6, "CPU per request at most 6 µs above bare Caddy with as many bytes")
	}
	if m.size == usualSize && m.store == "memory" {
		times = times.wanting(1.12, "CPU per request at most 1.12 × bare")
	}
	c.report.add(
		c.above(m.bytes, c.bare).as(compareTable, m.name, bytesColumn).inShort(), auth,
		c.above(m.subject, m.withToken).as(compareTable, m.name, apartColumn), times,
	)
}

// sizes shows the same by the size of tokens: what is above the control, which
// the bytes of the cookie are not part of.
func (b *bench) sizes(f *fleet) {
	for _, s := range f.stores {
		values := make([]float64, len(tokenSizes))
		for i, size := range tokenSizes {
			auth, _ := b.report.find(compareTable, s.store+" "+kB(size), authColumn)
			auth.Scenario, auth.Subject, auth.Measure, auth.Target = sizeTable, s.store, kB(size), nil
			auth.At, values[i] = float64(size)/1000, auth.Value
			b.report.add(auth)
		}
		last := len(tokenSizes) - 1
		slope := (values[last] - values[0]) / float64(tokenSizes[last]-tokenSizes[0]) * 1000
		b.report.add(figure{Scenario: sizeTable, Subject: s.store, Measure: "each kB", Value: slope})
	}
	b.report.note(sizeTable, "auth µs, by the size of the access token and of the ID token")
}
