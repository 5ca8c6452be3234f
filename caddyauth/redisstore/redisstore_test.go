package redisstore

import (
	"context"
	"encoding/json"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"
)

func provision(t *testing.T, s *Sessions) error {
	t.Helper()
	ctx, cancel := caddy.NewContext(caddy.Context{Context: context.Background()})
	t.Cleanup(cancel)
	return s.Provision(ctx)
}

// A new configuration goes on with the client of the old one, if they are the
// same; a module gives back what it took, once.
func TestA120ConfigurationsShareClients(t *testing.T) {
	t.Setenv("REDIS_PASSWORD", "secret")
	same := func() *Sessions {
		return &Sessions{Addresses: []string{"127.0.0.1:1"}, Password: "{env.REDIS_PASSWORD}"}
	}
	one, again, prefixed, other := same(), same(), same(), same()
	prefixed.KeyPrefix = "other:"
	other.Password = "another"
	for _, s := range []*Sessions{one, again, prefixed, other} {
		if err := provision(t, s); err != nil {
			t.Fatal(err)
		}
	}
	if one.client != again.client || one.client != prefixed.client || one.client == other.client {
		t.Error("who shares a client is not who should")
	}
	closed := func(c *client) bool { c.mu.Lock(); defer c.mu.Unlock(); return c.closed }
	for _, s := range []*Sessions{one, one, one, again, prefixed} {
		if closed(one.client) {
			t.Error("a client in use was closed")
		}
		if err := s.Cleanup(); err != nil {
			t.Error(err)
		}
	}
	if !closed(one.client) || closed(other.client) {
		t.Error("who was closed is not who should have been")
	}
	if err := other.Cleanup(); err != nil {
		t.Error(err)
	}
	if err := new(Sessions).Cleanup(); err != nil {
		t.Error(err)
	}
	if _, err := new(Sessions).Store(); err == nil {
		t.Error("a module that is not provisioned has a store")
	}
}

// K4, A123: once it is provisioned, the module's fields hold no password, and
// one that stood there as text is warned about without being said.
func TestK4PasswordsAreNotLeftInFields(t *testing.T) {
	t.Setenv("REDIS_PASSWORD", "from the environment")
	s := &Sessions{
		Addresses: []string{"127.0.0.1:1"}, Username: "caddy", Password: "a literal",
		Sentinel: &Sentinel{Master: "main", Password: "{env.REDIS_PASSWORD}"},
	}
	core, logs := observer.New(zapcore.DebugLevel)
	s.warn(zap.New(core))
	if err := provision(t, s); err != nil {
		t.Fatal(err)
	}
	defer s.Cleanup()
	data, err := json.Marshal(s)
	if err != nil || strings.Contains(string(data), "literal") || strings.Contains(string(data), "REDIS_PASSWORD") {
		t.Errorf("the module is %s, %v", data, err)
	}
	if entries := logs.All(); len(entries) != 1 || entries[0].Level != zapcore.WarnLevel || entries[0].ContextMap()["option"] != "password" {
		t.Errorf("it was logged: %v", entries)
	}
	for _, entry := range logs.All() {
		if said, _ := json.Marshal(entry.ContextMap()); strings.Contains(string(said), "literal") {
			t.Errorf("the log says %s", said)
		}
	}
}

// What can be known to be wrong when Caddy starts is an error then.
func TestProvisionMistakes(t *testing.T) {
	t.Setenv("REDIS_ADDRESS", "redis://host:1")
	for name, c := range map[string]struct {
		s    Sessions
		want string
	}{
		"no address":                 {Sessions{}, "redis: address: is missing"},
		"a URL from the environment": {Sessions{Addresses: []string{"{env.REDIS_ADDRESS}"}}, "redis: address: is a URL: write host:1"},
		"an unset address":           {Sessions{Addresses: []string{"{env.REDIS_UNSET}"}}, "redis: address: "},
		"an unset password":          {Sessions{Addresses: []string{"a:1"}, Password: "{env.REDIS_UNSET}"}, "redis: password: "},
		"an absent file":             {Sessions{Addresses: []string{"a:1"}, Password: "{file./nonexistent/file}"}, "redis: password: "},
		"an unset sentinel password": {Sessions{Addresses: []string{"a:1"}, Sentinel: &Sentinel{Master: "m", Password: "{env.REDIS_UNSET}"}}, "redis: sentinel_password: "},
		"no CA":                      {Sessions{Addresses: []string{"a:1"}, TLS: &TLS{CA: "/nonexistent/ca"}}, "redis: tls: ca: "},
		"no certificate in the CA":   {Sessions{Addresses: []string{"a:1"}, TLS: &TLS{CA: "redisstore_test.go"}}, "redis: tls: ca: redisstore_test.go holds no PEM certificate"},
		"no client certificate":      {Sessions{Addresses: []string{"a:1"}, TLS: &TLS{Certificate: "/nonexistent/c", Key: "/nonexistent/k"}}, "redis: tls: client_cert: "},
		"half a client certificate":  {Sessions{Addresses: []string{"a:1"}, TLS: &TLS{Certificate: "c"}}, "redis: tls: a certificate and its key belong together"},
		"a negative database":        {Sessions{Addresses: []string{"a:1"}, DB: -1}, "redis: db: "},
	} {
		if err := provision(t, &c.s); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v, want %s", name, err, c.want)
		}
		if c.s.pooled != "" {
			t.Errorf("%s: a client was taken", name)
		}
	}
}
