package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"os/exec"
	"regexp"
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
func newLemonldapWorld(t *testing.T, accessTokenLifetime time.Duration, directives string) *world {
	t.Helper()
	if out, err := exec.Command("perl", "-MLemonldap::NG::Portal::Issuer::OpenIDConnect", "-e", "1").CombinedOutput(); err != nil {
		t.Fatalf("LemonLDAP::NG is missing: `make test` installs what the end-to-end tests need: %.300s", out)
	}
	w := &world{t: t, upstream: newUpstream(t)}
	w.idp = start(t, "lemonldap", "perl", "provider.pl", t.TempDir())
	w.issuer = "http://127.0.0.1:" + w.idp.printed(`\{"port":(\d+)\}`)
	w.startCaddy("https://localhost:0", directives)
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

// lemonldapNotes waits until LemonLDAP's side has printed so many notes in
// which a name has that value, and gives all of them.
func lemonldapNotes(t *testing.T, w *world, atLeast int, member, value string) []note {
	t.Helper()
	sought := quote(member) + ":" + quote(value)
	w.idp.printed(fmt.Sprintf("(?s)(?:%s.*?){%d}", regexp.QuoteMeta(sought), atLeast))
	var notes []note
	for _, line := range strings.Split(w.idp.output(), "\n") {
		var n note
		if strings.Contains(line, sought) && json.Unmarshal([]byte(line), &n) == nil {
			notes = append(notes, n)
		}
	}
	return notes
}

// lemonldapAsks waits for LemonLDAP's own login form.
func lemonldapAsks(t *testing.T, ctx context.Context, w *world) {
	t.Helper()
	asks(t, ctx, w.issuer, "user", "password")
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
