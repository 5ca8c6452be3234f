package redis

import (
	"context"
	"errors"
	"io/fs"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pkce-auth/caddy-pkce-auth/caddyauth/redisstore"
	"github.com/pkce-auth/caddy-pkce-auth/caddyauth/store"
)

// two are two replicas that share a Redis: their clients are not the same, as
// their addresses are not.
func two(t *testing.T, s *server) (all, all) {
	t.Helper()
	return open(t, redisstore.Sessions{Addresses: []string{"127.0.0.1:" + s.port}}),
		open(t, redisstore.Sessions{Addresses: []string{"localhost:" + s.port}})
}

func TestRedisConforms(t *testing.T) {
	redis := newServer(t)
	conforms(t, redisstore.Sessions{Addresses: []string{"127.0.0.1:" + redis.port}}, redisstore.Sessions{Addresses: []string{"localhost:" + redis.port}})
}

// What costs nothing must cost nothing: a session in use is not asked for.
func TestRedisHotSessionsCostNoRoundTrip(t *testing.T) {
	redis := newServer(t)
	one, other := two(t, redis)
	key := newKey()
	save(t, one, key, 1, "sub-1")
	loads(t, one.LoadCached, key, 1) // connects
	gets, ranges := redis.calls("get"), redis.calls("zrange")
	for range 1000 {
		loads(t, one.LoadCached, key, 1)
		if found, err := one.FindCached(t.Context(), "sub-1"); err != nil || !slices.Equal(found, []string{key}) {
			t.Fatalf("FindCached gave %q, %v", found, err)
		}
		if _, err := one.LoadCached(t.Context(), "absent"); !errors.Is(err, fs.ErrNotExist) {
			t.Fatalf("LoadCached gave %v", err)
		}
	}
	// One question each, and some more if the machine was so slow that Redis
	// was not heard from for a while.
	if gets, ranges = redis.calls("get")-gets, redis.calls("zrange")-ranges; gets > 20 || ranges > 10 {
		t.Errorf("1000 hot loads took %d GETs and %d ZRANGEs", gets, ranges)
	}

	// The other replica hears of a change at once.
	loads(t, other.LoadCached, key, 1)
	loads(t, other.LoadCached, key, 1)
	for version := uint64(2); version < 20; version++ {
		save(t, one, key, version, "sub-1")
		loads(t, one.LoadCached, key, version) // and we, without a moment between
		took := within(t, time.Second, "the other replica sees the change", func() bool {
			got, err := other.LoadCached(t.Context(), key)
			return err == nil && got.Version == version
		})
		t.Logf("seen after %s", took)
	}
	// Without indexes, nothing gives the news time to arrive before Save returns.
	for version := uint64(1); version < 500; version++ {
		save(t, one, "alone", version)
		loads(t, one.LoadCached, "alone", version)
	}
	if err := one.Delete(t.Context(), key); err != nil {
		t.Fatal(err)
	}
	if _, err := one.LoadCached(t.Context(), key); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("after our own Delete, LoadCached gave %v", err)
	}
	within(t, time.Second, "the other replica sees the deletion", func() bool {
		_, err := other.LoadCached(t.Context(), key)
		found, findErr := other.FindCached(t.Context(), "sub-1")
		return errors.Is(err, fs.ErrNotExist) && findErr == nil && len(found) == 0
	})
}

// A119: Redis killed and restarted, under load. While it is down there are
// errors, and neither logouts nor conflicts that are none; after that all is
// well by itself.
func TestRedisKilledUnderLoad(t *testing.T) {
	redis := newServer(t)
	one, _ := two(t, redis)
	key := newKey()
	save(t, one, key, 1)
	var down atomic.Bool
	var stop atomic.Bool
	var failed, lied atomic.Int64
	var load sync.WaitGroup
	for range 8 {
		load.Go(func() {
			for !stop.Load() {
				wasDown := down.Load()
				_, err := one.Load(context.Background(), key)
				_, cachedErr := one.LoadCached(context.Background(), key)
				saveErr := one.Save(context.Background(), newLoadKey(), record(1))
				for _, err := range []error{err, cachedErr, saveErr} {
					if err != nil {
						failed.Add(1)
					}
					if wasDown && down.Load() && (errors.Is(err, fs.ErrNotExist) || errors.Is(err, store.ErrConflict)) {
						lied.Add(1)
					}
				}
			}
		})
	}
	time.Sleep(100 * time.Millisecond)
	if n := failed.Load(); n != 0 {
		t.Errorf("%d operations failed while Redis was up", n)
	}
	down.Store(true)
	redis.kill()
	time.Sleep(1500 * time.Millisecond)
	if n := failed.Load(); n == 0 {
		t.Error("no operation failed while Redis was down")
	}
	down.Store(false)
	redis.start() // empty: it keeps nothing on disk
	within(t, 5*time.Second, "it works again", func() bool {
		_, err := one.Load(t.Context(), key)
		return errors.Is(err, fs.ErrNotExist)
	})
	within(t, 5*time.Second, "what was known is known no more", func() bool {
		_, err := one.LoadCached(t.Context(), key)
		return errors.Is(err, fs.ErrNotExist)
	})
	before := failed.Load()
	save(t, one, key, 1) // scripts are gone, too
	loads(t, one.LoadCached, key, 1)
	stop.Store(true)
	load.Wait()
	if lied.Load() != 0 {
		t.Errorf("%d times, a Redis that was down was taken for one that knows", lied.Load())
	}
	t.Logf("%d errors while it was down, %d after", before, failed.Load()-before)
}

var loadKeys atomic.Int64

func newLoadKey() string {
	return "load-" + time.Unix(loadKeys.Add(1), 0).UTC().Format("20060102150405")
}

// A Redis that hangs: whoever asks gets an error in time, earlier if the
// context ends, and nobody believes for long what cannot be checked.
func TestRedisFrozen(t *testing.T) {
	redis := newServer(t)
	one, other := two(t, redis)
	key := newKey()
	save(t, one, key, 1)
	loads(t, one.LoadCached, key, 1)
	loads(t, one.LoadCached, key, 1)
	unlock, ok, err := one.TryLock(t.Context(), "lock")
	if err != nil || !ok {
		t.Fatalf("TryLock gave %v, %v", ok, err)
	}
	redis.freeze()
	defer redis.thaw()
	within(t, 2*time.Second, "what is kept is not believed any more", func() bool {
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		defer cancel()
		_, err := one.LoadCached(ctx, key)
		return err != nil
	})
	operations := map[string]func(context.Context) error{
		"Load":       func(ctx context.Context) error { _, err := one.Load(ctx, key); return err },
		"LoadCached": func(ctx context.Context) error { _, err := one.LoadCached(ctx, key); return err },
		"Save":       func(ctx context.Context) error { return one.Save(ctx, key, record(2, "a", "b")) },
		"Delete":     func(ctx context.Context) error { return one.Delete(ctx, "other") },
		"Find":       func(ctx context.Context) error { _, err := one.Find(ctx, "a"); return err },
		"FindCached": func(ctx context.Context) error { _, err := one.FindCached(ctx, "a"); return err },
		"TryLock":    func(ctx context.Context) error { _, _, err := one.TryLock(ctx, "other"); return err },
		"the first of another client": func(ctx context.Context) error {
			_, err := other.Load(ctx, key)
			return err
		},
	}
	var all sync.WaitGroup
	for name, operation := range operations {
		for what, limit := range map[string]time.Duration{"alone": 5 * time.Second, "with a context": 2 * time.Second} {
			all.Go(func() {
				ctx, cancel := t.Context(), func() {}
				if what == "with a context" {
					ctx, cancel = context.WithTimeout(t.Context(), 100*time.Millisecond)
				}
				defer cancel()
				began := time.Now()
				err := operation(ctx)
				if took := time.Since(began); err == nil || errors.Is(err, fs.ErrNotExist) || errors.Is(err, store.ErrConflict) || took > limit {
					t.Errorf("%s %s: %v after %s", name, what, err, took)
				}
			})
		}
	}
	began := time.Now()
	unlock()
	if took := time.Since(began); took > time.Second {
		t.Errorf("unlock took %s", took)
	}
	all.Wait()
	redis.thaw()
	within(t, 10*time.Second, "it works again", func() bool {
		_, err := one.Load(t.Context(), key)
		_, otherErr := other.Load(t.Context(), key)
		return err == nil && otherErr == nil
	})
}

// Redis down when Caddy starts: the configuration loads, and once Redis is
// there, it is found.
func TestRedisDownAtStart(t *testing.T) {
	redis := newServer(t)
	redis.kill()
	one, _ := two(t, redis)
	for range 3 {
		began := time.Now()
		if _, err := one.Load(t.Context(), "key"); err == nil || errors.Is(err, fs.ErrNotExist) {
			t.Fatalf("loading from nowhere gave %v", err)
		}
		if took := time.Since(began); took > 3*time.Second {
			t.Errorf("the error took %s", took)
		}
	}
	redis.start()
	within(t, 5*time.Second, "it is found", func() bool {
		_, err := one.Load(t.Context(), "key")
		return errors.Is(err, fs.ErrNotExist)
	})
}

func TestRedisWithoutItsScriptsAndKeys(t *testing.T) {
	redis := newServer(t)
	one, other := two(t, redis)
	key := newKey()
	save(t, one, key, 1)
	redis.do("SCRIPT", "FLUSH")
	save(t, one, key, 2)
	loads(t, other.LoadCached, key, 2)
	loads(t, other.LoadCached, key, 2)
	redis.do("FLUSHALL")
	within(t, time.Second, "everybody hears of it", func() bool {
		_, err := one.LoadCached(t.Context(), key)
		_, otherErr := other.LoadCached(t.Context(), key)
		return errors.Is(err, fs.ErrNotExist) && errors.Is(otherErr, fs.ErrNotExist)
	})
	save(t, one, key, 1)
}

// What is in Redis lasts no longer than it must, and says no more than it must.
func TestRedisKeysExpire(t *testing.T) {
	redis := newServer(t)
	one, _ := two(t, redis)
	short, long := record(1, "sub"), record(1, "sub")
	short.Expires = time.Now().Add(1500 * time.Millisecond)
	if err := one.Save(t.Context(), "long", long); err != nil {
		t.Fatal(err)
	}
	if err := one.Save(t.Context(), "short", short); err != nil {
		t.Fatal(err)
	}
	if got := strings.Fields(redis.do("KEYS", "*")); len(got) != 3 {
		t.Errorf("there are %q", got)
	}
	for key, between := range map[string][2]time.Duration{
		"r:short": {0, 2 * time.Second},
		"r:long":  {59 * time.Minute, time.Hour + time.Second},
		"i:sub":   {time.Hour, time.Hour + 2*time.Minute}, // as the longest of its records
	} {
		ttl, err := time.ParseDuration(redis.do("PTTL", "pkce_auth:"+key) + "ms")
		if err != nil || ttl <= between[0] || ttl > between[1] {
			t.Errorf("%s lasts %s, %v", key, ttl, err)
		}
	}
	within(t, 4*time.Second, "the record is over", func() bool {
		_, err := one.LoadCached(t.Context(), "short")
		return errors.Is(err, fs.ErrNotExist) && redis.do("EXISTS", "pkce_auth:r:short") == "0"
	})
	save(t, one, "short", 1, "sub") // there is none any more
	if err := one.Save(t.Context(), "short", record(2)); err != nil {
		t.Fatal(err)
	}
	if err := one.Delete(t.Context(), "long"); err != nil {
		t.Fatal(err)
	}
	// What had expired leaves the index with the next Save, a minute later.
	redis.do("ZADD", "pkce_auth:i:sub", "1767225600000", "older nonce")
	save(t, one, "another", 1, "sub")
	if err := one.Delete(t.Context(), "another"); err != nil {
		t.Fatal(err)
	}
	if got := redis.do("ZCARD", "pkce_auth:i:sub"); got != "1" {
		t.Errorf("the index has %s members", got)
	}
}

// The clock of Redis is behind ours: what is over for us is none, though Redis
// still has it.
func TestRedisExpiresByOurClock(t *testing.T) {
	redis := newServer(t)
	one, _ := two(t, redis)
	for _, key := range []string{"first", "second"} {
		redis.do("SET", "pkce_auth:r:"+key, "1 7 1767225600000 nonce sub\nvalue")
		for what, load := range map[string]func(context.Context, string) (store.Record, error){"Load": one.Load, "LoadCached": one.LoadCached} {
			if got, err := load(t.Context(), key); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("%s gave version %d, %v", what, got.Version, err)
			}
		}
	}
	if err := one.Save(t.Context(), "first", record(8)); !errors.Is(err, store.ErrConflict) {
		t.Errorf("a record that is over has a next version: %v", err)
	}
	save(t, one, "first", 1)
	loads(t, one.Load, "first", 1)
	// What another version has written is none of ours to end, or to write over.
	redis.do("SET", "pkce_auth:r:second", "2 of another version")
	if _, err := one.Load(t.Context(), "second"); err == nil || errors.Is(err, fs.ErrNotExist) {
		t.Errorf("another format gave %v", err)
	}
	if err := one.Save(t.Context(), "second", record(1)); err == nil || errors.Is(err, store.ErrConflict) {
		t.Errorf("saving over another format gave %v", err)
	}
	if err := one.Delete(t.Context(), "second"); err != nil {
		t.Error(err)
	}
}

// Concurrent changes of a record and of its indexes: however they come, who is
// kept is found.
func TestRedisFindsWhoIsKept(t *testing.T) {
	redis := newServer(t)
	one, other := two(t, redis)
	indexes := [][]string{{"a"}, {"b"}, {"a", "b"}, {"c"}, nil}
	for range 20 {
		key := newKey()
		var writers sync.WaitGroup
		for n, s := range []store.Store{one, other, one, other} {
			writers.Go(func() {
				for i := range 25 {
					r, err := s.Load(context.Background(), key)
					if err != nil && !errors.Is(err, fs.ErrNotExist) {
						t.Error(err)
					}
					if i%9 == 8 {
						err = s.Delete(context.Background(), key)
					} else {
						err = s.Save(context.Background(), key, record(r.Version+1, indexes[(n+i)%len(indexes)]...))
					}
					if err != nil && !errors.Is(err, store.ErrConflict) {
						t.Error(err)
					}
				}
			})
		}
		writers.Wait()
		got, err := one.Load(t.Context(), key)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			t.Fatal(err)
		}
		for _, index := range []string{"a", "b", "c"} {
			found, err := one.Find(t.Context(), index)
			if err != nil || slices.Contains(found, key) != slices.Contains(got.Indexes, index) {
				t.Errorf("%s has indexes %q; in %s are %q, %v", key, got.Indexes, index, found, err)
			}
		}
		if err := one.Delete(t.Context(), key); err != nil {
			t.Fatal(err)
		}
	}
}

// A lock is its holder's, and nobody else's.
func TestRedisLocks(t *testing.T) {
	redis := newServer(t)
	one, other := two(t, redis)
	unlock, ok, err := one.TryLock(t.Context(), "lock")
	if err != nil || !ok {
		t.Fatalf("TryLock gave %v, %v", ok, err)
	}
	if _, ok, err := other.TryLock(t.Context(), "lock"); err != nil || ok {
		t.Fatalf("a lock that is held was given: %v, %v", ok, err)
	}
	// It is renewed: a third of its lease later, it has most of it again.
	redis.do("PEXPIRE", "pkce_auth:l:lock", "9000")
	within(t, 9*time.Second, "it is renewed", func() bool {
		ttl, err := time.ParseDuration(redis.do("PTTL", "pkce_auth:l:lock") + "ms")
		return err == nil && ttl > 13*time.Second
	})
	// It ran out, and is another's now: unlock leaves it alone.
	redis.do("DEL", "pkce_auth:l:lock")
	others, ok, err := other.TryLock(t.Context(), "lock")
	if err != nil || !ok {
		t.Fatalf("TryLock gave %v, %v", ok, err)
	}
	unlock()
	unlock()
	time.Sleep(200 * time.Millisecond)
	if _, ok, err := one.TryLock(t.Context(), "lock"); err != nil || ok {
		t.Fatalf("a lock was given back by one who had lost it: %v, %v", ok, err)
	}
	others()
	within(t, 2*time.Second, "it is free", func() bool {
		unlock, ok, err := one.TryLock(t.Context(), "lock")
		if ok {
			unlock()
		}
		return ok && err == nil
	})
}
