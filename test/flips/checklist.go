package main

import (
	"fmt"
	"slices"
)

// packageDir is where the checklist stands, in the module's directory.
const packageDir = "caddyauth/internal/rp"

// files are those of the checklists: the checks of ID tokens and of logout
// tokens, those of access tokens that clients bring or that came for a target,
// and what becomes of the claims of other sources.
var files = []string{"candidate.go", "idtoken.go", "idtoken_asked.go", "logouttoken.go", "tenants.go", "userinfo.go", "identity.go", "resourceserver.go", "target.go"}

// quickly are the tests in which most flips die, and everything are all. Fuzz
// targets try their seeds as tests, which say nothing more. Quickly leaves out
// what takes longer than all the rest of it.
const (
	quickly    = `^Test.*(IDToken|M75|M70|M87A101|IDPS16|IDPS28|IDPS29|IDPS38|Userinfo|R10|R57|ClaimSources|IdentifyAgain|IdentityWithout|QuirkGoogle|Checklist|JWTHeader|M89|M90|Admits|R30|R31|Tenant|URLsThatAreNone|A73|Logout|M122|AccessToken|R57|A110|Brought|VerifiedTokens|Target)`
	slowly     = "^TestA102"
	everything = "^Test"
	none       = ""
)

// replacement stands in a row of the checklist in place of its check.
type replacement struct{ what, code string }

const accepts = `func(context.Context, *candidate) error { return nil }`

// rowsInstead are the checks that also read what later ones need: without that,
// every token would be refused. They are replaced by reading without checking.
var rowsInstead = map[string][]replacement{
	"header": {{"accepts every header", `func(_ context.Context, t *candidate) error {
		header, _ := jwtHeader(t.raw)
		t.algorithm, _ = header.Text("alg")
		return nil
	}`}},
	"signature": {{"believes the payload", `func(_ context.Context, t *candidate) error {
		t.payload = believedPayload(t.raw)
		return nil
	}`}},
	"claims": {
		{"guards no name", `func(_ context.Context, t *candidate) (err error) {
			t.claims, err = claims.Parse(t.payload)
			return err
		}`},
		{"accepts what it cannot read", `func(_ context.Context, t *candidate) error {
			t.claims, _ = claims.Parse(t.payload, t.kind.guarded...)
			return nil
		}`},
	},
}

// equivalents are flips that change nothing which anybody could see, by their
// keys, each with the reason. They are not tried.
var equivalents = map[string]string{
	`VerifyIDToken: no error in return nil, &CheckError{Check: "sub", Err: err}`: hasSubject,
	`VerifyIDToken: going on at return nil, &CheckError{Check: "sub", Err: err}`: hasSubject,

	`admitsOrganization: without idErr == nil`: "an ID that cannot be read is empty, and does not begin with org_",
	`sessionExpiry: without !ok`:               "what is no whole number leaves the seconds 0, which counts as none as well",
	`NeedsTenants: without err != nil`:         "of an issuer that is no URL there is no quirk either",

	`audiences: len(parts) >= 1`: "the only part of an audience is the audience, but for space around it, which providers leave out",
	`IdentifyTarget: no error in return Whose{Subject: token.Subject, Issuer: issuer}, err`: "the row iss has read the claim before: this error cannot be",
	`peek: no error in return claims.Set{}, true, fmt.Errorf("header: %w", err)`:            noClaims,
	`peek: no error in return claims.Set{}, true, fmt.Errorf("payload: %w", err)`:           noClaims,
	`peek: no error in return claims.Set{}, true, fmt.Errorf("claims: %w", err)`:            noClaims,

	`checkAccessTokenKind: without err != nil`: "what is no text is empty, and not the word that is wanted",

	`readUserinfo: without err != nil`:               "an issuer that cannot be read is empty, and no provider's",
	`readUserinfo: without err != nil (2)`:           "an audience that cannot be read is empty, and does not name us",
	`checkAccessTokenClaims: without err != nil`:     "an issuer that cannot be read is empty, and no provider's",
	`checkAccessTokenClaims: without err != nil (2)`: "a date that cannot be read is the zero time, which has passed",
	`checkAccessTokenClaims: without err != nil (3)`: "a subject that cannot be read is empty, and not the one that is known",
}

const (
	hasSubject = "the row sub has read the claim before: this error cannot be"
	noClaims   = "claims that cannot be read are none: they name no audience, and no subject"
)

// stale finds those that are in no file any longer.
func stale(flips []flip) error {
	for key := range equivalents {
		if !slices.ContainsFunc(flips, func(f flip) bool { return f.key() == key }) {
			return fmt.Errorf("%q is a flip no longer: take it out of the equivalents", key)
		}
	}
	return nil
}
