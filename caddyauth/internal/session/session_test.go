package session

import (
	"bytes"
	"compress/flate"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/pkce-auth/caddy-pkce-auth/caddyauth/internal/claims"
	"github.com/pkce-auth/caddy-pkce-auth/caddyauth/internal/rp"
	"github.com/pkce-auth/caddy-pkce-auth/caddyauth/internal/sealed"
)

var begin = time.UnixMilli(1_800_000_000_123)

// jwt makes a token of about size bytes, with claims as real ones have them
// and a signature that does not compress.
func jwt(size int) string {
	b64 := base64.RawURLEncoding
	signature := make([]byte, 256)
	for i := range signature {
		signature[i] = byte(rand.Uint32())
	}
	header := b64.EncodeToString([]byte(`{"alg":"RS256","typ":"JWT","kid":"Zk3x9"}`))
	var permissions []string
	for i := 0; ; i++ {
		payload := fmt.Sprintf(`{"iss":"https://tenant.eu.auth0.com/","sub":"auth0|64f0c2","aud":["https://api.example.com","https://tenant.eu.auth0.com/userinfo"],"iat":1800000000,"exp":1800086400,"azp":"client","scope":"openid profile email","permissions":[%s]}`, strings.Join(permissions, ","))
		token := header + "." + b64.EncodeToString([]byte(payload)) + "." + b64.EncodeToString(signature)
		if len(token) >= size {
			return token
		}
		permissions = append(permissions, fmt.Sprintf(`"%s:%s%d"`, []string{"read", "write", "delete"}[i%3], []string{"orders", "invoices", "customers", "reports"}[i%4], i))
	}
}

func parse(t testing.TB, text string) claims.Set {
	t.Helper()
	set, err := claims.Parse([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return set
}

func newSession(t testing.TB, token string) *Session {
	t.Helper()
	set := parse(t, `{"sub":"alice","name":"Alice Ash","email":"alice@example.com","groups":["staff","admin"],"sid":"s-1"}`)
	grant := &rp.Grant{AccessToken: rp.NewSecret(token), RefreshToken: rp.NewSecret("refresh"), Expiry: begin.Add(time.Hour), Scope: "openid profile"}
	return New(grant, &rp.Identity{Subject: "alice", Sources: []rp.SourcedClaims{{From: rp.FromIDToken, Claims: set}}}, begin)
}

func newKeeper(t testing.TB, limits Limits, now func() time.Time) *Stateless {
	t.Helper()
	k, err := sealed.NewKeyring(bytes.Repeat([]byte("k1"), 16))
	if err != nil {
		t.Fatal(err)
	}
	const name = "__Host-Http-pkce_auth"
	box := sealed.NewBox(k, "session", "provider", name)
	return NewStateless(sealed.Cookie{Name: name, Path: "/", Secure: true, SameSite: http.SameSiteLaxMode}, box, limits, now)
}

// save gives the cookies that a browser sends after a session was saved.
func save(t testing.TB, k *Stateless, s *Session) []string {
	t.Helper()
	h := http.Header{}
	if err := k.Save(t.Context(), h, nil, s); err != nil {
		t.Fatal(err)
	}
	var pairs []string
	for _, c := range (&http.Response{Header: h}).Cookies() {
		pairs = append(pairs, c.Name+"="+c.Value)
	}
	return []string{strings.Join(pairs, "; ")}
}

func TestCodecRoundTrip(t *testing.T) {
	b64 := base64.RawURLEncoding.EncodeToString
	for name, token := range map[string]string{
		"a JWT":                            jwt(2000),
		"an opaque token":                  "opaque-0123456789._~+/-",
		"three parts that are no base64":   "a.b.!",
		"three parts with loose bits":      "AB.AB.AB",
		"three empty parts":                "..",
		"four parts":                       b64([]byte("a")) + "." + b64([]byte("b")) + ".." + b64([]byte("c")),
		"a part that looks padded":         "YQ==.YQ.YQ",
		"a token of 6 kB":                  jwt(6000),
		"something like a record, inside":  strings.Repeat("\x01\x02", 500),
		"a token that is a single dot":     ".",
		"a token with bytes beyond ASCII ": "tökén.tökén.tökén",
	} {
		t.Run(name, func(t *testing.T) {
			want := newSession(t, token)
			want.Sources = append(want.Sources, rp.SourcedClaims{From: rp.FromUserinfo, Claims: parse(t, `{"phone_number":"1"}`)}, rp.SourcedClaims{From: rp.FromAccessToken})
			want.Claims = want.Identity.Claims()
			data, err := encode(want, false)
			if err != nil {
				t.Fatal(err)
			}
			if len(data)%padding != 0 {
				t.Errorf("%d bytes are no multiple of %d", len(data), padding)
			}
			got, err := decode(data)
			if err != nil {
				t.Fatal(err)
			}
			if got.AccessToken.Reveal() != token {
				t.Errorf("token: got %q, want %q", got.AccessToken.Reveal(), token)
			}
			if got.Authorization() != "Bearer "+token {
				t.Errorf("Authorization: got %q", got.Authorization())
			}
			if got.RefreshToken.Reveal() != "refresh" {
				t.Errorf("refresh token: got %q", got.RefreshToken.Reveal())
			}
			got.AccessToken, want.AccessToken, got.bearer, want.bearer = rp.Secret{}, rp.Secret{}, rp.Secret{}, rp.Secret{}
			got.RefreshToken, want.RefreshToken = rp.Secret{}, rp.Secret{}
			if !got.FirstShown() || got.FirstShown() || want.FirstShown() {
				t.Error("it is shown first once, when it was read")
			}
			got.loaded, got.key = nil, want.key // which a cookie does not hold
			for i, source := range got.Sources {
				if raw := source.Claims.Raw(); len(raw) > 0 { // they are not read yet
					got.Sources[i].Claims = parse(t, string(raw))
				}
			}
			if !reflect.DeepEqual(got, want) {
				t.Errorf("got %+v, want %+v", got, want)
			}
		})
	}
	anonymous := New(&rp.Grant{AccessToken: rp.NewSecret("x"), Expiry: begin}, new(rp.Identity), begin)
	data, err := encode(anonymous, false)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := decode(data); err != nil || got.Subject != "" || got.ID != anonymous.ID {
		t.Errorf("without an ID token: got %+v, %v", got, err)
	}
}

// A83: inflating stops at a small bound. Versions: an unknown one, and what
// is cut or mangled, is no session.
func TestDecodeA83Refuses(t *testing.T) {
	deflate := func(data []byte) []byte {
		var b bytes.Buffer
		z, _ := flate.NewWriterDict(&b, flate.BestCompression, dictionary)
		_, _ = z.Write(data)
		_ = z.Close()
		return append(binary.AppendUvarint([]byte{codecVersion}, uint64(b.Len())), b.Bytes()...)
	}
	good, err := encode(newSession(t, jwt(800)), false)
	if err != nil {
		t.Fatal(err)
	}
	// subject makes a session that is good but for its subject, if that is not.
	subject := func(text string, noise int) []byte {
		words := binary.AppendUvarint([]byte{0, 1, 's'}, uint64(len(text)))
		words = append(append(words, text...), 0, tokenAsIs, 1, 'x')
		return must(compose(words, make([]byte, noise)))
	}
	if s, err := decode(subject("\x00\x03\x03\x05\x00", 16)); err != nil || s.Subject != "\x03"+strings.Repeat("00000000-0000-0000-0000-000000000000", 2) {
		t.Errorf("a good subject: got %+v, %v", s, err)
	}
	for name, data := range map[string][]byte{
		"nothing":                      nil,
		"a version of the future":      append([]byte{codecVersion + 1}, good[1:]...),
		"version zero":                 append([]byte{0}, good[1:]...),
		"only a version":               {codecVersion},
		"a length beyond the end":      {codecVersion, 0xff, 0xff, 0x03, 1, 2, 3},
		"a length without end":         append([]byte{codecVersion}, bytes.Repeat([]byte{0xff}, 11)...),
		"half":                         good[:len(good)/2],
		"no deflate stream":            {codecVersion, 4, 0xff, 0xff, 0xff, 0xff},
		"a bomb of 16 MiB":             deflate(make([]byte, 16<<20)),
		"an empty record":              deflate(nil),
		"a text longer than the rest":  deflate([]byte{0xff, 0x01, 'x'}),
		"a piece repeated without end": subject("\x01\xff"+strings.Repeat("\x05\x00", 1000), 765),
		"a piece that is not there":    subject("\x05\x00", 16),
		"none to come next":            subject("\x04", 16),
		"a mark without its size":      subject("\x01", 16),
		"a mark without its number":    subject("\x05", 16),
		"a number without end":         subject("\x05"+strings.Repeat("\xff", 11), 16),
		"more noise than there is":     subject("\x01\xff", 64),
		"an escape of nothing":         subject("\x00", 0),
	} {
		if s, err := decode(data); err == nil {
			t.Errorf("%s: got %+v", name, s)
		}
	}
}

func TestKeeperKeeps(t *testing.T) {
	k := newKeeper(t, Limits{Lifetime: time.Hour, Idle: time.Hour}, func() time.Time { return begin })
	incompressible := make([]byte, 3000)
	for i := range incompressible {
		incompressible[i] = "abcdefghijklmnopqrstuvwxyzABCDEF"[rand.IntN(32)]
	}
	for _, token := range []string{jwt(800), jwt(6000), string(incompressible) + string(incompressible)} {
		want := newSession(t, token)
		r := save(t, k, want)
		for range 2 { // opened, then from the cache
			got, err := k.Load(t.Context(), r)
			if err != nil || got.ID != want.ID || got.AccessToken.Reveal() != token {
				t.Fatalf("got %+v, %v", got, err)
			}
		}
	}
	if _, err := k.Load(t.Context(), nil); !errors.Is(err, ErrNone) || errors.Is(err, ErrEnded) {
		t.Errorf("no cookie: got %v, want ErrNone", err)
	}
}

// A session too large for its cookies is an error that says by how much.
func TestKeeperRefusesWhatDoesNotFit(t *testing.T) {
	k := newKeeper(t, Limits{Lifetime: time.Hour, Idle: time.Hour}, func() time.Time { return begin })
	token := make([]byte, 12_000)
	for i := range token {
		token[i] = byte('a' + rand.IntN(26))
	}
	h := http.Header{}
	err := k.Save(t.Context(), h, nil, newSession(t, string(token)))
	tooLarge, ok := errors.AsType[*sealed.TooLargeError](err)
	if !ok || tooLarge.Size <= tooLarge.Limit || tooLarge.Limit > 8192 || len(h) != 0 {
		t.Errorf("got %v, and %d cookies", err, len(h["Set-Cookie"]))
	}
	if err := k.Save(t.Context(), h, nil, newSession(t, strings.Repeat("x", maxRecord))); err == nil {
		t.Error("beyond what would be read again: got no error")
	}
}

// A70: what ends a session are the times under the seal, not the cookie's
// Max-Age, which the browser's owner may change.
func TestA70TimesAreSealed(t *testing.T) {
	now := begin
	for _, tc := range []struct {
		name   string
		limits Limits
		after  time.Duration
		alive  bool
	}{
		{"fresh", Limits{time.Hour, time.Hour}, 0, true},
		{"just within both", Limits{time.Hour, time.Hour}, time.Hour - time.Millisecond, true},
		{"lifetime over", Limits{time.Hour, 24 * time.Hour}, time.Hour, false},
		{"idle for too long", Limits{24 * time.Hour, time.Hour}, time.Hour, false},
		{"a clock that is behind", Limits{time.Hour, time.Hour}, -time.Minute, true},
		{"the shortest lifetime", Limits{time.Millisecond, time.Millisecond}, time.Millisecond, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			now = begin
			k := newKeeper(t, tc.limits, func() time.Time { return now })
			r := save(t, k, newSession(t, jwt(800)))
			now = begin.Add(tc.after)
			_, err := k.Load(t.Context(), r)
			if (err == nil) != tc.alive || (!tc.alive && !errors.Is(err, ErrEnded)) {
				t.Errorf("got %v, want alive %v", err, tc.alive)
			}
		})
	}
}

// Sliding is written in steps of a tenth of the idle time, and never moves
// the end of the lifetime.
func TestRenewSlidesInSteps(t *testing.T) {
	limits := Limits{Lifetime: 10 * time.Hour, Idle: time.Hour}
	s := newSession(t, "x")
	writes := 0
	for at := time.Duration(0); at < 10*time.Hour; at += time.Second {
		now := begin.Add(at)
		if !limits.Alive(s, now) {
			t.Fatalf("a session in use ended after %v", at)
		}
		renewed, ok := limits.Renew(s, now)
		if ok {
			writes++
			if renewed == s || !renewed.Created.Equal(s.Created) || renewed.ID != s.ID {
				t.Fatalf("got %+v", renewed)
			}
		}
		s = renewed
	}
	if writes != 99 {
		t.Errorf("got %d writes in ten hours, want 99: ten per idle time", writes)
	}
	if limits.Alive(s, begin.Add(10*time.Hour)) {
		t.Error("sliding moved the end of the lifetime")
	}
}

// A61: no two sessions share an ID.
func TestNewA61SessionsDiffer(t *testing.T) {
	seen := map[string]bool{}
	for range 1000 {
		s := newSession(t, "x")
		if len(s.ID) < 26 || seen[s.ID] {
			t.Fatalf("%q: short or seen before", s.ID)
		}
		seen[s.ID] = true
	}
}

// A71: whatever stands in the cookie, it is a session or it is none.
func TestA71MalformedCookiesAreNoSession(t *testing.T) {
	k := newKeeper(t, Limits{time.Hour, time.Hour}, func() time.Time { return begin })
	good := save(t, k, newSession(t, jwt(800)))[0]
	for _, cookie := range []string{
		"__Host-Http-pkce_auth", "__Host-Http-pkce_auth=", "__Host-Http-pkce_auth=x", good[:len(good)-1], good + "A",
		"__Host-Http-pkce_auth=" + strings.Repeat("A", 10_000), "__Host-Http-pkce_auth=2.", "__Host-Http-pkce_auth=9." + good,
		strings.Replace(good, "__Host-Http-", "", 1), strings.ToUpper(good),
	} {
		if s, err := k.Load(t.Context(), []string{cookie}); !errors.Is(err, ErrNone) {
			t.Errorf("%.60s: got %+v, %v", cookie, s, err)
		}
	}
}

// A52, A64: a session of one provider is none at another, not even when the
// cache of the first knows it.
func TestA52A64SessionsAreBound(t *testing.T) {
	k := newKeeper(t, Limits{time.Hour, time.Hour}, func() time.Time { return begin })
	r := save(t, k, newSession(t, jwt(800)))
	if _, err := k.Load(t.Context(), r); err != nil {
		t.Fatal(err)
	}
	ring, _ := sealed.NewKeyring(bytes.Repeat([]byte("k1"), 16))
	box := sealed.NewBox(ring, "session", "another provider", k.jar.Cookie.Name)
	other := NewStateless(k.jar.Cookie, box, k.limits, k.now)
	if _, err := other.Load(t.Context(), r); !errors.Is(err, ErrNone) {
		t.Errorf("at another provider: got %v, want ErrNone", err)
	}
}

// A62: a planted cookie in front neither hides the session nor makes it slow.
func TestA62PlantedCookies(t *testing.T) {
	k := newKeeper(t, Limits{time.Hour, time.Hour}, func() time.Time { return begin })
	var incompressible strings.Builder
	for range 5000 {
		incompressible.WriteByte("abcdefghijklmnopqrstuvwxyzABCDEF"[rand.IntN(32)])
	}
	for _, token := range []string{jwt(800), incompressible.String()} {
		good := save(t, k, newSession(t, token))[0]
		r := []string{"__Host-Http-pkce_auth=evil; __Host-Http-pkce_auth.1=evil; " + good}
		for range 2 {
			if _, err := k.Load(t.Context(), r); err != nil {
				t.Fatal(err)
			}
		}
		// What was cached is what was opened: without the part that fits, the
		// first part alone is nothing.
		first, _ := sealed.Value(r, "__Host-Http-pkce_auth", 1)
		r = []string{"__Host-Http-pkce_auth=" + first + "; __Host-Http-pkce_auth.1=evil"}
		if s, err := k.Load(t.Context(), r); strings.Contains(first, ".") && !errors.Is(err, ErrNone) {
			t.Errorf("with another's second part: got %+v, %v", s, err)
		}
	}
}

// The cache is bounded in bytes, keeps what is used, and never gives a
// session for a value that only ends alike.
func TestCacheIsBounded(t *testing.T) {
	const limit = 1 << 20
	c := newCache(limit)
	s := newSession(t, jwt(800))
	value := func(i int) string { return fmt.Sprintf("%s%032d", strings.Repeat("v", 1000), i) }
	hot := value(0)
	c.put(s, hot, nil)
	for i := 1; i < 10_000; i++ {
		c.put(s, value(i), nil)
		if got, _ := c.get(hot); got == nil {
			t.Fatalf("the entry in use was dropped after %d others", i)
		}
	}
	total, entries := 0, 0
	for i := range c.shards {
		sh := &c.shards[i]
		size := 0
		for j, e := range sh.ring {
			size += e.size
			if sh.entries[tail(e.first)] != j {
				t.Fatal("the index and the ring disagree")
			}
		}
		if size != sh.size || len(sh.entries) != len(sh.ring) || size > sh.limit {
			t.Errorf("shard %d: size %d, counted %d, limit %d; %d entries, %d in the ring", i, sh.size, size, sh.limit, len(sh.entries), len(sh.ring))
		}
		total += size
		entries += len(sh.ring)
	}
	if total > limit || entries < 100 {
		t.Errorf("got %d entries of %d bytes, limit %d", entries, total, limit)
	}
	if got, _ := c.get("w" + hot[1:]); got != nil {
		t.Error("a value that only ends alike is taken for the cached one")
	}
	c.put(s, strings.Repeat("x", limit), nil)
	if got, _ := c.get(strings.Repeat("x", limit)); got != nil {
		t.Error("an entry larger than the cache was kept")
	}
}

// More sessions than the cache holds, which come in turns, do not push each other
// out before they are found; who comes again soon gets in, however full it is.
func TestCacheKeepsWhatIsFound(t *testing.T) {
	const limit, sessions = 1 << 20, 5000
	c := newCache(limit)
	s := newSession(t, jwt(800))
	value := func(i int) string { return fmt.Sprintf("%s%032d", strings.Repeat("v", 1000), i) }
	for round := range 4 {
		found := 0
		for i := range sessions {
			if got, _ := c.get(value(i)); got != nil {
				found++
			} else {
				c.put(s, value(i), nil)
			}
		}
		if _, entries := c.held(); round > 0 && found < entries*3/4 {
			t.Errorf("round %d: %d sessions were found, of %d that are held", round, found, entries)
		}
	}
	burst := value(sessions)
	for range 2 {
		c.put(s, burst, nil)
	}
	if got, _ := c.get(burst); got == nil {
		t.Error("who comes again at once is not held")
	}
}

// FuzzSessionDecode: decoding never panics, and what it accepts can be
// written and read again.
func FuzzSessionDecode(f *testing.F) {
	for _, token := range []string{jwt(800), "opaque", ".."} {
		data, err := encode(newSession(f, token), false)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	f.Add([]byte{codecVersion, 1, 0})
	f.Fuzz(func(t *testing.T, data []byte) {
		s, err := decode(data)
		if err != nil {
			return
		}
		again, err := encode(s, false)
		if err != nil {
			t.Fatal(err)
		}
		if s2, err := decode(again); err != nil || s2.ID != s.ID || s2.AccessToken.Reveal() != s.AccessToken.Reveal() {
			t.Fatalf("got %+v, %v; want %+v", s2, err, s)
		}
	})
}
