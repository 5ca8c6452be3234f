package caddyauth

import (
	"context"
	"testing"
	"testing/synctest"
	"time"
)

// T9: the end of the process waits for what is under way, for what joins it
// meanwhile, and not for ever.
func TestT9TallyWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var under tally
		under.wait(t.Context()) // for nothing
		first := under.begin()
		began := time.Now()
		go func() {
			time.Sleep(time.Second)
			second := under.begin()
			first()
			time.Sleep(time.Second)
			second()
		}()
		go under.wait(t.Context())
		under.wait(t.Context())
		if got := time.Since(began); got != 2*time.Second {
			t.Errorf("it waited for %s, want 2 s", got)
		}
		under.begin() // and never ends
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		under.wait(ctx)
		if got := time.Since(began); got != time.Minute+2*time.Second {
			t.Errorf("it waited until %s, want 1m2s", got)
		}
	})
}
