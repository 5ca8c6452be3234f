package session

import (
	"fmt"
	"net/http"
	"testing"
	"time"
)

func TestCookieSizesOfFamilies(t *testing.T) {
	k := newKeeper(t, Limits{Lifetime: time.Hour, Idle: time.Hour}, func() time.Time { return begin })
	for _, f := range families {
		for _, size := range []int{800, 2000, 6000} {
			s := f.login(size, 1)
			h := http.Header{}
			if err := k.Save(t.Context(), h, nil, s); err != nil {
				t.Fatal(err)
			}
			total := 0
			for _, line := range h["Set-Cookie"] {
				total += len(line)
			}
			data, _ := encode(s, false)
			t.Logf("%-9s access %4d id %4d refresh %4d: %d cookies, %d bytes; encoded %d", f.name, len(s.AccessToken.Reveal()), len(s.IDToken.Reveal()), len(s.RefreshToken.Reveal()), len(h["Set-Cookie"]), total, len(data))
		}
	}
}

func BenchmarkOpen(b *testing.B) {
	for _, f := range families {
		for _, size := range []int{800, 2000, 6000, 12000} {
			s := f.login(size, 1)
			k := newKeeper(b, Limits{time.Hour, time.Hour}, func() time.Time { return begin })
			data, err := encode(s, false)
			if err != nil {
				b.Fatal(err)
			}
			text, _ := k.jar.Box.Seal(data, "1")
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

func BenchmarkSeal(b *testing.B) {
	for _, f := range families {
		for _, size := range []int{800, 2000, 6000} {
			s := f.login(size, 1)
			k := newKeeper(b, Limits{time.Hour, time.Hour}, func() time.Time { return begin })
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
