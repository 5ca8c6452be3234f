package rp

import (
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"slices"
	"strings"

	"github.com/pkce-auth/caddy-pkce-auth/caddyauth/internal/claims"
)

// Metadata is what a provider says of itself (OpenID Connect Discovery 1.0
// section 3, RFC 8414 section 2), checked.
type Metadata struct {
	// Issuer is the provider's own spelling of the configured issuer; the two
	// differ at most by the one trailing slash that root issuers are forgiven.
	Issuer string

	Endpoints

	// IDTokenAlgorithms are the signing algorithms we accept in ID tokens:
	// the asymmetric ones that the provider advertises, RS256 in any case.
	IDTokenAlgorithms []string

	// TokenAuthMethods are the client authentication methods of the token
	// endpoint; nil when the provider says nothing.
	TokenAuthMethods []string

	// AssertionAlgorithms are those in which client assertions may be signed;
	// nil when the provider says nothing.
	AssertionAlgorithms []string

	// IssuerInResponse says that every authorization response names its
	// issuer (RFC 9207 section 3).
	IssuerInResponse bool

	// PKCEWithoutS256 says that the provider lists its code challenge methods
	// and S256 is not among them. S256 is sent all the same, never plain.
	PKCEWithoutS256 bool

	// OfflineAccess says that the provider lists the scope offline_access.
	OfflineAccess bool

	// Quirk is what is known of this provider and stands in no document of
	// its own.
	Quirk Quirk
}

// Endpoints are where a provider is asked. The last two are empty when there
// are none.
type Endpoints struct {
	AuthorizationEndpoint string
	TokenEndpoint         string
	JWKSURI               string
	EndSessionEndpoint    string // OpenID Connect RP-Initiated Logout 1.0 section 2.1
	RevocationEndpoint    string // RFC 7009
}

// metadataNames are the members whose names nobody may imitate.
var metadataNames = []string{
	"issuer", "authorization_endpoint", "token_endpoint", "jwks_uri",
	"id_token_signing_alg_values_supported", "token_endpoint_auth_methods_supported",
	"authorization_response_iss_parameter_supported", "code_challenge_methods_supported",
	"scopes_supported", "end_session_endpoint", "revocation_endpoint", "token_endpoint_auth_signing_alg_values_supported",
}

// asymmetric are the algorithms with which only the provider can sign.
// "none" and the HS family, whose key is a secret that others share, are not
// among them and never will be (RFC 8725 section 3.2).
var asymmetric = []string{"RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"}

// parseMetadata reads a metadata document for the configured issuer.
func parseMetadata(data []byte, issuer string) (*Metadata, error) {
	doc, err := claims.Parse(data, metadataNames...)
	if err != nil {
		return nil, fmt.Errorf("%w: metadata: %w", ErrInvalid, err)
	}
	m := &Metadata{}
	if m.Issuer, err = doc.Text("issuer"); err != nil {
		return nil, fmt.Errorf("%w: metadata: issuer: %w", ErrInvalid, err)
	}
	if !sameIssuer(issuer, m.Issuer) {
		return nil, fmt.Errorf("%w: the provider calls itself %.200q, not %.200q: configure exactly that as issuer", ErrMisconfigured, m.Issuer, issuer)
	}
	for _, endpoint := range []struct {
		name     string
		into     *string
		optional bool
	}{
		{"authorization_endpoint", &m.AuthorizationEndpoint, false},
		{"token_endpoint", &m.TokenEndpoint, false},
		{"jwks_uri", &m.JWKSURI, false},
		{"end_session_endpoint", &m.EndSessionEndpoint, true},
		{"revocation_endpoint", &m.RevocationEndpoint, true},
	} {
		*endpoint.into, err = doc.Text(endpoint.name)
		if endpoint.optional && (errors.Is(err, claims.ErrMissing) || err == nil && *endpoint.into == "") {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("%w: metadata: %s: %w", ErrInvalid, endpoint.name, err)
		}
		if err := checkEndpoint(*endpoint.into, isInsecure(issuer)); err != nil {
			return nil, fmt.Errorf("%w: metadata: %s: %w", ErrInvalid, endpoint.name, err)
		}
	}
	m.Quirk = quirkOf(m.Issuer)
	return m, m.readCapabilities(doc)
}

func (m *Metadata) readCapabilities(doc claims.Set) error {
	list := func(name string) ([]string, error) {
		l, err := doc.Texts(name)
		if errors.Is(err, claims.ErrMissing) {
			return nil, nil
		}
		if err != nil {
			return nil, fmt.Errorf("%w: metadata: %s: %w", ErrInvalid, name, err)
		}
		return l, nil
	}
	algorithms, err := list("id_token_signing_alg_values_supported")
	if err != nil {
		return err
	}
	m.IDTokenAlgorithms = []string{"RS256"}
	for _, alg := range algorithms {
		if slices.Contains(asymmetric, alg) && !slices.Contains(m.IDTokenAlgorithms, alg) {
			m.IDTokenAlgorithms = append(m.IDTokenAlgorithms, alg)
		}
	}
	if m.TokenAuthMethods, err = list("token_endpoint_auth_methods_supported"); err != nil {
		return err
	}
	if m.AssertionAlgorithms, err = list("token_endpoint_auth_signing_alg_values_supported"); err != nil {
		return err
	}
	challenges, err := list("code_challenge_methods_supported")
	if err != nil {
		return err
	}
	m.PKCEWithoutS256 = challenges != nil && !slices.Contains(challenges, "S256")
	scopes, err := list("scopes_supported")
	if err != nil {
		return err
	}
	m.OfflineAccess = slices.Contains(scopes, offlineAccess)
	m.IssuerInResponse, err = doc.Flag("authorization_response_iss_parameter_supported")
	if err != nil && !errors.Is(err, claims.ErrMissing) {
		return fmt.Errorf("%w: metadata: authorization_response_iss_parameter_supported: %w", ErrInvalid, err)
	}
	return nil
}

// sameIssuer compares issuers byte by byte (Discovery section 4.3), but for
// one trailing slash of an issuer without a path: Auth0's has one, and nobody
// writes it. Issuers with a path are compared as they are (Okta's
// /oauth2/default and /oauth2/default/ are two).
func sameIssuer(configured, own string) bool {
	if configured == own {
		return true
	}
	return IsRootIssuer(configured) && strings.TrimSuffix(configured, "/") == strings.TrimSuffix(own, "/")
}

// IsRootIssuer reports whether an issuer is an origin, with at most a slash
// behind it.
func IsRootIssuer(issuer string) bool {
	u, err := url.Parse(issuer)
	return err == nil && (u.Path == "" || u.Path == "/") && u.RawQuery == ""
}

// CheckIssuer says whether a text can be an issuer (Discovery section 3):
// https without query and fragment; http for loopback names only.
func CheckIssuer(issuer string) error {
	if err := checkEndpoint(issuer, true); err != nil {
		return err
	}
	if strings.Contains(issuer, "?") {
		return errors.New("must not have a query")
	}
	return nil
}

func isInsecure(issuer string) bool { return strings.HasPrefix(issuer, "http://") }

// discoveryURL is where an issuer's metadata stand (Discovery section 4.1).
func discoveryURL(issuer string) string {
	return strings.TrimSuffix(issuer, "/") + "/.well-known/openid-configuration"
}

// IsLoopback reports whether a host name, without port, is one that every
// resolver must keep on this machine (RFC 6761 section 6.3) or a loopback
// address.
func IsLoopback(host string) bool {
	if addr, err := netip.ParseAddr(strings.Trim(host, "[]")); err == nil {
		return addr.IsLoopback()
	}
	host = strings.ToLower(strings.TrimSuffix(host, "."))
	return host == "localhost" || strings.HasSuffix(host, ".localhost")
}
