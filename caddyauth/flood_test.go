package caddyauth

import (
	"encoding/base64"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"reflect"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"github.com/pkce-auth/caddy-pkce-auth/caddyauth/internal/rp"
	"github.com/pkce-auth/caddy-pkce-auth/test/provider"
)

// attacker makes requests that nobody has to be anybody for.
type attacker struct {
	random *rand.Rand
	cookie string // the name of the session's cookie
	value  string // of a session that was once: what is made of it looks like one of ours
	state  string // of a login that was begun by somebody else
	token  string // an access token whose signature is another's
}

func (a *attacker) text(n int) string {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(a.random.UintN(256))
	}
	return base64.RawURLEncoding.EncodeToString(b)
}

// forged keeps what stands in the clear in a sealed value, version and name of
// the key, and draws the rest.
func (a *attacker) forged(value string) string { return value[:8] + a.text(3*len(value)/4-6) }

// floods are the kinds of requests, each with something that never comes twice:
// what is remembered of any of it would grow.
var floods = map[string]func(a *attacker) *http.Request{
	"paths, as pages": func(a *attacker) *http.Request {
		return a.request("GET", "/"+a.text(12)+"?"+a.text(9)+"="+a.text(9), "Accept", "text/html", "Sec-Fetch-Mode", "navigate")
	},
	"paths, as scripts": func(a *attacker) *http.Request {
		return a.request("POST", "/"+a.text(12), "Accept", "application/json", "X-"+a.text(6), a.text(6))
	},
	"cookies of garbage": func(a *attacker) *http.Request {
		return a.request("GET", "/page", "Cookie", a.cookie+"="+a.text(60)+"; "+a.text(6)+"="+a.text(6))
	},
	"forged cookies": func(a *attacker) *http.Request {
		return a.request("GET", "/page", "Cookie", a.cookie+"="+a.forged(a.value))
	},
	"forged cookies, with keys that there are not": func(a *attacker) *http.Request {
		return a.request("GET", "/page", "Cookie", a.cookie+"=AQ"+a.text(160))
	},
	"forged cookies in parts": func(a *attacker) *http.Request {
		value := a.forged(a.value)
		return a.request("GET", "/page", "Cookie", a.cookie+"=2."+value[:40]+"; "+a.cookie+".1="+value[40:]+"; "+a.cookie+".1="+a.text(40)+"; "+a.cookie+".2="+a.text(40))
	},
	"cookies of logins": func(a *attacker) *http.Request {
		cookies := ""
		for range 4 {
			cookies += fmt.Sprintf("__Host-Http-pkce_auth.l%08x-%x=%s; ", a.random.Uint32(), a.random.Uint64()>>16, a.text(90))
		}
		return a.request("GET", "/page", "Accept", "text/html", "Cookie", cookies)
	},
	"states and codes": func(a *attacker) *http.Request {
		return a.request("GET", "/oauth2/callback?code="+a.text(20)+"&state="+a.text(60), "Accept", "text/html")
	},
	"forged states": func(a *attacker) *http.Request {
		tag, value, _ := strings.Cut(a.state, ".")
		return a.request("GET", "/oauth2/callback?code="+a.text(20)+"&state="+tag+"."+a.forged(value)+"&iss="+a.text(9))
	},
	"a real state of another browser": func(a *attacker) *http.Request {
		return a.request("GET", "/oauth2/callback?code="+a.text(20)+"&state="+a.state)
	},
	"error answers": func(a *attacker) *http.Request {
		return a.request("GET", "/oauth2/callback?error="+a.text(9)+"&error_description="+a.text(20)+"&state="+a.text(60))
	},
	"our endpoints": func(a *attacker) *http.Request {
		endpoint := []string{pathLogin, pathLogout, pathSession, pathSignedOut, pathError, pathReplay, pathVerify, pathFrontChannel}[a.random.IntN(8)]
		return a.request("GET", "/oauth2"+endpoint+"?id="+a.text(9)+"&ask="+a.text(40)+"&return_to=/"+a.text(9)+"&sid="+a.text(9)+"&state="+a.text(9))
	},
	"logouts": func(a *attacker) *http.Request {
		return a.request("POST", "/oauth2/logout", "Origin", "https://app.test", "Cookie", a.cookie+"="+a.forged(a.value)+"; __Secure-pkce_auth.h="+a.forged(a.value))
	},
	"paths beside our endpoints": func(a *attacker) *http.Request {
		return a.request("GET", "/oauth2/"+a.text(9)+"/"+a.text(9), "Accept", "text/html")
	},
	"tokens of garbage": func(a *attacker) *http.Request {
		return a.request("GET", "/api", "Authorization", "Bearer "+a.text(40))
	},
	"forged tokens": func(a *attacker) *http.Request {
		return a.request("GET", "/api", "Authorization", "Bearer "+a.token[:strings.LastIndexByte(a.token, '.')+1]+a.text(64))
	},
	"tokens of keys that there are not": func(a *attacker) *http.Request {
		header := base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"ES256","typ":"at+jwt","kid":"` + a.text(9) + `"}`))
		return a.request("GET", "/api", "Authorization", "Bearer "+header+a.token[strings.IndexByte(a.token, '.'):])
	},
	"logout tokens": func(a *attacker) *http.Request {
		r := a.request("POST", "/oauth2/backchannel-logout", "Content-Type", "application/x-www-form-urlencoded")
		body := "logout_token=" + a.token[:strings.LastIndexByte(a.token, '.')+1] + a.text(64)
		r.Body, r.ContentLength = io.NopCloser(strings.NewReader(body)), int64(len(body))
		return r
	},
}

func (a *attacker) request(method, uri string, header ...string) *http.Request {
	h := http.Header{"User-Agent": {"Mozilla/5.0"}}
	for i := 0; i < len(header); i += 2 {
		h[http.CanonicalHeaderKey(header[i])] = []string{header[i+1]}
	}
	return newRequest(method, "https://app.test"+uri, h)
}

// Issue 7, T3, A102: whoever is nobody can send whatever they like, as often as
// they like; here 10⁵ requests, no two of them the same. None of it is
// remembered, none of it costs the provider anything but its keys, now and then,
// and none of it leaves a goroutine behind.
func TestA102T3FloodLeavesNothingBehind(t *testing.T) {
	for _, kind := range []string{"cookie", "memory"} {
		t.Run(kind, func(t *testing.T) {
			op, err := provider.Start(provider.Config{})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() {
				if err := op.Close(); err != nil {
					t.Error(err)
				}
			})
			h := newHandler(t, `{"inline":{"issuer":"`+op.URL+`","client_id":"public","session":{"store":{"kind":"`+kind+`"}}},
				"accept_bearer":["https://api.test"],"verify":true,"replay_posts":4096}`)
			a := newAttacker(t, h, op)
			flood(t, h, a, 250) // what is kept of the provider itself is there by now, and what pools hold
			calls, kept, heap := callsTo(op), keptBy(h), heapInUse()
			goroutines := runtime.NumGoroutine()

			n := flood(t, h, a, 2800)

			if more := heapInUse() - heap; more > 256<<10 {
				t.Errorf("the heap has grown by %d bytes after %d requests", more, n)
			} else {
				t.Logf("the heap has grown by %d bytes after %d requests; %d calls to the provider", more, n, callsTo(op))
			}
			if got := keptBy(h); got != kept {
				t.Errorf("%d things are remembered after %d requests, before it were %d", got, n, kept)
			}
			if got := callsTo(op) - calls; got > 3 {
				t.Errorf("%d calls to the provider for %d requests", got, n)
			}
			settled(t, goroutines)
			if got := seriesOf(failures); got > len(statuses) {
				t.Errorf("the metric has %d series, more than there are reasons", got)
			}
		})
	}
}

// K7, T3: nor is a provider that is down asked by everybody who would log in.
func TestK7T3FloodWhileTheProviderIsDown(t *testing.T) {
	op, err := provider.Start(provider.Config{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := op.Close(); err != nil {
			t.Error(err)
		}
	})
	h := newHandler(t, `{"inline":{"issuer":"`+op.URL+`","client_id":"public"},"accept_bearer":["https://api.test"],"verify":true,"replay_posts":4096}`)
	a := newAttacker(t, h, op)
	down := func(w http.ResponseWriter, _ *http.Request) bool {
		w.WriteHeader(http.StatusServiceUnavailable)
		return true
	}
	h.party.logger = zap.NewNop()
	h.party.client.Provider = rp.NewProvider(rp.ProviderConfig{Issuer: op.URL}) // which has asked for nothing yet
	op.Misbehave(provider.Faults{Answer: map[string]func(http.ResponseWriter, *http.Request) bool{"metadata": down, "keys": down}})
	calls, began := callsTo(op), time.Now()
	n := flood(t, h, a, 100)
	if got, most := callsTo(op)-calls, 1+int(time.Since(began)/rp.RetryAfter); got > most {
		t.Errorf("%d calls to a provider that is down for %d requests, want at most %d", got, n, most)
	}
}

func newAttacker(t *testing.T, h *Handler, op *provider.Provider) *attacker {
	t.Helper()
	cookie, value, _ := strings.Cut(sessionCookies(t, h, "token")[0], "=")
	w := httptest.NewRecorder()
	a := &attacker{random: rand.New(rand.NewPCG(1, 2)), cookie: cookie, value: value}
	if err := h.ServeHTTP(w, a.request("GET", "/", "Accept", "text/html"), nop); err != nil {
		t.Fatal(err)
	}
	location, err := w.Result().Location()
	if err != nil {
		t.Fatal(err)
	}
	a.state = location.Query().Get("state")
	now := time.Now()
	a.token = op.Sign(map[string]any{"alg": "ES256", "typ": "at+jwt"}, map[string]any{
		"iss": op.URL, "aud": "https://api.test", "sub": "mallory", "client_id": "x", "iat": now.Unix(), "exp": now.Add(time.Hour).Unix(),
	})
	return a
}

// flood sends n requests of each kind, from several sides at once. None may pass.
func flood(t *testing.T, h *Handler, a *attacker, n int) (total int) {
	t.Helper()
	next := passes{t}
	var sides sync.WaitGroup
	for name, kind := range floods {
		side := *a
		side.random = rand.New(rand.NewPCG(a.random.Uint64(), 0))
		sides.Go(func() {
			for range n {
				r := kind(&side)
				w := httptest.NewRecorder()
				err := h.ServeHTTP(w, r, next)
				if err == nil && w.Code == http.StatusOK && !strings.HasPrefix(r.URL.Path, "/oauth2/") {
					t.Errorf("%s: %s %s got 200", name, r.Method, r.URL)
				}
				for _, c := range w.Result().Cookies() {
					if c.Name == side.cookie && c.MaxAge > 0 {
						t.Errorf("%s: %s %s got a session", name, r.Method, r.URL)
					}
				}
			}
		})
		total += n
	}
	sides.Wait()
	return total
}

// passes is an upstream that nobody must reach.
type passes struct{ t *testing.T }

func (p passes) ServeHTTP(_ http.ResponseWriter, r *http.Request) error {
	p.t.Errorf("%s %s passed", r.Method, r.URL)
	return nil
}

func callsTo(op *provider.Provider) (n int) {
	for _, endpoint := range []string{"metadata", "keys", "authorize", "token", "userinfo", "revoke", "end_session"} {
		n += len(op.Requests(endpoint))
	}
	return n
}

// keptBy counts what a handler and all that belongs to it holds in maps, lists and
// slices, whatever they are for: one that is made later is counted, too.
func keptBy(h *Handler) int {
	return elements(reflect.ValueOf(h.party), map[any]bool{}) + elements(reflect.ValueOf(h.bearer), map[any]bool{})
}

func elements(v reflect.Value, seen map[any]bool) (n int) {
	switch v.Kind() {
	case reflect.Pointer:
		at := [2]any{v.Pointer(), v.Type()}
		if v.IsNil() || seen[at] || !ours(v.Type().Elem()) {
			return 0
		}
		seen[at] = true
		return elements(v.Elem(), seen)
	case reflect.Interface:
		return elements(v.Elem(), seen)
	case reflect.Struct:
		if !ours(v.Type()) {
			return 0
		}
		for i := range v.NumField() {
			n += elements(v.Field(i), seen)
		}
	case reflect.Map:
		n = v.Len()
		for entries := v.MapRange(); entries.Next(); {
			n += elements(entries.Value(), seen)
		}
	case reflect.Slice, reflect.Array:
		if v.Kind() == reflect.Slice {
			n = v.Len()
		}
		if kind := v.Type().Elem().Kind(); kind != reflect.Uint8 {
			for i := range v.Len() {
				n += elements(v.Index(i), seen)
			}
		}
	}
	return n
}

// ours reports whether a type is one that this module makes of, or the standard
// library's list.
func ours(t reflect.Type) bool {
	return t.PkgPath() == "" || strings.HasPrefix(t.PkgPath(), "github.com/pkce-auth/") || t.PkgPath() == "container/list"
}

func heapInUse() int64 {
	var stats runtime.MemStats
	for range 3 { // pools let go of what they hold at the second
		runtime.GC()
	}
	runtime.ReadMemStats(&stats)
	return int64(stats.HeapAlloc)
}

// settled waits until there are no more goroutines than there were.
func settled(t *testing.T, before int) {
	t.Helper()
	now := 0
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		if now = runtime.NumGoroutine(); now <= before {
			return
		}
	}
	t.Errorf("%d goroutines are left, before it were %d", now, before)
}

func seriesOf(c prometheus.Collector) (n int) {
	found := make(chan prometheus.Metric)
	go func() {
		c.Collect(found)
		close(found)
	}()
	for range found {
		n++
	}
	return n
}
