package caddyauth

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"hash/crc32"
	"path"
	"strings"
	"time"

	"github.com/pkce-auth/caddy-pkce-auth/caddyauth/store"
)

// A record in the storage is
//
//	format     1 byte, 1
//	version    8 bytes, as all numbers with the highest first
//	expires    8 bytes, milliseconds since 1970
//	indexes    2 bytes, how many; each 1 byte, how long, and the name
//	value      the rest, but
//	checksum   4 bytes: CRC-32 (IEEE) of all before
//
// The checksum tells what is cut short, or full of zeros after a crash, from
// what a later version of this program has written: every format ends with it.
// It keeps nobody from writing what they like; the value is sealed for that.
const (
	recordFormat  = 1
	recordMinimum = 1 + 8 + 8 + 2 + 4
)

var (
	errGarbled     = errors.New("what is stored is cut short or garbled")
	errLaterFormat = errors.New("what is stored was written by a later version of this program")
)

// encodeRecord writes a record whose names have been checked.
func encodeRecord(r store.Record) []byte {
	b := make([]byte, 0, recordMinimum+len(r.Value)+len(r.Indexes)*64)
	b = append(b, recordFormat)
	b = binary.BigEndian.AppendUint64(b, r.Version)
	b = binary.BigEndian.AppendUint64(b, uint64(r.Expires.UnixMilli()))
	b = binary.BigEndian.AppendUint16(b, uint16(len(r.Indexes)))
	for _, index := range r.Indexes {
		b = append(b, byte(len(index)))
		b = append(b, index...)
	}
	b = append(b, r.Value...)
	return binary.BigEndian.AppendUint32(b, crc32.ChecksumIEEE(b))
}

// decodeRecord reads what encodeRecord writes, and nothing else.
func decodeRecord(data []byte) (store.Record, error) {
	if len(data) < 1+4 {
		return store.Record{}, errGarbled
	}
	b, checksum := data[:len(data)-4], data[len(data)-4:]
	switch {
	case crc32.ChecksumIEEE(b) != binary.BigEndian.Uint32(checksum) || b[0] == 0:
		return store.Record{}, errGarbled
	case b[0] != recordFormat:
		return store.Record{}, fmt.Errorf("%w: format %d", errLaterFormat, b[0])
	case len(data) < recordMinimum:
		return store.Record{}, errGarbled
	}
	r := store.Record{
		Version: binary.BigEndian.Uint64(b[1:]),
		Expires: time.UnixMilli(int64(binary.BigEndian.Uint64(b[9:]))),
	}
	count := int(binary.BigEndian.Uint16(b[17:]))
	b = b[19:]
	for range count {
		if len(b) == 0 || len(b) < 1+int(b[0]) {
			return store.Record{}, errGarbled
		}
		index := string(b[1 : 1+int(b[0])])
		if checkNames(index) != nil {
			return store.Record{}, errGarbled
		}
		r.Indexes = append(r.Indexes, index)
		b = b[1+len(index):]
	}
	r.Value = b
	return r, nil
}

// storedState is what is at a path of the storage.
type storedState struct {
	exists  bool
	garbled bool
	data    []byte
	record  store.Record
}

// live says whether there is a record that has not expired.
func (s storedState) live(now time.Time) bool {
	return s.exists && !s.garbled && now.Before(s.record.Expires)
}

// version is that of the record as others see it: 0 when there is none.
func (s storedState) version(now time.Time) uint64 {
	if !s.live(now) {
		return 0
	}
	return s.record.Version
}

// indexes are those whose entries are there for certain: of what has expired,
// a sweep may have taken some.
func (s storedState) indexes(now time.Time) []string {
	if !s.live(now) {
		return nil
	}
	return s.record.Indexes
}

// lockName names the lock of one change: of this state, at this path, into
// another. See exclusively.
func (s storedState) lockName(at string) string {
	h := sha256.New()
	h.Write([]byte(at + "\n"))
	h.Write(s.data)
	return "pkce_auth_" + hex.EncodeToString(h.Sum(nil)[:16])
}

const maxNames = 256 // of indexes of one record, far more than anybody needs

// checkNames refuses names that are not those of the contract: they become
// names of files.
func checkNames(key string, indexes ...string) error {
	if len(indexes) > maxNames {
		return fmt.Errorf("a record with %d indexes, which are too many", len(indexes))
	}
	for _, name := range append([]string{key}, indexes...) {
		odd := strings.ContainsFunc(name, func(r rune) bool {
			return (r < 'a' || r > 'z') && (r < '0' || r > '9') && r != '-' && r != '.'
		})
		if odd || name == "" || len(name) > 128 || name[0] == '-' || name[0] == '.' {
			return fmt.Errorf("a name of %d characters is none that a store keeps", len(name))
		}
	}
	return nil
}

func indexHash(index string) string {
	sum := sha256.Sum256([]byte(index))
	return hex.EncodeToString(sum[:16])
}

// indexPath is where it stands that a key is in an index. An index and a key
// together would be too long for the name of a file, hence the hash. The "i"
// comes after all digits: a walk in the order of names passes the files that
// are just being written first, before they are gone.
func indexPath(index, key string) string {
	hash := indexHash(index)
	return storageIndexes + "/" + hash[:3] + "/i" + hash + "_" + key + ".index"
}

func parseIndexPath(p string) (hash, key string, ok bool) {
	name, ok := strings.CutSuffix(path.Base(p), ".index")
	if !ok || len(name) < 34 || name[0] != 'i' || name[33] != '_' {
		return "", "", false
	}
	hash, key = name[1:33], name[34:]
	return hash, key, checkNames(key) == nil
}
