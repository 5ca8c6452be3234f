package redisstore

import (
	"errors"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pkce-auth/caddy-pkce-auth/caddyauth/store"
)

func TestRecord(t *testing.T) {
	at := time.UnixMilli(1767225600123)
	for _, want := range []store.Record{
		{Version: 1, Expires: at},
		{Version: 1, Expires: at, Value: []byte("a value\nwith\x00bytes\xff")},
		{Version: math.MaxUint64, Expires: at, Value: []byte("\n"), Indexes: []string{"sub-1"}},
		{Version: 2, Expires: time.UnixMilli(0), Indexes: []string{"a", "b.c", "d-e"}},
	} {
		kept := encode(want, "nonce")
		got, nonce, err := decode(kept)
		if err != nil || nonce != "nonce" || got.Version != want.Version || !got.Expires.Equal(want.Expires) ||
			string(got.Value) != string(want.Value) || !slices.Equal(got.Indexes, want.Indexes) {
			t.Errorf("%q became %+v, %q, %v", kept, got, nonce, err)
		}
	}
	if got := encode(store.Record{Version: 1}, "n"); got != "1 1 0 n\n" {
		t.Errorf("a record without an end became %q", got)
	}
}

// What another version has written, or somebody else, cannot be read: that is
// an error, and not the end of a session.
func TestRecordInAnotherFormat(t *testing.T) {
	for _, kept := range []string{
		"", "\n", "1", "1 1 5 n", "2 1 5 n\nv", "1 1 5\nv", "1 x 5 n\nv", "1 1 x n\nv", "1 01 5 n\nv", "1 1 05 n\nv", "1 +1 5 n\nv", "1 1 -5 n\nv",
		"1  1 5 n\nv", " 1 1 5 n\nv", "{\"version\":1}\n", "1 18446744073709551616 5 n\nv", "1 1 9223372036854775808 n\nv",
	} {
		if got, _, err := decode(kept); !errors.Is(err, errFormat) {
			t.Errorf("%q became %+v, %v", kept, got, err)
		}
	}
}

func TestKeysOf(t *testing.T) {
	if got := keysOf([]string{member("a", "1"), member("b", "2"), member("a", "3")}); !slices.Equal(got, []string{"a", "b"}) {
		t.Errorf("got %q", got)
	}
}

// What is accepted is what we would have written.
func FuzzRecord(f *testing.F) {
	f.Add("1 1 5 n\nv")
	f.Add("1 3 1767225600123 n a b\n\n")
	f.Fuzz(func(t *testing.T, kept string) {
		record, nonce, err := decode(kept)
		if err != nil {
			return
		}
		if again := encode(record, nonce); again != kept {
			t.Errorf("%q became %q", kept, again)
		}
		if strings.ContainsAny(nonce, " \n") {
			t.Errorf("%q has the nonce %q", kept, nonce)
		}
	})
}
