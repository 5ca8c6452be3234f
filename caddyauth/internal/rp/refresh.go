package rp

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
)

// ErrGrantOver says that the provider does not take a refresh token any
// longer: it has expired or was revoked, was used before, or the user must
// prove anew who they are. Only a login helps.
var ErrGrantOver = errors.New("the grant is over")

// Refresh asks for new tokens (RFC 6749 section 6). A refresh token in the
// answer takes the place of the one that was sent; without one, that stays
// good. An ID token in the answer must still be verified.
//
// When the connection breaks before the answer is here, the provider may have
// spent the token already: it is sent once more, at once, for then most
// providers still take it.
//
// With a target, the access token is to be for that. The error is an ErrTarget
// when the provider does not do so; whether it has done so, Target.Check tells,
// for then the refresh token in the grant must be kept all the same.
func (c *Client) Refresh(ctx context.Context, m *Metadata, r Renewal) (*Grant, error) {
	grant, err := c.tokenRequest(ctx, m, c.refreshForm(m, r))
	if errors.Is(err, errAnswerLost) && ctx.Err() == nil {
		grant, err = c.tokenRequest(ctx, m, c.refreshForm(m, r))
	}
	switch {
	case err != nil && r.Target.Empty():
		return nil, fmt.Errorf("refreshing: %w", grantOver(err))
	case err != nil:
		return nil, fmt.Errorf("refreshing: %w", targetRefused(err))
	case grant.RefreshToken.Empty():
		grant.RefreshToken = r.Token
	}
	return grant, nil
}

// Renewal is a refresh token, and what is to come of it.
type Renewal struct {
	Token Secret

	// Target is what the access token is to be for.
	Target Target

	// Own says that the refresh token came of an authorization for the target
	// itself, and need not be told.
	Own bool
}

// refreshForm has the target's parameters (RFC 6749 section 6, RFC 8707 section
// 2.2, Auth0's multi-resource refresh tokens), where the refresh token is not of
// its own; else the resources that it has anyway, where the provider wants them
// again.
func (c *Client) refreshForm(m *Metadata, r Renewal) url.Values {
	form := url.Values{"grant_type": {"refresh_token"}, "refresh_token": {r.Token.Reveal()}}
	if r.Target.Empty() || r.Own {
		if _, resources, _ := c.authorizationFor(m, r.Target); len(resources) > 0 && c.resourceOnRefresh(m) {
			form["resource"] = resources
		}
		return form
	}
	if r.Target.Audience != "" {
		form.Set("audience", r.Target.Audience)
	}
	if len(r.Target.Resources) > 0 {
		form["resource"] = r.Target.Resources
	}
	if len(r.Target.Scopes) > 0 {
		form.Set("scope", strings.Join(r.Target.Scopes, " "))
	}
	return form
}

func (c *Client) resourceOnRefresh(m *Metadata) bool {
	if c.ResourceOnRefresh != nil {
		return *c.ResourceOnRefresh
	}
	return m.Quirk.ResourceOnRefresh
}

// overCodes are what providers say of a refresh token that they do not take
// any longer. Besides invalid_grant there is invalid_request (Dex), and what
// says that the user must be seen.
var overCodes = []string{
	"invalid_grant", "invalid_request", "access_denied", "mfa_required",
	"login_required", "consent_required", "interaction_required", "account_selection_required",
}

// grantOver adds ErrGrantOver to an error that means it. What speaks of the
// client, of the provider's own troubles, or comes from something in between,
// does not: such a session can go on when that is put right. Auth0 calls a
// wrong client secret access_denied, with status 401; Glewlwyd says nothing at
// all of a token that was used before.
func grantOver(err error) error {
	refused, ok := errors.AsType[*EndpointError](err)
	if !ok || errors.Is(err, ErrUnavailable) {
		return err
	}
	oauthErr, spoken := errors.AsType[*OAuthError](err)
	switch {
	case spoken && slices.Contains(overCodes, oauthErr.Code) && (oauthErr.Code != "access_denied" || refused.Status != http.StatusUnauthorized),
		refused.Silent && refused.Status == http.StatusBadRequest:
		return fmt.Errorf("%w: %w", ErrGrantOver, err)
	default:
		return err
	}
}

// maxRetryAfter bounds how long a provider can keep us from asking again.
const maxRetryAfter = 5 * time.Minute

// retryAfter reads Retry-After, in both its forms (RFC 9110 section 10.2.3),
// or X-RateLimit-Reset: Auth0 sends that with every answer, but it means
// something only with "too many requests".
func retryAfter(status int, h http.Header, now time.Time) time.Duration {
	var wait time.Duration
	if text := h.Get("Retry-After"); text != "" {
		if seconds, err := strconv.ParseInt(text, 10, 32); err == nil {
			wait = time.Duration(seconds) * time.Second
		} else if at, err := http.ParseTime(text); err == nil {
			wait = at.Sub(now)
		}
	} else if status != http.StatusTooManyRequests {
		return 0
	} else if seconds, err := strconv.ParseInt(h.Get("X-Ratelimit-Reset"), 10, 64); err == nil && seconds < maxUnixTime {
		wait = time.Unix(seconds, 0).Sub(now)
	}
	return min(max(0, wait), maxRetryAfter)
}

// maxUnixTime is the end of the year 9999.
const maxUnixTime = 253402300799
