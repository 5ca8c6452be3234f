package caddyauth

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/pkce-auth/caddy-pkce-auth/caddyauth/internal/rp"
	"github.com/pkce-auth/caddy-pkce-auth/caddyauth/internal/sealed"
	"github.com/pkce-auth/caddy-pkce-auth/caddyauth/internal/session"
)

// What must outlive a configuration stands in two pools, for Caddy loads the
// new configuration before it drops the old one (K8). Nothing in them holds a
// logger, a storage or a context of one configuration.
var (
	sharedPool   = caddy.NewUsagePool() // sharedKey → *shared
	providerPool = caddy.NewUsagePool() // [32]byte → *pooledProvider
)

// sharedKey says whose state it is. A change of a timeout does not change it.
type sharedKey struct {
	issuer, clientID, stem string
}

// shared is the state of a provider's logins and sessions in this process.
type shared struct {
	callbacks   callbacks
	refresher   session.Refresher
	revocations session.Revocations
	superseded  session.Revocations            // by another login in the same browser
	keys        atomic.Pointer[sealed.Keyring] // that the last storedKeys has read

	// opaqueToken and noS256 are said once in a process's life.
	opaqueToken, noS256 sync.Once
}

// Destruct implements caddy.Destructor.
func (*shared) Destruct() error { return nil }

func loadShared(key sharedKey) (*shared, error) {
	value, _, err := sharedPool.LoadOrNew(key, func() (caddy.Destructor, error) {
		return new(shared), nil
	})
	if err != nil {
		return nil, err
	}
	return value.(*shared), nil
}

// pooledProvider is a provider's metadata, keys and connections.
type pooledProvider struct {
	*rp.Provider
	transport *http.Transport
}

// Destruct implements caddy.Destructor.
func (p *pooledProvider) Destruct() error {
	p.transport.CloseIdleConnections()
	return nil
}

// poolSecret makes the keys of providerPool say nothing about what they were
// made of, which will include credentials.
var poolSecret = sync.OnceValue(func() (secret [32]byte) {
	_, _ = rand.Read(secret[:])
	return secret
})

// providerKey is a MAC of all that shapes the calls to a provider, so that a
// change of any of it makes new ones.
func providerKey(issuer string, timeout time.Duration) [sha256.Size]byte {
	secret := poolSecret()
	mac := hmac.New(sha256.New, secret[:])
	_ = binary.Write(mac, binary.BigEndian, int64(timeout))
	mac.Write([]byte(issuer))
	return [sha256.Size]byte(mac.Sum(nil))
}

func loadProvider(issuer string, timeout time.Duration) (*rp.Provider, error) {
	value, _, err := providerPool.LoadOrNew(providerKey(issuer, timeout), func() (caddy.Destructor, error) {
		transport := rp.NewTransport()
		return &pooledProvider{
			Provider:  rp.NewProvider(rp.ProviderConfig{Issuer: issuer, Transport: transport, Timeout: timeout}),
			transport: transport,
		}, nil
	})
	if err != nil {
		return nil, err
	}
	return value.(*pooledProvider).Provider, nil
}
