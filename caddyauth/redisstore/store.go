package redisstore

import (
	"context"
	"crypto/rand"
	"fmt"
	"io/fs"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/redis/rueidis"

	"github.com/pkce-auth/caddy-pkce-auth/caddyauth/store"
)

// redisStore is the store.Store in Redis. In a cluster, a record and each of
// its indexes may be on different nodes, and no step spans two of them; so the
// order of steps holds the promise of Find: a record is in its indexes before
// it is there, and out of them after it has gone.
type redisStore struct {
	client *client
	prefix string
}

// The three worlds of names, see store.Store.
func (s *redisStore) recordKey(key string) string { return s.prefix + "r:" + key }
func (s *redisStore) indexKey(name string) string { return s.prefix + "i:" + name }
func (s *redisStore) lockKey(name string) string  { return s.prefix + "l:" + name }

// Load implements store.Store. It asks the master, and never a cache.
func (s *redisStore) Load(ctx context.Context, key string) (store.Record, error) {
	a, err := call(ctx, s.client, func(ctx context.Context, live rueidis.Client) (answer, error) {
		return toRecord(live.Do(ctx, live.B().Get().Key(s.recordKey(key)).Build()))
	})
	return a.loaded(err)
}

// LoadCached implements store.Cached.
func (s *redisStore) LoadCached(ctx context.Context, key string) (store.Record, error) {
	if !s.client.conns.heard() {
		return s.Load(ctx, key)
	}
	name := s.recordKey(key)
	if a, ok := s.client.cache.get(name); ok {
		return a.loaded(nil)
	}
	a, err := s.client.cache.ask(ctx, name, func(ctx context.Context) (answer, error) {
		return call(ctx, s.client, func(ctx context.Context, live rueidis.Client) (answer, error) {
			return toRecord(live.DoCache(ctx, live.B().Get().Key(name).Cache().ToStaticTTL(), cacheTime))
		})
	})
	return a.loaded(err)
}

// toRecord reads the reply to GET.
func toRecord(reply rueidis.RedisResult) (answer, error) {
	kept, err := reply.ToString()
	if rueidis.IsRedisNil(err) {
		return answer{absent: true}, nil
	}
	if err != nil {
		return answer{}, err
	}
	record, _, err := decode(kept)
	return answer{record: record}, err
}

// loaded is what Load says of an answer: by our clock, too, the record must not
// be over.
func (a *answer) loaded(err error) (store.Record, error) {
	switch {
	case err != nil:
		return store.Record{}, err
	case a.absent || !time.Now().Before(a.record.Expires):
		return store.Record{}, fs.ErrNotExist
	default:
		return a.record, nil
	}
}

// Save implements store.Store.
func (s *redisStore) Save(ctx context.Context, key string, record store.Record) error {
	if record.Version == 0 {
		return store.ErrConflict // there is no version before it
	}
	// All that is sent is made here: when we return early, it is under way.
	nonce := rand.Text()[:13]
	lasts := strconv.FormatInt(max(1, time.Until(record.Expires).Milliseconds()+1), 10)
	arguments := []string{
		strconv.FormatUint(record.Version-1, 10),
		strconv.FormatInt(time.Now().UnixMilli(), 10),
		encode(record, nonce),
		lasts,
	}
	ours := entry{key: key, nonce: nonce, indexes: strings.Fields(strings.Join(record.Indexes, " "))}
	name := s.recordKey(key)
	conflict, err := call(ctx, s.client, func(ctx context.Context, live rueidis.Client) (bool, error) {
		if err := s.enter(ctx, live, ours, lasts); err != nil {
			return false, fmt.Errorf("indexes: %w", err)
		}
		before, err := saveScript.Exec(ctx, live, []string{name}, arguments).ToString()
		switch {
		case rueidis.IsRedisNil(err):
			s.leave(ctx, live, ours)
			return true, nil
		case err != nil:
			return false, err // it may have been kept: then our entries are needed
		default:
			s.leave(ctx, live, entryOf(key, before))
			return false, nil
		}
	})
	s.forget(name, ours.indexes)
	if conflict {
		return store.ErrConflict
	}
	return err
}

// Delete implements store.Store.
func (s *redisStore) Delete(ctx context.Context, key string) error {
	name := s.recordKey(key)
	gone, err := call(ctx, s.client, func(ctx context.Context, live rueidis.Client) (entry, error) {
		before, err := deleteScript.Exec(ctx, live, []string{name}, nil).ToString()
		if err != nil {
			return entry{}, err
		}
		gone := entryOf(key, before)
		s.leave(ctx, live, gone)
		return gone, nil
	})
	s.forget(name, gone.indexes)
	return err
}

// forget has what this process knows of a record, and of its indexes, asked for
// again: Redis says as much, but a moment later.
func (s *redisStore) forget(record string, indexes []string) {
	s.client.cache.forget(record)
	for _, index := range indexes {
		s.client.cache.forget(s.indexKey(index))
	}
}

// entry is what one Save has put into indexes.
type entry struct {
	key     string
	nonce   string
	indexes []string
}

// entryOf reads what a script says of a record: its nonce and its indexes, or
// nothing if there was none.
func entryOf(key, said string) entry {
	fields := strings.Fields(said)
	if len(fields) == 0 {
		return entry{}
	}
	return entry{key: key, nonce: fields[0], indexes: fields[1:]}
}

func (s *redisStore) enter(ctx context.Context, live rueidis.Client, e entry, lasts string) error {
	errs := make([]error, len(e.indexes))
	var all sync.WaitGroup
	for i, index := range e.indexes {
		all.Go(func() {
			errs[i] = indexScript.Exec(ctx, live, []string{s.indexKey(index)}, []string{member(e.key, e.nonce), lasts}).Error()
		})
	}
	all.Wait()
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

// leave takes an entry out of its indexes. If that does not succeed, the entry
// says too much until it expires, which Find may.
func (s *redisStore) leave(ctx context.Context, live rueidis.Client, e entry) {
	commands := make([]rueidis.Completed, len(e.indexes))
	for i, index := range e.indexes {
		commands[i] = live.B().Zrem().Key(s.indexKey(index)).Member(member(e.key, e.nonce)).Build()
	}
	live.DoMulti(ctx, commands...)
}

// Find implements store.Store.
func (s *redisStore) Find(ctx context.Context, index string) ([]string, error) {
	a, err := call(ctx, s.client, func(ctx context.Context, live rueidis.Client) (answer, error) {
		return toKeys(live.Do(ctx, live.B().Zrange().Key(s.indexKey(index)).Min("0").Max("-1").Build()))
	})
	return a.keys, err
}

// FindCached implements store.Cached.
func (s *redisStore) FindCached(ctx context.Context, index string) ([]string, error) {
	if !s.client.conns.heard() {
		return s.Find(ctx, index)
	}
	name := s.indexKey(index)
	if a, ok := s.client.cache.get(name); ok {
		return slices.Clone(a.keys), nil
	}
	a, err := s.client.cache.ask(ctx, name, func(ctx context.Context) (answer, error) {
		return call(ctx, s.client, func(ctx context.Context, live rueidis.Client) (answer, error) {
			return toKeys(live.DoCache(ctx, live.B().Zrange().Key(name).Min("0").Max("-1").Cache().ToStaticTTL(), cacheTime))
		})
	})
	return slices.Clone(a.keys), err
}

// toKeys reads the reply to ZRANGE.
func toKeys(reply rueidis.RedisResult) (answer, error) {
	members, err := reply.AsStrSlice()
	if err != nil {
		return answer{}, err
	}
	return answer{keys: keysOf(members)}, nil
}

// Interface guards
var (
	_ store.Cached = (*redisStore)(nil)
	_ store.Locker = (*redisStore)(nil)
)
