package rp

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/pkce-auth/caddy-pkce-auth/caddyauth/internal/claims"
)

// ResourceServer is us in another role: that of who is called with an access
// token, by a client that got it elsewhere (RFC 9068 section 4). It is safe for
// concurrent use, and its exported fields must not change.
type ResourceServer struct {
	Client *Client

	// Audiences are what we are called in the audience of tokens that are meant
	// for us. The client ID must not be among them: that is the audience of ID
	// tokens.
	Audiences []string

	verified verifiedTokens
}

// AccessToken is a checked access token.
type AccessToken struct {
	Subject string
	Claims  claims.Set

	// GoodUntil is when it does not pass the checks any more: the expiry and the
	// clock skew.
	GoodUntil time.Time
}

// guardedInAccessToken are the claims that decide about one.
var guardedInAccessToken = append(slices.Clip(guardedClaims),
	"jti", "events", "client_id", "scope", "scp", "gty", "cnf", "typ", "token_use", "c_hash", "s_hash")

// Anybody may send what looks like an access token: see ofLogoutToken. It leaves
// more fetches of the keys to others than logout tokens do, for those come from
// the provider, and are not sent again as readily.
var ofAccessToken = &tokenKind{
	name: "access token", guarded: guardedInAccessToken, allows: mayBeAccessTokenType, spares: 2, mismatch: ErrInvalid,
}

// accessTokenChecks is the whole of what makes an access token acceptable that
// somebody brings, in order: RFC 9068 section 4, RFC 8725 section 3.
var accessTokenChecks = []tokenCheck{
	{"format", checkFormat},
	{"header", checkHeader},
	{"signature", checkSignature},
	{"claims", checkClaims},
	{"iss", checkIssuer},
	{"aud", checkOurAudience},
	{"kind", checkAccessTokenKind},
	{"cnf", checkUnbound},
	{"exp", checkExpiry},
	{"nbf", checkNotBefore},
	{"iat", checkIssuedBefore},
	{"sub", checkSubject},
	{"organization", checkOrganization},
	{"tenant", checkTenant},
}

// Verify runs the checklist. The error is a *CheckError that names the check
// that failed first. It is ErrInvalid where the token must not be used, be it
// that keys which might verify it are not fetched again so soon; any other says
// that it cannot be told now.
//
// Not checked is to which of the provider's clients the token was issued, nor
// what its scopes allow: that is the policy of a route.
func (s *ResourceServer) Verify(ctx context.Context, raw Secret) (*AccessToken, error) {
	c, now := s.Client, s.Client.Provider.now()
	sum := sha256.Sum256([]byte(raw.Reveal()))
	if token := s.verified.get(sum, now); token != nil {
		return token, nil
	}
	m, err := c.Provider.Metadata(ctx)
	if err != nil {
		return nil, err
	}
	t := &candidate{kind: ofAccessToken, client: c, metadata: m, raw: raw.Reveal(), audiences: s.Audiences, now: now}
	if err := t.run(ctx, accessTokenChecks); err != nil {
		return nil, err
	}
	token := t.accessToken()
	s.verified.put(sum, token, len(t.raw), now)
	return token, nil
}

// accessToken reads what the checks have seen to be there.
func (t *candidate) accessToken() *AccessToken {
	token := &AccessToken{Claims: t.claims}
	token.Subject, _ = t.claims.Text("sub")
	exp, _ := t.claims.Time("exp")
	token.GoodUntil = exp.Add(t.client.clockSkew())
	return token
}

// isAccessTokenType accepts the type for access tokens (RFC 9068 section 2.1),
// with and without what may be left out in front.
func isAccessTokenType(typ string) bool {
	typ = strings.ToLower(typ)
	return typ == "at+jwt" || typ == "application/at+jwt"
}

// mayBeAccessTokenType accepts "JWT", too, which says nothing: Auth0 sends it
// unless told otherwise, as do Entra and Keycloak. checkAccessTokenKind looks
// harder then.
func mayBeAccessTokenType(typ string) bool {
	return isAccessTokenType(typ) || strings.EqualFold(typ, "JWT")
}

// checkOurAudience wants the token to be for us, by any of our names.
func checkOurAudience(_ context.Context, t *candidate) error {
	aud, err := t.claims.Texts("aud")
	if err != nil {
		return err
	}
	if !slices.ContainsFunc(aud, func(name string) bool { return slices.Contains(t.audiences, name) }) {
		return errors.New("names none of the audiences in accept_bearer")
	}
	return nil
}

// Claims that tell tokens apart whose header does not.
var (
	// onlyElsewhere stand in ID tokens (Core sections 2 and 3.3.2.11), and in no
	// access token.
	onlyElsewhere = []string{"nonce", "at_hash", "c_hash", "s_hash"}

	// inAccessTokens are about what the token allows, or to whom: an ID token
	// has no use for them. The last is Auth0's.
	inAccessTokens = []string{"client_id", "scope", "scp", "gty"}

	// sayWhat are claims in which Keycloak and Cognito name the kind of each of
	// their tokens, with the word for this one.
	sayWhat = map[string]string{"typ": "Bearer", "token_use": "access"}
)

// checkAccessTokenKind refuses every other kind of token (A111, RFC 8725 section
// 3.12). Where the header says what it is, that settles it. Where it does not,
// an ID token of any of the provider's clients must fail, even of one that has
// our audience for its client ID: so the token must hold nothing that only ID
// tokens hold, something that they never do, and in its audience none of the
// clients to whom it may have been issued, for an ID token always names that
// there.
func checkAccessTokenKind(_ context.Context, t *candidate) error {
	if t.claims.Mentions("events") { // of a logout token, or of another security event (RFC 8417)
		return errors.New("has events, as other kinds of tokens do")
	}
	if isAccessTokenType(t.typ) {
		return nil
	}
	for _, name := range onlyElsewhere {
		if t.claims.Mentions(name) {
			return fmt.Errorf("has %s, as ID tokens do, and its typ does not say otherwise", name)
		}
	}
	said := false
	for name, word := range sayWhat {
		if !t.claims.Mentions(name) {
			continue
		}
		if text, err := t.claims.Text(name); err != nil || text != word {
			return fmt.Errorf("%s is not %s", name, word)
		}
		said = true
	}
	aud, _ := t.claims.Texts("aud") // it was read a moment ago
	clients := []string{t.client.ClientID}
	for _, name := range []string{"azp", "client_id"} {
		id, err := t.claims.Text(name)
		if err != nil && !errors.Is(err, claims.ErrMissing) {
			return fmt.Errorf("%s: %w", name, err)
		}
		clients = append(clients, id)
	}
	if slices.ContainsFunc(aud, func(name string) bool { return slices.Contains(clients, name) }) {
		return errors.New("is for the client that it was issued to, as ID tokens are, and its typ does not say otherwise")
	}
	if !said && !slices.ContainsFunc(inAccessTokens, t.claims.Has) {
		return fmt.Errorf("might be an ID token: its typ is not at+jwt, and it has none of %s", strings.Join(inAccessTokens, ", "))
	}
	return nil
}

// checkUnbound refuses tokens that only their client may use, and must prove
// with each request to be that client: nobody here looks at the proof (RFC 9449
// section 6, RFC 8705 section 3). Taken without it, such a token would be what
// its binding is to prevent: good for whoever has stolen it.
func checkUnbound(_ context.Context, t *candidate) error {
	if t.claims.Mentions("cnf") {
		return errors.New("binds the token to a key of its client (DPoP or mutual TLS), and proofs of that are not checked here")
	}
	return nil
}

// checkIssuedBefore wants a date of issue that is not ahead, however long ago:
// how long the token is good, exp says.
func checkIssuedBefore(_ context.Context, t *candidate) error {
	iat, err := t.claims.Time("iat")
	if err != nil {
		return err
	}
	if t.now.Add(t.client.clockSkew()).Before(iat) {
		return t.timeError("is ahead", iat.Sub(t.now))
	}
	return nil
}

const (
	// rememberVerified is how long a token that was verified need not be verified
	// again: so that a client which calls often costs no signature each time,
	// and one whose key was withdrawn does not pass for much longer.
	rememberVerified = time.Minute

	// maxVerified bounds what is remembered, in bytes of tokens; their claims
	// take some three times as much.
	maxVerified = 4 << 20
)

// verifiedTokens remembers what tokens say that were verified lately, by a hash:
// the tokens themselves are not kept. Only the provider's own get in. The zero
// value is ready.
type verifiedTokens struct {
	mu     sync.Mutex
	tokens map[[sha256.Size]byte]verifiedToken
	size   int
}

type verifiedToken struct {
	token *AccessToken
	until time.Time
}

func (v *verifiedTokens) get(sum [sha256.Size]byte, now time.Time) *AccessToken {
	v.mu.Lock()
	defer v.mu.Unlock()
	if found := v.tokens[sum]; now.Before(found.until) {
		return found.token
	}
	return nil
}

// put remembers a token. When there is no room, all are forgotten: they are
// worth no more than one signature each.
func (v *verifiedTokens) put(sum [sha256.Size]byte, token *AccessToken, size int, now time.Time) {
	until := now.Add(rememberVerified)
	if token.GoodUntil.Before(until) {
		until = token.GoodUntil
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.tokens == nil || v.size+size > maxVerified {
		v.tokens, v.size = make(map[[sha256.Size]byte]verifiedToken), 0
	}
	if _, again := v.tokens[sum]; !again {
		v.size += size
	}
	v.tokens[sum] = verifiedToken{token, until}
}
