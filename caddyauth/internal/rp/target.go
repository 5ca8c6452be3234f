package rp

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/pkce-auth/caddy-pkce-auth/caddyauth/internal/claims"
)

// ErrTarget says that the provider gives no token for a target in that way: it
// refused, or what it gave is for something else. The session's own tokens are
// none the worse for it.
var ErrTarget = errors.New("no token for what the route wants")

// TargetError is an ErrTarget.
type TargetError struct {
	// General says that it concerns everybody: the provider does not know the
	// target, or the client may not have it. Else it may be this user, or this
	// session.
	General bool
	Err     error
}

func (e *TargetError) Error() string { return fmt.Sprintf("%v: %v", ErrTarget, e.Err) }

// Is makes it an ErrTarget. The reason is not unwrapped: a provider's
// invalid_grant would pass for the end of the session's own grant.
func (e *TargetError) Is(target error) bool { return target == ErrTarget }

// generalCodes are what a provider says of a target that nobody gets here (RFC
// 6749 section 5.2, RFC 8707 section 2).
var generalCodes = []string{"invalid_target", "invalid_request", "invalid_scope", "unauthorized_client"}

// targetRefused tells a refusal of the target from what would have befallen any
// refresh: a provider in trouble, or a client that is not known.
func targetRefused(err error) error {
	oauthErr, spoken := errors.AsType[*OAuthError](err)
	if errors.Is(err, ErrUnavailable) {
		return err
	}
	if spoken && slices.Contains(generalCodes, oauthErr.Code) {
		return &TargetError{General: true, Err: err}
	}
	if errors.Is(grantOver(err), ErrGrantOver) {
		return &TargetError{Err: err}
	}
	return err
}

// authorizationFor is what to ask for when the token is to be for a target.
// What the target does not say is as configured; but an audience and resources
// go together, for both say what the token is for. The scopes have what the
// login's have beside, so that it shows whose token it is, and can be refreshed.
func (c *Client) authorizationFor(m *Metadata, t Target) (audience string, resources []string, scope string) {
	audience, resources, scope = c.Audience, c.Resources, c.scope(m)
	if t.Audience != "" || len(t.Resources) > 0 {
		audience, resources = t.Audience, t.Resources
	}
	if len(t.Scopes) > 0 {
		scopes := slices.Clone(t.Scopes)
		for _, beside := range []string{"openid", offlineAccess} {
			if slices.Contains(strings.Fields(scope), beside) && !slices.Contains(scopes, beside) {
				scopes = append(scopes, beside)
			}
		}
		scope = strings.Join(scopes, " ")
	}
	return audience, resources, scope
}

// Check holds a grant to the target: Auth0 ignores an audience that it does not
// know for a refresh, and gives a token for another. A token that is a JWT must
// name in its aud what was asked for (RFC 9068 section 3); of one that is opaque
// the scope tells, where the answer has one, which it must if it is not that of
// the request (RFC 6749 section 5.1). Nothing is verified here: the token came
// straight from the token endpoint.
func (t *Target) Check(g *Grant) error {
	if wanted := t.audiences(); len(wanted) > 0 {
		set, isJWT, err := peek(g.AccessToken.Reveal())
		if err != nil {
			return &TargetError{General: true, Err: fmt.Errorf("the access token: %w", err)}
		}
		if isJWT {
			named, _ := set.Texts("aud")
			if !slices.ContainsFunc(wanted, func(one string) bool { return slices.Contains(named, one) }) {
				return &TargetError{General: true, Err: fmt.Errorf("the access token is for %.300q, not for %.300q", named, wanted)}
			}
		}
	}
	if granted := strings.Fields(g.Scope); len(granted) > 0 && !anyGranted(t.Scopes, granted) {
		return &TargetError{Err: fmt.Errorf("none of the scopes %.300q was granted", t.Scopes)}
	}
	return nil
}

// audiences are the names under which the target may stand in a token's aud. An
// audience with spaces is several, as Ory Hydra takes it.
func (t *Target) audiences() []string {
	wanted := slices.Clone(t.Resources)
	if t.Audience != "" {
		wanted = append(wanted, t.Audience)
		if parts := strings.Fields(t.Audience); len(parts) > 1 {
			wanted = append(wanted, parts...)
		}
	}
	return wanted
}

// aboutUser are scopes that say nothing of an API.
var aboutUser = []string{"openid", "profile", "email", "address", "phone", offlineAccess, "online_access"}

// anyGranted reports whether any scope that was asked for was granted. Microsoft
// Entra's .default stands for all scopes of its API.
func anyGranted(asked, granted []string) bool {
	asked = slices.DeleteFunc(slices.Clone(asked), func(scope string) bool { return slices.Contains(aboutUser, scope) })
	return len(asked) == 0 || slices.ContainsFunc(asked, func(scope string) bool {
		api, all := strings.CutSuffix(scope, "/.default")
		return slices.ContainsFunc(granted, func(got string) bool { return got == scope || all && strings.HasPrefix(got, api+"/") })
	})
}

// Whose is who a further token is for.
type Whose struct {
	Subject, Issuer string
}

// IdentifyTarget finds out whose the token is that came for a target, by that
// request: the ID token must pass all checks. Where none is asked for, the access
// token tells, if it is a JWT.
func (c *Client) IdentifyTarget(ctx context.Context, m *Metadata, grant *Grant, r AuthRequest) (Whose, error) {
	if !c.ExpectsIDToken() {
		set, _, _ := peek(grant.AccessToken.Reveal())
		subject, _ := set.Text("sub")
		return Whose{Subject: subject}, nil
	}
	if grant.IDToken.Empty() {
		return Whose{}, fmt.Errorf("%w: no ID token came, though the scopes hold openid", ErrInvalid)
	}
	token, err := c.VerifyIDToken(ctx, m, grant.IDToken, Expected{Nonce: r.Nonce, Ask: r.Ask, AccessToken: grant.AccessToken})
	if err != nil {
		return Whose{}, err
	}
	issuer, err := token.Claims.Text("iss")
	return Whose{Subject: token.Subject, Issuer: issuer}, err
}

// SameUser checks the ID token that came with a refresh for a target, if one
// did: it must be of the same user at the same issuer. Nothing else is taken from
// it, for its claims are those of the target's scopes. Where its signature cannot
// be checked now, nothing speaks against the token.
func (c *Client) SameUser(ctx context.Context, m *Metadata, grant *Grant, before *Identity) error {
	if !c.ExpectsIDToken() || grant.IDToken.Empty() {
		return nil
	}
	known, _ := before.Source(FromIDToken)
	_, err := c.VerifyIDToken(ctx, m, grant.IDToken, Expected{
		AccessToken: grant.AccessToken, Previous: &IDToken{Subject: before.Subject, Claims: known},
	})
	if errors.Is(err, ErrNoKeys) {
		return nil
	}
	return err
}

// peek reads the claims of a token that looks like a JWT. One that does and
// cannot be read is an error, be it only that others are less strict: nobody can
// tell whom it is for.
func peek(token string) (set claims.Set, isJWT bool, err error) {
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		return claims.Set{}, false, nil
	}
	header, err := base64.RawURLEncoding.DecodeString(parts[0])
	if err != nil || !bytes.HasPrefix(bytes.TrimSpace(header), []byte("{")) {
		return claims.Set{}, false, nil //nolint:nilerr // that makes it an opaque one
	}
	head, err := claims.Parse(header)
	if err != nil {
		return claims.Set{}, true, fmt.Errorf("header: %w", err)
	}
	if !head.Has("alg") {
		return claims.Set{}, false, nil
	}
	payload, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		return claims.Set{}, true, fmt.Errorf("payload: %w", err)
	}
	if set, err = claims.Parse(payload, "aud", "sub"); err != nil {
		return claims.Set{}, true, fmt.Errorf("claims: %w", err)
	}
	return set, true, nil
}
