package flows

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
)

// upstream answers with its body and records what reached it.
type upstream struct {
	server *httptest.Server

	mu       sync.Mutex
	requests []*http.Request
	bodies   []string
	answer   func(http.ResponseWriter, *http.Request) // nil: 200, "upstream <uri>"
}

func newUpstream(t testing.TB) *upstream {
	u := &upstream{}
	u.server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		u.mu.Lock()
		answer := u.answer
		u.mu.Unlock()
		var body []byte
		if answer == nil {
			body, _ = io.ReadAll(r.Body)
		}
		u.mu.Lock()
		u.requests = append(u.requests, r.Clone(r.Context()))
		u.bodies = append(u.bodies, string(body))
		u.mu.Unlock()
		if answer != nil {
			answer(w, r)
			return
		}
		fmt.Fprintf(w, "upstream %s", r.RequestURI)
	}))
	t.Cleanup(u.server.Close)
	return u
}

// answers sets how the upstream answers.
func (u *upstream) answers(answer func(http.ResponseWriter, *http.Request)) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.answer = answer
}

// count is how many requests reached the upstream.
func (u *upstream) count() int {
	u.mu.Lock()
	defer u.mu.Unlock()
	return len(u.requests)
}

// last is the latest request that reached the upstream.
func (u *upstream) last(t testing.TB) *http.Request {
	t.Helper()
	u.mu.Lock()
	defer u.mu.Unlock()
	if len(u.requests) == 0 {
		t.Fatal("nothing reached the upstream")
	}
	return u.requests[len(u.requests)-1]
}

// holds has the upstream answer one path only when release is closed; held is
// closed when the request is there.
func (u *upstream) holds(path string) (held, release chan struct{}) {
	held, release = make(chan struct{}), make(chan struct{})
	u.answers(func(w http.ResponseWriter, r *http.Request) {
		answer := "ok"
		if r.URL.Path == path {
			close(held)
			<-release
			answer = "late"
		}
		_, _ = io.WriteString(w, answer)
	})
	return held, release
}
