package rp

import (
	"errors"
	"testing"
	"time"
)

// IDPS 28: a refreshed ID token may leave the organization out, but must not
// name another.
func TestIDPS28RefreshedOrganization(t *testing.T) {
	b := newBench(t)
	login, err := b.client.VerifyIDToken(t.Context(), metadata(t, b.client), NewSecret(b.op.Sign(nil, b.claims(nil))), Expected{Nonce: NewSecret("the-nonce")})
	if err != nil {
		t.Fatal(err)
	}
	b.client.Organizations = []string{"org_1", "acme"}
	for _, tc := range []struct {
		name   string
		change map[string]any
		ok     bool
	}{
		{"nothing said", nil, true},
		{"the ID", map[string]any{"org_id": "org_1"}, true},
		{"another ID", map[string]any{"org_id": "org_2"}, false},
		{"another name", map[string]any{"org_name": "other"}, false},
		{"an ID that is no text", map[string]any{"org_id": 1}, false},
	} {
		_, err := b.client.VerifyIDToken(t.Context(), metadata(t, b.client), NewSecret(b.op.Sign(nil, b.claims(tc.change))), Expected{
			AccessToken: NewSecret("opaque-token"), Previous: login,
		})
		if (err == nil) != tc.ok {
			t.Errorf("%s: got %v", tc.name, err)
		}
	}
}

// IDPS 22, M84: what the authorization request asked for, the ID token must
// say.
func TestIDPS16IDPS22M84AskedFor(t *testing.T) {
	b := newBench(t)
	ago := func(d time.Duration) int64 { return b.now.Add(-d).Unix() }
	for _, tc := range []struct {
		name   string
		asked  Authorization
		change map[string]any
		check  string
	}{
		{"max_age, fresh", Authorization{MaxAge: time.Minute}, map[string]any{"auth_time": ago(100 * time.Second)}, ""},
		{"max_age, just as old as may be", Authorization{MaxAge: time.Minute}, map[string]any{"auth_time": ago(120 * time.Second)}, ""},
		{"max_age, stale", Authorization{MaxAge: time.Minute}, map[string]any{"auth_time": ago(121 * time.Second)}, "auth_time"},
		{"max_age, nothing said", Authorization{MaxAge: time.Minute}, nil, "auth_time"},
		{"max_age, a text", Authorization{MaxAge: time.Minute}, map[string]any{"auth_time": "now"}, "auth_time"},
		{"acr, one of them", Authorization{ACRValues: []string{"a", "b"}}, map[string]any{"acr": "b"}, ""},
		{"acr, another", Authorization{ACRValues: []string{"a", "b"}}, map[string]any{"acr": "c"}, "acr"},
		{"acr, nothing said", Authorization{ACRValues: []string{"a"}}, nil, "acr"},
		{"organization by ID", Authorization{Organizations: []string{"org_1", "acme"}}, map[string]any{"org_id": "org_1"}, ""},
		{"organization by name, without case", Authorization{Organizations: []string{"org_1", "acme"}}, map[string]any{"org_id": "org_2", "org_name": "ACME"}, ""},
		{"an ID is compared with its case", Authorization{Organizations: []string{"org_1a"}}, map[string]any{"org_id": "org_1A"}, "organization"},
		{"another organization", Authorization{Organizations: []string{"org_1", "acme"}}, map[string]any{"org_id": "org_2", "org_name": "other"}, "organization"},
		{"a name that looks like an ID", Authorization{Organizations: []string{"org_1"}}, map[string]any{"org_id": "org_2", "org_name": "org_1"}, "organization"},
		{"an ID that looks like a name", Authorization{Organizations: []string{"acme"}}, map[string]any{"org_id": "acme", "org_name": "other"}, "organization"},
		{"an ID that is a name, and no name", Authorization{Organizations: []string{"acme"}}, map[string]any{"org_id": "acme"}, "organization"},
		{"an empty name lets nobody in", Authorization{Organizations: []string{""}}, nil, "organization"},
		{"no organization", Authorization{Organizations: []string{"org_1"}}, nil, "organization"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			scopes := b.client.Scopes
			b.client.Authorization = tc.asked
			b.client.Scopes = scopes
			err := b.verify(t, b.op.Sign(nil, b.claims(tc.change)))
			checkErr, failed := errors.AsType[*CheckError](err)
			if failed != (tc.check != "") || failed && checkErr.Check != tc.check {
				t.Errorf("got %v, want check %q to fail", err, tc.check)
			}
		})
	}
}
