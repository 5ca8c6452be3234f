package session

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pkce-auth/caddy-pkce-auth/caddyauth/internal/rp"
	"github.com/pkce-auth/caddy-pkce-auth/caddyauth/internal/sealed"
	"github.com/pkce-auth/caddy-pkce-auth/caddyauth/store"
)

var hours = Limits{Lifetime: 24 * time.Hour, Idle: 10 * time.Hour}

func keyring(t testing.TB, secrets ...string) *sealed.Keyring {
	t.Helper()
	var raw [][]byte
	for _, s := range secrets {
		raw = append(raw, bytes.Repeat([]byte(s), 16))
	}
	k, err := sealed.NewKeyring(raw...)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// newStored makes a keeper over a store, as a replica with those secrets has it.
func newStored(t testing.TB, s store.Store, limits Limits, now func() time.Time, secrets ...string) *Stored {
	t.Helper()
	keys := keyring(t, append(secrets, "k1")...)
	const name = "__Host-Http-pkce_auth"
	return NewStored(StoredConfig{
		Store: s, Cookie: sealed.Cookie{Name: name, Path: "/", Secure: true, SameSite: http.SameSiteLaxMode},
		Tickets: sealed.NewBox(keys, "ticket", "provider", name), Summaries: sealed.NewBox(keys, "summary", "provider"),
		Indexes: sealed.NewTagger(keys, "index", "provider"), Limits: limits, Now: now,
	})
}

// ticket saves a session and gives the cookies of its browser.
func ticket(t testing.TB, k *Stored, s *Session) []string {
	t.Helper()
	h := http.Header{}
	if err := k.Save(t.Context(), h, nil, s); err != nil {
		t.Fatal(err)
	}
	c := (&http.Response{Header: h}).Cookies()
	if len(c) != 1 {
		t.Fatalf("got %d cookies", len(c))
	}
	return []string{c[0].Name + "=" + c[0].Value}
}

// begun is a session that began just now and is in the store, as its browser's
// next request finds it, with the cookies of that.
func begun(t testing.TB, k *Stored) (*Session, []string) {
	t.Helper()
	made := newSession(t, "a")
	made.Created, made.Seen = time.Now(), time.Now()
	cookies := ticket(t, k, made)
	loaded, err := k.Load(t.Context(), cookies)
	if err != nil {
		t.Fatal(err)
	}
	return loaded, cookies
}

// countingStore counts what it is asked, and does what a test wants before.
type countingStore struct {
	store.Memory
	loads, saves atomic.Int64
	before       func(call string) error
}

func (s *countingStore) ask(call string) error {
	if s.before == nil {
		return nil
	}
	return s.before(call)
}

func (s *countingStore) Load(ctx context.Context, key string) (store.Record, error) {
	s.loads.Add(1)
	if err := s.ask("load"); err != nil {
		return store.Record{}, err
	}
	return s.Memory.Load(ctx, key)
}

func (s *countingStore) Save(ctx context.Context, key string, r store.Record) error {
	if err := s.ask("save"); err != nil {
		return err
	}
	err := s.Memory.Save(ctx, key, r)
	if err == nil {
		s.saves.Add(1)
	}
	return err
}

func (s *countingStore) Delete(ctx context.Context, key string) error {
	if err := s.ask("delete"); err != nil {
		return err
	}
	return s.Memory.Delete(ctx, key)
}

// A session comes back as it was saved, ID token included, wherever the store
// is asked; and its cookie is short.
func TestStoredRoundTrip(t *testing.T) {
	memory := &store.Memory{Now: func() time.Time { return begin }}
	now := func() time.Time { return begin }
	s := newSession(t, jwt(20_000))
	s.IDToken = rp.NewSecret(jwt(1500))
	cookies := ticket(t, newStored(t, memory, hours, now), s)
	if size := len(cookies[0]); size > 300 {
		t.Errorf("the cookie has %d bytes", size)
	}
	for _, name := range []string{"another replica", "again"} {
		got, err := newStored(t, memory, hours, now).Load(t.Context(), cookies)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if got.ID != s.ID || got.Subject != "alice" || got.AccessToken.Reveal() != s.AccessToken.Reveal() || got.RefreshToken.Reveal() != "refresh" ||
			got.IDToken.Reveal() != s.IDToken.Reveal() || got.ProviderID() != "s-1" {
			t.Errorf("%s: got %+v", name, got)
		}
	}
}

// A64, A74: what opens a session is its own cookie: not one that is sealed for
// another name or provider, nor a record that stands in another's place. And
// the store is asked for nothing that was not sealed here: a flood of forged
// cookies costs it nothing.
func TestA64ForgedTicketsCostNothing(t *testing.T) {
	s := &countingStore{}
	s.Now = func() time.Time { return begin }
	now := func() time.Time { return begin }
	k := newStored(t, s, hours, now)
	cookies := ticket(t, k, newSession(t, "a"))
	name, value, _ := strings.Cut(cookies[0], "=")
	k = newStored(t, s, hours, now) // remembers nothing
	s.loads.Store(0)
	for _, forged := range []string{"", "x", value[1:], value[:len(value)-1], strings.Repeat("A", 200), value + "A"} {
		if got, err := k.Load(t.Context(), []string{name + "=" + forged}); !errors.Is(err, ErrNone) {
			t.Errorf("%.20q: got %v, %v", forged, got, err)
		}
	}
	if n := s.loads.Load(); n != 0 {
		t.Errorf("the store was asked %d times", n)
	}
	other := NewStored(StoredConfig{
		Store: s, Cookie: sealed.Cookie{Name: name, Path: "/"}, Tickets: sealed.NewBox(keyring(t, "k1"), "ticket", "another provider", name),
		Summaries: k.cfg.Summaries, Indexes: k.cfg.Indexes, Limits: hours, Now: now,
	})
	if got, err := other.Load(t.Context(), cookies); !errors.Is(err, ErrNone) {
		t.Errorf("another provider: got %v, %v", got, err)
	}
	// Someone who can write to the store puts another's record in place.
	two := newSession(t, "b")
	ticket(t, k, two)
	record, err := s.Memory.Load(t.Context(), two.Handle())
	if err != nil {
		t.Fatal(err)
	}
	mine, err := k.Load(t.Context(), cookies)
	if err != nil {
		t.Fatal(err)
	}
	record.Version = 2
	if err := s.Memory.Save(t.Context(), mine.Handle(), record); err != nil {
		t.Fatal(err)
	}
	if got, err := k.Load(t.Context(), cookies); !errors.Is(err, ErrNone) {
		t.Errorf("another's record: got %v, %v", got, err)
	}
}

// Who reads the store learns neither tokens nor names, not even with our keys:
// a session opens with what only its browser has.
func TestA74TheStoreTellsNothing(t *testing.T) {
	memory := &store.Memory{Now: func() time.Time { return begin }}
	k := newStored(t, memory, hours, func() time.Time { return begin })
	s := newSession(t, jwt(900))
	ticket(t, k, s)
	record, err := memory.Load(t.Context(), s.Handle())
	if err != nil {
		t.Fatal(err)
	}
	for _, secret := range []string{s.AccessToken.Reveal(), s.AccessToken.Reveal()[:40], "refresh", "alice", s.ID, s.key.Reveal()} {
		if bytes.Contains(record.Value, []byte(secret)) || strings.Contains(s.Handle()+strings.Join(record.Indexes, " "), secret) {
			t.Errorf("%.20q stands in the store", secret)
		}
	}
	summary, err := k.Summary(t.Context(), s.Handle())
	if err != nil || summary.Subject != "alice" || summary.ProviderID != "s-1" || !summary.Created.Equal(begin) || !summary.Expires.Equal(begin.Add(hours.Idle)) {
		t.Errorf("got %+v, %v", summary, err)
	}
	if other, err := newStored(t, memory, hours, nil, "k2").Summary(t.Context(), s.Handle()); err != nil || other == nil {
		t.Errorf("with the key as an older one: %+v, %v", other, err)
	}
	strangers := NewStored(StoredConfig{Store: memory, Summaries: sealed.NewBox(keyring(t, "k9"), "summary", "provider")})
	if other, err := strangers.Summary(t.Context(), s.Handle()); err != nil || other != nil {
		t.Errorf("without the key: %+v, %v", other, err)
	}
}

// T4, A71, A119: a store that fails is no logout, and nobody passes for
// anonymous.
func TestT4A119StoreErrorsAreNotAbsence(t *testing.T) {
	s := &countingStore{}
	s.Now = func() time.Time { return begin }
	k := newStored(t, s, hours, func() time.Time { return begin })
	cookies := ticket(t, k, newSession(t, "a"))
	down := errors.New("down")
	s.before = func(string) error { return down }
	if _, err := k.Load(t.Context(), cookies); !errors.Is(err, ErrStore) || !errors.Is(err, down) || errors.Is(err, ErrNone) {
		t.Errorf("loading: %v", err)
	}
	h := http.Header{}
	if _, err := k.Delete(t.Context(), h, cookies); !errors.Is(err, ErrStore) || len(h) != 0 {
		t.Errorf("deleting: %v, %v", err, h)
	}
	if err := k.Save(t.Context(), h, nil, newSession(t, "b")); !errors.Is(err, ErrStore) || len(h) != 0 {
		t.Errorf("saving: %v, %v", err, h)
	}
	if _, err := k.Sessions(t.Context(), Selector{}); err != nil && !errors.Is(err, ErrStore) {
		t.Errorf("finding: %v", err)
	}
	s.before = nil
	if _, err := k.Load(t.Context(), cookies); err != nil {
		t.Errorf("afterwards: %v", err)
	}
}

// The limits are those of now, whatever the store thinks; and a logout takes
// the record away.
func TestA70A72StoredEnds(t *testing.T) {
	memory := &store.Memory{Now: func() time.Time { return begin }} // its clock stands still
	now := begin
	clock := func() time.Time { return now }
	k := newStored(t, memory, hours, clock)
	s := newSession(t, "a")
	cookies := ticket(t, k, s)
	now = begin.Add(hours.Idle)
	if _, err := k.Load(t.Context(), cookies); !errors.Is(err, ErrEnded) {
		t.Errorf("after the idle time: %v", err)
	}
	now = begin.Add(time.Hour)
	if _, err := newStored(t, memory, Limits{Lifetime: time.Minute, Idle: time.Minute}, clock).Load(t.Context(), cookies); !errors.Is(err, ErrEnded) {
		t.Errorf("where somebody has shortened the limits: %v", err)
	}
	h := http.Header{}
	ended, err := k.Delete(t.Context(), h, cookies)
	if err != nil || ended == nil || ended.ID != s.ID || !strings.Contains(h.Get("Set-Cookie"), "Max-Age=0") {
		t.Fatalf("got %+v, %v, %v", ended, err, h)
	}
	if _, err := memory.Load(t.Context(), s.Handle()); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the record: %v", err)
	}
	if _, err := k.Load(t.Context(), cookies); !errors.Is(err, ErrNone) || errors.Is(err, ErrEnded) {
		t.Errorf("afterwards: %v", err)
	}
	// An answer that was under way with it brings it back neither by sliding…
	late := *ended
	late.Seen = now
	if err := k.Save(t.Context(), http.Header{}, cookies, &late); err != nil {
		t.Errorf("sliding: %v", err)
	}
	// …nor with refreshed tokens.
	fresh := ended.Refreshed(&rp.Grant{AccessToken: rp.NewSecret("b"), RefreshToken: rp.NewSecret("r"), Expiry: now.Add(time.Hour)}, nil, now)
	if _, err := k.keep(t.Context(), fresh, keepTries); !errors.Is(err, ErrEnded) {
		t.Errorf("refreshing: %v", err)
	}
	if _, err := memory.Load(t.Context(), s.Handle()); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the record: %v", err)
	}
}

// However busy a session is, on however many replicas, it is written ten times
// in an idle time.
func TestStoredSlidesInTenths(t *testing.T) {
	s := &countingStore{}
	now := begin
	clock := func() time.Time { return now }
	s.Now = clock
	replicas := []*Stored{newStored(t, s, hours, clock), newStored(t, s, hours, clock), newStored(t, s, hours, clock)}
	cookies := ticket(t, replicas[0], newSession(t, "a"))
	s.saves.Store(0)
	for range 600 { // a minute each
		now = now.Add(time.Minute)
		var wg sync.WaitGroup
		for _, k := range replicas {
			for range 4 {
				wg.Go(func() {
					got, err := k.Load(t.Context(), cookies)
					if err != nil {
						t.Error(err)
						return
					}
					if renewed, due := hours.Renew(got, now); due {
						if err := k.Save(t.Context(), http.Header{}, cookies, renewed); err != nil {
							t.Error(err)
						}
					}
				})
			}
		}
		wg.Wait()
	}
	if n := s.saves.Load(); n != 10 {
		t.Errorf("it was written %d times", n)
	}
	if _, err := replicas[1].Load(t.Context(), cookies); err != nil {
		t.Error(err)
	}
}

// T1, A80: whoever finds a session's token over, on three replicas, the provider
// is asked once, and all get its answer; also if the replica that asks is slow.
func TestT1A80OneRefreshOnThreeReplicas(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		memory := &store.Memory{}
		replicas := []*Stored{newStored(t, memory, hours, nil), newStored(t, memory, hours, nil), newStored(t, memory, hours, nil)}
		s := newSession(t, "a")
		s.Created, s.Seen, s.TokenExpiry = time.Now(), time.Now(), time.Now()
		cookies := ticket(t, replicas[0], s)
		var asked atomic.Int64
		var wg sync.WaitGroup
		for i := range 200 {
			wg.Go(func() {
				k := replicas[i%3]
				loaded, err := k.Load(t.Context(), cookies)
				if err != nil {
					t.Error(err)
					return
				}
				renewed, err := k.refreshMain(t.Context(), loaded, func(_ context.Context, s *Session) (*Session, error) {
					asked.Add(1)
					time.Sleep(3 * time.Second)
					return s.Refreshed(&rp.Grant{AccessToken: rp.NewSecret("b"), RefreshToken: rp.NewSecret("r2"), Expiry: time.Now().Add(time.Hour)}, nil, time.Now()), nil
				})
				if err != nil || renewed.AccessToken.Reveal() != "b" || renewed.RefreshToken.Reveal() != "r2" || renewed.Generation != 1 {
					t.Errorf("got %+v, %v", renewed, err)
				}
			})
		}
		wg.Wait()
		if n := asked.Load(); n != 1 {
			t.Errorf("the provider was asked %d times", n)
		}
		if got, err := replicas[2].Load(t.Context(), cookies); err != nil || got.AccessToken.Reveal() != "b" {
			t.Errorf("afterwards: %+v, %v", got, err)
		}
	})
}

// What a refresh comes to: refused, it ends the session in the store; ended
// meanwhile, it stays so; kept by nobody, this process goes on with it, and
// keeps it as soon as the store takes it.
func TestT3StoredRefreshOutcomes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &countingStore{}
		k := newStored(t, s, hours, nil)
		begun := func() (*Session, []string) { return begun(t, k) }
		good := func(_ context.Context, s *Session) (*Session, error) {
			return s.Refreshed(&rp.Grant{AccessToken: rp.NewSecret("b"), RefreshToken: rp.NewSecret("r2"), Expiry: time.Now().Add(time.Hour)}, nil, time.Now()), nil
		}

		refused, cookies := begun()
		if _, err := k.refreshMain(t.Context(), refused, func(context.Context, *Session) (*Session, error) {
			return nil, fmt.Errorf("%w: invalid_grant", rp.ErrGrantOver)
		}); !errors.Is(err, rp.ErrGrantOver) {
			t.Errorf("refused: %v", err)
		}
		if _, err := k.Load(t.Context(), cookies); !errors.Is(err, ErrNone) {
			t.Errorf("after a refusal: %v", err)
		}

		unlucky, cookies := begun()
		if _, err := k.refreshMain(t.Context(), unlucky, func(context.Context, *Session) (*Session, error) { return nil, rp.ErrUnavailable }); !errors.Is(err, rp.ErrUnavailable) {
			t.Errorf("provider down: %v", err)
		}
		if _, err := k.Load(t.Context(), cookies); err != nil {
			t.Errorf("after the provider was down: %v", err)
		}

		ended, cookies := begun()
		if _, err := k.refreshMain(t.Context(), ended, func(ctx context.Context, s *Session) (*Session, error) {
			if _, err := k.Delete(ctx, http.Header{}, cookies); err != nil {
				t.Error(err)
			}
			return good(ctx, s)
		}); !errors.Is(err, ErrEnded) {
			t.Errorf("logged out meanwhile: %v", err)
		}
		if _, err := k.Load(t.Context(), cookies); !errors.Is(err, ErrNone) {
			t.Errorf("a logout came to nothing: %v", err)
		}

		unkept, cookies := begun()
		s.before = func(call string) error {
			if call == "save" {
				return errors.New("full")
			}
			return nil
		}
		var trouble int
		k.cfg.Trouble = func(string, error) { trouble++ }
		fresh, err := k.refreshMain(t.Context(), unkept, good)
		if err != nil || fresh.AccessToken.Reveal() != "b" || trouble != 1 {
			t.Fatalf("full: %+v, %v; told of %d", fresh, err, trouble)
		}
		s.before = nil
		if err := k.Save(t.Context(), http.Header{}, cookies, fresh); err != nil {
			t.Fatal(err)
		}
		if got, err := k.Load(t.Context(), cookies); err != nil || got.AccessToken.Reveal() != "b" || got.RefreshToken.Reveal() != "r2" {
			t.Errorf("afterwards: %+v, %v", got, err)
		}
	})
}

// T3: a provider in trouble is asked once a second for a session, and not once a
// second by each of three replicas, and by nobody who finds the lock taken by
// one that has failed.
func TestT3ReplicasBackOffTogether(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		memory := &store.Memory{}
		replicas := []*Stored{newStored(t, memory, hours, nil), newStored(t, memory, hours, nil), newStored(t, memory, hours, nil)}
		s := newSession(t, "a")
		s.Created, s.Seen = time.Now(), time.Now()
		cookies := ticket(t, replicas[0], s)
		var mu sync.Mutex
		var tries []time.Time
		var wg sync.WaitGroup
		for _, k := range replicas {
			wg.Go(func() {
				loaded, err := k.Load(t.Context(), cookies)
				if err != nil {
					t.Error(err)
					return
				}
				if _, err := k.refreshMain(t.Context(), loaded, func(context.Context, *Session) (*Session, error) {
					mu.Lock()
					defer mu.Unlock()
					tries = append(tries, time.Now())
					return nil, rp.ErrUnavailable
				}); !errors.Is(err, rp.ErrUnavailable) {
					t.Errorf("got %v", err)
				}
			})
		}
		wg.Wait()
		if len(tries) != len(replicas) {
			t.Fatalf("the provider was asked %d times", len(tries))
		}
		for i := 1; i < len(tries); i++ {
			if d := tries[i].Sub(tries[i-1]); d < time.Second || d > 1500*time.Millisecond {
				t.Errorf("try %d came %s after the one before", i, d)
			}
		}
		time.Sleep(2 * time.Second) // or the lock's timer outlives the test
	})
}

// A slide that comes between, on another replica, costs neither the slide nor
// the new tokens.
func TestStoredSlideDuringRefresh(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		memory := &store.Memory{}
		one, two := newStored(t, memory, hours, nil), newStored(t, memory, hours, nil)
		s := newSession(t, "a")
		s.Created, s.Seen = time.Now(), time.Now()
		cookies := ticket(t, one, s)
		time.Sleep(2 * time.Hour)
		loaded, err := one.Load(t.Context(), cookies)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := one.refreshMain(t.Context(), loaded, func(ctx context.Context, s *Session) (*Session, error) {
			there, err := two.Load(ctx, cookies)
			if err != nil {
				return nil, err
			}
			slid, due := hours.Renew(there, time.Now())
			if !due {
				t.Error("it does not slide")
			}
			if err := two.Save(ctx, http.Header{}, cookies, slid); err != nil {
				return nil, err
			}
			return s.Refreshed(&rp.Grant{AccessToken: rp.NewSecret("b"), RefreshToken: rp.NewSecret("r2"), Expiry: time.Now().Add(time.Hour)}, nil, time.Now()), nil
		}); err != nil {
			t.Fatal(err)
		}
		got, err := two.Load(t.Context(), cookies)
		if err != nil || got.RefreshToken.Reveal() != "r2" {
			t.Fatalf("got %+v, %v", got, err)
		}
		if time.Since(got.Seen) > time.Second {
			t.Errorf("it was seen %s ago", time.Since(got.Seen))
		}
	})
}

// G9: while secrets are rotated in three steps, replicas are at different ones:
// every session opens and is found on each, and after the last step what was
// used meanwhile still does.
func TestStoredSurvivesKeyRotation(t *testing.T) {
	now := begin
	clock := func() time.Time { return now }
	memory := &store.Memory{Now: clock}
	replica := func(secrets ...string) *Stored {
		keys := keyring(t, secrets...)
		const name = "__Host-Http-pkce_auth"
		return NewStored(StoredConfig{
			Store: memory, Cookie: sealed.Cookie{Name: name, Path: "/"}, Tickets: sealed.NewBox(keys, "ticket", name), Summaries: sealed.NewBox(keys, "summary"),
			Indexes: sealed.NewTagger(keys, "index"), Limits: hours, Now: clock,
		})
	}
	before := replica("k1")
	cookies := ticket(t, before, newSession(t, "a"))
	for _, step := range [][2][]string{{{"k1"}, {"k1", "k2"}}, {{"k1", "k2"}, {"k2", "k1"}}, {{"k2", "k1"}, {"k2"}}} {
		now = now.Add(2 * time.Hour)
		for i, k := range []*Stored{replica(step[0]...), replica(step[1]...), replica(step[0]...)} {
			s, err := k.Load(t.Context(), cookies)
			if err != nil {
				t.Fatalf("step %v, replica %d: %v", step, i, err)
			}
			if found, err := k.Sessions(t.Context(), Selector{Subject: "alice"}); err != nil || len(found) != 1 {
				t.Fatalf("step %v, replica %d: %d sessions are found, %v", step, i, len(found), err)
			}
			if renewed, due := hours.Renew(s, now); due && (i == 1 || step[0][0] == step[1][0]) {
				h := http.Header{}
				if err := k.Save(t.Context(), h, cookies, renewed); err != nil {
					t.Fatal(err)
				}
				c := (&http.Response{Header: h}).Cookies()[0]
				cookies = []string{c.Name + "=" + c.Value}
			}
		}
	}
	last := replica("k2")
	if _, err := last.Load(t.Context(), cookies); err != nil {
		t.Errorf("after the last step: %v", err)
	}
	if ended, err := last.EndAll(t.Context(), Selector{ProviderID: "s-1"}, now); err != nil || len(ended) != 1 {
		t.Errorf("ended %d, %v", len(ended), err)
	}
}

// R45: a session of the provider's, a subject, or all of them; and none that
// began later.
func TestR45EndAll(t *testing.T) {
	memory := &store.Memory{Now: func() time.Time { return begin }}
	k := newStored(t, memory, hours, func() time.Time { return begin })
	make1 := func(sub, sid string, created time.Time) []string {
		set := parse(t, fmt.Sprintf(`{"sub":%q,"sid":%q}`, sub, sid))
		s := New(&rp.Grant{AccessToken: rp.NewSecret("a"), Expiry: begin.Add(time.Hour)},
			&rp.Identity{Subject: sub, Sources: []rp.SourcedClaims{{From: rp.FromIDToken, Claims: set}}}, created)
		return ticket(t, k, s)
	}
	browsers := map[string][]string{
		"alice 1": make1("alice", "1", begin), "alice 1 again": make1("alice", "1", begin), "alice 2": make1("alice", "2", begin),
		"alice 1 later": make1("alice", "1", begin.Add(time.Minute)), "bob": make1("bob", "3", begin),
	}
	for _, step := range []struct {
		who   Selector
		ended int
		left  int
	}{
		{Selector{ProviderID: "9"}, 0, 5},
		{Selector{Subject: "mallory"}, 0, 5},
		{Selector{Subject: "bob", ProviderID: "1"}, 0, 5},
		{Selector{ProviderID: "1"}, 2, 3},
		{Selector{Subject: "alice"}, 1, 2},
		{Selector{}, 1, 1},
	} {
		ended, err := k.EndAll(t.Context(), step.who, begin.Add(time.Second))
		left := 0
		for _, cookies := range browsers {
			if _, err := k.Load(t.Context(), cookies); err == nil {
				left++
			}
		}
		if err != nil || len(ended) != step.ended || left != step.left {
			t.Errorf("%+v: ended %d, left %d, %v; want %d, %d", step.who, len(ended), left, err, step.ended, step.left)
		}
	}
}

// FuzzRecord: whatever stands in the store, it opens as the session that was
// put there, or not at all, and nothing breaks.
func FuzzRecord(f *testing.F) {
	memory := &store.Memory{Now: func() time.Time { return begin }}
	k := newStored(f, memory, hours, func() time.Time { return begin })
	s := newSession(f, jwt(300))
	good, err := k.sealRecord(s, s.Handle(), time.Now())
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add(good[:len(good)-1])
	f.Add([]byte{recordVersion})
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, value []byte) {
		got, err := openRecord(value, s.key, s.Handle())
		if err == nil && (got.ID != s.ID || got.AccessToken.Reveal() != s.AccessToken.Reveal()) {
			t.Errorf("%x opens as another session", value)
		}
		if err != nil && !worthless(err) {
			t.Errorf("%x: %v", value, err)
		}
		summary, err := k.openSummary(value, s.Handle())
		if err == nil && summary.Subject != "alice" {
			t.Errorf("%x is said to be of %q", value, summary.Subject)
		}
	})
}

// FuzzTicket: a ticket reads as what was written, or not at all.
func FuzzTicket(f *testing.F) {
	s := newSession(f, "x")
	f.Add(must(writeTicket(s)))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, data []byte) {
		id, key, err := readTicket(data)
		if err != nil {
			return
		}
		again, err := writeTicket(&Session{ID: id, key: key})
		if err != nil || !bytes.Equal(again, data) {
			t.Errorf("%x reads as %q, which is written %x, %v", data, id, again, err)
		}
	})
}

// A118: a user with more sessions than can be ended in the time there is does
// not keep them by that: those that were come by are gone, and the next try
// comes further. The store is asked for many at a time.
func TestA118ManySessionsEndBitByBit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &countingStore{}
		k := newStored(t, s, hours, nil)
		const sessions = 400
		for range sessions {
			one := newSession(t, "a")
			one.Created, one.Seen = time.Now(), time.Now()
			ticket(t, k, one)
		}
		time.Sleep(time.Second)
		left := sessions
		for try := 1; left > 0; try++ {
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			s.before = func(string) error { time.Sleep(100 * time.Millisecond); return ctx.Err() }
			ended, err := k.EndAll(ctx, Selector{Subject: "alice"}, time.Now())
			cancel()
			if left -= len(ended); err == nil != (left == 0) || err != nil && (!errors.Is(err, ErrStore) || len(ended) < 10) {
				t.Fatalf("try %d: %d of %d are left, %v", try, left, sessions, err)
			}
		}
	})
}

// T4: a store answers, but takes nothing, as Redis does when its memory is full.
// Requests do not wait for it one after the other: one tries, and a second later
// another one does. What cannot be kept is kept as soon as it can be.
func TestT4StoreThatTakesNothing(t *testing.T) {
	for name, prepare := range map[string]func(*testing.T, *Stored, *Session) *Session{
		"a slide": func(_ *testing.T, _ *Stored, s *Session) *Session {
			slid, _ := hours.Renew(s, time.Now())
			return slid
		},
		"new tokens": func(t *testing.T, k *Stored, s *Session) *Session {
			got, err := k.refreshMain(t.Context(), s, func(_ context.Context, s *Session) (*Session, error) {
				return s.Refreshed(&rp.Grant{AccessToken: rp.NewSecret("b"), RefreshToken: rp.NewSecret("r2"), Expiry: time.Now().Add(time.Hour)}, nil, time.Now()), nil
			})
			if err != nil {
				t.Fatal(err)
			}
			return got
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := &countingStore{}
				k := newStored(t, s, hours, nil)
				one := newSession(t, "a")
				one.Created, one.Seen = time.Now(), time.Now()
				cookies := ticket(t, k, one)
				time.Sleep(2 * time.Hour)
				loaded, err := k.Load(t.Context(), cookies)
				if err != nil {
					t.Fatal(err)
				}
				tries, full := 0, true
				s.before = func(call string) error {
					if call == "save" && full {
						tries++
						return errors.New("full")
					}
					return nil
				}
				newer := prepare(t, k, loaded)
				began := time.Now()
				tries = 0
				for range 20 {
					_ = k.Save(t.Context(), http.Header{}, cookies, newer)
				}
				if waited := time.Since(began); tries != 1 || waited > 0 {
					t.Errorf("20 requests tried %d times, and waited %s", tries, waited)
				}
				full = false
				time.Sleep(writePause + time.Millisecond)
				if err := k.Save(t.Context(), http.Header{}, cookies, newer); err != nil {
					t.Error(err)
				}
				got, err := newStored(t, s, hours, nil).Load(t.Context(), cookies)
				if err != nil || got.Generation != newer.Generation || got.Seen.Before(newer.Seen.Truncate(time.Millisecond)) {
					t.Errorf("afterwards: %+v, %v", got, err)
				}
			})
		})
	}
}

// heeding is a store that does nothing for who has gone.
type heeding struct{ store.Memory }

func (s *heeding) Save(ctx context.Context, key string, r store.Record) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	return s.Memory.Save(ctx, key, r)
}

// M108, A81: the provider answers when the time for the refresh is just over. It
// has spent the old tokens: the new ones are kept.
func TestM108TokensThatComeLateAreKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &heeding{}
		one := newSession(t, "a")
		one.Created, one.Seen = time.Now(), time.Now()
		cookies := ticket(t, newStored(t, s, hours, nil), one)
		k := newStored(t, s, hours, nil)
		loaded, err := k.Load(t.Context(), cookies)
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := k.refreshMain(ctx, loaded, func(_ context.Context, s *Session) (*Session, error) {
			time.Sleep(2 * time.Second)
			return s.Refreshed(&rp.Grant{AccessToken: rp.NewSecret("b"), RefreshToken: rp.NewSecret("r2"), Expiry: time.Now().Add(time.Hour)}, nil, time.Now()), nil
		}); err != nil {
			t.Fatal(err)
		}
		if got, err := newStored(t, s, hours, nil).Load(t.Context(), cookies); err != nil || got.Generation != 1 {
			t.Errorf("got %+v, %v", got, err)
		}
	})
}
