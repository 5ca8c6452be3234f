package session

import (
	"fmt"
	"testing"
	"time"
)

// What is known of revocations is bounded, and forgotten when it is of no use
// any longer.
func TestA72WhatIsRevokedIsBounded(t *testing.T) {
	var r Revoked
	if r.Marked("a") {
		t.Error("the empty list has something")
	}
	r.Mark("a", begin, begin.Add(time.Hour))
	r.Mark("b", begin, begin.Add(time.Hour))
	if !r.Marked("a") || !r.Marked("b") || r.Marked("c") {
		t.Error("the list does not have what was added")
	}
	r.Mark("c", begin.Add(2*time.Hour), begin.Add(3*time.Hour))
	if r.Marked("a") || !r.Marked("c") || len(r.order) != 1 {
		t.Errorf("%d are kept", len(r.order))
	}
	for i := range maxRevocations + 10 {
		r.Mark(fmt.Sprint(i), begin, begin.Add(time.Hour))
	}
	if len(r.order) != maxRevocations || len(r.marks) != maxRevocations || r.Marked("c") || !r.Marked(fmt.Sprint(maxRevocations+9)) {
		t.Errorf("%d are kept", len(r.order))
	}
}
