package main

import (
	"fmt"
	"time"
)

const memoryTable = "memory"

// standing is a proxy whose memory is looked at, and how it gets its sessions.
type standing struct {
	*proxy
	name string
	path string
	more func(n int) ([]string, error) // logs in until there are n, and gives the headers of those
}

// memories says what sessions keep in memory: that of processes of their own, which
// have done nothing before. A bare Caddy gets the same requests.
func memories(b *bench) error {
	counts := []int{0, 1000, b.opts.sessions}
	if b.opts.quick {
		counts = []int{0, 20, 200}
	}
	b.tokensOf(usualSize)
	all, err := b.standings()
	if err != nil {
		return err
	}
	idle := map[string]float64{}
	for _, s := range all {
		heaps := make([]float64, len(counts))
		for i, n := range counts {
			headers, err := s.more(n)
			if err != nil {
				return err
			}
			rss, heap, err := b.afterAll(s, headers)
			if err != nil {
				return err
			}
			heaps[i] = heap
			shown := figure{Scenario: memoryTable, Subject: s.name, Measure: "RSS MiB, " + thousands(int64(n)), Value: rss / mebi}
			if n == 0 {
				idle[s.name] = rss
				if s.name != bareName {
					shown = shown.wanting(idle[bareName]/mebi+5, "idle: at most 5 MiB more than bare")
				}
			}
			b.report.add(shown, figure{Scenario: memoryTable, Subject: s.name, Measure: "heap MiB, " + thousands(int64(n)), Value: heap / mebi})
		}
		last := len(counts) - 1
		more := heaps[last] - heaps[0]
		kept := figure{Scenario: memoryTable, Subject: s.name, Measure: "heap MiB more", Value: more / mebi}
		each := figure{Scenario: memoryTable, Subject: s.name, Measure: "B each", Value: (heaps[last] - heaps[1]) / float64(counts[last]-counts[1])}
		switch s.name {
		case "cookie":
			kept = kept.wanting(20, "sessions in cookies: at most 20 MiB more, whatever their number")
		case "memory":
			each = each.wanting(8<<10, "sessions in memory: at most 8 KiB each")
		}
		b.report.add(kept, each)
	}
	b.report.note(memoryTable, "by the number of sessions, each used twice, with tokens of %s; heap: what is in use when its garbage is collected; B each: from the second count to the last; RSS: then, too, with what the runtime holds on to", kB(usualSize))
	b.report.note(memoryTable, "-sessions 100000 looks at as many; a login takes some 5 ms here, most of it the provider's")
	return nil
}

const (
	bareName = "bare"
	mebi     = 1 << 20
)

// standings starts the proxies.
func (b *bench) standings() ([]*standing, error) {
	bare, err := b.caddy(bareCaddy, toUpstream)
	if err != nil {
		return nil, err
	}
	all := []*standing{{proxy: bare, name: bareName, path: plainPath, more: func(n int) ([]string, error) {
		headers := make([]string, n)
		for i := range headers {
			headers[i] = "Cookie: " + filler(3000) + "\r\n"
		}
		return headers, nil
	}}}
	stores := []string{"cookie", "memory"}
	if _, err := b.startRedis(); err == nil {
		stores = append(stores, "redis")
	} else {
		b.report.note(memoryTable, "sessions in redis: not measured: %v", err)
	}
	for _, store := range stores {
		p, err := b.caddy(ourCaddy, protected(store))
		if err != nil {
			return nil, err
		}
		var sessions []session
		all = append(all, &standing{proxy: p, name: store, path: tokenPath, more: func(n int) ([]string, error) {
			b.logf("%s: %d sessions in %s", memoryTable, n, store)
			made, err := b.logins(p, n-len(sessions))
			sessions = append(sessions, made...)
			return asSessions(sessions), err
		}})
	}
	return all, nil
}

// afterAll sends each request twice, and says what memory there is then: of none,
// one that belongs to nobody.
func (b *bench) afterAll(s *standing, headers []string) (rss, heap float64, err error) {
	if len(headers) > 0 {
		subject := newSubject(s.name, s.proxy, s.path, headers)
		defer subject.disconnect()
		if _, err := subject.saturate(b.ctx, 0, 2*len(headers)); err != nil {
			return 0, 0, err
		}
	} else if _, err := b.answer(s.proxy, "GET / HTTP/1.1\r\nHost: "+s.addr+"\r\nAccept: */*\r\n\r\n"); err != nil {
		return 0, 0, err
	}
	for range 3 { // what pools hold goes at the second
		if err := s.collect(); err != nil {
			return 0, 0, err
		}
	}
	time.Sleep(100 * time.Millisecond)
	m, err := s.memory()
	if err != nil {
		return 0, 0, fmt.Errorf("%s: %w", s.name, err)
	}
	rss, err = s.resident()
	return rss, m.HeapAlloc, err
}
