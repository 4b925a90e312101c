package engine

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/berth-registry/berth/runner"
)

func TestManifestsOf(t *testing.T) {
	index, manifest := digest.FromString("index"), digest.FromString("manifest")
	name := func(s string) reference.Named {
		if s == "" {
			return nil
		}
		named, err := reference.ParseNormalizedNamed(strings.NewReplacer("INDEX", index.String(), "MANIFEST", manifest.String()).Replace(s))
		if err != nil {
			t.Fatal(err)
		}
		return named
	}
	for _, tt := range []struct {
		what  string
		names []string
		asked string
		want  []string
	}{
		{"pulled by a tag, of an index", []string{"a.test/app:v1", "a.test/app@INDEX"}, "a.test/app:v1", []string{"a.test/app@INDEX", "a.test/app@MANIFEST"}},
		{"pulled without an index", []string{"a.test/app:v1", "a.test/app@MANIFEST"}, "a.test/app:v1", []string{"a.test/app@MANIFEST"}},
		{"the tag has moved on", []string{"a.test/app@INDEX"}, "a.test/app:v1", []string{"a.test/app@INDEX", "a.test/app@MANIFEST"}},
		{"pushed elsewhere, too", []string{"a.test/app@INDEX", "b.test/x/app:v1", "b.test/x/app@MANIFEST"}, "a.test/app:v1", []string{"a.test/app@INDEX", "a.test/app@MANIFEST", "b.test/x/app@MANIFEST"}},
		{"tagged for what it was never pushed to", []string{"a.test/app@INDEX", "b.test/app:v1"}, "b.test/app:v1", []string{"a.test/app@INDEX", "a.test/app@MANIFEST"}},
		{"without a name", nil, "a.test/app:v1", []string{"a.test/app@MANIFEST"}},
		{"without a name, asked for by digest", nil, "a.test/app@INDEX", []string{"a.test/app@INDEX", "a.test/app@MANIFEST"}},
		{"by its ID", nil, "", nil},
	} {
		var names []reference.Named
		for _, n := range tt.names {
			names = append(names, name(n))
		}
		rec := &runner.Container{Manifest: &ocispec.Descriptor{Digest: manifest}}
		var got, want []string
		for _, c := range manifestsOf(rec, names, name(tt.asked)) {
			got = append(got, c.String())
		}
		for _, w := range tt.want {
			want = append(want, name(w).String())
		}
		slices.Sort(got)
		slices.Sort(want)
		if fmt.Sprint(slices.Compact(got)) != fmt.Sprint(want) {
			t.Errorf("%s: %q, want %q", tt.what, got, want)
		}
	}
	if got := manifestsOf(&runner.Container{}, nil, name("a.test/app")); got != nil {
		t.Errorf("without a manifest: %v", got)
	}
}
