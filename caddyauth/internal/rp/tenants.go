package rp

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"
)

// Microsoft Entra lets users of many tenants log in at one place. Its metadata
// there name an issuer that is a template, and each ID token is from the
// issuer of its user's tenant. The tenants that may log in must be named:
// otherwise anybody could make one, with any user in it.

// tenantPlaceholder stands for the tenant in such an issuer.
const tenantPlaceholder = "{tenantid}"

// NeedsTenants reports whether an issuer stands for many tenants.
func NeedsTenants(issuer string) bool {
	if strings.Contains(issuer, tenantPlaceholder) {
		return true
	}
	u, err := url.Parse(issuer)
	if err != nil || QuirkOf(issuer).Name != "entra" {
		return false
	}
	segment, _, _ := strings.Cut(strings.TrimPrefix(u.Path, "/"), "/")
	return segment == "common" || segment == "organizations"
}

// IsIssuer reports whether a text is the provider's issuer as it may name
// itself to us: for a template, with one of the tenants.
func (c *Client) IsIssuer(m *Metadata, issuer string) bool {
	if !strings.Contains(m.Issuer, tenantPlaceholder) {
		return issuer == m.Issuer
	}
	return slices.ContainsFunc(c.Tenants, func(tenant string) bool { return issuer == m.issuerOf(tenant) })
}

// issuerOf is the issuer of a tenant's tokens.
func (m *Metadata) issuerOf(tenant string) string {
	return strings.Replace(m.Issuer, tenantPlaceholder, tenant, 1)
}

// checkTenants says when nobody can be let in.
func (c *Client) checkTenants(m *Metadata) error {
	if strings.Contains(m.Issuer, tenantPlaceholder) && len(c.Tenants) == 0 {
		return fmt.Errorf("%w: the issuer %s is for many tenants: name those that may log in with allowed_tenants", ErrMisconfigured, m.Issuer)
	}
	return nil
}

// checkTenant wants a user of one of the tenants.
func checkTenant(_ context.Context, t *candidate) error {
	if len(t.client.Tenants) == 0 {
		return t.client.checkTenants(t.metadata)
	}
	tid, err := t.claims.Text("tid")
	if err != nil {
		return err
	}
	if !slices.Contains(t.client.Tenants, tid) {
		return errors.New("the user is of none of the allowed_tenants")
	}
	return nil
}
