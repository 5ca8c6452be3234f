package rp

import (
	"fmt"
	"net/url"
	"path"
	"strings"
)

// Quirk is what a provider needs that it does not say itself. Whatever an
// operator configures counts more.
type Quirk struct {
	// Name is the row's name, as the log says it; empty when none applies.
	Name string

	// Does says in words what the row changes, and Note what an operator should
	// know; both for the log. Either may be empty.
	Does, Note string

	// Refuse says why there is no login at that provider, and what to do.
	Refuse string

	// Scopes are the default scopes, where the usual ones are refused.
	Scopes []string

	// OfflineParam is the parameter that asks for a refresh token where a
	// scope does not.
	OfflineParam Param

	// ResponseMode is how the authorization response must come.
	ResponseMode string

	// ResourceOnRefresh sends the resources with refresh requests, too.
	ResourceOnRefresh bool

	// IssuerAlias is what else the issuer of ID tokens may be.
	IssuerAlias string

	// Logout is how to log out where the metadata name no endpoint for it.
	Logout LogoutStyle
}

// quirks are the known ones, by a pattern for the issuer's host, in
// the syntax of path.Match.
var quirks = []struct {
	host string
	Quirk
}{
	{host: "*.auth0.com", Quirk: Quirk{
		Name: "auth0", Logout: LogoutAuth0, // tenants made before 2023-11-14 do not advertise an end_session_endpoint
		Does: "logs out at /v2/logout if the metadata name no end_session_endpoint",
	}},
	{host: "cognito-idp.*.amazonaws.com", Quirk: cognito},
	{host: "cognito-idp.*.amazonaws.com.cn", Quirk: cognito},
	{host: "accounts.google.com", Quirk: Quirk{
		Name:         "google",
		OfflineParam: Param{Name: "access_type", Value: "offline"}, // there is no scope for it
		IssuerAlias:  "accounts.google.com",                        // of old, and still documented
		Does:         "asks for a refresh token with access_type=offline, which Google gives with the first consent only",
	}},
	{host: "login.microsoftonline.com", Quirk: entra},
	{host: "login.microsoftonline.us", Quirk: entra},
	{host: "login.partner.microsoftonline.cn", Quirk: entra},
	{host: "appleid.apple.com", Quirk: Quirk{
		Name: "apple", ResponseMode: ResponseModeFormPost, // the only one that Apple allows with name or email
		Scopes: []string{"openid", "email", "name"}, // it refuses profile
		Does:   "asks for the scopes openid, email and name, and for the response by form_post",
		Note:   "the client secret is a JWT that expires: let it be renewed in a file, and name that with {file./path}",
	}},
	{host: "*.logto.app", Quirk: Quirk{
		Name: "logto", ResourceOnRefresh: true,
		Does: "sends resource with refresh requests, too, without which Logto gives an opaque token",
	}},
	{host: "*.okta.com", Quirk: okta},
	{host: "*.oktapreview.com", Quirk: okta},
	{host: "gitlab.com", Quirk: Quirk{
		Name: "gitlab",
		Note: "a refresh token comes without the scope offline_access; ID tokens live for two minutes, which ends no session",
	}},
	{host: "github.com", Quirk: Quirk{
		Name:   "github",
		Refuse: "GitHub is no OpenID Provider: it has no ID tokens. Put one in front of it that logs in with GitHub, such as Dex, Keycloak or Auth0",
	}},
	{host: "www.linkedin.com", Quirk: Quirk{
		Name:   "linkedin",
		Refuse: "LinkedIn takes neither a nonce nor PKCE, so that a stolen code could be used by others. Put a provider in front of it that logs in with LinkedIn, such as Keycloak or Auth0",
	}},
}

var (
	cognito = Quirk{
		Name: "cognito", Logout: LogoutCognito, // the issuer is not the host of the endpoints
		Does: "logs out at Cognito's own /logout; a refresh token comes without the scope offline_access",
	}
	entra = Quirk{
		Name: "entra",
		Does: "takes the tenant of each user for the issuer's, at the issuers common and organizations",
		Note: "access tokens are for Microsoft Graph unless scopes name an API of yours, as api://<application>/<scope>; " +
			"claims_from reads those of version 2 only (accessTokenAcceptedVersion in the API's manifest)",
	}
	okta = Quirk{
		Name: "okta",
		Note: "access tokens of an issuer without /oauth2/ in its path are for Okta's own APIs; for yours, use a custom authorization server",
	}
)

// QuirkOf returns what is known of an issuer.
func QuirkOf(issuer string) Quirk {
	u, err := url.Parse(issuer)
	if err != nil {
		return Quirk{}
	}
	host := strings.ToLower(u.Hostname())
	for _, q := range quirks {
		if ok, _ := path.Match(q.host, host); ok {
			return q.Quirk
		}
	}
	return Quirk{}
}

// refusal is the error of a login that must not be.
func (q Quirk) refusal() error {
	if q.Refuse == "" {
		return nil
	}
	return fmt.Errorf("%w: %s", ErrMisconfigured, q.Refuse)
}
