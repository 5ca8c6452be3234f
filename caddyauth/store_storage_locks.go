package caddyauth

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/caddyserver/certmagic"
)

const (
	// lockPatience is how long a change waits for its lock. It is longer than
	// the two seconds after which certmagic's file storage takes an empty lock
	// file for that of a process that died; see obtain.
	lockPatience = 3500 * time.Millisecond

	// lockAttempt is how long a lock is tried once. certmagic's file storage
	// would wait for seconds for one that is held, so it is told to give up;
	// others answer at once, over a network, and must not be interrupted: they
	// might have the lock, and not know it.
	lockAttempt     = time.Second
	fileLockAttempt = 100 * time.Millisecond
)

var (
	errLocked        = errors.New("somebody else has the lock")
	errStorageSilent = errors.New("Caddy's storage does not answer") //nolint:revive,staticcheck // a name
)

// slots bound how many calls are under way, for a storage may hang for ever.
type slots chan struct{}

// ask waits for what a function reads, until the context ends or the bound is
// reached; then the function goes on by itself, with its context cancelled.
func (s slots) ask(ctx context.Context, f func(context.Context) error) error {
	return s.run(ctx, ctx, storageReadBound, f)
}

// do is ask for what writes, and is not to be interrupted when the caller has
// left.
func (s slots) do(ctx context.Context, f func(context.Context) error) error {
	return s.run(ctx, context.WithoutCancel(ctx), storageWriteBound, f)
}

func (s slots) run(ctx, inner context.Context, bound time.Duration, f func(context.Context) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	timer := time.NewTimer(bound)
	defer timer.Stop()
	select {
	case s <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return fmt.Errorf("%w: %d calls are waiting", errStorageSilent, cap(s))
	}
	inner, cancel := context.WithTimeout(inner, bound)
	done := make(chan error, 1)
	go func() {
		defer func() { <-s }()
		defer cancel()
		done <- f(inner)
	}()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return errStorageSilent
	}
}

// change is one of what is at a path.
type change struct {
	path string
	once bool // try the lock once, and do not wait

	// check says, without the lock, whether there is something to do.
	check func(kept storedState) error

	// apply does it, while nobody else changes what is kept.
	apply func(ctx context.Context, kept storedState) error
}

// exclusively changes what is at a path, if nobody else is changing it.
//
// The lock is one of the state that is to be replaced, so it has another name
// after each change. The name of the path would do, if certmagic's file
// storage did not keep a lock file fresh for five seconds after it was given
// back: when another process takes the same lock in that time and dies, the
// first one goes on keeping the file fresh that the dead one left, for ever.
// A state that was replaced does not come back, and its lock is not asked for
// again.
func (s *storageStore) exclusively(ctx context.Context, c change) error {
	deadline := time.Now().Add(lockPatience)
	release, err := s.mine.take(ctx, c.path, c.once)
	if err != nil {
		return err
	}
	defer release()
	for {
		kept, err := s.read(ctx, c.path)
		if err != nil {
			return err
		}
		if err := c.check(kept); err != nil {
			return err
		}
		patience := time.Until(deadline)
		if c.once {
			patience = 0
		}
		done, err := s.locked(ctx, kept.lockName(c.path), patience, func() (bool, error) {
			now, err := s.read(ctx, c.path)
			if err != nil || now.exists != kept.exists || string(now.data) != string(kept.data) {
				return false, err
			}
			return true, c.apply(ctx, kept)
		})
		if done || err != nil {
			return err
		}
		if c.once || time.Now().After(deadline) {
			return fmt.Errorf("%s changes all the time: %w", c.path, errLocked)
		}
	}
}

// locked does something under a lock of the storage.
func (s *storageStore) locked(ctx context.Context, name string, patience time.Duration, do func() (bool, error)) (bool, error) {
	if err := s.obtain(ctx, name, patience); err != nil {
		return false, err
	}
	defer func() {
		// One that cannot be given back is stale soon, and of a state that is
		// gone, as a rule.
		_ = s.storage.Unlock(context.WithoutCancel(ctx), name)
	}()
	if err := ctx.Err(); err != nil { // it came too late, from a storage that does not heed its context
		return false, err
	}
	return do()
}

// obtain takes a lock of the storage: with a try now and then, and in the end
// with Lock. Only that overcomes the empty lock file of a process that died
// just when it had made it.
func (s *storageStore) obtain(ctx context.Context, name string, patience time.Duration) error {
	attempt := lockAttempt
	if _, ok := s.storage.(*certmagic.FileStorage); ok {
		attempt = fileLockAttempt
	}
	locker, ok := s.storage.(certmagic.TryLocker)
	if !ok {
		return s.lock(ctx, name, max(patience, attempt))
	}
	for start := time.Now(); ; {
		ok, err := func() (bool, error) {
			ctx, cancel := context.WithTimeout(ctx, attempt)
			defer cancel()
			return locker.TryLock(ctx, name)
		}()
		if ok && err == nil {
			return nil
		}
		if patience <= 0 {
			go s.mend(name) //nolint:gosec // after the call, which does not wait for it
			return errors.Join(errLocked, lockError(err))
		}
		if waited := time.Since(start); waited > patience/4 {
			return s.lock(ctx, name, patience-waited)
		}
		if err := pause(ctx, 5*time.Millisecond+randomPart(20*time.Millisecond)); err != nil {
			return err
		}
	}
}

func (s *storageStore) lock(ctx context.Context, name string, patience time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	return lockError(s.storage.Lock(ctx, name))
}

// mend sees to it that a lock which could not be had at once can be had some
// time: see obtain.
func (s *storageStore) mend(name string) {
	_ = s.writes.do(context.Background(), func(ctx context.Context) error {
		release, err := s.mine.take(ctx, name, true)
		if err != nil {
			return err // somebody is about it
		}
		defer release()
		_, err = s.locked(ctx, name, lockPatience, func() (bool, error) { return true, nil })
		return err
	})
}

// lockError tells that somebody else has a lock from what is wrong with the
// storage.
func lockError(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, context.DeadlineExceeded):
		return fmt.Errorf("%w: %w", errLocked, err)
	default:
		return fmt.Errorf("locking in Caddy's storage: %w", err)
	}
}

// ownLocks are locks between the goroutines of this process.
type ownLocks struct {
	mu   sync.Mutex
	held map[string]chan struct{} // closed when it is given back
}

func (l *ownLocks) take(ctx context.Context, name string, once bool) (release func(), err error) {
	timer := time.NewTimer(lockPatience)
	defer timer.Stop()
	for {
		l.mu.Lock()
		held := l.held[name]
		if held == nil {
			held = make(chan struct{})
			l.held[name] = held
			l.mu.Unlock()
			return func() {
				l.mu.Lock()
				defer l.mu.Unlock()
				delete(l.held, name)
				close(held)
			}, nil
		}
		l.mu.Unlock()
		if once {
			return nil, errLocked
		}
		select {
		case <-held:
		case <-timer.C:
			return nil, errLocked
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

func pause(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// randomPart gives a random time shorter than d, so that processes which began
// together do not go on together.
func randomPart(d time.Duration) time.Duration {
	var b [8]byte
	_, _ = rand.Read(b[:]) // never fails
	return time.Duration(binary.BigEndian.Uint64(b[:]) % uint64(d))
}
