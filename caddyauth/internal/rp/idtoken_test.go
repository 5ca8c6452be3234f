package rp

import (
	"encoding/base64"
	"errors"
	"maps"
	"math/big"
	"strings"
	"testing"
	"time"

	"github.com/pkce-auth/caddy-pkce-auth/caddyauth/internal/claims"
	"github.com/pkce-auth/caddy-pkce-auth/test/provider"
)

func oddOf(bits int) *big.Int {
	n := new(big.Int).Lsh(big.NewInt(1), uint(bits-1))
	return n.Add(n, big.NewInt(1))
}

// bench is a client with a provider to forge ID tokens with.
type bench struct {
	op     *provider.Provider
	client *Client
	now    time.Time
}

func newBench(t testing.TB) *bench {
	op := start(t, provider.Config{})
	b := &bench{op: op, client: newClient(op), now: time.Unix(1_800_000_000, 0)}
	b.client.Provider = NewProvider(ProviderConfig{Issuer: op.URL, Now: func() time.Time { return b.now }})
	return b
}

// claims are those of a good ID token, changed; nil takes one out.
func (b *bench) claims(change map[string]any) map[string]any {
	claims := map[string]any{
		"iss": b.op.URL, "aud": "public", "sub": "alice", "nonce": "the-nonce",
		"iat": b.now.Unix(), "exp": b.now.Add(time.Hour).Unix(),
	}
	maps.Copy(claims, change)
	maps.DeleteFunc(claims, func(_ string, v any) bool { return v == nil })
	return claims
}

func (b *bench) verify(t testing.TB, token string) error {
	t.Helper()
	_, err := b.client.VerifyIDToken(t.Context(), metadata(t, b.client), NewSecret(token), Expected{
		Nonce: NewSecret("the-nonce"), AccessToken: NewSecret("opaque-token"),
	})
	return err
}

// atHash is that of "opaque-token" for RS256.
const atHash = "hNPyPam19RsyaVZu_wXT-w"

// IDPS 22, IDPS 23, F03, R20 to R29, M70 to M91: each claim that the
// standards speak of, one wrong at a time. The name of the check that must
// fail stands beside it; none: accepted.
func TestR20R29M75M92IDPS22IDPS23F03Claims(t *testing.T) {
	b := newBench(t)
	at := func(d time.Duration) int64 { return b.now.Add(d).Unix() }
	for _, tc := range []struct {
		name   string
		change map[string]any
		check  string
	}{
		{"a good token", nil, ""},
		{"M75 R20 another issuer", map[string]any{"iss": b.op.URL + "1"}, "iss"},
		{"M75 R20 the issuer with a slash", map[string]any{"iss": b.op.URL + "/"}, "iss"},
		{"M75 an empty issuer, where it has no other name", map[string]any{"iss": ""}, "iss"},
		{"M75 no issuer", map[string]any{"iss": nil}, "iss"},
		{"M76 an audience in an array", map[string]any{"aud": []string{"public"}}, ""},
		{"M76 another audience", map[string]any{"aud": "public1"}, "aud"},
		{"M76 no audience", map[string]any{"aud": nil}, "aud"},
		{"M76 an empty audience", map[string]any{"aud": ""}, "aud"},
		{"M76 an empty array of audiences", map[string]any{"aud": []string{}}, "aud"},
		{"M77 R21 two audiences without azp", map[string]any{"aud": []string{"public", "other"}}, "azp"},
		{"M77 two audiences with azp", map[string]any{"aud": []string{"other", "public"}, "azp": "public"}, ""},
		{"M77 R22 another azp", map[string]any{"azp": "evil"}, "azp"},
		{"M77 an empty azp", map[string]any{"azp": ""}, "azp"},
		{"M77 an azp that is a list", map[string]any{"azp": []string{"public"}}, "azp"},
		{"R24 expired within the skew", map[string]any{"exp": at(-59 * time.Second)}, ""},
		{"M79 R24 expired beyond the skew", map[string]any{"exp": at(-60 * time.Second)}, "exp"},
		{"M79 expired six minutes ago", map[string]any{"exp": at(-6 * time.Minute)}, "exp"},
		{"M79 no end", map[string]any{"exp": nil}, "exp"},
		{"M79 a negative end", map[string]any{"exp": -1}, "exp"},
		{"M79 an end with a fraction", map[string]any{"exp": float64(at(0)) + 0.5}, ""},
		{"M81 valid from within the skew", map[string]any{"nbf": at(60 * time.Second)}, ""},
		{"M81 valid from the future", map[string]any{"nbf": at(61 * time.Second)}, "nbf"},
		{"M81 valid from a time in quotes", map[string]any{"nbf": "1700000000"}, "nbf"},
		{"M80 R25 no time of issue", map[string]any{"iat": nil}, "iat"},
		{"M80 issued within the skew", map[string]any{"iat": at(60 * time.Second)}, ""},
		{"M80 R25 issued in the future", map[string]any{"iat": at(61 * time.Second)}, "iat"},
		{"M80 issued in a year", map[string]any{"iat": at(365 * 24 * time.Hour)}, "iat"},
		{"M80 R25 issued a week ago", map[string]any{"iat": at(-7 * 24 * time.Hour)}, "iat"},
		{"M80 issued ten minutes ago", map[string]any{"iat": at(-10 * time.Minute)}, ""},
		{"M80 issued ten minutes ago, and the skew", map[string]any{"iat": at(-11 * time.Minute)}, ""},
		{"M80 issued longer ago than that", map[string]any{"iat": at(-11*time.Minute - time.Second)}, "iat"},
		{"M82 R26 no nonce", map[string]any{"nonce": nil}, "nonce"},
		{"M82 R26 another nonce", map[string]any{"nonce": "the-nonce+1"}, "nonce"},
		{"M82 an empty nonce", map[string]any{"nonce": ""}, "nonce"},
		{"M82 a nonce in an array", map[string]any{"nonce": []string{"the-nonce"}}, "nonce"},
		{"R29 the right at_hash", map[string]any{"at_hash": atHash}, ""},
		{"M83 R29 another at_hash", map[string]any{"at_hash": "AAAA" + atHash[4:]}, "at_hash"},
		{"M83 an empty at_hash", map[string]any{"at_hash": ""}, "at_hash"},
		{"M83 an at_hash in an array", map[string]any{"at_hash": []string{atHash}}, "at_hash"},
		{"M78 R28 no subject", map[string]any{"sub": nil}, "sub"},
		{"M78 R28 an empty subject", map[string]any{"sub": ""}, "sub"},
		{"M78 R28 a subject of 256 characters", map[string]any{"sub": strings.Repeat("s", 256)}, "sub"},
		{"a subject of 255 characters", map[string]any{"sub": strings.Repeat("s", 255)}, ""},
		{"a subject with the first and the last printable character", map[string]any{"sub": "a b~"}, ""},
		{"M78 a DEL in the subject", map[string]any{"sub": "alice\x7f"}, "sub"},
		{"M78 a NUL in the subject", map[string]any{"sub": "alice\x00"}, "sub"},
		{"M78 a homoglyph in the subject", map[string]any{"sub": "аlice"}, "sub"},
		{"M89 a case variant", map[string]any{"SUB": "admin"}, "claims"},
		{"M78 a subject that is a number", map[string]any{"sub": 7}, "sub"},
		{"M79 an end in quotes", map[string]any{"exp": "1900000000"}, "exp"},
		{"M79 an end of 1e300", map[string]any{"exp": 1e300}, "exp"},
		{"M75 an issuer in an array", map[string]any{"iss": []string{b.op.URL}}, "iss"},
		{"M76 an audience that is a number", map[string]any{"aud": 7}, "aud"},
		{"M80 a time of issue in quotes", map[string]any{"iat": "1800000000"}, "iat"},
		{"M92 groups of any type", map[string]any{"groups": []any{1, map[string]any{}, "a,admin"}}, ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			err := b.verify(t, b.op.Sign(map[string]any{"typ": "JWT"}, b.claims(tc.change)))
			checkErr, _ := errors.AsType[*CheckError](err)
			switch {
			case tc.check == "" && err != nil:
				t.Errorf("got %v, want it accepted", err)
			case tc.check != "" && (checkErr == nil || checkErr.Check != tc.check):
				t.Errorf("got %v, want check %s to fail", err, tc.check)
			case tc.check != "" && !errors.Is(err, ErrInvalid):
				t.Errorf("%v is not ErrInvalid", err)
			}
		})
	}
}

// F04, R23, M70 to M74, M85 to M90, A110, A111: the token around the claims.
func TestM70M91F04R23A110A111Envelope(t *testing.T) {
	b := newBench(t)
	good := b.op.Sign(map[string]any{"typ": "JWT"}, b.claims(nil))
	parts := strings.Split(good, ".")
	encode := func(s string) string { return base64.RawURLEncoding.EncodeToString([]byte(s)) }
	forger := start(t, provider.Config{})
	forger.RotateKeys()
	for _, tc := range []struct {
		name, token, check string
	}{
		{"a good token", good, ""},
		{"without typ", b.op.Sign(nil, b.claims(nil)), ""},
		{"signed with ES256", b.op.Sign(map[string]any{"alg": "ES256"}, b.claims(nil)), ""},
		{"signed with EdDSA", b.op.Sign(map[string]any{"alg": "EdDSA"}, b.claims(nil)), ""},
		{"F04 space in front", " " + good, "format"},
		{"F04 a line break behind", good + "\n", "format"},
		{"F04 JSON serialization", `{"protected":"` + parts[0] + `","payload":"` + parts[1] + `","signature":"` + parts[2] + `"}`, "format"},
		{"M88 two parts", parts[0] + "." + parts[1], "format"},
		{"M88 encrypted", good + ".AAAA.AAAA", "format"},
		{"M90 a megabyte", good + strings.Repeat("A", 1<<20), "format"},
		{"M71 alg none without signature", encode(`{"alg":"none"}`) + "." + parts[1] + ".", "header"},
		{"M71 alg nOnE with a signature", encode(`{"alg":"nOnE"}`) + "." + parts[1] + "." + parts[2], "header"},
		{"M72 HS256", encode(`{"alg":"HS256"}`) + "." + parts[1] + "." + parts[2], "header"},
		{"an algorithm that is not advertised", encode(`{"alg":"PS512"}`) + "." + parts[1] + "." + parts[2], "header"},
		{"no algorithm", encode(`{"typ":"JWT"}`) + "." + parts[1] + "." + parts[2], "header"},
		{"two algorithms", encode(`{"alg":"RS256","alg":"none"}`) + "." + parts[1] + "." + parts[2], "header"},
		{"a header that is no JSON", encode(`RS256`) + "." + parts[1] + "." + parts[2], "header"},
		{"a header that is no base64url", "A." + parts[1] + "." + parts[2], "header"},
		{"a header with loose bits behind it", "e31." + parts[1] + "." + parts[2], "header"},
		{"a type that is a number", encode(`{"alg":"RS256","typ":1}`) + "." + parts[1] + "." + parts[2], "header"},
		{"M86 a critical extension", b.op.Sign(map[string]any{"crit": []string{"b64"}, "b64": true}, b.claims(nil)), "header"},
		{"M86 a critical extension that is none", b.op.Sign(map[string]any{"crit": []string{"exp"}}, b.claims(nil)), "header"},
		{"M91 an unencoded payload", encode(`{"alg":"RS256","b64":false}`) + "." + parts[1] + "." + parts[2], "header"},
		{"M91 an unencoded payload, and critical", encode(`{"alg":"RS256","b64":false,"crit":["b64"]}`) + "." + parts[1] + "." + parts[2], "header"},
		{"M85 an access token", b.op.Sign(map[string]any{"typ": "at+jwt"}, b.claims(nil)), "header"},
		{"M85 a logout token", b.op.Sign(map[string]any{"typ": "application/LOGOUT+jwt"}, b.claims(nil)), "header"},
		{"M85 a proof", b.op.Sign(map[string]any{"typ": "dpop+jwt"}, b.claims(nil)), "header"},
		{"M70 another's signature", forger.Sign(nil, b.claims(nil)), "signature"},
		{"M70 another's signature under a known key ID", forger.Sign(map[string]any{"kid": ""}, b.claims(nil)), "signature"},
		{"M74 a truncated signature", good[:len(good)-4], "signature"},
		{"M74 an extended signature", good + "AAAA", "signature"},
		{"M74 an empty signature", parts[0] + "." + parts[1] + ".", "signature"},
		{"M70 other claims", parts[0] + "." + encode(`{"sub":"admin"}`) + "." + parts[2], "signature"},
		{"M74 a signature that is no base64url", parts[0] + "." + parts[1] + ".A", "signature"},
		{"M70 claims that are no base64url", parts[0] + ".A." + parts[2], "signature"},
		{"M70 claims that are no JSON", parts[0] + "." + encode("hello") + "." + parts[2], "signature"},
		{"M73 RS256 signed, ES256 said", encode(`{"alg":"ES256"}`) + "." + parts[1] + "." + parts[2], "signature"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			err := b.verify(t, tc.token)
			checkErr, _ := errors.AsType[*CheckError](err)
			switch {
			case tc.check == "" && err != nil:
				t.Errorf("got %v, want it accepted", err)
			case tc.check != "" && (checkErr == nil || checkErr.Check != tc.check):
				t.Errorf("got %v, want check %s to fail", err, tc.check)
			}
		})
	}
	if err := b.verify(t, encode(`{"alg":"HS256"}`)+"."+parts[1]+"."+parts[2]); !errors.Is(err, ErrMisconfigured) || !strings.Contains(err.Error(), "switch the application to RS256") {
		t.Errorf("HS256: got %v, want the way out", err)
	}
}

// M87, A101: what a token's header points at is never fetched.
func TestM87A101HeaderIsNotFollowed(t *testing.T) {
	b := newBench(t)
	attacker := start(t, provider.Config{})
	attacker.RotateKeys()
	for _, header := range []string{"jku", "x5u"} {
		token := attacker.Sign(map[string]any{header: attacker.URL + "/keys", "kid": ""}, b.claims(nil))
		if err := b.verify(t, token); !errors.Is(err, ErrInvalid) {
			t.Errorf("%s: got %v, want ErrInvalid", header, err)
		}
	}
	if got := attacker.Requests("keys"); len(got) != 0 {
		t.Errorf("the attacker's keys were fetched: %v", got)
	}
}

// IDPS 21: Auth0's issuer, whose ID tokens end in a slash.
func TestIDPS21IDTokenOfARootIssuer(t *testing.T) {
	op := start(t, provider.Config{})
	op.Misbehave(provider.Faults{Metadata: func(doc map[string]any) { doc["issuer"] = op.URL + "/" }})
	for _, configured := range []string{op.URL, op.URL + "/"} {
		c := newClient(op)
		c.Provider = NewProvider(ProviderConfig{Issuer: configured})
		for _, tc := range []struct {
			iss string
			ok  bool
		}{{op.URL + "/", true}, {op.URL, false}} {
			token := op.Sign(nil, map[string]any{
				"iss": tc.iss, "aud": "public", "sub": "alice", "nonce": "n",
				"iat": time.Now().Unix(), "exp": time.Now().Add(time.Hour).Unix(),
			})
			_, err := c.VerifyIDToken(t.Context(), metadata(t, c), NewSecret(token), Expected{Nonce: NewSecret("n")})
			if (err == nil) != tc.ok {
				t.Errorf("%s configured, %s in the token: got %v, want ok %v", configured, tc.iss, err, tc.ok)
			}
		}
	}
}

// The whole way: a code, a grant, an ID token that is bound to both.
func TestR26R29VerifyIDTokenOfAGrant(t *testing.T) {
	op := start(t, provider.Config{})
	c := newClient(op)
	grant, r, err := exchange(t, c)
	if err != nil {
		t.Fatal(err)
	}
	token, err := c.VerifyIDToken(t.Context(), metadata(t, c), grant.IDToken, Expected{Nonce: r.Nonce, AccessToken: grant.AccessToken})
	if err != nil {
		t.Fatal(err)
	}
	if email, _ := token.Claims.Text("email"); token.Subject != "alice" || email != "alice@example.com" {
		t.Errorf("got %q, %q", token.Subject, email)
	}
	for name, expected := range map[string]Expected{
		"A48 another login's nonce":          {Nonce: NewTransaction().Nonce, AccessToken: grant.AccessToken},
		"another grant's access token":       {Nonce: r.Nonce, AccessToken: NewSecret("other")},
		"A48 no nonce, as if none was asked": {AccessToken: grant.AccessToken},
	} {
		if _, err := c.VerifyIDToken(t.Context(), metadata(t, c), grant.IDToken, expected); !errors.Is(err, ErrInvalid) {
			t.Errorf("%s: got %v, want ErrInvalid", name, err)
		}
	}
}

// FuzzIDToken: nothing is accepted but what the provider signed.
func FuzzIDToken(f *testing.F) {
	b := newBench(f)
	good := b.op.Sign(map[string]any{"typ": "JWT"}, b.claims(nil))
	for _, seed := range []string{good, good[:len(good)-1], "..", strings.Replace(good, ".", "..", 1), "e30.e30.e30"} {
		f.Add(seed)
	}
	payload := strings.Split(good, ".")[1]
	f.Fuzz(func(t *testing.T, token string) {
		if err := b.verify(t, token); err == nil && strings.Split(token, ".")[1] != payload {
			t.Fatalf("accepted %q", token)
		}
	})
}

// F05: of a header that cannot be read, or in two ways, nothing is taken: not
// even that it names no type, which an access token need not do.
func TestF05JWTHeader(t *testing.T) {
	encode := func(s string) string { return base64.RawURLEncoding.EncodeToString([]byte(s)) }
	header, err := jwtHeader(encode(`{"alg":"RS256","x":1}`) + ".e30.AAAA")
	if alg, _ := header.Text("alg"); alg != "RS256" || err != nil {
		t.Errorf("got %q, %v", alg, err)
	}
	for name, raw := range map[string]string{
		"no base64url":          "A.e30.AAAA",
		"loose bits behind it":  "e31.e30.AAAA",
		"no JSON":               encode("RS256") + ".e30.AAAA",
		"two types":             encode(`{"typ":"JWT","typ":"logout+jwt"}`) + ".e30.AAAA",
		"an imitated type":      encode(`{"typ":"JWT","TYP":"logout+jwt"}`) + ".e30.AAAA",
		"an imitated extension": encode(`{"alg":"RS256","Crit":["x"]}`) + ".e30.AAAA",
	} {
		if header, err := jwtHeader(raw); err == nil {
			t.Errorf("%s: got %s", name, header.Raw())
		}
	}
}

// M90: a token of as much as may be is looked at, one byte more is not.
func TestM90IDTokenSize(t *testing.T) {
	largest := "e30.e30." + strings.Repeat("A", maxTokenSize-len("e30.e30."))
	for raw, ok := range map[string]bool{largest: true, largest + "A": false} {
		if err := checkFormat(t.Context(), &candidate{kind: ofIDToken, raw: raw}); (err == nil) != ok {
			t.Errorf("%d bytes: got %v, want ok %v", len(raw), err, ok)
		}
	}
}

// M78: the row "sub" stands by itself. What VerifyIDToken reads behind the
// checklist must not be what refuses a token without a subject.
func TestM78ChecklistSubjectByItself(t *testing.T) {
	for name, payload := range map[string]string{"none": `{}`, "null": `{"sub":null}`, "a number": `{"sub":7}`, "empty": `{"sub":""}`} {
		set, err := claims.Parse([]byte(payload))
		if err != nil {
			t.Fatal(err)
		}
		if err := checkSubject(t.Context(), &candidate{claims: set}); err == nil {
			t.Errorf("%s: got no error", name)
		}
	}
}

// M89, F05, RFC 8725 section 2.6: no claim that decides may be imitated by one
// whose name differs in case, for whoever else reads the token (the upstream,
// a rule) may take the one for the other. They are listed here once more, so
// that none can go from the list unseen.
func TestM89F05ImitatedClaims(t *testing.T) {
	b := newBench(t)
	for _, name := range []string{
		"iss", "sub", "aud", "azp", "exp", "nbf", "iat", "nonce", "at_hash", "acr", "amr", "auth_time", "sid", "org_id", "org_name", "tid", "session_expiry",
	} {
		for _, imitation := range []string{strings.ToUpper(name), strings.ToUpper(name[:1]) + name[1:]} {
			err := b.verify(t, b.op.Sign(nil, b.claims(map[string]any{imitation: "x"})))
			if checkErr, _ := errors.AsType[*CheckError](err); checkErr == nil || checkErr.Check != "claims" {
				t.Errorf("%s: got %v, want check claims to fail", imitation, err)
			}
		}
	}
}
