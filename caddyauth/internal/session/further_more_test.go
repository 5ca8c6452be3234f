package session

import (
	"errors"
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pkce-auth/caddy-pkce-auth/caddyauth/internal/rp"
	"github.com/pkce-auth/caddy-pkce-auth/caddyauth/internal/sealed"
	"github.com/pkce-auth/caddy-pkce-auth/caddyauth/store"
)

// R57: what a client brings is a session for as long as its request takes: with
// its token and no other, nothing to refresh, and nothing that would open
// anything later.
func TestR57BroughtIsOneToken(t *testing.T) {
	set := parse(t, `{"sub":"service","scope":"read"}`)
	s := Brought(&rp.AccessToken{Subject: "service", Claims: set, GoodUntil: begin.Add(time.Minute)}, rp.NewSecret("brought"))
	if s.Subject != "service" || s.Authorization() != "Bearer brought" || s.AccessToken.Reveal() != "brought" {
		t.Errorf("got %q with %q", s.Subject, s.Authorization())
	}
	if scope, err := s.Claims.Text("scope"); err != nil || scope != "read" {
		t.Errorf("its claims say %q, %v", scope, err)
	}
	if own, ok := s.Source(rp.FromAccessToken); !ok || !own.Has("scope") || len(s.Sources) != 1 {
		t.Errorf("its claims are from %v", s.Sources)
	}
	if !s.TokenAlive(begin.Add(time.Minute-1)) || s.TokenAlive(begin.Add(time.Minute)) {
		t.Errorf("it is good until %s", s.TokenExpiry)
	}
	if s.ID != "" || !s.key.Empty() || len(s.RefreshTokens()) != 0 || s.Due(begin.Add(time.Hour), 0) || s.ProviderID() != "" || s.FirstShown() {
		t.Errorf("it is more than a token: %+v", s)
	}
	for _, key := range []string{IDToken, "a"} {
		if s.AuthorizationFor(key) != "" || s.Has(key, begin) {
			t.Errorf("it is good for %q", key)
		}
	}
}

// withIDToken is a session with an ID token that lasts for two minutes, and one
// further token, for an hour.
func withIDToken(t *testing.T) *Session {
	t.Helper()
	s, begin := newSession(t, "main"), begin.Truncate(time.Second)
	s.TokenIssued, s.TokenExpiry = begin, begin.Add(30*time.Minute)
	s.setIDToken("raw", parse(t, fmt.Sprintf(`{"iat":%d,"exp":%d}`, begin.Unix(), begin.Unix()+120)))
	return s.With(furtherOf("a", "for-a", begin.Add(time.Hour)))
}

// R16: each token has times of its own, by which it is renewed. One that is not
// there is due: what is got for it cannot be too early.
func TestR16EachTokenIsDueByItself(t *testing.T) {
	s, begin := withIDToken(t), begin.Truncate(time.Second) // as claims have times
	for _, tc := range []struct {
		key       string
		early     time.Duration
		due, dead time.Duration // after begin
	}{
		{MainToken, 0, 29 * time.Minute, 30 * time.Minute},
		{IDToken, 0, 96 * time.Second, 2 * time.Minute},
		{IDToken, time.Hour, time.Minute, 2 * time.Minute},
		{"a", 0, 59 * time.Minute, time.Hour},
		{"a", 5 * time.Minute, 55 * time.Minute, time.Hour},
	} {
		if at := begin.Add(tc.due); s.DueFor(tc.key, at.Add(-1), tc.early) || !s.DueFor(tc.key, at, tc.early) {
			t.Errorf("%q, %s early: it is not due from %s on", tc.key, tc.early, tc.due)
		}
		if at := begin.Add(tc.dead); !s.Has(tc.key, at.Add(-1)) || s.Has(tc.key, at) || !s.ExpiryFor(tc.key).Equal(at) {
			t.Errorf("%q: it lasts until %s", tc.key, s.ExpiryFor(tc.key))
		}
	}
	if !s.DueFor("b", begin, 0) || s.Has("b", begin) || !s.ExpiryFor("b").IsZero() || s.Since("b") != 0 {
		t.Error("a token that is not there is good for something")
	}
}

// R15: of two copies of a session, that is the newer for a token which has got
// that token since: another one, got meanwhile, says nothing of it.
func TestR15TokensAreToldApart(t *testing.T) {
	s := withIDToken(t)
	refreshed := s.Refreshed(&rp.Grant{AccessToken: rp.NewSecret("main-2"), Expiry: begin.Add(time.Hour)}, nil, begin)
	other := refreshed.With(furtherOf("b", "for-b", begin.Add(time.Hour)))
	for _, tc := range []struct {
		key   string
		newer []bool // refreshed than s, other than refreshed
	}{
		{MainToken, []bool{true, false}},
		{IDToken, []bool{false, false}}, // none came
		{"a", []bool{false, false}},
		{"b", []bool{false, true}},
	} {
		got := []bool{refreshed.Since(tc.key) > s.Since(tc.key), other.Since(tc.key) > refreshed.Since(tc.key)}
		if !slices.Equal(got, tc.newer) {
			t.Errorf("%q: got %v, want %v", tc.key, got, tc.newer)
		}
	}
	if other.Generation != 3 {
		t.Errorf("generation %d", other.Generation)
	}
	later := *other
	later.setIDToken("raw-2", parse(t, fmt.Sprintf(`{"exp":%d}`, begin.Unix()+240)))
	if later.Since(IDToken) <= other.Since(IDToken) {
		t.Error("a later ID token is not newer")
	}
	later.setIDToken("", parse(t, `{}`))
	if later.Since(IDToken) != 0 || later.Has(IDToken, begin) || later.AuthorizationFor(IDToken) != "" {
		t.Error("without an ID token there is one")
	}
}

// R15: a session's end takes all its refresh tokens with it, so all must be named;
// one whose target was refused goes, and no other.
func TestR15AllRefreshTokensAreKnown(t *testing.T) {
	s := newSession(t, "main")
	a, b, c := furtherOf("a", "for-a", begin.Add(time.Hour)), furtherOf("b", "for-b", begin.Add(time.Hour)), furtherOf("c", "for-c", begin.Add(time.Hour))
	a.RefreshToken, c.RefreshToken = rp.NewSecret("refresh-a"), rp.NewSecret("refresh-c")
	s = s.With(a).With(b).With(c)
	reveal := func(s *Session) (texts []string) {
		for _, token := range s.RefreshTokens() {
			texts = append(texts, token.Reveal())
		}
		return texts
	}
	if got := reveal(s); !slices.Equal(got, []string{"refresh", "refresh-a", "refresh-c"}) {
		t.Errorf("got %q", got)
	}
	without := s.Without("a", begin)
	if got := reveal(without); !slices.Equal(got, []string{"refresh", "refresh-c"}) || without.Further("a") != nil || without.Further("b") == nil {
		t.Errorf("without a: got %q and %+v", got, without.further.tokens)
	}
	if without.Generation != s.Generation+1 || s.Further("a") == nil {
		t.Error("it is no copy of its own")
	}
	if token, own := without.RefreshTokenFor("a"); token.Reveal() != "refresh" || own {
		t.Error("the session's own does not take its place")
	}
	// What is dead goes along, unless something can renew it.
	if got := s.Without("a", begin.Add(2*time.Hour)); got.Further("b") != nil || got.Further("c") == nil {
		t.Errorf("two hours later: got %+v", got.further.tokens)
	}
	none := *newSession(t, "main")
	none.RefreshToken = rp.Secret{}
	if got := reveal(none.With(b)); len(got) != 0 {
		t.Errorf("without any: got %q", got)
	}
}

// A session that does not fit its cookies loses what not every session has, and
// says whether there was any of that.
func TestSlimSessions(t *testing.T) {
	plain := newSession(t, "main")
	plain.IDToken = rp.Secret{}
	if same, less := plain.Slim(); less || same != plain {
		t.Error("there was nothing to leave out")
	}
	for name, s := range map[string]*Session{
		"an ID token":     func() *Session { s := *plain; s.setIDToken("raw", parse(t, `{"exp":9999999999}`)); return &s }(),
		"a further token": plain.With(furtherOf("a", "for-a", begin.Add(time.Hour))),
		"both":            withIDToken(t),
	} {
		slim, less := s.Slim()
		if !less || slim == s || !slim.IDToken.Empty() || slim.AuthorizationFor(IDToken) != "" || slim.Further("a") != nil || slim.Has(IDToken, begin) {
			t.Errorf("%s: got %+v", name, slim)
		}
		if slim.ID != s.ID || slim.Generation != s.Generation || slim.Authorization() != "Bearer main" || slim.RefreshToken.Reveal() != s.RefreshToken.Reveal() {
			t.Errorf("%s: too much is gone", name)
		}
		if s.Further("a") == nil && s.IDToken.Empty() {
			t.Errorf("%s: the session was changed", name)
		}
	}
}

// A74: a further token never passes for that of the login or for the ID token, nor
// for one without a key: whatever a record says, those keys are theirs.
func TestA74FurtherTokensUnderTheKeysOfOthers(t *testing.T) {
	var w packer
	writeFurther(&w, []Further{
		{Key: MainToken, AccessToken: rp.NewSecret("wrong"), Expiry: begin},
		{Key: IDToken, AccessToken: rp.NewSecret("wrong"), Expiry: begin},
		{Key: "empty"},
		{Key: "a", AccessToken: rp.NewSecret("right"), Expiry: begin},
	})
	r, err := unpack(must(w.pack()))
	if err != nil {
		t.Fatal(err)
	}
	got := readFurther(r)
	if len(got) != 1 || got[0].Key != "a" || got[0].AccessToken.Reveal() != "right" {
		t.Errorf("got %+v", got)
	}
}

// M103: what the provider does not refresh any longer is over, since it said so;
// what it refreshes again, or another session, is not.
func TestM103OverSince(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var r Refresher
		o := new(office)
		s, other := refreshable(), refreshable()
		over := func(s *Session) (time.Time, bool) {
			since, is := r.OverSince(s.ID, s)
			if r.Over(s.ID, s) != is || is == since.IsZero() {
				t.Errorf("over: %v, since %s", is, since)
			}
			return since, is
		}
		if _, is := over(s); is {
			t.Error("nothing is known, and it is over")
		}
		time.Sleep(6 * time.Minute)
		if _, err := o.fresh(&r, other); err != nil {
			t.Fatal(err)
		}
		o.refuse(rp.ErrUnavailable)
		if _, err := o.fresh(&r, s); err == nil {
			t.Fatal("no error")
		}
		if _, is := over(s); is {
			t.Error("the provider is in trouble, and it is over")
		}
		time.Sleep(time.Minute)
		o.refuse(fmt.Errorf("%w: invalid_grant", rp.ErrGrantOver))
		refused := time.Now()
		if _, err := o.fresh(&r, s); !errors.Is(err, ErrEnded) {
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
		if since, is := over(s); !is || !since.Equal(refused) {
			t.Errorf("over: %v, since %s, want %s", is, since, refused)
		}
		newer := *s
		newer.Generation++
		if _, is := over(&newer); is {
			t.Error("tokens that nobody refused are over")
		}
		if _, is := over(other); is {
			t.Error("another session is over")
		}
	})
}

// A72, R45: whoever was ended with others is told from who was ended by itself, as
// the session is that the provider does not refresh any longer.
func TestA72R45HasAll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		one, two, three := about(t, "alice", "1"), about(t, "alice", "2"), about(t, "bob", "3")
		time.Sleep(time.Second)
		for name, tc := range map[string]struct {
			revoke func(r *Revocations) error
			all    []*Session
			has    []*Session
		}{
			"nothing":                     {func(*Revocations) error { return nil }, nil, nil},
			"one session":                 {func(r *Revocations) error { return r.Revoke(t.Context(), one.Handle()) }, nil, []*Session{one}},
			"a subject":                   {func(r *Revocations) error { return r.RevokeAll(t.Context(), Selector{Subject: "alice"}, time.Now()) }, []*Session{one, two}, []*Session{one, two}},
			"a session of the provider's": {func(r *Revocations) error { return r.RevokeAll(t.Context(), Selector{ProviderID: "2"}, time.Now()) }, []*Session{two}, []*Session{two}},
			"everybody":                   {func(r *Revocations) error { return r.RevokeAll(t.Context(), Selector{}, time.Now()) }, []*Session{one, two, three}, []*Session{one, two, three}},
		} {
			r := newRevocations(t, new(store.Memory), 0)
			if err := tc.revoke(r); err != nil {
				t.Fatal(err)
			}
			for i, s := range []*Session{one, two, three} {
				if r.HasAll(s) != slices.Contains(tc.all, s) || r.Has(s) != slices.Contains(tc.has, s) {
					t.Errorf("%s: session %d: with others %v, at all %v", name, i+1, r.HasAll(s), r.Has(s))
				}
			}
		}
		lost := newRevocations(t, new(store.Memory), 0)
		lost.cfg.Tags = sealed.NewTagger(lostKeys{}, "revocation", "provider")
		lost.known.Mark("something", time.Now(), time.Now().Add(time.Hour))
		if !lost.HasAll(one) || !lost.Has(one) {
			t.Error("without keys nobody can tell, and it is not revoked")
		}
	})
}

// A72: what had to be forgotten before its time is counted; what was over is not.
func TestA72LostRevocationsAreCounted(t *testing.T) {
	var r Revoked
	r.Mark("over", begin, begin.Add(time.Hour))
	for i := range maxRevocations {
		r.Mark(fmt.Sprint(i), begin.Add(2*time.Hour), begin.Add(4*time.Hour))
	}
	if r.Lost() != 0 || !r.Marked("0") {
		t.Fatalf("%d are lost", r.Lost())
	}
	for i := range 3 {
		r.Mark(fmt.Sprint("more", i), begin.Add(2*time.Hour), begin.Add(4*time.Hour))
	}
	if r.Lost() != 3 || r.Marked("2") || !r.Marked("3") {
		t.Errorf("%d are lost", r.Lost())
	}
}
