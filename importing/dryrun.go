package importing

import (
	"context"
	"io"
	"os"
	"sync"

	"github.com/opencontainers/go-digest"

	"github.com/berth-registry/berth/registry"
	"github.com/berth-registry/berth/storage"
	"github.com/berth-registry/berth/storage/mem"
)

// DryRun finds out what Import would do with an empty destination: all is read and
// checked, and kept nowhere.
func DryRun(ctx context.Context, path string, o Options) (Report, error) {
	local, err := registry.NewLocal(ctx, &seenBlobs{Blobs: mem.NewBlobs(), files: map[digest.Digest]string{}}, mem.NewMeta(), registry.Options{})
	if err != nil {
		return Report{}, err
	}
	defer local.Close()
	report, err := Import(ctx, path, local, o)
	report.Linked = 0 // whether the kernel links is known when it is asked
	return report, err
}

// seenBlobs has as blobs the files that it has seen, where they are.
type seenBlobs struct {
	storage.Blobs
	mu    sync.Mutex
	files map[digest.Digest]string
}

// Adopt implements storage.Adopter.
func (b *seenBlobs) Adopt(_ context.Context, d digest.Digest, f *os.File) (bool, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.files[d] = f.Name()
	return true, nil
}

func (b *seenBlobs) file(d digest.Digest) (string, bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	path, ok := b.files[d]
	return path, ok
}

// Open implements storage.Blobs.
func (b *seenBlobs) Open(ctx context.Context, d digest.Digest) (io.ReadSeekCloser, error) {
	if path, ok := b.file(d); ok {
		return openFile(path)
	}
	return b.Blobs.Open(ctx, d)
}

// Size implements storage.Blobs.
func (b *seenBlobs) Size(ctx context.Context, d digest.Digest) (int64, error) {
	path, ok := b.file(d)
	if !ok {
		return b.Blobs.Size(ctx, d)
	}
	fi, err := os.Stat(path)
	if err != nil {
		return 0, err
	}
	return fi.Size(), nil
}
