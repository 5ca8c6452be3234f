package flows

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/pkce-auth/caddy-pkce-auth/test/provider"
)

// elsewhere serves the provider's metadata under another address, as inside a
// cluster.
func (w *world) elsewhere(change func(doc map[string]any)) string {
	w.t.Helper()
	inside, err := provider.Start(provider.Config{})
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { _ = inside.Close() })
	inside.Misbehave(provider.Faults{Metadata: func(doc map[string]any) {
		for name, value := range doc {
			if text, ok := value.(string); ok {
				doc[name] = strings.Replace(text, inside.URL, w.op.URL, 1)
			}
		}
		if change != nil {
			change(doc)
		}
	}})
	return inside.URL + "/.well-known/openid-configuration"
}

// The metadata stand elsewhere; the issuer that they name must be the
// configured one all the same (M01).
func TestM01R34DiscoveryElsewhere(t *testing.T) {
	w := newWorld(t)
	w.caddy("pkce_auth $OP public {\ndiscovery_url " + w.elsewhere(nil) + "\n}\nreverse_proxy $UPSTREAM")
	w.browser().login(w, "/page")
	if got := len(w.op.Requests("metadata")); got != 0 {
		t.Errorf("the issuer was asked %d times", got)
	}
	w.caddy("pkce_auth $OP public {\ndiscovery_url " + w.elsewhere(func(doc map[string]any) { doc["issuer"] = "https://evil.test" }) + "\n}\nreverse_proxy $UPSTREAM")
	if a := w.browser().open(w.site + "/"); a.StatusCode != http.StatusServiceUnavailable {
		t.Errorf("another issuer: got status %d", a.StatusCode)
	}
}

// Without discovery: a login and a logout with the endpoints that are
// configured, and nobody asks for metadata.
func TestEndpointsWithoutDiscovery(t *testing.T) {
	w := newWorld(t)
	w.caddy(`
		pkce_auth $OP confidential {
			client_secret s3cr:t%+é
			endpoints {
				authorization $OP/authorize
				token $OP/token
				jwks $OP/keys
				userinfo $OP/userinfo
				end_session $OP/end-session
				revocation $OP/revoke
			}
			scopes openid offline_access
			userinfo on
		}
		reverse_proxy $UPSTREAM
	`)
	b := w.browser()
	b.login(w, "/page")
	if got := len(w.op.Requests("userinfo")); got != 1 {
		t.Errorf("userinfo was asked %d times", got)
	}
	logout := fetched.Clone()
	logout.Set("Sec-Fetch-Mode", "navigate")
	logout.Set("Sec-Fetch-Dest", "document")
	if a := b.do(http.MethodGet, w.site+"/oauth2/logout", logout, ""); !strings.HasPrefix(a.location(t), w.op.URL+"/end-session?") {
		t.Errorf("got %s", a.location(t))
	}
	w.eventually("the revocation", func() bool { return len(w.op.Requests("revoke")) == 1 })
	if got := len(w.op.Requests("metadata")); got != 0 {
		t.Errorf("the metadata were asked for %d times", got)
	}
}

// R53: an endpoint that is configured counts more than that of the metadata.
func TestR53ConfiguredEndpointCounts(t *testing.T) {
	w := newWorld(t)
	w.op.Misbehave(provider.Faults{Metadata: func(doc map[string]any) { doc["token_endpoint"] = w.op.URL + "/gone"; delete(doc, "jwks_uri") }})
	w.caddy("pkce_auth $OP public {\nendpoints {\ntoken $OP/token\njwks $OP/keys\n}\n}\nreverse_proxy $UPSTREAM")
	w.browser().login(w, "/page")
}

// M17: only certificates that the trusted authorities signed, for this name and
// this time, and no protocol of old. What the operator trusts instead counts
// alone.
func TestM17TrustPool(t *testing.T) {
	for name, tc := range map[string]struct {
		change func(*x509.Certificate, *tls.Config)
		trust  bool
		logged string // empty: it works
	}{
		"an authority of one's own": {nil, true, ""},
		"self-signed":               {nil, false, "unknown authority"},
		"expired": {func(c *x509.Certificate, _ *tls.Config) {
			c.NotBefore, c.NotAfter = time.Now().Add(-48*time.Hour), time.Now().Add(-24*time.Hour)
		}, true, "expired"},
		"of another name": {func(c *x509.Certificate, _ *tls.Config) {
			c.IPAddresses, c.DNSNames = nil, []string{"evil.test"}
		}, true, "IP SANs"},
		"TLS 1.1": {func(_ *x509.Certificate, c *tls.Config) {
			c.MinVersion, c.MaxVersion = tls.VersionTLS10, tls.VersionTLS11
		}, true, "protocol version"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			pair := makeCertificate(t, dir, "op", tc.change)
			config := &tls.Config{Certificates: []tls.Certificate{pair}}
			if tc.change != nil {
				tc.change(&x509.Certificate{}, config)
			}
			w := newWorldWith(t, provider.Config{TLS: config})
			trust := ""
			if tc.trust {
				trust = "tls_trust_pool file " + filepath.Join(dir, "op.pem")
			}
			w.caddy("pkce_auth $OP public {\n" + trust + "\n}\nreverse_proxy $UPSTREAM")
			b := w.browser()
			if tc.logged == "" {
				if a := b.visit(w.site + "/page"); !strings.HasPrefix(a.location(t), w.op.URL+"/authorize?") {
					t.Fatalf("got status %d", a.StatusCode)
				}
				return
			}
			if a := b.open(w.site + "/page"); a.StatusCode != http.StatusServiceUnavailable || a.Header.Get("Retry-After") == "" {
				t.Errorf("got status %d", a.StatusCode)
			}
			w.logged("http.handlers.pkce_auth", tc.logged)
			w.noSession(b, 0)
		})
	}
}

// Another certificate in the same file is found at the next reload.
func TestTrustPoolIsReadAtReload(t *testing.T) {
	dir := t.TempDir()
	makeCertificate(t, dir, "other", nil)
	pair := makeCertificate(t, dir, "op", nil)
	w := newWorldWith(t, provider.Config{TLS: &tls.Config{Certificates: []tls.Certificate{pair}}})
	trusted := filepath.Join(dir, "trusted.pem")
	for i, step := range []struct {
		file   string
		status int
	}{{"other.pem", http.StatusServiceUnavailable}, {"op.pem", http.StatusFound}, {"op.pem", http.StatusFound}} {
		data, err := os.ReadFile(filepath.Join(dir, step.file))
		if err != nil {
			t.Fatal(err)
		}
		writeFile(t, trusted, string(data))
		w.caddy("pkce_auth $OP public {\ntls_trust_pool file " + trusted + "\n}\nreverse_proxy $UPSTREAM")
		if a := w.browser().visit(w.site + "/page"); a.StatusCode != step.status {
			t.Errorf("load %d: got status %d, want %d", i, a.StatusCode, step.status)
		}
	}
}

// R19i, R53: the client proves who it is by its certificate, at the endpoints
// for that, with code, refresh and revocation alike; a certificate that is
// replaced in its file is used from then on.
func TestR19iR53ClientCertificate(t *testing.T) {
	dir := t.TempDir()
	server, client := makeCertificate(t, dir, "op", nil), makeCertificate(t, dir, "client", nil)
	config := &tls.Config{Certificates: []tls.Certificate{server}, ClientAuth: tls.RequestClientCert}
	w := newWorldWith(t, provider.Config{TLS: config, Clients: map[string]provider.Client{"mtls": {Certificate: client.Certificate[0]}}})
	alias := w.alias(config)
	w.op.Misbehave(provider.Faults{TokenResponse: shortLived, Metadata: func(doc map[string]any) {
		doc["mtls_endpoint_aliases"] = map[string]any{"token_endpoint": alias + "/token", "revocation_endpoint": alias + "/revoke"}
	}})
	w.caddy("pkce_auth $OP mtls {\nclient_auth tls " + filepath.Join(dir, "client.pem") + " " + filepath.Join(dir, "client.key") +
		"\ntls_trust_pool file " + filepath.Join(dir, "op.pem") + "\n}\nreverse_proxy $UPSTREAM")
	b := w.browser()
	tlsBrowser(t, dir)
	b.login(w, "/in")
	next := makeCertificate(t, dir, "client", nil) // in the same files
	w.op.Change(func(cfg *provider.Config) { cfg.Clients["mtls"] = provider.Client{Certificate: next.Certificate[0]} })
	outliveShortLived()
	if a := b.fetch(w.site + "/x"); a.StatusCode != http.StatusOK || len(w.refreshes()) != 1 {
		t.Fatalf("got status %d, and %d refreshes", a.StatusCode, len(w.refreshes()))
	}
	logout := fetched.Clone()
	b.do(http.MethodGet, w.site+"/oauth2/logout", logout, "")
	w.eventually("the revocation", func() bool { return len(w.op.Requests("revoke")) == 1 })
	for _, endpoint := range []string{"token", "revoke"} {
		for _, r := range w.op.Requests(endpoint) {
			if r.Host != strings.TrimPrefix(alias, "https://") || r.Form.Get("client_id") != "mtls" || r.Form.Has("client_secret") || r.Header.Get("Authorization") != "" {
				t.Errorf("%s: host %s, form %v", endpoint, r.Host, r.Form)
			}
		}
	}
}

// M143: aliases that are malformed are no reason to go elsewhere with the
// certificate, and none to refuse those who have none.
func TestM143MalformedAlias(t *testing.T) {
	dir := t.TempDir()
	server, client := makeCertificate(t, dir, "op", nil), makeCertificate(t, dir, "client", nil)
	tlsBrowser(t, dir)
	for name, aliases := range map[string]any{
		"a text": "x", "over http": map[string]any{"token_endpoint": "http://op.test/token"}, "a number": map[string]any{"token_endpoint": 7},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorldWith(t, provider.Config{
				TLS:     &tls.Config{Certificates: []tls.Certificate{server}, ClientAuth: tls.RequestClientCert},
				Clients: map[string]provider.Client{"mtls": {Certificate: client.Certificate[0]}, "public": {}},
			})
			w.op.Misbehave(provider.Faults{Metadata: func(doc map[string]any) { doc["mtls_endpoint_aliases"] = aliases }})
			pool := "\ntls_trust_pool file " + filepath.Join(dir, "op.pem") + "\n"
			w.caddy("pkce_auth $OP mtls {\nclient_auth tls " + filepath.Join(dir, "client.pem") + " " + filepath.Join(dir, "client.key") + pool + "}\nreverse_proxy $UPSTREAM")
			b := w.browser()
			if a := b.open(w.site + "/"); a.StatusCode != http.StatusBadGateway {
				t.Errorf("got status %d", a.StatusCode)
			}
			w.logged("mtls_endpoint_aliases")
			w.noSession(b, 0)
			w.caddy("pkce_auth $OP public {" + pool + "}\nreverse_proxy $UPSTREAM")
			w.browser().login(w, "/without")
		})
	}
}

// alias lets the provider be reached at a second address.
func (w *world) alias(config *tls.Config) string {
	w.t.Helper()
	listener, err := tls.Listen("tcp", "127.0.0.1:0", config)
	if err != nil {
		w.t.Fatal(err)
	}
	server := &http.Server{Handler: w.op.Handler(), ReadHeaderTimeout: 10 * time.Second}
	go func() { _ = server.Serve(listener) }()
	w.t.Cleanup(func() { _ = server.Close() })
	return "https://" + listener.Addr().String()
}

// tlsBrowser has the browsers trust the provider, too.
func tlsBrowser(t *testing.T, dir string) {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(dir, "op.pem"))
	if err != nil {
		t.Fatal(err)
	}
	pool := authority().pool.Clone()
	pool.AppendCertsFromPEM(data)
	before := plain
	plain = before.Clone()
	plain.TLSClientConfig.RootCAs = pool
	t.Cleanup(func() { plain = before })
}

// makeCertificate makes a certificate that signs itself, for this machine, and
// writes it into files: <name>.pem and <name>.key.
func makeCertificate(t *testing.T, dir, name string, change func(*x509.Certificate, *tls.Config)) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
	}
	if change != nil {
		change(template, &tls.Config{})
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	certificate := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	private := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER})
	writeFile(t, filepath.Join(dir, name+".pem"), string(certificate))
	writeFile(t, filepath.Join(dir, name+".key"), string(private))
	pair, err := tls.X509KeyPair(certificate, private)
	if err != nil {
		t.Fatal(err)
	}
	return pair
}

// M18, R14: endpoints that change between the redirect and the callback: the
// code goes to the token endpoint of the same issuer as it is known by now.
// With another issuer configured meanwhile, it goes nowhere.
func TestM18R14EndpointsThatChangeMidFlow(t *testing.T) {
	w := newWorld(t)
	load := w.reloads()
	load("timeout 5s")
	b, late := w.browser(), w.browser()
	callback, lateCallback := b.callback(w, "/page"), late.callback(w, "/late")
	w.op.Misbehave(provider.Faults{Metadata: func(doc map[string]any) { doc["token_endpoint"] = w.op.URL + "/token?moved=1" }})
	load("timeout 6s") // forgets the metadata
	if a := b.open(callback); a.body != "upstream /page" {
		t.Errorf("got status %d and %q", a.StatusCode, a.body)
	}
	if requests := w.op.Requests("token"); len(requests) != 1 || requests[0].Form.Get("moved") != "1" {
		t.Errorf("got %+v", requests)
	}
	other := bobsProvider(t)
	if err := w.load(w.site, "pkce_auth "+other.URL+" public\nreverse_proxy $UPSTREAM"); err != nil {
		t.Fatal(err)
	}
	late.visit(lateCallback)
	if len(other.Requests("token")) != 0 || len(w.op.Requests("token")) != 1 {
		t.Error("the code was sent")
	}
}

// IDPS 21: an issuer that is a root with a slash, without discovery: nothing
// but the operator says that it has one.
func TestIDPS21RootIssuerWithoutDiscovery(t *testing.T) {
	w := newWorldWith(t, provider.Config{Path: "/"})
	op := strings.TrimSuffix(w.op.URL, "/")
	w.caddy("pkce_auth " + w.op.URL + " public {\nendpoints {\nauthorization " + op + "/authorize\ntoken " + op + "/token\njwks " + op + "/keys\n}\n}\nreverse_proxy $UPSTREAM")
	w.browser().login(w, "/page")
}

// A client certificate that cannot be read any more is no trouble of the
// provider's, and the log says so.
func TestClientCertificateThatIsGone(t *testing.T) {
	dir := t.TempDir()
	server, client := makeCertificate(t, dir, "op", nil), makeCertificate(t, dir, "client", nil)
	tlsBrowser(t, dir)
	w := newWorldWith(t, provider.Config{
		TLS:     &tls.Config{Certificates: []tls.Certificate{server}, ClientAuth: tls.RequestClientCert},
		Clients: map[string]provider.Client{"mtls": {Certificate: client.Certificate[0]}},
	})
	w.caddy("pkce_auth $OP mtls {\nclient_auth tls " + filepath.Join(dir, "client.pem") + " " + filepath.Join(dir, "client.key") +
		"\ntls_trust_pool file " + filepath.Join(dir, "op.pem") + "\n}\nreverse_proxy $UPSTREAM")
	if err := os.Remove(filepath.Join(dir, "client.key")); err != nil {
		t.Fatal(err)
	}
	b := w.browser()
	if a := b.open(w.site + "/"); a.StatusCode != http.StatusBadGateway {
		t.Errorf("got status %d", a.StatusCode)
	}
	w.logged(`"reason":"misconfigured"`, "client certificate", "no such file")
	w.noSession(b, 0)
}
