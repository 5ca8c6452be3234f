package caddyauth

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/pkce-auth/caddy-pkce-auth/caddyauth/internal/claims"
	"github.com/pkce-auth/caddy-pkce-auth/caddyauth/internal/rp"
	"github.com/pkce-auth/caddy-pkce-auth/caddyauth/internal/session"
)

// secretsOfSession are what no page may ever see of the session of a test.
var secretsOfSession = []string{"access-token-value", "refresh-token-value", "eyJ.id.token", "sid-of-the-provider", "nonce-value", "the-issuer", "the-client"}

// saidSession is a session with all that a provider says.
func saidSession(t testing.TB, began time.Time, said string) *session.Session {
	t.Helper()
	set, err := claims.Parse([]byte(said))
	if err != nil {
		t.Fatal(err)
	}
	grant := &rp.Grant{
		AccessToken: rp.NewSecret("access-token-value"), RefreshToken: rp.NewSecret("refresh-token-value"), IDToken: rp.NewSecret("eyJ.id.token"),
		Expiry: began.Add(time.Hour),
	}
	return session.New(grant, &rp.Identity{Subject: "alice", Sources: []rp.SourcedClaims{{From: rp.FromIDToken, Claims: set}}}, began)
}

const saidOfAlice = `{"sub":"alice","name":"Alice Ash","email":"alice@example.com","sid":"sid-of-the-provider","nonce":"nonce-value",
	"iss":"the-issuer","aud":"the-client","https://example.com/roles":["reader"],"realm_access":{"roles":["staff"],"idp_access_token":"access-token-value"},
	"phone":"+49 30 1234"}`

// ticket is the Cookie header of a browser with that session.
func ticket(t testing.TB, h *Handler, s *session.Session) []string {
	t.Helper()
	header := http.Header{}
	if err := h.party.sessions.https.Save(t.Context(), header, nil, s); err != nil {
		t.Fatal(err)
	}
	return cookiesOf(header)
}

func cookiesOf(header http.Header) []string {
	var pairs []string
	for _, c := range (&http.Response{Header: header}).Cookies() {
		pairs = append(pairs, c.Name+"="+c.Value)
	}
	return []string{strings.Join(pairs, "; ")}
}

// asksSession is a page's fetch for the session.
func asksSession(t testing.TB, h *Handler, query string, header http.Header) *httptest.ResponseRecorder {
	t.Helper()
	w := httptest.NewRecorder()
	never := caddyhttp.HandlerFunc(func(http.ResponseWriter, *http.Request) error {
		t.Error("the request reached the upstream")
		return nil
	})
	if err := h.ServeHTTP(w, newRequest("GET", "https://app.test/oauth2/session"+query, header), never); err != nil {
		t.Fatal(err)
	}
	return w
}

func ownFetch(cookies []string) http.Header {
	return http.Header{"Sec-Fetch-Site": {"same-origin"}, "Sec-Fetch-Mode": {"cors"}, "Sec-Fetch-Dest": {"empty"}, "Cookie": cookies}
}

// A84, R19f (Pomerium CVE-2024-39315): the answer holds what the contract names,
// the claims that are shown, and nothing else: no token, no sid, not even when
// an operator shows an object in which there is one.
func TestA84R19fSessionEndpointShowsClaimsOnly(t *testing.T) {
	begin := time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)
	for name, tc := range map[string]struct{ config, want string }{
		"the default": {`{"issuer":"https://op.test","client_id":"public"}`, `{"email":"alice@example.com","name":"Alice Ash","sub":"alice"}`},
		"nested and literal names": {
			`{"issuer":"https://op.test","client_id":"public","claims":{"session":["sub","realm_access.roles","https://example.com/roles","missing","a.b"]}}`,
			`{"https://example.com/roles":["reader"],"realm_access.roles":["staff"],"sub":"alice"}`,
		},
		"an object with a token in it": {
			`{"issuer":"https://op.test","client_id":"public","claims":{"session":["realm_access"]}}`, `{"realm_access":{"roles":["staff"]}}`,
		},
		"none that there is": {`{"issuer":"https://op.test","client_id":"public","claims":{"session":["missing"]}}`, `{}`},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHandler(t, `{"inline":`+tc.config+`}`)
			h.party.now = func() time.Time { return begin }
			a := asksSession(t, h, "", ownFetch(ticket(t, h, saidSession(t, begin, saidOfAlice))))
			var got map[string]json.RawMessage
			if err := json.Unmarshal(a.Body.Bytes(), &got); err != nil || a.Code != http.StatusOK {
				t.Fatalf("got status %d and %s", a.Code, a.Body)
			}
			members := []string{"active", "claims", "expires_in", "idle_expires_in", "login_url", "logout_url", "token_expires_in"}
			if names := sortedNames(got); !slices.Equal(names, members) {
				t.Errorf("got %q, want %q", names, members)
			}
			if string(got["claims"]) != tc.want {
				t.Errorf("claims: got %s, want %s", got["claims"], tc.want)
			}
			for member, want := range map[string]string{
				"active": "true", "token_expires_in": "3600", "idle_expires_in": "86400", "expires_in": "604800",
				"login_url": `"https://app.test/oauth2/login"`, "logout_url": `"https://app.test/oauth2/logout"`,
			} {
				if string(got[member]) != want {
					t.Errorf("%s: got %s, want %s", member, got[member], want)
				}
			}
			for _, secret := range secretsOfSession {
				if strings.Contains(a.Body.String(), secret) {
					t.Errorf("the answer holds %s: %s", secret, a.Body)
				}
			}
		})
	}
}

func sortedNames(members map[string]json.RawMessage) (names []string) {
	for name := range members {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// A95, A96, A126: every answer is JSON that nobody keeps or guesses at, never
// for another origin; and without a session, there is nothing in it about who
// we are at which provider.
func TestA95A96A126SessionEndpointWithoutSession(t *testing.T) {
	h := newHandler(t, inlineProvider)
	cookies := sessionCookies(t, h, "access-token-value")
	active := asksSession(t, h, "", ownFetch(cookies))
	for name, tc := range map[string]struct {
		header http.Header
		status int
		body   string
	}{
		"a stranger":             {ownFetch(nil), 200, `{"active":false,"login_url":"https://app.test/oauth2/login"}`},
		"a forged cookie":        {ownFetch([]string{"__Host-Http-pkce_auth=forged"}), 200, `{"active":false,"login_url":"https://app.test/oauth2/login"}`},
		"a program":              {http.Header{"Cookie": cookies}, 200, active.Body.String()},
		"the address bar":        {http.Header{"Cookie": cookies, "Sec-Fetch-Site": {"none"}, "Accept": {"text/html"}}, 200, active.Body.String()},
		"an old browser's page":  {http.Header{"Cookie": cookies, "Origin": {"https://app.test"}}, 200, active.Body.String()},
		"a cross-site page":      {http.Header{"Cookie": cookies, "Sec-Fetch-Site": {"cross-site"}, "Origin": {"https://evil.test"}}, 403, `{"error":"foreign_page"}`},
		"a sibling domain":       {http.Header{"Cookie": cookies, "Sec-Fetch-Site": {"same-site"}, "Origin": {"https://evil.app.test"}}, 403, `{"error":"foreign_page"}`},
		"a foreign old browser":  {http.Header{"Cookie": cookies, "Origin": {"https://evil.test"}}, 403, `{"error":"foreign_page"}`},
		"a foreign image":        {http.Header{"Cookie": cookies, "Sec-Fetch-Site": {"cross-site"}, "Sec-Fetch-Mode": {"no-cors"}, "Sec-Fetch-Dest": {"image"}}, 403, `{"error":"foreign_page"}`},
		"a sandboxed frame":      {http.Header{"Cookie": cookies, "Origin": {"null"}}, 403, `{"error":"foreign_page"}`},
		"a foreign page, nobody": {http.Header{"Sec-Fetch-Site": {"cross-site"}}, 403, `{"error":"foreign_page"}`},
		"what is not known yet":  {http.Header{"Cookie": cookies, "Sec-Fetch-Site": {"same-planet"}}, 403, `{"error":"foreign_page"}`},
	} {
		t.Run(name, func(t *testing.T) {
			a := asksSession(t, h, "", tc.header)
			if a.Code != tc.status || a.Body.String() != tc.body {
				t.Errorf("got status %d and %s, want %d and %s", a.Code, a.Body, tc.status, tc.body)
			}
			for header, want := range map[string]string{
				"Content-Type": "application/json; charset=utf-8", "X-Content-Type-Options": "nosniff", "Cache-Control": "private, no-store",
				"Vary": "Cookie", "Access-Control-Allow-Origin": "", "Access-Control-Allow-Credentials": "", "Set-Cookie": "",
			} {
				if got := a.Header().Get(header); got != want {
					t.Errorf("%s: got %q, want %q", header, got, want)
				}
			}
		})
	}
}

// The times are what is left, in whole seconds that are there; who asks uses the
// session, and who says extend=false does not. IDPS 29: the end that the
// provider sets counts.
func TestIDPS29SessionEndpointTimes(t *testing.T) {
	begin := time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)
	type times struct {
		Active         bool  `json:"active"`
		TokenExpiresIn int64 `json:"token_expires_in"`
		IdleExpiresIn  int64 `json:"idle_expires_in"`
		ExpiresIn      int64 `json:"expires_in"`
	}
	for name, tc := range map[string]struct {
		after time.Duration
		query string
		ends  time.Duration // after the login, as the provider sets it; 0: it does not
		slid  bool
		want  times
	}{
		"at once":                          {0, "", 0, false, times{true, 3600, 7200, 36000}},
		"rounded down":                     {time.Millisecond, "", 0, false, times{true, 3599, 7199, 35999}},
		"within a tenth of the idle time":  {11 * time.Minute, "", 0, false, times{true, 2940, 6540, 35340}},
		"after it":                         {12 * time.Minute, "", 0, true, times{true, 2880, 7200, 35280}},
		"after it, only looking":           {12 * time.Minute, "?extend=false", 0, false, times{true, 2880, 6480, 35280}},
		"another word than false":          {12 * time.Minute, "?extend=no", 0, true, times{true, 2880, 7200, 35280}},
		"the provider ends it earlier":     {0, "", 90 * time.Minute, false, times{true, 3600, 7200, 5400}},
		"the provider ends it later":       {0, "", 100 * time.Hour, false, times{true, 3600, 7200, 36000}},
		"the provider has ended it":        {time.Minute, "", time.Minute, false, times{}},
		"the token is over, only looking":  {time.Hour + time.Second, "?extend=false", 0, false, times{true, 0, 3599, 32399}},
		"idle for too long":                {2 * time.Hour, "", 0, false, times{}},
		"idle for too long, only looking":  {2 * time.Hour, "?extend=false", 0, false, times{}},
		"in the last second, only looking": {2*time.Hour - time.Millisecond, "?extend=false", 0, false, times{true, 0, 0, 28800}},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHandler(t, `{"inline":{"issuer":"https://op.test","client_id":"public","session":{"lifetime":"10h","idle":"2h"}}}`)
			now := begin
			h.party.now = func() time.Time { return now }
			s := saidSession(t, begin, saidOfAlice)
			if tc.ends != 0 {
				s.Ends = begin.Add(tc.ends)
			}
			cookies := ticket(t, h, s)
			now = begin.Add(tc.after)
			a := asksSession(t, h, tc.query, ownFetch(cookies))
			var got times
			if err := json.Unmarshal(a.Body.Bytes(), &got); err != nil || a.Code != http.StatusOK {
				t.Fatalf("got status %d and %s", a.Code, a.Body)
			}
			if got != tc.want {
				t.Errorf("got %+v, want %+v", got, tc.want)
			}
			if slid := a.Header()["Set-Cookie"] != nil; slid != tc.slid {
				t.Errorf("slid: got %v, want %v", slid, tc.slid)
			}
		})
	}
}

// A session that cannot be refreshed any more, or was ended, is none for who
// only looks, too.
func TestR19fLookingSeesAnEnd(t *testing.T) {
	begin := time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)
	h := newHandler(t, inlineProvider)
	now := begin
	h.party.now = func() time.Time { return now }
	lasting, fleeting := saidSession(t, begin, saidOfAlice), saidSession(t, begin, saidOfAlice)
	fleeting.RefreshToken = rp.Secret{}
	active := func(s *session.Session) bool {
		t.Helper()
		a := asksSession(t, h, "?extend=false", ownFetch(ticket(t, h, s)))
		if a.Code != http.StatusOK || a.Header()["Set-Cookie"] != nil {
			t.Fatalf("got status %d and %s", a.Code, a.Body)
		}
		return strings.HasPrefix(a.Body.String(), `{"active":true,`)
	}
	if !active(lasting) || !active(fleeting) {
		t.Error("at the beginning: not active")
	}
	now = begin.Add(time.Hour)
	if !active(lasting) {
		t.Error("with a refresh token: not active")
	}
	if active(fleeting) {
		t.Error("without a refresh token: active, though every request gets 401")
	}
	h.party.remember(t.Context(), lasting)
	if active(lasting) {
		t.Error("revoked: active")
	}
}

// Whatever a provider says of a user, the answer is JSON, holds only the names
// that the contract and the operator gave, and none of the session's secrets.
func FuzzA84SessionEndpoint(f *testing.F) {
	for _, said := range []string{
		saidOfAlice, `{}`, `{"sub":"<script>\u2028\ud800","name":1e999,"email":[{"access_token":"x"},[[null]]]}`,
		`{"a":{"b":{"c":1,"refresh_token":"refresh-token-value"}},"a.b":null,"sub":12345678901234567890123}`,
		`{"name":{"active":false},"email":-0.0,"a.b.c":{"":""}}`,
	} {
		f.Add(said)
	}
	begin := time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)
	names := []string{"sub", "name", "email", "picture", "a.b", "a.b.c", "realm_access", "https://example.com/roles"}
	config, err := json.Marshal(names)
	if err != nil {
		f.Fatal(err)
	}
	h := newHandler(f, `{"inline":{"issuer":"https://op.test","client_id":"public","claims":{"session":`+string(config)+`}}}`)
	h.party.now = func() time.Time { return begin }
	f.Fuzz(func(t *testing.T, said string) {
		set, err := claims.Parse([]byte(said))
		if err != nil {
			return // no session is made of it
		}
		s := saidSession(t, begin, said)
		w := httptest.NewRecorder()
		h.party.writeJSON(w, http.StatusOK, h.party.describe(newRequest("GET", "https://app.test/oauth2/session", nil), s))
		var got struct {
			Active bool
			Claims map[string]any
		}
		if err := json.Unmarshal(w.Body.Bytes(), &got); err != nil || w.Code != http.StatusOK || !got.Active {
			t.Fatalf("%v: got status %d and %s", err, w.Code, w.Body)
		}
		for name, value := range got.Claims {
			if _, there := set.Lookup(name); !there || !slices.Contains(names, name) {
				t.Errorf("%q is shown", name)
			}
			noTokenIn(t, value)
		}
		if strings.Contains(said, "-token-value") || strings.Contains(said, "eyJ.id") {
			return // the provider itself tells
		}
		for _, secret := range secretsOfSession[:3] {
			if strings.Contains(w.Body.String(), secret) {
				t.Errorf("%s is shown", secret)
			}
		}
	})
}

func noTokenIn(t *testing.T, value any) {
	t.Helper()
	switch v := value.(type) {
	case []any:
		for _, member := range v {
			noTokenIn(t, member)
		}
	case map[string]any:
		for name, member := range v {
			if namesToken(name) {
				t.Errorf("a member %q is shown", name)
			}
			noTokenIn(t, member)
		}
	}
}

// A provider's name, or a host, cannot end a quoted-string of the challenge
// (RFC 9110 section 5.6.4).
func TestChallengeIsQuoted(t *testing.T) {
	for text, want := range map[string]string{
		"default":                         `"default"`,
		`a"b\c`:                           `"a\"b\\c"`,
		"a\r\nSet-Cookie: x=1":            `"a%0D%0ASet-Cookie:%20x=1"`,
		"bücher.example":                  `"b%C3%BCcher.example"`,
		"https://app.test/oauth2/login?a": `"https://app.test/oauth2/login?a"`,
	} {
		if got := quoted(text); got != want {
			t.Errorf("%q: got %s, want %s", text, got, want)
		}
	}
}

// What no page sees cannot be configured in JSON either.
func TestA84SessionClaimsAreRefused(t *testing.T) {
	for _, names := range [][]string{
		{""},
		{"sub", "sub"},
		{"sid"},
		{"sid.x"},
		{"nonce"},
		{"at_hash"},
		{"aud"},
		{"_claim_sources"},
		{"_claim_sources.a.access_token"},
		{"access_token"},
		{"identities.refresh_token"},
		{"https://example.com/idp_access_token"},
		{"idpAccessToken"},
		{"{http.auth.user.id}"},
	} {
		p := &Provider{Claims: &ClaimsConfig{Session: names}}
		if err := p.validateClaims(); err == nil || !strings.HasPrefix(err.Error(), "session_claims: ") {
			t.Errorf("%q: got %v", names, err)
		}
	}
}
