package main

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"time"
)

// warmUp is how many requests a subject gets before it is measured.
const warmUp = 2000

// rounds measures subjects in short slices that take turns, over connections
// that stay open. It gives the samples of each subject, by round.
func (b *bench) rounds(subjects []*subject) (map[*subject][]sample, error) {
	requests := warmUp
	if b.opts.quick {
		requests /= 10
	}
	for _, s := range subjects {
		defer s.disconnect()
		if _, err := s.saturate(b.ctx, 0, max(requests, len(s.requests))); err != nil {
			return nil, err
		}
	}
	samples := make(map[*subject][]sample, len(subjects))
	came, sent := b.upstream.requests.Load(), 0
	err := b.turns(subjects, func(s *subject) error {
		got, err := s.saturate(b.ctx, b.opts.slice, 0)
		samples[s] = append(samples[s], got)
		sent += got.requests
		return err
	})
	if came = b.upstream.requests.Load() - came; err == nil && came != int64(sent) {
		err = fmt.Errorf("the upstream got %d requests of %d", came, sent)
	}
	return samples, err
}

// turns has each subject measured once a round, in another order each round. On
// a machine that does other things as well this is what makes subjects
// comparable: slow moments meet all of them, and what is compared is of the same
// round.
func (b *bench) turns(subjects []*subject, measure func(*subject) error) error {
	order := slices.Clone(subjects)
	for range b.opts.rounds {
		rand.Shuffle(len(order), func(i, j int) { order[i], order[j] = order[j], order[i] })
		for _, s := range order {
			if err := measure(s); err != nil {
				return err
			}
			time.Sleep(time.Millisecond)
		}
	}
	return nil
}

// each gives one value of each sample.
func each(samples []sample, value func(sample) float64) []float64 {
	values := make([]float64, len(samples))
	for i, s := range samples {
		values[i] = value(s)
	}
	return values
}
