package caddyauth

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"
	"go.uber.org/zap"

	"github.com/pkce-auth/caddy-pkce-auth/caddyauth/internal/rp"
	"github.com/pkce-auth/caddy-pkce-auth/caddyauth/internal/sealed"
	"github.com/pkce-auth/caddy-pkce-auth/caddyauth/internal/session"
)

// relyingParty is a provider's configuration at work: us, as registered at
// one provider. All handlers of a configuration that mean the same provider
// share it.
type relyingParty struct {
	name     string // in the configuration; of an inline provider, the issuer's host
	client   *rp.Client
	params   map[string]string // of the authorization request, with placeholders
	site     site
	logins   *loginStates
	failures *sealed.Box // what the error endpoint is to say
	sessions keepers
	headers  headerSet // identity headers of all routes of this provider
	shared   *shared
	app      *App
	logger   *zap.Logger
	now      func() time.Time
}

// site is where we are: as browsers see it, and below which names.
type site struct {
	origins   origins
	endpoints endpoints
	https     cookieNames
	http      cookieNames // on loopback
	domain    string      // cookie_domain
	strict    bool        // SameSite=Strict: the callback answers with a page
}

func (s *site) cookies(secure bool) cookieNames {
	if secure {
		return s.https
	}
	return s.http
}

// stem is what the names of a provider's cookies begin with: pkce_auth for
// the default provider, with its name for another; for an inline one, eight
// hexadecimal digits of a hash of issuer and client ID.
func stem(name, issuer, clientID string) string {
	switch name {
	case defaultProvider:
		return cookieStem
	case "":
		sum := sha256.Sum256([]byte(issuer + "\x00" + clientID))
		return cookieStem + "_" + hex.EncodeToString(sum[:4])
	default:
		return cookieStem + "_" + name
	}
}

// newRelyingParty puts a configuration to work. It calls nobody: a provider
// that is down, or not yet up, keeps no configuration from loading (K7). What
// it takes from the pools is given back by app.
func newRelyingParty(ctx caddy.Context, app *App, name string, cfg *Provider) (*relyingParty, error) {
	if err := errors.Join(cfg.validate(), cfg.validateEndpoints(name)); err != nil {
		return nil, err
	}
	issuer, err := resolve(cfg.Issuer)
	if err != nil {
		return nil, misconfigured("issuer", "%v", err)
	}
	if err := rp.CheckIssuer(issuer); err != nil {
		return nil, misconfigured("issuer", "%v", err)
	}
	if rp.IsRootIssuer(issuer) {
		issuer = strings.TrimSuffix(issuer, "/") // the one slash that is forgiven makes no difference
	}
	clientID, err := resolve(cfg.ClientID)
	if err != nil {
		return nil, misconfigured("client_id", "%v", err)
	}
	p := &relyingParty{
		name:   name,
		app:    app,
		logger: ctx.Logger(),
		now:    time.Now,
		site:   site{endpoints: newEndpoints(cfg, name)},
	}
	cookieStem := stem(name, issuer, clientID)
	if u, err := url.Parse(issuer); name == "" && err == nil {
		p.name = u.Host
	}
	p.site.https = cfg.Session.names(cookieStem, true)
	p.site.http = cfg.Session.names(cookieStem, false)
	p.site.strict = cfg.Session.sameSite() == http.SameSiteStrictMode
	if cfg.Session != nil {
		p.site.domain = strings.ToLower(strings.Trim(cfg.Session.CookieDomain, "."))
	}
	if p.site.origins, err = resolveOrigins(cfg.PublicURL); err != nil {
		return nil, err
	}
	if err := p.loadPools(sharedKey{issuer, clientID, cookieStem}, time.Duration(cfg.Timeout)); err != nil {
		return nil, err
	}
	if err := p.configureClient(cfg, clientID); err != nil {
		return nil, err
	}
	if err := p.configureSealing(ctx, cfg, cookieStem); err != nil {
		return nil, err
	}
	// Secrets must not stand in exported fields any longer: Caddy logs those
	// of a handler when its servers trace (K4).
	cfg.ClientSecret, cfg.CookieSecret = "", nil
	return p, nil
}

func resolveOrigins(urls []string) (origins, error) {
	var o origins
	for _, text := range urls {
		resolved, err := resolve(text)
		if err != nil {
			return origins{}, misconfigured("public_url", "%v", err)
		}
		public, err := parseOrigin(resolved)
		if err != nil {
			return origins{}, misconfigured("public_url", "%s: %v", text, err)
		}
		o.public = append(o.public, public)
	}
	return o, nil
}

func (p *relyingParty) loadPools(key sharedKey, timeout time.Duration) (err error) {
	if p.shared, err = loadShared(key); err != nil {
		return err
	}
	p.app.onCleanup(func() { _, _ = sharedPool.Delete(key) })
	provider, err := loadProvider(key.issuer, timeout)
	if err != nil {
		return err
	}
	p.app.onCleanup(func() { _, _ = providerPool.Delete(providerKey(key.issuer, timeout)) })
	p.client = &rp.Client{Provider: provider, ClientID: key.clientID}
	return nil
}

func (p *relyingParty) configureClient(cfg *Provider, clientID string) error {
	c := p.client
	c.ClientID = clientID
	c.Auth = rp.AuthMethod(cfg.ClientAuth)
	c.ClockSkew = time.Duration(cfg.ClockSkew)
	c.Scopes = defaultScopes
	p.warnOfLiterals("client_secret", cfg.ClientSecret)
	if c.Secret = secretReader(cfg.ClientSecret); c.Secret != nil {
		if _, err := c.Secret(); err != nil {
			return misconfigured("client_secret", "%v", err)
		}
	}
	if a := cfg.Authorization; a != nil {
		if len(a.Scopes) > 0 {
			c.Scopes = a.Scopes
		}
		c.Audience, c.Resources, c.Connection = a.Audience, a.Resources, a.Connection
		p.params = a.Params
	}
	return nil
}

func (p *relyingParty) configureSealing(ctx caddy.Context, cfg *Provider, cookieStem string) error {
	keyring, err := p.keyring(cfg.CookieSecret)
	if err != nil {
		return err
	}
	// What is sealed here opens only for this provider, client and name, and
	// for tokens that were asked for in this way: who changes the audience
	// wants new tokens, not what old sessions hold.
	c := p.client
	binding := []string{
		c.Provider.Issuer(), c.ClientID, cookieStem, c.Audience, strings.Join(c.Resources, " "), strings.Join(c.Scopes, " "),
	}
	tag := sha256.Sum256([]byte(strings.Join(binding[:3], "\x00")))
	p.logins = &loginStates{tag: hex.EncodeToString(tag[:4])}
	for _, box := range []struct {
		purpose string
		into    **sealed.Box
	}{
		{"state", &p.logins.state}, {"login", &p.logins.box}, {"error", &p.failures},
	} {
		if *box.into, err = keyring.Box(box.purpose, binding...); err != nil {
			return err
		}
	}
	store, err := loadStore(ctx, cfg.Session)
	if err != nil {
		return err
	}
	p.sessions, err = newKeepers(store, cfg.Session, cookieStem, keeperConfig{
		keyring: keyring,
		binding: binding,
		now:     func() time.Time { return p.now() },
	})
	return err
}

func loadStore(ctx caddy.Context, s *SessionConfig) (SessionStore, error) {
	if s == nil || s.StoreRaw == nil {
		return new(CookieSessions), nil
	}
	module, err := ctx.LoadModule(s, "StoreRaw")
	if err != nil {
		return nil, fmt.Errorf("session: %w", err)
	}
	store, ok := module.(SessionStore)
	if !ok {
		return nil, fmt.Errorf("session: %T keeps no sessions", module)
	}
	return store, nil
}

// keyring makes the keyring of the given secrets, or of one that this process
// made up.
func (p *relyingParty) keyring(texts []string) (*sealed.Keyring, error) {
	if len(texts) == 0 {
		p.app.onStart(func() {
			p.logger.Warn("no cookie_secret is configured: sessions end with this process, and other instances do not know them",
				zap.String("provider", p.name), zap.String("hint", howToMakeASecret))
		})
		return sealed.NewKeyring(p.shared.secret[:])
	}
	p.warnOfLiterals("cookie_secret", texts...)
	secrets := make([][]byte, len(texts))
	for i, text := range texts {
		resolved, err := resolve(text)
		if err != nil {
			return nil, misconfigured("cookie_secret", "%v", err)
		}
		if secrets[i], err = parseCookieSecret(resolved); err != nil {
			return nil, misconfigured("cookie_secret", "%v", err)
		}
	}
	keyring, err := sealed.NewKeyring(secrets...)
	if err != nil {
		return nil, misconfigured("cookie_secret", "%v", err)
	}
	return keyring, nil
}

// warnOfLiterals says that a secret is written into the configuration, which
// Caddy shows at its admin endpoint, saves, and logs at debug level.
func (p *relyingParty) warnOfLiterals(option string, secrets ...string) {
	if !slices.ContainsFunc(secrets, func(s string) bool { return s != "" && !hasPlaceholder(s) }) {
		return
	}
	p.app.onStart(func() {
		p.logger.Warn("a secret stands in the configuration, where Caddy shows, saves and logs it",
			zap.String("option", option), zap.String("provider", p.name), zap.String("hint", "write it as {env.NAME} or {file./path}"))
	})
}

// load returns the session that a request's cookies stand for, if it may be
// used now. Errors are those of session.Keeper.
func (p *relyingParty) load(r *http.Request, cookies []string) (*session.Session, error) {
	secure, ok := p.site.origins.secure(r)
	if !ok {
		return nil, session.ErrNone // nobody can have logged in there
	}
	s, err := p.sessions.of(secure).Load(r.Context(), cookies)
	if err != nil {
		return nil, err
	}
	if !s.TokenAlive(p.now()) {
		return nil, errTokenExpired
	}
	return s, nil
}

// renew sets the session's idle clock back when that is due. A session that
// cannot be renewed just ends when it would have.
func (p *relyingParty) renew(h http.Header, r *http.Request, a *authState) {
	renewed, due := p.sessions.limits.Renew(a.session, p.now())
	if !due {
		return
	}
	if err := p.save(h, r, a, renewed); err != nil {
		p.logger.Warn("session cannot be renewed", zap.String("provider", p.name), zap.Error(err))
		return
	}
	a.session = renewed // for a further handler of this provider
}

// save keeps a session, and gives the browser what it needs to come back: if
// that fits, together with all other cookies of ours, what servers take.
func (p *relyingParty) save(h http.Header, r *http.Request, a *authState, s *session.Session) error {
	secure, _ := p.site.origins.secure(r)
	names := p.site.cookies(secure)
	return a.setCookies(h, func(h http.Header) error {
		made := http.Header{}
		if err := p.sessions.of(secure).Save(r.Context(), made, a.cookies, s); err != nil {
			return err
		}
		size := othersSize(a.cookies, names)
		for _, c := range (&http.Response{Header: made}).Cookies() {
			size += len(c.Name) + len(c.Value)
		}
		if size > maxAllCookies {
			return &sealed.TooLargeError{Size: size, Limit: maxAllCookies}
		}
		maps.Copy(h, made)
		return nil
	})
}

// errTokenExpired says that the session's access token is over.
var errTokenExpired = fmt.Errorf("%w: its access token has expired", session.ErrNone)
