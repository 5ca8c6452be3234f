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

// These checks hold the provider to what the authorization request asked for.
// A parameter in a URL can be taken away by the user whose browser carries it,
// so having sent it proves nothing (Core section 3.1.2.1).

// checkAuthTime wants auth_time when max_age was sent, and it must not be
// longer ago than that.
func checkAuthTime(_ context.Context, t *candidate) error {
	maxAge, asked := t.client.maxAge(t.expected.Ask)
	if !asked || t.expected.Previous != nil {
		return nil
	}
	return t.client.freshEnough(t.claims, maxAge, t.now)
}

// freshEnough measures auth_time. One that is yet to come is a mistake of the
// provider's: it would stay fresh for as long as it is ahead.
func (c *Client) freshEnough(token claims.Set, maxAge time.Duration, now time.Time) error {
	authTime, err := token.Time("auth_time")
	if err != nil {
		return err
	}
	switch age := now.Sub(authTime); {
	case age > maxAge+c.clockSkew():
		return fmt.Errorf("is %s ago, max_age allows %s", age.Round(1e9), maxAge)
	case age < -c.clockSkew():
		return fmt.Errorf("is %s ahead", -age.Round(1e9))
	default:
		return nil
	}
}

// checkACR wants one of the authentication contexts that were asked for.
func checkACR(_ context.Context, t *candidate) error {
	wanted := t.client.essentialACRs(t.expected.Ask)
	if len(wanted) == 0 || t.expected.Previous != nil {
		return nil
	}
	return strongEnough(t.claims, wanted)
}

func strongEnough(token claims.Set, wanted []string) error {
	acr, err := token.Text("acr")
	if err != nil {
		return err
	}
	if !slices.Contains(wanted, acr) {
		return fmt.Errorf("%.100q is none of the acr_values", acr)
	}
	return nil
}

// Meets says why a login that was verified before is not what is asked for now:
// it is too long ago, or of another kind. It measures as the check of a login
// does, or the user would be sent to the provider over and over.
func (c *Client) Meets(i *Identity, ask Ask, now time.Time) error {
	token, verified := i.Source(FromIDToken)
	if !verified { // an API client brought an access token, which may say so, too (RFC 9470 section 6)
		token, _ = i.Source(FromAccessToken)
	}
	if ask.MaxAge != nil {
		if err := c.freshEnough(token, *ask.MaxAge, now); err != nil {
			return fmt.Errorf("auth_time: %w", err)
		}
	}
	if len(ask.ACRValues) > 0 {
		if err := strongEnough(token, ask.ACRValues); err != nil {
			return fmt.Errorf("acr: %w", err)
		}
	}
	return nil
}

// checkOrganization wants the user to belong to one of the organizations. As
// Auth0's own SDKs do, an ID is compared with org_id, a name with org_name and
// without regard to case. A refreshed token may leave both out.
func checkOrganization(_ context.Context, t *candidate) error {
	if t.expected.Previous != nil && !t.claims.Has("org_id") && !t.claims.Has("org_name") {
		return nil
	}
	return t.client.admitsOrganization(t.claims)
}

func (c *Client) admitsOrganization(token claims.Set) error {
	id, idErr := token.Text("org_id")
	name, nameErr := token.Text("org_name")
	for _, allowed := range c.Organizations {
		if strings.HasPrefix(allowed, "org_") && idErr == nil && id == allowed ||
			!strings.HasPrefix(allowed, "org_") && nameErr == nil && strings.EqualFold(name, allowed) {
			return nil
		}
	}
	if len(c.Organizations) == 0 {
		return nil
	}
	return errors.New("the user logged in with none of the organizations")
}

// expiryMargin is how long before its session_expiry a session ends, as
// Auth0's own SDKs have it: so that nothing begins that cannot end in time.
const expiryMargin = 30 * time.Second

// maxSessionExpiry tells seconds from milliseconds.
const maxSessionExpiry = 1e10

// sessionExpiry is the end that the provider sets to the session (IPSIE
// session lifetime, the claim session_expiry); zero when it sets none. What
// cannot be such a time counts as none.
func sessionExpiry(set claims.Set) time.Time {
	value, _ := set.Lookup("session_expiry")
	seconds, ok := value.(int64)
	if !ok || seconds <= 0 || seconds >= maxSessionExpiry {
		return time.Time{}
	}
	return time.Unix(seconds, 0).Add(-expiryMargin)
}

// checkSessionExpiry refuses a session that would be over at once. A refresh
// does not move the end, so there it says nothing.
func checkSessionExpiry(_ context.Context, t *candidate) error {
	ends := sessionExpiry(t.claims)
	if t.expected.Previous == nil && !ends.IsZero() && !t.now.Before(ends) {
		return errors.New("is over, or nearly")
	}
	return nil
}
