package session

import (
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"math/rand/v2"
	"strings"
	"time"

	"github.com/pkce-auth/caddy-pkce-auth/caddyauth/internal/claims"
	"github.com/pkce-auth/caddy-pkce-auth/caddyauth/internal/rp"
)

// A family is what the tokens of one kind of provider are like. What decides on
// the size of a cookie is how much of a token cannot be guessed: names of
// permissions hardly weigh, and the GUIDs of groups weigh 16 bytes each,
// whatever is done.
type family struct {
	name   string
	header string

	refresh func(d *draw, u *user) string

	// access and id give the payloads, with what makes large tokens large: a list,
	// which a mapper puts into both of them. Lean ones have what a token of the
	// kind never lacks.
	access, id func(d *draw, u *user, lean bool, list string) string
	entry      func(d *draw, i int) string
}

// user is what both tokens of a login say.
type user struct{ client, sid, oid, hash string }

// draw draws what is random in tokens: the same for each run, so that sizes are
// exact.
type draw struct{ *rand.Rand }

func newDraw(seed uint64) *draw { return &draw{rand.New(rand.NewPCG(seed, 7))} }

func (d *draw) bytes(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(d.Uint32())
	}
	return b
}

func (d *draw) b64(n int) string { return base64.RawURLEncoding.EncodeToString(d.bytes(n)) }
func (d *draw) hex(n int) string { return hex.EncodeToString(d.bytes(n)) }

func (d *draw) guid() string {
	h := d.hex(16)
	return h[:8] + "-" + h[8:12] + "-4" + h[13:16] + "-" + "89ab"[d.IntN(4):][:1] + h[17:20] + "-" + h[20:]
}

func (d *draw) of(words ...string) string { return words[d.IntN(len(words))] }

// unless gives a part of a payload that lean ones lack.
func unless(lean bool, part string) string {
	if lean {
		return ""
	}
	return part
}

const keycloakUser = `"5d0bb2e4-8a3f-4c7e-9a21-70cf1e0d4b66"`

var families = []family{
	{
		name:    "auth0",
		header:  `{"alg":"RS256","typ":"JWT","kid":"Nn3aVQxY1cKq8TzGd0w5E"}`,
		refresh: func(d *draw, _ *user) string { return "v1." + d.b64(30) },
		access: func(_ *draw, u *user, lean bool, list string) string {
			return `{"iss":"https://shop-prod.eu.auth0.com/","sub":"auth0|65f1c09b7ad2e4f0c81b3a97","aud":["https://api.shop.example","https://shop-prod.eu.auth0.com/userinfo"],` +
				`"iat":1800000000,"exp":1800086400,"scope":"openid profile email offline_access"` + unless(lean, `,"org_id":"org_`+u.hash[:16]+`"`) + `,"azp":"` + u.client + `","permissions":[` + list + `]}`
		},
		id: func(d *draw, u *user, lean bool, list string) string {
			return `{` + unless(lean, `"https://shop.example/permissions":[`+list+`],"nickname":"maria.lindqvist","name":"Maria Lindqvist","picture":"https://s.gravatar.com/avatar/`+u.hash+
				`?s=480&r=pg&d=https%3A%2F%2Fcdn.auth0.com%2Favatars%2Fml.png","updated_at":"2027-01-14T09:31:22.481Z",`) + `"email":"maria.lindqvist@shop.example","email_verified":true,` +
				`"iss":"https://shop-prod.eu.auth0.com/","aud":"` + u.client + `","sub":"auth0|65f1c09b7ad2e4f0c81b3a97","iat":1800000000,"exp":1800036000,"sid":"` + u.sid + `","nonce":"` + d.b64(32) + `"}`
		},
		entry: func(d *draw, i int) string {
			return d.of("read", "create", "update", "delete", "export") + ":" + d.of("orders", "invoices", "customers", "reports", "stock", "returns", "vouchers", "suppliers") +
				d.of("", "", "-archive", "-drafts", "_"+fmt.Sprint(i))
		},
	},
	{
		name:   "keycloak",
		header: `{"alg":"RS256","typ" : "JWT","kid" : "FJ86GcF3jTbNLOco4NvZkUCIUmfYCqoqtOQeMfbhNlE"}`,
		refresh: func(d *draw, u *user) string {
			return b64(`{"alg":"HS512","typ" : "JWT","kid" : "`+d.guid()+`"}`) + "." + b64(`{"exp":1800001800,"iat":1800000000,"jti":"`+d.guid()+
				`","iss":"https://login.shop.example/realms/shop","aud":"https://login.shop.example/realms/shop","sub":`+keycloakUser+`,"typ":"Offline","azp":"shop-web","sid":"`+u.oid+
				`","scope":"openid email profile offline_access roles"}`) + "." + d.b64(64)
		},
		access: func(d *draw, u *user, lean bool, list string) string {
			return `{"exp":1800000300,"iat":1800000000,"auth_time":1799999990,"jti":"onrtac:` + d.guid() + `","iss":"https://login.shop.example/realms/shop"` +
				unless(lean, `,"aud":["orders","account"],"sub":`+keycloakUser) + `,"typ":"Bearer","azp":"shop-web","sid":"` + u.oid + `"` +
				unless(lean, `,"acr":"1","allowed-origins":["https://app.shop.example"],"realm_access":{"roles":["offline_access","uma_authorization","default-roles-shop"]},`+
					`"resource_access":{"orders":{"roles":[`+list+`]},"account":{"roles":["manage-account","manage-account-links","view-profile"]}}`) +
				`,"scope":"openid email profile offline_access"` +
				unless(lean, `,"email_verified":true,"name":"Maria Lindqvist","preferred_username":"maria","given_name":"Maria","family_name":"Lindqvist","email":"maria.lindqvist@shop.example"`) + `}`
		},
		id: func(d *draw, u *user, lean bool, list string) string {
			return `{"exp":1800000300,"iat":1800000000,"auth_time":1799999990,"jti":"` + d.guid() + `","iss":"https://login.shop.example/realms/shop","aud":"shop-web",` +
				`"sub":` + keycloakUser + `,"typ":"ID","azp":"shop-web","nonce":"` + d.b64(32) + `","sid":"` + u.oid + `","at_hash":"` + d.b64(16) + `","acr":"1",` +
				unless(lean, `"resource_access":{"orders":{"roles":[`+list+`]}},`) + `"email_verified":true,"name":"Maria Lindqvist","preferred_username":"maria","given_name":"Maria",` +
				`"family_name":"Lindqvist","email":"maria.lindqvist@shop.example"}`
		},
		entry: func(d *draw, i int) string {
			return d.of("order", "invoice", "customer", "report", "warehouse", "pricing") + "-" + d.of("viewer", "editor", "admin", "approver", "auditor") + d.of("", "-emea", "-apac", "-north", fmt.Sprintf("-%d", i))
		},
	},
	{
		name:    "entra",
		header:  `{"typ":"JWT","alg":"RS256","x5t":"rtsFT-b-7LuY7DVYeSNKcIJ7Vnc","kid":"rtsFT-b-7LuY7DVYeSNKcIJ7Vnc"}`,
		refresh: func(d *draw, _ *user) string { return "1.AX0A" + d.b64(60) + "." + d.b64(670) },
		access: func(d *draw, u *user, lean bool, list string) string {
			return `{"aud":"api://3c1f7a52-90f2-4a7d-8c54-b1e9d2f70a13","iss":"https://sts.windows.net/8d2e61b7-0c5a-4f7e-b7c1-5f0a9e3d2c44/","iat":1800000000,"nbf":1800000000,"exp":1800004711,` +
				`"acr":"1","aio":"` + d.b64(66) + `","amr":["pwd","mfa"],"appid":"3c1f7a52-90f2-4a7d-8c54-b1e9d2f70a13","appidacr":"1",` +
				unless(lean, `"family_name":"Lindqvist","given_name":"Maria","groups":[`+list+`],"ipaddr":"203.0.113.77",`) +
				`"name":"Maria Lindqvist","oid":"` + u.oid + `","rh":"1.` + d.b64(40) + `","scp":"Orders.Read","sid":"` + u.sid36() + `","sub":"` + d.b64(32) + `",` +
				`"tid":"8d2e61b7-0c5a-4f7e-b7c1-5f0a9e3d2c44","unique_name":"maria@shop.example","upn":"maria@shop.example","uti":"` + d.b64(16) + `","ver":"1.0"}`
		},
		id: func(d *draw, u *user, lean bool, list string) string {
			return `{"aud":"3c1f7a52-90f2-4a7d-8c54-b1e9d2f70a13","iss":"https://login.microsoftonline.com/8d2e61b7-0c5a-4f7e-b7c1-5f0a9e3d2c44/v2.0","iat":1800000000,"nbf":1800000000,"exp":1800003900,` +
				unless(lean, `"email":"maria@shop.example","groups":[`+list+`],`) + `"name":"Maria Lindqvist","nonce":"` + d.b64(32) + `","oid":"` + u.oid + `","preferred_username":"maria@shop.example","rh":"1.` + d.b64(40) + `",` +
				`"sid":"` + u.sid36() + `","sub":"` + d.b64(32) + `","tid":"8d2e61b7-0c5a-4f7e-b7c1-5f0a9e3d2c44","uti":"` + d.b64(16) + `","ver":"2.0"}`
		},
		entry: func(d *draw, _ int) string { return d.guid() },
	},
}

func b64(text string) string { return base64.RawURLEncoding.EncodeToString([]byte(text)) }

// sid36 is the name of the session as Entra writes it.
func (u *user) sid36() string {
	return "00" + u.hash[2:8] + "-" + u.hash[8:12] + "-" + u.hash[12:16] + "-" + u.hash[16:20] + "-" + u.hash[20:32]
}

// token makes a token of a size, or of what is in every one of the family where
// that is more.
func (f *family) token(seed uint64, size int, signature string, payload func(list string, d *draw) string) string {
	lists := newDraw(seed)
	var entries []string
	for i := 0; ; i++ {
		token := b64(f.header) + "." + b64(payload(strings.Join(entries, ","), newDraw(seed+1))) + "." + signature
		entry := `"` + f.entry(lists, i) + `"`
		if size < lean || len(token)+(len(entry)+1)*4/3 > size {
			return token
		}
		entries = append(entries, entry)
	}
}

// lean is the size under which a token has only what none can lack.
const lean = 1000

// login makes the session of a login with tokens of a size each.
func (f *family) login(size int, seed uint64) *Session {
	d := newDraw(1000 * seed)
	u := &user{client: d.b64(24), sid: d.b64(24), oid: d.guid(), hash: d.hex(16)}
	access := f.token(1000*seed+1, size, d.b64(256), func(list string, d *draw) string { return f.access(d, u, size < lean, list) })
	payload := ""
	id := f.token(1000*seed+1, size, d.b64(256), func(list string, _ *draw) string {
		payload = f.id(newDraw(1000*seed+500), u, size < lean, list)
		return payload
	})
	set, err := claims.Parse([]byte(payload))
	if err != nil {
		panic(err)
	}
	subject, _ := set.Text("sub")
	grant := &rp.Grant{
		AccessToken: rp.NewSecret(access), IDToken: rp.NewSecret(id), RefreshToken: rp.NewSecret(f.refresh(d, u)),
		Expiry: begin.Add(time.Hour), Scope: "openid profile email offline_access",
	}
	s := New(grant, &rp.Identity{Subject: subject, Sources: []rp.SourcedClaims{{From: rp.FromIDToken, Claims: set}}}, begin)
	return s
}
