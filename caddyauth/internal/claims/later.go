package claims

import "sync/atomic"

// later is claims that are not read before somebody asks for one: a session's
// are opened far more often than looked at.
type later struct {
	members atomic.Pointer[map[string]any]
}

// Kept gives claims that Parse has read once, and that were kept since where
// nobody could change them: under a seal. Text that is none after all holds no
// claim, so that whoever requires one refuses.
func Kept(text []byte) Set { return Set{text: string(text), later: new(later)} }

// all gives the members.
func (s Set) all() map[string]any {
	members := s.read()
	if members == nil && s.later != nil {
		set, _ := Parse([]byte(s.text))
		if members = set.members; members == nil {
			members = map[string]any{}
		}
		s.later.members.Store(&members) // twice at worst, and the same
	}
	return members
}

// read gives the members, if they have been read by now.
func (s Set) read() map[string]any {
	if s.later == nil {
		return s.members
	}
	if known := s.later.members.Load(); known != nil {
		return *known
	}
	return nil
}

// Unread reports whether the claims take more memory once somebody asks for one.
func (s Set) Unread() bool { return s.later != nil && s.later.members.Load() == nil }
