package session

import (
	"bytes"
	"compress/flate"
	"encoding/binary"
	"encoding/hex"
	"io"
	"sync"

	"github.com/pkce-auth/caddy-pkce-auth/caddyauth/internal/sealed"
)

// unpacker reads what a packer wrote. It is only given what a seal has vouched
// for, and bounds all it does nevertheless (A83). After the first failure it
// reads nothing but zero values, and Err says so.
type unpacker struct {
	sealed.Reader // of the words
	noise         []byte
	pieces        []piece // of noise, as far as they were met
	next          uint64
	left          int // how much text may still come
	failed        bool

	source   bytes.Reader
	inflater io.Reader
	words    []byte
	text     []byte
	token    []byte
}

// piece is a piece of noise, and the mark that says how it was written.
type piece struct {
	kind  byte
	bytes []byte
}

// unpackers are reused: one costs some 45 kB.
var unpackers = sync.Pool{New: func() any {
	return &unpacker{inflater: flate.NewReaderDict(bytes.NewReader(nil), dictionary)}
}}

// release gives an unpacker back. What it has read stays in its buffers until the
// next session is.
func (u *unpacker) release() {
	clear(u.pieces)
	u.Reader, u.noise, u.pieces = sealed.Reader{}, nil, u.pieces[:0]
	u.source.Reset(nil)
	unpackers.Put(u)
}

// unpack begins to read what pack wrote. Whoever has read it releases it.
func unpack(data []byte) (*unpacker, error) {
	if len(data) == 0 || data[0] != codecVersion {
		return nil, errCodec
	}
	length, n := binary.Uvarint(data[1:])
	if n <= 0 || length > uint64(len(data)-1-n) {
		return nil, errCodec
	}
	u := unpackers.Get().(*unpacker)
	deflated := data[1+n:][:length]
	if !u.inflate(deflated) {
		u.release()
		return nil, errCodec
	}
	u.Reader = *sealed.NewReader(u.words)
	u.noise, u.next, u.left, u.failed = data[1+n+len(deflated):], 0, maxRecord, false
	return u, nil
}

// inflate gets the words.
func (u *unpacker) inflate(deflated []byte) bool {
	u.source.Reset(deflated)
	if u.inflater.(flate.Resetter).Reset(&u.source, dictionary) != nil {
		return false
	}
	if u.words == nil {
		u.words = make([]byte, 0, 8<<10)
	}
	u.words = u.words[:0]
	for {
		if len(u.words) == cap(u.words) {
			if len(u.words) > maxRecord {
				return false
			}
			u.words = append(u.words, 0)[:len(u.words)]
		}
		n, err := u.inflater.Read(u.words[len(u.words):cap(u.words)])
		u.words = u.words[:len(u.words)+n]
		if err == io.EOF {
			return len(u.words) <= maxRecord
		}
		if err != nil {
			return false
		}
	}
}

// Err reports whether something could not be read.
func (u *unpacker) Err() error {
	if u.failed {
		return errCodec
	}
	return u.Reader.Err()
}

func (u *unpacker) fail() {
	u.failed, u.left, u.noise = true, 0, nil
	u.Reader = sealed.Reader{}
}

// take takes the next n bytes of noise.
func (u *unpacker) take(n uint64) []byte {
	if n > uint64(len(u.noise)) {
		u.fail()
		return nil
	}
	b := u.noise[:n:n]
	u.noise = u.noise[n:]
	return b
}

// spend counts n bytes of text, and reports whether they may come.
func (u *unpacker) spend(n int) bool {
	if n > u.left {
		u.fail()
		return false
	}
	u.left -= n
	return true
}

// Raw reads what is noise altogether. It is valid as long as the data.
func (u *unpacker) Raw() []byte {
	b := u.take(u.Number())
	if !u.spend(len(b)) {
		return nil
	}
	return b
}

// Text reads a text.
func (u *unpacker) Text() string { return string(u.Bytes()) }

// Bytes is Text as bytes, which are valid until the next text is read.
func (u *unpacker) Bytes() []byte {
	packed := u.Reader.Bytes()
	u.text = u.text[:0]
	for len(packed) > 0 {
		i := 0
		for i < len(packed) && packed[i] >= firstWord {
			i++
		}
		if !u.spend(i) {
			return nil
		}
		u.text = append(u.text, packed[:i]...)
		if packed = packed[i:]; len(packed) > 0 {
			packed = packed[u.mark(packed):]
		}
		if u.failed {
			return nil
		}
	}
	return u.text
}

// mark reads a mark, and what it stands for, and returns the size of the mark.
func (u *unpacker) mark(packed []byte) (size int) {
	kind, n := packed[0], 0
	switch kind {
	case markItself, markBase64, markHex:
		if len(packed) < 2 {
			u.fail()
			return 1
		}
		n = int(packed[1])
		size = 2
	case markAgain:
		number, digits := binary.Uvarint(packed[1:])
		if digits <= 0 {
			u.fail()
			return 1
		}
		u.again(number)
		return 1 + digits
	default:
		size = 1
	}
	switch kind {
	case markItself:
		if u.spend(1) {
			u.text = append(u.text, byte(n))
		}
	case markNext:
		u.again(u.next)
	case markBase64:
		u.piece(piece{kind, u.take(uint64(3 * n))})
	case markHex:
		u.piece(piece{kind, u.take(uint64(n))})
	case markGUID:
		u.piece(piece{kind, u.take(16)})
	}
	return size
}

// again repeats a piece.
func (u *unpacker) again(number uint64) {
	if number >= uint64(len(u.pieces)) {
		u.fail()
		return
	}
	u.next = number + 1
	u.write(u.pieces[number])
}

// piece writes a piece for the first time.
func (u *unpacker) piece(p piece) {
	if u.failed {
		return
	}
	u.pieces = append(u.pieces, p)
	u.write(p)
}

func (u *unpacker) write(p piece) {
	size := 2 * len(p.bytes)
	switch p.kind {
	case markBase64:
		size = len(p.bytes) / 3 * 4
	case markGUID:
		size += 4
	}
	switch {
	case !u.spend(size):
	case p.kind == markBase64:
		u.text = rawBase64.AppendEncode(u.text, p.bytes)
	case p.kind == markHex:
		u.text = hex.AppendEncode(u.text, p.bytes)
	default:
		u.text = hex.AppendEncode(u.text, p.bytes[:4])
		for _, part := range [][]byte{p.bytes[4:6], p.bytes[6:8], p.bytes[8:10], p.bytes[10:]} {
			u.text = hex.AppendEncode(append(u.text, '-'), part)
		}
	}
}
