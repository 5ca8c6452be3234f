package caddyauth

import (
	"fmt"
	"io"
	"mime"
	"net/http"
	"net/url"

	"github.com/pkce-auth/caddy-pkce-auth/caddyauth/internal/rp"
)

// With response_mode form_post, the authorization response comes in a form
// that a page of the provider has the browser post (OAuth 2.0 Form Post
// Response Mode). Browsers send no SameSite=Lax cookie with it: that of the
// login says None, and the session's is not there.

// maxForm bounds a form that is posted to an endpoint.
const maxForm = 16 << 10

// readForm reads a form. If it is none, the status says why (R37): no page of a
// provider's, and no provider, sent it, so nobody needs more.
func readForm(r *http.Request) (text string, status int) {
	if mediaType, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || mediaType != "application/x-www-form-urlencoded" {
		return "", http.StatusUnsupportedMediaType
	}
	body, err := io.ReadAll(io.LimitReader(r.Body, maxForm+1))
	switch {
	case err != nil:
		return "", http.StatusBadRequest
	case len(body) > maxForm:
		return "", http.StatusRequestEntityTooLarge
	default:
		return string(body), 0
	}
}

// errStateNotPosted says that a callback comes for the second time, by
// redirectPost, because its login state was not there the first time.
var errStateNotPosted = fmt.Errorf("%w: it did not come with the provider's form", errStateGone)

// redirectPost has the browser come again with a GET, which carries the
// session's cookie: who is logged in is led on like anybody else. The code
// stays behind.
func (p *relyingParty) redirectPost(w http.ResponseWriter, at origin, response *rp.AuthResponse) {
	q := url.Values{"state": {response.State}}
	if response.Error != nil {
		q.Set("error", response.Error.Code)
	}
	if iss := response.Issuer(); iss != "" {
		q.Set("iss", iss)
	}
	redirect(w, http.StatusSeeOther, p.redirectURI(at)+"?"+q.Encode())
}
