package session

import (
	"sync"
	"time"
)

// Revocations remembers which sessions were ended before their time, so that
// neither a copy of a cookie nor an answer that was under way brings one back.
// The zero value is ready.
type Revocations struct {
	mu    sync.RWMutex
	ended map[string]time.Time // session ID → until when it must be remembered
	order []string             // the oldest first
}

// maxRevocations bounds the memory, at some 100 bytes each.
const maxRevocations = 100_000

// Add remembers that a session has ended, until it would have by itself.
func (r *Revocations) Add(id string, now, until time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for len(r.order) > 0 && (len(r.order) >= maxRevocations || now.After(r.ended[r.order[0]])) {
		delete(r.ended, r.order[0])
		r.order = r.order[1:]
	}
	if r.ended == nil {
		r.ended = make(map[string]time.Time)
	}
	if _, ok := r.ended[id]; !ok {
		r.order = append(r.order, id)
	}
	r.ended[id] = until
}

// Has reports whether a session has ended.
func (r *Revocations) Has(id string) bool {
	r.mu.RLock()
	defer r.mu.RUnlock()
	if len(r.ended) == 0 {
		return false
	}
	_, ok := r.ended[id]
	return ok
}
