package session

import (
	"hash/maphash"
	"slices"
	"strings"
	"sync"
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
	met     [64]uint64 // what came lately while it was full, by hash
}

type cached struct {
	first   string   // the value of the first cookie
	rest    []string // of the others, if the session takes several
	session *Session
	size    int
	used    bool // since the hand came by
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
	e := s.ring[i]
	if !e.used {
		s.ring[i].used = true
		s.measure(i)
	}
	return e.session, e.rest
}

// measure counts an entry anew: a session takes more once its claims were read,
// which its first request does, if any. Whatever goes for that is another one's
// loss.
func (s *shard) measure(i int) {
	e := &s.ring[i]
	s.size -= e.size
	e.size = e.measured()
	s.size += e.size
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
	e := cached{first: first, rest: rest, session: session}
	e.size = e.measured()
	s, hash := c.shard(first)
	s.mu.Lock()
	defer s.mu.Unlock()
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
		s.size -= e.size
		delete(s.entries, tail(e.first))
		last := len(s.ring) - 1
		if s.hand != last {
			s.ring[s.hand] = s.ring[last]
			s.entries[tail(s.ring[s.hand].first)] = s.hand
		}
		s.ring[last] = cached{}
		s.ring = s.ring[:last]
		return
	}
}
