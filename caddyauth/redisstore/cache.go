package redisstore

import (
	"container/list"
	"context"
	"sync"
	"time"

	"github.com/pkce-auth/caddy-pkce-auth/caddyauth/store"
)

const (
	// cacheSize bounds what is kept of Redis here, in bytes.
	cacheSize = 32 << 20

	// cacheTime bounds how long it is kept without being asked for again. It
	// need not be short: Redis tells of changes.
	cacheTime = time.Minute

	// answerOverhead is what an answer takes besides its content, roughly.
	answerOverhead = 400
)

// answer is what Redis said of a key: a record, the keys in an index, or that
// there is nothing.
type answer struct {
	record store.Record
	keys   []string
	absent bool
}

func (a *answer) size() int {
	size := answerOverhead + len(a.record.Value)
	for _, index := range a.record.Indexes {
		size += len(index)
	}
	for _, key := range a.keys {
		size += len(key) + 16
	}
	return size
}

// cache holds answers of Redis, until Redis says that they have changed, or
// until we change them: then at once, for those who ask here after that.
//
// An answer may arrive here later than the message that it has changed. So
// questions are known while they are open. What is forgotten meanwhile is open
// no more: its answer is given to those who had asked, and not kept.
type cache struct {
	mu      sync.Mutex
	kept    map[string]*list.Element // of *keptAnswer
	order   list.List                // the one used longest ago first
	open    map[string]*question
	size    int
	maximum int
}

type keptAnswer struct {
	answer
	key   string
	until time.Time
}

type question struct {
	asked  time.Time
	done   chan struct{} // closed when it is answered
	answer answer
	err    error
}

func newCache(maximum int) *cache {
	return &cache{maximum: maximum, kept: make(map[string]*list.Element), open: make(map[string]*question)}
}

// get returns a kept answer. It is not to be changed.
func (c *cache) get(key string) (*answer, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	place := c.kept[key]
	if place == nil {
		return nil, false
	}
	k := place.Value.(*keptAnswer)
	if !time.Now().Before(k.until) {
		c.drop(place)
		return nil, false
	}
	c.order.MoveToBack(place)
	return &k.answer, true
}

// ask asks Redis, once for all who ask the same at the same time. Whoever goes
// away spoils nothing for the others.
func (c *cache) ask(ctx context.Context, key string, ask func(context.Context) (answer, error)) (*answer, error) {
	q := c.question(context.WithoutCancel(ctx), key, ask)
	select {
	case <-q.done:
		return &q.answer, q.err
	case <-ctx.Done():
		return new(answer), ctx.Err()
	}
}

func (c *cache) question(ctx context.Context, key string, ask func(context.Context) (answer, error)) *question {
	c.mu.Lock()
	defer c.mu.Unlock()
	// The answer to an old question may be what was true when it was asked.
	if q := c.open[key]; q != nil && time.Since(q.asked) < heardWithin {
		return q
	}
	q := &question{asked: time.Now(), done: make(chan struct{})}
	c.open[key] = q
	go func() {
		defer close(q.done)
		q.answer, q.err = ask(ctx)
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.open[key] != q {
			return
		}
		delete(c.open, key)
		if q.err == nil {
			c.keep(key, q.answer)
		}
	}()
	return q
}

func (c *cache) keep(key string, a answer) {
	if place := c.kept[key]; place != nil {
		c.drop(place)
	}
	k := &keptAnswer{answer: a, key: key, until: time.Now().Add(cacheTime)}
	c.kept[key] = c.order.PushBack(k)
	c.size += k.size() + 2*len(key)
	for c.size > c.maximum {
		c.drop(c.order.Front())
	}
}

func (c *cache) drop(place *list.Element) {
	k := c.order.Remove(place).(*keptAnswer)
	delete(c.kept, k.key)
	c.size -= k.size() + 2*len(k.key)
}

// forget drops what is known of keys.
func (c *cache) forget(keys ...string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, key := range keys {
		if place := c.kept[key]; place != nil {
			c.drop(place)
		}
		delete(c.open, key)
	}
}

// forgetAll drops everything: a connection has ended, and with it what Redis
// would have said on it.
func (c *cache) forgetAll() {
	c.mu.Lock()
	defer c.mu.Unlock()
	clear(c.kept)
	c.order.Init()
	c.size = 0
	clear(c.open)
}
