package flows

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/pkce-auth/caddy-pkce-auth/test/provider"
)

type endpointAnswers = map[string]func(http.ResponseWriter, *http.Request) bool

// honest is the metadata document of the provider.
func (w *world) honest() []byte {
	doc, err := json.Marshal(map[string]any{
		"issuer": w.op.URL, "authorization_endpoint": w.op.URL + "/authorize", "token_endpoint": w.op.URL + "/token", "jwks_uri": w.op.URL + "/keys",
		"response_types_supported": []string{"code"}, "subject_types_supported": []string{"public"},
	})
	if err != nil {
		w.t.Fatal(err)
	}
	return doc
}

// gzipBomb is a megabyte of compressed zeros, a gigabyte when it is inflated.
func gzipBomb() []byte {
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	zeros := make([]byte, 1<<20)
	for range 64 {
		_, _ = z.Write(zeros)
	}
	_ = z.Close()
	return b.Bytes()
}

// What a provider can do wrong at login, one row each; the rest of the rows
// stand where the part they are about is tested. For each that is refused: no
// session, the upstream not reached, one token request at most, a line in the
// log that names the cause; secrets in the log are looked for after every test
// anyway.
func TestM05M113ProviderFaultsAtLogin(t *testing.T) {
	for name, tc := range map[string]struct {
		faults func(w *world) provider.Faults
		status int    // in the end; 0: accepted
		logged string // words of the line that says why
	}{
		"M05 metadata of another content type": {func(w *world) provider.Faults {
			return provider.Faults{Answer: endpointAnswers{"metadata": provider.Status(200, "text/plain", string(w.honest()))}}
		}, 0, ""},
		"M14 no S256": {func(*world) provider.Faults {
			return provider.Faults{Metadata: func(doc map[string]any) { doc["code_challenge_methods_supported"] = []string{"plain"} }}
		}, 0, "does not advertise PKCE with S256"},
		"M16 metadata that inflate": {func(*world) provider.Faults {
			return provider.Faults{Answer: endpointAnswers{"metadata": func(rw http.ResponseWriter, _ *http.Request) bool {
				rw.Header().Set("Content-Encoding", "gzip")
				_, _ = rw.Write(gzipBomb())
				return true
			}}}
		}, 503, "metadata"},
		"M34 ten thousand keys": {func(*world) provider.Faults {
			return provider.Faults{Keys: func(keys []any) []any {
				for i := range 10_000 {
					keys = append(keys, map[string]any{"kty": "oct", "k": "AAAA", "kid": fmt.Sprint(i)})
				}
				return keys
			}}
		}, 502, "keys"},
		"M34 keys of ten megabytes": {func(*world) provider.Faults {
			return provider.Faults{Answer: endpointAnswers{"keys": provider.Status(200, "application/json", `{"keys":[`+strings.Repeat(" ", 10<<20)+`]}`)}}
		}, 502, "larger than"},
		"M35 keys that redirect": {func(w *world) provider.Faults {
			return provider.Faults{Answer: endpointAnswers{"keys": provider.Redirect(302, w.op.URL+"/elsewhere")}}
		}, 502, "not followed"},
		"M41 another issuer in the response": {func(*world) provider.Faults {
			return provider.Faults{Callback: func(q url.Values) { q.Set("iss", "https://evil.test") }}
		}, 400, "iss"},
		"M41 no issuer, though it was announced": {func(*world) provider.Faults {
			return provider.Faults{Callback: func(q url.Values) { q.Del("iss") }}
		}, 400, "iss"},
		"M44 an error like a script": {func(*world) provider.Faults {
			return provider.Faults{Callback: func(q url.Values) {
				q.Del("code")
				q.Set("error", "</title><script>alert(1)</script>")
				q.Set("error_description", "a\r\nSet-Cookie: x=y\r\n\x00<script>"+strings.Repeat("z", 6000))
			}}
		}, 502, "login_refused"},
		"M33 private keys": {func(*world) provider.Faults {
			return provider.Faults{Keys: func(keys []any) []any {
				return append([]any{map[string]any{
					"kty": "EC", "crv": "P-256", "kid": "leaked", "use": "sig",
					"x": "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU", "y": "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0",
					"d": "jpsQnnGQmL-YBIffH1136cspYG6-0iY7X1fCE9-E9LI",
				}}, keys...)
			}}
		}, 0, "publishes private keys"},
		"M50 a refused code": {func(*world) provider.Faults {
			return provider.Faults{Answer: endpointAnswers{"token": provider.Status(400, "application/json", `{"error":"invalid_grant"}`)}}
		}, 502, "invalid_grant"},
		"M50 a refused client": {func(*world) provider.Faults {
			return provider.Faults{Answer: endpointAnswers{"token": provider.Status(401, "application/json", `{"error":"invalid_client"}`)}}
		}, 502, "invalid_client"},
		"M50 forbidden": {func(*world) provider.Faults {
			return provider.Faults{Answer: endpointAnswers{"token": provider.Status(403, "text/html", "<html>")}}
		}, 502, "status 403"},
		"M50 not found": {func(*world) provider.Faults {
			return provider.Faults{Answer: endpointAnswers{"token": provider.Status(404, "text/html", "<html>")}}
		}, 502, "status 404"},
		"M50 an error of the server": {func(*world) provider.Faults {
			return provider.Faults{Answer: endpointAnswers{"token": provider.Status(500, "text/html", "<html>")}}
		}, 503, "status 500"},
		"M52 no answer at the token endpoint": {func(*world) provider.Faults {
			return provider.Faults{Answer: endpointAnswers{"token": func(_ http.ResponseWriter, r *http.Request) bool { <-r.Context().Done(); return true }}}
		}, 503, "no answer in time"},
		"M53 an error with status 200": {func(*world) provider.Faults {
			return provider.Faults{Answer: endpointAnswers{"token": provider.Status(200, "application/json", `{"error":"invalid_grant","access_token":"a","token_type":"Bearer"}`)}}
		}, 502, "invalid_grant"},
		"M58 a token response of two megabytes": {func(*world) provider.Faults {
			return provider.Faults{TokenResponse: func(doc map[string]any) { doc["blob"] = strings.Repeat("x", 2<<20) }}
		}, 502, "larger than"},
		"M61 an access token of 64 kB": {func(*world) provider.Faults {
			return provider.Faults{TokenResponse: func(doc map[string]any) { doc["access_token"] = incompressible(64 << 10); delete(doc, "id_token") }}
		}, 502, ""},
		"M62 fewer scopes than were asked for": {func(*world) provider.Faults {
			return provider.Faults{TokenResponse: func(doc map[string]any) { doc["scope"] = "openid" }}
		}, 0, ""},
		"M63 cookies of the provider": {func(*world) provider.Faults {
			return provider.Faults{Answer: endpointAnswers{"token": func(rw http.ResponseWriter, _ *http.Request) bool {
				rw.Header().Add("Set-Cookie", "__Host-Http-pkce_auth=evil; Path=/")
				return false
			}}}
		}, 0, ""},
		"M66 an ID token for another client": {func(*world) provider.Faults {
			return provider.Faults{IDToken: func(_, claims map[string]any) { claims["aud"] = "confidential" }}
		}, 502, "does not name our client ID"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.op.Misbehave(tc.faults(w))
			w.caddy("pkce_auth $OP public {\ntimeout 1s\n}\nreverse_proxy $UPSTREAM")
			b := w.browser()
			began := time.Now()
			a := b.open(w.site + "/page")
			if tc.status == 0 {
				if a.StatusCode != http.StatusOK || a.body != "upstream /page" {
					t.Errorf("got status %d and %.200s", a.StatusCode, a.body)
				}
			} else {
				if a.StatusCode != tc.status || strings.Contains(a.body, "<script") || strings.Contains(a.body, "evil") {
					t.Errorf("got status %d and %.300s, want %d", a.StatusCode, a.body, tc.status)
				}
				if w.upstream.count() != 0 || len(w.op.Requests("token")) > 1 {
					t.Errorf("%d requests reached the upstream, %d the token endpoint", w.upstream.count(), len(w.op.Requests("token")))
				}
				if got := b.fetch(w.site + "/x"); got.StatusCode != http.StatusUnauthorized && got.StatusCode != http.StatusServiceUnavailable {
					t.Errorf("a session: status %d", got.StatusCode)
				}
			}
			if took := time.Since(began); took > 10*time.Second { // a bound of what may hang, not a measure
				t.Errorf("it took %s", took)
			}
			if tc.logged != "" {
				w.logged("http.handlers.pkce_auth", tc.logged)
			}
		})
	}
}

// M59: redirects of the token endpoint are not followed, whatever their kind:
// code, verifier and secret stay where they were sent.
func TestM59TokenEndpointThatRedirects(t *testing.T) {
	for _, status := range []int{301, 302, 303, 307, 308} {
		reached := 0
		elsewhere := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { reached++ }))
		w := newWorld(t)
		w.op.Misbehave(provider.Faults{Answer: endpointAnswers{"token": provider.Redirect(status, elsewhere.URL)}})
		w.caddy("pkce_auth $OP confidential {\nclient_secret s3cr:t%+é\n}\nreverse_proxy $UPSTREAM")
		b := w.browser()
		if a := b.open(w.site + "/"); a.StatusCode != http.StatusBadGateway || reached != 0 {
			t.Errorf("%d: got status %d, and %d requests elsewhere", status, a.StatusCode, reached)
		}
		w.noSession(b, 1)
		elsewhere.Close()
	}
}

// M45: a response by POST, where a GET is expected, sends no code.
func TestM45ResponseByPost(t *testing.T) {
	w := newWorld(t)
	w.caddy(basic)
	b := w.browser()
	callback := b.callback(w, "/page")
	if a := b.do(http.MethodPost, callback, navigation, "code=x"); a.StatusCode != http.StatusMethodNotAllowed {
		t.Errorf("got status %d", a.StatusCode)
	}
	if len(w.op.Requests("token")) != 0 {
		t.Error("a code was sent")
	}
	if a := b.open(callback); a.body != "upstream /page" {
		t.Errorf("the login was burnt: %q", a.body)
	}
}

// M104: a provider that revokes everything at the second use of a refresh
// token, under load; and M109: one that gives fewer scopes at a refresh.
func TestM104M109RotationUnderLoad(t *testing.T) {
	w := newWorldWith(t, provider.Config{TokenLifetime: 3 * time.Second})
	w.op.Misbehave(provider.Faults{RefreshResponse: func(doc map[string]any) { doc["scope"] = "openid" }})
	w.caddy("pkce_auth $OP public {\nrefresh 1h\n}\nreverse_proxy $UPSTREAM")
	b := w.browser()
	b.login(w, "/")
	w.eventually("three refreshes", func() bool {
		done := make(chan int)
		cookies := b.cookieHeader(w)
		for range 8 {
			go func() { done <- w.present(cookies).StatusCode }()
		}
		for range 8 {
			if status := <-done; status != http.StatusOK {
				t.Fatalf("got status %d", status)
			}
		}
		if a := b.fetch(w.site + "/x"); a.StatusCode != http.StatusOK {
			t.Fatalf("got status %d", a.StatusCode)
		}
		return len(w.refreshes()) >= 3
	})
	if len(w.op.Requests("authorize")) != 1 {
		t.Error("there was another login")
	}
}
