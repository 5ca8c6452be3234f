package rp

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/pkce-auth/caddy-pkce-auth/caddyauth/internal/claims"
)

// LogoutToken is a checked logout token (Back-Channel Logout 1.0 section 2.4).
//
// Checked does not mean new: whoever acts on it must remember its ID until
// GoodUntil, for so long it passes the checks again (section 2.6). That is at
// most maxTokenAge and twice the skew.
type LogoutToken struct {
	ID        string    // jti
	Issuer    string    // iss: of a provider for many tenants, that of the one
	Subject   string    // sub; may be empty when SessionID is not
	SessionID string    // sid; may be empty when Subject is not
	Issued    time.Time // iat
	Expiry    time.Time // exp

	// GoodUntil is when it does not pass the checks any more: the expiry and the
	// clock skew.
	GoodUntil time.Time
}

// logoutEvent is the member of "events" that makes a token a logout token.
const logoutEvent = "http://schemas.openid.net/event/backchannel-logout"

// maxLogoutTokenID bounds what has to be remembered of each token.
const maxLogoutTokenID = 256

// Anybody may send what looks like a logout token, so nothing that it says
// before its signature is verified tells of the configuration; and a storm of
// forged ones must leave a fetch of the keys to the next login (A102).
var ofLogoutToken = &tokenKind{
	name: "logout token", guarded: append(slices.Clip(guardedClaims), "jti", "events"), allows: isLogoutType, spares: 1, mismatch: ErrInvalid,
}

// logoutTokenChecks is the whole of what makes a logout token acceptable, in
// order: Back-Channel Logout 1.0 section 2.6. What it has in common with an ID
// token is checked by the same functions, as the section wants.
//
// go-oidc has a VerifyLogout, which is not used: it reads claims without regard
// to case and to duplicates, takes an event that is no object, a token however
// old or long-lived, and every typ, and knows no azp.
var logoutTokenChecks = []tokenCheck{
	{"format", checkFormat},
	{"header", checkHeader},
	{"algorithm", checkUsualAlgorithm},
	{"signature", checkSignature},
	{"claims", checkClaims},
	{"iss", checkIssuer},
	{"tenant", checkTenantOfTemplate},
	{"aud", checkAudience},
	{"azp", checkAuthorizedParty},
	{"events", checkLogoutEvent},
	{"nonce", checkNoNonce},
	{"exp", checkShortExpiry},
	{"nbf", checkNotBefore},
	{"iat", checkIssuedAt},
	{"jti", checkTokenID},
	{"sub", checkOptionalText("sub")},
	{"sid", checkOptionalText("sid")},
	{"sub_or_sid", checkAboutSomebody},
}

// VerifyLogoutToken runs the checklist. The error is a *CheckError that names
// the check that failed first; it is ErrNoKeys when nothing is known of the
// signature. Whether the token was used before is not checked: see LogoutToken.
func (c *Client) VerifyLogoutToken(ctx context.Context, m *Metadata, raw Secret) (*LogoutToken, error) {
	t := &candidate{kind: ofLogoutToken, client: c, metadata: m, raw: raw.Reveal(), now: c.Provider.now()}
	if err := t.run(ctx, logoutTokenChecks); err != nil {
		return nil, err
	}
	return t.logoutToken(), nil
}

// logoutToken reads what the checks have seen to be there.
func (t *candidate) logoutToken() *LogoutToken {
	token := &LogoutToken{}
	token.ID, _ = t.claims.Text("jti")
	token.Issuer, _ = t.claims.Text("iss")
	token.Subject, _ = t.claims.Text("sub")
	token.SessionID, _ = t.claims.Text("sid")
	token.Issued, _ = t.claims.Time("iat")
	token.Expiry, _ = t.claims.Time("exp")
	token.GoodUntil = token.Expiry.Add(t.client.clockSkew())
	return token
}

// isLogoutType accepts the type for logout tokens, with and without what may be
// left out in front (RFC 7515 section 4.1.9), and "JWT", which providers sent
// before there was one and Auth0 still does.
func isLogoutType(typ string) bool {
	return slices.Contains([]string{"logout+jwt", "application/logout+jwt", "jwt"}, strings.ToLower(typ))
}

// checkUsualAlgorithm wants the algorithm of our ID tokens: both are governed
// by what the client is registered with (section 2.6), which only ID tokens
// tell. Before the first login each that is advertised will do, and when the
// provider begins to use another one, the next login tells. The conformance
// suite signs with a key of the provider's other algorithm (M122).
func checkUsualAlgorithm(_ context.Context, t *candidate) error {
	if usual := t.client.signedWith.Load(); usual != nil && t.algorithm != *usual {
		return fmt.Errorf("is %.16q, that of ID tokens is %q", t.algorithm, *usual)
	}
	return nil
}

// checkTenantOfTemplate wants one of the allowed tenants, where the issuer
// stands for many. Elsewhere the issuer has said enough: a logout token has no
// reason to name a tenant.
func checkTenantOfTemplate(ctx context.Context, t *candidate) error {
	if !IsTemplate(t.metadata.Issuer) {
		return nil
	}
	return checkTenant(ctx, t)
}

// checkLogoutEvent wants the event, with an object as its value: that is what
// no ID token and no access token has.
func checkLogoutEvent(_ context.Context, t *candidate) error {
	events, err := t.claims.Object("events")
	if err != nil {
		return err
	}
	if _, err := events.Object(logoutEvent); err != nil {
		return fmt.Errorf("%s: %w", logoutEvent, err)
	}
	return nil
}

// checkNoLogout refuses as an ID token what says that it is a logout token.
// With the typ "JWT" and without a nonce, it could pass for one that came with
// a refresh (A111).
func checkNoLogout(_ context.Context, t *candidate) error {
	if events, _ := t.claims.Object("events"); events.Mentions(logoutEvent) { // what is no object mentions nothing
		return errors.New("are those of a logout token")
	}
	return nil
}

// checkNoNonce refuses a nonce whatever its value, so that no ID token of a
// login can be taken for a logout token (section 2.4).
func checkNoNonce(_ context.Context, t *candidate) error {
	if t.claims.Mentions("nonce") {
		return errors.New("must not be there")
	}
	return nil
}

// checkShortExpiry wants an end that is near, for until then the token's ID has
// to be remembered. Providers are asked to set it two minutes ahead (section
// 2.4).
func checkShortExpiry(ctx context.Context, t *candidate) error {
	if err := checkExpiry(ctx, t); err != nil {
		return err
	}
	exp, _ := t.claims.Time("exp") // it was read a moment ago
	if ahead := exp.Sub(t.now); ahead > maxTokenAge+t.client.clockSkew() {
		return fmt.Errorf("is %s ahead, more than %s", ahead.Round(time.Second), maxTokenAge)
	}
	return nil
}

func checkTokenID(_ context.Context, t *candidate) error {
	id, err := t.claims.Text("jti")
	switch {
	case err != nil:
		return err
	case id == "":
		return errors.New("is empty")
	case len(id) > maxLogoutTokenID:
		return fmt.Errorf("is longer than %d bytes", maxLogoutTokenID)
	default:
		return nil
	}
}

// checkOptionalText holds a claim that may be missing to the rules for a
// subject.
func checkOptionalText(name string) func(context.Context, *candidate) error {
	return func(_ context.Context, t *candidate) error {
		text, err := t.claims.Text(name)
		if errors.Is(err, claims.ErrMissing) {
			return nil
		}
		if err != nil {
			return err
		}
		return checkSubjectText(text)
	}
}

// checkAboutSomebody wants to be told whose sessions are to end.
func checkAboutSomebody(_ context.Context, t *candidate) error {
	if !t.claims.Has("sub") && !t.claims.Has("sid") {
		return errors.New("both are missing")
	}
	return nil
}
