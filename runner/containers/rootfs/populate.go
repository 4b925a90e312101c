package rootfs

import (
	"archive/tar"
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/berth-registry/berth/runner"
)

// Populate copies a directory of the tree, with owners, modes, times, extended
// attributes and links, into the directory dst of the host if that is empty; dst
// itself becomes like the directory. Where path is no directory there is nothing
// to copy.
//
// The copy is made on the file system of dst at staging+".new", and then moved into
// dst name by name, from staging+".full", so that it is either not there or whole:
// when it was interrupted, by the end of the daemon too, the next call with this dst
// finishes it. staging may be beside dst or, if something is mounted on dst, in it.
// Calls with one dst must not run at the same time.
func Populate(root *os.File, path, dst, staging string) error {
	staged, full := staging+newSuffix, staging+fullSuffix
	if _, err := os.Lstat(full); err == nil {
		return moveAll(full, dst)
	}
	wanted, err := Populates(dst, staging)
	if err != nil || !wanted {
		return err
	}
	if err := os.RemoveAll(staged); err != nil {
		return err
	}
	src, err := openIn(root, absolute(path), unix.O_PATH|unix.O_DIRECTORY)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENOTDIR) {
		return nil
	}
	if err != nil {
		return pathError("open", path, err)
	}
	defer src.Close()
	if err := os.Mkdir(staged, 0o700); err != nil {
		return err
	}
	if err := copyTree(src, staged); err != nil {
		return errors.Join(err, os.RemoveAll(staged))
	}
	if err := os.Rename(staged, full); err != nil {
		return err
	}
	return moveAll(full, dst)
}

const (
	newSuffix  = ".new"  // of a copy that is being made
	fullSuffix = ".full" // of one that is whole
)

// Populates says whether Populate would do something with dst: it is empty, or a
// call was interrupted.
func Populates(dst, staging string) (bool, error) {
	if _, err := os.Lstat(staging + fullSuffix); err == nil {
		return true, nil
	}
	dir, err := os.Open(dst)
	if err != nil {
		return false, err
	}
	defer dir.Close()
	names, err := dir.Readdirnames(2)
	if err != nil && !errors.Is(err, io.EOF) {
		return false, err
	}
	for _, name := range names {
		if filepath.Join(dst, name) != staging+newSuffix {
			return false, nil
		}
	}
	return true, nil
}

// copyTree makes the empty directory dst like src.
func copyTree(src *os.File, dst string) error {
	root, err := os.Open(dst)
	if err != nil {
		return err
	}
	defer root.Close()
	x, err := newExtractor(root, "/", runner.ArchiveOptions{}, nil)
	if err != nil {
		return err
	}
	defer x.close()
	x.top = true
	pr, pw := io.Pipe()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		pw.CloseWithError(archive(ctx, pw, func(t *tarWriter) error {
			t.exact = true
			return t.add(src, ".")
		}))
	}()
	err = x.all(tar.NewReader(pr))
	cancel()
	pr.Close()
	<-done
	return err
}

// moveAll moves what is in the directory from, and how it is itself, to the
// directory to, and removes from.
func moveAll(from, to string) error {
	meta, err := dirMetadata(from)
	if err != nil {
		return err
	}
	names, err := os.ReadDir(from)
	if err != nil {
		return err
	}
	for _, name := range names {
		if err := os.Rename(filepath.Join(from, name.Name()), filepath.Join(to, name.Name())); err != nil {
			return err
		}
	}
	dst, err := os.Open(to)
	if err != nil {
		return err
	}
	defer dst.Close()
	if err := meta.apply(dst); err != nil {
		return err
	}
	if err := os.Remove(from); err != nil {
		return err
	}
	return meta.apply(dst) // where from was in it, its time has changed
}

func dirMetadata(name string) (metadata, error) {
	dir, err := os.Open(name)
	if err != nil {
		return metadata{}, err
	}
	defer dir.Close()
	var st unix.Statx_t
	if err := statx(dir, &st); err != nil {
		return metadata{}, err
	}
	found, err := xattrs(dir)
	return metadata{
		owner:  Owner{int(st.Uid), int(st.Gid)},
		mode:   uint32(st.Mode) & 0o7777,
		kind:   unix.S_IFDIR,
		mtime:  time.Unix(st.Mtime.Sec, int64(st.Mtime.Nsec)),
		xattrs: found,
	}, err
}
