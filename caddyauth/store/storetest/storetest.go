// Package storetest is the conformance of session stores: what every store of
// the namespace `pkce_auth.sessions` passes.
//
//	func TestConformance(t *testing.T) {
//		storetest.Run(t, func(t *testing.T) store.Store { return open(t, address) },
//			storetest.SecondHandle(func(t *testing.T, _ store.Store) store.Store { return open(t, address) }))
//	}
package storetest

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pkce-auth/caddy-pkce-auth/caddyauth/store"
)

// Option says more about the store that is tested.
type Option func(*config)

type config struct {
	second func(t *testing.T, first store.Store) store.Store
}

// SecondHandle says how to open a store that was opened before once more, as
// another process would: with a connection, a cache and locks of its own, over
// the same records. A store that is in one process only does without.
func SecondHandle(open func(t *testing.T, first store.Store) store.Store) Option {
	return func(c *config) { c.second = open }
}

// Run holds a store to the contract, and to those of store.Cached and
// store.Locker if it implements them. The store is opened once for each
// subtest, and closed by what open registers with t.Cleanup.
//
// All names are random, so that a store may be used that others use, too. It
// takes some seconds, because records expire in it.
func Run(t *testing.T, open func(t *testing.T) store.Store, options ...Option) {
	t.Helper()
	var c config
	for _, option := range options {
		option(&c)
	}
	for _, check := range checks {
		t.Run(check.name, func(t *testing.T) {
			s := handles{one: open(t)}
			s.two = s.one
			if c.second != nil {
				s.two = c.second(t, s.one)
			}
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			if err := check.run(ctx, s); err != nil {
				t.Error(err)
			}
		})
	}
}

// patience is how long a check may take on a slow machine, with a slow store.
const patience = 2 * time.Minute

// handles are two of the same store: what is done with one is seen through the
// other.
type handles struct{ one, two store.Store }

// check is a part of the contract. It returns what is wrong, so that it can be
// tested itself, with stores that are broken.
type check struct {
	name string
	run  func(ctx context.Context, s handles) error
}

var checks = []check{
	{"what was never saved does not exist", absent},
	{"what is saved is loaded, whatever bytes it has", roundTrip},
	{"values do not change with the caller's", ownership},
	{"names reach the limits of their characters", names},
	{"a save follows the version before it", versions},
	{"nothing comes back that was deleted", deletion},
	{"one of many concurrent saves wins", race},
	{"a save never wins over a deletion that it has not seen", raceWithDelete},
	{"records last until they expire, and no longer", expiry},
	{"a save moves the end", moved},
	{"an expired record makes room for a new one", reborn},
	{"indexes are sets", indexes},
	{"indexes last as long as any of their records", indexExpiry},
	{"what is saved is found at once", found},
	{"an index has a thousand records", large},
	{"a cancelled context is no answer", cancelled},
	{"a cached answer is a second old at most", cachedRecords},
	{"a cached index is a second old at most", cachedIndexes},
	{"one has the lock", locks},
	{"one of many gets the lock", lockRace},
}

// name makes a name that nobody else has.
func name() string { return strings.ToLower(rand.Text()) }

// farEnd is when records expire whose end is not waited for.
var farEnd = time.Now().Add(24 * time.Hour)

// record makes a record of a version that lasts.
func record(version uint64, value string, indexes ...string) store.Record {
	return store.Record{Value: []byte(value), Version: version, Expires: farEnd, Indexes: indexes}
}

// save saves what must be possible to save.
func save(ctx context.Context, s store.Store, key string, r store.Record) error {
	if err := s.Save(ctx, key, r); err != nil {
		return fmt.Errorf("Save of version %d of %s: got %w, want no error", r.Version, key, err)
	}
	return nil
}

// conflicts tries to save what must not be saved.
func conflicts(ctx context.Context, s store.Store, key string, r store.Record) error {
	if err := s.Save(ctx, key, r); !errors.Is(err, store.ErrConflict) {
		return fmt.Errorf("Save of version %d of %s: got %s, want %w", r.Version, key, fmt.Sprint(err), store.ErrConflict)
	}
	return nil
}

// holds says whether both handles load a record as it was saved.
func (s handles) holds(ctx context.Context, key string, want store.Record) error {
	for _, handle := range []store.Store{s.one, s.two} {
		got, err := handle.Load(ctx, key)
		if err != nil {
			return fmt.Errorf("Load of %s: got %w, want version %d", key, err, want.Version)
		}
		if err := same(got, want); err != nil {
			return fmt.Errorf("Load of %s: %w", key, err)
		}
	}
	return nil
}

// lacks says whether both handles know nothing of a record.
func (s handles) lacks(ctx context.Context, key string) error {
	for _, handle := range []store.Store{s.one, s.two} {
		if got, err := handle.Load(ctx, key); !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("Load of %s: got version %d and %s, want %w", key, got.Version, fmt.Sprint(err), fs.ErrNotExist)
		}
	}
	return nil
}

// resolution is how coarse a store may be with the end of a record.
const resolution = 10 * time.Millisecond

func same(got, want store.Record) error {
	if got.Version != want.Version {
		return fmt.Errorf("got version %d, want %d", got.Version, want.Version)
	}
	if string(got.Value) != string(want.Value) {
		return fmt.Errorf("got a value of %d bytes that begins with %.20q, want %d and %.20q", len(got.Value), got.Value, len(want.Value), want.Value)
	}
	if off := got.Expires.Sub(want.Expires); off > resolution || off < -resolution {
		return fmt.Errorf("got the end %v, want %v", got.Expires, want.Expires)
	}
	return nil
}

// finds says whether both handles find keys under an index, among others.
func (s handles) finds(ctx context.Context, index string, keys ...string) error {
	for _, handle := range []store.Store{s.one, s.two} {
		got, err := handle.Find(ctx, index)
		if err != nil {
			return fmt.Errorf("Find of %s: got %w, want %d keys", index, err, len(keys))
		}
		slices.Sort(got)
		for _, key := range keys {
			if _, ok := slices.BinarySearch(got, key); !ok {
				return fmt.Errorf("Find of %s: got %d keys, but not %s", index, len(got), key)
			}
		}
	}
	return nil
}

// misses says whether both handles find none of some keys under an index.
func (s handles) misses(ctx context.Context, index string, keys ...string) error {
	for _, handle := range []store.Store{s.one, s.two} {
		got, err := handle.Find(ctx, index)
		if err != nil {
			return fmt.Errorf("Find of %s: got %w, want no error", index, err)
		}
		for _, key := range keys {
			if slices.Contains(got, key) {
				return fmt.Errorf("Find of %s: got %s, which is not in it", index, key)
			}
		}
	}
	return nil
}

// soon waits until a condition holds, and gives up after ten seconds.
func soon(ctx context.Context, holds func() error) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	for {
		err := holds()
		if err == nil {
			return nil
		}
		if pause(ctx, 20*time.Millisecond) != nil {
			return fmt.Errorf("after ten seconds: %w", err)
		}
	}
}

func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// inParallel does something n times at once, and returns the first thing that
// was wrong.
func inParallel(n int, do func(i int) error) error {
	failures := make(chan error, n)
	start := make(chan struct{})
	for i := range n {
		go func() {
			<-start
			failures <- do(i)
		}()
	}
	close(start)
	var first error
	for range n {
		if err := <-failures; err != nil && first == nil {
			first = err
		}
	}
	return first
}
