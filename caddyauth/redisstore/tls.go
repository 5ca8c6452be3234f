package redisstore

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"os"
	"time"
)

// TLS is how connections to Redis, and to its Sentinels, are secured. There is
// no way not to check whom we speak to. The files are read anew for each
// connection, so that they may be replaced while Caddy runs.
type TLS struct {
	// A PEM file with the certificates of the authorities that Redis'
	// certificate may come from. Default: those that the system trusts.
	CA string `json:"ca,omitempty"`

	// PEM files with a certificate for us, and its key, where Redis asks
	// clients for one. Default: none.
	Certificate string `json:"certificate,omitempty"`
	Key         string `json:"key,omitempty"`

	// The name that Redis' certificate must be good for. Set it when Sentinels
	// or a cluster name their nodes by addresses that are not in the nodes'
	// certificates. Default: the host that is connected to.
	ServerName string `json:"server_name,omitempty"`
}

// dial connects to a node, by TLS if there are settings for it.
func (t *TLS) dial(ctx context.Context, address string) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	plain := &net.Dialer{KeepAlive: 15 * time.Second}
	if t == nil {
		return plain.DialContext(ctx, "tcp", address)
	}
	config, err := t.config()
	if err != nil {
		return nil, err
	}
	dialer := tls.Dialer{NetDialer: plain, Config: config}
	return dialer.DialContext(ctx, "tcp", address)
}

func (t *TLS) config() (*tls.Config, error) {
	config := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: t.ServerName}
	if t.CA != "" {
		pem, err := os.ReadFile(t.CA)
		if err != nil {
			return nil, fmt.Errorf("ca: %w", err)
		}
		config.RootCAs = x509.NewCertPool()
		if !config.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("ca: %s holds no PEM certificate", t.CA)
		}
	}
	if t.Certificate != "" {
		pair, err := tls.LoadX509KeyPair(t.Certificate, t.Key)
		if err != nil {
			return nil, fmt.Errorf("client_cert: %w", err)
		}
		config.Certificates = []tls.Certificate{pair}
	}
	return config, nil
}

func (t *TLS) validate() error {
	if t == nil {
		return nil
	}
	if (t.Certificate == "") != (t.Key == "") {
		return errors.New("a certificate and its key belong together: give both")
	}
	for _, text := range []string{t.CA, t.Certificate, t.Key, t.ServerName} {
		if err := checkPlaceholders(text); err != nil {
			return err
		}
	}
	return nil
}

// resolved gives the settings with their placeholders replaced. That the files
// are there, and hold what they should, is looked at once, so that a mistake
// shows early.
func (t *TLS) resolved() (*TLS, error) {
	if t == nil {
		return nil, nil
	}
	r := *t
	for _, text := range []*string{&r.CA, &r.Certificate, &r.Key, &r.ServerName} {
		var err error
		if *text, err = resolve(*text); err != nil {
			return nil, err
		}
	}
	_, err := r.config()
	return &r, err
}
