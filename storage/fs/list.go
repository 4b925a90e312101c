package fs

import (
	"context"
	"errors"
	"io/fs"
	"iter"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/berth-registry/berth/internal/durable"
	"github.com/berth-registry/berth/storage"
)

// List lists the files that are blobs, one directory of them in memory at a time.
func (b *Blobs) List(ctx context.Context, after digest.Digest) iter.Seq2[storage.BlobInfo, error] {
	return func(yield func(storage.BlobInfo, error) bool) {
		for _, alg := range []digest.Algorithm{digest.SHA256, digest.SHA512} {
			more, err := b.listAlgorithm(ctx, alg, after, yield)
			if err != nil {
				yield(storage.BlobInfo{}, storage.Classify(err))
				return
			}
			if !more {
				return
			}
		}
	}
}

func (b *Blobs) listAlgorithm(ctx context.Context, alg digest.Algorithm, after digest.Digest, yield func(storage.BlobInfo, error) bool) (more bool, err error) {
	dir := filepath.Join(b.blobs, string(alg))
	parts, err := os.ReadDir(dir) // sorted by name, as those below are
	if errors.Is(err, fs.ErrNotExist) {
		return true, nil
	}
	for _, part := range parts {
		if last := string(alg) + ":" + part.Name() + "g"; last < string(after) {
			continue // all that it holds is before after: a hash has no "g"
		}
		entries, err := os.ReadDir(filepath.Join(dir, part.Name()))
		if err != nil {
			return false, err
		}
		for _, e := range entries {
			d := digest.NewDigestFromEncoded(alg, e.Name())
			if d <= after || !strings.HasPrefix(e.Name(), part.Name()) || d.Validate() != nil {
				continue
			}
			fi, err := e.Info()
			if errors.Is(err, fs.ErrNotExist) || err == nil && !fi.Mode().IsRegular() {
				continue // gone since, or none of ours
			}
			if err != nil {
				return false, err
			}
			if ctx.Err() != nil {
				return false, ctx.Err()
			}
			if !yield(storage.BlobInfo{Digest: d, Size: fi.Size(), Modified: arrived(fi)}, nil) {
				return false, nil
			}
		}
	}
	return true, err
}

// arrived is when a file can have come to its place at the latest. A rename and a
// link change its ctime, and leave the time of its last write.
func arrived(fi fs.FileInfo) time.Time {
	modified := fi.ModTime()
	if st, ok := fi.Sys().(*syscall.Stat_t); ok {
		if changed := time.Unix(st.Ctim.Unix()); changed.After(modified) {
			return changed
		}
	}
	return modified
}

// Quarantine moves the file of a blob away, in the place of one that was moved
// there before.
func (b *Blobs) Quarantine(_ context.Context, d digest.Digest) error {
	defer b.lock(d)()
	from, to := b.path(d), filepath.Join(b.quarantine, string(d.Algorithm()), d.Encoded())
	if _, err := os.Lstat(from); err != nil {
		return storage.Classify(err)
	}
	if err := durable.Rename(from, to); err != nil {
		return storage.Classify(err)
	}
	if err := durable.SyncParent(from); err != nil {
		return storage.Classify(err)
	}
	return storage.Classify(b.journal.remove(d, true))
}
