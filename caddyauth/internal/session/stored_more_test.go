package session

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pkce-auth/caddy-pkce-auth/caddyauth/internal/rp"
	"github.com/pkce-auth/caddy-pkce-auth/caddyauth/internal/sealed"
	"github.com/pkce-auth/caddy-pkce-auth/caddyauth/store"
)

// A callback that comes twice keeps its session twice, and that is one; kept
// after it was ended, it is none.
func TestM65StoredTwice(t *testing.T) {
	memory := &store.Memory{Now: func() time.Time { return begin }}
	k := newStored(t, memory, hours, func() time.Time { return begin })
	s := newSession(t, "a")
	for range 2 {
		cookies := ticket(t, k, s)
		if got, err := k.Load(t.Context(), cookies); err != nil || got.ID != s.ID {
			t.Fatalf("got %v, %v", got, err)
		}
	}
	stranger := *newSession(t, "b")
	stranger.ID = s.ID // who would have drawn the same name
	if err := k.Save(t.Context(), http.Header{}, nil, &stranger); err == nil {
		t.Error("a session took the place of another")
	}
	if err := k.End(t.Context(), s.Handle()); err != nil {
		t.Fatal(err)
	}
	if s.Created = begin.Add(-hours.Lifetime); k.Save(t.Context(), http.Header{}, nil, s) == nil {
		t.Error("a session that is over was kept")
	}
}

// A store that is slow to ask is asked about a session no more often than Lag
// says; so much later a logout elsewhere is heard of.
func TestA72StoredLag(t *testing.T) {
	now := begin
	clock := func() time.Time { return now }
	s := &countingStore{}
	s.Now = clock
	here, there := newStored(t, s, hours, clock), newStored(t, s, hours, clock)
	here.cfg.Lag = 500 * time.Millisecond
	cookies := ticket(t, here, newSession(t, "a"))
	for range 10 {
		if _, err := here.Load(t.Context(), cookies); err != nil {
			t.Fatal(err)
		}
		now = now.Add(40 * time.Millisecond)
	}
	if n := s.loads.Load(); n != 1 {
		t.Errorf("it was asked %d times", n)
	}
	if _, err := there.Delete(t.Context(), http.Header{}, cookies); err != nil {
		t.Fatal(err)
	}
	now = now.Add(500 * time.Millisecond)
	if _, err := here.Load(t.Context(), cookies); !errors.Is(err, ErrNone) {
		t.Errorf("got %v", err)
	}
}

// cachedStore answers from memory what it is asked to use a session, and never
// what it is asked to change one.
type cachedStore struct {
	countingStore
	cached atomic.Int64
}

func (s *cachedStore) LoadCached(ctx context.Context, key string) (store.Record, error) {
	s.cached.Add(1)
	return s.Memory.Load(ctx, key)
}

func (s *cachedStore) FindCached(ctx context.Context, index string) ([]string, error) {
	s.cached.Add(1)
	return s.Find(ctx, index)
}

// With a store that remembers, hot sessions cost it nothing; whoever is to
// refresh or to end one asks anew.
func TestStoredCached(t *testing.T) {
	s := &cachedStore{}
	s.Now = func() time.Time { return begin }
	k := newStored(t, s, hours, func() time.Time { return begin })
	if !k.Near() || newStored(t, &s.countingStore, hours, nil).Near() || !newStored(t, &s.Memory, hours, nil).Near() {
		t.Error("which stores are near?")
	}
	cookies := ticket(t, k, newSession(t, "a"))
	var loaded *Session
	for range 100 {
		got, err := k.Load(t.Context(), cookies)
		if err != nil || loaded != nil && got != loaded {
			t.Fatalf("got %p, not %p, and %v", got, loaded, err)
		}
		loaded = got
	}
	if current, err := k.Current(t.Context(), loaded); err != nil || current != loaded {
		t.Errorf("got %v, %v", current, err)
	}
	if n := s.loads.Load(); n != 0 || s.cached.Load() != 101 {
		t.Errorf("it was asked %d times anew", n)
	}
	if _, err := k.refreshMain(t.Context(), loaded, func(context.Context, *Session) (*Session, error) { return nil, rp.ErrUnavailable }); err == nil {
		t.Error("no error")
	}
	if n := s.loads.Load(); n == 0 {
		t.Error("who refreshes relies on memory")
	}
	r := newRevocations(t, s, time.Second)
	before := s.cached.Load()
	if err := r.Look(t.Context()); err != nil || s.cached.Load() == before {
		t.Errorf("looking for revocations: %v", err)
	}
}

// Without keys nothing is known of a session, and nobody is logged out.
func TestStoredWithoutKeys(t *testing.T) {
	memory := new(store.Memory)
	good := newStored(t, memory, hours, nil)
	s := newSession(t, "a")
	s.Created, s.Seen = time.Now(), time.Now()
	cookies := ticket(t, good, s)
	k := NewStored(StoredConfig{
		Store: memory, Cookie: good.cfg.Cookie, Tickets: sealed.NewBox(lostKeys{}, "ticket"), Summaries: sealed.NewBox(lostKeys{}, "summary"),
		Indexes: sealed.NewTagger(lostKeys{}, "index"), Limits: hours,
	})
	if _, err := k.Load(t.Context(), cookies); !errors.Is(err, sealed.ErrKeys) {
		t.Errorf("loading: %v", err)
	}
	if err := k.Save(t.Context(), http.Header{}, nil, s); !errors.Is(err, sealed.ErrKeys) {
		t.Errorf("saving: %v", err)
	}
	if _, err := k.Sessions(t.Context(), Selector{}); !errors.Is(err, sealed.ErrKeys) {
		t.Errorf("finding: %v", err)
	}
	if _, err := k.Summary(t.Context(), s.Handle()); !errors.Is(err, sealed.ErrKeys) {
		t.Errorf("summing up: %v", err)
	}
	k.cfg.Summaries = good.cfg.Summaries
	if err := k.Save(t.Context(), http.Header{}, nil, newSession(t, "b")); !errors.Is(err, sealed.ErrKeys) {
		t.Errorf("naming: %v", err)
	}
	r := NewRevocations(RevocationsConfig{Store: memory, Tags: sealed.NewTagger(lostKeys{}, "x"), Provider: "0", Keep: time.Hour}, new(Revoked))
	if err := r.Revoke(t.Context(), s.Handle()); !errors.Is(err, sealed.ErrKeys) {
		t.Errorf("revoking: %v", err)
	}
	if _, _, err := r.Once(t.Context(), "x", time.Now()); !errors.Is(err, sealed.ErrKeys) {
		t.Errorf("once: %v", err)
	}
	if r.Has(s) {
		t.Error("nothing was revoked")
	}
	r.known.Mark("x", time.Now(), time.Now().Add(time.Hour))
	if !r.Has(s) {
		t.Error("something was, and nobody can tell what")
	}
}

type lostKeys struct{}

func (lostKeys) Keyring() (*sealed.Keyring, error) {
	return nil, fmt.Errorf("%w: lost", sealed.ErrKeys)
}

func (lostKeys) Reload() (*sealed.Keyring, error) { return nil, fmt.Errorf("%w: lost", sealed.ErrKeys) }

// Failures on the way of a refresh end no session.
func TestT4StoredRefreshFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &lockingStore{}
		k := newStored(t, s, hours, nil)
		loaded, _ := begun(t, k)
		never := func(context.Context, *Session) (*Session, error) {
			t.Error("the provider was asked")
			return nil, rp.ErrUnavailable
		}
		s.lockErr = errors.New("no locks")
		if _, err := k.refreshMain(t.Context(), loaded, never); !errors.Is(err, ErrStore) {
			t.Errorf("no locks: %v", err)
		}
		s.lockErr = nil
		s.before = func(string) error { return errors.New("down") }
		if _, err := k.refreshMain(t.Context(), loaded, never); !errors.Is(err, ErrStore) {
			t.Errorf("no answer: %v", err)
		}
		s.before = nil
		unlock, ok, err := s.Memory.TryLock(t.Context(), lockName(loaded.Handle()))
		if err != nil || !ok {
			t.Fatal(ok, err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		if _, err := k.refreshMain(ctx, loaded, never); !errors.Is(err, rp.ErrUnavailable) {
			t.Errorf("somebody else has the lock: %v", err)
		}
		unlock()
		// The provider says no; the store does not hear of it.
		var trouble int
		k.cfg.Trouble = func(string, error) { trouble++ }
		s.before = func(call string) error {
			if call == "delete" {
				return errors.New("down")
			}
			return nil
		}
		refused := func(context.Context, *Session) (*Session, error) { return nil, rp.ErrGrantOver }
		if _, err := k.refreshMain(t.Context(), loaded, refused); !errors.Is(err, rp.ErrGrantOver) || trouble != 1 {
			t.Errorf("refused: %v, told %d times", err, trouble)
		}
		s.before = nil
		if err := k.End(t.Context(), loaded.Handle()); err != nil {
			t.Fatal(err)
		}
		if _, err := k.refreshMain(t.Context(), loaded, never); !errors.Is(err, ErrEnded) {
			t.Errorf("ended: %v", err)
		}
	})
}

type lockingStore struct {
	countingStore
	lockErr error
}

func (s *lockingStore) TryLock(ctx context.Context, name string) (func(), bool, error) {
	if s.lockErr != nil {
		return nil, false, s.lockErr
	}
	return s.Memory.TryLock(ctx, name)
}

// Against all locks two have refreshed: the tokens that are kept count.
func TestA80LocksThatDoNotHold(t *testing.T) {
	memory := &store.Memory{}
	k := newStored(t, memory, hours, nil)
	loaded, cookies := begun(t, k)
	got := func(token string, from *Session) *Session {
		return from.Refreshed(&rp.Grant{AccessToken: rp.NewSecret(token), RefreshToken: rp.NewSecret("r-" + token), Expiry: time.Now().Add(time.Hour)}, nil, time.Now())
	}
	for name, mine := range map[string]func() (*Session, error){
		"both got tokens": func() (*Session, error) { return got("mine", loaded), nil },
		"mine is refused": func() (*Session, error) { return nil, rp.ErrGrantOver },
	} {
		t.Run(name, func(t *testing.T) {
			var err error
			if loaded, err = k.Load(t.Context(), cookies); err != nil {
				t.Fatal(err)
			}
			renewed, err := k.refreshMain(t.Context(), loaded, func(ctx context.Context, s *Session) (*Session, error) {
				if _, err := k.keep(ctx, got("theirs", s), 1); err != nil {
					t.Error(err)
				}
				return mine()
			})
			if err != nil || renewed.AccessToken.Reveal() != "theirs" {
				t.Errorf("got %+v, %v", renewed, err)
			}
		})
	}
}

// Tokens that could not be kept when they came are kept with the next request,
// also when the session was used elsewhere meanwhile.
func TestT4UnkeptTokensAreKeptAfterASlide(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &countingStore{}
		one, two := newStored(t, s, hours, nil), newStored(t, s, hours, nil)
		loaded, cookies := begun(t, one)
		s.before = func(call string) error {
			if call == "save" {
				return errors.New("full")
			}
			return nil
		}
		fresh, err := one.refreshMain(t.Context(), loaded, func(_ context.Context, s *Session) (*Session, error) {
			return s.Refreshed(&rp.Grant{AccessToken: rp.NewSecret("b"), RefreshToken: rp.NewSecret("r2"), Expiry: time.Now().Add(time.Hour)}, nil, time.Now()), nil
		})
		if err != nil {
			t.Fatal(err)
		}
		s.before = nil
		time.Sleep(2 * time.Hour)
		there, err := two.Load(t.Context(), cookies)
		if err != nil {
			t.Fatal(err)
		}
		slid, _ := hours.Renew(there, time.Now())
		if err := two.Save(t.Context(), http.Header{}, cookies, slid); err != nil {
			t.Fatal(err)
		}
		if err := one.Save(t.Context(), http.Header{}, cookies, fresh); err != nil {
			t.Fatal(err)
		}
		if got, err := two.Load(t.Context(), cookies); err != nil || got.RefreshToken.Reveal() != "r2" || time.Since(got.Seen) > time.Second {
			t.Errorf("got %+v, %v", got, err)
		}
	})
}

// A store that does not take what must be remembered says so; here it is known
// all the same.
func TestA119RevocationsNotTaken(t *testing.T) {
	s := &countingStore{}
	r := newRevocations(t, s, time.Second)
	made := newSession(t, "a")
	made.Created = time.Now()
	s.before = func(string) error { return errors.New("full") }
	if err := r.Revoke(t.Context(), made.Handle()); !errors.Is(err, ErrStore) || !r.Has(made) {
		t.Errorf("got %v; known: %v", err, r.Has(made))
	}
	if first, _, err := r.Once(t.Context(), "x", time.Now().Add(time.Minute)); first || !errors.Is(err, ErrStore) {
		t.Errorf("once: %v, %v", first, err)
	}
	two := newRevocations(t, s, time.Second, "k2")
	if first, _, err := two.Once(t.Context(), "x", time.Now().Add(time.Minute)); first || !errors.Is(err, ErrStore) {
		t.Errorf("once, with two keys: %v, %v", first, err)
	}
	now := time.Now()
	if !r.Due(now) || r.Wanted(now) {
		t.Errorf("due %v, wanted %v", r.Due(now), r.Wanted(now))
	}
	s.before = nil
	err := r.Fresh(t.Context(), time.Now())
	if now = time.Now(); err != nil || !r.Wanted(now) || r.Due(now) {
		t.Errorf("%v; due %v, wanted %v", err, r.Due(now), r.Wanted(now))
	}
	if never := newRevocations(t, s, 0); never.Fresh(t.Context(), time.Now()) != nil || never.Due(now.Add(time.Hour)) {
		t.Error("a store that nobody else has is asked")
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := newRevocations(t, &findingStore{hangs: true}, time.Second).Fresh(ctx, time.Now()); !errors.Is(err, context.Canceled) {
		t.Errorf("whoever goes away: %v", err)
	}
}

func TestHandles(t *testing.T) {
	s := newSession(t, "a")
	if !IsHandle(s.Handle()) || s.Handle() != (&Session{ID: s.ID}).Handle() {
		t.Error("a session's handle is none")
	}
	for _, text := range []string{"", "x", s.Handle()[1:], s.Handle() + "0", "Z" + s.Handle()[1:], "A" + s.Handle()[1:]} {
		if IsHandle(text) {
			t.Errorf("%q passes", text)
		}
	}
	if _, err := new(store.Memory).Load(t.Context(), s.Handle()); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
}

// A session in a cookie is refreshed by whoever asks, for there is nobody else to
// ask; its end is that of its cookies.
func TestStatelessRefreshAndDelete(t *testing.T) {
	k := NewStateless(sealed.Cookie{Name: "c", Path: "/"}, sealed.NewBox(keyring(t, "k1"), "session"), hours, nil)
	s := newSession(t, "a")
	s.Created, s.Seen = time.Now(), time.Now()
	h := http.Header{}
	if err := k.Save(t.Context(), h, nil, s); err != nil {
		t.Fatal(err)
	}
	c := (&http.Response{Header: h}).Cookies()[0]
	cookies := []string{c.Name + "=" + c.Value}
	down := errors.New("down")
	if _, err := k.refreshMain(t.Context(), s, func(context.Context, *Session) (*Session, error) { return nil, down }); !errors.Is(err, down) {
		t.Errorf("got %v", err)
	}
	h = http.Header{}
	if ended, err := k.Delete(t.Context(), h, cookies); err != nil || ended.ID != s.ID || len(h["Set-Cookie"]) != 1 {
		t.Errorf("got %+v, %v, %v", ended, err, h)
	}
	if ended, err := k.Delete(t.Context(), h, nil); err != nil || ended != nil {
		t.Errorf("without a session: %+v, %v", ended, err)
	}
	if text := (&BackoffError{Wait: 1500 * time.Millisecond, Err: down}).Error(); text != "next try in 2s: down" {
		t.Errorf("got %q", text)
	}
}
