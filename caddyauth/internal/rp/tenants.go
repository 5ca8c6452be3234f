package rp

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"

	"github.com/pkce-auth/caddy-pkce-auth/caddyauth/internal/claims"
)

// Microsoft Entra lets users of many tenants log in at one place. Its metadata
// there name an issuer that is a template, and each ID token is from the
// issuer of its user's tenant. The tenants that may log in must be named:
// otherwise anybody could make one, with any user in it.

// TenantPlaceholder stands for the tenant in such an issuer.
const TenantPlaceholder = "{tenantid}"

// NeedsTenants reports whether an issuer stands for many tenants.
func NeedsTenants(issuer string) bool {
	if IsTemplate(issuer) {
		return true
	}
	u, err := url.Parse(issuer)
	if err != nil || QuirkOf(issuer).Name != "entra" {
		return false
	}
	segment, _, _ := strings.Cut(strings.TrimPrefix(u.Path, "/"), "/")
	return strings.EqualFold(segment, "common") || strings.EqualFold(segment, "organizations")
}

// IsTemplate reports whether an issuer is written as the template that such a
// provider's metadata have.
func IsTemplate(issuer string) bool { return strings.Contains(issuer, TenantPlaceholder) }

// IsIssuer reports whether a text is the provider's issuer as it may name
// itself to us: for a template, with one of the tenants.
func (c *Client) IsIssuer(m *Metadata, issuer string) bool {
	if !IsTemplate(m.Issuer) {
		return issuer == m.Issuer
	}
	return slices.ContainsFunc(c.Tenants, func(tenant string) bool { return issuer == m.issuerOf(tenant) })
}

// issuerOf is the issuer of a tenant's tokens.
func (m *Metadata) issuerOf(tenant string) string {
	return strings.Replace(m.Issuer, TenantPlaceholder, tenant, 1)
}

// checkTenantIssuer wants the issuer of the user's tenant, and of the login
// where this is a refresh (Core section 12.2): two tenants may call different
// users the same. Where the key says whose tokens it signs, as Entra's do, it
// must be these: otherwise a key of one tenant would sign for all.
func (t *candidate) checkTenantIssuer(iss string) error {
	tid, err := t.claims.Text("tid")
	if err != nil {
		return fmt.Errorf("tid: %w", err)
	}
	if want := t.metadata.issuerOf(tid); iss != want {
		return fmt.Errorf("is %.200q, not %.200q", iss, want)
	}
	if t.keyIssuer != "" && t.keyIssuer != iss && t.keyIssuer != t.metadata.Issuer {
		return fmt.Errorf("is %.200q, and the key signs for %.200q", iss, t.keyIssuer)
	}
	if t.expected.Previous != nil {
		if before, _ := t.expected.Previous.Claims.Text("iss"); iss != before {
			return fmt.Errorf("is %.200q, that of the login was %.200q", iss, before)
		}
	}
	return nil
}

// CheckTenants says when nobody can be let in.
func (c *Client) CheckTenants(m *Metadata) error {
	if IsTemplate(m.Issuer) && len(c.Tenants) == 0 {
		return fmt.Errorf("%w: the issuer %s is for many tenants: name those that may log in with allowed_tenants", ErrMisconfigured, m.Issuer)
	}
	return nil
}

// checkTenant wants a user of one of the tenants.
func checkTenant(_ context.Context, t *candidate) error {
	if err := t.client.CheckTenants(t.metadata); err != nil {
		return err
	}
	return t.client.admitsTenant(t.claims)
}

func (c *Client) admitsTenant(token claims.Set) error {
	if len(c.Tenants) == 0 {
		return nil
	}
	tid, err := token.Text("tid")
	if err != nil {
		return err
	}
	if !slices.Contains(c.Tenants, tid) {
		return errors.New("the user is of none of the allowed_tenants")
	}
	return nil
}
