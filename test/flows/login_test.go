package flows

import (
	"net/http"
	"testing"
)

func TestMainJob(t *testing.T) {
	w := newWorld(t)
	w.caddy(basic)
	b := newBrowser(t)
	a := b.login(w, "/reports?year=2026&q=a%20b")
	t.Log(a.Header, w.upstream.last(t).Header)
	if got := w.upstream.last(t).Header.Get("Authorization"); got == "" {
		t.Error("no token reached the upstream")
	}
	_ = http.StatusOK
}
