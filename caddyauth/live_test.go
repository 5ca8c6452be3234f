package caddyauth

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/pkce-auth/caddy-pkce-auth/caddyauth/internal/claims"
	"github.com/pkce-auth/caddy-pkce-auth/caddyauth/internal/rp"
	"github.com/pkce-auth/caddy-pkce-auth/caddyauth/internal/session"
)

// admitting is a route that lets in whom it likes.
type admitting func(*session.Session) bool

func (a admitting) admits(s *session.Session) bool { return a(s) }

func anybody(*session.Session) bool { return true }

// underWay has a request enter with a session.
func underWay(l *liveRequests, s *session.Session, admits func(*session.Session) bool) *liveRequest {
	r := &liveRequest{route: admitting(admits)}
	r.hold(httptest.NewRecorder(), httptest.NewRequest(http.MethodGet, "/", nil))
	l.enter(r, s)
	return r
}

func liveSessions(l *liveRequests) (n int) {
	for i := range l.shards {
		n += len(l.shards[i].sessions)
	}
	return n
}

// A82: what ends is what belongs to the session, once, whoever came first; and
// nothing stays behind of what has left.
func TestA82EndingsReachTheirSessionOnly(t *testing.T) {
	var l liveRequests
	alice, bob := &session.Session{ID: "alice"}, &session.Session{ID: "bob"}
	one, two, three, other := underWay(&l, alice, anybody), underWay(&l, alice, anybody), underWay(&l, alice, anybody), underWay(&l, bob, anybody)
	two.let()
	l.leave(two)
	l.leave(two)
	if n := l.endSession("alice", errLoggedOut, func(*session.Session) bool { return false }); n != 0 || one.ended() != nil {
		t.Errorf("%d requests that do not match were cut", n)
	}
	if n := l.endSession("alice", errLoggedOut, nil); n != 2 {
		t.Errorf("%d requests were cut, want 2", n)
	}
	for _, r := range []*liveRequest{one, three} {
		if !errors.Is(r.ended(), errLoggedOut) || !errors.Is(r.context.Err(), context.Canceled) || !errors.Is(context.Cause(&r.context), context.Canceled) {
			t.Errorf("cut: %v, context: %v, cause: %v", r.ended(), r.context.Err(), context.Cause(&r.context))
		}
	}
	if two.ended() != nil || other.ended() != nil || other.context.Err() != nil {
		t.Error("a request was cut that had left, or that is another's")
	}
	if n := l.end(errNoLonger, func(s *session.Session) bool { return s.ID == "bob" }); n != 1 || !errors.Is(other.ended(), errNoLonger) {
		t.Errorf("%d requests were cut, bob's: %v", n, other.ended())
	}
	one.cut(errNoLonger)
	if !errors.Is(one.ended(), errLoggedOut) {
		t.Error("the second reason replaced the first")
	}
	for _, r := range []*liveRequest{three, one, other} {
		l.leave(r)
	}
	if n := liveSessions(&l); n != 0 {
		t.Errorf("%d sessions stay behind", n)
	}
}

// G17: what a refresh says of the user is put before each route anew; who is
// still admitted goes on. The newest copy counts, whatever copies still come.
func TestG17RefreshedSessionsAreJudgedAnew(t *testing.T) {
	var l liveRequests
	old := &session.Session{ID: "x", Seen: time.Unix(50, 0)}
	old.Subject = "staff"
	staff := func(s *session.Session) bool { return s.Subject == "staff" }
	strict, lenient := underWay(&l, old, staff), underWay(&l, old, anybody)
	refreshed := *old
	refreshed.Generation, refreshed.Seen = 1, time.Unix(40, 0)
	l.learn(&refreshed)
	if strict.ended() != nil || lenient.ended() != nil {
		t.Fatal("a refresh cuts what it admits")
	}
	demoted := refreshed
	demoted.Generation, demoted.Subject = 2, "nobody"
	l.learn(&demoted)
	if !errors.Is(strict.ended(), errNoLonger) || lenient.ended() != nil {
		t.Errorf("after the loss: strict %v, lenient %v", strict.ended(), lenient.ended())
	}
	if late := underWay(&l, old, staff); !errors.Is(late.ended(), errNoLonger) {
		t.Error("an old copy of the session gets past the route")
	}
	var newest *session.Session
	l.end(nil, func(s *session.Session) bool { newest = s; return false })
	if newest.Generation != 2 || !newest.Seen.Equal(time.Unix(50, 0)) {
		t.Errorf("the newest copy: generation %d, seen %v", newest.Generation, newest.Seen)
	}
	promoted := underWay(&l, old, anybody)
	newer := demoted
	newer.Generation = 3
	entering := underWay(&l, &newer, staff) // what this one brings is news, too
	if entering.ended() != nil || promoted.ended() != nil {
		t.Errorf("entering: %v, %v", entering.ended(), promoted.ended())
	}
	l.learn(&session.Session{ID: "unknown"})
	if n := liveSessions(&l); n != 1 {
		t.Errorf("%d sessions", n)
	}
}

// touchy panics when it is touched after its handler, as HTTP/2 does.
type touchy struct {
	http.ResponseWriter
	mu   sync.Mutex
	over bool
}

func (w *touchy) touch() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.over {
		panic("touched after the handler has returned")
	}
}

func (w *touchy) SetReadDeadline(time.Time) error  { w.touch(); return nil }
func (w *touchy) SetWriteDeadline(time.Time) error { w.touch(); return nil }

// A82: requests enter, end and leave at the same time, in any order; no cut
// touches a writer whose handler has returned, and none who enters after the
// end goes on.
func TestA82EndingAndLeavingAtOnce(t *testing.T) {
	p := newHandler(t, inlineProvider).party
	for i := range 300 {
		s := &session.Session{ID: strconv.Itoa(i)}
		var wg sync.WaitGroup
		ended := make(chan struct{})
		for n := range 4 {
			wg.Go(func() {
				w := &touchy{ResponseWriter: httptest.NewRecorder()}
				r := &liveRequest{route: admitting(anybody), judge: p}
				r.hold(w, httptest.NewRequest(http.MethodPost, "/", strings.NewReader("x")))
				_ = r.answer()
				p.shared.live.enter(r, s)
				if p.sessions.revocations.Has(s) { // as forwardLive looks
					r.cut(errLoggedOut)
				}
				if n%2 == 0 { // the others leave while it ends
					<-ended
					if r.ended() == nil || r.context.Err() == nil {
						t.Error("a request slipped through")
					}
				}
				r.let()
				p.shared.live.leave(r)
				w.mu.Lock()
				w.over = true
				w.mu.Unlock()
			})
		}
		p.remember(t.Context(), s)
		p.shared.live.endSession(s.ID, errLoggedOut, nil)
		close(ended)
		wg.Wait()
	}
	if n := liveSessions(&p.shared.live); n != 0 {
		t.Errorf("%d sessions stay behind", n)
	}
}

// stubborn runs a request through a handler that does not look at its context:
// during is called when it is under way, and then it answers.
func stubborn(t *testing.T, h *Handler, during func(s *session.Session), answer func(http.ResponseWriter)) (w *httptest.ResponseRecorder, aborted bool, r *http.Request) {
	t.Helper()
	r = newRequest(http.MethodGet, "https://app.test/page", http.Header{"Cookie": sessionCookies(t, h, "token")})
	w = httptest.NewRecorder()
	w.Header().Set("Server", "Caddy")
	defer func() {
		panicked := recover()
		if aborted = panicked == http.ErrAbortHandler; panicked != nil && !aborted { //nolint:errorlint // as net/http compares it
			panic(panicked)
		}
	}()
	next := caddyhttp.HandlerFunc(func(w http.ResponseWriter, r *http.Request) error {
		a, _ := h.party.authState(r)
		during(a.session)
		answer(w)
		return nil
	})
	if err := h.ServeHTTP(w, r, next); err != nil {
		t.Error(err)
	}
	return w, false, r
}

// A82: a session that ends while the upstream thinks: its late answer does not
// pass, with nothing of it, and the client is told what is the matter.
func TestA82LateAnswersDoNotPass(t *testing.T) {
	h := newHandler(t, inlineProvider)
	end := func(s *session.Session) { h.party.shared.live.endSession(s.ID, errLoggedOut, nil) }
	answers := map[string]func(http.ResponseWriter){
		"headers and body": func(w http.ResponseWriter) {
			w.Header().Set("X-Secret", "secret")
			w.Header().Set("Content-Length", "6")
			w.Header().Add("Set-Cookie", "theirs=secret")
			w.WriteHeader(http.StatusOK)
			_, _ = io.WriteString(w, "secret")
		},
		"a flush":  func(w http.ResponseWriter) { _ = http.NewResponseController(w).Flush() },
		"a copy":   func(w http.ResponseWriter) { _, _ = io.Copy(w, strings.NewReader("secret")) },
		"a hint":   func(w http.ResponseWriter) { w.Header().Set("Link", "</secret>"); w.WriteHeader(http.StatusEarlyHints) },
		"an abort": func(http.ResponseWriter) { panic(http.ErrAbortHandler) },
		"nothing":  func(http.ResponseWriter) {},
		"a socket": func(w http.ResponseWriter) {
			if _, _, err := http.NewResponseController(w).Hijack(); !errors.Is(err, errLoggedOut) {
				t.Errorf("the connection was given away: %v", err)
			}
		},
	}
	for name, answer := range answers {
		t.Run(name, func(t *testing.T) {
			w, aborted, r := stubborn(t, h, end, answer)
			if aborted || w.Code != http.StatusUnauthorized || strings.Contains(w.Body.String(), "secret") || len(w.Header()["Set-Cookie"]) != 0 ||
				w.Header().Get("X-Secret")+w.Header().Get("Link") != "" || w.Header().Get("Server") != "Caddy" {
				t.Errorf("got status %d, aborted %v, %v, %q", w.Code, aborted, w.Header(), w.Body)
			}
			if r.Context().Err() != nil {
				t.Error("the context that error routes run with is over")
			}
		})
	}
	// One that has begun is aborted: its beginning must not pass for all of it.
	w, aborted, _ := stubborn(t, h, func(*session.Session) {}, func(w http.ResponseWriter) {
		_, _ = io.WriteString(w, "half of ")
		h.party.shared.live.end(errLoggedOut, anybody)
		if _, err := io.WriteString(w, "secret"); !errors.Is(err, session.ErrEnded) {
			t.Errorf("a write after the cut: %v", err)
		}
	})
	if !aborted || w.Body.String() != "half of " {
		t.Errorf("aborted: %v, got %q", aborted, w.Body)
	}
	if n := liveSessions(&h.party.shared.live); n != 0 {
		t.Errorf("%d sessions stay behind", n)
	}
}

// A request that enters when its session has just ended goes nowhere.
func TestA82NobodyEntersAfterTheEnd(t *testing.T) {
	h := newHandler(t, inlineProvider)
	r := newRequest(http.MethodGet, "https://app.test/page", http.Header{"Cookie": sessionCookies(t, h, "token")})
	a, _ := h.party.authState(r)
	var err error
	if a.session, err = h.party.load(r, a, true); err != nil {
		t.Fatal(err)
	}
	h.party.remember(t.Context(), a.session)
	w := httptest.NewRecorder()
	err = h.forward(w, r, a, caddyhttp.HandlerFunc(func(http.ResponseWriter, *http.Request) error {
		t.Error("it was forwarded")
		return nil
	}))
	if err != nil || w.Code != http.StatusUnauthorized || len(w.Header()["Set-Cookie"]) != 0 {
		t.Errorf("got %v, status %d, %v", err, w.Code, w.Header())
	}
}

// endless is a file of any length. It tells when so much of it was read that
// who reads it must have begun to copy.
type endless struct {
	read int
	far  chan struct{}
}

func (e *endless) Read(p []byte) (int, error) {
	if e.read += len(p); e.far != nil && e.read > 2*copiedAtOnce {
		close(e.far)
		e.far = nil
	}
	return len(p), nil
}

// A82: who copies without looking is stopped, also where nothing blocks; and
// what was asked for is copied to the byte.
func TestA82CopiesEnd(t *testing.T) {
	for _, size := range []int64{0, 1, copiedAtOnce - 1, copiedAtOnce, copiedAtOnce + 1, 3 * copiedAtOnce} {
		for name, limited := range map[string]bool{"of a file": true, "of anything": false} {
			w := &responseWriter{wroteHeader: true}
			rec := httptest.NewRecorder()
			w.ResponseWriter = rec
			from := io.LimitReader(new(endless), size)
			if !limited {
				from = struct{ io.Reader }{from}
			}
			n, err := w.ReadFrom(from)
			if n != size || err != nil || int64(rec.Body.Len()) != size {
				t.Errorf("a copy %s: got %d of %d bytes, %v", name, n, size, err)
			}
		}
	}
	var l liveRequests
	w := &responseWriter{wroteHeader: true}
	w.ResponseWriter = discard{}
	w.live.route = admitting(anybody)
	w.live.hold(w.ResponseWriter, httptest.NewRequest(http.MethodGet, "/", nil))
	s := &session.Session{ID: "x"}
	l.enter(&w.live, s)
	copied, far := make(chan error), make(chan struct{})
	go func() { _, err := io.Copy(w, struct{ io.Reader }{&endless{far: far}}); copied <- err }()
	<-far
	l.endSession("x", errLoggedOut, nil)
	if err := <-copied; !errors.Is(err, errLoggedOut) {
		t.Errorf("got %v", err)
	}
}

type discard struct{}

func (discard) Header() http.Header         { return http.Header{} }
func (discard) WriteHeader(int)             {}
func (discard) Write(p []byte) (int, error) { return len(p), nil }

// A cut is repeated while the handler runs, for Caddy sets deadlines of its own
// at every read and write.
func TestA82CutsAreRepeated(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &deadlines{ResponseWriter: httptest.NewRecorder()}
		l := new(lifeline)
		r := httptest.NewRequest(http.MethodPost, "/", strings.NewReader("x"))
		l.hold(caddyWriter{w}, r)
		l.cut(errLoggedOut)
		if n, err := r.Body.Read(make([]byte, 1)); n != 0 || !errors.Is(err, errLoggedOut) {
			t.Errorf("the body still gives %d bytes, %v", n, err)
		}
		if w.reads != 1 || w.writes != 0 {
			t.Errorf("before the answer: %d read deadlines, %d write deadlines", w.reads, w.writes)
		}
		l.let()
		l = new(lifeline)
		l.hold(caddyWriter{w}, httptest.NewRequest(http.MethodPost, "/", strings.NewReader("x")))
		_ = l.answer()
		l.cut(errLoggedOut)
		time.Sleep(3*pressInterval - 1)
		synctest.Wait()
		l.let()
		if w.writes != 3 {
			t.Errorf("%d write deadlines, want 3", w.writes)
		}
	})
}

type deadlines struct {
	http.ResponseWriter
	reads, writes int
}

func (w *deadlines) SetReadDeadline(time.Time) error  { w.reads++; return nil }
func (w *deadlines) SetWriteDeadline(time.Time) error { w.writes++; return nil }

// caddyWriter is as Caddy's writers are whose write deadline only the handler
// may set.
type caddyWriter struct{ http.ResponseWriter }

func (w caddyWriter) Unwrap() http.ResponseWriter    { return w.ResponseWriter }
func (caddyWriter) SetWriteDeadline(time.Time) error { panic("set from elsewhere") }

// What is asked of the context, and when, makes no difference but in price.
func TestLiveContexts(t *testing.T) {
	type key struct{}
	ask := map[string]func(*liveContext){
		"never":                        func(*liveContext) {},
		"before":                       func(c *liveContext) { c.Done() },
		"by who derives from it":       func(c *liveContext) { _, cancel := context.WithCancel(c); t.Cleanup(cancel) },
		"by who only looks for values": func(c *liveContext) { c.Value(key{}) },
	}
	for name, asked := range ask {
		parent, cancel := context.WithCancel(context.WithValue(t.Context(), key{}, "value"))
		cut, gone := &liveContext{parent: parent}, &liveContext{parent: parent}
		asked(cut)
		asked(gone)
		if cut.Err() != nil || cut.Value(key{}) != "value" || context.Cause(cut) != nil {
			t.Errorf("%s: before: %v, %v", name, cut.Err(), cut.Value(key{}))
		}
		child, stop := context.WithCancel(cut)
		cut.end()
		<-cut.Done()
		<-child.Done()
		stop()
		if !errors.Is(cut.Err(), context.Canceled) || !errors.Is(context.Cause(cut), context.Canceled) || parent.Err() != nil || gone.Err() != nil {
			t.Errorf("%s: after a cut: %v, %v, parent %v, neighbour %v", name, cut.Err(), context.Cause(cut), parent.Err(), gone.Err())
		}
		cancel()
		<-gone.Done()
		if !errors.Is(gone.Err(), context.Canceled) {
			t.Errorf("%s: when the client is gone: %v", name, gone.Err())
		}
	}
}

// A82: what the sweeper ends, and what it lets go on.
func TestA82SessionsThatAreOver(t *testing.T) {
	h := newHandler(t, `{"inline":{"issuer":"https://op.test","client_id":"public","authorization":{"organizations":["org_1"]},"session":{"lifetime":"1h","idle":"30m"}}}`)
	p := h.party
	start := time.Now()
	set, err := claims.Parse([]byte(`{"org_id":"org_1"}`))
	if err != nil {
		t.Fatal(err)
	}
	member := &rp.Identity{Subject: "alice", Sources: []rp.SourcedClaims{{From: rp.FromIDToken, Claims: set}}}
	with := func(refresh string, change func(*session.Session)) *session.Session {
		s := session.New(&rp.Grant{AccessToken: rp.NewSecret("x"), RefreshToken: rp.NewSecret(refresh), Expiry: start.Add(10 * time.Minute)}, member, start)
		change(s)
		return s
	}
	same := func(*session.Session) {}
	stranger := with("r", func(s *session.Session) { s.Identity = rp.Identity{Subject: "alice"} })
	revoked := with("r", same)
	p.remember(t.Context(), revoked)
	refused := with("r", func(s *session.Session) { s.TokenExpiry = start.Add(time.Second) })
	_, _, err = p.shared.refresher.Fresh(t.Context(), refused, session.Refresh{
		Key: p.flightKey(refused), Now: start.Add(2 * time.Second),
		Do: func(context.Context, *session.Session) (*session.Session, error) { return nil, rp.ErrGrantOver },
	})
	if !errors.Is(err, session.ErrEnded) {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		name string
		s    *session.Session
		at   time.Duration
		want error
	}{
		{"young", with("r", same), time.Minute, nil},
		{"idle, whatever streams over it", with("r", same), 30 * time.Minute, session.ErrEnded},
		{"nearly idle, its token long dead: the next request refreshes it", with("r", same), 30*time.Minute - 1, nil},
		{"in use, past its lifetime", with("r", func(s *session.Session) { s.Seen = start.Add(50 * time.Minute) }), time.Hour, session.ErrEnded},
		{"as the provider says", with("r", func(s *session.Session) { s.Ends = start.Add(time.Minute) }), time.Minute, session.ErrEnded},
		{"its token alive, nothing to refresh it", with("", same), 10*time.Minute - 1, nil},
		{"its token dead, nothing to refresh it", with("", same), 10 * time.Minute, errTokenExpired},
		{"of another organization", stranger, time.Minute, errNoLonger},
		{"logged out", revoked, time.Minute, errLoggedOut},
		{"its refresh refused", refused, 2 * time.Second, errRefreshing},
	} {
		if got := p.overdue(tc.s, start.Add(tc.at)); !errors.Is(got, tc.want) || (got == nil) != (tc.want == nil) {
			t.Errorf("%s: got %v, want %v", tc.name, got, tc.want)
		}
	}
	renewed := *refused
	renewed.Generation++
	if p.shared.refresher.Over(p.flightKey(refused), &renewed) {
		t.Error("newer tokens were not refused")
	}
	p.policy.refresh = false
	if got := p.overdue(with("r", same), start.Add(11*time.Minute)); !errors.Is(got, errTokenExpired) {
		t.Errorf("with refresh off: got %v", got)
	}
}

// A82: the sweeper leaves young requests alone, and those of sessions that
// have become newer; a configuration that takes the place of another judges
// what is under way with that; and the sweeper of one that is gone goes on for
// as long as anything is.
func TestA82Sweeping(t *testing.T) {
	config := `{"inline":{"issuer":"https://op.test","client_id":"public","session":{"lifetime":"%"}}}`
	before, after := newHandler(t, strings.Replace(config, "%", "10h", 1)).party, newHandler(t, strings.Replace(config, "%", "1h", 1)).party
	if before.shared != after.shared {
		t.Fatal("the two share nothing")
	}
	synctest.Test(t, func(t *testing.T) {
		live := &before.shared.live
		s := &session.Session{ID: "x", Created: time.Now(), Seen: time.Now().Add(24 * time.Hour)}
		s.TokenExpiry = time.Now().Add(24 * time.Hour)
		enter := func(p *relyingParty) *liveRequest {
			r := &liveRequest{route: admitting(anybody), judge: p, began: time.Now()}
			r.hold(httptest.NewRecorder(), httptest.NewRequest(http.MethodGet, "/", nil))
			live.enter(r, s)
			return r
		}
		ctx, cancel := context.WithCancel(t.Context())
		swept := make(chan struct{})
		go func() { before.sweepRegularly(ctx); close(swept) }()
		time.Sleep(time.Hour)
		r := enter(before)
		after.sweep(time.Now().Add(time.Minute))
		if r.ended() != nil {
			t.Error("another configuration's request was judged")
		}
		before.app.stopped.Store(true)
		cancel()
		time.Sleep(time.Second)
		select {
		case <-swept:
			t.Error("the sweeper left before its requests")
		default:
		}
		after.sweep(time.Now())
		if !errors.Is(r.ended(), session.ErrEnded) {
			t.Error("the new limits do not hold for what the old configuration began")
		}
		<-swept
		live.leave(r)
		young := enter(after)
		after.sweep(time.Now().Add(sweepInterval))
		if young.ended() != nil {
			t.Error("a young request was looked at")
		}
		if n := live.endFor(after, &session.Session{ID: s.ID}, session.ErrEnded); n != 0 {
			t.Errorf("%d requests were cut by what an older copy says", n)
		}
		after.sweep(time.Now().Add(sweepInterval + 1))
		if young.ended() == nil {
			t.Error("a request goes on past its session")
		}
		live.leave(young)
		if n := liveSessions(live); n != 0 {
			t.Errorf("%d sessions stay behind", n)
		}
	})
}

// A82: once its handler has returned, nobody touches a request's writer.
func TestA82NothingIsTouchedAfterTheHandler(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &touchy{ResponseWriter: httptest.NewRecorder()}
		for _, early := range []bool{true, false} {
			w.over = false
			l := new(lifeline)
			l.hold(w, httptest.NewRequest(http.MethodPost, "/", strings.NewReader("x")))
			_ = l.answer()
			if early {
				l.cut(errLoggedOut)
			}
			if why, _ := l.let(); (why != nil) != early {
				t.Errorf("early: %v, got %v", early, why)
			}
			w.over = true
			l.cut(errLoggedOut)
			time.Sleep(3 * pressInterval) // it panics, if it is still pressed
			if !early && l.ended() != nil {
				t.Error("an answer that was whole was cut")
			}
		}
	})
}

// A82: a session that ends just as the answer's headers are looked at, which
// may take a moment: the answer does not begin.
func TestA82EndsAsTheAnswerBegins(t *testing.T) {
	h := newHandler(t, inlineProvider)
	r := newRequest(http.MethodGet, "https://app.test/page", http.Header{"Cookie": sessionCookies(t, h, "token")})
	a, _ := h.party.authState(r)
	var err error
	if a.session, err = h.party.load(r, a, true); err != nil {
		t.Fatal(err)
	}
	rec := httptest.NewRecorder()
	rw := &responseWriter{auth: a}
	rw.ResponseWriter = rec
	rw.own = func(string) bool { h.party.shared.live.endSession(a.session.ID, errLoggedOut, nil); return false }
	rw.live.route = h
	rw.live.hold(rec, r)
	h.party.shared.live.enter(&rw.live, a.session)
	rw.Header().Set("Set-Cookie", "theirs=x")
	rw.WriteHeader(http.StatusTeapot)
	if n, err := io.WriteString(rw, "secret"); n != 0 || !errors.Is(err, errLoggedOut) || rw.wroteHeader || rec.Code == http.StatusTeapot || rec.Body.Len() != 0 {
		t.Errorf("got %d bytes, %v, status %d", n, err, rec.Code)
	}
}
