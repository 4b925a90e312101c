package importing_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/berth-registry/berth/importing"
	"github.com/berth-registry/berth/internal/freeaddr"
	"github.com/berth-registry/berth/registry"
	"github.com/berth-registry/berth/registry/remote"
	"github.com/berth-registry/berth/storage"
	"github.com/berth-registry/berth/storage/bolt"
	blobfs "github.com/berth-registry/berth/storage/fs"
)

const debianConfig = `version: 0.1
log: {level: error}
storage:
  filesystem: {rootdirectory: %q}
  delete: {enabled: true}
http: {addr: %q}
`

// pushed has each image that was pushed, by its name.
type pushed struct {
	t      testing.TB
	r      registry.Registry
	dir    string // of docker-registry's data
	layers map[string]digest.Digest
	images map[string]digest.Digest
}

// fill runs docker-registry, and pushes to it.
func fill(t *testing.T, push func(*pushed)) *pushed {
	t.Helper()
	program, err := exec.LookPath("docker-registry")
	if err != nil {
		t.Fatal("docker-registry is missing: apt-get install docker-registry")
	}
	dir := t.TempDir()
	addr := freeaddr.For(t)
	config := filepath.Join(t.TempDir(), "config.yml")
	if err := os.WriteFile(config, fmt.Appendf(nil, debianConfig, dir, addr), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(program, "serve", config)
	var log bytes.Buffer
	cmd.Stdout, cmd.Stderr = &log, &log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		_ = cmd.Wait()
	}()
	await(t, "http://"+addr+"/v2/", &log)
	r, err := remote.New("http://"+addr, http.DefaultClient)
	if err != nil {
		t.Fatal(err)
	}
	p := &pushed{t: t, r: r, dir: dir, layers: map[string]digest.Digest{}, images: map[string]digest.Digest{}}
	push(p)
	return p
}

func await(t *testing.T, url string, log fmt.Stringer) {
	t.Helper()
	ticker := time.NewTicker(20 * time.Millisecond)
	defer ticker.Stop()
	for end := time.Now().Add(30 * time.Second); time.Now().Before(end); <-ticker.C {
		resp, err := http.Get(url)
		if err == nil {
			_ = resp.Body.Close()
			return
		}
	}
	t.Fatalf("docker-registry does not answer: %s", log)
}

func (p *pushed) blob(repo, name string, size int) ocispec.Descriptor {
	p.t.Helper()
	data := bytes.Repeat([]byte(name+"\n"), size/(len(name)+1)+1)
	d, err := p.r.PushBlob(p.t.Context(), repo, digest.FromBytes(data), bytes.NewReader(data))
	if err != nil {
		p.t.Fatal(err)
	}
	p.layers[name] = d.Digest
	d.MediaType = ocispec.MediaTypeImageLayerGzip
	return d
}

// image pushes an image with a large and a small layer, and one that all share.
func (p *pushed) image(repo, name string, tags ...string) ocispec.Descriptor {
	p.t.Helper()
	config := p.blob(repo, "{}", 0)
	config.MediaType = ocispec.MediaTypeImageConfig
	return p.manifest(repo, name, ocispec.MediaTypeImageManifest, map[string]any{
		"schemaVersion": 2, "mediaType": ocispec.MediaTypeImageManifest, "config": config,
		"layers": []ocispec.Descriptor{p.blob(repo, "shared", 100_000), p.blob(repo, name+"-large", 200_000), p.blob(repo, name+"-small", 100)},
	}, tags...)
}

func (p *pushed) index(repo, name string, children []ocispec.Descriptor, tags ...string) ocispec.Descriptor {
	p.t.Helper()
	return p.manifest(repo, name, ocispec.MediaTypeImageIndex, map[string]any{
		"schemaVersion": 2, "mediaType": ocispec.MediaTypeImageIndex, "manifests": children,
	}, tags...)
}

func (p *pushed) manifest(repo, name, mediaType string, v any, tags ...string) ocispec.Descriptor {
	p.t.Helper()
	data, err := json.Marshal(v)
	if err != nil {
		p.t.Fatal(err)
	}
	m := registry.ManifestPush{Data: data, MediaType: mediaType, Digest: digest.FromBytes(data)}
	for _, tag := range append([]string{""}, tags...) {
		m.Tags = nil
		if tag != "" {
			m.Tags = []string{tag} // docker-registry takes one at a time
		}
		if tag == "" && len(tags) > 0 {
			continue
		}
		if _, err := p.r.PushManifest(p.t.Context(), repo, m); err != nil {
			p.t.Fatal(err)
		}
	}
	p.images[name] = m.Digest
	return ocispec.Descriptor{MediaType: mediaType, Digest: m.Digest, Size: int64(len(data))}
}

// data is the file of a blob of the source.
func (p *pushed) data(d digest.Digest) string {
	hex := d.Encoded()
	return filepath.Join(p.dir, "docker/registry/v2/blobs/sha256", hex[:2], hex, "data")
}

func (p *pushed) manifests(repo, below string) string {
	return filepath.Join(p.dir, "docker/registry/v2/repositories", repo, "_manifests", below)
}

// store is a registry that is imported into.
type store struct {
	*registry.Local
	t    testing.TB
	meta storage.Meta
	dir  string
}

func newStore(t testing.TB) *store {
	t.Helper()
	dir := t.TempDir()
	blobs, err := blobfs.Open(dir, nil)
	if err != nil {
		t.Fatal(err)
	}
	meta, err := bolt.Open(filepath.Join(dir, "meta.db"))
	if err != nil {
		t.Fatal(err)
	}
	local, err := registry.NewLocal(t.Context(), blobs, meta, registry.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		local.Close()
		if err := errors.Join(meta.Close(), blobs.Close()); err != nil {
			t.Error(err)
		}
	})
	return &store{local, t, meta, dir}
}

// load imports, and returns what was left out, by what it is.
func (s *store) load(path string, o importing.Options) (importing.Report, map[string]string) {
	s.t.Helper()
	left := map[string]string{}
	o.Skipped = func(p importing.Problem) { left[p.Repo+" "+p.What] = p.Reason }
	report, err := importing.Import(s.t.Context(), path, s, o)
	if err != nil {
		s.t.Fatal(err)
	}
	if report.Skipped < len(left) {
		s.t.Errorf("%+v, but left out %v", report, left)
	}
	return report, left
}

// content lists what there is, after all of it has been read: REPO:TAG=DIGEST.
func (s *store) content() (tags []string) {
	s.t.Helper()
	ctx := s.t.Context()
	for repo, err := range s.Repositories(ctx, "") {
		if err != nil {
			s.t.Fatal(err)
		}
		for tag, err := range s.Tags(ctx, repo, "") {
			if err != nil {
				s.t.Fatal(err)
			}
			tags = append(tags, repo+":"+tag+"="+string(s.read(repo, registry.Reference{Tag: tag})))
		}
	}
	return tags
}

// read reads a manifest and all that it leads to.
func (s *store) read(repo string, ref registry.Reference) digest.Digest {
	s.t.Helper()
	data, desc, err := s.Manifest(s.t.Context(), repo, ref)
	if err != nil {
		s.t.Fatal(err)
	}
	if digest.FromBytes(data) != desc.Digest {
		s.t.Fatalf("%s: damaged", desc.Digest)
	}
	var doc struct {
		Config            ocispec.Descriptor
		Layers, Manifests []ocispec.Descriptor
	}
	if err := json.Unmarshal(data, &doc); err != nil {
		s.t.Fatal(err)
	}
	for _, m := range doc.Manifests {
		s.read(repo, registry.Reference{Digest: m.Digest})
	}
	if doc.Config.Digest == "" {
		return desc.Digest
	}
	for _, l := range append(doc.Layers, doc.Config) {
		r, _, err := s.Blob(s.t.Context(), repo, l.Digest)
		if err != nil {
			s.t.Fatal(err)
		}
		got, err := digest.FromReader(r)
		_ = r.Close()
		if err != nil || got != l.Digest {
			s.t.Fatalf("%s: %s, %v", l.Digest, got, err)
		}
	}
	return desc.Digest
}

// fillAll pushes to two repositories.
func fillAll(p *pushed) {
	p.image("team/web", "one", "v1", "latest")
	two := p.image("team/web", "two", "v2")
	three := p.image("team/web", "three")
	p.index("team/web", "both", []ocispec.Descriptor{two, three}, "multi")
	p.image("other", "one", "v1")
	p.image("other", "gone", "gone")
}

func (p *pushed) all() []string {
	want := []string{
		"other:gone=" + string(p.images["gone"]), "other:v1=" + string(p.images["one"]),
		"team/web:latest=" + string(p.images["one"]), "team/web:multi=" + string(p.images["both"]),
		"team/web:v1=" + string(p.images["one"]), "team/web:v2=" + string(p.images["two"]),
	}
	slices.Sort(want)
	return want
}

func (s *store) want(want []string) {
	s.t.Helper()
	if got := s.content(); !slices.Equal(got, want) {
		s.t.Errorf("got  %v\nwant %v", got, want)
	}
}

func inode(t *testing.T, path string) uint64 {
	t.Helper()
	fi, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	return fi.Sys().(*syscall.Stat_t).Ino
}

func TestImport(t *testing.T) {
	p := fill(t, fillAll)
	dry, err := importing.DryRun(t.Context(), p.dir, importing.Options{})
	if err != nil {
		t.Fatal(err)
	}
	for _, below := range []string{"", "docker/registry", "docker/registry/v2"} {
		s := newStore(t)
		report, left := s.load(filepath.Join(p.dir, below), importing.Options{})
		if len(left) > 0 || report.Repos != 2 || report.Tags.New != 6 || report.Manifests.New != 6 {
			t.Fatalf("%+v, %v", report, left)
		}
		s.want(p.all())
		if dry.Linked, dry.Manifests, dry.Tags = report.Linked, report.Manifests, report.Tags; dry != report {
			t.Errorf("a dry run says %+v, it was %+v", dry, report)
		}
		large := p.layers["two-large"]
		mine := filepath.Join(s.dir, "blobs/sha256", large.Encoded()[:2], large.Encoded())
		if report.Linked != 5 || inode(t, mine) != inode(t, p.data(large)) {
			t.Errorf("%d linked", report.Linked)
		}
		// Again: nothing is left to do, and a tag that was moved stays.
		if _, err := s.PushManifest(t.Context(), "team/web", s.manifest("team/web", "v1", "v2")); err != nil {
			t.Fatal(err)
		}
		again, left := s.load(p.dir, importing.Options{})
		if len(left) > 0 || again.Manifests.New+again.Blobs.New+again.Tags.New > 0 || again.Manifests.Present != 6 || again.Tags.Present != 6 {
			t.Errorf("again: %+v, %v", again, left)
		}
		if got := s.read("team/web", registry.Reference{Tag: "v2"}); got != p.images["one"] {
			t.Errorf("the tag is at %s", got)
		}
		if stages, err := os.ReadDir(filepath.Join(s.dir, "uploads")); err != nil || len(stages) > 0 {
			t.Errorf("left %v, %v", stages, err)
		}
	}
}

// manifest is a push of a manifest that is there, with another tag.
func (s *store) manifest(repo, tag, as string) registry.ManifestPush {
	s.t.Helper()
	data, desc, err := s.Manifest(s.t.Context(), repo, registry.Reference{Tag: tag})
	if err != nil {
		s.t.Fatal(err)
	}
	return registry.ManifestPush{Data: data, MediaType: desc.MediaType, Digest: desc.Digest, Tags: []string{as}}
}

// TestDamage: whatever is wrong with the source, what does not need it is imported.
func TestDamage(t *testing.T) {
	p := fill(t, fillAll)
	write := func(path, text string) {
		t.Helper()
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	remove := func(path string) {
		t.Helper()
		if err := os.RemoveAll(path); err != nil {
			t.Fatal(err)
		}
	}
	without := func(names ...string) []string {
		return slices.DeleteFunc(p.all(), func(s string) bool {
			return slices.ContainsFunc(names, func(n string) bool { return strings.HasPrefix(s, n+"=") })
		})
	}
	clean := filepath.Join(t.TempDir(), "clean")
	if err := os.CopyFS(clean, os.DirFS(p.dir)); err != nil {
		t.Fatal(err)
	}
	web := func(name string) string { return "team/web " + string(p.images[name]) }
	for name, c := range map[string]struct {
		damage func()
		want   []string
		left   map[string]string // what is left out, and a part of why
	}{
		"missing layer": {
			func() { remove(p.data(p.layers["two-large"])) }, without("team/web:v2", "team/web:multi"),
			map[string]string{"team/web " + string(p.layers["two-large"]): "the blob is missing", web("two"): "which was left out", web("both"): "which was left out"},
		},
		"empty layer": {
			func() { write(p.data(p.layers["two-small"]), "") }, without("team/web:v2", "team/web:multi"),
			map[string]string{"team/web " + string(p.layers["two-small"]): "the blob is empty", web("two"): "", web("both"): ""},
		},
		"damaged layer": {
			func() { write(p.data(p.layers["three-large"]), "other") }, without("team/web:multi"),
			map[string]string{"team/web " + string(p.layers["three-large"]): "the blob is damaged", web("three"): "", web("both"): ""},
		},
		"layer that is a directory": {
			func() { remove(p.data(p.layers["gone-large"])); write(p.data(p.layers["gone-large"])+"/x", "") }, without("other:gone"),
			map[string]string{"other " + string(p.layers["gone-large"]): "is no file", "other " + string(p.images["gone"]): ""},
		},
		"layer that never ends": {
			func() {
				remove(p.data(p.layers["gone-large"]))
				if err := syscall.Mkfifo(p.data(p.layers["gone-large"]), 0o600); err != nil {
					t.Fatal(err)
				}
			},
			without("other:gone"),
			map[string]string{"other " + string(p.layers["gone-large"]): "is no file", "other " + string(p.images["gone"]): ""},
		},
		"manifest without bytes": {
			func() { remove(p.data(p.images["gone"])) }, without("other:gone"),
			map[string]string{"other " + string(p.images["gone"]): "the manifest is missing"},
		},
		"empty manifest": {
			func() { write(p.data(p.images["gone"]), "") }, without("other:gone"),
			map[string]string{"other " + string(p.images["gone"]): "the manifest is empty"},
		},
		"damaged manifest": {
			func() { write(p.data(p.images["gone"]), "{}") }, without("other:gone"),
			map[string]string{"other " + string(p.images["gone"]): "the manifest is damaged"},
		},
		"huge manifest": {
			func() { write(p.data(p.images["gone"]), strings.Repeat(" ", registry.MaxManifest+1)) }, without("other:gone"),
			map[string]string{"other " + string(p.images["gone"]): "too large"},
		},
		"tag with an empty link": {
			func() { write(p.manifests("other", "tags/gone/current/link"), "") }, without("other:gone"),
			map[string]string{"other gone": "its link is empty"},
		},
		"tag with a broken link": {
			func() { write(p.manifests("other", "tags/gone/current/link"), "sha256:../../../etc") }, without("other:gone"),
			map[string]string{"other gone": "holds no digest"},
		},
		"tag without a link": {
			func() { remove(p.manifests("other", "tags/gone/current")) }, without("other:gone"),
			map[string]string{"other gone": "no link"},
		},
		"tag of what was deleted": {
			func() {
				remove(p.manifests("other", "revisions/sha256/"+p.images["gone"].Encoded()+"/link"))
			},
			without("other:gone"),
			map[string]string{"other gone": "which the repository does not have"},
		},
		"revision with an empty link": {
			func() { write(p.manifests("other", "revisions/sha256/"+p.images["gone"].Encoded()+"/link"), "") }, without("other:gone"),
			map[string]string{"other " + string(p.images["gone"]): "its link is empty", "other gone": "does not have"},
		},
		"revision that leads elsewhere": {
			func() {
				write(p.manifests("other", "revisions/sha256/"+p.images["gone"].Encoded()+"/link"), string(p.images["one"]))
			},
			without("other:gone"),
			map[string]string{"other " + string(p.images["gone"]): "leads to", "other gone": "does not have"},
		},
		"strange names": {
			func() {
				write(p.manifests("Upper", "tags/x/current/link"), "")
				write(p.manifests("other", "tags/-x/current/link"), string(p.images["one"]))
				write(p.manifests("other", "revisions/md5/00/link"), "md5:00")
				write(p.manifests("other", "revisions/sha256/xyz/link"), "sha256:xyz")
			},
			p.all(),
			map[string]string{"Upper": "no name", "other -x": "no name", "other md5:00": "no digest", "other sha256:xyz": "no digest"},
		},
		"repository without anything": {func() { remove(p.manifests("other", "")) }, without("other:gone", "other:v1"), nil},
	} {
		t.Run(name, func(t *testing.T) {
			remove(p.dir)
			if err := os.CopyFS(p.dir, os.DirFS(clean)); err != nil {
				t.Fatal(err)
			}
			c.damage()
			s := newStore(t)
			_, left := s.load(p.dir, importing.Options{})
			s.want(c.want)
			for what, why := range c.left {
				what = strings.TrimSpace(what)
				if what == "Upper" {
					what = " " + what
				}
				if got, ok := left[what]; !ok || !strings.Contains(got, why) {
					t.Errorf("%s: left out for %q, want %q", what, got, why)
				}
			}
			if len(left) != len(c.left) {
				t.Errorf("left out %v", slices.Collect(maps.Keys(left)))
			}
			// Once the source is whole, to do it again brings the rest.
			remove(p.dir)
			if err := os.CopyFS(p.dir, os.DirFS(clean)); err != nil {
				t.Fatal(err)
			}
			if _, left := s.load(p.dir, importing.Options{}); len(left) > 0 {
				t.Errorf("left out %v", left)
			}
			s.want(p.all())
		})
	}
}

// An import that is interrupted anywhere is finished by the next.
func TestInterrupted(t *testing.T) {
	p := fill(t, fillAll)
	s := newStore(t)
	for stop := 1; ; stop++ {
		ctx, cancel := context.WithCancel(t.Context())
		steps := 0
		_, err := importing.Import(ctx, p.dir, s, importing.Options{Progress: func(importing.Report) {
			if steps++; steps == stop {
				cancel()
			}
		}})
		cancel()
		if err == nil {
			break
		}
		if !errors.Is(err, context.Canceled) {
			t.Fatal(err)
		}
	}
	s.want(p.all())
}

// Tags are imported in the order in which they were pushed.
func TestOrder(t *testing.T) {
	p := fill(t, fillAll)
	want := []string{"v2", "latest", "multi", "v1"}
	for i, tag := range want {
		at := time.Now().Add(time.Duration(i-10) * time.Hour)
		if err := os.Chtimes(p.manifests("team/web", "tags/"+tag+"/current/link"), at, at); err != nil {
			t.Fatal(err)
		}
	}
	s := newStore(t)
	s.load(p.dir, importing.Options{})
	got := slices.Clone(want)
	slices.Sort(got)
	moved := map[string]time.Time{}
	err := s.meta.View(t.Context(), func(tx storage.Tx) error {
		for e, err := range storage.Tags.Scan(tx, storage.Key("team/web", ""), nil) {
			if err != nil {
				return err
			}
			moved[string(e.Rest)] = e.Value.Moved
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	slices.SortStableFunc(got, func(a, b string) int { return moved[a].Compare(moved[b]) })
	if !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

// A link in the place of a repository is told of, and not followed: it may lead in a
// circle.
func TestSymbolicLink(t *testing.T) {
	p := fill(t, fillAll)
	if err := os.Symlink("..", filepath.Join(p.dir, "docker/registry/v2/repositories/team/round")); err != nil {
		t.Fatal(err)
	}
	s := newStore(t)
	if _, left := s.load(p.dir, importing.Options{}); len(left) != 1 || left[" team/round"] == "" {
		t.Errorf("left out %v", left)
	}
	s.want(p.all())
}

// What is no source is an error, and so is a source of which nothing can be read.
func TestNoSource(t *testing.T) {
	empty := t.TempDir()
	for path, want := range map[string]string{
		empty: "neither the data of a registry", filepath.Join(empty, "none"): "no such file",
	} {
		if _, err := importing.Import(t.Context(), path, newStore(t), importing.Options{}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", path, err)
		}
	}
}

func TestLayout(t *testing.T) {
	p := fill(t, fillAll)
	dir := t.TempDir()
	if err := os.MkdirAll(filepath.Join(dir, "blobs/sha256"), 0o700); err != nil {
		t.Fatal(err)
	}
	err := filepath.WalkDir(filepath.Join(p.dir, "docker/registry/v2/blobs/sha256"), func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.Name() != "data" {
			return err
		}
		src, err := os.Open(path)
		if err != nil {
			return err
		}
		defer src.Close()
		dst, err := os.Create(filepath.Join(dir, "blobs/sha256", filepath.Base(filepath.Dir(path))))
		if err != nil {
			return err
		}
		_, err = io.Copy(dst, src)
		return errors.Join(err, dst.Close())
	})
	if err != nil {
		t.Fatal(err)
	}
	entry := func(name, ref string) string {
		return fmt.Sprintf(`{"mediaType":"application/vnd.oci.image.index.v1+json","digest":%q,"size":1,"annotations":{"org.opencontainers.image.ref.name":%q}}`, p.images[name], ref)
	}
	index := fmt.Sprintf(`{"schemaVersion":2,"manifests":[%s,%s,%s,{"digest":"bad"},%s]}`,
		entry("both", "v1"), entry("one", "docker.io/library/web:v2"), entry("one", "not a tag"), entry("gone", ""))
	for name, text := range map[string]string{"oci-layout": `{"imageLayoutVersion":"1.0.0"}`, "index.json": index} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	s := newStore(t)
	if _, err := importing.Import(t.Context(), dir, s, importing.Options{}); err == nil {
		t.Error("imported to no repository")
	}
	report, left := s.load(dir, importing.Options{Repo: "a/b"})
	if len(left) != 2 || report.Repos != 1 || report.Manifests.New != 5 {
		t.Errorf("%+v, %v", report, left)
	}
	s.want([]string{"a/b:v1=" + string(p.images["both"]), "a/b:v2=" + string(p.images["one"])})
	if err := os.WriteFile(filepath.Join(dir, "index.json"), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := importing.Import(t.Context(), dir, s, importing.Options{Repo: "a/b"}); err == nil {
		t.Error("imported a broken layout")
	}
}
