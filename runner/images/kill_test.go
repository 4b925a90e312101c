package images

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/moby/moby/api/types/jsonstream"
	"github.com/opencontainers/go-digest"

	"github.com/berth-registry/berth/runner"
)

// The test program becomes a process that pulls, loads, removes and so on until
// it is killed, if these are in its environment.
const (
	victimRoot = "BERTH_TEST_IMAGES"
	victimURL  = "BERTH_TEST_REGISTRY"
)

func TestMain(m *testing.M) {
	if root := os.Getenv(victimRoot); root != "" {
		if err := victim(root, os.Getenv(victimURL)); err != nil {
			_, _ = fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

// remoteRegistry is a memRegistry behind HTTP, as httpFetcher reads it.
func victim(root, url string) error {
	ctx := context.Background()
	s, err := Open(ctx, Options{Root: root})
	if err != nil {
		return err
	}
	reg := newRegistry()
	f := httpFetcher{reg, url}
	for _, tag := range []string{"v1", "v2"} { // the digests are known, the bytes are not
		d := digest.Digest(os.Getenv("BERTH_TEST_" + tag))
		resp, err := http.Get(url + "/" + d.String())
		if err != nil {
			return err
		}
		var b bytes.Buffer
		if _, err := b.ReadFrom(resp.Body); err != nil {
			return err
		}
		_ = resp.Body.Close()
		reg.put("", b.Bytes())
		reg.tags["r.test/x:"+tag] = d
	}
	for {
		for _, tag := range []string{"v1", "v2"} {
			ref, err := s.ParseRef("r.test/x:" + tag)
			if err != nil {
				return err
			}
			if _, err := s.Pull(ctx, f, ref, "", func(m jsonstream.Message) {
				if strings.HasPrefix(m.Status, "Status: ") {
					fmt.Fprintln(os.Stdout, tag)
				}
			}); err != nil {
				return err
			}
		}
		var saved bytes.Buffer
		if err := s.Save(ctx, []string{"r.test/x:v2"}, nil, &saved); err != nil {
			return err
		}
		for _, tag := range []string{"v1", "v2"} {
			fmt.Fprintln(os.Stdout, "remove", tag)
			if _, err := s.Remove(ctx, "r.test/x:"+tag, runner.ImageRemoveOptions{}, nil); err != nil {
				return err
			}
		}
		if err := s.Load(ctx, &saved, true, nil); err != nil {
			return err
		}
		if _, err := s.Remove(ctx, "r.test/x:v2", runner.ImageRemoveOptions{}, nil); err != nil {
			return err
		}
	}
}

// TestKill kills a process that uses a store, at any point of what it sends for
// or says, and looks at the store then: an image is whole or not there, what was
// acknowledged is, and nothing else is left.
func TestKill(t *testing.T) {
	reg := newRegistry()
	var layers [][]byte
	for i := range 4 {
		noise := make([]byte, 2<<20)
		rnd := rand.New(rand.NewPCG(uint64(i), 0))
		for j := range noise {
			noise[j] = byte(rnd.Uint32())
		}
		layers = append(layers, layerTarOf(t, ent{name: fmt.Sprintf("d%d/f", i), body: string(noise)}, ent{name: "tmp/" + fmt.Sprint(i), body: "x"}))
	}
	v1, v2 := reg.addImage(t, "r.test/x:v1", nil, layers[:3]...), reg.addImage(t, "r.test/x:v2", nil, layers...)
	var left atomic.Int64 // requests until kill is called
	var kill atomic.Pointer[func()]
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b := reg.blobs[digest.Digest(strings.TrimPrefix(r.URL.Path, "/"))]
		if left.Add(-1) == 0 {
			_, _ = w.Write(b[:len(b)/2])
			(*kill.Load())()
			return
		}
		_, _ = w.Write(b)
	}))
	defer srv.Close()
	root := filepath.Join(t.TempDir(), "images")
	for round := range 24 {
		cmd := exec.CommandContext(t.Context(), os.Args[0])
		cmd.Env = append(os.Environ(), victimRoot+"="+root, victimURL+"="+srv.URL, "BERTH_TEST_v1="+v1.manifest.Digest.String(), "BERTH_TEST_v2="+v2.manifest.Digest.String())
		cmd.Stderr = t.Output()
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		var once sync.Once
		stop := func() { once.Do(func() { _ = cmd.Process.Kill() }) }
		kill.Store(&stop)
		lines := 1 << 30
		if round%2 == 0 {
			left.Store(int64(3 + round)) // in the middle of what it sends for
		} else {
			left.Store(1 << 40)
			lines = 1 + round/2 // after what it says
		}
		pulled := map[string]bool{}
		for sc := bufio.NewScanner(out); sc.Scan(); lines-- {
			if tag, ok := strings.CutPrefix(sc.Text(), "remove "); ok {
				delete(pulled, tag)
				pulled["not "+tag] = true
			} else {
				pulled[sc.Text()] = true
				delete(pulled, "not "+sc.Text())
			}
			if lines == 1 {
				stop()
			}
		}
		_ = cmd.Wait()
		checkAfterKill(t, root, pulled, map[string]testImage{"v1": v1, "v2": v2})
		if t.Failed() {
			t.Fatalf("round %d", round)
		}
	}
}

func checkAfterKill(t *testing.T, root string, pulled map[string]bool, all map[string]testImage) {
	t.Helper()
	s := openStore(t, root, Limits{})
	layers, blobs := map[string]bool{}, map[digest.Digest]bool{}
	for tag, img := range all {
		got, err := s.Get(t.Context(), "r.test/x:"+tag)
		if err != nil {
			if pulled[tag] {
				t.Errorf("%s was pulled and is not there: %v", tag, err)
			}
			continue
		}
		if got.ID != img.id.String() {
			t.Errorf("%s is %s", tag, got.ID)
		}
		e, _ := s.find(got.ID)
		for _, key := range e.rec.Layers {
			layers[key] = true
		}
		for _, b := range append([]digest.Digest{e.rec.Manifest.Digest, img.id}, digestsOf(e)...) {
			blobs[b] = true
		}
		dir := s.mounted(t, got.ID)
		for i := range img.layers {
			if info, err := os.Stat(filepath.Join(dir, fmt.Sprintf("d%d/f", i))); err != nil || info.Size() != 2<<20 {
				t.Errorf("%s: %v, %v", tag, info, err)
			}
		}
	}
	s.wantFiles(t, len(layers), len(blobs))
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}

func digestsOf(e *entry) []digest.Digest {
	var list []digest.Digest
	for _, l := range e.manifest.Layers {
		list = append(list, l.Digest)
	}
	return list
}
