package flows

import (
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/pkce-auth/caddy-pkce-auth/test/provider"
)

const formPost = "pkce_auth $OP public {\nresponse_mode form_post\n}\nreverse_proxy $UPSTREAM"

// authorize goes as far as the provider's page, which posts its answer.
func (b *browser) authorize(w *world, path string) (action string, fields url.Values) {
	b.t.Helper()
	return b.visit(b.visit(w.site + path).location(b.t)).form(b.t)
}

// IDPS 39, R37: the answer comes in a form. The browser sends the login
// state's cookie with it, which says SameSite=None; the code stands in no URL.
func TestIDPS39R37FormPost(t *testing.T) {
	w := newWorld(t)
	w.caddyTLS(formPost)
	b := w.browser()
	begin := b.visit(w.site + "/page?x=1")
	if got := query(t, begin.location(t)).Get("response_mode"); got != "form_post" {
		t.Errorf("response_mode: got %q", got)
	}
	if cookie := begin.Header.Get("Set-Cookie"); !strings.Contains(cookie, "; Secure; SameSite=None") || !strings.HasPrefix(cookie, "__Host-Http-pkce_auth_") {
		t.Errorf("the login state's cookie: got %s", cookie)
	}
	action, fields := b.visit(begin.location(t)).form(t)
	a := b.post(action, fields)
	if a.StatusCode != http.StatusSeeOther || a.Header.Get("Location") != w.site+"/page?x=1" {
		t.Fatalf("got status %d to %s", a.StatusCode, a.Header.Get("Location"))
	}
	if !strings.Contains(strings.Join(a.Header["Set-Cookie"], "\n"), "SameSite=Lax") {
		t.Errorf("the session's cookie: got %q", a.Header["Set-Cookie"])
	}
	if a := b.follow(a); a.body != "upstream /page?x=1" {
		t.Errorf("got %q", a.body)
	}
	if len(b.loginStates(w.site)) != 0 {
		t.Error("the login state stays")
	}
	// The same form again: the session is not with it, and leads on all the same.
	if a := b.follow(b.post(action, fields)); a.body != "upstream /page?x=1" || len(w.op.Requests("token")) != 1 {
		t.Errorf("again: got %q, and %d token requests", a.body, len(w.op.Requests("token")))
	}
}

// R37: what is no such form is refused, whole and at once.
func TestR37WhatIsNoForm(t *testing.T) {
	w := newWorld(t)
	w.caddyTLS(formPost)
	b := w.browser()
	action, fields := b.authorize(w, "/")
	send := func(contentType, body string) int {
		header := navigation.Clone()
		header.Set("Content-Type", contentType)
		return b.do(http.MethodPost, action, header, body).StatusCode
	}
	const form = "application/x-www-form-urlencoded"
	for name, tc := range map[string]struct {
		contentType, body string
		status            int
	}{
		"seventeen kilobytes":  {form, fields.Encode() + "&x=" + strings.Repeat("x", 17<<10), http.StatusRequestEntityTooLarge},
		"JSON":                 {"application/json", `{"code":"x"}`, http.StatusUnsupportedMediaType},
		"several parts":        {"multipart/form-data; boundary=x", "--x--", http.StatusUnsupportedMediaType},
		"no type":              {"", fields.Encode(), http.StatusUnsupportedMediaType},
		"a form of text":       {"text/plain", fields.Encode(), http.StatusUnsupportedMediaType},
		"M42 two codes":        {form, fields.Encode() + "&code=x", http.StatusSeeOther},
		"M49 a bad percentage": {form, fields.Encode() + "&x=%zz", http.StatusSeeOther},
		"a code and an error":  {form, fields.Encode() + "&error=x", http.StatusSeeOther},
		"M40 no state":         {form, "code=x", http.StatusSeeOther},
	} {
		if got := send(tc.contentType, tc.body); got != tc.status {
			t.Errorf("%s: got status %d, want %d", name, got, tc.status)
		}
	}
	if len(w.op.Requests("token")) != 0 {
		t.Fatal("a code was sent")
	}
	if a := b.follow(b.post(action+"?code=x&state=y", fields)); a.body != "upstream /" {
		t.Errorf("what stands in the URL beside a form counts for nothing: got %q", a.body)
	}
	// Five megabytes are not waited for.
	w = newWorld(t)
	w.caddy(formPost)
	a := w.raw(w.browser(), "POST /oauth2/callback HTTP/1.1\nHost: $HOST\nContent-Type: "+form+"\nContent-Length: 5242880\n\n"+strings.Repeat("x", 17<<10))
	if a.StatusCode != http.StatusRequestEntityTooLarge {
		t.Errorf("five megabytes: got status %d", a.StatusCode)
	}
}

// Where a browser does not send the login state's cookie with the form, as one
// that blocks such cookies, the login begins anew once, then a page explains:
// no loop, and no code is used.
func TestPromise4FormPostWithoutCookies(t *testing.T) {
	w := newWorld(t)
	w.caddyTLS(formPost)
	b := w.browser()
	action, fields := b.authorize(w, "/page")
	b.foreign = nil
	a := b.post(action, fields)
	if location := a.location(t); strings.Contains(location, fields.Get("code")) || !strings.HasPrefix(location, w.site+"/oauth2/callback?") {
		t.Fatalf("got %s", location)
	}
	a = b.visit(a.location(t))
	action, fields = b.visit(a.location(t)).form(t)
	b.foreign = nil
	if a = b.follow(b.post(action, fields)); a.StatusCode != http.StatusBadRequest || !strings.Contains(a.body, "does not keep cookies") {
		t.Errorf("got status %d and %.300s", a.StatusCode, a.body)
	}
	w.noSession(b, 0)
}

// An error in the form shows its page, and a forged one of a browser without
// any login nothing of what it says.
func TestR06ErrorInAForm(t *testing.T) {
	w := newWorld(t)
	w.caddyTLS(formPost)
	w.op.Misbehave(provider.Faults{Callback: func(q url.Values) {
		q.Del("code")
		q.Set("error", "access_denied")
		q.Set("error_description", "not <you>")
	}})
	b := w.browser()
	action, fields := b.authorize(w, "/page")
	if a := b.follow(b.post(action, fields)); a.StatusCode != http.StatusForbidden || !strings.Contains(a.body, "not &lt;you&gt;") {
		t.Errorf("got status %d and %.300s", a.StatusCode, a.body)
	}
	other := w.browser()
	if a := other.follow(other.post(action, fields)); a.StatusCode != http.StatusBadRequest || strings.Contains(a.body, "you&gt;") {
		t.Errorf("without a login: got status %d and %.300s", a.StatusCode, a.body)
	}
	w.noSession(other, 0)
}

// A40: an attacker's form in a victim's browser makes no session, for the
// victim's browser has no such login state.
func TestA40FormOfAnAttacker(t *testing.T) {
	w := newWorld(t)
	w.caddyTLS(formPost)
	attacker, victim := w.browser(), w.browser()
	action, fields := attacker.authorize(w, "/attacker")
	a := victim.post(action, fields)
	a = victim.visit(a.location(t))
	if !strings.HasPrefix(a.location(t), w.op.URL+"/authorize?") {
		t.Errorf("got status %d to %s", a.StatusCode, a.location(t))
	}
	w.noSession(victim, 0)
}

// A61: a slow answer of an older login does not bring its session back, though
// the callback by POST does not see the session that it replaces.
func TestA61SlowAnswerOfAnOlderLoginByForm(t *testing.T) {
	w := newWorld(t)
	w.caddyTLS("pkce_auth $OP public {\nresponse_mode form_post\nsession {\nidle 10s\n}\n}\nreverse_proxy $UPSTREAM")
	b := w.browser()
	login := func(b *browser, start string) answer {
		return b.follow(b.post(b.visit(b.visit(start).location(t)).form(t)))
	}
	login(b, w.site+"/")
	time.Sleep(1100 * time.Millisecond) // a tenth of the idle time: the next answer slides the session
	held, release := w.upstream.holds("/slow")
	answers := make(chan answer)
	go func() { answers <- b.fetch(w.site + "/slow") }()
	<-held
	tab := &browser{t: t, jar: b.jar}
	w.op.Change(func(cfg *provider.Config) { cfg.Login, cfg.Users["bob"] = "bob", map[string]any{} })
	login(tab, w.site+"/oauth2/login?return_to=/new")
	second := w.upstream.last(t).Header.Get("Authorization")
	close(release)
	<-answers
	b.fetch(w.site + "/x")
	if got := w.upstream.last(t).Header.Get("Authorization"); got != second {
		t.Error("the older login's session is back")
	}
}

// Two providers that share a callback, one of which answers by form: whichever
// the request comes to first.
func TestSharedCallbackOneByForm(t *testing.T) {
	for _, modes := range [][2]string{{"form_post", "query"}, {"query", "form_post"}} {
		w := newWorld(t)
		w.caddyTLS(`
			pkce_auth one {
				issuer $OP
				client_id public
				callback_path /cb
				response_mode ` + modes[0] + `
			}
			pkce_auth two {
				issuer $OP
				client_id confidential
				client_secret s3cr:t%+é
				callback_path /cb
				response_mode ` + modes[1] + `
			}
			---
			pkce_auth /one/* one
			pkce_auth /two/* two
			reverse_proxy $UPSTREAM
		`)
		path := "/one/x"
		if modes[1] == "form_post" {
			path = "/two/x"
		}
		b := w.browser()
		if a := b.follow(b.post(b.authorize(w, path))); a.body != "upstream "+path {
			t.Errorf("%v: got status %d and %.100q", modes, a.StatusCode, a.body)
		}
	}
}

// R06: an error whose form came without its cookie, as two minutes after a
// login on loopback began, is shown all the same.
func TestR06ErrorInAFormWithoutItsCookie(t *testing.T) {
	w := newWorld(t)
	w.caddy(formPost)
	w.op.Misbehave(provider.Faults{Callback: func(q url.Values) { q.Del("code"); q.Set("error", "user_cancelled_authorize") }})
	b := w.browser()
	action, fields := b.authorize(w, "/page")
	b.foreign = nil
	if a := b.follow(b.post(action, fields)); a.StatusCode != http.StatusForbidden {
		t.Errorf("got status %d", a.StatusCode)
	}
}
