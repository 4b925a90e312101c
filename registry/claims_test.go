package registry_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/berth-registry/berth/registry"
	"github.com/berth-registry/berth/storage"
	"github.com/berth-registry/berth/storage/mem"
)

// server is a registry that may be cut off from the metadata that it shares.
type server struct {
	*registry.Local
	*cut
	blobs *hooked
}

type cut struct {
	storage.Meta
	off atomic.Bool
}

var errCutOff = errors.New("the metadata cannot be reached")

func (c *cut) View(ctx context.Context, fn func(storage.Tx) error) error {
	if c.off.Load() {
		return errCutOff
	}
	return c.Meta.View(ctx, fn)
}

func (c *cut) Update(ctx context.Context, fn func(storage.Tx) error) error {
	if c.off.Load() {
		return errCutOff
	}
	return c.Meta.Update(ctx, fn)
}

// withServers runs a test of two servers over one store, in a time of its own.
func withServers(t *testing.T, run func(t *testing.T, a, b *server)) {
	synctest.Test(t, func(t *testing.T) {
		blobs, meta := mem.NewBlobs(), mem.NewMeta()
		open := func() *server {
			c, h := &cut{Meta: meta}, &hooked{Blobs: blobs}
			l := must[*registry.Local](t)(registry.NewLocal(t.Context(), h, c, registry.Options{}))
			t.Cleanup(l.Close)
			return &server{l, c, h}
		}
		run(t, open(), open())
	})
}

// slow is a body whose bytes come when they are sent, until it is interrupted.
type slow struct {
	sent chan []byte
	over chan struct{}
	rest []byte
}

var errInterrupted = errors.New("interrupted")

func newSlow() *slow { return &slow{sent: make(chan []byte), over: make(chan struct{})} }

func (s *slow) Read(p []byte) (int, error) {
	if len(s.rest) == 0 {
		select {
		case data, ok := <-s.sent:
			if !ok {
				return 0, io.EOF
			}
			s.rest = data
		case <-s.over:
			return 0, errInterrupted
		}
	}
	n := copy(p, s.rest)
	s.rest = s.rest[n:]
	return n, nil
}

func (s *slow) Interrupt() { close(s.over) }

// write has a server write a body to a session in the background.
func (s *server) write(t *testing.T, id string, body io.Reader) (done chan error) {
	done = make(chan error, 1)
	go func() {
		_, err := s.WriteUpload(t.Context(), "a", id, registry.Chunk{}, body)
		done <- err
	}()
	return done
}

func (s *server) session(t *testing.T) string {
	t.Helper()
	return must[string](t)(s.StartUpload(t.Context(), "a", digest.SHA256))
}

// commit commits a session that must then hold text.
func (s *server) commit(t *testing.T, id, rest, text string) {
	t.Helper()
	d := digest.FromString(text)
	if _, err := s.CommitUpload(t.Context(), "a", id, registry.Chunk{}, strings.NewReader(rest), d); err != nil {
		t.Fatal(err)
	}
	f, _, err := s.Blob(t.Context(), "a", d)
	if err != nil {
		t.Fatal(err)
	}
	if data := must[[]byte](t)(io.ReadAll(f)); digest.FromBytes(data) != d {
		t.Errorf("%s holds %d other bytes", d, len(data))
	}
	if stats := must[registry.Stats](t)(s.Stats(t.Context())); stats.Uploads != 0 {
		t.Errorf("%d sessions are open", stats.Uploads)
	}
}

// TestGoOnElsewhere writes to a session in one server after the other, as a client does
// whose requests go to any of them: none waits.
func TestGoOnElsewhere(t *testing.T) {
	withServers(t, func(t *testing.T, a, b *server) {
		id, start := a.session(t), time.Now()
		for i, s := range []*server{b, a, b} {
			if n, err := s.WriteUpload(t.Context(), "a", id, registry.Chunk{}, strings.NewReader("xyz")); err != nil || n != int64(3*i+3) {
				t.Fatalf("%d, %v", n, err)
			}
		}
		if _, err := b.WriteUpload(t.Context(), "a", id, registry.Chunk{Known: true, First: 1, Last: 2}, strings.NewReader("no")); !errors.Is(err, registry.ErrRangeInvalid) {
			t.Error(err)
		}
		a.commit(t, id, "!", "xyzxyzxyz!")
		if n := time.Since(start); n > time.Second {
			t.Errorf("it took %v", n)
		}
		if d, err := b.CommitUpload(t.Context(), "a", id, registry.Chunk{}, strings.NewReader(""), digest.FromString("xyzxyzxyz!")); err != nil || d.Size != 10 {
			t.Errorf("committed again elsewhere: %v, %v", d, err)
		}
	})
}

// TestTakeOverElsewhere has a client begin again at another server while the first one
// still waits for it: that saves what it has, and the other one goes on.
func TestTakeOverElsewhere(t *testing.T) {
	withServers(t, func(t *testing.T, a, b *server) {
		id, body := a.session(t), newSlow()
		first := a.write(t, id, body)
		body.sent <- []byte("abc")
		time.Sleep(time.Hour) // it is alive, however long its client takes
		start := time.Now()
		n, err := b.WriteUpload(t.Context(), "a", id, registry.Chunk{}, strings.NewReader("def"))
		if took := time.Since(start); err != nil || n != 6 || took > 5*time.Second {
			t.Errorf("%d, %v, after %v", n, err, took)
		}
		if err := <-first; !errors.Is(err, errInterrupted) {
			t.Errorf("the first one ends with %v", err)
		}
		a.commit(t, id, "", "abcdef")
	})
}

// TestWriteAtOnce has two servers write to one new session at once, again and again: what
// it holds is what those wrote that were told so, one behind the other.
func TestWriteAtOnce(t *testing.T) {
	withServers(t, func(t *testing.T, a, b *server) {
		for range 20 {
			id := a.session(t)
			doneA, doneB := a.write(t, id, strings.NewReader("aaaa")), b.write(t, id, strings.NewReader("bb"))
			if err := errors.Join(<-doneA, <-doneB); err != nil {
				t.Fatal(err)
			}
			text := "aaaabb"
			if _, err := b.CommitUpload(t.Context(), "a", id, registry.Chunk{}, strings.NewReader(""), digest.FromString(text)); err != nil {
				if !errors.Is(err, registry.ErrDigestInvalid) || !strings.Contains(err.Error(), digest.FromString("bbaaaa").String()) {
					t.Fatal(err)
				}
			}
		}
	})
}

// TestCommitAtOnce has two servers commit one session at once, as blobs of different
// digests: one does, and the other says why not.
func TestCommitAtOnce(t *testing.T) {
	withServers(t, func(t *testing.T, a, b *server) {
		for range 20 {
			id := a.session(t)
			if _, err := a.WriteUpload(t.Context(), "a", id, registry.Chunk{}, strings.NewReader("text")); err != nil {
				t.Fatal(err)
			}
			commit := func(s *server, rest string) chan error {
				done := make(chan error, 1)
				go func() {
					_, err := s.CommitUpload(t.Context(), "a", id, registry.Chunk{}, strings.NewReader(rest), digest.FromString("text"+rest))
					done <- err
				}()
				return done
			}
			doneA, doneB := commit(a, " of a"), commit(b, " of b")
			errA, errB := <-doneA, <-doneB
			if (errA == nil) == (errB == nil) || !errors.Is(errors.Join(errA, errB), registry.ErrUploadUnknown) {
				t.Fatalf("%v, and %v", errA, errB)
			}
		}
	})
}

// TestResumeElsewhere kills a server in the middle of a request: its client goes on at
// another one behind what was saved, and what the dead one would still do is refused.
func TestResumeElsewhere(t *testing.T) {
	withServers(t, func(t *testing.T, a, b *server) {
		id, body := a.session(t), newSlow()
		if _, err := a.WriteUpload(t.Context(), "a", id, registry.Chunk{}, strings.NewReader("abc")); err != nil {
			t.Fatal(err)
		}
		first := a.write(t, id, body)
		body.sent <- []byte("lost")
		a.off.Store(true)
		if n, err := b.UploadSize(t.Context(), "a", id); n != 3 || err != nil {
			t.Fatalf("%d bytes, %v", n, err)
		}
		start := time.Now()
		if n, err := b.WriteUpload(t.Context(), "a", id, registry.Chunk{}, strings.NewReader("def")); n != 6 || err != nil {
			t.Fatalf("%d, %v", n, err)
		}
		if took := time.Since(start); took > 20*time.Second {
			t.Errorf("it took %v", took)
		}
		a.off.Store(false) // it was only away
		select {
		case body.sent <- []byte("late"):
			close(body.sent)
		case <-body.over:
		}
		if err := <-first; err == nil {
			t.Error("the first one is told that it was saved")
		}
		b.commit(t, id, "ghi", "abcdefghi")
	})
}

// TestResumeFromTheStart is the same where nothing was saved.
func TestResumeFromTheStart(t *testing.T) {
	withServers(t, func(t *testing.T, a, b *server) {
		id, body := a.session(t), newSlow()
		first := a.write(t, id, body)
		body.sent <- []byte("lost")
		a.off.Store(true)
		next := newSlow()
		second := b.write(t, id, next)
		next.sent <- []byte("abc")
		a.off.Store(false)
		select {
		case body.sent <- []byte("late"):
			close(body.sent)
		case <-body.over:
		}
		if err := <-first; err == nil {
			t.Error("the first one is told that it was saved")
		}
		next.sent <- []byte("def")
		close(next.sent)
		if err := <-second; err != nil {
			t.Fatal(err)
		}
		b.commit(t, id, "ghi", "abcdefghi")
	})
}

// TestShortlyCutOff writes on when the metadata was away for a while and nobody else has
// come.
func TestShortlyCutOff(t *testing.T) {
	withServers(t, func(t *testing.T, a, b *server) {
		id, body := a.session(t), newSlow()
		first := a.write(t, id, body)
		body.sent <- []byte("abc")
		a.off.Store(true)
		time.Sleep(time.Minute)
		a.off.Store(false)
		body.sent <- []byte("def")
		close(body.sent)
		if err := <-first; err != nil {
			t.Fatal(err)
		}
		b.commit(t, id, "ghi", "abcdefghi")
	})
}

// TestSavedOnTheWay saves a long request piece by piece, so that little is lost when the
// server dies.
func TestSavedOnTheWay(t *testing.T) {
	withServers(t, func(t *testing.T, a, b *server) {
		data := bytes.Repeat([]byte("0123456789abcdef"), 10<<20) // more than two pieces
		id, body := a.session(t), newSlow()
		first := a.write(t, id, body)
		body.sent <- data
		synctest.Wait()
		a.off.Store(true)
		n, err := b.UploadSize(t.Context(), "a", id)
		if err != nil || n != 128<<20 {
			t.Fatalf("%d bytes are saved, %v", n, err)
		}
		d := digest.FromBytes(data)
		if _, err := b.CommitUpload(t.Context(), "a", id, registry.Chunk{}, bytes.NewReader(data[n:]), d); err != nil {
			t.Fatal(err)
		}
		body.Interrupt()
		if err := <-first; err == nil {
			t.Error("the first one is told that all was saved")
		}
	})
}

// TestTooFewOnTheWay takes back what was saved of a request that turns out to be wrong.
func TestTooFewOnTheWay(t *testing.T) {
	withServers(t, func(t *testing.T, a, b *server) {
		id := a.session(t)
		if _, err := a.WriteUpload(t.Context(), "a", id, registry.Chunk{}, strings.NewReader("abc")); err != nil {
			t.Fatal(err)
		}
		data := make([]byte, 65<<20)
		chunk := registry.Chunk{Known: true, First: 3, Last: 3 + 66<<20}
		if n, err := a.WriteUpload(t.Context(), "a", id, chunk, bytes.NewReader(data)); !errors.Is(err, registry.ErrSizeInvalid) || n != 3 {
			t.Errorf("%d, %v", n, err)
		}
		if n, err := b.UploadSize(t.Context(), "a", id); n != 3 || err != nil {
			t.Errorf("%d bytes, %v", n, err)
		}
		b.commit(t, id, "def", "abcdef")
	})
}

// TestCanceledWhileCommitted cuts a server off while it makes a blob of a session, for so
// long that another one takes the session over and cancels it: it stays canceled.
func TestCanceledWhileCommitted(t *testing.T) {
	withServers(t, func(t *testing.T, a, b *server) {
		id := a.session(t)
		if _, err := a.WriteUpload(t.Context(), "a", id, registry.Chunk{}, strings.NewReader("abc")); err != nil {
			t.Fatal(err)
		}
		a.blobs.committed = func(digest.Digest) {
			a.off.Store(true)
			if err := b.CancelUpload(t.Context(), "a", id); err != nil {
				t.Error(err)
			}
			a.off.Store(false)
		}
		d := digest.FromString("abc")
		if _, err := a.CommitUpload(t.Context(), "a", id, registry.Chunk{}, strings.NewReader(""), d); !errors.Is(err, registry.ErrUnavailable) {
			t.Errorf("committed: %v", err)
		}
		if _, err := b.StatBlob(t.Context(), "a", d); !errors.Is(err, registry.ErrBlobUnknown) {
			t.Errorf("the blob: %v", err)
		}
	})
}

// TestStageLeftAlone has a server that lost a session let go of its stage without a word:
// to close it could write down what it holds.
func TestStageLeftAlone(t *testing.T) {
	withServers(t, func(t *testing.T, a, b *server) {
		id, body := a.session(t), newSlow()
		closed := false
		a.blobs.closed = func() { closed = true }
		first := a.write(t, id, body)
		body.sent <- []byte("abc")
		a.off.Store(true)
		b.commit(t, id, "def", "def")
		a.off.Store(false)
		if err := <-first; err == nil || closed {
			t.Errorf("it ends with %v, and has closed its stage: %t", err, closed)
		}
	})
}

// TestLeavesNoSession has requests fail before a byte has come: no row stays.
func TestLeavesNoSession(t *testing.T) {
	withServers(t, func(t *testing.T, a, b *server) {
		id := a.session(t)
		if _, err := a.WriteUpload(t.Context(), "a", id, registry.Chunk{Known: true, First: 7, Last: 8}, strings.NewReader("no")); !errors.Is(err, registry.ErrRangeInvalid) {
			t.Error(err)
		}
		if stats := must[registry.Stats](t)(b.Stats(t.Context())); stats.Uploads != 0 {
			t.Errorf("%d sessions are open", stats.Uploads)
		}
		b.commit(t, id, "abc", "abc")
	})
}

// TestSweptElsewhere leaves the bytes of a session alone that another server writes to,
// however slowly, and removes them once nobody does.
func TestSweptElsewhere(t *testing.T) {
	withServers(t, func(t *testing.T, a, b *server) {
		a.Close() // b sweeps
		id, body := a.session(t), newSlow()
		if _, err := a.WriteUpload(t.Context(), "a", id, registry.Chunk{}, strings.NewReader("abc")); err != nil {
			t.Fatal(err)
		}
		first := a.write(t, id, body)
		time.Sleep(72 * time.Hour)
		body.sent <- []byte("def")
		close(body.sent)
		if err := <-first; err != nil {
			t.Fatal(err)
		}
		if n, err := b.UploadSize(t.Context(), "a", id); n != 6 || err != nil {
			t.Errorf("%d bytes, %v", n, err)
		}
		time.Sleep(72 * time.Hour)
		if _, err := b.UploadSize(t.Context(), "a", id); !errors.Is(err, registry.ErrUploadUnknown) {
			t.Errorf("after three days: %v", err)
		}
	})
}

// pickyStager is blobs that begin a stage of a known digest only if there is none.
type pickyStager struct{ storage.Blobs }

func (p *pickyStager) StageFor(ctx context.Context, id string, _ digest.Digest) (storage.Stage, error) {
	for s, err := range p.Stages(ctx) {
		if err == nil && s.ID == id {
			err = errors.New("the stage is there already")
		}
		if err != nil {
			return nil, err
		}
	}
	return p.Stage(ctx, id, 0)
}

// TestCommitAfterDeath kills a server that has saved the first part of a blob in its
// stage, and nothing in its session: a client that commits the session elsewhere is not
// held up by what is left.
func TestCommitAfterDeath(t *testing.T) {
	withServers(t, func(t *testing.T, a, b *server) {
		id, body := a.session(t), newSlow()
		first := make(chan error, 1)
		go func() {
			_, err := a.CommitUpload(t.Context(), "a", id, registry.Chunk{}, body, digest.FromString("abc"))
			first <- err
		}()
		body.sent <- []byte("a")
		a.off.Store(true)
		left := must[storage.Stage](t)(a.blobs.Blobs.Stage(t.Context(), id, 0))
		_ = must[int](t)(left.Write([]byte("a")))
		if err := errors.Join(left.Sync(), left.Close()); err != nil {
			t.Fatal(err)
		}
		other := must[*registry.Local](t)(registry.NewLocal(t.Context(), &pickyStager{b.blobs.Blobs}, b.cut, registry.Options{}))
		t.Cleanup(other.Close)
		(&server{other, b.cut, nil}).commit(t, id, "abc", "abc")
		close(body.sent)
		if err := <-first; err == nil {
			t.Error("the first one is told that it is stored")
		}
	})
}
