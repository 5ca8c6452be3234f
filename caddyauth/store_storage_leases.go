package caddyauth

import (
	"context"
	"crypto/rand"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pkce-auth/caddy-pkce-auth/caddyauth/store"
)

// leaseRenewal is how often a holder says that it is still there.
const leaseRenewal = store.LockLease / 3

// TryLock implements store.Locker with a record that says who has the lock and
// until when, rather than with a lock of the storage: how long those outlive a
// process that dies is for each storage to say.
func (s *storageStore) TryLock(ctx context.Context, name string) (unlock func(), ok bool, err error) {
	if err := checkNames(name); err != nil {
		return nil, false, err
	}
	l := &lease{s: s, path: leasePath(name), holder: rand.Text(), over: make(chan struct{})}
	var settled atomic.Bool // by the caller who gets it, or who has left
	err = s.writes.do(ctx, func(ctx context.Context) error {
		err := s.exclusively(ctx, l.take())
		if err == nil && !settled.CompareAndSwap(false, true) {
			return s.exclusively(ctx, l.giveBack())
		}
		return err
	})
	switch {
	case err == nil:
		go l.keep() //nolint:gosec // the lease outlives the call that took it
		return sync.OnceFunc(l.unlock), true, nil
	case errors.Is(err, errLocked):
		return nil, false, nil
	case !settled.CompareAndSwap(false, true):
		go l.unlock() // it was obtained at the moment that the caller left
	}
	return nil, false, err
}

// lease is a lock that this process has.
type lease struct {
	s      *storageStore
	path   string
	holder string
	over   chan struct{} // closed when it is given back
}

// take writes the lease, if nobody has it.
func (l *lease) take() change {
	return change{
		path: l.path,
		once: true,
		check: func(kept storedState) error {
			if kept.live(l.s.now()) {
				return errLocked
			}
			return nil
		},
		apply: func(ctx context.Context, kept storedState) error {
			return l.write(ctx, kept, l.holder, store.LockLease)
		},
	}
}

// renew and giveBack are for a lease that is still ours: a process that was
// stopped for a while may find that another has it.
func (l *lease) renew() change    { return l.replace(l.holder, store.LockLease) }
func (l *lease) giveBack() change { return l.replace("", -time.Second) }

func (l *lease) replace(holder string, lasts time.Duration) change {
	return change{
		path: l.path,
		check: func(kept storedState) error {
			if kept.garbled || string(kept.record.Value) != l.holder {
				return errNothingToDo
			}
			return nil
		},
		apply: func(ctx context.Context, kept storedState) error { return l.write(ctx, kept, holder, lasts) },
	}
}

// write goes on counting versions when the lease changes hands: a state must
// not come back.
func (l *lease) write(ctx context.Context, kept storedState, holder string, lasts time.Duration) error {
	return l.s.storage.Store(ctx, l.path, encodeRecord(store.Record{
		Value:   []byte(holder),
		Version: kept.record.Version + 1,
		Expires: l.s.now().Add(lasts),
	}))
}

// keep renews the lease until it is given back, or somebody else's.
func (l *lease) keep() {
	ticker := time.NewTicker(leaseRenewal)
	defer ticker.Stop()
	for {
		select {
		case <-l.over:
			return
		case <-ticker.C:
		}
		err := l.s.writes.do(context.Background(), func(ctx context.Context) error {
			return l.s.exclusively(ctx, l.renew())
		})
		if errors.Is(err, errNothingToDo) {
			return
		}
	}
}

// unlock gives the lease back, and waits for nobody. If that does not work,
// the lease ends by itself.
func (l *lease) unlock() {
	close(l.over)
	go func() {
		_ = l.s.writes.do(context.Background(), func(ctx context.Context) error {
			return l.s.exclusively(ctx, l.giveBack())
		})
	}()
}
