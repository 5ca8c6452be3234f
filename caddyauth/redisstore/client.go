package redisstore

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/redis/rueidis"
	"go.uber.org/zap"
)

const (
	// operationTimeout bounds what anybody waits for Redis.
	operationTimeout = 2500 * time.Millisecond

	// dialTimeout bounds a connection being made, TLS included, and the
	// greeting on it again.
	dialTimeout = time.Second

	// answerTimeout is after what silence a connection is given up.
	answerTimeout = 2 * time.Second

	// retryAfter is the time between two tries to reach a Redis that has not
	// been there yet.
	retryAfter = time.Second
)

var (
	errTimeout = fmt.Errorf("no answer within %s", operationTimeout)
	errClosed  = errors.New("the configuration that used this Redis is gone")
)

// clientPool holds the clients: a new configuration goes on with the
// connections, and what is known on them, of the old one.
var clientPool = caddy.NewUsagePool() // fingerprint → *client

// client is a connection to Redis that is made when it is needed first, and
// again if that did not succeed. Once made, rueidis mends it.
type client struct {
	connect func(uncached bool) (rueidis.Client, error)
	conns   conns  // none if Redis cannot tell of changes
	cache   *cache // to be believed while the conns are heard

	mu       sync.Mutex
	live     rueidis.Client
	trying   *attempt
	failed   attempt // the last that failed
	uncached bool
	closing  chan struct{} // closed when no task may begin any more
	tasks    sync.WaitGroup
	closed   bool
}

// attempt is one attempt to connect.
type attempt struct {
	done   chan struct{} // closed when it has ended
	ended  time.Time
	client rueidis.Client
	err    error
}

func newClient() *client {
	return &client{cache: newCache(cacheSize), closing: make(chan struct{})}
}

// call has Redis do something, and waits no longer than the context and
// operationTimeout allow, whatever the client waits for. Who goes away does
// not break off what is under way: others may share it, a connection included.
func call[T any](ctx context.Context, c *client, f func(context.Context, rueidis.Client) (T, error)) (T, error) {
	type outcome struct {
		value T
		err   error
	}
	if err := ctx.Err(); err != nil {
		var zero T
		return zero, fmt.Errorf("redis: %w", err)
	}
	ours, cancel := context.WithTimeout(context.WithoutCancel(ctx), operationTimeout)
	done := make(chan outcome, 1)
	go func() {
		defer cancel()
		var o outcome
		live, err := c.get(ours)
		if o.err = err; err == nil {
			o.value, o.err = f(ours, live)
			c.judge(live, o.err)
		}
		if errors.Is(o.err, context.DeadlineExceeded) {
			o.err = fmt.Errorf("%w: %w", errTimeout, o.err)
		}
		done <- o
	}()
	var o outcome
	select {
	case o = <-done:
	case <-ctx.Done():
		o.err = ctx.Err()
	case <-ours.Done():
		select {
		case o = <-done: // it was the goroutine that is done
		default:
			o.err = errTimeout
		}
	}
	if o.err != nil {
		return o.value, fmt.Errorf("redis: %w", o.err)
	}
	return o.value, nil
}

// get returns the connected client. All who come while it is being connected
// wait for one attempt; after one that failed, its error is the answer for a
// while.
func (c *client) get(ctx context.Context) (rueidis.Client, error) {
	c.mu.Lock()
	switch {
	case c.closed:
		c.mu.Unlock()
		return nil, errClosed
	case c.live != nil:
		defer c.mu.Unlock()
		return c.live, nil
	case c.trying == nil && c.failed.err != nil && time.Since(c.failed.ended) < retryAfter:
		defer c.mu.Unlock()
		return nil, c.failed.err
	case c.trying == nil:
		c.trying = &attempt{done: make(chan struct{})}
		go c.attempt(c.trying)
	}
	trying := c.trying
	c.mu.Unlock()
	select {
	case <-trying.done:
		return trying.client, trying.err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (c *client) attempt(t *attempt) {
	defer close(t.done)
	c.mu.Lock()
	uncached := c.uncached
	c.mu.Unlock()
	t.client, t.err = c.connect(uncached)
	if !uncached && errors.Is(t.err, rueidis.ErrNoCache) {
		caddy.Log().Named("pkce_auth.sessions.redis").Warn("Redis cannot tell of changes: each look at a session is a question to it",
			zap.Error(t.err), zap.String("hint", "it takes RESP3 and CLIENT TRACKING: Redis 6 or Valkey, no proxy in between, an ACL user that may use CLIENT"))
		uncached = true
		t.client, t.err = c.connect(uncached)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.trying, c.uncached = nil, uncached
	t.ended = time.Now()
	switch {
	case t.err != nil:
		t.client, c.failed = nil, attempt{ended: t.ended, err: t.err}
	case c.closed:
		go t.client.Close()
		t.client, t.err = nil, errClosed
	default:
		c.live = t.client
	}
}

// judge gives up a client that can do no more what it could when it was
// connected: another Redis has taken over, one that does not tell of changes.
func (c *client) judge(live rueidis.Client, err error) {
	if !errors.Is(err, rueidis.ErrNoCache) {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.live == live {
		c.live = nil
		go live.Close()
	}
}

// background runs a task that nobody waits for. When closing is closed, it must
// end soon.
func (c *client) background(task func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	select {
	case <-c.closing:
	default:
		c.tasks.Go(task)
	}
}

// Destruct implements caddy.Destructor.
func (c *client) Destruct() error {
	c.mu.Lock()
	close(c.closing)
	c.mu.Unlock()
	c.tasks.Wait()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closed = true
	if c.live != nil {
		c.live.Close()
		c.live = nil
	}
	return nil
}

// Interface guards
var _ caddy.Destructor = (*client)(nil)
