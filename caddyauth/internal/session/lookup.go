package session

import (
	"context"
	"errors"
	"io/fs"
	"slices"
	"sync"
	"time"
)

// Selector says which sessions are meant: those of a subject, of a session of
// the provider's, or all of them.
type Selector struct {
	Subject    string
	ProviderID string
}

// The indexes of a session, by kind.
const (
	indexAll        = "a"
	indexSubject    = "u"
	indexProviderID = "s"
)

// indexKeys are the kinds and names by which a session can be found.
func indexKeys(s *Session) [][2]string {
	keys := [][2]string{{indexAll, ""}}
	if s.Subject != "" {
		keys = append(keys, [2]string{indexSubject, s.Subject})
	}
	if id := s.ProviderID(); id != "" {
		keys = append(keys, [2]string{indexProviderID, id})
	}
	return keys
}

// index is the narrowest index in which all sessions are that are meant.
func (who Selector) index() (kind, name string) {
	switch {
	case who.ProviderID != "":
		return indexProviderID, who.ProviderID
	case who.Subject != "":
		return indexSubject, who.Subject
	default:
		return indexAll, ""
	}
}

func (k *Stored) indexesOf(s *Session) ([]string, error) {
	names := make([]string, 0, 3)
	for _, of := range indexKeys(s) {
		tags, err := k.cfg.Indexes.Tags(of[0], of[1])
		if err != nil {
			return nil, err
		}
		names = append(names, of[0]+"-"+tags[0])
	}
	return names, nil
}

// lookupWidth is how many sessions are looked up, or ended, at a time: of
// thousands, as one user can have, each may be a question to a server.
const lookupWidth = 16

// Sessions returns the sessions that are meant, and may still be used. One
// whose summary does not open is nobody's any more, and is left out.
func (k *Stored) Sessions(ctx context.Context, who Selector) ([]Summary, error) {
	return k.each(ctx, who, func(_ context.Context, s *Summary) (bool, error) { return k.cfg.Now().Before(s.Expires), nil })
}

// each does something with each session that is meant, as soon as it is found,
// and returns those of which it says so. It goes no further after an error.
func (k *Stored) each(ctx context.Context, who Selector, do func(context.Context, *Summary) (bool, error)) (found []Summary, err error) {
	handles, err := k.handles(ctx, who)
	if err != nil {
		return nil, err
	}
	var all sync.WaitGroup
	var mu sync.Mutex
	next := 0
	take := func(before *Summary) (handle string, ok bool) {
		mu.Lock()
		defer mu.Unlock()
		if before != nil {
			found = append(found, *before)
		}
		if err != nil || next == len(handles) {
			return "", false
		}
		next++
		return handles[next-1], true
	}
	for range min(lookupWidth, len(handles)) {
		all.Go(func() {
			handle, more := take(nil)
			for more {
				summary, failed := k.Summary(ctx, handle)
				is := failed == nil && summary != nil && summary.matches(who)
				if is {
					is, failed = do(ctx, summary)
				}
				if failed != nil {
					mu.Lock()
					err = failed
					mu.Unlock()
				}
				if !is {
					summary = nil
				}
				handle, more = take(summary)
			}
		})
	}
	all.Wait()
	return found, err
}

// handles are those of all sessions that may be meant, each once.
func (k *Stored) handles(ctx context.Context, who Selector) (handles []string, err error) {
	kind, name := who.index()
	tags, err := k.cfg.Indexes.Tags(kind, name)
	if err != nil {
		return nil, err
	}
	for _, tag := range tags {
		found, err := k.cfg.Store.Find(ctx, kind+"-"+tag)
		if err != nil {
			return nil, storeError("finding", err)
		}
		handles = append(handles, found...)
	}
	slices.Sort(handles)
	return slices.Compact(handles), nil
}

// Summary returns what the store has under a handle; nil when it is nothing of
// this provider's.
func (k *Stored) Summary(ctx context.Context, handle string) (*Summary, error) {
	record, err := k.cfg.Store.Load(ctx, handle)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, storeError("loading", err)
	}
	summary, err := k.openSummary(record.Value, handle)
	if worthless(err) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	if summary.Expires.IsZero() { // it was written when nothing outlived a session
		summary.Expires = record.Expires
	}
	return summary, nil
}

func (s *Summary) matches(who Selector) bool {
	return (who.Subject == "" || s.Subject == who.Subject) && (who.ProviderID == "" || s.ProviderID == who.ProviderID)
}

// EndAll drops the sessions that are meant and began before a given time, and
// returns them. Where it fails, or has no time left, those that it has come by
// are gone, so that who tries again comes further: nobody escapes by having
// more sessions than can be ended at once. What is left of sessions that are
// over goes, too, and is not returned.
func (k *Stored) EndAll(ctx context.Context, who Selector, began time.Time) ([]Summary, error) {
	began = began.Truncate(time.Millisecond)
	return k.each(ctx, who, func(ctx context.Context, s *Summary) (bool, error) {
		if !s.Created.Before(began) {
			return false, nil
		}
		err := k.End(ctx, s.Handle)
		return err == nil && k.cfg.Now().Before(s.Expires), err
	})
}
