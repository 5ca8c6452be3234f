package session

// Over reports whether the provider is known to refresh these tokens no more,
// nor any newer ones of the session.
func (r *Refresher) Over(key string, s *Session) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	e := r.sessions[key]
	return e != nil && e.over && e.newer(s).Generation <= e.overAt
}
