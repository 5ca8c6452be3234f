package session

import (
	"context"
	"errors"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pkce-auth/caddy-pkce-auth/caddyauth/internal/rp"
	"github.com/pkce-auth/caddy-pkce-auth/caddyauth/internal/sealed"
	"github.com/pkce-auth/caddy-pkce-auth/caddyauth/store"
)

func newRevocations(t testing.TB, s store.Store, every time.Duration, secrets ...string) *Revocations {
	t.Helper()
	return NewRevocations(RevocationsConfig{
		Store: s, Tags: sealed.NewTagger(keyring(t, append(secrets, "k1")...), "revocation", "provider"),
		Provider: "0123", Keep: 24 * time.Hour, Every: every,
	}, new(Revoked))
}

// about makes a session of a subject, and of a session at the provider.
func about(t testing.TB, sub, sid string) *Session {
	t.Helper()
	set := parse(t, `{"sub":"`+sub+`","sid":"`+sid+`"}`)
	return New(&rp.Grant{AccessToken: rp.NewSecret("a"), Expiry: time.Now().Add(time.Hour)},
		&rp.Identity{Subject: sub, Sources: []rp.SourcedClaims{{From: rp.FromIDToken, Claims: set}}}, time.Now())
}

// A72, R45: what is revoked on one replica is known to the others as soon as
// they look, to one that starts later, and to one with other keys in front; it
// is about what began before, and nothing else.
func TestA72R45RevocationsAreHeardEverywhere(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		memory := new(store.Memory)
		here, there := newRevocations(t, memory, time.Second), newRevocations(t, memory, time.Second, "k2")
		if err := there.Look(t.Context()); err != nil {
			t.Fatal(err)
		}
		one, two, three := about(t, "alice", "1"), about(t, "alice", "2"), about(t, "bob", "3")
		time.Sleep(time.Second)
		for _, step := range []struct {
			what    string
			revoke  func() error
			revoked []*Session
		}{
			{"nothing", func() error { return nil }, nil},
			{"one session", func() error { return here.Revoke(t.Context(), two.Handle()) }, []*Session{two}},
			{"another's session", func() error { return here.RevokeAll(t.Context(), Selector{ProviderID: "9"}, time.Now()) }, []*Session{two}},
			{"a session of the provider's", func() error { return here.RevokeAll(t.Context(), Selector{ProviderID: "1"}, time.Now()) }, []*Session{one, two}},
			{"everybody", func() error { return here.RevokeAll(t.Context(), Selector{}, time.Now()) }, []*Session{one, two, three}},
		} {
			if err := step.revoke(); err != nil {
				t.Fatal(err)
			}
			late := newRevocations(t, memory, time.Second)
			for _, r := range []*Revocations{there, late} {
				if err := r.Look(t.Context()); err != nil {
					t.Fatal(err)
				}
			}
			for _, s := range []*Session{one, two, three} {
				for name, r := range map[string]*Revocations{"here": here, "there": there, "a new one": late} {
					if r.Has(s) != slices.Contains(step.revoked, s) {
						t.Errorf("%s: %s: revoked: %v", step.what, name, r.Has(s))
					}
				}
			}
			time.Sleep(time.Second)
			if after := about(t, "alice", "1"); here.Has(after) {
				t.Errorf("%s: a session that began afterwards is revoked", step.what)
			}
		}
	})
}

// Revocations outlast whatever they revoke: half a day later, and past the end
// of a list, a process that starts then still hears of them; and nobody keeps
// them for ever.
func TestA72RevocationsLastAsLongAsSessions(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		memory := new(store.Memory)
		here := newRevocations(t, memory, time.Second)
		old := about(t, "alice", "1")
		time.Sleep(time.Second)
		if err := here.RevokeAll(t.Context(), Selector{Subject: "alice"}, time.Now()); err != nil {
			t.Fatal(err)
		}
		for range 23 {
			time.Sleep(time.Hour)
			late := newRevocations(t, memory, time.Second)
			if err := errors.Join(late.Look(t.Context()), here.Look(t.Context())); err != nil {
				t.Fatal(err)
			}
			if !late.Has(old) || !here.Has(old) {
				t.Fatalf("after %s it is forgotten", time.Since(old.Created))
			}
		}
		time.Sleep(48 * time.Hour)
		for _, name := range []string{"x", "y"} { // which tidies up
			here.known.Mark(name, time.Now(), time.Now().Add(time.Hour))
		}
		if n := len(here.known.marks); n != 2 {
			t.Errorf("%d are remembered", n)
		}
	})
}

// While the store does not say what was revoked, sessions go on for a minute,
// and no longer; nobody floods it, nor waits for it longer than a second until
// then.
func TestA119RevocationsUnknown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &findingStore{}
		r := newRevocations(t, s, time.Second)
		if err := r.Fresh(t.Context(), time.Now()); err != nil {
			t.Fatalf("at first: %v", err)
		}
		s.err = errors.New("down")
		for range 55 {
			time.Sleep(time.Second)
			if err := r.Fresh(t.Context(), time.Now()); err != nil {
				t.Fatalf("%v", err)
			}
		}
		time.Sleep(10 * time.Second)
		for range 100 {
			if err := r.Fresh(t.Context(), time.Now()); !errors.Is(err, ErrStore) {
				t.Fatalf("after a minute: %v", err)
			}
		}
		if s.asked > 60 {
			t.Errorf("it was asked %d times", s.asked)
		}
		s.err, s.hangs = nil, true
		began := time.Now()
		if err := r.Fresh(t.Context(), time.Now()); !errors.Is(err, ErrStore) || time.Since(began) > 2*lookTime {
			t.Errorf("a store that hangs: %v after %s", err, time.Since(began))
		}
		s.hangs = false
		time.Sleep(10 * time.Second)
		if err := r.Fresh(t.Context(), time.Now()); err != nil {
			t.Errorf("afterwards: %v", err)
		}
	})
}

// A119, M105: a store hangs. The first request waits for it, a second, and those
// that come with it; once it is known to hang, nobody waits any more, until it
// must be known what it would say; and then each is told soon that it is not.
func TestA119NobodyWaitsForAStoreThatHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &findingStore{}
		r := newRevocations(t, s, time.Second)
		if err := r.Fresh(t.Context(), time.Now()); err != nil {
			t.Fatal(err)
		}
		s.hangs = true
		last := time.Now()
		for time.Since(last) < 2*time.Minute {
			time.Sleep(100 * time.Millisecond)
			began := time.Now()
			err := r.Fresh(t.Context(), time.Now())
			waited := time.Since(began)
			switch since := began.Sub(last); {
			case since < LookPatience && err != nil, since > LookPatience+2*time.Second && err == nil:
				t.Fatalf("after %s: %v", since, err)
			case waited > time.Second, since > 10*time.Second && since < LookPatience && waited > 0:
				t.Fatalf("after %s a request waited for %s", since, waited)
			}
		}
		time.Sleep(lookTime) // no question is open
		synctest.Wait()
		s.hangs = false
		time.Sleep(lookRetry)
		if err := r.Fresh(t.Context(), time.Now()); err != nil {
			t.Errorf("afterwards: %v", err)
		}
	})
}

// A119: a process that begins must read a week of lists, from a store in which
// each takes a while. It gets through them in several looks, if not in one: else
// nobody would have a session any more.
func TestA119SlowStoreIsGotThrough(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &findingStore{}
		here := newRevocations(t, s, 2*time.Second)
		here.cfg.Keep = 7 * 24 * time.Hour
		one := about(t, "alice", "1")
		if err := here.Revoke(t.Context(), one.Handle()); err != nil {
			t.Fatal(err)
		}
		time.Sleep(6 * 24 * time.Hour)
		late := newRevocations(t, s, 2*time.Second)
		late.cfg.Keep = here.cfg.Keep
		s.takes = 600 * time.Millisecond
		tries := 1
		for began := time.Now(); ; tries++ {
			err := late.Fresh(t.Context(), time.Now())
			if err == nil {
				break
			}
			if time.Since(began) > time.Minute {
				t.Fatalf("after a minute: %v", err)
			}
			time.Sleep(time.Second)
		}
		if !late.Has(one) || tries < 2 {
			t.Errorf("after %d tries: %v", tries, late.Has(one))
		}
		if s.asked = 0; late.Look(t.Context()) != nil || s.asked > 2 {
			t.Errorf("after that, %d lists are read", s.asked)
		}
	})
}

type findingStore struct {
	store.Memory
	err   error
	hangs bool
	takes time.Duration
	asked int
}

func (s *findingStore) Find(ctx context.Context, index string) ([]string, error) {
	s.asked++
	if s.takes > 0 {
		select {
		case <-time.After(s.takes):
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	if s.hangs {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	if s.err != nil {
		return nil, s.err
	}
	return s.Memory.Find(ctx, index)
}

// M129, A118: a logout token is good once, whichever replica sees it, with
// whatever key in front; and again only when it came to nothing.
func TestM129A118LogoutTokensAreGoodOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		memory := new(store.Memory)
		here, there := newRevocations(t, memory, time.Second), newRevocations(t, memory, time.Second, "k2")
		until := time.Now().Add(2 * time.Minute)
		first, undo, err := here.Once(t.Context(), "iss jti", until)
		if err != nil || !first {
			t.Fatalf("got %v, %v", first, err)
		}
		for name, r := range map[string]*Revocations{"here": here, "there": there} {
			if first, _, err := r.Once(t.Context(), "iss jti", until); err != nil || first {
				t.Errorf("again %s: %v, %v", name, first, err)
			}
			if first, _, err := r.Once(t.Context(), "iss2 jti", until); err != nil || first != (name == "here") && name == "here" {
				t.Errorf("another issuer's: %v, %v", first, err)
			}
		}
		undo()
		if first, _, err := there.Once(t.Context(), "iss jti", until); err != nil || !first {
			t.Errorf("after it came to nothing: %v, %v", first, err)
		}
	})
}

// FuzzRevocation: the name of a revocation reads as one or not at all.
func FuzzRevocation(f *testing.F) {
	for _, key := range []string{"i-00ff", "u-00ff-1800000000000", "s-00ff-1", "a-00ff-1", "j-00ff", "", "-", "u--1", "u-x-9999999999999999999"} {
		f.Add(key)
	}
	f.Fuzz(func(t *testing.T, key string) {
		mark, since, ok := parseRevocation(key)
		if !ok {
			return
		}
		if mark == "" || len(mark) > len(key) || key[:len(mark)] != mark || since.IsZero() {
			t.Errorf("%q reads as %q since %s", key, mark, since)
		}
	})
}
