// Package store is the contract between sessions and where they are kept. It
// knows nothing of sessions: what it keeps is sealed before it gets here, and
// under names that say nothing.
//
// A store of one's own implements Store, and passes storetest.Run. It becomes
// a Caddy module in the namespace `pkce_auth.sessions` whose Go type has the
// method of caddyauth.SessionStore.
package store

import (
	"context"
	"errors"
	"time"
)

// ErrConflict says that a record was not saved, because what is kept is not
// the version before it: somebody else has saved one, or deleted it.
var ErrConflict = errors.New("somebody else has changed the record")

// Record is what is kept under a key.
//
// Stores hand out what others read at the same time, and a copy of each token
// for each request would be a waste: nobody modifies a Value, or the Indexes,
// that came from a store. What was given to Save is the caller's own again
// when Save has returned: a store keeps no reference to it.
type Record struct {
	// Value is the content: some kilobytes, as a rule, and opaque.
	Value []byte

	// Version is 1 for a new record, and one more with each change.
	Version uint64

	// Expires is when the record is over. From then on it must not be loaded,
	// by the clock of whoever loads it, and it may be dropped.
	Expires time.Time

	// Indexes are the names of the sets that the record's key is in while the
	// record lasts; see Store.Find. A change may bring other ones. Load need
	// not return them.
	Indexes []string
}

// Store keeps records. All its methods may be called concurrently, by this
// process and by others that share what is behind it, and everybody sees what
// anybody has done: after a Save or a Delete has returned, no Load anywhere
// gives what was there before.
//
// Keys, names of indexes and names of locks are at most 128 bytes long, of the
// letters a to z, digits, '-' and '.', and begin with a letter or digit. They
// are three worlds: a key, an index and a lock of one name have nothing to do
// with each other. Keys are as good as random.
//
// Errors other than those that are named here (errors.Is tells, they may be
// wrapped) mean that it cannot be told now: nobody is logged out for them. An
// answer that does not come is one, too: the methods return when the context
// ends, and a store that may hang bounds itself besides.
type Store interface {
	// Load returns the record of a key. The error is fs.ErrNotExist when there
	// is none, or none any more.
	Load(ctx context.Context, key string) (Record, error)

	// Save keeps a record, if its Version is 1 and there is none (or none any
	// more), or one more than the version of the one there is. Else it changes
	// nothing, and the error is ErrConflict: so nobody overwrites what they have
	// not seen, and nothing comes back that was deleted. Which of several
	// concurrent Saves of one version wins is open; all others get ErrConflict.
	//
	// After an error that is not ErrConflict, the record may have been kept all
	// the same. It is found through its Indexes not later than it is loaded.
	Save(ctx context.Context, key string, record Record) error

	// Delete drops a record, of whatever version, and takes its key out of its
	// indexes, if not at once, then within seconds. That there is none is no
	// error.
	Delete(ctx context.Context, key string) error

	// Find returns the keys of all records that have the index among their
	// Indexes, in any order. It may return keys of records that have expired or
	// were deleted, or whose Indexes have changed; it lacks none.
	Find(ctx context.Context, index string) ([]string, error)
}

// Cached is a Store that answers from its own memory what it was asked before,
// and is told of changes.
type Cached interface {
	Store

	// LoadCached is Load, and may give what was true up to a second ago; but
	// nothing that has expired, which a cache knows without being told.
	LoadCached(ctx context.Context, key string) (Record, error)

	// FindCached is Find, and may give what was true up to a second ago.
	FindCached(ctx context.Context, index string) ([]string, error)
}

// Locker is a Store that lets one of all processes do something that must
// not be done twice. Without it, only the processes by themselves see to that.
type Locker interface {
	// TryLock takes the lock of that name, and never waits for it: ok is false
	// when somebody else has it. It holds until unlock is called, which may be
	// done from anywhere and waits for nobody: others get the lock then, or a
	// moment later. Called again, it does nothing, whoever has the lock by then.
	// If the holder dies, the lock holds for at most LockLease.
	//
	// A lock saves work. That nothing is lost when two hold it all the same, as
	// clocks and networks may have it, is the business of Save.
	TryLock(ctx context.Context, name string) (unlock func(), ok bool, err error)
}

// LockLease is how long the lock of a process lasts that has died.
const LockLease = 15 * time.Second
