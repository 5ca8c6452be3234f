package caddyauth

import (
	"crypto/tls"
	"fmt"
	"os"

	"github.com/pkce-auth/caddy-pkce-auth/caddyauth/internal/rp"
)

// Registration is how the provider knows this site, and how the site proves
// that it is it.
type Registration struct {
	// The client ID that the provider knows this site by. Required.
	ClientID string `json:"client_id,omitempty"`

	// The client secret. Without one the site is a public client, which PKCE
	// protects. Give it as `{env.NAME}` or `{file./path}`: the placeholder is
	// read whenever the secret is needed, and the secret stands in no
	// configuration. Default: none.
	ClientSecret string `json:"client_secret,omitempty"`

	// How the client authenticates at the token endpoint: `auto`, `none`,
	// `client_secret_basic`, `client_secret_post`, `private_key_jwt`,
	// `assertion_file` or `tls`. `auto` takes what the provider's metadata
	// advertise, and never tries one after the other. Default: `auto`. Source:
	// OpenID Connect Core 1.0, section 9; RFC 8705, section 2.
	ClientAuth string `json:"client_auth,omitempty"`

	// What `private_key_jwt` and `assertion_file` need.
	ClientAssertion *ClientAssertion `json:"client_assertion,omitempty"`

	// What `tls` needs.
	ClientCertificate *ClientCertificate `json:"client_certificate,omitempty"`
}

// ClientAssertion is where the JWT comes from by which the client proves who
// it is. Source: RFC 7523.
type ClientAssertion struct {
	// For `private_key_jwt`: the file with the private key, in PEM and without
	// a password. RSA of 2048 bits and more, P-256, P-384, P-521 or Ed25519. It
	// is read whenever it is needed. The assertions are good for 60 s, for one
	// use, and for the provider's issuer.
	KeyFile string `json:"key_file,omitempty"`

	// The ID under which the provider knows the key. Default: none is sent.
	KeyID string `json:"key_id,omitempty"`

	// For `assertion_file`: a file with an assertion that somebody else makes
	// and renews, such as a Kubernetes service account token for the provider.
	// It is read whenever it is needed.
	File string `json:"file,omitempty"`
}

// ClientCertificate is the certificate by which the client proves who it is,
// in the connection to the token and revocation endpoints: those that the
// provider's metadata name for it under `mtls_endpoint_aliases`, if there are.
// Source: RFC 8705, sections 2 and 5.
type ClientCertificate struct {
	// The file with the certificate, and those that lead to its authority, in
	// PEM. It is read for every connection.
	CertificateFile string `json:"certificate_file,omitempty"`

	// The file with the private key, in PEM and without a password. It is read
	// for every connection.
	KeyFile string `json:"key_file,omitempty"`
}

func (p *Provider) validateRegistration() error {
	if p.ClientID == "" {
		return misconfigured("client_id", "is required: the ID under which this site is registered at the provider")
	}
	if err := checkPlaceholders(p.ClientID); err != nil {
		return misconfigured("client_id", "%v", err)
	}
	if err := checkPlaceholders(p.ClientSecret); err != nil {
		return misconfigured("client_secret", "%v", err)
	}
	switch rp.AuthMethod(p.ClientAuth) {
	case "", rp.AuthAuto:
	case rp.AuthNone:
		if p.ClientSecret != "" {
			return misconfigured("client_auth", "none contradicts client_secret: leave one of them out")
		}
	case rp.AuthBasic, rp.AuthPost:
		if p.ClientSecret == "" {
			return misconfigured("client_auth", "%s needs a client_secret", p.ClientAuth)
		}
	case rp.AuthPrivateKeyJWT, rp.AuthAssertionFile:
		return p.validateAssertion()
	case rp.AuthTLS:
		return p.validateCertificate()
	default:
		return misconfigured("client_auth", "%q is none of auto, none, client_secret_basic, client_secret_post, private_key_jwt, assertion_file, tls", p.ClientAuth)
	}
	if p.ClientAssertion != nil {
		return misconfigured("client_auth", "an assertion needs private_key_jwt or assertion_file")
	}
	if p.ClientCertificate != nil {
		return misconfigured("client_auth", "a certificate needs tls")
	}
	return nil
}

func (p *Provider) validateCertificate() error {
	c := p.ClientCertificate
	if p.ClientSecret != "" {
		return misconfigured("client_auth", "tls contradicts client_secret: leave one of them out")
	}
	if c == nil || c.CertificateFile == "" || c.KeyFile == "" || p.ClientAssertion != nil {
		return misconfigured("client_auth", "write it as: tls <cert.pem> <key.pem>")
	}
	for _, path := range []string{c.CertificateFile, c.KeyFile} {
		if err := checkPlaceholders(path); err != nil {
			return misconfigured("client_auth", "%v", err)
		}
	}
	return nil
}

func (p *Provider) validateAssertion() error {
	a := p.ClientAssertion
	switch {
	case p.ClientCertificate != nil:
		return misconfigured("client_auth", "a certificate needs tls")
	case p.ClientSecret != "":
		return misconfigured("client_auth", "%s contradicts client_secret: leave one of them out", p.ClientAuth)
	case a == nil, p.ClientAuth == string(rp.AuthPrivateKeyJWT) && (a.KeyFile == "" || a.File != ""):
		return misconfigured("client_auth", "write it as: private_key_jwt <key.pem> [<kid>], or assertion_file <path>")
	case p.ClientAuth == string(rp.AuthAssertionFile) && (a.File == "" || a.KeyFile != "" || a.KeyID != ""):
		return misconfigured("client_auth", "write it as: assertion_file <path>")
	}
	for _, path := range []string{a.KeyFile, a.File} {
		if err := checkPlaceholders(path); err != nil {
			return misconfigured("client_auth", "%v", err)
		}
	}
	return nil
}

// useAssertion has a client prove who it is by a JWT, and looks whether that
// can work.
func useAssertion(c *rp.Client, a *ClientAssertion) error {
	path, err := resolve(a.KeyFile + a.File) // one of them is given
	if err != nil {
		return err
	}
	read := func() ([]byte, error) { return os.ReadFile(path) } //nolint:gosec // the operator names the file
	data, err := read()
	if err != nil {
		return err
	}
	if a.KeyFile == "" {
		c.Assertion = rp.AssertionFile(read)
		return nil
	}
	c.Assertion = rp.PrivateKeyJWT(read, a.KeyID)
	if err := rp.CheckPrivateKey(data); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	return nil
}

// load reads the certificate and its key.
func (c *ClientCertificate) load() (*tls.Certificate, error) {
	pair, err := tls.LoadX509KeyPair(c.CertificateFile, c.KeyFile)
	if err != nil {
		return nil, err // it says what is wrong, and quotes neither
	}
	return &pair, nil
}

// resolved replaces placeholders in the paths, and looks whether the files can
// be used.
func (c *ClientCertificate) resolved() (*ClientCertificate, error) {
	if c == nil {
		return nil, nil
	}
	certificate, err := resolve(c.CertificateFile)
	if err != nil {
		return nil, err
	}
	key, err := resolve(c.KeyFile)
	if err != nil {
		return nil, err
	}
	out := &ClientCertificate{CertificateFile: certificate, KeyFile: key}
	_, err = out.load()
	return out, err
}
