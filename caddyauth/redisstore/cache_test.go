package redisstore

import (
	"context"
	"errors"
	"fmt"
	"net"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pkce-auth/caddy-pkce-auth/caddyauth/store"
)

// redis answers questions with a version, when it is told to.
type slowRedis struct {
	asked   int
	replies chan uint64
}

func (r *slowRedis) ask(context.Context) (answer, error) {
	r.asked++
	version, ok := <-r.replies
	if !ok {
		return answer{}, errors.New("gone")
	}
	return answer{record: store.Record{Version: version}}, nil
}

func TestCacheAsksOnceForAll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, redis := newCache(1<<20), &slowRedis{replies: make(chan uint64)}
		ctx, cancel := context.WithCancel(t.Context())
		got := make(chan uint64, 3)
		left := make(chan error, 1)
		for range 3 {
			go func() {
				a, _ := c.ask(t.Context(), "key", redis.ask)
				got <- a.record.Version
			}()
		}
		synctest.Wait()
		go func() {
			_, err := c.ask(ctx, "key", redis.ask)
			left <- err
		}()
		synctest.Wait()
		cancel() // who goes away spoils nothing for the others
		if err := <-left; !errors.Is(err, context.Canceled) {
			t.Errorf("who went away got %v", err)
		}
		redis.replies <- 7
		for range 3 {
			if version := <-got; version != 7 {
				t.Errorf("got version %d, want 7", version)
			}
		}
		synctest.Wait()
		if a, ok := c.get("key"); !ok || a.record.Version != 7 || redis.asked != 1 {
			t.Errorf("kept %v, %v after %d questions", a, ok, redis.asked)
		}
		time.Sleep(cacheTime)
		if _, ok := c.get("key"); ok || c.size != 0 {
			t.Errorf("it is kept for longer than a minute, or its %d bytes are", c.size)
		}
	})
}

// A119: the message that a session has ended overtakes the answer that it has
// not. The answer is not kept, and nobody who comes later gets it.
func TestCacheKeepsNoAnswerThatIsOld(t *testing.T) {
	for name, forget := range map[string]func(*cache){
		"a key": func(c *cache) { c.forget("other", "key") },
		"all":   func(c *cache) { c.forgetAll() },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := newCache(1 << 20)
				before, after := &slowRedis{replies: make(chan uint64)}, &slowRedis{replies: make(chan uint64)}
				first, second := make(chan uint64, 1), make(chan uint64, 1)
				go func() { a, _ := c.ask(t.Context(), "key", before.ask); first <- a.record.Version }()
				synctest.Wait()
				forget(c)
				go func() { a, _ := c.ask(t.Context(), "key", after.ask); second <- a.record.Version }()
				synctest.Wait()
				after.replies <- 2
				if version := <-second; version != 2 {
					t.Errorf("who asked afterwards got version %d, want 2", version)
				}
				before.replies <- 1
				<-first
				synctest.Wait()
				if a, ok := c.get("key"); !ok || a.record.Version != 2 {
					t.Errorf("kept %v, %v", a, ok)
				}
				forget(c)
				if _, ok := c.get("key"); ok || c.size != 0 {
					t.Errorf("what was forgotten is kept, %d bytes of it", c.size)
				}
			})
		})
	}
}

// A question that hangs is not the answer to those who come a second later,
// and an error is no answer at all.
func TestCacheAsksAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCache(1 << 20)
		hung, redis := &slowRedis{replies: make(chan uint64)}, &slowRedis{replies: make(chan uint64, 1)}
		ended := make(chan error, 1)
		go func() { _, err := c.ask(t.Context(), "key", hung.ask); ended <- err }()
		time.Sleep(time.Second)
		redis.replies <- 2
		if a, err := c.ask(t.Context(), "key", redis.ask); err != nil || a.record.Version != 2 {
			t.Errorf("got %v, %v", a, err)
		}
		close(hung.replies)
		if err := <-ended; err == nil {
			t.Error("no error came of the question that hung")
		}
		synctest.Wait()
		if a, ok := c.get("key"); !ok || a.record.Version != 2 {
			t.Errorf("kept %v, %v", a, ok)
		}
		if _, err := c.ask(t.Context(), "other", hung.ask); err == nil {
			t.Error("the error was lost")
		}
		synctest.Wait()
		if _, ok := c.get("other"); ok {
			t.Error("an error was kept")
		}
	})
}

// The cache is bounded: what was used longest ago goes first.
func TestCacheIsBounded(t *testing.T) {
	c := newCache(10 * (answerOverhead + 1000 + 2*5))
	value := make([]byte, 1000)
	for i := range 25 {
		c.mu.Lock()
		c.keep(fmt.Sprintf("key%02d", i), answer{record: store.Record{Value: value}})
		c.mu.Unlock()
		c.get("key00")
	}
	if _, ok := c.get("key00"); !ok || len(c.kept) != 10 || c.order.Len() != 10 || c.size != c.maximum {
		t.Errorf("%d answers are kept, of %d bytes; the one in use: %v", len(c.kept), c.size, ok)
	}
	c.mu.Lock()
	c.keep("key00", answer{keys: []string{string(make([]byte, c.maximum))}})
	c.mu.Unlock()
	if len(c.kept) != 0 || c.size != 0 {
		t.Errorf("%d answers are kept, of %d bytes", len(c.kept), c.size)
	}
}

// Without a connection, or with one that has gone silent, nothing is believed.
func TestHeard(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var c conns
		if c.heard() {
			t.Error("nobody was heard")
		}
		dial := func() (ours net.Conn, theirs net.Conn) {
			ours, theirs = net.Pipe()
			return c.add(ours), theirs
		}
		one, redis := dial()
		other, _ := dial()
		if !c.heard() {
			t.Error("connections that have just been made are dead")
		}
		time.Sleep(time.Second)
		if c.heard() {
			t.Error("a silent connection is alive")
		}
		go func() { _, _ = redis.Write([]byte("+PONG\r\n")) }()
		if _, err := one.Read(make([]byte, 100)); err != nil {
			t.Fatal(err)
		}
		if c.heard() {
			t.Error("one is silent, and nobody notices")
		}
		_ = other.Close()
		if !c.heard() {
			t.Error("the one that is left has just spoken")
		}
		_ = one.Close()
		if c.heard() {
			t.Error("nobody is there")
		}
	})
}
