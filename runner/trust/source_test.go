package trust

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"strings"
	"testing"

	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/berth-registry/berth/e2e/berthtest"
	"github.com/berth-registry/berth/runner"
)

func TestMain(m *testing.M) { berthtest.Main(m) }

// shelf is a repository that has what a test puts there, however wrong that is.
type shelf struct {
	tb        testing.TB
	docs      map[digest.Digest][]byte
	tags      map[string]ocispec.Descriptor
	referrers []ocispec.Descriptor
	err       error // of all that is asked
	asked     int
}

func newShelf(tb testing.TB) *shelf {
	tb.Helper()
	return &shelf{tb: tb, docs: map[digest.Digest][]byte{}, tags: map[string]ocispec.Descriptor{}}
}

func (s *shelf) Resolve(_ context.Context, tag string) (ocispec.Descriptor, error) {
	s.asked++
	if s.err != nil {
		return ocispec.Descriptor{}, s.err
	}
	if desc, ok := s.tags[tag]; ok {
		return desc, nil
	}
	return ocispec.Descriptor{}, runner.Errorf(runner.ErrNotFound, "no tag %s", tag)
}

func (s *shelf) Fetch(_ context.Context, _ string, desc ocispec.Descriptor, _ int64) (io.ReadCloser, error) {
	s.asked++
	if s.err != nil {
		return nil, s.err
	}
	data, ok := s.docs[desc.Digest]
	if !ok {
		return nil, runner.Errorf(runner.ErrNotFound, "no %s", desc.Digest)
	}
	return io.NopCloser(bytes.NewReader(data)), nil
}

func (s *shelf) Referrers(_ context.Context, _ digest.Digest, prefixes ...string) ([]ocispec.Descriptor, error) {
	s.asked++
	var list []ocispec.Descriptor
	for _, d := range s.referrers {
		for _, p := range prefixes {
			if strings.HasPrefix(d.ArtifactType, p) {
				list = append(list, d)
				break
			}
		}
	}
	return list, s.err
}

// sources gives the shelf for every repository.
func (s *shelf) sources() Sources { return func(reference.Named) Source { return s } }

// put puts a document there.
func (s *shelf) put(mediaType string, data []byte) ocispec.Descriptor {
	d := digest.FromBytes(data)
	s.docs[d] = data
	return ocispec.Descriptor{MediaType: mediaType, Digest: d, Size: int64(len(data))}
}

// manifest puts a manifest of layers there.
func (s *shelf) manifest(layers ...ocispec.Descriptor) ocispec.Descriptor {
	s.tb.Helper()
	data, err := json.Marshal(ocispec.Manifest{MediaType: ocispec.MediaTypeImageManifest, Layers: layers})
	if err != nil {
		s.tb.Fatal(err)
	}
	return s.put(ocispec.MediaTypeImageManifest, data)
}

// refer adds a bundle as cosign does.
func (s *shelf) refer(bundle []byte) {
	s.tb.Helper()
	const mediaType = bundleType + ".v0.3+json"
	desc := s.manifest(s.put(mediaType, bundle))
	desc.ArtifactType = mediaType
	s.referrers = append(s.referrers, desc)
}

// attach adds a signature in the older form, under the tag for a digest.
func (s *shelf) attach(subject digest.Digest, payload []byte, annotations map[string]string) {
	s.tb.Helper()
	layer := s.put(layerType, payload)
	layer.Annotations = annotations
	s.tags["sha256-"+subject.Encoded()+".sig"] = s.manifest(layer)
}

// imageOf is an image that was pulled from a repository by a digest.
func imageOf(repository string, d digest.Digest) Image {
	return Image{Name: "app", Provenance: runner.Provenance{Origins: []runner.Origin{{Repository: repository, Root: d, Manifest: d}}}}
}

// policy opens a policy of rules that keeps nothing.
func policy(tb testing.TB, rules ...Rule) *Policy { return policyIn(tb, "", rules...) }

func policyIn(tb testing.TB, dir string, rules ...Rule) *Policy {
	tb.Helper()
	p, err := Open(tb.Context(), Options{Dir: dir}, rules)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(p.Close)
	return p
}
