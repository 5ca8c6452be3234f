package main

import (
	"fmt"
	"slices"
	"sync/atomic"
	"time"

	"github.com/pkce-auth/caddy-pkce-auth/test/provider"
)

const stormTable = "refresh storm"

// storms lets the tokens of many sessions expire, and then comes with several
// requests of each, all at once. The provider must be asked once for each
// session, and every request must get its answer, with a token that is good.
func storms(b *bench) error {
	f, err := b.fleet(stormTable)
	if err != nil {
		return err
	}
	sessions, each, lifetime := 200, 8, 10*time.Second
	if b.opts.quick {
		sessions, each, lifetime = 10, 4, 2*time.Second
	}
	b.tokensOf(usualSize)
	b.lifetime(lifetime)
	defer b.lifetime(tokenLifetime)
	headers := make([][]string, len(f.stores))
	for i, s := range f.stores {
		b.logf("%s: %d logins, sessions in %s", stormTable, sessions, s.store)
		made, err := b.logins(s.proxy, sessions)
		if err != nil {
			return err
		}
		headers[i] = asSessions(made)
	}
	expired := time.Now().Add(lifetime)
	b.lifetime(tokenLifetime) // what comes of the refreshes lasts
	time.Sleep(time.Until(expired))
	for i, s := range f.stores {
		before, wrong := b.refreshes(), b.upstream.wrong.Load()
		cpu, err := s.settled()
		if err != nil {
			return err
		}
		storm := newSubject(stormTable+", "+s.store, s.proxy, tokenPath, headers[i])
		waits, err := storm.all(b, each)
		storm.disconnect()
		if err != nil {
			return err
		}
		spent, err := s.settled()
		if err != nil {
			return err
		}
		refreshed := b.refreshes() - before
		if refreshed != sessions {
			return fmt.Errorf("%d refreshes of %d sessions in %s, with %d requests of each", refreshed, sessions, s.store, each)
		}
		if n := b.upstream.wrong.Load() - wrong; n != 0 {
			return fmt.Errorf("%d requests without a token that is good came to the upstream", n)
		}
		cell := func(measure string, value float64) figure {
			return figure{Scenario: stormTable, Subject: s.store, Measure: measure, Value: value}
		}
		b.report.add(cell("sessions", float64(sessions)), cell("requests", float64(len(waits))), cell("refreshes", float64(refreshed)),
			cell("p50 ms", quantile(waits, 0.5)), cell("p99 ms", quantile(waits, 0.99)), cell("last ms", waits[len(waits)-1]),
			cell("CPU µs a session", float64((spent-cpu).Microseconds())/float64(sessions)))
	}
	b.report.note(stormTable, "the tokens of all sessions have expired, and %d requests of each session come at the same moment; the provider's work is in these times, too", each)
	return nil
}

// lifetime is that of access tokens which are issued from now on.
func (b *bench) lifetime(d time.Duration) {
	b.op.Change(func(cfg *provider.Config) { cfg.TokenLifetime = d })
}

// tokenLifetime is long enough for whatever is measured.
const tokenLifetime = 12 * time.Hour

// refreshes counts those that the provider was asked for.
func (b *bench) refreshes() (n int) {
	for _, r := range b.op.Requests("token") {
		if r.Form.Get("grant_type") == "refresh_token" {
			n++
		}
	}
	return n
}

// all sends each request of the subject as many times, all at once, over a
// connection for each. It gives the waits in milliseconds, sorted.
func (s *subject) all(b *bench, times int) ([]float64, error) {
	if err := s.connect(times * len(s.requests)); err != nil {
		return nil, err
	}
	waits := make([]float64, len(s.conns))
	var next atomic.Int64
	began := time.Now()
	err := s.each(b.ctx, func(c *conn) error {
		n := int(next.Add(1)) - 1
		err := c.exchange(s.requests[n%len(s.requests)])
		waits[n] = float64(time.Since(began).Microseconds()) / 1000
		return err
	})
	slices.Sort(waits)
	return waits, err
}
