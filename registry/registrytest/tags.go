package registrytest

import (
	"strings"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/berth-registry/berth/registry"
)

var tagTests = []test{
	{"Push", func(f *fixture) {
		m := f.image(repo, 1)
		tags := []string{"latest", "1.2.3", "_x", "A-b.c_D", strings.Repeat("t", 128)}
		f.push(repo, m, tags...)
		for _, tag := range tags {
			f.hasManifest(repo, tagRef(tag), m)
		}
		f.hasManifest(repo, digestRef(m.desc.Digest), m)
	}},
	{"One", func(f *fixture) {
		m := f.image(repo, 1)
		f.push(repo, m, "latest")
		f.hasManifest(repo, tagRef("latest"), m)
		f.hasManifest(repo, digestRef(m.desc.Digest), m)
	}},
	{"Add", func(f *fixture) {
		m := f.image(repo, 1)
		f.push(repo, m)
		f.wantList("tags", f.Tags(f.Context(), repo, ""))
		f.push(repo, m, "a")
		f.push(repo, m, "b")
		f.push(repo, m)
		f.wantList("tags", f.Tags(f.Context(), repo, ""), "a", "b")
	}},
	{"Move", func(f *fixture) {
		a, b := f.image(repo, 1), f.image(repo, 2)
		f.push(repo, a, "latest", "old")
		f.push(repo, b, "latest")
		f.hasManifest(repo, tagRef("latest"), b)
		f.hasManifest(repo, tagRef("old"), a)
		f.hasManifest(repo, digestRef(a.desc.Digest), a)
		f.push(repo, a, "latest")
		f.hasManifest(repo, tagRef("latest"), a)
		f.ok("delete manifest", f.DeleteManifest(f.Context(), repo, b.desc.Digest))
		f.hasManifest(repo, tagRef("latest"), a)
	}},
	{"OfAnotherKind", func(f *fixture) {
		m := f.image(repo, 1)
		f.push(repo, m, "latest")
		index := f.index([]registry.Descriptor{m.desc})
		f.push(repo, index, "latest")
		f.hasManifest(repo, tagRef("latest"), index)
	}},
	{"ScopedByRepository", func(f *fixture) {
		a, b := f.image(repo, 1), f.image(other, 2)
		f.push(repo, a, "latest")
		f.push(other, b, "latest")
		f.hasManifest(repo, tagRef("latest"), a)
		f.hasManifest(other, tagRef("latest"), b)
		f.ok("delete tag", f.DeleteTag(f.Context(), repo, "latest"))
		f.hasManifest(other, tagRef("latest"), b)
	}},
	{"RefusedPushMovesNothing", func(f *fixture) {
		m := f.image(repo, 1)
		f.push(repo, m, "latest")
		bad := f.image(repo, 2, func(m *ocispec.Manifest) {
			m.Layers = append(m.Layers, stranger(ocispec.MediaTypeImageLayer))
		})
		f.is("push manifest", f.tryPush(repo, bad, "latest", "new"), registry.ErrManifestBlobUnknown)
		f.hasManifest(repo, tagRef("latest"), m)
		f.wantList("tags", f.Tags(f.Context(), repo, ""), "latest")
	}},
}

var deleteTests = []test{
	{"Tag", func(f *fixture) {
		m := f.image(repo, 1)
		f.push(repo, m, "a", "b")
		f.ok("delete tag", f.DeleteTag(f.Context(), repo, "a"))
		f.noManifest(repo, tagRef("a"))
		f.hasManifest(repo, tagRef("b"), m)
		f.ok("delete tag", f.DeleteTag(f.Context(), repo, "b"))
		f.wantList("tags", f.Tags(f.Context(), repo, ""))
		f.hasManifest(repo, digestRef(m.desc.Digest), m)
		f.is("delete tag again", f.DeleteTag(f.Context(), repo, "a"), registry.ErrManifestUnknown)
		f.is("delete tag of unknown repository", f.DeleteTag(f.Context(), other, "a"), registry.ErrManifestUnknown)
		f.push(repo, m, "a")
		f.hasManifest(repo, tagRef("a"), m)
	}},
	{"Manifest", func(f *fixture) {
		a, b := f.image(repo, 1), f.image(repo, 2)
		f.push(repo, a, "a1", "a2", "moved")
		f.push(repo, b, "b", "moved")
		f.ok("delete manifest", f.DeleteManifest(f.Context(), repo, a.desc.Digest))
		f.noManifest(repo, digestRef(a.desc.Digest))
		f.noManifest(repo, tagRef("a1"))
		f.wantList("tags", f.Tags(f.Context(), repo, ""), "b", "moved")
		f.hasManifest(repo, tagRef("moved"), b)
		f.is("delete manifest again", f.DeleteManifest(f.Context(), repo, a.desc.Digest), registry.ErrManifestUnknown)
		f.is("delete unknown manifest", f.DeleteManifest(f.Context(), repo, digest.FromString("?")), registry.ErrManifestUnknown)
		f.push(repo, a, "a1")
		f.hasManifest(repo, tagRef("a1"), a)
		f.noManifest(repo, tagRef("a2"))
	}},
	{"ReferencedBlob", func(f *fixture) {
		var layer, config digest.Digest
		keep := func(m *ocispec.Manifest) { layer, config = m.Layers[0].Digest, m.Config.Digest }
		a := f.image(repo, 1, keep)
		b := f.image(repo, 1, keep, annotate(map[string]string{"other": "manifest"}))
		f.push(repo, a)
		f.push(repo, b)
		for range 2 {
			f.is("delete layer", f.DeleteBlob(f.Context(), repo, layer), registry.ErrReferenced)
			f.is("delete config", f.DeleteBlob(f.Context(), repo, config), registry.ErrReferenced)
			f.ok("delete manifest", f.DeleteManifest(f.Context(), repo, a.desc.Digest))
			a = b
		}
		f.ok("delete layer", f.DeleteBlob(f.Context(), repo, layer))
		f.ok("delete config", f.DeleteBlob(f.Context(), repo, config))
		f.is("push manifest", f.tryPush(repo, b), registry.ErrManifestBlobUnknown)
	}},
	{"BlobReferencedElsewhere", func(f *fixture) {
		var layer digest.Digest
		m := f.image(repo, 1, func(m *ocispec.Manifest) { layer = m.Layers[0].Digest })
		f.push(repo, m)
		f.image(other, 1)
		f.ok("delete layer", f.DeleteBlob(f.Context(), other, layer))
		f.noBlob(other, layer)
		f.hasManifest(repo, digestRef(m.desc.Digest), m)
		if _, err := f.StatBlob(f.Context(), repo, layer); err != nil {
			f.Errorf("stat layer: %v", err)
		}
	}},
	{"ReferencedManifest", func(f *fixture) {
		m := f.image(repo, 1)
		f.push(repo, m, "latest")
		index := f.index([]registry.Descriptor{m.desc})
		f.push(repo, index, "all")
		nested := f.index([]registry.Descriptor{index.desc})
		f.push(repo, nested)
		f.is("delete image", f.DeleteManifest(f.Context(), repo, m.desc.Digest), registry.ErrReferenced)
		f.is("delete index", f.DeleteManifest(f.Context(), repo, index.desc.Digest), registry.ErrReferenced)
		f.hasManifest(repo, tagRef("latest"), m)
		f.ok("delete tag", f.DeleteTag(f.Context(), repo, "latest")) // which nothing references
		f.ok("delete nested index", f.DeleteManifest(f.Context(), repo, nested.desc.Digest))
		f.ok("delete index", f.DeleteManifest(f.Context(), repo, index.desc.Digest))
		f.ok("delete image", f.DeleteManifest(f.Context(), repo, m.desc.Digest))
	}},
	{"Subject", func(f *fixture) {
		subject := f.image(repo, 1)
		f.push(repo, subject)
		m := f.image(repo, 2, setSubject(subject.desc))
		f.push(repo, m)
		f.ok("delete subject", f.DeleteManifest(f.Context(), repo, subject.desc.Digest))
		f.hasManifest(repo, digestRef(m.desc.Digest), m)
		f.refersTo(subject.desc.Digest, "", m)
	}},
}
