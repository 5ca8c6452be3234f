package session

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pkce-auth/caddy-pkce-auth/caddyauth/internal/claims"
	"github.com/pkce-auth/caddy-pkce-auth/caddyauth/internal/rp"
	"github.com/pkce-auth/caddy-pkce-auth/caddyauth/store"
)

// reopened is a session as it comes out of a cookie: its claims are not read.
func reopened(t testing.TB, s *Session) *Session {
	t.Helper()
	data, err := encode(s, false)
	if err != nil {
		t.Fatal(err)
	}
	opened, err := decode(data)
	if err != nil {
		t.Fatal(err)
	}
	return opened
}

// Promise 6: sessions whose claims are read after they were put, by the very
// request that opened them, or by the third one on another route, must not take
// more than the cache is bounded to.
func TestPromise6ReadClaimsStayWithinTheBound(t *testing.T) {
	groups := make([]string, 400)
	for i := range groups {
		groups[i] = fmt.Sprintf(`"g%d"`, i)
	}
	text := `{"sub":"alice","groups":[` + strings.Join(groups, ",") + `]}`
	for _, gets := range []int{0, 1, 2} {
		t.Run(fmt.Sprintf("%d gets before", gets), func(t *testing.T) {
			const limit = 4 << 20
			c := newCache(limit)
			large := newSession(t, "opaque")
			large.Sources = []rp.SourcedClaims{{From: rp.FromIDToken, Claims: parse(t, text)}}
			data, err := encode(large, false)
			if err != nil {
				t.Fatal(err)
			}
			for i := range 2000 {
				s, err := decode(data)
				if err != nil {
					t.Fatal(err)
				}
				value := fmt.Sprintf("%064d", i)
				c.put(s, value, nil)
				for range gets {
					c.get(value)
				}
				s.Claims.Has("sub") // a header_up, say
			}
			held := 0
			for i := range c.shards {
				for j := range c.shards[i].ring {
					held += c.shards[i].ring[j].measured()
				}
			}
			if held > limit+limit/8 {
				t.Errorf("sessions of %d bytes are held, bound is %d", held, limit)
			}
		})
	}
}

// Promise 6: one session that does not fit must not push out all others.
func TestPromise6OneLargeSessionPushesNobodyOut(t *testing.T) {
	c := newCache(16 * 64 << 10)
	large := newSession(t, "opaque")
	large.Sources = []rp.SourcedClaims{{From: rp.FromIDToken, Claims: parse(t, `{"sub":"mallory","n":[`+strings.Repeat("1,", 4000)+`1]}`)}}
	large.Claims = large.Sources[0].Claims
	opened := reopened(t, large)
	mine := strings.Repeat("m", 64)
	at, _ := c.shard(mine)
	var others []string
	for i := 0; len(others) < 10; i++ {
		value := fmt.Sprintf("%064d", i)
		if s, _ := c.shard(value); s == at {
			c.put(reopened(t, newSession(t, "opaque")), value, nil)
			others = append(others, value)
		}
	}
	c.put(opened, mine, nil)
	opened.Claims.Has("sub")
	c.get(mine)
	for _, value := range others {
		if s, _ := c.get(value); s == nil {
			t.Fatal("another's session was pushed out by one that does not fit")
		}
	}
}

// A119: a look at the store that ends while a request is under way makes what is
// known newer than the request, not older than anything: the request must not ask
// the store once more, or fail when that fails.
func TestA119ALookThatEndsMeanwhileIsFresh(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &brokenStore{}
		r := newRevocations(t, s, time.Second)
		asked := time.Now()
		time.Sleep(time.Millisecond) // the session is opened
		if err := r.Look(t.Context()); err != nil {
			t.Fatal(err)
		}
		s.err = errors.New("down")
		if err := r.Fresh(t.Context(), asked); err != nil {
			t.Errorf("asked for a millisecond ago: %v", err)
		}
		synctest.Wait()
		if s.asked > 0 {
			t.Errorf("the store was asked %d times more", s.asked)
		}
	})
}

type brokenStore struct {
	store.Memory
	err   error
	asked int
}

func (b *brokenStore) Find(ctx context.Context, index string) ([]string, error) {
	if b.err != nil {
		b.asked++
		return nil, b.err
	}
	return b.Memory.Find(ctx, index)
}

// Sessions are written and read side by side, and each comes back byte for
// byte, after others have used the same buffers.
func TestCodecBuffersAreNobodyElses(t *testing.T) {
	type one struct {
		s    *Session
		data []byte
	}
	var all []one
	for i := range 24 {
		for _, f := range families {
			s := f.login(400+37*i, uint64(i))
			s.further.tokens = append(s.further.tokens, Further{Key: fmt.Sprint("k", i), AccessToken: rp.NewSecret(jwt(100 + i)), Expiry: begin.Add(time.Hour), RefreshToken: rp.NewSecret(fmt.Sprint("refresh-", i))})
			s.Step = Step{ACRValues: []string{fmt.Sprint("acr", i), "b"}, Row: 1}
			data, err := encode(s, true)
			if err != nil {
				t.Fatal(err)
			}
			all = append(all, one{s, data})
		}
	}
	same := func(got, want *Session) error {
		switch {
		case got.ID != want.ID, got.Subject != want.Subject, got.AccessToken.Reveal() != want.AccessToken.Reveal(),
			got.AuthorizationFor(MainToken) != "Bearer "+want.AccessToken.Reveal(),
			got.RefreshToken.Reveal() != want.RefreshToken.Reveal(), got.IDToken.Reveal() != want.IDToken.Reveal(),
			got.Scope != want.Scope, !slices.Equal(got.Step.ACRValues, want.Step.ACRValues), len(got.Sources) != len(want.Sources):
			return errors.New("differs")
		}
		for i, source := range want.Sources {
			if string(got.Sources[i].Claims.Raw()) != string(source.Claims.Raw()) || got.Sources[i].From != source.From {
				return errors.New("claims differ")
			}
		}
		for i, f := range want.further.tokens {
			g := got.further.tokens[i]
			if g.Key != f.Key || g.AccessToken.Reveal() != f.AccessToken.Reveal() || g.RefreshToken.Reveal() != f.RefreshToken.Reveal() {
				return errors.New("further differ")
			}
		}
		return nil
	}
	var group sync.WaitGroup
	for worker := range 8 {
		group.Go(func() {
			var kept []*Session
			for round := range 6 * len(all) {
				o := all[(round*7+worker*13)%len(all)]
				switch round % 5 {
				case 0:
					if _, err := decode(o.data[:len(o.data)/2]); err == nil {
						t.Error("half a session is one")
					}
				case 1:
					if data, err := encode(o.s, true); err != nil || string(data) != string(o.data) {
						t.Errorf("another text: %v", err)
					}
				case 2:
					hint, err := EncodeHint(o.s)
					if got := DecodeHint(hint, o.s.ID); err != nil || got.Reveal() != o.s.IDToken.Reveal() {
						t.Errorf("hint: %v", err)
					}
				}
				data := slices.Clone(o.data)
				got, err := decode(data)
				clear(data) // who reads it has done with it
				if err != nil {
					t.Error(err)
					return
				}
				if kept = append(kept, got); len(kept) > 5 {
					old := all[((round-5)*7+worker*13)%len(all)]
					if err := same(kept[0], old.s); err != nil {
						t.Error(err)
						return
					}
					kept = kept[1:]
				}
			}
		})
	}
	group.Wait()
}

// Claims that are read by many at once say the same to each.
func TestKeptClaimsAreReadByManyAtOnce(t *testing.T) {
	text := []byte(`{"sub":"alice","groups":["a","b"],"email":"a@b","email_verified":true}`)
	for range 200 {
		kept := claims.Kept(text)
		s := &Session{Claims: kept, loaded: new(loaded)}
		var group sync.WaitGroup
		for range 8 {
			group.Go(func() {
				if name, err := kept.Text("sub"); err != nil || name != "alice" {
					t.Errorf("%q, %v", name, err)
				}
				_ = s.size()
				_, _ = s.Claims.Lookup("groups")
				_ = claims.Join(kept, claims.Kept(text))
			})
		}
		group.Wait()
	}
}
