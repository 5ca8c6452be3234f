package e2e

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/chromedp"
)

// lemonldapSecret is that of its confidential clients.
const lemonldapSecret = "secret-secret-secret-secret-secret"

// newLemonldapWorld is newWorld with LemonLDAP::NG for the provider: another
// implementation, of other people, in another language. The site speaks HTTPS
// and is called localhost, the provider is at 127.0.0.1: like most sites and
// their providers, they share no cookies.
func newLemonldapWorld(t *testing.T, accessTokenLifetime time.Duration, options string) *world {
	t.Helper()
	if out, err := exec.Command("perl", "-MLemonldap::NG::Portal::Issuer::OpenIDConnect", "-e", "1").CombinedOutput(); err != nil {
		t.Fatalf("LemonLDAP::NG is missing: `make test` installs what the end-to-end tests need: %.300s", out)
	}
	w := &world{t: t, upstream: newUpstream(t)}
	w.idp = start(t, "lemonldap", "perl", "provider.pl", t.TempDir())
	w.issuer = "http://127.0.0.1:" + w.idp.printed(`\{"port":(\d+)\}`)
	w.startCaddy("https://localhost:0", `
		tls internal
		pkce_auth {
			issuer $ISSUER
			`+options+`
			header_up X-Auth-Subject {http.auth.user.id}
			header_up X-Auth-Email {http.auth.user.email}
		}
		reverse_proxy $UPSTREAM
	`)
	wanted, err := json.Marshal(map[string]any{"origin": w.site, "access_token_seconds": accessTokenLifetime.Seconds()})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.idp.stdin.Write(append(wanted, '\n')); err != nil {
		t.Fatal(err)
	}
	w.idp.printed(`"issuer":"(.*)"`)
	w.ready()
	return w
}

// lemonldapNote is what LemonLDAP's side notes of one request of the protocol:
// names of parameters and members, and what is no secret.
type lemonldapNote struct {
	Endpoint   string
	Parameters []string // of the request
	Status     int
	Grant      string   // that the token endpoint was asked for
	Error      string   // with which it refused
	Members    []string // of its answer
}

// lemonldapNotes waits until so many are there that have a member with that
// value, and gives all that have it.
func lemonldapNotes(t *testing.T, w *world, atLeast int, member, value string) []lemonldapNote {
	t.Helper()
	sought := quote(member) + ":" + quote(value)
	w.idp.printed(fmt.Sprintf("(?s)(?:%s.*?){%d}", regexp.QuoteMeta(sought), atLeast))
	var notes []lemonldapNote
	for _, line := range strings.Split(w.idp.output(), "\n") {
		var note lemonldapNote
		if strings.Contains(line, sought) && json.Unmarshal([]byte(line), &note) == nil {
			notes = append(notes, note)
		}
	}
	return notes
}

// lemonldapAsks waits for LemonLDAP's own login form.
func lemonldapAsks(t *testing.T, ctx context.Context, w *world) {
	t.Helper()
	shows(t, ctx, `location.origin === `+quote(w.issuer)+` && document.querySelector("input[name=user]") && document.querySelector("input[name=password]")`)
}

// lemonldapLogIn fills in that form. LemonLDAP's demonstration users have
// their name for a password.
func lemonldapLogIn(t *testing.T, ctx context.Context, w *world) {
	t.Helper()
	lemonldapAsks(t, ctx, w)
	do(t, ctx,
		chromedp.SendKeys(css(`input[name=user]`), "dwho"), chromedp.SendKeys(css(`input[name=password]`), "dwho"),
		chromedp.Click(css(`button[type=submit]`)),
	)
}

// bearers gives the access tokens that reached the upstream for some paths,
// each once, in their order.
func (u *upstream) bearers(paths ...string) []string {
	u.mu.Lock()
	defer u.mu.Unlock()
	var tokens []string
	for _, r := range u.seen {
		token, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
		if slices.Contains(paths, r.URL.Path) && ok && !slices.Contains(tokens, token) {
			tokens = append(tokens, token)
		}
	}
	return tokens
}

// accessClaims are those of LemonLDAP's access tokens that tests look at.
type accessClaims struct {
	Issuer   string `json:"iss"`
	Subject  string `json:"sub"`
	ClientID string `json:"client_id"`
	Expires  int64  `json:"exp"`
}

// accessTokenClaims reads a JWT, as an application would after it has checked
// the signature.
func accessTokenClaims(t *testing.T, token string) accessClaims {
	t.Helper()
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		t.Fatalf("an access token has %d parts", len(parts))
	}
	data, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		t.Fatal(err)
	}
	var claims accessClaims
	if err := json.Unmarshal(data, &claims); err != nil {
		t.Fatal(err)
	}
	return claims
}

// fetchStatus lets the page that is shown fetch a path, as applications do in
// the background.
func fetchStatus(t *testing.T, ctx context.Context, path string) int {
	t.Helper()
	return run(t, ctx, chromedp.Evaluate[int](`fetch(`+quote(path)+`).then((r) => r.status)`, chromedp.EvalAwaitPromise))
}
