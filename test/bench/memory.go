package main

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"
)

const memoryTable = "memory"

// memories says what sessions keep in memory: that of processes of their own, which
// have done nothing before. A bare Caddy gets the same requests.
func memories(b *bench) error {
	counts := []int{0, 1000, b.opts.sessions}
	rest := 11 * time.Second // what comes of a login is remembered for ten, for a browser that repeats the callback
	if b.opts.quick {
		counts, rest = []int{0, 20, 200}, 0
	}
	crowds, err := b.crowdsToCompare(memoryTable)
	if err != nil {
		return err
	}
	found := make([][]held, len(crowds))
	for _, n := range counts {
		for _, c := range crowds {
			if err := c.grow(b, n); err != nil {
				return err
			}
		}
		if n > 0 {
			time.Sleep(rest)
		}
		for i, c := range crowds {
			got, err := c.afterAll(b, n)
			if err != nil {
				return err
			}
			found[i] = append(found[i], got)
		}
	}
	for i, c := range crowds {
		b.reportMemory(c.name, counts, found[i], found[0][0])
	}
	b.report.note(memoryTable, "by the number of sessions, each used twice, with tokens of %s. Own: RAM of the process's own (RssAnon). Heap: what of it is in use when the garbage is collected", kB(usualSize))
	b.report.note(memoryTable, "B each: of the heap, from the second number to the last. Mapped: pages of the binary (RssFile), as many as the kernel finds worth mapping")
	b.report.note(memoryTable, "-sessions 100000 looks at as many, which takes some minutes")
	return nil
}

func (b *bench) reportMemory(name string, counts []int, found []held, bare held) {
	cell := func(measure string, value float64) figure {
		return figure{Scenario: memoryTable, Subject: name, Measure: measure, Value: value / mebi}
	}
	b.report.add(cell("mapped MiB", found[0].mapped))
	for i, n := range counts {
		own := cell("own MiB, "+thousands(int64(n)), found[i].anonymous)
		if i == 0 && name != bareName {
			own = own.wanting(bare.anonymous/mebi+5, "idle: at most 5 MiB more than bare")
		}
		b.report.add(own, cell("heap MiB, "+thousands(int64(n)), found[i].heap))
	}
	last := len(counts) - 1
	more := cell("heap MiB more", found[last].heap-found[0].heap)
	each := cell("B each", mebi*(found[last].heap-found[1].heap)/float64(counts[last]-counts[1]))
	switch name {
	case "cookie":
		more = more.wanting(20, "sessions in cookies: at most 20 MiB more, whatever their number")
	case "memory":
		each = each.wanting(8<<10, "sessions in memory: at most 8 KiB each")
	}
	b.report.add(more, each)
}

const (
	bareName = "bare"
	mebi     = 1 << 20
)

// held is what memory a proxy has.
type held struct {
	heap      float64 // in use
	anonymous float64 // in RAM, and the process's own
	mapped    float64 // in RAM, of its binary: the kernel's to keep or to let go
}

// held says what it has when its garbage is collected.
func (p *proxy) held() (h held, err error) {
	for range 3 { // what pools hold goes at the second
		if err := p.collect(); err != nil {
			return h, err
		}
	}
	m, err := p.memory()
	if err != nil {
		return h, err
	}
	h.heap = m.HeapAlloc
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.pid))
	if err != nil {
		return h, err
	}
	for line := range strings.Lines(string(text)) {
		name, value, _ := strings.Cut(line, ":")
		into := map[string]*float64{"RssAnon": &h.anonymous, "RssFile": &h.mapped}[name]
		if into == nil {
			continue
		}
		if *into, err = strconv.ParseFloat(strings.TrimSuffix(strings.TrimSpace(value), " kB"), 64); err != nil {
			return h, fmt.Errorf("%s: %w", name, err)
		}
		*into *= 1024
	}
	return h, nil
}

// afterAll has each of n sessions used twice, and says what memory there is then;
// of none, after one request of nobody.
func (c *crowd) afterAll(b *bench, n int) (held, error) {
	if n == 0 {
		if _, err := b.answer(c.proxy, "GET / HTTP/1.1\r\nHost: "+c.addr+"\r\nAccept: */*\r\n\r\n"); err != nil {
			return held{}, err
		}
		return c.held()
	}
	s := c.subject(n)
	defer s.disconnect()
	if _, err := s.saturate(b.ctx, 0, 2*n); err != nil {
		return held{}, err
	}
	return c.held()
}
