package trust

import (
	"bytes"
	"encoding/json"
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/berth-registry/berth/e2e/berthtest"
	"github.com/berth-registry/berth/runner"
	"github.com/berth-registry/berth/runner/images/remote"
)

// registryWorld is a registry, and a directory where cosign signs with the keys good
// and bad.
type registryWorld struct {
	t      *testing.T
	s      *berthtest.Server
	dir    string
	client *remote.Client
}

func newRegistryWorld(t *testing.T) *registryWorld {
	t.Helper()
	client, err := remote.New(remote.Options{})
	if err != nil {
		t.Fatal(err)
	}
	w := &registryWorld{t: t, s: berthtest.Start(t, berthtest.Options{}), dir: t.TempDir(), client: client}
	w.cosign("signing-config", "create", "--out", "services.json")
	for _, name := range []string{"good", "bad"} {
		w.cosign("generate-key-pair", "--output-key-prefix", name)
	}
	return w
}

func (w *registryWorld) cosign(args ...string) {
	w.t.Helper()
	berthtest.NewCommand(w.t, "cosign").Dir(w.dir).Env("COSIGN_PASSWORD=secret", "HOME="+w.dir, "DOCKER_CONFIG="+w.dir).Run(args...)
}

// sign signs an image by a key, in the form that cosign has now.
func (w *registryWorld) sign(key, image string) {
	w.t.Helper()
	w.cosign("sign", "--yes", "--allow-http-registry", "--key", key+".key", "--signing-config", "services.json", image)
}

// signOlder signs an image in the form that cosign had before.
func (w *registryWorld) signOlder(key, image string) {
	w.t.Helper()
	w.cosign("sign", "--yes", "--allow-http-registry", "--key", key+".key", "--use-signing-config=false", "--new-bundle-format=false", "--tlog-upload=false", image)
}

func (w *registryWorld) sources(repository reference.Named) Source {
	return w.client.Repository(repository, nil)
}

func (w *registryWorld) rule(keys ...string) Rule {
	r := Rule{Images: []string{"**"}}
	for _, k := range keys {
		r.Keys = append(r.Keys, filepath.Join(w.dir, k+".pub"))
	}
	return r
}

// put puts a manifest of a repository into the registry, and returns its digest.
func (w *registryWorld) put(repository, mediaType string, manifest any) digest.Digest {
	w.t.Helper()
	data, err := json.Marshal(manifest)
	if err != nil {
		w.t.Fatal(err)
	}
	d := digest.FromBytes(data)
	w.send(http.MethodPut, "/v2/"+repository+"/manifests/"+d.String(), mediaType, data)
	return d
}

// image puts an image into the registry, which is another one for each name.
func (w *registryWorld) image(repository, name string) digest.Digest {
	w.t.Helper()
	config := []byte(`{"architecture":"amd64","os":"linux","author":"` + name + `","rootfs":{"type":"layers","diff_ids":[]}}`)
	d := digest.FromBytes(config)
	w.send(http.MethodPost, "/v2/"+repository+"/blobs/uploads/?digest="+d.String(), "application/octet-stream", config)
	return w.put(repository, ocispec.MediaTypeImageManifest, ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest,
		Config: ocispec.Descriptor{MediaType: ocispec.MediaTypeImageConfig, Digest: d, Size: int64(len(config))}, Layers: []ocispec.Descriptor{},
	})
}

func (w *registryWorld) send(method, path, mediaType string, data []byte) {
	w.t.Helper()
	req, err := http.NewRequest(method, "http://"+w.s.Addr+path, bytes.NewReader(data))
	if err != nil {
		w.t.Fatal(err)
	}
	req.Header.Set("Content-Type", mediaType)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		w.t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusCreated {
		w.t.Fatalf("%s %s: %s", method, path, resp.Status)
	}
}

// TestCosign tries what cosign has signed in a registry, and then without the registry.
func TestCosign(t *testing.T) {
	t.Parallel()
	w := newRegistryWorld(t)
	host := w.s.Addr
	name := func(repository string) string { return host + "/" + repository }
	plain, now, older, both, bom := w.image("app", "plain"), w.image("app", "now"), w.image("app", "older"), w.image("app", "both"), w.image("app", "bom")
	w.sign("good", name("app")+"@"+now.String())
	w.signOlder("good", name("app")+"@"+older.String())
	w.sign("bad", name("app")+"@"+both.String())
	w.signOlder("good", name("app")+"@"+both.String())
	if err := os.WriteFile(filepath.Join(w.dir, "bom"), []byte("{}"), 0o600); err != nil {
		t.Fatal(err)
	}
	w.cosign("attest", "--yes", "--allow-http-registry", "--key", "good.key", "--signing-config", "services.json", "--type", "cyclonedx", "--predicate", "bom", name("app")+"@"+bom.String())
	child := w.image("multi", "child")
	index := w.put("multi", ocispec.MediaTypeImageIndex, ocispec.Index{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex,
		Manifests: []ocispec.Descriptor{{MediaType: ocispec.MediaTypeImageManifest, Digest: child, Size: int64(w.size("multi", child))}},
	})
	w.sign("good", name("multi")+"@"+index.String())

	dir := filepath.Join(t.TempDir(), "trust")
	p := policyIn(t, dir, w.rule("bad", "good"))
	decide := func(what string, p *Policy, img Image, says string) {
		t.Helper()
		_, err := p.Decide(t.Context(), img, w.sources)
		checkSays(t, what, err, says)
	}
	multi := imageOf(name("multi"), index)
	multi.Origins[0].Manifest = child
	decide("bundle", p, imageOf(name("app"), now), "")
	decide("older form", p, imageOf(name("app"), older), "")
	decide("signed by both", p, imageOf(name("app"), both), "")
	decide("index", p, multi, "")
	decide("a manifest of which only the index is signed", p, imageOf(name("multi"), child), "has none: sign it with cosign sign")
	decide("unsigned", p, imageOf(name("app"), plain), "wants a signature by one of the 2 keys")
	decide("a bill of materials", p, imageOf(name("app"), bom), "has none")
	decide("no such image", p, imageOf(name("app"), digest.FromString("none")), "has none")
	decide("no such repository", p, imageOf(name("none"), plain), "has none")
	strict := policy(t, w.rule("bad"))
	decide("another key", strict, imageOf(name("app"), now), "of 1 signature that were found")
	decide("another key, older form", strict, imageOf(name("app"), older), "none is")
	decide("signed by both, the other one", strict, imageOf(name("app"), both), "")

	// A signature that is copied to another image, or repository, says nothing there.
	stolen := w.image("stolen", "older")
	w.copyTag("app", "stolen", "sha256-"+older.Encoded()+".sig")
	mine := Rule{Images: []string{name("stolen")}, Keys: w.rule("good").Keys}
	decide("a payload for another repository", policy(t, mine), imageOf(name("stolen"), stolen), "for the repository "+name("app"))
	mine.Images = append(mine.Images, name("app"))
	decide("a payload for a repository of the rule", policy(t, mine), imageOf(name("stolen"), stolen), "")

	w.s.Kill()
	decide("the registry is away, before", p, imageOf(name("app"), now), "")
	later := policyIn(t, dir, w.rule("good"))
	for what, img := range map[string]Image{"bundle": imageOf(name("app"), now), "older form": imageOf(name("app"), older), "index": multi} {
		decide(what+", the registry away", later, img, "")
	}
	for what, tt := range map[string]struct {
		rule Rule
		img  Image
	}{
		"another key": {w.rule("bad"), imageOf(name("app"), now)},
		"unsigned":    {w.rule("good"), imageOf(name("app"), plain)},
	} {
		_, err := policyIn(t, dir, tt.rule).Decide(t.Context(), tt.img, w.sources)
		if !errors.Is(err, runner.ErrUnavailable) || !strings.Contains(err.Error(), "cannot be fetched") {
			t.Errorf("%s, the registry away: %v", what, err)
		}
	}
	forgetTest(t, dir, later, now, older)
}

// forgetTest forgets all signatures but one, and what is no file of one.
func forgetTest(t *testing.T, dir string, p *Policy, kept, gone digest.Digest) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(dir, ".new-123"), []byte("half"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := p.Forget(func(d digest.Digest) bool { return d == kept }); err != nil {
		t.Fatal(err)
	}
	files, err := os.ReadDir(dir)
	if err != nil || len(files) != 1 || files[0].Name() != "sha256-"+kept.Encoded()+".json" {
		t.Errorf("%v are kept, %v", files, err)
	}
	if len(p.evidence.read(kept)) != 1 || len(p.evidence.read(gone)) != 0 {
		t.Error("other signatures are kept than should be")
	}
}

// size is that of a manifest.
func (w *registryWorld) size(repository string, d digest.Digest) int {
	w.t.Helper()
	resp, err := http.Get("http://" + w.s.Addr + "/v2/" + repository + "/manifests/" + d.String())
	if err != nil {
		w.t.Fatal(err)
	}
	resp.Body.Close()
	return int(resp.ContentLength)
}

// copyTag copies a manifest with a tag to another repository.
func (w *registryWorld) copyTag(from, to, tag string) {
	w.t.Helper()
	berthtest.NewCommand(w.t, "oras").Env("DOCKER_CONFIG="+w.dir).Run("copy", "--from-plain-http", "--to-plain-http", w.s.Addr+"/"+from+":"+tag, w.s.Addr+"/"+to+":"+tag)
}
