package caddyauth

import (
	"strconv"
	"testing"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/pkce-auth/caddy-pkce-auth/caddyauth/store"
)

// A118: who logs in, or out, often enough drives others out of bounded memory.
// An operator hears of it: once a minute, and with what to do.
func TestA118FullMemoryIsSaid(t *testing.T) {
	p := newHandler(t, inlineProvider).party
	core, logs := observer.New(zap.WarnLevel)
	p.shared, p.logger = new(shared), zap.New(core)
	p.shared.memory.Limit = 4 << 10
	now := time.Now()
	p.sweep(now)
	if n := logs.Len(); n != 0 {
		t.Errorf("%d lines, and nothing is full", n)
	}
	name := 0
	for minute := range 3 {
		for range 100_010 {
			name++
			p.shared.revoked.Mark(strconv.Itoa(name), now, now.Add(time.Hour))
		}
		for range 20 {
			name++
			if err := p.shared.memory.Save(t.Context(), strconv.Itoa(name), store.Record{Version: 1, Expires: now.Add(time.Hour)}); err != nil {
				t.Fatal(err)
			}
		}
		for range 10 {
			now = now.Add(sweepInterval)
			p.sweep(now)
		}
		lines := logs.TakeAll()
		if len(lines) != 2 {
			t.Fatalf("minute %d: %d lines, want one for each memory: %v", minute, len(lines), lines)
		}
		for _, line := range lines {
			if line.ContextMap()["hint"] == nil || line.ContextMap()["sessions"] == uint64(0) {
				t.Errorf("minute %d: %s %v", minute, line.Message, line.ContextMap())
			}
		}
		now = now.Add(time.Minute)
	}
}

// T9: what is known of sessions outlives a reload that writes a default down, or
// the same in another way, and is not taken for that of another store.
func TestT9SharedStateOutlivesRewording(t *testing.T) {
	config := func(session string) *shared {
		return newHandler(t, `{"inline":{"issuer":"https://op.test","client_id":"public"`+session+`}}`).party.shared
	}
	none := config("")
	for text, same := range map[string]bool{
		`,"session":{}`:                                                          true,
		`,"session":{"store":{"kind":"cookie"}}`:                                 true,
		`,"session":{"store":{ "kind" : "cookie" }}`:                             true,
		`,"session":{"store":{"kind":"cookie","revocations":{"kind":"memory"}}}`: false,
		`,"session":{"store":{"kind":"memory"}}`:                                 false,
	} {
		if got := config(text); (got == none) != same {
			t.Errorf("%s: the same: %v", text, got == none)
		}
	}
	if config(`,"session":{"store":{"kind":"memory"}}`) != config(`,"session":{"store":{"kind": "memory"}}`) {
		t.Error("a space makes a difference")
	}
}
