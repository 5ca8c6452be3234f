package session

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"time"

	"github.com/pkce-auth/caddy-pkce-auth/caddyauth/internal/rp"
	"github.com/pkce-auth/caddy-pkce-auth/caddyauth/internal/sealed"
	"github.com/pkce-auth/caddy-pkce-auth/caddyauth/store"
)

// ErrStore says that the store does not answer as it should: it cannot be told
// whether there is a session.
var ErrStore = errors.New("session store unavailable")

// Stored keeps sessions in a store, and gives the browser a ticket: the name
// of its session and the key that opens it, sealed, so that a forged one costs
// no question to the store.
type Stored struct {
	cfg     StoredConfig
	jar     sealed.Jar
	opened  *cache
	outlive time.Duration
}

// StoredConfig is what a Stored needs.
type StoredConfig struct {
	Store     store.Store
	Cookie    sealed.Cookie
	Tickets   *sealed.Box    // bound to the cookie's name
	Summaries *sealed.Box    // bound to the provider
	Indexes   *sealed.Tagger // bound to the provider
	Limits    Limits

	// Lag is for how long a session may be used without asking the store again:
	// so much later a change elsewhere is heard of. 0 asks with every request.
	Lag time.Duration

	// Trouble is told of what went wrong and was coped with; nil tells nobody.
	Trouble func(doing string, err error)

	// Now is the clock; nil means time.Now.
	Now func() time.Time
}

// NewStored makes a keeper.
func NewStored(cfg StoredConfig) *Stored {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Trouble == nil {
		cfg.Trouble = func(string, error) {}
	}
	return &Stored{cfg: cfg, jar: sealed.Jar{Cookie: cfg.Cookie, Box: cfg.Tickets, MaxChunks: 1}, opened: newCache(cacheSize)}
}

// Load implements Keeper.
func (k *Stored) Load(ctx context.Context, cookies []string) (*Session, error) {
	s, err := k.find(ctx, cookies, k.cached)
	switch {
	case err != nil:
		return nil, err
	case !k.cfg.Limits.Alive(s, k.cfg.Now()):
		return nil, ErrEnded
	default:
		return s, nil
	}
}

// load is a way to ask the store.
type load func(ctx context.Context, handle string) (store.Record, error)

// cached may answer what was true a moment ago. That is soon enough for who
// wants to use a session; not for who wants to change it.
func (k *Stored) cached(ctx context.Context, handle string) (store.Record, error) {
	if c, ok := k.cfg.Store.(store.Cached); ok {
		return c.LoadCached(ctx, handle)
	}
	return k.cfg.Store.Load(ctx, handle)
}

// find returns the session of the first ticket among the cookies that has one.
func (k *Stored) find(ctx context.Context, cookies []string, from load) (*Session, error) {
	for n := range sealed.MaxTries {
		value, ok := sealed.Value(cookies, k.jar.Cookie.Name, n)
		if !ok {
			break
		}
		s, err := k.byTicket(ctx, value, from)
		if errors.Is(err, ErrNone) {
			continue
		}
		return s, err
	}
	return nil, ErrNone
}

func (k *Stored) byTicket(ctx context.Context, value string, from load) (*Session, error) {
	known, _ := k.opened.get(value)
	if known != nil && k.cfg.Lag > 0 && age(k.cfg.Now(), &known.record().checked) < k.cfg.Lag {
		return known, nil
	}
	ticket := known
	if ticket == nil {
		data, _, err := k.jar.Open(nil, value)
		if errors.Is(err, sealed.ErrOpen) {
			return nil, ErrNone
		}
		if err != nil {
			return nil, err
		}
		id, key, err := readTicket(data)
		if err != nil {
			return nil, ErrNone
		}
		ticket = &Session{ID: id, key: key}
	}
	s, err := k.fetch(ctx, ticket, from)
	if err != nil || s == known {
		return s, err
	}
	k.opened.put(s, value, nil)
	return s, nil
}

// fetch returns what the store has of a session now; the very session that is
// given where that is still all.
func (k *Stored) fetch(ctx context.Context, known *Session, from load) (*Session, error) {
	handle := known.Handle()
	record, err := from(ctx, handle)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, ErrNone
	}
	if err != nil {
		return nil, storeError("loading", err)
	}
	if before := known.record(); before != nil && before.version == record.Version {
		k.noteChecked(before)
		return known, nil
	}
	s, err := openRecord(record.Value, known.key, handle)
	if worthless(err) {
		return nil, ErrNone // of another time or another hand: a login mends it
	}
	if err != nil {
		return nil, err
	}
	s.loaded.record = &kept{handle: handle, version: record.Version, generation: s.Generation, seen: s.Seen}
	k.noteChecked(s.loaded.record)
	return s, nil
}

// noteChecked notes that the store has just been asked: for nothing where it is
// asked each time, as memory is.
func (k *Stored) noteChecked(record *kept) {
	if k.cfg.Lag > 0 {
		record.checked.Store(k.cfg.Now().UnixNano())
	}
}

// Current returns what the store has of a session now; the very session that is
// given where that is still all. What is left of a session that is over is none.
func (k *Stored) Current(ctx context.Context, s *Session) (*Session, error) {
	return k.usable(k.fetch(ctx, s, k.cached))
}

// usable passes on what fetch returned, if it may still be used: what is left of
// a session that is over stays in the store for a while.
func (k *Stored) usable(s *Session, err error) (*Session, error) {
	if err == nil && !k.cfg.Limits.Alive(s, k.cfg.Now()) {
		return nil, ErrEnded
	}
	return s, err
}

// Near reports whether the store answers from memory, so that it may be asked
// often.
func (k *Stored) Near() bool {
	switch k.cfg.Store.(type) {
	case store.Cached, *store.Memory:
		return true
	default:
		return false
	}
}

// Save implements Keeper. One of all who find at the same time that a session
// must slide, or that its new tokens are not in the store yet, writes it; the
// others have nothing to do.
func (k *Stored) Save(ctx context.Context, h http.Header, cookies []string, s *Session) error {
	record := s.record()
	switch {
	case record == nil:
		if err := k.create(ctx, s); err != nil {
			return err
		}
	case record.holds(s):
		return nil
	case !record.writing.CompareAndSwap(false, true):
		return nil
	case s.Generation > record.generation: // its refresh could not be kept then
		record.writeAgain()
		if _, err := k.keep(ctx, s, 1); err != nil {
			return err
		}
	default:
		err := k.write(ctx, s, record.version+1)
		if errors.Is(err, store.ErrConflict) {
			return nil
		}
		if err != nil {
			record.writeAgain()
			return err
		}
	}
	// The ticket stays the same. It is sealed anew, so that no key is needed
	// longer than it was last used.
	ticket, err := writeTicket(s)
	if err != nil {
		return err
	}
	return k.jar.Write(h, cookies, ticket, s.Created.Add(k.cfg.Limits.Lifetime).Sub(k.cfg.Now())+k.outlive)
}

// create keeps a new session. One callback may come twice, and save its session
// twice.
func (k *Stored) create(ctx context.Context, s *Session) error {
	err := k.write(ctx, s, 1)
	if !errors.Is(err, store.ErrConflict) {
		return err
	}
	if _, err := k.usable(k.fetch(ctx, s, k.cfg.Store.Load)); err != nil {
		return fmt.Errorf("it is ended already: %w", err)
	}
	return nil
}

// write saves one version of a session.
func (k *Stored) write(ctx context.Context, s *Session, version uint64) error {
	now := k.cfg.Now()
	left := k.cfg.Limits.Left(s, now)
	switch {
	case left <= 0:
		return ErrEnded
	case k.overInStore(s, now):
		return store.ErrConflict // as if it were gone
	}
	return k.writeUntil(ctx, s, version, now.Add(left))
}

// overInStore reports whether what the store has of a session is over by now: it
// may still be there, and would take a version that brings it back.
func (k *Stored) overInStore(s *Session, now time.Time) bool {
	record := s.record()
	if record == nil {
		return false
	}
	kept := *s
	kept.Seen = record.seen
	return !k.cfg.Limits.Alive(&kept, now)
}

// writeUntil is write for a session, or what is left of one, that is over by
// then.
func (k *Stored) writeUntil(ctx context.Context, s *Session, version uint64, over time.Time) error {
	handle := s.Handle()
	value, err := k.sealRecord(s, handle, over)
	if err != nil {
		return err
	}
	indexes, err := k.indexesOf(s)
	if err != nil {
		return err
	}
	err = k.cfg.Store.Save(ctx, handle, store.Record{Value: value, Version: version, Expires: over.Add(k.outlive), Indexes: indexes})
	if err != nil && !errors.Is(err, store.ErrConflict) {
		return storeError("saving", err)
	}
	return err
}

// Delete implements Keeper.
func (k *Stored) Delete(ctx context.Context, h http.Header, cookies []string) (*Session, error) {
	s, err := k.find(ctx, cookies, k.cfg.Store.Load)
	if err != nil && !errors.Is(err, ErrNone) {
		return nil, err
	}
	if s != nil {
		if err := k.End(ctx, s.Handle()); err != nil {
			return nil, err
		}
	}
	k.jar.Delete(h, cookies)
	return s, nil
}

// End drops a session from the store; none is no error.
func (k *Stored) End(ctx context.Context, handle string) error {
	if err := k.cfg.Store.Delete(ctx, handle); err != nil {
		return storeError("deleting", err)
	}
	return nil
}

// lockName is the lock of a session's refreshes.
func lockName(handle string) string { return "refresh-" + handle }

// lockWait is how often who waits for another's refresh looks again.
const lockWait = 100 * time.Millisecond

// Refresh implements Keeper: one of all who share the store asks the provider,
// the others get its outcome.
func (k *Stored) Refresh(ctx context.Context, s *Session, do Renew) (*Session, error) {
	unlock, current, err := k.claim(ctx, s, &do)
	if err != nil {
		return nil, err
	}
	if unlock == nil {
		return current, nil
	}
	defer func() { unlock() }()
	renewed, err := do.Do(ctx, current)
	switch {
	case renewed != nil:
		kept, failed := k.keep(ctx, renewed, keepTries)
		return kept, errors.Join(err, failed)
	case isOver(err):
		return k.refused(ctx, current, err)
	case !errors.Is(err, rp.ErrTarget): // that says nothing of other tokens, which may be due
		// Each process by itself leaves the provider alone after a failure; but
		// as many as there are would ask it as often (T3).
		keepLock := unlock
		unlock = func() { time.AfterFunc(firstBackoff, keepLock) }
	}
	return nil, err
}

// claim waits until the session has the token that is to come, or until it is
// this process's turn to see to that; somebody who has refreshed another of its
// tokens does not count. Then it gives what ends the turn, and the session as the
// store has it by now.
func (k *Stored) claim(ctx context.Context, s *Session, do *Renew) (unlock func(), current *Session, err error) {
	for {
		ok := true
		unlock = func() {}
		if locker, can := k.cfg.Store.(store.Locker); can {
			if unlock, ok, err = locker.TryLock(ctx, lockName(s.Handle())); err != nil {
				return nil, nil, storeError("locking", err)
			}
		}
		current, err = k.usable(k.fetch(ctx, s, k.cfg.Store.Load))
		if errors.Is(err, ErrNone) {
			err = ErrEnded
		}
		if ok && (err != nil || do.done(current, s)) {
			unlock()
		}
		switch {
		case err != nil:
			return nil, nil, err
		case do.done(current, s):
			return nil, current, nil
		case s.Generation > current.Generation: // the last refresh could not be kept
			newest := *s
			newest.loaded = &loaded{record: current.record()}
			current = &newest
		}
		if ok {
			return unlock, current, nil
		}
		timer := time.NewTimer(lockWait)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return nil, nil, fmt.Errorf("%w: another process that refreshes the session does not come to an end", rp.ErrUnavailable)
		}
	}
}

// refused ends a session whose refresh token is worthless; unless, against all
// locks, somebody else has got newer tokens.
func (k *Stored) refused(ctx context.Context, s *Session, cause error) (*Session, error) {
	if current, err := k.usable(k.fetch(ctx, s, k.cfg.Store.Load)); err == nil && current.Generation > s.Generation {
		return current, nil
	}
	if k.outlive > 0 && k.leave(ctx, s) == nil {
		return nil, cause
	}
	if err := k.End(ctx, s.Handle()); err != nil {
		k.cfg.Trouble("ending a session that the provider does not refresh any longer", err)
	}
	return nil, cause
}
