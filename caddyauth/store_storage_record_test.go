package caddyauth

import (
	"bytes"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pkce-auth/caddy-pkce-auth/caddyauth/store"
)

// rechecked gives a record the checksum of what it is now.
func rechecked(data []byte) []byte {
	b := data[:len(data)-4]
	return binary.BigEndian.AppendUint32(slices.Clone(b), crc32.ChecksumIEEE(b))
}

func TestStoredRecordsAreReadStrictly(t *testing.T) {
	r := store.Record{Version: 1<<64 - 1, Expires: time.UnixMilli(1_800_000_000_123), Indexes: []string{"a", strings.Repeat("b", 128)}, Value: []byte{0, 255, '\n'}}
	whole := encodeRecord(r)
	got, err := decodeRecord(whole)
	if err != nil || got.Version != r.Version || !got.Expires.Equal(r.Expires) || !slices.Equal(got.Indexes, r.Indexes) || !bytes.Equal(got.Value, r.Value) {
		t.Fatalf("got %+v and %v, want %+v", got, err, r)
	}
	for i := range whole {
		if _, err := decodeRecord(whole[:i]); !errors.Is(err, errGarbled) {
			t.Errorf("the first %d bytes: got %v, want %v", i, err, errGarbled)
		}
		for bit := range 8 {
			flipped := slices.Clone(whole)
			flipped[i] ^= 1 << bit
			if _, err := decodeRecord(flipped); !errors.Is(err, errGarbled) {
				t.Errorf("bit %d of byte %d flipped: got %v, want %v", bit, i, err, errGarbled)
			}
		}
	}
	tooMany := slices.Clone(whole)
	tooMany[18] = 200 // indexes
	for name, data := range map[string][]byte{
		"more indexes than there are": rechecked(tooMany),
		"nothing but a checksum":      rechecked(make([]byte, 4)),
		"format 0":                    rechecked(make([]byte, 64)),
		"shorter than its head":       rechecked([]byte{1, 2, 3, 0, 0, 0, 0}),
	} {
		if _, err := decodeRecord(data); !errors.Is(err, errGarbled) {
			t.Errorf("%s: got %v, want %v", name, err, errGarbled)
		}
	}
}

func FuzzStoredRecord(f *testing.F) {
	f.Add([]byte{}, uint64(1), int64(0), "index", []byte("value"))
	f.Add(encodeRecord(store.Record{Version: 2, Indexes: []string{"a", "b"}, Value: []byte("x")}), uint64(0), int64(-1), "", []byte{})
	f.Fuzz(func(t *testing.T, data []byte, version uint64, expires int64, indexes string, value []byte) {
		// Whatever is read is written the same: nothing means two things.
		for _, data := range [][]byte{data, rechecked(append(slices.Clone(data), 0, 0, 0, 0))} {
			if r, err := decodeRecord(data); err == nil && !bytes.Equal(encodeRecord(r), data) {
				t.Errorf("%x is read, and written as %x", data, encodeRecord(r))
			}
		}
		names := strings.Fields(indexes)
		if checkNames("key", names...) != nil {
			return
		}
		r := store.Record{Version: version, Expires: time.UnixMilli(expires), Indexes: names, Value: value}
		got, err := decodeRecord(encodeRecord(r))
		if err != nil || got.Version != version || !got.Expires.Equal(r.Expires) || !slices.Equal(got.Indexes, names) || !bytes.Equal(got.Value, value) {
			t.Errorf("got %+v and %v, want %+v", got, err, r)
		}
	})
}
