package flows

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"
)

// WebSockets, server-sent events and large uploads pass untouched.
func TestWebSocketPasses(t *testing.T) {
	w := newWorld(t)
	w.upstream.answers(func(rw http.ResponseWriter, r *http.Request) {
		if !strings.EqualFold(r.Header.Get("Upgrade"), "websocket") {
			fmt.Fprint(rw, "no upgrade")
			return
		}
		conn, buf, err := http.NewResponseController(rw).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer conn.Close()
		fmt.Fprintf(buf, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nX-Token: %v\r\n\r\n", r.Header.Get("Authorization") != "")
		_ = buf.Flush()
		line, _ := buf.ReadString('\n')
		fmt.Fprintf(buf, "echo %s", line)
		_ = buf.Flush()
	})
	w.caddy(guarded)
	b := w.browser()
	b.open(w.site + "/")
	dial := func(cookies string) (*http.Response, net.Conn, *bufio.Reader) {
		conn, err := net.Dial("tcp", strings.TrimPrefix(w.site, "http://"))
		if err != nil {
			t.Fatal(err)
		}
		_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
		fmt.Fprintf(conn, "GET /ws HTTP/1.1\r\nHost: %s\r\nConnection: keep-alive, Upgrade, authorization\r\nUpgrade: websocket\r\nSec-WebSocket-Key: x\r\nSec-WebSocket-Version: 13\r\nAccept: text/html\r\n%s\r\n", strings.TrimPrefix(w.site, "http://"), cookies)
		r := bufio.NewReader(conn)
		resp, err := http.ReadResponse(r, nil)
		if err != nil {
			t.Fatal(err)
		}
		return resp, conn, r
	}
	resp, conn, _ := dial("")
	conn.Close()
	if resp.StatusCode != http.StatusUnauthorized {
		t.Errorf("without a session: got status %d", resp.StatusCode)
	}
	cookies := "Cookie: "
	for name, value := range b.cookies(w.site) {
		cookies += name + "=" + value + "; "
	}
	resp, conn, r := dial(strings.TrimSuffix(cookies, "; ") + "\r\n")
	defer conn.Close()
	if resp.StatusCode != http.StatusSwitchingProtocols || resp.Header.Get("X-Token") != "true" {
		t.Fatalf("with a session: got status %d and %v", resp.StatusCode, resp.Header)
	}
	fmt.Fprint(conn, "hello\n")
	if line, _ := r.ReadString('\n'); line != "echo hello\n" {
		t.Errorf("over the socket: got %q", line)
	}
	// Caddy must be done with it before the test stops Caddy, which would write
	// a last word into the same connection: a race of Caddy's own.
	_, _ = io.Copy(io.Discard, r)
	w.logged("http.log.access", `"uri":"/ws"`, `"status":101`)
}

func TestServerSentEventsPass(t *testing.T) {
	w := newWorld(t)
	next := make(chan string)
	w.upstream.answers(func(rw http.ResponseWriter, _ *http.Request) {
		rw.Header().Set("Content-Type", "text/event-stream")
		for event := range next {
			fmt.Fprintf(rw, "data: %s\n\n", event)
			_ = http.NewResponseController(rw).Flush()
		}
	})
	w.caddy(guarded)
	b := w.browser()
	go func() { next <- "login"; close(next) }()
	b.open(w.site + "/")
	next = make(chan string)
	req, _ := http.NewRequest(http.MethodGet, w.site+"/events", nil)
	for _, c := range b.jar.Cookies(req.URL) {
		req.AddCookie(c)
	}
	go func() { next <- "one" }()
	resp, err := plain.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	r := bufio.NewReader(resp.Body)
	for _, event := range []string{"one", "two", "three"} {
		if event != "one" {
			next <- event
		}
		if line, err := r.ReadString('\n'); err != nil || line != "data: "+event+"\n" {
			t.Fatalf("got %q, %v", line, err)
		}
		_, _ = r.ReadString('\n')
	}
	close(next)
}

func TestLargeUploadsPass(t *testing.T) {
	w := newWorld(t)
	var got int64
	w.upstream.answers(func(_ http.ResponseWriter, r *http.Request) { got, _ = io.Copy(io.Discard, r.Body) })
	w.caddy(guarded)
	b := w.browser()
	b.open(w.site + "/")
	const size = 64 << 20
	req, _ := http.NewRequest(http.MethodPost, w.site+"/upload", io.LimitReader(zeros{}, size))
	req.ContentLength = size
	if a := b.send(req); a.StatusCode != http.StatusOK || got != size {
		t.Errorf("got status %d, %d bytes arrived", a.StatusCode, got)
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

// What follows an upgrade is a tunnel. Only a WebSocket may be one: an
// upstream that speaks HTTP/2 in it would read whole requests there, with
// identity headers that nobody has taken off.
func TestA16OtherUpgradesDoNotPass(t *testing.T) {
	w := newWorld(t)
	w.caddy(guarded)
	b := w.browser()
	for _, lines := range []string{
		"Connection: Upgrade\nUpgrade: h2c",
		"Connection: Upgrade, HTTP2-Settings\nUpgrade: h2c\nHTTP2-Settings: AAMAAABkAAQAoAAAAAIAAAAA",
		"Connection: upgrade\nUpgrade: h2c, websocket",
		"Connection: upgrade\nUpgrade: websocket\nUpgrade: h2c",
		"Connection: keep-alive, Upgrade\nUpgrade: TLS/1.0",
		"Connection: keep-alive\nConnection: upgrade\nUpgrade: anything",
	} {
		a := w.raw(b, "GET /public/x HTTP/1.1\nHost: $HOST\n"+lines+"\n\n")
		got := w.upstream.last(t).Header
		if a.StatusCode != http.StatusOK || got["Upgrade"] != nil || got["Connection"] != nil || got["Http2-Settings"] != nil {
			t.Errorf("%q: status %d, the upstream got %v", lines, a.StatusCode, got)
		}
	}
}
