package rp

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pkce-auth/caddy-pkce-auth/caddyauth/internal/claims"
	"github.com/pkce-auth/caddy-pkce-auth/test/provider"
)

// newLogoutBench is a bench whose provider has the bench's clock, for it makes
// the logout tokens itself.
func newLogoutBench(t testing.TB) *bench {
	b := newBench(t)
	b.op.Change(func(cfg *provider.Config) { cfg.Now = func() time.Time { return b.now } })
	return b
}

// logsIn has the client accept an ID token, signed with RS256.
func (b *bench) logsIn(t testing.TB) {
	t.Helper()
	if err := b.verify(t, b.op.Sign(nil, b.claims(nil))); err != nil {
		t.Fatal(err)
	}
}

// logoutToken is an honest one, but for a fault.
func (b *bench) logoutToken(fault provider.LogoutFault) string {
	return b.op.LogoutToken("public", "alice", "sid-1", fault)
}

func (b *bench) verifyLogout(t testing.TB, token string) error {
	t.Helper()
	_, err := b.client.VerifyLogoutToken(t.Context(), metadata(t, b.client), NewSecret(token))
	return err
}

// failsAt reports a logout token that fails at another check than it should;
// none: one that is not accepted.
func failsAt(t *testing.T, err error, check string) {
	t.Helper()
	checkErr, _ := errors.AsType[*CheckError](err)
	switch {
	case check == "" && err != nil:
		t.Errorf("got %v, want it accepted", err)
	case check != "" && (checkErr == nil || checkErr.Check != check):
		t.Errorf("got %v, want check %s to fail", err, check)
	case check != "" && (!errors.Is(err, ErrInvalid) || errors.Is(err, ErrMisconfigured) || !strings.HasPrefix(err.Error(), "logout token: "+check+": ")):
		t.Errorf("got %v, want ErrInvalid, and nothing said of the configuration", err)
	}
}

// M120, R44: what an honest logout token says, with a subject, a session, or
// both, and what is to be remembered of it.
func TestM120R44LogoutToken(t *testing.T) {
	b := newLogoutBench(t)
	for name, tc := range map[string]struct{ sub, sid string }{
		"M120 a session of a subject": {"alice", "sid-1"},
		"M120 all of a subject":       {"alice", ""},
		"M120 a session":              {"", "sid-1"},
	} {
		raw := b.op.LogoutToken("public", tc.sub, tc.sid, provider.LogoutFault{})
		token, err := b.client.VerifyLogoutToken(t.Context(), metadata(t, b.client), NewSecret(raw))
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if token.Subject != tc.sub || token.SessionID != tc.sid || token.Issuer != b.op.URL || !strings.HasPrefix(token.ID, "jti-") {
			t.Errorf("%s: got %+v", name, token)
		}
		if !token.GoodUntil.Equal(token.Expiry.Add(DefaultClockSkew)) {
			t.Errorf("%s: good until %s, expires %s", name, token.GoodUntil, token.Expiry)
		}
		if !token.Issued.Equal(b.now) || !token.Expiry.Equal(b.now.Add(2*time.Minute)) {
			t.Errorf("%s: issued %s, until %s, now is %s", name, token.Issued, token.Expiry, b.now)
		}
	}
}

// M121 to M135, R44: each fault that the provider can make, and the check that
// must see it. The keys say which row of the table it is.
func TestM121M135R44LogoutFaults(t *testing.T) {
	b := newLogoutBench(t)
	b.logsIn(t)
	want := map[string]string{
		"M121 alg none":                             "header",
		"M122 signed with the client secret":        "header",
		"M122 signed with a published key":          "header",
		"M122 signed in another way than ID tokens": "algorithm",
		"M122 said to be of another algorithm":      "algorithm",
		"M123 no events":                            "events",
		"M124 another event":                        "events",
		"M125 a nonce":                              "nonce",
		"M126 another audience":                     "aud",
		"M126 no audience":                          "aud",
		"M127 another issuer":                       "iss",
		"M127 no issuer":                            "iss",
		"M128 no iat":                               "iat",
		"M128 issued an hour ago":                   "iat",
		"M128 issued in an hour":                    "iat",
		"M129 no jti":                               "jti",
		"M129 an empty jti":                         "jti",
		"M130 no exp":                               "exp",
		"M130 expired an hour ago":                  "exp",
		"M130 good for a year":                      "exp",
		"M131 events in an array":                   "events",
		"M131 events as a string":                   "events",
		"M131 an event that is true":                "events",
		"M131 an event that is a text":              "events",
		"M131 an event that is nothing":             "events",
		"M132 about nobody":                         "sub_or_sid",
		"M133 an ID token":                          "events",
		"M133 the ID token of a refresh":            "events",
		"M133 an access token":                      "header",
		"M135 the typ of an access token":           "header",
		"M135 the typ of a security event":          "header",
		"M135 a typ that is a number":               "header",
		"M135 an empty typ":                         "header",
	}
	faults := b.op.LogoutFaults()
	if got, want := slices.Sorted(maps.Keys(faults)), slices.Sorted(maps.Keys(want)); !slices.Equal(got, want) {
		t.Fatalf("the provider's faults: got %q, want %q", got, want)
	}
	for name, fault := range faults {
		t.Run(name, func(t *testing.T) { failsAt(t, b.verifyLogout(t, b.logoutToken(fault)), want[name]) })
	}
	failsAt(t, b.verifyLogout(t, b.logoutToken(provider.LogoutFault{})), "")
}

// M123 to M132, R44: the bounds of each claim, one at a time.
func TestM123M132R44LogoutClaims(t *testing.T) {
	b := newLogoutBench(t)
	at := func(d time.Duration) int64 { return b.now.Add(d).Unix() }
	event := map[string]any{}
	for _, tc := range []struct {
		name   string
		change map[string]any
		check  string
	}{
		{"M123 events that are null", map[string]any{"events": json.RawMessage("null")}, "events"},
		{"M124 another event beside it", map[string]any{"events": map[string]any{logoutEvent: event, "x": 1}}, ""},
		{"M124 the event in other letters", map[string]any{"events": map[string]any{strings.ToUpper(logoutEvent): event}}, "events"},
		{"M131 an event that says something", map[string]any{"events": map[string]any{logoutEvent: map[string]any{"reason": "x"}}}, ""},
		{"M131 an event that is a list", map[string]any{"events": map[string]any{logoutEvent: []any{event}}}, "events"},
		{"M125 an empty nonce", map[string]any{"nonce": ""}, "nonce"},
		{"M125 a nonce that is null", map[string]any{"nonce": json.RawMessage("null")}, "nonce"},
		{"M125 a nonce in other letters", map[string]any{"Nonce": "x"}, "claims"},
		{"M126 an audience in an array", map[string]any{"aud": []string{"public"}}, ""},
		{"M126 an empty array of audiences", map[string]any{"aud": []string{}}, "aud"},
		{"M126 an audience that begins with ours", map[string]any{"aud": "public1"}, "aud"},
		{"M126 two audiences without azp", map[string]any{"aud": []string{"public", "other"}}, "azp"},
		{"M126 two audiences with azp", map[string]any{"aud": []string{"other", "public"}, "azp": "public"}, ""},
		{"M126 another azp", map[string]any{"azp": "other"}, "azp"},
		{"M127 the issuer with a slash", map[string]any{"iss": b.op.URL + "/"}, "iss"},
		{"M127 an issuer in an array", map[string]any{"iss": []string{b.op.URL}}, "iss"},
		{"M128 issued within the skew", map[string]any{"iat": at(time.Minute)}, ""},
		{"M128 issued in the future", map[string]any{"iat": at(61 * time.Second)}, "iat"},
		{"M128 issued as long ago as may be", map[string]any{"iat": at(-11 * time.Minute)}, ""},
		{"M128 issued longer ago", map[string]any{"iat": at(-11*time.Minute - time.Second)}, "iat"},
		{"M128 a time of issue in quotes", map[string]any{"iat": "1800000000"}, "iat"},
		{"M129 a jti that is a number", map[string]any{"jti": 7}, "jti"},
		{"M129 a jti that is null", map[string]any{"jti": json.RawMessage("null")}, "jti"},
		{"M129 a jti of 256 bytes", map[string]any{"jti": strings.Repeat("j", 256)}, ""},
		{"M129 a jti of 257 bytes", map[string]any{"jti": strings.Repeat("j", 257)}, "jti"},
		{"M129 a jti of 129 letters in 258 bytes", map[string]any{"jti": strings.Repeat("é", 129)}, "jti"},
		{"M130 expired within the skew", map[string]any{"exp": at(-59 * time.Second)}, ""},
		{"M130 expired beyond the skew", map[string]any{"exp": at(-60 * time.Second)}, "exp"},
		{"M130 good for as long as may be", map[string]any{"exp": at(11 * time.Minute)}, ""},
		{"M130 good for longer", map[string]any{"exp": at(11*time.Minute + time.Second)}, "exp"},
		{"M130 an end in quotes", map[string]any{"exp": "1800000060"}, "exp"},
		{"M130 an end beyond all time", map[string]any{"exp": 1e300}, "exp"},
		{"valid from the future", map[string]any{"nbf": at(61 * time.Second)}, "nbf"},
		{"valid from within the skew", map[string]any{"nbf": at(time.Minute)}, ""},
		{"M132 neither, in other letters", map[string]any{"sub": nil, "sid": nil, "SID": "sid-1"}, "claims"},
		{"M132 both null", map[string]any{"sub": json.RawMessage("null"), "sid": json.RawMessage("null")}, "sub_or_sid"},
		{"M132 a session, and a subject that is null", map[string]any{"sub": json.RawMessage("null")}, ""},
		{"M132 an empty subject beside a session", map[string]any{"sub": ""}, "sub"},
		{"M132 a subject that is a number", map[string]any{"sub": 7}, "sub"},
		{"M132 a subject of 255 characters", map[string]any{"sub": strings.Repeat("s", 255)}, ""},
		{"M132 a subject of 256 characters", map[string]any{"sub": strings.Repeat("s", 256)}, "sub"},
		{"M132 a NUL in the subject", map[string]any{"sub": "alice\x00"}, "sub"},
		{"M132 an empty session beside a subject", map[string]any{"sid": ""}, "sid"},
		{"M132 a session that is a list", map[string]any{"sid": []string{"sid-1"}}, "sid"},
		{"M132 a session of 255 characters", map[string]any{"sid": strings.Repeat("s", 255)}, ""},
		{"M132 a session of 256 characters", map[string]any{"sid": strings.Repeat("s", 256)}, "sid"},
		{"M132 a line break in the session", map[string]any{"sid": "sid-1\n"}, "sid"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			token := b.logoutToken(provider.LogoutFault{Change: func(_, claims map[string]any) {
				maps.Copy(claims, tc.change)
				maps.DeleteFunc(claims, func(_ string, v any) bool { return v == nil })
			}})
			failsAt(t, b.verifyLogout(t, token), tc.check)
		})
	}
}

// M121, M122, M133, M135, A111, F04: the token around the claims. Anybody may
// send one, so whatever it looks like, it says nothing of the configuration.
func TestM121M135A111F04LogoutEnvelope(t *testing.T) {
	b := newLogoutBench(t)
	typ := func(typ any) string { return b.logoutToken(provider.LogoutHeader("typ", typ)) }
	good := b.logoutToken(provider.LogoutFault{})
	parts := strings.Split(good, ".")
	encode := func(s string) string { return base64.RawURLEncoding.EncodeToString([]byte(s)) }
	forger := start(t, provider.Config{})
	forger.RotateKeys()
	duplicate := strings.TrimSuffix(string(mustDecode(t, parts[1])), "}") + `,"jti":"another"}`
	for _, tc := range []struct {
		name, token, check string
	}{
		{"M135 no typ", typ(nil), ""},
		{"M135 JWT", typ("JWT"), ""},
		{"M135 jwt", typ("jwt"), ""},
		{"M135 the typ in full", typ("application/logout+jwt"), ""},
		{"M135 the typ in capitals", typ("Application/Logout+JWT"), ""},
		{"M135 an access token", typ("at+jwt"), "header"},
		{"M135 a proof", typ("dpop+jwt"), "header"},
		{"M135 a typ that begins with ours", typ("logout+jwt2"), "header"},
		{"M135 a typ in an array", typ([]string{"logout+jwt"}), "header"},
		{"M133 an ID token", b.op.Sign(map[string]any{"typ": "JWT"}, b.claims(nil)), "events"},
		{"M133 the ID token of a refresh", b.op.Sign(nil, b.claims(map[string]any{"nonce": nil, "jti": "x"})), "events"},
		{"A111 an access token", b.op.Sign(map[string]any{"typ": "at+jwt"}, b.claims(map[string]any{"nonce": nil, "jti": "x"})), "header"},
		{"A111 an access token of the typ JWT", b.op.Sign(map[string]any{"typ": "JWT"}, b.claims(map[string]any{"nonce": nil, "jti": "x"})), "events"},
		{"F04 space in front", " " + good, "format"},
		{"F04 JSON serialization", `{"protected":"` + parts[0] + `","payload":"` + parts[1] + `","signature":"` + parts[2] + `"}`, "format"},
		{"nothing", "", "format"},
		{"encrypted, as if", good + ".AAAA.AAAA", "format"},
		{"a megabyte", good + strings.Repeat("A", 1<<20), "format"},
		{"M121 alg nOnE with a signature", encode(`{"alg":"nOnE"}`) + "." + parts[1] + "." + parts[2], "header"},
		{"M121 no algorithm", encode(`{}`) + "." + parts[1] + "." + parts[2], "header"},
		{"M122 an algorithm that is not advertised", encode(`{"alg":"PS512"}`) + "." + parts[1] + "." + parts[2], "header"},
		{"a critical extension", b.logoutToken(provider.LogoutHeader("crit", []string{"exp"})), "header"},
		{"another's signature", forger.Sign(nil, map[string]any{"iss": b.op.URL}), "signature"},
		{"another's signature under a known key ID", forger.Sign(map[string]any{"kid": ""}, map[string]any{"iss": b.op.URL}), "signature"},
		{"no signature", parts[0] + "." + parts[1] + ".", "signature"},
		{"other claims", parts[0] + "." + encode(duplicate) + "." + parts[2], "signature"},
	} {
		t.Run(tc.name, func(t *testing.T) { failsAt(t, b.verifyLogout(t, tc.token), tc.check) })
	}
}

func mustDecode(t testing.TB, text string) []byte {
	t.Helper()
	data, err := base64.RawURLEncoding.DecodeString(text)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// M122: a token that is well signed, by a key that the provider publishes, in an
// algorithm that it advertises, is none of ours if our ID tokens are signed in
// another. Nobody knows before the first login, and a provider that changes is
// followed with the next one. A token that was refused says nothing.
func TestM122AlgorithmOfIDTokens(t *testing.T) {
	b := newLogoutBench(t)
	signedWith := func(algorithm string) string { return b.logoutToken(provider.LogoutHeader("alg", algorithm)) }
	idToken := func(algorithm string, change map[string]any) string {
		return b.op.Sign(map[string]any{"alg": algorithm}, b.claims(change))
	}
	failsAt(t, b.verifyLogout(t, signedWith("ES256")), "")
	failsAt(t, b.verifyLogout(t, signedWith("RS256")), "")
	if err := b.verify(t, idToken("RS256", nil)); err != nil {
		t.Fatal(err)
	}
	failsAt(t, b.verifyLogout(t, signedWith("RS256")), "")
	failsAt(t, b.verifyLogout(t, signedWith("ES256")), "algorithm")
	if err := b.verify(t, idToken("ES256", map[string]any{"sub": ""})); err == nil {
		t.Fatal("an ID token without a subject is accepted")
	}
	failsAt(t, b.verifyLogout(t, signedWith("ES256")), "algorithm")
	if err := b.verify(t, idToken("ES256", nil)); err != nil {
		t.Fatal(err)
	}
	failsAt(t, b.verifyLogout(t, signedWith("ES256")), "")
	failsAt(t, b.verifyLogout(t, signedWith("RS256")), "algorithm")
}

// M89, F05: no claim that decides on a logout may be imitated, or stand twice.
func TestM129M131F05ImitatedLogoutClaims(t *testing.T) {
	b := newLogoutBench(t)
	for _, name := range []string{"iss", "sub", "aud", "azp", "exp", "nbf", "iat", "nonce", "sid", "jti", "events"} {
		for _, imitation := range []string{strings.ToUpper(name), strings.ToUpper(name[:1]) + name[1:]} {
			failsAt(t, b.verifyLogout(t, b.logoutToken(provider.LogoutClaim(imitation, "x"))), "claims")
		}
	}
	for _, payload := range []string{`{"jti":"a","jti":"b"}`, `{"sid":"a","\u0073id":"b"}`, `{"events":{},"events":{}}`} {
		if err := checkClaims(t.Context(), &candidate{kind: ofLogoutToken, payload: []byte(payload)}); err == nil {
			t.Errorf("%s: got no error", payload)
		}
	}
	if slices.Contains(guardedClaims, "jti") || slices.Contains(guardedClaims, "events") {
		t.Error("the names of ID tokens have become those of logout tokens")
	}
}

// M85, A111: a logout token is no ID token, even where it has no typ of its own
// and where no nonce is wanted: after a refresh.
func TestM85A111LogoutTokenAsIDToken(t *testing.T) {
	b := newLogoutBench(t)
	before := &IDToken{Subject: "alice", Claims: mustClaims(t, `{"iss":"`+b.op.URL+`"}`)}
	verify := func(token string, previous *IDToken) error {
		_, err := b.client.VerifyIDToken(t.Context(), metadata(t, b.client), NewSecret(token), Expected{Nonce: NewSecret("the-nonce"), Previous: previous})
		return err
	}
	asIDToken := func(events any) string {
		return b.logoutToken(provider.LogoutFault{Change: func(header, claims map[string]any) {
			header["typ"] = "JWT"
			claims["events"] = events
		}})
	}
	for name, tc := range map[string]struct {
		token    string
		previous *IDToken
		check    string
	}{
		"A111 at a login, with its typ":           {b.logoutToken(provider.LogoutFault{}), nil, "header"},
		"A111 at a login, with the typ JWT":       {asIDToken(map[string]any{logoutEvent: map[string]any{}}), nil, "events"},
		"A111 at a refresh, with its typ":         {b.logoutToken(provider.LogoutFault{}), before, "header"},
		"A111 at a refresh, with the typ JWT":     {asIDToken(map[string]any{logoutEvent: map[string]any{}}), before, "events"},
		"A111 at a refresh, the event being null": {asIDToken(map[string]any{logoutEvent: nil}), before, "events"},
		"an ID token with other events":           {asIDToken(map[string]any{"birthday": "today"}), before, ""},
		"an ID token with a list of events":       {asIDToken([]string{logoutEvent}), before, ""},
	} {
		checkErr, failed := errors.AsType[*CheckError](verify(tc.token, tc.previous))
		if failed != (tc.check != "") || failed && checkErr.Check != tc.check {
			t.Errorf("%s: got %v, want check %q to fail", name, checkErr, tc.check)
		}
	}
}

func mustClaims(t testing.TB, text string) claims.Set {
	t.Helper()
	set, err := claims.Parse([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return set
}

// A118: at a provider for many tenants, a tenant's logout token is about its own
// users, and one of a tenant that may not log in is nobody's business.
func TestA118M127LogoutTokenOfATenant(t *testing.T) {
	b, issuer := templateBench(t, ourTenant)
	b.op.Change(func(cfg *provider.Config) { cfg.Now = func() time.Time { return b.now } })
	token := func(change map[string]any) string {
		return b.logoutToken(provider.LogoutFault{Change: func(_, claims map[string]any) { maps.Copy(claims, change) }})
	}
	for name, tc := range map[string]struct {
		change map[string]any
		check  string
	}{
		"our tenant":                      {map[string]any{"iss": issuer(ourTenant), "tid": ourTenant}, ""},
		"another tenant":                  {map[string]any{"iss": issuer(otherTenant), "tid": otherTenant}, "tenant"},
		"another tenant, as if ours":      {map[string]any{"iss": issuer(ourTenant), "tid": otherTenant}, "iss"},
		"no tenant":                       {map[string]any{"iss": issuer(ourTenant)}, "iss"},
		"the template itself":             {map[string]any{"iss": issuer("{tenantid}")}, "iss"},
		"the provider without any tenant": {nil, "iss"},
	} {
		t.Run(name, func(t *testing.T) { failsAt(t, b.verifyLogout(t, token(tc.change)), tc.check) })
	}
	got, err := b.client.VerifyLogoutToken(t.Context(), metadata(t, b.client), NewSecret(token(map[string]any{"iss": issuer(ourTenant), "tid": ourTenant})))
	if err != nil || got.Issuer != issuer(ourTenant) {
		t.Errorf("got %+v, %v", got, err)
	}
	// At a provider for one, a logout token need not name the tenant.
	one := newLogoutBench(t)
	one.client.Tenants = []string{ourTenant}
	failsAt(t, one.verifyLogout(t, one.logoutToken(provider.LogoutFault{})), "")
}

// A102: the endpoint for logout tokens asks for no login, so that anybody can
// send ten thousand forged ones within ten seconds. They cost a handful of
// fetches, and leave one to the login behind a rotation.
func TestA102M32ForgedLogoutTokens(t *testing.T) {
	b := newLogoutBench(t)
	forger := start(t, provider.Config{})
	forger.RotateKeys()
	good := b.logoutToken(provider.LogoutFault{})
	unknown := forger.Sign(map[string]any{"typ": "logout+jwt"}, map[string]any{"iss": b.op.URL})
	known := good[:len(good)-8] + "AAAAAAAA"
	for i := range 10_000 {
		forged := unknown
		if i%100 == 0 {
			forged = known
		}
		if err := b.verifyLogout(t, forged); !errors.Is(err, ErrInvalid) {
			t.Fatalf("forged token %d: got %v", i, err)
		}
		b.now = b.now.Add(time.Millisecond)
	}
	if got := len(b.op.Requests("keys")); got > 4 {
		t.Errorf("10 000 forged tokens: got %d fetches", got)
	}
	failsAt(t, b.verifyLogout(t, good), "")
	b.op.RotateKeys()
	if err := b.verifyLogout(t, b.logoutToken(provider.LogoutFault{})); !errors.Is(err, ErrNoKeys) {
		t.Errorf("a logout token of a new key, during the storm: got %v, want ErrNoKeys", err)
	}
	if err := b.verify(t, b.op.Sign(nil, b.claims(nil))); err != nil {
		t.Errorf("a login behind the rotation, during the storm: %v", err)
	}
}

// M30: without a storm, a rotation just before signing is followed at once.
func TestM30RotationBeforeALogoutToken(t *testing.T) {
	b := newLogoutBench(t)
	failsAt(t, b.verifyLogout(t, b.logoutToken(provider.LogoutFault{})), "")
	b.op.RotateKeys()
	failsAt(t, b.verifyLogout(t, b.logoutToken(provider.LogoutFault{})), "")
}

// M31: where the keys cannot be had, nothing is known of the signature.
func TestM31LogoutTokenWithoutKeys(t *testing.T) {
	b := newLogoutBench(t)
	b.op.Misbehave(provider.Faults{Answer: map[string]func(http.ResponseWriter, *http.Request) bool{"keys": provider.Status(500, "text/plain", "")}})
	err := b.verifyLogout(t, b.logoutToken(provider.LogoutFault{}))
	if !errors.Is(err, ErrNoKeys) || !errors.Is(err, ErrUnavailable) || errors.Is(err, ErrInvalid) {
		t.Errorf("got %v, want ErrNoKeys and ErrUnavailable", err)
	}
}

// FuzzLogoutToken: whatever passes all checks but that of the signature is what
// section 2.4 calls a logout token, as another reader of JSON sees it.
func FuzzLogoutToken(f *testing.F) {
	b := newLogoutBench(f)
	m := metadata(f, b.client)
	good := b.logoutToken(provider.LogoutFault{})
	for _, token := range []string{good, b.op.Sign(nil, b.claims(nil)), b.logoutToken(provider.LogoutClaim("nonce", "x")), b.logoutToken(provider.LogoutHeader("typ", "JWT"))} {
		parts := strings.Split(token, ".")
		f.Add(mustDecode(f, parts[0]), mustDecode(f, parts[1]))
	}
	f.Add([]byte(`{"alg":"RS256"}`), []byte(`{"jti":"a","JTI":"b","events":null,"sub":"\u0000","exp":1e999}`))
	f.Fuzz(func(t *testing.T, header, payload []byte) {
		encode := base64.RawURLEncoding.EncodeToString
		c := &candidate{kind: ofLogoutToken, client: b.client, metadata: m, raw: encode(header) + "." + encode(payload) + ".AAAA", now: b.now, payload: payload}
		for _, step := range logoutTokenChecks {
			if step.name != "signature" && step.check(t.Context(), c) != nil {
				return
			}
		}
		var read map[string]json.RawMessage
		var values struct {
			Iss, Jti, Sub, Sid string
			Events             map[string]json.RawMessage
		}
		if json.Unmarshal(payload, &read) != nil || json.Unmarshal(payload, &values) != nil {
			t.Fatalf("accepted %q", payload)
		}
		token := c.logoutToken()
		if token.Issuer != values.Iss || token.ID != values.Jti || token.Subject != values.Sub || token.SessionID != values.Sid {
			t.Fatalf("read %q as %+v", payload, token)
		}
		if values.Iss != b.op.URL || values.Jti == "" || values.Sub+values.Sid == "" || !strings.HasPrefix(string(values.Events[logoutEvent]), "{") || read["nonce"] != nil {
			t.Fatalf("accepted %q", payload)
		}
		if remembered := token.Expiry.Sub(b.now); remembered > maxTokenAge+DefaultClockSkew || remembered <= -DefaultClockSkew {
			t.Fatalf("accepted %q, until %s", payload, token.Expiry)
		}
	})
}
