package sealed

import (
	"errors"
	"testing"
	"time"
)

// What a Writer wrote comes back, to the millisecond; times before 1970 and the
// zero time come back as none.
func TestRecordTimes(t *testing.T) {
	at := time.Date(2027, 1, 15, 8, 0, 0, 123_456_789, time.UTC)
	for _, tc := range []struct {
		name     string
		in, want time.Time
	}{
		{"a time", at, at.Truncate(time.Millisecond)},
		{"the zero time", time.Time{}, time.Time{}},
		{"before 1970", time.Unix(-1, 0), time.Time{}},
		{"the end of the year 9999", time.UnixMilli(maxMilliseconds), time.UnixMilli(maxMilliseconds)},
	} {
		var w Writer
		w.Time(tc.in)
		r := NewReader(w.Bytes())
		if got := r.Time(); !got.Equal(tc.want) || got.IsZero() != tc.want.IsZero() || r.Err() != nil {
			t.Errorf("%s: got %s, %v; want %s", tc.name, got, r.Err(), tc.want)
		}
	}
}

// After the first thing that cannot be read, everything reads as zero, and Err
// says so: half a session must not pass for one.
func TestReaderStaysFailed(t *testing.T) {
	number := func(n uint64) []byte { var w Writer; w.Number(n); return w.Bytes() }
	for name, tc := range map[string]struct {
		data []byte
		read func(*Reader)
	}{
		"a text longer than the record": {append(number(5), "abcd"...), func(r *Reader) { r.Text() }},
		"a number without end":          {[]byte{0x80}, func(r *Reader) { r.Number() }},
		"a number of more than 64 bits": {[]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f, 1}, func(r *Reader) { r.Number() }},
		"a time after the year 9999":    {append(number(maxMilliseconds+1), number(7)...), func(r *Reader) { r.Time() }},
	} {
		r := NewReader(tc.data)
		tc.read(r)
		if !errors.Is(r.Err(), ErrRecord) {
			t.Errorf("%s: got %v, want ErrRecord", name, r.Err())
		}
		if text, n, at := r.Text(), r.Number(), r.Time(); text != "" || n != 0 || !at.IsZero() || !errors.Is(r.Err(), ErrRecord) {
			t.Errorf("%s: afterwards got %q, %d, %s, %v", name, text, n, at, r.Err())
		}
	}
}

// A record of an older version is shorter: what it lacks reads as zero.
func TestReaderOfAnOlderRecord(t *testing.T) {
	var w Writer
	w.Text("alice")
	r := NewReader(w.Bytes())
	if text, n, at := r.Text(), r.Number(), r.Time(); text != "alice" || n != 0 || !at.IsZero() || r.Err() != nil {
		t.Errorf("got %q, %d, %s, %v", text, n, at, r.Err())
	}
}
