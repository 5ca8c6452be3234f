package main

import (
	"context"
	"slices"
	"sync"
	"time"
)

const latencyTable = "latency"

// latency says how long users wait at a load that is the same for all, and that
// none has trouble with.
func latency(b *bench) error {
	f, err := b.fleet(latencyTable)
	if err != nil {
		return err
	}
	bare := newSubject("bare", f.bare, plainPath, []string{""})
	subjects := []*subject{bare}
	for _, s := range f.stores {
		if s.store == "cookie" {
			subjects = append(subjects, f.carrying("bare + cookie", len(s.logins[usualSize].cookie), ""))
		}
	}
	for _, s := range f.stores {
		subjects = append(subjects, s.subject(usualSize))
	}
	peers, err := b.peers(latencyTable)
	if err != nil {
		return err
	}
	subjects = append(subjects, peers...)
	found := map[*subject]*[2][]float64{}
	slice := 2 * b.opts.slice // for there to be a 99th percentile
	for _, s := range subjects {
		found[s] = &[2][]float64{}
		defer s.disconnect()
		if _, err := s.saturate(b.ctx, 0, 500); err != nil {
			return err
		}
	}
	err = b.turns(subjects, func(s *subject) error {
		waits, err := s.pace(b.ctx, b.opts.rate, slice)
		if err != nil {
			return err
		}
		found[s][0] = append(found[s][0], quantile(waits, 0.5))
		found[s][1] = append(found[s][1], quantile(waits, 0.99))
		return nil
	})
	if err != nil {
		return err
	}
	for _, s := range subjects {
		for i, measure := range []string{"p50 µs", "p99 µs"} {
			b.report.add(spreadOf(found[s][i]).as(latencyTable, s.name, measure))
		}
		b.report.add(paired(found[s][0], found[bare][0], difference).as(latencyTable, s.name, "p50 above bare µs"))
	}
	b.report.note(latencyTable, "%d requests/s, whatever the answers take; a wait counts from when its request was due", b.opts.rate)
	return nil
}

// pace sends requests at a rate, whatever the answers take (open loop), over the
// subject's connections: a request whose time has come when all are busy waits,
// and its wait counts. It gives the waits in microseconds, sorted.
func (s *subject) pace(ctx context.Context, rate int, d time.Duration) ([]float64, error) {
	if err := s.connect(s.parallel); err != nil {
		return nil, err
	}
	requests := max(1, int(d.Seconds()*float64(rate)))
	due := make(chan time.Time, requests)
	go func() {
		defer close(due)
		began := time.Now()
		for i := range requests {
			at := began.Add(time.Duration(i) * time.Second / time.Duration(rate))
			sleepUntil(at)
			due <- at
		}
	}()
	var mu sync.Mutex
	waits := make([]float64, 0, requests)
	err := s.each(ctx, func(c *conn) error {
		for at := range due {
			if err := c.exchange(s.request()); err != nil {
				return err
			}
			wait := time.Since(at)
			mu.Lock()
			waits = append(waits, float64(wait.Nanoseconds())/1000)
			mu.Unlock()
		}
		return nil
	})
	slices.Sort(waits)
	return waits, err
}
