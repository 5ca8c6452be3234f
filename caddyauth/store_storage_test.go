package caddyauth

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/certmagic"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/pkce-auth/caddy-pkce-auth/caddyauth/store"
	"github.com/pkce-auth/caddy-pkce-auth/caddyauth/store/storetest"
)

// mapStorage is a storage of keys and values, as databases are: it has no
// folders, and cannot try locks. It fails and hangs where a test says so.
type mapStorage struct {
	mu    sync.Mutex
	data  map[string][]byte
	locks map[string]chan struct{}

	// before is called before each operation, with its name and its path, and
	// may refuse it, or not return for a while.
	before func(op, at string) error
}

func newMapStorage() *mapStorage {
	return &mapStorage{data: map[string][]byte{}, locks: map[string]chan struct{}{}}
}

// begin begins an operation.
func (m *mapStorage) begin(op, at string) error {
	m.mu.Lock()
	before := m.before
	m.mu.Unlock()
	if before != nil {
		return before(op, at)
	}
	return nil
}

func (m *mapStorage) fault(before func(op, at string) error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.before = before
}

func (m *mapStorage) Store(_ context.Context, at string, value []byte) error {
	if err := m.begin("store", at); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.data[at] = bytes.Clone(value)
	return nil
}

func (m *mapStorage) Load(_ context.Context, at string) ([]byte, error) {
	if err := m.begin("load", at); err != nil {
		return nil, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	value, ok := m.data[at]
	if !ok {
		return nil, fmt.Errorf("%s: %w", at, fs.ErrNotExist)
	}
	return bytes.Clone(value), nil
}

func (m *mapStorage) Delete(_ context.Context, at string) error {
	if err := m.begin("delete", at); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.data, at)
	return nil
}

func (m *mapStorage) Exists(context.Context, string) bool { panic("is not called") }

func (m *mapStorage) List(_ context.Context, folder string, recursive bool) ([]string, error) {
	if err := m.begin("list", folder); err != nil {
		return nil, err
	}
	if recursive {
		return nil, errors.New("is not called so")
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	found := map[string]bool{}
	for at := range m.data {
		if rest, ok := strings.CutPrefix(at, folder+"/"); ok {
			child, _, _ := strings.Cut(rest, "/")
			found[folder+"/"+child] = true
		}
	}
	return slices.Collect(maps.Keys(found)), nil
}

func (m *mapStorage) Stat(_ context.Context, at string) (certmagic.KeyInfo, error) {
	if err := m.begin("stat", at); err != nil {
		return certmagic.KeyInfo{}, err
	}
	return certmagic.KeyInfo{Key: at}, nil
}

func (m *mapStorage) lock(name string) chan struct{} {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.locks[name] == nil {
		m.locks[name] = make(chan struct{}, 1)
	}
	return m.locks[name]
}

func (m *mapStorage) Lock(ctx context.Context, name string) error {
	if err := m.begin("lock", name); err != nil {
		return err
	}
	select {
	case m.lock(name) <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (m *mapStorage) Unlock(_ context.Context, name string) error {
	<-m.lock(name)
	return nil
}

func (m *mapStorage) paths(prefix string) (paths []string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for at := range m.data {
		if strings.HasPrefix(at, prefix) {
			paths = append(paths, at)
		}
	}
	return paths
}

// Each handle has a storage of its own over the same folder, as two processes
// have.
func TestStorageConforms(t *testing.T) {
	t.Run("files", func(t *testing.T) {
		open := func(folder string) store.Store {
			return newStorageStore(&certmagic.FileStorage{Path: folder}, time.Now)
		}
		storetest.Run(t, func(t *testing.T) store.Store { return open(folderFor(t)) },
			storetest.SecondHandle(func(_ *testing.T, first store.Store) store.Store {
				return open(first.(*storageStore).storage.(*certmagic.FileStorage).Path)
			}))
	})
	t.Run("a database that cannot try locks", func(t *testing.T) {
		storetest.Run(t, func(*testing.T) store.Store { return newStorageStore(newMapStorage(), time.Now) },
			storetest.SecondHandle(func(_ *testing.T, first store.Store) store.Store {
				return newStorageStore(first.(*storageStore).storage, time.Now)
			}))
	})
}

func lasting(version uint64, value string, indexes ...string) store.Record {
	return store.Record{Version: version, Value: []byte(value), Expires: time.Now().Add(time.Hour), Indexes: indexes}
}

// want is what a Load must give.
func (s *storageStore) want(t *testing.T, key string, version uint64, value string) {
	t.Helper()
	if r, err := s.Load(t.Context(), key); err != nil || r.Version != version || string(r.Value) != value {
		t.Errorf("Load of %s: got version %d, %q and %v, want version %d, %q", key, r.Version, r.Value, err, version, value)
	}
}

// T4: a storage that fails logs nobody out, and what it did not keep was
// not there.
func TestStorageThatFailsIsNoAnswer(t *testing.T) {
	down := errors.New("down")
	for _, broken := range []string{"load", "store", "list", "delete", "lock", ""} {
		storage := newMapStorage()
		s := newStorageStore(storage, time.Now)
		if err := s.Save(t.Context(), "key", lasting(1, "x", "index")); err != nil {
			t.Fatal(err)
		}
		storage.fault(func(op, _ string) error {
			if op == broken || broken == "" {
				return down
			}
			return nil
		})
		_, load := s.Load(t.Context(), "key")
		_, find := s.Find(t.Context(), "index")
		save := s.Save(t.Context(), "key", lasting(2, "y", "index"))
		unlock, ok, try := s.TryLock(t.Context(), "name")
		for what, got := range map[string]error{"load": load, "list": find, "store": save, "lock": try} {
			if broken == "" || broken == what {
				if !errors.Is(got, down) {
					t.Errorf("broken %q: %s: got %v, want %v", broken, what, got, down)
				}
			}
			if errors.Is(got, fs.ErrNotExist) || errors.Is(got, store.ErrConflict) {
				t.Errorf("broken %q: %s: got %v, want no answer", broken, what, got)
			}
		}
		if ok {
			unlock()
		}
		storage.fault(nil)
		want := uint64(1)
		if save == nil {
			want = 2
		}
		if r, err := s.Load(t.Context(), "key"); err != nil || r.Version != want {
			t.Errorf("broken %q: Load afterwards: got version %d and %v, want %d", broken, r.Version, err, want)
		}
		if keys, err := s.Find(t.Context(), "index"); err != nil || !slices.Equal(keys, []string{"key"}) {
			t.Errorf("broken %q: Find afterwards: got %v and %v, want the key", broken, keys, err)
		}
		storage.fault(func(op, _ string) error {
			if op == broken || broken == "" {
				return down
			}
			return nil
		})
		if err := s.Delete(t.Context(), "key"); broken == "delete" && !errors.Is(err, down) || broken == "list" && err != nil {
			t.Errorf("broken %q: Delete: got %v", broken, err)
		}
	}
}

// A storage that hangs, and does not heed its context, holds nobody for
// longer than they want to wait; and no more goroutines than there are slots.
func TestStorageThatHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		storage := newMapStorage()
		s := newStorageStore(storage, time.Now)
		if err := s.Save(t.Context(), "key", lasting(1, "x", "index")); err != nil {
			t.Fatal(err)
		}
		mended := make(chan struct{})
		var hanging atomic.Int32
		storage.fault(func(string, string) error {
			hanging.Add(1)
			<-mended
			return nil
		})
		for what, call := range map[string]func(ctx context.Context) error{
			"Load":    func(ctx context.Context) error { _, err := s.Load(ctx, "key"); return err },
			"Find":    func(ctx context.Context) error { _, err := s.Find(ctx, "index"); return err },
			"Save":    func(ctx context.Context) error { return s.Save(ctx, "key", lasting(2, "y")) },
			"Delete":  func(ctx context.Context) error { return s.Delete(ctx, "other") },
			"TryLock": func(ctx context.Context) error { _, _, err := s.TryLock(ctx, "name"); return err },
		} {
			start := time.Now()
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			if err := call(ctx); !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("%s: got %v, want %v", what, err, context.DeadlineExceeded)
			}
			cancel()
			if took := time.Since(start); took > time.Second {
				t.Errorf("%s: took %v, want 1s", what, took)
			}
			if err := call(t.Context()); err == nil && what != "TryLock" || errors.Is(err, fs.ErrNotExist) || errors.Is(err, store.ErrConflict) {
				t.Errorf("%s without a limit: got %v, want that it cannot be told", what, err)
			}
			if took := time.Since(start); took > 12*time.Second {
				t.Errorf("%s without a limit: took %v, want 10s", what, took)
			}
		}
		var all sync.WaitGroup
		for i := range 4 * storageSlots {
			all.Go(func() {
				if _, err := s.Load(t.Context(), fmt.Sprint("k", i)); !errors.Is(err, errStorageSilent) {
					t.Errorf("Load %d: got %v, want %v", i, err, errStorageSilent)
				}
			})
		}
		all.Wait()
		if got := hanging.Load(); got > 2*storageSlots {
			t.Errorf("got %d calls that hang, want %d at most", got, 2*storageSlots)
		}
		time.Sleep(storageWriteBound)
		close(mended)
		synctest.Wait()
		s.want(t, "key", 1, "x") // what came so late that nobody waited for it was not written
		if keys, err := s.Find(t.Context(), "index"); err != nil || !slices.Equal(keys, []string{"key"}) {
			t.Errorf("Find afterwards: got %v and %v, want the key", keys, err)
		}
		if unlock, ok, err := s.TryLock(t.Context(), "name"); !ok || err != nil {
			t.Errorf("TryLock afterwards: got %v and %v, want the lock", ok, err)
		} else {
			unlock()
		}
		time.Sleep(time.Minute) // what still waits for locks gives up
	})
}

// A write that hangs keeps its lock until it is done: a Save of another process
// must not be overwritten by one that is minutes old.
func TestStorageKeepsTheLockOfAWriteThatHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		storage := newMapStorage()
		one, two := newStorageStore(storage, time.Now), newStorageStore(storage, time.Now)
		if err := one.Save(t.Context(), "key", lasting(1, "x")); err != nil {
			t.Fatal(err)
		}
		mended := make(chan struct{})
		var once sync.Once
		storage.fault(func(op, _ string) error {
			if op == "store" {
				once.Do(func() { <-mended })
			}
			return nil
		})
		if err := one.Save(t.Context(), "key", lasting(2, "late")); !errors.Is(err, errStorageSilent) {
			t.Fatalf("Save: got %v, want %v", err, errStorageSilent)
		}
		if err := two.Save(t.Context(), "key", lasting(2, "other")); !errors.Is(err, errLocked) {
			t.Errorf("Save under the lock of another: got %v, want %v", err, errLocked)
		}
		two.want(t, "key", 1, "x")
		close(mended)
		synctest.Wait()
		two.want(t, "key", 2, "late")
		if err := two.Save(t.Context(), "key", lasting(2, "other")); !errors.Is(err, store.ErrConflict) {
			t.Errorf("Save: got %v, want %v", err, store.ErrConflict)
		}
	})
}

// T8: whoever logs out is logged out, though the lock cannot be had.
func TestStorageDeletesWithoutTheLock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		storage := newMapStorage()
		s := newStorageStore(storage, time.Now)
		if err := s.Save(t.Context(), "key", lasting(1, "x", "index")); err != nil {
			t.Fatal(err)
		}
		kept, err := s.read(t.Context(), sessionPath("key"))
		if err != nil {
			t.Fatal(err)
		}
		if err := storage.Lock(t.Context(), kept.lockName(sessionPath("key"))); err != nil {
			t.Fatal(err)
		}
		if err := s.Save(t.Context(), "key", lasting(2, "y", "index")); !errors.Is(err, errLocked) {
			t.Errorf("Save without the lock: got %v, want %v", err, errLocked)
		}
		s.want(t, "key", 1, "x")
		start := time.Now()
		if err := s.Delete(t.Context(), "key"); err != nil {
			t.Errorf("Delete without the lock: got %v, want no error", err)
		}
		if took := time.Since(start); took > 4*time.Second {
			t.Errorf("Delete without the lock: took %v, want 4s at most", took)
		}
		if _, err := s.Load(t.Context(), "key"); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("Load: got %v, want %v", err, fs.ErrNotExist)
		}
	})
}

// A process that is killed in a critical section leaves a lock file, which is
// old after ten seconds; or an empty one, when it had just made it.
func TestStorageOvercomesTheLocksOfTheDead(t *testing.T) {
	for name, left := range map[string]func() []byte{
		"old": func() []byte {
			old, _ := json.Marshal(map[string]time.Time{"created": time.Now().Add(-time.Minute), "updated": time.Now().Add(-11 * time.Second)})
			return old
		},
		"empty": func() []byte { return nil },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			folder := folderFor(t)
			s := newStorageStore(&certmagic.FileStorage{Path: folder}, time.Now)
			if err := s.Save(t.Context(), "key", lasting(1, "x")); err != nil {
				t.Fatal(err)
			}
			for _, at := range []string{sessionPath("key"), leasePath("name")} {
				kept, err := s.read(t.Context(), at)
				if err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(filepath.Join(folder, "locks", kept.lockName(at)+".lock"), left(), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			if err := s.Save(t.Context(), "key", lasting(2, "y")); err != nil {
				t.Errorf("Save: got %v, want no error", err)
			}
			s.want(t, "key", 2, "y")
			for start := time.Now(); ; time.Sleep(50 * time.Millisecond) {
				unlock, ok, err := s.TryLock(t.Context(), "name")
				if err != nil || time.Since(start) > store.LockLease {
					t.Fatalf("TryLock: got %v and %v, want the lock within %v", ok, err, store.LockLease)
				}
				if ok {
					unlock()
					return
				}
			}
		})
	}
}

// A lock outlives its holder by LockLease and no longer, and a holder that
// lives has it for as long as it likes.
func TestStorageLeases(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		storage := newMapStorage()
		one, two := newStorageStore(storage, time.Now), newStorageStore(storage, time.Now)
		unlock, ok, err := one.TryLock(t.Context(), "name")
		if err != nil || !ok {
			t.Fatalf("TryLock: got %v and %v, want the lock", ok, err)
		}
		for range 100 {
			time.Sleep(time.Second)
			if _, ok, err := two.TryLock(t.Context(), "name"); ok || err != nil {
				t.Fatalf("TryLock of what another has: got %v and %v, want false", ok, err)
			}
		}
		unlock()
		synctest.Wait()
		dead := lease{s: two, path: leasePath("name"), holder: "dead", over: make(chan struct{})}
		if err := two.exclusively(t.Context(), dead.take()); err != nil { // and nobody keeps it
			t.Fatal(err)
		}
		time.Sleep(store.LockLease - time.Second)
		if _, ok, err := one.TryLock(t.Context(), "name"); ok || err != nil {
			t.Errorf("TryLock of what somebody had who died: got %v and %v, want false", ok, err)
		}
		time.Sleep(2 * time.Second)
		unlock, ok, err = one.TryLock(t.Context(), "name")
		if err != nil || !ok {
			t.Fatalf("TryLock after LockLease: got %v and %v, want the lock", ok, err)
		}
		if err := two.exclusively(t.Context(), dead.giveBack()); !errors.Is(err, errNothingToDo) {
			t.Errorf("giving back what is another's by now: got %v, want %v", err, errNothingToDo)
		}
		unlock()
		synctest.Wait()
		time.Sleep(time.Minute)
	})
}

// certmagic's file storage says "does not exist" when a file goes away while
// it walks, and has not seen the rest.
func TestStorageFindsAllWhileFilesComeAndGo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		storage := newMapStorage()
		s := newStorageStore(storage, time.Now)
		if err := s.Save(t.Context(), "key", lasting(1, "x", "index")); err != nil {
			t.Fatal(err)
		}
		walks := 0
		storage.fault(func(op, _ string) error {
			if op == "list" {
				walks++
				if walks < 20 {
					return fs.ErrNotExist
				}
			}
			return nil
		})
		if keys, err := s.Find(t.Context(), "index"); err != nil || !slices.Equal(keys, []string{"key"}) {
			t.Errorf("Find: got %v and %v, want the key", keys, err)
		}
		storage.fault(func(op, _ string) error {
			if op == "list" {
				return fs.ErrNotExist
			}
			return nil
		})
		if keys, err := s.Find(t.Context(), "index"); err == nil {
			t.Errorf("Find in a folder that can never be read: got %v and no error, want one", keys)
		}
	})
}

// What is garbled for good is as good as gone; what is only half written yet,
// or by a later version, is not.
func TestStorageReadsGarbledRecords(t *testing.T) {
	whole := encodeRecord(lasting(1, "x"))
	later := encodeRecord(lasting(1, "x"))
	later[0] = 2
	for name, test := range map[string]struct {
		data []byte
		want error
	}{
		"empty":           {nil, fs.ErrNotExist},
		"cut short":       {whole[:len(whole)-1], fs.ErrNotExist},
		"zeros":           {make([]byte, len(whole)), fs.ErrNotExist},
		"a later version": {rechecked(later), errLaterFormat},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				storage := newMapStorage()
				s := newStorageStore(storage, time.Now)
				storage.data[sessionPath("key")] = test.data
				_, err := s.Load(t.Context(), "key")
				if !errors.Is(err, test.want) || !strings.Contains(err.Error(), sessionPath("key")) {
					t.Errorf("Load: got %v, want %v that names the path", err, test.want)
				}
				if test.want != fs.ErrNotExist && errors.Is(err, fs.ErrNotExist) {
					t.Errorf("Load: got %v, want another error", err)
				}
				if test.want == fs.ErrNotExist {
					if err := s.Save(t.Context(), "key", lasting(1, "new")); err != nil {
						t.Errorf("Save: got %v, want no error", err)
					}
					s.want(t, "key", 1, "new")
				}
				storage.data[sessionPath("key")] = test.data
				if err := s.Delete(t.Context(), "key"); err != nil || len(storage.paths(storageSessions)) > 0 {
					t.Errorf("Delete: got %v and %v left, want nothing", err, storage.paths(storageSessions))
				}
				storage.data[sessionPath("key")] = whole[:9]
				time.AfterFunc(50*time.Millisecond, func() { _ = storage.Store(context.Background(), sessionPath("key"), encodeRecord(lasting(1, "whole"))) })
				s.want(t, "key", 1, "whole")
			})
		})
	}
}

func TestStorageRefusesNamesThatArePaths(t *testing.T) {
	storage := newMapStorage()
	s := newStorageStore(storage, time.Now)
	for _, name := range []string{"", "../x", "a/b", "A", ".a", "-a", "a\x00", "ä", strings.Repeat("a", 129)} {
		_, load := s.Load(t.Context(), name)
		_, find := s.Find(t.Context(), name)
		_, _, lock := s.TryLock(t.Context(), name)
		for _, err := range []error{load, find, lock, s.Delete(t.Context(), name), s.Save(t.Context(), name, lasting(1, "")), s.Save(t.Context(), "a", lasting(1, "", name))} {
			if err == nil || errors.Is(err, fs.ErrNotExist) {
				t.Errorf("%q: got %v, want an error", name, err)
			}
		}
	}
	if got := storage.paths(""); len(got) != 0 {
		t.Errorf("got %v, want nothing stored", got)
	}
}

func TestStorageSweep(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		storage := newMapStorage()
		s := newStorageStore(storage, time.Now)
		for i := range 20 {
			r := lasting(1, "x", "all", fmt.Sprint("sid", i))
			r.Expires = time.Now().Add(time.Duration(i+1) * time.Hour)
			if err := s.Save(t.Context(), fmt.Sprint("key", i), r); err != nil {
				t.Fatal(err)
			}
		}
		ctx := t.Context()
		_ = storage.Store(ctx, indexPath("left-over", "gone"), []byte{indexEntry})                // its record was never saved
		_ = storage.Store(ctx, indexPath("before", "key19"), []byte{indexEntry})                  // its record has other indexes by now
		_ = storage.Store(ctx, sessionPath("garbled"), []byte("garbled"))                         // after a crash
		_ = storage.Store(ctx, storageSessions+"/ke/somebody.else", []byte("not ours to remove")) // however it came
		time.Sleep(10*time.Hour + sweepGrace)

		core, logs := observer.New(zap.WarnLevel)
		running, stop := context.WithCancel(ctx)
		var all sync.WaitGroup
		for range 3 {
			all.Go(func() { newStorageStore(storage, time.Now).run(running, zap.New(core)) })
		}
		time.Sleep(sweepEvery - time.Minute)
		all.Go(func() { time.Sleep(time.Minute); stop() })
		all.Wait()
		if logs.Len() != 0 {
			t.Errorf("got %v, want no warning", logs.All())
		}
		keys, err := s.Find(ctx, "all")
		if got := len(storage.paths(storageSessions)); err != nil || len(keys) < 9 || len(keys) > 10 || got != len(keys)+1 {
			t.Errorf("got %d keys and %v, and %d records, want 9 or 10, and the file that is not ours", len(keys), err, got)
		}
		if got := len(storage.paths(storageIndexes)); got != 2*len(keys) {
			t.Errorf("got %d entries, want %d", got, 2*len(keys))
		}
		for _, key := range keys {
			if _, err := s.Load(ctx, key); err != nil && key != "key10" {
				t.Errorf("Load of %s: got %v, want it", key, err)
			}
		}
		storage.fault(func(op, _ string) error {
			if op == "list" {
				return errors.New("down")
			}
			return nil
		})
		if err := s.sweep(ctx); err == nil {
			t.Error("sweep of a storage that is down: got no error, want one")
		}
		time.Sleep(time.Minute)
	})
}

// A sweep must not take what a login is just writing.
func TestStorageSweepBesideSaves(t *testing.T) {
	s := newStorageStore(newMapStorage(), time.Now)
	done := make(chan error, 1)
	sweeping, stop := context.WithCancel(t.Context())
	go func() {
		for sweeping.Err() == nil {
			err := s.walk(sweeping, storageIndexes, s.sweepIndex)
			if err != nil && sweeping.Err() == nil {
				done <- err
				return
			}
		}
		done <- nil
	}()
	for i := range 300 {
		key := fmt.Sprint("key", i)
		if err := s.Save(t.Context(), key, lasting(1, "x", "index")); err != nil {
			t.Fatal(err)
		}
		keys, err := s.Find(t.Context(), "index")
		if err != nil || !slices.Contains(keys, key) {
			t.Fatalf("Find: got %d keys and %v, but not the one just saved", len(keys), err)
		}
		if i%3 == 0 {
			if err := s.Delete(t.Context(), key); err != nil {
				t.Fatal(err)
			}
		}
	}
	stop()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if keys, err := s.Find(t.Context(), "index"); err != nil || len(keys) != 200 {
		t.Errorf("Find: got %d keys and %v, want 200", len(keys), err)
	}
}

// A machine that stops while a file is written leaves one that is named by
// digits.
func TestStorageSweepsUnfinishedFiles(t *testing.T) {
	folder := folderFor(t)
	s := newStorageStore(&certmagic.FileStorage{Path: folder}, time.Now)
	if err := s.Save(t.Context(), "key", lasting(1, "x", "index")); err != nil {
		t.Fatal(err)
	}
	left := filepath.Join(folder, filepath.FromSlash(filepath.Dir(sessionPath("key"))), "2718281828")
	if err := os.WriteFile(left, []byte("half"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := s.walk(t.Context(), storageSessions, s.sweepSession); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(left); err != nil {
		t.Errorf("what is being written: got %v, want it left alone", err)
	}
	old := time.Now().Add(-sweepLeftovers - time.Minute)
	if err := os.Chtimes(left, old, old); err != nil {
		t.Fatal(err)
	}
	if err := s.walk(t.Context(), storageSessions, s.sweepSession); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(left); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("what nobody has finished: got %v, want %v", err, fs.ErrNotExist)
	}
	s.want(t, "key", 1, "x")
}

func TestStorageModule(t *testing.T) {
	disabled := false
	folder := folderFor(t)
	raw, _ := json.Marshal(map[string]string{"module": "file_system", "root": folder})
	ctx, err := caddy.ProvisionContext(&caddy.Config{
		Admin:      &caddy.AdminConfig{Disabled: true, Config: &caddy.ConfigSettings{Persist: &disabled}},
		StorageRaw: raw,
	})
	if err != nil {
		t.Fatal(err)
	}
	module, err := ctx.LoadModuleByID("pkce_auth.sessions.storage", nil)
	if err != nil {
		t.Fatal(err)
	}
	s, err := module.(SessionStore).Store()
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Save(t.Context(), "key", lasting(1, "x")); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(folder, "pkce_auth", "sessions", "ke", "key.session")); err != nil {
		t.Errorf("the file of a record: got %v, want it", err)
	}
	for text, ok := range map[string]bool{"storage": true, "storage /var/lib": false} {
		if err := new(StorageSessions).UnmarshalCaddyfile(caddyfile.NewTestDispenser(text)); (err == nil) != ok {
			t.Errorf("%s: got %v, want it accepted: %v", text, err, ok)
		}
	}
}

// certmagic's file storage keeps a lock file fresh for a while after it was
// given back, whoever has made it anew: if that one dies, the lock is stuck
// while the first one lives. So no lock is asked for twice.
func TestStorageLocksHaveNewNames(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		storage := newMapStorage()
		s := newStorageStore(storage, time.Now)
		names := map[string]bool{}
		storage.fault(func(op, name string) error {
			if op == "lock" {
				if names[name] {
					t.Errorf("lock %s is taken twice", name)
				}
				names[name] = true
			}
			return nil
		})
		for version := uint64(1); version <= 5; version++ {
			if err := s.Save(t.Context(), "key", lasting(version, "x")); err != nil {
				t.Fatal(err)
			}
			unlock, ok, err := s.TryLock(t.Context(), "key")
			if err != nil || !ok {
				t.Fatalf("TryLock: got %v and %v, want the lock", ok, err)
			}
			time.Sleep(20 * time.Second) // renewed meanwhile
			unlock()
			synctest.Wait()
		}
		if len(names) < 15 {
			t.Errorf("got %d locks, want one for each change", len(names))
		}
	})
}

// folderFor is t.TempDir for stores that write behind an answer: locks are given
// back, and dead ones cleared, when nobody waits for it any longer.
func folderFor(t testing.TB) string {
	t.Helper()
	folder, err := os.MkdirTemp("", "pkce_auth")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		for tries := 0; os.RemoveAll(folder) != nil; tries++ {
			if tries == 100 {
				t.Errorf("something writes to %s on and on", folder)
				return
			}
			time.Sleep(100 * time.Millisecond)
		}
	})
	return folder
}
