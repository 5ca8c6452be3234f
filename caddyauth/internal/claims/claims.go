// Package claims reads what a token says about its subject: JSON members by
// their exact names, with strict types, and by path where an operator names
// one.
//
// It exists because encoding/json matches names without regard to case and
// lets the last duplicate win: a signed token {"sub":"user","SUB":"admin"}
// would decode to the subject "admin".
package claims

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"strings"
	"time"
	"unicode/utf8"
)

// ErrMissing says that a claim is absent or null.
var ErrMissing = errors.New("claim is missing")

// maxNumericDate is the last second of the year 9999, the largest NumericDate
// that still is a date (RFC 7519 section 2).
const maxNumericDate = 253402300799

// Set is the claims of one token, or what was put together of several. The
// zero value has none. It is immutable and may be read concurrently.
type Set struct {
	text    string // as it was parsed; empty for a set that was put together
	members map[string]any
	later   *later // where members are not read before somebody asks; nil: they are read
}

// Parse reads one JSON object. It refuses what could be read in two ways:
// invalid UTF-8, a member that stands twice, anything behind the object, and
// a member whose name equals one of guarded but for its case (RFC 7519
// section 4, RFC 8725 section 2.6).
func Parse(data []byte, guarded ...string) (Set, error) {
	if !utf8.Valid(data) {
		return Set{}, errors.New("not valid UTF-8")
	}
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.UseNumber()
	if tok, err := dec.Token(); err != nil || tok != json.Delim('{') {
		return Set{}, errors.New("not a JSON object")
	}
	members := make(map[string]any)
	for dec.More() {
		tok, err := dec.Token()
		if err != nil {
			return Set{}, errors.New("malformed JSON")
		}
		name, _ := tok.(string)
		if _, ok := members[name]; ok {
			return Set{}, fmt.Errorf("member %.64q stands twice", name)
		}
		for _, g := range guarded {
			if name != g && strings.EqualFold(name, g) {
				return Set{}, fmt.Errorf("member %.64q imitates %q", name, g)
			}
		}
		var value any
		if err := dec.Decode(&value); err != nil {
			return Set{}, errors.New("malformed JSON")
		}
		members[name] = value
	}
	if _, err := dec.Token(); err != nil {
		return Set{}, errors.New("malformed JSON")
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return Set{}, errors.New("something follows the JSON object")
	}
	return Set{text: string(data), members: members}, nil
}

// Join returns the claims of several sets. Of a claim that more than one has,
// the first set's counts, whole: objects are not put together. Nor does a
// later set's name with a dot in it hide what the path leads to in an earlier
// one (Lookup would find it first), or a later set's email_verified vouch for
// an earlier one's address.
func Join(sets ...Set) Set {
	if len(sets) == 1 {
		return sets[0]
	}
	members := make(map[string]any)
	for _, set := range sets {
		earlier := maps.Clone(members)
		for name, value := range set.all() {
			if _, taken := lookup(earlier, name); !taken && value != nil && (name != verified || earlier[email] == nil) {
				members[name] = value
			}
		}
	}
	return Set{members: members}
}

// Filter returns the claims whose names are wanted.
func (s Set) Filter(wanted func(name string) bool) Set {
	members := make(map[string]any)
	for name, value := range s.all() {
		if wanted(name) {
			members[name] = value
		}
	}
	return Set{members: members}
}

// Raw returns the claims as JSON: for a set that was parsed, the very text. It is
// empty for a set without claims.
func (s Set) Raw() []byte {
	if s.text != "" || len(s.all()) == 0 {
		return []byte(s.text)
	}
	raw, _ := json.Marshal(s.all()) // never fails: it was JSON, and numbers keep their digits
	return raw
}

// Size is how many bytes of memory the claims take by now, as nearly as it can be
// told: more once they have been read.
func (s Set) Size() int {
	size := len(s.text)
	if members := s.read(); members != nil {
		size += sizeOf(members)
	}
	return size
}

func sizeOf(v any) (size int) {
	const boxed, slot = 16, 2*16 + 1 // a string or a number behind an interface; a name and its value in a map
	switch v := v.(type) {
	case string:
		return boxed + rounded(len(v))
	case json.Number:
		return boxed + rounded(len(v))
	case []any:
		size = 24 + boxed*len(v)
		for _, member := range v {
			size += sizeOf(member)
		}
	case map[string]any:
		slots := 8 // they are filled to seven eighths, and doubled then
		for len(v) > 8 && len(v) > slots/8*7 {
			slots *= 2
		}
		size = 96 + slot*slots
		for name, member := range v {
			size += rounded(len(name)) + sizeOf(member)
		}
	}
	return size
}

// rounded is what the allocator gives for a text.
func rounded(length int) int { return (length + 15) &^ 15 }

// Has reports whether the claim is there and not null.
func (s Set) Has(name string) bool { return s.all()[name] != nil }

// Mentions reports whether the claim is there at all, be it null: for a claim
// that must not be there, whatever its value.
func (s Set) Mentions(name string) bool {
	_, ok := s.all()[name]
	return ok
}

// Text returns a claim that must be a string: ErrMissing when it is absent,
// another error when it is of another type.
func (s Set) Text(name string) (string, error) {
	switch v := s.all()[name].(type) {
	case nil:
		return "", ErrMissing
	case string:
		return v, nil
	default:
		return "", errors.New("claim is not a string")
	}
}

// Object returns a claim that must be a JSON object.
func (s Set) Object(name string) (Set, error) {
	switch v := s.all()[name].(type) {
	case nil:
		return Set{}, ErrMissing
	case map[string]any:
		return Set{members: v}, nil
	default:
		return Set{}, errors.New("claim is not an object")
	}
}

// Flag returns a claim that must be a JSON boolean.
func (s Set) Flag(name string) (bool, error) {
	switch v := s.all()[name].(type) {
	case nil:
		return false, ErrMissing
	case bool:
		return v, nil
	default:
		return false, errors.New("claim is not a boolean")
	}
}

// Texts returns a claim that must be a string or an array of strings, as
// "aud" is (RFC 7519 section 4.1.3).
func (s Set) Texts(name string) ([]string, error) {
	switch v := s.all()[name].(type) {
	case nil:
		return nil, ErrMissing
	case string:
		return []string{v}, nil
	case []any:
		list := make([]string, len(v))
		for i, member := range v {
			text, ok := member.(string)
			if !ok {
				return nil, errors.New("claim has a member that is not a string")
			}
			list[i] = text
		}
		return list, nil
	default:
		return nil, errors.New("claim is neither a string nor an array of strings")
	}
}

// Time returns a claim that must be a NumericDate (RFC 7519 section 2): a
// number of seconds, possibly with a fraction, from 1970 up to the year 9999.
func (s Set) Time(name string) (time.Time, error) {
	switch v := s.all()[name].(type) {
	case nil:
		return time.Time{}, ErrMissing
	case json.Number:
		seconds, err := v.Float64()
		if err != nil || math.IsNaN(seconds) || seconds < 0 || seconds > maxNumericDate {
			return time.Time{}, errors.New("claim is not a date between 1970 and 9999")
		}
		whole, fraction := math.Modf(seconds)
		return time.Unix(int64(whole), int64(fraction*1e9)), nil
	default:
		return time.Time{}, errors.New("claim is not a number")
	}
}

// Lookup finds a claim by path, for placeholders and rules: first the member
// with exactly that name ("https://example.com/roles"), then through nested
// objects at each dot ("realm_access.roles"). A null counts as missing.
//
// The value is a string, bool, int64, float64, List or Object.
func (s Set) Lookup(path string) (any, bool) {
	v, ok := lookup(s.all(), path)
	if !ok {
		return nil, false
	}
	return value(v), true
}

func lookup(members map[string]any, path string) (any, bool) {
	if v := members[path]; v != nil {
		return v, true
	}
	for i := range len(path) {
		if path[i] != '.' {
			continue
		}
		child, ok := members[path[:i]].(map[string]any)
		if !ok {
			continue
		}
		if v, ok := lookup(child, path[i+1:]); ok {
			return v, true
		}
	}
	return nil, false
}
