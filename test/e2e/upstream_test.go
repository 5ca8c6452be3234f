package e2e

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
)

// upstream is an application that shows what reached it.
type upstream struct {
	server *httptest.Server
	mu     sync.Mutex
	seen   []*http.Request
}

func newUpstream(t *testing.T) *upstream {
	u := &upstream{}
	u.server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		got := r.Clone(context.Background())
		got.Body = io.NopCloser(bytes.NewReader(body))
		u.mu.Lock()
		u.seen = append(u.seen, got)
		u.mu.Unlock()
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		fmt.Fprintf(w, `<!DOCTYPE html><title>upstream</title><main id="upstream">%s %s</main>`, r.Method, strings.ReplaceAll(r.RequestURI, "<", "&lt;"))
	}))
	t.Cleanup(u.server.Close)
	return u
}

// last is the latest request for a path that reached the upstream.
func (u *upstream) last(t *testing.T, path string) *http.Request {
	t.Helper()
	u.mu.Lock()
	defer u.mu.Unlock()
	for i := len(u.seen) - 1; i >= 0; i-- {
		if u.seen[i].URL.Path == path {
			return u.seen[i]
		}
	}
	t.Fatalf("nothing for %s reached the upstream", path)
	return nil
}

// tokens are the different access tokens that came with requests for a path.
func (u *upstream) tokens(path string) map[string]bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	tokens := map[string]bool{}
	for _, r := range u.seen {
		if r.URL.Path == path {
			tokens[r.Header.Get("Authorization")] = true
		}
	}
	return tokens
}

// count is how many requests for a path reached the upstream.
func (u *upstream) count(path string) int {
	u.mu.Lock()
	defer u.mu.Unlock()
	n := 0
	for _, r := range u.seen {
		if r.URL.Path == path {
			n++
		}
	}
	return n
}

// bearers gives the access tokens that reached the upstream for some paths,
// each once, in their order.
func (u *upstream) bearers(paths ...string) []string {
	u.mu.Lock()
	defer u.mu.Unlock()
	var tokens []string
	for _, r := range u.seen {
		token, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
		if slices.Contains(paths, r.URL.Path) && ok && !slices.Contains(tokens, token) {
			tokens = append(tokens, token)
		}
	}
	return tokens
}

// accessClaims are those of access tokens that tests look at.
type accessClaims struct {
	Issuer   string `json:"iss"`
	Subject  string `json:"sub"`
	ClientID string `json:"client_id"`
	Expires  int64  `json:"exp"`
}

// accessTokenClaims reads a JWT, as an application would after it has checked
// the signature.
func accessTokenClaims(t *testing.T, token string) accessClaims {
	t.Helper()
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		t.Fatalf("an access token has %d parts", len(parts))
	}
	data, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		t.Fatal(err)
	}
	var claims accessClaims
	if err := json.Unmarshal(data, &claims); err != nil {
		t.Fatal(err)
	}
	return claims
}
