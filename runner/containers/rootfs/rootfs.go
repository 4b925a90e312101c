// Package rootfs reads and writes the file trees of containers.
package rootfs

import (
	"context"
	"errors"
	"io"
	"os"

	"github.com/moby/moby/api/types/container"

	"github.com/berth-registry/berth/runner"
)

var errNotYet = errors.New("not yet")

// Stat describes what is at path.
func Stat(root *os.File, path string) (container.PathStat, error) {
	return container.PathStat{}, errNotYet
}

// Archive returns a tar archive of what is at path.
func Archive(root *os.File, path string) (io.ReadCloser, container.PathStat, error) {
	return nil, container.PathStat{}, errNotYet
}

// Owner is the user and the group that own files.
type Owner struct{ UID, GID int }

// Extract unpacks an archive into the directory dir.
func Extract(root *os.File, dir string, opts runner.ArchiveOptions, r io.Reader) error {
	return ExtractOwned(root, dir, opts, nil, r)
}

// ExtractOwned is Extract, and the files are the owner's if there is one.
func ExtractOwned(root *os.File, dir string, opts runner.ArchiveOptions, owner *Owner, r io.Reader) error {
	return errNotYet
}

// Changes lists what upper changes of lower, the topmost first.
func Changes(lower []string, upper string, skip []string) ([]container.FilesystemChange, error) {
	return nil, errNotYet
}

// Export writes the whole tree as a tar archive.
func Export(ctx context.Context, root *os.File, w io.Writer) error { return errNotYet }

// Usage is the size of the files below a directory.
func Usage(upper string) (int64, error) { return 0, errNotYet }

// UsageAll is the size of the files below all the directories.
func UsageAll(dirs []string) (int64, error) { return 0, errNotYet }

// Open opens a regular file to be read.
func Open(root *os.File, path string) (*os.File, error) { return nil, errNotYet }

// Populate copies a directory of the tree into the empty directory dst.
func Populate(root *os.File, path, dst string) error { return errNotYet }
