package e2e

import (
	"fmt"
	"io/fs"
	"math/rand/v2"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/berth-registry/berth/e2e/berthtest"
)

// atOnce has a server keep garbage for no longer than a client needs.
const atOnce = "gc: {grace: 1ms, lease: 1ms, history: 0s, interval: 1h}\n"

// blobFiles lists the blobs in a server's data.
func blobFiles(t *testing.T, s *berthtest.Server) map[string]bool {
	t.Helper()
	found := map[string]bool{}
	err := filepath.WalkDir(filepath.Join(s.Data, "blobs"), func(_ string, d fs.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() {
			found[d.Name()] = true
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

// TestCollectSkopeo pushes, moves the tag, collects: what tags name can be pulled, all
// of it, and nothing else is stored.
func TestCollectSkopeo(t *testing.T) {
	t.Parallel()
	s := berthtest.Start(t, berthtest.Options{Config: atOnce})
	k := skopeo{berthtest.NewCommand(t, "skopeo"), "docker://" + s.Addr + "/collect/app"}
	other := skopeo{k.Command, "docker://" + s.Addr + "/collect/other"}
	index, indexDesc := sampleIndex(t)
	image, imageDesc := sampleImage(t)
	k.push("oci:"+index.dir+":latest", ":v1")
	other.push("oci:"+index.dir+":latest", ":v1")
	k.push("oci:"+image.dir+":latest", ":v1") // the tag moves on

	plan := s.Berth("gc", "--dry-run").Run()
	if !strings.Contains(plan, string(indexDesc.Digest)) || strings.Contains(plan, string(imageDesc.Digest)) {
		t.Errorf("the dry run says:\n%s", plan)
	}
	if said := s.Berth("gc").Run(); !strings.HasPrefix(said, "removed ") || strings.Contains(said, "nothing") {
		t.Errorf("gc says %s", said)
	}
	wire := newWire(s.URL)
	if a, err := wire.pullManifest("collect/app", string(indexDesc.Digest)); err != nil || a.status != http.StatusNotFound {
		t.Errorf("what was garbage: %s, %v", a, err)
	}
	back := t.TempDir()
	k.pull(":v1", "oci:"+back+":latest")
	sameBlobs(t, image.dir, back)
	back = t.TempDir()
	other.pull(":v1", "oci:"+back+":latest")
	sameBlobs(t, index.dir, back)

	// It can be pushed again, and goes when nothing names it any more.
	k.push("oci:"+index.dir+":latest", ":v2")
	back = t.TempDir()
	k.pull(":v2", "oci:"+back+":latest")
	sameBlobs(t, index.dir, back)
	for _, ref := range []string{"collect/app:v1", "collect/app:v2", "collect/other:v1"} {
		s.Berth("rm", s.Addr+"/"+ref).Run()
	}
	s.Berth("gc").Run()
	if left := blobFiles(t, s); len(left) > 0 {
		t.Errorf("%d blobs are left of nothing", len(left))
	}
}

// TestCollectDocker has dockerd, which remembers what a registry had, push an image
// again that was collected.
func TestCollectDocker(t *testing.T) {
	t.Parallel()
	berthtest.Root(t)
	s := berthtest.Start(t, berthtest.Options{Config: atOnce})
	d := docker{startDocker(t, nil), "localhost:" + s.Port()}
	one := d.build(t, "one", map[string][]byte{"one": []byte("one")})
	two := d.build(t, "two", map[string][]byte{"two": []byte("two")})
	ref := d.registry + "/collect/docker:v1"
	for range 2 {
		for _, image := range []string{one, two} {
			d.Run("tag", image, ref)
			d.Run("push", ref)
			want := d.save(t, ref)
			s.Berth("gc").Run()
			d.Run("rmi", ref)
			d.Run("pull", ref)
			if got := d.save(t, ref); got != want {
				t.Error("the image came back changed after a collection")
			}
		}
	}
	s.Berth("rm", ref).Run()
	s.Berth("gc").Run()
	if left := blobFiles(t, s); len(left) > 0 {
		t.Errorf("%d blobs are left of nothing", len(left))
	}
}

// TestKillCollecting kills a server while it collects and takes pushes: what tags name
// stays, and the next collection finishes the work.
func TestKillCollecting(t *testing.T) {
	t.Parallel()
	s := berthtest.Start(t, berthtest.Options{Config: atOnce, Env: []string{"BERTH_LOG_ACCESS=false"}})
	wire := newWire(s.URL)
	kept := map[digest.Digest]digest.Digest{} // layer by manifest
	seed, cut := uint64(0), 0
	push := func(tag string) (manifest, layer digest.Digest, err error) {
		seed++
		return wire.smallImage("collect", tag, seed, 20_000)
	}
	for round := range 10 {
		for range 60 { // each but the last is garbage
			if _, _, err := push("moving"); err != nil {
				t.Fatal(err)
			}
		}
		manifest, layer, err := push(fmt.Sprint("round-", round))
		if err != nil {
			t.Fatal(err)
		}
		kept[manifest] = layer
		var working sync.WaitGroup
		working.Go(func() {
			if _, _, err := s.Berth("gc").Try(); err != nil { // its server has died
				cut++
			}
		})
		working.Go(func() {
			for i := 0; ; i++ { // until the server dies
				manifest, layer, err := wire.smallImage("collect", fmt.Sprint("busy-", round, "-", i), uint64(1_000_000+round*1000+i), 20_000)
				if err != nil {
					return
				}
				kept[manifest] = layer
			}
		})
		time.Sleep(time.Duration(rand.IntN(100)) * time.Millisecond) // a collection takes some 20 ms, and to start the command as long
		s.Kill()
		working.Wait()
		s.Restart()
		for manifest, layer := range kept {
			wire.verify(t, "collect", manifest, layer)
		}
	}
	t.Logf("%d collections of 10 were cut short", cut)
	s.Berth("gc").Run()
	if said := strings.TrimSpace(s.Berth("gc").Run()); said != "removed nothing" {
		t.Errorf("a second collection after the last: %s", said)
	}
	for manifest, layer := range kept {
		wire.verify(t, "collect", manifest, layer)
	}
	files := blobFiles(t, s)
	tags, err := wire.tags("collect")
	if err != nil {
		t.Fatal(err)
	}
	for _, tag := range tags {
		a, err := wire.pullManifest("collect", tag)
		if err != nil || a.status != http.StatusOK {
			t.Fatalf("tag %s: %s, %v", tag, a, err)
		}
		delete(files, digest.FromBytes(a.body).Encoded())
		m := decode[struct {
			Config struct{ Digest digest.Digest }
			Layers []struct{ Digest digest.Digest }
		}](t, string(a.body))
		delete(files, m.Config.Digest.Encoded())
		for _, l := range m.Layers {
			delete(files, l.Digest.Encoded())
		}
	}
	// A push that was cut short may have left bytes which nobody was told of.
	if len(files) > 10 {
		t.Errorf("%d blobs are left that no tag reaches", len(files))
	}
}

// garbage pushes images that then nothing names.
func (f *faulty) garbage(n int) {
	f.t.Helper()
	for i := range n {
		tag := fmt.Sprint("garbage-", i)
		if _, _, err := f.wire.smallImage(faultyRepo, tag, uint64(5_000_000+i), 50_000); err != nil {
			f.t.Fatal(err)
		}
		if _, err := f.wire.must(http.StatusAccepted, "DELETE", "/v2/"+faultyRepo+"/manifests/"+tag, nil); err != nil {
			f.t.Fatal(err)
		}
	}
}

// collected runs a collection to its end.
func (f *faulty) collected() {
	f.t.Helper()
	before := len(blobFiles(f.t, f.server))
	said := f.server.Berth("gc").Run()
	if after := len(blobFiles(f.t, f.server)); before-after < 20 || !strings.HasPrefix(said, "removed 10 manifests") {
		f.t.Errorf("of %d files %d are left: %s", before, after, said)
	}
}

// TestCollectOnBadDisk collects on a disk that is full, which frees it, and on one that
// cannot be written to, which fails and does no harm.
func TestCollectOnBadDisk(t *testing.T) {
	t.Parallel()
	start := func(t *testing.T) (*disk, *faulty) {
		disk := newDisk(t, 64)
		f := newFaulty(t, disk.dir)
		f.server.Configure(atOnce)
		f.server.Stop()
		f.server.Restart()
		f.garbage(10)
		return disk, f
	}
	t.Run("full", func(t *testing.T) {
		disk, f := start(t)
		release := disk.fill("ballast", 0)
		f.refused(http.StatusInsufficientStorage)
		f.collected()
		f.verify()
		release()
		f.recovered()
	})
	t.Run("read-only", func(t *testing.T) {
		disk, f := start(t)
		disk.abort()
		for range 2 {
			stdout, stderr, err := f.server.Berth("gc").Try()
			if err == nil || stdout != "" || strings.Contains(stderr, f.server.Data) || strings.Count(stderr, "\n") != 1 {
				t.Errorf("on a read-only disk: %v, %s%s", err, stdout, stderr)
			}
		}
		f.verify()
		f.refused(http.StatusServiceUnavailable)
		f.server.Kill()
		disk.unmount()
		disk.mount()
		f.server.Restart()
		f.collected()
		f.recovered()
	})
}
