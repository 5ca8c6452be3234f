package replicas

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// site is where browsers see the replicas: behind something that spreads their
// requests.
const site = "http://localhost"

// browser is a browser with one window and any number of requests at a time.
type browser struct {
	w   *world
	jar http.CookieJar
}

func (w *world) browser() *browser {
	jar, err := cookiejar.New(nil)
	if err != nil {
		w.t.Fatal(err)
	}
	return &browser{w: w, jar: jar}
}

// navigation are the headers of a top-level navigation in Chromium, fetched
// those of a script's fetch to its own site.
var (
	navigation = map[string]string{
		"Accept": "text/html,*/*;q=0.8", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document", "Sec-Fetch-Site": "none", "Sec-Fetch-User": "?1",
	}
	fetched = map[string]string{
		"Accept": "*/*", "Sec-Fetch-Mode": "cors", "Sec-Fetch-Dest": "empty", "Sec-Fetch-Site": "same-origin",
	}
)

// answer is what a request got.
type answer struct {
	status   int
	header   http.Header
	body     string
	replica  int
	request  string // its name
	lasted   time.Duration
	touching []*http.Cookie // cookies of ours that it sets
}

func (a answer) String() string {
	return fmt.Sprintf("status %d of replica %d after %s, Location %q: %.200s", a.status, a.replica, a.lasted, a.header.Get("Location"), a.body)
}

var requests, turns atomic.Int64

// anyone is whichever replica's turn it is.
const anyone = -1

func (b *browser) request(method, target string, header map[string]string) *http.Request {
	if strings.HasPrefix(target, "/") {
		target = site + target
	}
	req, err := http.NewRequest(method, target, nil)
	if err != nil {
		b.w.t.Fatal(err)
	}
	for name, value := range header {
		req.Header.Set(name, value)
	}
	req.Header.Set("X-Request", fmt.Sprint(requests.Add(1)))
	for _, c := range b.jar.Cookies(req.URL) {
		req.AddCookie(c)
	}
	return req
}

// send sends a request to a replica, keeps the cookies it gets, and follows no
// redirect. To any replica it is sent as load balancers do: one that takes no
// connections is passed over, and what a connection broke for is sent again.
func (b *browser) send(ctx context.Context, req *http.Request, to int) (answer, error) {
	began := time.Now()
	req = req.WithContext(ctx)
	a := answer{request: req.Header.Get("X-Request")}
	resp, err := b.roundTrip(req, to, &a.replica)
	if err != nil {
		return a, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return a, err
	}
	a.status, a.header, a.body, a.lasted = resp.StatusCode, resp.Header, string(body), time.Since(began).Round(time.Millisecond)
	for _, c := range resp.Cookies() {
		if strings.HasPrefix(c.Name, "pkce_auth") {
			a.touching = append(a.touching, c)
		}
	}
	b.jar.SetCookies(req.URL, resp.Cookies())
	return a, nil
}

func (b *browser) roundTrip(req *http.Request, to int, by *int) (*http.Response, error) {
	if req.URL.Hostname() != "localhost" {
		return http.DefaultTransport.RoundTrip(req)
	}
	replicas := b.w.all()
	if to != anyone {
		*by = to
		return replicas[to].direct.RoundTrip(req)
	}
	var resp *http.Response
	var err error
	turn := int(turns.Add(1))
	for i := range replicas {
		*by = (turn + i) % len(replicas)
		resp, err = replicas[*by].direct.RoundTrip(req)
		switch broke := errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE) || errors.Is(err, io.EOF); {
		case broke && req.Body == nil:
			b.w.mu.Lock()
			b.w.broken = append(b.w.broken, req.Header.Get("X-Request"))
			b.w.mu.Unlock()
			req.Header.Set("X-Request", fmt.Sprint(requests.Add(1)))
		case !errors.Is(err, syscall.ECONNREFUSED):
			return resp, err
		}
	}
	return resp, err
}

// fetch gets a page of the application, as its scripts do.
func (b *browser) fetch(target string, to int) answer {
	b.w.t.Helper()
	return b.get(target, fetched, to)
}

// visit gets it as a navigation.
func (b *browser) visit(target string, to int) answer {
	b.w.t.Helper()
	return b.get(target, navigation, to)
}

func (b *browser) get(target string, header map[string]string, to int) answer {
	b.w.t.Helper()
	a, err := b.send(b.w.t.Context(), b.request(http.MethodGet, target, header), to)
	if err != nil {
		b.w.t.Errorf("GET %s: %v", target, err)
	}
	return a
}

// follow goes where an answer leads, to the end.
func (b *browser) follow(a answer, to int) answer {
	b.w.t.Helper()
	at, err := url.Parse(site + "/")
	if err != nil {
		b.w.t.Fatal(err)
	}
	for range 12 {
		location := a.header.Get("Location")
		if location == "" {
			return a
		}
		if at, err = at.Parse(location); err != nil {
			b.w.t.Fatal(err)
		}
		a = b.visit(at.String(), to)
	}
	b.w.t.Errorf("the redirects do not end: %s", a)
	return a
}

// login logs in, with whatever replicas.
func (b *browser) login() {
	b.w.t.Helper()
	if a := b.follow(b.visit("/app", anyone), anyone); a.status != http.StatusOK || a.body != "ok" {
		b.w.t.Fatalf("login: got %s", a)
	}
}

// copied is what a thief has, who took the cookies.
func (b *browser) copied() *browser {
	thief := b.w.browser()
	at, err := url.Parse(site + "/")
	if err != nil {
		b.w.t.Fatal(err)
	}
	thief.jar.SetCookies(at, b.jar.Cookies(at))
	return thief
}

// outcome is what many requests got.
type outcome struct {
	mu      sync.Mutex
	answers []answer
	errs    []error
}

// fetchAll sends so many requests at once, to all replicas, as fetches and as
// navigations.
func (b *browser) fetchAll(count int) *outcome {
	b.w.t.Helper()
	o := new(outcome)
	var all sync.WaitGroup
	for i := range count {
		all.Go(func() {
			header := fetched
			if i%4 == 3 {
				header = navigation
			}
			o.note(b.send(b.w.t.Context(), b.request(http.MethodGet, "/api", header), anyone))
		})
	}
	all.Wait()
	return o
}

func (o *outcome) note(a answer, err error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if err != nil {
		o.errs = append(o.errs, err)
		return
	}
	o.answers = append(o.answers, a)
}

// not are the answers that have none of the statuses, and the errors.
func (o *outcome) not(statuses ...int) (bad []string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, err := range o.errs {
		bad = append(bad, err.Error())
	}
answers:
	for _, a := range o.answers {
		for _, status := range statuses {
			if a.status == status {
				continue answers
			}
		}
		bad = append(bad, a.String())
	}
	return bad
}

func (o *outcome) count(status int) (n int) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, a := range o.answers {
		if a.status == status {
			n++
		}
	}
	return n
}

func (o *outcome) slowest() (d time.Duration) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, a := range o.answers {
		d = max(d, a.lasted)
	}
	return d
}

// total is how many requests there were.
func (o *outcome) total() int {
	o.mu.Lock()
	defer o.mu.Unlock()
	return len(o.answers) + len(o.errs)
}

// few shortens a list for a message.
func few(list []string) string {
	return fmt.Sprintf("%d, of them %s", len(list), strings.Join(list[:min(5, len(list))], "\n\t"))
}

// busy has browsers send some fifty requests a second each, until stop is called,
// which returns what came of it.
func (w *world) busy(browsers []*browser, target string) (stop func() *outcome) {
	o := new(outcome)
	var over atomic.Bool
	var all sync.WaitGroup
	for _, b := range browsers {
		for range 2 {
			all.Go(func() {
				for !over.Load() {
					o.note(b.send(context.Background(), b.request(http.MethodGet, target, fetched), anyone))
					time.Sleep(40 * time.Millisecond)
				}
			})
		}
	}
	return func() *outcome {
		over.Store(true)
		all.Wait()
		return o
	}
}
