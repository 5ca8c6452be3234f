package rp

import (
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/pkce-auth/caddy-pkce-auth/test/provider"
)

// IDPS 42: what helps to find out why a provider cannot be reached is said.
func TestTransportErrorsSayWhatHelps(t *testing.T) {
	op := start(t, provider.Config{})
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = silent.Close() }()
	untrusted := httptest.NewTLSServer(http.NotFoundHandler())
	untrusted.Config.ErrorLog = log.New(io.Discard, "", 0)
	defer untrusted.Close()
	proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusProxyAuthRequired) }))
	defer proxy.Close()
	throughProxy := NewTransport()
	throughProxy.Proxy = func(*http.Request) (*url.URL, error) { return url.Parse(proxy.URL) }

	for _, tc := range []struct {
		name, issuer string
		transport    http.RoundTripper
		want         string
	}{
		{"refused", "http://127.0.0.1:1", nil, "dial tcp 127.0.0.1"},
		{"an unknown name", "https://nowhere.invalid", nil, "lookup nowhere.invalid"},
		{"M07 silence", "http://" + silent.Addr().String(), nil, "no answer in time"},
		{"an unknown authority", untrusted.URL, nil, "certificate"},
		{"no TLS", "https" + strings.TrimPrefix(op.URL, "http"), nil, "not one for https"},
		{"a proxy that refuses", "https://op.test", throughProxy, "407 Proxy Authentication Required"},
		{"a panic", "https://op.test", roundTripper(func(*http.Request) (*http.Response, error) { panic("odd input") }), "odd input"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			p := NewProvider(ProviderConfig{Issuer: tc.issuer, Transport: tc.transport, Timeout: time.Second})
			if _, err := p.Metadata(t.Context()); err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("got %v, want %q in it", err, tc.want)
			}
		})
	}
}

// Token requests open a connection each. That costs no full handshake, and
// HTTP/2 stays in use.
func TestConnectionsAreResumed(t *testing.T) {
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "{}") }))
	server.EnableHTTP2 = true
	server.StartTLS()
	defer server.Close()
	transport := NewTransport()
	defer transport.CloseIdleConnections()
	transport.TLSClientConfig.RootCAs = server.Client().Transport.(*http.Transport).TLSClientConfig.RootCAs
	for _, resumed := range []bool{false, true, true} {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, server.URL, nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Close = true
		resp, err := transport.RoundTrip(req)
		if err != nil {
			t.Fatal(err)
		}
		_, _ = io.Copy(io.Discard, resp.Body)
		_ = resp.Body.Close()
		if resp.TLS.DidResume != resumed || resp.ProtoMajor != 2 {
			t.Errorf("got resumed %v over %s, want %v over HTTP/2", resp.TLS.DidResume, resp.Proto, resumed)
		}
	}
}

// What a provider says is cut between characters, never within one, and what
// could confuse a terminal or a log is not in it.
func TestPrintable(t *testing.T) {
	for _, tc := range []struct {
		text string
		n    int
		want string
	}{
		{"short", 5, "short"},
		{"longer", 4, "long…"},
		{"größer", 4, "grö…"},
		{"größer", 3, "gr…"},
		{"日本語", 1, "…"},
		{"a\r\nb\x1b[31m\u202e\xff", 20, "ab[31m"},
		{"", 0, ""},
	} {
		if got := printable(tc.text, tc.n); got != tc.want {
			t.Errorf("%q to %d bytes: got %q, want %q", tc.text, tc.n, got, tc.want)
		}
	}
}
