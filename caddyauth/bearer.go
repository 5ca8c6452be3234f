package caddyauth

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/pkce-auth/caddy-pkce-auth/caddyauth/internal/rp"
	"github.com/pkce-auth/caddy-pkce-auth/caddyauth/internal/session"
)

// API clients have no browser to log in with: they bring an access token of
// their own, which a route may accept. Such a token decides alone. No cookie
// beside it is looked at, none is set, nothing is refreshed, and what it lets
// in leaves no session behind.

// BearerConfig says which access tokens a route accepts from clients.
type BearerConfig struct {
	// Audiences of access tokens that clients may bring in `Authorization:
	// Bearer` in place of a session: a JWT of the provider, signed with its keys,
	// whose `aud` names one of these (RFC 9068, RFC 6750 section 2.1). ID tokens,
	// opaque tokens and those that are bound to a key of their client (DPoP,
	// mutual TLS) are refused with 401. The client ID cannot be one of them.
	// Default: none, and whatever clients bring is removed.
	AcceptBearer []string `json:"accept_bearer,omitempty"`
}

func (c *BearerConfig) validate() error {
	if slices.Contains(c.AcceptBearer, "") {
		return misconfigured("accept_bearer", "an audience must not be empty: write the API's identifier, as accept_bearer https://api.example.com")
	}
	return nil
}

// validateAudiences says what is wrong at this provider, as far as it can be told
// before placeholders have values.
func (c *BearerConfig) validateAudiences(p *Provider) error {
	if slices.Contains(c.AcceptBearer, p.ClientID) {
		return audienceOfIDTokens(p.ClientID)
	}
	return nil
}

func audienceOfIDTokens(audience string) error {
	return misconfigured("accept_bearer", "%s is the client ID, which is the audience of ID tokens: name an API of its own at the provider, and write its identifier", audience)
}

// load makes the audiences at work; nil when no tokens are accepted.
func (c *BearerConfig) load(client *rp.Client) (*rp.ResourceServer, error) {
	if len(c.AcceptBearer) == 0 {
		return nil, nil
	}
	s := &rp.ResourceServer{Client: client}
	for _, text := range c.AcceptBearer {
		audience, err := resolve(text)
		switch {
		case err != nil:
			return nil, misconfigured("accept_bearer", "%v", err)
		case audience == "":
			return nil, misconfigured("accept_bearer", "%s is empty", text)
		case audience == client.ClientID:
			return nil, audienceOfIDTokens(text)
		}
		s.Audiences = append(s.Audiences, audience)
	}
	return s, nil
}

// errTwoCredentials says that a request's Authorization reads in two ways, or
// in none.
var errTwoCredentials = errors.New("malformed Authorization: not exactly one access token")

// broughtToken reads Authorization header lines. The token is empty where they
// hold none, but perhaps credentials of another scheme, which are no concern of
// ours. Which of two lines an upstream or a proxy would take for the token
// cannot be told, so there must be one (RFC 9110 section 11.6.2).
func broughtToken(lines []string) (rp.Secret, error) {
	if !slices.ContainsFunc(lines, isBearer) {
		return rp.Secret{}, nil
	}
	token := strings.TrimLeft(lines[0][min(len(bearerScheme), len(lines[0])):], " ")
	if len(lines) > 1 || !isToken68(token) {
		return rp.Secret{}, errTwoCredentials
	}
	return rp.NewSecret(token), nil
}

const bearerScheme = "Bearer"

func isBearer(line string) bool {
	scheme, _, _ := strings.Cut(line, " ")
	return strings.EqualFold(scheme, bearerScheme)
}

// isToken68 wants the syntax of RFC 6750 section 2.1, where nothing stands that
// separates two tokens.
func isToken68(text string) bool {
	text = strings.TrimRight(text, "=")
	return text != "" && !strings.ContainsFunc(text, func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && !strings.ContainsRune("-._~+/", r)
	})
}

// examineBearer finds out whether a request brings an access token, and what it
// is worth. If there was anything to look at, no cookie is. An error says that it
// cannot be told now.
func (h *Handler) examineBearer(r *http.Request, a *authState, f *facts) error {
	if h.bearer == nil {
		if a.brought { // to a handler before this one, which accepts what this one does not
			h.disown(r, a)
		}
		return nil
	}
	raw, err := broughtToken(a.authorization)
	if raw.Empty() && err == nil {
		return nil
	}
	h.disown(r, a)
	a.brought, f.brought = true, true
	ctx := r.Context()
	if f.bypassed {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, unneededTime)
		defer cancel()
	}
	var token *rp.AccessToken
	if err == nil {
		token, err = h.bearer.Verify(ctx, raw)
	}
	switch {
	case err == nil:
		f.session = session.Brought(token, raw)
	case f.bypassed, errors.Is(err, errTwoCredentials), errors.Is(err, rp.ErrInvalid):
		f.why = err
	default:
		return fmt.Errorf("verifying an access token: %w", err)
	}
	return nil
}

// disown takes back what a handler before this one has made of the request: who
// it is from is decided anew.
func (h *Handler) disown(r *http.Request, a *authState) {
	if a.session != nil {
		h.party.disown(r, a)
	}
	a.session, a.brought = nil, false
}

// refuseBearer answers a request whose access token is no good (RFC 6750 section
// 3.1). Why it is not, the log says: to a client that has the token from the
// provider, 401 means to get another; any other need not know. There is no
// login to go to, for no person asked.
func (h *Handler) refuseBearer(w http.ResponseWriter, r *http.Request, why error) error {
	p := h.party
	f := failure{reason: reasonToken, err: why}
	status, code := http.StatusUnauthorized, "invalid_token"
	if errors.Is(why, errTwoCredentials) {
		status, code = http.StatusBadRequest, "invalid_request"
	}
	p.log(r, &f)
	a, _ := p.authState(r)
	a.reason, a.result = f.reason, resultDenied
	authored(w.Header())
	w.Header().Set("WWW-Authenticate", "Bearer realm="+quoted(p.name)+", error="+quoted(code))
	public := caddyhttp.Error(status, errors.New(texts[f.reason].title))
	if errorRouteMatches(r, public) {
		return public
	}
	p.writeJSON(w, status, map[string]string{"error": code, "id": f.id})
	return nil
}

// errTokenOver says that the access token has expired which let a stream in.
var errTokenOver = fmt.Errorf("%w: the access token that came with it has expired", session.ErrEnded)

// endsWithToken has what goes on without an end, a WebSocket or a stream of
// events, end with the access token that let it in: nothing else would, for it
// belongs to no session. Any other answer is let finish.
func (w *responseWriter) endsWithToken(status int, h http.Header) {
	mediaType, _, _ := strings.Cut(h.Get("Content-Type"), ";")
	endless := status == http.StatusSwitchingProtocols || w.auth.request.Method == http.MethodConnect ||
		strings.EqualFold(strings.TrimSpace(mediaType), "text/event-stream")
	if endless && w.live.timer == nil {
		w.live.timer = time.AfterFunc(w.auth.session.TokenExpiry.Sub(w.auth.party.now()), func() { w.live.cut(errTokenOver) })
	}
}
