package caddyauth

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"sync"
	"sync/atomic"

	"github.com/caddyserver/caddy/v2"

	"github.com/pkce-auth/caddy-pkce-auth/caddyauth/internal/sealed"
	"github.com/pkce-auth/caddy-pkce-auth/caddyauth/internal/session"
	"github.com/pkce-auth/caddy-pkce-auth/caddyauth/store"
)

// What must outlive a configuration stands in two pools, for Caddy loads the
// new configuration before it drops the old one (K8). Nothing in them holds a
// logger, a storage or a context of one configuration.
var (
	sharedPool   = caddy.NewUsagePool() // sharedKey → *shared
	providerPool = caddy.NewUsagePool() // fingerprint of calls → *pooledProvider
)

// sharedKey says whose state it is. A change of a timeout does not change it.
type sharedKey struct {
	issuer, clientID, stem string
	store                  string // a fingerprint of where sessions are kept
}

// shared is the state of a provider's logins and sessions in this process.
type shared struct {
	callbacks  callbacks
	refresher  session.Refresher
	memory     store.Memory // what `memory` is
	revoked    session.Revoked
	superseded session.Revoked                // by another login in the same browser
	live       liveRequests                   // with a session
	keys       atomic.Pointer[sealed.Keyring] // that the last storedKeys has read

	tokens
	posts keptPosts // that are sent again after a login

	said said
	saidOnce
}

// tokens is what is known of the tokens that routes send upstream.
type tokens struct {
	refusals refusals
	parked   parked // those whose session is not in sight yet
}

// saidOnce are said once in a process's life.
type saidOnce struct {
	opaqueToken, noS256, overage, leakedKeys, slimmed sync.Once
}

// said is what an operator was told by now.
type said struct {
	lookFails atomic.Bool   // that the store of revocations does not answer
	evicted   atomic.Uint64 // how many sessions the memory had no room for
	lost      atomic.Uint64 // and how many revocations
	full      atomic.Int64  // when that was said last, in Unix nanoseconds
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

// fingerprint tells configurations apart without saying anything of them: a MAC,
// for they may hold secrets.
func fingerprint(config any) (string, error) {
	data, err := json.Marshal(config) //nolint:gosec // it goes into the MAC and nowhere else
	if err != nil {
		return "", err
	}
	secret := poolSecret()
	mac := hmac.New(sha256.New, secret[:])
	mac.Write(data)
	return hex.EncodeToString(mac.Sum(nil)), nil
}

// poolSecret keys the fingerprints of this process.
var poolSecret = sync.OnceValue(func() (secret [32]byte) {
	_, _ = rand.Read(secret[:])
	return secret
})
