package caddyauth

import (
	"testing"
	"time"

	"github.com/caddyserver/certmagic"

	"github.com/pkce-auth/caddy-pkce-auth/caddyauth/store"
	"github.com/pkce-auth/caddy-pkce-auth/caddyauth/store/storetest"
)

// plainStorage is a storage that cannot try locks, as some plugins cannot.
type plainStorage struct{ certmagic.Storage }

// Each handle has a storage of its own over the same folder, as two processes
// have.
func TestStorageConforms(t *testing.T) {
	for name, wrap := range map[string]func(certmagic.Storage) certmagic.Storage{
		"files":            func(s certmagic.Storage) certmagic.Storage { return s },
		"without try-lock": func(s certmagic.Storage) certmagic.Storage { return plainStorage{s} },
	} {
		t.Run(name, func(t *testing.T) {
			open := func(t *testing.T) store.Store {
				return newStorageStore(wrap(&certmagic.FileStorage{Path: t.TempDir()}), time.Now)
			}
			second := func(_ *testing.T, first store.Store) store.Store {
				storage := first.(*storageStore).storage
				if plain, ok := storage.(plainStorage); ok {
					storage = plain.Storage
				}
				return newStorageStore(wrap(&certmagic.FileStorage{Path: storage.(*certmagic.FileStorage).Path}), time.Now)
			}
			storetest.Run(t, open, storetest.SecondHandle(second))
		})
	}
}
