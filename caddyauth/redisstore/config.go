package redisstore

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"regexp"
	"strconv"
	"strings"
	"sync"

	"github.com/caddyserver/caddy/v2"
)

const defaultKeyPrefix = "pkce_auth:"

// configError is a mistake in one option. In a Caddyfile, the option's line is
// added.
type configError struct {
	option  string
	problem string
}

func (e *configError) Error() string { return e.option + ": " + e.problem }

func misconfigured(option, format string, args ...any) error {
	return &configError{option: option, problem: fmt.Sprintf(format, args...)}
}

// validate finds every mistake that can be found without looking at the
// environment. Caddyfile and JSON come by here alike.
func (s *Sessions) validate() error {
	if len(s.Addresses) == 0 {
		return misconfigured("address", "is missing: say where Redis is, as in address redis:6379")
	}
	for i, address := range s.Addresses {
		if err := checkPlaceholders(address); err != nil {
			return misconfigured("address", "%v", err)
		}
		if !hasPlaceholder(address) {
			if err := checkAddress(address); err != nil {
				return misconfigured("address", "%v", err)
			}
		}
		for _, before := range s.Addresses[:i] {
			if before == address {
				return misconfigured("address", "%s stands twice", address)
			}
		}
	}
	if err := s.validateTopology(); err != nil {
		return err
	}
	if err := checkCredentials("", s.Username, s.Password); err != nil {
		return err
	}
	if err := s.TLS.validate(); err != nil {
		return misconfigured("tls", "%v", err)
	}
	if !keyPrefix.MatchString(s.keyPrefix()) {
		return misconfigured("key_prefix", "%q may hold letters, digits and : . _ - / only, at most 64", s.KeyPrefix)
	}
	return nil
}

func (s *Sessions) validateTopology() error {
	switch {
	case s.Cluster && s.Sentinel != nil:
		return misconfigured("cluster", "a cluster has no Sentinels: write either cluster or sentinel")
	case s.Cluster && s.DB != 0:
		return misconfigured("db", "a cluster has one database only: remove db")
	case s.DB < 0:
		return misconfigured("db", "%d is no number of a database: write 0 or more", s.DB)
	case s.DB != 0 && len(s.Addresses) > 1 && s.Sentinel == nil:
		return misconfigured("db", "several addresses are those of a cluster, which has one database only: remove db, or name the master that Sentinels watch with sentinel")
	case s.Sentinel == nil:
		return nil
	case s.Sentinel.Master == "":
		return misconfigured("sentinel", "write the name of the master, as the Sentinels know it: sentinel <master>")
	default:
		return checkCredentials("sentinel_", s.Sentinel.Username, s.Sentinel.Password)
	}
}

// keyPrefix has no braces: in a cluster, they would put all keys on one node.
var keyPrefix = regexp.MustCompile(`^[A-Za-z0-9:._/-]{1,64}$`)

func (s *Sessions) keyPrefix() string {
	if s.KeyPrefix == "" {
		return defaultKeyPrefix
	}
	return s.KeyPrefix
}

func checkCredentials(prefix, username, password string) error {
	if err := checkPlaceholders(username); err != nil {
		return misconfigured(prefix+"username", "%v", err)
	}
	if err := checkPlaceholders(password); err != nil {
		return misconfigured(prefix+"password", "%v", err)
	}
	if username != "" && password == "" {
		return misconfigured(prefix+"username", "has no password: add %spassword", prefix)
	}
	return nil
}

func checkAddress(address string) error {
	if scheme, rest, ok := strings.Cut(address, "://"); ok {
		also := ""
		if strings.EqualFold(scheme, "rediss") {
			also = ", and the option tls"
		}
		if _, afterUser, ok := strings.Cut(rest, "@"); ok {
			rest, also = afterUser, also+", and what stands before the @ as username and password" // which are not for a log
		}
		rest, _, _ = strings.Cut(rest, "/")
		return fmt.Errorf("is a URL: write %s%s", orExample(rest), also)
	}
	if strings.HasPrefix(address, "unix") || strings.HasPrefix(address, "/") {
		return fmt.Errorf("%s is a Unix socket, which is not supported: write host:port, as in localhost:6379", address)
	}
	host, port, err := net.SplitHostPort(address)
	if err != nil || host == "" {
		return fmt.Errorf("%s is not host:port: write it as in redis:6379 or [2001:db8::1]:6379", address)
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
		return fmt.Errorf("%s has no port that there can be: write it as in redis:6379", address)
	}
	return nil
}

// orExample completes what may be missing of host:port.
func orExample(address string) string {
	if checkAddress(address) == nil {
		return address
	}
	if address != "" && checkAddress(address+":6379") == nil {
		return address + ":6379"
	}
	return "host:port, as in redis:6379"
}

var placeholder = regexp.MustCompile(`\{([^{}]*)\}`)

func hasPlaceholder(text string) bool { return placeholder.MatchString(text) }

// checkPlaceholders refuses placeholders that are not fixed when Caddy starts:
// what a request says must not choose a server, or become a password (A122).
func checkPlaceholders(text string) error {
	for _, match := range placeholder.FindAllStringSubmatch(text, -1) {
		if !strings.HasPrefix(match[1], "env.") && !strings.HasPrefix(match[1], "file.") {
			return fmt.Errorf("placeholder %s cannot be used here, only {env.NAME} and {file./path}", match[0])
		}
	}
	return nil
}

// resolve replaces {env.NAME} and {file./path} with what they stand for now.
func resolve(text string) (string, error) {
	resolved, err := caddy.NewReplacer().ReplaceOrErr(text, true, true)
	if err != nil {
		return "", fmt.Errorf("%w: set it, or mount the file", err)
	}
	return resolved, nil
}

// resolved gives the configuration with all placeholders replaced but those of
// credentials, which are read for each connection. They are looked at here,
// too: a variable that is not set is a mistake of now.
func (s *Sessions) resolved() (*Sessions, error) {
	r := &Sessions{Username: s.Username, Password: s.Password, DB: s.DB, Sentinel: s.Sentinel, Cluster: s.Cluster}
	for _, address := range s.Addresses {
		resolved, err := resolve(address)
		if err == nil {
			err = checkAddress(resolved)
		}
		if err != nil {
			return nil, misconfigured("address", "%v", err)
		}
		r.Addresses = append(r.Addresses, resolved)
	}
	texts := map[string]string{"username": s.Username, "password": s.Password}
	if s.Sentinel != nil {
		sentinel := *s.Sentinel
		texts["sentinel_username"], texts["sentinel_password"] = sentinel.Username, sentinel.Password
		r.Sentinel = &sentinel
	}
	for option, text := range texts {
		if _, err := resolve(text); err != nil {
			return nil, misconfigured(option, "%v", err)
		}
	}
	var err error
	if r.TLS, err = s.TLS.resolved(); err != nil {
		return nil, misconfigured("tls", "%v", err)
	}
	return r, nil
}

// fingerprint tells configurations apart without saying anything of them: a
// MAC, for they may hold passwords.
func (s *Sessions) fingerprint() (string, error) {
	data, err := json.Marshal(s) //nolint:gosec // it goes into the MAC and nowhere else
	if err != nil {
		return "", errors.New("the configuration cannot be written as JSON")
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
