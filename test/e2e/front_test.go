package e2e

import (
	"bytes"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"os/signal"
	"path"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// front is the address of a provider that lets nobody say "any free port": a
// reverse proxy, as most providers stand behind one. Requests wait in it until
// the provider knows the site, and it notes those of the protocol.
type front struct {
	server *httptest.Server
	proxy  *httputil.ReverseProxy
	pages  http.Handler  // what the provider does not serve itself; may be nil
	open   chan struct{} // closed when the provider knows the site
	mu     sync.Mutex
	to     *url.URL
	notes  []note
}

// note is what stays of one request of the protocol: names of parameters and
// members, and what is no secret.
type note struct {
	Endpoint   string
	Parameters []string // of the request
	Status     int
	Grant      string   // that the token endpoint was asked for
	Error      string   // with which it refused
	Members    []string // of its answer
	Type       string   // of the access token
	Empty      bool     // there was no answer but the status

	refreshToken string // that it granted
}

func newFront(t *testing.T, pages http.Handler) *front {
	t.Helper()
	f := &front{pages: pages, open: make(chan struct{})}
	f.proxy = &httputil.ReverseProxy{Transport: f, Rewrite: func(r *httputil.ProxyRequest) {
		f.mu.Lock()
		defer f.mu.Unlock()
		r.SetURL(f.to)
		r.Out.Host = r.In.Host
	}}
	f.server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if f.pages != nil && !strings.HasPrefix(r.URL.Path, "/api/") && !strings.HasPrefix(r.URL.Path, "/config/") {
			f.pages.ServeHTTP(w, r)
			return
		}
		select {
		case <-f.open:
			f.proxy.ServeHTTP(w, r)
		case <-r.Context().Done():
		}
	}))
	t.Cleanup(f.server.Close)
	return f
}

// RoundTrip sends a request on to the provider, and notes it if it belongs to
// the protocol's back channel or to a logout.
func (f *front) RoundTrip(r *http.Request) (*http.Response, error) {
	n := note{Endpoint: path.Base(r.URL.Path)}
	if !slices.Contains([]string{"token", "revoke", "end_session"}, n.Endpoint) {
		return http.DefaultTransport.RoundTrip(r)
	}
	var sent []byte
	if r.Body != nil {
		var err error
		if sent, err = io.ReadAll(r.Body); err != nil {
			return nil, err
		}
		r.Body = io.NopCloser(bytes.NewReader(sent))
	}
	r.Header.Del("Accept-Encoding") // the transport asks for what it can read
	resp, err := http.DefaultTransport.RoundTrip(r)
	if err != nil {
		return nil, err
	}
	answer, err := io.ReadAll(resp.Body)
	_ = resp.Body.Close()
	if err != nil {
		return nil, err
	}
	resp.Body = io.NopCloser(bytes.NewReader(answer))
	form, _ := url.ParseQuery(string(sent))
	var members map[string]any
	_ = json.Unmarshal(answer, &members)
	n.Parameters = slices.Concat(names(form), names(r.URL.Query()))
	n.Status, n.Members, n.Empty = resp.StatusCode, names(members), len(answer) == 0
	n.Grant = form.Get("grant_type")
	n.Error, _ = members["error"].(string)
	n.Type, _ = members["token_type"].(string)
	n.refreshToken, _ = members["refresh_token"].(string)
	f.mu.Lock()
	f.notes = append(f.notes, n)
	f.mu.Unlock()
	return resp, nil
}

func names[V any](of map[string]V) []string {
	var all []string
	for name := range of {
		all = append(all, name)
	}
	slices.Sort(all)
	return all
}

// noted gives the notes of which something is true, as soon as there are so
// many.
func (f *front) noted(t *testing.T, atLeast int, is func(note) bool) []note {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		f.mu.Lock()
		found := slices.DeleteFunc(slices.Clone(f.notes), func(n note) bool { return !is(n) })
		all := slices.Clone(f.notes)
		f.mu.Unlock()
		if len(found) >= atLeast {
			return found
		}
		if time.Now().After(deadline) {
			t.Fatalf("the provider was asked this, and not what was expected: %+v", all)
		}
	}
}

// refreshes are true of requests for a refresh that were answered with a
// status.
func refreshes(status int) func(note) bool {
	return func(n note) bool { return n.Grant == "refresh_token" && n.Status == status }
}

// atProvider sends a form with the latest refresh token to the provider, past
// the front's notes: as somebody would who has stolen it, or another instance
// with the same session. Without a secret it is the public client's.
func (f *front) atProvider(t *testing.T, endpoint, secret string, form url.Values) {
	t.Helper()
	granted := f.noted(t, 1, func(n note) bool { return n.refreshToken != "" })
	for name, values := range form {
		if values[0] == "" {
			form.Set(name, granted[len(granted)-1].refreshToken)
		}
	}
	if secret == "" {
		form.Set("client_id", "public")
	}
	req, err := http.NewRequest(http.MethodPost, f.behind()+endpoint, strings.NewReader(form.Encode()))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	if secret != "" {
		req.SetBasicAuth("confidential", secret)
	}
	client := &http.Client{Timeout: 10 * time.Second}
	resp, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		t.Fatalf("%s answered %s", endpoint, resp.Status)
	}
}

// behind is where the provider itself is.
func (f *front) behind() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.to.String()
}

// serve starts a provider behind the front. Its address was free a moment ago;
// should somebody else have taken it, another one is tried. The provider is up
// when the answer to a GET of what probe says contains a text that is its own.
func (f *front) serve(t *testing.T, command func(address string) []string, probe, contains string) *process {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	for range 5 {
		listener, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		address := listener.Addr().String()
		args := append([]string{"supervise"}, command(address)...)
		_ = listener.Close()
		p := start(t, "", self, args...)
		if !comesUp(t, p, "http://"+address+probe, contains) {
			continue
		}
		f.mu.Lock()
		f.to = &url.URL{Scheme: "http", Host: address}
		f.mu.Unlock()
		return p
	}
	t.Fatal("the provider does not start")
	return nil
}

// comesUp waits until a server answers, or has ended.
func comesUp(t *testing.T, p *process, target, contains string) bool {
	t.Helper()
	client := &http.Client{Timeout: 5 * time.Second}
	for deadline := time.Now().Add(60 * time.Second); time.Now().Before(deadline); {
		select {
		case <-p.ended:
			t.Logf("ended, and is tried at another port: %s", p.output())
			return false
		case <-time.After(20 * time.Millisecond):
		}
		resp, err := client.Get(target)
		if err != nil {
			continue
		}
		body, _ := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
		_ = resp.Body.Close()
		if resp.StatusCode == http.StatusOK && strings.Contains(string(body), contains) {
			return true
		}
	}
	t.Fatalf("%s does not answer; the provider printed:\n%s", target, p.output())
	return false
}

// supervise runs a program that knows nothing of us, and ends it when our
// standard input ends: with the test, however that ends.
func supervise(args []string) int {
	signal.Ignore(os.Interrupt)
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stdout
	if err := cmd.Start(); err != nil {
		_, _ = os.Stdout.WriteString(err.Error() + "\n")
		return 1
	}
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		_ = cmd.Process.Kill()
	}()
	if err := cmd.Wait(); err != nil {
		return 1
	}
	return 0
}
