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
	// differ at most by the one trailing slash that root issuers are forgiven,
	// or by the tenant where this is a template.
	Issuer string

	Endpoints

	// IDTokenAlgorithms are the signing algorithms we accept in ID tokens:
	// the asymmetric ones that the provider advertises, RS256 in any case.
	IDTokenAlgorithms []string

	// TokenAuthMethods are the client authentication methods of the token
	// endpoint; nil when the provider says nothing.
	TokenAuthMethods []string

	// RevocationAuthMethods are those of the revocation endpoint; nil when the
	// provider says nothing.
	RevocationAuthMethods []string

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

	// aliases are where to go instead when the client's certificate proves who
	// it is (RFC 8705 section 5), and what was wrong with them.
	aliases    Endpoints
	aliasesErr error
}

// Endpoints are where a provider is asked. The last three are empty when there
// are none.
type Endpoints struct {
	AuthorizationEndpoint string
	TokenEndpoint         string
	JWKSURI               string
	UserinfoEndpoint      string // OpenID Connect Core section 5.3
	EndSessionEndpoint    string // OpenID Connect RP-Initiated Logout 1.0 section 2.1
	RevocationEndpoint    string // RFC 7009
}

// endpointNames are the endpoints by the names they have in the metadata, and
// whether a provider can do without.
var endpointNames = []struct {
	name     string
	of       func(*Endpoints) *string
	optional bool
}{
	{"authorization_endpoint", func(e *Endpoints) *string { return &e.AuthorizationEndpoint }, false},
	{"token_endpoint", func(e *Endpoints) *string { return &e.TokenEndpoint }, false},
	{"jwks_uri", func(e *Endpoints) *string { return &e.JWKSURI }, false},
	{"userinfo_endpoint", func(e *Endpoints) *string { return &e.UserinfoEndpoint }, true},
	{"end_session_endpoint", func(e *Endpoints) *string { return &e.EndSessionEndpoint }, true},
	{"revocation_endpoint", func(e *Endpoints) *string { return &e.RevocationEndpoint }, true},
}

// Check says whether the endpoints of a provider with that issuer may be
// called.
func (e Endpoints) Check(issuer string) error {
	for _, endpoint := range endpointNames {
		if text := *endpoint.of(&e); text != "" {
			if err := checkEndpoint(text, isInsecure(issuer)); err != nil {
				return fmt.Errorf("%s: %w", endpoint.name, err)
			}
		}
	}
	return nil
}

// SuffiseForLogin reports whether a login can do with them, without asking the
// provider for its metadata.
func (e Endpoints) SuffiseForLogin() bool {
	return e.AuthorizationEndpoint != "" && e.TokenEndpoint != ""
}

// metadataNames are the members whose names nobody may imitate.
var metadataNames = []string{
	"issuer", "authorization_endpoint", "token_endpoint", "jwks_uri", "userinfo_endpoint", "end_session_endpoint", "revocation_endpoint",
	"id_token_signing_alg_values_supported", "token_endpoint_auth_methods_supported", "revocation_endpoint_auth_methods_supported",
	"authorization_response_iss_parameter_supported", "code_challenge_methods_supported",
	"scopes_supported", "token_endpoint_auth_signing_alg_values_supported", "mtls_endpoint_aliases",
}

// asymmetric are the algorithms with which only the provider can sign.
// "none" and the HS family, whose key is a secret that others share, are not
// among them and never will be (RFC 8725 section 3.2).
var asymmetric = []string{"RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"}

// parseMetadata reads a metadata document for the configured issuer. What an
// operator says of an endpoint counts, whatever the document does (R53).
func parseMetadata(data []byte, issuer string, explicit Endpoints) (*Metadata, error) {
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
	if m.Endpoints, err = readEndpoints(doc, issuer, explicit); err != nil {
		return nil, fmt.Errorf("%w: metadata: %w", ErrInvalid, err)
	}
	m.Quirk = QuirkOf(issuer)
	m.readAliases(doc, issuer, explicit)
	return m, m.readCapabilities(doc)
}

func readEndpoints(doc claims.Set, issuer string, explicit Endpoints) (found Endpoints, err error) {
	for _, endpoint := range endpointNames {
		into := endpoint.of(&found)
		if *into = *endpoint.of(&explicit); *into != "" {
			continue
		}
		*into, err = doc.Text(endpoint.name)
		if endpoint.optional && (errors.Is(err, claims.ErrMissing) || err == nil && *into == "") {
			continue
		}
		if err != nil {
			return Endpoints{}, fmt.Errorf("%s: %w", endpoint.name, err)
		}
		if err := checkEndpoint(*into, isInsecure(issuer)); err != nil {
			return Endpoints{}, fmt.Errorf("%s: %w", endpoint.name, err)
		}
	}
	return found, nil
}

// readAliases reads the endpoints for clients that come with a certificate.
// What is wrong with them is nobody's trouble who comes without one, and no
// reason to go elsewhere with one (M143).
func (m *Metadata) readAliases(doc claims.Set, issuer string, explicit Endpoints) {
	m.aliases = m.Endpoints
	doc, err := doc.Object("mtls_endpoint_aliases")
	if errors.Is(err, claims.ErrMissing) {
		return
	}
	for _, endpoint := range endpointNames {
		if err != nil {
			break
		}
		if text, textErr := doc.Text(endpoint.name); !errors.Is(textErr, claims.ErrMissing) && *endpoint.of(&explicit) == "" {
			if err = textErr; err == nil {
				err = checkEndpoint(text, isInsecure(issuer))
			}
			*endpoint.of(&m.aliases) = text
		}
	}
	if err != nil {
		m.aliasesErr = fmt.Errorf("%w: metadata: mtls_endpoint_aliases: %w", ErrInvalid, err)
	}
}

// metadataWithoutDiscovery are those of a provider that publishes none, or
// that an operator describes. Of algorithms nothing is known: it is the keys
// that say what they sign with.
func metadataWithoutDiscovery(issuer string, endpoints Endpoints) *Metadata {
	return &Metadata{Issuer: issuer, Endpoints: endpoints, aliases: endpoints, IDTokenAlgorithms: asymmetric, Quirk: QuirkOf(issuer)}
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
	if m.RevocationAuthMethods, err = list("revocation_endpoint_auth_methods_supported"); err != nil {
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
// /oauth2/default and /oauth2/default/ are two). Where the provider's own is a
// template, ours may name any tenant in its place.
func sameIssuer(configured, own string) bool {
	if configured == own {
		return true
	}
	if before, after, ok := strings.Cut(own, TenantPlaceholder); ok {
		tenant, prefixed := strings.CutPrefix(configured, before)
		tenant, suffixed := strings.CutSuffix(tenant, after)
		return prefixed && suffixed && tenant != "" && !strings.Contains(tenant, "/")
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
// Those of a template stand where any organization may log in.
func discoveryURL(issuer string) string {
	issuer = strings.Replace(issuer, TenantPlaceholder, "organizations", 1)
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
