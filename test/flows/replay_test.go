package flows

import (
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pkce-auth/caddy-pkce-auth/test/provider"
)

// lasting keeps forms of up to 4 kB.
const lasting = "replay_posts 4kB"

// over is lasting when sessions are over as soon as they are not used: those
// that began before count by it, too.
const over = "replay_posts 4kB\nsession {\nidle 1ms\n}"

// short is lasting with sessions that outlive waits for.
const short = "replay_posts 4kB\nsession {\nidle 1500ms\n}"

func outlive() { time.Sleep(1600 * time.Millisecond) }

// formHeader are the headers of a form that a page of the site has the browser
// post.
func (w *world) formHeader(change ...string) http.Header {
	h := navigation.Clone()
	h.Set("Sec-Fetch-Site", "same-origin")
	h.Set("Origin", w.site)
	h.Set("Referer", w.site+"/form?page=1")
	h.Set("Content-Type", "application/x-www-form-urlencoded")
	for i := 0; i < len(change); i += 2 {
		if change[i+1] == "" {
			h.Del(change[i])
		} else {
			h.Set(change[i], change[i+1])
		}
	}
	return h
}

// sends has the browser post a form of the site.
func (b *browser) sendsForm(w *world, uri, body string, change ...string) answer {
	b.t.Helper()
	return b.do(http.MethodPost, w.site+uri, w.formHeader(change...), body)
}

// offered follows an answer through the login to the page that offers a form.
func (b *browser) offered(w *world, a answer) answer {
	b.t.Helper()
	if a.StatusCode != http.StatusSeeOther || !strings.HasPrefix(a.location(b.t), w.op.URL+"/authorize?") {
		b.t.Fatalf("got status %d and %q, want a redirect to the provider", a.StatusCode, a.Header.Get("Location"))
	}
	a = b.follow(a)
	if got := a.Request.URL.String(); got != w.site+"/oauth2/replay" {
		b.t.Fatalf("the login led to %s: %.300s", got, a.body)
	}
	return a
}

// clicks uses the button of the page that offers a form.
func (b *browser) clicks(w *world, page answer, change ...string) answer {
	b.t.Helper()
	action, fields := page.form(b.t)
	h := w.formHeader(append([]string{"Referer", w.site + "/oauth2/replay"}, change...)...)
	return b.do(http.MethodPost, action, h, fields.Encode())
}

// posts are the bodies of POSTs that reached the upstream.
func (u *upstream) posts() (got []string) {
	u.mu.Lock()
	defer u.mu.Unlock()
	for i, r := range u.requests {
		if r.Method == http.MethodPost {
			got = append(got, r.RequestURI+" "+r.Header.Get("Content-Type")+" "+u.bodies[i])
		}
	}
	return got
}

func (w *world) nothingSent(when string) {
	w.t.Helper()
	if got := w.upstream.posts(); len(got) > 0 {
		w.t.Errorf("%s: the upstream got %q", when, got)
	}
}

func (a answer) title() string {
	_, rest, _ := strings.Cut(a.body, "<h1>")
	title, _, _ := strings.Cut(rest, "</h1>")
	return title
}

// endings are how a session may end by itself: a login, and what follows.
var endings = map[string]struct {
	options string
	faults  provider.Faults
	then    func(w *world, b *browser)
}{
	"idle":     {options: short, then: func(*world, *browser) { outlive() }},
	"lifetime": {options: "replay_posts 4kB\nsession {\nlifetime 1500ms\n}", then: func(*world, *browser) { outlive() }},
	"refused": {options: lasting, faults: provider.Faults{TokenResponse: shortLived}, then: func(w *world, _ *browser) {
		outliveShortLived()
		w.op.RevokeAll()
		w.op.Misbehave(provider.Faults{})
	}},
	"refused to another request before": {options: lasting, faults: provider.Faults{TokenResponse: shortLived}, then: func(w *world, b *browser) {
		outliveShortLived()
		w.op.RevokeAll()
		w.op.Misbehave(provider.Faults{})
		for range 2 {
			if a := b.fetch(w.site + "/poll"); a.StatusCode != http.StatusUnauthorized {
				w.t.Errorf("a fetch got status %d", a.StatusCode)
			}
		}
	}},
	"no refresh token": {options: lasting + "\nrefresh off", faults: provider.Faults{TokenResponse: shortLived}, then: func(w *world, _ *browser) {
		outliveShortLived()
		w.op.Misbehave(provider.Faults{})
	}},
}

// G7: a form that is sent just after the session's end survives the login, byte
// for byte, in every way that a session ends by itself, wherever it is kept, and
// a reload in between. It goes upstream once, when its user says so and not
// before. R17, A59: with a 303, so that no body goes to the provider.
func TestR17A59PostSurvivesTheLogin(t *testing.T) {
	for name, ending := range endings {
		t.Run(name, func(t *testing.T) {
			inEveryStore(t, func(w *world) {
				t := w.t
				load := w.reloads()
				load(ending.options)
				w.op.Misbehave(ending.faults)
				b := w.browser()
				b.login(w, "/")
				ending.then(w, b)
				const uri, multipart = "/a%2Fb/(x)'!/form?q='(a)'&b=%20|&c", "multipart/form-data; boundary=xyz"
				body := "--xyz\r\n\x00\xff<b>file</b>&\r\n--xyz--"
				a := b.sendsForm(w, "/first", "an=earlier")
				if a.StatusCode != http.StatusSeeOther {
					t.Fatalf("got status %d: %s", a.StatusCode, a.body)
				}
				a = b.sendsForm(w, uri, body, "Content-Type", multipart)
				if got := w.op.Requests("authorize"); len(got) != 1 {
					t.Errorf("%d authorization requests", len(got))
				}
				load(lasting)
				page := b.offered(w, a)
				for _, r := range w.op.Requests("authorize") {
					if r.Method != http.MethodGet {
						t.Errorf("the provider got a %s", r.Method)
					}
				}
				if page.StatusCode != http.StatusOK || page.title() != "Send your form again?" || strings.Contains(page.body, "file") {
					t.Errorf("status %d: %s", page.StatusCode, page.body)
				}
				if h := page.Header; h.Get("X-Frame-Options") != "DENY" || !strings.Contains(h.Get("Content-Security-Policy"), "frame-ancestors 'none'") ||
					!strings.Contains(h.Get("Cache-Control"), "no-store") {
					t.Errorf("the page has %v", h)
				}
				w.nothingSent("before the click")
				if a := b.visit(w.site + "/oauth2/replay"); a.title() != page.title() {
					t.Errorf("looking again: %s", a.title())
				}
				sent := b.clicks(w, page)
				if sent.StatusCode != http.StatusOK || !strings.HasPrefix(sent.body, "upstream /a%2Fb/") {
					t.Errorf("after the click: status %d, %s", sent.StatusCode, sent.body)
				}
				again := b.follow(b.clicks(w, page))
				if again.title() != "Your form was sent" {
					t.Errorf("after the second click: %s", again.body)
				}
				want := uri + " " + multipart + " " + body
				if got := w.upstream.posts(); len(got) != 1 || got[0] != want {
					t.Errorf("the upstream got %q, want %q", got, want)
				}
				r := w.upstream.last(t)
				if r.Header.Get("Referer") != w.site+"/form?page=1" || r.ContentLength != int64(len(body)) || r.Header.Get("Authorization") == "" {
					t.Errorf("the upstream got %v", r.Header)
				}
			})
		})
	}
}

// A90, A91: whatever is not a form of this very site's, posted by the browser
// itself, is not kept: not that of a foreign origin or of a sibling, no fetch,
// which keeps its own body, no frame, no prerendered page, and none with an
// Origin that contradicts.
func TestA90A91ForeignPostsAreNotKept(t *testing.T) {
	inEveryStore(t, func(w *world) {
		load := w.reloads()
		b := w.browser()
		outliveLogin(w, load, b)
		old := []string{"Sec-Fetch-Mode", "", "Sec-Fetch-Dest", "", "Sec-Fetch-Site", ""}
		for name, change := range map[string][]string{
			"foreign":                     {"Sec-Fetch-Site", "cross-site", "Origin", "https://evil.test"},
			"foreign, hidden":             {"Sec-Fetch-Site", "cross-site", "Origin", "null"},
			"sibling":                     {"Sec-Fetch-Site", "same-site", "Origin", "https://sibling.test"},
			"contradiction":               {"Origin", "https://evil.test"},
			"fetch":                       {"Sec-Fetch-Mode", "cors", "Sec-Fetch-Dest", "empty"},
			"frame":                       {"Sec-Fetch-Dest", "iframe"},
			"prerender":                   {"Sec-Purpose", "prefetch;prerender"},
			"typed":                       {"Sec-Fetch-Site", "none"},
			"half of Fetch Metadata":      {"Sec-Fetch-Mode", "", "Sec-Fetch-Dest", ""},
			"encoded":                     {"Content-Encoding", "gzip"},
			"part":                        {"Content-Range", "bytes 0-1/2"},
			"old browser, foreign":        append(old, "Origin", "https://evil.test"),
			"old browser, hidden":         append(old, "Origin", "null"),
			"old browser, nothing":        append(old, "Origin", ""),
			"old browser, script":         append(old, "X-Requested-With", "XMLHttpRequest"),
			"old browser, no page wanted": append(old, "Accept", "*/*"),
		} {
			a := b.sendsForm(w, "/form", "x=1", change...)
			if a.StatusCode != http.StatusUnauthorized || len(a.Cookies()) > 0 {
				w.t.Errorf("%s: got status %d, cookies %v", name, a.StatusCode, a.Cookies())
			}
		}
		for _, method := range []string{http.MethodPut, http.MethodDelete, http.MethodPatch} {
			if a := b.do(method, w.site+"/form", w.formHeader(), "x=1"); a.StatusCode != http.StatusUnauthorized {
				w.t.Errorf("%s: got status %d", method, a.StatusCode)
			}
		}
		load(lasting)
		b.login(w, "/")
		if a := b.visit(w.site + "/oauth2/replay"); a.StatusCode != http.StatusGone {
			w.t.Errorf("the page: status %d, %s", a.StatusCode, a.title())
		}
		outliveLogin(w, load, b)
		if a := b.sendsForm(w, "/form", "x=1", old...); a.StatusCode != http.StatusSeeOther {
			w.t.Errorf("an old browser's own form: got status %d", a.StatusCode)
		}
		w.nothingSent("in the end")
	})
}

// outliveLogin ends a browser's session by the idle time.
func outliveLogin(w *world, load func(string), b *browser) {
	w.t.Helper()
	load(lasting)
	b.login(w, "/")
	load(over)
}

// What would have the kept form sent without its user's click, or by another
// page, does not: A90, A91. Each tries with all cookies, and where `csrf` does
// not refuse them anyway.
func TestA90A91OnlyOurPageSendsAgain(t *testing.T) {
	inEveryStore(t, func(w *world) {
		t := w.t
		load := w.reloads()
		outliveLogin(w, load, w.browser())
		b := w.browser()
		outliveLogin(w, load, b)
		kept := b.sendsForm(w, "/form?x=1", "pay=1000")
		load(lasting + "\ncsrf off")
		page := b.offered(w, kept)
		action, fields := page.form(t)
		if action != w.site+"/form?x=1" || len(fields) != 1 {
			t.Fatalf("the form is %s %v", action, fields)
		}
		for name, change := range map[string][]string{
			"foreign": {"Sec-Fetch-Site", "cross-site", "Origin", "https://evil.test", "Referer", ""},
			"sibling": {"Sec-Fetch-Site", "same-site", "Origin", "https://sibling.test", "Referer", "https://sibling.test/"},
			"fetch":   {"Sec-Fetch-Mode", "cors", "Sec-Fetch-Dest", "empty"},
			"frame":   {"Sec-Fetch-Dest", "iframe"},
		} {
			h := w.formHeader(change...)
			req, err := http.NewRequest(http.MethodPost, action, strings.NewReader(fields.Encode()))
			if err != nil {
				t.Fatal(err)
			}
			req.Header = h
			req.Header.Set("Cookie", b.cookieHeader(w)) // as if no browser held it back
			if a := w.browser().send(req); a.location(t) != w.site+"/oauth2/replay" {
				t.Errorf("%s: got status %d, %s", name, a.StatusCode, a.Header.Get("Location"))
			}
		}
		for name, target := range map[string]string{"another path": "/other", "another query": "/form?x=2", "no query": "/form"} {
			if a := b.do(http.MethodPost, w.site+target, w.formHeader(), fields.Encode()); a.location(t) != w.site+"/oauth2/replay" {
				t.Errorf("%s: got status %d", name, a.StatusCode)
			}
		}
		forged := url.Values{"pkce_auth_replay": {"x" + fields.Get("pkce_auth_replay")[1:]}}
		if a := b.do(http.MethodPost, action, w.formHeader(), forged.Encode()); a.location(t) != w.site+"/oauth2/replay" {
			t.Errorf("a forged token: got status %d", a.StatusCode)
		}
		if a := b.visit(action + "&" + fields.Encode()); a.StatusCode != http.StatusOK {
			t.Errorf("a GET: status %d", a.StatusCode)
		}
		w.nothingSent("by all of them")

		// Other forms, short ones too, go on as they are while one is kept.
		if a := b.sendsForm(w, "/form?x=1", "pay=1"); a.StatusCode != http.StatusOK {
			t.Errorf("another form: got status %d", a.StatusCode)
		}
		if got := w.upstream.posts(); len(got) != 1 || !strings.HasSuffix(got[0], " pay=1") {
			t.Errorf("the upstream got %q", got)
		}
		if a := b.clicks(w, page); a.StatusCode != http.StatusOK {
			t.Errorf("the click: got status %d", a.StatusCode)
		}
		if got := w.upstream.posts(); len(got) != 2 || !strings.HasSuffix(got[1], " pay=1000") {
			t.Errorf("the upstream got %q", got)
		}
	})
}

// T-race: a hundred clicks at once send one form.
func TestR17ParallelClicksSendOnce(t *testing.T) {
	inEveryStore(t, func(w *world) {
		load := w.reloads()
		b := w.browser()
		outliveLogin(w, load, b)
		kept := b.sendsForm(w, "/form", "pay=1000")
		load(lasting)
		page := b.offered(w, kept)
		action, fields := page.form(w.t)
		cookies := b.cookieHeader(w)
		var wg sync.WaitGroup
		for range 30 {
			other := w.browser()
			wg.Go(func() {
				req, _ := http.NewRequest(http.MethodPost, action, strings.NewReader(fields.Encode()))
				req.Header = w.formHeader()
				req.Header.Set("Cookie", cookies)
				if a := other.send(req); a.StatusCode != http.StatusOK && a.StatusCode != http.StatusSeeOther {
					w.t.Errorf("got status %d: %s", a.StatusCode, a.body)
				}
			})
		}
		wg.Wait()
		if got := w.upstream.posts(); len(got) != 1 || !strings.HasSuffix(got[0], " pay=1000") {
			w.t.Errorf("the upstream got %q", got)
		}
	})
}

// A form is for the user who sent it: if another one logs in, it is not sent,
// and it is gone, for the first one, too.
func TestA90PostOfAnotherUser(t *testing.T) {
	inEveryStore(t, func(w *world) {
		load := w.reloads()
		b := w.browser()
		outliveLogin(w, load, b)
		kept := b.sendsForm(w, "/form", "pay=1000")
		before := copyJar(w.t, b.jar, w.site)
		load(lasting)
		w.op.Change(func(c *provider.Config) {
			c.Login, c.Users = "bob", map[string]map[string]any{"alice": {}, "bob": {}}
		})
		if page := b.offered(w, kept); page.StatusCode != http.StatusForbidden || page.title() != "That form was someone else&#39;s" {
			w.t.Errorf("bob got status %d: %s", page.StatusCode, page.title())
		}
		w.op.Change(func(c *provider.Config) { c.Login = "alice" })
		b.jar = before
		b.open(w.site + "/")
		if page := b.visit(w.site + "/oauth2/replay"); page.StatusCode != http.StatusGone {
			w.t.Errorf("alice got status %d: %s", page.StatusCode, page.title())
		}
		w.nothingSent("in the end")
	})
}

// A72: a session that somebody ended does not count, however lately: neither a
// logout of the browser's own, nor one by the provider. What was kept before the
// browser's logout is gone, too.
func TestA72EndedSessionsKeepNothing(t *testing.T) {
	inEveryStore(t, func(w *world) {
		t := w.t
		load := w.reloads()
		load(lasting)
		one, _ := w.loggedIn()
		copied := copyJar(t, one.jar, w.site)
		two, sid := w.loggedIn()
		three, _ := w.loggedIn()
		if a := one.do(http.MethodPost, w.site+"/oauth2/logout", w.formHeader(), ""); a.StatusCode != http.StatusSeeOther {
			t.Fatalf("the logout got status %d", a.StatusCode)
		}
		one.jar = copied
		w.sends(w.op.LogoutToken("public", "alice", sid, provider.LogoutFault{}))
		load(over)
		for name, b := range map[string]*browser{"logged out": one, "logged out by the provider": two} {
			if a := b.sendsForm(w, "/form", "x=1"); a.StatusCode != http.StatusUnauthorized {
				t.Errorf("%s: got status %d", name, a.StatusCode)
			}
		}
		kept := three.sendsForm(w, "/form", "x=1")
		if kept.StatusCode != http.StatusSeeOther {
			t.Fatalf("one whose time was up: got status %d", kept.StatusCode)
		}
		before := copyJar(t, three.jar, w.site)
		three.do(http.MethodPost, w.site+"/oauth2/logout", w.formHeader(), "")
		load(lasting)
		three.jar = before
		if page := three.offered(w, kept); page.StatusCode != http.StatusGone {
			t.Errorf("after a logout: status %d: %s", page.StatusCode, page.title())
		}
		w.sends(w.op.LogoutToken("public", "alice", "", provider.LogoutFault{}))
		load(over)
		if a := three.sendsForm(w, "/form", "x=1"); a.StatusCode != http.StatusUnauthorized {
			t.Errorf("all of the user's sessions were ended: got status %d", a.StatusCode)
		}
		w.nothingSent("in the end")
	})
}

// What is over is over: what is left of a session, for the ten minutes, opens
// nothing, is not refreshed, and is not brought back by anything.
func TestA72WhatIsLeftOpensNothing(t *testing.T) {
	inEveryStore(t, func(w *world) {
		load := w.reloads()
		load(short)
		b := w.browser()
		b.login(w, "/")
		outlive()
		if len(b.cookies(w.site)) == 0 {
			w.t.Error("the cookie did not outlive its session")
		}
		for range 3 {
			w.alive(b, false, "after the session's end")
		}
		if a := b.visit(w.site + "/page"); a.StatusCode != http.StatusFound {
			w.t.Errorf("a navigation: got status %d", a.StatusCode)
		}
		if got := w.refreshes(); len(got) > 0 {
			w.t.Errorf("%d refreshes", len(got))
		}
	})
}

// Nothing is kept that is too large, be it said beforehand or not, that breaks
// off, or where the route does not send anybody to a login; nor without a
// session, or with one that somebody made up.
func TestA104PostsThatAreNotKept(t *testing.T) {
	inEveryStore(t, func(w *world) {
		t := w.t
		load := w.reloads()
		b := w.browser()
		outliveLogin(w, load, b)
		if a := b.sendsForm(w, "/form", strings.Repeat("x", 4001)); a.StatusCode != http.StatusUnauthorized || len(a.Cookies()) > 0 {
			t.Errorf("too large: got status %d", a.StatusCode)
		}
		req := w.chunked(strings.Repeat("x", 4001))
		if a := b.send(req); a.StatusCode != http.StatusUnauthorized || len(a.Cookies()) > 0 {
			t.Errorf("too large, in chunks: got status %d", a.StatusCode)
		}
		w.logged("not kept", "more than 4000 bytes")
		_ = b.rawForm(w, "Content-Length: 100", "only=a part") // and hangs up
		w.logged("not kept", "reading it")
		for name, cookies := range map[string]string{"no session": "", "a forged one": "pkce_auth=" + strings.Repeat("A", 200)} {
			req, err := http.NewRequest(http.MethodPost, w.site+"/form", strings.NewReader("x=1"))
			if err != nil {
				t.Fatal(err)
			}
			req.Header = w.formHeader("Cookie", cookies)
			if a := w.browser().send(req); a.StatusCode != http.StatusUnauthorized {
				t.Errorf("%s: got status %d", name, a.StatusCode)
			}
		}
		for _, options := range []string{"unauthorized 401", ""} {
			load("session {\nidle 1ms\n}\n" + options)
			if a := b.sendsForm(w, "/form", "x=1"); a.StatusCode != http.StatusUnauthorized {
				t.Errorf("%q: got status %d", options, a.StatusCode)
			}
		}
		load(over)
		if a := b.sendsForm(w, "/form", strings.Repeat("x", 4000)); a.StatusCode != http.StatusSeeOther {
			t.Errorf("as large as it may be: got status %d", a.StatusCode)
		}
		req = w.chunked("in=chunks")
		req.Header.Set("Expect", "100-continue")
		kept := b.send(req)
		load(lasting)
		if a := b.clicks(w, b.offered(w, kept)); a.StatusCode != http.StatusOK {
			t.Errorf("in chunks: got status %d", a.StatusCode)
		}
		if got := w.upstream.posts(); len(got) != 1 || !strings.HasSuffix(got[0], " in=chunks") {
			t.Errorf("the upstream got %q", got)
		}
	})
}

// chunked is a form that does not say how long it is.
func (w *world) chunked(body string) *http.Request {
	w.t.Helper()
	req, err := http.NewRequest(http.MethodPost, w.site+"/form", strings.NewReader(body))
	if err != nil {
		w.t.Fatal(err)
	}
	req.ContentLength, req.Header = -1, w.formHeader()
	return req
}

// rawForm sends a form as text, with headers and a body that may be less than
// they say, and hangs up.
func (b *browser) rawForm(w *world, header, body string) error {
	conn, err := plain.DialContext(b.t.Context(), "tcp", strings.TrimPrefix(w.site, "http://"))
	if err != nil {
		return err
	}
	defer conn.Close()
	_, err = fmt.Fprintf(conn, "POST /form HTTP/1.1\r\nHost: %s\r\nCookie: %s\r\nOrigin: %s\r\nSec-Fetch-Site: same-origin\r\nSec-Fetch-Mode: navigate\r\n"+
		"Sec-Fetch-Dest: document\r\n%s\r\n\r\n%s", strings.TrimPrefix(w.site, "http://"), b.cookieHeader(w), w.site, header, body)
	return err
}

// A form without a body, and one over HTTP/2, survive, too.
func TestReplayWithoutABodyAndOverHTTP2(t *testing.T) {
	w := newWorld(t)
	w.h2()
	certificate, key := writeCertificate(t, w.dir)
	load := func(options string) {
		t.Helper()
		address := "https://app.test:0"
		if w.site != "" {
			address = w.site
		}
		if err := w.load(address, fmt.Sprintf("pkce_auth $OP public {\n%s\n}\nreverse_proxy $UPSTREAM\ntls %q %q\n", options, certificate, key)); err != nil {
			t.Fatal(err)
		}
		_, port, _ := strings.Cut(listenAddress(t), ":")
		w.site = "https://app.test:" + port
		w.settle()
	}
	load(lasting)
	b := w.browser()
	b.login(w, "/")
	load(over)
	empty := b.sendsForm(w, "/empty", "", "Content-Type", "")
	if empty.ProtoMajor != 2 {
		t.Fatalf("it speaks %s", empty.Proto)
	}
	load(lasting)
	if a := b.clicks(w, b.offered(w, empty)); a.StatusCode != http.StatusOK {
		t.Errorf("got status %d: %s", a.StatusCode, a.body)
	}
	b.login(w, "/")
	load(over)
	full := b.sendsForm(w, "/full", "a=b")
	load(lasting)
	page := b.offered(w, full)
	for _, c := range page.Cookies() {
		if strings.HasSuffix(c.Name, ".r") && (c.SameSite != http.SameSiteLaxMode || !c.Secure || !c.HttpOnly) {
			t.Errorf("the cookie is %v", c)
		}
	}
	if a := b.clicks(w, page); a.StatusCode != http.StatusOK {
		t.Errorf("got status %d: %s", a.StatusCode, a.body)
	}
	if got := w.upstream.posts(); len(got) != 2 || got[0] != "/empty  " || got[1] != "/full application/x-www-form-urlencoded a=b" {
		t.Errorf("the upstream got %q", got)
	}
}

// A03: a path that begins with two slashes stays on this site, and what is shown
// of it is text.
func TestA03A94ReplayOfOddPaths(t *testing.T) {
	w := newWorld(t)
	load := w.reloads()
	b := w.browser()
	outliveLogin(w, load, b)
	kept := b.sendsForm(w, `//evil.test/%3Cscript%3Ealert(1)%3C/script%3E`, "a=b")
	load(lasting)
	page := b.offered(w, kept)
	if action, _ := page.form(t); !strings.HasPrefix(action, w.site+"//evil.test/") || strings.Contains(page.body, "<script") {
		t.Errorf("the form posts to %s: %s", action, page.body)
	}
	if a := b.clicks(w, page); a.StatusCode != http.StatusOK {
		t.Errorf("got status %d", a.StatusCode)
	}
}

// A session that is over once more at the click leads to another login, and the
// form is still offered; it never reaches the upstream as our own form.
func TestReplayWhenTheSessionIsOverAgain(t *testing.T) {
	inEveryStore(t, func(w *world) {
		load := w.reloads()
		b := w.browser()
		outliveLogin(w, load, b)
		kept := b.sendsForm(w, "/form", "pay=1000")
		load(lasting)
		page := b.offered(w, kept)
		load(over)
		a := b.clicks(w, page)
		if a.location(w.t) != w.site+"/oauth2/replay" {
			w.t.Fatalf("got status %d", a.StatusCode)
		}
		load(lasting)
		page = b.follow(a)
		if a := b.clicks(w, page); a.StatusCode != http.StatusOK {
			w.t.Errorf("got status %d", a.StatusCode)
		}
		if got := w.upstream.posts(); len(got) != 1 || !strings.HasSuffix(got[0], " pay=1000") {
			w.t.Errorf("the upstream got %q", got)
		}
	})
}

// A login that is finished with a callback whose state is gone, and one that the
// provider refused at first, still lead to the form.
func TestReplayAfterAnOddLogin(t *testing.T) {
	w := newWorld(t)
	load := w.reloads()
	b := w.browser()
	outliveLogin(w, load, b)
	kept := b.sendsForm(w, "/form", "pay=1000")
	load(lasting)
	callback := b.visit(kept.location(t)).location(t)
	b.open(callback)
	if a := b.open(callback); a.title() != "Send your form again?" {
		t.Errorf("the same callback again: %s", a.body)
	}

	outliveLogin(w, load, b)
	kept = b.sendsForm(w, "/form", "pay=2000")
	load(lasting)
	w.op.Misbehave(provider.Faults{Callback: func(q url.Values) {
		q.Del("code")
		q.Set("error", "access_denied")
	}})
	page := b.follow(kept)
	w.op.Misbehave(provider.Faults{})
	if !strings.Contains(page.body, `href="/oauth2/login?return_to=%2Foauth2%2Freplay"`) {
		t.Fatalf("the page that says so is %s", page.body)
	}
	if a := b.open(w.site + "/oauth2/login?return_to=%2Foauth2%2Freplay"); a.title() != "Send your form again?" {
		t.Errorf("got %s", a.body)
	}
	w.nothingSent("in the end")
}
