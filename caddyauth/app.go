package caddyauth

import (
	"context"
	"fmt"
	"regexp"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/caddyserver/caddy/v2"
	"go.uber.org/zap"
)

func init() { caddy.RegisterModule(App{}) }

// defaultProvider is the name of the provider that handlers refer to which
// name none.
const defaultProvider = "default"

// App holds the OpenID Providers that handlers refer to by name. Several
// sites and routes that refer to one provider share its sessions, its keys
// and its metadata.
type App struct {
	// The providers, by name. Handlers that name none use the one called
	// `default`. A name may hold letters, digits, `-` and `_`.
	Providers map[string]*Provider `json:"providers,omitempty"`

	logger  *zap.Logger
	parties map[string]*relyingParty // by name, and inline ones by their stem
	cleanup []func()
	start   []func()
	cancel  context.CancelFunc
	stopped *atomic.Bool
	storage *storageStore // Caddy's, where any provider keeps anything in it: it has to be swept
}

// CaddyModule returns the Caddy module information.
func (App) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "pkce_auth",
		New: func() caddy.Module { return new(App) },
	}
}

var providerName = regexp.MustCompile(`^[A-Za-z0-9_-]{1,40}$`)

// Provision puts the declared providers to work. It makes no call.
func (a *App) Provision(ctx caddy.Context) error {
	a.logger = ctx.Logger()
	a.parties = make(map[string]*relyingParty)
	a.stopped = new(atomic.Bool)
	if err := registerMetrics(ctx); err != nil {
		return err
	}
	for name, cfg := range a.Providers {
		if !providerName.MatchString(name) {
			return fmt.Errorf("provider %q: a name may hold letters, digits, - and _", name)
		}
		if cfg == nil {
			return fmt.Errorf("provider %s: is empty", name)
		}
		party, err := newRelyingParty(ctx, a, name, cfg)
		if err != nil {
			return fmt.Errorf("provider %s: %w", name, err)
		}
		a.parties[name] = party
	}
	return nil
}

// named returns a declared provider.
func (a *App) named(name string) (*relyingParty, error) {
	if name == "" {
		name = defaultProvider
	}
	if party := a.parties[name]; party != nil {
		return party, nil
	}
	var names []string
	for declared := range a.Providers {
		names = append(names, declared)
	}
	slices.Sort(names)
	return nil, fmt.Errorf("no provider %q is declared (there are: %q); declare it in the app pkce_auth, or give the handler one inline", name, names)
}

// inline puts a handler's own provider to work. Handlers whose inline
// providers are the same get the same.
func (a *App) inline(ctx caddy.Context, cfg *Provider) (*relyingParty, error) {
	fingerprint, err := fingerprint(cfg)
	if err != nil {
		return nil, err
	}
	key := "inline " + fingerprint // no provider's name has a space
	if party := a.parties[key]; party != nil {
		cfg.ClientSecret, cfg.CookieSecret = "", nil
		return party, nil
	}
	party, err := newRelyingParty(ctx, a, "", cfg)
	if err != nil {
		return nil, err
	}
	a.parties[key] = party
	return party, nil
}

func (a *App) onStart(f func())   { a.start = append(a.start, f) }
func (a *App) onCleanup(f func()) { a.cleanup = append(a.cleanup, f) }

// Start looks at the providers in the background, so that the first login
// need not wait and an operator hears early of what is wrong. Nothing depends
// on the outcome: whoever needs a provider asks again.
func (a *App) Start() error {
	ctx, cancel := context.WithCancel(context.Background())
	a.cancel = cancel
	a.nowRuns()
	for _, f := range a.start {
		f()
	}
	if a.storage != nil {
		go a.storage.run(ctx, a.logger)
	}
	for _, party := range a.parties {
		go party.lookAhead(ctx)
		go party.sweepRegularly(ctx)
	}
	return nil
}

// Stop implements caddy.App.
func (a *App) Stop() error {
	a.runsNoMore()
	a.stopped.Store(true)
	a.cancel()
	if caddy.Exiting() {
		finishAll(context.Background())
	}
	return nil
}

// Cleanup gives back what Provision took.
func (a *App) Cleanup() error {
	for _, f := range a.cleanup {
		f()
	}
	a.cleanup = nil
	return nil
}

// ownCookies may be asked for before all providers are at work; what it
// returns may not be used before.
func (a *App) ownCookies() ownCookies {
	knows := func(secure bool) func(string) bool {
		custom := sync.OnceValue(func() []cookieNames { return a.customNames(secure) })
		return func(name string) bool { return isOwnCookie(name, custom()) }
	}
	return ownCookies{https: knows(true), http: knows(false)}
}

// customNames are the names of those providers' cookies that an operator
// chose.
func (a *App) customNames(secure bool) []cookieNames {
	var custom []cookieNames
	for _, party := range a.parties {
		if names := party.site.cookies(secure); !isOwnCookie(names.session, nil) {
			custom = append(custom, names)
		}
	}
	return custom
}

// sharing returns the provider whose tag stands in a login's state, if it has
// the same callback: the callback belongs to whoever began the login.
func (a *App) sharing(p *relyingParty, tag string) *relyingParty {
	for _, other := range a.parties {
		if other.logins.tag == tag && other.site.endpoints.callback == p.site.endpoints.callback {
			return other
		}
	}
	return p
}

// expectsForm reports whether the answer of any provider with that callback
// comes in a form: whose it is, the state in it says.
func (a *App) expectsForm(callback string) bool {
	for _, party := range a.parties {
		if party.logins.post && party.site.endpoints.callback == callback {
			return true
		}
	}
	return false
}

// Interface guards
var (
	_ caddy.App          = (*App)(nil)
	_ caddy.Provisioner  = (*App)(nil)
	_ caddy.CleanerUpper = (*App)(nil)
)
