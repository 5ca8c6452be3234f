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

	// Sources are what was said and where. Of a claim that stands in several,
	// the first counts; but an ID token alone decides on what the protocol is
	// about.
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
	_, verified := i.Source(FromIDToken)
	sets := make([]claims.Set, len(i.Sources))
	for n, source := range i.Sources {
		if sets[n] = source.Claims; verified && source.From != FromIDToken {
			sets[n] = source.Claims.Filter(func(name string) bool { return !isGuarded(name) })
		}
	}
	return claims.Join(sets...)
}

// isGuarded reports whether a claim is one of those that decide.
func isGuarded(name string) bool { return slices.Contains(guardedClaims, name) }

// Source returns the claims of one source.
func (i *Identity) Source(from ClaimSource) (claims.Set, bool) {
	for _, source := range i.Sources {
		if source.From == from {
			return source.Claims, true
		}
	}
	return claims.Set{}, false
}

// Identify finds out who logged in by that request. The ID token, which must be
// there if it was asked for, comes first: before it has passed all checks, nothing
// of the grant is used (RFC 9700 section 4.5.3), for nothing proves that it is the
// answer to our request. Without one, whoever the first source names must be named
// by all; nobody need have a name.
func (c *Client) Identify(ctx context.Context, m *Metadata, grant *Grant, r AuthRequest) (*Identity, error) {
	i := &Identity{}
	found := map[ClaimSource]claims.Set{}
	if c.ExpectsIDToken() {
		if grant.IDToken.Empty() {
			return nil, fmt.Errorf("%w: no ID token came, though the scopes hold openid", ErrInvalid)
		}
		token, err := c.VerifyIDToken(ctx, m, grant.IDToken, Expected{Nonce: r.Nonce, Ask: r.Ask, AccessToken: grant.AccessToken})
		if err != nil {
			return nil, err
		}
		i.Subject, i.Ends = token.Subject, sessionExpiry(token.Claims)
		found[FromIDToken] = token.Claims
	}
	for _, source := range c.ClaimSources() {
		if source == FromIDToken {
			continue
		}
		set, err := c.ask(ctx, m, source, grant.AccessToken, i.Subject)
		if err != nil {
			return nil, fmt.Errorf("claims from %s: %w", source, err)
		}
		found[source] = set
		if i.Subject != "" {
			continue
		}
		if i.Subject, _ = set.Text("sub"); i.Subject != "" {
			if err := checkSubjectText(i.Subject); err != nil {
				return nil, fmt.Errorf("%w: claims from %s: sub: %w", ErrInvalid, source, err)
			}
		}
	}
	i.Sources = c.arrange(found)
	return i, nil
}

// ask gets the claims of a source that is not an ID token, which must be about
// the subject, if there is one by now. An access token that comes beside an ID
// token may call the user by another name (Core section 8.1).
func (c *Client) ask(ctx context.Context, m *Metadata, source ClaimSource, access Secret, subject string) (claims.Set, error) {
	if source == FromUserinfo {
		return c.userinfo(ctx, m, access, subject)
	}
	if c.ExpectsIDToken() {
		subject = ""
	}
	return c.accessTokenClaims(ctx, m, access, subject)
}

// IdentifyAgain brings an identity up to date with what came with a refresh:
// a new ID token, which need not be there, and the new access token, which must
// call the user what that of the login did. userinfo is asked once for each
// login.
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
		said := token.Claims.Filter(func(name string) bool { return name != "auth_time" })
		found[FromIDToken] = claims.Join(said, kept)
	}
	if slices.Contains(c.ClaimSources(), FromAccessToken) {
		subject, _ := found[FromAccessToken].Text("sub")
		set, err := c.accessTokenClaims(ctx, m, grant.AccessToken, subject)
		if err != nil {
			return nil, fmt.Errorf("claims from %s: %w", FromAccessToken, err)
		}
		found[FromAccessToken] = set
	}
	return &Identity{Subject: before.Subject, Sources: c.arrange(found), Ends: before.Ends}, nil
}

// loginClaims are the claims that say something of the login, and that an ID
// token which came with a refresh may lack: Auth0's has no "sid". Of when the
// login was, a refresh has nothing new to say (Core section 12.2): a provider
// that puts its own time there would keep a session fresh for ever.
var loginClaims = []string{"sid", "auth_time", "acr", "amr", "nonce", "org_id", "org_name", "hd", "tid", "session_expiry"}

// ClaimSources are those that the operator wants, in order.
func (c *Client) ClaimSources() []ClaimSource {
	sources := c.ClaimsFrom
	if len(sources) == 0 {
		sources = []ClaimSource{FromIDToken}
	}
	if c.Userinfo && !slices.Contains(sources, FromUserinfo) {
		sources = append(slices.Clip(sources), FromUserinfo)
	}
	return sources
}

// arrange puts sources in order. An ID token that the operator did not name is
// among them for what the protocol is about, and says nothing else. Of
// userinfo, what an earlier source says as well is let go: it is not asked
// again, and a group that is taken away there would come back from here.
func (c *Client) arrange(found map[ClaimSource]claims.Set) (sources []SourcedClaims) {
	order := c.ClaimSources()
	if _, verified := found[FromIDToken]; verified && !slices.Contains(order, FromIDToken) {
		found[FromIDToken] = found[FromIDToken].Filter(isGuarded)
		order = append(slices.Clip(order), FromIDToken)
	}
	for _, source := range order {
		set, ok := found[source]
		if !ok {
			continue
		}
		if source == FromUserinfo {
			set = set.Filter(func(name string) bool {
				return !slices.ContainsFunc(sources, func(earlier SourcedClaims) bool { return earlier.Claims.Has(name) && !isGuarded(name) })
			})
		}
		sources = append(sources, SourcedClaims{From: source, Claims: set})
	}
	return sources
}

// Admits reports whether a user who logged in before may still be let in, by
// the lists of tenants and organizations that are in use now.
func (c *Client) Admits(i *Identity) bool {
	if len(c.Tenants) == 0 && len(c.Organizations) == 0 {
		return true
	}
	token, _ := i.Source(FromIDToken)
	return c.admitsTenant(token) == nil && c.admitsOrganization(token) == nil
}
