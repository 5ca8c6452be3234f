package session

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pkce-auth/caddy-pkce-auth/caddyauth/internal/sealed"
	"github.com/pkce-auth/caddy-pkce-auth/caddyauth/store"
)

// Revocations remembers which sessions were ended before their time, so that
// neither a copy of a cookie nor an answer that was under way brings one back,
// and streams that another process has under way end, too. They are kept in a
// store, where all processes that share it read them; what it says is known
// here without asking it.
//
// A revocation is for one session, or for all sessions of a subject, of a
// session of the provider's, or of everybody, that began before it.
type Revocations struct {
	cfg   RevocationsConfig
	known *Revoked
	look  looks
}

// RevocationsConfig is what Revocations need.
type RevocationsConfig struct {
	Store store.Store
	Tags  *sealed.Tagger // bound to the provider

	// Provider names the list in the store, that of one provider's sessions, in
	// the letters of a store's keys.
	Provider string

	// Keep is for how long a revocation must be remembered: as long as what it
	// revokes could be used.
	Keep time.Duration

	// Every is how often the store is asked for what others have revoked; 0
	// means never, for a store that nobody else has.
	Every time.Duration

	Now func() time.Time
}

// Revoked is what is known of revocations. It outlives a configuration. The
// zero value is ready.
type Revoked struct {
	mu    sync.RWMutex
	marks map[string]revocation
	order []string // of marks, the first that was learnt first
	some  atomic.Bool
	read  atomic.Int64 // when a store last answered, in Unix nanoseconds
	lost  atomic.Uint64
}

// revocation is of all sessions with a mark that began before since.
type revocation struct {
	since  time.Time
	forget time.Time // when nothing is left that it revokes
}

// maxRevocations bounds the memory, at some 200 bytes each.
const maxRevocations = 100_000

// NewRevocations makes the revocations of one provider's sessions. What is
// known of them goes into known.
func NewRevocations(cfg RevocationsConfig, known *Revoked) *Revocations {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	return &Revocations{cfg: cfg, known: known}
}

// add remembers a revocation.
func (r *Revoked) add(mark string, since, now, forget time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	before, known := r.marks[mark]
	if known && !since.After(before.since) {
		return
	}
	for len(r.order) > 0 {
		over := now.After(r.marks[r.order[0]].forget)
		if !over && len(r.order) < maxRevocations {
			break
		}
		if !over {
			r.lost.Add(1)
		}
		delete(r.marks, r.order[0])
		r.order = r.order[1:]
	}
	if r.marks == nil {
		r.marks = make(map[string]revocation)
	}
	if _, listed := r.marks[mark]; !listed {
		r.order = append(r.order, mark)
	}
	r.marks[mark] = revocation{since: since, forget: forget}
	r.some.Store(true)
}

// Mark remembers a name, for those who need nothing but the memory.
func (r *Revoked) Mark(name string, now, forget time.Time) { r.add(name, farFuture, now, forget) }

// Marked reports whether a name is remembered.
func (r *Revoked) Marked(name string) bool {
	return r.some.Load() && r.revokes([]string{name}, time.Time{})
}

// Lost counts what had to be forgotten before its time, because there was too
// much of it.
func (r *Revoked) Lost() uint64 { return r.lost.Load() }

// revokes reports whether any of the marks revokes what began then.
func (r *Revoked) revokes(marks []string, began time.Time) bool {
	r.mu.RLock()
	defer r.mu.RUnlock()
	for _, mark := range marks {
		if known, ok := r.marks[mark]; ok && began.Before(known.since) {
			return true
		}
	}
	return false
}

// marks are the names under which a session may be revoked.
type marks struct {
	ring  *sealed.Keyring
	names []string
}

// The kinds of revocations, beside those of the indexes.
const (
	markSession = "i"
	markToken   = "j" // of a logout token, which is good for one use
)

// Has reports whether a session is revoked, as far as is known.
func (r *Revocations) Has(s *Session) bool {
	if !r.known.some.Load() {
		return false
	}
	names, err := r.marksOf(s)
	if err != nil {
		return true // it was sealed with keys that are gone
	}
	return r.known.revokes(names, s.Created)
}

// HasAll is Has for what was ended together with others: all sessions of a
// subject, of a session of the provider's, or of everybody. It leaves out what
// was ended by itself, as a session is that the provider does not refresh any
// longer.
func (r *Revocations) HasAll(s *Session) bool {
	names, err := r.marksOf(s)
	if err != nil {
		return true
	}
	names = slices.DeleteFunc(slices.Clone(names), func(name string) bool { return strings.HasPrefix(name, markSession+"-") })
	return r.known.revokes(names, s.Created)
}

func (r *Revocations) marksOf(s *Session) ([]string, error) {
	ring, err := r.cfg.Tags.Keyring()
	if err != nil {
		return nil, err
	}
	if s.loaded != nil {
		if m := s.loaded.marks.Load(); m != nil && m.ring == ring {
			return m.names, nil
		}
	}
	m := &marks{ring: ring}
	for _, of := range append(indexKeys(s), [2]string{markSession, s.Handle()}) {
		tags, err := r.cfg.Tags.Tags(of[0], of[1])
		if err != nil {
			return nil, err
		}
		for _, tag := range tags {
			m.names = append(m.names, of[0]+"-"+tag)
		}
	}
	if s.loaded != nil {
		s.loaded.marks.Store(m)
	}
	return m.names, nil
}

// Revoke ends one session, by its handle. It holds in this process whether or
// not the store takes it; the error says that others may not hear of it.
func (r *Revocations) Revoke(ctx context.Context, handle string) error {
	return r.revoke(ctx, markSession, handle, r.cfg.Now().Add(r.cfg.Keep))
}

// RevokeAll ends the sessions that are meant and began before a given time. Where a subject and a session of the provider's are named, the latter
// counts. What is said of its error at Revoke holds here, too.
func (r *Revocations) RevokeAll(ctx context.Context, who Selector, began time.Time) error {
	kind, name := who.index()
	return r.revoke(ctx, kind, name, began)
}

func (r *Revocations) revoke(ctx context.Context, kind, name string, began time.Time) error {
	tags, err := r.cfg.Tags.Tags(kind, name)
	if err != nil {
		return err
	}
	began = began.Truncate(time.Millisecond) // as it is kept, and as sessions are
	now := r.cfg.Now()
	mark, until := kind+"-"+tags[0], now.Add(r.cfg.Keep)
	r.known.add(mark, began, now, until)
	key := mark + "-" + strconv.FormatInt(began.UnixMilli(), 10)
	if kind == markSession {
		key = mark // it says the same whenever
	}
	err = r.cfg.Store.Save(ctx, key, store.Record{Version: 1, Expires: until, Indexes: []string{r.bucket(bucketOf(now))}})
	if err != nil && !errors.Is(err, store.ErrConflict) {
		return storeError("remembering that a session was ended", err)
	}
	return nil
}

// Once reports whether something that may be done once, until a given time, is
// done for the first time, by whatever process; name says what. Undo takes it
// back.
func (r *Revocations) Once(ctx context.Context, name string, until time.Time) (first bool, undo func(), err error) {
	tags, err := r.cfg.Tags.Tags(markToken, name)
	if err != nil {
		return false, nil, err
	}
	for _, tag := range tags[1:] { // another process may name it by another key
		if _, err := r.cfg.Store.Load(ctx, markToken+"-"+tag); !errors.Is(err, fs.ErrNotExist) {
			if err != nil {
				err = storeError("looking for a logout token", err)
			}
			return false, nil, err
		}
	}
	key := markToken + "-" + tags[0]
	err = r.cfg.Store.Save(ctx, key, store.Record{Version: 1, Expires: until})
	if errors.Is(err, store.ErrConflict) {
		return false, nil, nil
	}
	if err != nil {
		return false, nil, storeError("remembering a logout token", err)
	}
	return true, func() { _ = r.cfg.Store.Delete(context.WithoutCancel(ctx), key) }, nil
}

const (
	// bucketSize is how much time goes into one list: those that may still get
	// new entries are short, and the others are read once.
	bucketSize = 6 * time.Hour

	// bucketOverlap is by how much the clocks of processes may differ: who is
	// behind still writes to the list before, who is ahead to the next.
	bucketOverlap = 10 * time.Minute
)

func bucketOf(at time.Time) int64 { return at.UnixMilli() / bucketSize.Milliseconds() }

// bucket names a list.
func (r *Revocations) bucket(number int64) string {
	return "revoked-" + r.cfg.Provider + "-" + strconv.FormatInt(number, 10)
}

// parseRevocation reads the key of a revocation.
func parseRevocation(key string) (mark string, since time.Time, ok bool) {
	kind, rest, _ := strings.Cut(key, "-")
	tag, number, dated := strings.Cut(rest, "-")
	if tag == "" {
		return "", time.Time{}, false
	}
	switch kind {
	case markSession:
		return key, farFuture, !dated
	case indexAll, indexSubject, indexProviderID:
		millis, err := strconv.ParseInt(number, 10, 64)
		return kind + "-" + tag, time.UnixMilli(millis), err == nil
	default:
		return "", time.Time{}, false
	}
}

// farFuture is after any session began: a session that was ended has ended.
var farFuture = time.UnixMilli(253402300799_999)

// Look asks the store for what others have revoked since the last time; the
// first time for all that must be known. Its answer may be what was true up to
// a second ago.
func (r *Revocations) Look(ctx context.Context) error {
	if c, ok := r.cfg.Store.(store.Cached); ok {
		return r.read(ctx, c.FindCached)
	}
	return r.LookNow(ctx)
}

// LookNow is Look for who must know all that was revoked before the call.
func (r *Revocations) LookNow(ctx context.Context) error { return r.read(ctx, r.cfg.Store.Find) }

func (r *Revocations) read(ctx context.Context, find func(context.Context, string) ([]string, error)) error {
	now := r.cfg.Now()
	from := now.Add(-r.cfg.Keep)
	if read := time.Unix(0, r.known.read.Load()); read.After(from) && !read.After(now) { // else the clock was set back
		from = read
	}
	for n := bucketOf(from.Add(-bucketOverlap)); n <= bucketOf(now.Add(bucketOverlap)); n++ {
		keys, err := find(ctx, r.bucket(n))
		if err != nil {
			return storeError("asking which sessions were ended", err)
		}
		end := time.UnixMilli((n + 1) * bucketSize.Milliseconds())
		for _, key := range keys {
			if mark, since, ok := parseRevocation(key); ok {
				r.known.add(mark, since, now, end.Add(r.cfg.Keep))
			}
		}
		r.known.hasRead(end.Add(bucketOverlap), now) // so that a slow store is got through in several looks
	}
	r.known.hasRead(now, now)
	return nil
}

// hasRead remembers that all lists are read that were full by a given time; that
// is nothing to remember before it has come.
func (r *Revoked) hasRead(until, now time.Time) {
	before := r.read.Load()
	if !until.After(now) && (until.UnixNano() > before || before > now.UnixNano()) {
		r.read.Store(until.UnixNano())
	}
}

// errRevocationsUnknown says that it is not known any more which sessions were
// ended.
func errRevocationsUnknown(err error) error {
	return fmt.Errorf("it is not known which sessions were ended: %w", err)
}
