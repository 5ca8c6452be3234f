package flows

import (
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pkce-auth/caddy-pkce-auth/test/provider"
)

// IDPS 16, IDPS 09, IDPS 33: what a link to the login may add, where it is
// allowed; never what belongs to the protocol.
func TestIDPS16LoginParams(t *testing.T) {
	const asked = "login_hint=a%40b.c&ui_locales=de&screen_hint=signup&organization=org_1&invitation=t1&connection=github&prompt=login&ext-x=1&" +
		"audience=evil&scope=evil&resource=evil&state=evil&redirect_uri=https://evil.test&client_id=evil&nonce=evil&response_type=token"
	for _, tc := range []struct {
		name, options string
		want          map[string]string
	}{
		{"default", "", map[string]string{
			"login_hint": "a@b.c", "ui_locales": "de", "screen_hint": "signup", "organization": "org_1", "invitation": "t1",
		}},
		{"connection, prompt and ext-x", "login_param connection prompt ext-x", map[string]string{"connection": "github", "prompt": "login", "ext-x": "1"}},
		{"in place of what is configured", "login_param connection prompt\nconnection google\nauthorize_param prompt consent\nauthorize_param ui_locales fr", map[string]string{
			"connection": "github", "prompt": "login", "ui_locales": "fr",
		}},
		{"all of Auth0's, static", `connection github
			organization org_1 acme
			max_age 1h
			acr_values urn:mfa
			authorize_param connection_scope a,b
			authorize_param prompt login
			authorize_param login_hint x
			authorize_param screen_hint signup
			authorize_param invitation t2
			authorize_param ui_locales de
			authorize_param ext-x 1
			login_param ext-none`, map[string]string{
			"connection": "github", "organization": "org_1", "max_age": "3600", "acr_values": "urn:mfa", "connection_scope": "a,b",
			"prompt": "login", "login_hint": "x", "screen_hint": "signup", "invitation": "t2", "ui_locales": "de", "ext-x": "1",
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			w := newWorld(t)
			w.caddy("pkce_auth $OP public {\n" + tc.options + "\n}\nreverse_proxy $UPSTREAM")
			q := query(t, w.browser().visit(w.site+"/oauth2/login?"+asked).location(t))
			want := slices.Clone(authorizeParams)
			for name, value := range tc.want {
				want = append(want, name)
				if got := q.Get(name); got != value {
					t.Errorf("%s: got %q, want %q", name, got, value)
				}
			}
			slices.Sort(want)
			if got := names(q); !slices.Equal(got, want) {
				t.Errorf("parameters: got %q, want %q", got, want)
			}
			if q.Get("scope") != "openid profile email offline_access" || q.Get("client_id") != "public" || q.Get("redirect_uri") != w.site+"/oauth2/callback" {
				t.Errorf("got %v", q)
			}
		})
	}
}

// IDPS 16, IDPS 22: organization, max_age and acr_values are not only sent:
// whoever takes them out of the URL does not get in.
func TestIDPS16IDPS22AskedForIsChecked(t *testing.T) {
	for options, good := range map[string]func(map[string]any){
		"organization org_1": func(claims map[string]any) { claims["org_id"] = "org_1" },
		"max_age 10m":        func(claims map[string]any) { claims["auth_time"] = time.Now().Add(-time.Minute).Unix() },
		"acr_values urn:mfa": func(claims map[string]any) { claims["acr"] = "urn:mfa" },
	} {
		t.Run(options, func(t *testing.T) {
			w := newWorld(t)
			w.caddy("pkce_auth $OP public {\n" + options + "\n}\nreverse_proxy $UPSTREAM")
			w.op.Misbehave(provider.Faults{IDToken: func(_, claims map[string]any) { claims["auth_time"] = 1_000_000_000 }})
			b := w.browser()
			if a := b.open(w.site + "/"); a.StatusCode != http.StatusForbidden {
				t.Errorf("got status %d", a.StatusCode)
			}
			tries := 2 // what another login may mend is asked for once more
			if strings.HasPrefix(options, "organization") {
				tries = 1
			}
			w.noSession(b, tries)
			w.op.Misbehave(provider.Faults{IDToken: func(_, claims map[string]any) { good(claims) }})
			b.login(w, "/x")
		})
	}
}

// IDPS 18: login_required and its kin, after prompt=none, lead to one login
// that shows something, by configuration or by a link; without prompt=none, or
// the second time, to a page.
func TestIDPS18SilentLoginFallsBack(t *testing.T) {
	for _, code := range []string{"login_required", "consent_required", "interaction_required", "account_selection_required"} {
		t.Run(code, func(t *testing.T) {
			w := newWorld(t)
			w.caddy("pkce_auth $OP public {\nauthorize_param prompt none\n}\nreverse_proxy $UPSTREAM")
			refuse := func(q url.Values) { delete(q, "code"); q["error"] = []string{code} }
			once := true
			w.op.Misbehave(provider.Faults{Callback: func(q url.Values) {
				if once {
					refuse(q)
				}
				once = false
			}})
			b := w.browser()
			b.login(w, "/page?x=1")
			requests := w.op.Requests("authorize")
			if len(requests) != 2 || requests[0].Form.Get("prompt") != "none" || requests[1].Form.Has("prompt") {
				t.Errorf("%d authorization requests", len(requests))
			}
			w.op.Misbehave(provider.Faults{Callback: refuse})
			other := w.browser()
			if a := other.open(w.site + "/page"); a.StatusCode != http.StatusBadGateway || !strings.Contains(a.body, "Try again") {
				t.Errorf("refused for ever: got status %d", a.StatusCode)
			}
			if n := len(w.op.Requests("authorize")); n != 4 {
				t.Errorf("%d authorization requests, want 2 more", n)
			}
			w.noSession(other, 1)
		})
	}
	w := newWorld(t)
	w.caddy("pkce_auth $OP public {\nlogin_param prompt\n}\nreverse_proxy $UPSTREAM")
	w.op.Misbehave(provider.Faults{Callback: func(q url.Values) { delete(q, "code"); q["error"] = []string{"login_required"} }})
	b := w.browser()
	if a := b.open(w.site + "/page"); a.StatusCode != http.StatusBadGateway || len(w.op.Requests("authorize")) != 1 {
		t.Errorf("without prompt=none: got status %d after %d requests", a.StatusCode, len(w.op.Requests("authorize")))
	}
	w.caddy("pkce_auth $OP public {\nlogin_param prompt invitation\n}\nreverse_proxy $UPSTREAM")
	if b.open(w.site + "/oauth2/login?prompt=none&invitation=i1&return_to=/page"); len(w.op.Requests("authorize")) != 3 {
		t.Errorf("by a link: %d authorization requests, want 2 more", len(w.op.Requests("authorize"))-1)
	}
	requests := w.op.Requests("authorize")
	if last := requests[len(requests)-1].Form; last.Get("invitation") != "i1" || last.Has("prompt") {
		t.Errorf("the login that shows something asks for %v", last)
	}
}
