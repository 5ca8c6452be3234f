package session

import (
	"context"
	"errors"
	"math"
	"sync"
	"sync/atomic"
	"time"
)

// looks are when the store was asked for revocations.
type looks struct {
	used atomic.Int64 // when a request last needed to know, in Unix nanoseconds

	mu     sync.Mutex
	flight *lookFlight // under way; nil when there is none
	failed time.Time   // when the last one failed…
	err    error       // …and why
}

type lookFlight struct {
	done chan struct{}
	err  error
}

const (
	// lookTime bounds one question to the store.
	lookTime = 5 * time.Second

	// lookRetry is how long after a failure the store is asked again.
	lookRetry = time.Second

	// LookPatience is for how long sessions may be used while the store does
	// not say which were ended. A short outage is nobody's logout; a long one
	// must not be a way around them.
	LookPatience = time.Minute

	// lookIdle is for how long after a request the store is asked on.
	lookIdle = time.Minute
)

// Due reports whether it is time to ask the store again, by Look.
func (r *Revocations) Due(now time.Time) bool {
	return r.cfg.Every > 0 && age(now, &r.known.read) >= r.cfg.Every
}

// Wanted reports whether a request has lately needed to know what was revoked:
// else nobody has to ask the store for it.
func (r *Revocations) Wanted(now time.Time) bool {
	return age(now, &r.look.used) < lookIdle
}

// age is how long ago something was, by a clock that may be set back: what lies
// in the future since then is as old as can be. Else nobody would ask a store
// again until the clock has caught up.
func age(now time.Time, at *atomic.Int64) time.Duration {
	if since := now.UnixNano() - at.Load(); since >= 0 {
		return time.Duration(since)
	}
	return math.MaxInt64
}

// Fresh sees to it that what is known is not older than twice the time between
// two looks. It asks the store itself where nobody has done so, and does not
// wait for it longer than it has to.
func (r *Revocations) Fresh(ctx context.Context, now time.Time) error {
	if r.cfg.Every == 0 {
		return nil
	}
	if age(now, &r.look.used) > lookRetry {
		r.look.used.Store(now.UnixNano())
	}
	known := age(now, &r.known.read)
	if known == math.MaxInt64 { // a look has ended since the request came, rather than that the clock was set back
		known = age(r.cfg.Now(), &r.known.read)
	}
	if known <= 2*r.cfg.Every {
		return nil
	}
	f, failing := r.begin()
	if failing && known <= LookPatience {
		return nil // waiting would slow down every request, as long as a store hangs
	}
	patience := time.Second
	if known > LookPatience && !failing {
		patience = lookTime
	}
	if err := f.await(ctx, patience); err != nil && known > LookPatience {
		return errRevocationsUnknown(err)
	}
	return nil
}

// begin asks the store, if nobody does and it has not failed just now. It also
// tells whether the last question before that failed.
func (r *Revocations) begin() (f *lookFlight, failing bool) {
	l := &r.look
	l.mu.Lock()
	defer l.mu.Unlock()
	failing = l.err != nil
	if l.flight != nil {
		return l.flight, failing
	}
	if l.err != nil && r.cfg.Now().Sub(l.failed) < lookRetry {
		over := &lookFlight{done: make(chan struct{}), err: l.err}
		close(over.done)
		return over, failing
	}
	f = &lookFlight{done: make(chan struct{})}
	l.flight = f
	go func() {
		ctx, cancel := context.WithTimeout(context.Background(), lookTime)
		defer cancel()
		f.err = r.Look(ctx)
		l.mu.Lock()
		defer l.mu.Unlock()
		l.flight, l.err, l.failed = nil, f.err, r.cfg.Now()
		close(f.done)
	}()
	return f, failing
}

var errStoreSlow = errors.New("the store does not answer in time")

// await waits for an answer, but not for long: the store may hang.
func (f *lookFlight) await(ctx context.Context, patience time.Duration) error {
	timer := time.NewTimer(patience)
	defer timer.Stop()
	select {
	case <-f.done:
		return f.err
	case <-timer.C:
		return storeError("asking which sessions were ended", errStoreSlow)
	case <-ctx.Done():
		return ctx.Err()
	}
}
