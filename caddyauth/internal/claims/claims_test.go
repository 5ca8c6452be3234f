package claims

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"
)

func mustParse(t *testing.T, text string, guarded ...string) Set {
	t.Helper()
	s, err := Parse([]byte(text), guarded...)
	if err != nil {
		t.Fatalf("Parse(%s): %v", text, err)
	}
	return s
}

// F05: encoding/json would let SUB override sub, and the last duplicate win.
func TestParseF05RefusesWhatReadsInTwoWays(t *testing.T) {
	guarded := []string{"sub", "nonce"}
	for _, tc := range []struct{ name, text string }{
		{"a duplicate", `{"sub":"user","sub":"admin"}`},
		{"a duplicate that is not guarded", `{"groups":["a"],"groups":["admin"]}`},
		{"a duplicate behind an escape", `{"sub":"user","\u0073ub":"admin"}`},
		{"a guarded name in capitals", `{"sub":"user","SUB":"admin"}`},
		{"a guarded name folded from U+017F", `{"sub":"user","ſub":"admin"}`},
		{"two objects", `{"sub":"user"}{"sub":"admin"}`},
		{"rubbish behind the object", `{"sub":"user"} x`},
		{"an array", `[{"sub":"user"}]`},
		{"null", `null`},
		{"nothing", ``},
		{"half an object", `{"sub":"user"`},
		{"a byte order mark", "\xef\xbb\xbf{}"},
		{"invalid UTF-8", "{\"sub\":\"\xff\"}"},
		{"a hundred thousand levels", strings.Repeat(`{"a":`, 100_000) + "1" + strings.Repeat("}", 100_000)},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if _, err := Parse([]byte(tc.text), guarded...); err == nil {
				t.Error("got no error")
			}
		})
	}
	s := mustParse(t, ` {"sub":"user","Name":"x","name":"y"} `, guarded...)
	if got, _ := s.Text("sub"); got != "user" {
		t.Errorf("sub: got %q, want user", got)
	}
	if got, _ := s.Text("name"); got != "y" {
		t.Errorf("name: got %q, want y: names are exact", got)
	}
}

func TestTypesAreStrict(t *testing.T) {
	s := mustParse(t, `{"s":"x","n":1,"null":null,"list":["a","b"],"mixed":["a",1],"empty":[],"b":true,"o":{}}`)
	for _, tc := range []struct {
		name string
		read func() error
		want error // nil: any error; errNone: none
	}{
		{"text", func() error { _, err := s.Text("s"); return err }, errNone},
		{"text of a number", func() error { _, err := s.Text("n"); return err }, nil},
		{"text of null", func() error { _, err := s.Text("null"); return err }, ErrMissing},
		{"text of nothing", func() error { _, err := s.Text("absent"); return err }, ErrMissing},
		{"texts of a string", func() error { _, err := s.Texts("s"); return err }, errNone},
		{"texts of a list", func() error { _, err := s.Texts("list"); return err }, errNone},
		{"texts of a mixed list", func() error { _, err := s.Texts("mixed"); return err }, nil},
		{"texts of an object", func() error { _, err := s.Texts("o"); return err }, nil},
		{"texts of nothing", func() error { _, err := s.Texts("absent"); return err }, ErrMissing},
		{"flag", func() error { _, err := s.Flag("b"); return err }, errNone},
		{"flag of a string", func() error { _, err := s.Flag("s"); return err }, nil},
		{"flag of nothing", func() error { _, err := s.Flag("absent"); return err }, ErrMissing},
		{"time of a string", func() error { _, err := s.Time("s"); return err }, nil},
		{"time of nothing", func() error { _, err := s.Time("absent"); return err }, ErrMissing},
	} {
		t.Run(tc.name, func(t *testing.T) {
			err := tc.read()
			switch {
			case tc.want == errNone && err != nil:
				t.Errorf("got %v, want no error", err)
			case tc.want == nil && (err == nil || errors.Is(err, ErrMissing)):
				t.Errorf("got %v, want an error about the type", err)
			case tc.want == ErrMissing && !errors.Is(err, ErrMissing):
				t.Errorf("got %v, want ErrMissing", err)
			}
		})
	}
	if got, _ := s.Texts("empty"); len(got) != 0 {
		t.Errorf("empty list: got %v", got)
	}
	if s.Has("null") || s.Has("absent") || !s.Has("n") {
		t.Error("Has: a null must count as missing, a number as there")
	}
	if !s.Mentions("null") || s.Mentions("absent") || !s.Mentions("n") {
		t.Error("Mentions: a null must count as there, as a number does")
	}
}

var errNone = errors.New("none")

func TestTime(t *testing.T) {
	for _, tc := range []struct {
		name, number string
		want         time.Time
		ok           bool
	}{
		{"whole seconds", "1700000000", time.Unix(1700000000, 0), true},
		{"a fraction", "1700000000.5", time.Unix(1700000000, 5e8), true},
		{"an exponent", "17e8", time.Unix(1700000000, 0), true},
		{"beyond 2038", "4102444800", time.Unix(4102444800, 0), true},
		{"negative", "-1", time.Time{}, false},
		{"overflowing", "1e300", time.Time{}, false},
		{"too large for a float", "1e999", time.Time{}, false},
		{"beyond the year 9999", "253402300800", time.Time{}, false},
		{"text", `"1700000000"`, time.Time{}, false},
		{"true", `true`, time.Time{}, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got, err := mustParse(t, `{"exp":`+tc.number+`}`).Time("exp")
			if (err == nil) != tc.ok || !got.Equal(tc.want) {
				t.Errorf("got %v, %v; want %v, ok %v", got, err, tc.want, tc.ok)
			}
		})
	}
}

func TestLookup(t *testing.T) {
	s := mustParse(t, `{
		"sub": "alice", "level": 3, "ratio": 0.5, "big": 18446744073709551616, "admin": true, "none": null,
		"groups": ["staff", "admin"], "empty": [],
		"https://example.com/roles": ["reader"],
		"realm_access": {"roles": ["offline"], "deep.er": {"x": "y"}},
		"a.b": "literal", "a": {"b": "nested", "c": "only nested"}
	}`)
	for _, tc := range []struct{ path, want string }{
		{"sub", "alice"},
		{"level", "3"},
		{"ratio", "0.5"},
		{"big", "18446744073709552000"},
		{"admin", "true"},
		{"groups", "staff,admin"},
		{"empty", ""},
		{"https://example.com/roles", "reader"},
		{"realm_access.roles", "offline"},
		{"realm_access.deep.er.x", "y"},
		{"a.b", "literal"},
		{"a.c", "only nested"},
		{"realm_access.deep.er", `{"x":"y"}`},
	} {
		got, ok := s.Lookup(tc.path)
		if !ok || Text(got) != tc.want {
			t.Errorf("Lookup(%q): got %q, %v; want %q", tc.path, Text(got), ok, tc.want)
		}
	}
	for _, path := range []string{"", "none", "absent", "Sub", "sub.x", "groups.0", "a.", ".a", "a..b", "realm_access.none"} {
		if got, ok := s.Lookup(path); ok {
			t.Errorf("Lookup(%q): got %v, want nothing", path, got)
		}
	}
	if _, ok := (Set{}).Lookup("sub"); ok {
		t.Error("the zero Set must have no claims")
	}
}

// A22: a member with a separator in it must not pass for two members.
func TestListA22CannotBeSplit(t *testing.T) {
	for _, tc := range []struct{ list, want string }{
		{`["a","b"]`, `a,b`},
		{`["a,admin"]`, `["a,admin"]`},
		{`["a\"b","c"]`, `["a\"b","c"]`},
		{`["a\\b"]`, `["a\\b"]`},
		{`["<b>,"]`, `["<b>,"]`},
		{`[1,true,"x"]`, `1,true,x`},
		{`[["a","b"]]`, `[["a","b"]]`},
		{`[{"role":"a"}]`, `[{"role":"a"}]`},
		{`["grün"]`, `grün`},
	} {
		v, _ := mustParse(t, `{"l":`+tc.list+`}`).Lookup("l")
		if got := Text(v); got != tc.want {
			t.Errorf("%s: got %s, want %s", tc.list, got, tc.want)
		}
	}
}

// FuzzParse: whatever is accepted is one JSON object whose members are found
// under exactly their own names, and no two of them imitate a guarded name.
func FuzzParse(f *testing.F) {
	for _, seed := range []string{`{}`, `{"sub":"a","SUB":"b"}`, `{"a":{"b":[1,2.5,null]}}`, `{"sub":"a"}{}`, `[`, `{"ſub":1}`} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		s, err := Parse(data, "sub")
		if err != nil {
			return
		}
		if !json.Valid(s.Raw()) {
			t.Fatalf("accepted invalid JSON %q", data)
		}
		for name := range s.members {
			if name != "sub" && strings.EqualFold(name, "sub") {
				t.Fatalf("accepted %q beside sub", name)
			}
		}
		_, _ = s.Lookup("sub")
	})
}
