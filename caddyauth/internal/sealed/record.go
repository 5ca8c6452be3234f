package sealed

import (
	"encoding/binary"
	"errors"
	"time"
)

// ErrRecord says that a record is cut short or holds impossible lengths.
var ErrRecord = errors.New("malformed record")

// maxMilliseconds is the end of the year 9999.
const maxMilliseconds = 253402300799_999

// Writer appends the fields of a record, each in a form that cannot run into
// the next: numbers as uvarints, strings behind their length.
type Writer struct{ b []byte }

// Bytes returns what was written.
func (w *Writer) Bytes() []byte { return w.b }

// Text appends a string.
func (w *Writer) Text(s string) { w.b = appendText(w.b, s) }

// Number appends a number.
func (w *Writer) Number(n uint64) { w.b = binary.AppendUvarint(w.b, n) }

// Time appends a time in whole milliseconds; one before 1970, and the zero
// time, become 0.
func (w *Writer) Time(t time.Time) { w.Number(uint64(max(0, t.UnixMilli()))) }

// Reader reads what a Writer wrote. After the first failure every read gives
// a zero value, and Err says so: a caller checks once, at the end. A field
// that was added to a record later reads as zero from an older one.
type Reader struct {
	b      []byte
	failed bool
}

// NewReader reads from b, which must not change meanwhile.
func NewReader(b []byte) *Reader { return &Reader{b: b} }

// Err returns ErrRecord when something could not be read.
func (r *Reader) Err() error {
	if r.failed {
		return ErrRecord
	}
	return nil
}

// Text reads a string.
func (r *Reader) Text() string { return string(r.Bytes()) }

// Bytes is Text for who does not keep it: it shares its memory with what is read.
func (r *Reader) Bytes() []byte {
	n := r.Number()
	if n > uint64(len(r.b)) {
		r.failed, r.b = true, nil
		return nil
	}
	b := r.b[:n:n]
	r.b = r.b[n:]
	return b
}

// Number reads a number.
func (r *Reader) Number() uint64 {
	if len(r.b) == 0 {
		return 0
	}
	n, size := binary.Uvarint(r.b)
	if size <= 0 {
		r.failed, r.b = true, nil
		return 0
	}
	r.b = r.b[size:]
	return n
}

// Time reads a time; 0 becomes the zero time.
func (r *Reader) Time() time.Time {
	n := r.Number()
	switch {
	case n == 0:
		return time.Time{}
	case n > maxMilliseconds:
		r.failed, r.b = true, nil
		return time.Time{}
	default:
		return time.UnixMilli(int64(n))
	}
}
