package rp

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/pkce-auth/caddy-pkce-auth/caddyauth/internal/claims"
	"github.com/pkce-auth/caddy-pkce-auth/test/provider"
)

const (
	ourTenant   = "8eaef023-2b34-4da1-9baa-8bc8c9d6a490"
	otherTenant = "11111111-2222-3333-4444-555555555555"
)

// IDPS 38: the issuer of a provider for many tenants.
func TestIDPS38IssuerTemplate(t *testing.T) {
	const own = "https://login.microsoftonline.com/{tenantid}/v2.0"
	for configured, ok := range map[string]bool{
		own: true,
		"https://login.microsoftonline.com/common/v2.0":            true,
		"https://login.microsoftonline.com/organizations/v2.0":     true,
		"https://login.microsoftonline.com/" + ourTenant + "/v2.0": true,
		"https://login.microsoftonline.com//v2.0":                  false,
		"https://login.microsoftonline.com/a/b/v2.0":               false,
		"https://login.microsoftonline.com/common/v1.0":            false,
		"https://evil.test/common/v2.0":                            false,
		"https://login.microsoftonline.com/common/v2.0/":           false,
		"https://login.microsoftonline.com":                        false,
		"https://login.microsoftonline.com/common/v2.0?x=/v2.0":    false,
	} {
		if _, err := parseMetadata(document(own, nil), configured, Endpoints{}); (err == nil) != ok {
			t.Errorf("%s: got %v, want ok %v", configured, err, ok)
		}
	}
	if got, want := discoveryURL(own), "https://login.microsoftonline.com/organizations/v2.0/.well-known/openid-configuration"; got != want {
		t.Errorf("discovery: got %s, want %s", got, want)
	}
	for issuer, needs := range map[string]bool{
		own: true, "https://op.test/{tenantid}": true,
		"https://login.microsoftonline.com/common/v2.0": true, "https://login.microsoftonline.us/organizations/v2.0": true,
		"https://login.microsoftonline.com/" + ourTenant + "/v2.0": false, "https://login.microsoftonline.com/consumers/v2.0": false,
		"https://login.microsoftonline.com/Common/v2.0": true,
		"https://op.test/common/v2.0":                   false, "https://login.microsoftonline.com": false, "::": false,
	} {
		if got := NeedsTenants(issuer); got != needs {
			t.Errorf("%s: needs tenants: got %v, want %v", issuer, got, needs)
		}
	}
}

// IDPS 38: each user's token is from the issuer of their own tenant, which must
// be one of those that may log in.
func TestR20IDPS38AllowedTenants(t *testing.T) {
	b := newBench(t)
	template := b.op.URL + "/{tenantid}/v2.0"
	b.op.Misbehave(provider.Faults{Metadata: func(doc map[string]any) { doc["issuer"] = template }})
	b.client.Provider = NewProvider(ProviderConfig{Issuer: b.op.URL + "/common/v2.0", DiscoveryURL: b.op.URL + "/.well-known/openid-configuration", Now: func() time.Time { return b.now }})
	issuer := func(tenant string) string { return strings.Replace(template, "{tenantid}", tenant, 1) }
	if _, err := b.client.AuthorizationURL(metadata(t, b.client), AuthRequest{Transaction: NewTransaction()}); !errors.Is(err, ErrMisconfigured) || !strings.Contains(err.Error(), "allowed_tenants") {
		t.Errorf("without tenants, no login begins: got %v", err)
	}
	good := b.op.Sign(nil, b.claims(map[string]any{"iss": issuer(ourTenant), "tid": ourTenant}))
	if err := b.verify(t, good); !errors.Is(err, ErrMisconfigured) {
		t.Errorf("without tenants, nobody is let in: got %v", err)
	}
	b.client.Tenants = []string{"00000000-0000-0000-0000-000000000000", ourTenant}
	if _, err := b.client.AuthorizationURL(metadata(t, b.client), AuthRequest{Transaction: NewTransaction()}); err != nil {
		t.Errorf("with tenants, a login begins: got %v", err)
	}
	for name, tc := range map[string]struct {
		change map[string]any
		check  string
	}{
		"our tenant":                      {map[string]any{"iss": issuer(ourTenant), "tid": ourTenant}, ""},
		"another tenant":                  {map[string]any{"iss": issuer(otherTenant), "tid": otherTenant}, "tenant"},
		"another tenant's issuer":         {map[string]any{"iss": issuer(otherTenant), "tid": ourTenant}, "iss"},
		"our issuer, another tenant":      {map[string]any{"iss": issuer(ourTenant), "tid": otherTenant}, "iss"},
		"no tenant":                       {map[string]any{"iss": issuer(ourTenant)}, "iss"},
		"the template itself":             {map[string]any{"iss": template, "tid": "{tenantid}"}, "tenant"},
		"a tenant that is a path":         {map[string]any{"iss": issuer(ourTenant + "/x"), "tid": ourTenant + "/x"}, "tenant"},
		"a tenant that is a list":         {map[string]any{"iss": issuer(ourTenant), "tid": []string{ourTenant}}, "iss"},
		"M89 the tenant in other letters": {map[string]any{"iss": issuer(ourTenant), "tid": ourTenant, "TID": otherTenant}, "claims"},
	} {
		err := b.verify(t, b.op.Sign(nil, b.claims(tc.change)))
		checkErr, failed := errors.AsType[*CheckError](err)
		if failed != (tc.check != "") || failed && checkErr.Check != tc.check {
			t.Errorf("%s: got %v, want check %q to fail", name, err, tc.check)
		}
		if failed && checkErr.RefusesUser() != (tc.check == "tenant") {
			t.Errorf("%s: refuses the user: %v", name, checkErr.RefusesUser())
		}
	}
	m := metadata(t, b.client)
	if !b.client.IsIssuer(m, issuer(ourTenant)) || b.client.IsIssuer(m, issuer(otherTenant)) || b.client.IsIssuer(m, template) {
		t.Error("iss of the authorization response")
	}
	// With an issuer for one tenant, the list is looked at all the same.
	one := newBench(t)
	one.client.Tenants = []string{ourTenant}
	if err := one.verify(t, one.op.Sign(nil, one.claims(map[string]any{"tid": otherTenant}))); !errors.Is(err, ErrInvalid) {
		t.Errorf("another tenant at an issuer for one: got %v", err)
	}
	if err := one.verify(t, one.op.Sign(nil, one.claims(nil))); !errors.Is(err, ErrInvalid) {
		t.Errorf("no tenant at an issuer for one: got %v", err)
	}
}

// templateBench is a bench whose provider is for many tenants.
func templateBench(t testing.TB, tenants ...string) (b *bench, issuer func(tenant string) string) {
	b = newBench(t)
	template := b.op.URL + "/{tenantid}/v2.0"
	b.op.Misbehave(provider.Faults{Metadata: func(doc map[string]any) { doc["issuer"] = template }})
	b.client.Provider = NewProvider(ProviderConfig{Issuer: b.op.URL + "/common/v2.0", DiscoveryURL: b.op.URL + "/.well-known/openid-configuration", Now: func() time.Time { return b.now }})
	b.client.Tenants = tenants
	return b, func(tenant string) string { return strings.Replace(template, "{tenantid}", tenant, 1) }
}

// R30: a refreshed ID token is from the tenant of the login: another may call
// another user the same.
func TestR30RefreshedTenant(t *testing.T) {
	b, issuer := templateBench(t, ourTenant, otherTenant)
	token := func(tenant string, nonce any) string {
		return b.op.Sign(nil, b.claims(map[string]any{"iss": issuer(tenant), "tid": tenant, "nonce": nonce}))
	}
	login, err := b.identify(t, b.grant(token(ourTenant, "the-nonce"), "x"))
	if err != nil {
		t.Fatal(err)
	}
	for tenant, ok := range map[string]bool{ourTenant: true, otherTenant: false} {
		_, err := b.client.IdentifyAgain(t.Context(), metadata(t, b.client), b.grant(token(tenant, nil), "x"), login)
		if (err == nil) != ok {
			t.Errorf("%s: got %v", tenant, err)
		}
	}
}

// Entra's keys say whose tokens they sign: one of another tenant signs none of
// ours. A key that says nothing, or names the template, signs for all.
func TestR33KeysOfATenant(t *testing.T) {
	for name, tc := range map[string]struct {
		issuer func(issuer func(string) string) any
		ok     bool
	}{
		"nothing":        {func(func(string) string) any { return nil }, true},
		"the template":   {func(issuer func(string) string) any { return issuer("{tenantid}") }, true},
		"our tenant":     {func(issuer func(string) string) any { return issuer(ourTenant) }, true},
		"another tenant": {func(issuer func(string) string) any { return issuer(otherTenant) }, false},
		"what is no URL": {func(func(string) string) any { return 7 }, true},
	} {
		b, issuer := templateBench(t, ourTenant)
		template := issuer("{tenantid}")
		b.op.Misbehave(provider.Faults{
			Metadata: func(doc map[string]any) { doc["issuer"] = template },
			Keys: func(keys []any) []any {
				for _, key := range keys {
					if whose := tc.issuer(issuer); whose != nil {
						key.(map[string]any)["issuer"] = whose
					}
				}
				return keys
			},
		})
		err := b.verify(t, b.op.Sign(nil, b.claims(map[string]any{"iss": issuer(ourTenant), "tid": ourTenant})))
		if (err == nil) != tc.ok {
			t.Errorf("%s: got %v", name, err)
		}
	}
}

// R54: a client assertion is for somebody: what stands for many tenants is
// nobody's name.
func TestR54AssertionForATemplate(t *testing.T) {
	b, _ := templateBench(t, ourTenant)
	m := metadata(t, b.client)
	if got := assertionAudience(m); got != m.TokenEndpoint {
		t.Errorf("got %s", got)
	}
	if got := assertionAudience(&Metadata{Issuer: "https://op.test/"}); got != "https://op.test/" {
		t.Errorf("got %s", got)
	}
}

// Who logged in before is let in by the lists that are in use now.
func TestAdmits(t *testing.T) {
	who := func(raw string) *Identity {
		set, err := claims.Parse([]byte(raw))
		if err != nil {
			t.Fatal(err)
		}
		return &Identity{Sources: []SourcedClaims{{From: FromIDToken, Claims: set}}}
	}
	for name, tc := range map[string]struct {
		asked Authorization
		who   *Identity
		ok    bool
	}{
		"no lists":                       {Authorization{}, new(Identity), true},
		"our tenant":                     {Authorization{Tenants: []string{ourTenant}}, who(`{"tid":"` + ourTenant + `"}`), true},
		"a tenant that was taken out":    {Authorization{Tenants: []string{otherTenant}}, who(`{"tid":"` + ourTenant + `"}`), false},
		"nobody knows":                   {Authorization{Tenants: []string{ourTenant}}, new(Identity), false},
		"our organization":               {Authorization{Organizations: []string{"org_1"}}, who(`{"org_id":"org_1"}`), true},
		"one that was taken out":         {Authorization{Organizations: []string{"org_2"}}, who(`{"org_id":"org_1"}`), false},
		"a session without organization": {Authorization{Organizations: []string{"org_2"}}, who(`{}`), false},
	} {
		if got := (&Client{Authorization: tc.asked}).Admits(tc.who); got != tc.ok {
			t.Errorf("%s: got %v", name, got)
		}
	}
}
