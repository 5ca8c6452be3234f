package rp

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/pkce-auth/caddy-pkce-auth/caddyauth/internal/claims"
)

// ClaimSource is where claims come from.
type ClaimSource string

// The sources.
const (
	FromIDToken     ClaimSource = "id_token"
	FromAccessToken ClaimSource = "access_token"
	FromUserinfo    ClaimSource = "userinfo"
)

// Identity is who logged in, and what the provider says of them.
type Identity struct {
	// Subject is the "sub"; empty where nothing names one.
	Subject string

	// Sources are what was said and where; of a claim that stands in several,
	// the first counts.
	Sources []SourcedClaims

	// Ends is when the session must end, whatever is done in it; zero when the
	// provider sets no such time.
	Ends time.Time
}

// SourcedClaims are claims, and where they come from.
type SourcedClaims struct {
	From   ClaimSource
	Claims claims.Set
}

// Claims are those of all sources.
func (i *Identity) Claims() claims.Set {
	sets := make([]claims.Set, len(i.Sources))
	for n, source := range i.Sources {
		sets[n] = source.Claims
	}
	return claims.Join(sets...)
}

// Source returns the claims of one source.
func (i *Identity) Source(from ClaimSource) (claims.Set, bool) {
	for _, source := range i.Sources {
		if source.From == from {
			return source.Claims, true
		}
	}
	return claims.Set{}, false
}

// Identify finds out who logged in. The ID token, which must be there if it
// was asked for, comes first: before it has passed all checks, nothing of the
// grant is used (RFC 9700 section 4.5.3), for nothing proves that it is the
// answer to our request. Without one, nobody need have a name.
func (c *Client) Identify(ctx context.Context, m *Metadata, grant *Grant, nonce Secret) (*Identity, error) {
	i := &Identity{}
	found := map[ClaimSource]claims.Set{}
	if c.ExpectsIDToken() {
		if grant.IDToken.Empty() {
			return nil, fmt.Errorf("%w: no ID token came, though the scopes hold openid", ErrInvalid)
		}
		token, err := c.VerifyIDToken(ctx, m, grant.IDToken, Expected{Nonce: nonce, AccessToken: grant.AccessToken})
		if err != nil {
			return nil, err
		}
		i.Subject, i.Ends = token.Subject, sessionExpiry(token.Claims)
		found[FromIDToken] = token.Claims
	}
	for _, source := range c.claimSources() {
		var err error
		switch source {
		case FromAccessToken:
			found[source], err = c.accessTokenClaims(ctx, m, grant.AccessToken)
		case FromUserinfo:
			found[source], err = c.userinfo(ctx, m, grant.AccessToken, i.Subject)
		}
		if err != nil {
			return nil, fmt.Errorf("claims from %s: %w", source, err)
		}
	}
	i.Sources = c.arrange(found)
	if i.Subject != "" {
		return i, nil
	}
	i.Subject, _ = i.Claims().Text("sub")
	if i.Subject == "" {
		return i, nil
	}
	if err := checkSubjectText(i.Subject); err != nil {
		return nil, fmt.Errorf("%w: sub: %w", ErrInvalid, err)
	}
	return i, nil
}

// IdentifyAgain brings an identity up to date with what came with a refresh:
// a new ID token, which need not be there, and the new access token. userinfo
// is asked once for each login.
//
// The error is ErrNoKeys when nothing can be verified now. Then what was known
// stays, for the refresh token that came with it is good, and the old one
// spent.
func (c *Client) IdentifyAgain(ctx context.Context, m *Metadata, grant *Grant, before *Identity) (*Identity, error) {
	found := map[ClaimSource]claims.Set{}
	for _, source := range before.Sources {
		found[source.From] = source.Claims
	}
	if c.ExpectsIDToken() && !grant.IDToken.Empty() {
		token, err := c.VerifyIDToken(ctx, m, grant.IDToken, Expected{
			AccessToken: grant.AccessToken, Previous: &IDToken{Subject: before.Subject, Claims: found[FromIDToken]},
		})
		if err != nil {
			return nil, err
		}
		kept := found[FromIDToken].Filter(func(name string) bool { return slices.Contains(loginClaims, name) })
		found[FromIDToken] = claims.Join(token.Claims, kept)
	}
	if slices.Contains(c.claimSources(), FromAccessToken) {
		set, err := c.accessTokenClaims(ctx, m, grant.AccessToken)
		if err != nil {
			return nil, fmt.Errorf("claims from %s: %w", FromAccessToken, err)
		}
		found[FromAccessToken] = set
	}
	return &Identity{Subject: before.Subject, Sources: c.arrange(found), Ends: before.Ends}, nil
}

// loginClaims are the claims that say something of the login, and that an ID
// token which came with a refresh may lack: Auth0's has no "sid".
var loginClaims = []string{"sid", "auth_time", "acr", "amr", "nonce", "org_id", "org_name", "hd", "tid", "session_expiry"}

// claimSources are those that the operator wants, in order.
func (c *Client) claimSources() []ClaimSource {
	sources := c.ClaimsFrom
	if len(sources) == 0 {
		sources = []ClaimSource{FromIDToken}
	}
	if c.Userinfo && !slices.Contains(sources, FromUserinfo) {
		sources = append(slices.Clip(sources), FromUserinfo)
	}
	return sources
}

// arrange puts sources in order. Whatever the order, an ID token's own word
// counts on what the protocol is about, from the subject to the session; one
// that the operator did not name says nothing else.
func (c *Client) arrange(found map[ClaimSource]claims.Set) (sources []SourcedClaims) {
	guarded := func(name string) bool { return slices.Contains(guardedClaims, name) }
	order := c.claimSources()
	_, verified := found[FromIDToken]
	if verified && !slices.Contains(order, FromIDToken) {
		found[FromIDToken] = found[FromIDToken].Filter(guarded)
		order = append(slices.Clip(order), FromIDToken)
	}
	for _, source := range order {
		set, ok := found[source]
		if !ok {
			continue
		}
		if verified && source != FromIDToken {
			set = set.Filter(func(name string) bool { return !guarded(name) })
		}
		sources = append(sources, SourcedClaims{From: source, Claims: set})
	}
	return sources
}
