package caddyauth

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// A92, A90: a WebSocket over HTTP/2 and HTTP/3 is an extended CONNECT, and
// comes from a page, too; and where our own origin cannot be told, no page is
// ours.
func TestA92A90ForgedOverOtherVersions(t *testing.T) {
	for _, tc := range []struct {
		name   string
		method string
		header http.Header
		host   string
		forged bool
	}{
		{"a socket over HTTP/2, of the site", http.MethodConnect, http.Header{":protocol": {"websocket"}, "Origin": {"https://app.test"}}, "app.test", false},
		{"a socket over HTTP/2, of a stranger", http.MethodConnect, http.Header{":protocol": {"websocket"}, "Origin": {"https://evil.test"}}, "app.test", true},
		{"a socket over HTTP/3, of a stranger", http.MethodConnect, http.Header{"Origin": {"https://evil.test"}}, "app.test", true},
		{"an origin that is not known, but the browser's word", http.MethodPost, http.Header{"Origin": {"https://other.test"}, "Sec-Fetch-Site": {"same-origin"}}, "other.test", false},
		{"an origin that is not known", http.MethodPost, http.Header{"Origin": {"https://other.test"}}, "other.test", true},
		{"no page, at an origin that is not known", http.MethodPost, nil, "other.test", false},
	} {
		r := newRequest(http.MethodGet, "https://app.test/x", tc.header)
		r.Method, r.Host = tc.method, tc.host
		if isSafe(r) {
			t.Errorf("%s: is safe", tc.name)
		}
		if got := new(crossSite).forged(r, origins{}); got != tc.forged {
			t.Errorf("%s: got %v", tc.name, got)
		}
	}
	for _, protocol := range []string{"Upgrade", ":protocol"} {
		if isSafe(newRequest(http.MethodGet, "https://app.test/x", http.Header{protocol: {"websocket"}})) {
			t.Errorf("%s: is safe", protocol)
		}
	}
}

// A29: until the handshake is complete, a request of HTTP/3 may be anybody's
// recording of it (RFC 8470). What changes something waits: the browser sends
// it again by itself. So does what a proxy in front says came early.
func TestA29EarlyData(t *testing.T) {
	h := newHandler(t, inlineProvider)
	cookies := sessionCookies(t, h, "token")
	for _, tc := range []struct {
		method, path string
		want         int
	}{
		{"GET", "/", 200},
		{"POST", "/", http.StatusTooEarly},
		{"DELETE", "/", http.StatusTooEarly},
		{"CONNECT", "/", http.StatusTooEarly},
		{"GET", "/oauth2/callback?code=x&state=y", http.StatusTooEarly},
		{"GET", "/oauth2/logout", http.StatusTooEarly},
		{"POST", "/oauth2/logout", http.StatusTooEarly},
		{"GET", "/oauth2/frontchannel-logout?iss=x&sid=y", http.StatusTooEarly},
		{"POST", "/oauth2/backchannel-logout", http.StatusTooEarly},
		{"GET", "/oauth2/signed-out", 200},
	} {
		for name, early := range map[string]func(*http.Request){
			"TLS":        func(r *http.Request) { r.TLS.HandshakeComplete = false },
			"Early-Data": func(r *http.Request) { r.Header["Early-Data"] = []string{"1"} },
			"two of it":  func(r *http.Request) { r.Header["Early-Data"] = []string{"0", ""} },
		} {
			r := newRequest(tc.method, "https://app.test/", http.Header{"Cookie": cookies, "Sec-Fetch-Site": {"same-origin"}})
			path, query, _ := strings.Cut(tc.path, "?")
			r.URL.Path, r.URL.RawQuery = path, query
			original := r.Context().Value(caddyhttp.OriginalRequestCtxKey).(http.Request)
			original.URL.Path, original.URL.RawQuery = path, query
			early(r)
			w, reached := httptest.NewRecorder(), false
			err := h.ServeHTTP(w, r, caddyhttp.HandlerFunc(func(http.ResponseWriter, *http.Request) error {
				reached = true
				return nil
			}))
			if err != nil || w.Code != tc.want || reached != (tc.want == 200 && path == "/") || len(w.Header()["Set-Cookie"]) != 0 {
				t.Errorf("%s: %s %s: got status %d, %v, reached %v", name, tc.method, tc.path, w.Code, err, reached)
			}
		}
	}
}
