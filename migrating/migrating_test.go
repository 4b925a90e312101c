package migrating_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/berth-registry/berth/e2e/berthtest"
	"github.com/berth-registry/berth/migrating"
	"github.com/berth-registry/berth/registry"
	"github.com/berth-registry/berth/storage"
)

// content is a registry with some of everything.
type content struct {
	layers   map[string]digest.Digest // by repository
	images   map[string]digest.Digest
	sessions []session
	ended    string // id of a session that became a blob
	moves    int64
	stats    registry.Stats
}

// fill pushes all that a registry can have, and closes it.
func fill(t *testing.T, s migrating.Store) *content {
	t.Helper()
	l, closeLocal := local(t, s)
	c := &content{layers: map[string]digest.Digest{}, images: map[string]digest.Digest{}}
	for i, repo := range []string{"a/one", "a/two", "b"} {
		for n, tag := range []string{"v1", "v2", "latest"} {
			size := 100 + 60_000*n
			if i == 2 && n == 2 {
				size = 11<<20 + 7 // several parts
			}
			c.layers[repo], c.images[repo] = push(t, l, repo, tag, noise(size, uint64(10*i+n)))
		}
		must(t, l.DeleteTag(t.Context(), repo, "v1"))
	}
	push(t, l, "moved", "latest", noise(10, 77))
	push(t, l, "moved", "latest", noise(10, 78))
	c.sessions = []session{begin(t, l, noise(300, 91), 120), begin(t, l, noise(9<<20, 92), 7<<20)}
	done := begin(t, l, noise(500, 93), 200)
	done.finish(t, l)
	c.ended = done.id
	_, err := l.Snapshot(t.Context(), s.Notes)
	must(t, err)
	must(t, s.Meta.Update(t.Context(), func(tx storage.Tx) error {
		for _, name := range storage.Numbers() {
			for range 5 {
				if _, err := storage.Next(tx, name); err != nil {
					return err
				}
			}
		}
		return storage.Accounts.Put(tx, storage.Key("ann"), storage.Account{Password: []byte("hash"), Epoch: 3, Created: time.Unix(1, 0)})
	}))
	c.moves = total(t, s.Meta, storage.CountMoves)
	c.stats, err = l.Stats(t.Context())
	must(t, err)
	closeLocal()
	return c
}

func total(t *testing.T, meta storage.Meta, name string) (n int64) {
	t.Helper()
	must(t, meta.View(context.Background(), func(tx storage.Tx) (err error) {
		n, err = storage.Total(tx, name)
		return err
	}))
	return n
}

// check checks that a registry has it all, and goes on.
func (c *content) check(t *testing.T, s migrating.Store) {
	t.Helper()
	must(t, migrating.Check(t.Context(), s.Meta))
	l, closeLocal := local(t, s)
	defer closeLocal()
	stats, err := l.Stats(t.Context())
	must(t, err)
	if stats != c.stats {
		t.Errorf("it counts %+v, want %+v", stats, c.stats)
	}
	for repo, d := range c.images {
		m, err := l.StatManifest(t.Context(), repo, registry.Reference{Tag: "latest"})
		must(t, err)
		if m.Digest != d {
			t.Errorf("%s:latest is %s, want %s", repo, m.Digest, d)
		}
		if _, err := l.StatManifest(t.Context(), repo, registry.Reference{Tag: "v1"}); !errors.Is(err, registry.ErrManifestUnknown) {
			t.Errorf("%s:v1: %v, want it to be deleted", repo, err)
		}
		if data, _, err := l.Manifest(t.Context(), repo, registry.Reference{Digest: d}); err != nil || digest.FromBytes(data) != d {
			t.Errorf("manifest %s is %s, %v", d, digest.FromBytes(data), err)
		}
		pull(t, l, repo, c.layers[repo])
	}
	for _, s := range c.sessions {
		s.finish(t, l)
	}
	if _, err := l.UploadSize(t.Context(), sessionRepo, c.ended); !errors.Is(err, registry.ErrUploadUnknown) {
		t.Errorf("a session that has ended: %v", err)
	}
	must(t, s.Meta.Update(t.Context(), func(tx storage.Tx) error {
		n, err := storage.Next(tx, storage.CountMoves)
		if n <= c.moves {
			t.Errorf("the next number is %d, after %d", n, c.moves)
		}
		return err
	}))
	push(t, l, "a/one", "new", noise(1000, 1234))
	_, err = l.Snapshot(t.Context(), s.Notes)
	must(t, err)
	for repo := range c.images {
		note, err := s.Notes.Note(t.Context(), "repositories/"+repo)
		if err != nil || !strings.Contains(string(note), string(c.images[repo])) {
			t.Errorf("the note of %s is %s, %v", repo, note, err)
		}
	}
}

// TestRun moves a registry between all kinds of places.
func TestRun(t *testing.T) {
	bucket := berthtest.StartS3(t)
	for _, way := range [][2]string{
		{"file", "s3+postgres"},
		{"s3+postgres", "file"},
		{"file", "s3+file"},
		{"file", "file+postgres"},
		{"s3+file", "s3+postgres"},
		{"file+postgres", "s3+file"},
		{"s3+postgres", "s3+postgres"},
	} {
		t.Run(way[0]+" to "+way[1], func(t *testing.T) {
			from, _ := newPlace(t, way[0], bucket).open()
			c := fill(t, from)
			to, _ := newPlace(t, way[1], bucket).open()
			before := rows(t, from.Meta)
			var marked migrating.Moved
			res, err := migrating.Run(t.Context(), from, to, migrating.Options{
				From: "here", To: "there", Jobs: 3, Progress: func(migrating.Progress) {},
				Moved: func(_ context.Context, m migrating.Moved) error { marked = m; return nil },
			})
			must(t, err)
			if res.Blobs != c.stats.Blobs || res.CopiedBlobs != res.Blobs || res.Bytes != c.stats.Bytes || res.Sessions != 2 || res.DroppedSessions != 0 || len(res.Problems) != 0 {
				t.Errorf("it has moved %+v, want %+v", res, c.stats)
			}
			if marked.To != "there" || res.ReadOnly == 0 {
				t.Errorf("marked %+v after %v", marked, res.ReadOnly)
			}
			if now := rows(t, from.Meta); now != before+1 {
				t.Errorf("the source has %d rows instead of %d and its id", now, before)
			}
			c.check(t, to)
			c.check(t, from) // nothing is lost there
		})
	}
}

// TestSharedBlobs moves the metadata of blobs that stay where they are, and with them
// what the driver knows of stages.
func TestSharedBlobs(t *testing.T) {
	bucket := berthtest.StartS3(t)
	old := newPlace(t, "s3+file", bucket)
	from, _ := old.open()
	c := fill(t, from)
	now := newPlace(t, "s3+postgres", bucket)
	now.prefix = old.prefix
	to, _ := now.open()
	res, err := migrating.Run(t.Context(), from, to, migrating.Options{})
	must(t, err)
	if res.CopiedBlobs != 0 {
		t.Errorf("%d blobs were copied", res.CopiedBlobs)
	}
	c.check(t, to)
}

// TestNotEmpty has targets with data of something else.
func TestNotEmpty(t *testing.T) {
	bucket := berthtest.StartS3(t)
	from, _ := newPlace(t, "file", bucket).open()
	fill(t, from)
	used := newPlace(t, "s3+postgres", bucket)
	to, _ := used.open()
	l, closeLocal := local(t, to)
	closeLocal()
	_ = l
	before := rows(t, to.Meta)
	if _, err := migrating.Run(t.Context(), from, to, migrating.Options{}); !errors.Is(err, migrating.ErrNotEmpty) {
		t.Fatalf("a target with rows: %v", err)
	}
	if rows(t, to.Meta) != before {
		t.Error("it has other rows now")
	}
	orphans := newPlace(t, "s3+postgres", bucket)
	to, _ = orphans.open()
	data := noise(100, 10) // of the source, with its size, and damaged
	d := digest.FromBytes(noise(60_100, 1))
	stage, err := to.Blobs.Stage(t.Context(), "x", 0)
	must(t, err)
	_, err = stage.Write(append(data, noise(60_000, 5)...))
	must(t, errors.Join(err, stage.Commit(d), stage.Close()))
	if _, err := migrating.Run(t.Context(), from, to, migrating.Options{}); !errors.Is(err, migrating.ErrNotEmpty) || !strings.Contains(err.Error(), "--verify") {
		t.Fatalf("a target with blobs: %v", err)
	}
	res, err := migrating.Run(t.Context(), from, to, migrating.Options{Verify: true})
	must(t, err)
	if res.PresentBlobs != 0 {
		t.Errorf("%d blobs were taken over that are damaged", res.PresentBlobs)
	}
	l, _ = local(t, to)
	pull(t, l, "a/one", d)
}

// TestAgain moves a registry that was moved before.
func TestAgain(t *testing.T) {
	bucket := berthtest.StartS3(t)
	from, _ := newPlace(t, "file", bucket).open()
	c := fill(t, from)
	to, _ := newPlace(t, "s3+postgres", bucket).open()
	left := false
	o := migrating.Options{
		Moved: func(context.Context, migrating.Moved) error { left = true; return nil },
		Left:  func(context.Context) (bool, error) { return left, nil },
	}
	_, err := migrating.Run(t.Context(), from, to, o)
	must(t, err)
	res, err := migrating.Run(t.Context(), from, to, o)
	if err != nil || !res.Already || res.CopiedBlobs != 0 {
		t.Fatalf("moved again: %+v, %v", res, err)
	}
	left = false // somebody went back
	if _, err := migrating.Run(t.Context(), from, to, o); !errors.Is(err, migrating.ErrNotEmpty) {
		t.Fatalf("moved again after it was served: %v", err)
	}
	c.check(t, to)
	back, _ := newPlace(t, "file", bucket).open()
	_, err = migrating.Run(t.Context(), to, back, migrating.Options{})
	must(t, err)
	must(t, migrating.Check(t.Context(), back.Meta))
}

// damaged is a registry in a directory with a blob that is damaged, and one that is
// missing.
func damaged(t *testing.T) (from migrating.Store, c *content, bad, gone digest.Digest) {
	t.Helper()
	p := newPlace(t, "file", nil)
	from, _ = p.open()
	c = fill(t, from)
	bad, gone = c.layers["a/one"], c.layers["a/two"]
	file := func(d digest.Digest) string {
		return filepath.Join(p.dir, "blobs", "sha256", d.Encoded()[:2], d.Encoded())
	}
	data, err := os.ReadFile(file(bad))
	must(t, err)
	data[17] ^= 1
	must(t, errors.Join(os.WriteFile(file(bad), data, 0o600), os.Remove(file(gone))))
	return from, c, bad, gone
}

// TestDamaged has blobs at the source that are not what they should be.
func TestDamaged(t *testing.T) {
	bucket := berthtest.StartS3(t)
	from, c, bad, gone := damaged(t)
	to, _ := newPlace(t, "s3+postgres", bucket).open()
	held := false
	o := migrating.Options{
		Moved: func(context.Context, migrating.Moved) error { t.Error("it was marked as moved"); return nil },
		Hold:  func(context.Context) (func(), error) { held = true; return func() {}, nil },
	}
	res, err := migrating.Run(t.Context(), from, to, o)
	if !errors.Is(err, migrating.ErrDamaged) || len(res.Problems) != 2 || held {
		t.Fatalf("%+v, %v; held %v", res.Problems, err, held)
	}
	for _, d := range []digest.Digest{bad, gone} {
		if _, err := to.Blobs.Size(t.Context(), d); !errors.Is(err, storage.ErrNotFound) {
			t.Errorf("%s is at the target: %v", d, err)
		}
	}
	if err := migrating.Check(t.Context(), to.Meta); !errors.Is(err, migrating.ErrIncomplete) {
		t.Errorf("the target may be served: %v", err)
	}
	o = migrating.Options{Damaged: true}
	res, err = migrating.Run(t.Context(), from, to, o)
	must(t, err)
	if len(res.Problems) != 2 {
		t.Errorf("problems %+v", res.Problems)
	}
	l, _ := local(t, to)
	if _, err := l.StatBlob(t.Context(), "a/one", bad); !errors.Is(err, registry.ErrBlobUnknown) {
		t.Errorf("a damaged blob can be had: %v", err)
	}
	push(t, l, "a/one", "latest", noise(120_100, 2)) // mends it
	if c.layers["a/one"] != bad || len(pull(t, l, "a/one", bad)) != 120_100 {
		t.Error("it is not mended")
	}
}

// TestPlan changes nothing.
func TestPlan(t *testing.T) {
	bucket := berthtest.StartS3(t)
	from, _ := newPlace(t, "file", bucket).open()
	c := fill(t, from)
	before := rows(t, from.Meta)
	res, err := migrating.Plan(t.Context(), from, nil, nil, migrating.Options{})
	must(t, err)
	if res.CopiedBlobs != c.stats.Blobs || res.CopiedBytes != c.stats.Bytes || res.Sessions != 2 {
		t.Errorf("the plan is %+v, want %+v", res, c.stats)
	}
	to, _ := newPlace(t, "s3+postgres", bucket).open()
	_, err = migrating.Plan(t.Context(), from, to.Blobs, to.Meta, migrating.Options{})
	must(t, err)
	if rows(t, from.Meta) != before || rows(t, to.Meta) != 0 {
		t.Error("rows were written")
	}
	for note, err := range to.Notes.NoteNames(t.Context()) {
		t.Errorf("there is a note %s, %v", note, err)
	}
}

// TestLostSession has a session without its bytes, and one with others: they are dropped
// and counted no more.
func TestLostSession(t *testing.T) {
	p := newPlace(t, "file", nil)
	from, _ := p.open()
	c := fill(t, from)
	lost, other := c.sessions[0], c.sessions[1]
	must(t, os.Remove(filepath.Join(p.dir, "uploads", lost.id)))
	must(t, os.WriteFile(filepath.Join(p.dir, "uploads", other.id), noise(7<<20, 3), 0o600))
	to, _ := newPlace(t, "file+postgres", nil).open()
	res, err := migrating.Run(t.Context(), from, to, migrating.Options{})
	must(t, err)
	if res.Sessions != 0 || res.DroppedSessions != 2 {
		t.Errorf("%d sessions were moved, %d dropped", res.Sessions, res.DroppedSessions)
	}
	c.sessions, c.stats.Uploads = nil, 0
	c.check(t, to)
	for s, err := range to.Blobs.Stages(t.Context()) {
		t.Errorf("there is a stage %s, %v", s.ID, err)
	}
}
