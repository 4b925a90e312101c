package registrytest

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/berth-registry/berth/registry"
)

// Media types that the image specification does not name.
const (
	dockerManifest = "application/vnd.docker.distribution.manifest.v2+json"
	dockerList     = "application/vnd.docker.distribution.manifest.list.v2+json"
	dockerConfig   = "application/vnd.docker.container.image.v1+json"
	dockerLayer    = "application/vnd.docker.image.rootfs.diff.tar.gzip"
	dockerForeign  = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"
	ociForeign     = "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip"
	buildCache     = "application/vnd.buildkit.cacheconfig.v0"
)

// stranger describes content that nobody pushed.
func stranger(mediaType string) registry.Descriptor {
	return registry.Descriptor{MediaType: mediaType, Digest: digest.FromString("nobody pushed this"), Size: 18}
}

func setSubject(d registry.Descriptor) func(*ocispec.Manifest) {
	return func(m *ocispec.Manifest) { m.Subject = &d }
}

var manifestTests = []test{
	{"Image", func(f *fixture) {
		m := f.image(repo, 1)
		f.push(repo, m)
		f.hasManifest(repo, digestRef(m.desc.Digest), m)
		f.push(repo, m) // again
		f.hasManifest(repo, digestRef(m.desc.Digest), m)
	}},
	{"MediaTypeFromData", func(f *fixture) {
		m := f.image(repo, 1)
		got, err := f.PushManifest(f.Context(), repo, registry.ManifestPush{Data: m.data, Digest: m.desc.Digest})
		f.ok("push manifest", err)
		if !same(got.Descriptor, m.desc) {
			f.Errorf("push manifest: got %s, want %s", short(got.Descriptor), short(m.desc))
		}
		f.hasManifest(repo, digestRef(m.desc.Digest), m)
	}},
	{"MediaTypeOnlyGiven", func(f *fixture) {
		m := f.image(repo, 1, func(m *ocispec.Manifest) { m.MediaType = "" })
		m.desc.MediaType = ocispec.MediaTypeImageManifest
		f.push(repo, m)
		f.hasManifest(repo, digestRef(m.desc.Digest), m)
	}},
	{"BytesAreKept", func(f *fixture) {
		m := f.image(repo, 1)
		var spaced bytes.Buffer
		f.ok("indent", json.Indent(&spaced, m.data, " ", "\t  "))
		spaced.WriteString("\n\n")
		m = pushed{spaced.Bytes(), m.desc}
		m.desc.Digest, m.desc.Size = digest.FromBytes(m.data), int64(len(m.data))
		f.push(repo, m)
		f.hasManifest(repo, digestRef(m.desc.Digest), m)
	}},
	{"SHA512", func(f *fixture) {
		config := f.blobAs(repo, digest.SHA512, []byte("{}"))
		config.MediaType = ocispec.MediaTypeImageConfig
		m := f.image(repo, 1, func(m *ocispec.Manifest) { m.Config = config })
		m.desc.Digest = digest.SHA512.FromBytes(m.data)
		f.push(repo, m, "latest")
		f.hasManifest(repo, digestRef(m.desc.Digest), m)
		f.hasManifest(repo, tagRef("latest"), m)
	}},
	{"Index", func(f *fixture) {
		a, b := f.image(repo, 1), f.image(repo, 2)
		f.push(repo, a)
		f.push(repo, b)
		index := f.index([]registry.Descriptor{a.desc, b.desc})
		f.push(repo, index)
		nested := f.index([]registry.Descriptor{index.desc, a.desc})
		f.push(repo, nested)
		f.hasManifest(repo, digestRef(index.desc.Digest), index)
		f.hasManifest(repo, digestRef(nested.desc.Digest), nested)
		empty := f.index([]registry.Descriptor{})
		f.push(repo, empty)
		f.hasManifest(repo, digestRef(empty.desc.Digest), empty)
	}},
	{"IndexOfBlobs", func(f *fixture) { // as BuildKit keeps its cache
		layer, config := f.blob(repo, noise(100, 1)), f.blob(repo, []byte(`{"layers":[]}`))
		layer.MediaType, config.MediaType = ocispec.MediaTypeImageLayerGzip, buildCache
		m := f.index([]registry.Descriptor{layer, config})
		f.push(repo, m)
		f.hasManifest(repo, digestRef(m.desc.Digest), m)
	}},
	{"Docker", func(f *fixture) {
		m := f.image(repo, 1, func(m *ocispec.Manifest) {
			m.MediaType, m.Config.MediaType, m.Layers[0].MediaType = dockerManifest, dockerConfig, dockerLayer
		})
		f.push(repo, m)
		f.hasManifest(repo, digestRef(m.desc.Digest), m)
		list := f.index([]registry.Descriptor{m.desc}, func(m *ocispec.Index) { m.MediaType = dockerList })
		f.push(repo, list)
		f.hasManifest(repo, digestRef(list.desc.Digest), list)
	}},
	{"Artifact", func(f *fixture) {
		empty := f.blob(repo, []byte("{}"))
		empty.MediaType = ocispec.MediaTypeEmptyJSON
		subject := f.image(repo, 1)
		m := f.image(repo, 2, setSubject(subject.desc), func(m *ocispec.Manifest) {
			m.ArtifactType, m.Config, m.Layers = "application/vnd.example.sbom", empty, []registry.Descriptor{empty}
		})
		if got := f.push(repo, m); got.Subject != subject.desc.Digest { // which nobody pushed yet
			f.Errorf("push manifest: subject %q, want %s", got.Subject, subject.desc.Digest)
		}
		f.push(repo, subject)
		if got := f.push(repo, m); got.Subject != subject.desc.Digest {
			f.Errorf("push manifest: subject %q, want %s", got.Subject, subject.desc.Digest)
		}
		f.hasManifest(repo, digestRef(m.desc.Digest), m)
		index := f.index([]registry.Descriptor{}, func(m *ocispec.Index) { m.Subject = &subject.desc })
		if got := f.push(repo, index); got.Subject != subject.desc.Digest {
			f.Errorf("push index: subject %q, want %s", got.Subject, subject.desc.Digest)
		}
	}},
	{"ForeignLayer", func(f *fixture) {
		for i, mediaType := range []string{dockerForeign, ociForeign} {
			layer := stranger(mediaType)
			layer.URLs = []string{"https://example.org/layer"}
			m := f.image(repo, uint64(i), func(m *ocispec.Manifest) { m.Layers = append(m.Layers, layer) })
			f.push(repo, m)
			f.hasManifest(repo, digestRef(m.desc.Digest), m)
		}
	}},
	{"NoLayers", func(f *fixture) {
		m := f.image(repo, 1, func(m *ocispec.Manifest) { m.Layers = []registry.Descriptor{} })
		f.push(repo, m)
		f.hasManifest(repo, digestRef(m.desc.Digest), m)
	}},
	{"SameLayerTwice", func(f *fixture) {
		m := f.image(repo, 1, func(m *ocispec.Manifest) { m.Layers = append(m.Layers, m.Layers[0]) })
		f.push(repo, m)
		f.hasManifest(repo, digestRef(m.desc.Digest), m)
		f.ok("delete manifest", f.DeleteManifest(f.Context(), repo, m.desc.Digest))
	}},
	{"Largest", func(f *fixture) {
		m := f.sized(registry.MaxManifest)
		f.push(repo, m, "latest")
		f.hasManifest(repo, tagRef("latest"), m)
	}},
	{"BlobIsNoManifest", func(f *fixture) {
		m := f.image(repo, 1)
		f.noManifest(repo, digestRef(f.blob(repo, m.data).Digest))
		f.push(repo, m)
		f.hasManifest(repo, digestRef(m.desc.Digest), m)
	}},
	{"Unknown", func(f *fixture) {
		f.noManifest(repo, tagRef("latest")) // nor the repository
		f.push(repo, f.image(repo, 1), "latest")
		f.noManifest(repo, tagRef("Latest"))
		f.noManifest(repo, digestRef(digest.FromString("nobody pushed this")))
		f.noManifest(repo, digestRef(digest.SHA512.FromString("nobody pushed this")))
	}},
}

// sized makes an image manifest of exactly n bytes.
func (f *fixture) sized(n int) pushed {
	f.Helper()
	pad := annotate(map[string]string{"pad": ""})
	short := n - len(f.image(repo, 1, pad).data)
	return f.image(repo, 1, annotate(map[string]string{"pad": strings.Repeat("x", short)}))
}

var invalidTests = []test{
	{"WrongDigest", func(f *fixture) {
		m := f.image(repo, 1)
		m.desc.Digest = digest.FromString("something else")
		f.refused(m, registry.ErrDigestInvalid)
		m.desc.Digest = digest.SHA512.FromString("something else")
		f.refused(m, registry.ErrDigestInvalid)
	}},
	{"TooLarge", func(f *fixture) { f.refused(f.sized(registry.MaxManifest+1), registry.ErrManifestTooLarge) }},
	{"MissingBlob", func(f *fixture) {
		missing := stranger(ocispec.MediaTypeImageLayerGzip)
		for _, m := range []pushed{
			f.image(repo, 1, func(m *ocispec.Manifest) { m.Layers = append(m.Layers, missing) }),
			f.image(repo, 1, func(m *ocispec.Manifest) { m.Config.Digest, m.Config.Size = missing.Digest, missing.Size }),
			f.index([]registry.Descriptor{stranger(ocispec.MediaTypeImageManifest)}),
			f.index([]registry.Descriptor{missing}),
		} {
			f.refused(m, registry.ErrManifestBlobUnknown)
			if err := f.tryPush(repo, m); err != nil && !strings.Contains(err.Error(), missing.Digest.Encoded()) {
				f.Errorf("push of a manifest with a missing blob: error %q does not say which, want %s in it", err, missing.Digest)
			}
		}
	}},
	{"BlobOfAnotherRepository", func(f *fixture) {
		m := f.image(repo, 1)
		f.is("push manifest", f.tryPush(other, m), registry.ErrManifestBlobUnknown)
		f.push(repo, m)
		f.is("push manifest", f.tryPush(other, m), registry.ErrManifestBlobUnknown)
		f.is("push index", f.tryPush(other, f.index([]registry.Descriptor{m.desc})), registry.ErrManifestBlobUnknown)
		f.noManifest(other, digestRef(m.desc.Digest))
	}},
	{"BlobInPlaceOfManifest", func(f *fixture) {
		m := f.image(repo, 1)
		f.push(repo, m)
		asLayer := m.desc
		asLayer.MediaType = ocispec.MediaTypeImageLayer
		f.refused(f.image(repo, 2, func(m *ocispec.Manifest) { m.Layers = append(m.Layers, asLayer) }), registry.ErrManifestBlobUnknown)
	}},
	{"WrongSize", func(f *fixture) {
		child := f.image(repo, 1)
		f.push(repo, child)
		child.desc.Size++
		for _, m := range []pushed{
			f.image(repo, 2, func(m *ocispec.Manifest) { m.Layers[0].Size-- }),
			f.image(repo, 2, func(m *ocispec.Manifest) { m.Config.Size = 0 }),
			f.image(repo, 2, func(m *ocispec.Manifest) { m.Config.Size = -1 }),
			f.index([]registry.Descriptor{child.desc}),
		} {
			f.refused(m, registry.ErrManifestInvalid)
		}
	}},
	{"OtherMediaType", func(f *fixture) {
		for _, mediaType := range []string{dockerManifest, ocispec.MediaTypeImageIndex, "application/vnd.example.unknown+json"} {
			m := f.image(repo, 1)
			m.desc.MediaType = mediaType
			f.refused(m, registry.ErrManifestInvalid)
		}
		m := f.image(repo, 1, func(m *ocispec.Manifest) { m.MediaType = "application/vnd.example.unknown+json" })
		f.refused(m, registry.ErrManifestInvalid)
	}},
	{"NotOneKind", func(f *fixture) { // which another client would take for the other
		for _, mediaType := range []string{ocispec.MediaTypeImageManifest, ocispec.MediaTypeImageIndex} {
			image := f.image(repo, 1)
			var doc map[string]any
			f.ok("decode", json.Unmarshal(image.data, &doc))
			doc["mediaType"], doc["manifests"] = mediaType, []any{}
			f.refused(f.encode(doc, mediaType), registry.ErrManifestInvalid)
		}
	}},
	{"InvalidDescriptor", func(f *fixture) {
		for _, d := range []digest.Digest{
			"", "sha256", "sha256:", "sha256:abc", "md5:d41d8cd98f00b204e9800998ecf8427e",
			digest.Digest("sha256:" + strings.Repeat("g", 64)), digest.Digest("sha256:" + strings.Repeat("A", 64)),
			digest.Digest("sha256:../../" + strings.Repeat("a", 58)),
		} {
			f.refused(f.image(repo, 1, func(m *ocispec.Manifest) { m.Layers[0].Digest = d }), registry.ErrManifestInvalid)
			f.refused(f.image(repo, 1, setSubject(registry.Descriptor{
				MediaType: ocispec.MediaTypeImageManifest, Digest: d, Size: 1,
			})), registry.ErrManifestInvalid)
		}
	}},
	{"NotAManifest", func(f *fixture) {
		for _, data := range []string{
			"", " ", "null", "{", "{}", "[]", "1", `"text"`, "\xff\xfe", "{}{}", `{"schemaVersion":2}`,
			`{"schemaVersion":2,"config":[],"layers":{}}`, `{"schemaVersion":"2"}`,
			`{"schemaVersion":1,"name":"a","tag":"b","fsLayers":[],"history":[]}`,
			`{"schemaVersion":2,"config":{"mediaType":"a","digest":"sha256:0","size":1e99},"layers":[]}`,
		} {
			for _, mediaType := range []string{ocispec.MediaTypeImageManifest, ocispec.MediaTypeImageIndex, dockerManifest, dockerList} {
				f.refused(raw([]byte(data), mediaType), registry.ErrManifestInvalid)
			}
		}
	}},
	{"DeepNesting", func(f *fixture) {
		const depth = registry.MaxManifest / 4
		for _, data := range []string{
			strings.Repeat("[", depth), strings.Repeat(`{"a":`, depth/2),
			strings.Repeat("[", depth) + strings.Repeat("]", depth),
			fmt.Sprintf(`{"schemaVersion":2,"x":%s%s}`, strings.Repeat("[", depth), strings.Repeat("]", depth)),
		} {
			f.refused(raw([]byte(data), ocispec.MediaTypeImageManifest), registry.ErrManifestInvalid)
		}
	}},
}

func raw(data []byte, mediaType string) pushed {
	return pushed{data, registry.Descriptor{
		MediaType: mediaType, Digest: digest.FromBytes(data), Size: int64(len(data)),
	}}
}

// refused checks that a manifest is refused, and leaves nothing behind.
func (f *fixture) refused(m pushed, want *registry.Error) {
	f.Helper()
	f.is(fmt.Sprintf("push %.60q as %s", m.data, m.desc.MediaType), f.tryPush(repo, m, "refused"), want)
	f.noManifest(repo, tagRef("refused"))
	f.noManifest(repo, digestRef(m.desc.Digest))
}
