// Package registrytest says in code what the interfaces of package registry say
// in words: one suite that everything must pass that implements
// registry.Registry, be it over a store, over HTTP or round another one.
//
//	func TestLocal(t *testing.T) { registrytest.Test(t, open) }
//
// It tests what any caller can see. Names are valid throughout, as the
// interface demands; what a server makes of others is for its own tests.
package registrytest

import (
	"bytes"
	"crypto/sha256"
	_ "crypto/sha512" // for digests
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"slices"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/berth-registry/berth/registry"
)

// repo and other are the repositories that most tests use.
const (
	repo  = "library/app"
	other = "library/app-other"
)

// patience is how long the suite waits for what should happen at once.
const patience = 30 * time.Second

// Test runs the suite. open returns an empty registry, which goes away with t.
func Test(t *testing.T, open func(t *testing.T) registry.Registry) {
	for _, g := range []struct {
		name  string
		tests []test
	}{
		{"Blob", blobTests},
		{"Mount", mountTests},
		{"Upload", uploadTests},
		{"Manifest", manifestTests},
		{"InvalidManifest", invalidTests},
		{"Tag", tagTests},
		{"Delete", deleteTests},
		{"Referrers", referrersTests},
		{"List", listTests},
		{"Search", searchTests},
		{"Concurrent", concurrentTests},
	} {
		t.Run(g.name, func(t *testing.T) {
			for _, tt := range g.tests {
				t.Run(tt.name, func(t *testing.T) {
					tt.run(&fixture{T: t, Registry: open(t)})
				})
			}
		})
	}
}

type test struct {
	name string
	run  func(f *fixture)
}

// fixture is a test and its registry. Its methods end the test if the registry
// fails to do what they need.
type fixture struct {
	*testing.T
	registry.Registry
}

// noise returns n bytes that look random and are the same for the same seed.
func noise(n int, seed uint64) []byte {
	b := make([]byte, 0, n+sha256.Size)
	for i := uint64(0); len(b) < n; i++ {
		sum := sha256.Sum256(binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint64(nil, seed), i))
		b = append(b, sum[:]...)
	}
	return b[:n]
}

// opaque hides all of a reader but Read: nobody can tell its length.
type opaque struct{ io.Reader }

// is fails the test unless err wraps want.
func (f *fixture) is(what string, err error, want *registry.Error) {
	f.Helper()
	if !errors.Is(err, want) {
		f.Errorf("%s: error %v, want %s (%s)", what, err, want.Code, want.Message)
	}
}

func (f *fixture) ok(what string, err error) {
	f.Helper()
	if err != nil {
		f.Fatalf("%s: %v", what, err)
	}
}

// blob pushes data and describes it.
func (f *fixture) blob(repo string, data []byte) registry.Descriptor {
	f.Helper()
	return f.blobAs(repo, digest.SHA256, data)
}

func (f *fixture) blobAs(repo string, alg digest.Algorithm, data []byte) registry.Descriptor {
	f.Helper()
	d := alg.FromBytes(data)
	desc, err := f.PushBlob(f.Context(), repo, d, bytes.NewReader(data))
	f.ok("push blob", err)
	if desc.Digest != d || desc.Size != int64(len(data)) {
		f.Fatalf("push blob: got %s of %d bytes, want %s of %d", desc.Digest, desc.Size, d, len(data))
	}
	return desc
}

// hasBlob checks that a blob can be read and is data.
func (f *fixture) hasBlob(repo string, d digest.Digest, data []byte) {
	f.Helper()
	desc, err := f.StatBlob(f.Context(), repo, d)
	f.ok("stat blob", err)
	if desc.Digest != d || desc.Size != int64(len(data)) {
		f.Errorf("stat blob: got %s of %d bytes, want %s of %d", desc.Digest, desc.Size, d, len(data))
	}
	r, desc, err := f.Blob(f.Context(), repo, d)
	f.ok("open blob", err)
	defer r.Close()
	if desc.Digest != d || desc.Size != int64(len(data)) {
		f.Errorf("open blob: got %s of %d bytes, want %s of %d", desc.Digest, desc.Size, d, len(data))
	}
	got, err := io.ReadAll(r)
	f.ok("read blob", err)
	if !bytes.Equal(got, data) {
		f.Errorf("read blob: got %d bytes, which differ from the %d pushed", len(got), len(data))
	}
}

// noBlob checks that a blob is not there.
func (f *fixture) noBlob(repo string, d digest.Digest) {
	f.Helper()
	_, err := f.StatBlob(f.Context(), repo, d)
	f.is("stat blob that is not there", err, registry.ErrBlobUnknown)
	r, _, err := f.Blob(f.Context(), repo, d)
	f.is("open blob that is not there", err, registry.ErrBlobUnknown)
	if err == nil {
		r.Close()
	}
}

// pushed is a manifest as a test knows it.
type pushed struct {
	data []byte
	desc registry.Descriptor
}

// encode makes a manifest's bytes of v, and describes them.
func (f *fixture) encode(v any, mediaType string) pushed {
	f.Helper()
	data, err := json.Marshal(v)
	f.ok("encode manifest", err)
	return pushed{data, registry.Descriptor{
		MediaType: mediaType, Digest: digest.FromBytes(data), Size: int64(len(data)),
	}}
}

// tryPush pushes a manifest that the registry may refuse.
func (f *fixture) tryPush(repo string, m pushed, tags ...string) error {
	_, err := f.PushManifest(f.Context(), repo, registry.ManifestPush{
		Data: m.data, MediaType: m.desc.MediaType, Digest: m.desc.Digest, Tags: tags,
	})
	return err
}

// push pushes a manifest.
func (f *fixture) push(repo string, m pushed, tags ...string) registry.ManifestPushed {
	f.Helper()
	got, err := f.PushManifest(f.Context(), repo, registry.ManifestPush{
		Data: m.data, MediaType: m.desc.MediaType, Digest: m.desc.Digest, Tags: tags,
	})
	f.ok("push manifest", err)
	if !same(got.Descriptor, m.desc) {
		f.Errorf("push manifest: got %s, want %s", short(got.Descriptor), short(m.desc))
	}
	return got
}

// image makes an image manifest of blobs that it pushes, all of them other ones
// for another seed.
func (f *fixture) image(repo string, seed uint64, change ...func(*ocispec.Manifest)) pushed {
	f.Helper()
	config := f.blob(repo, fmt.Appendf(nil, `{"architecture":"amd64","os":"linux","created":"%d"}`, seed))
	config.MediaType = ocispec.MediaTypeImageConfig
	layer := f.blob(repo, noise(100, seed))
	layer.MediaType = ocispec.MediaTypeImageLayerGzip
	m := ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest,
		Config: config, Layers: []registry.Descriptor{layer},
	}
	for _, c := range change {
		c(&m)
	}
	return f.encode(m, m.MediaType)
}

// index makes an index of children, which it does not push.
func (f *fixture) index(children []registry.Descriptor, change ...func(*ocispec.Index)) pushed {
	f.Helper()
	m := ocispec.Index{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex, Manifests: children,
	}
	for _, c := range change {
		c(&m)
	}
	return f.encode(m, m.MediaType)
}

func tagRef(tag string) registry.Reference         { return registry.Reference{Tag: tag} }
func digestRef(d digest.Digest) registry.Reference { return registry.Reference{Digest: d} }
func annotate(a map[string]string) func(*ocispec.Manifest) {
	return func(m *ocispec.Manifest) { m.Annotations = a }
}

// hasManifest checks that ref is m.
func (f *fixture) hasManifest(repo string, ref registry.Reference, m pushed) {
	f.Helper()
	desc, err := f.StatManifest(f.Context(), repo, ref)
	f.ok(fmt.Sprintf("stat manifest %s", ref), err)
	if !same(desc, m.desc) {
		f.Errorf("stat manifest %s: got %s, want %s", ref, short(desc), short(m.desc))
	}
	data, desc, err := f.Manifest(f.Context(), repo, ref)
	f.ok(fmt.Sprintf("get manifest %s", ref), err)
	if !same(desc, m.desc) {
		f.Errorf("get manifest %s: got %s, want %s", ref, short(desc), short(m.desc))
	}
	if !bytes.Equal(data, m.data) {
		f.Errorf("get manifest %s: got other bytes than were pushed", ref)
	}
}

// noManifest checks that ref is unknown.
func (f *fixture) noManifest(repo string, ref registry.Reference) {
	f.Helper()
	_, err := f.StatManifest(f.Context(), repo, ref)
	f.is(fmt.Sprintf("stat manifest %s that is not there", ref), err, registry.ErrManifestUnknown)
	_, _, err = f.Manifest(f.Context(), repo, ref)
	f.is(fmt.Sprintf("get manifest %s that is not there", ref), err, registry.ErrManifestUnknown)
}

// same compares what a descriptor of a manifest must say.
func same(a, b registry.Descriptor) bool {
	return a.MediaType == b.MediaType && a.Digest == b.Digest && a.Size == b.Size
}

func short(d registry.Descriptor) string {
	return fmt.Sprintf("{%s %s %d bytes}", d.MediaType, d.Digest, d.Size)
}

// collect gathers a sequence, which must not fail.
func collect[T any](f *fixture, what string, seq iter.Seq2[T, error]) []T {
	f.Helper()
	all := []T{}
	for v, err := range seq {
		f.ok(what, err)
		all = append(all, v)
	}
	return all
}

// failure is the error that a sequence ends with.
func failure[T any](seq iter.Seq2[T, error]) (err error) {
	for _, err = range seq {
		if err != nil {
			return err
		}
	}
	return nil
}

func (f *fixture) wantList(what string, seq iter.Seq2[string, error], want ...string) {
	f.Helper()
	if got := collect(f, what, seq); !slices.Equal(got, want) {
		f.Errorf("%s: got %q, want %q", what, got, want)
	}
}
