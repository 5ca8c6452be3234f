package flows

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"html"
	"io"
	"net"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// browser is a browser with one window.
type browser struct {
	t       testing.TB
	jar     http.CookieJar
	secrets []string        // the values of all cookies of ours that it got
	foreign map[string]bool // the names of cookies that go with a foreign page's form, too: SameSite=None
	patient bool            // whether it tries again when Caddy, which reloads, hangs up
}

func (w *world) browser() *browser {
	jar, err := cookiejar.New(nil)
	if err != nil {
		w.t.Fatal(err)
	}
	b := &browser{t: w.t, jar: jar, patient: w.reloading}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.browsers = append(w.browsers, b)
	return b
}

// answer is what a request got.
type answer struct {
	*http.Response
	body string
}

// navigation are the headers of a top-level navigation in Chromium.
var navigation = http.Header{
	"Accept":                    {"text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8"},
	"Sec-Fetch-Mode":            {"navigate"},
	"Sec-Fetch-Dest":            {"document"},
	"Sec-Fetch-Site":            {"none"},
	"Sec-Fetch-User":            {"?1"},
	"Upgrade-Insecure-Requests": {"1"},
	"User-Agent":                {"Mozilla/5.0 test"},
}

// fetched are the headers of a script's fetch to its own site.
var fetched = http.Header{
	"Accept":         {"*/*"},
	"Sec-Fetch-Mode": {"cors"},
	"Sec-Fetch-Dest": {"empty"},
	"Sec-Fetch-Site": {"same-origin"},
	"User-Agent":     {"Mozilla/5.0 test"},
}

// plain is a transport that adds nothing, reuses nothing, and takes app.test
// for this machine.
var plain = &http.Transport{
	DisableCompression: true,
	DisableKeepAlives:  true,
	TLSClientConfig:    &tls.Config{RootCAs: authority().pool},
	DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
		if _, port, err := net.SplitHostPort(addr); err == nil {
			addr = net.JoinHostPort("127.0.0.1", port)
		}
		return new(net.Dialer).DialContext(ctx, network, addr)
	},
}

// do sends one request with the browser's cookies, keeps those it gets, and
// follows no redirect.
func (b *browser) do(method, target string, header http.Header, body string) answer {
	b.t.Helper()
	req, err := http.NewRequest(method, target, strings.NewReader(body))
	if err != nil {
		b.t.Fatal(err)
	}
	if body == "" {
		req.Body = nil
	}
	req.Header = header.Clone()
	return b.send(req)
}

func (b *browser) send(req *http.Request) answer {
	b.t.Helper()
	fromElsewhere := req.Method == http.MethodPost && req.Header.Get("Sec-Fetch-Site") == "cross-site"
	for _, c := range b.jar.Cookies(req.URL) {
		if !fromElsewhere || b.foreign[c.Name] {
			req.AddCookie(c)
		}
	}
	resp, err := plain.RoundTrip(req)
	for tries := 0; b.patient && tries < 3 && hungUp(err) && rewound(req); tries++ { // browsers try again, too
		resp, err = plain.RoundTrip(req)
	}
	if err != nil {
		b.t.Fatal(err)
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	if err != nil {
		b.t.Fatal(err)
	}
	b.jar.SetCookies(req.URL, resp.Cookies())
	for _, c := range resp.Cookies() {
		if b.foreign == nil {
			b.foreign = map[string]bool{}
		}
		b.foreign[c.Name] = c.SameSite == http.SameSiteNoneMode && c.Secure
		if strings.Contains(c.Name, "pkce_auth") {
			b.secrets = append(b.secrets, c.Value)
		}
	}
	return answer{resp, string(data)}
}

// hungUp reports whether Caddy did, before it has read anything: it closes the
// listeners of an old configuration after a reload has ended, and what waits
// there is reset or closed; the kernel says so when the request is written or
// when the answer is read.
func hungUp(err error) bool {
	return errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE) || errors.Is(err, io.EOF)
}

// rewound makes a request good for another try, with its body: what Caddy has
// begun to read it also answers.
func rewound(req *http.Request) bool {
	if req.Body == nil {
		return true
	}
	if req.GetBody == nil {
		return false
	}
	body, err := req.GetBody()
	req.Body = body
	return err == nil
}

// visit goes to one URL, as a navigation, and follows no redirect.
func (b *browser) visit(target string) answer {
	b.t.Helper()
	return b.do(http.MethodGet, target, navigation, "")
}

// open goes to a URL and follows all redirects.
func (b *browser) open(target string) answer {
	b.t.Helper()
	return b.follow(b.visit(target))
}

// follow follows an answer's redirects, to their end.
func (b *browser) follow(a answer) answer {
	b.t.Helper()
	for range 10 {
		location := a.location(b.t)
		if location == "" {
			return a
		}
		a = b.visit(location)
	}
	b.t.Fatalf("more than ten redirects, the last to %s", a.Header.Get("Location"))
	return a
}

// formField are the parts of a form that posts itself.
var (
	formAction = regexp.MustCompile(`<form method="post" action="([^"]*)"`)
	formField  = regexp.MustCompile(`name="([^"]*)" value="([^"]*)"`)
)

// form is the form on a page: where it goes, and its fields.
func (a answer) form(t testing.TB) (action string, fields url.Values) {
	t.Helper()
	found := formAction.FindStringSubmatch(a.body)
	if found == nil {
		t.Fatalf("status %d, and no form: %.300s", a.StatusCode, a.body)
	}
	fields = url.Values{}
	for _, field := range formField.FindAllStringSubmatch(a.body, -1) {
		fields.Add(html.UnescapeString(field[1]), html.UnescapeString(field[2]))
	}
	return html.UnescapeString(found[1]), fields
}

// post sends a foreign page's form, as a navigation.
func (b *browser) post(action string, fields url.Values) answer {
	b.t.Helper()
	header := navigation.Clone()
	header.Set("Sec-Fetch-Site", "cross-site")
	header.Set("Content-Type", "application/x-www-form-urlencoded")
	return b.do(http.MethodPost, action, header, fields.Encode())
}

// fetch sends a script's request.
func (b *browser) fetch(target string) answer {
	b.t.Helper()
	return b.do(http.MethodGet, target, fetched, "")
}

// location is the absolute URL of a redirect, empty if it is none.
func (a answer) location(t testing.TB) string {
	t.Helper()
	if a.StatusCode < 300 || a.StatusCode >= 400 {
		return ""
	}
	u, err := a.Location()
	if err != nil {
		t.Fatalf("status %d without a location: %v", a.StatusCode, err)
	}
	return u.String()
}

// cookies are the browser's cookies for the site, by name.
func (b *browser) cookies(site string) map[string]string {
	u, err := url.Parse(site)
	if err != nil {
		b.t.Fatal(err)
	}
	cookies := map[string]string{}
	for _, c := range b.jar.Cookies(u) {
		cookies[c.Name] = c.Value
	}
	return cookies
}

// loginStates are the names of the browser's login states.
func (b *browser) loginStates(site string) []string {
	var names []string
	for name := range b.cookies(site) {
		if strings.Contains(name, ".l") {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// login opens a page and checks that the upstream answered in the end.
func (b *browser) login(w *world, path string) answer {
	b.t.Helper()
	a := b.open(w.site + path)
	if a.StatusCode != http.StatusOK || a.body != "upstream "+path {
		b.t.Fatalf("opening %s: got status %d and %q", path, a.StatusCode, a.body)
	}
	return a
}

// callback goes as far as the callback, and returns its URL without opening
// it.
func (b *browser) callback(w *world, path string) string {
	b.t.Helper()
	toProvider := b.visit(w.site + path).location(b.t)
	if !strings.HasPrefix(toProvider, w.op.URL+"/authorize?") {
		b.t.Fatalf("%s: got a redirect to %q, want one to the provider", path, toProvider)
	}
	return b.visit(toProvider).location(b.t)
}

func query(t testing.TB, target string) url.Values {
	t.Helper()
	u, err := url.Parse(target)
	if err != nil {
		t.Fatal(err)
	}
	q, err := url.ParseQuery(u.RawQuery)
	if err != nil {
		t.Fatal(err)
	}
	return q
}

// raw sends a request as text, with the browser's cookies, and returns the
// answer.
func (w *world) raw(b *browser, request string) answer {
	w.t.Helper()
	conn, err := net.Dial("tcp", strings.TrimPrefix(w.site, "http://"))
	if err != nil {
		w.t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
	var cookies []string
	for name, value := range b.cookies(w.site) {
		cookies = append(cookies, name+"="+value)
	}
	request = strings.ReplaceAll(strings.ReplaceAll(request, "$HOST", strings.TrimPrefix(w.site, "http://")), "\n", "\r\n")
	if len(cookies) > 0 {
		request = strings.Replace(request, "\r\n\r\n", "\r\nCookie: "+strings.Join(cookies, "; ")+"\r\n\r\n", 1)
	}
	if _, err := io.WriteString(conn, request); err != nil {
		w.t.Fatal(err)
	}
	resp, err := http.ReadResponse(bufio.NewReader(conn), &http.Request{Method: request[:strings.IndexByte(request, ' ')]})
	if err != nil {
		w.t.Fatal(err)
	}
	defer resp.Body.Close()
	body, _ := io.ReadAll(resp.Body)
	return answer{resp, string(body)}
}

// copyJar copies the cookies of a site into a jar of its own.
func copyJar(t testing.TB, from http.CookieJar, site string) http.CookieJar {
	t.Helper()
	u, err := url.Parse(site)
	if err != nil {
		t.Fatal(err)
	}
	jar, err := cookiejar.New(nil)
	if err != nil {
		t.Fatal(err)
	}
	jar.SetCookies(u, from.Cookies(u))
	return jar
}

// evict drops a browser's cookies for a site.
func evict(t testing.TB, b *browser, site string) {
	t.Helper()
	u, err := url.Parse(site)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range b.jar.Cookies(u) {
		c.MaxAge = -1
		b.jar.SetCookies(u, []*http.Cookie{c})
	}
}

// noCookies is a jar without cookies.
func (w *world) noCookies() http.CookieJar {
	jar, err := cookiejar.New(nil)
	if err != nil {
		w.t.Fatal(err)
	}
	return jar
}
