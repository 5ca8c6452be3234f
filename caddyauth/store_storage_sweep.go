package caddyauth

import (
	"context"
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"
	"time"

	"go.uber.org/zap"
)

const (
	sweepEvery = time.Hour

	// sweepGrace is how long what has expired stays, for the clocks of others.
	sweepGrace = 5 * time.Minute

	// sweepPace is the pause after each file: a sweep has an hour's time.
	sweepPace = 2 * time.Millisecond

	// sweepLeftovers is how old a file must be that somebody was writing when
	// the machine stopped.
	sweepLeftovers = 24 * time.Hour
)

// run sweeps every hour until the context ends. All processes that share the
// storage may do so: they begin at random, and one sweeps at a time.
func (s *storageStore) run(ctx context.Context, logger *zap.Logger) {
	for wait := randomPart(sweepEvery); ; wait = sweepEvery {
		if pause(ctx, wait) != nil {
			return
		}
		if err := s.sweep(ctx); err != nil && ctx.Err() == nil {
			logger.Warn("expired sessions cannot all be removed from Caddy's storage; the next try is in an hour", zap.Error(err))
		}
	}
}

// sweep removes what has expired, and what was left over by processes that
// died, unless another process is at it. It goes on after an error, and returns
// the first.
func (s *storageStore) sweep(ctx context.Context) error {
	unlock, ok, err := s.TryLock(ctx, "sweep")
	if err != nil || !ok {
		return err
	}
	defer unlock()
	var first error
	for _, folder := range []struct {
		path  string
		visit func(ctx context.Context, at string) error
	}{{storageSessions, s.sweepSession}, {storageIndexes, s.sweepIndex}, {storageLocks, s.sweepLease}} {
		if err := s.walk(ctx, folder.path, folder.visit); err != nil && first == nil {
			first = err
		}
	}
	return first
}

// walk visits what is in the folders of a folder.
func (s *storageStore) walk(ctx context.Context, root string, visit func(context.Context, string) error) error {
	folders, err := s.ls(ctx, root)
	if err != nil {
		return err
	}
	for _, folder := range folders {
		paths, failed := s.ls(ctx, folder)
		if failed != nil && err == nil {
			err = failed
		}
		for _, at := range paths {
			failed := s.writes.do(ctx, func(ctx context.Context) error { return visit(ctx, at) })
			if failed != nil && !errors.Is(failed, errNothingToDo) && err == nil {
				err = fmt.Errorf("%s: %w", at, failed)
			}
			if err := pause(ctx, sweepPace); err != nil {
				return err
			}
		}
	}
	return err
}

func (s *storageStore) ls(ctx context.Context, folder string) (paths []string, err error) {
	var found []string // of the goroutine, until the answer is there
	err = s.reads.ask(ctx, func(ctx context.Context) (err error) {
		found, err = s.list(ctx, folder)
		return err
	})
	if err != nil {
		return nil, err
	}
	return found, nil
}

func (s *storageStore) sweepSession(ctx context.Context, at string) error {
	key, ok := keyOf(at)
	if !ok {
		return s.sweepLeftover(ctx, at)
	}
	return s.exclusively(ctx, change{
		path:  at,
		check: s.over,
		apply: func(ctx context.Context, kept storedState) error { return s.drop(ctx, key, kept.record.Indexes) },
	})
}

func (s *storageStore) sweepLease(ctx context.Context, at string) error {
	if _, ok := keyOf(at); !ok {
		return s.sweepLeftover(ctx, at)
	}
	return s.exclusively(ctx, change{
		path:  at,
		check: s.over,
		apply: func(ctx context.Context, _ storedState) error { return s.storage.Delete(ctx, at) },
	})
}

// over says that there is something to do when a record has expired, or is
// garbled.
func (s *storageStore) over(kept storedState) error {
	if !kept.exists || kept.live(s.now().Add(-sweepGrace)) {
		return errNothingToDo
	}
	return nil
}

// sweepIndex removes the entry of a key whose record is gone, or no longer has
// that index. It holds the lock of the record meanwhile, because a Save writes
// the entries before the record.
func (s *storageStore) sweepIndex(ctx context.Context, at string) error {
	hash, key, ok := parseIndexPath(at)
	if !ok {
		return s.sweepLeftover(ctx, at)
	}
	return s.exclusively(ctx, change{
		path: sessionPath(key),
		check: func(kept storedState) error {
			listed := slices.ContainsFunc(kept.record.Indexes, func(index string) bool { return indexHash(index) == hash })
			if listed && kept.live(s.now().Add(-sweepGrace)) {
				return errNothingToDo
			}
			return nil
		},
		apply: func(ctx context.Context, _ storedState) error { return s.storage.Delete(ctx, at) },
	})
}

// sweepLeftover removes what certmagic's file storage was writing when the
// machine stopped: files that are named by digits. Others are nobody's
// business here.
func (s *storageStore) sweepLeftover(ctx context.Context, at string) error {
	if strings.Trim(path.Base(at), "0123456789") != "" {
		return nil
	}
	info, err := s.storage.Stat(ctx, at)
	if err != nil || !info.IsTerminal || info.Modified.IsZero() || s.now().Sub(info.Modified) < sweepLeftovers {
		return nil //nolint:nilerr // it is gone, or the next sweep sees to it
	}
	return s.storage.Delete(ctx, at)
}
