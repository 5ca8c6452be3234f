package caddyauth

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strconv"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	_ "github.com/caddyserver/caddy/v2/modules/standard"

	"github.com/pkce-auth/caddy-pkce-auth/caddyauth/internal/claims"
	"github.com/pkce-auth/caddy-pkce-auth/caddyauth/internal/rp"
	"github.com/pkce-auth/caddy-pkce-auth/caddyauth/internal/session"
)

// newHandler provisions a handler from its JSON, in a configuration of its
// own that listens nowhere.
func newHandler(t testing.TB, config string) *Handler {
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
	module, err := ctx.LoadModuleByID("http.handlers.pkce_auth", json.RawMessage(config))
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
	set, err := claims.Parse([]byte(`{"sub":"alice","name":"Alice Ash","email":"alice@example.com","groups":["staff","admin"]}`))
	if err != nil {
		t.Fatal(err)
	}
	grant := &rp.Grant{AccessToken: rp.NewSecret(token), Expiry: time.Now().Add(time.Hour)}
	header := http.Header{}
	s := session.New(grant, &rp.Identity{Subject: "alice", Sources: []rp.SourcedClaims{{From: rp.FromIDToken, Claims: set}}}, time.Now())
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
