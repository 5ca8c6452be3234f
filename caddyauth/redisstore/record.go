package redisstore

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/pkce-auth/caddy-pkce-auth/caddyauth/store"
)

// A record is kept in one string: a line of text, then the value. The line is
//
//	1 <version> <expires> <nonce>[ <index>…]
//
// with the format's number, the milliseconds of the record's end since 1970,
// and a nonce that tells this Save from all others. Scripts read it, too, and
// so can people; nothing in it can hold a space but by being two things.
const format = "1"

var errFormat = errors.New("the record is in a format that this version does not know")

// encode gives the string that is kept.
func encode(record store.Record, nonce string) string {
	var b strings.Builder
	writeHeader(&b, record, nonce)
	b.Write(record.Value)
	return b.String()
}

func writeHeader(b *strings.Builder, record store.Record, nonce string) {
	// Nothing ended before 1970; what did, is over as well in that year.
	expires := max(0, record.Expires.UnixMilli())
	fmt.Fprintf(b, "%s %d %d %s", format, record.Version, expires, nonce)
	for _, index := range record.Indexes {
		b.WriteByte(' ')
		b.WriteString(index)
	}
	b.WriteByte('\n')
}

// decode reads what is kept. It accepts nothing that encode would have written
// in another way.
func decode(kept string) (record store.Record, nonce string, err error) {
	line, value, ok := strings.Cut(kept, "\n")
	fields := strings.Split(strings.Clone(line), " ") // they would keep the whole
	if !ok || len(fields) < 4 || fields[0] != format {
		return record, "", errFormat
	}
	version, err := strconv.ParseUint(fields[1], 10, 64)
	if err != nil {
		return record, "", errFormat
	}
	expires, err := strconv.ParseInt(fields[2], 10, 64)
	if err != nil {
		return record, "", errFormat
	}
	record = store.Record{
		Value:   []byte(value),
		Version: version,
		Expires: time.UnixMilli(expires),
		Indexes: fields[4:],
	}
	nonce = fields[3]
	var again strings.Builder
	if writeHeader(&again, record, nonce); again.String() != line+"\n" {
		return store.Record{}, "", errFormat
	}
	return record, nonce, nil
}

// A member of an index is the key of a record, and the nonce of the Save that
// put it there. So whoever replaces or deletes a record takes out exactly what
// that Save had put in, and never what another one puts in at the same time.
func member(key, nonce string) string { return key + " " + nonce }

// keysOf gives the keys of an index's members.
func keysOf(members []string) []string {
	seen := make(map[string]struct{}, len(members))
	keys := make([]string, 0, len(members))
	for _, m := range members {
		key, _, _ := strings.Cut(m, " ")
		if _, ok := seen[key]; !ok {
			seen[key] = struct{}{}
			keys = append(keys, key)
		}
	}
	return keys
}
