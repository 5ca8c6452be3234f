package storetest

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"github.com/pkce-auth/caddy-pkce-auth/caddyauth/store"
)

// indexes are sets, for a user has several sessions, and a session has a
// subject and a sid: a logout of the subject ends them all.
func indexes(ctx context.Context, s handles) error {
	subject, sidA, sidB := name(), name(), name()
	a, b := name(), name()
	for _, r := range []struct {
		key     string
		version uint64
		indexes []string
	}{{a, 1, []string{subject, sidA}}, {b, 1, []string{subject, sidB}}, {b, 2, []string{subject, sidB}}} {
		if err := save(ctx, s.one, r.key, record(r.version, r.key, r.indexes...)); err != nil {
			return err
		}
	}
	err := errors.Join(s.finds(ctx, subject, a, b), s.finds(ctx, sidA, a), s.finds(ctx, sidB, b),
		s.misses(ctx, sidA, b), s.misses(ctx, sidB, a))
	if err != nil {
		return err
	}
	changed := name()
	if err := save(ctx, s.two, a, record(2, a, changed, subject)); err != nil {
		return err
	}
	if err := errors.Join(s.finds(ctx, subject, a, b), s.finds(ctx, changed, a)); err != nil {
		return fmt.Errorf("after a change of indexes: %w", err)
	}
	if err := save(ctx, s.two, a, record(3, a, changed, subject, sidA)); err != nil {
		return err
	}
	if err := s.finds(ctx, sidA, a); err != nil {
		return fmt.Errorf("after a return to an index: %w", err)
	}
	if err := s.one.Delete(ctx, a); err != nil {
		return err
	}
	if err := errors.Join(s.finds(ctx, subject, b), s.finds(ctx, sidB, b)); err != nil {
		return fmt.Errorf("after the Delete of another record: %w", err)
	}
	return soon(ctx, func() error {
		return errors.Join(s.misses(ctx, subject, a), s.misses(ctx, changed, a), s.misses(ctx, sidA, a))
	})
}

// indexExpiry is for stores that let indexes expire: the last record counts,
// not the last Save.
func indexExpiry(ctx context.Context, s handles) error {
	index, extended, long, brief := name(), name(), name(), name()
	end := time.Now().Add(life)
	for _, r := range []struct {
		key     string
		version uint64
		expires time.Time
	}{{extended, 1, end}, {extended, 2, farEnd}, {long, 1, farEnd}, {brief, 1, end}} {
		if err := save(ctx, s.one, r.key, store.Record{Version: r.version, Expires: r.expires, Indexes: []string{index}}); err != nil {
			return err
		}
	}
	if err := s.lasts(ctx, brief, end); err != nil {
		return err
	}
	return s.finds(ctx, index, extended, long)
}

// found: whoever logs a user out right after a login must find the session.
func found(ctx context.Context, s handles) error {
	index := name()
	return inParallel(8, func(i int) error {
		own, other := s.one, s.two
		if i%2 == 1 {
			own, other = other, own
		}
		last := ""
		for range 6 {
			key := name()
			if err := save(ctx, own, key, record(1, "x", index)); err != nil {
				return err
			}
			keys := []string{key}
			if last != "" {
				keys = append(keys, last)
			}
			if err := (handles{other, own}).finds(ctx, index, keys...); err != nil {
				return fmt.Errorf("after Save has returned: %w", err)
			}
			if last != "" {
				if err := other.Delete(ctx, last); err != nil {
					return err
				}
			}
			last = key
		}
		return nil
	})
}

func large(ctx context.Context, s handles) error {
	const records, savers = 1000, 20
	index := name()
	keys := make([]string, records)
	for i := range keys {
		keys[i] = name()
	}
	err := inParallel(savers, func(i int) error {
		for ; i < records; i += savers {
			if err := save(ctx, s.one, keys[i], record(1, "x", index)); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	return s.finds(ctx, index, keys...)
}

// cancelled: whoever does not wait for the answer has none. It must not be
// taken for "there is none", which would log a user out.
func cancelled(ctx context.Context, s handles) error {
	key, index := name(), name()
	if err := save(ctx, s.one, key, record(1, "x", index)); err != nil {
		return err
	}
	gone, cancel := context.WithCancel(ctx)
	cancel()
	answers := make(chan error, 1)
	go func() { answers <- withoutContext(gone, s.one, key, index) }()
	select {
	case err := <-answers:
		if err != nil {
			return fmt.Errorf("with a cancelled context: %w", err)
		}
	case <-time.After(10 * time.Second):
		return errors.New("with a cancelled context: no answer for ten seconds")
	}
	r, err := s.two.Load(ctx, key)
	if err != nil {
		return fmt.Errorf("Load after a Save that was cancelled: got %w, want no error", err)
	}
	if err := save(ctx, s.two, key, record(r.Version+1, "z", index)); err != nil && !errors.Is(err, store.ErrConflict) {
		return err // a conflict: the Save that was cancelled has come after all
	}
	return s.finds(ctx, index, key)
}

func withoutContext(gone context.Context, s store.Store, key, index string) error {
	r, err := s.Load(gone, key)
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("Load: got %w, want the record or another error", err)
	}
	if err == nil && r.Version != 1 {
		return fmt.Errorf("Load: got version %d, want 1", r.Version)
	}
	if keys, err := s.Find(gone, index); err == nil && len(keys) != 1 {
		return fmt.Errorf("Find: got %d keys and no error, want one", len(keys))
	}
	if err := s.Save(gone, key, record(2, "y", index)); errors.Is(err, store.ErrConflict) {
		return fmt.Errorf("Save: got %w, want no error or another", err)
	}
	if locker, ok := s.(store.Locker); ok {
		if unlock, ok, err := locker.TryLock(gone, name()); ok && err == nil {
			unlock()
		}
	}
	return nil
}
