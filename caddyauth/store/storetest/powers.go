package storetest

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"time"

	"github.com/pkce-auth/caddy-pkce-auth/caddyauth/store"
)

// staleness is how old a cached answer may be, and half a second for a machine
// that has much to do.
const staleness = 1500 * time.Millisecond

// cachedRecords asks for records until they must be in every cache, changes
// them elsewhere, and asks again.
func cachedRecords(ctx context.Context, s handles) error {
	cached, ok := s.two.(store.Cached)
	if !ok {
		return nil
	}
	created, changed, deleted := name(), name(), name()
	for _, key := range []string{changed, deleted} {
		if err := save(ctx, s.one, key, record(1, "x")); err != nil {
			return err
		}
	}
	if _, err := cached.LoadCached(ctx, created); !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("LoadCached of what does not exist: got %s, want %w", fmt.Sprint(err), fs.ErrNotExist)
	}
	for range 3 {
		for _, key := range []string{changed, deleted} {
			got, err := cached.LoadCached(ctx, key)
			if err != nil {
				return fmt.Errorf("LoadCached: got %w, want version 1", err)
			}
			if err := same(got, record(1, "x")); err != nil {
				return fmt.Errorf("LoadCached: %w", err)
			}
		}
	}
	err := errors.Join(save(ctx, s.one, created, record(1, "x")), save(ctx, s.one, changed, record(2, "y")), s.one.Delete(ctx, deleted))
	if err != nil {
		return err
	}
	if err := pause(ctx, staleness); err != nil {
		return err
	}
	if got, err := cached.LoadCached(ctx, created); err != nil || got.Version != 1 {
		return fmt.Errorf("LoadCached of what was saved a second ago: got version %d and %v, want 1", got.Version, fmt.Sprint(err))
	}
	if got, err := cached.LoadCached(ctx, changed); err != nil || same(got, record(2, "y")) != nil {
		return fmt.Errorf("LoadCached of what was changed a second ago: got version %d and %v, want 2", got.Version, fmt.Sprint(err))
	}
	if got, err := cached.LoadCached(ctx, deleted); !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("LoadCached of what was deleted a second ago: got version %d and %s, want %w", got.Version, fmt.Sprint(err), fs.ErrNotExist)
	}
	return cachedExpiry(ctx, s.one, cached)
}

// cachedExpiry: nobody changes what expires, so nobody tells the cache.
func cachedExpiry(ctx context.Context, s store.Store, cached store.Cached) error {
	key := name()
	end := time.Now().Add(life)
	if err := save(ctx, s, key, store.Record{Version: 1, Expires: end}); err != nil {
		return err
	}
	for time.Now().Before(end.Add(late)) {
		if _, err := cached.LoadCached(ctx, key); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		if err := pause(ctx, 50*time.Millisecond); err != nil {
			return err
		}
	}
	if _, err := cached.LoadCached(ctx, key); !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("LoadCached of what has expired: got %s, want %w", fmt.Sprint(err), fs.ErrNotExist)
	}
	return nil
}

func cachedIndexes(ctx context.Context, s handles) error {
	cached, ok := s.two.(store.Cached)
	if !ok {
		return nil
	}
	index := name()
	for range 3 {
		if got, err := cached.FindCached(ctx, index); err != nil || len(got) != 0 {
			return fmt.Errorf("FindCached of an index that nothing is in: got %d keys and %s, want none", len(got), fmt.Sprint(err))
		}
	}
	var keys []string
	for range 2 {
		key := name()
		keys = append(keys, key)
		if err := save(ctx, s.one, key, record(1, "x", index)); err != nil {
			return err
		}
		if err := pause(ctx, staleness); err != nil {
			return err
		}
		got, err := cached.FindCached(ctx, index)
		if err != nil {
			return fmt.Errorf("FindCached: got %w, want %d keys", err, len(keys))
		}
		for _, key := range keys {
			if !slices.Contains(got, key) {
				return fmt.Errorf("FindCached lacks what was saved a second ago")
			}
		}
	}
	return nil
}

func locks(ctx context.Context, s handles) error {
	one, ok := s.one.(store.Locker)
	if !ok {
		return nil
	}
	two, ok := s.two.(store.Locker)
	if !ok {
		return errors.New("the second handle is no store.Locker")
	}
	lock, other := name(), name()
	if err := save(ctx, s.one, lock, record(1, "x", lock)); err != nil { // of the same name: another world
		return err
	}
	unlock, err := takes(ctx, one, lock)
	if err != nil {
		return err
	}
	unlockOther, err := takes(ctx, two, other)
	if err != nil {
		return fmt.Errorf("another lock: %w", err)
	}
	unlockOther()
	for range 3 {
		if err := errors.Join(refused(ctx, one, lock), refused(ctx, two, lock)); err != nil {
			return err
		}
	}
	go unlock() // from anywhere
	var again func()
	err = soon(ctx, func() (err error) {
		again, err = takes(ctx, two, lock)
		return err
	})
	if err != nil {
		return fmt.Errorf("after unlock: %w", err)
	}
	unlock()
	unlock()
	if err := pause(ctx, 200*time.Millisecond); err != nil {
		return err
	}
	if err := errors.Join(refused(ctx, one, lock), refused(ctx, two, lock)); err != nil {
		return fmt.Errorf("after unlock was called again: %w", err)
	}
	again()
	return s.holds(ctx, lock, record(1, "x"))
}

// takes takes a lock that is free.
func takes(ctx context.Context, s store.Locker, name string) (unlock func(), err error) {
	unlock, ok, err := s.TryLock(ctx, name)
	if err != nil || !ok {
		return nil, fmt.Errorf("TryLock: got %v and %w, want the lock", ok, err)
	}
	return unlock, nil
}

// refused tries a lock that somebody has. How long a store may take to say so
// depends on the machine; but a store that waits for the holder waits for
// seconds.
func refused(ctx context.Context, s store.Locker, name string) error {
	start := time.Now()
	unlock, ok, err := s.TryLock(ctx, name)
	if err != nil {
		return fmt.Errorf("TryLock of what somebody has: got %w, want no error", err)
	}
	if ok {
		unlock()
		return errors.New("TryLock: got a lock that somebody has")
	}
	if took := time.Since(start); took > 5*time.Second {
		return fmt.Errorf("TryLock waited for %v", took)
	}
	return nil
}

// lockRace: of many who want a free lock, one gets it, and the next when that
// one has given it back.
func lockRace(ctx context.Context, s handles) error {
	if _, ok := s.one.(store.Locker); !ok {
		return nil
	}
	lock := name()
	for range 3 {
		var wrong error
		err := soon(ctx, func() error { // whoever had it before may not have given it back yet
			var holders int
			if holders, wrong = s.contend(ctx, lock); wrong == nil && holders == 0 {
				return errors.New("nobody got a lock that was free")
			}
			return nil
		})
		if err := errors.Join(err, wrong); err != nil {
			return err
		}
	}
	return nil
}

// contend has twenty try a lock, and counts who has it at the same time.
func (s handles) contend(ctx context.Context, lock string) (holders int, err error) {
	unlocks := make(chan func(), 20)
	err = inParallel(cap(unlocks), func(i int) error {
		locker, ok := []store.Store{s.one, s.two}[i%2].(store.Locker)
		if !ok {
			return errors.New("the second handle is no store.Locker")
		}
		unlock, ok, err := locker.TryLock(ctx, lock)
		if err == nil && ok {
			unlocks <- unlock
		}
		return err
	})
	for holders = len(unlocks); len(unlocks) > 0; {
		(<-unlocks)()
	}
	if err == nil && holders > 1 {
		err = fmt.Errorf("%d have the lock", holders)
	}
	return holders, err
}
