package sealed

import (
	"errors"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestValue(t *testing.T) {
	lines := []string{"a=1; ours=one; ours=two", "oursx=no;\tours=three ; b=ours=no", "ours", "=x", " ours=four"}
	for n, want := range []string{"one", "two", "three", "four"} {
		if got, ok := Value(lines, "ours", n); !ok || got != want {
			t.Errorf("value %d: got %q, %v; want %q", n, got, ok, want)
		}
	}
	if got, ok := Value(lines, "ours", 4); ok {
		t.Errorf("a fifth value: %q", got)
	}
}

// A63: no byte that browsers let a script put before a name makes the name
// ours; nor do quotes, $Version or a missing name.
func TestValueA63IgnoresTricks(t *testing.T) {
	const name = "__Host-Http-pkce_auth"
	for _, line := range []string{
		"\u2000" + name + "=x", "\u00a0" + name + "=x", "\x0b" + name + "=x", "\n" + name + "=x",
		"=" + name + "=x", `$Version=1, ` + name + "=x", `a="b, ` + name + `=x"`, strings.ToLower(name) + "=x", name, name + "\u2000=x",
	} {
		if got, ok := Value([]string{line}, name, 0); ok {
			t.Errorf("%q: got %q", line, got)
		}
	}
}

func TestStrip(t *testing.T) {
	own := func(name string) bool { return name == "ours" || strings.HasPrefix(name, "ours.") }
	for _, tc := range []struct {
		name     string
		in, want []string
	}{
		{name: "only ours", in: []string{"ours=1; ours.1=2"}},
		{name: "ours first", in: []string{"ours=1; a=b"}, want: []string{"a=b"}},
		{name: "ours last", in: []string{"a=b; ours=1"}, want: []string{"a=b"}},
		{name: "ours in between", in: []string{"a=b; ours=1; c=d"}, want: []string{"a=b; c=d"}},
		{name: "ours everywhere", in: []string{"ours=1; a=b; ours.1=2; ours=3; c=d; ours=4"}, want: []string{"a=b; c=d"}},
		{name: "none of ours", in: []string{` odd ; "x=y ;; z=1,2; oursnot=1; `}, want: []string{` odd ; "x=y ;; z=1,2; oursnot=1; `}},
		{name: "odd neighbours stay as they are", in: []string{`a="x y",{z}; ours=1;b=\xff=`}, want: []string{`a="x y",{z};b=\xff=`}},
		{name: "several lines", in: []string{"a=b", "ours=1", "c=d; ours=2"}, want: []string{"a=b", "c=d"}},
		{name: "ours inside another's quotes", in: []string{`a="1; ours=secret; b=2"`}, want: []string{`a="1; b=2"`}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			in := slices.Clone(tc.in)
			if got := Strip(in, own); !slices.Equal(got, tc.want) {
				t.Errorf("got %q, want %q", got, tc.want)
			}
			if !slices.Equal(in, tc.in) {
				t.Errorf("the lines given were changed to %q", in)
			}
		})
	}
	for line, want := range map[string]float64{"ours=1; ours.1=2": 0, "a=b": 0, "ours=1; a=b; c=d": 1, "a=b; ours=1": 1} {
		lines := []string{line}
		if n := testing.AllocsPerRun(100, func() { Strip(lines, own) }); n != want {
			t.Errorf("stripping %q allocates %v times, want %v", line, n, want)
		}
	}
}

func testJar(t testing.TB) *Jar {
	return &Jar{
		Cookie:    Cookie{Name: "__Host-Http-pkce_auth", Path: "/", SameSite: http.SameSiteLaxMode, Secure: true},
		Box:       mustBox(t, mustKeyring(t, secretA), "session", "issuer"),
		MaxChunks: 2,
	}
}

// request gives the cookies that a browser sends after the given responses.
func request(responses ...http.Header) []string {
	have := map[string]string{}
	var order []string
	for _, h := range responses {
		for _, c := range (&http.Response{Header: h}).Cookies() {
			if _, ok := have[c.Name]; !ok {
				order = append(order, c.Name)
			}
			have[c.Name] = c.Value
			if c.MaxAge < 0 {
				delete(have, c.Name)
			}
		}
	}
	var pairs []string
	for _, name := range order {
		if value, ok := have[name]; ok {
			pairs = append(pairs, name+"="+value)
		}
	}
	if len(pairs) == 0 {
		return nil
	}
	return []string{strings.Join(pairs, "; ")}
}

func write(t testing.TB, j *Jar, cookies []string, value string) http.Header {
	t.Helper()
	h := http.Header{}
	if err := j.Write(h, cookies, []byte(value), time.Hour); err != nil {
		t.Fatal(err)
	}
	return h
}

// R19b, R60: the attributes, and sizes that every browser takes.
func TestJarR19bR60Cookies(t *testing.T) {
	j := testJar(t)
	h := write(t, j, request(), "small")
	const want = "; Path=/; Max-Age=3600; HttpOnly; Secure; SameSite=Lax"
	if got := h.Get("Set-Cookie"); !strings.HasPrefix(got, "__Host-Http-pkce_auth=A") || !strings.HasSuffix(got, want) {
		t.Errorf("got %q, want it to end in %q", got, want)
	}
	for size := range 6000 {
		if size%37 != 0 && size < 5900 {
			continue
		}
		for _, c := range (&http.Response{Header: write(t, j, request(), strings.Repeat("x", size))}).Cookies() {
			if n := len(c.Name) + len(c.Value) + 1; n > 4096 {
				t.Fatalf("value of %d bytes: cookie %s has %d bytes", size, c.Name, n)
			}
			if c.Path != "/" || !c.HttpOnly || !c.Secure || c.Domain != "" || c.SameSite != http.SameSiteLaxMode {
				t.Fatalf("attributes of %s: %+v", c.Name, c)
			}
		}
	}
}

// R61: a deletion repeats the attributes, else browsers ignore it.
func TestJarR61Delete(t *testing.T) {
	j := testJar(t)
	h := http.Header{}
	j.Delete(h, request(write(t, j, request(), strings.Repeat("x", 5000))))
	want := []string{
		"__Host-Http-pkce_auth=; Path=/; Max-Age=0; HttpOnly; Secure; SameSite=Lax",
		"__Host-Http-pkce_auth.1=; Path=/; Max-Age=0; HttpOnly; Secure; SameSite=Lax",
	}
	if got := h["Set-Cookie"]; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	h = http.Header{}
	j.Delete(h, request())
	if len(h) != 0 {
		t.Errorf("cookies that the request did not carry are deleted: %q", h)
	}
}

func TestJarReadsWhatItWrote(t *testing.T) {
	j := testJar(t)
	for _, size := range []int{0, 1, 2900, 3000, 3100, 5000, 5900} {
		value := strings.Repeat("v", size)
		got, err := j.Read(request(write(t, j, request(), value)))
		if err != nil || string(got) != value {
			t.Errorf("%d bytes: got %d bytes, %v", size, len(got), err)
		}
	}
	var tooLarge *TooLargeError
	if err := j.Write(http.Header{}, request(), make([]byte, 7000), time.Hour); !errors.As(err, &tooLarge) || tooLarge.Size <= tooLarge.Limit {
		t.Errorf("7000 bytes: got %v", err)
	}
	if _, err := j.Read(request()); !errors.Is(err, ErrNoCookie) {
		t.Errorf("no cookie: got %v, want ErrNoCookie", err)
	}
}

// T7: a value that shrinks leaves no part of its longer past behind.
func TestJarT7GrowAndShrink(t *testing.T) {
	j := testJar(t)
	long := write(t, j, request(), strings.Repeat("l", 5000))
	short := write(t, j, request(long), "short")
	if _, ok := Value(request(long, short), "__Host-Http-pkce_auth.1", 0); ok {
		t.Error("the second part of the long value stays")
	}
	// Even where a part stays, as after two responses at once, it is not read.
	stale := []string{request(short)[0] + "; __Host-Http-pkce_auth.1=stale"}
	if got, err := j.Read(stale); err != nil || string(got) != "short" {
		t.Errorf("with a stale part: got %q, %v", got, err)
	}
}

// A65: parts of two values make no third, and the count in the first part is
// not believed.
func TestJarA65PartsDoNotMix(t *testing.T) {
	j := testJar(t)
	parts := func(value string) (first, second string) {
		lines := request(write(t, j, request(), value))
		first, _ = Value(lines, j.Name(0), 0)
		second, _ = Value(lines, j.Name(1), 0)
		return first, second
	}
	a1, a2 := parts(strings.Repeat("a", 5000))
	_, b2 := parts(strings.Repeat("b", 5000))
	small, _ := parts("small")
	for name, cookies := range map[string]string{
		"first of one, second of another": j.Name(0) + "=" + a1 + "; " + j.Name(1) + "=" + b2,
		"second part missing":             j.Name(0) + "=" + a1,
		"first part missing":              j.Name(1) + "=" + a2,
		"second part empty":               j.Name(0) + "=" + a1 + "; " + j.Name(1) + "=",
		"parts swapped":                   j.Name(0) + "=" + a2 + "; " + j.Name(1) + "=" + a1,
		"count taken off":                 j.Name(0) + "=" + strings.TrimPrefix(a1, "2.") + a2,
		"count put on":                    j.Name(0) + "=2." + small + "; " + j.Name(1) + "=",
		"count of two thousand million":   j.Name(0) + "=2000000000." + a1[2:] + "; " + j.Name(1) + "=" + a2,
		"count with a sign":               j.Name(0) + "=+2." + a1[2:] + "; " + j.Name(1) + "=" + a2,
		"count of one":                    j.Name(0) + "=1." + small,
		"count of zero":                   j.Name(0) + "=0." + small,
	} {
		if got, err := j.Read([]string{cookies}); !errors.Is(err, ErrNoCookie) {
			t.Errorf("%s: got %d bytes, %v; want ErrNoCookie", name, len(got), err)
		}
	}
}

// A62: a cookie of our name that a sibling domain planted, in front of ours
// or behind, neither replaces nor hides ours.
func TestJarA62FindsOursAmongPlanted(t *testing.T) {
	j := testJar(t)
	small := request(write(t, j, request(), "mine"))[0]
	large := request(write(t, j, request(), strings.Repeat("m", 5000)))[0]
	planted := j.Name(0) + "=planted; " + j.Name(0) + "=2.planted; " + j.Name(1) + "=planted"
	for name, cookies := range map[string]string{
		"small, planted first":  planted + "; " + small,
		"small, planted behind": small + "; " + planted,
		"large, planted first":  planted + "; " + large,
		"large, planted behind": large + "; " + planted,
	} {
		if _, err := j.Read([]string{cookies}); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := j.Read([]string{strings.Repeat(j.Name(0)+"=x; ", 3000) + small}); !errors.Is(err, ErrNoCookie) {
		t.Errorf("behind a flood: got %v, want ErrNoCookie after a bounded number of tries", err)
	}
}

// FuzzCookieHeader: whatever the header, stripping leaves no cookie of ours
// and the values of all others in their order; reading never panics.
func FuzzCookieHeader(f *testing.F) {
	for _, seed := range []string{"a=b; ours=1", "ours=1;ours.1=2", ";;=; ours =x; a", "ours", `a="ours=1; ours=2"`} {
		f.Add(seed)
	}
	own := func(name string) bool { return name == "ours" || strings.HasPrefix(name, "ours.") }
	j := testJar(f)
	j.Cookie.Name = "ours"
	f.Fuzz(func(t *testing.T, line string) {
		var want []string
		collect := func(into *[]string, keep func(string) bool) func(string, int) {
			return func(name string, _ int) {
				if keep(name) {
					*into = append(*into, name)
				}
			}
		}
		Names([]string{line}, collect(&want, func(name string) bool { return !own(name) }))
		if _, err := j.Read([]string{line}); err == nil {
			t.Fatal("a fuzzer forged a seal")
		}
		left := Strip([]string{line}, own)
		var got []string
		Names(left, collect(&got, func(string) bool { return true }))
		if !slices.Equal(got, want) {
			t.Fatalf("%q: got %q, want %q", line, got, want)
		}
		if _, ok := Value(left, "ours", 0); ok {
			t.Fatalf("%q: ours stays", line)
		}
	})
}
