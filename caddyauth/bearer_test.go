package caddyauth

import (
	"encoding/json"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/pkce-auth/caddy-pkce-auth/caddyauth/internal/session"
)

// R57, A16: an access token that is no good passes nowhere but where nothing
// is needed, and never leads to a login, whatever else there is.
func TestR57A16DecideAboutBroughtTokens(t *testing.T) {
	for _, unauthorized := range []string{"", "auto", "redirect", "401", "pass", "unknown"} {
		for _, kind := range []requestKind{background, navigation, prefetch} {
			for _, good := range []bool{true, false} {
				for _, bypassed := range []bool{true, false} {
					f := facts{unauthorized: unauthorized, bypassed: bypassed, kind: kind, brought: true}
					want := rejectToken
					if bypassed {
						want = forwardBypassed
					}
					if good {
						f.session, f.admitted, want = new(session.Session), true, forward
					}
					if got := decide(f); got != want {
						t.Errorf("%q, good %v, bypassed %v, kind %v: got %v, want %v", unauthorized, good, bypassed, kind, got, want)
					}
				}
			}
		}
	}
}

// FuzzBroughtToken: a token is read from one line with the scheme and one token
// only; from lines that hold Bearer at all, nothing else is.
func FuzzBroughtToken(f *testing.F) {
	f.Add("Bearer a.b-c_d~e+f/g==", "", false)
	f.Add("bearer  x", "Bearer y", true)
	f.Add("Basic YTpi", "Bearer y", true)
	f.Add("Bearer x, Bearer y", "", false)
	f.Add("BearerX y", "", false)
	f.Fuzz(func(t *testing.T, one, two string, both bool) {
		lines := []string{one}
		if both {
			lines = append(lines, two)
		}
		token, err := broughtToken(lines)
		text := token.Reveal()
		if err != nil && text != "" {
			t.Fatalf("%q: a token, and an error", lines)
		}
		if text == "" {
			return
		}
		scheme, rest, _ := strings.Cut(one, " ")
		if both || !strings.EqualFold(scheme, "Bearer") || strings.TrimLeft(rest, " ") != text || strings.ContainsAny(text, " ,;\"\t\r\n\\") {
			t.Fatalf("%q: got the token %q", lines, text)
		}
	})
}

// FuzzPathAndQuery: what a proxy says that was asked for is a path of this site,
// or nothing.
func FuzzPathAndQuery(f *testing.F) {
	for _, text := range []string{"/", "/a?b=c", "https://x.test/a", "//x.test", `/\x.test`, "*", "x:opaque", "/a#b", "/%2f%2fx", "http:///x", "///"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		got := pathAndQuery(text)
		if got == "" {
			return
		}
		u, err := url.ParseRequestURI(got)
		if err != nil || u.Host != "" || u.Scheme != "" || u.User != nil || !strings.HasPrefix(got, "/") || strings.HasPrefix(got, "//") {
			t.Fatalf("%q: got %q", text, got)
		}
		asked, known := askedAbout(newRequest("GET", "https://app.test/oauth2/verify", http.Header{"X-Forwarded-Uri": {text}, "X-Forwarded-Method": {"GET"}}))
		if asked.URL.Host != "" || !strings.HasPrefix(asked.URL.Path, "/") || !known {
			t.Fatalf("%q: got %v, known is %v", text, asked.URL, known)
		}
	})
}

// A112: no configuration does without an audience.
func TestA112AudiencesInJSON(t *testing.T) {
	for text, want := range map[string]string{
		`[""]`:                                "must not be empty",
		`["https://api.test", ""]`:            "must not be empty",
		`["public"]`:                          "is the client ID",
		`["{env.PKCE_AUTH_TEST_NO_API}"]`:     "PKCE_AUTH_TEST_NO_API",
		`["{env.PKCE_AUTH_TEST_API}"]`:        "is the client ID",
		`["https://api.test", "api://again"]`: "",
	} {
		t.Setenv("PKCE_AUTH_TEST_API", "public")
		var c BearerConfig
		if err := json.Unmarshal([]byte(`{"accept_bearer":`+text+`}`), &c); err != nil {
			t.Fatal(err)
		}
		err := c.validate()
		if err == nil {
			_, err = c.load(newHandler(t, inlineProvider).party.client)
		}
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%s: got %v, want %q", text, err, want)
		}
	}
}
