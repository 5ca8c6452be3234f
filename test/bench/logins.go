package main

import "time"

const loginTable = "logins"

// manyLogins says what a login costs the proxy: all of its requests, from the
// first that is sent to the provider to the one that the upstream answers.
func manyLogins(b *bench) error {
	f, err := b.fleet(loginTable)
	if err != nil {
		return err
	}
	rounds, n := 10, 40
	if b.opts.quick {
		rounds, n = 2, 4
	}
	for _, size := range tokenSizes[:2] {
		b.tokensOf(size)
		cpu, perSecond := make([][]float64, len(f.stores)), make([][]float64, len(f.stores))
		for round := range rounds + 1 {
			for i, s := range f.stores {
				before, err := s.settled()
				if err != nil {
					return err
				}
				began := time.Now()
				if _, err := b.logins(s.proxy, n); err != nil {
					return err
				}
				elapsed := time.Since(began)
				after, err := s.settled()
				if err != nil {
					return err
				}
				if round == 0 {
					continue // it warms up
				}
				cpu[i] = append(cpu[i], float64((after-before).Microseconds())/float64(n))
				perSecond[i] = append(perSecond[i], float64(n)/elapsed.Seconds())
			}
		}
		for i, s := range f.stores {
			subject := s.store + " " + kB(size)
			spent := spreadOf(cpu[i]).as(loginTable, subject, "CPU µs each")
			if size == usualSize {
				spent = spent.wanting(1500, "CPU per login at most 1.5 ms")
			}
			b.report.add(spent, spreadOf(perSecond[i]).as(loginTable, subject, "logins/s"))
		}
	}
	b.report.note(loginTable, "a login is three requests to the proxy and two of it to the provider; logins/s counts the provider's work, and the browsers', too: both are in the bench's process")
	return nil
}
