package session

import (
	"context"
	"errors"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pkce-auth/caddy-pkce-auth/caddyauth/internal/rp"
	"github.com/pkce-auth/caddy-pkce-auth/caddyauth/store"
)

// gone asserts that a session opens nothing any more, that nobody refreshes it,
// and that nothing brings it back; whatever is left of it.
func gone(t *testing.T, k *Stored, s *Session, cookies []string) {
	t.Helper()
	never := func(context.Context, *Session) (*Session, error) {
		t.Error("the provider was asked")
		return nil, rp.ErrUnavailable
	}
	if _, err := k.Load(t.Context(), cookies); !errors.Is(err, ErrNone) {
		t.Errorf("it opens: %v", err)
	}
	if _, err := k.Current(t.Context(), s); !errors.Is(err, ErrNone) {
		t.Errorf("a stream of it goes on: %v", err)
	}
	if _, err := k.refreshMain(t.Context(), s, never); !errors.Is(err, ErrEnded) {
		t.Errorf("it is refreshed: %v", err)
	}
	slid := *s
	slid.Seen = time.Now()
	if err := k.Save(t.Context(), http.Header{}, cookies, &slid); err == nil {
		if _, err := k.Load(t.Context(), cookies); err == nil {
			t.Error("it is back")
		}
	}
	if found, err := k.Sessions(t.Context(), Selector{}); err != nil || len(found) != 0 {
		t.Errorf("it is listed: %v, %v", found, err)
	}
}

// A72: where sessions are outlived, what is left of one says whose it was and
// when it ended, for that long; and nothing else can be done with it. It ended
// by itself, or because the provider did not refresh it.
func TestA72Remains(t *testing.T) {
	for name, refused := range map[string]bool{"idle": false, "refused": true} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				memory := new(store.Memory)
				k := newStored(t, memory, hours, time.Now)
				k.Outlive(10 * time.Minute)
				s, cookies := begun(t, k)
				if _, over := hours.Since(s, time.Now()); over {
					t.Fatal("it is over before its time")
				}
				ended := s.Seen.Add(hours.Idle)
				if refused {
					time.Sleep(time.Minute)
					ended = time.Now()
					if _, err := k.refreshMain(t.Context(), s, func(context.Context, *Session) (*Session, error) { return nil, rp.ErrGrantOver }); !errors.Is(err, rp.ErrGrantOver) {
						t.Fatal(err)
					}
				}
				time.Sleep(time.Until(ended.Add(9 * time.Minute)))
				gone(t, k, s, cookies)
				left, err := k.Remains(t.Context(), cookies)
				if err != nil || left.ID != s.ID || left.Subject != "alice" || refused && !left.RefreshToken.Empty() {
					t.Fatalf("got %v, %v", left, err)
				}
				since, over := hours.Since(left, time.Now())
				if !over || since.Sub(ended).Abs() > time.Millisecond {
					t.Errorf("over %v since %s, want %s", over, since, ended)
				}
				time.Sleep(time.Minute + time.Millisecond)
				if _, err := k.Remains(t.Context(), cookies); !errors.Is(err, ErrNone) {
					t.Errorf("it is still there: %v", err)
				}
			})
		})
	}
}

// What is left of a session goes with those that are ended, and is no session
// that was.
func TestR45RemainsAreEnded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newStored(t, new(store.Memory), hours, time.Now)
		k.Outlive(10 * time.Minute)
		_, cookies := begun(t, k)
		time.Sleep(hours.Idle + time.Minute)
		ended, err := k.EndAll(t.Context(), Selector{Subject: "alice"}, time.Now())
		if err != nil || len(ended) != 0 {
			t.Errorf("ended %v, %v", ended, err)
		}
		if _, err := k.Remains(t.Context(), cookies); !errors.Is(err, ErrNone) {
			t.Errorf("it is still there: %v", err)
		}
		_, cookies = begun(t, k)
		time.Sleep(hours.Idle + time.Minute)
		if _, err := k.Delete(t.Context(), http.Header{}, cookies); err != nil {
			t.Fatal(err)
		}
		if _, err := k.Remains(t.Context(), cookies); !errors.Is(err, ErrNone) {
			t.Errorf("after a logout it is still there: %v", err)
		}
	})
}

// Where nothing outlives sessions, nothing does.
func TestNothingRemains(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		memory := new(store.Memory)
		k := newStored(t, memory, hours, time.Now)
		s, cookies := begun(t, k)
		if _, err := k.refreshMain(t.Context(), s, func(context.Context, *Session) (*Session, error) { return nil, rp.ErrGrantOver }); !errors.Is(err, rp.ErrGrantOver) {
			t.Fatal(err)
		}
		if _, err := k.Remains(t.Context(), cookies); !errors.Is(err, ErrNone) {
			t.Errorf("refused: %v", err)
		}
		_, cookies = begun(t, k)
		time.Sleep(hours.Idle)
		if _, err := k.Remains(t.Context(), cookies); !errors.Is(err, ErrNone) {
			t.Errorf("idle: %v", err)
		}
	})
}

// A cookie lives for as much longer as its session is to be outlived, and its
// session does not.
func TestA70CookiesOutliveTheirSessions(t *testing.T) {
	for _, outlive := range []time.Duration{0, 10 * time.Minute} {
		now := begin
		k := newKeeper(t, Limits{Lifetime: 2 * time.Hour, Idle: time.Hour}, func() time.Time { return now })
		k.Outlive(outlive)
		h := http.Header{}
		if err := k.Save(t.Context(), h, nil, newSession(t, "a")); err != nil {
			t.Fatal(err)
		}
		c := (&http.Response{Header: h}).Cookies()[0]
		if want := int((time.Hour + outlive) / time.Second); c.MaxAge != want {
			t.Errorf("Max-Age is %d, want %d", c.MaxAge, want)
		}
		now = begin.Add(time.Hour)
		cookies := []string{c.Name + "=" + c.Value}
		if _, err := k.Load(t.Context(), cookies); !errors.Is(err, ErrEnded) {
			t.Errorf("it opens: %v", err)
		}
		if left, err := k.Remains(t.Context(), cookies); err != nil || left.Subject != "alice" {
			t.Errorf("got %v, %v", left, err)
		}
	}
}
