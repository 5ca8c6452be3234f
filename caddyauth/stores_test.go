package caddyauth

import (
	"math"
	"testing"
)

// Promise 6: opened sessions take a small part of the memory that the process may
// use.
func TestPromise6RememberedSize(t *testing.T) {
	for limit, want := range map[int64]int{
		math.MaxInt64: 16 << 20, // no limit
		1 << 30:       16 << 20,
		128 << 20:     8 << 20,
		16 << 20:      4 << 20,
		0:             4 << 20,
	} {
		if got := rememberedSize(limit); got != want {
			t.Errorf("of %d bytes: got %d, want %d", limit, got, want)
		}
	}
}
