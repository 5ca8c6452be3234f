package rp

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log"
	"net/http"
	"net/url"
	"os"
	"sync"
	"testing"
	"time"
)

// recorder builds answers of a fake transport.
type recorder struct{ header http.Header }

func (w *recorder) response(status int, body []byte) *http.Response {
	return &http.Response{StatusCode: status, Header: w.header, Body: io.NopCloser(bytes.NewReader(body))}
}

// slowBody gives a byte a second, for ever.
type slowBody struct{ done <-chan struct{} }

func (b slowBody) Read(p []byte) (int, error) {
	select {
	case <-b.done:
		return 0, errors.New("cancelled")
	case <-time.After(time.Second):
		p[0] = ' '
		return 1, nil
	}
}

func (slowBody) Close() error { return nil }

func contextWithTimeout(t *testing.T, d time.Duration) (context.Context, context.CancelFunc) {
	return context.WithTimeout(t.Context(), d)
}

// answerRaw writes what no handler would.
func answerRaw(w http.ResponseWriter, text string) bool {
	conn, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		panic(err)
	}
	_, _ = io.WriteString(conn, text)
	time.AfterFunc(time.Second, func() { _ = conn.Close() })
	return true
}

// standardLog collects what goes to the process's own log, where net/http
// writes.
func standardLog(t *testing.T) (read func() string) {
	var mu sync.Mutex
	var buffer bytes.Buffer
	log.SetOutput(writerFunc(func(p []byte) (int, error) {
		mu.Lock()
		defer mu.Unlock()
		return buffer.Write(p)
	}))
	t.Cleanup(func() { log.SetOutput(os.Stderr) })
	return func() string {
		mu.Lock()
		defer mu.Unlock()
		return buffer.String()
	}
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

// parseGrant reads the body of a token response with status 200.
func parseGrant(body []byte, sent time.Time) (*Grant, error) {
	c := &Client{Provider: NewProvider(ProviderConfig{})}
	return c.grant(&response{status: http.StatusOK, body: body}, nil, sent)
}

func mustQuery(t *testing.T, text string) url.Values {
	t.Helper()
	u, err := url.Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	return u.Query()
}
