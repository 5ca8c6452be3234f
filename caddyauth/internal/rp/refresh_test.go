package rp

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pkce-auth/caddy-pkce-auth/test/provider"
)

// loggedIn is a client with a grant that has a refresh token.
func loggedIn(t *testing.T) (*provider.Provider, *Client, *Grant) {
	t.Helper()
	op := start(t, provider.Config{})
	c := newClient(op)
	c.Scopes = append(c.Scopes, "offline_access")
	grant, _, err := exchange(t, c)
	if err != nil {
		t.Fatal(err)
	}
	if grant.RefreshToken.Empty() {
		t.Fatal("no refresh token came")
	}
	return op, c, grant
}

// M100, M102: the refresh token that came takes the place of the old one;
// without one, the old stays. One request, of exactly these parameters.
func TestIDPS26M100M102Refresh(t *testing.T) {
	op, c, grant := loggedIn(t)
	c.Resources = []string{"https://api.test/"} // not sent, unless resource_on_refresh says so
	renewed, err := c.Refresh(t.Context(), metadata(t, c), Renewal{Token: grant.RefreshToken})
	if err != nil {
		t.Fatal(err)
	}
	if renewed.RefreshToken.Reveal() == grant.RefreshToken.Reveal() || renewed.AccessToken.Reveal() == grant.AccessToken.Reveal() || renewed.IDToken.Empty() {
		t.Error("the tokens are the old ones")
	}
	requests := op.Requests("token")
	want := url.Values{"grant_type": {"refresh_token"}, "refresh_token": {grant.RefreshToken.Reveal()}, "client_id": {"public"}}
	if got := requests[len(requests)-1].Form; len(requests) != 2 || got.Encode() != want.Encode() {
		t.Errorf("got %d requests, the last %s, want %s", len(requests)-1, got.Encode(), want.Encode())
	}
	op.Misbehave(provider.Faults{KeepRefreshTokens: true})
	op.Change(func(cfg *provider.Config) { cfg.APIs = c.Resources })
	c.ResourceOnRefresh = new(true)
	kept, err := c.Refresh(t.Context(), metadata(t, c), Renewal{Token: renewed.RefreshToken})
	if err != nil || kept.RefreshToken.Reveal() != renewed.RefreshToken.Reveal() {
		t.Errorf("without rotation: %v", err)
	}
	requests = op.Requests("token")
	if got := requests[len(requests)-1].Form["resource"]; !slices.Equal(got, c.Resources) {
		t.Errorf("resource: got %q", got)
	}
}

// What the token endpoint can say of a refresh, and what it means: that the
// grant is over, that it is to be tried again, or that the operator must act.
func TestIDPS27M53M103M105RefreshErrors(t *testing.T) {
	const jsonType = "application/json"
	for _, tc := range []struct {
		name   string
		status int
		header http.Header
		body   string
		is     error // exactly one of the three
		wait   time.Duration
	}{
		{"invalid_grant", 400, nil, `{"error":"invalid_grant"}`, ErrGrantOver, 0},
		{"invalid_grant, as Auth0 says it", 403, nil, `{"error":"invalid_grant","error_description":"Unknown or invalid refresh token."}`, ErrGrantOver, 0},
		{"invalid_request, as Dex says it", 400, nil, `{"error":"invalid_request"}`, ErrGrantOver, 0},
		{"nothing, as Glewlwyd says it", 400, nil, ``, ErrGrantOver, 0},
		{"mfa_required", 403, nil, `{"error":"mfa_required","mfa_token":"x"}`, ErrGrantOver, 0},
		{"interaction_required", 400, nil, `{"error":"interaction_required"}`, ErrGrantOver, 0},
		{"access_denied", 403, nil, `{"error":"access_denied"}`, ErrGrantOver, 0},
		{"unauthorized_client", 400, nil, `{"error":"unauthorized_client"}`, ErrMisconfigured, 0},
		{"unauthorized_client, as Keycloak says it of a wrong secret", 401, nil, `{"error":"unauthorized_client"}`, ErrMisconfigured, 0},
		{"unsupported_grant_type", 400, nil, `{"error":"unsupported_grant_type"}`, ErrMisconfigured, 0},
		{"a wall of HTML", 403, nil, `<html>Attention Required!`, ErrMisconfigured, 0},
		{"a gateway's 404 in JSON", 404, nil, `{"status":404,"error":"Not Found"}`, nil, 0},
		{"invalid_grant with status 200", 200, nil, `{"error":"invalid_grant"}`, ErrGrantOver, 0},
		{"access_denied, as Auth0 says it of a wrong secret", 401, nil, `{"error":"access_denied","error_description":"Unauthorized"}`, nil, 0},
		{"invalid_client", 401, nil, `{"error":"invalid_client"}`, ErrMisconfigured, 0},
		{"not found", 404, nil, ``, ErrMisconfigured, 0},
		{"a redirect", 302, nil, ``, ErrMisconfigured, 0},
		{"a server error", 500, nil, `oops`, ErrUnavailable, 0},
		{"a server error that names invalid_grant", 500, nil, `{"error":"invalid_grant"}`, ErrUnavailable, 0},
		{"a server error as Spring has it", 503, http.Header{"Retry-After": {"60"}}, `{"status":503,"error":"Service Unavailable"}`, ErrUnavailable, time.Minute},
		{"temporarily unavailable", 400, nil, `{"error":"temporarily_unavailable"}`, ErrUnavailable, 0},
		{"bad gateway", 502, http.Header{"Retry-After": {"7"}}, `<html>`, ErrUnavailable, 7 * time.Second},
		{"too many requests", 429, http.Header{"Retry-After": {"30"}}, `{"error":"access_denied"}`, ErrUnavailable, 30 * time.Second},
		{"too many requests, for a day", 429, http.Header{"Retry-After": {"86400"}}, ``, ErrUnavailable, maxRetryAfter},
		{"too many requests, in the past", 429, http.Header{"Retry-After": {"-1"}}, ``, ErrUnavailable, 0},
		{"not JSON", 200, nil, `<html>`, ErrInvalid, 0},
	} {
		t.Run(tc.name, func(t *testing.T) {
			op, c, grant := loggedIn(t)
			op.Misbehave(provider.Faults{Answer: map[string]func(http.ResponseWriter, *http.Request) bool{
				"token": func(w http.ResponseWriter, r *http.Request) bool {
					for name := range tc.header {
						w.Header().Set(name, tc.header.Get(name))
					}
					return provider.Status(tc.status, jsonType, tc.body)(w, r)
				},
			}})
			_, err := c.Refresh(t.Context(), metadata(t, c), Renewal{Token: grant.RefreshToken})
			if err == nil {
				t.Fatal("no error")
			}
			for _, kind := range []error{ErrGrantOver, ErrUnavailable} {
				if errors.Is(err, kind) != (tc.is == kind) {
					t.Errorf("%v: is %v: %v", err, kind, errors.Is(err, kind))
				}
			}
			if tc.is != nil && !errors.Is(err, tc.is) {
				t.Errorf("%v is no %v", err, tc.is)
			}
			if refused, ok := errors.AsType[*EndpointError](err); ok && refused.RetryAfter != tc.wait {
				t.Errorf("to wait: got %s, want %s", refused.RetryAfter, tc.wait)
			}
			if got := len(op.Requests("token")); got != 2 { // one of them the login's
				t.Errorf("got %d requests", got-1)
			}
		})
	}
}

// Retry-After comes in two forms, and X-RateLimit-Reset is a date.
func TestRetryAfter(t *testing.T) {
	now := time.Unix(1_800_000_000, 0)
	for _, tc := range []struct {
		header http.Header
		want   time.Duration
	}{
		{http.Header{}, 0},
		{http.Header{"Retry-After": {"12"}}, 12 * time.Second},
		{http.Header{"Retry-After": {now.Add(20 * time.Second).UTC().Format(http.TimeFormat)}}, 20 * time.Second},
		{http.Header{"Retry-After": {"soon"}}, 0},
		{http.Header{"Retry-After": {"99999999999999999999"}}, 0},
		{http.Header{"X-Ratelimit-Reset": {"1800000009"}}, 9 * time.Second},
		{http.Header{"X-Ratelimit-Reset": {"9223372036854775807"}}, 0},
		{http.Header{"X-Ratelimit-Reset": {"1"}}, 0},
		{http.Header{"X-Ratelimit-Reset": {"253402300800"}}, 0},
	} {
		if got := retryAfter(429, tc.header, now); got != tc.want {
			t.Errorf("%v: got %s, want %s", tc.header, got, tc.want)
		}
	}
}

// Auth0 says with every answer when its limits are reset.
func TestRateLimitResetIsForTooManyRequests(t *testing.T) {
	if got := retryAfter(500, http.Header{"X-Ratelimit-Reset": {"1800000009"}}, time.Unix(1_800_000_000, 0)); got != 0 {
		t.Errorf("with a server error: got %s", got)
	}
}

// M107, A81: the answer is lost. The same refresh token goes out once more, at
// once; if that is lost, too, the provider counts as down.
func TestM107A81LostAnswer(t *testing.T) {
	for name, lost := range map[string]int{"once": 1, "twice": 2} {
		t.Run(name, func(t *testing.T) {
			op, c, grant := loggedIn(t)
			cut := 0
			op.Misbehave(provider.Faults{Answer: map[string]func(http.ResponseWriter, *http.Request) bool{
				"token": func(w http.ResponseWriter, _ *http.Request) bool {
					if cut++; cut > lost {
						return false
					}
					return answerRaw(w, "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 500\r\nConnection: close\r\n\r\n{\"access_")
				},
			}})
			_, err := c.Refresh(t.Context(), metadata(t, c), Renewal{Token: grant.RefreshToken})
			if lost == 1 && err != nil || lost == 2 && !errors.Is(err, ErrUnavailable) {
				t.Errorf("got %v", err)
			}
			if got := len(op.Requests("token")) - 1; got != 2 {
				t.Errorf("got %d requests, want 2", got)
			}
		})
	}
}

// A provider that cannot be reached is asked once, and so is a slow one.
func TestRefreshOfAProviderThatIsDown(t *testing.T) {
	op, c, grant := loggedIn(t)
	m := metadata(t, c)
	op.Misbehave(provider.Faults{Answer: map[string]func(http.ResponseWriter, *http.Request) bool{
		"token": func(_ http.ResponseWriter, r *http.Request) bool { <-r.Context().Done(); return true },
	}})
	ctx, cancel := contextWithTimeout(t, 100*time.Millisecond)
	defer cancel()
	if _, err := c.Refresh(ctx, m, Renewal{Token: grant.RefreshToken}); !errors.Is(err, ErrUnavailable) || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("slow: got %v", err)
	}
	if got := len(op.Requests("token")) - 1; got != 1 {
		t.Errorf("got %d requests, want 1", got)
	}
	_ = op.Close()
	if _, err := c.Refresh(t.Context(), m, Renewal{Token: grant.RefreshToken}); !errors.Is(err, ErrUnavailable) || errors.Is(err, ErrGrantOver) {
		t.Errorf("down: got %v", err)
	}
}

// M106, IDPS 28: an ID token that came with a refresh passes the checklist
// like any other, is about the same user, and needs no nonce; if it has one,
// it is the login's.
func TestIDPS28M106RefreshedIDToken(t *testing.T) {
	b := newBench(t)
	b.client.MaxAge, b.client.ACRValues = time.Minute, []string{"mfa"} // the login's business, not the refresh's
	login, err := b.client.VerifyIDToken(t.Context(), metadata(t, b.client), NewSecret(b.op.Sign(nil, b.claims(map[string]any{
		"auth_time": b.now.Unix(), "acr": "mfa",
	}))), Expected{Nonce: NewSecret("the-nonce")})
	if err != nil {
		t.Fatal(err)
	}
	b.now = b.now.Add(time.Hour)
	for _, tc := range []struct {
		name   string
		change map[string]any
		check  string // that must fail; empty: accepted
	}{
		{"without a nonce", map[string]any{"nonce": nil}, ""},
		{"with the login's nonce", nil, ""},
		{"with another nonce", map[string]any{"nonce": "another"}, "nonce"},
		{"another user", map[string]any{"sub": "mallory"}, "sub"},
		{"another issuer", map[string]any{"iss": "https://evil.test"}, "iss"},
		{"another audience", map[string]any{"aud": "another"}, "aud"},
		{"another party", map[string]any{"azp": "another"}, "azp"},
		{"expired", map[string]any{"exp": b.now.Add(-time.Hour).Unix()}, "exp"},
		{"issued before the login", map[string]any{"iat": b.now.Add(-2 * time.Hour).Unix()}, "iat"},
		{"for another access token", map[string]any{"at_hash": "AAAAAAAAAAAAAAAAAAAAAA"}, "at_hash"},
	} {
		_, err := b.client.VerifyIDToken(t.Context(), metadata(t, b.client), NewSecret(b.op.Sign(nil, b.claims(tc.change))), Expected{
			AccessToken: NewSecret("opaque-token"), Previous: login,
		})
		checkErr, failed := errors.AsType[*CheckError](err)
		if got := failed; got != (tc.check != "") || failed && checkErr.Check != tc.check {
			t.Errorf("%s: got %v, want check %q to fail", tc.name, err, tc.check)
		}
	}
	b.op.RotateKeys()
	_ = b.op.Close()
	_, err = b.client.VerifyIDToken(t.Context(), metadata(t, b.client), NewSecret(b.op.Sign(nil, b.claims(nil))), Expected{Previous: login})
	if !errors.Is(err, ErrUnavailable) || errors.Is(err, ErrInvalid) {
		t.Errorf("without the keys to check it with: got %v", err)
	}
}

// A57: some providers quote the token that they refuse. It is taken out of
// their words before anybody sees them.
func TestA57RefusalsQuoteNoSecret(t *testing.T) {
	op, c, grant := loggedIn(t)
	op.Misbehave(provider.Faults{Answer: map[string]func(http.ResponseWriter, *http.Request) bool{
		"token": func(w http.ResponseWriter, r *http.Request) bool {
			token := r.PostForm.Get("refresh_token")
			return provider.Status(400, "application/json", `{"error":"invalid_grant","error_description":"Wrong client for this refresh token: `+token+`, or `+url.QueryEscape(token)+`"}`)(w, r)
		},
	}})
	_, err := c.Refresh(t.Context(), metadata(t, c), Renewal{Token: grant.RefreshToken})
	if !errors.Is(err, ErrGrantOver) || strings.Contains(err.Error(), grant.RefreshToken.Reveal()) || !strings.Contains(err.Error(), "Wrong client for this refresh token: …, or …") {
		t.Errorf("got %v", err)
	}
}

// M107, M151: an answer that is lost within HTTP/2 is lost, too.
func TestM107M151LostAnswerOverHTTP2(t *testing.T) {
	asked := 0
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if asked++; asked == 1 {
			w.Header().Set("Content-Length", "500")
			_, _ = io.WriteString(w, `{"access_`)
			w.(http.Flusher).Flush()
			panic(http.ErrAbortHandler)
		}
		_, _ = io.WriteString(w, `{"access_token":"a","token_type":"Bearer"}`)
	}))
	server.EnableHTTP2 = true
	server.StartTLS()
	defer server.Close()
	transport := NewTransport()
	defer transport.CloseIdleConnections()
	transport.TLSClientConfig.RootCAs = server.Client().Transport.(*http.Transport).TLSClientConfig.RootCAs
	c := &Client{Provider: NewProvider(ProviderConfig{Issuer: server.URL, Transport: transport}), ClientID: "x"}
	if _, err := c.Refresh(t.Context(), &Metadata{Endpoints: Endpoints{TokenEndpoint: server.URL}}, Renewal{Token: NewSecret("refresh-token")}); err != nil || asked != 2 {
		t.Errorf("after %d requests: %v", asked, err)
	}
}

// M107: an answer is lost, too, when the connection is closed or reset before
// its first byte.
func TestM107AnswersLostWhole(t *testing.T) {
	for name, linger := range map[string]int{"closed": -1, "reset": 0} {
		t.Run(name, func(t *testing.T) {
			op, c, grant := loggedIn(t)
			n := 0
			op.Misbehave(provider.Faults{Answer: map[string]func(http.ResponseWriter, *http.Request) bool{
				"token": func(w http.ResponseWriter, _ *http.Request) bool {
					if n++; n > 1 {
						return false
					}
					conn, _, err := http.NewResponseController(w).Hijack()
					if err != nil {
						t.Error(err)
						return true
					}
					_ = conn.(*net.TCPConn).SetLinger(linger)
					_ = conn.Close()
					return true
				},
			}})
			if _, err := c.Refresh(t.Context(), metadata(t, c), Renewal{Token: grant.RefreshToken}); err != nil || n != 2 {
				t.Errorf("after %d requests: %v", n, err)
			}
		})
	}
}

// A57: neither the error code nor the URL-encoded form quotes a token.
func TestA57QuotesInEveryForm(t *testing.T) {
	_, c, _ := loggedIn(t)
	token := "tok/en+with=signs"
	for _, body := range []string{
		`{"error":"invalid_grant","error_description":"not ` + url.QueryEscape(token) + `"}`,
		`{"error":"bad ` + token + `"}`,
	} {
		_, err := c.grant(&response{status: 400, body: []byte(body)}, url.Values{"refresh_token": {token}}, time.Now())
		if err == nil || strings.Contains(err.Error(), token) || strings.Contains(err.Error(), url.QueryEscape(token)) {
			t.Errorf("%s: got %v", body, err)
		}
	}
}

// IDPS 27: every code that says "the user must be seen" ends the grant.
func TestIDPS27OverCodes(t *testing.T) {
	for _, code := range []string{
		"invalid_grant", "invalid_request", "access_denied", "mfa_required",
		"login_required", "consent_required", "interaction_required", "account_selection_required",
	} {
		if err := grantOver(&EndpointError{Status: 400, Err: newOAuthError(code, "")}); !errors.Is(err, ErrGrantOver) {
			t.Errorf("%s: got %v", code, err)
		}
	}
}

// A57: only secrets are taken out of a provider's words, and that of
// client_secret_basic is one.
func TestA57WordsOfTheProtocolAreNoSecrets(t *testing.T) {
	op := start(t, provider.Config{})
	c := newClient(op)
	m := metadata(t, c)
	op.Misbehave(provider.Faults{Answer: map[string]func(http.ResponseWriter, *http.Request) bool{
		"token": provider.Status(401, "application/json", `{"error":"invalid_client","error_description":"the refresh_token is not for this client"}`),
	}})
	c.ClientID = "client"
	_, err := c.Refresh(t.Context(), m, Renewal{Token: NewSecret("r-123456")})
	if !errors.Is(err, ErrMisconfigured) || !strings.Contains(err.Error(), "the refresh_token is not for this client") {
		t.Errorf("got %v", err)
	}
	secret := NewSecret("s3cret-of-the-client")
	c.Secret = func() (Secret, error) { return secret, nil }
	c.Auth = AuthBasic
	op.Misbehave(provider.Faults{Answer: map[string]func(http.ResponseWriter, *http.Request) bool{
		"token": provider.Status(401, "application/json", `{"error":"invalid_client","error_description":"wrong secret s3cret-of-the-client"}`),
	}})
	if _, err := c.Refresh(t.Context(), m, Renewal{Token: NewSecret("r-123456")}); strings.Contains(err.Error(), secret.Reveal()) {
		t.Errorf("got %v", err)
	}
}
