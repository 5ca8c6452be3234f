package caddyauth

import (
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"net/http"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddytls"

	"github.com/pkce-auth/caddy-pkce-auth/caddyauth/internal/rp"
)

// calls is all that shapes the calls to a provider. Its exported fields tell
// one from another.
type calls struct {
	Issuer, DiscoveryURL string
	Endpoints            rp.Endpoints
	Timeout              time.Duration
	TrustPool            json.RawMessage
	Certificate          *ClientCertificate
	Nonce                string

	roots *x509.CertPool // nil: the system's
}

func newCalls(ctx caddy.Context, issuer string, cfg *Provider) (c calls, err error) {
	c = calls{Issuer: issuer, Timeout: time.Duration(cfg.Timeout), TrustPool: cfg.TrustPoolRaw}
	if c.DiscoveryURL, err = resolve(cfg.DiscoveryURL); err != nil {
		return c, misconfigured("discovery_url", "%v", err)
	}
	if c.DiscoveryURL != "" {
		if err := checkAbsoluteURL(c.DiscoveryURL); err != nil {
			return c, misconfigured("discovery_url", "%v", err)
		}
	}
	if c.Endpoints, err = cfg.Endpoints.resolved(); err == nil {
		err = c.Endpoints.Check(issuer)
	}
	if err != nil {
		return c, misconfigured("endpoints", "%v", err)
	}
	if c.Certificate, err = cfg.ClientCertificate.resolved(); err != nil {
		return c, misconfigured("client_auth", "%v", err)
	}
	if cfg.TrustPoolRaw == nil {
		return c, nil
	}
	module, err := ctx.LoadModule(&cfg.Address, "TrustPoolRaw")
	if err != nil {
		return c, misconfigured("tls_trust_pool", "%v", err)
	}
	pool, ok := module.(caddytls.CA)
	if !ok {
		return c, misconfigured("tls_trust_pool", "%T holds no certificates", module)
	}
	c.roots = pool.CertPool()
	return c, nil
}

// pooledProvider is a provider's metadata, keys and connections.
type pooledProvider struct {
	*rp.Provider
	transports []*http.Transport
	roots      *x509.CertPool
}

// Destruct implements caddy.Destructor.
func (p *pooledProvider) Destruct() error {
	for _, t := range p.transports {
		t.CloseIdleConnections()
	}
	return nil
}

// load takes the provider from the pool. What it returns beside it gives the
// provider back.
func (c calls) load() (*rp.Provider, func(), error) {
	key, err := fingerprint(c)
	if err != nil {
		return nil, nil, err
	}
	value, _, err := providerPool.LoadOrNew(key, func() (caddy.Destructor, error) { return c.make(), nil })
	if err != nil {
		return nil, nil, err
	}
	release := func() { _, _ = providerPool.Delete(key) }
	found, ok := value.(*pooledProvider)
	if !ok {
		return nil, nil, fmt.Errorf("the pool holds a %T", value)
	}
	if c.roots.Equal(found.roots) {
		return found.Provider, release, nil
	}
	// The configuration is the same, but what it names has changed: another
	// certificate stands in the file. The old connections are those of the
	// configuration that is still in use.
	release()
	c.Nonce = rand.Text()
	return c.load()
}

func (c calls) make() *pooledProvider {
	transport := rp.NewTransport()
	transport.TLSClientConfig.RootCAs = c.roots
	made := &pooledProvider{transports: []*http.Transport{transport}, roots: c.roots}
	cfg := rp.ProviderConfig{Issuer: c.Issuer, DiscoveryURL: c.DiscoveryURL, Endpoints: c.Endpoints, Transport: transport, Timeout: c.Timeout}
	if c.Certificate != nil {
		withCertificate := transport.Clone()
		// A resumed session would go on with the certificate that it began with.
		withCertificate.TLSClientConfig.ClientSessionCache = nil
		withCertificate.TLSClientConfig.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			pair, err := c.Certificate.load()
			if err != nil {
				return nil, &rp.CertificateError{Err: err}
			}
			return pair, nil
		}
		made.transports = append(made.transports, withCertificate)
		cfg.ClientTransport = withCertificate
	}
	made.Provider = rp.NewProvider(cfg)
	return made
}
