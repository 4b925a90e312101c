package storage_test

import (
	"bytes"
	_ "crypto/sha512" // for digests
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/berth-registry/berth/storage"
)

var digests = []digest.Digest{
	digest.FromString("a"),
	digest.FromString("b"),
	digest.SHA512.FromString("a"),
	digest.NewDigestFromBytes(digest.SHA256, make([]byte, 32)),
	digest.NewDigestFromBytes(digest.SHA256, bytes.Repeat([]byte{0xff}, 32)),
	digest.NewDigestFromBytes(digest.SHA512, make([]byte, 64)),
	digest.NewDigestFromBytes(digest.SHA512, bytes.Repeat([]byte{1}, 64)),
}

func TestDigestPart(t *testing.T) {
	var joined string
	for _, d := range digests {
		part := storage.DigestPart(d)
		for _, tail := range []string{"", "\x00", "\x00tag", part} {
			got, rest, err := storage.CutDigest([]byte(part + tail))
			if err != nil || got != d || string(rest) != tail {
				t.Errorf("CutDigest of %s and %q = %s, %q, %v", d, tail, got, rest, err)
			}
		}
		if _, _, err := storage.CutDigest([]byte(part[:len(part)-1])); err == nil {
			t.Errorf("CutDigest of %s without its last byte: no error", d)
		}
		joined += part
	}
	rest := []byte(joined)
	for _, want := range digests {
		var got digest.Digest
		var err error
		if got, rest, err = storage.CutDigest(rest); err != nil || got != want {
			t.Fatalf("CutDigest of joined parts = %s, %v, want %s", got, err, want)
		}
	}
	if len(rest) > 0 {
		t.Errorf("%d bytes are left of joined parts", len(rest))
	}
}

func TestDigestPartInvalid(t *testing.T) {
	for _, d := range []digest.Digest{
		"", "sha256:", "sha256:abcd", "sha512:" + digest.Digest(digests[0].Encoded()),
		digest.SHA384.FromString("a"), digest.Digest("sha256:" + strings.Repeat("x", 64)),
	} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("DigestPart(%q): no panic", d)
				}
			}()
			storage.DigestPart(d)
		}()
	}
}

func FuzzCutDigest(f *testing.F) {
	f.Add([]byte{})
	f.Add([]byte{1})
	f.Add(make([]byte, 65))
	for _, d := range digests {
		f.Add([]byte(storage.DigestPart(d)))
		f.Add([]byte(storage.DigestPart(d) + "\x00v1.0"))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		d, rest, err := storage.CutDigest(b)
		if err != nil {
			return
		}
		if err := d.Validate(); err != nil {
			t.Errorf("CutDigest(%x) = %q: %v", b, d, err)
		}
		if got := storage.DigestPart(d) + string(rest); got != string(b) {
			t.Errorf("CutDigest(%x) and DigestPart make %x", b, got)
		}
	})
}

func TestNumberPart(t *testing.T) {
	var parts []string
	for _, n := range []int64{0, 1, 255, 256, 1 << 40, 1<<63 - 1} {
		parts = append(parts, storage.NumberPart(n))
	}
	if !slices.IsSorted(parts) || len(slices.Compact(slices.Clone(parts))) != len(parts) {
		t.Errorf("NumberPart of numbers in order gives %x", parts)
	}
}

// TestKeys checks that no two lists of parts of a table make the same key, and
// that the prefix made of some parts finds the rows with these parts alone.
func TestKeys(t *testing.T) {
	names := []string{"a", "a-b", "a/b", "aa", "b", "\x01", strings.Repeat("a", 255)}
	var hashes, numbers []string
	for _, d := range digests {
		hashes = append(hashes, storage.DigestPart(d))
	}
	for _, n := range []int64{0, 1, 255, 256, 1 << 40} {
		numbers = append(numbers, storage.NumberPart(n))
	}
	for table, columns := range map[string][][]string{
		storage.Stored.Name():    {hashes},
		storage.Links.Name():     {names, hashes},
		storage.Holders.Name():   {hashes, names},
		storage.Parents.Name():   {names, hashes, hashes},
		storage.Referrers.Name(): {names, hashes, hashes},
		storage.Tags.Name():      {names, names},
		storage.Tagged.Name():    {names, hashes, names},
		storage.History.Name():   {names, names, numbers},
	} {
		t.Run(table, func(t *testing.T) { checkKeys(t, product(columns)) })
	}
}

// product returns every list with one part of each column.
func product(columns [][]string) [][]string {
	lists := [][]string{nil}
	for _, column := range columns {
		var longer [][]string
		for _, list := range lists {
			for _, part := range column {
				longer = append(longer, append(slices.Clone(list), part))
			}
		}
		lists = longer
	}
	return lists
}

func checkKeys(t *testing.T, lists [][]string) {
	seen := map[string][]string{}
	prefixes := map[string][]string{}
	for _, parts := range lists {
		key := string(storage.Key(parts...))
		if other, ok := seen[key]; ok {
			t.Errorf("%q and %q make the same key", parts, other)
		}
		if len(key) > storage.MaxKey {
			t.Errorf("key of %d bytes is longer than MaxKey", len(key))
		}
		seen[key] = parts
		for n := 1; n < len(parts); n++ {
			prefixes[string(storage.Key(append(slices.Clone(parts[:n]), "")...))] = parts[:n]
		}
	}
	for prefix, parts := range prefixes {
		for key, got := range seen {
			if has := slices.Equal(got[:len(parts)], parts); has != strings.HasPrefix(key, prefix) {
				t.Fatalf("prefix of %q and key of %q: %s", parts, got, fmt.Sprint("want a match ", has))
			}
		}
	}
}
