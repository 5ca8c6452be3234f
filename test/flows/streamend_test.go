package flows

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/pkce-auth/caddy-pkce-auth/test/provider"
)

// What is under way with a session ends with it. Nothing here asserts that it
// takes less than a second, for machines are slow; everything does that it
// happens, long before anything else would end it.
const cutPatience = 20 * time.Second

// streams has the upstream answer below /events with an event every 50 ms,
// for as long as anybody listens, and closes the channel it returns when
// nobody does.
func (w *world) streams() (gone chan struct{}) {
	gone = make(chan struct{}, 100)
	w.upstream.answers(func(rw http.ResponseWriter, r *http.Request) {
		if !strings.Contains(r.URL.Path, "events") {
			fmt.Fprintf(rw, "upstream %s", r.RequestURI)
			return
		}
		defer func() { gone <- struct{}{} }()
		rw.Header().Set("Content-Type", "text/event-stream")
		for r.Context().Err() == nil {
			fmt.Fprint(rw, "data: x\n\n")
			if http.NewResponseController(rw).Flush() != nil {
				return
			}
			select {
			case <-r.Context().Done():
			case <-time.After(50 * time.Millisecond):
			}
		}
	})
	return gone
}

// stream is a long answer as its client reads it.
type stream struct {
	*http.Response
	t testing.TB
}

// begin sends a request whose answer goes on.
func (b *browser) begin(ctx context.Context, method, target string, body io.Reader) stream {
	b.t.Helper()
	return b.beginSoon(ctx, method, target, body)()
}

// beginSoon sends one whose answer may take a while to begin: as long as the
// context allows.
func (b *browser) beginSoon(ctx context.Context, method, target string, body io.Reader) (answer func() stream) {
	b.t.Helper()
	req, err := http.NewRequestWithContext(ctx, method, target, body)
	if err != nil {
		b.t.Fatal(err)
	}
	req.Header = fetched.Clone()
	for _, c := range b.jar.Cookies(req.URL) {
		req.AddCookie(c)
	}
	var resp *http.Response
	done := make(chan struct{})
	go func() {
		defer close(done)
		resp, err = plain.RoundTrip(req) //nolint:bodyclose // it is closed in the end
	}()
	return func() stream {
		b.t.Helper()
		<-done
		if err != nil {
			b.t.Fatal(err)
		}
		b.t.Cleanup(func() { _ = resp.Body.Close() })
		return stream{resp, b.t}
	}
}

// goesOn reads the next bytes.
func (s stream) goesOn() {
	s.t.Helper()
	if _, err := io.ReadFull(s.Body, make([]byte, 27)); err != nil {
		s.t.Fatalf("the stream is over: %v", err)
	}
}

// cut reads to the end, and checks that it does not look like one.
func (s stream) cut() {
	s.t.Helper()
	over := make(chan error, 1)
	go func() { _, err := io.Copy(io.Discard, s.Body); over <- err }()
	select {
	case err := <-over:
		if err == nil {
			s.t.Error("what was cut looks complete")
		}
	case <-time.After(cutPatience):
		s.t.Fatal("the stream goes on")
	}
}

func waitFor(t testing.TB, what string, c <-chan struct{}) {
	t.Helper()
	select {
	case <-c:
	case <-time.After(cutPatience):
		t.Fatalf("in vain waited for: %s", what)
	}
}

// A82: a logout cuts the streams of its session, be they there by a bypass or
// not, at both ends, and nobody else's.
func TestA82LogoutCutsStreams(t *testing.T) {
	for _, version := range []string{"HTTP/1.1", "HTTP/2.0"} {
		t.Run(version, func(t *testing.T) {
			w := newWorld(t)
			gone := w.streams()
			w.caddyTLS("pkce_auth $OP public {\nbypass /public/*\n}\nreverse_proxy $UPSTREAM")
			if version == "HTTP/2.0" {
				w.h2()
			}
			b, other := w.browser(), w.browser()
			b.login(w, "/")
			other.login(w, "/")
			s, public, others := b.begin(t.Context(), "GET", w.site+"/events", nil), b.begin(t.Context(), "GET", w.site+"/public/events", nil), other.begin(t.Context(), "GET", w.site+"/events", nil)
			if s.Proto != version || s.StatusCode != http.StatusOK {
				t.Fatalf("got %s, status %d", s.Proto, s.StatusCode)
			}
			for _, s := range []stream{s, public, others} {
				s.goesOn()
			}
			if a := b.logout(w); a.StatusCode != http.StatusSeeOther {
				t.Fatalf("logout: got status %d", a.StatusCode)
			}
			s.cut()
			public.cut()
			waitFor(t, "the upstream hears of it", gone)
			waitFor(t, "the upstream hears of it twice", gone)
			for range 10 {
				others.goesOn()
			}
			w.logged("requests under way were cut", `"requests":2`, `"sub":"alice"`)
		})
	}
}

// A82: streams end with the session's time, absolute and idle, however much
// goes over them, and with an access token that nothing refreshes; not before.
func TestA82TimeCutsStreams(t *testing.T) {
	const lasts = 2 * time.Second
	for name, tc := range map[string]struct {
		options string
		tokens  time.Duration
	}{
		"lifetime":     {"session {\nlifetime 2s\nidle 2s\n}", time.Hour},
		"idle":         {"session {\nidle 2s\nlifetime 1h\n}", time.Hour},
		"access token": {"refresh off", lasts},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorldWith(t, provider.Config{TokenLifetime: tc.tokens})
			w.streams()
			w.caddy("pkce_auth $OP public {\n" + tc.options + "\n}\nreverse_proxy $UPSTREAM")
			b := w.browser()
			began := time.Now()
			b.login(w, "/")
			s := b.begin(t.Context(), "GET", w.site+"/events", nil)
			s.goesOn()
			s.cut()
			if took := time.Since(began); took < lasts-time.Second { // tokens expire at a whole second
				t.Errorf("it was cut after %s", took)
			}
			w.logged("requests under way were cut", `"requests":1`)
		})
	}
}

// A82: what other requests of the session refresh, or keep from being idle,
// goes on; a refresh that is refused is the end.
func TestA82RefreshKeepsStreamsOpen(t *testing.T) {
	w := newWorldWith(t, provider.Config{TokenLifetime: 2 * time.Second})
	w.streams()
	w.caddy("pkce_auth $OP public {\nsession {\nidle 4s\nlifetime 1h\n}\n}\nreverse_proxy $UPSTREAM")
	b := w.browser()
	b.login(w, "/")
	s := b.begin(t.Context(), "GET", w.site+"/events", nil)
	began := time.Now()
	w.eventually("two refreshes, and more than the idle time", func() bool {
		s.goesOn()
		if a := b.fetch(w.site + "/x"); a.StatusCode != http.StatusOK {
			t.Fatalf("got status %d", a.StatusCode)
		}
		return len(w.refreshes()) >= 2 && time.Since(began) > 5*time.Second
	})
	s.goesOn()
	w.op.RevokeAll()
	w.eventually("the refresh is refused", func() bool { return b.fetch(w.site+"/x").StatusCode == http.StatusUnauthorized })
	s.cut()
	w.logged("requests under way were cut") // a moment later
	if strings.Count(w.log(), "requests under way were cut") != 1 {
		t.Error("it was said not once")
	}
}

// A82, A73, M103: with a store, a stream is reason enough to refresh its session,
// though it makes no request: who is disabled at the provider does not stay by
// making none.
func TestA82A73DisabledUsersLoseTheirStreams(t *testing.T) {
	for _, store := range []string{"memory", "storage"} {
		t.Run(store, func(t *testing.T) {
			w := newWorldWith(t, provider.Config{TokenLifetime: 2 * time.Second})
			w.streams()
			w.caddy("pkce_auth $OP public {\nsession " + store + "\n}\nreverse_proxy $UPSTREAM")
			b := w.browser()
			b.login(w, "/")
			s := b.begin(t.Context(), "GET", w.site+"/events", nil)
			w.eventually("two refreshes", func() bool {
				s.goesOn()
				return len(w.refreshes()) >= 2
			})
			w.op.RevokeAll()
			s.cut()
			w.logged("requests under way were cut", `"requests":1`)
			if a := b.fetch(w.site + "/x"); a.StatusCode != http.StatusUnauthorized {
				t.Errorf("got status %d", a.StatusCode)
			}
		})
	}
}

// A82, K8: streams that began under an old configuration are cut, too: by a
// logout under the new one, and by its shorter limits.
func TestA82K8StreamsOfAnOldConfiguration(t *testing.T) {
	w := newWorld(t)
	w.streams()
	load := w.reloads()
	load("timeout 5s")
	b, other := w.browser(), w.browser()
	b.login(w, "/")
	other.login(w, "/")
	s, others := b.begin(t.Context(), "GET", w.site+"/events", nil), other.begin(t.Context(), "GET", w.site+"/events", nil)
	load("timeout 6s\nsession {\nlifetime 6s\n}")
	s.goesOn()
	if a := b.logout(w); a.StatusCode != http.StatusSeeOther {
		t.Fatalf("logout: got status %d", a.StatusCode)
	}
	s.cut()
	others.goesOn()
	others.cut()
}

// sockets has the upstream talk over sockets where it is asked for one. The
// answer that opens it goes out with the first flush.
func (w *world) sockets(talk func(*bufio.ReadWriter)) {
	w.upstream.answers(func(rw http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Upgrade") == "" {
			fmt.Fprintf(rw, "upstream %s", r.RequestURI)
			return
		}
		conn, buf, err := http.NewResponseController(rw).Hijack()
		if err != nil {
			w.t.Error(err)
			return
		}
		defer conn.Close()
		fmt.Fprint(buf, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n")
		talk(buf)
	})
}

// webSocket opens a socket, with the browser's cookies, and returns what comes
// after the 101. What is early is sent before it.
func (w *world) webSocket(b *browser, early string) (net.Conn, *bufio.Reader) {
	w.t.Helper()
	conn, err := net.Dial("tcp", strings.TrimPrefix(w.site, "http://"))
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { _ = conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(cutPatience))
	fmt.Fprintf(conn, "GET /ws HTTP/1.1\r\nHost: %s\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: x\r\nSec-WebSocket-Version: 13\r\nCookie: %s\r\n\r\n%s",
		strings.TrimPrefix(w.site, "http://"), b.cookieHeader(w), early)
	r := bufio.NewReader(conn)
	resp, err := http.ReadResponse(r, nil)
	if err != nil {
		w.t.Fatal(err)
	}
	if resp.StatusCode != http.StatusSwitchingProtocols {
		w.t.Fatalf("got status %d", resp.StatusCode)
	}
	return conn, r
}

// A82: a logout ends the WebSockets of its session with a close frame, 1008;
// in the middle of a frame with nothing, for there it would be taken for the
// upstream's words. The upstream's end is closed as well; a client that goes
// on sending reaches nobody; and other sessions' sockets stay.
func TestA82LogoutClosesWebSockets(t *testing.T) {
	for name, tc := range map[string]struct{ sent, last string }{
		"between frames":            {"\x81\x05hello", "\x88\x0f\x03\xf0session ended"},
		"before the first":          {"", "\x88\x0f\x03\xf0session ended"},
		"in a frame":                {"\x82\x7e\x03\xe8half", ""},
		"in a header":               {"\x81", ""},
		"after the upstream's last": {"\x88\x02\x03\xe8", ""},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			heard := make(chan string, 2)
			w.sockets(func(buf *bufio.ReadWriter) {
				fmt.Fprint(buf, tc.sent)
				_ = buf.Flush()
				all, _ := io.ReadAll(buf)
				heard <- string(all)
			})
			w.caddy(guarded)
			b, other := w.browser(), w.browser()
			b.login(w, "/")
			other.login(w, "/")
			conn, r := w.webSocket(b, "")
			othersConn, others := w.webSocket(other, "")
			for _, r := range []*bufio.Reader{r, others} {
				got := make([]byte, len(tc.sent))
				if _, err := io.ReadFull(r, got); err != nil || string(got) != tc.sent {
					t.Fatalf("got %q, %v", got, err)
				}
			}
			if a := b.logout(w); a.StatusCode != http.StatusSeeOther {
				t.Fatalf("logout: got status %d", a.StatusCode)
			}
			last, err := io.ReadAll(r)
			if string(last) != tc.last || errors.Is(err, os.ErrDeadlineExceeded) {
				t.Errorf("the last that came: %q, %v; want %q", last, err, tc.last)
			}
			fmt.Fprint(conn, "too late")
			if got := <-heard; got != "" {
				t.Errorf("the upstream heard %q", got)
			}
			_ = othersConn.SetReadDeadline(time.Now().Add(200 * time.Millisecond))
			if got, err := others.ReadByte(); !errors.Is(err, os.ErrDeadlineExceeded) {
				t.Errorf("the other's socket: got %q, %v", got, err)
			}
			_ = othersConn.Close()
			<-heard
			// Caddy is done with both before the test stops it.
			w.eventually("Caddy notes both sockets", func() bool {
				noted := 0
				for line := range strings.Lines(w.log()) {
					if strings.Contains(line, "http.log.access") && strings.Contains(line, `"status":101`) {
						noted++
					}
				}
				return noted == 2
			})
		})
	}
}

// What a client sends before it has seen the 101 is not lost.
func TestWebSocketEarlyBytes(t *testing.T) {
	w := newWorld(t)
	w.sockets(func(buf *bufio.ReadWriter) {
		_ = buf.Flush()
		for range 2 {
			line, _ := buf.ReadString('\n')
			fmt.Fprint(buf, "echo ", line)
			_ = buf.Flush()
		}
	})
	w.caddy(guarded)
	b := w.browser()
	b.login(w, "/")
	conn, r := w.webSocket(b, "early\n")
	fmt.Fprint(conn, "late\n")
	if got, _ := io.ReadAll(r); string(got) != "echo early\necho late\n" {
		t.Errorf("got %q", got)
	}
	w.logged("http.log.access", `"uri":"/ws"`, `"status":101`)
}

// A82: a download is cut though the handler, file_server, never looks whether
// it should go on: where the client is slow, and the write blocks, and where
// it is fast, and nothing does.
func TestA82LogoutCutsDownloads(t *testing.T) {
	const size = 1 << 38 // of holes
	for _, version := range []string{"HTTP/1.1", "HTTP/2.0"} {
		t.Run(version, func(t *testing.T) {
			w := newWorld(t)
			big, err := os.Create(filepath.Join(w.dir, "big"))
			if err != nil {
				t.Fatal(err)
			}
			if err := errors.Join(big.Truncate(size), big.Close()); err != nil {
				t.Fatal(err)
			}
			w.caddyTLS("pkce_auth $OP public\nhandle /big {\nroot * $DIR\nfile_server\n}\nreverse_proxy $UPSTREAM")
			if version == "HTTP/2.0" {
				w.h2()
			}
			b := w.browser()
			b.login(w, "/")
			slow, fast := b.begin(t.Context(), "GET", w.site+"/big?slow", nil), b.begin(t.Context(), "GET", w.site+"/big?fast", nil)
			if slow.Proto != version || slow.ContentLength != size {
				t.Fatalf("got %s, %d bytes", slow.Proto, slow.ContentLength)
			}
			slow.goesOn()
			fast.goesOn()
			reading := make(chan struct{})
			go func() { defer close(reading); fast.cut() }()
			b.logout(w)
			waitFor(t, "the fast one is cut", reading)
			// The slow client has not read meanwhile, and its handler is free.
			w.logged("http.log.access", `"uri":"/big?slow"`)
			w.logged("http.log.access", `"uri":"/big?fast"`)
			slow.cut()
		})
	}
}

// A82: an upload that waits for its client is cut, through a handler that
// looks at its context and through one that does not; who sends is told why.
func TestA82LogoutCutsUploads(t *testing.T) {
	for _, version := range []string{"HTTP/1.1", "HTTP/2.0"} {
		for _, path := range []string{"/upload", "/swallow"} {
			t.Run(version+path, func(t *testing.T) {
				w := newWorld(t)
				w.caddyTLS("pkce_auth $OP public\nhandle /swallow {\nrespond \"{http.request.body}\"\n}\nreverse_proxy $UPSTREAM")
				if version == "HTTP/2.0" {
					w.h2()
				}
				b := w.browser()
				b.login(w, "/")
				held := make(chan struct{})
				broken := make(chan error, 1)
				w.upstream.answers(func(_ http.ResponseWriter, r *http.Request) {
					_, _ = io.ReadFull(r.Body, make([]byte, 8))
					close(held)
					_, err := io.Copy(io.Discard, r.Body)
					broken <- err
				})
				ctx, cancel := context.WithTimeout(t.Context(), cutPatience)
				defer cancel()
				body, writer := io.Pipe()
				defer writer.Close()
				answer := b.beginSoon(ctx, "POST", w.site+path, body)
				if _, err := io.WriteString(writer, strings.Repeat("secret! ", 1<<13)); err != nil { // and then nothing
					t.Fatal(err)
				}
				if path == "/upload" {
					waitFor(t, "the upload is under way", held)
				}
				if a := b.logout(w); a.StatusCode != http.StatusSeeOther {
					t.Fatalf("logout: got status %d", a.StatusCode)
				}
				s := answer()
				got, _ := io.ReadAll(s.Body)
				if s.StatusCode != http.StatusUnauthorized || strings.Contains(string(got), "secret!") {
					t.Errorf("got status %d and %.200q", s.StatusCode, got)
				}
				if path == "/upload" {
					if err := <-broken; err == nil {
						t.Error("to the upstream the upload looks complete")
					}
				}
			})
		}
	}
}

// A82: who waits for an answer when the session ends gets 401 at once, and
// nothing of what the upstream says later; an error route of the site still
// works.
func TestA82LogoutRefusesWhoWaits(t *testing.T) {
	for name, routes := range map[string]string{
		"":              "",
		"handle_errors": "\nhandle_errors {\nrewrite /sorry\nreverse_proxy $UPSTREAM {\n@x status 2xx\nhandle_response @x {\nheader X-Error-Route yes\nrespond \"sorry\" {err.status_code}\n}\n}\n}",
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.caddy(basic + routes)
			b := w.browser()
			b.login(w, "/")
			held, release := w.upstream.holds("/slow")
			ctx, cancel := context.WithTimeout(t.Context(), cutPatience)
			defer cancel()
			answer := b.beginSoon(ctx, "GET", w.site+"/slow", nil)
			waitFor(t, "the request is there", held)
			b.logout(w)
			s := answer()
			close(release)
			body, err := io.ReadAll(s.Body)
			if s.StatusCode != http.StatusUnauthorized || strings.Contains(string(body), "late") || err != nil || len(s.Cookies()) != 0 {
				t.Errorf("got status %d, %q, %v", s.StatusCode, body, err)
			}
			if got := s.Header.Get("X-Error-Route"); (got == "yes") != (name != "") {
				t.Errorf("the error route: got %q in %v", got, s.Header)
			}
			if w.upstream.last(t).Header.Get("Authorization") != "" && name != "" {
				t.Error("the error route's upstream got the token")
			}
		})
	}
}
