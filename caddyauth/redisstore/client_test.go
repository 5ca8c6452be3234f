package redisstore

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/redis/rueidis"
)

// fake is a client that can only be closed, and say who it is.
type fake struct {
	rueidis.Client
	uncached bool
	closed   chan struct{}
}

func (f *fake) Close() { close(f.closed) }

func newFake(uncached bool) *fake { return &fake{uncached: uncached, closed: make(chan struct{})} }

func noop(context.Context, rueidis.Client) (bool, error) { return true, nil }

// Redis is not there yet: one attempt for all who come, and the next not within
// a second.
func TestClientTriesOnceASecond(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newClient()
		down, attempts := errors.New("connection refused"), 0
		c.connect = func(bool) (rueidis.Client, error) {
			attempts++
			time.Sleep(100 * time.Millisecond)
			if attempts < 3 {
				return nil, down
			}
			return newFake(false), nil
		}
		all := func() (failed int) {
			results := make(chan error, 50)
			for range cap(results) {
				go func() { _, err := call(t.Context(), c, noop); results <- err }()
			}
			for range cap(results) {
				if err := <-results; err != nil {
					failed++
					if !errors.Is(err, down) {
						t.Errorf("got %v", err)
					}
				}
			}
			return failed
		}
		if failed := all(); failed != 50 || attempts != 1 {
			t.Errorf("%d of 50 failed, after %d attempts", failed, attempts)
		}
		time.Sleep(retryAfter - time.Millisecond)
		if failed := all(); failed != 50 || attempts != 1 {
			t.Errorf("%d of 50 failed, after %d attempts within a second", failed, attempts)
		}
		time.Sleep(time.Millisecond)
		if failed := all(); failed != 50 || attempts != 2 {
			t.Errorf("%d of 50 failed, after %d attempts", failed, attempts)
		}
		time.Sleep(retryAfter)
		if failed := all() + all(); failed != 0 || attempts != 3 {
			t.Errorf("%d failed, after %d attempts", failed, attempts)
		}
	})
}

// Whatever hangs: who asks gets an error, at the end of their context or of the
// time that there is.
func TestClientIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		end := make(chan struct{})
		defer func() { close(end); synctest.Wait() }()
		hangs := func(context.Context, rueidis.Client) (bool, error) { <-end; return true, nil }
		connecting := newClient()
		connecting.connect = func(bool) (rueidis.Client, error) { <-end; return nil, errClosed }
		connected := newClient()
		connected.connect = func(bool) (rueidis.Client, error) { return newFake(false), nil }
		for name, c := range map[string]*client{"connecting": connecting, "connected": connected} {
			began := time.Now()
			if _, err := call(t.Context(), c, hangs); !errors.Is(err, errTimeout) || time.Since(began) != operationTimeout {
				t.Errorf("%s: %v after %s", name, err, time.Since(began))
			}
			ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
			began = time.Now()
			if _, err := call(ctx, c, hangs); !errors.Is(err, context.DeadlineExceeded) || time.Since(began) != time.Millisecond {
				t.Errorf("%s: %v after %s", name, err, time.Since(began))
			}
			cancel()
			if _, err := call(ctx, c, noop); !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("%s: a context that has ended gave %v", name, err)
			}
		}
		// Who goes away does not break off what is under way.
		ctx, cancel := context.WithCancel(t.Context())
		inner := make(chan error, 1)
		go func() {
			_, _ = call(ctx, connected, func(ctx context.Context, _ rueidis.Client) (bool, error) {
				time.Sleep(time.Second)
				inner <- ctx.Err()
				return true, nil
			})
		}()
		synctest.Wait()
		cancel()
		if err := <-inner; err != nil {
			t.Errorf("what was under way was broken off: %v", err)
		}
	})
}

// A Redis that cannot tell of changes is used without a cache, be it from the
// first, or because another one has taken over.
func TestClientWithoutCache(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newClient()
		var made []*fake
		can := true
		c.connect = func(uncached bool) (rueidis.Client, error) {
			if !uncached && !can {
				return nil, rueidis.ErrNoCache
			}
			made = append(made, newFake(uncached))
			return made[len(made)-1], nil
		}
		if _, err := call(t.Context(), c, noop); err != nil || made[0].uncached {
			t.Fatalf("got %v", err)
		}
		can = false
		if _, err := call(t.Context(), c, func(context.Context, rueidis.Client) (bool, error) { return false, rueidis.ErrNoCache }); err == nil {
			t.Error("the error was lost")
		}
		<-made[0].closed
		if _, err := call(t.Context(), c, noop); err != nil || len(made) != 2 || !made[1].uncached {
			t.Errorf("got %v, after %d clients", err, len(made))
		}
	})
}

// When nobody uses it any more, it is closed, and whatever comes later fails.
func TestClientIsClosed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newClient()
		made := newFake(false)
		c.connect = func(bool) (rueidis.Client, error) { time.Sleep(time.Second); return made, nil }
		late := make(chan error, 1)
		go func() { _, err := call(t.Context(), c, noop); late <- err }()
		synctest.Wait()
		given := make(chan bool, 1)
		c.background(func() { <-c.closing; given <- true })
		if err := c.Destruct(); err != nil {
			t.Fatal(err)
		}
		<-given
		if err := <-late; !errors.Is(err, errClosed) {
			t.Errorf("who was waiting for it got %v", err)
		}
		<-made.closed
		if _, err := call(t.Context(), c, noop); !errors.Is(err, errClosed) {
			t.Errorf("got %v", err)
		}
		c.background(func() { t.Error("a task began after the end") })
		synctest.Wait()
	})
}

func TestRetryDelay(t *testing.T) {
	var sum time.Duration
	attempts := 1
	for ; retryDelay(attempts, rueidis.Completed{}, nil) >= 0; attempts++ {
		sum += retryDelay(attempts, rueidis.Completed{}, nil)
	}
	if attempts > 5 || sum > operationTimeout/10 {
		t.Errorf("%d attempts wait %s", attempts, sum)
	}
}

// Redis' password is not for Sentinels, and both are looked up for each
// connection.
func TestCredentials(t *testing.T) {
	t.Setenv("REDIS_PASSWORD", "first")
	s := &Sessions{Username: "caddy", Password: "{env.REDIS_PASSWORD}", Sentinel: &Sentinel{Master: "main"}}
	check := func(to rueidis.AuthCredentialsContext, username, password string) {
		t.Helper()
		if got, err := s.credentials(to); err != nil || got.Username != username || got.Password != password {
			t.Errorf("got %q, %v", got.Username, err)
		}
	}
	check(rueidis.AuthCredentialsContext{}, "caddy", "first")
	check(rueidis.AuthCredentialsContext{Address: sentinelAddr{}}, "", "")
	t.Setenv("REDIS_PASSWORD", "second")
	s.Sentinel.Password = "{env.SENTINEL_PASSWORD}"
	check(rueidis.AuthCredentialsContext{}, "caddy", "second")
	if _, err := s.credentials(rueidis.AuthCredentialsContext{Address: sentinelAddr{}}); err == nil || !strings.Contains(err.Error(), "SENTINEL_PASSWORD") {
		t.Errorf("a variable that is not set gave %v", err)
	}
}
