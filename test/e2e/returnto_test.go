package e2e

import (
	"encoding/json"
	"io"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"regexp"
	"strings"
	"testing"
	"time"
)

// returnedTo logs in by HTTP alone, at the same provider, and gives the
// Location with which the callback sends the browser on.
func returnedTo(t *testing.T, w *world, returnTo string) string {
	t.Helper()
	jar, err := cookiejar.New(nil)
	if err != nil {
		t.Fatal(err)
	}
	location := ""
	client := &http.Client{Jar: jar, Timeout: 10 * time.Second, CheckRedirect: func(req *http.Request, via []*http.Request) error {
		if strings.HasSuffix(via[len(via)-1].URL.Path, "/oauth2/callback") {
			location = req.Response.Header.Get("Location")
			return http.ErrUseLastResponse
		}
		return nil
	}}
	request := func(method, target string, form url.Values) string {
		req, err := http.NewRequest(method, target, strings.NewReader(form.Encode()))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Accept", "text/html")
		if form != nil {
			req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		}
		resp, err := client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return string(body)
	}
	body := request(http.MethodGet, w.site+"/oauth2/login?return_to="+url.QueryEscape(returnTo), nil)
	for range 3 {
		action := regexp.MustCompile(`<form[^>]*action="([^"]*)"`).FindStringSubmatch(body)
		prompt := regexp.MustCompile(`name="prompt" value="([a-z]*)"`).FindStringSubmatch(body)
		if location != "" || action == nil || prompt == nil {
			break
		}
		body = request(http.MethodPost, action[1], url.Values{"prompt": {prompt[1]}, "login": {"alice"}, "password": {"x"}})
	}
	if location == "" {
		t.Fatalf("%q: the login did not end: %.300s", returnTo, body)
	}
	return location
}

// quote gives a JavaScript string.
func quote(s string) string {
	data, _ := json.Marshal(s)
	return string(data)
}
