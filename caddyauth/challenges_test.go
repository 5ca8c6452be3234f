package caddyauth

import (
	"slices"
	"strings"
	"testing"
	"time"
)

// R56: an upstream's challenge is found among all that may stand beside it in
// WWW-Authenticate; what is odd is no challenge that we know of.
func TestR56ParseRejection(t *testing.T) {
	const insufficient = `Bearer error="insufficient_user_authentication"`
	for name, tc := range map[string]struct {
		lines  []string
		code   string // empty: none
		acr    string
		maxAge int // -1: none
	}{
		"as in RFC 9470, acr":              {[]string{insufficient + `, error_description="A different level", acr_values="myACR"`}, errorInsufficient, "myACR", -1},
		"as in RFC 9470, max_age":          {[]string{insufficient + `, error_description="More recent", max_age="5"`}, errorInsufficient, "", 5},
		"both, other order, other case":    {[]string{`bEARER ACR_Values="a b",Max_Age=0 , Error=insufficient_user_authentication`}, errorInsufficient, "a b", 0},
		"white space and empty elements":   {[]string{`, ,Bearer  error = "insufficient_user_authentication"	,, max_age= 7 ,`}, errorInsufficient, "", 7},
		"quoted pairs":                     {[]string{`Bearer error="insufficient\_user_authentication", realm="a \"b\", Bearer error=x", max_age="\1\2"`}, errorInsufficient, "", 12},
		"behind others in one line":        {[]string{`Negotiate, Basic realm="a, b", NTLM dG9rZW4=, Digest x=1,y="2", ` + insufficient + `, acr_values=z`}, errorInsufficient, "z", -1},
		"before others in one line":        {[]string{insufficient + `, acr_values=z, Basic realm="x", Negotiate a/+b==`}, errorInsufficient, "z", -1},
		"in another line":                  {[]string{`Bearer realm="x"`, `Basic realm="y"`, insufficient + `, max_age=1`}, errorInsufficient, "", 1},
		"invalid_token":                    {[]string{`Bearer realm="api", error="invalid_token", error_description="expired"`}, errorInvalidToken, "", -1},
		"of another scheme":                {[]string{`DPoP error="insufficient_user_authentication", max_age=1`}, "", "", -1},
		"two that contradict each other":   {[]string{insufficient + `, max_age=1, ` + insufficient + `, max_age=2`}, "", "", -1},
		"two in two lines":                 {[]string{insufficient + `, max_age=1`, `Bearer error="invalid_token"`}, "", "", -1},
		"a parameter twice":                {[]string{insufficient + `, max_age=1, MAX_AGE=2`}, "", "", -1},
		"max_age with a sign":              {[]string{insufficient + `, max_age="-1"`}, "", "", -1},
		"max_age with a fraction":          {[]string{insufficient + `, max_age="1.5"`}, "", "", -1},
		"max_age beyond all measure":       {[]string{insufficient + `, max_age="18446744073709551616"`}, "", "", -1},
		"max_age of a century":             {[]string{insufficient + `, max_age="3155760000"`}, "", "", -1},
		"max_age empty":                    {[]string{insufficient + `, max_age=""`}, "", "", -1},
		"acr_values with a quote":          {[]string{insufficient + `, acr_values="a\"b"`}, "", "", -1},
		"acr_values with a tab":            {[]string{insufficient + ", acr_values=\"a\tb\""}, "", "", -1},
		"acr_values beyond ASCII":          {[]string{insufficient + `, acr_values="é"`}, "", "", -1},
		"acr_values empty":                 {[]string{insufficient + `, acr_values=""`}, "", "", -1},
		"acr_values too long":              {[]string{insufficient + `, acr_values="` + strings.Repeat("a", maxACRValues+1) + `"`}, "", "", -1},
		"a quoted-string without an end":   {[]string{insufficient + `, acr_values="a`}, "", "", -1},
		"a backslash at the end":           {[]string{insufficient + `, acr_values="a\`}, "", "", -1},
		"something behind a quoted-string": {[]string{insufficient + `x, max_age=1`}, "", "", -1},
		"no comma":                         {[]string{insufficient + ` max_age=1`}, "", "", -1},
		"a parameter without a scheme":     {[]string{`error="insufficient_user_authentication", max_age=1`}, "", "", -1},
		"a parameter behind a token68":     {[]string{`Bearer abc, error="insufficient_user_authentication"`}, "", "", -1},
		"a scheme and a comma":             {[]string{`Bearer, error="insufficient_user_authentication"`}, "", "", -1},
		"one odd line spoils all":          {[]string{insufficient + `, max_age=1`, `Basic "`}, "", "", -1},
		"far too long":                     {[]string{insufficient + `, max_age=1, x="` + strings.Repeat("y", maxChallengeSize) + `"`}, "", "", -1},
		"an error without a value":         {[]string{`Bearer error=`}, "", "", -1},
		"an empty error":                   {[]string{`Bearer error=""`}, "", "", -1},
		"nothing":                          {nil, "", "", -1},
		"an empty line":                    {[]string{""}, "", "", -1},
		"plain Bearer":                     {[]string{"Bearer"}, "", "", -1},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := parseRejection(tc.lines)
			if (err == nil) != (tc.code != "") || got.code != tc.code {
				t.Fatalf("got %+v, %v", got, err)
			}
			if age := got.ask.MaxAge; (age == nil) != (tc.maxAge < 0) || age != nil && *age != time.Duration(tc.maxAge)*time.Second {
				t.Errorf("max_age: got %v, want %d", age, tc.maxAge)
			}
			if acr := strings.Join(got.ask.ACRValues, " "); acr != tc.acr {
				t.Errorf("acr_values: got %q, want %q", acr, tc.acr)
			}
			if err != nil {
				return
			}
			// What is put where it ends is a parameter of this challenge.
			again, err := parseRejection(got.link(tc.lines, "https://app.test/login"))
			if err != nil || !again.linked || again.code != got.code || again.line != got.line {
				t.Errorf("with a link: %+v, %v", again, err)
			}
		})
	}
}

// FuzzParseRejection holds the parser to this: it never panics; what it gives
// can be sent to a provider, and stand in a quoted-string, as it is; and a link
// that is added to a challenge is read as a parameter of it, and changes
// nothing else.
func FuzzParseRejection(f *testing.F) {
	f.Add(`Bearer error="insufficient_user_authentication", acr_values="a b", max_age=5`, "Basic realm=x")
	f.Add(`Negotiate dG9rZW4=, bearer x="\"", error=invalid_token`, "")
	f.Add(`Bearer error="a" , `, `,,Digest a=b`)
	f.Fuzz(func(t *testing.T, one, two string) {
		lines := []string{one, two}
		got, err := parseRejection(lines)
		if err != nil {
			return
		}
		for _, value := range got.ask.ACRValues {
			if !validACR(value) {
				t.Errorf("acr %q", value)
			}
		}
		if age := got.ask.MaxAge; age != nil && (*age < 0 || *age > maxChallengeAge || *age%time.Second != 0) {
			t.Errorf("max_age %v", age)
		}
		const url = "https://app.test/oauth2/login?ask=x"
		linked := got.link(lines, url)
		again, err := parseRejection(linked)
		if len(one)+len(two)+len(url)+20 > maxChallengeSize {
			return
		}
		if got.linked != slices.Equal(linked, lines) {
			t.Errorf("linked %v: %q became %q", got.linked, lines, linked)
		}
		if err != nil || !again.linked || again.code != got.code || again.line != got.line || !slices.Equal(again.ask.ACRValues, got.ask.ACRValues) {
			t.Errorf("%q became %q: %+v, %v", lines, linked, again, err)
		}
	})
}
