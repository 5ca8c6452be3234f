package main

import (
	"context"
	"io"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"regexp"
	"strings"
	"testing"
	"time"
)

// The demo, as a user walks through it: the URL it prints, the login form,
// and the page that says who they are, without the token.
func TestDemo(t *testing.T) {
	ctx, stop := context.WithCancel(t.Context())
	out, printed := io.Pipe()
	done := make(chan error, 1)
	go func() { done <- run(ctx, printed) }()
	text := readUntil(t, out, "Ctrl-C")
	go func() { _, _ = io.Copy(io.Discard, out) }()
	site := regexp.MustCompile(`http://localhost:\d+/`).FindString(text)
	if site == "" {
		t.Fatalf("no URL in %q", text)
	}
	jar, err := cookiejar.New(nil)
	if err != nil {
		t.Fatal(err)
	}
	browser := &http.Client{Jar: jar, Timeout: 10 * time.Second}
	form, body := get(t, browser, site+"reports?year=2026")
	if !strings.Contains(body, "Demo Provider") {
		t.Fatalf("no login form: %s", body)
	}
	resp, err := browser.PostForm(form.String(), url.Values{"login": {"bob"}, "password": {"x"}, "allow": {"1"}})
	if err != nil {
		t.Fatal(err)
	}
	page, _ := io.ReadAll(resp.Body)
	resp.Body.Close()
	if resp.Request.URL.String() != site+"reports?year=2026" || !strings.Contains(string(page), "Bob Birch") || !strings.Contains(string(page), "&#34;aud&#34;") {
		t.Errorf("after the login: %s shows %s", resp.Request.URL, page)
	}
	if regexp.MustCompile(`eyJ[A-Za-z0-9_-]{20}`).Match(page) {
		t.Error("the page shows the raw token")
	}
	if _, body := get(t, browser, site+"public"); !strings.Contains(body, "Bob Birch") {
		t.Errorf("the public page, with a session: %s", body)
	}
	stop()
	select {
	case err := <-done:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(10 * time.Second):
		t.Error("the demo does not end")
	}
	if _, err := browser.Get(site); err == nil {
		t.Error("Caddy still listens")
	}
}

func get(t *testing.T, client *http.Client, target string) (*url.URL, string) {
	t.Helper()
	req, err := http.NewRequest(http.MethodGet, target, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Accept", "text/html")
	resp, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.Request.URL, string(body)
}

func readUntil(t *testing.T, r io.Reader, part string) string {
	t.Helper()
	var text strings.Builder
	buf := make([]byte, 1024)
	for !strings.Contains(text.String(), part) {
		n, err := r.Read(buf)
		if err != nil {
			t.Fatalf("%v after %q", err, text.String())
		}
		text.Write(buf[:n])
	}
	return text.String()
}
