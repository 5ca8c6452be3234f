package caddyauth

import (
	"fmt"
	"sync"
	"time"

	"github.com/pkce-auth/caddy-pkce-auth/caddyauth/internal/session"
)

// Why requests under way are cut, beside what session and the refresher say.
var (
	errLoggedOut  = fmt.Errorf("%w: it was logged out", session.ErrEnded)
	errReplaced   = fmt.Errorf("%w: another login in its browser took its place", session.ErrEnded)
	errNoLonger   = fmt.Errorf("%w: what is known of the user now does not let them in", session.ErrEnded)
	errRefreshing = fmt.Errorf("%w: its tokens are not refreshed any longer", session.ErrEnded)
)

// liveRequests are the requests under way that carry a session: when it ends,
// they end with it, however long their answers would go on (A82). The zero
// value is ready. It stands in the way of every request: its locks are held
// for a look-up, never while anything is cut.
type liveRequests struct {
	shards [16]liveShard
}

type liveShard struct {
	mu       sync.Mutex
	sessions map[string]liveSession // by ID
}

// liveSession is a session with requests under way.
type liveSession struct {
	newest *session.Session // that is known here
	first  *liveRequest
}

// liveRequest is one request under way. But for lifeline, the lock of its
// session's shard guards it.
type liveRequest struct {
	lifeline

	session    string // its ID; empty when it has not entered
	route      admitter
	judge      *relyingParty // by whose limits it is measured
	began      time.Time
	next, prev *liveRequest

	timer *time.Timer // that cuts it; nil: there is none, as for any that has a session
}

// admitter is a route's policy, which decides again when more is known of the
// user: after a refresh.
type admitter interface {
	admits(s *session.Session) bool
}

func (l *liveRequests) shard(id string) *liveShard {
	if id == "" {
		return &l.shards[0]
	}
	return &l.shards[int(id[len(id)-1])%len(l.shards)]
}

// enter takes up a request with the session that it carries. Whoever enters
// must look afterwards whether the session was ended meanwhile, and must
// leave.
func (l *liveRequests) enter(r *liveRequest, s *session.Session) {
	shard := l.shard(s.ID)
	shard.mu.Lock()
	live := shard.sessions[s.ID]
	known := live.newest
	live.newest = newerCopy(known, s)
	newest, others := live.newest, []*liveRequest(nil)
	if known != nil && s.Generation > known.Generation {
		others = live.all(nil)
	}
	r.session, r.next = s.ID, live.first
	if live.first != nil {
		live.first.prev = r
	}
	live.first = r
	if shard.sessions == nil {
		shard.sessions = make(map[string]liveSession)
	}
	shard.sessions[s.ID] = live
	shard.mu.Unlock()
	if newest.Generation > s.Generation {
		others = []*liveRequest{r} // it was let in by what was known before
	}
	readmit(others, newest)
}

// leave takes out a request. It may have left before.
func (l *liveRequests) leave(r *liveRequest) {
	if r.timer != nil {
		r.timer.Stop()
	}
	if r.session == "" {
		return
	}
	shard := l.shard(r.session)
	shard.mu.Lock()
	defer shard.mu.Unlock()
	live := shard.sessions[r.session]
	switch {
	case r.prev != nil:
		r.prev.next = r.next
	case live.first == r:
		live.first = r.next
		shard.sessions[r.session] = live
	default:
		return // it has left
	}
	if r.next != nil {
		r.next.prev = r.prev
	}
	r.next, r.prev = nil, nil
	if live.first == nil {
		delete(shard.sessions, r.session)
	}
}

// learn takes note of a newer copy of a session, as a refresh makes one.
// Requests that what is new in it does not admit are cut; the others go on. It
// returns the newest copy that is known by then.
func (l *liveRequests) learn(s *session.Session) *session.Session {
	shard := l.shard(s.ID)
	shard.mu.Lock()
	live, ok := shard.sessions[s.ID]
	if !ok {
		shard.mu.Unlock()
		return s
	}
	var requests []*liveRequest
	if s.Generation > live.newest.Generation {
		requests = live.all(nil)
	}
	live.newest = newerCopy(live.newest, s)
	newest := live.newest
	shard.sessions[s.ID] = live
	shard.mu.Unlock()
	readmit(requests, newest)
	return newest
}

func readmit(requests []*liveRequest, newest *session.Session) {
	for _, r := range requests {
		if !r.route.admits(newest) {
			r.cut(errNoLonger)
		}
	}
}

// newerCopy returns the copy with the tokens that are good, seen when the
// session was seen last.
func newerCopy(known, s *session.Session) *session.Session {
	if known == nil {
		return s
	}
	newer, older := s, known
	if s.Generation < known.Generation || s.Generation == known.Generation && !s.Seen.After(known.Seen) {
		newer, older = known, s
	}
	if older.Seen.After(newer.Seen) {
		merged := *newer
		merged.Seen = older.Seen
		return &merged
	}
	return newer
}

// all appends the session's requests.
func (live *liveSession) all(to []*liveRequest) []*liveRequest {
	for r := live.first; r != nil; r = r.next {
		to = append(to, r)
	}
	return to
}

// endSession cuts what is under way with one session, where its newest copy
// matches; a nil match is that of any. It returns how many requests that was.
func (l *liveRequests) endSession(id string, why error, match func(*session.Session) bool) int {
	shard := l.shard(id)
	shard.mu.Lock()
	var requests []*liveRequest
	if live, ok := shard.sessions[id]; ok && (match == nil || match(live.newest)) {
		requests = live.all(nil)
	}
	shard.mu.Unlock()
	return cutAll(requests, why)
}

// end cuts what is under way with all sessions that match. The match is made
// under a lock, and must be quick. It is a walk through all sessions that have
// requests under way.
func (l *liveRequests) end(why error, match func(*session.Session) bool) (cut int) {
	for i := range l.shards {
		shard := &l.shards[i]
		var requests []*liveRequest
		shard.mu.Lock()
		for _, live := range shard.sessions {
			if match(live.newest) {
				requests = live.all(requests)
			}
		}
		shard.mu.Unlock()
		cut += cutAll(requests, why)
	}
	return cut
}

// endFor is endSession for the requests of one judge, if the session has not
// become newer since it was judged.
func (l *liveRequests) endFor(judge *relyingParty, judged *session.Session, why error) int {
	shard := l.shard(judged.ID)
	shard.mu.Lock()
	var requests []*liveRequest
	live := shard.sessions[judged.ID]
	for r := live.first; r != nil && live.newest == judged; r = r.next {
		if r.judge == judge {
			requests = append(requests, r)
		}
	}
	shard.mu.Unlock()
	return cutAll(requests, why)
}

func cutAll(requests []*liveRequest, why error) (cut int) {
	for _, r := range requests {
		if r.cut(why) {
			cut++
		}
	}
	return cut
}

// before returns the newest copies of the sessions that the judge has to judge
// and that have requests under way which began before a time. A running judge
// takes over from those of configurations that are gone, if it opens the same
// sessions: limits are those of the configuration in use.
func (l *liveRequests) before(judge *relyingParty, began time.Time) (sessions []*session.Session) {
	for i := range l.shards {
		shard := &l.shards[i]
		shard.mu.Lock()
		for _, live := range shard.sessions {
			old := false
			for r := live.first; r != nil; r = r.next {
				if r.judge != judge && judge.succeeds(r.judge) {
					r.judge = judge
				}
				old = old || r.judge == judge && r.began.Before(began)
			}
			if old {
				sessions = append(sessions, live.newest)
			}
		}
		shard.mu.Unlock()
	}
	return sessions
}

// judgedBy reports whether any request under way is the judge's.
func (l *liveRequests) judgedBy(judge *relyingParty) bool {
	for i := range l.shards {
		shard := &l.shards[i]
		shard.mu.Lock()
		for _, live := range shard.sessions {
			for r := live.first; r != nil; r = r.next {
				if r.judge == judge {
					shard.mu.Unlock()
					return true
				}
			}
		}
		shard.mu.Unlock()
	}
	return false
}
