package provider

import (
	"context"
	"crypto"
	"crypto/hmac"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"strings"
	"time"
)

// LogoutEvent is the member of "events" that makes a token a logout token
// (OpenID Connect Back-Channel Logout 1.0 section 2.4).
const LogoutEvent = "http://schemas.openid.net/event/backchannel-logout"

// logoutTokenLifetime is what the specification recommends.
const logoutTokenLifetime = 2 * time.Minute

// maxLogoutAnswer bounds what is read of a relying party's answer.
const maxLogoutAnswer = 1 << 20

// Login is a login that the provider has granted tokens for.
type Login struct {
	Client    string
	Subject   string
	SessionID string // the sid of the ID token
}

// Logins are those so far, in order.
func (p *Provider) Logins() []Login {
	p.mu.Lock()
	defer p.mu.Unlock()
	return append([]Login(nil), p.logins...)
}

// LogoutFault is one thing that is wrong with a logout token. The zero value is
// none.
type LogoutFault struct {
	// Change changes header and claims before they are signed.
	Change func(header, claims map[string]any)

	// Signed changes the token after it was signed.
	Signed func(token string) string
}

// LogoutToken makes a logout token for a client, about a subject, a session of
// the provider's, or both: what is empty is not named. It has a claim that
// nobody knows, for such claims must be ignored.
func (p *Provider) LogoutToken(client, sub, sid string, fault LogoutFault) string {
	now := p.cfg.Now()
	header := map[string]any{"typ": "logout+jwt"}
	claims := map[string]any{
		"iss": p.URL, "aud": client, "iat": now.Unix(), "exp": now.Add(logoutTokenLifetime).Unix(), "jti": "jti-" + randomText(),
		"events": map[string]any{LogoutEvent: map[string]any{}}, "trace_id": "ignored",
	}
	if sub != "" {
		claims["sub"] = sub
	}
	if sid != "" {
		claims["sid"] = sid
	}
	if fault.Change != nil {
		fault.Change(header, claims)
	}
	token := p.Sign(header, claims)
	if fault.Signed != nil {
		token = fault.Signed(token)
	}
	return p.issue(token)
}

// LogoutFaults are the ways in which a logout token can be wrong by itself, by
// the rows of the table of what providers do wrong. Each makes the token one
// that a relying party which has seen an ID token may not act on.
func (p *Provider) LogoutFaults() map[string]LogoutFault {
	faults := p.logoutEnvelopeFaults()
	maps.Copy(faults, p.logoutClaimFaults())
	return faults
}

// logoutClaimFaults are those of the claims.
func (p *Provider) logoutClaimFaults() map[string]LogoutFault {
	at := func(d time.Duration) int64 { return p.cfg.Now().Add(d).Unix() }
	return map[string]LogoutFault{
		"M123 no events":                LogoutClaim("events", nil),
		"M124 another event":            LogoutClaim("events", map[string]any{"http://schemas.openid.net/event/foobar": map[string]any{}}),
		"M125 a nonce":                  LogoutClaim("nonce", "the-nonce"),
		"M126 another audience":         LogoutClaim("aud", "another-client"),
		"M126 no audience":              LogoutClaim("aud", nil),
		"M127 another issuer":           LogoutClaim("iss", p.URL+"1"),
		"M127 no issuer":                LogoutClaim("iss", nil),
		"M128 no iat":                   LogoutClaim("iat", nil),
		"M128 issued an hour ago":       LogoutClaim("iat", at(-time.Hour)),
		"M128 issued in an hour":        LogoutClaim("iat", at(time.Hour)),
		"M129 no jti":                   LogoutClaim("jti", nil),
		"M129 an empty jti":             LogoutClaim("jti", ""),
		"M130 no exp":                   LogoutClaim("exp", nil),
		"M130 expired an hour ago":      LogoutClaim("exp", at(-time.Hour)),
		"M130 good for a year":          LogoutClaim("exp", at(365*24*time.Hour)),
		"M131 events in an array":       LogoutClaim("events", []any{LogoutEvent}),
		"M131 events as a string":       LogoutClaim("events", LogoutEvent),
		"M131 an event that is true":    LogoutClaim("events", map[string]any{LogoutEvent: true}),
		"M131 an event that is a text":  LogoutClaim("events", map[string]any{LogoutEvent: "{}"}),
		"M131 an event that is nothing": LogoutClaim("events", map[string]any{LogoutEvent: nil}),
		"M132 about nobody": {Change: func(_, claims map[string]any) {
			delete(claims, "sub")
			delete(claims, "sid")
		}},
		"M133 an ID token": {Change: func(header, claims map[string]any) {
			header["typ"] = "JWT"
			claims["nonce"] = "the-nonce"
			delete(claims, "events")
			delete(claims, "jti")
		}},
		"M133 the ID token of a refresh": {Change: func(header, claims map[string]any) {
			header["typ"] = "JWT"
			delete(claims, "events")
		}},
		"M133 an access token": {Change: func(header, claims map[string]any) {
			header["typ"] = "at+jwt"
			delete(claims, "events")
		}},
	}
}

// logoutEnvelopeFaults are those of the token around the claims.
func (p *Provider) logoutEnvelopeFaults() map[string]LogoutFault {
	return map[string]LogoutFault{
		"M121 alg none": {Signed: func(token string) string {
			return base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"none"}`)) + "." + strings.Split(token, ".")[1] + "."
		}},
		"M122 signed with the client secret":        {Signed: func(token string) string { return hs256(token, "s3cr:t%+é") }},
		"M122 signed with a published key":          {Signed: func(token string) string { return hs256(token, p.publishedKey()) }},
		"M122 signed in another way than ID tokens": LogoutHeader("alg", "ES256"), // as the conformance suite does
		"M122 said to be of another algorithm": {Signed: func(token string) string {
			_, rest, _ := strings.Cut(token, ".")
			return base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"ES256","typ":"logout+jwt"}`)) + "." + rest
		}},
		"M135 the typ of an access token":  LogoutHeader("typ", "at+jwt"),
		"M135 the typ of a security event": LogoutHeader("typ", "secevent+jwt"),
		"M135 a typ that is a number":      LogoutHeader("typ", 1),
		"M135 an empty typ":                LogoutHeader("typ", ""),
	}
}

// LogoutClaim is the fault of one claim: nil takes it out.
func LogoutClaim(name string, value any) LogoutFault {
	return LogoutFault{Change: func(_, claims map[string]any) { set(claims, name, value) }}
}

// LogoutHeader is the fault of one member of the header: nil takes it out.
func LogoutHeader(name string, value any) LogoutFault {
	return LogoutFault{Change: func(header, _ map[string]any) { set(header, name, value) }}
}

func set(members map[string]any, name string, value any) {
	if members[name] = value; value == nil {
		delete(members, name)
	}
}

// hs256 signs the claims of a token with a shared secret.
func hs256(token, secret string) string {
	signed := base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"HS256","typ":"logout+jwt"}`)) + "." + strings.Split(token, ".")[1]
	mac := hmac.New(crypto.SHA256.New, []byte(secret))
	mac.Write([]byte(signed))
	return signed + "." + base64.RawURLEncoding.EncodeToString(mac.Sum(nil))
}

// publishedKey is the JSON of a key that everybody can read.
func (p *Provider) publishedKey() string {
	data, err := json.Marshal(p.keys.public()[0])
	if err != nil {
		panic(err) // it was JSON a moment ago
	}
	return string(data)
}

// LogoutAnswer is what a relying party answers to a logout token.
type LogoutAnswer struct {
	Status int
	Header http.Header
	Body   string
}

// SendLogoutToken posts a logout token to a relying party's endpoint
// (Back-Channel Logout 1.0 section 2.5), with further parameters, if there are
// any: one that is named logout_token makes two of it. A redirect is an answer
// like any other. A nil client is one for plain HTTP.
func SendLogoutToken(ctx context.Context, client *http.Client, endpoint, token string, further url.Values) (*LogoutAnswer, error) {
	form := url.Values{"logout_token": {token}}
	for name, values := range further {
		form[name] = append(form[name], values...)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, endpoint, strings.NewReader(form.Encode()))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	own := http.Client{}
	if client != nil {
		own = *client
	}
	own.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	own.Jar = nil // a provider has no cookies of ours
	resp, err := own.Do(req)
	if err != nil {
		return nil, fmt.Errorf("sending a logout token: %w", err)
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxLogoutAnswer))
	if err != nil {
		return nil, fmt.Errorf("reading the answer to a logout token: %w", err)
	}
	return &LogoutAnswer{Status: resp.StatusCode, Header: resp.Header, Body: string(body)}, nil
}
