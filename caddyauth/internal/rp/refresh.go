package rp

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
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
	if c.ResourceOnRefresh && len(c.Resources) > 0 {
		form["resource"] = c.Resources
	}
	return c.tokenRequest(ctx, m, form)
}

// grantOver adds ErrGrantOver to an error that means it. Besides
// invalid_grant there are providers that say invalid_request (Dex), or
// nothing but 400 (Glewlwyd), of a token that was used before, and
// mfa_required or interaction_required when they want to see the user. What
// speaks of the client, or of the provider's own troubles, does not mean it:
// Auth0 calls a wrong client secret access_denied, with status 401.
func grantOver(err error) error {
	refused, ok := errors.AsType[*EndpointError](err)
	if !ok || errors.Is(err, ErrUnavailable) || refused.Status >= 500 || refused.Status == http.StatusUnauthorized {
		return err
	}
	oauthErr, spoken := errors.AsType[*OAuthError](err)
	if spoken && oauthErr.Code != "invalid_client" ||
		!spoken && (refused.Status == http.StatusBadRequest || refused.Status == http.StatusForbidden) {
		return fmt.Errorf("%w: %w", ErrGrantOver, err)
	}
	return err
}

// maxRetryAfter bounds how long a provider can keep us from asking again.
const maxRetryAfter = 5 * time.Minute

// retryAfter reads Retry-After, in both its forms (RFC 9110 section 10.2.3),
// or X-RateLimit-Reset, as Auth0 sends it.
func retryAfter(h http.Header, now time.Time) time.Duration {
	var wait time.Duration
	if text := h.Get("Retry-After"); text != "" {
		if seconds, err := strconv.ParseInt(text, 10, 32); err == nil {
			wait = time.Duration(seconds) * time.Second
		} else if at, err := http.ParseTime(text); err == nil {
			wait = at.Sub(now)
		}
	} else if seconds, err := strconv.ParseInt(h.Get("X-Ratelimit-Reset"), 10, 64); err == nil && seconds < maxUnixTime {
		wait = time.Unix(seconds, 0).Sub(now)
	}
	return min(max(0, wait), maxRetryAfter)
}

// maxUnixTime is the end of the year 9999.
const maxUnixTime = 253402300799
