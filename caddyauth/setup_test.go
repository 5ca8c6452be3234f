package caddyauth

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	_ "github.com/caddyserver/caddy/v2/modules/standard"
	"go.uber.org/zap"

	"github.com/pkce-auth/caddy-pkce-auth/caddyauth/internal/claims"
	"github.com/pkce-auth/caddy-pkce-auth/caddyauth/internal/rp"
	"github.com/pkce-auth/caddy-pkce-auth/caddyauth/internal/sealed"
	"github.com/pkce-auth/caddy-pkce-auth/caddyauth/internal/session"
)

// newHandler provisions a handler from its JSON, in a configuration of its
// own that listens nowhere.
func newHandler(t testing.TB, config string) *Handler {
	t.Helper()
	module, err := newContext(t).LoadModuleByID("http.handlers.pkce_auth", json.RawMessage(config))
	if err != nil {
		t.Fatal(err)
	}
	h := module.(*Handler)
	t.Cleanup(func() {
		if err := h.party.app.Cleanup(); err != nil {
			t.Error(err)
		}
	})
	return h
}

// newContext is the context of a configuration of its own.
func newContext(t testing.TB) caddy.Context {
	t.Helper()
	disabled := false
	ctx, err := caddy.ProvisionContext(&caddy.Config{
		Admin:      &caddy.AdminConfig{Disabled: true, Config: &caddy.ConfigSettings{Persist: &disabled}},
		Logging:    &caddy.Logging{Logs: map[string]*caddy.CustomLog{"default": {BaseLog: caddy.BaseLog{Level: "ERROR"}}}},
		StorageRaw: json.RawMessage(`{"module":"file_system","root":` + strconv.Quote(folderFor(t)) + `}`),
	})
	if err != nil {
		t.Fatal(err)
	}
	return ctx
}

const inlineProvider = `{"inline":{"issuer":"https://op.test","client_id":"public"}}`

// newRequest prepares a request as Caddy's server does.
func newRequest(method, target string, header http.Header) *http.Request {
	r := httptest.NewRequest(method, target, nil)
	if header != nil {
		r.Header = header
	}
	return caddyhttp.PrepareRequest(r, caddy.NewReplacer(), nil, nil)
}

// sessionCookies gives the Cookie header lines of a browser with a session at
// the handler's provider.
func sessionCookies(t testing.TB, h *Handler, token string) []string {
	t.Helper()
	return sessionCookiesOf(t, h, token, `{"sub":"alice","name":"Alice Ash","email":"alice@example.com","groups":["staff","admin"]}`)
}

// sessionCookiesOf is sessionCookies for a user with these claims.
func sessionCookiesOf(t testing.TB, h *Handler, token, said string) []string {
	t.Helper()
	set, err := claims.Parse([]byte(said))
	if err != nil {
		t.Fatal(err)
	}
	grant := &rp.Grant{AccessToken: rp.NewSecret(token), Expiry: time.Now().Add(time.Hour)}
	header := http.Header{}
	subject, err := set.Text("sub")
	if err != nil {
		t.Fatal(err)
	}
	s := session.New(grant, &rp.Identity{Subject: subject, Sources: []rp.SourcedClaims{{From: rp.FromIDToken, Claims: set}}}, time.Now())
	if err := h.party.sessions.https.Save(t.Context(), header, nil, s); err != nil {
		t.Fatal(err)
	}
	cookies := ""
	for _, c := range (&http.Response{Header: header}).Cookies() {
		if cookies != "" {
			cookies += "; "
		}
		cookies += c.Name + "=" + c.Value
	}
	return []string{cookies}
}

// newReplica provisions a handler as a process of its own has it: it shares
// nothing with others but the stores, and the keys.
func newReplica(t testing.TB, sessions string, in keptIn) *Handler {
	t.Helper()
	h := newHandler(t, `{"inline":{"issuer":"https://op.test","client_id":"public","cookie_secret":["0badc0ffee15900d7ea5e7a57e5b1e55ed0ddba11cab1e5caffe1nea0fab1e5eed"],
		"session":`+sessions+`}}`)
	p := h.party
	p.shared, p.logger = new(shared), zap.NewNop()
	p.site.nameCookies(h.Inline.Session, "pkce_auth")
	keys, err := sealed.NewKeyring([]byte(strings.Repeat("k", 32)))
	if err != nil {
		t.Fatal(err)
	}
	p.sessions = newKeepers(in, keeperConfig{
		session: h.Inline.Session, stem: "pkce_auth", keys: keys, whose: []string{"op", "public", "pkce_auth"},
		binding: []string{"op", "public", "pkce_auth"}, shared: p.shared, logger: p.logger, now: time.Now,
	})
	return h
}
