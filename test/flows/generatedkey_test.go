package flows

import (
	"encoding/json"
	"net/http"
	"os"
	"path/filepath"
	"testing"
)

// Without cookie_secret the key is made when it is first needed, not before,
// and kept in Caddy's storage: sessions, and logins under way, survive a
// restart.
func TestGeneratedKeySurvivesARestart(t *testing.T) {
	w := newWorld(t)
	w.notIn("memory") // which does not outlive a restart
	load := w.reloads()
	load("timeout 5s")
	keys := func() []string {
		found, _ := filepath.Glob(filepath.Join(w.dir, "storage", "pkce_auth", "keys", "*.json"))
		return found
	}
	if a := w.browser().fetch(w.site + "/x"); a.StatusCode != http.StatusUnauthorized || len(keys()) != 0 {
		t.Errorf("before the first use: status %d, keys %v", a.StatusCode, keys())
	}
	b, late := w.browser(), w.browser()
	b.login(w, "/")
	callback := late.callback(w, "/late")
	if len(keys()) != 1 {
		t.Fatalf("keys: %v", keys())
	}
	if info, err := os.Stat(keys()[0]); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%s: %v", keys()[0], info.Mode())
	}
	w.logged("the key that seals sessions is kept on this machine's disk", `"level":"warn"`, "openssl rand -hex 32")
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	load("timeout 5s")
	if a := b.fetch(w.site + "/x"); a.StatusCode != http.StatusOK {
		t.Errorf("the session: got status %d", a.StatusCode)
	}
	if a := late.open(callback); a.body != "upstream /late" {
		t.Errorf("the login under way: got %q", a.body)
	}
	// The secret stands in no log (promise 2).
	data, err := os.ReadFile(keys()[0])
	if err != nil {
		t.Fatal(err)
	}
	var stored []struct{ Secret string }
	if err := json.Unmarshal(data, &stored); err != nil || len(stored) != 1 {
		t.Fatalf("%d keys: %v", len(stored), err)
	}
	w.expect = append(w.expect, stored[0].Secret)
}

// Storage that cannot be used: nobody passes, nobody is told that they are
// logged out, the log says what to do, and it heals by itself.
func TestGeneratedKeyWithoutStorage(t *testing.T) {
	w := newWorld(t)
	w.notIn("memory") // which does not outlive a restart
	load := w.reloads()
	load("timeout 5s")
	b := w.browser()
	b.login(w, "/")
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	file, _ := filepath.Glob(filepath.Join(w.dir, "storage", "pkce_auth", "keys", "*.json"))
	good, err := os.ReadFile(file[0])
	if err != nil {
		t.Fatal(err)
	}
	writeFile(t, file[0], "rubbish")
	load("timeout 5s")
	before := w.upstream.count()
	for _, a := range []answer{b.fetch(w.site + "/x"), b.visit(w.site + "/page"), w.browser().visit(w.site + "/page")} {
		if a.StatusCode != http.StatusServiceUnavailable || a.Header.Get("Retry-After") == "" || a.Header["Set-Cookie"] != nil {
			t.Errorf("got status %d with %v", a.StatusCode, a.Header)
		}
	}
	if w.upstream.count() != before {
		t.Error("something reached the upstream")
	}
	w.logged(`"level":"error"`, "cannot be had from Caddy's storage", "delete it", "give a cookie_secret")
	writeFile(t, file[0], string(good))
	w.eventually("it heals", func() bool { return b.fetch(w.site+"/x").StatusCode == http.StatusOK })
	if len(w.op.Requests("authorize")) != 1 {
		t.Error("there was another login")
	}
}
