package registrytest

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/berth-registry/berth/registry"
)

// piece is the Chunk of data[from:to].
func piece(from, to int) registry.Chunk {
	return registry.Chunk{First: int64(from), Last: int64(to - 1), Known: true}
}

// start begins a session in repo.
func (f *fixture) start(alg digest.Algorithm) string {
	f.Helper()
	id, err := f.StartUpload(f.Context(), repo, alg)
	f.ok("start upload", err)
	if id == "" {
		f.Fatal("start upload: empty id")
	}
	return id
}

// write appends data, after which the session must hold want bytes.
func (f *fixture) write(id string, chunk registry.Chunk, data []byte, want int) {
	f.Helper()
	n, err := f.WriteUpload(f.Context(), repo, id, chunk, bytes.NewReader(data))
	f.ok("write upload", err)
	if n != int64(want) {
		f.Errorf("write upload: session holds %d bytes, want %d", n, want)
	}
	f.holds(id, want)
}

func (f *fixture) holds(id string, want int) {
	f.Helper()
	n, err := f.UploadSize(f.Context(), repo, id)
	f.ok("upload size", err)
	if n != int64(want) {
		f.Errorf("upload size: session holds %d bytes, want %d", n, want)
	}
}

func (f *fixture) commit(id string, chunk registry.Chunk, rest, whole []byte, alg digest.Algorithm) {
	f.Helper()
	d := alg.FromBytes(whole)
	desc, err := f.CommitUpload(f.Context(), repo, id, chunk, bytes.NewReader(rest), d)
	f.ok("commit upload", err)
	if desc.Digest != d || desc.Size != int64(len(whole)) {
		f.Errorf("commit upload: got %s of %d bytes, want %s of %d", desc.Digest, desc.Size, d, len(whole))
	}
	f.hasBlob(repo, d, whole)
}

// noUpload checks that a session is not there for any method.
func (f *fixture) noUpload(repo, id string) {
	f.Helper()
	_, err := f.UploadSize(f.Context(), repo, id)
	f.is("size of unknown upload", err, registry.ErrUploadUnknown)
	_, err = f.WriteUpload(f.Context(), repo, id, registry.Chunk{}, strings.NewReader("data"))
	f.is("write to unknown upload", err, registry.ErrUploadUnknown)
	_, err = f.CommitUpload(f.Context(), repo, id, registry.Chunk{}, strings.NewReader("data"), digest.FromString("data"))
	f.is("commit of unknown upload", err, registry.ErrUploadUnknown)
	f.is("cancel of unknown upload", f.CancelUpload(f.Context(), repo, id), registry.ErrUploadUnknown)
	f.noBlob(repo, digest.FromString("data"))
}

var uploadTests = []test{
	{"CommitOnly", func(f *fixture) {
		data := noise(1000, 1)
		f.commit(f.start(digest.SHA256), registry.Chunk{}, data, data, digest.SHA256)
	}},
	{"Empty", func(f *fixture) {
		f.commit(f.start(digest.SHA256), registry.Chunk{}, nil, nil, digest.SHA256)
	}},
	{"Chunks", func(f *fixture) {
		data := noise(300_000, 1)
		id := f.start(digest.SHA256)
		f.holds(id, 0)
		f.write(id, piece(0, 100_000), data[:100_000], 100_000)
		f.noBlob(repo, digest.FromBytes(data[:100_000]))
		f.write(id, piece(100_000, 200_000), data[100_000:200_000], 200_000)
		f.commit(id, piece(200_000, 300_000), data[200_000:], data, digest.SHA256)
	}},
	{"Stream", func(f *fixture) {
		data := noise(300_000, 1)
		id := f.start(digest.SHA256)
		n, err := f.WriteUpload(f.Context(), repo, id, registry.Chunk{}, opaque{bytes.NewReader(data[:200_000])})
		f.ok("write upload", err)
		if n != 200_000 {
			f.Errorf("write upload: session holds %d bytes, want 200000", n)
		}
		f.write(id, registry.Chunk{}, data[200_000:], 300_000)
		f.commit(id, registry.Chunk{}, nil, data, digest.SHA256)
	}},
	{"SHA512", func(f *fixture) {
		data := noise(1000, 1)
		id := f.start(digest.SHA512)
		f.write(id, piece(0, 600), data[:600], 600)
		f.commit(id, piece(600, 1000), data[600:], data, digest.SHA512)
	}},
	{"OtherAlgorithmThanStarted", func(f *fixture) {
		// A client of the specification 1.1 cannot say which it will be.
		data := noise(1000, 1)
		id := f.start(digest.SHA256)
		f.write(id, registry.Chunk{}, data[:600], 600)
		f.commit(id, registry.Chunk{}, data[600:], data, digest.SHA512)
	}},
	{"SecondByOneByte", func(f *fixture) {
		data := noise(3, 1)
		id := f.start(digest.SHA256)
		for i := range data {
			n, err := f.WriteUpload(f.Context(), repo, id, piece(i, i+1), bytes.NewReader(data[i:i+1]))
			f.ok("write upload", err)
			if n != int64(i+1) {
				f.Errorf("write upload: session holds %d bytes, want %d", n, i+1)
			}
		}
		f.commit(id, registry.Chunk{}, nil, data, digest.SHA256)
	}},
	{"WrongRange", func(f *fixture) {
		data := noise(1000, 1)
		id := f.start(digest.SHA256)
		_, err := f.WriteUpload(f.Context(), repo, id, piece(100, 600), bytes.NewReader(data[100:600]))
		f.is("chunk that does not begin at 0", err, registry.ErrRangeInvalid)
		f.write(id, piece(0, 600), data[:600], 600)
		for _, from := range []int{0, 599, 601} {
			_, err := f.WriteUpload(f.Context(), repo, id, piece(from, 1000), bytes.NewReader(data[from:]))
			f.is("chunk out of order", err, registry.ErrRangeInvalid)
			_, err = f.CommitUpload(f.Context(), repo, id, piece(from, 1000), bytes.NewReader(data[from:]), digest.FromBytes(data))
			f.is("last chunk out of order", err, registry.ErrRangeInvalid)
			f.holds(id, 600)
		}
		f.commit(id, piece(600, 1000), data[600:], data, digest.SHA256)
	}},
	{"WrongSize", testWrongSize},
	{"WrongDigest", func(f *fixture) {
		data, want := noise(1000, 1), digest.FromString("something else")
		id := f.start(digest.SHA256)
		f.write(id, registry.Chunk{}, data, len(data))
		_, err := f.CommitUpload(f.Context(), repo, id, registry.Chunk{}, bytes.NewReader(nil), want)
		f.is("commit of other bytes", err, registry.ErrDigestInvalid)
		f.noBlob(repo, want)
		f.noUpload(repo, id)
	}},
	{"CommitTwice", func(f *fixture) {
		data := noise(1000, 1)
		d := digest.FromBytes(data)
		id := f.start(digest.SHA256)
		f.write(id, registry.Chunk{}, data, len(data))
		for range 3 {
			f.commit(id, registry.Chunk{}, nil, data, digest.SHA256)
		}
		_, err := f.CommitUpload(f.Context(), repo, id, registry.Chunk{}, bytes.NewReader(nil), digest.FromString("else"))
		f.is("commit again to another digest", err, registry.ErrUploadUnknown)
		_, err = f.UploadSize(f.Context(), repo, id)
		f.is("size of committed upload", err, registry.ErrUploadUnknown)
		_, err = f.WriteUpload(f.Context(), repo, id, registry.Chunk{}, strings.NewReader("more"))
		f.is("write to committed upload", err, registry.ErrUploadUnknown)
		f.hasBlob(repo, d, data)
	}},
	{"SameBlobInTwoSessions", func(f *fixture) {
		data := noise(1000, 1)
		a, b := f.start(digest.SHA256), f.start(digest.SHA256)
		if a == b {
			f.Fatalf("two sessions have the id %s", a)
		}
		f.write(a, registry.Chunk{}, data, len(data))
		f.write(b, registry.Chunk{}, data, len(data))
		f.commit(a, registry.Chunk{}, nil, data, digest.SHA256)
		f.commit(b, registry.Chunk{}, nil, data, digest.SHA256)
	}},
	{"Cancel", func(f *fixture) {
		for _, n := range []int{0, 1000} {
			data := noise(n, 1)
			id := f.start(digest.SHA256)
			if n > 0 {
				f.write(id, registry.Chunk{}, data, n)
			}
			f.ok("cancel upload", f.CancelUpload(f.Context(), repo, id))
			f.noUpload(repo, id)
		}
	}},
	{"UnknownSession", func(f *fixture) {
		id := f.start(digest.SHA256)
		for _, bad := range []string{
			"", ".", "..", "../..", "a/b", "/", "%2e%2e", "%", "?", "#", "x y", "\x00", "\u00e9", "nobody-began-this",
			"4d2c8d3e-9d3f-4a35-8f0a-5a8e0d7b1c3e", id + "x", id[1:], id + "/" + id, strings.Repeat("a", 2000),
		} {
			f.Logf("session id %.40q", bad)
			f.noUpload(repo, bad)
		}
		f.noUpload(other, id)
		f.holds(id, 0)
	}},
	{"Resume", func(f *fixture) {
		data, broke := noise(2<<20, 1), errors.New("the source broke")
		id := f.start(digest.SHA256)
		_, err := f.WriteUpload(f.Context(), repo, id, registry.Chunk{},
			io.MultiReader(bytes.NewReader(data[:1<<20]), &failing{broke}))
		if !errors.Is(err, broke) {
			f.Errorf("write from a reader that fails: error %v, want the reader's", err)
		}
		size := f.settled(id, 1<<20)
		f.commit(id, piece(size, len(data)), data[size:], data, digest.SHA256)
	}},
	{"TakeOver", testTakeOver},
}

// settled waits until a session whose writer has gone holds some bytes, at most
// most, and returns how many. Over a network not all that was sent arrives.
func (f *fixture) settled(id string, most int) int {
	f.Helper()
	for deadline := time.Now().Add(patience); ; time.Sleep(10 * time.Millisecond) {
		// A writer of no bytes takes over from the one that may still be there.
		n, err := f.WriteUpload(f.Context(), repo, id, registry.Chunk{}, bytes.NewReader(nil))
		f.ok("take over upload", err)
		switch {
		case n > int64(most):
			f.Fatalf("session holds %d bytes after %d were sent", n, most)
		case n > 0:
			return int(n)
		case time.Now().After(deadline):
			f.Fatalf("session holds nothing of what was received")
		}
	}
}

func testWrongSize(f *fixture) {
	data := noise(1000, 1)
	id := f.start(digest.SHA256)
	at := 0
	for _, n := range []int{0, 99, 101} { // where 100 were announced
		for _, r := range []io.Reader{bytes.NewReader(data[at : at+n]), opaque{bytes.NewReader(data[at : at+n])}} {
			_, err := f.WriteUpload(f.Context(), repo, id, piece(at, at+100), r)
			f.is("chunk of another size than it says", err, registry.ErrSizeInvalid)
			// Over a network the chunk may have arrived in part before it failed.
			size, err := f.WriteUpload(f.Context(), repo, id, registry.Chunk{}, bytes.NewReader(nil))
			f.ok("write nothing", err)
			if size < int64(at) || size > int64(at+n) {
				f.Fatalf("upload size: session holds %d bytes after %d and a chunk of %d", size, at, n)
			}
			at = int(size)
		}
	}
	f.commit(id, piece(at, len(data)), data[at:], data, digest.SHA256)
}

// stalled reads data and then waits until it is interrupted, as a connection
// does whose client is gone.
type stalled struct {
	io.Reader
	drained, over chan struct{}
	once, end     sync.Once
}

func (s *stalled) Read(p []byte) (int, error) {
	n, err := s.Reader.Read(p)
	if n > 0 || err != io.EOF {
		return n, err
	}
	s.once.Do(func() { close(s.drained) })
	<-s.over
	return 0, errors.New("interrupted")
}

// Interrupt implements registry.Interrupter.
func (s *stalled) Interrupt() { s.end.Do(func() { close(s.over) }) }

func testTakeOver(f *fixture) {
	data := noise(2<<20, 1)
	id := f.start(digest.SHA256)
	first := &stalled{Reader: bytes.NewReader(data[:1<<20]), drained: make(chan struct{}), over: make(chan struct{})}
	done := make(chan error, 1)
	go func() {
		_, err := f.WriteUpload(f.Context(), repo, id, registry.Chunk{}, first)
		done <- err
	}()
	defer first.Interrupt()
	select {
	case <-first.drained:
	case err := <-done:
		f.Fatalf("first writer ended early: %v", err)
	case <-time.After(patience):
		f.Fatal("first writer's bytes were not read")
	}
	size := f.settled(id, 1<<20)
	f.write(id, piece(size, len(data)), data[size:], len(data))
	first.Interrupt()
	if err := <-done; err == nil {
		f.Error("first writer: no error after it was taken over")
	}
	f.commit(id, registry.Chunk{}, nil, data, digest.SHA256)
}
