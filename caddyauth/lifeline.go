package caddyauth

import (
	"bufio"
	"bytes"
	"io"
	"net"
	"net/http"
	"sync"
	"time"
)

// lifeline is what holds a request under way, and by which it can be cut from
// outside its handler. The zero value is that of a request that nobody cuts.
//
// A handler that looks at its context ends by that. One that does not, but
// reads or writes, is freed of a read or write that blocks, and gets errors
// for all others. Only one that does neither is left to itself; its answer
// does not pass.
type lifeline struct {
	mu       sync.Mutex
	w        http.ResponseWriter // below ours; nil before the handler runs, and when it has returned
	context  liveContext
	why      error         // that it was cut; nil while it holds
	conn     *hijackedConn // that the handler has taken over
	answered bool          // whether the answer's header is on its way
	upload   bool          // whether the request has a body
	http2    bool
}

// pressInterval is how often a cut is repeated, until the handler returns:
// Caddy puts off the deadlines of a connection at each read and write, and may
// do so just after ours.
const pressInterval = 200 * time.Millisecond

// longAgo is a deadline that has passed. (Zero would be none.)
var longAgo = time.Unix(1, 0)

// hold puts a request on the lifeline: its context, its body and its writer,
// which is the one below ours.
//
// The request is changed where it is, for others hold on to it: Caddy's
// placeholders show this very request, whatever later handlers make of it.
func (l *lifeline) hold(w http.ResponseWriter, r *http.Request) {
	l.w, l.context.parent = w, r.Context()
	*r = *r.WithContext(&l.context)
	l.http2 = r.ProtoMajor == 2
	if l.upload = r.ContentLength != 0 && r.Body != nil; l.upload {
		r.Body = &liveBody{r.Body, l}
	}
}

// cut ends the request, and reports whether it was this that ended it. It may
// be called at any time, by anybody.
func (l *lifeline) cut(why error) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.why != nil || l.w == nil && l.conn == nil {
		return false
	}
	l.why = why
	if l.conn != nil {
		l.conn.cut() // before the context, at whose end the handler would close it
	}
	l.context.end()
	l.pressLocked()
	return true
}

// press frees a handler of the read or write that it may be in.
func (l *lifeline) press() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.pressLocked()
}

// pressLocked touches the writer only while the handler runs: HTTP/2 panics
// otherwise, and a connection of HTTP/1.1 may be in its next request.
//
// A deadline that has passed resets a stream of HTTP/2 at once, and for good.
// An answer that has not begun keeps its deadline, for it will say why.
func (l *lifeline) pressLocked() {
	if l.w == nil || l.conn != nil {
		return
	}
	if l.upload {
		_ = http.NewResponseController(l.w).SetReadDeadline(longAgo)
	}
	if l.answered {
		setWriteDeadline(l.w, longAgo)
	}
	if !l.http2 && (l.upload || l.answered) {
		time.AfterFunc(pressInterval, l.press)
	}
}

// setWriteDeadline sets the deadline at the server's own writer: that of
// Caddy's above it may only be set by the handler's goroutine.
func setWriteDeadline(w http.ResponseWriter, deadline time.Time) {
	var lowest interface{ SetWriteDeadline(time.Time) error }
	for w != nil {
		if setter, ok := w.(interface{ SetWriteDeadline(time.Time) error }); ok {
			lowest = setter
		}
		wrapper, ok := w.(interface{ Unwrap() http.ResponseWriter })
		if !ok {
			break
		}
		w = wrapper.Unwrap()
	}
	if lowest != nil {
		_ = lowest.SetWriteDeadline(deadline)
	}
}

// ended is why the request was cut; nil while it holds.
func (l *lifeline) ended() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.why
}

// answer begins the answer; not any more if the request was cut.
func (l *lifeline) answer() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.why == nil {
		l.answered = true
	}
	return l.why
}

// let says that the handler has returned: nobody touches its writer any more.
// What it has hijacked can still be cut, until it is closed.
func (l *lifeline) let() (why error, hijacked bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.w = nil
	return l.why, l.conn != nil
}

// hijack gives the connection to the handler, and keeps hold of it. closed is
// called when it is closed.
func (l *lifeline) hijack(w http.ResponseWriter, isWebSocket bool, closed func()) (net.Conn, *bufio.ReadWriter, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.why != nil {
		return nil, nil, l.why
	}
	conn, buf, err := http.NewResponseController(w).Hijack()
	if err != nil || l.w == nil {
		return conn, buf, err
	}
	l.conn = newHijackedConn(conn, isWebSocket, closed)
	buf.Writer.Reset(l.conn)                       // it is empty
	if ahead := buf.Reader.Buffered(); ahead > 0 { // the client has sent more than its request
		sent, _ := buf.Peek(ahead)
		buf.Reader.Reset(io.MultiReader(bytes.NewReader(bytes.Clone(sent)), l.conn))
		_, _ = buf.Peek(ahead) // so that it is there again for who asks how much
	} else {
		buf.Reader.Reset(l.conn)
	}
	return l.conn, buf, nil
}

// liveBody is the body of a request that can be cut.
type liveBody struct {
	io.ReadCloser
	lifeline *lifeline
}

// Read implements io.Reader.
func (b *liveBody) Read(p []byte) (int, error) {
	if why := b.lifeline.ended(); why != nil {
		return 0, why
	}
	return b.ReadCloser.Read(p)
}
