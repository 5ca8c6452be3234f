package session

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/pkce-auth/caddy-pkce-auth/caddyauth/store"
)

var sizes = []int{800, 2000, 6000}

// Issue 7: how many bytes of Set-Cookie a login sends, with an access token and an
// ID token of each size. The goals are 1.0, 1.9 and 4.1 kB, and one cookie. What
// is above them here is above them for any way of writing it down, or nearly so:
// noise, of which each byte takes 1.33 characters. A minor change may well move
// these numbers; an increase wants a reason.
func TestCookieSizes(t *testing.T) {
	goals := []int{1000, 1900, 4100}
	limits := map[string][]int{
		"auth0":    {905, 1417, 2015},
		"keycloak": {1161, 1417, 2015}, // its refresh token is a JWT of 650 bytes, which has 500 bytes of noise with the rest
		"entra":    {2271, 2612, 4314}, // a refresh token of 1 kB, and the GUIDs of groups: 1.35, 1.6 and 2.8 kB of noise
	}
	k := newKeeper(t, hours, func() time.Time { return begin })
	for _, f := range families {
		for i, size := range sizes {
			s := f.login(size, 1)
			h := http.Header{}
			if err := k.Save(t.Context(), h, nil, s); err != nil {
				t.Fatal(err)
			}
			bytes, count := len(strings.Join(h["Set-Cookie"], "")), len(h["Set-Cookie"])
			t.Logf("%-8s access token %4d, ID token %4d, refresh token %3d: %d bytes in %d (goal %d)",
				f.name, len(s.AccessToken.Reveal()), len(s.IDToken.Reveal()), len(s.RefreshToken.Reveal()), bytes, count, goals[i])
			if bytes > limits[f.name][i] {
				t.Errorf("%s, %d: got %d bytes, want at most %d", f.name, size, bytes, limits[f.name][i])
			}
			if count > 1 && (f.name != "entra" || size < 6000) {
				t.Errorf("%s, %d: got %d cookies", f.name, size, count)
			}
		}
	}
}

// A ticket takes at most 150 bytes of each request, whatever the session holds.
func TestTicketSize(t *testing.T) {
	for _, f := range families {
		h := http.Header{}
		k := newStored(t, &store.Memory{Now: func() time.Time { return begin }}, hours, func() time.Time { return begin })
		if err := k.Save(t.Context(), h, nil, f.login(6000, 1)); err != nil {
			t.Fatal(err)
		}
		cookies := (&http.Response{Header: h}).Cookies()
		if size := len("__Host-Http-pkce_auth=") + len(cookies[0].Value); len(cookies) != 1 || size > 150 {
			t.Errorf("%s: got %d cookies, the first of %d bytes", f.name, len(cookies), size)
		}
	}
	s := newSession(t, "x")
	s.ID = "not drawn here"
	if got, err := writeTicket(s); err == nil {
		t.Errorf("an ID that no ticket holds: got %x", got)
	}
}

// What opening a session allocates is what it holds, hardly anything else: with
// encoding/json, and readers made anew, it was four times as much.
func TestPromise6OpeningAllocations(t *testing.T) {
	limits := map[string]float64{"auth0": 90, "keycloak": 100, "entra": 80}
	k := newKeeper(t, hours, func() time.Time { return begin })
	for _, f := range families {
		cookies := save(t, k, f.login(2000, 1))
		got := testing.AllocsPerRun(200, func() {
			k.opened = newCache(0)
			if _, err := k.Load(t.Context(), cookies); err != nil {
				t.Fatal(err)
			}
		}) - testing.AllocsPerRun(200, func() { k.opened = newCache(0) })
		t.Logf("%s: %v allocations", f.name, got)
		if got > limits[f.name] {
			t.Errorf("%s: got %v allocations, want at most %v", f.name, got, limits[f.name])
		}
	}
}

// FuzzTexts: whatever the texts are, and however they repeat each other, they come
// back byte for byte.
func FuzzTexts(f *testing.F) {
	d := newDraw(1)
	f.Add("", "\x00\x01\x02\x03\x04\x05\x06", "\x05")
	f.Add(d.guid(), `"`+d.guid()+`"`, strings.ToUpper(d.guid()))
	f.Add(d.b64(31), d.b64(32), d.b64(33))
	f.Add(d.hex(16), d.hex(16)+"0", "0123456789")
	f.Add(strings.Repeat("Ab0_", 600), strings.Repeat("0a", 600), "Ab0_Ab0_Ab0_Ab0_")
	f.Add(newSession(f, jwt(800)).AccessToken.Reveal(), "v1."+d.b64(30), "auth0|"+d.hex(12))
	f.Fuzz(func(t *testing.T, a, b, c string) {
		texts := []string{a, b, c, a, b, a + b, c}
		var w packer
		for _, text := range texts {
			w.Text(text)
		}
		w.Raw([]byte(a))
		data, err := w.pack()
		if err != nil {
			return // too large
		}
		r, err := unpack(data)
		if err != nil {
			t.Fatal(err)
		}
		defer r.release()
		for i, text := range texts {
			if got := r.Text(); got != text {
				t.Fatalf("text %d: got %q, want %q", i, got, text)
			}
		}
		if got := r.Raw(); string(got) != a || r.Err() != nil {
			t.Fatalf("got %q, %v, want %q", got, r.Err(), a)
		}
	})
}

// BenchmarkOpen is what a request pays whose session is not among the opened ones.
func BenchmarkOpen(b *testing.B) {
	for _, f := range families {
		for _, size := range append(sizes, 12_000) {
			k := newKeeper(b, hours, func() time.Time { return begin })
			data, err := encode(f.login(size, 1), false)
			if err != nil {
				b.Fatal(err)
			}
			text, err := k.jar.Box.Seal(data, "1")
			if err != nil {
				b.Fatal(err)
			}
			b.Run(fmt.Sprintf("%s/%d", f.name, size), func(b *testing.B) {
				b.ReportAllocs()
				for b.Loop() {
					data, _, err := k.jar.Open(nil, text)
					if err != nil {
						b.Fatal(err)
					}
					if _, err := decode(data); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}

// BenchmarkSeal is what a login pays, and a request that slides its session.
func BenchmarkSeal(b *testing.B) {
	for _, f := range families {
		for _, size := range sizes {
			s := f.login(size, 1)
			k := newKeeper(b, hours, func() time.Time { return begin })
			b.Run(fmt.Sprintf("%s/%d", f.name, size), func(b *testing.B) {
				b.ReportAllocs()
				for b.Loop() {
					if err := k.Save(b.Context(), http.Header{}, nil, s); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}

// BenchmarkLookup is what a request pays whose session was opened before, one of
// few or of as many as there is room for.
func BenchmarkLookup(b *testing.B) {
	for _, n := range []int{1, 1000} {
		k := newKeeper(b, hours, func() time.Time { return begin })
		var cookies [][]string
		for i := range n {
			cookies = append(cookies, save(b, k, families[0].login(2000, uint64(i))))
			if _, err := k.Load(b.Context(), cookies[i]); err != nil {
				b.Fatal(err)
			}
		}
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				if _, err := k.Load(b.Context(), cookies[i%n]); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
