package rp

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// What a provider may send, at most. Real documents are a tenth of it.
const (
	maxMetadataSize      = 256 << 10
	maxKeySetSize        = 512 << 10
	maxTokenResponseSize = 256 << 10
	maxUserinfoSize      = 256 << 10
)

// DefaultTimeout bounds one call to the provider, body included.
const DefaultTimeout = 10 * time.Second

// caller makes the calls to one provider. Unlike http.DefaultClient it
// follows no redirect, for a redirected token request hands code, verifier
// and client secret to whoever it points at (F07, F08), and reads no more
// than it was told (F06).
type caller struct {
	client  *http.Client
	timeout time.Duration
}

// NewTransport returns the transport for calls to providers. Proxies are
// taken from the environment, as everywhere in Go (HTTPS_PROXY, NO_PROXY).
func NewTransport() *http.Transport {
	t := http.DefaultTransport.(*http.Transport).Clone()
	t.MaxResponseHeaderBytes = 64 << 10
	t.MaxIdleConnsPerHost = 16
	// Without transparent decompression, the limits above are limits of what
	// travels, too.
	t.DisableCompression = true
	// Token requests take a connection each; resumption makes that cheap.
	if t.TLSClientConfig == nil {
		t.TLSClientConfig = &tls.Config{MinVersion: tls.VersionTLS12}
	}
	t.TLSClientConfig.ClientSessionCache = tls.NewLRUClientSessionCache(16)
	t.OnProxyConnectResponse = func(_ context.Context, _ *url.URL, _ *http.Request, resp *http.Response) error {
		if resp.StatusCode != http.StatusOK {
			return proxyRefusalError(resp.StatusCode)
		}
		return nil
	}
	return t
}

// proxyRefusalError is the status with which a proxy refused to connect us.
type proxyRefusalError int

func (p proxyRefusalError) Error() string {
	return fmt.Sprintf("the proxy answered status %d %s", int(p), http.StatusText(int(p)))
}

func newCaller(transport http.RoundTripper, timeout time.Duration) *caller {
	if transport == nil {
		transport = NewTransport()
	}
	if timeout <= 0 {
		timeout = DefaultTimeout
	}
	return &caller{
		client: &http.Client{
			Transport:     transport,
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
		timeout: timeout,
	}
}

// response is an answer whose body was read whole, within its limit.
type response struct {
	status int
	header http.Header
	body   []byte
}

// do sends the request and reads the answer. An error means that there is no
// usable answer: it is ErrUnavailable, and holds nothing of the request's
// body or query.
func (c *caller) do(req *http.Request, limit int64) (*response, error) {
	ctx, cancel := context.WithTimeout(req.Context(), c.timeout)
	defer cancel()
	if req.Header.Get("Accept") == "" {
		req.Header.Set("Accept", "application/json")
	}
	req.Header.Set("User-Agent", "caddy-pkce-auth")
	resp, err := c.client.Do(req.WithContext(ctx))
	if certificate, ok := errors.AsType[*CertificateError](err); ok {
		return nil, fmt.Errorf("%w: %w", ErrMisconfigured, certificate)
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrUnavailable, transportError(ctx, err))
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(io.LimitReader(resp.Body, limit+1))
	if err != nil {
		if ctx.Err() != nil {
			return nil, fmt.Errorf("%w: reading the answer: %w", ErrUnavailable, transportError(ctx, err))
		}
		return nil, fmt.Errorf("%w: %w", ErrUnavailable, errAnswerLost) // however it was lost: HTTP/2 has its own ways
	}
	if int64(len(body)) > limit {
		return nil, fmt.Errorf("%w: answer is larger than %d bytes", ErrInvalid, limit)
	}
	return &response{status: resp.StatusCode, header: resp.Header, body: body}, nil
}

// CertificateError says that the client's own certificate cannot be had. A
// transport that reads one returns it, for otherwise it would pass for trouble
// of the provider.
type CertificateError struct{ Err error }

func (e *CertificateError) Error() string { return "client certificate: " + e.Err.Error() }

// Unwrap gives the reason.
func (e *CertificateError) Unwrap() error { return e.Err }

// fetch gets a document and reads it. It runs in goroutines of its own, where
// a panic would end the process with every session in it; so one in a library
// that reads what a provider sent becomes an error.
func fetch[T any](ctx context.Context, c *caller, target string, limit int64, parse func(*response) (T, error)) (doc T, err error) {
	defer func() {
		if panicked := recover(); panicked != nil {
			err = fmt.Errorf("%w: reading it panicked: %s", ErrInvalid, printable(fmt.Sprint(panicked), maxTransportError))
		}
	}()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, target, nil)
	if err != nil {
		return doc, fmt.Errorf("%w: not a URL that can be fetched", ErrMisconfigured)
	}
	resp, err := c.do(req, limit)
	if err != nil {
		return doc, err
	}
	if resp.status != http.StatusOK {
		return doc, statusError(resp.status)
	}
	return parse(resp)
}

// statusError says what an unexpected status means. Redirects are not
// followed, on purpose, so one that comes is a mistake in a URL.
func statusError(status int) error {
	switch {
	case status >= 300 && status < 400:
		return fmt.Errorf("%w: provider redirects (status %d), which is not followed: configure the URL it points at", ErrMisconfigured, status)
	case status == http.StatusTooManyRequests || status >= 500:
		return fmt.Errorf("%w: status %d", ErrUnavailable, status)
	default:
		return fmt.Errorf("%w: status %d", ErrMisconfigured, status)
	}
}

// transportError keeps of an error of net/http what helps: that a name is
// unknown, a connection refused, a certificate not trusted, the time up. The
// rest it replaces, for net/http quotes the URL with its query, and of an
// answer that is not HTTP the line it stumbled over, which may hold a token
// (F10).
func transportError(ctx context.Context, err error) error {
	if errors.Is(ctx.Err(), context.DeadlineExceeded) {
		return fmt.Errorf("no answer in time: %w", context.DeadlineExceeded)
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	if urlErr, ok := errors.AsType[*url.Error](err); ok {
		err = urlErr.Err
	}
	if refusal, ok := errors.AsType[proxyRefusalError](err); ok {
		return refusal
	}
	if untrusted, ok := errors.AsType[*tls.CertificateVerificationError](err); ok {
		said := printable(untrusted.Error(), maxTransportError)
		if _, unknown := errors.AsType[x509.UnknownAuthorityError](untrusted); unknown {
			said += "; if the authority is your own, name it with tls_trust_pool"
		}
		return errors.New(said)
	}
	if failed, ok := errors.AsType[*net.OpError](err); ok { // DNS errors among them
		said := errors.New(printable(failed.Error(), maxTransportError))
		if failed.Op == "read" {
			return fmt.Errorf("%w: %w", errAnswerLost, said)
		}
		return said
	}
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return errAnswerLost
	}
	return errors.New("what came is not an answer in HTTP, or not one for https")
}

// errAnswerLost says that the request went out and its answer did not come.
var errAnswerLost = errors.New("the connection was closed before the whole answer was here")

// maxTransportError bounds what is kept of such an error, for certificates
// may hold long lists of names.
const maxTransportError = 300

// checkEndpoint says whether a URL may be called, or browsers be sent to it:
// https, or http on a loopback name when the issuer is one as well; no
// fragment (RFC 6749 section 3.1), no user information.
func checkEndpoint(text string, insecure bool) error {
	u, err := url.Parse(text)
	switch {
	case err != nil:
		return errors.New("not a URL")
	case u.Fragment != "" || strings.Contains(text, "#"):
		return errors.New("must not have a fragment")
	case u.User != nil:
		return errors.New("must not have user information")
	case u.Hostname() == "" || u.Opaque != "":
		return errors.New("must be absolute")
	case u.Scheme == "https":
		return nil
	case u.Scheme == "http" && insecure && IsLoopback(u.Hostname()):
		return nil
	case u.Scheme == "http":
		return errors.New("must be https")
	default:
		return fmt.Errorf("scheme %.20q is not https", u.Scheme)
	}
}

// printable cuts s to n bytes and drops what is not printable.
func printable(s string, n int) string {
	s = strings.Map(func(r rune) rune {
		if r == utf8.RuneError || !unicode.IsPrint(r) {
			return -1
		}
		return r
	}, s[:min(len(s), 4*n)])
	if len(s) <= n {
		return s
	}
	for n > 0 && !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n] + "…"
}
