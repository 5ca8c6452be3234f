package flows

import (
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/pkce-auth/caddy-pkce-auth/test/provider"
)

// What providers do in their own ways (IDPS section 3), each with the
// Caddyfile that works and what must come of it. Those that the tests log in
// to for real stand in test/e2e; rows that hang on a provider's host name have
// their tests in rp.
func TestProvidersWays(t *testing.T) {
	for name, tc := range map[string]struct {
		config  provider.Config
		faults  provider.Faults
		options string
		check   func(t *testing.T, w *world, b *browser)
	}{
		"GitLab: ID tokens that live for a moment end no session": {
			faults: provider.Faults{IDToken: func(_, claims map[string]any) { claims["exp"] = time.Now().Add(-30 * time.Second).Unix() }},
			check: func(t *testing.T, w *world, b *browser) { // it is over by now, within the skew
				if a := b.fetch(w.site + "/x"); a.StatusCode != http.StatusOK {
					t.Errorf("got status %d", a.StatusCode)
				}
			},
		},
		"GitLab: a refresh token nobody asked for is used": {
			faults:  provider.Faults{TokenResponse: shortLived},
			options: "scopes openid offline_access",
			check: func(t *testing.T, w *world, b *browser) {
				outliveShortLived()
				if a := b.fetch(w.site + "/x"); a.StatusCode != http.StatusOK || len(w.refreshes()) != 1 {
					t.Errorf("got status %d, and %d refreshes", a.StatusCode, len(w.refreshes()))
				}
			},
		},
		"Hydra: several audiences in one parameter": {
			options: `audience "https://a.test https://b.test"`,
			check: func(t *testing.T, w *world, _ *browser) {
				if got := w.op.Requests("authorize")[0].Form["audience"]; len(got) != 1 || got[0] != "https://a.test https://b.test" {
					t.Errorf("got %q", got)
				}
			},
		},
		"PingFederate: aud chooses the token manager": {
			options: "authorize_param aud https://api.test",
			check: func(t *testing.T, w *world, _ *browser) {
				if got := w.op.Requests("authorize")[0].Form.Get("aud"); got != "https://api.test" {
					t.Errorf("got %q", got)
				}
			},
		},
		"authentik: an issuer with a path and a slash": {config: provider.Config{Path: "/application/o/app/"}},
		"Okta: an issuer with a path and no slash":     {config: provider.Config{Path: "/oauth2/default"}},
		"Keycloak: session_state beside the code, and roles in the access token": {
			config: provider.Config{Path: "/realms/main", AccessTokenClaims: map[string]any{
				"azp": "public", "client_id": "public", "realm_access": map[string]any{"roles": []string{"admin"}},
				"resource_access": map[string]any{"my-app": map[string]any{"roles": []string{"editor"}}},
			}},
			faults:  provider.Faults{Callback: func(q url.Values) { q.Set("session_state", "abc.def") }},
			options: "audience account\nclaims_from id_token access_token\nheader_up X-Roles {http.auth.user.realm_access.roles}\nheader_up X-Client-Roles \"{http.auth.user.resource_access.my-app.roles}\"",
			check: func(t *testing.T, w *world, _ *browser) {
				// The test's own provider has realm_access in the ID token, too: that counts.
				if r := w.upstream.last(t); r.Header.Get("X-Roles") != "offline" || r.Header.Get("X-Client-Roles") != "editor" {
					t.Errorf("got %v", r.Header)
				}
			},
		},
		"Cognito: no aud in the access token, and no PKCE in the metadata": {
			config:  provider.Config{AccessTokenClaims: map[string]any{"aud": nil, "token_use": "access"}},
			faults:  provider.Faults{Metadata: func(doc map[string]any) { delete(doc, "code_challenge_methods_supported") }},
			options: "audience x\nclaims_from id_token access_token",
			check: func(t *testing.T, w *world, _ *browser) {
				if w.op.Requests("authorize")[0].Form.Get("code_challenge_method") != "S256" {
					t.Error("no PKCE")
				}
			},
		},
		"Dex, Google: nowhere to log out at": {
			faults: provider.Faults{Metadata: func(doc map[string]any) { delete(doc, "end_session_endpoint"); delete(doc, "revocation_endpoint") }},
			check: func(t *testing.T, w *world, b *browser) {
				if a := b.logout(w); a.location(t) != w.site+"/oauth2/signed-out" {
					t.Errorf("got %s", a.location(t))
				}
			},
		},
		"FusionAuth: no ID token with a refresh": {
			faults:  provider.Faults{TokenResponse: shortLived, RefreshResponse: func(doc map[string]any) { delete(doc, "id_token") }},
			options: "header_up X-Email {http.auth.user.email}",
			check: func(t *testing.T, w *world, b *browser) {
				outliveShortLived()
				b.fetch(w.site + "/x")
				if len(w.refreshes()) != 1 || w.upstream.last(t).Header.Get("X-Email") != "alice@example.com" {
					t.Errorf("%d refreshes, and %v", len(w.refreshes()), w.upstream.last(t).Header)
				}
			},
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorldWith(t, tc.config)
			w.op.Misbehave(tc.faults)
			w.caddy("pkce_auth $OP public {\n" + tc.options + "\n}\nreverse_proxy $UPSTREAM")
			b := w.browser()
			b.login(w, "/page")
			if tc.check != nil {
				tc.check(t, w, b)
			}
		})
	}
}

// What is done for a provider because of its name is said once, at the start.
func TestKnownProvidersAreSaidAtTheStart(t *testing.T) {
	for issuer, quirk := range map[string]string{
		"https://tenant.eu.auth0.com/": "auth0", "https://accounts.google.com": "google", "https://dev-1.okta.com/oauth2/default": "okta",
		"https://cognito-idp.eu-west-1.amazonaws.com/eu-west-1_x": "cognito", "https://appleid.apple.com": "apple", "https://gitlab.com": "gitlab",
	} {
		w := newWorld(t)
		w.caddy("handle /a/* {\npkce_auth " + issuer + " id\n}\nhandle /b/* {\npkce_auth " + issuer + " id\n}")
		w.logged("this provider is known", `"quirk":"`+quirk+`"`)
		if got := strings.Count(w.log(), "this provider is known"); got != 1 {
			t.Errorf("%s: said %d times", issuer, got)
		}
		if err := stop(); err != nil {
			t.Error(err)
		}
	}
	w := newWorld(t)
	w.caddy(basic)
	if strings.Contains(w.log(), "this provider is known") {
		t.Error("said of one that is not")
	}
}

// A client secret that is replaced in its file is used from then on: with the
// next refresh, the revocation and the next login, without a reload.
func TestIDPS20SecretIsReadAtUse(t *testing.T) {
	w := newWorldWith(t, provider.Config{Clients: map[string]provider.Client{"rotating": {Secret: "the-old-secret-0123456789"}}})
	w.expect = []string{"the-old-secret-0123456789", "the-new-secret-0123456789"}
	file := w.dir + "/secret"
	writeFile(t, file, "the-old-secret-0123456789")
	w.op.Misbehave(provider.Faults{TokenResponse: shortLived})
	w.caddy("pkce_auth $OP rotating {\nclient_secret {file." + file + "}\n}\nreverse_proxy $UPSTREAM")
	b := w.browser()
	b.login(w, "/")
	writeFile(t, file, "the-new-secret-0123456789")
	w.op.Change(func(cfg *provider.Config) {
		cfg.Clients["rotating"] = provider.Client{Secret: "the-new-secret-0123456789"}
	})
	outliveShortLived()
	if a := b.fetch(w.site + "/x"); a.StatusCode != http.StatusOK || len(w.refreshes()) != 1 {
		t.Errorf("refresh: got status %d, and %d refreshes", a.StatusCode, len(w.refreshes()))
	}
	newest := ""
	for _, secret := range w.op.Issued() {
		if strings.HasPrefix(secret, "refresh-") {
			newest = secret
		}
	}
	b.logout(w)
	w.eventually("the revocation", func() bool { return w.op.Revoked(newest) })
	w.browser().login(w, "/again")
}

// An issuer from the environment is looked at like one that is written out.
func TestIssuerFromTheEnvironment(t *testing.T) {
	w := newWorld(t)
	t.Setenv("TEST_ISSUER", "https://appleid.apple.com")
	w.caddy("pkce_auth {\nissuer {env.TEST_ISSUER}\nclient_id id\n}")
	if a := w.browser().post(w.site+"/oauth2/callback", url.Values{"state": {"x"}}); a.StatusCode != http.StatusSeeOther {
		t.Errorf("Apple's form: got status %d", a.StatusCode)
	}
	for issuer, want := range map[string]string{
		"https://login.microsoftonline.com/common/v2.0": "allowed_tenants", "https://github.com": "GitHub is no OpenID Provider", "http://op.example.com": "must be https",
	} {
		t.Setenv("TEST_ISSUER", issuer)
		if err := w.load("http://127.0.0.1:0", "pkce_auth {\nissuer {env.TEST_ISSUER}\nclient_id id\n}"); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want %q", issuer, err, want)
		}
	}
}
