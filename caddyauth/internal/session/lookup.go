package session

import (
	"context"
	"errors"
	"io/fs"
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

// Sessions returns the sessions that are meant, and may still be used. One
// whose summary does not open is nobody's any more, and is left out.
func (k *Stored) Sessions(ctx context.Context, who Selector) ([]Summary, error) {
	kind, name := who.index()
	tags, err := k.cfg.Indexes.Tags(kind, name)
	if err != nil {
		return nil, err
	}
	var found []Summary
	seen := map[string]bool{}
	for _, tag := range tags {
		handles, err := k.cfg.Store.Find(ctx, kind+"-"+tag)
		if err != nil {
			return nil, storeError("finding", err)
		}
		for _, handle := range handles {
			if seen[handle] {
				continue
			}
			seen[handle] = true
			summary, err := k.Summary(ctx, handle)
			if err != nil {
				return nil, err
			}
			if summary != nil && summary.matches(who) {
				found = append(found, *summary)
			}
		}
	}
	return found, nil
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
	summary.Expires = record.Expires
	return summary, nil
}

func (s *Summary) matches(who Selector) bool {
	return (who.Subject == "" || s.Subject == who.Subject) && (who.ProviderID == "" || s.ProviderID == who.ProviderID)
}

// EndAll drops the sessions that are meant and began before a given time, and
// returns them. Where it fails, some may be gone already.
func (k *Stored) EndAll(ctx context.Context, who Selector, began time.Time) ([]Summary, error) {
	found, err := k.Sessions(ctx, who)
	var ended []Summary
	for _, s := range found {
		if !s.Created.Before(began.Truncate(time.Millisecond)) {
			continue
		}
		if err := k.End(ctx, s.Handle); err != nil {
			return ended, err
		}
		ended = append(ended, s)
	}
	return ended, err
}
