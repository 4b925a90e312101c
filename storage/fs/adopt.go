package fs

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"syscall"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"github.com/berth-registry/berth/storage"
)

var _ storage.Adopter = (*Blobs)(nil)

// Adopt links large files, and copies small ones, whose journal is cheaper than what
// a link costs, those that cannot be linked, as they are of another file system, and
// those that somebody else could write to.
func (b *Blobs) Adopt(ctx context.Context, d digest.Digest, f *os.File) (linked bool, err error) {
	fi, err := f.Stat()
	if err != nil {
		return false, storage.Classify(err)
	}
	if fi.Size() > small && isOurs(fi) {
		err := b.link(d, f)
		if err == nil || !unlinkable(err) {
			return err == nil, storage.Classify(err)
		}
	}
	return false, b.copy(ctx, d, io.NewSectionReader(f, 0, fi.Size()))
}

// isOurs says that a file belongs to who this is, and that nobody else may write to
// it.
func isOurs(fi fs.FileInfo) bool {
	st, ok := fi.Sys().(*syscall.Stat_t)
	return ok && int(st.Uid) == os.Geteuid() && fi.Mode().Perm()&0o022 == 0
}

// link gives the very file that is open another name, whatever its own name leads to
// by now.
func (b *Blobs) link(d digest.Digest, f *os.File) error {
	path := b.stagePath("adopt-" + rand.Text())
	if err := unix.Linkat(unix.AT_FDCWD, fmt.Sprintf("/proc/self/fd/%d", f.Fd()), unix.AT_FDCWD, path, unix.AT_SYMLINK_FOLLOW); err != nil {
		return err
	}
	err := f.Sync()
	if err == nil {
		err = b.putStage(d, path)
	}
	// If the blob was the same file already, to rename it has done nothing.
	if rerr := os.Remove(path); rerr != nil && !errors.Is(rerr, fs.ErrNotExist) {
		err = errors.Join(err, rerr)
	}
	return err
}

// unlinkable says that a file cannot have another name, but could be copied.
func unlinkable(err error) bool {
	for _, e := range []error{unix.EXDEV, unix.EPERM, unix.EACCES, unix.EMLINK, unix.EOPNOTSUPP, unix.ENOSYS, unix.ENOENT} {
		if errors.Is(err, e) { // ENOENT: it has no name any more, or there is no /proc
			return true
		}
	}
	return false
}

// copy stores what r reads.
func (b *Blobs) copy(ctx context.Context, d digest.Digest, r io.Reader) error {
	id := "adopt-" + rand.Text()
	stage, err := b.Stage(ctx, id, 0)
	if err != nil {
		return err
	}
	if _, err = io.Copy(stage, r); err == nil {
		err = stage.Commit(d)
	}
	if cerr := stage.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return errors.Join(storage.Classify(err), b.Discard(context.WithoutCancel(ctx), id))
	}
	return nil
}
