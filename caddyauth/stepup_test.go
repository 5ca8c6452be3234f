package caddyauth

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/pkce-auth/caddy-pkce-auth/caddyauth/internal/claims"
	"github.com/pkce-auth/caddy-pkce-auth/caddyauth/internal/rp"
	"github.com/pkce-auth/caddy-pkce-auth/caddyauth/internal/session"
)

// R56, promise 1: a session that is not what the route wants opens nothing,
// whatever the policy, and leads to a login only where one may help.
func TestR56DecideWhenSessionFallsShort(t *testing.T) {
	for _, unauthorized := range []string{"", "auto", "redirect", "401", "pass", "unknown"} {
		for _, kind := range []requestKind{background, navigation, prefetch} {
			for _, again := range []bool{true, false} {
				got := decide(facts{unauthorized: unauthorized, kind: kind, session: new(session.Session), short: errors.New("too long ago"), again: again})
				want := refuse
				if again && kind != prefetch && unauthorized != "401" && unauthorized != "pass" && (kind == navigation || unauthorized == "redirect") {
					want = login
				}
				if got != want {
					t.Errorf("%q, kind %v, again %v: got %v, want %v", unauthorized, kind, again, got, want)
				}
			}
		}
	}
}

func seconds(n int) *time.Duration {
	age := time.Duration(n) * time.Second
	return &age
}

// R56: what several routes want of one login.
func TestR56BothRoutesWant(t *testing.T) {
	for _, tc := range []struct {
		one, two rp.Ask
		maxAge   int
		acr      string
		possible bool
	}{
		{rp.Ask{MaxAge: seconds(60)}, rp.Ask{MaxAge: seconds(30)}, 30, "", true},
		{rp.Ask{MaxAge: seconds(30)}, rp.Ask{MaxAge: seconds(60)}, 30, "", true},
		{rp.Ask{MaxAge: seconds(30)}, rp.Ask{ACRValues: []string{"a"}}, 30, "a", true},
		{rp.Ask{ACRValues: []string{"a"}}, rp.Ask{MaxAge: seconds(30)}, 30, "a", true},
		{rp.Ask{ACRValues: []string{"a", "b", "c"}}, rp.Ask{ACRValues: []string{"c", "b"}}, -1, "b c", true},
		{rp.Ask{ACRValues: []string{"a"}}, rp.Ask{ACRValues: []string{"b"}}, -1, "b", false},
	} {
		before := slices.Clone(tc.one.ACRValues)
		got, possible := both(&tc.one, &tc.two)
		if age := got.MaxAge; (age == nil) != (tc.maxAge < 0) || age != nil && *age != *seconds(tc.maxAge) || strings.Join(got.ACRValues, " ") != tc.acr || possible != tc.possible {
			t.Errorf("%+v and %+v: got %+v, %v", tc.one, tc.two, got, possible)
		}
		if !slices.Equal(before, tc.one.ACRValues) {
			t.Errorf("what one wants became %v", tc.one.ACRValues)
		}
	}
}

// R56, promise 4: when the upstream's challenge is one that the session's login
// has answered already, and when it has become a new one.
func TestR56AnsweredAlready(t *testing.T) {
	now := time.Unix(1_700_000_000, 0)
	set, err := claims.Parse([]byte(`{"auth_time":1699999000}`)) // 1000 s ago
	if err != nil {
		t.Fatal(err)
	}
	for name, tc := range map[string]struct {
		step session.Step
		made time.Duration // ago
		ask  rp.Ask
		want bool
	}{
		"made for nothing":                      {session.Step{}, time.Second, rp.Ask{ACRValues: []string{"a"}}, false},
		"made for it, however long ago":         {session.Step{Row: 1, ACRValues: []string{"a"}}, time.Hour, rp.Ask{ACRValues: []string{"a"}}, true},
		"made for another":                      {session.Step{Row: 1, ACRValues: []string{"a"}}, time.Second, rp.Ask{ACRValues: []string{"b"}}, false},
		"max_age, just now":                     {session.Step{Row: 1, MaxAge: seconds(0)}, 30 * time.Second, rp.Ask{MaxAge: seconds(0)}, true},
		"max_age, and too old for it by now":    {session.Step{Row: 1, MaxAge: seconds(0)}, 31 * time.Second, rp.Ask{MaxAge: seconds(0)}, false},
		"max_age, and within it":                {session.Step{Row: 1, MaxAge: seconds(1000)}, 900 * time.Second, rp.Ask{MaxAge: seconds(1000)}, true},
		"max_age, of a login before that":       {session.Step{Row: 1, MaxAge: seconds(999)}, 900 * time.Second, rp.Ask{MaxAge: seconds(999)}, false},
		"the third in a row":                    {session.Step{Row: 3, ACRValues: []string{"a"}}, time.Second, rp.Ask{ACRValues: []string{"b"}}, true},
		"the third in a row, a while ago":       {session.Step{Row: 3, ACRValues: []string{"a"}}, time.Minute, rp.Ask{ACRValues: []string{"b"}}, false},
		"the second in a row, and another then": {session.Step{Row: 2, ACRValues: []string{"a"}}, time.Second, rp.Ask{ACRValues: []string{"b"}}, false},
	} {
		s := &session.Session{Step: tc.step, Created: now.Add(-tc.made), Identity: rp.Identity{Sources: []rp.SourcedClaims{{From: rp.FromIDToken, Claims: set}}}}
		if got := answers(s, tc.ask, now); got != tc.want {
			t.Errorf("%s: got %v, want %v", name, got, tc.want)
		}
	}
}

// What a configuration in JSON may say, which knows no lines.
func TestStepUpConfig(t *testing.T) {
	for name, tc := range map[string]struct {
		config StepUpConfig
		openID bool
		option string // that is refused
	}{
		"nothing":              {StepUpConfig{}, false, ""},
		"both":                 {StepUpConfig{MaxAge: caddy.Duration(time.Minute), ACRValues: []string{"a", "urn:b"}}, true, ""},
		"negative":             {StepUpConfig{MaxAge: -1}, true, "max_age"},
		"less than a second":   {StepUpConfig{MaxAge: caddy.Duration(time.Millisecond)}, true, "max_age"},
		"a line break":         {StepUpConfig{ACRValues: []string{"a\nb"}}, true, "acr_values"},
		"empty":                {StepUpConfig{ACRValues: []string{""}}, true, "acr_values"},
		"too long":             {StepUpConfig{ACRValues: []string{strings.Repeat("a", maxACRValues+1)}}, true, "acr_values"},
		"max_age, no ID token": {StepUpConfig{MaxAge: caddy.Duration(time.Minute)}, false, "max_age"},
		"acr, no ID token":     {StepUpConfig{ACRValues: []string{"a"}}, false, "acr_values"},
	} {
		err := errors.Join(tc.config.validate(), tc.config.checkOpenID(tc.openID))
		ce, failed := errors.AsType[*configError](err)
		if failed != (tc.option != "") || failed && ce.option != tc.option {
			t.Errorf("%s: got %v, want %q refused", name, err, tc.option)
		}
	}
}
