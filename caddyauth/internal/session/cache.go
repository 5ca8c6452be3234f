package session

import (
	"hash/maphash"
	"slices"
	"strings"
	"sync"

	"github.com/pkce-auth/caddy-pkce-auth/caddyauth/internal/rp"
)

// cache remembers opened sessions by the cookie value they came in, so that
// opening one again costs a look-up. It is bounded in bytes; what was not
// used lately goes first. Only what a seal has vouched for gets in, so that
// nobody fills it with rubbish; and once it is full, only what comes twice
// within a while, so that more sessions than it holds, each of which comes now
// and then, do not push out all the time what would have been found.
type cache struct {
	shards [16]shard
	seed   maphash.Seed
}

type shard struct {
	mu      sync.Mutex
	entries map[string]int // from the end of a value to its place in ring
	ring    []cached
	hand    int
	size    int
	limit   int
	looked  int        // the next place that remeasure looks at
	met     [64]uint64 // what came lately while it was full, by hash
}

type cached struct {
	first   string   // the value of the first cookie
	rest    []string // of the others, if the session takes several
	session *Session
	size    int
	used    bool // since the hand came by
	unread  bool // whether claims were not read when it was measured
}

// cacheSize bounds a cache, in bytes, unless a keeper is told otherwise.
const cacheSize = 16 << 20

func newCache(limit int) *cache {
	c := &cache{seed: maphash.MakeSeed()}
	for i := range c.shards {
		c.shards[i].limit = limit / len(c.shards)
		c.shards[i].entries = make(map[string]int)
	}
	return c
}

// tail is what an entry is looked up by: the end of a value is the tag of the
// seal, as good as random. The whole value is compared afterwards.
func tail(first string) string { return first[max(0, len(first)-32):] }

func (c *cache) shard(first string) (s *shard, hash uint64) {
	hash = maphash.String(c.seed, tail(first))
	return &c.shards[hash%uint64(len(c.shards))], hash / uint64(len(c.shards))
}

// meets reports whether something came lately, and takes note of it.
func (s *shard) meets(hash uint64) (again bool) {
	slot := &s.met[hash%uint64(len(s.met))]
	again, *slot = *slot == hash, hash
	return again
}

// get returns the session that came in a value, and the values of the further
// cookies it came with, which the caller must compare.
func (c *cache) get(first string) (*Session, []string) {
	s, _ := c.shard(first)
	s.mu.Lock()
	defer s.mu.Unlock()
	i, ok := s.entries[tail(first)]
	if !ok || s.ring[i].first != first {
		return nil, nil
	}
	s.ring[i].used = true
	e := s.ring[i]
	s.measure(i)
	s.shrink(s.limit)
	return e.session, e.rest
}

// measure counts an entry anew whose claims were read meanwhile: it takes more
// now. One that does not fit any more goes, and nobody else for it.
func (s *shard) measure(i int) {
	e := &s.ring[i]
	if !e.unread || e.session.unread() {
		return
	}
	s.size -= e.size
	e.unread, e.size = false, e.measured()
	s.size += e.size
	if e.size > s.limit {
		s.drop(i)
	}
}

// remeasured is how many entries are looked at for each that comes.
const remeasured = 8

// remeasure looks at a few entries: who was here once only may have had claims
// read by that very request, and nobody asks for them again.
func (s *shard) remeasure() {
	for range min(remeasured, len(s.ring)) {
		if len(s.ring) == 0 {
			return
		}
		s.looked %= len(s.ring)
		s.measure(s.looked)
		s.looked++
	}
	s.shrink(s.limit)
}

// measured is how many bytes of memory an entry takes.
func (e *cached) measured() int {
	size := e.session.size() + len(e.first)
	for _, value := range e.rest {
		size += len(value)
	}
	return size
}

// put remembers a session. What it holds on to is copied: a cookie header is
// larger than the value in it.
func (c *cache) put(session *Session, first string, rest []string) {
	e := cached{first: first, rest: rest, session: session, unread: session.unread()}
	e.size = e.measured()
	s, hash := c.shard(first)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.remeasure()
	if e.size > s.limit || s.size+e.size > s.limit && !s.meets(hash) {
		return
	}
	e.first, e.rest = strings.Clone(first), slices.Clone(rest)
	for i := range e.rest {
		e.rest[i] = strings.Clone(e.rest[i])
	}
	if i, ok := s.entries[tail(first)]; ok {
		s.size += e.size - s.ring[i].size
		s.ring[i] = e
		s.shrink(s.limit)
		return
	}
	s.shrink(s.limit - e.size) // before it is there to be dropped
	s.entries[tail(e.first)] = len(s.ring)
	s.ring = append(s.ring, e)
	s.size += e.size
}

// shrink drops entries until no more than size is left.
func (s *shard) shrink(size int) {
	for s.size > size {
		s.evict()
	}
}

// size is how many bytes of memory a session takes that was opened. A test holds
// it against what the heap grows by: the bound of the cache is worth as much as
// this.
func (s *Session) size() int {
	const fixed, further = 1024, 384 // with its place in the cache, and all that is rounded up
	size := fixed + len(s.AccessToken.Reveal()) + len(s.RefreshToken.Reveal()) + len(s.IDToken.Reveal()) + len(s.Scope)
	for _, source := range s.Sources {
		size += source.Claims.Size()
	}
	if len(s.Sources) > 1 {
		size += s.Claims.Size()
	}
	for _, f := range s.further.tokens {
		size += further + len(f.AccessToken.Reveal()) + len(f.RefreshToken.Reveal())
	}
	return size + size/16 // memory comes in steps
}

// evict drops the next entry that was not used since the hand last came by.
func (s *shard) evict() {
	for {
		s.hand %= len(s.ring)
		e := &s.ring[s.hand]
		if e.used {
			e.used = false
			s.hand++
			continue
		}
		s.drop(s.hand)
		return
	}
}

// drop drops the entry at a place, where the last one goes.
func (s *shard) drop(i int) {
	s.size -= s.ring[i].size
	delete(s.entries, tail(s.ring[i].first))
	last := len(s.ring) - 1
	if i != last {
		s.ring[i] = s.ring[last]
		s.entries[tail(s.ring[i].first)] = i
	}
	s.ring[last] = cached{}
	s.ring = s.ring[:last]
}

// unread reports whether the session will take more memory once its claims are
// read.
func (s *Session) unread() bool {
	return slices.ContainsFunc(s.Sources, func(source rp.SourcedClaims) bool { return source.Claims.Unread() })
}
