package main

import "math"

const allocationTable = "allocations"

// allocations adds what the runtimes of the Caddys say of their allocations for
// one request.
func (b *bench) allocations(subjects []*subject) error {
	for _, s := range subjects {
		if s.proxy.admin == nil || s.proxy.behind != nil {
			continue // not a Caddy, or not Caddy alone
		}
		count, bytes, err := b.allocated(s)
		if err != nil {
			return err
		}
		b.report.add(
			figure{Scenario: allocationTable, Subject: s.name, Measure: "allocations", Value: count},
			figure{Scenario: allocationTable, Subject: s.name, Measure: "bytes", Value: bytes},
		)
	}
	b.report.note(allocationTable, "of the proxy for one request")
	return nil
}

// allocated asks before and after some thousand requests, outside the slices, for
// asking stops the process for a moment. What asking itself allocates is taken
// off.
func (b *bench) allocated(s *subject) (count, bytes float64, err error) {
	requests := 4000
	if b.opts.quick {
		requests = 400
	}
	defer s.disconnect()
	if _, err := s.saturate(b.ctx, 0, 100); err != nil { // opens the connections
		return 0, 0, err
	}
	var asked [3]memory
	for i := range asked {
		if i == 2 {
			got, err := s.saturate(b.ctx, 0, requests)
			if err != nil {
				return 0, 0, err
			}
			requests = got.requests
		}
		if asked[i], err = s.proxy.memory(); err != nil {
			return 0, 0, err
		}
	}
	perRequest := func(of func(memory) float64) float64 {
		asking := of(asked[1]) - of(asked[0])
		return math.Round(max(0, of(asked[2])-of(asked[1])-asking) / float64(requests))
	}
	count = perRequest(func(m memory) float64 { return m.Mallocs })
	return count, perRequest(func(m memory) float64 { return m.TotalAlloc }), nil
}
