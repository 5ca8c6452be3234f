package flows

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pkce-auth/caddy-pkce-auth/test/provider"
)

// Journeys over several parts at once: who may pass, how fresh the login is, and
// which token goes upstream, on one site.

// office is the README's example "Who may pass, and with which token", with
// another upstream for /billing.
type office struct {
	*world
	billing *upstream
}

func (w *world) office(global, onBilling, onRest string) *office {
	w.t.Helper()
	o := &office{world: w, billing: newUpstream(w.t)}
	o.load(global, onBilling, onRest)
	return o
}

// load loads it, the second time as a reload.
func (o *office) load(global, onBilling, onRest string) {
	o.t.Helper()
	if o.site == "" {
		o.reloads()
	}
	if err := o.world.load(o.site, fmt.Sprintf(`
	pkce_auth {
		issuer $OP
		client_id public
		%s
	}
	---
	handle /billing/* {
		pkce_auth {
			%s
		}
		reverse_proxy %s
	}
	handle {
		pkce_auth {
			%s
		}
		reverse_proxy $UPSTREAM
	}
	`, global, onBilling, strings.TrimPrefix(o.billing.server.URL, "http://"), onRest)); err != nil {
		o.t.Fatal(err)
	}
	o.settle()
}

const (
	billingAPI = "https://billing.test"
	onBilling  = "require groups staff\nmax_age 15m\naudience " + billingAPI
	onRest     = "require `{http.auth.user.email}.endsWith(\"@example.com\") || \"guest\" in {http.auth.user.roles}`\nreplay_posts 4kB"
)

// as has the provider's users be just these.
func (w *world) as(name string, claims map[string]any) {
	w.op.Change(func(c *provider.Config) {
		c.Login = name
		c.Users = map[string]map[string]any{name: claims}
	})
}

var clerk = map[string]any{"email": "clerk@example.com", "email_verified": true, "groups": []any{"staff"}}

// loginURL is where a 401 says that one can log in, in both places.
func (a answer) loginURL(t testing.TB) string {
	t.Helper()
	var said struct {
		LoginURL string `json:"login_url"`
	}
	if err := json.Unmarshal([]byte(a.body), &said); a.StatusCode != http.StatusUnauthorized || err != nil || said.LoginURL == "" ||
		!strings.Contains(a.Header.Get("WWW-Authenticate"), `login_url="`+said.LoginURL+`"`) {
		t.Fatalf("got status %d, %q, %q", a.StatusCode, a.body, a.Header.Get("WWW-Authenticate"))
	}
	return said.LoginURL
}

// back adds where to go after a login.
func back(t testing.TB, loginURL, to string) string {
	t.Helper()
	u, err := url.Parse(loginURL)
	if err != nil {
		t.Fatal(err)
	}
	q := u.Query()
	q.Set("return_to", to)
	u.RawQuery = q.Encode()
	return u.String()
}

// R56, G3: the README's example, as somebody meets it who opens the page that
// wants most. One visit to the provider where a refresh gets the other token, two
// where it does not, the second of which shows nothing; and each upstream sees
// its own token only.
func TestR56G3ExampleOfREADME(t *testing.T) {
	for name, tc := range map[string]struct {
		apis   []string
		visits int
	}{
		"by a refresh":              {[]string{billingAPI}, 1},
		"by a silent authorization": {nil, 2},
	} {
		t.Run(name, func(t *testing.T) {
			inEveryStore(t, func(w *world) {
				t := w.t
				w.op.Change(func(c *provider.Config) { c.APIs = tc.apis })
				w.as("clerk", clerk)
				o := w.office("audience https://main.test", onBilling, onRest)
				b := w.browser()
				if a := b.open(w.site + "/billing/1?x=%2F"); a.StatusCode != http.StatusOK || a.body != "upstream /billing/1?x=%2F" {
					t.Fatalf("got status %d: %.300s", a.StatusCode, a.body)
				}
				visits := w.asked()
				if len(visits) != tc.visits {
					t.Fatalf("%d visits to the provider, want %d", len(visits), tc.visits)
				}
				if q := visits[0].Form; q.Get("max_age") != "900" || q.Get("audience") != "https://main.test" || q.Get("prompt") != "" {
					t.Errorf("the login asks for %v", q)
				}
				if tc.visits == 2 {
					if q := visits[1].Form; q.Get("prompt") != "none" || q.Get("audience") != billingAPI {
						t.Errorf("the authorization asks for %v", q)
					}
				}
				for range 2 {
					for _, path := range []string{"/", "/billing/2"} {
						if a := b.fetch(w.site + path); a.StatusCode != http.StatusOK {
							t.Errorf("%s: got status %d: %.300s", path, a.StatusCode, a.body)
						}
					}
				}
				if len(w.asked()) != tc.visits || w.op.Reused() != 0 {
					t.Errorf("%d visits in the end, %d refresh tokens used twice", len(w.asked()), w.op.Reused())
				}
				w.upstream.only(t, "https://main.test", 2)
				o.billing.only(t, billingAPI, 3)
			})
		})
	}
}

// R56, IDPS 35: the same for a script, which is told where to log in, at each
// step. Each link does what it is for, and then there is nothing more to do.
func TestR56G3ExampleOfREADMEByFetch(t *testing.T) {
	for name, apis := range map[string][]string{"by a refresh": {billingAPI}, "by a silent authorization": nil} {
		t.Run(name, func(t *testing.T) {
			inEveryStore(t, func(w *world) {
				t := w.t
				w.op.Change(func(c *provider.Config) { c.APIs = apis })
				w.as("clerk", clerk)
				w.provedBy(time.Hour, "")
				o := w.office("", onBilling, onRest)
				b := w.browser()
				b.login(w, "/")
				w.provedBy(0, "")
				links := 0
				a := b.fetch(w.site + "/billing/1")
				if said := challenged(t, a); said["error"] != "insufficient_user_authentication" || said["max_age"] != "900" {
					t.Errorf("the session is too old: got %v", said)
				}
				for ; a.StatusCode == http.StatusUnauthorized && links < 5; links++ {
					if page := b.open(back(t, a.loginURL(t), "/page?n=1")); page.body != "upstream /page?n=1" {
						t.Fatalf("link %d led to %d %.300s", links, page.StatusCode, page.body)
					}
					a = b.fetch(w.site + "/billing/1")
				}
				want := 1
				if apis == nil {
					want = 2
				}
				if a.StatusCode != http.StatusOK || links != want || len(w.asked()) != 1+want {
					t.Errorf("got status %d after %d links and %d visits to the provider", a.StatusCode, links, len(w.asked()))
				}
				o.billing.only(t, billingAPI, 1)
			})
		})
	}
}

// Who may not pass costs nothing: no token is got for them, and no login begins
// again, however old theirs is.
func TestG3ForbiddenGetsNoToken(t *testing.T) {
	inEveryStore(t, func(w *world) {
		t := w.t
		w.op.Change(func(c *provider.Config) { c.APIs = []string{billingAPI} })
		w.as("guest", map[string]any{"roles": []any{"guest"}, "groups": []any{"visitors"}})
		w.provedBy(time.Hour, "")
		o := w.office("", onBilling, onRest)
		b := w.browser()
		b.login(w, "/")
		for kind, header := range map[string]http.Header{"a navigation": navigation, "a fetch": fetched} {
			if a := b.do("GET", w.site+"/billing/1", header, ""); a.StatusCode != http.StatusForbidden || a.Header["Www-Authenticate"] != nil {
				t.Errorf("%s: got status %d and %v", kind, a.StatusCode, a.Header)
			}
		}
		if len(w.refreshes()) != 0 || len(w.asked()) != 1 || o.billing.count() != 0 {
			t.Errorf("%d refreshes, %d visits to the provider, %d requests upstream", len(w.refreshes()), len(w.asked()), o.billing.count())
		}
	})
}

// R56: a session that has grown too old on such a route: one more login, and back,
// with the token of the new session.
func TestR56G3TooOldThenBack(t *testing.T) {
	inEveryStore(t, func(w *world) {
		t := w.t
		w.op.Change(func(c *provider.Config) { c.APIs = []string{billingAPI} })
		w.as("clerk", clerk)
		w.provedBy(time.Hour, "")
		o := w.office("", onBilling, onRest)
		b := w.browser()
		b.login(w, "/")
		w.provedBy(0, "")
		if a := b.open(w.site + "/billing/1"); a.body != "upstream /billing/1" {
			t.Fatalf("got status %d: %.300s", a.StatusCode, a.body)
		}
		if visits := w.asked(); len(visits) != 2 || visits[1].Form.Get("max_age") != "900" || len(w.refreshes()) != 1 {
			t.Errorf("%d visits to the provider, %d refreshes", len(visits), len(w.refreshes()))
		}
		o.billing.only(t, billingAPI, 1)
	})
}

// A16, R57: a token that a client brings is held to the route's rules by its own
// claims, and is what goes upstream, whatever the route's audience; a cookie
// beside it is nobody's, and there is nothing that a foreign page could forge.
func TestA16R57BroughtTokensAndTheOtherOptions(t *testing.T) {
	for name, tc := range map[string]struct{ option, upstream string }{
		"audience": {"audience https://other.test", "theirs"},
		"id":       {"forward_token id", ""},
		"none":     {"forward_token none", "theirs"},
		"max_age":  {"max_age 5m", "theirs"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			o := w.office("", "accept_bearer https://api.test\nrequire scope read\nrequire team blue\nheader_up X-Auth-Sub {http.auth.user.id}\n"+tc.option, "")
			good := w.accessToken(nil, map[string]any{"scope": "read", "team": "blue"})
			if name == "max_age" { // by what the token itself says
				for _, old := range []any{nil, time.Now().Add(-time.Hour).Unix()} {
					token := w.accessToken(nil, map[string]any{"scope": "read", "team": "blue", "auth_time": old})
					a := w.browser().do("GET", w.site+"/billing/1", program("Bearer "+token), "")
					if said := challenged(t, a); said["error"] != "insufficient_user_authentication" || o.billing.count() != 0 {
						t.Errorf("auth_time %v: got %v", old, said)
					}
				}
				good = w.accessToken(nil, map[string]any{"scope": "read", "team": "blue", "auth_time": time.Now().Unix()})
				if a := w.browser().do("GET", w.site+"/billing/1", program("Bearer "+good), ""); a.StatusCode != http.StatusOK {
					t.Errorf("got status %d: %s", a.StatusCode, a.body)
				}
				return
			}
			foreign := with(program("Bearer "+good), "Origin", "https://evil.test", "Sec-Fetch-Site", "cross-site")
			alice := w.browser()
			alice.login(w, "/")
			for _, b := range []*browser{w.browser(), alice} {
				if a := b.do("POST", w.site+"/billing/1", foreign, "x=1"); a.StatusCode != http.StatusOK || a.Header["Set-Cookie"] != nil {
					t.Fatalf("got status %d: %s", a.StatusCode, a.body)
				}
				got, want := o.billing.last(t).Header, ""
				if tc.upstream == "theirs" {
					want = "Bearer " + good
				}
				if got.Get("Authorization") != want || got.Get("X-Auth-Sub") != "carol" || got["Cookie"] != nil {
					t.Errorf("upstream got %v", got)
				}
				for _, claims := range []map[string]any{{"scope": "read", "team": "red"}, {"scope": "read"}, {"team": "blue"}, {"scope": "read", "team": []any{}}} {
					poor := w.accessToken(nil, claims)
					if a := b.do("GET", w.site+"/billing/1", program("Bearer "+poor), ""); a.StatusCode != http.StatusForbidden {
						t.Errorf("%v: got status %d: %s", claims, a.StatusCode, a.body)
					}
				}
			}
			if o.billing.count() != 2 || len(w.refreshes()) != 0 {
				t.Errorf("%d requests upstream, %d refreshes", o.billing.count(), len(w.refreshes()))
			}
		})
	}
}

// A13, R56, G3: a proxy in front, with all of it: what it is told leads through
// the step-up, and to the route's token, and back; then there is nothing to say.
func TestA13R56G3VerifyWithAllOfIt(t *testing.T) {
	for name, apis := range map[string][]string{"by a refresh": {billingAPI}, "by a silent authorization": nil} {
		t.Run(name, func(t *testing.T) {
			inEveryStore(t, func(w *world) {
				t := w.t
				w.op.Change(func(c *provider.Config) { c.APIs = apis })
				w.as("clerk", clerk)
				w.provedBy(time.Hour, "")
				w.caddy(`
	servers {
		trusted_proxies static 127.0.0.1/32
	}
	pkce_auth {
		issuer $OP
		client_id public
	}
	---
	handle /oauth2/* {
		pkce_auth {
			verify on
			` + onBilling + `
		}
	}
	handle {
		pkce_auth
		reverse_proxy $UPSTREAM
	}
	`)
				b := w.browser()
				b.login(w, "/")
				w.provedBy(0, "")
				ask := func(header http.Header) answer {
					return b.do("GET", w.site+"/oauth2/verify", with(traefik("GET", "/page?n=1", header), "X-Forwarded-Host", strings.TrimPrefix(w.site, "http://")), "")
				}
				a, links := ask(navigation), 0
				for ; a.StatusCode == http.StatusUnauthorized && links < 5; links++ {
					to := a.Header.Get("X-Login-Url")
					if to == "" {
						t.Fatalf("no link: %v", a.Header)
					}
					if page := b.open(to); page.body != "upstream /page?n=1" {
						t.Fatalf("link %d, %s, led to %d %.300s", links, to, page.StatusCode, page.body)
					}
					a = ask(navigation)
				}
				want := 1
				if apis == nil {
					want = 2
				}
				if a.StatusCode != http.StatusNoContent || links != want {
					t.Fatalf("got status %d after %d links", a.StatusCode, links)
				}
				r := &http.Request{Header: http.Header{"Authorization": a.Header["Authorization"]}}
				if got := bearerClaims(t, r).Aud; !slices.Equal(got, audience{billingAPI}) {
					t.Errorf("got a token for %q", got)
				}
				if a := ask(fetched); a.StatusCode != http.StatusNoContent || len(w.asked()) != 1+want {
					t.Errorf("a fetch: got status %d, after %d visits to the provider", a.StatusCode, len(w.asked()))
				}
			})
		})
	}
}

// R58, A74: the second try has a new token of the route's audience, got with the
// refresh token of the session; the token of the login stays what it is.
func TestR58A74RetryWithARoutesToken(t *testing.T) {
	inEveryStore(t, func(w *world) {
		t := w.t
		w.op.Change(func(c *provider.Config) { c.APIs = []string{billingAPI} })
		o := w.office("audience https://main.test", "audience "+billingAPI+"\nretry_invalid_token on", "")
		b := w.browser()
		b.login(w, "/")
		main := w.upstream.last(t).Header.Get("Authorization")
		if a := b.fetch(w.site + "/billing/1"); a.StatusCode != http.StatusOK {
			t.Fatalf("got status %d", a.StatusCode)
		}
		first := o.billing.last(t).Header.Get("Authorization")
		p := new(picky)
		p.refuse(1)
		o.billing.answers(p.serve)
		if a := b.fetch(w.site + "/billing/2"); a.StatusCode != http.StatusOK || len(p.tokens) != 2 || p.tokens[0] != first || p.tokens[1] == first {
			t.Fatalf("got status %d, and %d requests", a.StatusCode, len(p.tokens))
		}
		if got := w.refreshes(); len(got) != 2 || got[1].Form.Get("audience") != billingAPI || w.op.Reused() != 0 {
			t.Errorf("%d refreshes", len(got))
		}
		b.fetch(w.site + "/")
		if w.upstream.last(t).Header.Get("Authorization") != main {
			t.Error("the token of the login is another")
		}
		b.fetch(w.site + "/billing/3")
		if len(p.tokens) != 3 || p.tokens[2] != p.tokens[1] {
			t.Error("the next request has another token")
		}
		w.upstream.only(t, "https://main.test", 2)
		o.billing.only(t, billingAPI, 4)
	})
}

// overAtOnce has sessions be over as soon as they are not used; as over, where
// the provider is declared apart.
const overAtOnce = "session {\nidle 1ms\n}"

// R17, R56, A59: a form that comes just after its session's end, on a route that
// wants a fresh login and a token of its own: it is offered after all that, and
// sent once, with that token. A click whose session needs one more visit to the
// provider by then leads there, and not in a circle.
func TestR17R56G3ReplayWithAllOfIt(t *testing.T) {
	for name, apis := range map[string][]string{"by a refresh": {billingAPI}, "by a silent authorization": nil} {
		t.Run(name, func(t *testing.T) {
			inEveryStore(t, func(w *world) {
				t := w.t
				w.op.Change(func(c *provider.Config) { c.APIs = apis })
				w.as("clerk", clerk)
				o := w.office("", onBilling+"\nreplay_posts 4kB", onRest)
				b := w.browser()
				b.login(w, "/")
				o.load(overAtOnce, onBilling+"\nreplay_posts 4kB", onRest)
				kept := b.sendsForm(w, "/billing/pay", "amount=7")
				o.load("", onBilling+"\nreplay_posts 4kB", onRest)
				if q := query(t, kept.location(t)); q.Get("max_age") != "900" {
					t.Errorf("the login asks for %v", q)
				}
				page := b.offered(w, kept)
				a, clicks := b.clicks(w, page), 1
				for ; a.StatusCode == http.StatusSeeOther && clicks < 4; clicks++ {
					page = b.follow(a)
					if page.title() != "Send your form again?" {
						t.Fatalf("a click led to %s: %.300s", page.Request.URL, page.body)
					}
					a = b.clicks(w, page)
				}
				if a.StatusCode != http.StatusOK || a.body != "upstream /billing/pay" {
					t.Fatalf("got status %d after %d clicks: %.300s", a.StatusCode, clicks, a.body)
				}
				if got := o.billing.posts(); len(got) != 1 || !strings.HasSuffix(got[0], " amount=7") {
					t.Errorf("upstream got %q", got)
				}
				o.billing.only(t, billingAPI, 1)
				b.clicks(w, page)
				if got := o.billing.posts(); len(got) != 1 {
					t.Errorf("a second click: upstream got %q", got)
				}
			})
		})
	}
}

// R56, R17: a login that was fresh enough when the form was offered, and is not
// at the click, is asked for again; and then the form is still there.
func TestR17R56ReplayWhoseLoginIsTooOld(t *testing.T) {
	inEveryStore(t, func(w *world) {
		t := w.t
		w.as("clerk", clerk)
		options := "max_age 15m\nreplay_posts 4kB"
		o := w.office("", options, onRest)
		b := w.browser()
		b.login(w, "/")
		o.load(overAtOnce, options, onRest)
		kept := b.sendsForm(w, "/billing/pay", "amount=7")
		o.load("", options, onRest)
		page := b.offered(w, kept)
		w.provedBy(time.Hour, "")
		b.open(w.site + "/oauth2/login?return_to=/") // a session of another age
		w.provedBy(0, "")
		page = b.open(page.Request.URL.String())
		a := b.clicks(w, page)
		if q := query(t, a.location(t)); q.Get("max_age") != "900" {
			t.Fatalf("got status %d to %q", a.StatusCode, a.Header.Get("Location"))
		}
		a = b.clicks(w, b.offered(w, a))
		if got := o.billing.posts(); a.StatusCode != http.StatusOK || len(got) != 1 || !strings.HasSuffix(got[0], " amount=7") {
			t.Errorf("got status %d, upstream %q", a.StatusCode, got)
		}
	})
}

// R17: who may not pass is offered the form, for that says nothing of the route;
// what they send is refused, and goes nowhere.
func TestR17ReplayOfWhoMayNotPass(t *testing.T) {
	w := newWorld(t)
	w.as("guest", map[string]any{"groups": []any{"staff"}})
	const options = "require groups staff\nreplay_posts 4kB"
	o := w.office("", options, "")
	b := w.browser()
	b.login(w, "/")
	o.load(overAtOnce, options, "")
	kept := b.sendsForm(w, "/billing/pay", "amount=7")
	o.load("", options, "")
	w.as("guest", map[string]any{"groups": []any{"visitors"}})
	if a := b.clicks(w, b.offered(w, kept)); a.StatusCode != http.StatusForbidden {
		t.Errorf("got status %d: %.300s", a.StatusCode, a.body)
	}
	if o.billing.count() != 0 {
		t.Errorf("upstream got %q", o.billing.posts())
	}
}

// R56: a form whose session is alive, but too old for the route: the page says
// that it was not sent. It is not kept, for the user can go back to it.
func TestR56FormOfASessionThatIsTooOld(t *testing.T) {
	w := newWorld(t)
	w.as("clerk", clerk)
	w.provedBy(time.Hour, "")
	o := w.office("", "max_age 15m\nreplay_posts 4kB", onRest)
	b := w.browser()
	b.login(w, "/")
	a := b.sendsForm(w, "/billing/pay", "amount=7")
	if a.StatusCode != http.StatusUnauthorized || a.title() != "Please log in again" || !strings.Contains(a.body, "What you sent was not delivered") ||
		!strings.Contains(a.body, "return_to=%2Fform%3Fpage%3D1") { // the page that it is on

		t.Errorf("got status %d: %s", a.StatusCode, a.body)
	}
	if o.billing.count() != 0 || len(w.asked()) != 1 {
		t.Errorf("%d requests upstream, %d visits to the provider", o.billing.count(), len(w.asked()))
	}
}

// A74: two handlers on one path: the rules of both count, and of the token what the
// last one says that says anything.
func TestA74TwoHandlersOneToken(t *testing.T) {
	for name, tc := range map[string]struct{ first, second, want string }{
		"the second only has a rule": {"audience https://a.test", "require groups staff", "https://a.test"},
		"the second wants the main":  {"audience https://a.test", "forward_token access", "https://main.test"},
		"the second has another":     {"audience https://a.test", "audience https://b.test", "https://b.test"},
		"the second has the same":    {"audience https://a.test", "require groups staff\naudience https://a.test", "https://a.test"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.op.Change(multiResource)
			w.caddy(`
	pkce_auth {
		issuer $OP
		client_id public
		audience https://main.test
	}
	---
	route {
		pkce_auth {
			` + tc.first + `
		}
		pkce_auth /x/* {
			` + tc.second + `
		}
		reverse_proxy $UPSTREAM
	}
	`)
			b := w.browser()
			b.login(w, "/x/1")
			b.fetch(w.site + "/x/2")
			w.upstream.only(t, tc.want, 2)
			b.fetch(w.site + "/y")
			if got := bearerClaims(t, w.upstream.last(t)).Aud; !slices.Equal(got, audience{"https://a.test"}) {
				t.Errorf("where the first is alone: a token for %q", got)
			}
			if len(w.asked()) != 1 {
				t.Errorf("%d visits to the provider", len(w.asked()))
			}
		})
	}
}

// R41, IDPS 30: what pages of such a site learn of the session, and its end: all
// refresh tokens are revoked.
func TestIDPS30SessionAndLogoutWithAllOfIt(t *testing.T) {
	inEveryStore(t, func(w *world) {
		t := w.t
		w.as("clerk", clerk)
		o := w.office("", onBilling, onRest)
		b := w.browser()
		if a := b.open(w.site + "/billing/1"); a.StatusCode != http.StatusOK {
			t.Fatalf("got status %d: %.300s", a.StatusCode, a.body)
		}
		var said struct {
			Active   bool
			LoginURL string `json:"login_url"`
			Claims   map[string]any
		}
		a := b.fetch(w.site + "/oauth2/session")
		if err := json.Unmarshal([]byte(a.body), &said); err != nil || !said.Active || said.Claims["sub"] != "clerk" || said.LoginURL != w.site+"/oauth2/login" {
			t.Errorf("got %d %s", a.StatusCode, a.body)
		}
		b.do(http.MethodPost, w.site+"/oauth2/logout", with(navigation, "Sec-Fetch-Site", "same-origin", "Origin", w.site), "")
		w.eventually("both refresh tokens to be revoked", func() bool {
			var tokens []string
			for _, r := range w.op.Requests("revoke") {
				tokens = append(tokens, r.Form.Get("token"))
			}
			slices.Sort(tokens)
			return len(slices.Compact(tokens)) == 2
		})
		if a := b.fetch(w.site + "/billing/1"); a.StatusCode != http.StatusUnauthorized || o.billing.count() != 1 {
			t.Errorf("afterwards: got status %d, %d requests upstream", a.StatusCode, o.billing.count())
		}
	})
}
