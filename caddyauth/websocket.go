package caddyauth

import (
	"encoding/binary"
	"errors"
	"io"
	"net"
	"sync/atomic"
	"time"
)

// frames follows the frames of a WebSocket (RFC 6455 section 5.2) through the
// bytes of one direction, in whatever pieces they come. It keeps nothing of
// what is in them.
type frames struct {
	header [14]byte // of the frame that has begun
	have   int      // of header
	left   uint64   // of the payload
	closed bool     // a close frame has begun: none may follow (section 5.5.1)
	broken bool     // what came is no frame: nobody knows where the next begins
}

const opcodeClose = 0x8

// feed takes the next bytes.
func (f *frames) feed(p []byte) {
	for len(p) > 0 && !f.broken {
		if f.left > 0 {
			n := min(f.left, uint64(len(p)))
			f.left -= n
			p = p[n:]
			continue
		}
		f.header[f.have] = p[0]
		f.have++
		p = p[1:]
		if f.have == headerSize(f.header[:f.have]) {
			f.begin()
		}
	}
}

// headerSize is how long a frame's header is, as far as what is there of it
// tells.
func headerSize(header []byte) int {
	size := 2
	if len(header) < size {
		return size
	}
	switch header[1] & 0x7f {
	case 126:
		size += 2
	case 127:
		size += 8
	}
	if header[1]&0x80 != 0 { // a masking key; servers send none
		size += 4
	}
	return size
}

// begin reads a header that is complete.
func (f *frames) begin() {
	switch f.left = uint64(f.header[1] & 0x7f); f.left {
	case 126:
		f.left = uint64(binary.BigEndian.Uint16(f.header[2:]))
	case 127:
		f.left = binary.BigEndian.Uint64(f.header[2:])
		f.broken = f.left>>63 != 0
	}
	f.closed = f.closed || f.header[0]&0xf == opcodeClose
	f.have = 0
}

// between reports whether the next byte is the first of a frame. A control
// frame may stand between the frames of a message.
func (f *frames) between() bool { return f.have == 0 && f.left == 0 && !f.broken }

// closeFrame is the last word to a client whose session has ended: 1008,
// policy violation (RFC 6455 section 7.4.1).
var closeFrame = func() []byte {
	const code, reason = 1008, "session ended"
	frame := binary.BigEndian.AppendUint16([]byte{0x80 | opcodeClose, 2 + byte(len(reason))}, code)
	return append(frame, reason...)
}()

// cutTime bounds each of the steps in which a connection is cut: the write
// that is under way, the close frame, and the client's answer to it.
const cutTime = 200 * time.Millisecond

// hijackedConn is a connection that a handler has taken over, and that can
// still be cut. It knows where in the frames of a WebSocket it is, to end it
// with a close frame, and not in the middle of another.
type hijackedConn struct {
	net.Conn
	closed func()
	state  atomic.Int32
	done   chan struct{} // closed when it is cut, and the last word said

	reading chan struct{} // full while somebody reads: a lock that can be waited for with a limit
	writing chan struct{} // likewise
	frames  *frames       // that were sent; nil if it is no WebSocket
}

// The states of a hijackedConn.
const (
	connOpen int32 = iota
	connCut
	connClosed
)

func newHijackedConn(conn net.Conn, isWebSocket bool, closed func()) *hijackedConn {
	c := &hijackedConn{Conn: conn, closed: closed, done: make(chan struct{}), reading: make(chan struct{}, 1), writing: make(chan struct{}, 1)}
	if isWebSocket {
		c.frames = new(frames)
	}
	return c
}

// Read implements net.Conn. What comes after a cut goes nowhere.
func (c *hijackedConn) Read(p []byte) (int, error) {
	c.reading <- struct{}{}
	defer func() { <-c.reading }()
	if c.state.Load() != connOpen {
		return 0, net.ErrClosed
	}
	n, err := c.Conn.Read(p)
	if c.state.Load() != connOpen {
		return 0, net.ErrClosed
	}
	return n, err
}

// Write implements net.Conn.
func (c *hijackedConn) Write(p []byte) (int, error) {
	c.writing <- struct{}{}
	defer func() { <-c.writing }()
	if c.state.Load() != connOpen {
		return 0, net.ErrClosed
	}
	n, err := c.Conn.Write(p)
	if c.frames != nil {
		c.frames.feed(p[:n])
	}
	return n, err
}

// CloseWrite ends one direction, where the connection can.
func (c *hijackedConn) CloseWrite() error {
	if half, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return errors.ErrUnsupported
}

// Close implements net.Conn. Where the connection is just being cut it waits,
// a moment, so that the last word gets out.
func (c *hijackedConn) Close() error {
	if c.state.CompareAndSwap(connOpen, connClosed) {
		c.closed()
		return c.Conn.Close()
	}
	if c.state.Load() == connCut {
		<-c.done
		return nil
	}
	return net.ErrClosed
}

// cut ends the connection soon, and does not wait for that.
func (c *hijackedConn) cut() {
	if c.state.CompareAndSwap(connOpen, connCut) {
		go c.end()
	}
}

func (c *hijackedConn) end() {
	defer c.closed()
	defer c.Conn.Close() //nolint:errcheck // it is over either way
	defer close(c.done)
	// A write that is under way may end its frame, in time.
	_ = c.SetWriteDeadline(time.Now().Add(cutTime))
	if !lockSoon(c.writing) {
		return
	}
	defer func() { <-c.writing }()
	if c.frames == nil || !c.frames.between() || c.frames.closed {
		return
	}
	_ = c.SetWriteDeadline(time.Now().Add(cutTime))
	if _, err := c.Conn.Write(closeFrame); err != nil {
		return
	}
	// Who closes with bytes unread resets the connection, and the client would
	// not see the close frame. It answers with its own, and hangs up.
	_ = c.SetReadDeadline(time.Now().Add(cutTime))
	if lockSoon(c.reading) {
		_, _ = io.Copy(io.Discard, c.Conn)
		<-c.reading
	}
}

// lockSoon takes a lock, or gives up on a connection that knows no deadlines.
func lockSoon(lock chan struct{}) bool {
	timer := time.NewTimer(2 * cutTime)
	defer timer.Stop()
	select {
	case lock <- struct{}{}:
		return true
	case <-timer.C:
		return false
	}
}
