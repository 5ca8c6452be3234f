package caddyauth

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/pkce-auth/caddy-pkce-auth/caddyauth/internal/claims"
	"github.com/pkce-auth/caddy-pkce-auth/caddyauth/internal/rp"
	"github.com/pkce-auth/caddy-pkce-auth/caddyauth/internal/session"
	"github.com/pkce-auth/caddy-pkce-auth/caddyauth/store"
)

// Promise 1 as a state machine: browsers log in, make requests, several at
// once, log out, and show old cookies again; the provider ends sessions, and
// refuses, loses or delays refreshes; the store fails; replicas restart; time
// passes. Whatever the order, no request reaches the upstream with a session
// that is over, or with a token that is; none of a session that goes on is
// turned away, unless something that it needs does not answer; and the
// provider never sees a spent refresh token, unless an answer of its own was
// lost (A61–A87, M100–M109, T1–T4, T8).
//
// A walk is named by its seed: PKCE_AUTH_TEST_SEED repeats one.
func TestPromise1StateMachine(t *testing.T) {
	walks := 40
	first := uint64(time.Now().UnixNano())
	if seed, err := strconv.ParseUint(os.Getenv("PKCE_AUTH_TEST_SEED"), 10, 64); err == nil {
		walks, first = 1, seed
	}
	for _, kind := range []struct {
		name     string
		replicas int
		in       func(*troubledStore) keptIn
	}{
		{"cookie", 1, func(s *troubledStore) keptIn { return keptIn{revocations: s, every: storagePoll} }},
		{"memory", 1, func(s *troubledStore) keptIn { return keptIn{sessions: s, revocations: s} }},
		{"storage", 3, func(s *troubledStore) keptIn {
			return keptIn{sessions: s, revocations: s, every: revocationsPoll, lag: storageLag}
		}},
		{"redis", 3, func(s *troubledStore) keptIn { return keptIn{sessions: s, revocations: s, every: revocationsPoll} }},
	} {
		t.Run(kind.name, func(t *testing.T) {
			for i := range walks {
				seed := first + uint64(i)
				synctest.Test(t, func(t *testing.T) {
					m := newMachine(t, seed, kind.replicas, kind.in)
					for step := 0; step < 120 && !t.Failed(); step++ {
						m.step()
					}
					m.end()
				})
				if t.Failed() {
					t.Fatalf("repeat it with PKCE_AUTH_TEST_SEED=%d", seed)
				}
			}
		})
	}
}

const (
	machineLifetime = 40 * time.Minute
	machineIdle     = 10 * time.Minute
	machineToken    = 3 * time.Minute
)

// machine is the world, and what must be true of it.
type machine struct {
	t        *testing.T
	random   *rand.Rand
	store    *troubledStore
	op       *fakeProvider
	in       keptIn
	replicas []*Handler
	next     upstreamOfMachine

	mu       sync.Mutex
	sessions map[string]*modelSession // by the name in the access token
	browsers []*modelBrowser
	log      []string
}

// modelSession is what is known of a session from outside.
type modelSession struct {
	name    string
	subject string
	created time.Time
	used    time.Time // when anybody last got through with it
	shown   time.Time // when its browser did
	ended   time.Time // when it was ended by somebody; zero while it was not
	doubt   bool      // whether it may be over all the same: the provider refused or lost something
}

type modelBrowser struct {
	subject string
	cookies []string
	current *modelSession
	old     []oldCookie
}

// oldCookie is a copy that somebody took, and of which session.
type oldCookie struct {
	cookies []string
	of      *modelSession
}

func newMachine(t *testing.T, seed uint64, replicas int, in func(*troubledStore) keptIn) *machine {
	m := &machine{t: t, random: rand.New(rand.NewPCG(seed, 0)), store: &troubledStore{}, sessions: map[string]*modelSession{}}
	m.op = &fakeProvider{alive: map[string]string{}, goodSince: time.Now().Add(-time.Hour)}
	m.next.m = m
	m.in = in(m.store)
	for range replicas {
		m.replicas = append(m.replicas, m.newReplica())
	}
	for i := range 4 {
		m.browsers = append(m.browsers, &modelBrowser{subject: []string{"alice", "bob"}[i%2]})
	}
	return m
}

// newReplica is a process: nothing but the stores and the keys are shared.
func (m *machine) newReplica() *Handler {
	h := newReplica(m.t, `{"lifetime":`+strconv.Itoa(int(machineLifetime))+`,"idle":`+strconv.Itoa(int(machineIdle))+`}`, m.in)
	h.party.client.Provider = rp.NewProvider(rp.ProviderConfig{Issuer: "https://op.test", Transport: m.op})
	return h
}

func (m *machine) say(format string, args ...any) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.log = append(m.log, time.Now().Format("15:04:05.000 ")+fmt.Sprintf(format, args...))
}

func (m *machine) fail(format string, args ...any) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.t.Errorf("after\n%s\n%s %s", strings.Join(m.log[max(0, len(m.log)-40):], "\n"), time.Now().Format("15:04:05.000"), fmt.Sprintf(format, args...))
}

func (m *machine) replica() *Handler { return m.replicas[m.random.IntN(len(m.replicas))] }

func (m *machine) browser() *modelBrowser { return m.browsers[m.random.IntN(len(m.browsers))] }

// step does one thing.
func (m *machine) step() {
	time.Sleep(time.Millisecond) // nothing happens at once with anything else
	switch n := m.random.IntN(100); {
	case n < 10:
		m.login(m.browser())
	case n < 45:
		m.requests(m.browser(), 1)
	case n < 58:
		m.requests(m.browser(), 2+m.random.IntN(6))
	case n < 62:
		m.logout(m.browser())
	case n < 65:
		m.endFromOutside(m.browser())
	case n < 70:
		m.replay(m.browser())
	case n < 85:
		m.pass()
	case n < 90:
		m.op.set(m.random.IntN(6))
		m.say("provider: %v", m.op.mood())
	case n < 94:
		m.store.failing.Store(!m.store.failing.Load())
		m.say("store fails: %v", m.store.failing.Load())
		time.Sleep(1100 * time.Millisecond) // for so long nobody asks it again
	case n < 97:
		i := m.random.IntN(len(m.replicas))
		if m.in.sessions == nil || len(m.replicas) > 1 { // one process with all in memory has nothing to come back to
			m.say("replica %d restarts", i)
			m.replicas[i] = m.newReplica()
			if m.in.sessions == nil { // what it alone knew is gone
				m.doubtAll()
			}
		}
	default:
		m.sweep()
	}
}

func (m *machine) doubtAll() {
	for _, s := range m.sessions {
		s.doubt = true
	}
}

// pass lets time pass, while the replicas sweep.
func (m *machine) pass() {
	d := []time.Duration{time.Second, 20 * time.Second, time.Minute, machineToken, 8 * time.Minute}[m.random.IntN(5)]
	m.say("%s pass", d)
	time.Sleep(d)
	m.sweep()
}

func (m *machine) sweep() {
	for _, h := range m.replicas {
		h.party.sweep(time.Now())
	}
}

// login gives a browser a new session, as a callback does.
func (m *machine) login(b *modelBrowser) {
	h := m.replica()
	name := fmt.Sprintf("s%d", len(m.sessions))
	before := b.current
	now := time.Now()
	set, err := claims.Parse([]byte(`{"sub":"` + b.subject + `","sid":"sid-` + name + `"}`))
	if err != nil {
		m.t.Fatal(err)
	}
	grant := &rp.Grant{AccessToken: rp.NewSecret(name + ".0"), RefreshToken: rp.NewSecret(m.op.grant(name)), Expiry: now.Add(machineToken)}
	s := session.New(grant, &rp.Identity{Subject: b.subject, Sources: []rp.SourcedClaims{{From: rp.FromIDToken, Claims: set}}}, now)
	r := newRequest(http.MethodGet, "https://app.test/oauth2/callback", http.Header{"Cookie": b.cookies})
	r.TLS.ServerName = "app.test"
	w := httptest.NewRecorder()
	at, err := h.party.site.origins.of(r)
	if err != nil {
		m.t.Fatal(err)
	}
	h.party.authState(r)
	h.party.finish(w, r, s, &loginState{returnTo: "/"}, at)
	if loc := w.Header().Get("Location"); strings.HasSuffix(loc, pathError) || strings.Contains(loc, pathError+"?") {
		m.say("login of %s as %s failed", b.subject, name)
		return
	}
	m.say("%s logs in: %s, in place of %v", b.subject, name, before.String())
	b.keepOld()
	b.cookies = merge(b.cookies, w.Header())
	model := &modelSession{name: name, subject: b.subject, created: now, used: now, shown: now}
	if before != nil && m.in.sessions != nil {
		if m.store.failing.Load() {
			before.doubt = true // it could not be told that it is replaced
		} else {
			before.end(now)
		}
	}
	m.mu.Lock()
	m.sessions[name] = model
	m.mu.Unlock()
	b.current = model
}

func (s *modelSession) String() string {
	if s == nil {
		return "nothing"
	}
	return s.name
}

func (s *modelSession) end(at time.Time) {
	if s.ended.IsZero() {
		s.ended = at
	}
}

func (b *modelBrowser) keepOld() {
	if b.current != nil {
		b.old = append(b.old, oldCookie{b.cookies, b.current})
	}
}

// requests sends some at once, to whatever replicas.
func (m *machine) requests(b *modelBrowser, n int) {
	s, cookies := b.current, b.cookies
	sure := m.surelyAlive(s)
	through, statuses := make([]bool, n), make([]int, n)
	var headers []http.Header
	var wg sync.WaitGroup
	var mu sync.Mutex
	began := time.Now()
	for i := range n {
		h := m.replica()
		wg.Go(func() {
			w := m.request(h, cookies)
			mu.Lock()
			defer mu.Unlock()
			through[i], statuses[i] = w.Code == http.StatusOK, w.Code
			headers = append(headers, w.Header())
		})
	}
	wg.Wait()
	for _, h := range headers {
		b.cookies = merge(b.cookies, h)
	}
	m.say("%d requests of %s took %s: %v", n, s, time.Since(began), statuses)
	if s == nil {
		return
	}
	if slices.Contains(through, true) {
		s.used, s.shown = time.Now(), time.Now()
	}
	if sure && m.surelyAlive(s) && slices.Contains(through, false) {
		m.fail("%s goes on, and was turned away: %v", s, statuses)
	}
	b.keepOld()
	if len(b.old) > 20 {
		b.old = b.old[10:]
	}
}

// surelyAlive reports whether nothing keeps a session from being used now.
func (m *machine) surelyAlive(s *modelSession) bool {
	now := time.Now()
	return s != nil && s.ended.IsZero() && !s.doubt && !m.store.failing.Load() && m.op.isGood() &&
		now.Sub(s.shown) < machineIdle*9/10-time.Second && now.Sub(s.created) < machineLifetime-time.Minute
}

// replay shows a copy of a cookie that was taken before.
func (m *machine) replay(b *modelBrowser) {
	if len(b.old) == 0 {
		return
	}
	old := b.old[m.random.IntN(len(b.old))]
	w := m.request(m.replica(), old.cookies)
	m.say("a copy of %s's cookie is shown: %d", old.of, w.Code)
	if w.Code == http.StatusOK { // which keeps it in use
		old.of.used = time.Now()
	}
}

// request goes through the handler. What reaches the upstream is judged there.
func (m *machine) request(h *Handler, cookies []string) *httptest.ResponseRecorder {
	r := newRequest(http.MethodGet, "https://app.test/x", http.Header{"Cookie": slices.Clone(cookies), "Accept": {"application/json"}})
	r.TLS.ServerName = "app.test"
	w := httptest.NewRecorder()
	if err := h.ServeHTTP(w, r, &m.next); err != nil {
		w.WriteHeader(http.StatusInternalServerError)
		m.fail("the handler returned %v", err)
	}
	return w
}

// hearing is how long others may take to hear that a session was ended.
func (m *machine) hearing() time.Duration {
	if len(m.replicas) == 1 {
		return 0
	}
	return time.Second
}

// upstreamOfMachine judges what reaches it.
type upstreamOfMachine struct{ m *machine }

func (u *upstreamOfMachine) ServeHTTP(w http.ResponseWriter, r *http.Request) error {
	m := u.m
	token, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	name, _, _ := strings.Cut(token, ".")
	m.mu.Lock()
	s := m.sessions[name]
	m.mu.Unlock()
	now := time.Now()
	switch {
	case !ok || s == nil:
		m.fail("a request reached the upstream without a session: %q", token)
	case !s.ended.IsZero() && now.Sub(s.ended) > m.hearing():
		m.fail("a request reached the upstream with %s, which was ended %s ago", s, now.Sub(s.ended))
	case now.Sub(s.created) > machineLifetime:
		m.fail("a request reached the upstream with %s, which began %s ago", s, now.Sub(s.created))
	case now.Sub(s.used) > machineIdle:
		m.fail("a request reached the upstream with %s, which was used %s ago", s, now.Sub(s.used))
	case m.op.expired(token, now):
		m.fail("an expired token reached the upstream: %s", token)
	}
	w.WriteHeader(http.StatusOK)
	return nil
}

func (m *machine) logout(b *modelBrowser) {
	h := m.replica()
	r := newRequest(http.MethodPost, "https://app.test/oauth2/logout", http.Header{"Cookie": b.cookies, "Sec-Fetch-Site": {"same-origin"}, "Accept": {"application/json"}})
	r.TLS.ServerName = "app.test"
	w := httptest.NewRecorder()
	failing := m.store.failing.Load()
	if err := h.ServeHTTP(w, r, &m.next); err != nil {
		m.fail("logout: %v", err)
	}
	m.say("logout of %s: %d", b.current, w.Code)
	if w.Code != http.StatusSeeOther {
		if !failing {
			m.fail("logout: status %d", w.Code)
		}
		return
	}
	b.keepOld()
	b.cookies = merge(b.cookies, w.Header())
	if b.current == nil {
		return
	}
	if failing && m.in.sessions == nil { // it holds here; whether after a restart is said to be open
		b.current.doubt = true
		if len(m.replicas) > 1 {
			return
		}
		m.store.failing.Store(false) // so that it can be told what must hold
		time.Sleep(1100 * time.Millisecond)
		if err := h.party.sessions.revocations.RevokeAll(context.Background(), session.Selector{ProviderID: "sid-" + b.current.name}, time.Now()); err != nil {
			m.fail("revoking: %v", err)
		}
	}
	b.current.end(time.Now())
	b.current = nil
}

// endFromOutside ends sessions as a logout token, or an operator, does.
func (m *machine) endFromOutside(b *modelBrowser) {
	h := m.replica()
	who := session.Selector{Subject: b.subject}
	if b.current != nil && m.random.IntN(2) == 0 {
		who = session.Selector{ProviderID: "sid-" + b.current.name}
	}
	_, err := h.party.endSessionsOf(context.Background(), who)
	m.say("the provider ends %+v: %v", who, err)
	for _, s := range m.sessions {
		if who.Subject != "" && s.subject != who.Subject || who.ProviderID != "" && "sid-"+s.name != who.ProviderID {
			continue
		}
		if err != nil {
			s.doubt = true // some may be ended, and it is to be said again
			continue
		}
		s.end(time.Now())
	}
	if err != nil && !m.store.failing.Load() {
		m.fail("ending: %v", err)
	}
}

func (m *machine) end() {
	m.store.failing.Store(false)
	synctest.Wait()
	if reused := m.op.reused.Load(); reused > 0 && !m.op.lost.Load() && len(m.replicas) == 3 {
		m.fail("the provider saw %d spent refresh tokens", reused)
	}
	time.Sleep(time.Hour) // for flights that are still out
}

// merge is a cookie jar.
func merge(cookies []string, h http.Header) []string {
	jar := map[string]string{}
	for _, line := range cookies {
		for pair := range strings.SplitSeq(line, "; ") {
			if name, value, ok := strings.Cut(pair, "="); ok {
				jar[name] = value
			}
		}
	}
	for _, c := range (&http.Response{Header: h}).Cookies() {
		if c.MaxAge < 0 {
			delete(jar, c.Name)
			continue
		}
		jar[c.Name] = c.Value
	}
	if len(jar) == 0 {
		return nil
	}
	var pairs []string
	for name, value := range jar {
		pairs = append(pairs, name+"="+value)
	}
	slices.Sort(pairs)
	return []string{strings.Join(pairs, "; ")}
}

// troubledStore is a store that fails when it is told to.
type troubledStore struct {
	store.Memory
	failing atomic.Bool
}

var errTroubled = errors.New("the store is down")

func (s *troubledStore) err() error {
	if s.failing.Load() {
		return errTroubled
	}
	return nil
}

func (s *troubledStore) Load(ctx context.Context, key string) (store.Record, error) {
	if err := s.err(); err != nil {
		return store.Record{}, err
	}
	return s.Memory.Load(ctx, key)
}

func (s *troubledStore) Save(ctx context.Context, key string, r store.Record) error {
	if err := s.err(); err != nil {
		return err
	}
	return s.Memory.Save(ctx, key, r)
}

func (s *troubledStore) Delete(ctx context.Context, key string) error {
	if err := s.err(); err != nil {
		return err
	}
	return s.Memory.Delete(ctx, key)
}

func (s *troubledStore) Find(ctx context.Context, index string) ([]string, error) {
	if err := s.err(); err != nil {
		return nil, err
	}
	return s.Memory.Find(ctx, index)
}

func (s *troubledStore) TryLock(ctx context.Context, name string) (func(), bool, error) {
	if err := s.err(); err != nil {
		return nil, false, err
	}
	return s.Memory.TryLock(ctx, name)
}

// fakeProvider rotates refresh tokens, and revokes all of a login's when it
// sees a spent one.
type fakeProvider struct {
	mu     sync.Mutex
	alive  map[string]string // login → its refresh token
	expiry sync.Map          // access token → time
	n      int
	how    int
	reused atomic.Int64
	lost   atomic.Bool

	goodSince time.Time
}

func (p *fakeProvider) set(how int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.how = how
	if mood := p.moods()[how]; mood != "good" {
		p.goodSince = time.Time{}
	} else if p.goodSince.IsZero() {
		p.goodSince = time.Now()
	}
}

func (p *fakeProvider) moods() []string {
	return []string{"good", "good", "down", "slow", "busy", "good"}
}

// isGood reports whether it answers, and has for so long that nobody leaves it
// alone any more.
func (p *fakeProvider) isGood() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return !p.goodSince.IsZero() && time.Since(p.goodSince) > 61*time.Second
}

// mood is what is wrong with it now; most of the time nothing.
func (p *fakeProvider) mood() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.moods()[p.how]
}

func (p *fakeProvider) grant(login string) string {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.n++
	p.alive[login] = fmt.Sprintf("%s.r%d", login, p.n)
	p.expiry.Store(login+".0", time.Now().Add(machineToken))
	return p.alive[login]
}

func (p *fakeProvider) expired(token string, now time.Time) bool {
	until, ok := p.expiry.Load(token)
	return !ok || now.After(until.(time.Time))
}

// RoundTrip implements http.RoundTripper.
func (p *fakeProvider) RoundTrip(r *http.Request) (*http.Response, error) {
	if strings.Contains(r.URL.Path, "/.well-known/") {
		return answer(http.StatusOK, `{"issuer":"https://op.test","authorization_endpoint":"https://op.test/auth","token_endpoint":"https://op.test/token",
			"jwks_uri":"https://op.test/jwks","revocation_endpoint":"https://op.test/revoke","code_challenge_methods_supported":["S256"]}`), nil
	}
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return nil, err
	}
	form, err := url.ParseQuery(string(body))
	if err != nil {
		return nil, err
	}
	if r.URL.Path == "/revoke" {
		p.revoke(form.Get("token"))
		return answer(http.StatusOK, ""), nil
	}
	switch p.mood() {
	case "down":
		return nil, errors.New("connection refused")
	case "busy":
		return answer(http.StatusServiceUnavailable, `{}`), nil
	case "slow":
		time.Sleep(3 * time.Second)
	}
	return p.refresh(form.Get("refresh_token")), nil
}

func (p *fakeProvider) revoke(token string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	login, _, _ := strings.Cut(token, ".")
	if p.alive[login] == token {
		delete(p.alive, login)
	}
}

func (p *fakeProvider) refresh(token string) *http.Response {
	p.mu.Lock()
	defer p.mu.Unlock()
	login, _, _ := strings.Cut(token, ".")
	if p.alive[login] != token {
		if p.alive[login] != "" {
			p.reused.Add(1)
			delete(p.alive, login)
		}
		return answer(http.StatusBadRequest, `{"error":"invalid_grant"}`)
	}
	p.n++
	p.alive[login] = fmt.Sprintf("%s.r%d", login, p.n)
	access := fmt.Sprintf("%s.%d", login, p.n)
	p.expiry.Store(access, time.Now().Add(machineToken))
	return answer(http.StatusOK, fmt.Sprintf(`{"access_token":%q,"token_type":"Bearer","expires_in":%d,"refresh_token":%q}`, access, int(machineToken/time.Second), p.alive[login]))
}

func answer(status int, body string) *http.Response {
	return &http.Response{
		StatusCode: status, Status: http.StatusText(status), Header: http.Header{"Content-Type": {"application/json"}},
		Body: io.NopCloser(strings.NewReader(body)), ContentLength: int64(len(body)),
	}
}

var _ caddyhttp.Handler = (*upstreamOfMachine)(nil)
