package registrytest

import (
	"cmp"
	"context"
	"fmt"
	"slices"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/berth-registry/berth/registry"
)

// refersTo checks the list of a subject's referrers.
func (f *fixture) refersTo(subject digest.Digest, artifactType string, want ...pushed) []registry.Descriptor {
	f.Helper()
	got := collect(f, "referrers", f.Referrers(f.Context(), repo, subject, artifactType, ""))
	slices.SortFunc(want, func(a, b pushed) int { return cmp.Compare(a.desc.Digest, b.desc.Digest) })
	if len(got) != len(want) {
		f.Fatalf("referrers: got %d of type %q, want %d", len(got), artifactType, len(want))
	}
	for i := range got {
		if !same(got[i], want[i].desc) {
			f.Errorf("referrer %d: got %s, want %s", i, short(got[i]), short(want[i].desc))
		}
	}
	return got
}

var referrersTests = []test{
	{"None", func(f *fixture) {
		f.refersTo(digest.FromString("of a repository that is not there"), "")
		m := f.image(repo, 1)
		f.push(repo, m)
		f.refersTo(m.desc.Digest, "")
		f.refersTo(digest.FromString("nobody pushed this"), "")
	}},
	{"ArtifactType", func(f *fixture) {
		const sbom, signature = "application/vnd.example.sbom", "application/vnd.example.signature"
		subject := f.image(repo, 1)
		f.push(repo, subject)
		of := func(seed uint64, artifactType, configType string) pushed {
			m := f.image(repo, seed, setSubject(subject.desc), func(m *ocispec.Manifest) {
				m.ArtifactType, m.Config.MediaType = artifactType, configType
			})
			f.push(repo, m)
			return m
		}
		a := of(2, sbom, ocispec.MediaTypeImageConfig)
		b := of(3, signature, ocispec.MediaTypeEmptyJSON)
		c := of(4, "", sbom) // the config's type stands in (image specification, "Image Manifest")
		index := f.index([]registry.Descriptor{}, func(m *ocispec.Index) {
			m.Subject, m.ArtifactType = &subject.desc, signature
		})
		f.push(repo, index)
		f.refersTo(subject.desc.Digest, "", a, b, c, index)
		f.refersTo(subject.desc.Digest, "application/vnd.example.none")
		for artifactType, want := range map[string][]pushed{sbom: {a, c}, signature: {b, index}} {
			for _, d := range f.refersTo(subject.desc.Digest, artifactType, want...) {
				if d.ArtifactType != artifactType {
					f.Errorf("referrer %s: artifact type %q, want %q", d.Digest, d.ArtifactType, artifactType)
				}
			}
		}
	}},
	{"Annotations", func(f *fixture) {
		subject := f.image(repo, 1)
		m := f.image(repo, 2, setSubject(subject.desc), annotate(map[string]string{"key": "value", "other": "ünicode"}))
		f.push(repo, m)
		for _, d := range f.refersTo(subject.desc.Digest, "", m) {
			if len(d.Annotations) != 2 || d.Annotations["key"] != "value" || d.Annotations["other"] != "ünicode" {
				f.Errorf("referrer: annotations %v, want those of the manifest", d.Annotations)
			}
		}
	}},
	{"After", func(f *fixture) {
		subject := f.image(repo, 1)
		var want []pushed
		for i := range 7 {
			m := f.image(repo, uint64(10+i), setSubject(subject.desc))
			if i == 6 {
				m.desc.Digest = digest.SHA512.FromBytes(m.data)
			}
			f.push(repo, m)
			want = append(want, m)
		}
		all := f.refersTo(subject.desc.Digest, "", want...)
		for i, d := range all {
			rest := collect(f, "referrers", f.Referrers(f.Context(), repo, subject.desc.Digest, "", d.Digest))
			if !slices.EqualFunc(rest, all[i+1:], same) {
				f.Errorf("referrers after number %d: got %d, want the %d behind it", i, len(rest), len(all)-i-1)
			}
		}
	}},
	{"ScopedByRepository", func(f *fixture) {
		subject := f.image(repo, 1)
		f.push(repo, subject)
		f.push(other, f.image(other, 2, setSubject(subject.desc)))
		f.refersTo(subject.desc.Digest, "")
	}},
	{"Delete", func(f *fixture) {
		subject := f.image(repo, 1)
		a := f.image(repo, 2, setSubject(subject.desc))
		b := f.image(repo, 3, setSubject(subject.desc))
		f.push(repo, a, "tagged")
		f.push(repo, b)
		f.ok("delete tag", f.DeleteTag(f.Context(), repo, "tagged"))
		f.refersTo(subject.desc.Digest, "", a, b)
		f.ok("delete referrer", f.DeleteManifest(f.Context(), repo, a.desc.Digest))
		f.refersTo(subject.desc.Digest, "", b)
	}},
	{"OfReferrer", func(f *fixture) {
		subject := f.image(repo, 1)
		a := f.image(repo, 2, setSubject(subject.desc))
		b := f.image(repo, 3, setSubject(a.desc))
		f.push(repo, b)
		f.push(repo, a)
		f.refersTo(subject.desc.Digest, "", a)
		f.refersTo(a.desc.Digest, "", b)
	}},
}

var listTests = []test{
	{"Empty", func(f *fixture) {
		f.wantList("repositories", f.Repositories(f.Context(), ""))
		f.is("tags of unknown repository", failure(f.Tags(f.Context(), repo, "")), registry.ErrNameUnknown)
		f.is("tags of unknown repository", failure(f.Tags(f.Context(), repo, "a")), registry.ErrNameUnknown)
	}},
	{"Repositories", func(f *fixture) {
		// In byte order, in which "-" and "." come before "/".
		names := []string{"a", "a-b", "a.b", "a/b", "a/b/c", "a0", "a_b", "aa", "b"}
		for _, name := range slices.Backward(names) {
			f.push(name, f.image(name, 1))
		}
		f.wantList("repositories", f.Repositories(f.Context(), ""), names...)
		for i, name := range names {
			f.wantList("repositories after "+name, f.Repositories(f.Context(), name), names[i+1:]...)
		}
		f.wantList("repositories after one that is not there", f.Repositories(f.Context(), "a/a"), names[3:]...)
		f.wantList("repositories after the last", f.Repositories(f.Context(), "zzz"))
	}},
	{"RepositoryNeedsManifest", func(f *fixture) {
		a, b := f.image(repo, 1), f.image(repo, 2)
		f.wantList("repositories with only blobs", f.Repositories(f.Context(), ""))
		f.is("tags of a repository with only blobs", failure(f.Tags(f.Context(), repo, "")), registry.ErrNameUnknown)
		f.push(repo, a, "latest")
		f.push(repo, b)
		f.wantList("repositories", f.Repositories(f.Context(), ""), repo)
		f.ok("delete tag", f.DeleteTag(f.Context(), repo, "latest"))
		f.ok("delete manifest", f.DeleteManifest(f.Context(), repo, a.desc.Digest))
		f.wantList("repositories", f.Repositories(f.Context(), ""), repo)
		f.wantList("tags", f.Tags(f.Context(), repo, ""))
		f.ok("delete manifest", f.DeleteManifest(f.Context(), repo, b.desc.Digest))
		f.wantList("repositories after the last manifest", f.Repositories(f.Context(), ""))
		f.is("tags after the last manifest", failure(f.Tags(f.Context(), repo, "")), registry.ErrNameUnknown)
		f.push(repo, a)
		f.wantList("repositories", f.Repositories(f.Context(), ""), repo)
	}},
	{"Tags", func(f *fixture) {
		tags := []string{"0", "A", "Z", "_", "a", "a-b", "a.b", "a0", "a_b", "aa", "b"}
		m := f.image(repo, 1)
		for _, tag := range slices.Backward(tags) {
			f.push(repo, m, tag)
		}
		f.wantList("tags", f.Tags(f.Context(), repo, ""), tags...)
		for i, tag := range tags {
			f.wantList("tags after "+tag, f.Tags(f.Context(), repo, tag), tags[i+1:]...)
		}
		f.wantList("tags after one that is not there", f.Tags(f.Context(), repo, "a1"), tags[8:]...)
	}},
	{"TagsOfNeighbours", func(f *fixture) {
		for _, name := range []string{"a", "a-b", "a/b"} {
			f.push(name, f.image(name, 1), "of-"+name[len(name)-1:], "x")
		}
		f.wantList("tags", f.Tags(f.Context(), "a", ""), "of-a", "x")
		f.wantList("tags", f.Tags(f.Context(), "a", "of-a"), "x")
		f.wantList("tags", f.Tags(f.Context(), "a-b", ""), "of-b", "x")
	}},
	{"Many", func(f *fixture) {
		m := f.image(repo, 1)
		var want []string
		for i := range 1234 { // more than a page of most registries
			want = append(want, fmt.Sprintf("v%04d", i))
		}
		for tags := range slices.Chunk(want, 50) {
			f.push(repo, m, tags...)
		}
		f.wantList("tags", f.Tags(f.Context(), repo, ""), want...)
		f.wantList("tags after v0500", f.Tags(f.Context(), repo, "v0500"), want[501:]...)
	}},
	{"StopEarly", func(f *fixture) {
		f.push(repo, f.image(repo, 1), "a", "b", "c")
		for _, err := range f.Repositories(f.Context(), "") {
			f.ok("repositories", err)
			break
		}
		for tag, err := range f.Tags(f.Context(), repo, "") {
			f.ok("tags", err)
			if tag == "b" {
				break
			}
		}
		f.wantList("tags", f.Tags(f.Context(), repo, ""), "a", "b", "c")
	}},
	{"Canceled", func(f *fixture) {
		f.push(repo, f.image(repo, 1), "a", "b", "c")
		ctx, cancel := context.WithCancel(f.Context())
		defer cancel()
		for _, err := range f.Tags(ctx, repo, "") {
			f.ok("tags", err)
			cancel()
			break // nothing may be yielded any more
		}
		if err := failure(f.Tags(ctx, repo, "")); err == nil {
			f.Error("tags with a canceled context: no error")
		}
	}},
}

func (f *fixture) search(term string) map[string]string {
	f.Helper()
	found := map[string]string{}
	for _, r := range collect(f, "search", f.Search(f.Context(), term)) {
		if _, twice := found[r.Name]; twice {
			f.Errorf("search %q: found %s twice", term, r.Name)
		}
		found[r.Name] = r.Description
	}
	return found
}

func (f *fixture) finds(term string, want ...string) {
	f.Helper()
	var got []string
	for name := range f.search(term) {
		got = append(got, name)
	}
	slices.Sort(got)
	if !slices.Equal(got, want) {
		f.Errorf("search %q: found %q, want %q", term, got, want)
	}
}

var searchTests = []test{
	{"Substring", func(f *fixture) {
		f.finds("mon")
		for _, name := range []string{"mongo", "library/mongo", "monitor/agent", "demon", "redis"} {
			f.push(name, f.image(name, 1), "latest")
		}
		f.image("mongo-blobs-only", 1)
		f.finds("mon", "demon", "library/mongo", "mongo", "monitor/agent")
		f.finds("mongo", "library/mongo", "mongo")
		f.finds("y/m", "library/mongo")
		f.finds("redis", "redis")
		f.finds("nothing-of-this")
	}},
	{"Many", func(f *fixture) {
		want := []string{}
		for i := range 60 { // more than "docker search" shows unless told to
			name := fmt.Sprintf("many/r%03d", i)
			f.push(name, f.index([]registry.Descriptor{}))
			want = append(want, name)
		}
		f.finds("many/", want...)
	}},
	{"Description", func(f *fixture) {
		const key = ocispec.AnnotationDescription
		described := func(text string) func(*ocispec.Manifest) { return annotate(map[string]string{key: text}) }
		f.push("d/annotation", f.image("d/annotation", 1, described("of the manifest")), "latest")
		f.push("d/label", f.image("d/label", 1, f.labelled("d/label", "of the config")), "latest")
		f.push("d/both", f.image("d/both", 1, f.labelled("d/both", "of the config"), described("of the manifest")), "latest")
		f.push("d/none", f.image("d/none", 1), "latest")
		child := f.image("d/index", 1, described("of the image"))
		f.push("d/index", child)
		f.push("d/index", f.index([]registry.Descriptor{child.desc}, func(m *ocispec.Index) {
			m.Annotations = map[string]string{key: "of the index"}
		}), "latest")
		f.push("d/moved", f.image("d/moved", 1, described("old")), "latest")
		f.push("d/moved", f.image("d/moved", 2, described("new")), "latest")
		want := map[string]string{
			"d/annotation": "of the manifest", "d/label": "of the config", "d/both": "of the manifest",
			"d/none": "", "d/index": "of the index", "d/moved": "new",
		}
		for name, got := range f.search("d/") {
			if got != want[name] {
				f.Errorf("search: %s is described as %q, want %q", name, got, want[name])
			}
		}
	}},
}

// labelled gives an image a config with a description in its labels.
func (f *fixture) labelled(repo, text string) func(*ocispec.Manifest) {
	return func(m *ocispec.Manifest) {
		m.Config = f.blob(repo, fmt.Appendf(nil, `{"config":{"Labels":{%q:%q}}}`, ocispec.AnnotationDescription, text))
		m.Config.MediaType = ocispec.MediaTypeImageConfig
	}
}
