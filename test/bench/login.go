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

// login logs one person in.
func (b *bench) login(transport http.RoundTripper, site, who string) (session, error) {
	jar, err := cookiejar.New(nil)
	if err != nil {
		return session{}, err
	}
	var s session
	browser := &http.Client{Transport: transport, Jar: jar, Timeout: 20 * time.Second, CheckRedirect: func(_ *http.Request, via []*http.Request) error {
		if len(via) > 10 {
			return http.ErrUseLastResponse
		}
		return nil
	}}
	browser.Transport = counting{transport, &s.bytes}
	start := site + "/oauth2/login?" + url.Values{"login_hint": {who}, "return_to": {"/start"}}.Encode()
	req, err := http.NewRequestWithContext(b.ctx, http.MethodGet, start, nil)
	if err != nil {
		return session{}, err
	}
	req.Header.Set("Accept", "text/html")
	resp, err := browser.Do(req)
	if err != nil {
		return session{}, err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		return session{}, err
	}
	if resp.StatusCode != http.StatusOK || string(text) != body {
		return session{}, fmt.Errorf("%s answered %d: %.200s", resp.Request.URL.Path, resp.StatusCode, text)
	}
	s.cookie = cookieHeader(jar, site)
	return s, nil
}

func cookieHeader(jar http.CookieJar, site string) string {
	u, err := url.Parse(site + tokenPath)
	if err != nil {
		return ""
	}
	var pairs []string
	for _, c := range jar.Cookies(u) {
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
