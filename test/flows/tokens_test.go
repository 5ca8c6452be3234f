package flows

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/pkce-auth/caddy-pkce-auth/test/provider"
)

// apis are sites with several upstreams, each of which wants a token of its own.
type apis struct {
	*world
	a, b, id, none *upstream
}

// ofAPIs is their configuration: what is for /a is for nobody else. The main
// token is for main.
func (w *world) ofAPIs(global, onA, onB string) *apis {
	w.t.Helper()
	u := &apis{world: w, a: newUpstream(w.t), b: newUpstream(w.t), id: newUpstream(w.t), none: newUpstream(w.t)}
	w.caddy(u.config(global, onA, onB))
	return u
}

func (u *apis) config(global, onA, onB string) string {
	at := func(u *upstream) string { return strings.TrimPrefix(u.server.URL, "http://") }
	return fmt.Sprintf(`
	pkce_auth {
		issuer $OP
		client_id public
		audience https://main.test
		%s
	}
	---
	handle /a/* {
		pkce_auth {
			%s
		}
		reverse_proxy %s
	}
	handle /b/* {
		pkce_auth {
			%s
		}
		reverse_proxy %s
	}
	handle /id/* {
		pkce_auth {
			forward_token id
		}
		reverse_proxy %s
	}
	handle /none/* {
		pkce_auth {
			forward_token none
			bypass /none/public
		}
		reverse_proxy %s
	}
	handle {
		pkce_auth {
			bypass /public
		}
		reverse_proxy $UPSTREAM
	}
	`, global, onA, at(u.a), onB, at(u.b), at(u.id), at(u.none))
}

const forA, forB = "audience https://a.test", "audience https://b.test"

// audiences are those of the tokens that an upstream got.
func (u *upstream) audiences(t testing.TB) (all []string) {
	t.Helper()
	u.mu.Lock()
	defer u.mu.Unlock()
	for _, r := range u.requests {
		all = append(all, strings.Join(bearerClaims(t, r).Aud, " "))
	}
	return all
}

type tokenClaims struct {
	Aud   audience
	Scope string
	Nonce string
}

// audience is one text, or several.
type audience []string

func (a *audience) UnmarshalJSON(data []byte) error {
	var one string
	if json.Unmarshal(data, &one) == nil {
		*a = audience{one}
		return nil
	}
	return json.Unmarshal(data, (*[]string)(a))
}

func bearerClaims(t testing.TB, r *http.Request) (c tokenClaims) {
	t.Helper()
	token, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	parts := strings.Split(token, ".")
	if !ok || len(parts) != 3 || len(r.Header["Authorization"]) != 1 {
		t.Errorf("%s: Authorization %.40q is no JWT", r.RequestURI, r.Header["Authorization"])
		return c
	}
	data, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err == nil {
		err = json.Unmarshal(data, &c)
	}
	if err != nil {
		t.Error(err)
	}
	return c
}

// only fails unless an upstream got tokens of one audience only.
func (u *upstream) only(t testing.TB, want string, atLeast int) {
	t.Helper()
	got := u.audiences(t)
	if len(got) < atLeast || slices.ContainsFunc(got, func(aud string) bool { return aud != want }) {
		t.Errorf("got audiences %q, want %d or more of %q", slices.Compact(got), atLeast, want)
	}
}

func multiResource(c *provider.Config) { c.APIs = []string{"https://a.test", "https://b.test"} }

// G3, R16, A74: a route with an audience gets a token for that, and no other
// route does; the login's own stays what it is. The attack: the token of one API,
// sent to another, is a credential in the wrong hands.
func TestG3R16A74TokenPerRoute(t *testing.T) {
	inEveryStore(t, func(w *world) {
		w.op.Change(multiResource)
		u := w.ofAPIs("", forA, "audience https://b.test\nscopes openid b:read")
		b := w.browser()
		if a := b.open(w.site + "/a/1"); a.StatusCode != http.StatusOK {
			t.Fatalf("got status %d: %.500s", a.StatusCode, a.body)
		}
		for range 3 {
			for _, path := range []string{"/", "/b/1", "/a/2", "/id/1"} {
				if a := b.fetch(w.site + path); a.StatusCode != http.StatusOK {
					t.Errorf("%s: got status %d: %.300s", path, a.StatusCode, a.body)
				}
			}
		}
		w.upstream.only(t, "https://main.test", 3)
		u.a.only(t, "https://a.test", 4)
		u.b.only(t, "https://b.test", 3)
		u.id.only(t, "public", 3)
		if got := bearerClaims(t, u.b.last(t)).Scope; got != "openid b:read" {
			t.Errorf("scope: got %q", got)
		}
		if len(w.refreshes()) != 2 || w.op.Reused() != 0 || len(w.op.Requests("authorize")) != 1 {
			t.Errorf("%d refreshes, %d reused, %d authorizations", len(w.refreshes()), w.op.Reused(), len(w.op.Requests("authorize")))
		}
		forB := w.refreshes()[1].Form
		if forB.Get("audience") != "https://b.test" || forB.Get("scope") != "openid b:read" {
			t.Errorf("the refresh asked for %q, %q", forB.Get("audience"), forB.Get("scope"))
		}
	})
}

// A74, R15, IDPS 24: 200 requests at once for three tokens, all of which are
// due, at a provider that rotates: three grants, one after the other, and every
// upstream sees its own audience only.
func TestG3R15A74IDPS24ParallelTargets(t *testing.T) {
	inEveryStore(t, func(w *world) {
		w.op.Change(multiResource)
		u := w.ofAPIs("", forA, forB)
		b := w.browser()
		w.op.Misbehave(provider.Faults{TokenResponse: shortLived, RefreshResponse: shortLived})
		for _, path := range []string{"/a/1", "/b/1", "/"} {
			if a := b.open(w.site + path); a.StatusCode != http.StatusOK {
				t.Fatalf("got status %d: %.300s", a.StatusCode, a.body)
			}
		}
		outliveShortLived()
		w.op.Misbehave(provider.Faults{})
		before := len(w.refreshes())
		old := b.cookieHeader(w)
		var wg sync.WaitGroup
		for n := range 200 {
			wg.Go(func() {
				path := []string{"/", "/a/x", "/b/x"}[n%3]
				if a := w.presentAt(path, old); a.StatusCode != http.StatusOK {
					t.Errorf("%s: got status %d: %.300s", path, a.StatusCode, a.body)
				}
			})
		}
		wg.Wait()
		if got := len(w.refreshes()) - before; got != 3 || w.op.Reused() != 0 {
			t.Errorf("%d refreshes, want 3; %d refresh tokens were used twice", got, w.op.Reused())
		}
		w.upstream.only(t, "https://main.test", 60)
		u.a.only(t, "https://a.test", 60)
		u.b.only(t, "https://b.test", 60)
	})
}

// presentAt sends a script's request with the given cookies.
func (w *world) presentAt(path, cookies string) answer {
	w.t.Helper()
	req, err := http.NewRequest(http.MethodGet, w.site+path, nil)
	if err != nil {
		w.t.Fatal(err)
	}
	req.Header = fetched.Clone()
	req.Header.Set("Cookie", cookies)
	return (&browser{t: w.t, jar: w.noCookies()}).send(req)
}

// G3, IDPS 18: where a refresh does not bring the token, a navigation goes to the
// provider, which shows nothing; anything else gets 401 and the link to do so. A
// token that a provider gives for something else in place of an error is not used.
func TestG3IDPS18SilentAuthorization(t *testing.T) {
	for name, faults := range map[string]provider.Faults{
		"a provider that refuses":           {},
		"one that ignores what it is asked": {IgnoreTargets: true},
		"one that says invalid_grant": {RefuseTarget: func(endpoint string, form url.Values) string {
			if endpoint == "token" && form.Get("audience") != "" {
				return "invalid_grant"
			}
			return ""
		}},
	} {
		t.Run(name, func(t *testing.T) {
			inEveryStore(t, func(w *world) {
				u := w.ofAPIs("", forA, forB)
				b := w.browser()
				b.login(w, "/")
				w.op.Misbehave(faults)
				a := b.fetch(w.site + "/a/1")
				var said struct {
					LoginURL string `json:"login_url"`
				}
				if err := json.Unmarshal([]byte(a.body), &said); a.StatusCode != http.StatusUnauthorized || err != nil || !strings.Contains(said.LoginURL, "ask=") ||
					!strings.Contains(a.Header.Get("WWW-Authenticate"), said.LoginURL) {
					t.Fatalf("got status %d, %q, %q", a.StatusCode, a.body, a.Header.Get("WWW-Authenticate"))
				}
				refreshes := len(w.refreshes())
				toProvider := b.visit(w.site + "/a/1").location(t)
				q := query(t, toProvider)
				if q.Get("prompt") != "none" || q.Get("audience") != "https://a.test" || !slices.Contains(strings.Fields(q.Get("scope")), "openid") {
					t.Fatalf("got a redirect to %q", toProvider)
				}
				if a := b.open(toProvider); a.StatusCode != http.StatusOK || a.body != "upstream /a/1" {
					t.Fatalf("got status %d: %.300s", a.StatusCode, a.body)
				}
				for _, path := range []string{"/a/2", "/"} {
					if a := b.fetch(w.site + path); a.StatusCode != http.StatusOK {
						t.Errorf("%s: got status %d", path, a.StatusCode)
					}
				}
				if a := b.open(said.LoginURL); a.StatusCode != http.StatusOK { // it leads to the start page
					t.Errorf("the link: got status %d", a.StatusCode)
				}
				w.upstream.only(t, "https://main.test", 2)
				u.a.only(t, "https://a.test", 2)
				if len(w.refreshes()) != refreshes || w.op.Reused() != 0 {
					t.Errorf("%d refreshes more, %d reused", len(w.refreshes())-refreshes, w.op.Reused())
				}
			})
		})
	}
}
