package flows

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/pkce-auth/caddy-pkce-auth/test/provider"
)

// A13, A16: forward_token none sends nothing of ours, and leaves the client's own
// Authorization alone, on a bypassed path, too. On every other route it is taken
// away, with a session or without. The attack: a header that the upstream takes
// for our word.
func TestA13A16ForwardTokenNone(t *testing.T) {
	w := newWorld(t)
	u := w.ofAPIs("", forA, forB)
	b := w.browser()
	b.login(w, "/")
	for _, tc := range []struct {
		path string
		at   *upstream
		with bool // a session
		want string
	}{
		{"/none/1", u.none, true, "Basic own"},
		{"/none/public", u.none, false, "Basic own"},
		{"/public", w.upstream, false, ""},
		{"/public", w.upstream, true, "Bearer"},
		{"/", w.upstream, true, "Bearer"},
	} {
		from := b
		if !tc.with {
			from = w.browser()
		}
		header := fetched.Clone()
		header.Set("Authorization", "Basic own")
		if a := from.do(http.MethodGet, w.site+tc.path, header, ""); a.StatusCode != http.StatusOK {
			t.Errorf("%s: got status %d: %.300s", tc.path, a.StatusCode, a.body)
			continue
		}
		got := tc.at.last(t).Header["Authorization"]
		if tc.want == "" && got != nil || tc.want != "" && (len(got) != 1 || !strings.HasPrefix(got[0], tc.want)) {
			t.Errorf("%s: the upstream got %.20q, want %q", tc.path, got, tc.want)
		}
	}
	header := fetched.Clone()
	header.Set("Authorization", "Basic own")
	if a := w.browser().do(http.MethodGet, w.site+"/none/1", header, ""); a.StatusCode != http.StatusUnauthorized {
		t.Errorf("without a session: got status %d", a.StatusCode)
	}
	if a := b.fetch(w.site + "/none/1"); a.StatusCode != http.StatusOK || u.none.last(t).Header["Authorization"] != nil {
		t.Errorf("without an Authorization of its own: got status %d, and %.20q", a.StatusCode, u.none.last(t).Header["Authorization"])
	}
}

// A13: two handlers on one path, of which the inner one sends nothing: what the
// outer one has set does not go on; nor does the client's own where the inner one
// sends ours, or would.
func TestA13ForwardTokenNoneAndAnother(t *testing.T) {
	w := newWorld(t)
	w.caddy(`
	pkce_auth {
		issuer $OP
		client_id public
	}
	---
	route /in/* {
		pkce_auth
		pkce_auth {
			forward_token none
		}
		reverse_proxy $UPSTREAM
	}
	route /out/* {
		pkce_auth {
			forward_token none
			bypass /out/public
		}
		pkce_auth {
			bypass /out/public
		}
		reverse_proxy $UPSTREAM
	}
	pkce_auth /oauth2/*
	`)
	b := w.browser()
	header := fetched.Clone()
	header.Set("Authorization", "Basic own")
	if a := b.do(http.MethodGet, w.site+"/out/public", header, ""); a.StatusCode != http.StatusOK || w.upstream.last(t).Header["Authorization"] != nil {
		t.Errorf("/out/public: got status %d, and the upstream %.10q", a.StatusCode, w.upstream.last(t).Header["Authorization"])
	}
	b.login(w, "/in/1")
	for path, want := range map[string]string{"/in/1": "", "/out/1": "Bearer "} {
		a := b.do(http.MethodGet, w.site+path, header, "")
		got := w.upstream.last(t).Header.Get("Authorization")
		if a.StatusCode != http.StatusOK || want == "" && got != "" || !strings.HasPrefix(got, want) || strings.HasPrefix(got, "Basic") {
			t.Errorf("%s: got status %d, and the upstream %.10q", path, a.StatusCode, got)
		}
	}
}

// expiringIn has ID tokens end so many seconds after the one in which they are
// made.
func expiringIn(seconds int64) func(header, claims map[string]any) {
	return func(_, claims map[string]any) { claims["exp"] = time.Now().Unix() + seconds }
}

// An ID token that goes upstream is one that has not expired: it is refreshed
// when it is due, in every store; in a cookie, where else the ID token is kept for
// the logout only, it is in the session.
func TestForwardTokenIDRefreshed(t *testing.T) {
	inEveryStore(t, func(w *world) {
		u := w.ofAPIs("", forA, forB)
		b := w.browser()
		w.op.Misbehave(provider.Faults{IDToken: expiringIn(3)})
		b.open(w.site + "/id/1")
		first := u.id.last(t).Header.Get("Authorization")
		u.id.only(t, "public", 1)
		time.Sleep(time.Until(time.Now().Truncate(time.Second).Add(4 * time.Second)))
		w.op.Misbehave(provider.Faults{})
		if a := b.fetch(w.site + "/id/2"); a.StatusCode != http.StatusOK {
			t.Fatalf("got status %d: %.300s", a.StatusCode, a.body)
		}
		second := u.id.last(t).Header.Get("Authorization")
		if second == first || len(w.refreshes()) != 1 {
			t.Errorf("the same ID token: %v; %d refreshes", second == first, len(w.refreshes()))
		}
		if a := b.fetch(w.site + "/id/3"); a.StatusCode != http.StatusOK || u.id.last(t).Header.Get("Authorization") != second {
			t.Errorf("got status %d, and another ID token", a.StatusCode)
		}
		header := navigation.Clone()
		header.Set("Sec-Fetch-Site", "same-origin")
		a := b.do(http.MethodPost, w.site+"/oauth2/logout", header, "")
		if hint := query(t, a.Header.Get("Location")).Get("id_token_hint"); "Bearer "+hint != second {
			t.Error("the logout's hint is not the ID token of the session")
		}
	})
}

// A provider that gives no ID token with a refresh (FusionAuth, and others): an
// expired one is never sent. A script gets 401; a navigation goes to one new login,
// of which the user sees nothing.
func TestForwardTokenIDWithoutRefresh(t *testing.T) {
	inEveryStore(t, func(w *world) {
		u := w.ofAPIs("", forA, forB)
		b := w.browser()
		none := func(doc map[string]any) { delete(doc, "id_token") }
		w.op.Misbehave(provider.Faults{IDToken: expiringIn(3), RefreshResponse: none})
		b.open(w.site + "/id/1")
		time.Sleep(time.Until(time.Now().Truncate(time.Second).Add(4 * time.Second)))
		w.op.Misbehave(provider.Faults{RefreshResponse: none})
		count := u.id.count()
		for range 2 {
			if a := b.fetch(w.site + "/id/2"); a.StatusCode != http.StatusUnauthorized || u.id.count() != count {
				t.Fatalf("a script: got status %d: %.300s", a.StatusCode, a.body)
			}
		}
		if got := len(w.refreshes()); got != 1 {
			t.Errorf("%d refreshes, want 1", got)
		}
		if a := b.fetch(w.site + "/"); a.StatusCode != http.StatusOK {
			t.Errorf("another route: got status %d", a.StatusCode)
		}
		toProvider := b.visit(w.site + "/id/3").location(t)
		if q := query(t, toProvider); q.Get("prompt") != "none" || q.Get("audience") != "https://main.test" {
			t.Fatalf("a navigation: got %q", toProvider)
		}
		if a := b.open(toProvider); a.StatusCode != http.StatusOK || a.body != "upstream /id/3" {
			t.Errorf("got status %d: %.300s", a.StatusCode, a.body)
		}
		u.id.only(t, "public", 2)
	})
}

// An ID token that is dead when it comes leads to a page, not round in circles.
func TestForwardTokenIDStillborn(t *testing.T) {
	w := newWorld(t)
	w.ofAPIs("", forA, forB)
	b := w.browser()
	w.op.Misbehave(provider.Faults{IDToken: expiringIn(0), RefreshResponse: func(doc map[string]any) { delete(doc, "id_token") }})
	if a := b.open(w.site + "/id/1"); a.StatusCode != http.StatusBadGateway || strings.Contains(a.body, "token") {
		t.Errorf("got status %d: %.600s", a.StatusCode, a.body)
	}
	w.logged("token_unavailable", "its ID token has expired", "hint")
	if got := len(w.op.Requests("authorize")); got != 1 {
		t.Errorf("%d authorizations", got)
	}
}
