// Package redisstore keeps sessions in Redis or Valkey. It is a guest: whoever
// does not import it does not carry its client.
//
//	redisstore.go config.go tls.go caddyfile.go   the configuration, and its documentation
//	store.go record.go scripts.go lock.go         what is in Redis, and how it is changed
//	cache.go conn.go                              what is known of it here, and for how long that is true
//	client.go options.go                          the connection
package redisstore

import (
	"errors"
	"fmt"

	"github.com/caddyserver/caddy/v2"
	"go.uber.org/zap"

	"github.com/pkce-auth/caddy-pkce-auth/caddyauth"
	"github.com/pkce-auth/caddy-pkce-auth/caddyauth/store"
)

func init() { caddy.RegisterModule(Sessions{}) }

// Sessions keeps sessions in Redis or Valkey: a single one, one that Sentinels
// watch, or a cluster. All replicas that use the same Redis, `key_prefix` and
// `cookie_secret` share the sessions. What is kept is sealed before it gets
// there, and under names that say nothing.
//
// A session that is in use costs no question to Redis: Redis tells everybody
// at once of what has changed. That takes Redis 6, or any Valkey; without it,
// each look at a session is a question. While Redis is down, nobody is logged
// out, and requests that need a session get 503; Caddy starts without it, and
// finds it when it is there.
//
// Set Redis' `maxmemory-policy` to `noeviction`: a session that it evicts is a
// logout. Its replicas are a moment behind: what has changed in that moment,
// a logout included, is lost when a replica takes over. An ACL user needs the
// keys of the `key_prefix` and the commands `+@connection +get +set +del +zadd
// +zrem +zrange +zremrangebyscore +pexpire +pttl +eval +evalsha +time`, with
// Sentinels `+role` and in a cluster `+cluster` as well.
type Sessions struct {
	// Where Redis is, as `host:port`: of the Sentinels, if there are any; of some
	// of a cluster's nodes; else of the one Redis. `{env.NAME}` and
	// `{file./path}` are replaced.
	Addresses []string `json:"addresses,omitempty"`

	// The user of Redis' ACL, as text, `{env.NAME}` or `{file./path}`. Default:
	// Redis' own, `default`.
	Username string `json:"username,omitempty"`

	// The password, as `{env.NAME}` or `{file./path}`, which are looked at for
	// each connection; or as text, which is then seen by whoever sees Caddy's
	// configuration. Default: none.
	Password string `json:"password,omitempty"`

	// The number of the database. Default: 0.
	DB int `json:"db,omitempty"`

	// TLS, for Redis and Sentinels alike. Default: none.
	TLS *TLS `json:"tls,omitempty"`

	// That the addresses are those of Sentinels. Default: they are not.
	Sentinel *Sentinel `json:"sentinel,omitempty"`

	// That this must be a cluster: it is an error if it is none. Default: it is
	// what it says it is.
	Cluster bool `json:"cluster,omitempty"`

	// What all keys in Redis begin with. Default: `pkce_auth:`.
	KeyPrefix string `json:"key_prefix,omitempty"`

	client *client
	pooled string // the client's key in the pool; empty if none was taken
}

// Sentinel is what Sentinels are asked for.
type Sentinel struct {
	// The name of the master, as the Sentinels know it.
	Master string `json:"master,omitempty"`

	// The user and the password at the Sentinels, as those of Redis. Default:
	// none; those of Redis are not sent there.
	Username string `json:"username,omitempty"`
	Password string `json:"password,omitempty"`
}

// CaddyModule returns the Caddy module information.
func (Sessions) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "pkce_auth.sessions.redis",
		New: func() caddy.Module { return new(Sessions) },
	}
}

// Provision takes the client from the pool. It connects to nobody.
func (s *Sessions) Provision(ctx caddy.Context) error {
	if err := s.validate(); err != nil {
		return fmt.Errorf("redis: %w", err)
	}
	settings, err := s.resolved()
	if err != nil {
		return fmt.Errorf("redis: %w", err)
	}
	s.warn(ctx.Logger())
	// From here on they are where nobody writes them into a log.
	s.Password = ""
	if s.Sentinel != nil {
		s.Sentinel = &Sentinel{Master: s.Sentinel.Master, Username: s.Sentinel.Username}
	}
	key, err := settings.fingerprint()
	if err != nil {
		return fmt.Errorf("redis: %w", err)
	}
	value, _, err := clientPool.LoadOrNew(key, func() (caddy.Destructor, error) { return newClientOf(settings), nil })
	if err != nil {
		return err
	}
	s.client, s.pooled = value.(*client), key
	return nil
}

// warn says which passwords stand in the configuration as text.
func (s *Sessions) warn(logger *zap.Logger) {
	passwords := map[string]string{"password": s.Password}
	if s.Sentinel != nil {
		passwords["sentinel_password"] = s.Sentinel.Password
	}
	for option, password := range passwords {
		if password != "" && !hasPlaceholder(password) {
			logger.Warn("a password stands in the configuration, where Caddy's admin endpoint shows it",
				zap.String("option", option), zap.String("hint", "write {env.NAME} or {file./path}"))
		}
	}
}

// Store implements caddyauth.SessionStore.
func (s *Sessions) Store() (store.Store, error) {
	if s.client == nil {
		return nil, errors.New("redis: not provisioned")
	}
	return &redisStore{client: s.client, prefix: s.keyPrefix()}, nil
}

// Cleanup gives the client back.
func (s *Sessions) Cleanup() error {
	if s.pooled == "" {
		return nil
	}
	_, err := clientPool.Delete(s.pooled)
	s.pooled = ""
	return err
}

// Interface guards
var (
	_ caddy.Provisioner      = (*Sessions)(nil)
	_ caddy.CleanerUpper     = (*Sessions)(nil)
	_ caddyauth.SessionStore = (*Sessions)(nil)
)
