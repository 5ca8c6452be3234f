package caddyauth

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/http"
	"runtime/debug"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"go.uber.org/zap"

	"github.com/pkce-auth/caddy-pkce-auth/caddyauth/internal/sealed"
	"github.com/pkce-auth/caddy-pkce-auth/caddyauth/internal/session"
	"github.com/pkce-auth/caddy-pkce-auth/caddyauth/store"
)

func init() {
	caddy.RegisterModule(CookieSessions{})
	caddy.RegisterModule(MemorySessions{})
}

// SessionStore is what a module of the namespace `pkce_auth.sessions` is: where
// sessions are kept.
type SessionStore interface {
	// Store gives the store. It is called when the module is provisioned, once
	// for each provider that uses it, and calls nobody: whatever is behind the
	// store may still be down.
	Store() (store.Store, error)
}

// CookieSessions keeps a session whole in a sealed cookie, or in two when it
// is large. Nothing has to run for it, and it survives restarts and works
// with any number of replicas that share the `cookie_secret`.
//
// What it cannot do by itself is take a session back: for that there is a list
// of revocations, which lives as long as the sessions could. And where replicas
// refresh at the same time and the provider replaces refresh tokens, one of
// them comes too late: keep sessions in `storage` or `redis` then.
type CookieSessions struct {
	// Where it is remembered which sessions were ended: a module of the same
	// namespace. Default: `storage`, Caddy's storage, which is asked every two
	// seconds for what other replicas have ended; with `redis` twice a second;
	// with `memory` no other replica hears of it, and nobody after a restart.
	RevocationsRaw json.RawMessage `json:"revocations,omitempty" caddy:"namespace=pkce_auth.sessions inline_key=kind"`
}

// CaddyModule returns the Caddy module information.
func (CookieSessions) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "pkce_auth.sessions.cookie",
		New: func() caddy.Module { return new(CookieSessions) },
	}
}

// MemorySessions keeps sessions in the memory of this process. They survive a
// reload of the configuration, but no restart, and no other replica knows them.
// The memory is bounded: of tens of thousands of sessions, those that were used
// longest ago end first.
type MemorySessions struct{}

// CaddyModule returns the Caddy module information.
func (MemorySessions) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "pkce_auth.sessions.memory",
		New: func() caddy.Module { return new(MemorySessions) },
	}
}

// UnmarshalCaddyfile reads "memory", which has no options of its own.
func (*MemorySessions) UnmarshalCaddyfile(d *caddyfile.Dispenser) error { return withoutOptions(d) }

// UnmarshalCaddyfile reads "cookie". Its option is read with those of the
// session.
func (*CookieSessions) UnmarshalCaddyfile(d *caddyfile.Dispenser) error { return withoutOptions(d) }

func withoutOptions(d *caddyfile.Dispenser) error {
	d.Next()
	if d.NextArg() {
		return d.ArgErr()
	}
	return nil
}

// How often a store is asked which sessions others have ended, and for how long
// a session may be used without asking again.
const (
	revocationsPoll = 500 * time.Millisecond
	storagePoll     = 2 * time.Second // by cookie sessions, which need nothing else of it
	storageLag      = 500 * time.Millisecond

	// revocationsKept is for how long it is remembered that a session was ended
	// which is not in its store any longer: until every process has cut what it
	// had under way.
	revocationsKept = 10 * time.Minute
)

// keepers are the two keepers of a provider: for HTTPS, and for plain HTTP on
// loopback, where cookies have other names and sessions are others.
type keepers struct {
	https, http session.Keeper
	limits      session.Limits

	// stored finds sessions without their cookies, those of both keepers; nil
	// where they are in cookies.
	stored *session.Stored

	revocations *session.Revocations

	// posts are forms that are kept over a login: with the sessions, so that
	// another instance can offer them, or where that is in cookies, here.
	posts store.Store
}

func (k keepers) of(secure bool) session.Keeper {
	if secure {
		return k.https
	}
	return k.http
}

// keeperConfig is what keepers are made of.
type keeperConfig struct {
	session *SessionConfig
	stem    string
	keys    sealed.Keys
	whose   []string // issuer, client and stem: whose sessions these are
	binding []string // and what else they are bound to
	shared  *shared
	logger  *zap.Logger
	now     func() time.Time
}

// keptIn is where sessions and revocations are kept.
type keptIn struct {
	sessions    store.Store // nil: in cookies
	revocations store.Store
	every       time.Duration // how often others are asked for revocations
	lag         time.Duration
}

// loadStores loads the modules that keep a provider's sessions.
func (p *relyingParty) loadStores(ctx caddy.Context, s *SessionConfig) (in keptIn, err error) {
	var module any = new(CookieSessions)
	if s != nil && s.StoreRaw != nil {
		if module, err = ctx.LoadModule(s, "StoreRaw"); err != nil {
			return in, fmt.Errorf("session: %w", err)
		}
	}
	cookies, ok := module.(*CookieSessions)
	if !ok {
		in.sessions, in.every, err = p.openStore(module)
		in.revocations = in.sessions
		if _, ok := module.(*StorageSessions); ok {
			in.lag = storageLag
		}
		return in, err
	}
	if cookies.RevocationsRaw == nil {
		module, err = ctx.LoadModuleByID("pkce_auth.sessions.storage", nil)
	} else {
		module, err = ctx.LoadModule(cookies, "RevocationsRaw")
	}
	if err != nil {
		return in, fmt.Errorf("session: revocations: %w", err)
	}
	in.revocations, in.every, err = p.openStore(module)
	if _, ok := module.(*StorageSessions); ok {
		in.every = storagePoll
	}
	return in, err
}

func (p *relyingParty) openStore(module any) (store.Store, time.Duration, error) {
	switch m := module.(type) {
	case *MemorySessions:
		return &p.shared.memory, 0, nil
	case SessionStore:
		s, err := m.Store()
		if err != nil {
			return nil, 0, fmt.Errorf("session: %w", err)
		}
		if storage, ok := s.(*storageStore); ok {
			p.app.storage = storage
		}
		return s, revocationsPoll, nil
	default:
		return nil, 0, fmt.Errorf("session: %T is no store of sessions", module)
	}
}

func newKeepers(in keptIn, cfg keeperConfig) keepers {
	s := cfg.session
	k := keepers{limits: session.Limits{Lifetime: time.Duration(s.lifetime()), Idle: time.Duration(s.idle())}}
	kept := k.limits.Lifetime
	if in.sessions != nil {
		kept = revocationsKept
	}
	k.revocations = session.NewRevocations(session.RevocationsConfig{
		Store: in.revocations, Tags: sealed.NewTagger(cfg.keys, "revocation", cfg.whose...),
		Provider: providerTag(cfg.whose), Keep: kept, Every: in.every, Now: cfg.now,
	}, &cfg.shared.revoked)
	if k.posts = in.sessions; in.sessions == nil || in.sessions == store.Store(&cfg.shared.memory) {
		k.posts = cfg.shared.posts.here()
	}
	for _, secure := range []bool{true, false} {
		cookie := sealed.Cookie{Name: s.names(cfg.stem, secure).session, Path: "/", SameSite: s.sameSite(), Secure: secure}
		if s != nil {
			cookie.Domain = s.CookieDomain
		}
		if !secure && cookie.SameSite == http.SameSiteNoneMode {
			cookie.SameSite = http.SameSiteLaxMode // browsers want Secure for None
		}
		var keeper session.Keeper
		if in.sessions == nil {
			keeper = session.NewStateless(cookie, sealed.NewBox(cfg.keys, "session", append(cfg.binding, cookie.Name)...), k.limits, cfg.now)
		} else {
			k.stored = newStored(in, cookie, k.limits, cfg)
			keeper = k.stored
		}
		keeper.Remember(rememberedSize(debug.SetMemoryLimit(-1), in.sessions != nil))
		if secure {
			k.https = keeper
		} else {
			k.http = keeper
		}
	}
	return k
}

// rememberedSize bounds the memory of a provider's opened sessions, in bytes,
// under the limit of the process, which Caddy takes from the container: a
// sixteenth of it. It is never more than 16 MiB, in which some 3 000 sessions are
// with tokens of 2 kB, or thrice that where sessions are in a store, from which
// one takes twice as long. What does not fit is opened anew at each request.
func rememberedSize(limit int64, stored bool) int {
	most := int64(16 << 20)
	if stored {
		most *= 3
	}
	return int(min(max(limit/16, 4<<20), most))
}

func newStored(in keptIn, cookie sealed.Cookie, limits session.Limits, cfg keeperConfig) *session.Stored {
	return session.NewStored(session.StoredConfig{
		Store:     in.sessions,
		Cookie:    cookie,
		Tickets:   sealed.NewBox(cfg.keys, "ticket", append(cfg.binding, cookie.Name)...),
		Summaries: sealed.NewBox(cfg.keys, "summary", cfg.whose...),
		Indexes:   sealed.NewTagger(cfg.keys, "index", cfg.whose...),
		Limits:    limits,
		Lag:       in.lag,
		Now:       cfg.now,
		Trouble: func(doing string, err error) {
			cfg.logger.Error("the session store does not take what it is given", zap.String("doing", doing), zap.Error(err),
				zap.String("hint", howToMendStore))
		},
	})
}

// howToMendStore is what helps whenever a session store does not answer.
const howToMendStore = "make the session store reachable and writable (for cookie sessions, which need it for revocations only, there is revocations memory); " +
	"nobody is logged out for it"

// providerTag names a provider's sessions where nobody needs to know whose they
// are.
func providerTag(whose []string) string {
	sum := sha256.Sum256([]byte(strings.Join(whose, "\x00")))
	return hex.EncodeToString(sum[:8])
}

// Interface guards
var (
	_ caddyfile.Unmarshaler = (*CookieSessions)(nil)
	_ caddyfile.Unmarshaler = (*MemorySessions)(nil)
)
