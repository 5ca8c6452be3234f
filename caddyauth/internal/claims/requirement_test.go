package claims

import (
	"errors"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// toASCII knows one internationalized name; all others are wrong.
func toASCII(domain string) (string, error) {
	if strings.HasSuffix(domain, "münchen.example") {
		return strings.Replace(domain, "münchen", "xn--mnchen-3ya", 1), nil
	}
	return "", errors.New("not known")
}

func mustRequire(t *testing.T, claim string, values ...string) Requirement {
	t.Helper()
	q, err := NewRequirement(claim, values, toASCII)
	if err != nil {
		t.Fatalf("require %s %q: %v", claim, values, err)
	}
	return q
}

// A113: rules that pass when a claim is empty, absent or of another type. M92:
// a text that holds the name of a group among others is not that group. Roles
// come by a literal name with slashes and dots (IDPS 15), nested, or as a map
// (IDPS 38).
func TestA113M92IDPS15IDPS38RequirementsAreStrict(t *testing.T) {
	set := mustParse(t, `{
		"role": "admin", "csv": "a,admin", "spaced": " admin", "upper": "ADMIN", "empty": "", "null": null,
		"list": ["staff","admin"], "none": [], "holes": [null,"staff"], "csvs": ["a,admin"], "nested": [["admin"],{"admin":true}], "mixed": [1,true,"1e3"],
		"map": {"admin":{"1234":"acme.example.com"},"no":false,"nothing":null,"zero":0,"text":"","list":[],"object":{},"yes":true,"one":1},
		"yes": true, "no": false, "true_text": "true", "level": 3, "half": 0.5, "thousand": 1e3, "whole": 1.0, "large": 18446744073709551616, "huge": 1e300, "minus": -0,
		"realm_access": {"roles": ["editor"]}, "https://example.com/roles": ["reader"], "a.b": ["x"]
	}`)
	for _, tc := range []struct {
		claim  string
		values []string
		want   bool
	}{
		{"role", []string{"admin"}, true},
		{"role", []string{"staff", "admin"}, true},
		{"role", []string{"adm"}, false},
		{"role", []string{"admin "}, false},
		{"role", []string{"Admin"}, false},
		{"csv", []string{"admin"}, false},
		{"csv", []string{"a,admin"}, true},
		{"spaced", []string{"admin"}, false},
		{"upper", []string{"admin"}, false},
		{"empty", []string{"admin"}, false},
		{"null", []string{"null", "admin"}, false},
		{"absent", []string{"admin", "null", "absent"}, false},
		{"Role", []string{"admin"}, false},
		{"list", []string{"admin"}, true},
		{"list", []string{"staff,admin", "0"}, false},
		{"none", []string{"admin", "[]"}, false},
		{"holes", []string{"null", "admin"}, false},
		{"csvs", []string{"admin"}, false},
		{"nested", []string{"admin", `["admin"]`}, false},
		{"mixed", []string{"1"}, true},
		{"mixed", []string{"true"}, true},
		{"mixed", []string{"1000"}, false},
		{"map", []string{"admin"}, true},
		{"map", []string{"yes"}, true},
		{"map", []string{"one"}, true},
		{"map", []string{"no", "nothing", "zero", "text", "list", "object", "absent", "1234"}, false},
		{"map.admin", []string{"1234"}, true},
		{"yes", []string{"true"}, true},
		{"yes", []string{"1", "True", "yes"}, false},
		{"no", []string{"false"}, true},
		{"no", []string{"0", "true"}, false},
		{"true_text", []string{"true"}, true},
		{"level", []string{"3"}, true},
		{"level", []string{"03", "3.0", "+3", " 3"}, false},
		{"half", []string{"0.5"}, true},
		{"half", []string{".5", "0.50"}, false},
		{"thousand", []string{"1000"}, true},
		{"thousand", []string{"1e3"}, false},
		{"whole", []string{"1"}, true},
		{"large", []string{"18446744073709551616"}, true},
		{"large", []string{"18446744073709551617", "18446744073709552000"}, false},
		{"huge", []string{"1" + strings.Repeat("0", 300)}, false},
		{"minus", []string{"-0", "0"}, false},
		{"realm_access.roles", []string{"editor"}, true},
		{"realm_access", []string{"roles"}, true},
		{"realm_access", []string{"editor"}, false},
		{"realm_access.roles.editor", []string{"editor"}, false},
		{"https://example.com/roles", []string{"reader"}, true},
		{"https://example.com/roles", []string{"admin"}, false},
		{"a.b", []string{"x"}, true},
	} {
		q := mustRequire(t, tc.claim, tc.values...)
		if got := q.MetBy(set); got != tc.want {
			t.Errorf("require %s %q: got %v, want %v", tc.claim, tc.values, got, tc.want)
		}
		if q.MetBy(Set{}) {
			t.Errorf("require %s %q: met by no claims at all", tc.claim, tc.values)
		}
	}
}

// R32: an address counts only where email_verified is the boolean true: a
// text, a number and nothing are what an account of an attacker's own making
// can have.
func TestR32A113UnverifiedAddressesDoNotCount(t *testing.T) {
	q := mustRequire(t, "email", "alice@example.com", "@example.com")
	for text, want := range map[string]bool{
		`,"email_verified":true`:     true,
		`,"email_verified":"true"`:   false,
		`,"email_verified":1`:        false,
		`,"email_verified":[true]`:   false,
		`,"email_verified":false`:    false,
		`,"email_verified":null`:     false,
		``:                           false,
		`,"EMAIL_VERIFIED":true`:     false,
		`,"email":{"verified":true}`: false,
	} {
		set, err := Parse([]byte(`{"email":"alice@example.com"` + text + `}`))
		if err == nil && q.MetBy(set) != want {
			t.Errorf("%s: got %v, want %v", text, !want, want)
		}
	}
	for _, text := range []string{`["alice@example.com"]`, `{"alice@example.com":true,"@example.com":true}`, `true`, `""`} {
		if q.MetBy(mustParse(t, `{"email":`+text+`,"email_verified":true}`)) {
			t.Errorf("an address that is %s is taken", text)
		}
	}
	// Elsewhere an address is but a text: nothing says that it was verified.
	other := mustRequire(t, "upn", "@example.com")
	if other.MetBy(mustParse(t, `{"upn":"alice@example.com","email_verified":true}`)) {
		t.Error("a domain is required of a claim that is no address")
	}
}

// R32: userinfo that says "verified" of its own address does not vouch for the
// ID token's.
func TestR32VerifiedElsewhere(t *testing.T) {
	q := mustRequire(t, "email", "@example.com")
	token, userinfo := mustParse(t, `{"email":"mallory@example.com"}`), mustParse(t, `{"email":"mallory@evil.test","email_verified":true}`)
	joined := Join(token, userinfo)
	if q.MetBy(joined) || joined.Has("email_verified") {
		t.Errorf("got %s", joined.Raw())
	}
	if joined = Join(mustParse(t, `{"sub":"a"}`), mustParse(t, `{"email":"a@example.com","email_verified":true}`)); !q.MetBy(joined) {
		t.Errorf("got %s, want both of userinfo", joined.Raw())
	}
}

// A114, M93: addresses that a rule on a domain could be tricked with.
func TestA114M93Addresses(t *testing.T) {
	domain := mustRequire(t, "email", "@example.com", "@münchen.example")
	person := mustRequire(t, "email", "Alice@Example.com")
	for _, tc := range []struct {
		address        string
		domain, person bool
	}{
		{"alice@example.com", true, true},
		{"ALICE@EXAMPLE.COM", true, true},
		{"bob@example.com", true, false},
		{"bob+tag@example.com", true, false},
		{"grün@example.com", true, false},
		{"alice@sub.example.com", false, false},
		{"alice@example.com.evil.test", false, false},
		{"alice@evilexample.com", false, false},
		{"alice@evil.test", false, false},
		{"alice@evil.test@example.com", false, false},
		{"alice@example.com@evil.test", false, false},
		{`"alice@evil.test"@example.com`, false, false},
		{`"alice"@example.com`, false, false},
		{"alice(@evil.test)@example.com", false, false},
		{"alice@example.com.", false, false},
		{"alice@.example.com", false, false},
		{"alice@example.com ", false, false},
		{" alice@example.com", false, false},
		{"alice @example.com", false, false},
		{"alice@example.com\n", false, false},
		{"alice@evil.test\n@example.com", false, false},
		{"alice@evil.test,bob@example.com", false, false},
		{"Alice <alice@example.com>", false, false},
		{"alice@example.com\x00", false, false},
		{"alice@example\u200b.com", false, false},
		{"alice@ｅｘａｍｐｌｅ.com", false, false},
		{"alice@example。com", false, false},
		{"alice@exampłe.com", false, false},
		{"alİce@example.com", true, false},
		{"\u212aim@example.com", true, false}, // the Kelvin sign folds into k in Unicode
		{"alice@münchen.example", true, false},
		{"alice@xn--mnchen-3ya.example", true, false},
		{"alice@XN--MNCHEN-3YA.Example", true, false},
		{"alice@sub.münchen.example", false, false},
		{"@example.com", false, false},
		{"example.com", false, false},
		{"", false, false},
		{"@", false, false},
		{strings.Repeat("a", 400) + "@example.com", false, false},
	} {
		set := Set{members: map[string]any{"email": tc.address, "email_verified": true}}
		if got := domain.MetBy(set); got != tc.domain {
			t.Errorf("%q: a rule on the domain: got %v, want %v", tc.address, got, tc.domain)
		}
		if got := person.MetBy(set); got != tc.person {
			t.Errorf("%q: a rule on the address: got %v, want %v", tc.address, got, tc.person)
		}
	}
	kelvin := mustRequire(t, "email", "kim@example.com")
	if kelvin.MetBy(Set{members: map[string]any{"email": "\u212aim@example.com", "email_verified": true}}) {
		t.Error("the Kelvin sign passes for a k")
	}
}

// What no session could meet, or every one, is refused when it is written down.
func TestRequirementsThatAreNone(t *testing.T) {
	for _, tc := range [][]string{
		{""},
		{"groups"},
		{"groups", ""},
		{"groups", "a", ""},
		{"groups", "a", "a"},
		{"", "a"},
		{"email", "alice"},
		{"email", "@"},
		{"email", "@@example.com"},
		{"email", "a@b@example.com"},
		{"email", "@example.com."},
		{"email", "@unknown-ü.example"},
		{"email", "@exam ple.com"},
		{"email", "@example.com", "@EXAMPLE.com"},
		{"email", "a@.example.com"},
	} {
		if q, err := NewRequirement(tc[0], tc[1:], toASCII); err == nil {
			t.Errorf("%q: got %v", tc, q.values)
		}
	}
	if _, err := NewRequirement("email", []string{"@münchen.example"}, nil); err == nil {
		t.Error("a name that nothing can make ASCII is taken")
	}
	a, b, c := mustRequire(t, "g", "x", "y"), mustRequire(t, "g", "y", "x"), mustRequire(t, "g", "x")
	if !a.Equal(b) || a.Equal(c) || c.Equal(a) || a.Claim() != "g" {
		t.Error("the order of values makes no difference, their number does")
	}
}

// FuzzRequirement: a requirement is met only by a claim that is there and says
// the value itself; an address only if it is verified, and ends in the domain
// behind its only @.
func FuzzRequirement(f *testing.F) {
	for _, seed := range [][3]string{
		{`{"groups":["admin"]}`, "groups", "admin"},
		{`{"email":"a@b.c","email_verified":true}`, "email", "@b.c"},
		{`{"email":"a@b@c","email_verified":"true"}`, "email", "@c"},
		{`{"r":{"admin":{"x":1}}}`, "r", "admin"},
		{`{"n":1e3}`, "n", "1000"},
		{`{"g":"a,b"}`, "g", "b"},
	} {
		f.Add(seed[0], seed[1], seed[2])
	}
	f.Fuzz(func(t *testing.T, text, claim, value string) {
		set, err := Parse([]byte(text))
		if err != nil {
			return
		}
		q, err := NewRequirement(claim, []string{value}, toASCII)
		if err != nil || !q.MetBy(set) {
			return
		}
		got, ok := set.Lookup(claim)
		if !ok {
			t.Fatalf("%s: require %q %q is met by a claim that is not there", text, claim, value)
		}
		if claim == "email" {
			address, isText := got.(string)
			if sure, err := set.Flag("email_verified"); err != nil || !sure || !isText || strings.Count(address, "@") != 1 {
				t.Fatalf("%s: require email %q is met", text, value)
			}
			if value[0] == '@' && isASCII(address+value) && !strings.EqualFold(address[strings.IndexByte(address, '@'):], value) {
				t.Fatalf("%s: require email %q is met", text, value)
			}
			return
		}
		members := []any{got}
		switch v := got.(type) {
		case List:
			members = v
		case Object:
			if _, ok := v[value]; !ok {
				t.Fatalf("%s: require %q %q is met by an object without it", text, claim, value)
			}
			return
		}
		if !slices.ContainsFunc(members, func(member any) bool { return says(member, value) }) {
			t.Fatalf("%s: require %q %q is met by %v", text, claim, value, got)
		}
	})
}

func isASCII(text string) bool {
	return !strings.ContainsFunc(text, func(r rune) bool { return r > 0x7f })
}

func says(member any, value string) bool {
	if f, ok := member.(float64); ok { // an integer of more than 64 bits is one, too
		number, err := strconv.ParseFloat(value, 64)
		return err == nil && number == f
	}
	return Text(member) == value
}
