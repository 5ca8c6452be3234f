package provider

import (
	"net/http"
	"net/url"
	"strings"
)

// Faults is what the provider does wrong. Each field is a switch: nil or
// false is honest.
type Faults struct {
	// Answer takes an endpoint over: it answers, or returns false to let the
	// endpoint do so.
	Answer map[string]func(http.ResponseWriter, *http.Request) bool

	// Metadata changes the metadata document.
	Metadata func(doc map[string]any)

	// Keys changes the published keys.
	Keys func(keys []any) []any

	// Callback changes the authorization response.
	Callback func(q url.Values)

	// IDToken changes header and claims before they are signed.
	IDToken func(header, claims map[string]any)

	// SignedIDToken changes the token after it was signed.
	SignedIDToken func(token string) string

	// TokenResponse changes the token response.
	TokenResponse func(doc map[string]any)

	// Userinfo changes the answer of the userinfo endpoint.
	Userinfo func(claims map[string]any)

	// RefreshResponse changes the answer to a refresh request.
	RefreshResponse func(doc map[string]any)

	// RefreshedIDToken changes the claims of an ID token that comes with a
	// refresh; IDToken changes it, too.
	RefreshedIDToken func(claims map[string]any)

	// KeepRefreshTokens does not rotate: the answer has no refresh token, and
	// the old one stays good.
	KeepRefreshTokens bool

	// IgnoreTargets has a refresh ignore the audience, the resource and the scope
	// that it asks for, and give a token for what the login asked for, as Auth0
	// does for what is not in its policy.
	IgnoreTargets bool

	// RefuseTarget refuses what an authorization or token request asks for, with
	// the error that it returns; none lets it pass. A refresh token is not spent by
	// that.
	RefuseTarget func(endpoint string, request url.Values) (code string)

	// IgnorePKCE accepts any code verifier, and none.
	IgnorePKCE bool

	// ReuseCodes accepts a code as often as it comes.
	ReuseCodes bool
}

// Status answers an endpoint with a status and a body.
func Status(code int, contentType, body string) func(http.ResponseWriter, *http.Request) bool {
	return func(w http.ResponseWriter, _ *http.Request) bool {
		w.Header().Set("Content-Type", contentType)
		w.WriteHeader(code)
		_, _ = w.Write([]byte(body))
		return true
	}
}

// Redirect answers an endpoint with a redirect.
func Redirect(code int, to string) func(http.ResponseWriter, *http.Request) bool {
	return func(w http.ResponseWriter, _ *http.Request) bool {
		w.Header().Set("Location", to)
		w.WriteHeader(code)
		return true
	}
}

// Noise is text that does not compress, of so many bytes.
func (p *Provider) Noise(n int) string {
	var b strings.Builder
	for b.Len() < n {
		b.WriteString(randomText())
	}
	return b.String()[:n]
}
