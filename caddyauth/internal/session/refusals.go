package session

import "time"

// So often in that time a session is refreshed because an upstream refuses a
// token that is alive: one that refuses them all must not cost a refresh per
// request.
const maxRefused, refusedTime = 2, time.Minute

// refusals are when tokens of a session that were alive were refreshed last,
// the oldest first.
type refusals [maxRefused]time.Time

// takeTurn reports whether that may be done now, and takes note of it.
func (r *refusals) takeTurn(now time.Time) bool {
	if !r[0].IsZero() && now.Sub(r[0]) < refusedTime {
		return false
	}
	copy(r[:], r[1:])
	r[maxRefused-1] = now
	return true
}
