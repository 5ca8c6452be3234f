package caddyauth

import (
	"context"
	"errors"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pkce-auth/caddy-pkce-auth/caddyauth/internal/claims"
	"github.com/pkce-auth/caddy-pkce-auth/caddyauth/internal/rp"
	"github.com/pkce-auth/caddy-pkce-auth/caddyauth/internal/sealed"
	"github.com/pkce-auth/caddy-pkce-auth/caddyauth/internal/session"
	"github.com/pkce-auth/caddy-pkce-auth/caddyauth/store"
)

// lateStore answers from a cache which has not heard of anything yet, as a
// cache may for a second, and may fail to find.
type lateStore struct {
	store.Memory
	lost error
}

func (s *lateStore) LoadCached(ctx context.Context, key string) (store.Record, error) {
	return s.Load(ctx, key)
}

func (s *lateStore) Find(ctx context.Context, index string) ([]string, error) {
	if s.lost != nil {
		return nil, s.lost
	}
	return s.Memory.Find(ctx, index)
}

func (*lateStore) FindCached(context.Context, string) ([]string, error) { return nil, nil }

func replicaOf(t *testing.T, s store.Store) *relyingParty {
	t.Helper()
	return newReplica(t, `{}`, keptIn{sessions: s, revocations: s, every: time.Second}).party
}

func madeSession(began time.Time) *session.Session {
	s := session.New(&rp.Grant{AccessToken: rp.NewSecret("a"), Expiry: time.Now().Add(time.Hour)}, &rp.Identity{Subject: "alice"}, time.Now())
	s.Created = began
	return s
}

// finish lets a login come to its end, and gives the browser's new cookies.
func finish(t *testing.T, p *relyingParty, cookies []string, s *session.Session) (w *httptest.ResponseRecorder, after []string) {
	t.Helper()
	r := newRequest(http.MethodGet, "https://app.test/oauth2/callback", http.Header{"Cookie": cookies})
	at, err := p.site.origins.of(r)
	if err != nil {
		t.Fatal(err)
	}
	w = httptest.NewRecorder()
	p.finish(w, r, s, &loginState{returnTo: "/page"}, at)
	return w, merge(cookies, w.Header())
}

// R45, A119: another replica ends all sessions of a user just when one of them
// is made here. That is looked for in the store itself, whatever a cache says
// of it; and where the store does not say, nobody is logged in.
func TestR45A119EndedWhileItWasMade(t *testing.T) {
	for name, tc := range map[string]struct {
		revoke bool
		lost   error
		alive  bool
	}{
		"not ended":               {alive: true},
		"ended":                   {revoke: true},
		"the store does not say":  {lost: errors.New("lost")},
		"ended and not to be had": {revoke: true, lost: errors.New("lost")},
	} {
		t.Run(name, func(t *testing.T) {
			s := &lateStore{}
			here, there := replicaOf(t, s), replicaOf(t, s)
			began := time.Now().Add(-time.Second)
			if tc.revoke {
				if _, err := there.endSessionsOf(t.Context(), session.Selector{Subject: "alice"}); err != nil {
					t.Fatal(err)
				}
			}
			s.lost = tc.lost
			made := madeSession(began)
			w, cookies := finish(t, here, nil, made)
			s.lost = nil
			_, err := s.Load(t.Context(), made.Handle())
			if (err == nil) != tc.alive || (len(cookies) > 0) != tc.alive {
				t.Errorf("in the store: %v; cookies: %v", err, cookies)
			}
			if location := w.Header().Get("Location"); strings.Contains(location, pathError) != (tc.lost != nil) {
				t.Errorf("sent to %s", location)
			}
		})
	}
}

// A61: a callback is repeated after its session was ended, when the browser has
// another by now. The first does not come back, and the other one stays.
func TestA61RepeatedCallbackOfAnEndedSession(t *testing.T) {
	s := &lateStore{}
	p := replicaOf(t, s)
	one, two := madeSession(time.Now()), madeSession(time.Now())
	_, cookies := finish(t, p, nil, one)
	_, cookies = finish(t, p, cookies, two)
	_, again := finish(t, p, cookies, one)
	if _, err := s.Load(t.Context(), one.Handle()); err == nil {
		t.Error("the session that was replaced is back")
	}
	got, err := p.sessions.of(true).Load(t.Context(), again)
	if err != nil || got.ID != two.ID || p.sessions.revocations.Has(got) {
		t.Errorf("the newer one: %v, %v", got, err)
	}
}

// heedingStore does nothing for who has gone.
type heedingStore struct{ lateStore }

func (s *heedingStore) Load(ctx context.Context, key string) (store.Record, error) {
	if err := ctx.Err(); err != nil {
		return store.Record{}, err
	}
	return s.lateStore.Load(ctx, key)
}

func (s *heedingStore) Delete(ctx context.Context, key string) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	return s.lateStore.Delete(ctx, key)
}

// T8, A82: who asks to be logged out and hangs up, as a page does that goes away
// at once, is logged out all the same, and what is under way ends.
func TestT8LogoutOfWhoHangsUp(t *testing.T) {
	s := &heedingStore{}
	p := replicaOf(t, s)
	made := madeSession(time.Now())
	_, cookies := finish(t, p, nil, made)
	request := underWay(&p.shared.live, made, anybody)
	r := newRequest(http.MethodPost, "https://app.test/oauth2/logout", http.Header{"Cookie": cookies})
	ctx, cancel := context.WithCancel(r.Context())
	cancel()
	if _, err := p.endSession(httptest.NewRecorder(), r.WithContext(ctx), false); err != nil {
		t.Errorf("got %v", err)
	}
	if _, err := s.Memory.Load(t.Context(), made.Handle()); err == nil {
		t.Error("the session is in the store")
	}
	if request.ended() == nil {
		t.Error("a stream goes on")
	}
}

// An operator who names a subject and a session of the provider's means what is
// both: not the session of somebody else that happens to be called so.
func TestEndingWhatIsBoth(t *testing.T) {
	for _, kind := range []string{"memory", "cookie"} {
		t.Run(kind, func(t *testing.T) {
			p := newHandler(t, `{"inline":{"issuer":"https://op.test","client_id":"public","session":{"store":{"kind":"`+kind+`"}}}}`).party
			set, err := claims.Parse([]byte(`{"sub":"bob","sid":"1"}`))
			if err != nil {
				t.Fatal(err)
			}
			bobs := session.New(&rp.Grant{AccessToken: rp.NewSecret("a"), Expiry: time.Now().Add(time.Hour)},
				&rp.Identity{Subject: "bob", Sources: []rp.SourcedClaims{{From: rp.FromIDToken, Claims: set}}}, time.Now().Add(-time.Second))
			if err := p.sessions.https.Save(t.Context(), http.Header{}, nil, bobs); err != nil {
				t.Fatal(err)
			}
			for _, step := range []struct {
				who   session.Selector
				alive bool
			}{
				{session.Selector{Subject: "alice", ProviderID: "1"}, true},
				{session.Selector{Subject: "bob", ProviderID: "2"}, true},
				{session.Selector{Subject: "bob", ProviderID: "1"}, kind == "cookie"},
			} {
				ended, err := p.endSessionsOf(t.Context(), step.who)
				if errors.Is(err, errBoth) != (kind == "cookie") || kind == "memory" && err != nil || (ended.inStore == 1) == step.alive {
					t.Errorf("%+v: got %+v, %v", step.who, ended, err)
				}
				if p.sessions.revocations.Has(bobs) == step.alive {
					t.Errorf("%+v: revoked: %v", step.who, !step.alive)
				}
			}
		})
	}
}

// hangingStore hangs when it is told to, as long as it may.
type hangingStore struct {
	lateStore
	hangs bool
}

func (s *hangingStore) LoadCached(ctx context.Context, key string) (store.Record, error) {
	if s.hangs {
		<-ctx.Done()
		return store.Record{}, ctx.Err()
	}
	return s.lateStore.LoadCached(ctx, key)
}

func (s *hangingStore) Find(ctx context.Context, index string) ([]string, error) {
	if s.hangs {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	return s.lateStore.Find(ctx, index)
}

// A119: what needs no session does not wait for a store that hangs, though it
// comes with a cookie: a bypassed path, such as a health check or a picture.
func TestA119WhatNeedsNoSessionDoesNotWait(t *testing.T) {
	for _, kind := range []string{"stored", "cookie"} {
		synctest.Test(t, func(t *testing.T) {
			s := &hangingStore{}
			p := replicaOf(t, s)
			if kind == "cookie" {
				keys, err := sealed.NewKeyring([]byte(strings.Repeat("k", 32)))
				if err != nil {
					t.Fatal(err)
				}
				p.sessions = newKeepers(keptIn{revocations: struct{ store.Store }{s}, every: time.Second}, keeperConfig{
					stem: "pkce_auth", keys: keys, whose: []string{"op"}, shared: p.shared, logger: p.logger, now: time.Now,
				})
			}
			_, cookies := finish(t, p, nil, madeSession(time.Now()))
			s.hangs = true
			time.Sleep(5 * time.Minute)
			r := newRequest(http.MethodGet, "https://app.test/public", http.Header{"Cookie": cookies})
			a, _ := p.authState(r)
			began := time.Now()
			if _, err := p.load(r, a, false); err == nil || errors.Is(err, session.ErrNone) || time.Since(began) > unneededTime {
				t.Errorf("%s: got %v after %s", kind, err, time.Since(began))
			}
			time.Sleep(time.Minute) // what was begun ends
		})
	}
}

// stubbornStore does not let go of what it has, at first.
type stubbornStore struct {
	store.Memory
	refuses int
}

func (s *stubbornStore) Delete(ctx context.Context, key string) error {
	if s.refuses > 0 {
		s.refuses--
		return errors.New("read-only")
	}
	return s.Memory.Delete(ctx, key)
}

// A61: a session that another login has replaced goes, though the store does not
// let go of it at first.
func TestA61ReplacedSessionsGoInTheEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &stubbornStore{refuses: 3}
		p := replicaOf(t, s)
		before := madeSession(time.Now())
		if err := p.sessions.https.Save(t.Context(), http.Header{}, nil, before); err != nil {
			t.Fatal(err)
		}
		p.supersede(t.Context(), before, madeSession(time.Now()))
		if _, err := s.Load(t.Context(), before.Handle()); err != nil {
			t.Fatalf("the test is about a store that does not let go: %v", err)
		}
		if !p.sessions.revocations.Has(before) {
			t.Error("it opens")
		}
		time.Sleep(10 * time.Second)
		if _, err := s.Load(t.Context(), before.Handle()); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("it is still there: %v", err)
		}
	})
}
