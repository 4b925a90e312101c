package e2e

import (
	"maps"
	"slices"
	"strings"
	"testing"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/berth-registry/berth/e2e/berthtest"
)

func TestSkopeo(t *testing.T) {
	t.Parallel()
	s := berthtest.Start(t, berthtest.Options{})
	tests := map[string]func(skopeo, *testing.T){
		"index":  skopeo.index,
		"docker": skopeo.docker,
		"zstd":   skopeo.zstd,
		"tags":   skopeo.tags,
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			test(skopeo{berthtest.NewCommand(t, "skopeo"), "docker://" + s.Addr + "/skopeo/" + name}, t)
		})
	}
}

// skopeo is the client and the repository of one test.
type skopeo struct {
	*berthtest.Command
	repo string
}

// push and pull copy to and from a tag or digest of the repository.
func (k skopeo) push(source, ref string) {
	k.Run("copy", "--all", "--dest-tls-verify=false", source, k.repo+ref)
}

func (k skopeo) pull(ref, dest string) {
	k.Run("copy", "--all", "--src-tls-verify=false", k.repo+ref, dest)
}

func (k skopeo) raw(ref string) string {
	return k.Run("inspect", "--raw", "--tls-verify=false", k.repo+ref)
}

// index: a multi-platform index goes and comes, by tag and by digest.
func (k skopeo) index(t *testing.T) {
	source, desc := sampleIndex(t)
	k.push("oci:"+source.dir+":latest", ":multi")
	if got := k.raw(":multi"); got != string(source.read(desc.Digest)) {
		t.Errorf("the index came back changed: %s", got)
	}
	for _, ref := range []string{":multi", "@" + desc.Digest.String()} {
		back := t.TempDir()
		k.pull(ref, "oci:"+back+":latest")
		sameBlobs(t, source.dir, back)
	}
}

// docker: Docker's own formats, schema 2 and its lists.
func (k skopeo) docker(t *testing.T) {
	source, _ := sampleIndex(t)
	k.Run("copy", "--all", "--format", "v2s2", "--dest-tls-verify=false", "oci:"+source.dir+":latest", k.repo+":list")
	list := decode[ocispec.Index](t, k.raw(":list"))
	if want := "application/vnd.docker.distribution.manifest.list.v2+json"; list.MediaType != want {
		t.Errorf("media type %q: want %q", list.MediaType, want)
	}
	first, second := t.TempDir(), t.TempDir()
	k.pull(":list", "dir:"+first)
	k.push("dir:"+first, ":again")
	k.pull(":again", "dir:"+second)
	sameTree(t, first, second)
	if a, b := k.raw(":list"), k.raw(":again"); a != b {
		t.Errorf("the list changed on its way:\n%s\n%s", a, b)
	}
}

// zstd: layers compressed with zstd hold what went in.
func (k skopeo) zstd(t *testing.T) {
	source := newLayout(t)
	layers := sampleLayers(t)
	source.name(source.image("amd64", layers...))
	k.Run("copy", "--dest-compress-format", "zstd", "--dest-tls-verify=false", "oci:"+source.dir+":latest", k.repo+":z")
	m := decode[ocispec.Manifest](t, k.raw(":z"))
	for i, l := range m.Layers {
		if l.MediaType != ocispec.MediaTypeImageLayerZstd {
			t.Errorf("layer %d is %s", i, l.MediaType)
		}
	}
	first, second := t.TempDir(), t.TempDir()
	k.pull(":z", "oci:"+first+":latest")
	k.push("oci:"+first+":latest", ":again")
	k.pull(":again", "oci:"+second+":latest")
	sameBlobs(t, first, second)

	plain := t.TempDir()
	k.Run("copy", "--dest-decompress", "--src-tls-verify=false", k.repo+":z", "dir:"+plain)
	got := readTree(t, plain)
	for i, l := range layers {
		want := writeFile(t, t.TempDir(), "layer", l)
		if !slices.Contains(slices.Collect(maps.Values(got)), hashFile(t, want)) {
			t.Errorf("layer %d did not come back", i)
		}
	}
}

// tags: what there is can be listed, inspected and deleted.
func (k skopeo) tags(t *testing.T) {
	source, desc := sampleImage(t)
	for _, tag := range []string{":1.0", ":1.1", ":latest"} {
		k.push("oci:"+source.dir+":latest", tag)
	}
	type tagList struct{ Tags []string }
	list := func() []string {
		return decode[tagList](t, k.Run("list-tags", "--tls-verify=false", k.repo)).Tags
	}
	if got, want := list(), []string{"1.0", "1.1", "latest"}; !slices.Equal(got, want) {
		t.Errorf("tags %q: want %q", got, want)
	}
	type inspection struct {
		Digest, Architecture string
		Labels               map[string]string
	}
	got := decode[inspection](t, k.Run("inspect", "--tls-verify=false", k.repo+":1.0"))
	if got.Digest != desc.Digest.String() || got.Architecture != "amd64" || got.Labels[ocispec.AnnotationDescription] == "" {
		t.Errorf("inspect says %+v", got)
	}
	// skopeo deletes the manifest, and all its tags go with it.
	k.Run("delete", "--tls-verify=false", k.repo+":1.0")
	if _, stderr, err := k.Try("inspect", "--tls-verify=false", k.repo+":latest"); err == nil || !strings.Contains(stderr, "manifest unknown") {
		t.Errorf("inspect of what was deleted: %v %s", err, stderr)
	}
}
