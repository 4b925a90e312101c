package images

import (
	"archive/tar"
	"bytes"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/klauspost/compress/gzip"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"
)

// benchLayer is a layer of about size bytes in files as an image of programs has
// them, which gzip makes a third of.
func benchLayer(b *testing.B, seed uint64, size int) []byte {
	b.Helper()
	rnd := rand.New(rand.NewPCG(seed, 1))
	noise := make([]byte, 8<<20)
	for i := range noise {
		noise[i] = byte(rnd.Uint32())
	}
	var out bytes.Buffer
	out.Grow(size + size/10)
	tw := tar.NewWriter(&out)
	for n, dir := 0, ""; out.Len() < size; n++ {
		if n%40 == 0 {
			dir = fmt.Sprintf("usr/lib/d%d-%d/", seed, n)
			if err := tw.WriteHeader(&tar.Header{Name: dir, Typeflag: tar.TypeDir, Mode: 0o755}); err != nil {
				b.Fatal(err)
			}
		}
		length := 1 << (8 + rnd.IntN(11)) // 256 B to 256 KB
		if n%100 == 0 {
			length = 4 << 20
		}
		content := make([]byte, 0, length)
		for len(content) < length { // a third is noise, the rest repeats
			at := rnd.IntN(len(noise) - 300)
			content = append(content, noise[at:at+100]...)
			content = append(content, bytes.Repeat(noise[at:at+20], 10)...)
		}
		content = content[:length]
		if err := tw.WriteHeader(&tar.Header{Name: fmt.Sprint(dir, n), Typeflag: tar.TypeReg, Mode: 0o644, Size: int64(length)}); err != nil {
			b.Fatal(err)
		}
		if _, err := tw.Write(content); err != nil {
			b.Fatal(err)
		}
	}
	if err := tw.Close(); err != nil {
		b.Fatal(err)
	}
	return out.Bytes()
}

// httpFetcher takes blobs from an HTTP server, as from a registry on this host.
type httpFetcher struct {
	*memRegistry
	url string
}

func (h httpFetcher) Fetch(ctx context.Context, _ string, desc ocispec.Descriptor, _ int64) (io.ReadCloser, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, h.url+"/"+desc.Digest.String(), http.NoBody)
	if err != nil {
		return nil, err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	return resp.Body, nil
}

// BenchmarkPull pulls 200 MB in 6 layers, 600 MB unpacked, over HTTP, and next to
// it does what a shell would: for each layer, two at a time, the fastest
// decompressor and tar.
func BenchmarkPull(b *testing.B) {
	dir, reg := b.TempDir(), newRegistry()
	var img testImage
	var packed, plain int
	cfg := ocispec.Image{Platform: ocispec.Platform{OS: "linux", Architecture: "amd64"}, RootFS: ocispec.RootFS{Type: "layers"}}
	for i := range 6 {
		l := benchLayer(b, uint64(i), 100<<20)
		var z bytes.Buffer
		w := gzip.NewWriter(&z)
		if _, err := w.Write(l); err != nil || w.Close() != nil {
			b.Fatal(err)
		}
		cfg.RootFS.DiffIDs = append(cfg.RootFS.DiffIDs, digest.FromBytes(l))
		img.layers = append(img.layers, reg.put(ocispec.MediaTypeImageLayerGzip, z.Bytes()))
		packed, plain = packed+z.Len(), plain+len(l)
		if err := os.WriteFile(filepath.Join(dir, img.layers[i].Digest.Encoded()), z.Bytes(), 0o600); err != nil {
			b.Fatal(err)
		}
	}
	m := reg.putJSON(b, ocispec.MediaTypeImageManifest, ocispec.Manifest{Config: reg.putJSON(b, ocispec.MediaTypeImageConfig, cfg), Layers: img.layers})
	reg.tags["r.test/x:latest"] = m.Digest
	files := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, hex, ok := strings.Cut(r.URL.Path, ":")
		if f := filepath.Join(dir, filepath.Base(hex)); ok && fileExists(f) {
			http.ServeFile(w, r, f)
			return
		}
		_, _ = w.Write(reg.blobs[digest.Digest(strings.TrimPrefix(r.URL.Path, "/"))])
	}))
	defer files.Close()
	b.Logf("%d MB packed, %d MB unpacked", packed>>20, plain>>20)

	b.Run("berth", func(b *testing.B) {
		var spent time.Duration
		defer func() { b.ReportMetric(spent.Seconds()/float64(b.N), "cpu-s/op") }()
		for b.Loop() {
			b.StopTimer()
			root := filepath.Join(b.TempDir(), "images")
			s, err := Open(b.Context(), Options{Root: root})
			if err != nil {
				b.Fatal(err)
			}
			named, err := s.ParseRef("r.test/x")
			if err != nil {
				b.Fatal(err)
			}
			unix.Sync()
			before := cpuTime()
			b.StartTimer()
			if _, err := s.Pull(b.Context(), httpFetcher{reg, files.URL}, named, "", nil); err != nil {
				b.Fatal(err)
			}
			b.StopTimer()
			spent += cpuTime() - before
			_ = s.Close() // its files stay: ext4 makes new ones slowly for minutes after many were removed
			b.StartTimer()
		}
	})
	b.Run("shell", func(b *testing.B) {
		var spent time.Duration
		defer func() { b.ReportMetric(spent.Seconds()/float64(b.N), "cpu-s/op") }()
		for b.Loop() {
			b.StopTimer()
			root := b.TempDir()
			unix.Sync()
			before := cpuTime()
			b.StartTimer()
			var wg sync.WaitGroup
			turn := make(chan struct{}, 2)
			for i, l := range img.layers {
				wg.Go(func() {
					turn <- struct{}{}
					defer func() { <-turn }()
					out := filepath.Join(root, fmt.Sprint(i))
					cmd := exec.CommandContext(b.Context(), "sh", "-c", `mkdir "$1" && igzip -d -c "$0" | tar -x -C "$1"`, filepath.Join(dir, l.Digest.Encoded()), out)
					if text, err := cmd.CombinedOutput(); err != nil {
						b.Errorf("%v: %s", err, text)
					}
				})
			}
			wg.Wait()
			b.StopTimer()
			spent += cpuTime() - before
			b.StartTimer()
		}
	})
}

// cpuTime is what this process and those that it has waited for have used: it
// tells more than the clock on a host that others use, too.
func cpuTime() time.Duration {
	var sum time.Duration
	for _, who := range []int{unix.RUSAGE_SELF, unix.RUSAGE_CHILDREN} {
		var u unix.Rusage
		if unix.Getrusage(who, &u) == nil {
			sum += time.Duration(u.Utime.Nano() + u.Stime.Nano())
		}
	}
	return sum
}

func fileExists(p string) bool {
	_, err := os.Stat(p)
	return err == nil
}
