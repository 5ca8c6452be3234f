package rp

import (
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/pkce-auth/caddy-pkce-auth/test/provider"
)

const redirectURI = "https://app.example.com/oauth2/callback"

// authorize walks a browser through the authorization endpoint, and returns
// what the client needs to redeem the code.
func authorize(t testing.TB, c *Client) (Secret, AuthRequest) {
	t.Helper()
	r := AuthRequest{Transaction: NewTransaction(), RedirectURI: redirectURI, State: "the-state"}
	target, err := c.AuthorizationURL(metadata(t, c), r)
	if err != nil {
		t.Fatal(err)
	}
	browser := &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	resp, err := browser.Get(target)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	location, err := resp.Location()
	if err != nil {
		t.Fatalf("status %d, no redirect: %v", resp.StatusCode, err)
	}
	response, err := ParseAuthResponse(location.RawQuery)
	if err != nil || response.Error != nil {
		t.Fatalf("authorization response: %v, %v", err, response)
	}
	if response.State != "the-state" {
		t.Fatalf("state: got %q", response.State)
	}
	if err := c.CheckIssuer(metadata(t, c), response); err != nil {
		t.Fatal(err)
	}
	return response.Code, r
}

func exchange(t testing.TB, c *Client) (*Grant, AuthRequest, error) {
	t.Helper()
	code, r := authorize(t, c)
	grant, err := c.Exchange(t.Context(), metadata(t, c), code, r)
	return grant, r, err
}

// IDPS 13: the token request of a public client, member by member.
func TestIDPS06IDPS13PublicClient(t *testing.T) {
	op := start(t, provider.Config{})
	c := newClient(op)
	code, r := authorize(t, c)
	grant, err := c.Exchange(t.Context(), metadata(t, c), code, r)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.HasPrefix(grant.AccessToken.Reveal(), "opaque-") || grant.IDToken.Empty() || !grant.RefreshToken.Empty() {
		t.Errorf("grant: got %+v", grant)
	}
	if until := time.Until(grant.Expiry); until < 59*time.Minute || until > time.Hour {
		t.Errorf("the access token lives for %v, want an hour", until)
	}
	requests := op.Requests("token")
	if len(requests) != 1 {
		t.Fatalf("got %d token requests, want 1", len(requests))
	}
	got := requests[0]
	want := url.Values{
		"grant_type": {"authorization_code"}, "code": {code.Reveal()}, "redirect_uri": {redirectURI},
		"client_id": {"public"}, "code_verifier": {r.Verifier.Reveal()},
	}
	if got.Form.Encode() != want.Encode() {
		t.Errorf("got  %s\nwant %s", got.Form.Encode(), want.Encode())
	}
	if got.Header.Get("Authorization") != "" || got.Header.Get("Content-Type") != "application/x-www-form-urlencoded" || got.Method != http.MethodPost {
		t.Errorf("got %s with %v", got.Method, got.Header)
	}
}

// IDPS 20 (basic and post), R03, R04: one method, and a secret with a colon,
// a percent sign, a plus sign and an accent arrives as it is.
func TestIDPS20R03R04ConfidentialClients(t *testing.T) {
	const secret = "s3cr:t%+é"
	for _, tc := range []struct {
		name, client string
		auth         AuthMethod
		advertised   []string // nil: not at all
		basic        bool
	}{
		{"basic, configured", "confidential", AuthBasic, nil, true},
		{"post, configured", "post", AuthPost, nil, false},
		{"auto prefers basic", "confidential", AuthAuto, []string{"client_secret_post", "client_secret_basic"}, true},
		{"auto takes post where basic is not offered", "post", "", []string{"private_key_jwt", "client_secret_post"}, false},
		{"auto takes silence for basic", "confidential", "", nil, true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			op := start(t, provider.Config{})
			op.Misbehave(provider.Faults{Metadata: func(doc map[string]any) {
				delete(doc, "token_endpoint_auth_methods_supported")
				if tc.advertised != nil {
					doc["token_endpoint_auth_methods_supported"] = tc.advertised
				}
			}})
			c := newClient(op)
			c.ClientID, c.Auth = tc.client, tc.auth
			c.Secret = func() (Secret, error) { return NewSecret(secret), nil }
			if _, _, err := exchange(t, c); err != nil {
				t.Fatal(err)
			}
			requests := op.Requests("token")
			if len(requests) != 1 {
				t.Fatalf("got %d token requests, want 1", len(requests))
			}
			wantHeader := ""
			if tc.basic {
				wantHeader = "Basic " + base64.StdEncoding.EncodeToString([]byte(tc.client+":s3cr%3At%25%2B%C3%A9"))
			}
			if got := requests[0].Header.Get("Authorization"); got != wantHeader {
				t.Errorf("Authorization: got %q, want %q", got, wantHeader)
			}
			if got := requests[0].Form.Has("client_secret"); got == tc.basic {
				t.Errorf("client_secret in the body: %v", got)
			}
		})
	}
	c := &Client{ClientID: "id", Secret: func() (Secret, error) { return NewSecret("x"), nil }}
	if _, err := c.authMethod(&Metadata{TokenAuthMethods: []string{"tls_client_auth"}}); !errors.Is(err, ErrMisconfigured) {
		t.Errorf("no method in common: got %v", err)
	}
	c.Secret = func() (Secret, error) { return Secret{}, errors.New("file is gone") }
	if err := c.authenticate(&Metadata{}, http.Header{}, url.Values{}); !errors.Is(err, ErrMisconfigured) {
		t.Errorf("unreadable secret: got %v", err)
	}
}

// F09, R03: an error is not an invitation to try another way with the code.
func TestR03F09OneRequestOnError(t *testing.T) {
	op := start(t, provider.Config{})
	c := newClient(op)
	c.ClientID = "confidential" // registered with a secret that we do not send
	_, _, err := exchange(t, c)
	oauthErr, ok := errors.AsType[*OAuthError](err)
	if !ok || oauthErr.Code != "invalid_client" || !errors.Is(err, ErrMisconfigured) {
		t.Errorf("got %v, want invalid_client, a misconfiguration", err)
	}
	if got := len(op.Requests("token")); got != 1 {
		t.Errorf("got %d token requests, want 1", got)
	}
}

// F08, A108: the token request is not carried to where a redirect points.
func TestM59F08A108NoRedirectIsFollowed(t *testing.T) {
	for _, status := range []int{301, 302, 303, 307, 308} {
		t.Run(fmt.Sprint(status), func(t *testing.T) {
			thief := start(t, provider.Config{})
			op := start(t, provider.Config{})
			op.Misbehave(provider.Faults{Answer: map[string]func(http.ResponseWriter, *http.Request) bool{
				"token": provider.Redirect(status, thief.URL+"/token"),
			}})
			_, _, err := exchange(t, newClient(op))
			if !errors.Is(err, ErrMisconfigured) {
				t.Errorf("got %v, want a misconfiguration", err)
			}
			if got := thief.Requests("token"); len(got) != 0 {
				t.Errorf("code and verifier went to %v", got)
			}
		})
	}
}

// F10: what the token endpoint says besides error and error_description goes
// nowhere, and neither does what we sent.
func TestF10ErrorsHoldNoSecrets(t *testing.T) {
	for name, answer := range map[string]func(http.ResponseWriter, *http.Request) bool{
		"JSON": func(w http.ResponseWriter, r *http.Request) bool {
			return provider.Status(400, "application/json", fmt.Sprintf(`{"error":"invalid_grant","error_description":"no","echo":%q}`, r.PostForm.Encode()))(w, r)
		},
		"text": func(w http.ResponseWriter, r *http.Request) bool {
			return provider.Status(500, "text/plain", r.PostForm.Encode())(w, r)
		},
		"a cut connection": func(http.ResponseWriter, *http.Request) bool { panic(http.ErrAbortHandler) },
		"no HTTP": func(w http.ResponseWriter, r *http.Request) bool {
			return answerRaw(w, r.PostForm.Encode()+"\r\n\r\n")
		},
		"a header that is none": func(w http.ResponseWriter, r *http.Request) bool {
			return answerRaw(w, "HTTP/1.1 200 OK\r\n"+r.PostForm.Encode()+"\r\n\r\n")
		},
		"a status that is none": func(w http.ResponseWriter, r *http.Request) bool {
			return answerRaw(w, "HTTP/1.1 "+r.PostForm.Encode()+"\r\n\r\n")
		},
		"more than it announced": func(w http.ResponseWriter, r *http.Request) bool {
			return answerRaw(w, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"+r.PostForm.Encode())
		},
	} {
		t.Run(name, func(t *testing.T) {
			op := start(t, provider.Config{})
			op.Misbehave(provider.Faults{Answer: map[string]func(http.ResponseWriter, *http.Request) bool{"token": answer}})
			code, r := authorize(t, newClient(op))
			c := newClient(op)
			standard := standardLog(t)
			_, err := c.Exchange(t.Context(), metadata(t, c), code, r)
			if err == nil {
				t.Fatal("got no error")
			}
			time.Sleep(50 * time.Millisecond) // the time in which net/http would write
			for _, text := range []string{err.Error(), fmt.Sprintf("%+v", err), fmt.Sprintf("%#v", err), standard()} {
				if containsAny(text, code.Reveal(), r.Verifier.Reveal(), "echo", "code=") {
					t.Errorf("the error holds a secret: %s", text)
				}
			}
			if got := len(op.Requests("token")); got != 1 {
				t.Errorf("got %d token requests, want 1", got)
			}
		})
	}
}

// F05, F11, M50 to M64: token responses.
func TestR05M50M64F05F11TokenResponses(t *testing.T) {
	sent := time.Unix(1_700_000_000, 0)
	for _, tc := range []struct {
		name, body string
		lifetime   time.Duration // 0: refused
	}{
		{"as the RFC has it", `{"access_token":"a","token_type":"Bearer","expires_in":60}`, time.Minute},
		{"M56 a type in lower case", `{"access_token":"a","token_type":"bearer","expires_in":60}`, time.Minute},
		{"M57 no lifetime", `{"access_token":"a","token_type":"Bearer"}`, DefaultTokenLifetime},
		{"M57 a lifetime in quotes", `{"access_token":"a","token_type":"Bearer","expires_in":"3600"}`, time.Hour},
		{"M57 a lifetime of zero", `{"access_token":"a","token_type":"Bearer","expires_in":0}`, 0},
		{"M57 a negative lifetime", `{"access_token":"a","token_type":"Bearer","expires_in":-1}`, 0},
		{"M57 a lifetime beyond all bounds", `{"access_token":"a","token_type":"Bearer","expires_in":1e18}`, 0},
		{"M57 a lifetime with a fraction", `{"access_token":"a","token_type":"Bearer","expires_in":1.5}`, 0},
		{"M57 a lifetime that is an object", `{"access_token":"a","token_type":"Bearer","expires_in":{}}`, 0},
		{"unknown members", `{"access_token":"a","token_type":"Bearer","expires_in":60,"x":{"y":[1]}}`, time.Minute},
		{"M55 no access token", `{"token_type":"Bearer"}`, 0},
		{"M55 an empty access token", `{"access_token":"","token_type":"Bearer"}`, 0},
		{"M55 an ID token that is no string", `{"access_token":"a","token_type":"Bearer","id_token":1}`, 0},
		{"M56 no type", `{"access_token":"a"}`, 0},
		{"M56 another type", `{"access_token":"a","token_type":"DPoP"}`, 0},
		{"M56 a type with a line break", `{"access_token":"a","token_type":"Bearer\r\n"}`, 0},
		{"M60 a line break in the access token", `{"access_token":"a\r\nX: y","token_type":"Bearer"}`, 0},
		{"M60 a space in the access token", `{"access_token":"a b","token_type":"Bearer"}`, 0},
		{"M60 a NUL in the refresh token", `{"access_token":"a","refresh_token":"\u0000","token_type":"Bearer"}`, 0},
		{"M53 an error with status 200", `{"error":"invalid_grant","access_token":"a","token_type":"Bearer"}`, 0},
		{"M54 a form", `access_token=a&token_type=Bearer`, 0},
		{"M54 an array", `[]`, 0},
		{"M54 null", `null`, 0},
		{"M51 half an object", `{"access_token":"a","token_ty`, 0},
		{"M64 a duplicate", `{"access_token":"a","access_token":"b","token_type":"Bearer"}`, 0},
		{"F05 a case variant", `{"access_token":"a","ACCESS_TOKEN":"b","token_type":"Bearer"}`, 0},
	} {
		t.Run(tc.name, func(t *testing.T) {
			g, err := parseGrant([]byte(tc.body), sent)
			if tc.lifetime == 0 {
				if err == nil {
					t.Fatalf("got %+v", g)
				}
				return
			}
			if err != nil || !g.Expiry.Equal(sent.Add(tc.lifetime)) || g.AccessToken.Reveal() != "a" {
				t.Errorf("got %+v, %v", g, err)
			}
		})
	}
}

// R16: resources go with the code, too; IDPS 11: without openid there is no
// ID token, and nobody misses it.
func TestIDPS11R16ResourcesWithTheCode(t *testing.T) {
	op := start(t, provider.Config{})
	c := newClient(op)
	c.Scopes, c.Resources = []string{"read", "write"}, []string{"https://a.test/", "https://b.test/"}
	grant, _, err := exchange(t, c)
	if err != nil || !grant.IDToken.Empty() {
		t.Fatalf("got %+v, %v", grant, err)
	}
	if got := op.Requests("token")[0].Form["resource"]; len(got) != 2 {
		t.Errorf("resource: got %q, want both", got)
	}
}

// FuzzTokenResponse: whatever is accepted has a token that fits a header, and
// an end.
func FuzzTokenResponse(f *testing.F) {
	for _, seed := range []string{
		`{"access_token":"a","token_type":"Bearer","expires_in":60,"scope":"x","refresh_token":"r","id_token":"i"}`,
		`{"access_token":"a","token_type":"Bearer","expires_in":"1e3"}`, `{"error":"x"}`, `{"access_token":"a\n"}`,
	} {
		f.Add([]byte(seed))
	}
	sent := time.Unix(1_700_000_000, 0)
	f.Fuzz(func(t *testing.T, body []byte) {
		g, err := parseGrant(body, sent)
		if err != nil {
			return
		}
		for _, token := range []Secret{g.AccessToken, g.RefreshToken} {
			if strings.ContainsFunc(token.Reveal(), func(r rune) bool { return r <= ' ' || r > '~' }) {
				t.Fatalf("accepted token %q", token.Reveal())
			}
		}
		if g.AccessToken.Empty() || !g.Expiry.After(sent) || g.Expiry.After(sent.Add(maxTokenLifetime)) {
			t.Fatalf("accepted %+v", g)
		}
	})
}

// Our idea of a token's end is not later than the date in the token itself,
// which is cut to whole seconds.
func TestTokenExpiryIsNotLate(t *testing.T) {
	for _, sent := range []time.Time{time.Unix(1_800_000_000, 0), time.Unix(1_800_000_000, 999_999_999)} {
		grant, err := parseGrant([]byte(`{"access_token":"x","token_type":"Bearer","expires_in":3}`), sent)
		if err != nil || grant.Expiry.After(time.Unix(sent.Unix()+3, 0)) || grant.Expiry.Before(sent.Add(2*time.Second)) {
			t.Errorf("sent at %s: good until %s, %v", sent, grant.Expiry, err)
		}
	}
}
