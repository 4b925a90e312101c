package copying_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/berth-registry/berth/registry"
	"github.com/berth-registry/berth/registry/copying"
	"github.com/berth-registry/berth/registry/remote"
	"github.com/berth-registry/berth/storage/mem"
)

const (
	from = "team/app"
	to   = "mirror/app"
)

func local(t *testing.T) *registry.Local {
	t.Helper()
	l, err := registry.NewLocal(t.Context(), mem.NewBlobs(), mem.NewMeta(), registry.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(l.Close)
	return l
}

// overHTTP is a client of a server of r.
func overHTTP(t *testing.T, r registry.Registry) registry.Registry {
	t.Helper()
	server := httptest.NewServer(registry.NewServer(r, registry.ServerOptions{}))
	t.Cleanup(server.Close)
	c, err := remote.New(server.URL, server.Client())
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func blob(t *testing.T, r registry.Writer, data []byte, mediaType string) registry.Descriptor {
	t.Helper()
	d, err := r.PushBlob(t.Context(), from, digest.FromBytes(data), bytes.NewReader(data))
	if err != nil {
		t.Fatal(err)
	}
	d.MediaType = mediaType
	return d
}

func push(t *testing.T, r registry.Writer, v any, mediaType string, tags ...string) registry.Descriptor {
	t.Helper()
	data, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	p, err := r.PushManifest(t.Context(), from, registry.ManifestPush{
		Data: data, MediaType: mediaType, Digest: digest.FromBytes(data), Tags: tags,
	})
	if err != nil {
		t.Fatal(err)
	}
	return p.Descriptor
}

func image(t *testing.T, r registry.Writer, name string, subject *registry.Descriptor, tags ...string) registry.Descriptor {
	t.Helper()
	return push(t, r, ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest, Subject: subject,
		Config: blob(t, r, fmt.Appendf(nil, `{"name":%q}`, name), ocispec.MediaTypeImageConfig),
		Layers: []registry.Descriptor{
			blob(t, r, []byte("shared by all"), ocispec.MediaTypeImageLayerGzip),
			blob(t, r, bytes.Repeat([]byte(name), 100_000), ocispec.MediaTypeImageLayerGzip),
		},
	}, ocispec.MediaTypeImageManifest, tags...)
}

func index(t *testing.T, r registry.Writer, children []registry.Descriptor, tags ...string) registry.Descriptor {
	t.Helper()
	return push(t, r, ocispec.Index{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex, Manifests: children,
	}, ocispec.MediaTypeImageIndex, tags...)
}

func tagged(tag string) registry.Reference { return registry.Reference{Tag: tag} }

// same checks that the copy at tag is want.
func same(t *testing.T, r registry.Reader, tag string, want registry.Descriptor) {
	t.Helper()
	got, err := r.StatManifest(t.Context(), to, tagged(tag))
	if err != nil || got.Digest != want.Digest || got.MediaType != want.MediaType {
		t.Errorf("copy: got %s %s, error %v, want %s %s", got.MediaType, got.Digest, err, want.MediaType, want.Digest)
	}
}

func TestIndex(t *testing.T) {
	for _, remote := range []bool{false, true} {
		t.Run(fmt.Sprint("remote=", remote), func(t *testing.T) {
			var src, dst registry.Registry = local(t), local(t)
			nested := index(t, src, []registry.Descriptor{image(t, src, "arm64", nil)})
			root := index(t, src, []registry.Descriptor{image(t, src, "amd64", nil), nested}, "v1")
			if remote {
				src, dst = overHTTP(t, src), overHTTP(t, dst)
			}
			sent := map[digest.Digest]int64{}
			o := copying.Options{Progress: func(e copying.Event) {
				if !e.Manifest {
					sent[e.Descriptor.Digest] = max(sent[e.Descriptor.Digest], e.Bytes)
				}
			}}
			target := copying.Target{Registry: dst, Repo: to, Tags: []string{"v1", "latest"}}
			res, err := copying.Copy(t.Context(), copying.Source{Registry: src, Repo: from, Ref: tagged("v1")}, target, o)
			if err != nil {
				t.Fatal(err)
			}
			same(t, dst, "v1", root)
			same(t, dst, "latest", root)
			if res.Root.Digest != root.Digest || res.Manifests.Copied != 4 || res.Blobs.Copied != 5 || len(sent) != 5 {
				t.Errorf("copy: got %+v and progress of %d blobs, want 4 manifests and 5 blobs", res, len(sent))
			}
			for d, n := range sent {
				if desc, err := dst.StatBlob(t.Context(), to, d); err != nil || desc.Size != n {
					t.Errorf("blob %s: error %v, %d bytes in progress, %d copied", d, err, n, desc.Size)
				}
			}
			target.Tags = []string{"v2"}
			res, err = copying.Copy(t.Context(), copying.Source{Registry: src, Repo: from, Ref: tagged("v1")}, target, o)
			if err != nil || res.Manifests != (copying.Count{Present: 1}) || res.Blobs != (copying.Count{}) || res.Bytes != 0 {
				t.Errorf("copy again: got %+v, error %v, want one manifest that is present", res, err)
			}
			same(t, dst, "v2", root)
		})
	}
}

func TestMount(t *testing.T) {
	r := local(t)
	root := image(t, r, "amd64", nil, "v1")
	res, err := copying.Copy(t.Context(), copying.Source{Registry: r, Repo: from, Ref: tagged("v1")},
		copying.Target{Registry: r, Repo: to, Tags: []string{"v1"}}, copying.Options{MountFrom: from})
	if err != nil {
		t.Fatal(err)
	}
	same(t, r, "v1", root)
	if res.Blobs != (copying.Count{Mounted: 3}) {
		t.Errorf("copy: got %+v, want 3 blobs mounted", res.Blobs)
	}
}

func TestReferrers(t *testing.T) {
	src, dst := local(t), local(t)
	child := image(t, src, "amd64", nil)
	root := index(t, src, []registry.Descriptor{child}, "v1")
	signature := image(t, src, "signature of the index", &root)
	sbom := image(t, src, "sbom of the image", &child)
	stamp := image(t, src, "signature of the sbom", &sbom)
	// An index that refers to what it also holds.
	bundle := push(t, src, ocispec.Index{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex,
		Manifests: []registry.Descriptor{root, signature}, Subject: &root,
	}, ocispec.MediaTypeImageIndex)

	source := copying.Source{Registry: src, Repo: from, Ref: tagged("v1")}
	target := copying.Target{Registry: dst, Repo: to, Tags: []string{"v1"}}
	if _, err := copying.Copy(t.Context(), source, target, copying.Options{}); err != nil {
		t.Fatal(err)
	}
	// The image is there; its referrers are still to come.
	if _, err := copying.Copy(t.Context(), source, target, copying.Options{Referrers: true}); err != nil {
		t.Fatal(err)
	}
	same(t, dst, "v1", root)
	for _, d := range []registry.Descriptor{signature, sbom, stamp, bundle} {
		if _, err := dst.StatManifest(t.Context(), to, registry.Reference{Digest: d.Digest}); err != nil {
			t.Errorf("referrer: %v", err)
		}
	}
}

func TestBuildCache(t *testing.T) {
	src, dst := local(t), local(t)
	root := index(t, src, []registry.Descriptor{
		blob(t, src, []byte("layer"), ocispec.MediaTypeImageLayerGzip),
		blob(t, src, []byte("{}"), "application/vnd.buildkit.cacheconfig.v0"),
		image(t, src, "attested", nil),
	}, "cache")
	_, err := copying.Copy(t.Context(), copying.Source{Registry: src, Repo: from, Ref: tagged("cache")},
		copying.Target{Registry: dst, Repo: to, Tags: []string{"cache"}}, copying.Options{Jobs: 1})
	if err != nil {
		t.Fatal(err)
	}
	same(t, dst, "cache", root)
}

func TestForeignLayer(t *testing.T) {
	src, dst := local(t), local(t)
	root := push(t, src, ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest,
		Config: blob(t, src, []byte("{}"), ocispec.MediaTypeImageConfig),
		Layers: []registry.Descriptor{{
			MediaType: "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
			Digest:    digest.FromString("elsewhere"), Size: 9, URLs: []string{"https://example.org/layer"},
		}},
	}, ocispec.MediaTypeImageManifest, "v1")
	_, err := copying.Copy(t.Context(), copying.Source{Registry: src, Repo: from, Ref: tagged("v1")},
		copying.Target{Registry: dst, Repo: to, Tags: []string{"v1"}}, copying.Options{})
	if err != nil {
		t.Fatal(err)
	}
	same(t, dst, "v1", root)
}

func TestCancel(t *testing.T) {
	src, dst := local(t), local(t)
	image(t, src, "amd64", nil, "v1")
	ctx, cancel := context.WithCancel(t.Context())
	_, err := copying.Copy(ctx, copying.Source{Registry: src, Repo: from, Ref: tagged("v1")},
		copying.Target{Registry: dst, Repo: to, Tags: []string{"v1"}},
		copying.Options{Progress: func(copying.Event) { cancel() }})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("copy that was canceled: error %v", err)
	}
	for repo, err := range dst.Repositories(t.Context(), "") {
		t.Errorf("copy that was canceled made %s, error %v", repo, err)
	}
}

// liar is a source that says what a test wants of a graph that no digests could
// be computed for.
type liar struct {
	copying.Reader
	manifests map[digest.Digest]string
}

func (l liar) Manifest(_ context.Context, _ string, ref registry.Reference) ([]byte, registry.Descriptor, error) {
	d := ref.Digest
	if ref.Tag != "" {
		d = named(ref.Tag)
	}
	data, ok := l.manifests[d]
	if !ok {
		return nil, registry.Descriptor{}, registry.ErrManifestUnknown
	}
	return []byte(data), registry.Descriptor{MediaType: ocispec.MediaTypeImageIndex, Digest: d, Size: int64(len(data))}, nil
}

func (l liar) StatBlob(context.Context, string, digest.Digest) (registry.Descriptor, error) {
	return registry.Descriptor{}, registry.ErrBlobUnknown
}

func (l liar) Blob(context.Context, string, digest.Digest) (io.ReadSeekCloser, registry.Descriptor, error) {
	return nil, registry.Descriptor{}, registry.ErrBlobUnknown
}

// named is the digest of a manifest of a liar.
func named(name string) digest.Digest { return digest.FromString(name) }

// holding is an index of children, as long as any of them.
func holding(children ...string) string {
	var all []string
	for _, c := range children {
		all = append(all, fmt.Sprintf(`{"mediaType":%q,"digest":%q,"size":1000}`, ocispec.MediaTypeImageIndex, named(c)))
	}
	s := fmt.Sprintf(`{"schemaVersion":2,"manifests":[%s]}`, strings.Join(all, ","))
	return s + strings.Repeat(" ", max(0, 1000-len(s)))
}

func TestHostileGraphs(t *testing.T) {
	chain := map[digest.Digest]string{}
	for i := range 100 {
		chain[named(strconv.Itoa(i))] = holding(strconv.Itoa(i + 1))
	}
	for name, manifests := range map[string]map[digest.Digest]string{
		"of itself":     {named("0"): holding("0")},
		"cycle":         {named("0"): holding("1"), named("1"): holding("2"), named("2"): holding("0")},
		"deep":          chain,
		"not JSON":      {named("0"): "{"},
		"no digest":     {named("0"): `{"layers":[{"digest":"../../../secret","size":1}]}`},
		"negative size": {named("0"): fmt.Sprintf(`{"layers":[{"digest":%q,"size":-1}]}`, named("x"))},
		"schema 1":      {named("0"): `{"schemaVersion":1,"fsLayers":[]}`},
		"wrong size":    {named("0"): holding("1"), named("1"): "{}"},
	} {
		t.Run(name, func(t *testing.T) {
			dst := local(t)
			_, err := copying.Copy(t.Context(), copying.Source{Registry: liar{manifests: manifests}, Repo: from, Ref: tagged("0")},
				copying.Target{Registry: dst, Repo: to}, copying.Options{})
			if !errors.Is(err, registry.ErrManifestInvalid) {
				t.Errorf("copy: error %v, want MANIFEST_INVALID", err)
			}
		})
	}
	t.Run("missing blob", func(t *testing.T) {
		manifests := map[digest.Digest]string{named("0"): fmt.Sprintf(`{"layers":[{"digest":%q,"size":1}]}`, named("x"))}
		_, err := copying.Copy(t.Context(), copying.Source{Registry: liar{manifests: manifests}, Repo: from, Ref: tagged("0")},
			copying.Target{Registry: local(t), Repo: to}, copying.Options{})
		if !errors.Is(err, registry.ErrBlobUnknown) || !strings.Contains(err.Error(), string(named("x"))) {
			t.Errorf("copy: error %v, want BLOB_UNKNOWN with the digest", err)
		}
	})
}
