package flows

import (
	"net/http"
	"strings"
	"testing"

	"github.com/pkce-auth/caddy-pkce-auth/test/provider"
)

const userinfo = `
	pkce_auth $OP public {
		userinfo on
		header_up X-Name {http.auth.user.name}
		header_up X-Phone {http.auth.user.phone_number}
	}
	reverse_proxy $UPSTREAM
`

// R31: userinfo is asked once for each login, with the token in the header and
// nowhere else; its claims join those of the ID token, which win, and stay
// when a refresh brings a new ID token.
func TestR31R58Userinfo(t *testing.T) {
	w := newWorld(t)
	w.caddy(userinfo)
	w.op.Misbehave(provider.Faults{TokenResponse: shortLived, Userinfo: func(claims map[string]any) { claims["name"] = "Mallory" }})
	b := w.browser()
	b.login(w, "/in")
	if r := w.upstream.last(t); r.Header.Get("X-Name") != "Alice Ash" || r.Header.Get("X-Phone") != "+49 30 1234567" {
		t.Errorf("got %v", r.Header)
	}
	requests := w.op.Requests("userinfo")
	if len(requests) != 1 || requests[0].Method != http.MethodGet || len(requests[0].Form) != 0 || !strings.HasPrefix(requests[0].Header.Get("Authorization"), "Bearer ") {
		t.Errorf("got %+v", requests)
	}
	outliveShortLived()
	if a := b.fetch(w.site + "/later"); a.StatusCode != http.StatusOK || len(w.refreshes()) != 1 {
		t.Fatalf("got status %d, and %d refreshes", a.StatusCode, len(w.refreshes()))
	}
	if r := w.upstream.last(t); r.Header.Get("X-Phone") != "+49 30 1234567" {
		t.Errorf("after a refresh: got %v", r.Header)
	}
	if got := len(w.op.Requests("userinfo")); got != 1 {
		t.Errorf("userinfo was asked %d times", got)
	}
}

// IDPS 38, R57: claims from the access token, as Keycloak has its roles there:
// verified, and renewed with it. Who the user is says the ID token.
func TestIDPS38R57ClaimsFromTheAccessToken(t *testing.T) {
	w := newWorldWith(t, provider.Config{AccessTokenClaims: map[string]any{
		"sub": "somebody-else", "azp": "public", "realm_access": map[string]any{"roles": []string{"offline", "boss"}}, "name": "From Access",
	}})
	w.caddy(`
		pkce_auth $OP public {
			audience my-api
			claims_from access_token id_token
			header_up X-Sub {http.auth.user.id}
			header_up X-Roles {http.auth.user.realm_access.roles}
			header_up X-Name {http.auth.user.name}
			header_up X-Email {http.auth.user.email}
		}
		reverse_proxy $UPSTREAM
	`)
	b := w.browser()
	w.op.Misbehave(provider.Faults{TokenResponse: shortLived})
	b.login(w, "/in")
	r := w.upstream.last(t)
	for name, want := range map[string]string{"X-Sub": "alice", "X-Roles": "offline,boss", "X-Name": "From Access", "X-Email": "alice@example.com"} {
		if got := r.Header.Get(name); got != want {
			t.Errorf("%s: got %q, want %q", name, got, want)
		}
	}
	outliveShortLived()
	w.op.Change(func(cfg *provider.Config) {
		cfg.AccessTokenClaims = map[string]any{"sub": "somebody-else", "realm_access": map[string]any{"roles": []string{"guest"}}}
	})
	b.fetch(w.site + "/later")
	if got := w.upstream.last(t).Header.Get("X-Roles"); got != "guest" {
		t.Errorf("after a refresh: got %q", got)
	}
}

// Without an ID token, claims come from the other sources; and an access token
// that is no JWT fails the login with what to do.
func TestClaimsWithoutAnIDToken(t *testing.T) {
	w := newWorld(t)
	w.caddy(`
		pkce_auth $OP public {
			scopes api
			claims_from userinfo
			header_up X-Sub {http.auth.user.id}
			header_up X-Phone {http.auth.user.phone_number}
		}
		reverse_proxy $UPSTREAM
	`)
	b := w.browser()
	b.login(w, "/in")
	if r := w.upstream.last(t); r.Header.Get("X-Sub") != "alice" || r.Header.Get("X-Phone") == "" {
		t.Errorf("got %v", r.Header)
	}
	w.caddy("pkce_auth $OP public {\nclaims_from access_token\n}\nreverse_proxy $UPSTREAM")
	if a := w.browser().open(w.site + "/"); a.StatusCode != http.StatusBadGateway {
		t.Errorf("got status %d", a.StatusCode)
	}
	w.logged("it is not a JWT", "set audience or resource")
}

// IDPS 38: Entra leaves groups out when there are many, and says where they
// are: nobody goes there, and the log says so once.
func TestIDPS38OverageIsLogged(t *testing.T) {
	w := newWorld(t)
	canary := newUpstream(t)
	w.op.Misbehave(provider.Faults{IDToken: func(_, claims map[string]any) {
		delete(claims, "groups")
		claims["_claim_names"] = map[string]any{"groups": "src1"}
		claims["_claim_sources"] = map[string]any{"src1": map[string]any{"endpoint": canary.server.URL + "/groups", "access_token": "x"}}
	}})
	w.caddy(basic)
	w.browser().login(w, "/")
	w.browser().login(w, "/")
	w.logged("the provider leaves claims out", "groups")
	if got := strings.Count(w.log(), "the provider leaves claims out"); got != 1 || canary.count() != 0 {
		t.Errorf("logged %d times; %d requests went elsewhere", got, canary.count())
	}
}

// IDPS 38: Zitadel's roles are a map, whose keys are the roles.
func TestIDPS38RolesThatAreAMap(t *testing.T) {
	w := newWorldWith(t, provider.Config{Users: map[string]map[string]any{"alice": {
		"urn:zitadel:iam:org:project:roles": map[string]any{"admin": map[string]any{"1234": "acme.example.com"}},
	}}})
	w.caddy(`
		route {
			pkce_auth $OP public {
				header_up X-Admin-In "{http.auth.user.urn:zitadel:iam:org:project:roles.admin}"
			}
			@no not expression ` + "`\"admin\" in ph(req, 'http.auth.user.urn:zitadel:iam:org:project:roles')`" + `
			respond @no "no admin" 403
			reverse_proxy $UPSTREAM
		}
	`)
	w.browser().login(w, "/in")
	if got := w.upstream.last(t).Header.Get("X-Admin-In"); got != `{"1234":"acme.example.com"}` {
		t.Errorf("got %q", got)
	}
}

// IDPS 28: an access token of a refresh that must not be used ends the session
// at once, like an ID token.
func TestIDPS28RefreshedAccessTokenOfAnother(t *testing.T) {
	w := newWorldWith(t, provider.Config{AccessTokenClaims: map[string]any{"client_id": "public"}})
	w.op.Misbehave(provider.Faults{TokenResponse: shortLived})
	w.caddy("pkce_auth $OP public {\naudience api\nclaims_from id_token access_token\n}\nreverse_proxy $UPSTREAM")
	b := w.browser()
	b.login(w, "/")
	w.op.Change(func(cfg *provider.Config) { cfg.AccessTokenClaims = map[string]any{"client_id": "other"} })
	outliveShortLived()
	if a := b.fetch(w.site + "/x"); a.StatusCode != http.StatusUnauthorized || len(w.refreshes()) != 1 {
		t.Errorf("got status %d after %d refreshes", a.StatusCode, len(w.refreshes()))
	}
}

// The same sources in other words end no session.
func TestClaimSourcesInOtherWords(t *testing.T) {
	w := newWorld(t)
	load := w.reloads()
	load("userinfo on")
	b := w.browser()
	b.login(w, "/")
	for _, options := range []string{"claims_from id_token userinfo", "claims_from id_token\nuserinfo on", "claims_from id_token userinfo\nuserinfo on"} {
		load(options)
		if a := b.fetch(w.site + "/x"); a.StatusCode != http.StatusOK {
			t.Errorf("%s: got status %d", options, a.StatusCode)
		}
	}
	load("claims_from userinfo id_token")
	if a := b.fetch(w.site + "/x"); a.StatusCode != http.StatusUnauthorized {
		t.Errorf("in another order: got status %d", a.StatusCode)
	}
}
