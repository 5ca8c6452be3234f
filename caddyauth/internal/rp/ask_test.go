package rp

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/pkce-auth/caddy-pkce-auth/caddyauth/internal/claims"
)

// asking is an Ask of tests; a negative age asks for none.
func asking(maxAge time.Duration, essential bool, acr ...string) Ask {
	ask := Ask{ACRValues: acr, Essential: essential}
	if maxAge >= 0 {
		ask.MaxAge = &maxAge
	}
	return ask
}

// R27, IDPS 16, IDPS 22: what one login asks for is asked of the provider, and
// the ID token is held to it: never to less than what is configured, and to
// what an upstream asks for only where it cannot judge by itself.
func TestR27IDPS16IDPS22AskOfOneLogin(t *testing.T) {
	b := newBench(t)
	scopes := b.client.Scopes
	ago := func(d time.Duration) int64 { return b.now.Add(-d).Unix() }
	for _, tc := range []struct {
		name        string
		configured  Authorization
		ask         Ask
		maxAge, acr string // that are sent
		said        map[string]any
		check       string // that fails
	}{
		{"max_age, fresh", Authorization{}, asking(time.Minute, true), "60", "", map[string]any{"auth_time": ago(100 * time.Second)}, ""},
		{"max_age, stale", Authorization{}, asking(time.Minute, true), "60", "", map[string]any{"auth_time": ago(121 * time.Second)}, "auth_time"},
		{"max_age, nothing said", Authorization{}, asking(time.Minute, true), "60", "", nil, "auth_time"},
		{"max_age 0", Authorization{}, asking(0, false), "0", "", map[string]any{"auth_time": ago(0)}, ""},
		{"max_age 0, stale", Authorization{}, asking(0, false), "0", "", map[string]any{"auth_time": ago(61 * time.Second)}, "auth_time"},
		{"max_age, a little ahead", Authorization{}, asking(time.Minute, true), "60", "", map[string]any{"auth_time": ago(-60 * time.Second)}, ""},
		{"max_age, far ahead", Authorization{}, asking(time.Minute, true), "60", "", map[string]any{"auth_time": ago(-61 * time.Second)}, "auth_time"},
		{"what is configured is shorter", Authorization{MaxAge: time.Minute}, asking(time.Hour, true), "60", "", map[string]any{"auth_time": ago(10 * time.Minute)}, "auth_time"},
		{"what is asked for is shorter", Authorization{MaxAge: time.Hour}, asking(time.Minute, true), "60", "", map[string]any{"auth_time": ago(10 * time.Minute)}, "auth_time"},
		{"acr, one of them", Authorization{}, asking(-1, true, "a", "b"), "", "a b", map[string]any{"acr": "b"}, ""},
		{"acr, another", Authorization{}, asking(-1, true, "a"), "", "a", map[string]any{"acr": "b"}, "acr"},
		{"acr, nothing said", Authorization{}, asking(-1, true, "a"), "", "a", nil, "acr"},
		{"acr in place of what is configured", Authorization{ACRValues: []string{"low"}}, asking(-1, true, "high"), "", "high", map[string]any{"acr": "low"}, "acr"},
		{"an upstream judges by itself", Authorization{}, asking(-1, false, "a"), "", "a", nil, ""},
		{"an upstream's, beside what is configured", Authorization{ACRValues: []string{"low"}}, asking(-1, false, "high"), "", "high", map[string]any{"acr": "high"}, ""},
		{"an upstream's, and the least is kept", Authorization{ACRValues: []string{"low"}}, asking(-1, false, "high"), "", "high", map[string]any{"acr": "none"}, "acr"},
		{"nothing asked for", Authorization{MaxAge: time.Minute, ACRValues: []string{"low"}}, Ask{}, "60", "low", map[string]any{"auth_time": ago(0), "acr": "low"}, ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			b.client.Authorization = tc.configured
			b.client.Scopes = scopes
			q := authQuery(t, b.client, "https://op.test/authorize", AuthRequest{
				Transaction: NewTransaction(), RedirectURI: "https://app.test/cb", State: "s", Ask: tc.ask,
				Extra: []Param{{Name: "max_age", Value: "99999"}, {Name: "acr_values", Value: "weak"}},
			})
			// A54: a link may add parameters where that is allowed, but none in place
			// of what is asked for.
			if age := q.Get("max_age"); tc.ask.MaxAge != nil && age != tc.maxAge {
				t.Errorf("sent max_age %q, want %q", age, tc.maxAge)
			}
			if acr := q.Get("acr_values"); len(tc.ask.ACRValues) > 0 && acr != tc.acr {
				t.Errorf("sent acr_values %q, want %q", acr, tc.acr)
			}
			_, err := b.client.VerifyIDToken(t.Context(), metadata(t, b.client), NewSecret(b.op.Sign(nil, b.claims(tc.said))),
				Expected{Nonce: NewSecret("the-nonce"), Ask: tc.ask})
			checkErr, failed := errors.AsType[*CheckError](err)
			if failed != (tc.check != "") || failed && checkErr.Check != tc.check {
				t.Errorf("got %v, want check %q to fail", err, tc.check)
			}
		})
	}
}

// R56: a session meets what a route wants just where a login would have.
func TestR56MeetsAsALoginDoes(t *testing.T) {
	c := &Client{ClockSkew: 10 * time.Second}
	now := time.Unix(1_700_000_000, 0)
	for said, wants := range map[string]map[string]Ask{
		`{"auth_time":1700000000,"acr":"mfa"}`: {"": asking(0, true, "mfa")},
		`{"auth_time":1699999930}`:             {"": asking(time.Minute, true), "auth_time: is": asking(59*time.Second, true), "acr": asking(-1, true, "mfa")},
		`{"auth_time":1700000010}`:             {"": asking(time.Minute, true)},
		`{"auth_time":1700000011}`:             {"ahead": asking(time.Minute, true)},
		`{"auth_time":"1700000000","acr":1}`:   {"auth_time: claim": asking(time.Minute, true), "acr: claim": asking(-1, true, "1")},
		`{}`:                                   {"": asking(-1, true), "auth_time: ": asking(time.Hour, true), "acr: ": asking(-1, true, "")},
		`{"acr":"MFA"}`:                        {`acr: "MFA" is none`: asking(-1, true, "mfa")},
	} {
		set, err := claims.Parse([]byte(said))
		if err != nil {
			t.Fatal(err)
		}
		who := &Identity{Sources: []SourcedClaims{{From: FromUserinfo, Claims: set}, {From: FromIDToken, Claims: set}}}
		for problem, ask := range wants {
			err := c.Meets(who, ask, now)
			if (err == nil) != (problem == "") || err != nil && !strings.Contains(err.Error(), problem) {
				t.Errorf("%s: got %v, want %q", said, err, problem)
			}
		}
		// What userinfo says of a login is no proof of one.
		who.Sources = who.Sources[:1]
		if c.Meets(who, asking(time.Hour, true), now) == nil || c.Meets(who, asking(-1, true, "mfa"), now) == nil {
			t.Errorf("%s: without an ID token", said)
		}
	}
}

// R16, R27: any one thing that is asked for is something; a max_age of 0 above
// all, which asks for the most.
func TestR16R27AskingForNothing(t *testing.T) {
	now := time.Duration(0)
	if ask := (Ask{Essential: true}); !ask.Empty() {
		t.Error("essential, and of nothing")
	}
	for name, ask := range map[string]Ask{
		"max_age 0": {MaxAge: &now}, "acr_values": {ACRValues: []string{"gold"}}, "an audience": {Target: Target{Audience: "a"}},
		"a resource": {Target: Target{Resources: []string{"r"}}}, "scopes": {Target: Target{Scopes: []string{"s"}}},
	} {
		if ask.Empty() {
			t.Errorf("%s is nothing", name)
		}
	}
}
