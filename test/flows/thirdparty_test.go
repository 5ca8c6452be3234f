package flows

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/pkce-auth/caddy-pkce-auth/caddyauth"
	"github.com/pkce-auth/caddy-pkce-auth/caddyauth/store"
	"github.com/pkce-auth/caddy-pkce-auth/test/provider"
)

func init() { caddy.RegisterModule(thirdParty{}) }

// thirdParty is a store of sessions as somebody else would write one: all it
// knows is the contract. It cannot even lock.
type thirdParty struct{}

// CaddyModule returns the Caddy module information.
func (thirdParty) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "pkce_auth.sessions.thirdparty", New: func() caddy.Module { return new(thirdParty) }}
}

// UnmarshalCaddyfile implements caddyfile.Unmarshaler.
func (*thirdParty) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next()
	return nil
}

// Store implements caddyauth.SessionStore.
func (*thirdParty) Store() (store.Store, error) { return theirs.Load(), nil }

// theirs is the server that such a store would speak to: one for each test, and
// it outlives configurations and restarts.
var theirs atomic.Pointer[theirServer]

// theirServer keeps what it is given, counts, and fails on demand.
type theirServer struct {
	records store.Memory // a field, so that nothing of it but the contract is seen
	down    atomic.Bool
	lost    atomic.Bool // finds nothing, and says so
	asked   atomic.Int32

	mu     sync.Mutex
	saved  map[string]int // how often, by key
	seen   []string       // all that it was ever given, as text
	latest string         // the session that was saved last
}

func newTheirs() *theirServer {
	s := &theirServer{saved: map[string]int{}}
	theirs.Store(s)
	return s
}

var errDown = errors.New("their server is down")

func (s *theirServer) answers() error {
	s.asked.Add(1)
	if s.down.Load() {
		return errDown
	}
	return nil
}

// Load implements store.Store.
func (s *theirServer) Load(ctx context.Context, key string) (store.Record, error) {
	if err := s.answers(); err != nil {
		return store.Record{}, err
	}
	return s.records.Load(ctx, key)
}

// Save implements store.Store.
func (s *theirServer) Save(ctx context.Context, key string, r store.Record) error {
	if err := s.answers(); err != nil {
		return err
	}
	err := s.records.Save(ctx, key, r)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.seen = append(append(s.seen, key, string(r.Value)), r.Indexes...)
	if _, notHex := hex.DecodeString(key); err == nil && notHex == nil { // else it is about revocations
		s.saved[key]++
		s.latest = key
	}
	return err
}

// Delete implements store.Store.
func (s *theirServer) Delete(ctx context.Context, key string) error {
	if err := s.answers(); err != nil {
		return err
	}
	return s.records.Delete(ctx, key)
}

// Find implements store.Store.
func (s *theirServer) Find(ctx context.Context, index string) ([]string, error) {
	if err := s.answers(); err != nil {
		return nil, err
	}
	if s.lost.Load() {
		return nil, errDown
	}
	return s.records.Find(ctx, index)
}

// session is the key of the session that was saved last, how often it was, and
// whether it is still there.
func (s *theirServer) session(t testing.TB) (key string, saves int, there bool) {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.latest == "" {
		t.Fatal("no session was saved")
	}
	_, err := s.records.Load(t.Context(), s.latest)
	return s.latest, s.saved[s.latest], err == nil
}

// Interface guards
var (
	_ caddyauth.SessionStore = (*thirdParty)(nil)
	_ store.Store            = (*theirServer)(nil)
)

const inTheirs = `pkce_auth $OP public {
	session thirdparty {
		idle 2s
		lifetime 1h
	}
}
reverse_proxy $UPSTREAM`

// T4, A119: a store that fails is 503 for whom it may know: no logout, no login,
// no change of any cookie, and nothing upstream. It is not asked about who has
// no ticket of ours. When it is back, all goes on.
func TestT4A119StoreFails(t *testing.T) {
	theirs := newTheirs()
	w := newWorld(t)
	w.caddy("pkce_auth $OP public {\nsession thirdparty\nbypass /public/*\n}\nreverse_proxy $UPSTREAM")
	b, sid := w.loggedIn()
	callback := w.browser()
	target := callback.callback(w, "/late")
	name, value := b.sessionCookie(w)
	before := w.upstream.count()
	theirs.down.Store(true)
	for what, a := range map[string]answer{
		"a fetch": b.fetch(w.site + "/x"), "a navigation": b.visit(w.site + "/page"), "a login": callback.visit(target),
		"a logout": b.logout(w), "a logout in a frame": b.fetch(w.site + "/oauth2/frontchannel-logout?iss=" + w.op.URL + "&sid=" + sid),
	} {
		if what == "a login" {
			a = callback.follow(a) // to the error page
		}
		if a.StatusCode != http.StatusServiceUnavailable || what != "a login" && a.Header["Set-Cookie"] != nil || a.Header.Get("Retry-After") == "" {
			t.Errorf("%s: got status %d with %v", what, a.StatusCode, a.Header)
		}
	}
	if w.upstream.count() != before || len(w.op.Requests("authorize")) != 2 {
		t.Errorf("%d requests reached the upstream, %d the provider", w.upstream.count()-before, len(w.op.Requests("authorize"))-2)
	}
	if _, now := b.sessionCookie(w); now != value {
		t.Error("the cookie has changed")
	}
	if a := b.fetch(w.site + "/public/x"); a.StatusCode != http.StatusOK || w.upstream.last(t).Header.Get("Authorization") != "" {
		t.Errorf("what needs no session: got status %d", a.StatusCode)
	}
	w.logged("session_unavailable", "their server is down")
	asked := theirs.asked.Load()
	for _, cookie := range []string{"", name + "=forged", name + "=" + value[:len(value)-4] + "AAAA"} {
		if a := w.present(cookie); a.StatusCode != http.StatusUnauthorized {
			t.Errorf("%.20q: got status %d", cookie, a.StatusCode)
		}
	}
	if a := w.browser().visit(w.site + "/page"); a.StatusCode != http.StatusFound {
		t.Errorf("a stranger: got status %d", a.StatusCode)
	}
	if theirs.asked.Load() > asked+2 { // for revocations, now and then
		t.Errorf("the store was asked %d times for strangers", theirs.asked.Load()-asked)
	}
	theirs.down.Store(false)
	w.alive(b, true, "when the store is back")
	if len(w.op.Requests("authorize")) != 2 {
		t.Errorf("%d logins were begun", len(w.op.Requests("authorize")))
	}
	w.browser().login(w, "/anew")
}

// Back-channel logout while the store fails is 503, and nothing is lost: the
// provider sends the same token again, and it works.
func TestR44A119LogoutTokenWhileTheStoreFails(t *testing.T) {
	theirs := newTheirs()
	w := newWorld(t)
	w.caddy(inTheirs)
	b, sid := w.loggedIn()
	token := w.op.LogoutToken("public", "alice", sid, provider.LogoutFault{})
	theirs.down.Store(true)
	if a := w.sends(token); a.Status != http.StatusServiceUnavailable || a.Header.Get("Retry-After") == "" {
		t.Errorf("got status %d", a.Status)
	}
	w.logged(`"reason":"logout_failed"`, "their server is down")
	theirs.down.Store(false)
	if a := w.sends(token); a.Status != http.StatusOK {
		t.Errorf("sent again: got status %d", a.Status)
	}
	w.alive(b, false, "in the end")
	if _, _, there := theirs.session(t); there {
		t.Error("the session is still in the store")
	}
}

// A store of somebody else's survives a restart of Caddy, and so do sessions
// and the logouts of others.
func TestThirdPartyStoreOutlivesARestart(t *testing.T) {
	newTheirs()
	w := newWorld(t)
	load := w.reloads()
	load("session thirdparty")
	b, _ := w.loggedIn()
	out, _ := w.loggedIn()
	copied := out.cookieHeader(w)
	out.logout(w)
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	load("session thirdparty")
	w.alive(b, true, "after a restart")
	if a := w.present(copied); a.StatusCode != http.StatusUnauthorized {
		t.Errorf("logged out before the restart: got status %d", a.StatusCode)
	}
}

// However much traffic there is, a session is written at most ten times while
// it would last without any: its last use is kept in steps.
func TestSlidingIsThrottled(t *testing.T) {
	theirs := newTheirs()
	w := newWorld(t)
	w.caddy(inTheirs)
	b, _ := w.loggedIn()
	key, saves, _ := theirs.session(t)
	began := time.Now()
	cookies := b.cookieHeader(w)
	var requests atomic.Int32
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for time.Since(began) < 2500*time.Millisecond {
				if a := w.present(cookies); a.StatusCode != http.StatusOK {
					t.Errorf("got status %d", a.StatusCode)
					return
				}
				requests.Add(1)
			}
		})
	}
	wg.Wait()
	most := int(10*time.Since(began)/(2*time.Second)) + 1
	after, now, _ := theirs.session(t)
	if key != after || now-saves > most || now == saves {
		t.Errorf("%d requests led to %d writes of %.8s, %.8s before; want at most %d", requests.Load(), now-saves, after, key, most)
	}
	// So it has outlived its idle time. Unused, it does not.
	time.Sleep(2100 * time.Millisecond)
	w.alive(b, false, "after the idle time")
}

// T5, A61: a login replaces the session that was there: it is gone from the
// store, and no copy of its cookie opens anything.
func TestT5A61LoginEndsTheSessionBefore(t *testing.T) {
	theirs := newTheirs()
	w := newWorld(t)
	w.caddy(inTheirs)
	b, _ := w.loggedIn()
	first, _, _ := theirs.session(t)
	copied := b.cookieHeader(w)
	b.visit(b.callback2(w))
	second, _, there := theirs.session(t)
	if first == second || !there {
		t.Fatal("the second login made no session of its own")
	}
	if _, err := theirs.records.Load(t.Context(), first); err == nil {
		t.Error("the session before is still in the store")
	}
	if a := w.present(copied); a.StatusCode != http.StatusUnauthorized {
		t.Errorf("a copy of the cookie before: got status %d", a.StatusCode)
	}
	w.alive(b, true, "the new one")
}

// T6, M106: a refresh that brings another user's ID token ends the session, and
// a refresh token that is refused does: it is gone from the store.
func TestT6M106RefreshEndsTheSession(t *testing.T) {
	for name, faults := range map[string]provider.Faults{
		"another user": {RefreshedIDToken: func(claims map[string]any) { claims["sub"] = "mallory" }},
		"refused":      {Answer: answering(provider.Status(400, "application/json", `{"error":"invalid_grant"}`))},
	} {
		t.Run(name, func(t *testing.T) {
			theirs := newTheirs()
			w := newWorld(t)
			w.caddy("pkce_auth $OP public {\nsession thirdparty\n}\nreverse_proxy $UPSTREAM")
			b := w.browser()
			w.expired(b, faults)
			w.alive(b, false, "after the refresh")
			if _, _, there := theirs.session(t); there {
				t.Error("the session is still in the store")
			}
			if len(w.refreshes()) != 1 {
				t.Errorf("%d refreshes", len(w.refreshes()))
			}
		})
	}
}

// R45: a logout token comes while a login is under way, and then the store does
// not say who was logged out: what is known here is enough, and the session is
// gone for everybody.
func TestR45A119LoginUnderWayWhileTheStoreDoesNotSay(t *testing.T) {
	theirs := newTheirs()
	w := newWorld(t)
	w.caddy("pkce_auth $OP public {\nsession thirdparty\n}\nreverse_proxy $UPSTREAM")
	held, release := make(chan struct{}), make(chan struct{})
	w.op.Misbehave(provider.Faults{Answer: map[string]func(http.ResponseWriter, *http.Request) bool{"token": func(http.ResponseWriter, *http.Request) bool {
		close(held)
		<-release
		return false
	}}})
	b := w.browser()
	callback := b.callback(w, "/page")
	answers := make(chan answer)
	go func() { answers <- b.visit(callback) }()
	<-held
	if a := w.sends(w.op.LogoutToken("public", "alice", "", provider.LogoutFault{})); a.Status != http.StatusOK {
		t.Errorf("got status %d", a.Status)
	}
	theirs.lost.Store(true)
	close(release)
	<-answers
	if _, _, there := theirs.session(t); there {
		t.Error("the session is in the store")
	}
	w.alive(b, false, "afterwards")
}

// Trouble of the store never passes for "nobody is logged in": under
// unauthorized pass, such a request does not go upstream. And the operator is
// told that sessions cannot be listed, or ended, now.
func TestPromise1A119StoreTroubleIsNotAnonymity(t *testing.T) {
	theirs := newTheirs()
	w := newWorld(t)
	w.withAdmin()
	w.caddy("pkce_auth $OP public {\nsession thirdparty\nunauthorized pass\n}\nreverse_proxy $UPSTREAM")
	b := w.browser()
	b.open(w.site + "/oauth2/login?return_to=/in")
	if w.upstream.last(t).Header.Get("Authorization") == "" {
		t.Fatal("nobody is logged in")
	}
	before := w.upstream.count()
	theirs.down.Store(true)
	for _, a := range []answer{b.fetch(w.site + "/x"), b.visit(w.site + "/page")} {
		if a.StatusCode != http.StatusServiceUnavailable || w.upstream.count() != before {
			t.Errorf("got status %d, and %d requests reached the upstream", a.StatusCode, w.upstream.count()-before)
		}
	}
	id, _, _ := theirs.session(t)
	for _, request := range [][2]string{{"GET", ""}, {"DELETE", "?sub=alice"}, {"DELETE", "/" + id}} {
		if a := w.operator(request[0], request[1]); a.StatusCode != http.StatusServiceUnavailable {
			t.Errorf("%s %s: got status %d and %s", request[0], request[1], a.StatusCode, a.body)
		}
	}
	theirs.down.Store(false)
	w.deletes("/"+id, 1)
}

// Whoever runs the store learns nothing: no token, no user, no name of a
// session; not even from keys and indexes, and not by guessing.
func TestA74StoreLearnsNothing(t *testing.T) {
	theirs := newTheirs()
	w := newWorld(t)
	w.caddy("pkce_auth $OP public {\nsession thirdparty\n}\nreverse_proxy $UPSTREAM")
	b := w.browser()
	w.expired(b, provider.Faults{})
	w.alive(b, true, "after a refresh")
	sid := w.op.Logins()[0].SessionID
	for _, token := range []string{w.op.LogoutToken("public", "", sid, provider.LogoutFault{}), w.op.LogoutToken("public", "alice", "", provider.LogoutFault{})} {
		if a := w.sends(token); a.Status != http.StatusOK {
			t.Errorf("got status %d", a.Status)
		}
	}
	theirs.mu.Lock()
	defer theirs.mu.Unlock()
	all := strings.Join(theirs.seen, "\n")
	if len(theirs.seen) < 20 || len(all) < 1000 {
		t.Fatalf("the store was given %d texts, of %d bytes", len(theirs.seen), len(all))
	}
	for _, secret := range append(append(w.op.Issued(), b.secrets...), "alice", "Alice", sid, "public", strings.TrimPrefix(w.op.URL, "http://")) {
		sum := sha256.Sum256([]byte(secret))
		for _, text := range []string{secret, hex.EncodeToString([]byte(secret)), hex.EncodeToString(sum[:8]), string(sum[:8])} {
			if secret != "" && strings.Contains(all, text) {
				t.Errorf("the store was given %.12s…", secret)
			}
		}
	}
}

// A74: a store that hands out one record for another, by mistake or on purpose,
// logs nobody in as somebody else.
func TestA74StoreMixesRecordsUp(t *testing.T) {
	theirs := newTheirs()
	w := newWorld(t)
	w.withAdmin()
	w.caddy("pkce_auth $OP public {\nsession thirdparty\nheader_up X-Who {http.auth.user.id}\n}\nreverse_proxy $UPSTREAM")
	alice, _ := w.loggedIn()
	first, _, _ := theirs.session(t)
	w.op.Change(func(c *provider.Config) { c.Login, c.Users = "bob", map[string]map[string]any{"alice": {}, "bob": {}} })
	bob, _ := w.loggedIn()
	second, _, _ := theirs.session(t)
	a, err := theirs.records.Load(t.Context(), first)
	if err != nil {
		t.Fatal(err)
	}
	b, err := theirs.records.Load(t.Context(), second)
	if err != nil {
		t.Fatal(err)
	}
	a.Version, b.Version = 2, 2
	for key, record := range map[string]store.Record{first: b, second: a} {
		if err := theirs.records.Save(t.Context(), key, record); err != nil {
			t.Fatal(err)
		}
	}
	before := w.upstream.count()
	w.alive(alice, false, "alice, with the record of bob")
	w.alive(bob, false, "bob, with the record of alice")
	if w.upstream.count() != before {
		t.Error("something reached the upstream")
	}
	if sessions, _ := w.list(""); len(sessions) != 0 {
		t.Errorf("listed: %+v", sessions)
	}
	alice.login(w, "/again")
}
