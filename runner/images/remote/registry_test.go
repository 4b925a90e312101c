package remote

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/berth-registry/berth/runner"
)

// eachRegistry runs a test against Berth and Docker's registry.
func eachRegistry(t *testing.T, test func(t *testing.T, s registryServer)) {
	t.Parallel()
	t.Run("berth", func(t *testing.T) { t.Parallel(); test(t, berth(t)) })
	t.Run("distribution", func(t *testing.T) { t.Parallel(); test(t, distribution(t)) })
}

func TestPushAndFetch(t *testing.T) {
	eachRegistry(t, func(t *testing.T, s registryServer) {
		var src contents
		c := client(t, Options{})
		image := src.image(t, 3<<20, 100, 5000, 1<<20, 10, 2<<20, 7)
		name := named(t, s.localhost()+"/lib/app:v1")
		r := c.Repository(name, nil)
		var said messages
		desc, err := r.Push(t.Context(), "v1", image, &src, said.progress())
		if err != nil {
			t.Fatal(err)
		}
		if desc.Digest != image.Manifest.Digest {
			t.Errorf("pushed %s: want %s", desc.Digest, image.Manifest.Digest)
		}
		checkMessages(t, &said, s, image)

		r = c.Repository(name, nil)
		for _, ref := range []string{"", "v1", name.String(), desc.Digest.String(), name.Name() + "@" + desc.Digest.String()} {
			if got, err := r.Resolve(t.Context(), ref); err != nil || got.Digest != desc.Digest || got.Size != desc.Size || got.MediaType != desc.MediaType {
				t.Errorf("%q resolves to %+v, %v: want %+v", ref, got, err, desc)
			}
		}
		src.check(t, r, append(image.Blobs, image.Manifest)...)
		for tag, err := range r.Tags(t.Context()) {
			if tag != "v1" || err != nil {
				t.Errorf("tag %q, %v", tag, err)
			}
		}
		inspect, err := c.Distribution(t.Context(), name, nil)
		if err != nil || inspect.Descriptor.Digest != desc.Digest || len(inspect.Platforms) != 1 || inspect.Platforms[0].Architecture != "amd64" {
			t.Errorf("distribution: %+v, %v", inspect, err)
		}
	})
}

func checkMessages(t *testing.T, said *messages, s registryServer, image PushContent) {
	t.Helper()
	if got, want := said.all[0].Status, "The push refers to repository ["+s.localhost()+"/lib/app]"; got != want {
		t.Errorf("the first message is %q: want %q", got, want)
	}
	// The topmost layer comes first, and the last two of seven have to wait; the
	// configuration is the eighth and says nothing.
	layers := image.Blobs[1:]
	top := image.DiffIDs[layers[len(layers)-1].Digest].Encoded()[:12]
	if said.all[1].ID != top || said.all[1].Status != "Preparing" {
		t.Errorf("the second message is %+v: want %s Preparing", said.all[1], top)
	}
	for i, l := range layers {
		want := []string{"Preparing", "Waiting", "Pushing", "Pushed"}
		if i >= 2 {
			want = []string{"Preparing", "Pushing", "Pushed"}
		}
		if got := said.statuses(image.DiffIDs[l.Digest].Encoded()[:12]); !slices.Equal(got, want) {
			t.Errorf("layer %d: %q, want %q", i, got, want)
		}
	}
	if strings.Contains(said.text(), image.Blobs[0].Digest.Encoded()[:12]) {
		t.Error("progress names the configuration")
	}
	n := len(said.all)
	m := image.Manifest
	if got, want := said.all[n-2].Status, fmt.Sprintf("v1: digest: %s size: %d", m.Digest, m.Size); got != want {
		t.Errorf("the last line is %q: want %q", got, want)
	}
	var aux struct {
		Tag, Digest string
		Size        int64
	}
	if err := json.Unmarshal(*said.all[n-1].Aux, &aux); err != nil || aux.Tag != "v1" || aux.Digest != m.Digest.String() || aux.Size != m.Size {
		t.Errorf("aux is %s, %v", *said.all[n-1].Aux, err)
	}
}

func TestPushOnlyWhatIsMissing(t *testing.T) {
	eachRegistry(t, func(t *testing.T, s registryServer) {
		var src contents
		c := client(t, Options{})
		image := src.image(t, 1000, 2000)
		push := func(repo string, p PushContent) *messages {
			var said messages
			if _, err := c.Repository(named(t, s.addr+"/"+repo), nil).Push(t.Context(), "latest", p, &src, said.progress()); err != nil {
				t.Fatal(err)
			}
			return &said
		}
		push("one/app", image)
		id := image.DiffIDs[image.Blobs[2].Digest].Encoded()[:12]
		if got := push("one/app", image).statuses(id); !slices.Equal(got, []string{"Preparing", "Layer already exists"}) {
			t.Errorf("pushed again: %q", got)
		}
		image.MountFrom = map[digest.Digest][]string{}
		for _, b := range image.Blobs {
			image.MountFrom[b.Digest] = []string{"no/such", "one/app"}
		}
		if got := push("two/app", image).statuses(id); !slices.Equal(got, []string{"Preparing", "Mounted from one/app"}) {
			t.Errorf("pushed to another repository: %q", got)
		}
		image.MountFrom[image.Blobs[2].Digest] = []string{"no/such"}
		if got := push("three/app", image).statuses(id); !slices.Equal(got, []string{"Preparing", "Pushing", "Pushed"}) {
			t.Errorf("pushed where it cannot be mounted from: %q", got)
		}
		src.check(t, c.Repository(named(t, s.addr+"/three/app"), nil), image.Blobs...)
	})
}

func TestPushIndex(t *testing.T) {
	eachRegistry(t, func(t *testing.T, s registryServer) {
		var src contents
		c := client(t, Options{})
		a, b := src.image(t, 1000), src.image(t, 2000)
		index := src.index(t, a, b)
		name := named(t, s.addr+"/multi")
		if _, err := c.Repository(name, nil).Push(t.Context(), "latest", index, &src, nil); err != nil {
			t.Fatal(err)
		}
		r := c.Repository(name, nil)
		desc, err := r.Resolve(t.Context(), "")
		if err != nil || desc.Digest != index.Manifest.Digest || desc.MediaType != ocispec.MediaTypeImageIndex {
			t.Errorf("got %+v, %v", desc, err)
		}
		src.check(t, r, a.Manifest, b.Manifest, a.Blobs[1], b.Blobs[1])
		inspect, err := c.Distribution(t.Context(), name, nil)
		if err != nil || len(inspect.Platforms) != 2 || inspect.Platforms[1].Architecture != "arm64" {
			t.Errorf("distribution: %+v, %v", inspect, err)
		}
	})
}

// TestBrokenUpload has the connections cut in the midst of a layer, and of the
// layer sent again.
func TestBrokenUpload(t *testing.T) {
	eachRegistry(t, func(t *testing.T, s registryServer) {
		var src contents
		image := src.image(t, 20<<20)
		cut := newCutter(t, s.addr, true, 2, 6<<20)
		r := client(t, Options{}).Repository(named(t, cut.addr+"/broken"), nil)
		var said messages
		if _, err := r.Push(t.Context(), "v1", image, &src, said.progress()); err != nil {
			t.Fatalf("%v\n%s", err, said.text())
		}
		most := int64(24 << 20)
		if strings.HasSuffix(t.Name(), "/distribution") {
			most = 40 << 20 // it forgets an upload that breaks off
		}
		cut.check(t, most)
		if !strings.Contains(said.text(), "Retrying in ") {
			t.Errorf("nothing is said of a retry:\n%s", said.text())
		}
		src.check(t, r, image.Blobs...)
	})
}

// TestPushGivenUp leaves no tag where a layer cannot be sent.
func TestPushGivenUp(t *testing.T) {
	eachRegistry(t, func(t *testing.T, s registryServer) {
		var src contents
		image := src.image(t, 1000, 20<<20)
		cut := newCutter(t, s.addr, true, 100, 1<<20)
		r := client(t, Options{}).Repository(named(t, cut.addr+"/broken"), nil)
		if _, err := r.Push(t.Context(), "v1", image, &src, nil); err == nil {
			t.Error("the push has succeeded")
		}
		if status, body := s.get(t, "/v2/broken/tags/list"); status == 200 && strings.Contains(body, "v1") {
			t.Errorf("a tag is there: %s", body)
		}
		// Content that is not as long as it should be is not tried again.
		short := image.Blobs[1]
		src.bytes[short.Digest] = src.bytes[short.Digest][:10]
		_, err := client(t, Options{}).Repository(named(t, s.addr+"/short"), nil).Push(t.Context(), "v1", image, &src, nil)
		wantError(t, err, nil, "shorter than its descriptor says")
	})
}

// TestBrokenDownload has the connections cut in the midst of a blob, more often
// than a blob that makes no progress is tried.
func TestBrokenDownload(t *testing.T) {
	eachRegistry(t, func(t *testing.T, s registryServer) {
		var src contents
		c := client(t, Options{})
		image := src.image(t, 20<<20)
		if _, err := c.Repository(named(t, s.addr+"/app"), nil).Push(t.Context(), "v1", image, &src, nil); err != nil {
			t.Fatal(err)
		}
		cut := newCutter(t, s.addr, false, 7, 2<<20)
		body := must[io.ReadCloser](t)(c.Repository(named(t, cut.addr+"/app"), nil).Fetch(t.Context(), "", image.Blobs[1], 0))
		defer body.Close()
		if data, err := io.ReadAll(body); err != nil || !bytes.Equal(data, src.bytes[image.Blobs[1].Digest]) {
			t.Errorf("got %d bytes, %v", len(data), err)
		}
		cut.check(t, 24<<20)
	})
}

func TestNotThere(t *testing.T) {
	eachRegistry(t, func(t *testing.T, s registryServer) {
		var src contents
		c := client(t, Options{})
		image := src.image(t, 10)
		name := s.localhost() + "/x"
		_, err := c.Repository(named(t, name), nil).Resolve(t.Context(), "latest")
		wantError(t, err, runner.ErrNotFound, " not found: ")
		r := c.Repository(named(t, name), nil)
		if _, err := r.Push(t.Context(), "v1", image, &src, nil); err != nil {
			t.Fatal(err)
		}
		_, err = r.Resolve(t.Context(), "latest")
		wantError(t, err, runner.ErrNotFound, "manifest for "+name+":latest not found: manifest unknown: ")
		gone := image.Blobs[1]
		gone.Digest = digest.FromString("gone")
		_, err = r.Fetch(t.Context(), "", gone, 0)
		wantError(t, err, runner.ErrNotFound, "blob unknown")
		wrong := image.Blobs[1]
		wrong.Size++
		_, err = r.Fetch(t.Context(), "", wrong, 0)
		wantError(t, err, nil, "should be 11")
		_, err = r.Resolve(t.Context(), "other/repo:x")
		wantError(t, err, runner.ErrInvalid, "is not in the repository")
	})
}
