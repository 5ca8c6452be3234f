package caddyauth

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/caddyserver/caddy/v2"
	"go.uber.org/zap"

	"github.com/pkce-auth/caddy-pkce-auth/caddyauth/internal/session"
)

func init() { caddy.RegisterModule(adminAPI{}) }

// adminAPI lets an operator see who is logged in, and end sessions, at Caddy's
// admin endpoint:
//
// Request | What it does
// --------|-------------
// `GET /pkce_auth/sessions` | lists the sessions that are in a store: who, when, at which provider; never a token
// `DELETE /pkce_auth/sessions?sub=…` | ends sessions; those in cookies, too
// `DELETE /pkce_auth/sessions/<id>` | ends one
//
// The filters are `sub`, `sid` and `provider`, singly or together; sessions in
// cookies are ended by `sub` or by `sid`, not by both.
type adminAPI struct{}

// CaddyModule returns the Caddy module information.
func (adminAPI) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "admin.api.pkce_auth",
		New: func() caddy.Module { return new(adminAPI) },
	}
}

const adminSessions = "/pkce_auth/sessions"

// Routes implements caddy.AdminRouter.
func (a *adminAPI) Routes() []caddy.AdminRoute {
	return []caddy.AdminRoute{
		{Pattern: adminSessions, Handler: caddy.AdminHandlerFunc(a.sessions)},
		{Pattern: adminSessions + "/", Handler: caddy.AdminHandlerFunc(a.oneSession)},
	}
}

// running are the apps that serve now; the last is that of the newest
// configuration.
var running struct {
	mu   sync.Mutex
	apps []*App
}

func (a *App) nowRuns() {
	running.mu.Lock()
	defer running.mu.Unlock()
	running.apps = append(running.apps, a)
}

func (a *App) runsNoMore() {
	running.mu.Lock()
	defer running.mu.Unlock()
	running.apps = slices.DeleteFunc(running.apps, func(other *App) bool { return other == a })
}

// runningParties are the providers of the configuration in use, each once
// whose sessions are told apart.
func runningParties() []*relyingParty {
	running.mu.Lock()
	defer running.mu.Unlock()
	if len(running.apps) == 0 {
		return nil
	}
	var parties []*relyingParty
	for _, party := range running.apps[len(running.apps)-1].parties {
		parties = append(parties, party)
	}
	slices.SortFunc(parties, func(a, b *relyingParty) int { return strings.Compare(a.name, b.name) })
	return parties
}

// adminTime bounds one request.
const adminTime = 30 * time.Second

// listedSession is a session as an operator sees it.
type listedSession struct {
	ID         string    `json:"id"` // names the session to this API, and opens nothing
	Provider   string    `json:"provider"`
	Subject    string    `json:"sub,omitempty"`
	ProviderID string    `json:"sid,omitempty"`
	Created    time.Time `json:"created"`
	Seen       time.Time `json:"last_seen"` // in steps of a tenth of the idle time
	Expires    time.Time `json:"expires"`   // if it is not used again
}

// sessions lists sessions, or ends them.
func (a *adminAPI) sessions(w http.ResponseWriter, r *http.Request) error {
	who, provider, err := readFilter(r.URL.RawQuery)
	if err != nil {
		return caddy.APIError{HTTPStatus: http.StatusBadRequest, Err: err}
	}
	ctx, cancel := context.WithTimeout(r.Context(), adminTime)
	defer cancel()
	parties := runningParties()
	if provider != "" {
		parties = slices.DeleteFunc(parties, func(p *relyingParty) bool { return p.name != provider })
		if len(parties) == 0 {
			return caddy.APIError{HTTPStatus: http.StatusNotFound, Err: fmt.Errorf("no provider %q is in use", provider)}
		}
	}
	switch r.Method {
	case http.MethodGet:
		return listSessions(ctx, w, parties, who)
	case http.MethodDelete:
		if who == (session.Selector{}) && provider == "" {
			return caddy.APIError{HTTPStatus: http.StatusBadRequest, Err: errors.New("say whose sessions are to end: sub, sid or provider")}
		}
		return endSessions(ctx, w, parties, who)
	default:
		return methodNotAllowed(w, "GET, DELETE")
	}
}

func methodNotAllowed(w http.ResponseWriter, allow string) error {
	w.Header().Set("Allow", allow)
	return caddy.APIError{HTTPStatus: http.StatusMethodNotAllowed, Err: errors.New("the methods are " + allow)}
}

// readFilter wants to understand all of a query: a filter that is misspelt must
// not end the sessions of everybody.
func readFilter(query string) (who session.Selector, provider string, err error) {
	values, err := url.ParseQuery(query)
	if err != nil {
		return who, "", err
	}
	into := map[string]*string{"sub": &who.Subject, "sid": &who.ProviderID, "provider": &provider}
	for name, given := range values {
		field, ok := into[name]
		if !ok || len(given) != 1 || given[0] == "" {
			return who, "", fmt.Errorf("%s: the filters are sub, sid and provider, each once and with a value", name)
		}
		*field = given[0]
	}
	return who, provider, nil
}

func listSessions(ctx context.Context, w http.ResponseWriter, parties []*relyingParty, who session.Selector) error {
	answer := struct {
		Sessions []listedSession `json:"sessions"`

		// Unlisted are the providers whose sessions are in cookies, where
		// nobody but the browsers has them.
		Unlisted []string `json:"unlisted_providers,omitempty"`
	}{Sessions: []listedSession{}}
	listed := map[string]bool{}
	for _, p := range parties {
		if p.sessions.stored == nil {
			answer.Unlisted = append(answer.Unlisted, p.name)
			continue
		}
		found, err := p.sessions.stored.Sessions(ctx, who)
		if err != nil {
			return caddy.APIError{HTTPStatus: http.StatusServiceUnavailable, Err: fmt.Errorf("provider %s: %w", p.name, err)}
		}
		for _, s := range found {
			if listed[s.Handle] {
				continue
			}
			listed[s.Handle] = true
			answer.Sessions = append(answer.Sessions, listedSession{
				ID: s.Handle, Provider: p.name, Subject: s.Subject, ProviderID: s.ProviderID,
				Created: s.Created.UTC(), Seen: s.Seen.UTC(), Expires: s.Expires.UTC(),
			})
		}
	}
	slices.SortFunc(answer.Sessions, func(a, b listedSession) int { return a.Created.Compare(b.Created) })
	return writeAdminJSON(w, answer)
}

// endSessions ends sessions of all the providers, or fails; what is ended by
// then stays so.
func endSessions(ctx context.Context, w http.ResponseWriter, parties []*relyingParty, who session.Selector) error {
	for _, p := range parties {
		if p.sessions.stored == nil && who.Subject != "" && who.ProviderID != "" {
			return caddy.APIError{HTTPStatus: http.StatusBadRequest, Err: fmt.Errorf("provider %s: %w", p.name, errBoth)}
		}
	}
	revoked := 0
	for _, p := range parties {
		ended, err := p.endSessionsOf(ctx, who)
		revoked += ended.inStore
		if err != nil {
			return caddy.APIError{HTTPStatus: http.StatusServiceUnavailable, Err: fmt.Errorf("provider %s, after %d sessions: %w", p.name, revoked, err)}
		}
		p.logger.Info("sessions ended by an operator", zap.String("provider", p.name), zap.String("sub", who.Subject), zap.String("sid", who.ProviderID),
			zap.Int("in_store", ended.inStore), zap.Int("requests_cut", ended.cut))
	}
	return writeAdminJSON(w, map[string]int{"revoked": revoked})
}

// oneSession ends the session of an ID, as the list gives it.
func (a *adminAPI) oneSession(w http.ResponseWriter, r *http.Request) error {
	if r.Method != http.MethodDelete {
		return methodNotAllowed(w, "DELETE")
	}
	id := strings.TrimPrefix(r.URL.Path, adminSessions+"/")
	if !session.IsHandle(id) {
		return caddy.APIError{HTTPStatus: http.StatusNotFound, Err: errors.New("no session has that ID")}
	}
	ctx, cancel := context.WithTimeout(r.Context(), adminTime)
	defer cancel()
	revoked := 0
	for _, p := range runningParties() {
		if p.sessions.stored == nil || revoked > 0 {
			continue
		}
		found, err := p.endHandle(ctx, id)
		if err != nil {
			return caddy.APIError{HTTPStatus: http.StatusServiceUnavailable, Err: fmt.Errorf("provider %s: %w", p.name, err)}
		}
		if found {
			revoked++
		}
	}
	return writeAdminJSON(w, map[string]int{"revoked": revoked})
}

// endHandle ends the session of a handle, if it is one of this provider's.
func (p *relyingParty) endHandle(ctx context.Context, handle string) (found bool, err error) {
	s, err := p.sessions.stored.Summary(ctx, handle)
	if err != nil || s == nil {
		return false, err
	}
	err = errors.Join(p.sessions.revocations.Revoke(ctx, handle), p.sessions.stored.End(ctx, handle))
	cut := p.cutRevoked()
	if err != nil {
		return false, err
	}
	p.logger.Info("session ended by an operator", zap.String("provider", p.name), zap.String("sub", s.Subject), zap.Int("requests_cut", cut))
	return true, nil
}

func writeAdminJSON(w http.ResponseWriter, answer any) error {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	return json.NewEncoder(w).Encode(answer)
}

// Interface guards
var _ caddy.AdminRouter = (*adminAPI)(nil)
