package rp

import (
	"encoding/json"
	"errors"
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pkce-auth/caddy-pkce-auth/caddyauth/internal/claims"
	"github.com/pkce-auth/caddy-pkce-auth/test/provider"
)

// grant is a grant of the bench's provider, with these tokens.
func (b *bench) grant(idToken, accessToken string) *Grant {
	return &Grant{IDToken: NewSecret(idToken), AccessToken: NewSecret(accessToken), Expiry: b.now.Add(time.Hour)}
}

// accessToken is a JWT of the provider; nil takes a claim out.
func (b *bench) accessToken(header, change map[string]any) string {
	set := map[string]any{"iss": b.op.URL, "sub": "alice", "client_id": "public", "exp": b.now.Add(time.Hour).Unix(), "role": "boss"}
	maps.Copy(set, change)
	maps.DeleteFunc(set, func(_ string, v any) bool { return v == nil })
	return b.op.Sign(header, set)
}

func (b *bench) identify(t testing.TB, grant *Grant) (*Identity, error) {
	t.Helper()
	return b.client.Identify(t.Context(), metadata(t, b.client), grant, AuthRequest{Transaction: Transaction{Nonce: NewSecret("the-nonce")}})
}

// answering has the provider's userinfo endpoint answer with this.
func (b *bench) userinfo(status int, contentType, body string) {
	b.op.Misbehave(provider.Faults{Answer: map[string]func(http.ResponseWriter, *http.Request) bool{"userinfo": provider.Status(status, contentType, body)}})
}

// R31, M110 to M113: what userinfo can do wrong fails the login.
func TestR31M110M111M112M113Userinfo(t *testing.T) {
	signed := func(b *bench, header, change map[string]any) string {
		set := map[string]any{"iss": b.op.URL, "aud": "public", "sub": "alice", "phone_number": "1"}
		maps.Copy(set, change)
		maps.DeleteFunc(set, func(_ string, v any) bool { return v == nil })
		return b.op.Sign(header, set)
	}
	for name, tc := range map[string]struct {
		status      int
		contentType string
		body        func(b *bench) string
		want        error // nil: accepted
	}{
		"JSON":                         {200, "application/json", nil, nil},
		"JSON with a charset":          {200, "application/json; charset=utf-8", nil, nil},
		"M110 another sub":             {200, "application/json", func(*bench) string { return `{"sub":"aliceinvalid"}` }, ErrInvalid},
		"M110 a sub in other letters":  {200, "application/json", func(*bench) string { return `{"sub":"Alice"}` }, ErrInvalid},
		"M111 no sub":                  {200, "application/json", func(*bench) string { return `{"phone_number":"1"}` }, ErrInvalid},
		"M111 a sub that is a number":  {200, "application/json", func(*bench) string { return `{"sub":1}` }, ErrInvalid},
		"two subs":                     {200, "application/json", func(*bench) string { return `{"sub":"alice","sub":"alice"}` }, ErrInvalid},
		"a sub that is imitated":       {200, "application/json", func(*bench) string { return `{"sub":"alice","SUB":"admin"}` }, ErrInvalid},
		"M112 a signed answer":         {200, "application/jwt", func(b *bench) string { return signed(b, nil, nil) }, nil},
		"M112 not signed":              {200, "application/jwt", func(*bench) string { return "eyJhbGciOiJub25lIn0.eyJzdWIiOiJhbGljZSJ9." }, ErrInvalid},
		"M112 for somebody else":       {200, "application/jwt", func(b *bench) string { return signed(b, nil, map[string]any{"aud": "other"}) }, ErrInvalid},
		"M112 for nobody":              {200, "application/jwt", func(b *bench) string { return signed(b, nil, map[string]any{"aud": nil}) }, ErrInvalid},
		"M112 of another issuer":       {200, "application/jwt", func(b *bench) string { return signed(b, nil, map[string]any{"iss": "https://evil.test"}) }, ErrInvalid},
		"M112 of no issuer":            {200, "application/jwt", func(b *bench) string { return signed(b, nil, map[string]any{"iss": nil}) }, ErrInvalid},
		"M112 signed, of another user": {200, "application/jwt", func(b *bench) string { return signed(b, nil, map[string]any{"sub": "bob"}) }, ErrInvalid},
		"M113 401":                     {401, "application/json", nil, ErrMisconfigured},
		"M113 403":                     {403, "application/json", nil, ErrMisconfigured},
		"M113 500":                     {500, "application/json", nil, ErrUnavailable},
		"M113 an array":                {200, "application/json", func(*bench) string { return `[{"sub":"alice"}]` }, ErrInvalid},
		"M113 HTML":                    {200, "text/html", nil, ErrInvalid},
		"no content type":              {200, "", nil, ErrInvalid},
		"F04 M112 space around a JWT":  {200, "application/jwt", func(b *bench) string { return signed(b, nil, nil) + "\n" }, ErrInvalid},
		"M113 four megabytes":          {200, "application/json", func(*bench) string { return `{"sub":"alice","x":"` + strings.Repeat("x", 4<<20) + `"}` }, ErrInvalid},
		"a redirect":                   {302, "application/json", nil, ErrMisconfigured},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t)
			b.client.Userinfo = true
			body := `{"sub":"alice","phone_number":"1","email":"other@example.com"}`
			if tc.body != nil {
				body = tc.body(b)
			}
			b.userinfo(tc.status, tc.contentType, body)
			who, err := b.identify(t, b.grant(b.op.Sign(nil, b.claims(map[string]any{"email": "alice@example.com"})), "opaque-token"))
			if tc.want != nil {
				if !errors.Is(err, tc.want) || !strings.Contains(err.Error(), "userinfo") {
					t.Errorf("got %v, want %v", err, tc.want)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			all := who.Claims()
			phone, _ := all.Text("phone_number")
			if email, _ := all.Text("email"); phone != "1" || email == "other@example.com" && tc.contentType == "application/json" {
				t.Errorf("got phone %q, email %q", phone, email)
			}
		})
	}
	t.Run("there is no endpoint", func(t *testing.T) {
		b := newBench(t)
		b.client.Userinfo = true
		b.op.Misbehave(provider.Faults{Metadata: func(doc map[string]any) { delete(doc, "userinfo_endpoint") }})
		if _, err := b.identify(t, b.grant(b.op.Sign(nil, b.claims(nil)), "x")); !errors.Is(err, ErrMisconfigured) {
			t.Errorf("got %v", err)
		}
	})
}

// M110 to M113: the operator hears what is wrong with an answer, not only that
// in the end it says nothing of the user.
func TestM110M113UserinfoSaysWhatIsWrong(t *testing.T) {
	b := newBench(t)
	b.client.Userinfo = true
	idToken := b.op.Sign(nil, b.claims(nil))
	answer := map[string]any{"iss": b.op.URL, "aud": "public", "sub": "alice"}
	signed := func(name string, value any) string {
		changed := maps.Clone(answer)
		changed[name] = value
		return b.op.Sign(nil, changed)
	}
	for _, tc := range []struct{ says, contentType, body string }{
		{`content type "text/html"`, "text/html", `{"sub":"alice"}`},
		{"stands twice", "application/json", `{"sub":"alice","sub":"alice"}`},
		{"sub: claim is missing", "application/json", `{}`},
		{"sub: is another user", "application/json", `{"sub":"bob"}`},
		{"not a signed JWT", "application/jwt", `{"sub":"alice"}`},
		{"accepted algorithm", "application/jwt", "eyJhbGciOiJub25lIn0.eyJzdWIiOiJhbGljZSJ9."},
		{"iss: is not the provider", "application/jwt", signed("iss", "https://evil.test")},
		{"aud: does not name our client ID", "application/jwt", signed("aud", "other")},
	} {
		b.userinfo(http.StatusOK, tc.contentType, tc.body)
		if _, err := b.identify(t, b.grant(idToken, "x")); !errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), tc.says) {
			t.Errorf("got %v, want %q in it", err, tc.says)
		}
	}
}

// R57: the operator hears what is wrong with an access token, and while the keys
// cannot be had, that nothing is known of it.
func TestR57AccessTokenSaysWhatIsWrong(t *testing.T) {
	b := newBench(t)
	b.client.Scopes, b.client.ClaimsFrom = []string{"api"}, []ClaimSource{FromAccessToken}
	good := b.accessToken(nil, nil)
	for says, token := range map[string]string{
		"header: ":               "AAAA.e30.AAAA",
		`typ "logout+jwt"`:       b.accessToken(map[string]any{"typ": "logout+jwt"}, nil),
		"no key of the provider": good[:len(good)-8] + "AAAAAAAA",
		"imitates":               b.accessToken(nil, map[string]any{"SUB": "admin"}),
		"client_id: ":            b.accessToken(nil, map[string]any{"client_id": "other"}),
	} {
		if _, err := b.identify(t, b.grant("", token)); !errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), says) {
			t.Errorf("got %v, want %q in it", err, says)
		}
	}
	b = newBench(t)
	b.client.Scopes, b.client.ClaimsFrom = []string{"api"}, []ClaimSource{FromAccessToken}
	b.op.Misbehave(provider.Faults{Answer: map[string]func(http.ResponseWriter, *http.Request) bool{"keys": provider.Status(http.StatusServiceUnavailable, "text/plain", "")}})
	if _, err := b.identify(t, b.grant("", b.accessToken(nil, nil))); !errors.Is(err, ErrUnavailable) || !errors.Is(err, ErrNoKeys) {
		t.Errorf("without keys: got %v, want ErrUnavailable and ErrNoKeys", err)
	}
}

// Of what the protocol is about, userinfo's own word stays with it, though the
// ID token's counts; of the rest, it keeps only what nobody has said before.
func TestClaimSourcesOfUserinfoAlone(t *testing.T) {
	b := newBench(t)
	b.client.Userinfo = true
	b.userinfo(http.StatusOK, "application/json", `{"sub":"alice","sid":"ui","name":"ui","phone_number":"1"}`)
	who, err := b.identify(t, b.grant(b.op.Sign(nil, b.claims(map[string]any{"sid": "id", "name": "id"})), "x"))
	if err != nil {
		t.Fatal(err)
	}
	own, _ := who.Source(FromUserinfo)
	if got, want := string(own.Raw()), `{"phone_number":"1","sid":"ui","sub":"alice"}`; got != want {
		t.Errorf("userinfo's own: got %s, want %s", got, want)
	}
	if sid, _ := who.Claims().Text("sid"); sid != "id" {
		t.Errorf("sid of all: got %q, want the ID token's", sid)
	}
}

// M31: while the keys cannot be had, nothing is known of a signed answer. That
// is to be tried again, not an answer that somebody forged.
func TestM31UserinfoWithoutKeys(t *testing.T) {
	b := newBench(t)
	b.client.Scopes, b.client.ClaimsFrom = []string{"api"}, []ClaimSource{FromUserinfo}
	b.op.Misbehave(provider.Faults{Answer: map[string]func(http.ResponseWriter, *http.Request) bool{
		"userinfo": provider.Status(http.StatusOK, "application/jwt", b.op.Sign(nil, map[string]any{"iss": b.op.URL, "aud": "public", "sub": "alice"})),
		"keys":     provider.Status(http.StatusServiceUnavailable, "text/plain", ""),
	}})
	if _, err := b.identify(t, b.grant("", "x")); !errors.Is(err, ErrUnavailable) || !errors.Is(err, ErrNoKeys) {
		t.Errorf("got %v, want ErrUnavailable and ErrNoKeys", err)
	}
}

// R10: as long as the ID token has not passed, the access token is used for
// nothing.
func TestR10NothingBeforeTheIDToken(t *testing.T) {
	b := newBench(t)
	b.client.Userinfo = true
	for says, token := range map[string]string{"nonce: is not that": b.op.Sign(nil, b.claims(map[string]any{"nonce": "x"})), "no ID token came": ""} {
		if _, err := b.identify(t, b.grant(token, "x")); !errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), says) {
			t.Errorf("got %v, want %q in it", err, says)
		}
	}
	if got := len(b.op.Requests("userinfo")); got != 0 {
		t.Errorf("userinfo was asked %d times", got)
	}
}

// R57: an access token that is to say something of the user must be one, of
// this provider, for us.
func TestR57AccessTokenClaims(t *testing.T) {
	b := newBench(t)
	b.client.Scopes, b.client.ClaimsFrom = []string{"api"}, []ClaimSource{FromAccessToken}
	forger := start(t, provider.Config{})
	forger.RotateKeys()
	for name, tc := range map[string]struct {
		token string
		want  error
	}{
		"of type at+jwt":              {b.accessToken(map[string]any{"typ": "at+jwt"}, nil), nil},
		"of its long type":            {b.accessToken(map[string]any{"typ": "application/at+JWT"}, nil), nil},
		"of type JWT":                 {b.accessToken(map[string]any{"typ": "JWT"}, nil), nil},
		"without a type":              {b.accessToken(nil, nil), nil},
		"with azp":                    {b.accessToken(nil, map[string]any{"azp": "public", "client_id": nil}), nil},
		"signed with ES256":           {b.accessToken(map[string]any{"alg": "ES256"}, nil), nil},
		"within the skew":             {b.accessToken(nil, map[string]any{"exp": b.now.Add(-59 * time.Second).Unix()}), nil},
		"opaque":                      {"opaque-token", ErrMisconfigured},
		"a logout token":              {b.accessToken(map[string]any{"typ": "logout+jwt"}, nil), ErrInvalid},
		"expired":                     {b.accessToken(nil, map[string]any{"exp": b.now.Add(-time.Minute).Unix()}), ErrInvalid},
		"without end":                 {b.accessToken(nil, map[string]any{"exp": nil}), ErrInvalid},
		"of another issuer":           {b.accessToken(nil, map[string]any{"iss": "https://evil.test"}), ErrInvalid},
		"of no issuer":                {b.accessToken(nil, map[string]any{"iss": nil}), ErrInvalid},
		"of another client":           {b.accessToken(nil, map[string]any{"client_id": "other"}), ErrInvalid},
		"of another azp":              {b.accessToken(nil, map[string]any{"azp": "other"}), ErrInvalid},
		"a client ID of another type": {b.accessToken(nil, map[string]any{"client_id": []string{"public"}}), ErrInvalid},
		"another's signature":         {forger.Sign(map[string]any{"kid": ""}, map[string]any{"iss": b.op.URL, "sub": "alice", "exp": b.now.Add(time.Hour).Unix()}), ErrInvalid},
		"M71 alg none":                {"eyJhbGciOiJub25lIn0.eyJzdWIiOiJhbGljZSJ9.", ErrInvalid},
		"a signed type that is none":  {b.accessToken(map[string]any{"typ": 7}, nil), ErrInvalid},
		"a type that is imitated":     {b.accessToken(map[string]any{"typ": "at+jwt", "TYP": "logout+jwt"}, nil), ErrInvalid},
		"a header that is no JSON":    {"AAAA.eyJzdWIiOiJhbGljZSJ9.AAAA", ErrInvalid},
		"a type that is a number":     {"eyJhbGciOiJSUzI1NiIsInR5cCI6MX0.eyJzdWIiOiJhbGljZSJ9.AAAA", ErrInvalid},
		"an imitated claim":           {b.accessToken(nil, map[string]any{"SUB": "admin"}), ErrInvalid},
		"a subject with a NUL":        {b.accessToken(nil, map[string]any{"sub": "a\x00"}), ErrInvalid},
	} {
		t.Run(name, func(t *testing.T) {
			who, err := b.identify(t, b.grant("", tc.token))
			if !errors.Is(err, tc.want) || tc.want == nil && err != nil {
				t.Fatalf("got %v, want %v", err, tc.want)
			}
			if err != nil {
				return
			}
			if _, ok := who.Source(FromIDToken); ok || who.Subject != "alice" || !who.Claims().Has("role") {
				t.Errorf("got %+v", who)
			}
		})
	}
}

// Of a claim in several sources, the first counts; but on what the protocol
// is about, the ID token's word counts, wherever it stands.
func TestClaimSourcesInOrder(t *testing.T) {
	for name, tc := range map[string]struct {
		from     []ClaimSource
		userinfo bool
		want     string
	}{
		"the ID token":           {nil, false, `{"name":"id","only_id":1}`},
		"and userinfo":           {nil, true, `{"name":"id","only_id":1,"only_ui":3}`},
		"the access token first": {[]ClaimSource{FromAccessToken, FromIDToken}, false, `{"name":"at","only_at":2,"only_id":1}`},
		"the access token alone": {[]ClaimSource{FromAccessToken}, false, `{"name":"at","only_at":2}`},
		"userinfo first":         {[]ClaimSource{FromUserinfo, FromAccessToken, FromIDToken}, true, `{"name":"ui","only_at":2,"only_id":1,"only_ui":3}`},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t)
			b.client.ClaimsFrom, b.client.Userinfo = tc.from, tc.userinfo
			b.userinfo(200, "application/json", `{"sub":"alice","sid":"ui","amr":["ui"],"name":"ui","only_ui":3}`)
			access := b.accessToken(nil, map[string]any{"sub": "other", "sid": "at", "acr": "at", "name": "at", "only_at": 2, "role": nil, "client_id": nil})
			idToken := b.op.Sign(nil, b.claims(map[string]any{"sid": "id", "name": "id", "only_id": 1}))
			who, err := b.identify(t, b.grant(idToken, access))
			if err != nil {
				t.Fatal(err)
			}
			all := who.Claims()
			sub, _ := all.Text("sub")
			if sid, _ := all.Text("sid"); who.Subject != "alice" || sub != "alice" || sid != "id" || all.Has("acr") || all.Has("amr") {
				t.Errorf("got %s", all.Raw())
			}
			if asked, want := len(b.op.Requests("userinfo")), strings.Count(tc.want, "only_ui"); asked != want {
				t.Errorf("userinfo was asked %d times, want %d", asked, want)
			}
			if own, ok := who.Source(FromIDToken); !ok || !own.Has("nonce") {
				t.Errorf("the ID token as a source: got %s, %v", own.Raw(), ok)
			}
			if got := string(all.Filter(func(name string) bool { return !slices.Contains(guardedClaims, name) }).Raw()); got != tc.want {
				t.Errorf("got %s, want %s", got, tc.want)
			}
		})
	}
}

// R30, IDPS 26, A73: what a refresh says takes the place of what was known,
// groups that were taken away included; what only the login's ID token says
// stays, and so does what userinfo said.
func TestR30IDPS26A73IdentifyAgain(t *testing.T) {
	b := newBench(t)
	b.client.Userinfo = true
	b.client.ClaimsFrom = []ClaimSource{FromIDToken, FromAccessToken}
	b.userinfo(200, "application/json", `{"sub":"alice","phone_number":"1"}`)
	login, err := b.identify(t, b.grant(b.op.Sign(nil, b.claims(map[string]any{
		"sid": "s-1", "auth_time": 1, "groups": []string{"staff", "admin"}, "name": "Alice", "session_expiry": b.now.Add(time.Hour).Unix(),
	})), b.accessToken(nil, nil)))
	if err != nil {
		t.Fatal(err)
	}
	again := func(grant *Grant) (*Identity, error) {
		return b.client.IdentifyAgain(t.Context(), metadata(t, b.client), grant, login)
	}
	refreshed := b.op.Sign(nil, b.claims(map[string]any{"nonce": nil, "groups": []string{"staff"}, "session_expiry": b.now.Add(9 * time.Hour).Unix()}))
	who, err := again(b.grant(refreshed, b.accessToken(nil, map[string]any{"role": "guest"})))
	if err != nil {
		t.Fatal(err)
	}
	var got map[string]any
	if err := json.Unmarshal(who.Claims().Raw(), &got); err != nil {
		t.Fatal(err)
	}
	if got["sid"] != "s-1" || got["auth_time"] != 1.0 || got["nonce"] != "the-nonce" || got["phone_number"] != "1" || got["role"] != "guest" || got["name"] != nil ||
		len(got["groups"].([]any)) != 1 || who.Subject != "alice" || !who.Ends.Equal(login.Ends) {
		t.Errorf("got %v, ends %s", got, who.Ends)
	}
	// Without an ID token, its claims stay.
	who, err = again(b.grant("", b.accessToken(nil, map[string]any{"role": "guest"})))
	if err != nil {
		t.Fatal(err)
	}
	if name, _ := who.Claims().Text("name"); name != "Alice" {
		t.Errorf("without an ID token: got %s", who.Claims().Raw())
	}
	for name, tc := range map[string]struct {
		grant *Grant
		want  error
	}{
		"R30 another user":           {b.grant(b.op.Sign(nil, b.claims(map[string]any{"sub": "bob"})), b.accessToken(nil, nil)), ErrInvalid},
		"R30 another issuer":         {b.grant(b.op.Sign(nil, b.claims(map[string]any{"iss": "https://evil.test"})), b.accessToken(nil, nil)), ErrInvalid},
		"an access token of another": {b.grant("", b.accessToken(nil, map[string]any{"client_id": "other"})), ErrInvalid},
		"an opaque access token":     {b.grant("", "opaque"), ErrMisconfigured},
	} {
		if _, err := again(tc.grant); !errors.Is(err, tc.want) {
			t.Errorf("%s: got %v, want %v", name, err, tc.want)
		}
	}
	if got := len(b.op.Requests("userinfo")); got != 1 {
		t.Errorf("userinfo was asked %d times", got)
	}
}

// IDPS 29: a refresh does not move the end of the session, so that an end which
// has passed in a refreshed ID token ends nothing.
func TestIDPS29RefreshedSessionExpiry(t *testing.T) {
	b := newBench(t)
	login, err := b.identify(t, b.grant(b.op.Sign(nil, b.claims(nil)), "opaque-token"))
	if err != nil {
		t.Fatal(err)
	}
	refreshed := b.op.Sign(nil, b.claims(map[string]any{"session_expiry": b.now.Add(-time.Hour).Unix()}))
	who, err := b.client.IdentifyAgain(t.Context(), metadata(t, b.client), b.grant(refreshed, "opaque-token"), login)
	if err != nil || !who.Ends.IsZero() {
		t.Errorf("got %+v, %v", who, err)
	}
}

// IDPS 11: where no ID token was asked for, one that comes is not looked at,
// neither at the login nor with a refresh; userinfo says who it is.
func TestIDPS11UserinfoWithoutIDToken(t *testing.T) {
	b := newBench(t)
	b.client.Scopes, b.client.ClaimsFrom = []string{"api"}, []ClaimSource{FromUserinfo}
	b.userinfo(http.StatusOK, "application/json", `{"sub":"alice","name":"Alice"}`)
	unasked := b.grant("not.an.ID-token", "opaque-token")
	login, err := b.identify(t, unasked)
	if err != nil {
		t.Fatal(err)
	}
	again, err := b.client.IdentifyAgain(t.Context(), metadata(t, b.client), unasked, login)
	if err != nil {
		t.Fatal(err)
	}
	for _, who := range []*Identity{login, again} {
		// The claims of the protocol, too, are userinfo's then.
		sub, _ := who.Claims().Text("sub")
		if _, ok := who.Source(FromIDToken); ok || who.Subject != "alice" || sub != "alice" || !who.Claims().Has("name") {
			t.Errorf("got %+v", who)
		}
	}
}

// M113: a JWT that is no ID token may be as large as an answer, and no larger,
// however well it is signed.
func TestM113UserinfoJWTSize(t *testing.T) {
	b := newBench(t)
	// Not every length is one of base64url: a longer header makes up for that.
	sized := func(size int) string {
		for _, x := range []string{"1", "12", "123"} {
			sign := func(pad int) string {
				return b.op.Sign(map[string]any{"x": x}, map[string]any{"pad": strings.Repeat("p", pad)})
			}
			about := (size - len(sign(0))) * 3 / 4
			for pad := about - 2; pad <= about+2; pad++ {
				if jwt := sign(pad); len(jwt) == size {
					return jwt
				}
			}
		}
		t.Fatalf("no JWT of %d bytes", size)
		return ""
	}
	for size, ok := range map[int]bool{maxUserinfoSize: true, maxUserinfoSize + 1: false} {
		if _, err := b.client.verifyJWT(t.Context(), metadata(t, b.client), sized(size)); (err == nil) != ok {
			t.Errorf("%d bytes: got %v, want ok %v", size, err, ok)
		}
	}
}

// Without any name for the user there is still a session.
func TestIdentityWithoutSubject(t *testing.T) {
	b := newBench(t)
	b.client.Scopes = []string{"api"}
	who, err := b.identify(t, b.grant("", "opaque"))
	if err != nil || who.Subject != "" || len(who.Sources) != 0 {
		t.Errorf("got %+v, %v", who, err)
	}
	if got := who.Claims(); got.Has("sub") || len(got.Raw()) != 0 {
		t.Errorf("got %s", got.Raw())
	}
	if _, ok := who.Source(FromIDToken); ok || claims.Join().Has("x") {
		t.Error("there is an ID token")
	}
}

// IDPS 29: what counts as the provider's end of the session.
func TestIDPS29SessionExpiryClaim(t *testing.T) {
	b := newBench(t)
	for name, tc := range map[string]struct {
		value any
		ends  time.Duration // after now; 0: none
		ok    bool
	}{
		"none":            {nil, 0, true},
		"in an hour":      {b.now.Add(time.Hour).Unix(), time.Hour - 30*time.Second, true},
		"in 31 seconds":   {b.now.Add(31 * time.Second).Unix(), time.Second, true},
		"in 30 seconds":   {b.now.Add(30 * time.Second).Unix(), 0, false},
		"past":            {b.now.Add(-time.Hour).Unix(), 0, false},
		"milliseconds":    {b.now.Add(time.Hour).UnixMilli(), 0, true},
		"ten digits, all": {9_999_999_999, time.Unix(9_999_999_999, 0).Sub(b.now) - 30*time.Second, true},
		"eleven digits":   {10_000_000_000, 0, true},
		"a fraction":      {float64(b.now.Unix()) + 0.5, 0, true},
		"a text":          {"1", 0, true},
		"zero":            {0, 0, true},
		"negative":        {-1, 0, true},
	} {
		who, err := b.identify(t, b.grant(b.op.Sign(nil, b.claims(map[string]any{"session_expiry": tc.value})), "x"))
		if (err == nil) != tc.ok {
			t.Errorf("%s: got %v", name, err)
			continue
		}
		if !tc.ok {
			continue
		}
		if tc.ends == 0 && !who.Ends.IsZero() || tc.ends != 0 && !who.Ends.Equal(b.now.Add(tc.ends)) {
			t.Errorf("%s: ends %s, want %s after now", name, who.Ends, tc.ends)
		}
	}
}

// Without an ID token, all sources must be about one user: the first that
// names one decides, be it userinfo or the access token.
func TestR31SourcesOfTwoUsers(t *testing.T) {
	for _, from := range [][]ClaimSource{{FromAccessToken, FromUserinfo}, {FromUserinfo, FromAccessToken}} {
		b := newBench(t)
		b.client.Scopes, b.client.ClaimsFrom = []string{"api"}, from
		b.userinfo(200, "application/json", `{"sub":"bob","groups":["admin"]}`)
		if who, err := b.identify(t, b.grant("", b.accessToken(nil, nil))); !errors.Is(err, ErrInvalid) {
			t.Errorf("%v: got %v, subject %s with %s", from, err, who.Subject, who.Claims().Raw())
		}
		b.userinfo(200, "application/json", `{"sub":"alice","groups":["admin"]}`)
		if who, err := b.identify(t, b.grant("", b.accessToken(nil, nil))); err != nil || who.Subject != "alice" {
			t.Errorf("%v: got %+v, %v", from, who, err)
		}
	}
}

// R30: an access token that comes with a refresh calls the user what that of
// the login did: else its claims are somebody else's, and the session ends.
func TestR30AccessTokenOfAnotherUser(t *testing.T) {
	for _, openid := range []bool{false, true} {
		b := newBench(t)
		idToken := ""
		b.client.Scopes, b.client.ClaimsFrom = []string{"api"}, []ClaimSource{FromAccessToken}
		if openid {
			b.client.Scopes, idToken = []string{"openid"}, b.op.Sign(nil, b.claims(nil))
		}
		login, err := b.identify(t, b.grant(idToken, b.accessToken(nil, map[string]any{"sub": "pairwise-1"})))
		if err != nil {
			t.Fatal(err)
		}
		again := func(sub any) error {
			_, err := b.client.IdentifyAgain(t.Context(), metadata(t, b.client), b.grant("", b.accessToken(nil, map[string]any{"sub": sub, "role": "admin"})), login)
			return err
		}
		for _, sub := range []any{"pairwise-2", nil} {
			err := again(sub)
			if _, checked := errors.AsType[*CheckError](err); !checked || !errors.Is(err, ErrInvalid) {
				t.Errorf("openid %v, %v: got %v, want a failed check", openid, sub, err)
			}
		}
		if err := again("pairwise-1"); err != nil {
			t.Errorf("openid %v: %v", openid, err)
		}
	}
}

// A73: what the ID token said at the login, and says no longer, does not come
// back from what userinfo said then.
func TestA73GroupsDoNotComeBackFromUserinfo(t *testing.T) {
	b := newBench(t)
	b.client.Userinfo = true
	b.userinfo(200, "application/json", `{"sub":"alice","groups":["admin"],"phone_number":"1"}`)
	login, err := b.identify(t, b.grant(b.op.Sign(nil, b.claims(map[string]any{"groups": []string{"admin"}})), "x"))
	if err != nil {
		t.Fatal(err)
	}
	who, err := b.client.IdentifyAgain(t.Context(), metadata(t, b.client), b.grant(b.op.Sign(nil, b.claims(map[string]any{"nonce": nil})), "x"), login)
	if err != nil {
		t.Fatal(err)
	}
	if all := who.Claims(); all.Has("groups") || !all.Has("phone_number") {
		t.Errorf("got %s", all.Raw())
	}
}

// A name with dots in a later source does not hide what the path leads to in
// an earlier one.
func TestDottedNamesOfLaterSources(t *testing.T) {
	b := newBench(t)
	b.client.Userinfo = true
	b.userinfo(200, "application/json", `{"sub":"alice","realm_access.roles":["admin"],"other.roles":["x"]}`)
	who, err := b.identify(t, b.grant(b.op.Sign(nil, b.claims(map[string]any{"realm_access": map[string]any{"roles": []string{"guest"}}})), "x"))
	if err != nil {
		t.Fatal(err)
	}
	all := who.Claims()
	roles, _ := all.Lookup("realm_access.roles")
	if other, _ := all.Lookup("other.roles"); claims.Text(roles) != "guest" || claims.Text(other) != "x" {
		t.Errorf("got %v, %v", roles, other)
	}
}
