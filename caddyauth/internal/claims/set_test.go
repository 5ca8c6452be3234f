package claims

import (
	"errors"
	"slices"
	"sync"
	"testing"
)

// Of a claim that several sources make, the first counts, whole: an object of
// one does not get members of another, and a null says nothing.
func TestJoin(t *testing.T) {
	first := mustParse(t, `{"sub":"alice","roles":{"a":true},"name":null}`)
	second := mustParse(t, `{"sub":"bob","roles":{"b":true},"name":"Bob","email":"b@example.com"}`)
	joined := Join(first, second)
	const want = `{"email":"b@example.com","name":"Bob","roles":{"a":true},"sub":"alice"}`
	if got := string(joined.Raw()); got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	if got := string(Join(first).Raw()); got != `{"sub":"alice","roles":{"a":true},"name":null}` {
		t.Errorf("one set alone: got %s, want its very text", got)
	}
	if got := Join(); got.Has("sub") || len(got.Raw()) != 0 {
		t.Errorf("no set at all: got %s", got.Raw())
	}
	if sub, _ := second.Text("sub"); sub != "bob" {
		t.Errorf("the second set has become %s", second.Raw())
	}
}

// What is filtered out is out of the text, too: that is what is stored.
func TestFilter(t *testing.T) {
	all := mustParse(t, `{"sub":"alice","groups":["a"],"level":18446744073709551616}`)
	wanted := all.Filter(func(name string) bool { return name != "groups" })
	if got, want := string(wanted.Raw()), `{"level":18446744073709551616,"sub":"alice"}`; got != want || wanted.Has("groups") {
		t.Errorf("got %s, want %s", got, want)
	}
	if !all.Has("groups") || string(all.Raw()) != `{"sub":"alice","groups":["a"],"level":18446744073709551616}` {
		t.Errorf("the set that was filtered has become %s", all.Raw())
	}
	if none := all.Filter(func(string) bool { return false }); len(none.Raw()) != 0 {
		t.Errorf("nothing wanted: got %s", none.Raw())
	}
}

// The members of an object claim are read as strictly as those of a token.
func TestObject(t *testing.T) {
	set := mustParse(t, `{"o":{"name":"x","Name":1},"text":"{}","list":[{}],"null":null}`)
	object, err := set.Object("o")
	if err != nil {
		t.Fatal(err)
	}
	if name, err := object.Text("name"); name != "x" || err != nil {
		t.Errorf("got %q, %v", name, err)
	}
	if got, want := string(object.Raw()), `{"Name":1,"name":"x"}`; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	for name, missing := range map[string]bool{"absent": true, "null": true, "text": false, "list": false} {
		if _, err := set.Object(name); err == nil || errors.Is(err, ErrMissing) != missing {
			t.Errorf("%s: got %v, want ErrMissing %v", name, err, missing)
		}
	}
}

// JSON that breaks off or goes wrong within the object is refused, however much
// of it was read already: an accepted half could lack what denies.
func TestParseRefusesBrokenObjects(t *testing.T) {
	for name, text := range map[string]string{
		"a name that is a number":   `{"sub":"a",1:2}`,
		"no value":                  `{"sub":}`,
		"a value that breaks off":   `{"sub":"a","groups":["a"`,
		"two commas":                `{"sub":"a",,"x":1}`,
		"the bracket of a list":     `{"sub":"a"]`,
		"a name without end":        `{"sub":"a","x`,
		"a control byte in a text":  "{\"sub\":\"a\nb\"}",
		"a number with a zero":      `{"exp":01}`,
		"a brace and nothing":       `{`,
		"a comma before the end":    `{"sub":"a",}`,
		"a second object, unclosed": `{"sub":"a"}{`,
	} {
		if set, err := Parse([]byte(text)); err == nil {
			t.Errorf("%s: got %s", name, set.Raw())
		}
	}
}

// A null anywhere, and a number beyond all machines, have a text, too: it goes
// into headers, which must not depend on how Go prints.
func TestTextOfOddValues(t *testing.T) {
	set := mustParse(t, `{"list":["a",null,"b"],"huge":1e999,"deep":{"n":null,"big":1e999,"l":[1.5]},"half":[0.5,true]}`)
	for path, want := range map[string]string{
		"list": "a,,b", "huge": "1e999", "deep": `{"big":"1e999","l":[1.5],"n":null}`, "half": "0.5,true",
	} {
		if v, ok := set.Lookup(path); !ok || Text(v) != want {
			t.Errorf("%s: got %q, want %q", path, Text(v), want)
		}
	}
	for _, tc := range []struct {
		value any
		want  string
	}{
		{nil, ""},
		{int64(-7), "-7"},
		{[]string{"<a>", "b"}, `["<a>","b"]`},
		{make(chan int), ""}, // what is no JSON has no text, rather than an address in memory
	} {
		if got := Text(tc.value); got != tc.want {
			t.Errorf("%T: got %q, want %q", tc.value, got, tc.want)
		}
	}
}

// A claim of another type is refused as such, never read as if it were absent:
// what is missing is forgiven in places, what is wrong is not.
func TestTypesOfTexts(t *testing.T) {
	set := mustParse(t, `{"n":1,"flag":"true","list":["a","b"]}`)
	if _, err := set.Texts("n"); err == nil || errors.Is(err, ErrMissing) {
		t.Errorf("texts of a number: got %v", err)
	}
	if got, err := set.Texts("list"); err != nil || !slices.Equal(got, []string{"a", "b"}) {
		t.Errorf("got %q, %v", got, err)
	}
}

// Claims that were kept are read when somebody asks, by whoever comes first, and
// count as memory from then on. What is no object after all holds none.
func TestKept(t *testing.T) {
	text := `{"sub":"alice","groups":["staff"],"address":{"country":"DE"}}`
	kept, parsed := Kept([]byte(text)), mustParse(t, text)
	unread := kept.Size()
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			if country, ok := kept.Lookup("address.country"); !ok || country != "DE" {
				t.Errorf("got %v, %v", country, ok)
			}
		})
	}
	all.Wait()
	if sub, err := kept.Text("sub"); sub != "alice" || err != nil || string(kept.Raw()) != text {
		t.Errorf("got %q, %v, %s", sub, err, kept.Raw())
	}
	if unread != len(text) || kept.Size() != parsed.Size() {
		t.Errorf("%d bytes unread, %d read, want %d, %d", unread, kept.Size(), len(text), parsed.Size())
	}
	for _, text := range []string{"", "[]", "{", `{"sub":"a","sub":"b"}`, "\xff"} {
		broken := Kept([]byte(text))
		if broken.Has("sub") || broken.Mentions("sub") {
			t.Errorf("%q: has claims", text)
		}
		if _, ok := broken.Lookup("sub"); ok {
			t.Errorf("%q: has claims to look up", text)
		}
	}
}
