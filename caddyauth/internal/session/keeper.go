package session

import (
	"context"
	"errors"
	"net/http"
	"time"

	"github.com/pkce-auth/caddy-pkce-auth/caddyauth/internal/sealed"
)

// Keeper keeps sessions between requests. Its methods may be called
// concurrently. They take cookies as the lines of the Cookie header.
type Keeper interface {
	// Load returns the session that a request's cookies stand for: ErrNone
	// when there is none that may be used, whatever they hold. Any other error
	// means that it cannot be told now: the request must then not pass for
	// anonymous, and its cookies must stay.
	Load(ctx context.Context, cookies []string) (*Session, error)

	// Save keeps a session, and adds to the response what lets the browser
	// come back with it. A *sealed.TooLargeError says that it does not fit.
	Save(ctx context.Context, h http.Header, cookies []string, s *Session) error

	// Delete ends what the cookies stand for, usable or not, and returns it;
	// nil when there is nothing.
	Delete(ctx context.Context, h http.Header, cookies []string) (*Session, error)

	// Refresh has do get a new token of a key for a session, unless somebody else
	// who shares the sessions has just done it, or is about to. What comes back is
	// kept as safely as it can be before any browser hears of it.
	//
	// do may return both a session and an error: then it is to be kept, but has
	// no such token. So may Refresh.
	Refresh(ctx context.Context, s *Session, do Renew) (*Session, error)

	// Remains returns what the cookies stand for, be its time up or not: it
	// says whose session that was, and is never to be used. Errors are those of
	// Load. A session that was ended before its time is not told from one that
	// never was where it is kept in a store; in a cookie, only Revocations know.
	Remains(ctx context.Context, cookies []string) (*Session, error)

	// Remember bounds the memory that opened sessions may take, in bytes. It is
	// called before the keeper is in use.
	Remember(size int)

	// Outlive has what is left of sessions stay on for so long when their time
	// is up, for Remains. It is called before the keeper is in use.
	Outlive(time.Duration)
}

// Renew is how a session gets a token.
type Renew struct {
	Key string // of the token

	// Anew says that it is not enough if somebody else has got one.
	Anew bool

	// Do asks the provider, with the newest copy of the session.
	Do func(context.Context, *Session) (*Session, error)
}

// done reports whether a copy of the session has what was to come, for one who
// has s.
func (r *Renew) done(current, s *Session) bool {
	return !r.Anew && current.Generation > s.Generation && current.Since(r.Key) > s.Since(r.Key)
}

// Stateless keeps a session whole in a sealed cookie. It survives restarts
// and works on any number of machines that share the secret. By itself it
// takes no session back: who ends one remembers that in Revocations.
type Stateless struct {
	jar     sealed.Jar
	limits  Limits
	now     func() time.Time
	opened  *cache
	outlive time.Duration
	whole   bool
}

// KeepIDToken has the session hold the ID token, for it goes upstream. It must
// come before the first session is saved.
func (k *Stateless) KeepIDToken() { k.whole = true }

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
func (k *Stateless) Load(_ context.Context, cookies []string) (*Session, error) {
	s, err := k.open(cookies)
	switch {
	case err != nil:
		return nil, err
	case !k.limits.Alive(s, k.now()):
		return nil, ErrEnded
	default:
		return s, nil
	}
}

// open returns the session in the cookies, or ErrNone. Where a sibling domain
// has planted cookies of our name, each value is looked at.
func (k *Stateless) open(cookies []string) (*Session, error) {
	for n := range sealed.MaxTries {
		first, ok := sealed.Value(cookies, k.jar.Cookie.Name, n)
		if !ok {
			break
		}
		if s, rest := k.opened.get(first); s != nil && k.carries(cookies, rest) {
			return s, nil
		}
		data, rest, err := k.jar.Open(cookies, first)
		if errors.Is(err, sealed.ErrOpen) {
			continue
		}
		if err != nil {
			return nil, err
		}
		s, err := decode(data)
		if err != nil {
			continue
		}
		k.opened.put(s, first, rest)
		return s, nil
	}
	return nil, ErrNone
}

// carries reports whether the further cookies of a session are there, too:
// those that it was opened from.
func (k *Stateless) carries(cookies, rest []string) bool {
	for i, want := range rest {
		if !sealed.HasValue(cookies, k.jar.Name(i+1), want) {
			return false
		}
	}
	return true
}

// Save implements Keeper.
func (k *Stateless) Save(_ context.Context, h http.Header, cookies []string, s *Session) error {
	data, err := encode(s, k.whole)
	if err != nil {
		return err
	}
	return k.jar.Write(h, cookies, data, k.limits.Left(s, k.now())+k.outlive)
}

// Remains implements Keeper.
func (k *Stateless) Remains(_ context.Context, cookies []string) (*Session, error) {
	return k.open(cookies)
}

// Remember implements Keeper.
func (k *Stateless) Remember(size int) { k.opened = newCache(size) }

// Outlive implements Keeper.
func (k *Stateless) Outlive(d time.Duration) { k.outlive = d }

// Refresh implements Keeper. There is nobody to ask, and nowhere to keep the
// outcome but in the cookie, which comes later.
func (k *Stateless) Refresh(ctx context.Context, s *Session, do Renew) (*Session, error) {
	return do.Do(ctx, s)
}

// Delete implements Keeper.
func (k *Stateless) Delete(_ context.Context, h http.Header, cookies []string) (*Session, error) {
	k.jar.Delete(h, cookies)
	s, err := k.open(cookies)
	if errors.Is(err, ErrNone) {
		return nil, nil
	}
	return s, err
}
