// Package rp is the OpenID Connect relying party: the provider's side of the
// wire (metadata, keys, HTTP), the authorization request, the callback, the
// code exchange and the checks of the ID token.
//
// It knows nothing of Caddy, logs nothing and holds no global state. What the
// libraries below it leave open, it closes; DESIGN and TRAPS numbers (F01 and
// so on) stand beside the lines that do.
package rp

import (
	"context"
	"net/http"
	"strings"
	"sync"
	"time"
)

// ProviderConfig says where a provider is and how to call it.
type ProviderConfig struct {
	// Issuer is the issuer identifier, as the operator wrote it.
	Issuer string

	// DiscoveryURL is where the metadata stand; empty means below the issuer.
	DiscoveryURL string

	// Endpoints take the place of those in the metadata. If they suffice for a
	// login, and there is no DiscoveryURL, no metadata are asked for.
	Endpoints Endpoints

	// Transport makes the calls; nil means NewTransport.
	Transport http.RoundTripper

	// ClientTransport makes those in which the client's certificate proves who
	// it is; nil means Transport.
	ClientTransport http.RoundTripper

	// Timeout bounds one call; 0 means DefaultTimeout.
	Timeout time.Duration

	// Now is the clock; nil means time.Now.
	Now func() time.Time
}

// Provider is an OpenID Provider as seen over the wire. Its metadata and keys
// are fetched when they are first needed, never before, and kept. It is safe
// for concurrent use.
type Provider struct {
	cfg          ProviderConfig
	caller       *caller
	clientCaller *caller // with the client's certificate
	keys         *keySet

	mu       sync.Mutex
	metadata *Metadata
	fetched  time.Time     // of metadata
	flight   chan struct{} // closed when the fetch under way ends; nil when there is none
	failed   time.Time     // of the latest failure
	failure  error
}

const (
	// RetryAfter is how long after a failed fetch of the metadata the next
	// one may start, when a request needs it.
	RetryAfter = 5 * time.Second

	// metadataLifetime is how long metadata are used before they are fetched
	// anew, in the background: the old ones serve on until new ones are here.
	metadataLifetime = time.Hour
)

// NewProvider makes no call.
func NewProvider(cfg ProviderConfig) *Provider {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	p := &Provider{caller: newCaller(cfg.Transport, cfg.Timeout)}
	if p.clientCaller = p.caller; cfg.ClientTransport != nil {
		p.clientCaller = newCaller(cfg.ClientTransport, cfg.Timeout)
	}
	p.keys = &keySet{caller: p.caller, now: cfg.Now}
	switch {
	case cfg.DiscoveryURL != "":
	case cfg.Endpoints.SuffiseForLogin():
		p.metadata = metadataWithoutDiscovery(cfg.Issuer, cfg.Endpoints)
	default:
		cfg.DiscoveryURL = discoveryURL(cfg.Issuer)
	}
	p.cfg = cfg
	return p
}

// Issuer returns the issuer as it was configured, but for the one slash that
// makes no difference.
func (p *Provider) Issuer() string {
	if IsRootIssuer(p.cfg.Issuer) {
		return strings.TrimSuffix(p.cfg.Issuer, "/")
	}
	return p.cfg.Issuer
}

func (p *Provider) now() time.Time { return p.cfg.Now() }

// Metadata returns the provider's metadata, and waits for them if there are
// none yet. All who wait share one fetch, which no caller's going away stops.
// After a failure, the same error comes back at once until RetryAfter has
// passed, so that a provider that is down is not also flooded.
func (p *Provider) Metadata(ctx context.Context) (*Metadata, error) {
	p.mu.Lock()
	m, err := p.metadata, p.failure
	wanted := p.cfg.DiscoveryURL != "" && (m == nil || p.now().Sub(p.fetched) >= metadataLifetime)
	if wanted && p.flight == nil && (err == nil || p.now().Sub(p.failed) >= RetryAfter) {
		p.flight = make(chan struct{})
		go p.fetchMetadata(context.WithoutCancel(ctx), p.flight)
	}
	flight := p.flight
	p.mu.Unlock()

	switch {
	case m != nil:
		return m, nil
	case flight == nil:
		return nil, err
	}
	select {
	case <-flight:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.metadata == nil {
		return nil, p.failure
	}
	return p.metadata, nil
}

func (p *Provider) fetchMetadata(ctx context.Context, done chan struct{}) {
	m, err := fetch(ctx, p.caller, p.cfg.DiscoveryURL, maxMetadataSize, func(resp *response) (*Metadata, error) {
		return parseMetadata(resp.body, p.cfg.Issuer, p.cfg.Endpoints)
	})
	p.mu.Lock()
	defer p.mu.Unlock()
	if err == nil {
		p.metadata, p.fetched = m, p.now()
	} else {
		p.failed = p.now()
	}
	p.failure = err
	p.flight = nil
	close(done)
}

// LeaksKeys reports whether the provider publishes private keys, as far as its
// keys were fetched.
func (p *Provider) LeaksKeys() bool {
	p.keys.mu.Lock()
	defer p.keys.mu.Unlock()
	return p.keys.leaked
}
