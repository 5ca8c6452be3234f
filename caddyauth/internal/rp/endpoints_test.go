package rp

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"testing"

	"github.com/pkce-auth/caddy-pkce-auth/test/provider"
)

// R53: where an operator names the endpoints, they count, and no document is
// asked for if they suffice.
func TestR53ExplicitEndpoints(t *testing.T) {
	explicit := Endpoints{AuthorizationEndpoint: "https://op.test/a", TokenEndpoint: "https://op.test/t"}
	silent := roundTripper(func(r *http.Request) (*http.Response, error) { panic("asked for " + r.URL.String()) })
	p := NewProvider(ProviderConfig{Issuer: "https://op.test", Endpoints: explicit, Transport: silent})
	m, err := p.Metadata(t.Context())
	if err != nil || m.Endpoints != explicit || m.Issuer != p.Issuer() || len(m.IDTokenAlgorithms) != len(asymmetric) {
		t.Errorf("without discovery: got %+v, %v", m, err)
	}
	for name, some := range map[string]Endpoints{
		"none":                       {},
		"no token endpoint":          {AuthorizationEndpoint: "https://op.test/a"},
		"no authorization endpoint":  {TokenEndpoint: "https://op.test/t"},
		"enough, and a DiscoveryURL": explicit,
	} {
		op := start(t, provider.Config{})
		cfg := ProviderConfig{Issuer: op.URL, Endpoints: some}
		if name == "enough, and a DiscoveryURL" {
			cfg.DiscoveryURL = discoveryURL(op.URL)
		}
		m, err := NewProvider(cfg).Metadata(t.Context())
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if some.AuthorizationEndpoint != "" && m.AuthorizationEndpoint != some.AuthorizationEndpoint || m.JWKSURI != op.URL+"/keys" || len(op.Requests("metadata")) != 1 {
			t.Errorf("%s: got %+v after %d requests", name, m.Endpoints, len(op.Requests("metadata")))
		}
	}
}

// F07: an endpoint that an operator names is held to the same as one from a
// document.
func TestF07EndpointsCheck(t *testing.T) {
	const issuer = "https://op.test"
	if err := (Endpoints{TokenEndpoint: "https://op.test/t", JWKSURI: "https://keys.test/"}).Check(issuer); err != nil {
		t.Error(err)
	}
	for text, want := range map[string]string{
		"http://op.test/t":          "must be https",
		"http://localhost/t":        "must be https", // the issuer is not on loopback
		"ftp://op.test/t":           `scheme "ftp" is not https`,
		"https://op.test/%zz":       "not a URL",
		"/t":                        "must be absolute",
		"https://a@op.test/t":       "must not have user information",
		"https://op.test/t#":        "must not have a fragment",
		"https://op.test/\u0000end": "not a URL",
	} {
		for _, endpoint := range endpointNames {
			var e Endpoints
			*endpoint.of(&e) = text
			if err := e.Check(issuer); err == nil || err.Error() != endpoint.name+": "+want {
				t.Errorf("%s %q: got %v, want %q", endpoint.name, text, err, want)
			}
		}
	}
	if err := (Endpoints{TokenEndpoint: "http://127.0.0.1:8080/t"}).Check("http://localhost:8080"); err != nil {
		t.Errorf("on loopback: %v", err)
	}
}

// What can be an issuer, and which names never leave this machine: http is for
// those alone, and a name that looks like one of them is none.
func TestCheckIssuerAndLoopback(t *testing.T) {
	for issuer, want := range map[string]string{
		"https://op.test": "", "https://op.test/a/b/": "", "http://localhost:9000": "", "http://dex.localhost.": "", "http://[::1]:1/x": "", "http://127.9.9.9": "",
		"https://op.test?":        "must not have a query",
		"https://op.test/?a=b":    "must not have a query",
		"https://op.test#x":       "must not have a fragment",
		"http://op.test":          "must be https",
		"http://localhost.test":   "must be https",
		"http://evillocalhost":    "must be https",
		"http://127.0.0.1.test":   "must be https",
		"http://[::ffff:1.2.3.4]": "must be https",
		"op.test":                 "must be absolute",
	} {
		err := CheckIssuer(issuer)
		if want == "" && err != nil || want != "" && (err == nil || err.Error() != want) {
			t.Errorf("%s: got %v, want %q", issuer, err, want)
		}
	}
}

// M143: what is wrong with the endpoints for mutual TLS is no trouble of those
// who come without a certificate, and sends nobody elsewhere who has one.
func TestM143Aliases(t *testing.T) {
	const own = "https://op.test/token"
	for name, tc := range map[string]struct {
		aliases any
		token   string // where a client with a certificate goes; empty: nowhere
	}{
		"nothing said":             {nil, own},
		"one of them":              {map[string]any{"token_endpoint": "https://mtls.test/token"}, "https://mtls.test/token"},
		"another of them":          {map[string]any{"revocation_endpoint": "https://mtls.test/revoke"}, own},
		"no object":                {"https://mtls.test", ""},
		"over http":                {map[string]any{"token_endpoint": "http://mtls.test/token"}, ""},
		"a list":                   {map[string]any{"token_endpoint": []string{"https://mtls.test/token"}}, ""},
		"a broken one, before one": {map[string]any{"authorization_endpoint": 1, "token_endpoint": "https://mtls.test/token"}, ""},
	} {
		m, err := parseMetadata(document("https://op.test", map[string]any{"mtls_endpoint_aliases": tc.aliases}), "https://op.test", Endpoints{})
		if err != nil {
			t.Errorf("%s: without a certificate: %v", name, err)
			continue
		}
		of := func(e *Endpoints) *string { return &e.TokenEndpoint }
		if got, err := (&Client{}).endpoint(m, of); got != own || err != nil {
			t.Errorf("%s: without a certificate: got %q, %v", name, got, err)
		}
		got, err := (&Client{Auth: AuthTLS}).endpoint(m, of)
		if (err == nil) != (tc.token != "") || err == nil && got != tc.token || err != nil && !errors.Is(err, ErrInvalid) {
			t.Errorf("%s: with a certificate: got %q, %v; want %q", name, got, err, tc.token)
		}
	}
	// What the operator names counts here as well.
	m, err := parseMetadata(document("https://op.test", map[string]any{"mtls_endpoint_aliases": map[string]any{"token_endpoint": "https://mtls.test/token"}}),
		"https://op.test", Endpoints{TokenEndpoint: "https://mine.test/token"})
	if err != nil || m.aliases.TokenEndpoint != "https://mine.test/token" {
		t.Errorf("named by the operator: got %q, %v", m.aliases.TokenEndpoint, err)
	}
}

// Lists that are no lists are refused one by one: a provider that is read as
// having said nothing would be asked in a way that it does not take.
func TestM14CapabilitiesThatAreNone(t *testing.T) {
	for _, name := range []string{
		"id_token_signing_alg_values_supported", "token_endpoint_auth_methods_supported", "token_endpoint_auth_signing_alg_values_supported",
		"code_challenge_methods_supported", "scopes_supported",
	} {
		for _, odd := range []any{1, true, map[string]any{}, []any{1}} {
			if _, err := parseMetadata(document("https://op.test", map[string]any{name: odd}), "https://op.test", Endpoints{}); !errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), name) {
				t.Errorf("%s: %v: got %v, want it named", name, odd, err)
			}
		}
	}
	if _, err := parseMetadata(document("https://op.test", map[string]any{"issuer": 1}), "https://op.test", Endpoints{}); !errors.Is(err, ErrInvalid) {
		t.Errorf("an issuer that is a number: got %v", err)
	}
}

// URLs that are none lead nowhere, and the error says so; they come from an
// operator or a quirk, for those in documents are checked.
func TestURLsThatAreNone(t *testing.T) {
	const bad = "https://op.test/%zz"
	c := &Client{ClientID: "id"}
	for name, text := range map[string]string{"a path": bad, "a query": "https://op.test/?x=%zz"} {
		m := &Metadata{Endpoints: Endpoints{AuthorizationEndpoint: text}}
		if got, err := c.AuthorizationURL(m, AuthRequest{Transaction: NewTransaction()}); !errors.Is(err, ErrMisconfigured) || got != "" {
			t.Errorf("authorization, %s: got %q, %v", name, got, err)
		}
	}
	if got, err := c.LogoutURL(&Metadata{Endpoints: Endpoints{EndSessionEndpoint: bad}}, LogoutOIDC, LogoutRequest{}); !errors.Is(err, ErrMisconfigured) || got != "" {
		t.Errorf("logout: got %q, %v", got, err)
	}
	if _, err := NewProvider(ProviderConfig{Issuer: "https://op.test", DiscoveryURL: bad}).Metadata(t.Context()); !errors.Is(err, ErrMisconfigured) {
		t.Errorf("discovery: got %v", err)
	}
	b := newBench(t)
	b.client.Userinfo = true
	metadata(t, b.client).UserinfoEndpoint = bad
	if _, err := b.identify(t, b.grant(b.op.Sign(nil, b.claims(nil)), "x")); !errors.Is(err, ErrMisconfigured) || containsAny(err.Error(), bad) {
		t.Errorf("userinfo: got %v", err)
	}
}

// Without HTTP/2 (GODEBUG=http2client=0) the transport that ours is made of has
// no settings for TLS: they are made, and not older versions of TLS with them.
func TestTransportWithoutHTTP2(t *testing.T) {
	t.Setenv("GODEBUG", "http2client=0")
	before := http.DefaultTransport
	t.Cleanup(func() { http.DefaultTransport = before })
	http.DefaultTransport = &http.Transport{}
	transport := NewTransport()
	if cfg := transport.TLSClientConfig; cfg == nil || cfg.ClientSessionCache == nil || cfg.InsecureSkipVerify {
		t.Errorf("got %+v", cfg)
	}
	if err := transport.OnProxyConnectResponse(context.Background(), nil, nil, &http.Response{StatusCode: http.StatusOK}); err != nil {
		t.Errorf("a proxy that connects: %v", err)
	}
}
