package store

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"
	"time"
)

// model is a memory store as a child would write it: a list, in the order of
// the saves.
type model struct {
	limit   int
	now     time.Time
	records []modelRecord
	evicted uint64
}

type modelRecord struct {
	key string
	Record
}

func (m *model) find(key string) int {
	return slices.IndexFunc(m.records, func(r modelRecord) bool { return r.key == key && m.now.Before(r.Expires) })
}

func (m *model) remove(key string) {
	m.records = slices.DeleteFunc(m.records, func(r modelRecord) bool { return r.key == key })
}

func (m *model) save(key string, r Record) bool {
	var kept uint64
	if i := m.find(key); i >= 0 {
		kept = m.records[i].Version
	} else {
		m.remove(key) // expired
	}
	if r.Version != kept+1 {
		return false
	}
	m.remove(key)
	m.records = append(m.records, modelRecord{key, r})
	for len(m.records) > 1 {
		expired := !m.now.Before(m.records[0].Expires)
		if !expired && m.size() <= m.limit {
			break
		}
		if !expired {
			m.evicted++
		}
		m.records = m.records[1:]
	}
	return true
}

func (m *model) size() (sum int) {
	for _, r := range m.records {
		sum += recordOverhead + 2*len(r.key) + len(r.Value)
		for _, index := range r.Indexes {
			sum += len(index) + len(r.key)
		}
	}
	return sum
}

// both do the same with the store and with its model, and compare.
type both struct {
	Memory
	model model
}

func newBoth(limit int) *both {
	b := &both{model: model{limit: limit, now: time.Unix(1_000_000, 0)}}
	b.Limit = limit
	b.Now = func() time.Time { return b.model.now }
	return b
}

var (
	modelKeys    = []string{"a", "b", "c", "d", "longer-than-the-others"}
	modelIndexes = []string{"x", "y", "z"}
)

// step does what three bytes say, and returns what then is wrong.
func (b *both) step(op [3]byte) error {
	key := modelKeys[int(op[1])%len(modelKeys)]
	switch op[0] % 8 {
	case 0:
		b.model.now = b.model.now.Add(time.Duration(op[2]) * time.Second)
	case 1:
		b.model.remove(key)
		if err := b.Delete(nil, key); err != nil { //nolint:staticcheck // a context is not looked at
			return err
		}
	default:
		r := Record{
			Version: 1,
			Value:   bytes.Repeat(op[2:], int(op[2])*4),
			Expires: b.model.now.Add(time.Duration(op[1]) * time.Second),
		}
		if i := b.model.find(key); i >= 0 && op[0]&8 == 0 {
			r.Version = b.model.records[i].Version + 1
		}
		for i, index := range modelIndexes {
			if op[0]&(16<<i) != 0 {
				r.Indexes = append(r.Indexes, index)
			}
		}
		if op[0]%8 == 2 && len(r.Indexes) > 0 {
			r.Indexes = append(r.Indexes, r.Indexes[0]) // twice
		}
		want := b.model.save(key, r)
		if err := b.Save(nil, key, r); want != (err == nil) || err != nil && !errors.Is(err, ErrConflict) { //nolint:staticcheck // see above
			return fmt.Errorf("Save of version %d of %s: got %v, want it saved: %v", r.Version, key, err, want)
		}
	}
	return errors.Join(b.compare(), b.account())
}

func (b *both) compare() error {
	for _, key := range modelKeys {
		got, err := b.Load(nil, key) //nolint:staticcheck // see above
		i := b.model.find(key)
		if i < 0 {
			b.model.remove(key) // Load drops what has expired
			if !errors.Is(err, fs.ErrNotExist) {
				return fmt.Errorf("Load of %s: got version %d and %v, want %v", key, got.Version, err, fs.ErrNotExist)
			}
			continue
		}
		want := b.model.records[i]
		if err != nil || got.Version != want.Version || !bytes.Equal(got.Value, want.Value) || !got.Expires.Equal(want.Expires) {
			return fmt.Errorf("Load of %s: got version %d and %v, want version %d", key, got.Version, err, want.Version)
		}
	}
	for _, index := range modelIndexes {
		var want []string
		for _, r := range b.model.records {
			if slices.Contains(r.Indexes, index) {
				want = append(want, r.key)
			}
		}
		got, err := b.Find(nil, index) //nolint:staticcheck // see above
		slices.Sort(got)
		slices.Sort(want)
		if err != nil || !slices.Equal(got, want) {
			return fmt.Errorf("Find of %s: got %v and %v, want %v", index, got, err, want)
		}
	}
	return nil
}

// account counts again what the store counts as it goes.
func (b *both) account() error {
	if got, want := b.size, b.model.size(); got != want {
		return fmt.Errorf("got a size of %d bytes, want %d", got, want)
	}
	if b.size > b.Limit && len(b.records) > 1 {
		return fmt.Errorf("got %d records of %d bytes, want %d bytes at most", len(b.records), b.size, b.Limit)
	}
	if got, want := b.Evicted(), b.model.evicted; got != want {
		return fmt.Errorf("got %d evicted, want %d", got, want)
	}
	if b.order.Len() != len(b.records) || len(b.records) != len(b.model.records) {
		return fmt.Errorf("got %d records in order and %d by key, want %d", b.order.Len(), len(b.records), len(b.model.records))
	}
	for index, keys := range b.indexes {
		if len(keys) == 0 {
			return fmt.Errorf("index %s is kept, with nothing in it", index)
		}
		for key := range maps.Keys(keys) {
			if b.records[key] == nil {
				return fmt.Errorf("index %s has %s, which is not kept", index, key)
			}
		}
	}
	return nil
}

// M: whatever is done, the bytes that count are those that are kept, and the
// limit holds: an attacker who logs in for ever fills no memory.
func TestMemoryIsWhatItCounts(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	for _, limit := range []int{1, 2000, 4000, 1 << 20} {
		b := newBoth(limit)
		for i := range 20_000 {
			op := [3]byte{byte(random.Uint32()), byte(random.Uint32()), byte(random.Uint32())}
			if err := b.step(op); err != nil {
				t.Fatalf("limit %d, step %d, %v: %v", limit, i, op, err)
			}
		}
		if limit < 1<<20 && b.Evicted() == 0 {
			t.Errorf("limit %d: got nothing evicted, want something: the test tests nothing", limit)
		}
	}
}

func FuzzMemory(f *testing.F) {
	f.Add(uint16(2000), []byte{3, 0, 9, 3, 1, 9, 0, 0, 5, 1, 0, 0})
	f.Fuzz(func(t *testing.T, limit uint16, ops []byte) {
		b := newBoth(int(limit) + 1)
		for len(ops) >= 3 {
			if err := b.step([3]byte(ops)); err != nil {
				t.Fatal(err)
			}
			ops = ops[3:]
		}
	})
}
