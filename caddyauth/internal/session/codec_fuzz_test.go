package session

import (
	"testing"
	"time"

	"github.com/pkce-auth/caddy-pkce-auth/caddyauth/internal/rp"
)

// FuzzWords: whatever stands among the words and the noise, reading it ends, takes
// no more than it may, and gives the same twice, with whatever buffers.
func FuzzWords(f *testing.F) {
	var w packer
	writeID(&w, newSession(f, "x").ID)
	w.Text("alice")
	writeSources(&w, newSession(f, "x").Sources)
	writeToken(&w, rp.NewSecret(jwt(200)))
	f.Add(w.Bytes(), w.noise)
	f.Add([]byte("\x00\x02id\x06\x01\xff\x04\x05\x00\x04"), make([]byte, 800))
	f.Add([]byte("\x00\x0a\x02\xff\x05\x00\x05\x00\x04\x03\x00\x01"), make([]byte, 800))
	f.Fuzz(func(t *testing.T, words, noise []byte) {
		data, err := compose(words, noise)
		if err != nil {
			t.Fatal(err)
		}
		r, err := unpack(data)
		if err != nil {
			if len(words) <= maxRecord {
				t.Fatal(err)
			}
			return
		}
		total := 0
		for range 64 {
			text := r.Text()
			raw := r.Raw()
			total += len(text) + len(raw)
			if r.Err() != nil && (r.Text() != "" || r.Raw() != nil && len(r.Raw()) > 0) {
				t.Fatal("something is read after a failure")
			}
		}
		if total > maxRecord || cap(r.text) > 2*maxRecord {
			t.Fatalf("%d bytes of text", total)
		}
		r.release()
		one, err1 := decode(data)
		two, err2 := decode(data)
		if (err1 == nil) != (err2 == nil) {
			t.Fatalf("%v, then %v", err1, err2)
		}
		if err1 == nil && (one.ID != two.ID || one.AccessToken.Reveal() != two.AccessToken.Reveal() || one.Subject != two.Subject) {
			t.Fatal("two sessions of one text")
		}
	})
}

// FuzzSessionTexts: whatever the texts of a session are, each comes back byte for
// byte, and none stands in another's place.
func FuzzSessionTexts(f *testing.F) {
	f.Add("id", "alice", "a.b.c", "..", jwt(300), `{"a":"0123456789abcdef0123456789abcdef"}`, "key")
	f.Add("ABCDEFGHIJKLMNOPQRSTUVWXYZ", "", "eyJ.eyJ.AA", "eyJh.eyJh.AAA\n", "e30.e30.AB", "\x05\x00", "\x04\x04")
	f.Fuzz(func(t *testing.T, id, subject, access, refresh, idToken, raw, key string) {
		s := newSession(t, access)
		s.ID, s.Subject = id, subject
		s.RefreshToken = rp.NewSecret(refresh)
		s.setIDToken(idToken, s.Sources[0].Claims)
		s.Scope = raw
		s.further.tokens = []Further{{Key: key, AccessToken: rp.NewSecret(idToken), RefreshToken: rp.NewSecret(access), Scope: refresh, Expiry: begin.Add(time.Hour), since: 3}}
		s.Generation, s.since = 1<<40, 7
		data, err := encode(s, true)
		if err != nil || id == "" || access == "" {
			return
		}
		got, err := decode(data)
		if err != nil {
			t.Fatal(err)
		}
		if got.ID != id || got.Subject != subject || got.AccessToken.Reveal() != access || got.bearer.Reveal() != "Bearer "+access ||
			got.RefreshToken.Reveal() != refresh || got.IDToken.Reveal() != idToken || got.Scope != raw || got.Generation != 1<<40 || got.since != 7 {
			t.Fatalf("got %+v", got)
		}
		if key != MainToken && key != IDToken && idToken != "" {
			g := got.further.tokens[0]
			if g.Key != key || g.AccessToken.Reveal() != idToken || g.RefreshToken.Reveal() != access || g.Scope != refresh || g.since != 3 {
				t.Fatalf("got %+v", g)
			}
		}
	})
}
