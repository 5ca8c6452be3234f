package flows

import (
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/pkce-auth/caddy-pkce-auth/test/provider"
)

// R27, M84: a login that was too long ago, or too weak, is asked for once
// more, with prompt=login and what the link had added; then there is 403.
func TestR27M84OnceMoreThenForbidden(t *testing.T) {
	for name, tc := range map[string]struct {
		option, check string
		stale         func(claims map[string]any)
		fresh         func(claims map[string]any)
	}{
		"max_age": {
			"max_age 10m", "auth_time",
			func(claims map[string]any) { claims["auth_time"] = time.Now().Add(-time.Hour).Unix() },
			func(claims map[string]any) { claims["auth_time"] = time.Now().Unix() },
		},
		"max_age, nothing said": {
			"max_age 10m", "auth_time",
			func(claims map[string]any) { delete(claims, "auth_time") },
			func(claims map[string]any) { claims["auth_time"] = time.Now().Unix() },
		},
		"acr_values": {
			"acr_values urn:mfa", "acr",
			func(claims map[string]any) { claims["acr"] = "urn:password" },
			func(claims map[string]any) { claims["acr"] = "urn:mfa" },
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.caddy("pkce_auth $OP public {\n" + tc.option + "\nauthorize_param prompt consent\n}\nreverse_proxy $UPSTREAM")
			w.op.Misbehave(provider.Faults{IDToken: func(_, claims map[string]any) { tc.stale(claims) }})
			b := w.browser()
			a := b.open(w.site + "/oauth2/login?return_to=/page&login_hint=alice@example.com")
			if a.StatusCode != http.StatusForbidden || !strings.Contains(a.body, "did not say enough about that") {
				t.Errorf("got status %d and %.300s", a.StatusCode, a.body)
			}
			requests := w.op.Requests("authorize")
			if len(requests) != 2 || requests[0].Form.Get("prompt") != "consent" || requests[1].Form.Get("prompt") != "login" {
				t.Fatalf("got %+v", requests)
			}
			for _, r := range requests {
				if r.Form.Get("login_hint") != "alice@example.com" || r.Form.Get("max_age")+r.Form.Get("acr_values") == "" {
					t.Errorf("got %v", r.Form)
				}
			}
			w.noSession(b, 2)
			w.logged(`"reason":"insufficient_authentication"`, `"check":"`+tc.check+`"`)
			// Who is asked once more, and comes with what is wanted, is let in.
			logins := 0
			w.op.Misbehave(provider.Faults{IDToken: func(_, claims map[string]any) {
				if logins++; logins == 1 {
					tc.stale(claims)
				} else {
					tc.fresh(claims)
				}
			}})
			other := w.browser()
			if a := other.open(w.site + "/page?x=1"); a.body != "upstream /page?x=1" || logins != 2 {
				t.Errorf("got status %d and %q after %d logins", a.StatusCode, a.body, logins)
			}
		})
	}
}

// A provider that says itself that it cannot.
func TestR27ProviderCannot(t *testing.T) {
	w := newWorld(t)
	w.caddy("pkce_auth $OP public {\nacr_values urn:mfa\n}\nreverse_proxy $UPSTREAM")
	w.op.Misbehave(provider.Faults{Callback: func(q url.Values) { q.Del("code"); q.Set("error", "unmet_authentication_requirements") }})
	b := w.browser()
	if a := b.open(w.site + "/"); a.StatusCode != http.StatusForbidden || len(w.op.Requests("authorize")) != 2 {
		t.Errorf("got status %d, and %d authorization requests", a.StatusCode, len(w.op.Requests("authorize")))
	}
	w.noSession(b, 0)
}

// IDPS 29: the end that the provider sets to the session is kept, half a
// minute early; a refresh does not move it; what cannot be such a time counts
// as none, and what is over refuses the login.
func TestIDPS29SessionExpiry(t *testing.T) {
	for name, tc := range map[string]struct {
		claim  any
		status int
		age    int // of the cookie, at the most
	}{
		"in an hour":       {time.Now().Add(time.Hour).Unix(), http.StatusOK, 3570},
		"milliseconds":     {time.Now().Add(time.Hour).UnixMilli(), http.StatusOK, 24 * 3600},
		"a text":           {"soon", http.StatusOK, 24 * 3600},
		"a fraction":       {float64(time.Now().Unix()) + 60.5, http.StatusOK, 24 * 3600},
		"negative":         {-5, http.StatusOK, 24 * 3600},
		"past":             {time.Now().Add(-time.Hour).Unix(), http.StatusBadGateway, 0},
		"in half a minute": {time.Now().Add(29 * time.Second).Unix(), http.StatusBadGateway, 0},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.caddy(basic)
			w.op.Misbehave(provider.Faults{IDToken: func(_, claims map[string]any) { claims["session_expiry"] = tc.claim }})
			b := w.browser()
			callback := b.visit(b.callback(w, "/"))
			if a := b.follow(callback); a.StatusCode != tc.status {
				t.Fatalf("got status %d", a.StatusCode)
			}
			if tc.status != http.StatusOK {
				w.logged(`"check":"session_expiry"`)
				return
			}
			for _, c := range callback.Cookies() {
				if strings.HasSuffix(c.Name, "pkce_auth") && c.MaxAge > 0 && (c.MaxAge > tc.age || c.MaxAge < tc.age-60) {
					t.Errorf("%s lives for %d s, want %d", c.Name, c.MaxAge, tc.age)
				}
			}
		})
	}
}

// Promise 4: a link with long parameters makes no cookie that browsers drop.
// They are sent; a login that begins anew does without them.
func TestPromise4LongLoginParameters(t *testing.T) {
	w := newWorld(t)
	w.caddy("pkce_auth $OP public {\nmax_age 10m\n}\nreverse_proxy $UPSTREAM")
	link := url.Values{"return_to": {"/page?x=" + strings.Repeat("y", 1500)}}
	for _, name := range []string{"login_hint", "ui_locales", "screen_hint", "organization", "invitation"} {
		link.Set(name, strings.Repeat(name[:1], 1000))
	}
	b := w.browser()
	a := b.visit(w.site + "/oauth2/login?" + link.Encode())
	for _, c := range a.Cookies() {
		if len(c.Name)+len(c.Value) > 4096 {
			t.Errorf("%s has %d bytes", c.Name, len(c.Value))
		}
	}
	if got := query(t, a.location(t)).Get("invitation"); len(got) != 1000 {
		t.Errorf("the invitation has %d bytes", len(got))
	}
	if a := b.follow(a); a.body != "upstream "+link.Get("return_to") {
		t.Errorf("got status %d and %.100q", a.StatusCode, a.body)
	}
}

// What a login asked for stays when it begins anew, though the request is
// another by then; and the callback's URL, code and all, gets into no
// authorization request.
func TestPlaceholdersWhenALoginBeginsAnew(t *testing.T) {
	w := newWorld(t)
	w.caddy("pkce_auth $OP public {\nmax_age 10m\nauthorize_param kc_idp_hint {http.request.uri.query.idp}\nauthorize_param whole {http.request.uri.query}\n" +
		"authorize_param ui_locales de\n}\nreverse_proxy $UPSTREAM")
	w.op.Misbehave(provider.Faults{IDToken: func(_, claims map[string]any) { delete(claims, "auth_time") }})
	w.browser().open(w.site + "/page?idp=github")
	requests := w.op.Requests("authorize")
	if len(requests) != 2 {
		t.Fatalf("%d authorization requests", len(requests))
	}
	for i, r := range requests {
		if r.Form.Get("kc_idp_hint") != "github" || r.Form.Get("whole") != "idp=github" || r.Form.Get("ui_locales") != "de" {
			t.Errorf("request %d: %v", i, r.Form)
		}
	}
	// A callback without its state begins a login that knows less, but no code.
	b := w.browser()
	callback := b.callback(w, "/other?idp=github")
	stranger := w.browser()
	q := query(t, stranger.visit(callback).location(t))
	if q.Has("kc_idp_hint") || q.Has("whole") || q.Get("ui_locales") != "de" {
		t.Errorf("without its state: %v", q)
	}
}

// Lists that are narrowed count for the sessions there are: they are those of
// the configuration in use.
func TestListsInUse(t *testing.T) {
	for option, values := range map[string][2]string{
		"allowed_tenants": {"8eaef023-2b34-4da1-9baa-8bc8c9d6a490", "11111111-2222-3333-4444-555555555555"},
		"organization":    {"org_a", "org_b"},
	} {
		w := newWorld(t)
		w.op.Misbehave(provider.Faults{IDToken: func(_, claims map[string]any) { claims["tid"], claims["org_id"] = strings.ToLower(values[0]), "org_a" }})
		load := w.reloads()
		load(option + " " + values[0] + " " + values[1])
		b := w.browser()
		b.login(w, "/")
		load(option + " " + strings.ToUpper(values[1]) + " " + values[0])
		if a := b.fetch(w.site + "/x"); a.StatusCode != http.StatusOK {
			t.Errorf("%s in another order: got status %d", option, a.StatusCode)
		}
		load(option + " " + values[1])
		if a := b.fetch(w.site + "/x"); a.StatusCode != http.StatusUnauthorized {
			t.Errorf("%s taken away: got status %d", option, a.StatusCode)
		}
	}
}
