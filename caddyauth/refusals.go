package caddyauth

import (
	"sync"
	"time"
)

// recent is a bounded memory: what is in it is forgotten when its time is up,
// or when there is too much, the oldest first. The zero value is ready.
type recent[V any] struct {
	mu      sync.Mutex
	entries map[string]recentEntry[V]
	order   []string // of entries, the oldest first
}

type recentEntry[V any] struct {
	value V
	until time.Time
}

// maxRecent bounds such a memory.
const maxRecent = 4096

// put remembers something, in place of what was under that key. It reports
// whether nothing was.
func (m *recent[V]) put(key string, value V, now, until time.Time) (isNew bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	before, known := m.entries[key]
	if m.entries == nil {
		m.entries = make(map[string]recentEntry[V])
	}
	m.entries[key] = recentEntry[V]{value: value, until: until}
	if !known {
		m.order = append(m.order, key)
	}
	for len(m.order) > 0 {
		oldest, ok := m.entries[m.order[0]]
		if ok && now.Before(oldest.until) && len(m.order) <= maxRecent {
			break
		}
		delete(m.entries, m.order[0])
		m.order = m.order[1:]
	}
	return !known || !now.Before(before.until)
}

// get returns what is remembered under a key; take also forgets it.
func (m *recent[V]) get(key string, now time.Time, take bool) (value V, ok bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	e, known := m.entries[key]
	if !known || !now.Before(e.until) {
		return value, false
	}
	if take {
		m.entries[key] = recentEntry[V]{} // its place in the order stays
	}
	return e.value, true
}

// refusals are the tokens that the provider did not give lately.
type refusals struct{ recent[struct{}] }

func (r *refusals) note(key string, now, until time.Time) (isNew bool) {
	return r.put(key, struct{}{}, now, until)
}

func (r *refusals) has(key string, now time.Time) bool {
	_, ok := r.get(key, now, false)
	return ok
}

// parked are tokens that wait for the session which they are for.
type parked struct{ recent[*gotToken] }

func (p *parked) put(key string, got *gotToken, now time.Time) {
	p.recent.put(key, got, now, now.Add(parkedTime))
}

func (p *parked) take(key string, now time.Time) *gotToken {
	got, _ := p.get(key, now, true)
	return got
}
