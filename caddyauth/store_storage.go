package caddyauth

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/certmagic"

	"github.com/pkce-auth/caddy-pkce-auth/caddyauth/store"
)

func init() { caddy.RegisterModule(StorageSessions{}) }

// StorageSessions keeps sessions in whatever storage Caddy uses, as it keeps
// certificates there: files, as a rule, or a database that a plugin brings.
// All Caddys that share the storage share the sessions, and a logout is one
// everywhere. It needs no other server, and it is for hundreds of logins a
// minute rather than thousands: each change of a session takes a lock and some
// writes.
//
// Several machines must see a change at once. A file system that answers from
// a cache of its own, as NFS does by default, is as late as that cache.
type StorageSessions struct {
	storage certmagic.Storage
}

// CaddyModule returns the Caddy module information.
func (StorageSessions) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "pkce_auth.sessions.storage",
		New: func() caddy.Module { return new(StorageSessions) },
	}
}

// UnmarshalCaddyfile reads "storage", which has no options of its own.
func (*StorageSessions) UnmarshalCaddyfile(d *caddyfile.Dispenser) error { return withoutOptions(d) }

// Provision implements caddy.Provisioner.
func (s *StorageSessions) Provision(ctx caddy.Context) error {
	s.storage = ctx.Storage()
	return nil
}

// Store implements SessionStore.
func (s *StorageSessions) Store() (store.Store, error) {
	return newStorageStore(s.storage, time.Now), nil
}

// storageStore is a store.Store over a storage that knows neither versions nor
// ends, and may hang.
//
//	pkce_auth/sessions/<2 of the key>/<key>.session     a record
//	pkce_auth/indexes/<3 of the hash>/i<hash>_<key>.index  that a key is in an index
//	pkce_auth/locks/<2 of the name>/<name>.lock          who has a lock, and until when
//
// There are so many folders and no more: an index with a folder of its own
// would leave it behind with every session, for a storage can remove a folder
// only together with what somebody has just put into it. The names end as they
// do because certmagic's file storage writes to files named by digits, in the
// same folder, before it renames them.
type storageStore struct {
	storage certmagic.Storage
	now     func() time.Time

	reads, writes slots
	mine          ownLocks // before anybody bothers the storage's
}

const (
	storageSessions = "pkce_auth/sessions"
	storageIndexes  = "pkce_auth/indexes"
	storageLocks    = "pkce_auth/locks"

	// storageReadBound and storageWriteBound are for storages that hang.
	// A write may wait for a lock first.
	storageReadBound  = 5 * time.Second
	storageWriteBound = 10 * time.Second

	// storageSlots is how many reads, and how many writes, may be under way, or
	// hang, at a time.
	storageSlots = 256
)

func newStorageStore(storage certmagic.Storage, now func() time.Time) *storageStore {
	return &storageStore{
		storage: storage,
		now:     now,
		reads:   make(slots, storageSlots),
		writes:  make(slots, storageSlots),
		mine:    ownLocks{held: make(map[string]chan struct{})},
	}
}

// Load implements store.Store.
func (s *storageStore) Load(ctx context.Context, key string) (store.Record, error) {
	if err := checkNames(key); err != nil {
		return store.Record{}, err
	}
	var found storedState // of the goroutine, until the answer is there
	err := s.reads.ask(ctx, func(ctx context.Context) (err error) {
		found, err = s.read(ctx, sessionPath(key))
		return err
	})
	switch {
	case err != nil:
		return store.Record{}, err
	case found.garbled:
		return store.Record{}, fmt.Errorf("%s in Caddy's storage: %w: %w", sessionPath(key), errGarbled, fs.ErrNotExist)
	case !found.live(s.now()):
		return store.Record{}, fs.ErrNotExist
	}
	return found.record, nil
}

// Save implements store.Store. It writes the entries of indexes before the
// record, and removes those that are too many after it, so that whoever loads
// the record finds it, too; what is left over when that is cut short goes with
// the next sweep.
//
// It goes on when the caller has left: half a change would help nobody.
func (s *storageStore) Save(ctx context.Context, key string, r store.Record) error {
	if err := checkNames(key, r.Indexes...); err != nil {
		return err
	}
	r.Indexes = slices.Clone(r.Indexes) // the caller may be gone before they are written
	data := encodeRecord(r)
	return s.writes.do(ctx, func(ctx context.Context) error {
		return s.exclusively(ctx, change{
			path: sessionPath(key),
			check: func(kept storedState) error {
				if r.Version != kept.version(s.now())+1 {
					return store.ErrConflict
				}
				return nil
			},
			apply: func(ctx context.Context, kept storedState) error {
				return s.replace(ctx, key, data, kept.indexes(s.now()), r.Indexes)
			},
		})
	})
}

// replace writes a record, under its lock. An entry that a record before had
// in common is there, since it was written before that record.
func (s *storageStore) replace(ctx context.Context, key string, data []byte, before, after []string) error {
	for _, index := range after {
		if slices.Contains(before, index) {
			continue
		}
		if err := s.storage.Store(ctx, indexPath(index, key), []byte{indexEntry}); err != nil {
			return err
		}
	}
	if err := ctx.Err(); err != nil { // so late that the lock may be somebody else's by now
		return err
	}
	if err := s.storage.Store(ctx, sessionPath(key), data); err != nil {
		return err
	}
	for _, index := range before {
		if !slices.Contains(after, index) {
			_ = s.storage.Delete(ctx, indexPath(index, key)) // or the sweep does
		}
	}
	return nil
}

// indexEntry is all there is in an entry: its name says what it says.
const indexEntry = '1'

var errNothingToDo = errors.New("nothing to do")

// Delete implements store.Store. A lock that cannot be had does not keep a
// session alive that somebody ends: the record goes all the same, and only a
// Save that is between its comparison and its writing could bring it back.
func (s *storageStore) Delete(ctx context.Context, key string) error {
	if err := checkNames(key); err != nil {
		return err
	}
	return s.writes.do(ctx, func(ctx context.Context) error {
		err := s.exclusively(ctx, change{
			path: sessionPath(key),
			check: func(kept storedState) error {
				if !kept.exists {
					return errNothingToDo
				}
				return nil
			},
			apply: func(ctx context.Context, kept storedState) error { return s.drop(ctx, key, kept.record.Indexes) },
		})
		switch {
		case err == nil || errors.Is(err, errNothingToDo):
			return nil
		case errors.Is(err, errLocked) || errors.Is(err, errLaterFormat):
			// Its entries stay for the sweep: they may be those of a new record.
			return s.storage.Delete(ctx, sessionPath(key))
		default:
			return err
		}
	})
}

func (s *storageStore) drop(ctx context.Context, key string, indexes []string) error {
	if err := s.storage.Delete(ctx, sessionPath(key)); err != nil {
		return err
	}
	for _, index := range indexes {
		_ = s.storage.Delete(ctx, indexPath(index, key)) // or the sweep does
	}
	return nil
}

// Find implements store.Store.
func (s *storageStore) Find(ctx context.Context, index string) ([]string, error) {
	if err := checkNames(index); err != nil {
		return nil, err
	}
	var paths []string // of the goroutine, until the answer is there
	err := s.reads.ask(ctx, func(ctx context.Context) (err error) {
		paths, err = s.list(ctx, path.Dir(indexPath(index, "")))
		return err
	})
	if err != nil {
		return nil, err
	}
	var keys []string
	for _, p := range paths {
		if hash, key, ok := parseIndexPath(p); ok && hash == indexHash(index) {
			keys = append(keys, key)
		}
	}
	return keys, nil
}

// list gives what is in a folder. A folder that does not exist has nothing in
// it. But "does not exist" is also what certmagic's file storage says when a
// file goes away while it walks, and then it has not seen the rest: to take
// that for an answer would leave sessions alive that a logout is to end.
func (s *storageStore) list(ctx context.Context, folder string) ([]string, error) {
	for {
		paths, err := s.storage.List(ctx, folder, false)
		if !errors.Is(err, fs.ErrNotExist) {
			return paths, err
		}
		if _, err := s.storage.Stat(ctx, folder); errors.Is(err, fs.ErrNotExist) {
			return nil, nil
		} else if err != nil {
			return nil, err
		}
		if err := pause(ctx, time.Millisecond+randomPart(5*time.Millisecond)); err != nil {
			return nil, fmt.Errorf("listing %s in Caddy's storage, which changes all the time: %w", folder, err)
		}
	}
}

// read reads what is at a path. What is garbled is read again, in case that it
// is being written, in a storage that does not write at once.
//
// If it stays garbled, its content is lost for good: asking again would give
// the same bytes for ever. An error would lock its user out, with a cookie that
// nobody may touch, until an operator removes the file; so it counts as none,
// and the user logs in again. This gives nothing to anybody who can write to
// the storage, for they can remove the file, too. What a later version of this
// program has written is another matter: that one can read it, and it is an
// error.
func (s *storageStore) read(ctx context.Context, at string) (storedState, error) {
	var before []byte
	for try := 0; ; try++ {
		data, err := s.storage.Load(ctx, at)
		if errors.Is(err, fs.ErrNotExist) {
			return storedState{}, nil
		}
		if err != nil {
			return storedState{}, err
		}
		r, err := decodeRecord(data)
		switch {
		case err == nil:
			return storedState{exists: true, data: data, record: r}, nil
		case !errors.Is(err, errGarbled):
			return storedState{}, fmt.Errorf("%s in Caddy's storage: %w", at, err)
		case try >= 2 && bytes.Equal(data, before):
			return storedState{exists: true, data: data, garbled: true}, nil
		}
		before = data
		if err := pause(ctx, 100*time.Millisecond); err != nil {
			return storedState{}, err
		}
	}
}

func sessionPath(key string) string {
	return storageSessions + "/" + key[:min(2, len(key))] + "/" + key + ".session"
}

func leasePath(name string) string {
	return storageLocks + "/" + name[:min(2, len(name))] + "/" + name + ".lock"
}

// keyOf gives the key, or the lock, whose path it is.
func keyOf(p string) (key string, ok bool) {
	base := path.Base(p)
	key, ok = strings.CutSuffix(base, ".session")
	if !ok {
		key, ok = strings.CutSuffix(base, ".lock")
	}
	return key, ok && checkNames(key) == nil
}

// Interface guards
var (
	_ SessionStore          = (*StorageSessions)(nil)
	_ caddy.Provisioner     = (*StorageSessions)(nil)
	_ caddyfile.Unmarshaler = (*StorageSessions)(nil)
	_ store.Store           = (*storageStore)(nil)
	_ store.Locker          = (*storageStore)(nil)
)
