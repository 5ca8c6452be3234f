// Package provider is an OpenID Provider for tests and for the demo. It is
// honest by default, stricter than most real ones, and misbehaves by switch.
// It listens on loopback only and forgets everything when it is closed.
package provider

import (
	"context"
	"crypto"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"
)

// Config says who may log in where. The zero value is a provider with one
// public client, "public", and one confidential client, "confidential" with
// the secret "s3cr:t%+é", and a user "alice" who is always logged in.
type Config struct {
	// Clients by ID. A client without a secret is a public one.
	Clients map[string]Client

	// Users by the name they log in with; the values are their claims, and
	// "sub" is added.
	Users map[string]map[string]any

	// LoginForm shows a page with a form, instead of logging Login in at once.
	LoginForm bool

	// Login is the user who is always logged in; default "alice".
	Login string

	// LoginHint logs in the user whom the request's login_hint names, if there is
	// one of that name, in place of Login.
	LoginHint bool

	// Algorithm signs access tokens and ID tokens; default RS256. ES256 is for
	// whoever needs a great many.
	Algorithm string

	// AccessTokenClaims are added to access tokens that are JWTs.
	AccessTokenClaims map[string]any

	// APIs are the audiences for which a refresh gets tokens, beside what its
	// login asked for (RFC 8707 section 2.2, Auth0's multi-resource refresh
	// tokens). Others are refused with invalid_target.
	APIs []string

	// TokenLifetime is that of access tokens; default an hour.
	TokenLifetime time.Duration

	// Path is behind the origin in the issuer, as "/test/a/caddy/".
	Path string

	// TLS has the provider speak HTTPS; nil: plain HTTP.
	TLS *tls.Config

	// Now is the clock; default time.Now.
	Now func() time.Time
}

// Client is a registered client.
type Client struct {
	Secret       string
	Key          crypto.PublicKey // for private_key_jwt
	Certificate  []byte           // for tls_client_auth, DER
	AuthMethod   string           // default client_secret_basic, or none without a secret
	RedirectURIs []string         // nil: any
}

// Provider is a running provider.
type Provider struct {
	// URL is the provider's address. The issuer is the same, unless a fault
	// changes what the metadata say.
	URL string

	cfg    Config
	server *http.Server
	keys   *keyring

	mu        sync.Mutex
	faults    Faults
	codes     map[string]*grant
	accesses  map[string]*grant
	refreshes map[string]*refreshToken
	jtis      map[string]bool
	requests  []Request
	issued    []string
	logins    []Login
	reused    int
}

// Request is a request that an endpoint got.
type Request struct {
	Endpoint string // "metadata", "keys", "authorize", "token", "userinfo", "revoke", "end_session"
	Method   string
	Header   http.Header
	Form     url.Values // query and body
	Host     string
}

// Start starts a provider on a port that the kernel chooses.
func Start(cfg Config) (*Provider, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("listening: %w", err)
	}
	return StartOn(listener, cfg), nil
}

// StartOn starts a provider on a listener, which it closes in the end.
func StartOn(listener net.Listener, cfg Config) *Provider {
	p := &Provider{
		URL:   "http://" + listener.Addr().String(),
		cfg:   withDefaults(cfg),
		keys:  newKeyring(),
		codes: make(map[string]*grant),

		accesses:  make(map[string]*grant),
		refreshes: make(map[string]*refreshToken),
	}
	if cfg.TLS != nil {
		p.URL = "https://" + listener.Addr().String()
		listener = tls.NewListener(listener, cfg.TLS)
	}
	p.URL += cfg.Path
	mux := http.NewServeMux()
	for path, endpoint := range map[string]struct {
		name  string
		serve http.HandlerFunc
	}{
		"/.well-known/openid-configuration": {"metadata", p.serveMetadata},
		"/keys":                             {"keys", p.serveKeys},
		"/authorize":                        {"authorize", p.serveAuthorize},
		"/token":                            {"token", p.serveToken},
		"/userinfo":                         {"userinfo", p.serveUserinfo},
		"/revoke":                           {"revoke", p.serveRevoke},
		"/end-session":                      {"end_session", p.serveEndSession},
	} {
		mux.HandleFunc(strings.TrimSuffix(cfg.Path, "/")+path, p.recorded(endpoint.name, endpoint.serve))
	}
	p.server = &http.Server{Handler: mux, ReadHeaderTimeout: 10 * time.Second}
	go func() { _ = p.server.Serve(listener) }()
	return p
}

// at is the URL of an endpoint.
func (p *Provider) at(path string) string { return strings.TrimSuffix(p.URL, "/") + path }

// Handler serves the provider at a further address.
func (p *Provider) Handler() http.Handler { return p.server.Handler }

// Close stops the provider.
func (p *Provider) Close() error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	if err := p.server.Shutdown(ctx); !errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	return p.server.Close()
}

func withDefaults(cfg Config) Config {
	if cfg.Clients == nil {
		cfg.Clients = map[string]Client{
			"public":       {},
			"confidential": {Secret: "s3cr:t%+é"},
			"post":         {Secret: "s3cr:t%+é", AuthMethod: "client_secret_post"},
		}
	}
	if cfg.Users == nil {
		cfg.Users = map[string]map[string]any{"alice": {
			"name": "Alice Ash", "email": "alice@example.com", "email_verified": true, "groups": []string{"staff", "admin"},
			"https://example.com/roles": []string{"reader"}, "realm_access": map[string]any{"roles": []string{"offline"}},
		}}
	}
	if cfg.Login == "" {
		cfg.Login = "alice"
	}
	if cfg.Algorithm == "" {
		cfg.Algorithm = "RS256"
	}
	if cfg.TokenLifetime == 0 {
		cfg.TokenLifetime = time.Hour
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	return cfg
}

// recorded keeps a copy of each request, and lets a fault answer in the
// endpoint's place.
func (p *Provider) recorded(name string, next http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		r.Body = http.MaxBytesReader(w, r.Body, 1<<20)
		if err := r.ParseForm(); err != nil {
			http.Error(w, "malformed request", http.StatusBadRequest)
			return
		}
		p.mu.Lock()
		p.requests = append(p.requests, Request{Endpoint: name, Method: r.Method, Header: r.Header.Clone(), Form: r.Form, Host: r.Host})
		answer := p.faults.Answer[name]
		p.mu.Unlock()
		if answer != nil && answer(w, r) {
			return
		}
		next(w, r)
	}
}

// Requests returns the requests that an endpoint got so far.
func (p *Provider) Requests(endpoint string) []Request {
	p.mu.Lock()
	defer p.mu.Unlock()
	var got []Request
	for _, r := range p.requests {
		if r.Endpoint == endpoint {
			got = append(got, r)
		}
	}
	return got
}

// Issued returns every secret that the provider issued so far: codes and
// tokens. None of them may ever stand in a log, a page or a foreign URL.
func (p *Provider) Issued() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return append([]string(nil), p.issued...)
}

// Misbehave switches faults on, in place of those before. The zero Faults
// make the provider honest again.
func (p *Provider) Misbehave(f Faults) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.faults = f
}

// Change changes the configuration while the provider runs.
func (p *Provider) Change(change func(*Config)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	change(&p.cfg)
}

func (p *Provider) fault() Faults {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.faults
}
