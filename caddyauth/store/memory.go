package store

import (
	"container/list"
	"context"
	"io/fs"
	"maps"
	"slices"
	"sync"
	"time"
)

// Memory is a Store in the memory of this process. It is bounded: when it is
// full, what was saved longest ago goes first. The zero value is ready.
type Memory struct {
	// Limit bounds the memory, in bytes; 0 means DefaultMemoryLimit.
	Limit int

	// Now is the clock; nil means time.Now.
	Now func() time.Time

	mu      sync.RWMutex             // every request of a session reads
	records map[string]*list.Element // of *memoryRecord
	order   list.List                // the one saved longest ago first
	indexes map[string]map[string]struct{}
	locks   map[string]struct{}
	size    int
	evicted uint64
}

// DefaultMemoryLimit is room for some fifty thousand sessions with large
// tokens, and for many more with small ones.
const DefaultMemoryLimit = 256 << 20

// recordOverhead is what a record takes besides its content, roughly.
const recordOverhead = 512

type memoryRecord struct {
	Record
	key string
}

func (r *memoryRecord) size() int {
	size := recordOverhead + 2*len(r.key) + len(r.Value)
	for _, index := range r.Indexes {
		size += len(index) + len(r.key)
	}
	return size
}

// Load implements Store.
func (m *Memory) Load(_ context.Context, key string) (Record, error) {
	m.mu.RLock()
	place := m.records[key]
	if place == nil {
		m.mu.RUnlock()
		return Record{}, fs.ErrNotExist
	}
	record := place.Value.(*memoryRecord).Record // the value is never changed in place
	m.mu.RUnlock()
	if !m.now().Before(record.Expires) {
		m.mu.Lock()
		defer m.mu.Unlock()
		m.get(key) // which drops it, if it is the same yet
		return Record{}, fs.ErrNotExist
	}
	return record, nil
}

// get returns a record that has not expired, or nil.
func (m *Memory) get(key string) *memoryRecord {
	place := m.records[key]
	if place == nil {
		return nil
	}
	r := place.Value.(*memoryRecord)
	if !m.now().Before(r.Expires) {
		m.drop(place)
		return nil
	}
	return r
}

// Save implements Store.
func (m *Memory) Save(_ context.Context, key string, record Record) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	var kept uint64
	if r := m.get(key); r != nil {
		kept = r.Version
	}
	if record.Version != kept+1 {
		return ErrConflict
	}
	if place := m.records[key]; place != nil {
		m.drop(place)
	}
	m.add(key, record)
	return nil
}

func (m *Memory) add(key string, record Record) {
	if m.records == nil {
		m.records = make(map[string]*list.Element)
		m.indexes = make(map[string]map[string]struct{})
	}
	r := &memoryRecord{Record: record, key: key}
	r.Value, r.Indexes = slices.Clone(record.Value), slices.Clone(record.Indexes)
	m.records[key] = m.order.PushBack(r)
	for _, index := range r.Indexes {
		if m.indexes[index] == nil {
			m.indexes[index] = make(map[string]struct{})
		}
		m.indexes[index][key] = struct{}{}
	}
	m.size += r.size()
	m.tidy()
}

// tidy drops from the front what has expired, and what does not fit.
func (m *Memory) tidy() {
	limit := m.Limit
	if limit == 0 {
		limit = DefaultMemoryLimit
	}
	for m.order.Len() > 1 {
		oldest := m.order.Front()
		expired := !m.now().Before(oldest.Value.(*memoryRecord).Expires)
		if !expired && m.size <= limit {
			return
		}
		if !expired {
			m.evicted++
		}
		m.drop(oldest)
	}
}

func (m *Memory) drop(place *list.Element) {
	r := m.order.Remove(place).(*memoryRecord)
	delete(m.records, r.key)
	m.size -= r.size()
	for _, index := range r.Indexes {
		delete(m.indexes[index], r.key)
		if len(m.indexes[index]) == 0 {
			delete(m.indexes, index)
		}
	}
}

// Delete implements Store.
func (m *Memory) Delete(_ context.Context, key string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if place := m.records[key]; place != nil {
		m.drop(place)
	}
	return nil
}

// Find implements Store.
func (m *Memory) Find(_ context.Context, index string) ([]string, error) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return slices.Collect(maps.Keys(m.indexes[index])), nil
}

// TryLock implements Locker.
func (m *Memory) TryLock(_ context.Context, name string) (unlock func(), ok bool, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if _, held := m.locks[name]; held {
		return nil, false, nil
	}
	if m.locks == nil {
		m.locks = make(map[string]struct{})
	}
	m.locks[name] = struct{}{}
	return sync.OnceFunc(func() {
		m.mu.Lock()
		defer m.mu.Unlock()
		delete(m.locks, name)
	}), true, nil
}

// Evicted is how many records had to go before their time because the memory
// was full.
func (m *Memory) Evicted() uint64 {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return m.evicted
}

func (m *Memory) now() time.Time {
	if m.Now == nil {
		return time.Now()
	}
	return m.Now()
}

// Interface guards
var (
	_ Store  = (*Memory)(nil)
	_ Locker = (*Memory)(nil)
)
