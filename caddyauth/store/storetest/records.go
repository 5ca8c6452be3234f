package storetest

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"sync/atomic"
	"time"

	"github.com/pkce-auth/caddy-pkce-auth/caddyauth/store"
)

func absent(ctx context.Context, s handles) error {
	key := name()
	if err := s.lacks(ctx, key); err != nil {
		return err
	}
	if err := s.one.Delete(ctx, key); err != nil {
		return fmt.Errorf("Delete of what does not exist: got %w, want no error", err)
	}
	if got, err := s.one.Find(ctx, name()); err != nil || len(got) != 0 {
		return fmt.Errorf("Find of an index that nothing is in: got %d keys and %s, want none", len(got), fmt.Sprint(err))
	}
	return s.lacks(ctx, key)
}

func roundTrip(ctx context.Context, s handles) error {
	everyByte := make([]byte, 256)
	for i := range everyByte {
		everyByte[i] = byte(i)
	}
	random := make([]byte, 64<<10)
	_, _ = rand.Read(random) // never fails
	for _, value := range []string{
		"", "x", "\x00", "\n", " trailing \r\n", string(everyByte), "\xff\xfe not UTF-8 \xc3\x28",
		string(random), strings.Repeat("\x00", 64<<10),
	} {
		key := name()
		want := record(1, value)
		if err := save(ctx, s.one, key, want); err != nil {
			return err
		}
		if err := s.holds(ctx, key, want); err != nil {
			return err
		}
		next := record(2, value+"!")
		if err := save(ctx, s.two, key, next); err != nil {
			return err
		}
		if err := s.holds(ctx, key, next); err != nil {
			return err
		}
	}
	return nil
}

// ownership is for stores that keep what they were given: a session that is
// changed in memory must not be changed in the store.
func ownership(ctx context.Context, s handles) error {
	key, index, other := name(), name(), name()
	given := record(1, "as it was", index)
	if err := save(ctx, s.one, key, given); err != nil {
		return err
	}
	copy(given.Value, "CHANGED!!")
	given.Indexes[0] = other
	if err := s.holds(ctx, key, record(1, "as it was")); err != nil {
		return err
	}
	if err := s.one.Delete(ctx, key); err != nil {
		return err
	}
	return soon(ctx, func() error { return s.misses(ctx, index, key) })
}

// names are as long as they may be, differ at their ends only, or begin like
// another: whatever a store makes paths or patterns of them with, none is
// taken for another.
func names(ctx context.Context, s handles) error {
	long := name() + ".-..--a0z9" + strings.Repeat("x", 128)
	long = long[:127]
	short := name()
	all := []string{
		long + "a", long + "b", long + ".", long + "-", long[:126], "0" + short, "9" + short,
		short, short + ".", short + "-", short + "..", short + ".a", short + "-a", short + "a",
	}
	for _, key := range all {
		if err := save(ctx, s.one, key, record(1, key, key)); err != nil {
			return err
		}
	}
	for _, key := range all {
		if err := s.holds(ctx, key, record(1, key)); err != nil {
			return err
		}
		if err := s.finds(ctx, key, key); err != nil {
			return err
		}
		for _, other := range all {
			if other != key {
				if err := s.misses(ctx, key, other); err != nil {
					return err
				}
			}
		}
	}
	if err := s.one.Delete(ctx, short); err != nil {
		return err
	}
	if err := s.lacks(ctx, short); err != nil {
		return err
	}
	for _, key := range all {
		if key != short {
			if err := s.holds(ctx, key, record(1, key)); err != nil {
				return err
			}
		}
	}
	return nil
}

func versions(ctx context.Context, s handles) error {
	key := name()
	for _, version := range []uint64{0, 2, 3, 1 << 63, 1<<64 - 1} {
		if err := conflicts(ctx, s.one, key, record(version, "too early")); err != nil {
			return err
		}
	}
	if err := s.lacks(ctx, key); err != nil {
		return err
	}
	index := name()
	for version := uint64(1); version <= 12; version++ { // 9, 10, 11 are out of order for who compares texts
		want := record(version, fmt.Sprint("version ", version))
		if err := save(ctx, s.one, key, want); err != nil {
			return err
		}
		for _, wrong := range []uint64{0, 1, version - 1, version, version + 2} {
			if err := conflicts(ctx, s.two, key, record(wrong, "somebody else's", index)); err != nil {
				return err
			}
		}
		if err := s.holds(ctx, key, want); err != nil {
			return err
		}
	}
	return nil
}

func deletion(ctx context.Context, s handles) error {
	key, index := name(), name()
	for version := uint64(1); version <= 2; version++ {
		if err := save(ctx, s.one, key, record(version, "x", index)); err != nil {
			return err
		}
	}
	if err := s.two.Delete(ctx, key); err != nil {
		return fmt.Errorf("Delete: got %w, want no error", err)
	}
	for _, version := range []uint64{3, 2} { // an answer in flight must not revive a session (T8)
		if err := s.lacks(ctx, key); err != nil {
			return err
		}
		if err := conflicts(ctx, s.one, key, record(version, "x", index)); err != nil {
			return err
		}
	}
	if err := s.lacks(ctx, key); err != nil {
		return err
	}
	if err := soon(ctx, func() error { return s.misses(ctx, index, key) }); err != nil {
		return err
	}
	again := record(1, "a new one")
	if err := save(ctx, s.one, key, again); err != nil {
		return err
	}
	return s.holds(ctx, key, again)
}

// race is what a refresh under fire comes down to: two grants of one refresh
// token must not both be kept.
func race(ctx context.Context, s handles) error {
	const savers, rounds = 50, 5
	key := name()
	for version := uint64(1); version <= rounds; version++ {
		var winner atomic.Int64
		winner.Store(-1)
		err := inParallel(savers, func(i int) error {
			handle := []store.Store{s.one, s.two}[i%2]
			err := handle.Save(ctx, key, record(version, fmt.Sprint("saver ", i)))
			switch {
			case err == nil && !winner.CompareAndSwap(-1, int64(i)):
				return fmt.Errorf("version %d was saved by %d and by %d", version, winner.Load(), i)
			case err != nil && !errors.Is(err, store.ErrConflict):
				return fmt.Errorf("Save of version %d, which somebody else saves, too: got %w, want %w", version, err, store.ErrConflict)
			}
			return nil
		})
		if err != nil {
			return err
		}
		if winner.Load() < 0 {
			return fmt.Errorf("nobody of %d could save version %d", savers, version)
		}
		if err := s.holds(ctx, key, record(version, fmt.Sprint("saver ", winner.Load()))); err != nil {
			return err
		}
	}
	return nil
}

// raceWithDelete has a logout meet an answer in flight. Whichever comes first,
// the session is gone when both are over.
func raceWithDelete(ctx context.Context, s handles) error {
	for range 20 {
		key := name()
		if err := save(ctx, s.one, key, record(1, "x")); err != nil {
			return err
		}
		err := inParallel(8, func(i int) error {
			if i == 0 {
				return s.two.Delete(ctx, key)
			}
			handle := []store.Store{s.one, s.two}[i%2]
			if err := handle.Save(ctx, key, record(2, "y")); err != nil && !errors.Is(err, store.ErrConflict) {
				return err
			}
			return nil
		})
		if err != nil {
			return err
		}
		if err := s.lacks(ctx, key); err != nil {
			return fmt.Errorf("a Save brought back what a Delete took away meanwhile: %w", err)
		}
	}
	return nil
}

const (
	// life is how long records last whose end is waited for.
	life = 1500 * time.Millisecond

	// late and early are how inexact an end may be: late by little, for a
	// session must be over when it is over.
	late  = 100 * time.Millisecond
	early = 500 * time.Millisecond
)

// lasts says whether a record lasts until its end, by this clock, and no
// longer.
func (s handles) lasts(ctx context.Context, key string, end time.Time) error {
	bound := end.Add(10 * time.Second)
	for _, handle := range []store.Store{s.one, s.two} {
		for {
			before := time.Now()
			_, err := handle.Load(ctx, key)
			after := time.Now()
			switch {
			case err == nil && before.After(end.Add(late)):
				return fmt.Errorf("Load: got what expired %v ago, want %w", before.Sub(end), fs.ErrNotExist)
			case errors.Is(err, fs.ErrNotExist) && after.Before(end.Add(-early)):
				return fmt.Errorf("Load: got %w %v before the end", err, end.Sub(after))
			case err != nil && !errors.Is(err, fs.ErrNotExist):
				return err
			}
			if err != nil && after.After(end.Add(late)) {
				break
			}
			if err := pause(ctx, 20*time.Millisecond); err != nil || after.After(bound) {
				return fmt.Errorf("the end of %s did not come: %w", key, err)
			}
		}
	}
	return nil
}

func expiry(ctx context.Context, s handles) error {
	key, over := name(), name()
	if err := save(ctx, s.one, over, store.Record{Value: []byte("x"), Version: 1, Expires: time.Now().Add(-time.Minute)}); err != nil {
		return err
	}
	if err := s.lacks(ctx, over); err != nil {
		return fmt.Errorf("what had expired when it was saved: %w", err)
	}
	end := time.Now().Add(life)
	if err := save(ctx, s.one, key, store.Record{Value: []byte("x"), Version: 1, Expires: end}); err != nil {
		return err
	}
	return s.lasts(ctx, key, end)
}

func moved(ctx context.Context, s handles) error {
	longer, shorter := name(), name()
	end := time.Now().Add(life)
	for _, r := range []struct {
		key     string
		version uint64
		expires time.Time
	}{{longer, 1, end}, {longer, 2, farEnd}, {shorter, 1, farEnd}, {shorter, 2, end}} {
		if err := save(ctx, s.one, r.key, store.Record{Value: []byte("x"), Version: r.version, Expires: r.expires}); err != nil {
			return err
		}
	}
	if err := s.lasts(ctx, shorter, end); err != nil {
		return fmt.Errorf("a record whose end has come nearer: %w", err)
	}
	if err := s.holds(ctx, longer, record(2, "x")); err != nil {
		return fmt.Errorf("a record whose end was put off: %w", err)
	}
	return nil
}

// reborn: what has expired is not there, for a Save either.
func reborn(ctx context.Context, s handles) error {
	key, index := name(), name()
	end := time.Now().Add(life)
	for version := uint64(1); version <= 3; version++ {
		if err := save(ctx, s.one, key, store.Record{Value: []byte("x"), Version: version, Expires: end, Indexes: []string{index}}); err != nil {
			return err
		}
	}
	if err := s.lasts(ctx, key, end); err != nil {
		return err
	}
	if err := conflicts(ctx, s.one, key, record(4, "too late")); err != nil {
		return err
	}
	fresh := record(1, "a new one", index)
	if err := save(ctx, s.two, key, fresh); err != nil {
		return err
	}
	if err := s.holds(ctx, key, fresh); err != nil {
		return err
	}
	return s.finds(ctx, index, key)
}
