package provider

import (
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"testing"
)

// What reaches a relying party is what section 2.5 says, and its answer comes
// back as it is: a redirect is not followed, for that would pass for a 200.
func TestSendLogoutToken(t *testing.T) {
	var got []*http.Request
	party := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_ = r.ParseForm()
		got = append(got, r)
		w.Header().Set("Cache-Control", "no-store")
		w.Header().Set("Location", "/elsewhere")
		w.WriteHeader(http.StatusFound)
		_, _ = io.WriteString(w, "the body")
	}))
	defer party.Close()
	answer, err := SendLogoutToken(t.Context(), nil, party.URL+"/backchannel-logout", "a.b.c", url.Values{"logout_token": {"d.e.f"}, "ignored_parameter": {"x"}})
	if err != nil {
		t.Fatal(err)
	}
	if answer.Status != http.StatusFound || answer.Header.Get("Cache-Control") != "no-store" || answer.Body != "the body" {
		t.Errorf("got %+v", answer)
	}
	if len(got) != 1 {
		t.Fatalf("got %d requests, want 1", len(got))
	}
	r := got[0]
	if r.Method != http.MethodPost || r.URL.Path != "/backchannel-logout" || r.Header.Get("Content-Type") != "application/x-www-form-urlencoded" || len(r.Cookies()) != 0 {
		t.Errorf("got %s %s with %v", r.Method, r.URL, r.Header)
	}
	if tokens := r.PostForm["logout_token"]; !slices.Equal(tokens, []string{"a.b.c", "d.e.f"}) || r.PostForm.Get("ignored_parameter") != "x" {
		t.Errorf("got %v", r.PostForm)
	}
}
