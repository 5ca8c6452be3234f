package caddyauth

import (
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pkce-auth/caddy-pkce-auth/caddyauth/internal/rp"
	"github.com/pkce-auth/caddy-pkce-auth/caddyauth/internal/session"
)

// What is remembered lasts until its time is up, to the nanosecond, and who
// remembers it again hears that it was known: for a refusal is logged once.
func TestRefusalsExpire(t *testing.T) {
	var r refusals
	began := time.Unix(1_800_000_000, 0)
	at := began.Add
	if r.has("a", began) {
		t.Error("the empty memory has something")
	}
	if !r.note("a", began, at(time.Minute)) || r.note("a", at(time.Second), at(time.Minute)) {
		t.Error("it is new once")
	}
	if !r.has("a", at(time.Minute-1)) || r.has("a", at(time.Minute)) || r.has("b", began) {
		t.Error("it does not last for a minute, or is another's")
	}
	if !r.note("a", at(time.Minute), at(2*time.Minute)) {
		t.Error("after its time it is new again")
	}
	// The latest word counts, be it that it ends earlier.
	r.note("a", at(time.Minute), at(time.Minute+time.Second))
	if r.has("a", at(time.Minute+time.Second)) {
		t.Error("it lasts for longer than was said last")
	}
	// What is over makes room, and leaves nothing behind.
	for n := range 10 {
		r.note(fmt.Sprint(n), at(time.Hour), at(2*time.Hour))
	}
	r.note("last", at(3*time.Hour), at(4*time.Hour))
	if len(r.entries) != 1 || len(r.order) != 1 || !r.has("last", at(3*time.Hour)) {
		t.Errorf("%d entries are left, %d in order", len(r.entries), len(r.order))
	}
	// What has never been good is not kept.
	if r.note("past", at(5*time.Hour), at(5*time.Hour)); r.has("past", at(5*time.Hour)) || len(r.entries) != 0 || len(r.order) != 0 {
		t.Errorf("%d entries are left, %d in order", len(r.entries), len(r.order))
	}
}

// Whoever makes up targets or sessions fills no memory: the oldest goes
// first, and what is remembered again and again takes one place.
func TestRefusalsAreBounded(t *testing.T) {
	var r refusals
	now := time.Unix(1_800_000_000, 0)
	until := now.Add(time.Hour)
	for range 2 * maxRecent {
		r.note("again", now, until)
	}
	if len(r.entries) != 1 || len(r.order) != 1 {
		t.Errorf("one thing is there %d times", len(r.order))
	}
	for n := range maxRecent - 1 {
		r.note(fmt.Sprint(n), now, until)
	}
	if !r.has("again", now) || len(r.entries) != maxRecent {
		t.Errorf("%d fit", len(r.entries))
	}
	r.note("one more", now, until)
	if r.has("again", now) || !r.has("0", now) || !r.has("one more", now) {
		t.Error("not the oldest went")
	}
	for n := range 3 * maxRecent {
		r.note(fmt.Sprint("more", n), now, until)
		if len(r.entries) > maxRecent || len(r.entries) != len(r.order) {
			t.Fatalf("%d entries, %d in order", len(r.entries), len(r.order))
		}
	}
	if r.has("one more", now) || r.has(fmt.Sprint("more", 2*maxRecent-1), now) || !r.has(fmt.Sprint("more", 2*maxRecent), now) {
		t.Error("not the newest are left")
	}
}

// A74: a token that waits for its session is handed out once, to whoever
// comes for that session; and after a minute to nobody.
func TestA74ParkedTokensAreTakenOnce(t *testing.T) {
	var p parked
	now := time.Unix(1_800_000_000, 0)
	token := func(key string) *gotToken {
		return &gotToken{token: session.NewFurther(key, &rp.Grant{AccessToken: rp.NewSecret("for-" + key), Expiry: now.Add(time.Hour)}, now)}
	}
	one, two := token("a"), token("b")
	if p.take("session-a", now) != nil {
		t.Error("there is one before any came")
	}
	p.put("session-a", one, now)
	p.put("session-b", two, now)
	if p.take("other-a", now) != nil || p.take("session-", now) != nil {
		t.Error("another session gets it")
	}
	if p.take("session-a", now.Add(parkedTime-1)) != one || p.take("session-a", now) != nil {
		t.Error("it is not taken once")
	}
	if p.take("session-b", now.Add(parkedTime)) != nil || p.take("session-b", now) != two {
		t.Error("it does not wait for a minute")
	}
	again := token("a")
	p.put("session-a", again, now)
	if p.take("session-a", now) != again {
		t.Error("what came after one was taken is lost")
	}
	// What was taken leaves its place when that is reached, and holds up nobody.
	p.put("late", one, now)
	if len(p.entries) != 1 || len(p.order) != 1 {
		t.Errorf("%d entries are left, %d in order", len(p.entries), len(p.order))
	}
	newest := token("a")
	p.put("late", newest, now)
	if p.take("late", now) != newest {
		t.Error("the older of two for one session is taken")
	}

	// Of many requests that come at once, one gets it.
	p.put("session-c", one, now)
	var got atomic.Int32
	var wg sync.WaitGroup
	for range 50 {
		wg.Go(func() {
			if p.take("session-c", now) != nil {
				got.Add(1)
			}
		})
	}
	wg.Wait()
	if got.Load() != 1 {
		t.Errorf("%d requests got it", got.Load())
	}
}
