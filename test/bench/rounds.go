package main

import (
	"math/rand/v2"
	"time"
)

// warmUp is how many requests a subject gets before it is measured.
const warmUp = 2000

// rounds measures subjects in short slices that take turns, in another order each
// round, over connections that stay open. On a machine that does other things as
// well this is what makes them comparable: slow moments meet all of them, and
// what is compared are slices of the same round. It gives the samples of each
// subject, by round.
func (b *bench) rounds(subjects []*subject, connections int) (map[*subject][]sample, error) {
	requests := warmUp
	if b.opts.quick {
		requests /= 10
	}
	for _, s := range subjects {
		defer s.disconnect()
		if _, err := s.saturate(b.ctx, connections, 0, max(requests, len(s.requests)+connections)); err != nil {
			return nil, err
		}
	}
	samples := make(map[*subject][]sample, len(subjects))
	order := append([]*subject(nil), subjects...)
	for range b.opts.rounds {
		rand.Shuffle(len(order), func(i, j int) { order[i], order[j] = order[j], order[i] })
		for _, s := range order {
			got, err := s.saturate(b.ctx, connections, b.opts.slice, 0)
			if err != nil {
				return nil, err
			}
			samples[s] = append(samples[s], got)
			time.Sleep(time.Millisecond)
		}
	}
	return samples, nil
}

// each gives one value of each sample.
func each(samples []sample, value func(sample) float64) []float64 {
	values := make([]float64, len(samples))
	for i, s := range samples {
		values[i] = value(s)
	}
	return values
}
