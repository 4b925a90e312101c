package registry

import (
	"errors"
	"regexp"
	"strings"
	"testing"
)

// The expressions of the specification, "Pulling manifests".
var (
	specName = regexp.MustCompile(`^[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*(\/[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*)*$`)
	specTag  = regexp.MustCompile(`^[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}$`)
)

var names = []string{
	"", "a", "mongo", "library/mongo", "a-b", "a--b", "a---b", "a.b", "a..b", "a_b", "a__b", "a___b", "a-_b", "-a", "a-", "a/", "/a", "a//b",
	"A", "a/B", "a b", "a\x00", "ä", "../a", "a/../b", "a/./b", ".", "..", "0/9", "a.b_c-d/e", "blobs/uploads", "latest", "v1.2.3-rc.1", "_x", ".x", "-x",
	strings.Repeat("a", 128), strings.Repeat("a", 129), strings.Repeat("a", 255), strings.Repeat("a", 256), strings.Repeat("a/", 127) + "b",
}

// What is valid is what the specification's expressions say, no more than 255
// bytes of it.
func FuzzNames(f *testing.F) {
	for _, s := range names {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if got, want := ValidRepository(s), specName.MatchString(s) && len(s) <= MaxRepository; got != want {
			t.Errorf("ValidRepository(%q) = %v, the specification says %v", s, got, want)
		}
		if got, want := ValidTag(s), specTag.MatchString(s); got != want {
			t.Errorf("ValidTag(%q) = %v, the specification says %v", s, got, want)
		}
	})
}

func FuzzReference(f *testing.F) {
	for _, s := range append(names, "sha256:"+strings.Repeat("0a", 32), "sha512:"+strings.Repeat("0a", 64), "sha256:"+strings.Repeat("0A", 32),
		"sha256:", "sha256:0a", "md5:"+strings.Repeat("0a", 16), ":", "sha256:"+strings.Repeat("0g", 32), "sha256+b64u:LCa0a2j") {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		ref, err := ParseReference(s)
		if err != nil {
			if !errors.Is(err, ErrTagInvalid) && !errors.Is(err, ErrDigestInvalid) {
				t.Errorf("ParseReference(%q): %v", s, err)
			}
			if len(err.Error()) > 1000 {
				t.Errorf("an error of %d bytes", len(err.Error()))
			}
			return
		}
		if ref.String() != s || (ref.Tag == "") == (ref.Digest == "") {
			t.Errorf("ParseReference(%q) = %+v", s, ref)
		}
		if ref.Digest != "" && ref.Digest.Validate() != nil {
			t.Errorf("ParseReference(%q) lets an invalid digest in", s)
		}
	})
}
