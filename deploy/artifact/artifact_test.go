package artifact_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2/content"
	"oras.land/oras-go/v2/content/memory"
	orasremote "oras.land/oras-go/v2/registry/remote"
	"oras.land/oras-go/v2/registry/remote/auth"

	"github.com/berth-registry/berth/deploy/artifact"
	"github.com/berth-registry/berth/e2e/berthtest"
	"github.com/berth-registry/berth/runner"
)

func TestMain(m *testing.M) { berthtest.Main(m) }

const shop = `name: shop
services:
  web:
    image: localhost:5000/web:1
    env_file:
      - web.env
    extends:
      file: base.yaml
      service: base
`

// bundle is one with all kinds of files.
func bundle() artifact.Bundle {
	return artifact.Bundle{
		Compose:     []byte(shop),
		Extends:     map[string][]byte{"base.yaml": []byte("services: {base: {image: none, environment: {BASE: \"1\"}}}\n")},
		EnvFiles:    map[string][]byte{"web.env": []byte("WEB=2\n")},
		Annotations: map[string]string{artifact.AnnotationRollout: `{"parallel":2}`},
	}
}

// repository is one of a registry that speaks plain HTTP.
func repository(t *testing.T, name string) *orasremote.Repository {
	t.Helper()
	r, err := orasremote.NewRepository(name)
	if err != nil {
		t.Fatal(err)
	}
	r.PlainHTTP = true
	return r
}

// compose is docker compose without a daemon.
func compose(t *testing.T, addr, dir string) *berthtest.Command {
	t.Helper()
	return berthtest.NewCommand(t, "docker-compose", "--insecure-registry", addr).Dir(dir).
		Env("DOCKER_CONFIG="+t.TempDir(), "XDG_CACHE_HOME="+t.TempDir(), "DOCKER_HOST=unix:///none", "DOCKER_CLI_HINTS=false")
}

// TestCompose has docker compose read what was pushed, and publish what is fetched:
// both make the same of it.
func TestCompose(t *testing.T) {
	t.Parallel()
	addr := berthtest.Start(t, berthtest.Options{}).Addr
	repo := repository(t, addr+"/stacks/shop")
	desc, err := artifact.Push(t.Context(), repo, "prod", bundle())
	if err != nil {
		t.Fatal(err)
	}
	want := compose(t, addr, t.TempDir()).Run("-f", "oci://"+addr+"/stacks/shop:prod", "config")
	for _, s := range []string{"name: shop", `WEB: "2"`, `BASE: "1"`, "image: localhost:5000/web:1"} {
		if !strings.Contains(want, s) {
			t.Errorf("docker compose reads %s, without %s", want, s)
		}
	}
	got, found, err := artifact.Fetch(t.Context(), repo, "prod")
	if err != nil || found.Digest != desc.Digest || !reflect.DeepEqual(got, bundle()) {
		t.Errorf("fetched %+v, %v, %v", got, found, err)
	}
	again, err := artifact.Push(t.Context(), repo, "again", got)
	if described, derr := artifact.Describe(got); err != nil || derr != nil || again.Digest != desc.Digest || described.Digest != desc.Digest {
		t.Errorf("pushed again it is %v, %v, %v: want %s", again, described, err, desc.Digest)
	}

	dir := t.TempDir()
	path, err := got.Write(dir)
	if err != nil {
		t.Fatal(err)
	}
	over := filepath.Join(dir, "over.yaml")
	if err := os.WriteFile(over, []byte("services:\n  web:\n    environment:\n      OVER: \"3\"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, version := range []string{"1.0", "1.1"} {
		tag := "by-compose-" + version
		compose(t, addr, dir).Run("-f", path, "-f", over, "publish", "--insecure-registry", "-y", "--with-env", "--oci-version", version, addr+"/stacks/shop:"+tag)
		theirs, _, err := artifact.Fetch(t.Context(), repo, tag)
		if err != nil || len(theirs.Extends) != 1 || len(theirs.EnvFiles) != 1 {
			t.Fatalf("docker compose publish %s: %+v, %v", version, theirs, err)
		}
		back := t.TempDir()
		if path, err = theirs.Write(back); err != nil {
			t.Fatal(err)
		}
		out := compose(t, addr, back).Run("-f", path, "config")
		if out != strings.Replace(want, `BASE: "1"`, "BASE: \"1\"\n      OVER: \"3\"", 1) {
			t.Errorf("what docker compose has published is read as %s: want %s and OVER", out, want)
		}
	}
	// oras knows it for what it is.
	oras := berthtest.NewCommand(t, "oras").Env("DOCKER_CONFIG=" + t.TempDir())
	if said := oras.Run("manifest", "fetch", "--plain-http", addr+"/stacks/shop:prod"); !strings.Contains(said, artifact.Type) || !strings.Contains(said, artifact.AnnotationRollout) {
		t.Errorf("oras manifest fetch: %s", said)
	}
}

// TestRefused has a registry's answers to those who may not, and to what is not there.
func TestRefused(t *testing.T) {
	t.Parallel()
	s := berthtest.Start(t, berthtest.Options{Config: "policy: [{who: [reader], repos: [\"**\"], may: [pull]}]\n"})
	s.Berth("user", "add", "reader", "--password-stdin").Input("the password of reader\n").Run()
	reader := repository(t, s.Addr+"/stacks/shop")
	reader.Client = &auth.Client{Credential: auth.StaticCredential(s.Addr, auth.Credential{Username: "reader", Password: "the password of reader"})}
	if _, _, err := artifact.Fetch(t.Context(), reader, "prod"); !errors.Is(err, runner.ErrNotFound) {
		t.Errorf("what is not there: %v", err)
	}
	if _, err := artifact.Push(t.Context(), reader, "prod", bundle()); !errors.Is(err, runner.ErrForbidden) && !errors.Is(err, runner.ErrUnauthorized) {
		t.Errorf("a push that is not allowed: %v", err)
	}
	if _, _, err := artifact.Fetch(t.Context(), repository(t, s.Addr+"/stacks/shop"), "prod"); !errors.Is(err, runner.ErrUnauthorized) {
		t.Errorf("without an account: %v", err)
	}
}

// forged is a store with a manifest of an attacker.
type forged struct {
	*memory.Store
	manifest []byte
	desc     ocispec.Descriptor
	asked    []ocispec.Descriptor // that were fetched, besides the manifest
	sends    string               // for all of these; empty: what the store has
}

func forge(manifest any) *forged {
	f := &forged{Store: memory.New()}
	switch m := manifest.(type) {
	case string:
		f.manifest = []byte(m)
	default:
		f.manifest, _ = json.Marshal(m) // it has no channels
	}
	f.desc = content.NewDescriptorFromBytes(ocispec.MediaTypeImageManifest, f.manifest)
	return f
}

func (f *forged) Resolve(context.Context, string) (ocispec.Descriptor, error) { return f.desc, nil }

func (f *forged) Fetch(ctx context.Context, desc ocispec.Descriptor) (io.ReadCloser, error) {
	if desc.Digest == f.desc.Digest {
		return io.NopCloser(bytes.NewReader(f.manifest)), nil
	}
	f.asked = append(f.asked, desc)
	if f.sends != "" {
		return io.NopCloser(strings.NewReader(f.sends)), nil
	}
	for _, text := range []string{"services: {}", "A=1", "x: 1"} {
		if digest.FromString(text) == desc.Digest {
			return io.NopCloser(strings.NewReader(text)), nil
		}
	}
	return f.Store.Fetch(ctx, desc)
}

func layer(mediaType, content string, annotations map[string]string) ocispec.Descriptor {
	return ocispec.Descriptor{MediaType: mediaType, Digest: digest.FromString(content), Size: int64(len(content)), Annotations: annotations}
}

// TestHostile refuses artifacts of attackers, and asks for nothing of those that can be
// seen to be wrong.
func TestHostile(t *testing.T) {
	t.Parallel()
	const (
		file    = "application/vnd.docker.compose.file+yaml"
		envFile = "application/vnd.docker.compose.envfile"
	)
	of := func(layers ...ocispec.Descriptor) ocispec.Manifest {
		return ocispec.Manifest{MediaType: ocispec.MediaTypeImageManifest, ArtifactType: artifact.Type, Config: ocispec.DescriptorEmptyJSON, Layers: layers}
	}
	named := func(key, name string) map[string]string { return map[string]string{"com.docker.compose." + key: name} }
	yaml := layer(file, "services: {}", nil)
	huge := yaml
	huge.Size = 1 << 62
	odd := yaml
	odd.Digest = "sha256:../../etc/passwd"
	long := yaml
	long.Size++
	twice := layer(envFile, "A=1", named("envfile", "x.env"))
	for name, test := range map[string]struct {
		manifest any
		sends    string
		asked    int
		want     string
	}{
		"no JSON":         {"{", "", 0, "cannot be read"},
		"an image":        {ocispec.Manifest{Config: ocispec.Descriptor{MediaType: ocispec.MediaTypeImageConfig}}, "", 0, "it is no stack"},
		"other":           {ocispec.Manifest{ArtifactType: "text/plain"}, "", 0, "it is no stack"},
		"nothing":         {of(), "", 0, "no Compose file"},
		"a huge layer":    {of(huge), "", 0, "more than"},
		"a negative one":  {of(ocispec.Descriptor{MediaType: file, Digest: yaml.Digest, Size: -1}), "", 0, "-1 bytes"},
		"together":        {of(layer(file, strings.Repeat("x", 9<<20), nil), layer(file, strings.Repeat("y", 9<<20), nil)), "", 0, "more than"},
		"many":            {of(make([]ocispec.Descriptor, 257)...), "", 0, "257 files"},
		"an odd digest":   {of(odd), "", 0, "of digest"},
		"other content":   {of(yaml), "services: []", 1, "does not send what the digest says"},
		"more content":    {of(yaml), "services: {}\n", 1, "does not send what the digest says"},
		"a path":          {of(yaml, layer(envFile, "A=1", named("envfile", "../x"))), "", 2, "name of a file"},
		"no name":         {of(yaml, layer(envFile, "A=1", nil)), "", 2, "name of a file"},
		"a parent":        {of(yaml, layer(file, "x: 1", map[string]string{"com.docker.compose.extends": "true", "com.docker.compose.file": ".."})), "", 2, "name of a file"},
		"over itself":     {of(yaml, layer(envFile, "A=1", named("envfile", "compose.yaml"))), "", 2, "twice"},
		"the same twice":  {of(yaml, twice, twice), "", 3, "twice"},
		"less than said":  {of(long), "", 1, "expected content size of 13, got 12"},
		"unknown is left": {of(yaml, layer("application/x", "?", nil)), "", 1, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := forge(test.manifest)
			f.sends = test.sends
			b, _, err := artifact.Fetch(t.Context(), f, "prod")
			if test.want == "" && (err != nil || string(b.Compose) != "services: {}") || test.want != "" && (err == nil || !strings.Contains(err.Error(), test.want)) {
				t.Errorf("got %s, %v: want %q", b.Compose, err, test.want)
			}
			if len(f.asked) != test.asked {
				t.Errorf("%d layers were asked for: want %d", len(f.asked), test.asked)
			}
		})
	}
	other := forge(of(yaml))
	if _, _, err := artifact.Fetch(t.Context(), other, digest.FromString("another").String()); !errors.Is(err, runner.ErrInvalid) || len(other.asked) > 0 {
		t.Errorf("another manifest than the one of the digest: %v", err)
	}
	if b, _, err := artifact.Fetch(t.Context(), other, other.desc.Digest.String()); err != nil || len(b.Compose) == 0 {
		t.Errorf("by its digest: %v", err)
	}
	large := forge(of(yaml))
	large.desc.Size = 1 << 40
	if _, _, err := artifact.Fetch(t.Context(), large, "prod"); !errors.Is(err, runner.ErrInvalid) {
		t.Errorf("a manifest of a terabyte: %v", err)
	}
}

// TestIndex finds the stack of an application with its images.
func TestIndex(t *testing.T) {
	t.Parallel()
	store := memory.New()
	stack, err := artifact.Push(t.Context(), store, "", bundle())
	if err != nil {
		t.Fatal(err)
	}
	image := layer(ocispec.MediaTypeImageManifest, "image", nil)
	for name, index := range map[string]ocispec.Index{
		"among":   {Manifests: []ocispec.Descriptor{image, stack}},
		"subject": {Manifests: []ocispec.Descriptor{image}, Subject: &stack},
		"neither": {Manifests: []ocispec.Descriptor{image}},
		"itself":  {Manifests: []ocispec.Descriptor{{MediaType: ocispec.MediaTypeImageIndex, ArtifactType: artifact.Type, Digest: image.Digest, Size: 5}}},
	} {
		f := forge(index)
		f.Store, f.desc.MediaType = store, ocispec.MediaTypeImageIndex
		b, desc, err := artifact.Fetch(t.Context(), f, "prod")
		good := name == "among" || name == "subject"
		if good && (err != nil || string(b.Compose) != shop || desc.Digest != f.desc.Digest) || !good && !errors.Is(err, runner.ErrInvalid) {
			t.Errorf("%s: %s, %s, %v", name, b.Compose, desc.Digest, err)
		}
	}
}

// TestBounds pushes nothing of what could not be fetched.
func TestBounds(t *testing.T) {
	t.Parallel()
	many := map[string][]byte{}
	for i := range 256 {
		many[fmt.Sprintf("%d.env", i)] = []byte("A=1")
	}
	for name, b := range map[string]artifact.Bundle{
		"empty": {},
		"large": {Compose: make([]byte, 16<<20+1)},
		"path":  {Compose: []byte(shop), EnvFiles: map[string][]byte{"a/b": nil}},
		"many":  {Compose: []byte(shop), EnvFiles: many},
		"words": {Compose: []byte(shop), Annotations: map[string]string{"x": strings.Repeat("x", 4<<20)}},
	} {
		store := memory.New()
		if desc, err := artifact.Push(t.Context(), store, "prod", b); !errors.Is(err, runner.ErrInvalid) {
			t.Errorf("%s: pushed as %v, %v", name, desc, err)
		}
		if there, err := store.Exists(t.Context(), ocispec.DescriptorEmptyJSON); there || err != nil {
			t.Errorf("%s: something was pushed: %v", name, err)
		}
	}
}

// FuzzFetch reads manifests of anybody.
func FuzzFetch(f *testing.F) {
	store := memory.New()
	desc, err := artifact.Push(f.Context(), store, "prod", bundle())
	if err != nil {
		f.Fatal(err)
	}
	good, err := content.FetchAll(f.Context(), store, desc)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good, false)
	f.Add([]byte(`{"artifactType":"`+artifact.Type+`","layers":[{"mediaType":"application/vnd.docker.compose.envfile","digest":"sha256:1","size":-1}]}`), false)
	f.Add([]byte(`{"subject":{"artifactType":"`+artifact.Type+`"},"manifests":[null]}`), true)
	f.Fuzz(func(t *testing.T, manifest []byte, index bool) {
		forged := forge(string(manifest))
		forged.Store = store
		if index {
			forged.desc.MediaType = ocispec.MediaTypeImageIndex
		}
		b, _, err := artifact.Fetch(t.Context(), forged, "prod")
		if err != nil {
			return
		}
		if _, err := b.Write(t.TempDir()); err != nil {
			t.Errorf("fetched, and not to be written: %v", err)
		}
	})
}
