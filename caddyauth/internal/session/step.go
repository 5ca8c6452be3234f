package session

import (
	"slices"
	"strings"
	"time"

	"github.com/pkce-auth/caddy-pkce-auth/caddyauth/internal/rp"
)

// Step is what a login was asked for by a route, or by the upstream. A session
// remembers it, so that nobody is sent to the provider again for what that has
// answered already. The zero value is a login that was asked for nothing more.
type Step struct {
	MaxAge    *time.Duration
	ACRValues []string

	// Row counts such logins that came one so soon after the other that no
	// person can have wanted them.
	Row uint64
}

// StepRow is how soon the next such login follows the one before in a row.
const StepRow = time.Minute

// Next is the step of a login that was asked for something, after that of the
// session it replaces.
func (before *Session) Next(ask rp.Ask, created time.Time) Step {
	if ask.MaxAge == nil && len(ask.ACRValues) == 0 {
		return Step{}
	}
	step := Step{MaxAge: ask.MaxAge, ACRValues: ask.ACRValues, Row: 1}
	if before.Step.Row > 0 && created.Sub(before.Created) < StepRow {
		step.Row = before.Step.Row + 1
	}
	return step
}

// Asks reports whether the step was for the same as is asked for now, in
// whatever order the values stand.
func (s *Step) Asks(ask rp.Ask) bool {
	same := s.MaxAge == nil && ask.MaxAge == nil || s.MaxAge != nil && ask.MaxAge != nil && *s.MaxAge == *ask.MaxAge
	return s.Row > 0 && same && slices.Equal(slices.Sorted(slices.Values(s.ACRValues)), slices.Sorted(slices.Values(ask.ACRValues)))
}

// writeStep writes a step; most sessions have none. ACR values hold no spaces.
func writeStep(w *packer, s Step) {
	w.Number(s.Row)
	if s.Row == 0 {
		return
	}
	seconds := uint64(0) // and one more, so that none can be told from 0
	if s.MaxAge != nil {
		seconds = uint64(max(0, *s.MaxAge)/time.Second) + 1
	}
	w.Number(seconds)
	w.Text(strings.Join(s.ACRValues, " "))
}

func readStep(r *unpacker) (s Step) {
	if s.Row = r.Number(); s.Row == 0 {
		return Step{}
	}
	if seconds := r.Number(); seconds > 0 {
		age := time.Duration(seconds-1) * time.Second //nolint:gosec // we wrote it
		s.MaxAge = &age
	}
	s.ACRValues = strings.Fields(r.Text())
	return s
}
