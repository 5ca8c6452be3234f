package rp

import (
	"context"
	"errors"
	"fmt"
	"mime"
	"net/http"
	"slices"
	"strings"

	"github.com/pkce-auth/caddy-pkce-auth/caddyauth/internal/claims"
)

// userinfo asks the provider what it knows of the user (OpenID Connect Core
// section 5.3). The answer must be about the subject, if that is known: else
// it may be somebody else's, and is not used (section 5.3.2).
//
// Claims that it says stand elsewhere (section 5.6.2) are not fetched: the
// address would be the answer's choice.
func (c *Client) userinfo(ctx context.Context, m *Metadata, access Secret, subject string) (claims.Set, error) {
	if m.UserinfoEndpoint == "" {
		return claims.Set{}, fmt.Errorf("%w: the provider has no userinfo endpoint: set userinfo off", ErrMisconfigured)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, m.UserinfoEndpoint, nil)
	if err != nil {
		return claims.Set{}, fmt.Errorf("%w: userinfo endpoint: not a URL", ErrMisconfigured)
	}
	req.Header.Set("Authorization", "Bearer "+access.Reveal())
	req.Header.Set("Accept", "application/json, application/jwt;q=0.9")
	req.Close = true // see post
	resp, err := c.Provider.caller.do(req, maxUserinfoSize)
	if err != nil {
		return claims.Set{}, err
	}
	if resp.status != http.StatusOK {
		return claims.Set{}, statusError(resp.status)
	}
	set, err := c.readUserinfo(ctx, m, resp)
	if err != nil {
		return claims.Set{}, err
	}
	return set, checkUserinfoSubject(set, subject)
}

// checkUserinfoSubject wants claims about the subject; about anybody, where
// that is not known.
func checkUserinfoSubject(set claims.Set, subject string) error {
	switch sub, err := set.Text("sub"); {
	case err != nil:
		return fmt.Errorf("%w: sub: %w", ErrInvalid, err)
	case subject != "" && sub != subject:
		return fmt.Errorf("%w: sub: is another user than the ID token's", ErrInvalid)
	default:
		return nil
	}
}

// readUserinfo reads the answer, which is JSON, or a JWT whose signature,
// issuer and audience must be right.
func (c *Client) readUserinfo(ctx context.Context, m *Metadata, resp *response) (claims.Set, error) {
	mediaType, _, _ := mime.ParseMediaType(resp.header.Get("Content-Type"))
	body := resp.body
	switch mediaType {
	case "application/json":
	case "application/jwt":
		var err error
		if body, err = c.verifyJWT(ctx, m, string(body)); err != nil {
			return claims.Set{}, err
		}
	default:
		return claims.Set{}, fmt.Errorf("%w: content type %.60q is neither application/json nor application/jwt", ErrInvalid, mediaType)
	}
	set, err := claims.Parse(body, guardedClaims...)
	if err != nil {
		return claims.Set{}, fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	if mediaType == "application/json" {
		return set, nil
	}
	if iss, err := set.Text("iss"); err != nil || !c.IsIssuer(m, iss) {
		return claims.Set{}, fmt.Errorf("%w: iss: is not the provider", ErrInvalid)
	}
	if aud, err := set.Texts("aud"); err != nil || !slices.Contains(aud, c.ClientID) {
		return claims.Set{}, fmt.Errorf("%w: aud: does not name our client ID", ErrInvalid)
	}
	return set, nil
}

// verifyJWT verifies the signature of a JWT that is not an ID token, and
// returns its payload.
func (c *Client) verifyJWT(ctx context.Context, m *Metadata, jwt string) ([]byte, error) {
	if len(jwt) > maxUserinfoSize || !compactJWS.MatchString(jwt) {
		return nil, fmt.Errorf("%w: not a signed JWT in compact serialization", ErrInvalid)
	}
	payload, _, err := c.Provider.keys.verify(ctx, &signedBy{uri: m.JWKSURI, algorithms: asymmetric}, jwt)
	return payload, err
}

// accessTokenTypes are the types in the header of an access token (RFC 9068
// section 2.1), and what was usual before that.
var accessTokenTypes = []string{"", "jwt", "at+jwt", "application/at+jwt"}

// accessTokenClaims verifies an access token, and returns what it says, about
// the subject if that is known. It is not meant for us (OAuth 2.1 section 1.4),
// and says nothing of whether we are its audience; but some providers keep
// roles there and nowhere else. It came straight from the token endpoint.
func (c *Client) accessTokenClaims(ctx context.Context, m *Metadata, access Secret, subject string) (claims.Set, error) {
	set, err := c.readAccessToken(ctx, m, access.Reveal())
	if err == nil {
		err = c.checkAccessTokenClaims(m, set, subject)
	}
	if err != nil {
		return claims.Set{}, &CheckError{Check: checkOfAccessToken, Err: err}
	}
	return set, nil
}

func (c *Client) readAccessToken(ctx context.Context, m *Metadata, raw string) (claims.Set, error) {
	if !compactJWS.MatchString(raw) {
		return claims.Set{}, fmt.Errorf("%w: it is not a JWT, so that claims_from cannot read it: set audience or resource, or take access_token out", ErrMisconfigured)
	}
	header, err := jwtHeader(raw)
	if err != nil {
		return claims.Set{}, fmt.Errorf("header: %w", err)
	}
	if typ, err := header.Text("typ"); !slices.Contains(accessTokenTypes, strings.ToLower(typ)) || err != nil && !errors.Is(err, claims.ErrMissing) {
		return claims.Set{}, fmt.Errorf("typ %.32q is that of another kind of token", typ)
	}
	payload, err := c.verifyJWT(ctx, m, raw)
	if err != nil {
		return claims.Set{}, err
	}
	return claims.Parse(payload, append(slices.Clip(guardedClaims), "client_id")...)
}

func (c *Client) checkAccessTokenClaims(m *Metadata, set claims.Set, subject string) error {
	if iss, err := set.Text("iss"); err != nil || !c.IsIssuer(m, iss) {
		return errors.New("iss: is not the provider")
	}
	if exp, err := set.Time("exp"); err != nil || !c.Provider.now().Before(exp.Add(c.clockSkew())) {
		return errors.New("exp: is missing, or passed")
	}
	for _, name := range []string{"client_id", "azp"} {
		if id, err := set.Text(name); !errors.Is(err, claims.ErrMissing) && id != c.ClientID {
			return fmt.Errorf("%s: is not our client ID", name)
		}
	}
	if sub, err := set.Text("sub"); subject != "" && (err != nil || sub != subject) {
		return errors.New("sub: is another user")
	}
	return nil
}
