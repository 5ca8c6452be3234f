package caddyauth

import (
	"github.com/caddyserver/caddy/v2"
	"github.com/pkce-auth/caddy-pkce-auth/caddyauth/store"
)

func init() { caddy.RegisterModule(StorageSessions{}) }

type StorageSessions struct{ m *store.Memory }

func (StorageSessions) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "pkce_auth.sessions.storage", New: func() caddy.Module { return &StorageSessions{m: new(store.Memory)} }}
}
func (s *StorageSessions) Store() (store.Store, error) { return s.m, nil }
