package session

import (
	"testing"
	"time"

	"github.com/pkce-auth/caddy-pkce-auth/caddyauth/internal/rp"
)

func TestDue(t *testing.T) {
	for _, tc := range []struct {
		lifetime, early, due time.Duration
	}{
		{time.Hour, 0, 59 * time.Minute},
		{5 * time.Minute, 0, 4 * time.Minute},
		{10 * time.Second, 0, 8 * time.Second},
		{time.Hour, 10 * time.Minute, 50 * time.Minute},
		{time.Hour, 2 * time.Hour, 30 * time.Minute},
		{time.Hour, time.Second, time.Hour - time.Second},
	} {
		s := New(&rp.Grant{AccessToken: rp.NewSecret("x"), RefreshToken: rp.NewSecret("r"), Expiry: begin.Add(tc.lifetime)}, new(rp.Identity), begin)
		if s.Due(begin.Add(tc.due-1), tc.early) || !s.Due(begin.Add(tc.due), tc.early) {
			t.Errorf("lifetime %s, %s early: not due after %s", tc.lifetime, tc.early, tc.due)
		}
		s.RefreshToken = rp.Secret{}
		if s.Due(begin.Add(tc.lifetime), tc.early) {
			t.Error("due without a refresh token")
		}
	}
}

// IDPS 26, A73: what a refresh says of the user takes the place of what was
// known; where it says nothing, that stays.
func TestIDPS26A73RefreshedClaims(t *testing.T) {
	s := newSession(t, "access-0")
	grant := &rp.Grant{AccessToken: rp.NewSecret("access-1"), RefreshToken: rp.NewSecret("refresh-1"), IDToken: rp.NewSecret("raw"), Expiry: begin.Add(time.Hour)}
	who := &rp.Identity{Subject: "alice", Ends: s.Ends, Sources: []rp.SourcedClaims{
		{From: rp.FromIDToken, Claims: parse(t, `{"sub":"alice","sid":"s-1","groups":["staff"]}`)},
		{From: rp.FromUserinfo, Claims: parse(t, `{"groups":["admin"],"email":"alice@example.com"}`)},
	}}
	renewed := s.Refreshed(grant, who, begin)
	if got, want := string(renewed.Claims.Raw()), `{"email":"alice@example.com","groups":["staff"],"sid":"s-1","sub":"alice"}`; got != want {
		t.Errorf("claims: got %s, want %s", got, want)
	}
	if renewed.ProviderID() != "s-1" || renewed.ID != s.ID || renewed.Created != s.Created || renewed.Scope != s.Scope || renewed.IDToken.Reveal() != "raw" ||
		renewed.Authorization() != "Bearer access-1" || renewed.Generation != 1 {
		t.Errorf("got %+v", renewed)
	}
	if s.Generation != 0 || s.Authorization() != "Bearer access-0" {
		t.Error("the old session was changed")
	}
	without := renewed.Refreshed(grant, nil, begin)
	if string(without.Claims.Raw()) != string(renewed.Claims.Raw()) || without.IDToken.Reveal() != "raw" { // the ID token is what it was
		t.Errorf("without anything new: got %+v", without)
	}
}

// IDPS 29: a session ends when its provider says so, however young and busy it
// is; and so it does after it was sealed and opened.
func TestIDPS29SessionExpiry(t *testing.T) {
	s := newSession(t, "access")
	s.Ends = begin.Add(time.Minute)
	data, err := encode(s, false)
	if err != nil {
		t.Fatal(err)
	}
	s, err = decode(data)
	if err != nil {
		t.Fatal(err)
	}
	limits := Limits{Lifetime: time.Hour, Idle: time.Hour}
	if !limits.Alive(s, begin.Add(time.Minute-1)) || limits.Alive(s, begin.Add(time.Minute)) {
		t.Error("the end is not where the provider set it")
	}
	if renewed := s.Refreshed(&rp.Grant{AccessToken: rp.NewSecret("x"), Expiry: begin.Add(time.Hour)}, nil, begin); limits.Alive(renewed, begin.Add(time.Minute)) {
		t.Error("a refresh moved it")
	}
}
