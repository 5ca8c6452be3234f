package rp

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
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
func (c *Client) Refresh(ctx context.Context, m *Metadata, token Secret) (*Grant, error) {
	grant, err := c.refresh(ctx, m, token)
	if errors.Is(err, errAnswerLost) && ctx.Err() == nil {
		grant, err = c.refresh(ctx, m, token)
	}
	if err != nil {
		return nil, fmt.Errorf("refreshing: %w", grantOver(err))
	}
	if grant.RefreshToken.Empty() {
		grant.RefreshToken = token
	}
	return grant, nil
}

func (c *Client) refresh(ctx context.Context, m *Metadata, token Secret) (*Grant, error) {
	form := url.Values{"grant_type": {"refresh_token"}, "refresh_token": {token.Reveal()}}
	again := m.Quirk.ResourceOnRefresh
	if c.ResourceOnRefresh != nil {
		again = *c.ResourceOnRefresh
	}
	if again && len(c.Resources) > 0 {
		form["resource"] = c.Resources
	}
	return c.tokenRequest(ctx, m, form)
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
