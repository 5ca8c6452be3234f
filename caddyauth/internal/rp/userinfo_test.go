package rp

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"
)

// FuzzUserinfo: whatever the endpoint answers, it is about the user of the ID
// token, or of no use.
func FuzzUserinfo(f *testing.F) {
	b := newBench(f)
	m := metadata(f, b.client)
	signed := b.op.Sign(nil, map[string]any{"iss": b.op.URL, "aud": "public", "sub": "alice"})
	payload := signed[:strings.LastIndex(signed, ".")]
	for _, seed := range [][2]string{
		{"application/json", `{"sub":"alice","email":"a@example.com"}`},
		{"application/json; charset=utf-8", `{"sub":"bob"}`},
		{"application/jwt", signed},
		{"application/jwt", signed[:len(signed)-2]},
		{"text/html", "<html>"},
		{"", `{}`},
		{"application/json", `{"sub":"alice","Sub":"bob"}`},
	} {
		f.Add(seed[0], []byte(seed[1]))
	}
	f.Fuzz(func(t *testing.T, contentType string, body []byte) {
		set, err := b.client.readUserinfo(t.Context(), m, &response{status: http.StatusOK, header: http.Header{"Content-Type": {contentType}}, body: body})
		if err != nil || checkUserinfoSubject(set, "alice") != nil {
			return
		}
		var seen map[string]any
		if json.Unmarshal(body, &seen) != nil { // a JWT, then: the provider's own
			if !strings.HasPrefix(string(body), payload) {
				t.Fatalf("accepted %q", body)
			}
			return
		}
		for name := range seen {
			if name != "sub" && strings.EqualFold(name, "sub") {
				t.Fatalf("an imitation was accepted: %q", body)
			}
		}
		if seen["sub"] != "alice" {
			t.Fatalf("accepted %q", body)
		}
	})
}
