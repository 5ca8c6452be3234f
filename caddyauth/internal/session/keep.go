package session

import (
	"context"
	"errors"
	"time"

	"github.com/pkce-auth/caddy-pkce-auth/caddyauth/store"
)

const (
	// keepTries is how often it is tried to keep new tokens before the lock is
	// given back, with a pause that doubles from the given one on.
	keepTries, keepPause = 6, 50 * time.Millisecond

	// maxConflicts is how often others may come between.
	maxConflicts = 10

	// keepTime bounds that altogether.
	keepTime = 10 * time.Second

	// writePause is how long after a write that came to nothing the next
	// request tries it again: others do not wait for a store that takes none.
	writePause = time.Second
)

// writeAgain lets another request write the session, in a while.
func (k *kept) writeAgain() { time.AfterFunc(writePause, func() { k.writing.Store(false) }) }

// keep saves new tokens: the old ones are spent. If the store does not take
// them now, this process has them, and tries again as soon as the session is
// used. That goes on when the time for the refresh is over, or whoever asked has
// left: nobody gets such tokens again.
func (k *Stored) keep(ctx context.Context, s *Session, tries int) (*Session, error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), keepTime)
	defer cancel()
	record, pause, conflicts := s.record(), keepPause, 0
	for try := 1; ; try++ {
		err := k.write(ctx, s, record.version+1)
		if err == nil {
			renewed := *s
			renewed.loaded = &loaded{record: &kept{handle: record.handle, version: record.version + 1, generation: s.Generation, seen: s.Seen}}
			return &renewed, nil
		}
		if errors.Is(err, store.ErrConflict) {
			current, err := k.usable(k.fetch(ctx, s, k.cfg.Store.Load))
			switch {
			case errors.Is(err, ErrNone):
				return nil, ErrEnded
			case err == nil && current.Generation >= s.Generation:
				return current, nil
			case err == nil && conflicts < maxConflicts: // it slid meanwhile: that was no try
				slid := *s
				slid.Seen, slid.loaded = current.Seen, &loaded{record: current.record()}
				s, record = &slid, current.record()
				conflicts++
				try--
				continue
			}
		}
		if errors.Is(err, ErrEnded) {
			return nil, err
		}
		if try >= tries {
			k.cfg.Trouble("keeping refreshed tokens, which only this process has now", err)
			return s, nil
		}
		timer := time.NewTimer(pause)
		select {
		case <-timer.C:
			pause *= 2
		case <-ctx.Done():
			try = tries
		}
		timer.Stop()
	}
}
