package claims

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"reflect"
	"strings"
	"testing"
	"unicode/utf8"
)

// byLibrary is what Parse must come to, read by encoding/json.
func byLibrary(data []byte) (map[string]any, error) {
	if !utf8.Valid(data) {
		return nil, errors.New("not valid UTF-8")
	}
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.UseNumber()
	if tok, err := dec.Token(); err != nil || tok != json.Delim('{') {
		return nil, errors.New("not a JSON object")
	}
	members := make(map[string]any)
	for dec.More() {
		tok, err := dec.Token()
		if err != nil {
			return nil, err
		}
		name, _ := tok.(string)
		if _, ok := members[name]; ok {
			return nil, errors.New("stands twice")
		}
		var value any
		if err := dec.Decode(&value); err != nil {
			return nil, err
		}
		members[name] = value
	}
	if _, err := dec.Token(); err != nil {
		return nil, err
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("something follows")
	}
	return members, nil
}

// same holds Parse against encoding/json: what one of them refuses the other
// refuses, and what they accept means the same. A difference would let a token
// mean one thing to us and another to the upstream.
func same(t *testing.T, data []byte) {
	t.Helper()
	want, wantErr := byLibrary(data)
	got, err := Parse(data)
	if (err == nil) != (wantErr == nil) {
		t.Fatalf("%.200q: got %v, encoding/json says %v", data, err, wantErr)
	}
	if err == nil && !reflect.DeepEqual(got.members, want) {
		t.Fatalf("%.200q: got %#v, encoding/json reads %#v", data, got.members, want)
	}
	if err == nil && string(got.Raw()) != string(data) {
		t.Fatalf("%.200q: Raw gives %.200q", data, got.Raw())
	}
}

var oddities = []string{
	`{}`, ` { } `, "\t\r\n{\"a\" :\t1 ,\n\"b\":[ ] , \"c\":{ }}", `{"a":1,}`, `{,}`, `{"a"}`, `{"a":}`, `{"a" 1}`, `{"a":1 "b":2}`, `{a:1}`, `{"a":1`, `{"a":1}}`, `{}{}`, `{} x`, `[]`, ``, ` `, `nul`, `null`, `"a"`,
	`{"a":[1,]}`, `{"a":[,1]}`, `{"a":[1 2]}`, `{"a":[`, `{"a":[]]}`, `{"a":[[[]]]}`, `{"a":{"b":1,"b":2}}`, `{"a":{"b":1,}}`,
	`{"a":01}`, `{"a":-}`, `{"a":-0}`, `{"a":-01}`, `{"a":1.}`, `{"a":.5}`, `{"a":1.5e}`, `{"a":1e+}`, `{"a":1E-5}`, `{"a":+1}`, `{"a":1e999}`, `{"a":0x1}`, `{"a":1_0}`, `{"a":NaN}`, `{"a":00}`, `{"a":1.0e0}`, `{"a":-1.25E+07}`,
	`{"a":true}`, `{"a":false,"b":null}`, `{"a":tru}`, `{"a":trueish}`, `{"a":True}`, `{"a":nulll}`,
	`{"a":"\u0041\n\/\"\\"}`, `{"\u0061":1,"a":2}`, `{"a":"\ud800"}`, `{"a":"\ud83d\ude00"}`, `{"a":"\udc00\ud800x"}`, `{"a":"\u00"}`, `{"a":"\x"}`, `{"a":"\`, `{"a":"\"`, `{"a":"\"}`, `{"a":"`, `{"a":'x'}`,
	"{\"a\":\"\x00\"}", "{\"a\":\"\x1f\"}", "{\"a\":\"\x7f\"}", "{\"a\":\"\t\"}", "{\"a\":\"\xff\"}", "{\"a\xc0\xaf\":1}", "\ufeff{}", "{\"a\":\"\u2028é\"}", "{\"a\":1}\x00", "\x00{}", "{\"a\":\x00}", "{\"a\":[\x00]}", "{\"\x00\":1}", "{\v}", "{\u00a0}",
	`{"":1}`, `{"":1,"":2}`, `{"a":""}`, `{/**/}`,
}

func TestParseReadsWhatEncodingJSONReads(t *testing.T) {
	for _, text := range oddities {
		same(t, []byte(text))
	}
	// How deep things may be nested. encoding/json counts from the value of a
	// member here, as the object itself is read token by token.
	for _, depth := range []int{100, 9_998} {
		same(t, []byte(`{"a":`+strings.Repeat("[", depth)+strings.Repeat("]", depth)+`}`))
	}
	for _, open := range []string{"[", `{"a":`} {
		if _, err := Parse([]byte(`{"a":` + strings.Repeat(open, 1_000_000))); err == nil {
			t.Error("nested without end: got no error")
		}
	}
}

// FuzzParseAsEncodingJSON: no text means one thing here and another there.
func FuzzParseAsEncodingJSON(f *testing.F) {
	for _, text := range oddities {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		if len(data) < maxDepth { // beyond, they count differently
			same(t, data)
		}
	})
}

func BenchmarkParse(b *testing.B) {
	data := []byte(`{"iss":"https://op.test/","sub":"alice","aud":["a","b"],"exp":1800000000,"groups":["` + strings.Repeat(`orders:read","`, 100) + `"]}`)
	b.SetBytes(int64(len(data)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := Parse(data); err != nil {
			b.Fatal(err)
		}
	}
}
