package redisstore

import (
	"context"
	"crypto/rand"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/rueidis"

	"github.com/pkce-auth/caddy-pkce-auth/caddyauth/store"
)

// TryLock implements store.Locker. A lock is a key with a token that only its
// holder knows, so that nobody gives back what has become another's.
func (s *redisStore) TryLock(ctx context.Context, name string) (unlock func(), ok bool, err error) {
	key, token := s.lockKey(name), rand.Text()
	var unwanted atomic.Bool // we have gone, and may get the lock only now
	ok, err = call(ctx, s.client, func(ctx context.Context, live rueidis.Client) (bool, error) {
		err := live.Do(ctx, live.B().Set().Key(key).Value(token).Nx().Px(store.LockLease).Build()).Error()
		if rueidis.IsRedisNil(err) {
			return false, nil
		}
		if unwanted.Load() {
			s.client.background(func() { s.unlock(key, token) })
		}
		return err == nil, err
	})
	if err != nil {
		unwanted.Store(true)
		s.client.background(func() { s.unlock(key, token) })
		return nil, false, err
	}
	if !ok {
		return nil, false, nil
	}
	given := make(chan struct{})
	s.client.background(func() { s.hold(key, token, given) })
	return sync.OnceFunc(func() { close(given) }), true, nil
}

// hold renews a lock until it is given back. When the client is closed, nobody
// renews it any more: it runs out.
func (s *redisStore) hold(key, token string, given <-chan struct{}) {
	renew := time.NewTicker(store.LockLease / 3)
	defer renew.Stop()
	for {
		select {
		case <-given:
			s.unlock(key, token)
			return
		case <-s.client.closing:
			select {
			case <-given:
				s.unlock(key, token)
			default:
			}
			return
		case <-renew.C:
			ours, err := s.exec(renewScript, key, token, strconv.FormatInt(store.LockLease.Milliseconds(), 10))
			if err == nil && ours == 0 {
				return // Redis has lost it
			}
		}
	}
}

// unlock gives a lock back. If that does not succeed, it runs out.
func (s *redisStore) unlock(key, token string) {
	_, _ = s.exec(unlockScript, key, token)
}

func (s *redisStore) exec(script *rueidis.Lua, key string, arguments ...string) (int64, error) {
	return call(context.Background(), s.client, func(ctx context.Context, live rueidis.Client) (int64, error) {
		return script.Exec(ctx, live, []string{key}, arguments).ToInt64()
	})
}
