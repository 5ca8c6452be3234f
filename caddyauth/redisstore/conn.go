package redisstore

import (
	"net"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// pingGap is after what silence Redis is asked whether it is there.
	pingGap = 300 * time.Millisecond

	// heardWithin is how long what Redis said is taken for true without hearing
	// from it. A connection that has gone dead in silence brings no news of a
	// logout either, and store.Cached promises a second.
	heardWithin = 900 * time.Millisecond
)

// conns are the open connections on which Redis tells of changes.
type conns struct {
	mu   sync.RWMutex
	open map[*conn]struct{}
}

// heard reports whether there are connections, and all are alive: which one a
// key's news come on, we cannot know.
func (c *conns) heard() bool {
	c.mu.RLock()
	defer c.mu.RUnlock()
	oldest := sinceStart() - heardWithin
	for each := range c.open {
		if time.Duration(each.last.Load()) < oldest {
			return false
		}
	}
	return len(c.open) > 0
}

// started is where sinceStart counts from: monotonic, whatever is done to the
// machine's clock.
var started = time.Now()

func sinceStart() time.Duration { return time.Since(started) }

// conn is a connection to Redis that knows when something came last.
type conn struct {
	net.Conn
	of   *conns
	last atomic.Int64 // of sinceStart
}

func (c *conns) add(plain net.Conn) net.Conn {
	made := &conn{Conn: plain, of: c}
	made.last.Store(int64(sinceStart()))
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.open == nil {
		c.open = make(map[*conn]struct{})
	}
	c.open[made] = struct{}{}
	return made
}

func (c *conn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if n > 0 {
		c.last.Store(int64(sinceStart()))
	}
	return n, err
}

func (c *conn) Close() error {
	c.of.mu.Lock()
	delete(c.of.open, c)
	c.of.mu.Unlock()
	return c.Conn.Close()
}

// sentinelConn is a connection to a Sentinel. Its address says so to whoever
// has to choose credentials for it.
type sentinelConn struct{ net.Conn }

type sentinelAddr struct{ net.Addr }

func (c sentinelConn) RemoteAddr() net.Addr { return sentinelAddr{c.Conn.RemoteAddr()} }
