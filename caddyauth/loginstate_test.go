package caddyauth

import (
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pkce-auth/caddy-pkce-auth/caddyauth/internal/sealed"
)

func loginStateOf(t testing.TB, p *relyingParty, returnTo string, now time.Time) (s *loginState, param string, cookies []string) {
	t.Helper()
	s = newLoginState(returnTo, 0, now)
	param, err := p.logins.param(s)
	if err != nil {
		t.Fatal(err)
	}
	h := http.Header{}
	if err := p.logins.write(h, s, p.site.https, true, nil); err != nil {
		t.Fatal(err)
	}
	c := (&http.Response{Header: h}).Cookies()[0]
	return s, param, []string{c.Name + "=" + c.Value}
}

func TestLoginStateRoundTrip(t *testing.T) {
	p := newHandler(t, inlineProvider).party
	now := time.Now()
	for _, returnTo := range []string{"/", "/page?x=1", "/" + strings.Repeat("x", 2000)} {
		want, param, cookies := loginStateOf(t, p, returnTo, now)
		got, err := p.logins.open(parseStateParam(param))
		if err != nil {
			t.Fatal(err)
		}
		if len(returnTo) <= maxReturnToInState && got.returnTo != returnTo {
			t.Errorf("without the cookie: got %q", got.returnTo)
		}
		if len(param) > 500 {
			t.Errorf("state has %d characters", len(param))
		}
		if err := p.logins.complete(got, p.site.https.login, cookies, now); err != nil {
			t.Fatal(err)
		}
		if got.returnTo != returnTo || got.tx.Verifier.Reveal() != want.tx.Verifier.Reveal() || got.tx.Nonce.Reveal() != want.tx.Nonce.Reveal() {
			t.Errorf("got %+v, want %+v", got, want)
		}
	}
}

// A41, A43, A46, A52, A64, R07, R08: a login state opens only with its own
// two halves, in time, at its own provider.
func TestLoginStateA41A43A52A64R08IsBound(t *testing.T) {
	p := newHandler(t, inlineProvider).party
	other := newHandler(t, `{"inline":{"issuer":"https://op.test","client_id":"other"}}`).party
	now := time.Now()
	mine, param, cookies := loginStateOf(t, p, "/mine", now)
	_, otherParam, otherCookies := loginStateOf(t, p, "/other", now)
	complete := func(party *relyingParty, param string, cookies []string, at time.Time) error {
		s, err := party.logins.open(parseStateParam(param))
		if err != nil {
			return err
		}
		return party.logins.complete(s, party.site.https.login, cookies, at)
	}
	if err := complete(p, param, cookies, now.Add(loginStateLifetime-2*time.Second)); err != nil {
		t.Errorf("in time: %v", err)
	}
	name := mine.cookieName(p.site.https.login)
	renamed := []string{name + strings.TrimLeft(otherCookies[0], "_-.abcdefghijklmnopqrstuvwxyzH0123456789")}
	for what, err := range map[string]error{
		"A43 ten minutes later":             complete(p, param, cookies, now.Add(loginStateLifetime)),
		"A41 without the cookie":            complete(p, param, nil, now),
		"A41 with another login's cookie":   complete(p, param, otherCookies, now),
		"R08 with another's value, renamed": complete(p, param, renamed, now),
		"R08 another's state":               complete(p, otherParam, cookies, now),
		"A52 at another provider":           complete(other, param, cookies, now),
		"truncated":                         complete(p, param[:len(param)-1], cookies, now),
		"empty":                             complete(p, "", cookies, now),
	} {
		if !errors.Is(err, errStateGone) && !errors.Is(err, sealed.ErrOpen) {
			t.Errorf("%s: got %v", what, err)
		}
	}
	if strings.Contains(cookies[0], mine.tx.Verifier.Reveal()) || strings.Contains(param, mine.tx.Verifier.Reveal()) {
		t.Error("A46: the verifier can be read")
	}
}

// What stands in front of the seal ends a loop, and gives nobody anything.
func TestStateParamAttempt(t *testing.T) {
	p := newHandler(t, inlineProvider).party
	for attempt, want := range map[int]int{0: 0, 1: 1, 9: 9, 40: 9} {
		s := newLoginState("/", attempt, time.Now())
		param, err := p.logins.param(s)
		if err != nil {
			t.Fatal(err)
		}
		if got := parseStateParam(param); got.attempt != want || got.tag != p.logins.tag {
			t.Errorf("%d: got %+v", attempt, got)
		}
	}
	for _, text := range []string{"", ".", "x", "x.y", "-1.x", "é.x"} {
		if got := parseStateParam(text); got.attempt != 0 {
			t.Errorf("%q: got %+v", text, got)
		}
	}
}

// A76: the budgets of login states, and which go first.
func TestLoginStatesA76Budgets(t *testing.T) {
	p := newHandler(t, inlineProvider).party
	now := time.Unix(1_800_000_000, 0)
	names := p.site.https
	var pairs []string
	cookie := func(age time.Duration, size int) string {
		s := newLoginState("/", 0, now.Add(-age))
		name := s.cookieName(names.login)
		pairs = append(pairs, name+"="+strings.Repeat("v", size))
		return name
	}
	deleted := func(returnTo string) (dropped []string, size int) {
		h := http.Header{}
		s := newLoginState(returnTo, 0, now)
		if err := p.logins.write(h, s, names, true, []string{strings.Join(pairs, "; ")}); err != nil {
			t.Fatal(err)
		}
		for _, c := range (&http.Response{Header: h}).Cookies() {
			if c.MaxAge < 0 {
				dropped = append(dropped, c.Name)
			} else {
				size += len(c.Name) + len(c.Value)
			}
		}
		return dropped, size
	}
	var all []string
	for i := range 11 {
		all = append(all, cookie(time.Duration(11-i)*time.Second, 200))
	}
	if got, _ := deleted("/"); len(got) != 0 {
		t.Errorf("eleven small ones and a new one: dropped %q", got)
	}
	all = append(all, cookie(0, 200))
	if got, _ := deleted("/"); !slices.Equal(got, all[:1]) {
		t.Errorf("twelve and a new one: dropped %q, want the oldest, %q", got, all[:1])
	}
	planted := cookie(-time.Hour, 200)
	if got, _ := deleted("/"); len(got) != 2 || got[0] != planted {
		t.Errorf("one from the future: dropped %q, want it first: %q", got, planted)
	}
	if got, size := deleted("/" + strings.Repeat("x", 2000)); size < 2700 || len(got) < 8 {
		t.Errorf("a large new one: %d bytes, dropped %d", size, len(got))
	}
	pairs = nil
	keep := cookie(time.Second, 300)
	pairs = append(pairs, names.session+"="+strings.Repeat("s", 4000), names.session+".1="+strings.Repeat("s", 3700))
	if got, _ := deleted("/"); !slices.Equal(got, []string{keep}) {
		t.Errorf("beside a large session: dropped %q, want %q", got, keep)
	}
}

// A72 of its own kind: a used state is used, whoever comes; who comes at the
// same time shares the outcome; and nobody waits for ever.
func TestCallbackFlights(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var c callbacks
		f, first := c.begin("state", time.Now())
		if !first {
			t.Fatal("not the first")
		}
		again, first := c.begin("state", time.Now())
		if first || again != f {
			t.Fatal("a state was used twice")
		}
		go f.run(func() *outcome {
			time.Sleep(time.Second)
			return &outcome{failure: failure{reason: reasonDenied}}
		})
		if o := again.wait(t.Context()); o == nil || o.failure.reason != reasonDenied {
			t.Errorf("got %+v", o)
		}
		time.Sleep(outcomeLifetime)
		synctest.Wait()
		if o := again.wait(t.Context()); o != nil {
			t.Errorf("after a while: got %+v", o)
		}
		if _, first := c.begin("state", time.Now()); first {
			t.Error("the state can be used again")
		}
		f, _ = c.begin("panic", time.Now())
		func() {
			defer func() { _ = recover() }()
			f.run(func() *outcome { panic("x") })
		}()
		if o := f.wait(t.Context()); o == nil || o.session != nil || o.failure.reason != reasonInternal {
			t.Errorf("after a panic: got %+v", o)
		}
		time.Sleep(outcomeLifetime) // for the timers to end with the test
	})
}

// A104, promise 5: used states do not pile up.
func TestCallbackFlightsAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var c callbacks
		for i := range 3 * maxCallbacks {
			c.begin(fmt.Sprint(i), time.Now())
			if len(c.used) > maxCallbacks || len(c.order) != len(c.used) {
				t.Fatalf("after %d: %d and %d", i, len(c.used), len(c.order))
			}
		}
		time.Sleep(loginStateLifetime + time.Second)
		c.begin("late", time.Now())
		if len(c.used) != 1 {
			t.Errorf("%d states are remembered beyond their lifetime", len(c.used))
		}
	})
}
