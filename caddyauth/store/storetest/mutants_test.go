package storetest

import (
	"context"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pkce-auth/caddy-pkce-auth/caddyauth/store"
)

// flaws are what is wrong with a store. Each is a mistake that somebody has
// made, or would.
type flaws struct {
	noCompare      bool // the last save wins
	compareUnlocks bool // between the comparison and the save, anything may happen
	conflictWrites bool // it says conflict, and saves
	resurrects     bool // a record that is gone may be saved in any version
	ignoresExpiry  bool
	keepsFirstEnd  bool // a later end is not heard of
	expiredCounts  bool // an expired record is in the way of a new one
	absentIsEmpty  bool // no error for what does not exist
	sharesValue    bool
	trimsValue     bool // stores text
	slotIndex      bool // an index has one record
	frozenIndexes  bool // a change brings no other ones
	lateIndex      bool // found a moment after it is loaded
	mortalIndex    bool // an index ends with the record that was saved last
	leakyIndex     bool // a deletion leaves them
	pageIndex      bool // the first hundred
	prefixNames    bool // a pattern matches what begins alike
	shortNames     bool // cut at 100 characters
	deafToContext  bool // a cancelled context is "there is none"
	blind          bool // the cache is never told
	immortalCache  bool // the cache does not look at the end
	openLock       bool // everybody gets it
	lockPerHandle  bool // other processes get it
	eagerUnlock    bool // whoever calls unlock frees the lock
	stuckLock      bool // the lock is never free again
	waitingLock    bool
	lockIsRecord   bool // locks and records share their names
}

// mutant is a store with flaws, over what all its handles share.
type mutant struct {
	flaws
	shared *shared
	own    map[string]bool // locks of this handle
	cache  map[string]store.Record
	finds  map[string][]string
}

type shared struct {
	mu      sync.Mutex
	records map[string]store.Record
	indexes map[string]map[string]bool
	ends    map[string]time.Time // of indexes
	locks   map[string]bool
}

func newMutants(f flaws) handles {
	s := &shared{records: map[string]store.Record{}, indexes: map[string]map[string]bool{}, ends: map[string]time.Time{}, locks: map[string]bool{}}
	handle := func() *mutant {
		return &mutant{flaws: f, shared: s, own: map[string]bool{}, cache: map[string]store.Record{}, finds: map[string][]string{}}
	}
	return handles{handle(), handle()}
}

func (m *mutant) name(name string) string {
	if m.shortNames && len(name) > 100 {
		return name[:100]
	}
	return name
}

func (m *mutant) get(key string) (store.Record, error) {
	r, ok := m.shared.records[m.name(key)]
	if !ok || !m.ignoresExpiry && !time.Now().Before(r.Expires) {
		if m.absentIsEmpty {
			return store.Record{}, nil
		}
		return store.Record{}, fs.ErrNotExist
	}
	return r, nil
}

func (m *mutant) Load(ctx context.Context, key string) (store.Record, error) {
	if err := ctx.Err(); err != nil {
		if m.deafToContext {
			return store.Record{}, fs.ErrNotExist
		}
		return store.Record{}, err
	}
	m.shared.mu.Lock()
	defer m.shared.mu.Unlock()
	return m.get(key)
}

func (m *mutant) kept(key string) uint64 {
	if m.expiredCounts {
		return m.shared.records[m.name(key)].Version
	}
	r, _ := m.get(key)
	return r.Version
}

func (m *mutant) Save(ctx context.Context, key string, r store.Record) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	m.shared.mu.Lock()
	defer m.shared.mu.Unlock()
	kept := m.kept(key)
	conflict := r.Version != kept+1 && !m.noCompare && (!m.resurrects || kept != 0 || r.Version < 2)
	if conflict && !m.conflictWrites {
		return store.ErrConflict
	}
	if m.compareUnlocks {
		m.shared.mu.Unlock()
		time.Sleep(time.Millisecond)
		m.shared.mu.Lock()
	}
	m.keep(m.name(key), r)
	if conflict {
		return store.ErrConflict
	}
	return nil
}

func (m *mutant) keep(key string, r store.Record) {
	before, existed := m.shared.records[key]
	if !m.sharesValue {
		r.Value, r.Indexes = slices.Clone(r.Value), slices.Clone(r.Indexes)
	}
	if m.trimsValue {
		r.Value = []byte(strings.TrimSpace(string(r.Value)))
	}
	if m.keepsFirstEnd && existed {
		r.Expires = before.Expires
	}
	if m.frozenIndexes && existed {
		r.Indexes = before.Indexes
	}
	m.shared.records[key] = r
	if !m.lateIndex {
		m.index(key, r)
		return
	}
	go func() {
		time.Sleep(time.Millisecond)
		m.shared.mu.Lock()
		defer m.shared.mu.Unlock()
		m.index(key, r)
	}()
}

func (m *mutant) index(key string, r store.Record) {
	for _, index := range r.Indexes {
		index = m.name(index)
		if m.shared.indexes[index] == nil || m.slotIndex {
			m.shared.indexes[index] = map[string]bool{}
		}
		m.shared.indexes[index][key] = true
		m.shared.ends[index] = r.Expires
	}
}

func (m *mutant) Delete(_ context.Context, key string) error {
	m.shared.mu.Lock()
	defer m.shared.mu.Unlock()
	delete(m.shared.records, m.name(key))
	for _, keys := range m.shared.indexes {
		if !m.leakyIndex {
			delete(keys, m.name(key))
		}
	}
	return nil
}

func (m *mutant) Find(_ context.Context, index string) ([]string, error) {
	m.shared.mu.Lock()
	defer m.shared.mu.Unlock()
	var all []string
	for name, keys := range m.shared.indexes {
		if m.mortalIndex && !time.Now().Before(m.shared.ends[name]) {
			continue
		}
		if name == m.name(index) || m.prefixNames && strings.HasPrefix(name, index) {
			for key := range keys {
				all = append(all, key)
			}
		}
	}
	if m.pageIndex {
		all = all[:min(len(all), 100)]
	}
	return all, nil
}

func (m *mutant) LoadCached(ctx context.Context, key string) (store.Record, error) {
	if !m.blind && !m.immortalCache {
		return m.Load(ctx, key)
	}
	r, cached := m.cache[key]
	if !cached {
		var err error
		if r, err = m.Load(ctx, key); err != nil {
			return r, err
		}
		m.cache[key] = r
	}
	if m.immortalCache { // it is told of changes, but time tells nobody
		m.shared.mu.Lock()
		defer m.shared.mu.Unlock()
		if now, ok := m.shared.records[key]; !ok || now.Version != r.Version {
			delete(m.cache, key)
			return m.get(key)
		}
	}
	return r, nil
}

func (m *mutant) FindCached(ctx context.Context, index string) ([]string, error) {
	if keys, ok := m.finds[index]; ok && m.blind {
		return keys, nil
	}
	keys, err := m.Find(ctx, index)
	m.finds[index] = keys
	return keys, err
}

func (m *mutant) TryLock(_ context.Context, name string) (func(), bool, error) {
	m.shared.mu.Lock()
	defer m.shared.mu.Unlock()
	locks := m.shared.locks
	if m.lockPerHandle {
		locks = m.own
	}
	if _, record := m.shared.records[name]; locks[name] && !m.openLock || record && m.lockIsRecord {
		if m.waitingLock {
			m.shared.mu.Unlock() // the clock of a bubble stands still while somebody waits for a mutex
			time.Sleep(time.Minute)
			m.shared.mu.Lock()
		}
		return nil, false, nil
	}
	locks[name] = true
	unlock := func() {
		m.shared.mu.Lock()
		defer m.shared.mu.Unlock()
		if !m.stuckLock {
			delete(locks, name)
		}
	}
	if !m.eagerUnlock {
		unlock = sync.OnceFunc(unlock)
	}
	return unlock, true, nil
}

// failing says which checks a store fails, in a bubble where time costs
// nothing.
func failing(t *testing.T, f flaws) (failed []string) {
	t.Helper()
	for _, check := range checks {
		synctest.Test(t, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			if err := check.run(ctx, newMutants(f)); err != nil {
				failed = append(failed, check.name)
			}
			time.Sleep(patience) // whatever it has started ends
		})
	}
	return failed
}

func TestStoreWithoutFlawsPasses(t *testing.T) {
	if failed := failing(t, flaws{}); len(failed) > 0 {
		t.Errorf("got %v failed, want nothing", failed)
	}
}

// A conformance that lets a broken store pass is worse than none: people would
// put it in front of their money.
func TestBrokenStoresFail(t *testing.T) {
	for _, test := range []struct {
		flaws flaws
		want  string // the check whose business it is
	}{
		{flaws{noCompare: true}, "a save follows the version before it"},
		{flaws{compareUnlocks: true}, "one of many concurrent saves wins"},
		{flaws{compareUnlocks: true}, "a save never wins over a deletion that it has not seen"},
		{flaws{conflictWrites: true}, "a save follows the version before it"},
		{flaws{resurrects: true}, "nothing comes back that was deleted"},
		{flaws{ignoresExpiry: true}, "records last until they expire, and no longer"},
		{flaws{keepsFirstEnd: true}, "a save moves the end"},
		{flaws{expiredCounts: true}, "an expired record makes room for a new one"},
		{flaws{absentIsEmpty: true}, "what was never saved does not exist"},
		{flaws{sharesValue: true}, "values do not change with the caller's"},
		{flaws{trimsValue: true}, "what is saved is loaded, whatever bytes it has"},
		{flaws{slotIndex: true}, "indexes are sets"},
		{flaws{frozenIndexes: true}, "indexes are sets"},
		{flaws{lateIndex: true}, "what is saved is found at once"},
		{flaws{mortalIndex: true}, "indexes last as long as any of their records"},
		{flaws{leakyIndex: true}, "nothing comes back that was deleted"},
		{flaws{pageIndex: true}, "an index has a thousand records"},
		{flaws{prefixNames: true}, "names reach the limits of their characters"},
		{flaws{shortNames: true}, "names reach the limits of their characters"},
		{flaws{deafToContext: true}, "a cancelled context is no answer"},
		{flaws{blind: true}, "a cached answer is a second old at most"},
		{flaws{blind: true}, "a cached index is a second old at most"},
		{flaws{immortalCache: true}, "a cached answer is a second old at most"},
		{flaws{openLock: true}, "one has the lock"},
		{flaws{openLock: true}, "one of many gets the lock"},
		{flaws{lockPerHandle: true}, "one has the lock"},
		{flaws{eagerUnlock: true}, "one has the lock"},
		{flaws{stuckLock: true}, "one has the lock"},
		{flaws{waitingLock: true}, "one has the lock"},
		{flaws{lockIsRecord: true}, "one has the lock"},
	} {
		name := strings.ReplaceAll(fmt.Sprintf("%+v", test.flaws), ":false", "")
		if failed := failing(t, test.flaws); !slices.Contains(failed, test.want) {
			t.Errorf("%s: got %v failed, want %q among them", name[strings.Index(name, ":true")-14:], failed, test.want)
		}
	}
}
