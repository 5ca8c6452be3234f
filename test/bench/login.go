package main

import (
	"fmt"
	"io"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// session is what a browser holds after a login.
type session struct {
	cookie string // the Cookie header of a request to an ordinary page
	bytes  setCookies
}

// setCookies says how many bytes a login had the browser keep.
type setCookies struct {
	cookies int // how many there are, without the logout hint's
	pairs   int // their names and values: what comes back with each request
	lines   int // all of their Set-Cookie lines
	hint    int // the line of the logout hint's, which comes back to the logout only
}

// logins logs n people in, one after another in each of a few browsers, by the
// real thing: every redirect, over HTTP.
func (b *bench) logins(p *proxy, n int) ([]session, error) {
	const browsers = 4
	sessions := make([]session, n)
	var next atomic.Int64
	var wg sync.WaitGroup
	errs := make(chan error, browsers)
	transport := &http.Transport{MaxIdleConnsPerHost: browsers, DisableCompression: true}
	defer transport.CloseIdleConnections()
	for range browsers {
		wg.Go(func() {
			for i := int(next.Add(1)) - 1; i < n; i = int(next.Add(1)) - 1 {
				var err error
				if sessions[i], err = b.login(transport, p.site, user(i)); err != nil {
					errs <- fmt.Errorf("login %d: %w", i, err)
					return
				}
			}
		})
	}
	wg.Wait()
	select {
	case err := <-errs:
		return nil, err
	default:
		return sessions, nil
	}
}

// login logs one person in with pkce_auth.
func (b *bench) login(transport http.RoundTripper, site, who string) (session, error) {
	var s session
	window := browser{bench: b, transport: counting{transport, &s.bytes}, site: site}
	text, err := window.open("/oauth2/login", url.Values{"login_hint": {who}, "return_to": {"/start"}})
	if err == nil && text != body {
		err = fmt.Errorf("the upstream did not answer, but: %.200s", text)
	}
	s.cookie = window.cookies(tokenPath)
	return s, err
}

// browser is one with nothing but a cookie jar.
type browser struct {
	bench     *bench
	transport http.RoundTripper
	site      string
	jar       http.CookieJar
}

// open goes to a page, follows all redirects, and gives the page where they end.
func (w *browser) open(path string, query url.Values) (string, error) {
	var err error
	if w.jar, err = cookiejar.New(nil); err != nil {
		return "", err
	}
	if len(query) > 0 {
		path += "?" + query.Encode()
	}
	req, err := http.NewRequestWithContext(w.bench.ctx, http.MethodGet, w.site+path, nil)
	if err != nil {
		return "", err
	}
	req.Header.Set("Accept", "text/html")
	client := &http.Client{Transport: w.transport, Jar: w.jar, Timeout: 20 * time.Second}
	resp, err := client.Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s answered %d: %.200s", resp.Request.URL.Path, resp.StatusCode, text)
	}
	return string(text), err
}

// cookies is the Cookie header of a request to a path of the site.
func (w *browser) cookies(path string) string {
	u, err := url.Parse(w.site + path)
	if err != nil {
		return ""
	}
	var pairs []string
	for _, c := range w.jar.Cookies(u) {
		pairs = append(pairs, c.Name+"="+c.Value)
	}
	return strings.Join(pairs, "; ")
}

// counting counts the cookies of the answer that ends a login: that of the
// callback.
type counting struct {
	http.RoundTripper
	bytes *setCookies
}

func (c counting) RoundTrip(r *http.Request) (*http.Response, error) {
	resp, err := c.RoundTripper.RoundTrip(r)
	if err != nil || !strings.HasSuffix(r.URL.Path, "/callback") {
		return resp, err
	}
	for _, line := range resp.Header["Set-Cookie"] {
		cookie, err := http.ParseSetCookie(line)
		switch {
		case err != nil:
			return nil, err
		case cookie.MaxAge < 0 || cookie.Value == "": // the login state's, which is over
		case strings.HasSuffix(cookie.Name, ".h"):
			c.bytes.hint += len(line)
		default:
			c.bytes.cookies++
			c.bytes.pairs += len(cookie.Name) + len("=") + len(cookie.Value)
			c.bytes.lines += len(line)
		}
	}
	return resp, err
}
