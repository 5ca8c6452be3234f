package redisstore

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/redis/rueidis"
)

const (
	// bufferSize is that of each connection's buffers, one for each direction: a
	// session is some kilobytes, and longer things pass through as well.
	bufferSize = 32 << 10

	// ringScale is the binary logarithm of how many commands of all requests
	// may be under way on a connection. More wait.
	ringScale = 9

	// topologyInterval is how often Sentinels and clusters are asked who is
	// master. They also say so themselves; but a message can be lost.
	topologyInterval = 5 * time.Second

	// mostRedirections is how often a cluster may send one command elsewhere.
	mostRedirections = 8
)

// newClientOf makes the client of a configuration. It calls nobody.
func newClientOf(cfg *Sessions) *client {
	c := newClient()
	c.connect = func(uncached bool) (rueidis.Client, error) {
		made, err := rueidis.NewClient(c.options(cfg, uncached))
		switch {
		case err != nil && len(cfg.Addresses) > 1 && cfg.Sentinel == nil:
			if said, ok := rueidis.IsRedisErr(err); ok {
				return nil, fmt.Errorf("several addresses are those of a cluster, and this is none: %w", said)
			}
			return nil, err
		case err != nil:
			return nil, err
		case cfg.Cluster && made.Mode() != rueidis.ClientModeCluster:
			made.Close()
			return nil, errors.New("this Redis is no cluster: remove the option cluster")
		default:
			return made, nil
		}
	}
	return c
}

func (c *client) options(cfg *Sessions, uncached bool) rueidis.ClientOption {
	o := rueidis.ClientOption{
		InitAddress:       cfg.Addresses,
		ClientName:        "pkce_auth",
		SelectDB:          cfg.DB,
		AuthCredentialsFn: cfg.credentials,

		DisableCache:    uncached,
		OnInvalidations: c.invalidated,
		// What is kept is kept in our cache, which knows what we have changed
		// ourselves: one byte is room for nothing.
		CacheSizeEachConn: 1,

		// One connection for each node: an answer on it comes after all that was
		// asked before.
		PipelineMultiplex:   -1,
		AlwaysPipelining:    true,
		RingScaleEachConn:   ringScale,
		ReadBufferEachConn:  bufferSize,
		WriteBufferEachConn: bufferSize,

		Dialer:           net.Dialer{Timeout: dialTimeout, KeepAlive: pingGap}, // that of rueidis' own pings
		ConnWriteTimeout: answerTimeout,
		RetryDelay:       retryDelay,
		ClusterOption:    rueidis.ClusterOption{ShardsRefreshInterval: topologyInterval, MaxMovedRedirections: mostRedirections},
	}
	if cfg.TLS != nil {
		o.TLSConfig = new(tls.Config) // tells rueidis which ports of a cluster to take; dial makes the real one
	}
	if cfg.Sentinel != nil {
		o.Sentinel = rueidis.SentinelOption{
			MasterSet:               cfg.Sentinel.Master,
			ClientName:              o.ClientName,
			TLSConfig:               o.TLSConfig,
			TopologyRefreshInterval: topologyInterval,
			// The resolver does nothing but tell the dialers apart.
			Dialer: net.Dialer{Timeout: dialTimeout, KeepAlive: time.Second, Resolver: new(net.Resolver)},
		}
	}
	o.DialCtxFn = func(ctx context.Context, address string, dialer *net.Dialer, _ *tls.Config) (net.Conn, error) {
		plain, err := cfg.TLS.dial(ctx, address)
		switch {
		case err != nil:
			return nil, err
		case dialer.Resolver != nil:
			return sentinelConn{plain}, nil
		case uncached:
			return plain, nil
		default:
			return c.conns.add(plain), nil
		}
	}
	return o
}

// retryDelay has reads tried again when a connection breaks, as it does when
// Redis is restarted, or nodes change their roles. Nothing else is tried again:
// a Save that has no answer may have been done.
func retryDelay(attempts int, _ rueidis.Completed, _ error) time.Duration {
	delays := []time.Duration{0, 20 * time.Millisecond, 100 * time.Millisecond}
	if attempts > len(delays) {
		return -1
	}
	return delays[attempts-1]
}

// invalidated is told which keys have changed; nil are all.
func (c *client) invalidated(messages []rueidis.RedisMessage) {
	if messages == nil {
		c.cache.forgetAll()
		return
	}
	for i := range messages {
		if key, err := messages[i].ToString(); err == nil {
			c.cache.forget(key)
		}
	}
}

// credentials are read anew for each connection, so that a password may be
// changed where it comes from.
func (s *Sessions) credentials(to rueidis.AuthCredentialsContext) (c rueidis.AuthCredentials, err error) {
	username, password := s.Username, s.Password
	if _, ok := to.Address.(sentinelAddr); ok {
		username, password = s.Sentinel.Username, s.Sentinel.Password
	}
	if c.Username, err = resolve(username); err != nil {
		return c, fmt.Errorf("username: %w", err)
	}
	if c.Password, err = resolve(password); err != nil {
		return c, fmt.Errorf("password: %w", err)
	}
	return c, nil
}
