package caddyauth

import (
	"bytes"
	"encoding/binary"
	"io"
	"net"
	"testing"
	"testing/synctest"
	"time"
)

// frame makes a frame as servers send them.
func frame(first byte, size int) []byte {
	f := []byte{first}
	switch {
	case size < 126:
		f = append(f, byte(size))
	case size < 1<<16:
		f = binary.BigEndian.AppendUint16(append(f, 126), uint16(size))
	default:
		f = binary.BigEndian.AppendUint64(append(f, 127), uint64(size))
	}
	return append(f, bytes.Repeat([]byte{0x88}, size)...) // as if it were full of close frames
}

// boundaries is the reference: it has all there is, reads frame by frame, and
// returns where they end, and where a close frame begins and the stream breaks;
// len(all)+1 stands for nowhere.
func boundaries(all []byte) (ends map[int]bool, closes, breaks int) {
	ends, closes, breaks = map[int]bool{0: true}, len(all)+1, len(all)+1
	for at := 0; at+2 <= len(all); {
		size, payload := 2, uint64(all[at+1]&0x7f)
		extended := map[uint64]int{126: 2, 127: 8}[payload]
		if size += extended; all[at+1]&0x80 != 0 {
			size += 4
		}
		if at+size > len(all) {
			break
		}
		if extended > 0 {
			var padded [8]byte
			copy(padded[8-extended:], all[at+2:])
			payload = binary.BigEndian.Uint64(padded[:])
		}
		if all[at]&0xf == opcodeClose {
			closes = min(closes, at+size)
		}
		if payload > 1<<63-1 {
			breaks = at + size
			break
		}
		if payload > uint64(len(all)-at-size) {
			break
		}
		at += size + int(payload)
		ends[at] = true
	}
	return ends, closes, breaks
}

func checkFrames(t *testing.T, all []byte, step int) {
	t.Helper()
	ends, closes, breaks := boundaries(all)
	var f frames
	for at := 0; ; {
		if got, want := f.between(), ends[at] && at < breaks; got != want {
			t.Fatalf("after %d bytes, in steps of %d: between frames: %v, want %v", at, step, got, want)
		}
		if got, want := f.closed, at >= closes; got != want {
			t.Fatalf("after %d bytes, in steps of %d: closed: %v, want %v", at, step, got, want)
		}
		if at == len(all) {
			return
		}
		next := min(at+step, len(all))
		f.feed(all[at:next])
		at = next
	}
}

// A82: wherever the stream is split, the parser knows where a frame ends: a
// close frame in the middle of another would be a payload that the upstream
// never sent.
func FuzzFrames(f *testing.F) {
	var all []byte
	for _, size := range []int{0, 1, 125, 126, 127} {
		all = append(all, frame(0x81, size)...)
	}
	f.Add(all, uint16(1))
	f.Add(all, uint16(3))
	f.Add(append(frame(0x01, 5), frame(0x89, 2)...), uint16(2))                          // a ping between fragments
	f.Add([]byte{0x81, 0x85, 1, 2, 3, 4, 5, 6, 7, 8, 9, 0x81}, uint16(4))                // masked
	f.Add(append(frame(0x88, 2), frame(0x81, 2)...), uint16(1))                          // after a close frame
	f.Add([]byte{0x82, 127, 0xff, 0, 0, 0, 0, 0, 0, 0, 1, 2, 3}, uint16(5))              // longer than anything
	f.Add([]byte{0x82, 127, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff}, uint16(10)) // just not
	f.Fuzz(func(t *testing.T, all []byte, step uint16) { checkFrames(t, all, max(int(step), 1)) })
}

// Frames of all three sizes of a header.
func TestFramesOfAnySize(t *testing.T) {
	var all []byte
	for _, size := range []int{65535, 65536, 0, 125, 126, 1 << 17} {
		all = append(all, frame(0x82, size)...)
	}
	for _, step := range []int{1, 2, 4093, 32 << 10, len(all)} {
		checkFrames(t, all, step)
	}
}

// cutPipe writes to one end of a WebSocket, cuts it, and returns what the
// other end got.
func cutPipe(t *testing.T, isWebSocket bool, before []byte) []byte {
	t.Helper()
	ours, theirs := net.Pipe()
	closed := 0
	c := newHijackedConn(ours, isWebSocket, func() { closed++ })
	got := make(chan []byte)
	go func() {
		all, _ := io.ReadAll(theirs)
		got <- all
		_ = theirs.Close()
	}()
	if _, err := c.Write(before); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	c.cut()
	c.cut()
	if err := c.Close(); err != nil { // as the handler does, whose context has ended
		t.Error(err)
	}
	all := <-got
	if took := time.Since(began); took > time.Second {
		t.Errorf("it took %s", took)
	}
	synctest.Wait()
	if _, err := c.Write([]byte("more")); err == nil {
		t.Error("it still writes")
	}
	if _, err := c.Read(make([]byte, 1)); err == nil {
		t.Error("it still reads")
	}
	if closed != 1 {
		t.Errorf("closed %d times", closed)
	}
	return all
}

// A82: the close frame is written where a frame has just ended, once, and
// nowhere else.
func TestA82CloseFrames(t *testing.T) {
	hello := frame(0x81, 5)
	for _, tc := range []struct {
		name        string
		isWebSocket bool
		before      []byte
		polite      bool
	}{
		{"before the first frame", true, nil, true},
		{"after a frame", true, hello, true},
		{"between the fragments of a message", true, frame(0x01, 3), true},
		{"in a header", true, hello[:1], false},
		{"in a payload", true, hello[:4], false},
		{"after the upstream's own close frame", true, frame(0x88, 2), false},
		{"in another protocol", false, hello, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				want := bytes.Clone(tc.before)
				if tc.polite {
					want = append(want, 0x88, 15, 0x03, 0xf0)
					want = append(want, "session ended"...)
				}
				if got := cutPipe(t, tc.isWebSocket, tc.before); !bytes.Equal(got, want) {
					t.Errorf("got %q, want %q", got, want)
				}
			})
		})
	}
}

// A82: a client that reads nothing does not keep its connection.
func TestA82CutOfABlockedSocket(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ours, theirs := net.Pipe()
		c := newHijackedConn(ours, true, func() {})
		failed := make(chan error)
		go func() {
			_, err := c.Write(frame(0x81, 1000))
			failed <- err
		}()
		synctest.Wait()
		began := time.Now()
		c.cut()
		if err := <-failed; err == nil || time.Since(began) > time.Second {
			t.Errorf("after %s: %v", time.Since(began), err)
		}
		<-c.done
		if n, err := theirs.Read(make([]byte, 1)); err == nil {
			t.Errorf("%d bytes came", n)
		}
	})
}

// A connection that nobody cuts is what it was.
func TestHijackedConnections(t *testing.T) {
	ours, theirs := net.Pipe()
	closed := 0
	c := newHijackedConn(ours, true, func() { closed++ })
	go func() { _, _ = theirs.Write([]byte("hello")) }()
	got := make([]byte, 5)
	if _, err := io.ReadFull(c, got); err != nil || string(got) != "hello" {
		t.Errorf("got %q, %v", got, err)
	}
	if err := c.CloseWrite(); err == nil {
		t.Error("a pipe has no halves")
	}
	if err := c.Close(); err != nil || closed != 1 {
		t.Errorf("%v, closed %d times", err, closed)
	}
	c.cut()
	if err := c.Close(); err == nil || closed != 1 {
		t.Errorf("again: %v, closed %d times", err, closed)
	}
}
