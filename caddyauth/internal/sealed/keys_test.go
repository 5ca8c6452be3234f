package sealed

import (
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"
)

// changing are keys that come and go, as those in a storage do.
type changing struct {
	now, later *Keyring // later is what Reload brings
	err        error    // of both
	reloadErr  error
	reloads    int
}

func (c *changing) Keyring() (*Keyring, error) { return c.now, c.err }

func (c *changing) Reload() (*Keyring, error) {
	if c.reloads++; c.reloadErr != nil {
		return nil, c.reloadErr
	}
	c.now = c.later
	return c.now, c.err
}

// A value of a key that another instance has made meanwhile opens as soon as
// the keys are read anew; that is asked for unknown keys only.
func TestOpenReloadsForAnUnknownKey(t *testing.T) {
	first, both := mustKeyring(t, secretA), mustKeyring(t, secretB, secretA)
	keys := &changing{now: first, later: both}
	box := NewBox(keys, "session")
	old := mustSeal(t, box, "old")
	if _, err := box.Open(old); err != nil || keys.reloads != 0 {
		t.Errorf("a known key: got %v, and the keys were read %d times", err, keys.reloads)
	}
	news := mustSeal(t, mustBox(t, both, "session"), "new")
	if got, err := box.Open(news); string(got) != "new" || err != nil || keys.reloads != 1 {
		t.Errorf("a new key: got %q, %v, and the keys were read %d times", got, err, keys.reloads)
	}
	if _, err := box.Open(old); err != nil {
		t.Errorf("the old one afterwards: %v", err)
	}
	stranger := mustSeal(t, mustBox(t, mustKeyring(t, []byte(strings.Repeat("c3", 16))), "session"), "x")
	if _, err := box.Open(stranger); !errors.Is(err, ErrOpen) {
		t.Errorf("a key that nobody has: got %v, want ErrOpen", err)
	}
}

// While there are no keys, nothing is sealed, and no value is called worthless:
// that would end every session over a storage that is slow.
func TestNoKeysIsNotWorthless(t *testing.T) {
	j := testJar(t)
	known := request(write(t, j, nil, "mine"))
	stranger := mustSeal(t, mustBox(t, mustKeyring(t, secretB), "session", "issuer"), "x", "1")
	down := fmt.Errorf("%w: the storage is down", ErrKeys)
	j.Box = NewBox(&changing{err: down}, "session", "issuer")
	if err := j.Write(http.Header{}, nil, []byte("x"), time.Hour); !errors.Is(err, ErrKeys) {
		t.Errorf("sealing: got %v, want ErrKeys", err)
	}
	if _, err := j.Read(known); !errors.Is(err, ErrKeys) || errors.Is(err, ErrNoCookie) {
		t.Errorf("opening: got %v, want ErrKeys", err)
	}
	j.Box = NewBox(&changing{now: mustKeyring(t, secretA), reloadErr: down}, "session", "issuer")
	if _, err := j.Read([]string{j.Name(0) + "=" + stranger}); !errors.Is(err, ErrKeys) {
		t.Errorf("an unknown key, and none can be read: got %v, want ErrKeys", err)
	}
	if got, err := j.Read(known); string(got) != "mine" || err != nil {
		t.Errorf("a known key: got %q, %v", got, err)
	}
}

// The cipher itself refuses what is no message and no key, whoever calls it.
func TestXAESRefuses(t *testing.T) {
	for _, size := range []int{0, 16, 31, 33} {
		if _, err := newXAES(make([]byte, size)); err == nil {
			t.Errorf("a key of %d bytes is accepted", size)
		}
	}
	x, err := newXAES(secretA)
	if err != nil {
		t.Fatal(err)
	}
	sealed, err := x.seal(nil, nil, nil)
	if err != nil || len(sealed) != xaesOverhead {
		t.Fatalf("got %d bytes, %v", len(sealed), err)
	}
	for size := range sealed {
		if _, err := x.open(sealed[:size], nil); !errors.Is(err, errOpen) {
			t.Errorf("the first %d bytes: got %v", size, err)
		}
	}
}

// HasValue finds a value among several of one name, as planted ones are, but
// does not look further than Jar.Read does.
func TestHasValue(t *testing.T) {
	lines := []string{"ours=planted; ours=mine", "other=theirs"}
	for _, tc := range []struct {
		name, value string
		want        bool
	}{
		{"ours", "mine", true},
		{"ours", "planted", true},
		{"ours", "theirs", false},
		{"other", "theirs", true},
		{"absent", "", false},
		{"absent", "mine", false},
	} {
		if got := HasValue(lines, tc.name, tc.value); got != tc.want {
			t.Errorf("%s=%s: got %v, want %v", tc.name, tc.value, got, tc.want)
		}
	}
	flood := []string{strings.Repeat("ours=x; ", MaxTries) + "ours=mine"}
	if HasValue(flood, "ours", "mine") {
		t.Error("a value behind a flood is found: Read would not find it")
	}
}

// The error of a value that does not fit tells the operator both sizes.
func TestTooLargeErrorSaysTheSizes(t *testing.T) {
	err := testJar(t).Write(http.Header{}, nil, make([]byte, 7000), time.Hour)
	tooLarge, ok := errors.AsType[*TooLargeError](err)
	if !ok {
		t.Fatalf("got %v", err)
	}
	for _, size := range []int{tooLarge.Size, tooLarge.Limit} {
		if !strings.Contains(err.Error(), fmt.Sprint(size)) {
			t.Errorf("%q does not say %d", err, size)
		}
	}
}
