package caddyauth

import (
	"net/http"
	"net/url"
	"os"
	"strings"
	"testing"
)

// The party of these tests is at https://app.test.
var appTest = origin{"https", "app.test"}

// A01 to A12: what is ours to return to, and what is not.
func TestReturnToA01ToA12(t *testing.T) {
	p := newHandler(t, inlineProvider).party
	for _, tc := range []struct{ name, text, want string }{
		{"a path", "/page", "/page"},
		{"a path with a query", "/page?a=1&b=%2F&a=2", "/page?a=1&b=%2F&a=2"},
		{"an absolute URL of ours", "https://app.test/page?x=1", "/page?x=1"},
		{"an absolute URL of ours with its port", "https://APP.test:443/page", "/page"},
		{"letters beyond ASCII", "/grüße?q=世", "/gr%C3%BC%C3%9Fe?q=%E4%B8%96"},
		{"A12 a fragment is dropped", "/page?x=1#frag", "/page?x=1"},
		{"A12 a semicolon", "/page;v=1?a;b", "/page;v=1?a;b"},
		{"encoded, and so no harm", "/%5cevil.test/%2f%2fevil.test", "/%5cevil.test/%2f%2fevil.test"},
		{"nothing", "", "/"},
		{"a relative path", "page", "/"},
		{"a query alone", "?x=1", "/"},
		{"A01 protocol-relative", "//evil.test/x", "/"},
		{"A01 three slashes", "///evil.test", "///evil.test"}, // a path: behind our origin it stays here
		{"A02 a backslash", `/\evil.test`, "/"},
		{"A02 two backslashes", `\\evil.test`, "/"},
		{"A02 a dot and a backslash", `/./\evil.test`, "/"},
		{"A02 a backslash in the query", `/page?x=\`, "/"},
		{"A04 a tab", "/\t/evil.test", "/"},
		{"A04 a line break", "/x\r\nLocation: https://evil.test", "/"},
		{"A04 a NUL", "/x\x00", "/"},
		{"A04 a space", "/ /evil.test", "/"},
		{"A05 user information", "https://app.test@evil.test/", "/"},
		{"A05 user information of ours", "https://evil.test@app.test/", "/"},
		{"A05 encoded user information", "https://app.test%40evil.test/", "/"},
		{"A06 a longer host", "https://app.test.evil.test/", "/"},
		{"A06 a host without a dot between", "https://evilapp.test/", "/"},
		{"A06 a subdomain", "https://sub.app.test/", "/"},
		{"another port", "https://app.test:8443/", "/"},
		{"another scheme", "http://app.test/", "/"},
		{"A07 javascript", "javascript:alert(1)", "/"},
		{"A07 data", "data:text/html,x", "/"},
		{"A07 an opaque URL", "https:evil.test", "/"},
		{"A07 one slash", "https:/evil.test", "/"},
		{"A11 our logout", "/oauth2/logout", "/"},
		{"A11 our callback with a query", "/oauth2/callback?code=x", "/"},
		{"A11 our login, encoded", "/oauth2/%6cogin", "/"},
		{"below our prefix, and no endpoint", "/oauth2/other", "/oauth2/other"},
		{"malformed escapes", "/%zz", "/"},
		{"a query just within the bound", "/?" + strings.Repeat("x", maxReturnTo-2), "/?" + strings.Repeat("x", maxReturnTo-2)},
		{"a query beyond the bound", "/p?" + strings.Repeat("x", maxReturnTo), "/p"},
		{"A08 a path beyond the bound", "/" + strings.Repeat("x", 9000), "/"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if got := p.returnTo(tc.text, appTest); got != tc.want {
				t.Errorf("got %q, want %q", got, tc.want)
			}
		})
	}
}

// K11: the URL of a request that must log in.
func TestRequestedK11(t *testing.T) {
	p := newHandler(t, inlineProvider).party
	for target, want := range map[string]string{
		"/page?x=1":         "/page?x=1",
		"//evil.test/x":     "//evil.test/x", // behind our origin
		`/\evil.test`:       "/%5Cevil.test",
		"/a b":              "/a%20b",
		"/secret#/public":   "/secret%23/public",
		"/oauth2/logout":    "/",
		"/?next=//evil.com": "/?next=//evil.com",
	} {
		u, err := url.ParseRequestURI(target)
		if err != nil {
			if want != "/" {
				t.Errorf("%s: %v", target, err)
			}
			continue
		}
		if got := p.requested(newRequestWithURL(u), appTest); got != want && !strings.HasSuffix(got, want) {
			t.Errorf("%s: got %q, want %q", target, got, want)
		}
	}
}

func newRequestWithURL(u *url.URL) *http.Request {
	r := newRequest("GET", "https://app.test/", nil)
	original := originalURL(r)
	*original = *u
	return r
}

// checkReturn is what must hold of every return URL, whatever it was made of:
// behind our origin, it is of our origin, and fits a header.
func checkReturn(t *testing.T, text, got string) {
	t.Helper()
	if !strings.HasPrefix(got, "/") || len(got) > maxReturnTo {
		t.Fatalf("%q: got %q", text, got)
	}
	if strings.ContainsFunc(got, func(r rune) bool { return r <= ' ' || r >= 0x7f || r == '\\' }) {
		t.Fatalf("%q: got %q, which does not fit a header", text, got)
	}
	u, err := url.Parse(appTest.String() + got)
	if err != nil || u.Scheme != "https" || u.Host != "app.test" || u.User != nil {
		t.Fatalf("%q: %q leads to %v, %v", text, got, u, err)
	}
}

// FuzzReturnURL: no text leads away from our origin.
func FuzzReturnURL(f *testing.F) {
	for _, seed := range openRedirects(f) {
		f.Add(seed)
	}
	p := newHandler(f, inlineProvider).party
	f.Fuzz(func(t *testing.T, text string) {
		got := p.returnTo(text, appTest)
		checkReturn(t, text, got)
		checkReturn(t, text, withoutQueryBeyond(got, maxReturnToInState))
		if again := p.returnTo(got, appTest); again != got && !strings.HasPrefix(got, "//") {
			t.Fatalf("%q: got %q, and of that %q", text, got, again)
		}
	})
}

// A03: the corpus of open redirects.
func TestReturnToA03Corpus(t *testing.T) {
	p := newHandler(t, inlineProvider).party
	corpus := openRedirects(t)
	if len(corpus) < 200 {
		t.Fatalf("only %d texts", len(corpus))
	}
	for _, text := range corpus {
		checkReturn(t, text, p.returnTo(text, appTest))
	}
}

// openRedirects combines what redirects were opened with: slashes,
// backslashes, control characters and their encodings, in front of a host.
func openRedirects(t testing.TB) []string {
	t.Helper()
	data, err := os.ReadFile("testdata/openredirects.txt")
	if err != nil {
		t.Fatal(err)
	}
	var corpus []string
	for _, prefix := range strings.Split(strings.TrimSpace(string(data)), "\n") {
		prefix = strings.NewReplacer("<TAB>", "\t", "<CR>", "\r", "<LF>", "\n", "<NUL>", "\x00", "<SP>", " ", "<BS>", "\b", "<NBSP>", "\u00a0", "<IDEO>", "\u3002").Replace(prefix)
		for _, host := range []string{"evil.test", "evil.test/%2f..", "app.test@evil.test", "evil.test#app.test", "[::1]"} {
			corpus = append(corpus, prefix+host)
		}
	}
	return corpus
}
