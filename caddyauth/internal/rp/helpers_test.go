package rp

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
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
