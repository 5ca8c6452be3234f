package caddyauth

import (
	"context"
	"sync"
	"sync/atomic"
	"time"
)

// liveContext is the context of a request that can be cut. It is the parent
// until somebody wants to know when it ends: many handlers never do, and a
// context that can be cancelled costs each request five allocations.
//
// From then on it is one of the standard library's in all but its type:
// what is derived from it needs no goroutine to hear of the end.
type liveContext struct {
	parent context.Context //nolint:containedctx // it is one itself

	mu     sync.Mutex // over making own
	made   atomic.Bool
	own    context.Context //nolint:containedctx // not before made
	cancel context.CancelFunc
}

// ready makes the context that can be cancelled, and returns it.
//
// It ends with the parent, which net/http cancels when the request is over,
// and not before: handlers around ours go on with the same context.
func (c *liveContext) ready() context.Context {
	if c.made.Load() {
		return c.own
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.made.Load() {
		c.own, c.cancel = context.WithCancel(c.parent)
		c.made.Store(true)
	}
	return c.own
}

// end cancels the context, as if the client had gone. It has no cause of its
// own: reverse_proxy would take any other error for a failure of the upstream.
func (c *liveContext) end() {
	c.ready()
	c.cancel()
}

func (c *liveContext) current() context.Context {
	if c.made.Load() {
		return c.own
	}
	return c.parent
}

// Done implements context.Context.
func (c *liveContext) Done() <-chan struct{} { return c.ready().Done() }

// Err implements context.Context.
func (c *liveContext) Err() error { return c.current().Err() }

// Deadline implements context.Context.
func (c *liveContext) Deadline() (time.Time, bool) { return c.parent.Deadline() }

// Value implements context.Context. The standard library asks it for what is
// to be cancelled, after it has asked for Done.
func (c *liveContext) Value(key any) any { return c.current().Value(key) }

// Interface guards
var _ context.Context = (*liveContext)(nil)
