package sealed

import (
	"errors"
	"fmt"
	"slices"
	"testing"
)

// A74, A69: a tag says nothing of the thing; things, purposes, bindings and
// keys that differ have different tags, however their texts are cut; and as
// long as replicas have a key in common, they find what another has named.
func TestA69A74Tags(t *testing.T) {
	key := func(s string) []byte { return []byte(s + "-------------------------------------")[:32] }
	ring := func(secrets ...string) *Keyring {
		var raw [][]byte
		for _, s := range secrets {
			raw = append(raw, key(s))
		}
		k, err := NewKeyring(raw...)
		if err != nil {
			t.Fatal(err)
		}
		return k
	}
	tags := func(tagger *Tagger, texts ...string) []string {
		got, err := tagger.Tags(texts...)
		if err != nil {
			t.Fatal(err)
		}
		return got
	}
	seen := map[string]string{}
	for name, got := range map[string][]string{
		"u alice":          tags(NewTagger(ring("a"), "index", "op"), "u", "alice"),
		"ua lice":          tags(NewTagger(ring("a"), "index", "op"), "ua", "lice"),
		"u bob":            tags(NewTagger(ring("a"), "index", "op"), "u", "bob"),
		"another purpose":  tags(NewTagger(ring("a"), "revocation", "op"), "u", "alice"),
		"another provider": tags(NewTagger(ring("a"), "index", "op2"), "u", "alice"),
		"another key":      tags(NewTagger(ring("b"), "index", "op"), "u", "alice"),
	} {
		if len(got) != 1 || len(got[0]) != 2*tagSize {
			t.Fatalf("%s: got %q", name, got)
		}
		if other, ok := seen[got[0]]; ok {
			t.Errorf("%s and %s have the same tag", name, other)
		}
		seen[got[0]] = name
	}
	old, both, turned := NewTagger(ring("a"), "i", "op"), NewTagger(ring("a", "b"), "i", "op"), NewTagger(ring("b", "a"), "i", "op")
	for range 2 { // once with keys that are derived already
		if !slices.Contains(tags(turned, "x"), tags(old, "x")[0]) || !slices.Contains(tags(both, "x"), tags(turned, "x")[0]) {
			t.Error("during a rotation, what one replica names is not found by another")
		}
	}
	if k, err := both.Keyring(); err != nil || k != both.keys {
		t.Errorf("got %v, %v", k, err)
	}
}

func TestTagsWithoutKeys(t *testing.T) {
	tagger := NewTagger(noKeys{}, "index")
	if _, err := tagger.Tags("x"); !errors.Is(err, ErrKeys) {
		t.Errorf("got %v", err)
	}
	if _, err := tagger.Keyring(); !errors.Is(err, ErrKeys) {
		t.Errorf("got %v", err)
	}
	if _, err := NewBox(noKeys{}, "x").SealBytes(nil); !errors.Is(err, ErrKeys) {
		t.Errorf("got %v", err)
	}
}

// noKeys are keys that cannot be had.
type noKeys struct{}

func (noKeys) Keyring() (*Keyring, error) { return nil, fmt.Errorf("%w: gone", ErrKeys) }
func (noKeys) Reload() (*Keyring, error)  { return nil, fmt.Errorf("%w: gone", ErrKeys) }
