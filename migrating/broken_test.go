package migrating_test

import (
	"context"
	"errors"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/berth-registry/berth/e2e/berthtest"
	"github.com/berth-registry/berth/migrating"
	"github.com/berth-registry/berth/storage"
	"github.com/berth-registry/berth/storage/postgres"
	"github.com/berth-registry/berth/storage/postgres/postgrestest"
)

// TestInterrupted ends a migration at random, again and again, while the source changes
// between two tries: the target is none until it is whole, and nothing is left over.
func TestInterrupted(t *testing.T) {
	bucket := berthtest.StartS3(t)
	from, _ := newPlace(t, "file", bucket).open()
	c := fill(t, from)
	to, _ := newPlace(t, "s3+postgres", bucket).open()
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	whole := false
	for i := range 16 {
		held := false
		ctx, cancel := context.WithCancel(t.Context())
		steps := i/2 + 1 // that it tells of, or some time
		if i%2 == 1 {
			steps = -1
			time.AfterFunc(time.Duration(r.IntN(300))*time.Millisecond, cancel)
		}
		_, err := migrating.Run(ctx, from, to, migrating.Options{
			From: "here", Jobs: 1 + i%4,
			Hold: func(context.Context) (func(), error) { held = true; return func() { held = false }, nil },
			Progress: func(migrating.Progress) {
				if steps--; steps == 0 { // below 0 it is time that counts
					cancel()
				}
			},
		})
		cancel()
		if held {
			t.Fatal("writes are held for ever")
		}
		if whole = err == nil; whole {
			break
		}
		if err := migrating.Check(t.Context(), to.Meta); !errors.Is(err, migrating.ErrIncomplete) {
			t.Fatalf("half a target can be served: %v", err)
		}
		l, closeLocal := local(t, from)
		c.sessions = append(c.sessions, begin(t, l, noise(400, uint64(500+i)), 30))
		c.layers["a/one"], c.images["a/one"] = push(t, l, "a/one", "latest", noise(4000, uint64(600+i)))
		must(t, l.DeleteTag(t.Context(), "a/two", "v2"))
		push(t, l, "a/two", "v2", noise(300, uint64(700+i)))
		_, err = l.Snapshot(t.Context(), from.Notes)
		must(t, err)
		c.stats, err = l.Stats(t.Context())
		must(t, err)
		closeLocal()
	}
	if !whole {
		_, err := migrating.Run(t.Context(), from, to, migrating.Options{})
		must(t, err)
	}
	c.moves = total(t, from.Meta, storage.CountMoves)
	c.check(t, to)
}

// TestChanged has a repository and its note go, and another one come, when all but the
// switch is done.
func TestChanged(t *testing.T) {
	from, _ := newPlace(t, "file", nil).open()
	c := fill(t, from)
	l, closeLocal := local(t, from)
	_, gone := push(t, l, "gone", "latest", noise(50, 70))
	_, err := l.Snapshot(t.Context(), from.Notes)
	must(t, err)
	closeLocal()
	to, _ := newPlace(t, "file+postgres", nil).open()
	stop := errors.New("not now")
	_, err = migrating.Run(t.Context(), from, to, migrating.Options{Hold: func(context.Context) (func(), error) { return nil, stop }})
	if !errors.Is(err, stop) {
		t.Fatal(err)
	}
	l, closeLocal = local(t, from)
	must(t, l.DeleteManifest(t.Context(), "gone", gone))
	c.layers["new"], c.images["new"] = push(t, l, "new", "latest", noise(70, 71))
	_, err = l.Snapshot(t.Context(), from.Notes)
	must(t, err)
	c.stats, err = l.Stats(t.Context())
	must(t, err)
	closeLocal()
	if _, err := to.Notes.Note(t.Context(), "repositories/gone"); err != nil {
		t.Fatalf("notes are not copied ahead: %v", err)
	}
	_, err = migrating.Run(t.Context(), from, to, migrating.Options{})
	must(t, err)
	if _, err := to.Notes.Note(t.Context(), "repositories/gone"); !errors.Is(err, storage.ErrNotFound) {
		t.Errorf("the note of a repository that is gone: %v", err)
	}
	if _, err := to.Notes.Note(t.Context(), "repositories/new"); err != nil {
		t.Errorf("the note of a new repository: %v", err)
	}
	c.moves = total(t, from.Meta, storage.CountMoves)
	c.check(t, to)
}

// TestDatabaseKilled kills the target's PostgreSQL in the middle.
func TestDatabaseKilled(t *testing.T) {
	from, _ := newPlace(t, "file", nil).open()
	c := fill(t, from)
	server := postgrestest.New(t, postgrestest.Options{})
	p := newPlace(t, "file", nil)
	open := func() (storage.Meta, func()) {
		meta, err := postgres.Open(t.Context(), postgres.Options{DSN: server.DSN(), Patience: 500 * time.Millisecond})
		must(t, err)
		return meta, func() { must(t, meta.Close()) }
	}
	blobs, closeBlobs := p.openBlobs(nil)
	defer func() { must(t, closeBlobs()) }()
	for _, phase := range []migrating.Phase{migrating.PhaseCopy, migrating.PhaseSwitch, migrating.PhaseVerify} {
		meta, closeMeta := open()
		_, err := migrating.Run(t.Context(), from, migrating.Store{Blobs: blobs, Notes: blobs, Meta: meta}, migrating.Options{
			Moved: func(context.Context, migrating.Moved) error { t.Error("it was marked as moved"); return nil },
			Progress: func(p migrating.Progress) {
				if p.Phase == phase && server.Pid() != 0 {
					server.Kill()
					phase = ""
				}
			},
		})
		if err == nil {
			t.Fatal("it was moved without a database")
		}
		closeMeta()
		server.Start()
	}
	meta, closeMeta := open()
	defer closeMeta()
	to := migrating.Store{Blobs: blobs, Notes: blobs, Meta: meta}
	if err := migrating.Check(t.Context(), meta); !errors.Is(err, migrating.ErrIncomplete) {
		t.Fatalf("half a target can be served: %v", err)
	}
	_, err := migrating.Run(t.Context(), from, to, migrating.Options{})
	must(t, err)
	c.check(t, to)
}
