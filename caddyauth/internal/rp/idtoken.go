package rp

import (
	"context"
	"crypto"
	_ "crypto/sha256" // for at_hash
	_ "crypto/sha512"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"

	"github.com/pkce-auth/caddy-pkce-auth/caddyauth/internal/claims"
)

// IDToken is a checked ID token.
type IDToken struct {
	Subject string
	Claims  claims.Set
}

// Expected is what an ID token must agree with.
type Expected struct {
	Nonce       Secret // of the authorization request
	Ask         Ask    // what that asked for
	AccessToken Secret // that came with it, for at_hash

	// Previous is the ID token of the login, where this one came with a
	// refresh: it must be about the same user (Core section 12.2). What the
	// authorization request asked for is not asked again.
	Previous *IDToken
}

// maxTokenSize bounds what is looked at.
const maxTokenSize = 64 << 10

// maxTokenAge is how old a token may be when it comes straight from the
// provider: older ones are replays or come from a broken clock.
const maxTokenAge = 10 * time.Minute

// guardedClaims are the claims that decide, whose names nobody may imitate.
var guardedClaims = []string{
	"iss", "sub", "aud", "azp", "exp", "nbf", "iat", "nonce", "at_hash", "acr", "amr", "auth_time", "sid", "org_id", "org_name", "tid", "session_expiry",
}

// An ID token comes straight from the token endpoint: if it is encrypted, or
// signed with a shared secret, the provider was told to make it so.
var ofIDToken = &tokenKind{
	name: "ID token", guarded: guardedClaims, allows: noOtherToken, mismatch: ErrMisconfigured,
}

// idTokenChecks is the whole of what makes an ID token acceptable, in order:
// OpenID Connect Core section 3.1.3.7, RFC 8725 section 3. A token passes all
// of them or is not used for anything (RFC 9700 section 4.5.3).
var idTokenChecks = []tokenCheck{
	{"format", checkFormat},
	{"header", checkHeader},
	{"signature", checkSignature},
	{"claims", checkClaims},
	{"iss", checkIssuer},
	{"aud", checkAudience},
	{"azp", checkAuthorizedParty},
	{"events", checkNoLogout},
	{"exp", checkExpiry},
	{"nbf", checkNotBefore},
	{"iat", checkIssuedAt},
	{"nonce", checkNonce},
	{"at_hash", checkAccessTokenHash},
	{"sub", checkSubject},
	{"auth_time", checkAuthTime},
	{"acr", checkACR},
	{"organization", checkOrganization},
	{"tenant", checkTenant},
	{"session_expiry", checkSessionExpiry},
}

// VerifyIDToken runs the checklist. The error is a *CheckError that names the
// check that failed first.
func (c *Client) VerifyIDToken(ctx context.Context, m *Metadata, raw Secret, expected Expected) (*IDToken, error) {
	t := &candidate{kind: ofIDToken, client: c, metadata: m, raw: raw.Reveal(), expected: expected, now: c.Provider.now()}
	if err := t.run(ctx, idTokenChecks); err != nil {
		return nil, err
	}
	subject, err := t.claims.Text("sub")
	if err != nil {
		return nil, &CheckError{Check: "sub", Err: err}
	}
	algorithm := t.algorithm // not all of t, for as long as the client lives
	c.signedWith.Store(&algorithm)
	return &IDToken{Subject: subject, Claims: t.claims}, nil
}

// compactJWS is a JWS in compact serialization, and nothing around it. JOSE
// libraries take white space and the JSON serialization, too (F04).
var compactJWS = regexp.MustCompile(`^[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]*$`)

func checkFormat(_ context.Context, t *candidate) error {
	switch {
	case len(t.raw) > maxTokenSize:
		return fmt.Errorf("is larger than %d bytes", maxTokenSize)
	case strings.Count(t.raw, ".") == 4:
		return fmt.Errorf("%w: is encrypted: switch encryption of %ss off at the provider", t.kind.mismatch, t.kind.name)
	case !compactJWS.MatchString(t.raw):
		return errors.New("is not a JWT in compact serialization")
	default:
		return nil
	}
}

// checkHeader wants an asymmetric algorithm that the provider advertises, no
// critical extension, and no type of another kind of JWT (RFC 8725 sections
// 3.1, 3.11).
func checkHeader(_ context.Context, t *candidate) error {
	header, err := jwtHeader(t.raw)
	if err != nil {
		return err
	}
	if t.algorithm, err = header.Text("alg"); err != nil {
		return fmt.Errorf("alg: %w", err)
	}
	if !slices.Contains(t.metadata.IDTokenAlgorithms, t.algorithm) {
		if strings.HasPrefix(t.algorithm, "HS") {
			return fmt.Errorf("%w: signed with %.10q, a shared secret: switch the application to RS256 at the provider", t.kind.mismatch, t.algorithm)
		}
		return fmt.Errorf("algorithm %.16q is not accepted", t.algorithm)
	}
	if header.Has("crit") || header.Has("b64") {
		return errors.New("has a critical extension")
	}
	typ, err := header.Text("typ")
	if err != nil && !errors.Is(err, claims.ErrMissing) {
		return fmt.Errorf("typ: %w", err)
	}
	if err == nil && !t.kind.allows(typ) {
		return fmt.Errorf("typ %.32q is that of another kind of token", typ)
	}
	t.typ = typ
	return nil
}

// noOtherToken refuses the types that name a kind of token: access and logout
// tokens carry "at+jwt" and "logout+jwt". None is for ID tokens.
func noOtherToken(typ string) bool { return !strings.HasSuffix(strings.ToLower(typ), "+jwt") }

// jwtHeader reads the header of a JWT, which nothing vouches for yet.
func jwtHeader(raw string) (claims.Set, error) {
	encoded, _, _ := strings.Cut(raw, ".")
	data, err := base64.RawURLEncoding.Strict().DecodeString(encoded)
	if err != nil {
		return claims.Set{}, errors.New("is not base64url")
	}
	return claims.Parse(data, "alg", "typ", "crit", "b64")
}

// checkSignature leaves the verification to go-oidc, over our own keys. What
// go-oidc thinks of the claims behind a good signature is not asked: it
// decodes them without regard to case and type, and the checks below do not.
func checkSignature(ctx context.Context, t *candidate) error {
	keys := &signedBy{set: t.client.Provider.keys, uri: t.metadata.JWKSURI, algorithms: t.metadata.IDTokenAlgorithms, spares: t.kind.spares}
	verifier := oidc.NewVerifier(t.metadata.Issuer, keys, &oidc.Config{
		SupportedSigningAlgs: []string{t.algorithm},
		SkipClientIDCheck:    true,
		SkipExpiryCheck:      true,
		SkipIssuerCheck:      true,
	})
	_, err := verifier.Verify(ctx, t.raw)
	switch {
	case keys.err != nil:
		return keys.err
	case keys.payload == nil:
		return fmt.Errorf("%w: not a signed token: %w", ErrInvalid, err)
	default:
		t.payload, t.keyIssuer = keys.payload, keys.keyIssuer
		return nil
	}
}

func checkClaims(_ context.Context, t *candidate) (err error) {
	t.claims, err = claims.Parse(t.payload, t.kind.guarded...)
	return err
}

// checkIssuer wants exactly the provider's issuer, which for a template is that
// of the user's own tenant.
func checkIssuer(_ context.Context, t *candidate) error {
	iss, err := t.claims.Text("iss")
	if err != nil {
		return err
	}
	if IsTemplate(t.metadata.Issuer) {
		return t.checkTenantIssuer(iss)
	}
	if alias := t.metadata.Quirk.IssuerAlias; iss != t.metadata.Issuer && (alias == "" || iss != alias) {
		return fmt.Errorf("is %.200q, not %.200q", iss, t.metadata.Issuer)
	}
	return nil
}

// checkAudience wants our client ID in aud. Who else stands there is
// checkAuthorizedParty's business.
func checkAudience(_ context.Context, t *candidate) error {
	aud, err := t.claims.Texts("aud")
	if err != nil {
		return err
	}
	if !slices.Contains(aud, t.client.ClientID) {
		return errors.New("does not name our client ID")
	}
	return nil
}

// checkAuthorizedParty wants azp to name us whenever it is there, and to be
// there when the token is for others as well: then it is the provider's only
// word that the token was issued to us (Core section 3.1.3.7, 3 to 5).
func checkAuthorizedParty(_ context.Context, t *candidate) error {
	azp, err := t.claims.Text("azp")
	if errors.Is(err, claims.ErrMissing) {
		if aud, _ := t.claims.Texts("aud"); len(aud) > 1 {
			return errors.New("is missing, though aud names others, too")
		}
		return nil
	}
	if err != nil {
		return err
	}
	if azp != t.client.ClientID {
		return errors.New("is not our client ID")
	}
	return nil
}

func checkExpiry(_ context.Context, t *candidate) error {
	exp, err := t.claims.Time("exp")
	if err != nil {
		return err
	}
	if !t.now.Before(exp.Add(t.client.clockSkew())) {
		return t.timeError("passed", t.now.Sub(exp))
	}
	return nil
}

func checkNotBefore(_ context.Context, t *candidate) error {
	nbf, err := t.claims.Time("nbf")
	if errors.Is(err, claims.ErrMissing) {
		return nil
	}
	if err != nil {
		return err
	}
	if t.now.Add(t.client.clockSkew()).Before(nbf) {
		return t.timeError("is ahead", nbf.Sub(t.now))
	}
	return nil
}

func checkIssuedAt(_ context.Context, t *candidate) error {
	iat, err := t.claims.Time("iat")
	if err != nil {
		return err
	}
	if t.now.Add(t.client.clockSkew()).Before(iat) {
		return t.timeError("is ahead", iat.Sub(t.now))
	}
	if t.now.Sub(iat) > maxTokenAge+t.client.clockSkew() {
		return t.timeError("passed", t.now.Sub(iat))
	}
	return nil
}

// timeError says by how much a date is off, for that is what an operator
// compares clocks with.
func (t *candidate) timeError(how string, by time.Duration) error {
	return fmt.Errorf("%s by %s, clock_skew allows %s: compare the clocks", how, by.Round(time.Second), t.client.clockSkew())
}

// checkNonce wants the nonce of the authorization request. A refreshed ID
// token should have none; if it has one, it is the same.
func checkNonce(_ context.Context, t *candidate) error {
	want := t.expected.Nonce.Reveal()
	nonce, err := t.claims.Text("nonce")
	if t.expected.Previous != nil {
		if errors.Is(err, claims.ErrMissing) {
			return nil
		}
		want, _ = t.expected.Previous.Claims.Text("nonce")
	}
	if err != nil {
		return err
	}
	if subtle.ConstantTimeCompare([]byte(nonce), []byte(want)) != 1 {
		return errors.New("is not that of the authorization request")
	}
	return nil
}

// hashes are the hash functions of at_hash: that of the signing algorithm
// (Core section 3.1.3.6); for EdDSA with Ed25519, SHA-512.
var hashes = map[string]crypto.Hash{
	"RS256": crypto.SHA256, "PS256": crypto.SHA256, "ES256": crypto.SHA256,
	"RS384": crypto.SHA384, "PS384": crypto.SHA384, "ES384": crypto.SHA384,
	"RS512": crypto.SHA512, "PS512": crypto.SHA512, "ES512": crypto.SHA512,
	"EdDSA": crypto.SHA512,
}

// checkAccessTokenHash binds the access token to the ID token, where the
// provider lets us.
func checkAccessTokenHash(_ context.Context, t *candidate) error {
	hash, err := t.claims.Text("at_hash")
	if errors.Is(err, claims.ErrMissing) {
		return nil
	}
	if err != nil {
		return err
	}
	h := hashes[t.algorithm].New()
	h.Write([]byte(t.expected.AccessToken.Reveal()))
	sum := h.Sum(nil)
	want := base64.RawURLEncoding.EncodeToString(sum[:len(sum)/2])
	if subtle.ConstantTimeCompare([]byte(hash), []byte(want)) != 1 {
		return errors.New("does not fit the access token")
	}
	return nil
}

// checkSubject wants the user of the login, where this is a refresh.
func checkSubject(_ context.Context, t *candidate) error {
	sub, err := t.claims.Text("sub")
	if err != nil {
		return err
	}
	if t.expected.Previous != nil && sub != t.expected.Previous.Subject {
		return errors.New("is another user than the one who logged in")
	}
	return checkSubjectText(sub)
}

// checkSubjectText wants what Core section 2 says: at most 255 ASCII
// characters. Control characters would go on into logs and headers.
func checkSubjectText(sub string) error {
	if sub == "" {
		return errors.New("is empty")
	}
	if len(sub) > 255 {
		return errors.New("is longer than 255 characters")
	}
	for i := range len(sub) {
		if sub[i] < 0x20 || sub[i] > 0x7e {
			return errors.New("has a character that is not printable ASCII")
		}
	}
	return nil
}
