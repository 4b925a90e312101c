package main

import (
	"context"
	"testing"
	"time"

	"github.com/berth-registry/berth/e2e/berthtest"
	"github.com/berth-registry/berth/internal/config"
	"github.com/berth-registry/berth/storage/bolt"
	"github.com/berth-registry/berth/storage/mem"
	"github.com/berth-registry/berth/storage/postgres"
	"github.com/berth-registry/berth/storage/postgres/postgrestest"
	"github.com/berth-registry/berth/storage/s3"
)

// tried runs r until the test ends.
func tried(t *testing.T, r *readiness) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		r.run(ctx)
	}()
	t.Cleanup(func() { cancel(); <-done })
}

// becomes waits until r says what is wanted, "" for ready, and returns after what time it
// does. An answer comes at once whatever it is.
func becomes(t *testing.T, r *readiness, want string) time.Duration {
	t.Helper()
	for begin := time.Now(); ; time.Sleep(10 * time.Millisecond) {
		asked, got := time.Now(), ""
		if err := r.check(t.Context()); err != nil {
			got = err.Error()
		}
		if took := time.Since(asked); took > time.Second {
			t.Fatalf("an answer took %v", took)
		}
		after := time.Since(begin)
		if got == want {
			return after
		}
		if after > time.Minute {
			t.Fatalf("it says %q, want %q", got, want)
		}
	}
}

// TestReadyWithoutDatabase has a server not be ready while its database is away for more
// than a moment, and be so again by itself.
func TestReadyWithoutDatabase(t *testing.T) {
	t.Parallel()
	server := postgrestest.New(t, postgrestest.Options{})
	meta, err := postgres.Open(t.Context(), postgres.Options{DSN: server.DSN()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = meta.Close() })
	r := newReadiness(config.Storage{Postgres: config.Postgres{DSN: server.DSN()}}, meta, mem.NewBlobs())
	tried(t, r)
	becomes(t, r, "")
	server.Stop()
	if after := becomes(t, r, "the metadata cannot be reached"); after < readyPatience-readyEvery-answerTime {
		t.Errorf("not ready after %v", after)
	}
	server.Start()
	becomes(t, r, "")
}

// TestReadyWithoutBlobs does the same to the store of blobs.
func TestReadyWithoutBlobs(t *testing.T) {
	t.Parallel()
	server := berthtest.StartS3(t)
	meta := mem.NewMeta()
	blobs, err := s3.Open(t.Context(), s3.Options{
		Endpoint: server.Endpoint, Bucket: server.Bucket, AccessKey: server.AccessKey, SecretKey: server.SecretKey,
		PathStyle: true, Temp: t.TempDir(), Meta: meta,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = blobs.Close() })
	r := newReadiness(config.Storage{S3: config.S3{Bucket: server.Bucket}}, meta, blobs)
	tried(t, r)
	becomes(t, r, "")
	server.Kill()
	becomes(t, r, "the store of blobs cannot be reached")
	server.Start()
	becomes(t, r, "")
}

// TestReadyAlone has a server whose data is in its directory be ready as long as it can
// be read.
func TestReadyAlone(t *testing.T) {
	meta, err := bolt.Open(t.TempDir() + "/meta.db")
	if err != nil {
		t.Fatal(err)
	}
	r := newReadiness(config.Storage{}, meta, mem.NewBlobs())
	becomes(t, r, "")
	if err := meta.Close(); err != nil {
		t.Fatal(err)
	}
	if r.check(t.Context()) == nil {
		t.Error("ready without metadata")
	}
}
