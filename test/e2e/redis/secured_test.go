package redis

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"io/fs"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/pkce-auth/caddy-pkce-auth/caddyauth/redisstore"
)

// authority issues certificates.
type authority struct {
	t      *testing.T
	dir    string
	key    *ecdsa.PrivateKey
	cert   *x509.Certificate
	file   string
	issued int64
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	a := &authority{t: t, dir: t.TempDir(), cert: &x509.Certificate{
		Subject: pkix.Name{CommonName: "an authority"}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}}
	a.file, _ = a.issue("ca", a.cert)
	return a
}

// issue gives files with a certificate and its key. The first is that of the
// authority itself.
func (a *authority) issue(name string, template *x509.Certificate) (certFile, keyFile string) {
	a.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		a.t.Fatal(err)
	}
	if a.key == nil {
		a.key = key
	}
	a.issued++
	template.SerialNumber = big.NewInt(a.issued)
	template.NotBefore, template.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, &key.PublicKey, a.key)
	if err != nil {
		a.t.Fatal(err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		a.t.Fatal(err)
	}
	write := func(file, kind string, der []byte) string {
		path := filepath.Join(a.dir, file)
		if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
			a.t.Fatal(err)
		}
		return path
	}
	return write(name+".crt", "CERTIFICATE", der), write(name+".key", "PRIVATE KEY", pkcs8)
}

// permissions are those that the manual names for an ACL user.
var permissions = strings.Fields("~pkce_auth:* resetchannels -@all +@connection +get +set +del +zadd +zrem +zrange +zremrangebyscore +pexpire +pttl +eval +evalsha +time")

// secured is a Redis that wants TLS, a certificate of clients, and a password.
func secured(t *testing.T) (redis *server, works redisstore.Sessions) {
	t.Helper()
	a := newAuthority(t)
	cert, key := a.issue("server", &x509.Certificate{
		DNSNames: []string{"redis.example.test"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	})
	clientCert, clientKey := a.issue("client", &x509.Certificate{
		Subject: pkix.Name{CommonName: "Caddy"}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	})
	port := freePorts(t, 1, 0)[0]
	args := []string{
		"--port", "0", "--tls-port", port, "--tls-cert-file", cert, "--tls-key-file", key, "--tls-ca-cert-file", a.file, "--tls-auth-clients", "yes",
		"--user", "default", "off", "--user", "admin", "on", ">admin", "~*", "&*", "+@all", "--user", "app", "on", ">first password",
	}
	redis = startServer(t, port, append(args, permissions...),
		"--tls", "--cacert", a.file, "--cert", clientCert, "--key", clientKey, "-p", port, "--user", "admin", "--pass", "admin", "--no-auth-warning")
	password := filepath.Join(t.TempDir(), "password")
	if err := os.WriteFile(password, []byte("first password\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return redis, redisstore.Sessions{
		Addresses: []string{"127.0.0.1:" + port}, Username: "app", Password: "{file." + password + "}",
		TLS: &redisstore.TLS{CA: a.file, Certificate: clientCert, Key: clientKey},
	}
}

// With TLS both ways, and with no more permissions than the manual names.
func TestRedisWithTLSAndACL(t *testing.T) {
	redis, works := secured(t)
	named := works
	named.Addresses = []string{"localhost:" + redis.port} // which is not in the certificate
	named.TLS = &redisstore.TLS{CA: works.TLS.CA, Certificate: works.TLS.Certificate, Key: works.TLS.Key, ServerName: "redis.example.test"}
	conforms(t, works, named)
	one, other := open(t, works), open(t, named)
	uses(t, one, other)
	gets := redis.calls("get")
	loads(t, one.LoadCached, "used", 2)
	loads(t, one.LoadCached, "used", 2)
	if got := redis.calls("get") - gets; got > 1 {
		t.Errorf("two hot loads took %d GETs", got)
	}

	// The password is changed where it comes from: with the next connection it
	// is taken from there.
	file := strings.TrimSuffix(strings.TrimPrefix(works.Password, "{file."), "}")
	if err := os.WriteFile(file, []byte("second password"), 0o600); err != nil {
		t.Fatal(err)
	}
	redis.do("ACL", "SETUSER", "app", "resetpass", ">second password")
	redis.do("CLIENT", "KILL", "USER", "app")
	within(t, 5*time.Second, "it works with the new password", func() bool {
		_, err := one.Load(t.Context(), "used")
		return err == nil
	})
}

// uses does all there is, with two replicas.
func uses(t *testing.T, one, other all) {
	t.Helper()
	save(t, one, "used", 1, "a", "b")
	loads(t, other.LoadCached, "used", 1)
	save(t, other, "used", 2, "b")
	loads(t, one.Load, "used", 2)
	if found, err := one.Find(t.Context(), "b"); err != nil || len(found) != 1 {
		t.Errorf("Find gave %q, %v", found, err)
	}
	if found, err := one.FindCached(t.Context(), "a"); err != nil || len(found) != 0 {
		t.Errorf("FindCached gave %q, %v", found, err)
	}
	save(t, one, "deleted", 1, "a")
	if err := other.Delete(t.Context(), "deleted"); err != nil {
		t.Error(err)
	}
	unlock, ok, err := one.TryLock(t.Context(), "lock")
	if err != nil || !ok {
		t.Fatalf("TryLock gave %v, %v", ok, err)
	}
	unlock()
}

// Who is not who they say they are gets nothing, in either direction, and no
// error says a password.
func TestRedisRefusals(t *testing.T) {
	redis, works := secured(t)
	strangers := newAuthority(t)
	strangersCert, strangersKey := strangers.issue("client", new(x509.Certificate))
	for name, change := range map[string]func(*redisstore.Sessions){
		"plain":                             func(s *redisstore.Sessions) { s.TLS = nil },
		"the system's authorities":          func(s *redisstore.Sessions) { s.TLS.CA = "" },
		"another authority":                 func(s *redisstore.Sessions) { s.TLS.CA = strangers.file },
		"a certificate for somebody else":   func(s *redisstore.Sessions) { s.TLS.ServerName = "other.example.test" },
		"a host not in the certificate":     func(s *redisstore.Sessions) { s.Addresses = []string{"localhost:" + redis.port} },
		"no certificate of ours":            func(s *redisstore.Sessions) { s.TLS.Certificate, s.TLS.Key = "", "" },
		"a certificate from another issuer": func(s *redisstore.Sessions) { s.TLS.Certificate, s.TLS.Key = strangersCert, strangersKey },
		"another password":                  func(s *redisstore.Sessions) { s.Password = "the-wrong-one" },
		"no password":                       func(s *redisstore.Sessions) { s.Username, s.Password = "", "" },
		"keys that are not ours":            func(s *redisstore.Sessions) { s.KeyPrefix = "other:" },
		"a cluster that is none":            func(s *redisstore.Sessions) { s.Cluster = true },
	} {
		t.Run(name, func(t *testing.T) {
			changed := works
			settings := *works.TLS
			changed.TLS = &settings
			change(&changed)
			_, err := open(t, changed).Load(t.Context(), "key")
			if err == nil || errors.Is(err, fs.ErrNotExist) || strings.Contains(err.Error(), "the-wrong-one") || strings.Contains(err.Error(), "first password") {
				t.Errorf("got %v", err)
			}
		})
	}
}

// A Redis that may not tell of changes: nothing is kept here, and all works.
func TestRedisWithoutTracking(t *testing.T) {
	redis := newServer(t)
	redis.do("ACL", "SETUSER", "default", "-client|tracking")
	conforms(t, redisstore.Sessions{Addresses: []string{"127.0.0.1:" + redis.port}}, redisstore.Sessions{Addresses: []string{"localhost:" + redis.port}})
	one, other := two(t, redis)
	uses(t, one, other)
	for version := uint64(3); version < 10; version++ {
		save(t, one, "used", version)
		loads(t, other.LoadCached, "used", version)
	}
}

func TestRedisDatabase(t *testing.T) {
	redis := newServer(t)
	one := open(t, redisstore.Sessions{Addresses: []string{redis.address()}, DB: 3, KeyPrefix: "of/this-site:"})
	save(t, one, "key", 1)
	if got := redis.do("-n", "3", "KEYS", "*"); got != "of/this-site:r:key" {
		t.Errorf("there is %q", got)
	}
	other := open(t, redisstore.Sessions{Addresses: []string{redis.address()}, KeyPrefix: "of/this-site:"})
	if _, err := other.Load(context.Background(), "key"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the other database gave %v", err)
	}
	several := open(t, redisstore.Sessions{Addresses: []string{redis.address(), "localhost:" + redis.port}})
	if _, err := several.Load(context.Background(), "key"); err == nil || !strings.Contains(err.Error(), "several addresses are those of a cluster") {
		t.Errorf("several addresses of one Redis gave %v", err)
	}
}
