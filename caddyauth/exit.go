package caddyauth

import (
	"context"
	"sync"
	"time"

	"github.com/caddyserver/caddy/v2"
)

// unfinished is what goes on behind answers that are long out, and must not be
// cut short by the end of the process: a refresh for which the provider has
// spent the old token, and whose outcome is not in the store yet; a revocation.
// It is the process's, as its end is.
var unfinished tally

// exitTime is how long the process may take for that. Who ends processes waits
// for some ten seconds, as a rule, and then kills.
const exitTime = 8 * time.Second

// exitDeadline is when that time is over, from the first that waits.
var exitDeadline = sync.OnceValue(func() time.Time { return time.Now().Add(exitTime) })

func init() { caddy.OnExit(finishAll) }

// finishAll waits for what is under way. It does so twice: when the app stops,
// while the stores are still there, for the connections to Redis are closed
// with the configuration; and at the very end, for what began after that.
func finishAll(ctx context.Context) {
	ctx, cancel := context.WithDeadline(ctx, exitDeadline())
	defer cancel()
	unfinished.wait(ctx)
}

// finishFirst has a request that began a refresh wait for it, if the process is
// ending: the app may have stopped before the server did, and Caddy waits for
// requests before it closes anything.
func finishFirst(landing <-chan struct{}) {
	if landing == nil || !caddy.Exiting() {
		return
	}
	timer := time.NewTimer(time.Until(exitDeadline()))
	defer timer.Stop()
	select {
	case <-landing:
	case <-timer.C:
	}
}

// tally counts what is under way. Unlike a sync.WaitGroup, it may be waited for
// with an end, and while it grows.
type tally struct {
	mu    sync.Mutex
	count int
	none  chan struct{} // closed when there is nothing left; nil when nobody waits
}

// begin counts one more; done is called when it has ended.
func (t *tally) begin() (done func()) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.count++
	return t.end
}

func (t *tally) end() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.count--; t.count == 0 && t.none != nil {
		close(t.none)
		t.none = nil
	}
}

// wait returns when nothing is under way, or the context ends.
func (t *tally) wait(ctx context.Context) {
	t.mu.Lock()
	if t.count == 0 {
		t.mu.Unlock()
		return
	}
	if t.none == nil {
		t.none = make(chan struct{})
	}
	none := t.none
	t.mu.Unlock()
	select {
	case <-none:
	case <-ctx.Done():
	}
}
