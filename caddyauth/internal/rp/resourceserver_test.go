package rp

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pkce-auth/caddy-pkce-auth/test/provider"
)

const ourAPI = "https://api.test"

// apiBench is a bench with a resource server.
type apiBench struct {
	*bench
	server *ResourceServer
}

func newAPIBench(t testing.TB) *apiBench {
	b := newBench(t)
	return &apiBench{b, &ResourceServer{Client: b.client, Audiences: []string{ourAPI, "api://other-name"}}}
}

// brought is an access token as RFC 9068 has it, changed; nil takes a member
// out.
func (b *apiBench) brought(header, change map[string]any) string {
	h := map[string]any{"typ": "at+jwt"}
	maps.Copy(h, header)
	maps.DeleteFunc(h, func(_ string, v any) bool { return v == nil })
	set := map[string]any{
		"iss": b.op.URL, "aud": ourAPI, "sub": "alice", "client_id": "mobile", "jti": "1", "scope": "read",
		"iat": b.now.Unix(), "exp": b.now.Add(time.Hour).Unix(),
	}
	maps.Copy(set, change)
	maps.DeleteFunc(set, func(_ string, v any) bool { return v == nil })
	return b.op.Sign(h, set)
}

func (b *apiBench) accepts(t testing.TB, token string) error {
	t.Helper()
	_, err := b.server.Verify(t.Context(), NewSecret(token))
	return err
}

// refusedAt reports a token that is refused at another check than it should be;
// none: one that is not accepted.
func refusedAt(t *testing.T, err error, check string) {
	t.Helper()
	checkErr, _ := errors.AsType[*CheckError](err)
	switch {
	case check == "" && err != nil:
		t.Errorf("got %v, want it accepted", err)
	case check != "" && (checkErr == nil || checkErr.Check != check):
		t.Errorf("got %v, want check %s to fail", err, check)
	case check != "" && (!errors.Is(err, ErrInvalid) || errors.Is(err, ErrMisconfigured) || !strings.HasPrefix(err.Error(), "access token: "+check+": ")):
		t.Errorf("got %v, want ErrInvalid, and nothing said of the configuration", err)
	}
}

// R57, A112, F03, IDPS 23: each claim of an access token that a client brings,
// one wrong at a time, and the check that must see it.
func TestR57A112F03IDPS23BroughtAccessToken(t *testing.T) {
	b := newAPIBench(t)
	type claim = map[string]any
	for name, tc := range map[string]struct {
		claims claim
		check  string
	}{
		"as it should be":                                      {nil, ""},
		"IDPS23 aud in an array":                               {claim{"aud": []string{"x", ourAPI}}, ""},
		"aud by another of our names":                          {claim{"aud": "api://other-name"}, ""},
		"A112 another audience":                                {claim{"aud": "https://other.test"}, "aud"},
		"A112 an audience that begins like ours":               {claim{"aud": ourAPI + "/"}, "aud"},
		"A112 no audience":                                     {claim{"aud": nil}, "aud"},
		"A112 an empty audience":                               {claim{"aud": ""}, "aud"},
		"A112 an empty list of audiences":                      {claim{"aud": []string{}}, "aud"},
		"A112 our audience in an object":                       {claim{"aud": claim{ourAPI: ourAPI}}, "aud"},
		"A112 our audience beside what is no text":             {claim{"aud": []any{ourAPI, 1}}, "aud"},
		"R57 another issuer":                                   {claim{"iss": "https://evil.test"}, "iss"},
		"R57 the issuer with a slash":                          {claim{"iss": b.op.URL + "/"}, "iss"},
		"R57 no issuer":                                        {claim{"iss": nil}, "iss"},
		"R57 expired, within the skew":                         {claim{"exp": b.now.Add(-59 * time.Second).Unix()}, ""},
		"R57 expired":                                          {claim{"exp": b.now.Add(-time.Minute).Unix()}, "exp"},
		"R57 no exp":                                           {claim{"exp": nil}, "exp"},
		"R57 exp as a text":                                    {claim{"exp": "9999999999"}, "exp"},
		"not yet good, within the skew":                        {claim{"nbf": b.now.Add(time.Minute).Unix()}, ""},
		"not yet good":                                         {claim{"nbf": b.now.Add(61 * time.Second).Unix()}, "nbf"},
		"issued a week ago, and good":                          {claim{"iat": b.now.Add(-7 * 24 * time.Hour).Unix()}, ""},
		"F03 issued in an hour":                                {claim{"iat": b.now.Add(time.Hour).Unix()}, "iat"},
		"F03 no iat":                                           {claim{"iat": nil}, "iat"},
		"F03 no sub":                                           {claim{"sub": nil}, "sub"},
		"F03 an empty sub":                                     {claim{"sub": ""}, "sub"},
		"a sub with a line break":                              {claim{"sub": "a\nb"}, "sub"},
		"a client as the subject, as grants to itself have it": {claim{"sub": "mobile@clients"}, ""},
		"bound by DPoP (RFC 9449)":                             {claim{"cnf": claim{"jkt": "x"}}, "cnf"},
		"bound by mutual TLS (RFC 8705)":                       {claim{"cnf": claim{"x5t#S256": "x"}}, "cnf"},
		"bound to nothing":                                     {claim{"cnf": nil, "CNF": claim{"jkt": "x"}}, "claims"},
		"A111 a logout token of the wrong type":                {claim{"events": claim{logoutEvent: claim{}}}, "kind"},
		"A111 another security event":                          {claim{"events": nil, "Events": claim{}}, "claims"},
		"F05 a subject that is imitated":                       {claim{"SUB": "admin"}, "claims"},
		"F05 an audience that is imitated":                     {claim{"Aud": ourAPI}, "claims"},
		"acr and auth_time, as RFC 9068 allows":                {claim{"acr": "1", "auth_time": b.now.Unix(), "amr": []string{"pwd"}}, ""},
	} {
		t.Run(name, func(t *testing.T) { refusedAt(t, b.accepts(t, b.brought(nil, tc.claims)), tc.check) })
	}
}

// R57, A111, IDPS 23: where the header does not say that a token is an access
// token, nothing that could be an ID token passes, of whichever client.
func TestR57A111IDPS23KindsOfTokens(t *testing.T) {
	b := newAPIBench(t)
	type claim = map[string]any
	jwt := claim{"typ": "JWT"}
	for name, tc := range map[string]struct {
		header, claims claim
		check          string
	}{
		"the type in full":                                     {claim{"typ": "application/at+jwt"}, nil, ""},
		"the type in capitals":                                 {claim{"typ": "AT+JWT"}, nil, ""},
		"IDPS23 JWT, with client_id and scope":                 {jwt, nil, ""},
		"IDPS23 Auth0's own profile":                           {jwt, claim{"client_id": nil, "azp": "mobile", "scope": "openid profile read", "aud": []string{ourAPI, b.op.URL + "/userinfo"}}, ""},
		"IDPS23 Auth0's, of a client for itself":               {jwt, claim{"client_id": nil, "azp": "mobile", "scope": nil, "gty": "client-credentials", "sub": "mobile@clients"}, ""},
		"Entra's":                                              {jwt, claim{"client_id": nil, "azp": "mobile", "scope": nil, "scp": "access_as_user", "ver": "2.0"}, ""},
		"Okta's, without a type":                               {claim{"typ": nil}, claim{"client_id": nil, "cid": "mobile", "scope": nil, "scp": []string{"read"}}, ""},
		"Keycloak's, which says Bearer":                        {jwt, claim{"client_id": nil, "azp": "mobile", "scope": nil, "typ": "Bearer", "sid": "1"}, ""},
		"Cognito's, if it had an audience":                     {claim{"typ": nil}, claim{"token_use": "access"}, ""},
		"A111 an ID token for us":                              {jwt, claim{"aud": "public", "client_id": nil, "scope": nil, "nonce": "n"}, "aud"},
		"A111 an ID token for us, and the API":                 {jwt, claim{"aud": []string{"public", ourAPI}, "azp": "public", "client_id": nil, "scope": nil}, "kind"},
		"A111 an ID token for us, and the API, and a scope":    {jwt, claim{"aud": []string{"public", ourAPI}, "client_id": nil}, "kind"},
		"A111 an ID token for another client, and the API":     {jwt, claim{"aud": []string{"mobile", ourAPI}, "azp": "mobile", "client_id": nil}, "kind"},
		"A111 an ID token for a client that is called the API": {jwt, claim{"client_id": nil, "scope": nil}, "kind"},
		"A111 the same, with azp":                              {jwt, claim{"client_id": nil, "azp": ourAPI}, "kind"},
		"A111 the same, without a type":                        {claim{"typ": nil}, claim{"client_id": nil, "scope": nil}, "kind"},
		"A111 a nonce":                                         {jwt, claim{"nonce": "n"}, "kind"},
		"A111 a nonce that is null":                            {jwt, claim{"nonce": json.RawMessage("null")}, "kind"},
		"A111 at_hash":                                         {jwt, claim{"at_hash": "x"}, "kind"},
		"A111 c_hash":                                          {jwt, claim{"c_hash": "x"}, "kind"},
		"A111 Keycloak's ID token":                             {jwt, claim{"typ": "ID"}, "kind"},
		"A111 Keycloak's refresh token":                        {jwt, claim{"typ": "Refresh"}, "kind"},
		"A111 Cognito's ID token":                              {claim{"typ": nil}, claim{"token_use": "id"}, "kind"},
		"a kind that is no text":                               {jwt, claim{"typ": []string{"Bearer"}}, "kind"},
		"an azp that is no text":                               {jwt, claim{"azp": 1}, "kind"},
		"A111 a logout token":                                  {claim{"typ": "logout+jwt"}, nil, "header"},
		"A111 a logout token of the type JWT":                  {jwt, claim{"events": claim{logoutEvent: claim{}}}, "kind"},
		"A111 a token of introspection":                        {claim{"typ": "token-introspection+jwt"}, nil, "header"},
		"A111 a client's assertion":                            {claim{"typ": "client-authentication+jwt"}, nil, "header"},
		"A111 a proof of possession":                           {claim{"typ": "dpop+jwt"}, nil, "header"},
		"a type that is nobody's":                              {claim{"typ": "JOSE"}, nil, "header"},
		"a critical extension":                                 {claim{"crit": []string{"exp"}, "exp": 1}, nil, "header"},
		"another of the provider's algorithms":                 {claim{"alg": "ES256"}, nil, ""},
	} {
		t.Run(name, func(t *testing.T) { refusedAt(t, b.accepts(t, b.brought(tc.header, tc.claims)), tc.check) })
	}
}

// A110, F04: what stands around the claims, as of ID tokens.
func TestA110F04BroughtEnvelope(t *testing.T) {
	b := newAPIBench(t)
	good := b.brought(nil, nil)
	refusedAt(t, b.accepts(t, good), "")
	parts := strings.Split(good, ".")
	encode := base64.RawURLEncoding.EncodeToString
	forger := start(t, provider.Config{})
	forger.RotateKeys()
	for name, tc := range map[string]struct{ token, check string }{
		"nothing":                         {"", "format"},
		"an opaque token":                 {"opaque", "format"},
		"larger than is looked at":        {good + strings.Repeat("A", maxTokenSize), "format"},
		"white space around it":           {" " + good, "format"},
		"encrypted":                       {"a.b.c.d.e", "format"},
		"the JSON serialization":          {`{"payload":"` + parts[1] + `","signatures":[]}`, "format"},
		"unsigned":                        {encode([]byte(`{"alg":"none","typ":"at+jwt"}`)) + "." + parts[1] + ".", "header"},
		"signed with the client's secret": {encode([]byte(`{"alg":"HS256","typ":"at+jwt"}`)) + "." + parts[1] + "." + parts[2], "header"},
		"another's signature":             {good[:len(good)-8] + "AAAAAAAA", "signature"},
		"another's claims":                {parts[0] + "." + encode([]byte(`{"sub":"admin"}`)) + "." + parts[2], "signature"},
		"signed by somebody else":         {forger.Sign(map[string]any{"typ": "at+jwt"}, map[string]any{"iss": b.op.URL, "aud": ourAPI, "sub": "alice"}), "signature"},
	} {
		t.Run(name, func(t *testing.T) {
			err := b.accepts(t, tc.token)
			if checkErr, _ := errors.AsType[*CheckError](err); checkErr == nil || checkErr.Check != tc.check || !errors.Is(err, ErrInvalid) {
				t.Errorf("got %v, want check %s to fail", err, tc.check)
			}
		})
	}
}

// R20, IDPS 38: who may not log in may not bring a token either.
func TestR20IDPS38BroughtByStrangers(t *testing.T) {
	b := newAPIBench(t)
	b.client.Organizations = []string{"org_ours"}
	refusedAt(t, b.accepts(t, b.brought(nil, map[string]any{"org_id": "org_ours"})), "")
	refusedAt(t, b.accepts(t, b.brought(nil, map[string]any{"org_id": "org_other"})), "organization")
	refusedAt(t, b.accepts(t, b.brought(nil, nil)), "organization")
	b = newAPIBench(t)
	b.client.Tenants = []string{ourTenant}
	refusedAt(t, b.accepts(t, b.brought(nil, map[string]any{"tid": ourTenant})), "")
	refusedAt(t, b.accepts(t, b.brought(nil, map[string]any{"tid": "other"})), "tenant")
	refusedAt(t, b.accepts(t, b.brought(nil, nil)), "tenant")

	one, issuer := templateBench(t, ourTenant)
	b = &apiBench{one, &ResourceServer{Client: one.client, Audiences: []string{ourAPI}}}
	refusedAt(t, b.accepts(t, b.brought(nil, map[string]any{"tid": ourTenant, "iss": issuer(ourTenant)})), "")
	refusedAt(t, b.accepts(t, b.brought(nil, map[string]any{"tid": "other", "iss": issuer("other")})), "tenant")
	refusedAt(t, b.accepts(t, b.brought(nil, map[string]any{"tid": ourTenant, "iss": issuer("other")})), "iss")
}

// A119: nobody can tell what a token is worth whose provider is not there: that is
// no token, and not one that is known to be bad.
func TestA119BroughtWithoutTheProvider(t *testing.T) {
	b := newAPIBench(t)
	good := b.brought(nil, nil)
	b.op.Misbehave(provider.Faults{Answer: map[string]func(http.ResponseWriter, *http.Request) bool{
		"metadata": provider.Status(http.StatusServiceUnavailable, "text/plain", ""),
	}})
	token, err := b.server.Verify(t.Context(), NewSecret(good))
	if token != nil || !errors.Is(err, ErrUnavailable) || errors.Is(err, ErrInvalid) {
		t.Errorf("got %v, %v", token, err)
	}
}

// A102, IDPS 32, M32: ten thousand forged access tokens within ten seconds, with
// unknown keys and with known ones, cost a handful of fetches. A login behind a
// rotation goes on, a logout by the provider, too, and so do the tokens of a
// key that is known; those of a new one wait for a minute at the most.
func TestA102IDPS32M32ForgedAccessTokens(t *testing.T) {
	b := newAPIBench(t)
	b.op.Change(func(cfg *provider.Config) { cfg.Now = func() time.Time { return b.now } })
	forger := start(t, provider.Config{})
	forger.RotateKeys()
	good := b.brought(nil, nil)
	known := good[:len(good)-8] + "AAAAAAAA"
	for i := range 10_000 {
		forged := known
		if i%100 != 0 {
			forged = encodedHeader(fmt.Sprintf(`{"alg":"RS256","typ":"at+jwt","kid":"%d"}`, i)) + good[strings.IndexByte(good, '.'):]
		}
		if err := b.accepts(t, forged); !errors.Is(err, ErrInvalid) {
			t.Fatalf("forged token %d: got %v", i, err)
		}
		b.now = b.now.Add(time.Millisecond)
	}
	if got := len(b.op.Requests("keys")); got > 4 {
		t.Errorf("10 000 forged tokens: got %d fetches", got)
	}
	refusedAt(t, b.accepts(t, good), "")
	b.op.RotateKeys()
	renewed := b.brought(nil, nil)
	if err := b.accepts(t, renewed); !errors.Is(err, ErrNoKeys) || !errors.Is(err, ErrInvalid) {
		t.Errorf("an access token of a new key, during the storm: got %v, want ErrNoKeys", err)
	}
	if _, err := b.client.VerifyLogoutToken(t.Context(), metadata(t, b.client), NewSecret(b.op.LogoutToken("public", "alice", "", provider.LogoutFault{}))); err != nil {
		t.Errorf("a logout behind the rotation, during the storm: %v", err)
	}
	b.op.RotateKeys()
	if err := b.verify(t, b.op.Sign(nil, b.claims(nil))); err != nil {
		t.Errorf("a login behind another rotation, during the storm: %v", err)
	}
	b.op.RotateKeys()
	b.now = b.now.Add(3 * refillEvery)
	refusedAt(t, b.accepts(t, b.brought(nil, nil)), "")
}

// A102: while the provider has no keys to give, forged tokens do not ask for
// them one after the other; a login does.
func TestA102M31ForgedAccessTokensWithoutKeys(t *testing.T) {
	b := newAPIBench(t)
	metadata(t, b.client)
	b.op.Misbehave(provider.Faults{Answer: map[string]func(http.ResponseWriter, *http.Request) bool{"keys": provider.Status(500, "text/plain", "")}})
	good := b.brought(nil, nil)
	for range 1000 {
		if err := b.accepts(t, good); !errors.Is(err, ErrNoKeys) || !errors.Is(err, ErrUnavailable) || errors.Is(err, ErrInvalid) {
			t.Fatalf("got %v, want ErrNoKeys and ErrUnavailable", err)
		}
	}
	if got := len(b.op.Requests("keys")); got > 2 { // the HTTP client may try twice
		t.Errorf("1000 tokens: got %d fetches", got)
	}
	b.op.Misbehave(provider.Faults{})
	if err := b.accepts(t, good); !errors.Is(err, ErrNoKeys) {
		t.Errorf("at once: got %v, want ErrNoKeys", err)
	}
	if err := b.verify(t, b.op.Sign(nil, b.claims(nil))); err != nil {
		t.Errorf("a login: %v", err)
	}
	refusedAt(t, b.accepts(t, good), "")
}

func encodedHeader(text string) string { return base64.RawURLEncoding.EncodeToString([]byte(text)) }

// A token that was verified is not verified again for a minute, nor beyond its
// end; what it is remembered by is not the token.
func TestVerifiedTokens(t *testing.T) {
	b := newAPIBench(t)
	good := b.brought(nil, map[string]any{"exp": b.now.Add(2 * time.Minute).Unix()})
	refusedAt(t, b.accepts(t, good), "")
	b.op.RotateKeys() // withdraws the key
	b.now = b.now.Add(59 * time.Second)
	if err := b.verify(t, b.op.Sign(nil, b.claims(nil))); err != nil { // has the new keys fetched
		t.Fatal(err)
	}
	refusedAt(t, b.accepts(t, good), "")
	b.now = b.now.Add(time.Second)
	refusedAt(t, b.accepts(t, good), "signature")

	short := b.brought(nil, map[string]any{"exp": b.now.Add(-50 * time.Second).Unix()})
	refusedAt(t, b.accepts(t, short), "")
	b.now = b.now.Add(10 * time.Second)
	refusedAt(t, b.accepts(t, short), "exp")

	for sum, kept := range b.server.verified.tokens {
		for _, token := range []string{good, short} {
			if strings.Contains(string(sum[:])+string(kept.token.Claims.Raw()), token) {
				t.Error("a token is kept in the clear")
			}
		}
	}
}

// What is remembered of tokens is bounded, whoever has many.
func TestVerifiedTokensAreBounded(t *testing.T) {
	var v verifiedTokens
	now := time.Unix(1_800_000_000, 0)
	token := &AccessToken{GoodUntil: now.Add(time.Hour)}
	sum := func(i int) [sha256.Size]byte { return sha256.Sum256([]byte(fmt.Sprint(i))) }
	const size = maxVerified / 128 // so many fit, to the byte
	for i := range 1000 {
		v.put(sum(i), token, size, now)
		if i%128 != 127 { // the last that fits would not, again
			v.put(sum(i), token, size, now)
		}
		if v.get(sum(i), now) == nil || v.get(sum(i-i%128), now) == nil {
			t.Fatalf("token %d is not remembered, or one before", i)
		}
		if len(v.tokens) != i%128+1 || v.size > maxVerified || v.size != size*len(v.tokens) {
			t.Fatalf("%d tokens of %d bytes are remembered", len(v.tokens), v.size)
		}
	}
}

// FuzzAccessToken: whatever passes all checks but that of the signature is, as
// another reader of JSON sees it, an access token of this issuer for one of our
// audiences, and nothing that an ID token could be. Nothing passes without a
// signature.
func FuzzAccessToken(f *testing.F) {
	b := newAPIBench(f)
	m := metadata(f, b.client)
	for _, token := range []string{
		b.brought(nil, nil), b.brought(map[string]any{"typ": "JWT"}, nil), b.op.Sign(nil, b.claims(nil)),
		b.brought(map[string]any{"typ": "JWT"}, map[string]any{"aud": []string{"public", ourAPI}}),
		b.brought(nil, map[string]any{"cnf": map[string]any{"jkt": "x"}}),
	} {
		parts := strings.Split(token, ".")
		f.Add(mustDecode(f, parts[0]), mustDecode(f, parts[1]))
	}
	f.Fuzz(func(t *testing.T, header, payload []byte) {
		raw := encodedHeader(string(header)) + "." + encodedHeader(string(payload)) + ".AAAA"
		if token, err := b.server.Verify(t.Context(), NewSecret(raw)); err == nil {
			t.Fatalf("accepted an unsigned token: %+v", token)
		}
		c := &candidate{kind: ofAccessToken, client: b.client, metadata: m, raw: raw, audiences: b.server.Audiences, now: b.now, payload: payload}
		for _, step := range accessTokenChecks {
			if step.name != "signature" && step.check(t.Context(), c) != nil {
				return
			}
		}
		var h struct{ Typ string }
		var members map[string]json.RawMessage
		var values struct {
			Iss, Sub, Nonce string
			Exp             float64
			Cnf             json.RawMessage
		}
		if json.Unmarshal(header, &h) != nil || json.Unmarshal(payload, &members) != nil || json.Unmarshal(payload, &values) != nil {
			t.Fatalf("accepted %q", payload)
		}
		var aud []string
		if json.Unmarshal(members["aud"], &aud) != nil {
			aud = make([]string, 1)
			_ = json.Unmarshal(members["aud"], &aud[0])
		}
		forUs := slices.ContainsFunc(aud, func(name string) bool { return slices.Contains(b.server.Audiences, name) })
		if values.Iss != b.op.URL || values.Sub == "" || !forUs || values.Cnf != nil || values.Exp <= float64(b.now.Add(-DefaultClockSkew).Unix()) {
			t.Fatalf("accepted %q", payload)
		}
		if token := c.accessToken(); token.Subject != values.Sub {
			t.Fatalf("read %q as %+v", payload, token)
		}
		if !isAccessTokenType(h.Typ) && (values.Nonce != "" || slices.Contains(aud, "public")) {
			t.Fatalf("accepted what may be an ID token: %q %q", header, payload)
		}
	})
}

// BenchmarkVerifyAccessToken is the price of a token that a client brings: the
// first time, and again within a minute.
func BenchmarkVerifyAccessToken(b *testing.B) {
	bench := newAPIBench(b)
	raw := NewSecret(bench.brought(nil, nil))
	b.Run("first", func(b *testing.B) {
		for b.Loop() {
			bench.server.verified.tokens = nil
			if _, err := bench.server.Verify(b.Context(), raw); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("again", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, err := bench.server.Verify(b.Context(), raw); err != nil {
				b.Fatal(err)
			}
		}
	})
}
