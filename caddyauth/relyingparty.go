package caddyauth

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/certmagic"
	"go.uber.org/zap"

	"github.com/pkce-auth/caddy-pkce-auth/caddyauth/internal/rp"
	"github.com/pkce-auth/caddy-pkce-auth/caddyauth/internal/sealed"
)

// relyingParty is a provider's configuration at work: us, as registered at
// one provider. All handlers of a configuration that mean the same provider
// share it.
type relyingParty struct {
	name     string // in the configuration; of an inline provider, the issuer's host
	client   *rp.Client
	policy   policy
	site     site
	logins   *loginStates
	sealing  sealing
	sessions keepers
	headers  headerSet // identity headers of all routes of this provider
	shared   *shared
	app      *App
	logger   *zap.Logger
	now      func() time.Time
}

// sealing is how we seal what is neither a login state nor a session.
type sealing struct {
	failures *sealed.Box // what the error endpoint is to say
	hints    *sealed.Box // ID tokens, for the logout
	asks     *sealed.Box // what a link to our login asks for
	kept     *sealed.Box // what opens a form that is kept over a login
	resends  *sealed.Box // that our page asked to send it
	binding  string      // what all that is sealed, sessions included, is bound to
}

// policy is what an operator chose for the provider's logins and sessions.
type policy struct {
	params      map[string]string // of the authorization request, with placeholders
	loginParams []string          // that a link to our login may add
	shown       []string          // claims that pages of this site see
	refresh     bool
	early       time.Duration // how long before its end a token is refreshed; 0: auto
	logout      rp.LogoutStyle
	afterLogout string // where the provider sends the browser; empty: to our own page
	revoke      bool
	forwardsID  bool // whether some route sends the ID token upstream
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

func (s *site) nameCookies(cfg *SessionConfig, stem string) {
	s.https, s.http = cfg.names(stem, true), cfg.names(stem, false)
	s.strict = cfg.sameSite() == http.SameSiteStrictMode
	if cfg != nil {
		s.domain = strings.ToLower(strings.Trim(cfg.CookieDomain, "."))
	}
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
	issuer, err := resolveIssuer(cfg.Issuer)
	if err != nil {
		return nil, misconfigured("issuer", "%v", err)
	}
	if err := cfg.checkIssuer(issuer); err != nil {
		return nil, err
	}
	written := issuer
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
	p.site.nameCookies(cfg.Session, cookieStem)
	if p.site.origins, err = resolveOrigins(cfg.PublicURL); err != nil {
		return nil, err
	}
	kept, err := cfg.Session.fingerprint()
	if err != nil {
		return nil, err
	}
	if err := p.loadPools(ctx, sharedKey{issuer, clientID, cookieStem, kept}, written, cfg); err != nil {
		return nil, err
	}
	if err := p.configureClient(cfg, clientID); err != nil {
		return nil, err
	}
	if err := p.configurePolicy(cfg); err != nil {
		return nil, err
	}
	if err := p.configureSealing(ctx, cfg, cookieStem); err != nil {
		return nil, err
	}
	p.sayQuirk(rp.QuirkOf(issuer))
	// Secrets must not stand in exported fields any longer: Caddy logs those
	// of a handler when its servers trace (K4).
	cfg.ClientSecret, cfg.CookieSecret = "", nil
	return p, nil
}

// sayQuirk says once, at the start, what is done for this provider because of
// its name: each by an option can be had otherwise.
func (p *relyingParty) sayQuirk(quirk rp.Quirk) {
	if quirk.Name == "" {
		return
	}
	p.app.onStart(func() {
		p.logger.Info("this provider is known", zap.String("provider", p.name), zap.String("quirk", quirk.Name),
			zap.String("does", quirk.Does), zap.String("note", quirk.Note))
	})
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

func (p *relyingParty) loadPools(ctx caddy.Context, key sharedKey, issuer string, cfg *Provider) (err error) {
	if p.shared, err = loadShared(key); err != nil {
		return err
	}
	p.app.onCleanup(func() { _, _ = sharedPool.Delete(key) })
	calls, err := newCalls(ctx, issuer, cfg)
	if err != nil {
		return err
	}
	provider, release, err := calls.load()
	if err != nil {
		return err
	}
	p.app.onCleanup(release)
	p.client = &rp.Client{Provider: provider, ClientID: key.clientID}
	return nil
}

func (p *relyingParty) configureClient(cfg *Provider, clientID string) error {
	c := p.client
	c.ClientID = clientID
	c.Auth = rp.AuthMethod(cfg.ClientAuth)
	c.ClockSkew = time.Duration(cfg.ClockSkew)
	c.Scopes = defaultScopes
	c.OfflineAccess = cfg.Session.refreshes()
	p.warnOfLiterals("client_secret", cfg.ClientSecret)
	if c.Secret = secretReader(cfg.ClientSecret); c.Secret != nil {
		if _, err := c.Secret(); err != nil {
			return misconfigured("client_secret", "%v", err)
		}
	}
	if a := cfg.ClientAssertion; a != nil {
		if err := useAssertion(c, a); err != nil {
			return misconfigured("client_auth", "%v", err)
		}
	}
	if a := cfg.Authorization; a != nil {
		if len(a.Scopes) > 0 {
			c.Scopes, c.ScopesAsWritten = a.Scopes, true
		}
		c.Audience, c.Resources, c.Connection = a.Audience, a.Resources, a.Connection
		c.Organizations, c.MaxAge, c.ACRValues = a.Organizations, time.Duration(a.MaxAge), a.ACRValues
		c.ResourceOnRefresh, c.ResponseMode = a.ResourceOnRefresh, a.ResponseMode
		for _, tenant := range a.Tenants {
			c.Tenants = append(c.Tenants, strings.ToLower(tenant)) // as tokens have it
		}
	}
	cfg.Claims.configure(c)
	return nil
}

func (p *relyingParty) configurePolicy(cfg *Provider) (err error) {
	p.policy = policy{loginParams: defaultLoginParams, shown: cfg.Claims.shown(), refresh: cfg.Session.refreshes(), revoke: true}
	if a := cfg.Authorization; a != nil {
		p.policy.params = a.Params
		if len(a.LoginParams) > 0 {
			p.policy.loginParams = a.LoginParams
		}
	}
	if p.policy.early, err = cfg.Session.early(); err != nil {
		return err
	}
	l := cfg.Logout
	if l == nil {
		return nil
	}
	p.policy.logout = rp.LogoutStyle(l.Style)
	p.policy.revoke = l.Revoke == nil || *l.Revoke
	if p.policy.afterLogout, err = resolve(l.Redirect); err != nil {
		return misconfigured("post_logout_redirect", "%v", err)
	}
	if p.policy.afterLogout != "" {
		if err := checkAbsoluteURL(p.policy.afterLogout); err != nil {
			return misconfigured("post_logout_redirect", "%v", err)
		}
	}
	return nil
}

func (p *relyingParty) configureSealing(ctx caddy.Context, cfg *Provider, cookieStem string) error {
	keys, err := p.keys(ctx, cfg, cookieStem)
	if err != nil {
		return err
	}
	// What is sealed here opens only for this provider, client and name, and
	// for tokens that were asked for in this way: who changes the audience
	// wants new tokens, not what old sessions hold.
	c := p.client
	binding := []string{
		c.Provider.Issuer(), c.ClientID, cookieStem, c.Audience, strings.Join(c.Resources, " "), strings.Join(c.Scopes, " "),
		fmt.Sprint(c.ClaimSources()),
	}
	tag := sha256.Sum256([]byte(strings.Join(binding[:3], "\x00")))
	p.logins = &loginStates{
		tag:   hex.EncodeToString(tag[:4]),
		post:  cfg.formPost(c.Provider.Issuer()),
		state: sealed.NewBox(keys, "state", binding...),
		box:   sealed.NewBox(keys, "login", binding...),
	}
	p.sealing = sealing{
		failures: sealed.NewBox(keys, "error", binding...),
		hints:    sealed.NewBox(keys, "hint", binding...),
		asks:     sealed.NewBox(keys, "ask", binding...),
		kept:     sealed.NewBox(keys, "kept", binding...),
		resends:  sealed.NewBox(keys, "resend", binding...),
		binding:  strings.Join(binding, "\x00"),
	}
	in, err := p.loadStores(ctx, cfg.Session)
	if err != nil {
		return err
	}
	p.sessions = newKeepers(in, keeperConfig{
		session: cfg.Session,
		stem:    cookieStem,
		keys:    keys,
		whose:   binding[:3:3],
		binding: slices.Clip(binding),
		shared:  p.shared,
		logger:  p.logger.With(zap.String("provider", p.name)),
		now:     func() time.Time { return p.now() },
	})
	return nil
}

// keys makes the keyring of the given secrets, or keys that make themselves.
func (p *relyingParty) keys(ctx caddy.Context, cfg *Provider, cookieStem string) (sealed.Keys, error) {
	texts := cfg.CookieSecret
	if len(texts) == 0 {
		return p.storedKeys(ctx, cfg, cookieStem), nil
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

func (p *relyingParty) storedKeys(ctx caddy.Context, cfg *Provider, cookieStem string) *storedKeys {
	storage := ctx.Storage()
	if disk, ok := storage.(*certmagic.FileStorage); ok {
		p.app.onStart(func() {
			p.logger.Warn("no cookie_secret is configured: the key that seals sessions is kept on this machine's disk, and instances elsewhere do not know it",
				zap.String("provider", p.name), zap.String("storage", disk.Path), zap.String("hint", howToMakeASecret))
		})
	}
	whose := sha256.Sum256([]byte(strings.Join([]string{p.client.Provider.Issuer(), p.client.ClientID, cookieStem}, "\x00")))
	return &storedKeys{
		storage:  storage,
		path:     "pkce_auth/keys/" + hex.EncodeToString(whose[:8]) + ".json",
		lifetime: time.Duration(cfg.Session.lifetime()),
		now:      func() time.Time { return p.now() },
		known:    &p.shared.keys,
		logger:   p.logger.With(zap.String("provider", p.name)),
	}
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
