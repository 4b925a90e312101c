package s3

import (
	"fmt"
	"log/slog"
	"os"
	"sync/atomic"
	"testing"
	"time"

	"github.com/minio/minio-go/v7"

	"github.com/berth-registry/berth/e2e/berthtest"
	"github.com/berth-registry/berth/storage"
	"github.com/berth-registry/berth/storage/mem"
	"github.com/berth-registry/berth/storage/storagetest"
)

var prefixes atomic.Int64

// options are how to use a server, below a prefix that nobody else has.
func options(t testing.TB, s *berthtest.S3) Options {
	return Options{
		Endpoint: s.Endpoint, Bucket: s.Bucket, Region: s.Region, AccessKey: s.AccessKey, SecretKey: s.SecretKey,
		Prefix: fmt.Sprintf("some/prefix-%d", prefixes.Add(1)), PartSize: minPart, Timeout: 5 * time.Second,
		Meta: mem.NewMeta(), Log: slog.New(slog.NewTextHandler(t.Output(), nil)),
	}
}

func open(t testing.TB, o Options) *Blobs {
	t.Helper()
	b, err := Open(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = b.Close() })
	b.pause = 2 * time.Millisecond
	return b
}

func TestMain(m *testing.M) {
	minio.DefaultRetryUnit = time.Millisecond // it waits after each error, although it does not try again
	os.Exit(m.Run())
}

func TestBlobs(t *testing.T) {
	s := berthtest.StartS3(t)
	for _, redirect := range []bool{false, true} {
		t.Run(fmt.Sprintf("redirect %v", redirect), func(t *testing.T) {
			storagetest.TestBlobs(t, func(t *testing.T) storage.Blobs {
				o := options(t, s)
				o.Redirect = redirect
				return open(t, o)
			})
		})
	}
}

func TestNotes(t *testing.T) {
	storagetest.TestNotes(t, open(t, options(t, berthtest.StartS3(t))))
}

func TestBlobsReopen(t *testing.T) {
	s := berthtest.StartS3(t)
	o := options(t, s)
	storagetest.TestBlobsReopen(t, func(t *testing.T, _ string) storage.Blobs { return open(t, o) })
}

func writeFile(t testing.TB, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}
