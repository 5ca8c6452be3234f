package session

import (
	"fmt"
	"testing"
	"time"
)

// Revocations are bounded, and forgotten when they are of no use any longer.
func TestA72Revocations(t *testing.T) {
	var r Revocations
	if r.Has("a") {
		t.Error("the empty list has something")
	}
	r.Add("a", begin, begin.Add(time.Hour))
	r.Add("b", begin, begin.Add(time.Hour))
	if !r.Has("a") || !r.Has("b") || r.Has("c") {
		t.Error("the list does not have what was added")
	}
	r.Add("c", begin.Add(2*time.Hour), begin.Add(3*time.Hour))
	if r.Has("a") || !r.Has("c") || len(r.order) != 1 {
		t.Errorf("%d are kept", len(r.order))
	}
	for i := range maxRevocations + 10 {
		r.Add(fmt.Sprint(i), begin, begin.Add(time.Hour))
	}
	if len(r.order) != maxRevocations || len(r.ended) != maxRevocations || r.Has("c") || !r.Has(fmt.Sprint(maxRevocations+9)) {
		t.Errorf("%d are kept", len(r.order))
	}
}
