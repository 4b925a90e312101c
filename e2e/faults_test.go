package e2e

import (
	"bytes"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/berth-registry/berth/e2e/berthtest"
)

// TestDiskFull fills the disk under a server.
func TestDiskFull(t *testing.T) {
	t.Parallel()
	t.Run("by pushing", func(t *testing.T) {
		disk := newDisk(t, 64)
		f := newFaulty(t, disk.dir)
		release := disk.fill("ballast", 24<<20)
		refused := 0
		for range 64 {
			if !f.push(1 << 20) {
				refused++
			}
		}
		if refused < 32 {
			t.Errorf("%d MiB went onto 24 MiB", 64-refused)
		}
		disk.fill("rest", 0)
		f.refused(http.StatusInsufficientStorage)
		f.verify()
		release()
		f.recovered()
	})
	t.Run("to the last byte", func(t *testing.T) {
		disk := newDisk(t, 64)
		f := newFaulty(t, disk.dir)
		release := disk.fill("ballast", 0)
		f.refused(http.StatusInsufficientStorage)
		f.fillMetadata()
		f.verify()
		release()
		f.recovered()
	})
}

// TestReadOnly takes the right to write from a server. To turn a file system
// read-only by force takes what the kernel does after an error of the disk, and
// that lasts until it is mounted anew; a directory can be turned back.
func TestReadOnly(t *testing.T) {
	t.Parallel()
	t.Run("file system", func(t *testing.T) {
		disk := newDisk(t, 64)
		f := newFaulty(t, disk.dir)
		disk.abort()
		f.refused(http.StatusServiceUnavailable)
		f.verify()
		f.server.Kill() // it may end with an error here, or without one
		disk.unmount()
		disk.mount()
		f.server.Restart()
		f.recovered()
	})
	t.Run("directory", func(t *testing.T) {
		disk := newDisk(t, 64)
		f := newFaulty(t, disk.dir)
		chattr := berthtest.NewCommand(t, "chattr", "-R", "-f")
		protect := func(how string) {
			for _, dir := range []string{"uploads", "blobs"} {
				_, _, _ = chattr.Try(how, filepath.Join(f.server.Data, dir)) // files may have no flags
			}
		}
		protect("+i")
		defer protect("-i") // or else it could not be removed
		f.refused(http.StatusServiceUnavailable)
		f.verify()
		protect("-i")
		f.recovered()
	})
}

// TestSystemCalls lets system calls of the running server fail. Which ones says
// the name of the test. A manifest may be small enough to do without some.
func TestSystemCalls(t *testing.T) {
	t.Parallel()
	tests := []struct {
		calls, errno string
		refused      func(*faulty, int)
		status       int
	}{
		{"fsync,fdatasync", "EIO", (*faulty).refused, http.StatusServiceUnavailable},
		{"rename,renameat,renameat2", "EIO", (*faulty).refusedBlobs, http.StatusServiceUnavailable},
		{"pwrite64", "EIO", (*faulty).refused, http.StatusServiceUnavailable},
		{"pwrite64", "ENOSPC", (*faulty).refused, http.StatusInsufficientStorage},
		{"fsync,fdatasync", "ENOSPC", (*faulty).refused, http.StatusInsufficientStorage},
		{"fsync,fdatasync,pwrite64,ftruncate,rename,renameat,renameat2", "EROFS", (*faulty).refused, http.StatusServiceUnavailable},
	}
	for _, test := range tests {
		t.Run(test.calls+"="+test.errno, func(t *testing.T) {
			f := newFaulty(t, t.TempDir())
			stop := inject(t, f.server.Pid(), test.calls, test.errno)
			for range 5 {
				test.refused(f, test.status)
			}
			f.verify()
			stop()
			f.recovered()
		})
	}
}

// TestSecondServer starts a second server on the data of a first.
func TestSecondServer(t *testing.T) {
	t.Parallel()
	s := berthtest.Start(t, berthtest.Options{})
	code, output := s.RunSecond()
	if code != 1 {
		t.Errorf("the second server exits with %d: want 1", code)
	}
	if !strings.Contains(output, s.Data) || !strings.Contains(output, strconv.Itoa(s.Pid())) {
		t.Errorf("the second server names not both the directory %s and the process %d: %s", s.Data, s.Pid(), output)
	}
	newWire(s.URL).serves(t, 1)
	s.Kill()
	s.Restart() // a lock of the dead holds nobody up
	newWire(s.URL).serves(t, 2)
}

// faulty is a server that things happen to, and what it has acknowledged.
type faulty struct {
	t      *testing.T
	server *berthtest.Server
	wire   *wire
	blobs  []digest.Digest
	images []ocispec.Descriptor
	n      uint64 // images tried
}

const faultyRepo = "faults/repo"

// newFaulty starts a server with its data in dir and something in it.
func newFaulty(t *testing.T, dir string) *faulty {
	t.Helper()
	s := berthtest.Start(t, berthtest.Options{Data: filepath.Join(dir, "data"), Env: []string{"BERTH_LOG_ACCESS=false"}})
	f := &faulty{t: t, server: s, wire: newWire(s.URL)}
	for range 8 {
		if !f.push(10_000) {
			t.Fatal("the server is not well before anything has happened to it")
		}
	}
	return f
}

// push pushes an image and says whether all of it was acknowledged. A refusal
// must be a clear error.
func (f *faulty) push(size int) bool {
	f.t.Helper()
	f.n++
	layer := randomBytes(f.n, size)
	config := fmt.Appendf(nil, `{"os":"linux","architecture":"amd64","n":%d}`, f.n)
	for _, data := range [][]byte{layer, config} {
		if !f.acked(f.wire.pushBlob(faultyRepo, data)) {
			return false
		}
		f.blobs = append(f.blobs, digest.FromBytes(data))
	}
	m := imageManifest(config, layer)
	if !f.acked(f.wire.pushManifest(faultyRepo, fmt.Sprintf("tag-%d", f.n), m)) {
		return false
	}
	f.images = append(f.images, descriptorOf(ocispec.MediaTypeImageManifest, m))
	return true
}

// acked says whether an answer is an acknowledgement. Anything but that and a
// clear error fails the test.
func (f *faulty) acked(a answer, err error) bool {
	f.t.Helper()
	if err != nil {
		f.t.Fatalf("the server does not answer: %v", err)
	}
	if a.status == http.StatusCreated {
		return true
	}
	if a.status != http.StatusInsufficientStorage && a.status != http.StatusServiceUnavailable {
		f.t.Errorf("refused with %s", a)
	}
	if err := a.clear(); err != nil {
		f.t.Error(err)
	}
	return false
}

// refused checks that nothing can be pushed, in none of the ways, and that the
// status says why.
func (f *faulty) refused(status int) {
	f.t.Helper()
	f.refusedBlobs(status)
	m := f.index()
	a, err := f.wire.pushManifest(faultyRepo, "refused", m)
	f.refusal(status, "PUT of a manifest", a, err)
	f.absent("/manifests/refused")
	f.absent("/manifests/" + digest.FromBytes(m).String())
}

// refusedBlobs is refused for blobs alone.
func (f *faulty) refusedBlobs(status int) {
	f.t.Helper()
	f.n++
	data := randomBytes(f.n, 200_000)
	a, err := f.wire.pushBlob(faultyRepo, data)
	f.refusal(status, "POST of a blob", a, err)
	a, err = f.upload(data)
	f.refusal(status, "upload of a blob", a, err)
	f.absent("/blobs/" + digest.FromBytes(data).String())
}

// refusal checks that an answer is a clear refusal.
func (f *faulty) refusal(status int, what string, a answer, err error) {
	f.t.Helper()
	if err != nil {
		f.t.Fatalf("%s: the server does not answer: %v", what, err)
	}
	if a.status != status {
		f.t.Errorf("%s: %s: want %d", what, a, status)
	}
	if err := a.clear(); err != nil {
		f.t.Errorf("%s: %v", what, err)
	}
	if strings.Contains(string(a.body), f.server.Data) {
		f.t.Errorf("%s: the error names a path of the server: %s", what, a)
	}
}

// absent checks that something that was refused is not there.
func (f *faulty) absent(path string) {
	f.t.Helper()
	if a, err := f.wire.do("GET", "/v2/"+faultyRepo+path, nil); err != nil || a.status != http.StatusNotFound {
		f.t.Errorf("what was refused answers %s: %v", a, err)
	}
}

// upload pushes a blob in three requests and returns the first answer that is
// not as it should be, or the last.
func (f *faulty) upload(data []byte) (answer, error) {
	a, err := f.wire.do("POST", "/v2/"+faultyRepo+"/blobs/uploads/", nil)
	if err != nil || a.status != http.StatusAccepted {
		return a, err
	}
	location := a.header.Get("Location")
	a, err = f.wire.do("PATCH", location, bytes.NewReader(data))
	if err != nil || a.status != http.StatusAccepted {
		return a, err
	}
	return f.wire.do("PUT", location+"?digest="+digest.FromBytes(data).String(), nil)
}

// index is a new manifest of what is stored already.
func (f *faulty) index() []byte {
	return mustJSON(ocispec.Index{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex,
		Manifests:   []ocispec.Descriptor{f.images[0]},
		Annotations: map[string]string{"n": strconv.FormatUint(f.n, 10)},
	})
}

// fillMetadata makes changes that need space for metadata alone until there is
// none, and checks that each is acknowledged or refused clearly.
func (f *faulty) fillMetadata() {
	f.t.Helper()
	const clients, most = 16, 4_000 // mounts of each client
	var full atomic.Bool
	var wg sync.WaitGroup
	for client := range clients {
		wg.Go(func() {
			for i := range most {
				if full.Load() {
					return
				}
				// Long names: the metadata has room ahead that is to be used up first.
				repo := fmt.Sprintf("faults/%s-%d-%d", strings.Repeat("mounts", 38), client, i)
				a, err := f.wire.do("POST", fmt.Sprintf("/v2/%s/blobs/uploads/?mount=%s&from=%s", repo, f.blobs[0], faultyRepo), nil)
				if !f.acked(a, err) {
					full.Store(true)
				}
			}
		})
	}
	wg.Wait()
	if !full.Load() {
		f.t.Error("the metadata grows without end on a full disk")
	}
}

// verify checks that all that was acknowledged can be pulled.
func (f *faulty) verify() {
	f.t.Helper()
	for _, image := range f.images {
		f.wire.verify(f.t, faultyRepo, image.Digest)
	}
	f.wire.verify(f.t, faultyRepo, f.images[0].Digest, f.blobs...)
}

// recovered checks that the server takes images again, has lost nothing, and
// still has all of it after a restart.
func (f *faulty) recovered() {
	f.t.Helper()
	if !f.push(500_000) {
		f.t.Error("the server goes on refusing what it could take")
	}
	f.verify()
	f.server.Stop()
	f.server.Restart()
	f.verify()
	if tags, err := f.wire.tags(faultyRepo); err != nil || len(tags) != len(f.images) {
		f.t.Errorf("%d tags are left of %d: %v", len(tags), len(f.images), err)
	}
}

// inject lets system calls of a process fail until stop is called.
func inject(t *testing.T, pid int, calls, errno string) (stop func()) {
	t.Helper()
	berthtest.Root(t)
	return berthtest.NewCommand(t, "strace").Daemon(func() error { return traced(pid) },
		"-f", "-qq", "-o", "/dev/null", "-p", strconv.Itoa(pid), "-e", "trace="+calls, "-e", "inject="+calls+":error="+errno)
}

// traced fails unless every thread of a process is being traced.
func traced(pid int) error {
	files, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/status", pid))
	if err != nil || len(files) == 0 {
		return fmt.Errorf("process %d has no threads: %w", pid, err)
	}
	for _, name := range files {
		status, err := os.ReadFile(name)
		if err != nil {
			return err
		}
		if strings.Contains(string(status), "\nTracerPid:\t0\n") {
			return fmt.Errorf("%s is not traced", name)
		}
	}
	return nil
}
