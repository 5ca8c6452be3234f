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
		s := New(&rp.Grant{AccessToken: rp.NewSecret("x"), RefreshToken: rp.NewSecret("r"), Expiry: begin.Add(tc.lifetime)}, nil, begin)
		if s.Due(begin.Add(tc.due-1), tc.early) || !s.Due(begin.Add(tc.due), tc.early) {
			t.Errorf("lifetime %s, %s early: not due after %s", tc.lifetime, tc.early, tc.due)
		}
		s.RefreshToken = rp.Secret{}
		if s.Due(begin.Add(tc.lifetime), tc.early) {
			t.Error("due without a refresh token")
		}
	}
}

// IDPS 26, A73: a refreshed ID token's claims replace the old ones, groups
// that were taken away included; but what only the login's token says stays.
func TestIDPS26A73RefreshedClaims(t *testing.T) {
	s := newSession(t, "access-0")
	grant := &rp.Grant{AccessToken: rp.NewSecret("access-1"), RefreshToken: rp.NewSecret("refresh-1"), IDToken: rp.NewSecret("raw"), Expiry: begin.Add(time.Hour)}
	renewed, err := s.Refreshed(grant, &rp.IDToken{Subject: "alice", Claims: parse(t, `{"sub":"alice","groups":["staff"],"big":123456789012345678901234567890}`)}, begin)
	if err != nil {
		t.Fatal(err)
	}
	if got, want := string(renewed.Claims.Raw()), `{"big":123456789012345678901234567890,"groups":["staff"],"sid":"s-1","sub":"alice"}`; got != want {
		t.Errorf("claims: got %s, want %s", got, want)
	}
	if renewed.ProviderID != "s-1" || renewed.ID != s.ID || renewed.Created != s.Created || renewed.Scope != s.Scope || renewed.IDToken.Reveal() != "raw" ||
		renewed.Authorization() != "Bearer access-1" || renewed.Generation != 1 {
		t.Errorf("got %+v", renewed)
	}
	if s.Generation != 0 || s.Authorization() != "Bearer access-0" {
		t.Error("the old session was changed")
	}
	without, err := renewed.Refreshed(grant, nil, begin)
	if err != nil || string(without.Claims.Raw()) != string(renewed.Claims.Raw()) || !without.IDToken.Empty() {
		t.Errorf("without an ID token: got %+v, %v", without, err)
	}
}
