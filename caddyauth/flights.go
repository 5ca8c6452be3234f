package caddyauth

import (
	"context"
	"errors"
	"sync"
	"time"
)

// callbacks remembers which login states were used, so that a callback which
// comes twice, as when a browser repeats a request it gave up on, spends its
// code once and still leads to the session. The zero value is ready.
type callbacks struct {
	mu    sync.Mutex
	used  map[string]*callbackFlight
	order []string // of used, the oldest first
}

// callbackFlight is one callback under way, or over.
type callbackFlight struct {
	done  chan struct{}
	began time.Time

	mu      sync.Mutex
	outcome *outcome
}

const (
	// outcomeLifetime is how long the outcome of a callback can be had by who
	// comes again with the same state: as long as a browser takes to repeat.
	outcomeLifetime = 10 * time.Second

	// maxCallbacks bounds how many used states are remembered. A state that is
	// forgotten too early could be used again, and the provider would refuse
	// its code.
	maxCallbacks = 10_000
)

// begin marks a state as used. The first who comes must run the flight; all
// others get the flight of the first.
func (c *callbacks) begin(state string, now time.Time) (f *callbackFlight, first bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if f := c.used[state]; f != nil {
		return f, false
	}
	for len(c.order) > 0 && (len(c.order) >= maxCallbacks || now.Sub(c.used[c.order[0]].began) > loginStateLifetime) {
		delete(c.used, c.order[0])
		c.order = c.order[1:]
	}
	if c.used == nil {
		c.used = make(map[string]*callbackFlight)
	}
	f = &callbackFlight{done: make(chan struct{}), began: now}
	c.used[state] = f
	c.order = append(c.order, state)
	return f, true
}

// run completes the callback and gives the outcome to all who wait, and for a
// short while to those who still come. Nobody waits for ever: a panic ends the
// flight, too.
func (f *callbackFlight) run(complete func() *outcome) {
	o := &outcome{failure: failure{reason: reasonInternal, err: errors.New("the callback panicked")}}
	defer func() { f.end(o) }()
	o = complete()
}

func (f *callbackFlight) end(o *outcome) {
	f.mu.Lock()
	f.outcome = o
	f.mu.Unlock()
	close(f.done)
	time.AfterFunc(outcomeLifetime, func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		f.outcome = nil // it holds tokens
	})
}

// wait returns the outcome, nil when it is no longer known.
func (f *callbackFlight) wait(ctx context.Context) *outcome {
	select {
	case <-f.done:
	case <-ctx.Done():
		return nil
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.outcome
}
