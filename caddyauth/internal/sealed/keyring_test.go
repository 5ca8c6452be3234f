package sealed

import (
	"bytes"
	"encoding/hex"
	"errors"
	"strings"
	"testing"
)

var (
	secretA = bytes.Repeat([]byte("a1"), 16)
	secretB = bytes.Repeat([]byte("b2"), 16)
)

func mustKeyring(t testing.TB, secrets ...[]byte) *Keyring {
	t.Helper()
	k, err := NewKeyring(secrets...)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func mustBox(t testing.TB, k *Keyring, purpose string, binding ...string) *Box {
	t.Helper()
	return NewBox(k, purpose, binding...)
}

func mustSeal(t testing.TB, b *Box, plaintext string, extra ...string) string {
	t.Helper()
	text, err := b.Seal([]byte(plaintext), extra...)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// The vectors of c2sp.org/XAES-256-GCM.
func TestXAESVectors(t *testing.T) {
	for _, tc := range []struct {
		name       string
		key        byte
		aad        string
		ciphertext string
	}{
		{"without additional data", 0x01, "", "ce546ef63c9cc60765923609b33a9a1974e96e52daf2fcf7075e2271"},
		{"with additional data", 0x03, "c2sp.org/XAES-256-GCM", "986ec1832593df5443a179437fd083bf3fdb41abd740a21f71eb769d"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			x, err := newXAES(bytes.Repeat([]byte{tc.key}, 32))
			if err != nil {
				t.Fatal(err)
			}
			ciphertext, _ := hex.DecodeString(tc.ciphertext)
			got, err := x.open(append([]byte("ABCDEFGHIJKLMNOPQRSTUVWX"), ciphertext...), []byte(tc.aad))
			if err != nil || string(got) != "XAES-256-GCM" {
				t.Errorf("got %q, %v", got, err)
			}
		})
	}
}

func TestSealOpen(t *testing.T) {
	box := mustBox(t, mustKeyring(t, secretA), "session", "issuer", "client")
	for _, plaintext := range []string{"", "x", strings.Repeat("long ", 2000)} {
		text := mustSeal(t, box, plaintext, "1")
		if len(text) != TextSize(len(plaintext)) {
			t.Errorf("TextSize(%d): got %d, want %d", len(plaintext), TextSize(len(plaintext)), len(text))
		}
		got, err := box.Open(text, "1")
		if err != nil || string(got) != plaintext {
			t.Errorf("got %q, %v; want %q", got, err, plaintext)
		}
	}
}

// A46: what is sealed cannot be read, not even in part.
func TestR19cSealA46HidesThePlaintext(t *testing.T) {
	box := mustBox(t, mustKeyring(t, secretA), "login")
	verifier := "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk"
	text := mustSeal(t, box, verifier)
	envelope, err := encoding.DecodeString(text)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i+4 <= len(verifier); i++ {
		if bytes.Contains(envelope, []byte(verifier[i:i+4])) || strings.Contains(text, verifier[i:i+4]) {
			t.Fatalf("%q shines through", verifier[i:i+4])
		}
	}
}

// A66: a change of any bit fails, and always in the same way.
func TestOpenA66RefusesEveryFlippedBit(t *testing.T) {
	box := mustBox(t, mustKeyring(t, secretA), "session")
	envelope, _ := encoding.DecodeString(mustSeal(t, box, "payload"))
	for i := range envelope {
		for bit := range 8 {
			envelope[i] ^= 1 << bit
			if _, err := box.Open(encoding.EncodeToString(envelope)); !errors.Is(err, ErrOpen) {
				t.Fatalf("byte %d, bit %d: got %v, want ErrOpen", i, bit, err)
			}
			envelope[i] ^= 1 << bit
		}
	}
}

func TestOpenRefusesMalformedText(t *testing.T) {
	box := mustBox(t, mustKeyring(t, secretA), "session")
	good := mustSeal(t, box, "payload.")
	for name, text := range map[string]string{
		"nothing":              "",
		"one character":        "A",
		"cut":                  good[:len(good)-1],
		"padded":               good + "=",
		"with a newline":       good[:4] + "\n" + good[4:],
		"standard alphabet":    "+/" + good[2:],
		"header only":          good[:7],
		"too short for a tag":  good[:40],
		"loose trailing bits":  good[:len(good)-1] + string(good[len(good)-1]+1),
		"another version":      "Ag" + good[2:],
		"not base64url at all": "{}",
	} {
		if _, err := box.Open(text); !errors.Is(err, ErrOpen) {
			t.Errorf("%s: got %v, want ErrOpen", name, err)
		}
	}
}

// A52, A64, A69: a value opens only for the purpose, the owner and the place
// that it was sealed for, however their names are cut.
func TestOpenA52A64A69IsBound(t *testing.T) {
	k := mustKeyring(t, secretA)
	text := mustSeal(t, mustBox(t, k, "session", "issuer", "client"), "payload", "name")
	for name, open := range map[string]func() ([]byte, error){
		"another purpose":       func() ([]byte, error) { return mustBox(t, k, "login", "issuer", "client").Open(text, "name") },
		"another client":        func() ([]byte, error) { return mustBox(t, k, "session", "issuer", "other").Open(text, "name") },
		"another cookie":        func() ([]byte, error) { return mustBox(t, k, "session", "issuer", "client").Open(text, "eman") },
		"no cookie":             func() ([]byte, error) { return mustBox(t, k, "session", "issuer", "client").Open(text) },
		"strings cut elsewhere": func() ([]byte, error) { return mustBox(t, k, "session", "issuerc", "lient").Open(text, "name") },
		"lists cut elsewhere":   func() ([]byte, error) { return mustBox(t, k, "session", "issuer").Open(text, "client", "name") },
		"another secret": func() ([]byte, error) {
			return mustBox(t, mustKeyring(t, secretB), "session", "issuer", "client").Open(text, "name")
		},
	} {
		if got, err := open(); !errors.Is(err, ErrOpen) {
			t.Errorf("%s: got %q, %v; want ErrOpen", name, got, err)
		}
	}
}

func TestRotation(t *testing.T) {
	const purpose = "session"
	old := mustBox(t, mustKeyring(t, secretA), purpose)
	oldNew := mustBox(t, mustKeyring(t, secretA, secretB), purpose)
	newOld := mustBox(t, mustKeyring(t, secretB, secretA), purpose)
	onlyNew := mustBox(t, mustKeyring(t, secretB), purpose)
	for _, tc := range []struct {
		name       string
		seal, open *Box
		ok         bool
	}{
		{"step one opens what came before", old, oldNew, true},
		{"what came before opens step one", oldNew, old, true},
		{"step two opens step one", oldNew, newOld, true},
		{"step one opens step two", newOld, oldNew, true},
		{"step three opens step two", newOld, onlyNew, true},
		{"step three no longer opens step one", oldNew, onlyNew, false},
	} {
		_, err := tc.open.Open(mustSeal(t, tc.seal, "x"))
		if (err == nil) != tc.ok {
			t.Errorf("%s: got %v", tc.name, err)
		}
	}
}

func TestNewKeyringRefuses(t *testing.T) {
	for name, secrets := range map[string][][]byte{
		"no secret":                {},
		"an empty secret":          {{}},
		"a short secret":           {secretA[:31]},
		"a short second secret":    {secretA, secretB[:31]},
		"the same secret repeated": {secretA, secretA},
	} {
		if _, err := NewKeyring(secrets...); err == nil {
			t.Errorf("%s: got no error", name)
		}
	}
}

// A67: no two messages share a nonce. Half of the nonce shows here that the
// messages are sealed under keys of their own.
func TestSealA67NoncesDiffer(t *testing.T) {
	box := mustBox(t, mustKeyring(t, secretA), "session")
	n := 100_000
	if testing.Short() {
		n = 1000
	}
	seen := make(map[string]bool, n)
	for range n {
		envelope, _ := encoding.DecodeString(mustSeal(t, box, ""))
		half := string(envelope[headerSize : headerSize+deriveNonceSize])
		if seen[half] {
			t.Fatal("a nonce came back")
		}
		seen[half] = true
	}
}

// FuzzOpen: nothing opens but what was sealed. (The processes of a fuzz run
// seal the same payload under nonces of their own.)
func FuzzOpen(f *testing.F) {
	box := mustBox(f, mustKeyring(f, secretA), "session")
	good := mustSeal(f, box, "payload", "1")
	for _, seed := range []string{"", good, good[:len(good)-2], "A" + good, good + "A"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		if got, err := box.Open(text, "1"); err == nil && string(got) != "payload" {
			t.Fatalf("%q opened as %q", text, got)
		}
	})
}

// FuzzReader: reading never panics, never gives more than was there, and what
// a Writer wrote comes back.
func FuzzReader(f *testing.F) {
	f.Add([]byte{}, "x", uint64(1))
	f.Add([]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1}, "", uint64(1<<63))
	f.Fuzz(func(t *testing.T, data []byte, text string, number uint64) {
		r := NewReader(data)
		if got := r.Text(); len(got) > len(data) {
			t.Fatalf("%d bytes out of %d", len(got), len(data))
		}
		r.Number()
		r.Time()

		var w Writer
		w.Text(text)
		w.Number(number)
		w.Text(text)
		r = NewReader(w.Bytes())
		if a, n, b := r.Text(), r.Number(), r.Text(); a != text || n != number || b != text || r.Err() != nil {
			t.Fatalf("got %q, %d, %q, %v", a, n, b, r.Err())
		}
	})
}
