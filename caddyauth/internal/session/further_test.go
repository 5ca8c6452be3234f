package session

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pkce-auth/caddy-pkce-auth/caddyauth/internal/rp"
	"github.com/pkce-auth/caddy-pkce-auth/caddyauth/internal/sealed"
	"github.com/pkce-auth/caddy-pkce-auth/caddyauth/store"
)

func furtherOf(key, token string, expiry time.Time) *Further {
	return NewFurther(key, &rp.Grant{AccessToken: rp.NewSecret(token), Expiry: expiry, Scope: "read"}, expiry.Add(-time.Hour))
}

// Further tokens survive sealing, and a record of before there were any is a
// session all the same.
func TestFurtherTokensAreKept(t *testing.T) {
	s := newSession(t, "main")
	f := furtherOf("a", jwt(600), begin.Add(time.Hour))
	f.RefreshToken = rp.NewSecret("refresh-a")
	s = s.With(f).With(furtherOf("b", "opaque-b", begin.Add(time.Hour)))
	for _, whole := range []bool{true, false} {
		data, err := encode(s, whole)
		if err != nil {
			t.Fatal(err)
		}
		got, err := decode(data)
		if err != nil {
			t.Fatal(err)
		}
		a := got.Further("a")
		if a == nil || a.AccessToken.Reveal() != f.AccessToken.Reveal() || a.RefreshToken.Reveal() != "refresh-a" || !a.Expiry.Equal(f.Expiry) || !a.Issued.Equal(f.Issued) ||
			a.Scope != "read" || got.Since("a") != 1 || got.Since("b") != 2 || got.Generation != 2 || got.AuthorizationFor("b") != "Bearer opaque-b" {
			t.Errorf("got %+v", got.further)
		}
		if token, own := got.RefreshTokenFor("a"); token.Reveal() != "refresh-a" || !own {
			t.Error("the token of a has lost its own refresh token")
		}
		if token, own := got.RefreshTokenFor("b"); token.Reveal() != "refresh" || own {
			t.Error("the token of b has one")
		}
		if got.AuthorizationFor(MainToken) != "Bearer main" || got.AuthorizationFor("c") != "" || got.AuthorizationFor(IDToken) != "" {
			t.Error("a token under another's key")
		}
	}
	record, err := unpack(must(encode(newSession(t, "main"), false)))
	if err != nil {
		t.Fatal(err)
	}
	old, err := decode(must(compose(record.words[:len(record.words)-4], record.noise))) // neither an ID token, nor further ones, nor since when
	if err != nil || old.AuthorizationFor(MainToken) != "Bearer main" || len(old.further.tokens) != 0 {
		t.Errorf("an old record: got %+v, %v", old, err)
	}
}

func must(data []byte, err error) []byte {
	if err != nil {
		panic(err)
	}
	return data
}

// However many targets there were, by however many configurations, a session has
// few tokens, and none that nobody can use.
func TestFurtherTokensAreBounded(t *testing.T) {
	s := newSession(t, "main")
	for n := range 100 {
		s = s.With(furtherOf(fmt.Sprint("k", n), "t", begin.Add(time.Duration(n)*time.Second+2*time.Hour)))
	}
	if len(s.further.tokens) != maxFurther || s.Further("k99") == nil || s.Further("k0") != nil {
		t.Errorf("%d tokens", len(s.further.tokens))
	}
	late := s.With(furtherOf("late", "t", begin.Add(100*time.Hour)))
	if len(late.further.tokens) != 1 {
		t.Errorf("%d tokens, the others of which are dead", len(late.further.tokens))
	}
	if len(s.further.tokens) != maxFurther {
		t.Error("the old session was changed")
	}
}

// get gives what asks the provider for a token of a key.
func (o *office) get(key string) func(context.Context, *Session) (*Session, error) {
	return func(ctx context.Context, s *Session) (*Session, error) {
		renewed, err := o.refresh(ctx, s)
		if err != nil || key == MainToken {
			return renewed, err
		}
		with := s.With(NewFurther(key, &rp.Grant{AccessToken: rp.NewSecret("for-" + key), Expiry: time.Now().Add(5 * time.Minute)}, time.Now()))
		with.RefreshToken = renewed.RefreshToken
		return with, nil
	}
}

func (o *office) freshFor(r *Refresher, s *Session, key string) (*Session, error) {
	got, _, err := r.Fresh(context.Background(), s, Refresh{Key: s.ID, Token: key, Do: o.get(key), Keep: time.Hour, Now: time.Now()})
	return got, err
}

// A74, R15: requests for several tokens of one session, at once, at a provider
// that takes each refresh token once: one flight for each token, one after the
// other, and everybody gets the token they came for.
func TestA74R15FlightsOfOneSession(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var r Refresher
		o := &office{delay: 2 * time.Second}
		s := refreshable()
		time.Sleep(6 * time.Minute)
		var wg sync.WaitGroup
		for n := range 200 {
			key := []string{MainToken, "a", "b", "c"}[n%4]
			wg.Go(func() {
				got, err := o.freshFor(&r, s, key)
				if err != nil || !got.Has(key, time.Now()) || key != MainToken && got.AuthorizationFor(key) != "Bearer for-"+key {
					t.Errorf("%q: got %+v, %v", key, got, err)
				}
			})
		}
		wg.Wait()
		if o.calls.Load() != 4 || o.reused.Load() != 0 {
			t.Errorf("%d calls, %d with a token that was used", o.calls.Load(), o.reused.Load())
		}
		newest, _ := r.Latest(s.ID, s)
		for _, key := range []string{MainToken, "a", "b", "c"} {
			if !newest.Has(key, time.Now()) {
				t.Errorf("the newest copy has no %q", key)
			}
		}
	})
}

// A target that the provider refuses, again and again, neither ends the session
// nor puts off the rest of its tokens. A refresh token that was replaced on the
// way is the one that is used next.
func TestTargetRefusedConcernsNoOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var r Refresher
		o := new(office)
		s := refreshable()
		refused := func(ctx context.Context, s *Session) (*Session, error) {
			renewed, err := o.refresh(ctx, s)
			if err != nil {
				return nil, err
			}
			return s.WithRefreshToken(renewed.RefreshToken), &rp.TargetError{Err: errors.New("for something else")}
		}
		for range 10 {
			_, _, err := r.Fresh(t.Context(), s, Refresh{Key: s.ID, Token: "a", Do: refused, Keep: time.Hour, Now: time.Now()})
			if !errors.Is(err, rp.ErrTarget) || errors.Is(err, ErrNone) {
				t.Fatalf("got %v", err)
			}
		}
		if o.calls.Load() != 1 {
			t.Errorf("the provider was asked %d times at once", o.calls.Load())
		}
		time.Sleep(6 * time.Minute)
		if got, err := o.fresh(&r, s); err != nil || !got.TokenAlive(time.Now()) || o.reused.Load() != 0 {
			t.Errorf("the main token: got %+v, %v", got, err)
		}
		if got, err := o.freshFor(&r, s, "b"); err != nil || !got.Has("b", time.Now()) {
			t.Errorf("another target: got %+v, %v", got, err)
		}
		if _, _, err := r.Fresh(t.Context(), s, Refresh{Key: s.ID, Token: "a", Do: refused, Keep: time.Hour, Now: time.Now()}); !errors.Is(err, rp.ErrTarget) {
			t.Errorf("got %v", err)
		}
	})
}

// What a login brought is added to the newest copy of the session, after a refresh
// that is under way; trouble with refreshing does not matter to it.
func TestAddingToARefreshedSession(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var r Refresher
		o := &office{delay: 5 * time.Second}
		s := refreshable()
		time.Sleep(6 * time.Minute)
		var wg sync.WaitGroup
		wg.Go(func() {
			if _, err := o.fresh(&r, s); err != nil {
				t.Error(err)
			}
		})
		time.Sleep(time.Second)
		add := Refresh{Key: s.ID, Token: "a", Adds: true, Keep: time.Hour, Now: time.Now(), Do: func(_ context.Context, s *Session) (*Session, error) {
			return s.With(furtherOf("a", "for-a", time.Now().Add(time.Hour))), nil
		}}
		got, _, err := r.Fresh(t.Context(), s, add)
		if err != nil || got.Generation != 2 || got.AuthorizationFor("a") != "Bearer for-a" || got.RefreshToken.Reveal() == s.RefreshToken.Reveal() {
			t.Errorf("got %+v, %v", got, err)
		}
		wg.Wait()
		time.Sleep(6 * time.Minute)
		o.refuse(rp.ErrUnavailable)
		if _, err := o.fresh(&r, got); err == nil {
			t.Error("no trouble")
		}
		add.Now, add.Token = time.Now(), "b"
		add.Do = func(_ context.Context, s *Session) (*Session, error) {
			return s.With(furtherOf("b", "for-b", time.Now().Add(time.Hour))), nil
		}
		if got, _, err := r.Fresh(t.Context(), got, add); err != nil || got.AuthorizationFor("b") != "Bearer for-b" || got.AuthorizationFor("a") != "Bearer for-a" {
			t.Errorf("in trouble: got %+v, %v", got, err)
		}
	})
}

// T1, IDPS 25: on three replicas, a session's tokens are refreshed one after the
// other: somebody who has refreshed another of them is no reason to go without.
func TestIDPS25ReplicasRefreshSeveralTokens(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		memory := &store.Memory{}
		replicas := []*Stored{newStored(t, memory, hours, nil), newStored(t, memory, hours, nil), newStored(t, memory, hours, nil)}
		s := newSession(t, "access-0")
		s.Created, s.Seen, s.TokenExpiry = time.Now(), time.Now(), time.Now()
		cookies := ticket(t, replicas[0], s)
		o := &office{delay: 3 * time.Second}
		var wg sync.WaitGroup
		for n := range 90 {
			key := []string{MainToken, "a", "b"}[n/3%3]
			k := replicas[n%3]
			loaded, err := k.Load(t.Context(), cookies)
			if err != nil {
				t.Fatal(err)
			}
			wg.Go(func() {
				got, err := k.Refresh(t.Context(), loaded, Renew{Key: key, Do: o.get(key)})
				if err != nil || !got.Has(key, time.Now()) {
					t.Errorf("%q: got %+v, %v", key, got, err)
				}
			})
		}
		wg.Wait()
		if o.calls.Load() != 3 || o.reused.Load() != 0 {
			t.Errorf("%d calls, %d with a token that was used", o.calls.Load(), o.reused.Load())
		}
		got, err := replicas[1].Load(t.Context(), cookies)
		if err != nil || got.Generation != 3 || !got.Has("a", time.Now()) || !got.Has("b", time.Now()) || !got.TokenAlive(time.Now()) {
			t.Errorf("in the end: got %+v, %v", got, err)
		}
	})
}

// A refusal of a target is kept with the refresh token that came with it, and does
// not hold up who needs another token.
func TestStoredTargetRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newStored(t, &store.Memory{}, hours, nil)
		s, cookies := begun(t, k)
		refused := &rp.TargetError{Err: errors.New("no")}
		got, err := k.Refresh(t.Context(), s, Renew{Key: "a", Do: func(_ context.Context, s *Session) (*Session, error) {
			return s.WithRefreshToken(rp.NewSecret("replaced")), refused
		}})
		if !errors.Is(err, rp.ErrTarget) || got == nil {
			t.Fatalf("got %+v, %v", got, err)
		}
		if _, err := k.Refresh(t.Context(), got, Renew{Key: "a", Do: func(context.Context, *Session) (*Session, error) { return nil, refused }}); !errors.Is(err, rp.ErrTarget) {
			t.Fatalf("got %v", err)
		}
		began := time.Now()
		if _, err := k.Refresh(t.Context(), got, Renew{Key: "b", Do: func(_ context.Context, s *Session) (*Session, error) {
			if s.RefreshToken.Reveal() != "replaced" {
				t.Error("the refresh token that came is lost")
			}
			return s.With(furtherOf("b", "for-b", time.Now().Add(time.Hour))), nil
		}}); err != nil || time.Since(began) > 0 {
			t.Errorf("got %v after %s", err, time.Since(began))
		}
		if loaded, err := k.Load(t.Context(), cookies); err != nil || !loaded.Has("b", time.Now()) {
			t.Errorf("got %+v, %v", loaded, err)
		}
	})
}

// The ID token is in the cookie where it goes upstream, and only there.
func TestStatelessKeepsIDTokenWhereItGoesUpstream(t *testing.T) {
	for _, whole := range []bool{false, true} {
		k := NewStateless(sealed.Cookie{Name: "c", Path: "/"}, sealed.NewBox(keyring(t, "k1"), "session"), hours, func() time.Time { return begin })
		if whole {
			k.KeepIDToken()
		}
		s := newSession(t, "main")
		s.setIDToken("raw", parse(t, fmt.Sprintf(`{"iat":%d,"exp":%d}`, begin.Unix(), begin.Unix()+120)))
		data, err := encode(s, k.whole)
		if err != nil {
			t.Fatal(err)
		}
		got, err := decode(data)
		if err != nil {
			t.Fatal(err)
		}
		if (got.AuthorizationFor(IDToken) == "Bearer raw") != whole || got.IDToken.Empty() == whole {
			t.Errorf("%v: got %q", whole, got.AuthorizationFor(IDToken))
		}
	}
}
