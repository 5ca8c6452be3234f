package caddyauth

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"testing/iotest"
	"testing/synctest"
	"time"

	"github.com/pkce-auth/caddy-pkce-auth/caddyauth/internal/rp"
	"github.com/pkce-auth/caddy-pkce-auth/caddyauth/internal/sealed"
	"github.com/pkce-auth/caddy-pkce-auth/caddyauth/internal/session"
	"github.com/pkce-auth/caddy-pkce-auth/caddyauth/store"
)

// A form is kept where somebody without a session would be sent to the login,
// and nowhere else.
func TestDecideToKeep(t *testing.T) {
	for _, unauthorized := range []string{"", "auto", "redirect", "401", "pass"} {
		for _, bypassed := range []bool{true, false} {
			for _, kind := range []requestKind{background, prefetch} {
				f := facts{unauthorized: unauthorized, bypassed: bypassed, kind: kind, ended: new(session.Session)}
				want := !bypassed && kind != prefetch && unauthorized != "401" && unauthorized != "pass"
				if got := decide(f); (got == keep) != want {
					t.Errorf("%q, bypassed %v, kind %v: got %v", unauthorized, bypassed, kind, got)
				}
				if f.session, f.admitted = f.ended, true; decide(f) != forward {
					t.Error("with a session it is not forwarded")
				}
			}
		}
	}
}

// replaying makes a process of its own that keeps forms, and sessions in a
// store, or in cookies if that is nil.
func replaying(t testing.TB, s store.Store) *Handler {
	t.Helper()
	in := keptIn{sessions: s, revocations: s, every: time.Second}
	if s == nil {
		in = keptIn{revocations: new(store.Memory)}
	}
	h := newReplica(t, `{"lifetime":7200000000000,"idle":3600000000000}`, in)
	h.ReplayPosts = 10_000
	h.outliveSessions(h.party)
	return h
}

func formRequest(cookies []string, body io.Reader) *http.Request {
	r := newRequest(http.MethodPost, "https://app.test/form?x=1", http.Header{
		"Cookie": cookies, "Origin": {"https://app.test"}, "Referer": {"https://app.test/oauth2/replay"},
		"Sec-Fetch-Site": {"same-origin"}, "Sec-Fetch-Mode": {"navigate"}, "Sec-Fetch-Dest": {"document"},
		"Content-Type": {"application/x-www-form-urlencoded"},
	})
	r.Body = io.NopCloser(body)
	r.ContentLength = -1
	if s, ok := body.(*strings.Reader); ok {
		r.ContentLength = s.Size()
	}
	return r
}

// sendsForm sends a form, and gives the cookies that the browser has then.
func sendsForm(h *Handler, cookies []string, body string) (after []string, kept bool) {
	r := formRequest(cookies, strings.NewReader(body))
	a := h.enter(r)
	ended := h.endedBefore(r, a, facts{})
	if ended == nil {
		return cookies, false
	}
	w := httptest.NewRecorder()
	kept = h.keepPost(w, r, ended)
	return merge(cookies, w.Header()), kept
}

// A form counts for ten minutes after the session's end, whatever Max-Age the
// browser goes by; not before, and not after.
func TestReplayForTenMinutes(t *testing.T) {
	for name, tc := range map[string]struct {
		stored bool
		token  time.Duration
		ends   time.Duration
	}{
		"in a cookie, idle":                {false, 5 * time.Hour, time.Hour},
		"in a store, idle":                 {true, 5 * time.Hour, time.Hour},
		"in a cookie, no refresh token":    {false, 30 * time.Minute, 30 * time.Minute},
		"in a store, no refresh token":     {true, 30 * time.Minute, 30 * time.Minute},
		"in a cookie, its token came last": {false, 2 * time.Hour, time.Hour},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var s store.Store
				if tc.stored {
					s = new(store.Memory)
				}
				h := replaying(t, s)
				made := madeSession(time.Now())
				made.TokenExpiry = time.Now().Add(tc.token)
				_, cookies := finish(t, h.party, nil, made)
				for _, step := range []struct {
					after time.Duration
					kept  bool
				}{{tc.ends - time.Second, false}, {tc.ends, true}, {tc.ends + 10*time.Minute - time.Second, true}, {tc.ends + 10*time.Minute, false}} {
					time.Sleep(time.Until(made.Created.Add(step.after)))
					if _, kept := sendsForm(h, cookies, "a=b"); kept != step.kept {
						t.Errorf("%s after the login: kept is %v", step.after, kept)
					}
				}
			})
		})
	}
}

// Nobody's session keeps nothing: with no subject it could not be told afterwards
// who comes back. And nothing is kept where no route wants it.
func TestA90ReplayNeedsASubject(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := replaying(t, nil)
		nobodys := session.New(&rp.Grant{AccessToken: rp.NewSecret("a"), Expiry: time.Now().Add(time.Hour)}, &rp.Identity{}, time.Now())
		_, cookies := finish(t, h.party, nil, nobodys)
		_, alices := finish(t, h.party, nil, madeSession(time.Now()))
		time.Sleep(time.Hour)
		if _, kept := sendsForm(h, cookies, "a=b"); kept {
			t.Error("nobody's form is kept")
		}
		h.ReplayPosts = 0
		if _, kept := sendsForm(h, alices, "a=b"); kept {
			t.Error("a form is kept on a route that keeps none")
		}
	})
}

// clicks uses the button of the page, at a process: what goes upstream, and
// whether anything does.
func clicks(t *testing.T, h *Handler, cookies []string, s *session.Session) (upstream string, sent bool) {
	t.Helper()
	r := newRequest(http.MethodGet, "https://app.test/oauth2/replay", http.Header{
		"Cookie": cookies, "Sec-Fetch-Mode": {"navigate"}, "Sec-Fetch-Dest": {"document"},
	})
	w := httptest.NewRecorder()
	if err := h.party.serveReplay(w, r); err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(w.Body.String(), `name="pkce_auth_replay" value="`)
	token, _, shown := strings.Cut(rest, `"`)
	if !shown {
		return w.Result().Status, false
	}
	r = formRequest(cookies, strings.NewReader(replayField+"="+token))
	h.enter(r)
	w = httptest.NewRecorder()
	answered, err := h.resend(w, r, facts{session: s}, forward)
	if err != nil {
		t.Fatal(err)
	}
	body, _ := io.ReadAll(r.Body)
	if answered {
		return w.Result().Status, false
	}
	return string(body), true
}

// A form that one replica keeps is offered, and sent, by another: once by all of
// them. Where sessions are in cookies, that knows nothing of it, and says so.
func TestReplayAtAnotherReplica(t *testing.T) {
	for _, stored := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) {
			var s store.Store
			if stored {
				s = &lateStore{}
			}
			here, there := replaying(t, s), replaying(t, s)
			_, cookies := finish(t, here.party, nil, madeSession(time.Now()))
			time.Sleep(time.Hour)
			cookies, kept := sendsForm(here, cookies, "a=b")
			if !kept {
				t.Fatal("nothing is kept")
			}
			made := madeSession(time.Now())
			_, cookies = finish(t, there.party, cookies, made)
			if got, sent := clicks(t, there, cookies, made); sent != stored || stored && got != "a=b" || !stored && got != "410 Gone" {
				t.Errorf("stored %v: the other replica sent %q: %v", stored, got, sent)
			}
			if got, sent := clicks(t, here, cookies, made); sent == stored {
				t.Errorf("stored %v: this one sent %q afterwards: %v", stored, got, sent)
			}
		})
	}
}

// failingStore takes, or gives, no forms.
type failingStore struct {
	store.Memory
	load, save bool
}

var errDown = errors.New("down")

func (s *failingStore) Load(ctx context.Context, key string) (store.Record, error) {
	if s.load && strings.HasPrefix(key, "replay-") {
		return store.Record{}, errDown
	}
	return s.Memory.Load(ctx, key)
}

func (s *failingStore) Save(ctx context.Context, key string, r store.Record) error {
	if s.save && strings.HasPrefix(key, "replay-") {
		return errDown
	}
	return s.Memory.Save(ctx, key, r)
}

// A119: a store that takes no form keeps none, and the browser gets no ticket
// for it; one that does not say whether it has one, or cannot take it out, has
// nothing sent, and it is there when it is up again.
func TestA119ReplayWhenTheStoreIsDown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &failingStore{save: true}
		h := replaying(t, s)
		_, before := finish(t, h.party, nil, madeSession(time.Now()))
		time.Sleep(time.Hour)
		if after, kept := sendsForm(h, before, "a=b"); kept || !slices.Equal(before, after) {
			t.Errorf("kept: %v; cookies %q", kept, after)
		}
		s.save = false
		cookies, kept := sendsForm(h, before, "a=b")
		if !kept {
			t.Fatal("nothing is kept")
		}
		made := madeSession(time.Now())
		_, cookies = finish(t, h.party, cookies, made)
		for _, down := range []func(bool){func(is bool) { s.load = is }, func(is bool) { s.save = is }} {
			down(true)
			if got, sent := clicks(t, h, cookies, made); sent || !strings.HasPrefix(got, "503") {
				t.Errorf("sent %v, %q", sent, got)
			}
			down(false)
		}
		if got, sent := clicks(t, h, cookies, made); !sent || got != "a=b" {
			t.Errorf("in the end: sent %v, %q", sent, got)
		}
	})
}

// What is kept says nothing to who reads the memory or the store, and nothing to
// who has the cookie alone; one session has one form.
func TestKeptFormsAreSealed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &recordingStore{}
		h := replaying(t, s)
		_, cookies := finish(t, h.party, nil, madeSession(time.Now()))
		time.Sleep(time.Hour)
		s.saved = map[string][]byte{}
		first, _ := sendsForm(h, cookies, "first=secret")
		second, _ := sendsForm(h, cookies, "second=secret")
		if len(s.saved) != 1 {
			t.Errorf("%d records for one session", len(s.saved))
		}
		for key, value := range s.saved {
			if !strings.HasPrefix(key, "replay-") || strings.Contains(string(value), "secret") || strings.Contains(string(value), "/form") {
				t.Errorf("the store holds %s %q", key, value)
			}
		}
		at := origin{"https", "app.test"}
		if _, err := h.party.findKept(t.Context(), first, at); !errors.Is(err, errKeptGone) {
			t.Errorf("the first ticket opens the second form: %v", err)
		}
		if found, err := h.party.findKept(t.Context(), second, at); err != nil || string(found.body) != "second=secret" {
			t.Errorf("got %v", err)
		}
		if _, err := h.party.findKept(t.Context(), second, origin{"https", "www.test"}); !errors.Is(err, errKeptGone) {
			t.Errorf("another origin: %v", err)
		}
		if other, err := h.party.ticketOf([]string{strings.ReplaceAll(second[0], "pkce_auth.r=", "pkce_auth.r=A")}, true); err == nil {
			t.Errorf("a forged ticket opens: %v", other)
		}
		time.Sleep(keptFor)
		if _, err := h.party.findKept(t.Context(), second, at); !errors.Is(err, errKeptGone) {
			t.Errorf("after %s: %v", keptFor, err)
		}
	})
}

type recordingStore struct {
	store.Memory
	saved map[string][]byte
}

func (s *recordingStore) Save(ctx context.Context, key string, r store.Record) error {
	if s.saved != nil {
		s.saved[key] = slices.Clone(r.Value)
	}
	return s.Memory.Save(ctx, key, r)
}

// A104: what is read at a time is bounded, of one session and of all; what breaks
// off, or is too long, is let go.
func TestA104ReadingFormsIsBounded(t *testing.T) {
	var posts keptPosts
	read := func(id string, body io.Reader) ([]byte, func(), error) {
		return posts.read(formRequest(nil, body), 40<<20, id)
	}
	var ends []func()
	for range maxReading {
		_, end, err := read("a", strings.NewReader("x"))
		if err != nil {
			t.Fatal(err)
		}
		ends = append(ends, end)
	}
	if _, end, err := read("a", strings.NewReader("x")); !errors.Is(err, errNotKept) {
		t.Errorf("one too many of a session: %v", err)
	} else {
		end()
	}
	body, end, err := read("b", strings.NewReader(strings.Repeat("x", 40<<20)))
	if err != nil || len(body) != 40<<20 {
		t.Fatalf("as long as it may be: %v", err)
	}
	if _, end, err := read("c", strings.NewReader(strings.Repeat("x", 40<<20))); !errors.Is(err, errNotKept) {
		t.Errorf("more than there is room for: %v", err)
	} else {
		end()
	}
	end()
	if _, end, err := read("c", strings.NewReader(strings.Repeat("x", 40<<20+1))); !errors.Is(err, errNotKept) {
		t.Errorf("too long: %v", err)
	} else {
		end()
	}
	if _, end, err := read("c", io.MultiReader(strings.NewReader("x"), iotest.ErrReader(io.ErrUnexpectedEOF))); !errors.Is(err, errNotKept) {
		t.Errorf("broken off: %v", err)
	} else {
		end()
	}
	for _, end := range ends {
		end()
	}
	if posts.size != 0 || len(posts.reading) != 0 {
		t.Errorf("%d bytes and %d sessions are left", posts.size, len(posts.reading))
	}
}

// A104: of more forms than there is room for, the oldest go, in the memory of
// this process as in a store that has no bound of its own.
func TestA104KeptFormsAreBounded(t *testing.T) {
	for _, stored := range []bool{true, false} {
		var s store.Store
		if stored {
			s = &lateStore{}
		}
		h := replaying(t, s)
		value := make([]byte, 1<<20)
		const count = maxKeptSize>>20 + 10
		name := func(i int) string { return fmt.Sprintf("replay-%d", i) }
		for i := range count {
			if err := h.party.putKept(t.Context(), name(i), value, time.Now().Add(time.Hour)); err != nil {
				t.Fatal(err)
			}
		}
		left := 0
		for i := range count {
			if _, err := h.party.sessions.posts.Load(t.Context(), name(i)); err == nil {
				left++
			}
		}
		_, err := h.party.sessions.posts.Load(t.Context(), name(count-1))
		if left > maxKeptSize>>20 || left < maxKeptSize>>20-2 || err != nil {
			t.Errorf("stored %v: %d are left; the newest: %v", stored, left, err)
		}
	}
	var l keptLedger
	for i := range maxKeptEntries + 1 {
		l.enter(fmt.Sprint(i), 1, time.Now(), time.Now().Add(time.Hour))
	}
	if len(l.entries) != maxKeptEntries {
		t.Errorf("%d entries", len(l.entries))
	}
	if drop := l.enter("later", 1, time.Now().Add(2*time.Hour), time.Now().Add(3*time.Hour)); len(drop) != 0 || len(l.entries) != 1 || l.size != 1 {
		t.Errorf("what has expired is dropped: %d; %d are left", len(drop), len(l.entries))
	}
}

// FuzzKeptPost: what is kept reads as it was written, or not at all.
func FuzzKeptPost(f *testing.F) {
	r := formRequest(nil, strings.NewReader("a=b"))
	f.Add(newKeptPost(r, origin{"https", "app.test"}, "alice", []byte("a=b"), time.Now()).encode())
	f.Add([]byte{})
	f.Add([]byte{1, 2, 3})
	f.Fuzz(func(t *testing.T, data []byte) {
		post, err := decodeKeptPost(data)
		if err != nil {
			if !errors.Is(err, sealed.ErrRecord) {
				t.Errorf("%x: %v", data, err)
			}
			return
		}
		again, err := decodeKeptPost(post.encode())
		if err != nil || again.uri != post.uri || again.subject != post.subject || string(again.body) != string(post.body) || !again.at.Equal(post.at) {
			t.Errorf("%x reads as %+v, and then as %+v: %v", data, post, again, err)
		}
		if post.subject == "" || post.uri[0] != '/' {
			t.Errorf("%x: nobody's, or nowhere's: %+v", data, post)
		}
	})
}

// FuzzReplayForm: whatever form a request brings, it is either the one on our
// page, which never goes anywhere, or it stays as it was, to the last byte.
func FuzzReplayForm(f *testing.F) {
	h := replaying(f, nil)
	f.Add("a=b", "application/x-www-form-urlencoded", "pkce_auth.r=x", "https://app.test/oauth2/replay")
	f.Add(replayField+"=token", "application/x-www-form-urlencoded", "", "https://app.test/oauth2/replay")
	f.Add(replayField+"=token", "text/plain", "__Host-Http-pkce_auth.r=x", "")
	f.Add(strings.Repeat("x", 2*maxReplayForm), "application/x-www-form-urlencoded", "", "")
	f.Fuzz(func(t *testing.T, body, contentType, cookie, referer string) {
		r := formRequest([]string{cookie}, strings.NewReader(body))
		r.Header.Set("Content-Type", contentType)
		r.Header.Set("Referer", referer)
		h.enter(r)
		token, ours := h.party.replayForm(r)
		if ours {
			if body != replayField+"="+token {
				t.Errorf("%q is taken for our form", body)
			}
			return
		}
		if left, err := io.ReadAll(r.Body); err != nil || string(left) != body {
			t.Errorf("%q became %q: %v", body, left, err)
		}
	})
}

// A body that says it is too long is not read at all: a browser that waits for
// "100 Continue" does not send it.
func TestA104TooLongFormsAreNotRead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := replaying(t, nil)
		_, cookies := finish(t, h.party, nil, madeSession(time.Now()))
		time.Sleep(time.Hour)
		for length, want := range map[int64]bool{h.ReplayPosts: true, h.ReplayPosts + 1: false} {
			r := formRequest(cookies, iotest.ErrReader(errDown))
			r.ContentLength = length
			if ended := h.endedBefore(r, h.enter(r), facts{}); (ended != nil) != want {
				t.Errorf("%d bytes: would be read: %v", length, ended != nil)
			}
		}
	})
}
