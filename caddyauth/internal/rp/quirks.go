package rp

import (
	"net/url"
	"path"
	"strings"
)

// Quirk is what a provider needs that it does not say itself.
type Quirk struct {
	// Name is the row's name, as the log says it; empty when none applies.
	Name string

	// OfflineParam is the parameter that asks for a refresh token where a
	// scope does not.
	OfflineParam Param

	// Logout is how to log out where the metadata name no endpoint for it.
	Logout LogoutStyle
}

// quirks are the known ones, by a pattern for the issuer's host, in the
// syntax of path.Match.
var quirks = []struct {
	host string
	Quirk
}{
	// Tenants made before 2023-11-14 do not advertise an end_session_endpoint.
	{"*.auth0.com", Quirk{Name: "auth0", Logout: LogoutAuth0}},
	// The issuer is not the host of the endpoints, and the logout is Cognito's
	// own. A refresh token comes without being asked for.
	{"cognito-idp.*.amazonaws.com", Quirk{Name: "cognito", Logout: LogoutCognito}},
	// There is no scope offline_access; a refresh token comes with the user's
	// first consent.
	{"accounts.google.com", Quirk{Name: "google", OfflineParam: Param{Name: "access_type", Value: "offline"}}},
}

func quirkOf(issuer string) Quirk {
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
