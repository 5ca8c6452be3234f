package caddyauth

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/caddyserver/certmagic"
	"go.uber.org/zap"

	"github.com/pkce-auth/caddy-pkce-auth/caddyauth/internal/sealed"
)

// storedKeys are keys that make themselves: the first is made when it is
// first needed, and kept in Caddy's storage, where all who share the storage
// find it. Later ones replace it, as Caddy's session tickets' keys do.
//
// A new key is published first, and seals only when everybody has had the
// time to read it. An old one opens as long as anything lasts that it sealed.
type storedKeys struct {
	storage  certmagic.Storage
	path     string        // in the storage
	lifetime time.Duration // of what the keys seal
	now      func() time.Time
	logger   *zap.Logger

	current atomic.Pointer[sealed.Keyring] // nil before the first use

	// known is what configurations before this one have read: they serve on
	// should the storage fail just when the configuration changes.
	known *atomic.Pointer[sealed.Keyring]

	// rests is when the storage was last looked at, while nobody is looking: who
	// needs a key every few microseconds must not wait in line to hear that there
	// is nothing to do.
	rests atomic.Pointer[time.Time]

	mu sync.Mutex // over the rest
	keyLook
}

// keyLook is what is known of the looks at the storage.
type keyLook struct {
	looked  time.Time     // when the storage was last looked at…
	read    time.Time     // …and when that last succeeded
	flight  chan struct{} // closed when the look under way ends; nil when there is none
	failure error         // of the last look
}

const (
	// keyRotation is how long a key seals.
	keyRotation = 30 * 24 * time.Hour

	// keyPublication is how long a new key is only published. It is a
	// multiple of keyRefresh, so that everybody knows a key that seals.
	keyPublication = time.Hour

	// keyRefresh is how often the storage is looked at, while keys are used.
	keyRefresh = 10 * time.Minute

	// keyRetry is how long after a failure, or after a value with an unknown
	// key, the storage is looked at again.
	keyRetry = 5 * time.Second

	// keyTimeout bounds one look, for a storage that heeds that; keyPatience is
	// how long a request waits for one in any case.
	keyTimeout  = 5 * time.Second
	keyPatience = 8 * time.Second

	// keyMargin is how much longer than what it sealed an old key is kept.
	keyMargin = 10 * time.Minute
)

// howToMendKeys is what helps whenever keys cannot be had.
const howToMendKeys = "make Caddy's storage readable and writable, or give a cookie_secret"

// storedKey is a key as it stands in the storage.
type storedKey struct {
	Secret  []byte    `json:"secret"` // 32 random bytes
	Created time.Time `json:"created"`
}

// Keyring implements sealed.Keys. Only the first use waits for the storage,
// and the first after so long a silence that the keys may be others by now.
func (k *storedKeys) Keyring() (*sealed.Keyring, error) {
	keyring := k.current.Load()
	if looked := k.rests.Load(); keyring != nil && looked != nil && k.now().Sub(*looked) < keyRefresh {
		return keyring, nil
	}
	every := keyRefresh
	if keyring == nil {
		every = keyRetry
	}
	flight, silence := k.look(every)
	keyring = k.current.Load()
	if keyring != nil && (flight == nil || silence < keyPublication) {
		return keyring, nil
	}
	await(flight)
	if keyring = k.current.Load(); keyring != nil {
		return keyring, nil
	}
	return nil, k.lastFailure()
}

// Reload implements sealed.Keys. When the storage has failed for so long that
// there may be keys which nobody here knows, it cannot be told whose key it is
// that is asked for.
func (k *storedKeys) Reload() (*sealed.Keyring, error) {
	flight, silence := k.look(keyRetry)
	await(flight)
	keyring := k.current.Load()
	if failure := k.lastFailure(); keyring == nil || failure != nil && silence >= keyPublication {
		return nil, failure
	}
	return keyring, nil
}

var errStorageHangs = fmt.Errorf("%w: Caddy's storage does not answer", sealed.ErrKeys)

// await waits for a look at the storage, but not for one that hangs: not every
// storage heeds its context.
func await(flight <-chan struct{}) {
	if flight == nil {
		return
	}
	timer := time.NewTimer(keyPatience)
	defer timer.Stop()
	select {
	case <-flight:
	case <-timer.C:
	}
}

func (k *storedKeys) lastFailure() error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.failure == nil && k.current.Load() == nil {
		return errStorageHangs
	}
	return k.failure
}

// look begins a look at the storage, if the last one is long enough ago. It
// returns the one that is under way, and how long ago the last one succeeded.
func (k *storedKeys) look(every time.Duration) (flight <-chan struct{}, silence time.Duration) {
	k.mu.Lock()
	defer k.mu.Unlock()
	now := k.now()
	if k.flight == nil && now.Sub(k.looked) >= every {
		k.looked = now
		k.rests.Store(nil)
		k.flight = make(chan struct{})
		go k.update(k.flight)
	}
	if k.flight != nil && now.Sub(k.looked) >= keyPatience { // it hangs: nobody waits for it any more
		if !errors.Is(k.failure, errStorageHangs) {
			k.failure = errStorageHangs
			k.logger.Error("Caddy's storage, where the key that seals sessions is, does not answer",
				zap.String("path", k.path), zap.Bool("older_keys_in_use", k.current.Load() != nil), zap.String("hint", howToMendKeys))
		}
		return nil, now.Sub(k.read)
	}
	return k.flight, now.Sub(k.read)
}

// update reads the keys, and makes one where that is due. The keys there are
// stay in use if it fails.
func (k *storedKeys) update(done chan struct{}) {
	ctx, cancel := context.WithTimeout(context.Background(), keyTimeout)
	defer cancel()
	k.current.CompareAndSwap(nil, k.known.Load())
	keyring, err := k.load(ctx)
	if err != nil {
		err = fmt.Errorf("%w: %s in Caddy's storage: %w", sealed.ErrKeys, k.path, err)
		k.logger.Error("the key that seals sessions cannot be had from Caddy's storage", zap.Error(err),
			zap.Bool("older_keys_in_use", k.current.Load() != nil), zap.String("hint", howToMendKeys))
	} else {
		k.current.Store(keyring)
		k.known.Store(keyring)
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if err == nil {
		k.read = k.now()
	}
	k.failure, k.flight = err, nil
	looked := k.looked
	k.rests.Store(&looked)
	close(done)
}

func (k *storedKeys) load(ctx context.Context) (*sealed.Keyring, error) {
	keys, err := k.stored(ctx)
	if err != nil {
		return nil, err
	}
	if k.due(keys) {
		made, err := k.rotate(ctx)
		switch {
		case err == nil:
			keys = made
		case len(keys) == 0:
			return nil, err
		default: // the old ones do as well
			k.logger.Error("a new key that seals sessions cannot be made in Caddy's storage; the old one serves on",
				zap.Error(err), zap.String("path", k.path), zap.String("hint", howToMendKeys))
		}
	}
	return k.ring(keys)
}

// stored reads the keys, the newest first. None at all is no error.
func (k *storedKeys) stored(ctx context.Context) ([]storedKey, error) {
	data, err := k.storage.Load(ctx, k.path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var keys []storedKey
	if err := json.Unmarshal(data, &keys); err != nil {
		return nil, fmt.Errorf("malformed, delete it to have a new key made: %w", err)
	}
	for _, key := range keys {
		if len(key.Secret) < sealed.MinSecretSize || key.Created.IsZero() {
			return nil, errors.New("malformed, delete it to have a new key made")
		}
	}
	slices.SortFunc(keys, func(a, b storedKey) int { return b.Created.Compare(a.Created) })
	return keys, nil
}

func (k *storedKeys) due(keys []storedKey) bool {
	return len(keys) == 0 || k.now().Sub(keys[0].Created) >= keyRotation
}

// rotate makes a key, unless somebody else just did, and drops those that
// nothing needs any longer.
func (k *storedKeys) rotate(ctx context.Context) ([]storedKey, error) {
	if err := k.storage.Lock(ctx, k.path); err != nil {
		return nil, fmt.Errorf("locking: %w", err)
	}
	defer func() {
		if err := k.storage.Unlock(context.WithoutCancel(ctx), k.path); err != nil {
			k.logger.Warn("a lock in Caddy's storage cannot be given back", zap.String("path", k.path), zap.Error(err))
		}
	}()
	keys, err := k.stored(ctx)
	if err != nil || !k.due(keys) {
		return keys, err
	}
	made := storedKey{Secret: make([]byte, sealed.MinSecretSize), Created: k.now().UTC()}
	_, _ = rand.Read(made.Secret) // never fails: crypto/rand crashes the program instead
	keys = k.needed(append([]storedKey{made}, keys...))
	data, err := json.Marshal(keys) //nolint:gosec // into the storage, where Caddy keeps private keys, too
	if err != nil {
		return nil, err
	}
	if err := k.storage.Store(ctx, k.path, data); err != nil {
		return nil, err
	}
	k.logger.Info("made a key that seals sessions", zap.String("path", k.path), zap.Int("keys", len(keys)))
	return keys, nil
}

// needed drops keys that stopped sealing so long ago that nothing is left
// that they sealed.
func (k *storedKeys) needed(keys []storedKey) []storedKey {
	for i := 1; i < len(keys); i++ {
		replaced := keys[i-1].Created.Add(keyPublication)
		if k.now().Sub(replaced) > k.lifetime+keyMargin {
			return keys[:i]
		}
	}
	return keys
}

// ring makes the keyring: the newest key that has been public for long enough
// comes first, for the first one seals. If there is none, the oldest does.
func (k *storedKeys) ring(keys []storedKey) (*sealed.Keyring, error) {
	sealing := slices.IndexFunc(keys, func(key storedKey) bool { return k.now().Sub(key.Created) >= keyPublication })
	if sealing < 0 {
		sealing = len(keys) - 1
	}
	secrets := [][]byte{keys[sealing].Secret}
	for i, key := range keys {
		if i != sealing {
			secrets = append(secrets, key.Secret)
		}
	}
	return sealed.NewKeyring(secrets...)
}
