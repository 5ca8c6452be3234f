package session

import (
	"net/http"
	"time"

	"github.com/pkce-auth/caddy-pkce-auth/caddyauth/internal/sealed"
)

// Keeper keeps sessions between requests. Its methods may be called
// concurrently.
type Keeper interface {
	// Load returns the session of a request: ErrNone when it has none that
	// may be used, whatever cookies it carries. Any other error means that it
	// cannot be told now: the request must then not pass for anonymous, and
	// its cookies must stay.
	Load(r *http.Request) (*Session, error)

	// Save keeps a session, and adds to the response what lets the browser
	// come back with it. A *sealed.TooLargeError says that it does not fit.
	Save(h http.Header, r *http.Request, s *Session) error

	// Delete ends what the request carries, usable or not.
	Delete(h http.Header, r *http.Request)
}

// Stateless keeps a session whole in a sealed cookie. It survives restarts
// and works on any number of machines that share the secret; nothing but the
// end of its time, or the secret's, ends a copy of such a cookie.
type Stateless struct {
	jar    sealed.Jar
	limits Limits
	now    func() time.Time
	opened *cache
}

// maxCookies is how many cookies a session may take: two of 4 kB, so that
// with login state and all that others set there is room within the 16 KiB
// that Caddy takes of request headers (F17).
const maxCookies = 2

// NewStateless makes a keeper that seals with box into the given cookie. The
// box must be bound to the cookie's name. A nil clock means time.Now.
func NewStateless(cookie sealed.Cookie, box *sealed.Box, limits Limits, now func() time.Time) *Stateless {
	if now == nil {
		now = time.Now
	}
	return &Stateless{
		jar:    sealed.Jar{Cookie: cookie, Box: box, MaxChunks: maxCookies},
		limits: limits,
		now:    now,
		opened: newCache(cacheSize),
	}
}

// Load implements Keeper.
func (k *Stateless) Load(r *http.Request) (*Session, error) {
	s := k.open(r.Header["Cookie"])
	switch {
	case s == nil:
		return nil, ErrNone
	case !k.limits.Alive(s, k.now()):
		return nil, ErrEnded
	default:
		return s, nil
	}
}

// open returns the session in the cookies, nil if there is none. Where a
// sibling domain has planted cookies of our name, each value is looked at.
func (k *Stateless) open(lines []string) *Session {
	for n := range sealed.MaxTries {
		first, ok := sealed.Value(lines, k.jar.Cookie.Name, n)
		if !ok {
			return nil
		}
		if s, rest := k.opened.get(first); s != nil && k.carries(lines, rest) {
			return s
		}
		data, rest, err := k.jar.Open(lines, first)
		if err != nil {
			continue
		}
		s, err := decode(data)
		if err != nil {
			continue
		}
		k.opened.put(s, first, rest)
		return s
	}
	return nil
}

// carries reports whether the further cookies of a session are there, too:
// those that it was opened from.
func (k *Stateless) carries(lines, rest []string) bool {
	for i, want := range rest {
		if !sealed.HasValue(lines, k.jar.Name(i+1), want) {
			return false
		}
	}
	return true
}

// Save implements Keeper.
func (k *Stateless) Save(h http.Header, r *http.Request, s *Session) error {
	data, err := encode(s)
	if err != nil {
		return err
	}
	return k.jar.Write(h, r, data, k.limits.Left(s, k.now()))
}

// Delete implements Keeper.
func (k *Stateless) Delete(h http.Header, r *http.Request) { k.jar.Delete(h, r) }
