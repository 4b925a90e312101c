package remote

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"testing"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/berth-registry/berth/internal/freeaddr"
)

// TestMirrors goes from one mirror to the next and to the registry, also in the
// midst of a blob, and gives none the credentials of another.
func TestMirrors(t *testing.T) {
	t.Parallel()
	var src contents
	image := src.image(t, 300_000)
	data, desc := src.bytes[image.Blobs[1].Digest], image.Blobs[1]
	manifest := src.bytes[image.Manifest.Digest]
	serve := func(f **fake, most int) *fake {
		*f = newFake(t, func(w http.ResponseWriter, r *http.Request) {
			switch {
			case strings.Contains(r.URL.Path, "/manifests/"):
				w.Header().Set("Content-Type", ocispec.MediaTypeImageManifest)
				w.Header().Set("Docker-Content-Digest", image.Manifest.Digest.String())
				_, _ = w.Write(manifest)
			case strings.Contains(r.URL.Path, "/blobs/"):
				off := from(r)
				w.Header().Set("Content-Length", strconv.Itoa(len(data)-off))
				if off > 0 {
					w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", off, len(data)-1, len(data)))
					w.WriteHeader(http.StatusPartialContent)
				}
				if most < len(data) && off > 0 {
					breakOff()
				}
				_, _ = w.Write(data[off:min(most, len(data))])
				if most < len(data) {
					(*f).Config.SetKeepAlivesEnabled(false)
					breakOff()
				}
			}
		})
		return *f
	}
	var good, weak, upstream *fake
	serve(&good, len(data))
	serve(&weak, 100_000)
	serve(&upstream, len(data))
	broken := newFake(t, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNotFound) })

	fetch := func(mirrors ...string) {
		t.Helper()
		c := client(t, Options{Hosts: map[string]Host{upstream.addr(): {Mirrors: mirrors}}})
		r := c.Repository(named(t, upstream.addr()+"/app"), user("secret"))
		if got, err := r.Resolve(t.Context(), "v1"); err != nil || got.Digest != image.Manifest.Digest {
			t.Fatalf("got %+v, %v", got, err)
		}
		body, err := r.Fetch(t.Context(), "", desc, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer body.Close()
		if got, err := io.ReadAll(body); err != nil || !bytes.Equal(got, data) {
			t.Fatalf("got %d bytes, %v", len(got), err)
		}
	}
	fetch("http://"+freeaddr.For(t), broken.URL, good.URL+"/hub")
	if good.count("GET /v2/hub/app/blobs/") != 1 || upstream.count("") != 0 || broken.count("HEAD /v2/app/manifests/") != 1 || broken.count("GET /v2/app/blobs/") != 0 {
		t.Errorf("the good mirror has got:\n%s\nthe other:\n%s\nthe registry:\n%s", good.requests(), broken.requests(), upstream.requests())
	}
	fetch(weak.URL)
	if weak.count("GET /v2/app/blobs/") == 0 || upstream.count("GET /v2/app/blobs/") != 1 {
		t.Errorf("the weak mirror has got:\n%s\nthe registry:\n%s", weak.requests(), upstream.requests())
	}
	for _, f := range []*fake{good, weak, broken} {
		if strings.Contains(f.requests(), "Basic") {
			t.Errorf("a mirror has got:\n%s", f.requests())
		}
	}
}

// TestMirrorLogin sends a mirror the credentials of its URL, and no others.
func TestMirrorLogin(t *testing.T) {
	t.Parallel()
	f := newFake(t, func(w http.ResponseWriter, r *http.Request) {
		if name, password, _ := r.BasicAuth(); name+password != "mirroruserpass" {
			w.Header().Set("WWW-Authenticate", `Basic realm="x"`)
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		w.Header().Set("Content-Type", ocispec.MediaTypeImageManifest)
		_, _ = io.WriteString(w, "{}")
	})
	host := freeaddr.For(t)
	c := client(t, Options{Hosts: map[string]Host{host: {Mirrors: []string{"http://mirroruser:pass@" + f.addr()}}}})
	if _, err := c.Repository(named(t, host+"/app"), user("secret")).Resolve(t.Context(), "v1"); err != nil {
		t.Errorf("%v\n%s", err, f.requests())
	}
	if strings.Contains(f.requests(), "dXNlcjpzZWNyZXQ=") {
		t.Errorf("the mirror has got the registry's credentials:\n%s", f.requests())
	}
}
