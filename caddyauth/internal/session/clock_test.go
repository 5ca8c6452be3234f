package session

import (
	"errors"
	"testing"
	"time"

	"github.com/pkce-auth/caddy-pkce-auth/caddyauth/internal/sealed"
	"github.com/pkce-auth/caddy-pkce-auth/caddyauth/store"
)

// M152: a machine's clock is set back by an hour. That the store was asked in
// what is the future by now keeps nobody from asking it again: a logout
// elsewhere is heard of at once, and not an hour later.
func TestM152ClockSetBack(t *testing.T) {
	now := begin
	clock := func() time.Time { return now }
	memory := &store.Memory{Now: func() time.Time { return begin }}
	k := newStored(t, memory, hours, clock)
	k.cfg.Lag = 500 * time.Millisecond
	s := newSession(t, "a")
	s.Created, s.Seen = begin.Add(-2*time.Hour), begin.Add(-2*time.Hour)
	cookies := ticket(t, k, s)
	if _, err := k.Load(t.Context(), cookies); err != nil {
		t.Fatal(err)
	}
	revocations := func(now func() time.Time) *Revocations {
		return NewRevocations(RevocationsConfig{
			Store: memory, Tags: sealed.NewTagger(keyring(t, "k1"), "revocation", "provider"), Provider: "0123", Keep: 24 * time.Hour,
			Every: time.Second, Now: now,
		}, new(Revoked))
	}
	here, there := revocations(clock), revocations(func() time.Time { return begin.Add(-7 * time.Hour) })
	if err := here.Look(t.Context()); err != nil {
		t.Fatal(err)
	}
	now = begin.Add(-7 * time.Hour) // past a list of revocations, too
	if !here.Due(now) {
		t.Error("the store is not asked for revocations any more")
	}
	if err := errors.Join(there.Revoke(t.Context(), s.Handle()), memory.Delete(t.Context(), s.Handle())); err != nil {
		t.Fatal(err)
	}
	if got, err := k.Load(t.Context(), cookies); !errors.Is(err, ErrNone) {
		t.Errorf("a session that was ended elsewhere: %v, %v", got, err)
	}
	if err := here.Fresh(t.Context(), now); err != nil || !here.Has(s) {
		t.Errorf("its revocation is not heard of: %v", err)
	}
	if here.Due(now) || !here.Wanted(now) {
		t.Error("the store was not asked at the new time")
	}
}
