package replicas

import (
	"bufio"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"
)

// upstream is the application: it streams, takes uploads, is slow, and notes
// what reaches it.
type upstream struct {
	server *httptest.Server

	mu    sync.Mutex
	count int
}

func newUpstream(t *testing.T) *upstream {
	u := &upstream{}
	mux := http.NewServeMux()
	mux.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "ok") })
	mux.HandleFunc("/slow", func(w http.ResponseWriter, _ *http.Request) {
		time.Sleep(time.Second)
		_, _ = io.WriteString(w, "ok")
	})
	mux.HandleFunc("/upload", func(w http.ResponseWriter, r *http.Request) {
		size, err := io.Copy(io.Discard, r.Body)
		fmt.Fprint(w, size, err)
	})
	mux.HandleFunc("/events", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		ticks(r.Context().Done(), func() error {
			fmt.Fprint(w, "data: tick\n\n")
			return http.NewResponseController(w).Flush()
		})
	})
	mux.HandleFunc("/ws", func(w http.ResponseWriter, _ *http.Request) {
		conn, buf, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer conn.Close()
		fmt.Fprint(buf, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n")
		gone := make(chan struct{})
		go func() {
			defer close(gone)
			_, _ = io.Copy(io.Discard, conn)
		}()
		ticks(gone, func() error {
			_, _ = buf.WriteString("\x81\x04tick") // a text frame
			return buf.Flush()
		})
	})
	u.server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		u.mu.Lock()
		u.count++
		u.mu.Unlock()
		if !strings.HasPrefix(r.Header.Get("Authorization"), "Bearer ") {
			t.Errorf("%s reached the upstream without a token", r.URL)
		}
		if strings.Contains(strings.Join(r.Header["Cookie"], "; "), "pkce_auth") {
			t.Errorf("%s brought the upstream our cookies", r.URL)
		}
		mux.ServeHTTP(w, r)
	}))
	t.Cleanup(func() {
		u.server.CloseClientConnections()
		u.server.Close()
	})
	return u
}

// ticks does something ten times a second.
func ticks(until <-chan struct{}, do func() error) {
	ticker := time.NewTicker(100 * time.Millisecond)
	defer ticker.Stop()
	for do() == nil {
		select {
		case <-ticker.C:
		case <-until:
			return
		}
	}
}

func (u *upstream) address() string { return strings.TrimPrefix(u.server.URL, "http://") }

// requests is how many reached it.
func (u *upstream) requests() int {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.count
}

// stream is something that goes on until somebody cuts it.
type stream struct {
	what  string
	ended chan struct{} // closed when it has
	at    time.Time     // when that was
	said  string        // what the server said at the end
}

// events opens a stream of server-sent events at a replica.
func (b *browser) events(at int) *stream {
	b.w.t.Helper()
	req := b.request(http.MethodGet, "/events", fetched)
	resp, err := b.w.replicas[at].direct.RoundTrip(req)
	if err != nil {
		b.w.t.Fatal(err)
	}
	if resp.StatusCode != http.StatusOK {
		b.w.t.Fatalf("events: got status %d", resp.StatusCode)
	}
	b.jar.SetCookies(req.URL, resp.Cookies())
	s := &stream{what: "events", ended: make(chan struct{})}
	b.w.t.Cleanup(func() { _ = resp.Body.Close() })
	r := bufio.NewReader(resp.Body)
	if line, err := r.ReadString('\n'); line != "data: tick\n" {
		b.w.t.Fatalf("events: got %q, %v", line, err)
	}
	go func() {
		_, err := io.Copy(io.Discard, r)
		s.end(fmt.Sprint(err))
	}()
	return s
}

func (s *stream) end(said string) {
	s.at, s.said = time.Now(), said
	close(s.ended)
}

// open reports whether the stream goes on.
func (s *stream) open() bool {
	select {
	case <-s.ended:
		return false
	default:
		return true
	}
}

// socket opens a WebSocket at a replica.
func (b *browser) socket(at int) *stream {
	b.w.t.Helper()
	req := b.request(http.MethodGet, "/ws", fetched)
	for name, value := range map[string]string{
		"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13", "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
		"Sec-Fetch-Mode": "websocket", "Sec-Fetch-Dest": "websocket", "Origin": site,
	} {
		req.Header.Set(name, value)
	}
	resp, err := b.w.replicas[at].direct.RoundTrip(req)
	if err != nil {
		b.w.t.Fatal(err)
	}
	conn, ok := resp.Body.(io.ReadWriteCloser)
	if resp.StatusCode != http.StatusSwitchingProtocols || !ok {
		b.w.t.Fatalf("WebSocket: got status %d", resp.StatusCode)
	}
	b.w.t.Cleanup(func() { _ = conn.Close() })
	s := &stream{what: "WebSocket", ended: make(chan struct{})}
	go func() { s.end(readFrames(bufio.NewReader(conn))) }()
	return s
}

// readFrames reads a WebSocket to its end, and says how it ended.
func readFrames(r *bufio.Reader) string {
	for {
		head := make([]byte, 2)
		if _, err := io.ReadFull(r, head); err != nil {
			return fmt.Sprint(err)
		}
		payload := make([]byte, head[1]&0x7f)
		if _, err := io.ReadFull(r, payload); err != nil {
			return fmt.Sprint(err)
		}
		if head[0]&0x0f == 8 && len(payload) >= 2 {
			return fmt.Sprintf("close %d", int(payload[0])<<8|int(payload[1]))
		}
	}
}
