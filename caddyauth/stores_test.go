package caddyauth

import (
	"math"
	"testing"
)

// Promise 6: opened sessions take a small part of the memory that the process may
// use.
func TestPromise6RememberedSize(t *testing.T) {
	for limit, want := range map[int64][2]int{ // in cookies, in a store
		math.MaxInt64: {16 << 20, 48 << 20}, // no limit
		1 << 30:       {16 << 20, 48 << 20},
		512 << 20:     {16 << 20, 32 << 20},
		128 << 20:     {8 << 20, 8 << 20},
		16 << 20:      {4 << 20, 4 << 20},
		0:             {4 << 20, 4 << 20},
	} {
		if got := [2]int{rememberedSize(limit, false), rememberedSize(limit, true)}; got != want {
			t.Errorf("of %d bytes: got %d, want %d", limit, got, want)
		}
	}
}
