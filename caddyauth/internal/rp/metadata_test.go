package rp

import (
	"encoding/json"
	"errors"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pkce-auth/caddy-pkce-auth/test/provider"
)

func containsAny(s string, parts ...string) bool {
	return slices.ContainsFunc(parts, func(p string) bool { return strings.Contains(s, p) })
}

// document is a good metadata document of an issuer, changed.
func document(issuer string, change map[string]any) []byte {
	doc := map[string]any{
		"issuer":                 issuer,
		"authorization_endpoint": "https://op.test/authorize",
		"token_endpoint":         "https://op.test/token",
		"jwks_uri":               "https://op.test/keys",
	}
	maps.Copy(doc, change)
	maps.DeleteFunc(doc, func(_ string, v any) bool { return v == nil })
	data, _ := json.Marshal(doc)
	return data
}

// IDPS 21, R20, R34, M01, M02: the issuer is compared exactly, but for the
// one slash of a root issuer.
func TestM01M02IDPS21R34IssuerComparison(t *testing.T) {
	for _, tc := range []struct {
		configured, own string
		ok              bool
	}{
		{"https://tenant.eu.auth0.com", "https://tenant.eu.auth0.com/", true},
		{"https://tenant.eu.auth0.com/", "https://tenant.eu.auth0.com/", true},
		{"https://tenant.eu.auth0.com/", "https://tenant.eu.auth0.com", true},
		{"https://okta.test/oauth2/default", "https://okta.test/oauth2/default", true},
		{"https://okta.test/oauth2/default", "https://okta.test/oauth2/default/", false},
		{"https://okta.test/oauth2/default/", "https://okta.test/oauth2/default", false},
		{"https://op.test", "https://op.test//", false},
		{"https://op.test", "https://op.test1", false},
		{"https://op.test", "https://OP.test", false},
		{"https://op.test", "http://op.test", false},
		{"https://op.test", "https://op.test?", false},
		{"https://op.test", "", false},
	} {
		m, err := parseMetadata(document(tc.own, nil), tc.configured, Endpoints{})
		if (err == nil) != tc.ok {
			t.Errorf("%s configured, %s in the metadata: got %v, want ok %v", tc.configured, tc.own, err, tc.ok)
		}
		if err == nil && m.Issuer != tc.own {
			t.Errorf("issuer: got %s, want the provider's own spelling %s", m.Issuer, tc.own)
		}
	}
	if got, want := discoveryURL("https://tenant.eu.auth0.com/"), "https://tenant.eu.auth0.com/.well-known/openid-configuration"; got != want {
		t.Errorf("discovery: got %s, want %s", got, want)
	}
}

// F07, M09 to M15: no endpoint that a browser or a secret should not go to.
func TestM09M20F07MetadataRefuses(t *testing.T) {
	for _, tc := range []struct {
		name   string
		change map[string]any
	}{
		{"M09 an endpoint over http", map[string]any{"token_endpoint": "http://op.test/token"}},
		{"M09 an endpoint over http on loopback", map[string]any{"token_endpoint": "http://127.0.0.1/token"}},
		{"M10 javascript", map[string]any{"authorization_endpoint": "javascript:alert(1)//op.test"}},
		{"M10 file", map[string]any{"jwks_uri": "file:///etc/passwd"}},
		{"M10 an opaque URL", map[string]any{"jwks_uri": "https:op.test/keys"}},
		{"M11 a fragment", map[string]any{"authorization_endpoint": "https://op.test/a#f"}},
		{"M11 an empty fragment", map[string]any{"authorization_endpoint": "https://op.test/a#"}},
		{"M11 user information", map[string]any{"token_endpoint": "https://op.test@evil.test/token"}},
		{"a relative endpoint", map[string]any{"token_endpoint": "/token"}},
		{"M13 no token endpoint", map[string]any{"token_endpoint": nil}},
		{"M13 no keys", map[string]any{"jwks_uri": nil}},
		{"M13 no authorization endpoint", map[string]any{"authorization_endpoint": nil}},
		{"an endpoint that is a list", map[string]any{"token_endpoint": []string{"https://op.test/token"}}},
		{"M15 a case variant", map[string]any{"ISSUER": "https://evil.test"}},
		{"algorithms that are a number", map[string]any{"id_token_signing_alg_values_supported": 1}},
		{"a flag that is a string", map[string]any{"authorization_response_iss_parameter_supported": "true"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if m, err := parseMetadata(document("https://op.test", tc.change), "https://op.test", Endpoints{}); err == nil {
				t.Errorf("got %+v", m)
			}
		})
	}
	for name, data := range map[string]string{
		"M04 a captive portal": "<html>Welcome</html>",
		"M15 a duplicate":      `{"issuer":"https://op.test","issuer":"https://op.test"}`,
		"M20 a BOM":            "\ufeff" + string(document("https://op.test", nil)),
		"M19 deep nesting":     strings.Repeat("[", 100_000),
		"null":                 "null",
	} {
		if _, err := parseMetadata([]byte(data), "https://op.test", Endpoints{}); err == nil {
			t.Errorf("%s: got no error", name)
		}
	}
}

func TestM12M14MetadataCapabilities(t *testing.T) {
	m, err := parseMetadata(document("https://op.test", map[string]any{
		"id_token_signing_alg_values_supported":          []string{"none", "HS256", "ES256", "RS256", "ES256K", "PS512"},
		"token_endpoint_auth_methods_supported":          []string{"client_secret_post"},
		"authorization_response_iss_parameter_supported": true,
		"code_challenge_methods_supported":               []string{"plain"},
		"authorization_endpoint":                         "https://accounts.elsewhere.test/authorize", // M12: as Google does
	}), "https://op.test", Endpoints{})
	if err != nil {
		t.Fatal(err)
	}
	if want := []string{"RS256", "ES256", "PS512"}; !slices.Equal(m.IDTokenAlgorithms, want) {
		t.Errorf("algorithms: got %q, want %q", m.IDTokenAlgorithms, want)
	}
	if !m.IssuerInResponse || !m.PKCEWithoutS256 || !slices.Equal(m.TokenAuthMethods, []string{"client_secret_post"}) {
		t.Errorf("got %+v", m)
	}
	if m, _ = parseMetadata(document("https://op.test", nil), "https://op.test", Endpoints{}); m.PKCEWithoutS256 || m.TokenAuthMethods != nil {
		t.Errorf("silence: got %+v", m)
	}
}

// F06, F07: what discovery must not follow, and not read to the end.
func TestM03M08F06F07DiscoveryRefuses(t *testing.T) {
	elsewhere := start(t, provider.Config{})
	for _, tc := range []struct {
		name   string
		answer func(http.ResponseWriter, *http.Request) bool
		want   error
	}{
		{"M06 a document without end", func(w http.ResponseWriter, r *http.Request) bool {
			chunk := []byte(strings.Repeat(" ", 1<<16))
			for r.Context().Err() == nil {
				if _, err := w.Write(chunk); err != nil {
					break
				}
			}
			return true
		}, ErrInvalid},
		{"M08 a redirect to another origin", provider.Redirect(302, elsewhere.URL+"/.well-known/openid-configuration"), ErrMisconfigured},
		{"M08 a loop", provider.Redirect(307, "/.well-known/openid-configuration"), ErrMisconfigured},
		{"M03 not found", provider.Status(404, "text/html", "nothing here"), ErrMisconfigured},
		{"M03 an error", provider.Status(503, "text/plain", "busy"), ErrUnavailable},
		{"M03 too many requests", provider.Status(429, "text/plain", "slow down"), ErrUnavailable},
		{"M04 a captive portal", provider.Status(200, "text/html", "<html>"), ErrInvalid},
	} {
		t.Run(tc.name, func(t *testing.T) {
			op := start(t, provider.Config{})
			op.Misbehave(provider.Faults{Answer: map[string]func(http.ResponseWriter, *http.Request) bool{"metadata": tc.answer}})
			_, err := newClient(op).Provider.Metadata(t.Context())
			if !errors.Is(err, tc.want) {
				t.Errorf("got %v, want %v", err, tc.want)
			}
		})
	}
	if got := elsewhere.Requests("metadata"); len(got) != 0 {
		t.Errorf("a redirect was followed: %v", got)
	}
}

// roundTripper answers in the provider's place, under a fake clock.
type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// IDPS 42, A105: a provider that is down is asked again when someone needs
// it, at most every five seconds, by one request at a time; what was once
// learnt stays in use.
func TestIDPS42A105MetadataRetriesAndKeeps(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var calls atomic.Int32
		var down atomic.Bool
		down.Store(true)
		p := NewProvider(ProviderConfig{Issuer: "https://op.test", Transport: roundTripper(func(*http.Request) (*http.Response, error) {
			calls.Add(1)
			time.Sleep(time.Second)
			w := &recorder{header: http.Header{}}
			if down.Load() {
				return w.response(503, nil), nil
			}
			return w.response(200, document("https://op.test", nil)), nil
		})})
		ask := func(n int) (failed int32) {
			var wg sync.WaitGroup
			var failures atomic.Int32
			for range n {
				wg.Go(func() {
					if _, err := p.Metadata(t.Context()); err != nil {
						failures.Add(1)
					}
				})
			}
			wg.Wait()
			return failures.Load()
		}
		expect := func(when string, failed, wantFailed, wantCalls int32) {
			t.Helper()
			synctest.Wait()
			if failed != wantFailed || calls.Load() != wantCalls {
				t.Errorf("%s: got %d failures and %d calls in all, want %d and %d", when, failed, calls.Load(), wantFailed, wantCalls)
			}
		}
		expect("a hundred at once", ask(100), 100, 1)
		expect("at once again", ask(100), 100, 1)
		time.Sleep(RetryAfter)
		expect("five seconds later", ask(100), 100, 2)
		down.Store(false)
		time.Sleep(RetryAfter)
		expect("after it came back", ask(100), 0, 3)
		time.Sleep(metadataLifetime)
		down.Store(true)
		expect("down again, an hour later", ask(100), 0, 4) // renewed in the background
		time.Sleep(2 * time.Second)
		expect("still down", ask(100), 0, 4)
		time.Sleep(RetryAfter)
		expect("still down, and tried again", ask(100), 0, 5)
		time.Sleep(2 * time.Second)
	})
}

// A client that goes away does not stop the fetch that others wait for.
func TestMetadataSurvivesItsCaller(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := NewProvider(ProviderConfig{Issuer: "https://op.test", Transport: roundTripper(func(r *http.Request) (*http.Response, error) {
			select {
			case <-time.After(time.Second):
				return (&recorder{header: http.Header{}}).response(200, document("https://op.test", nil)), nil
			case <-r.Context().Done():
				return nil, r.Context().Err()
			}
		})})
		ctx, cancel := contextWithTimeout(t, 100*time.Millisecond)
		defer cancel()
		if _, err := p.Metadata(ctx); err == nil {
			t.Error("the impatient caller: got no error")
		}
		if _, err := p.Metadata(t.Context()); err != nil {
			t.Errorf("the patient caller: %v", err)
		}
	})
}

// M07: a call ends when its time is up, also in the middle of the body.
func TestM07SlowAnswersEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := NewProvider(ProviderConfig{Issuer: "https://op.test", Timeout: 3 * time.Second, Transport: roundTripper(func(r *http.Request) (*http.Response, error) {
			w := &recorder{header: http.Header{}}
			resp := w.response(200, nil)
			resp.Body = slowBody{r.Context().Done()}
			return resp, nil
		})})
		begin := time.Now()
		_, err := p.Metadata(t.Context())
		if !errors.Is(err, ErrUnavailable) || time.Since(begin) != 3*time.Second {
			t.Errorf("got %v after %v", err, time.Since(begin))
		}
	})
}

// FuzzDiscovery: whatever is accepted has endpoints that may be called.
func FuzzDiscovery(f *testing.F) {
	f.Add(document("https://op.test", nil))
	f.Add(document("https://op.test/", map[string]any{"token_endpoint": "http://op.test"}))
	f.Add([]byte(`{"issuer":"https://op.test","authorization_endpoint":"https://op.test/#","token_endpoint":"https:","jwks_uri":"//x"}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		m, err := parseMetadata(data, "https://op.test", Endpoints{})
		if err != nil {
			return
		}
		for _, endpoint := range []string{m.AuthorizationEndpoint, m.TokenEndpoint, m.JWKSURI} {
			if !strings.HasPrefix(strings.ToLower(endpoint), "https://") || strings.Contains(endpoint, "#") {
				t.Fatalf("accepted endpoint %q", endpoint)
			}
		}
		for _, alg := range m.IDTokenAlgorithms {
			if !slices.Contains(asymmetric, alg) {
				t.Fatalf("accepted algorithm %q", alg)
			}
		}
	})
}
