package images

import (
	"archive/tar"
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/berth-registry/berth/runner"
)

// In a layer's archive a file of the name .wh.NAME deletes NAME of the layers
// below, and .wh..wh..opq all of them in its directory.
const (
	whiteoutPrefix = ".wh."
	whiteoutMeta   = ".wh..wh."
	whiteoutOpaque = ".wh..wh..opq"

	opaqueXattr = "trusted.overlay.opaque"
)

const (
	maxName  = 4096 // bytes of an entry's name, as in the kernel
	maxDepth = 255  // directories, one in the other

	// maxRemembered bounds the bytes of names that an extractor keeps.
	maxRemembered = 64 << 20

	copyBuffer = 256 << 10
)

// tree is what an archive left in its directory, and what is still to be done
// when the layers below are known.
type tree struct {
	size    int64 // of its files
	entries int64
	opaque  bool // hides all that is below
	implied []string
	links   []hardLink
	chained bool // it is only good on what it was made on
}

// standsAlone says whether the tree is the same whatever is below it.
func (t tree) standsAlone() bool { return len(t.implied) == 0 && len(t.links) == 0 && !t.chained }

// hardLink is a file whose content is that of a file of a layer below.
type hardLink struct{ name, target string }

// extractor unpacks one layer into a directory that no one else has.
//
// Every entry is made relative to the open directory that holds it, which is
// reached from the root without following a symbolic link: one that is in the way
// is resolved here, by name, as if the layer's root were the host's, and one that
// climbs above it is an error.
type extractor struct {
	root    int // the open directory
	budget  *budget
	buf     []byte
	tree    tree
	implied map[string]bool
	dirs    []dirTime
	kept    int // bytes of names in implied and dirs

	parent     int // the directory of the last entry, open; -1 if none
	parentName string
	parentAs   string // its name as the entry had it
	stale      bool   // something was removed since: the name may mean another
}

type dirTime struct {
	name  string
	times [2]unix.Timespec
}

// extract unpacks the tar archive r into the directory dir.
func extract(ctx context.Context, dir string, r io.Reader, b *budget) (tree, error) {
	root, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return tree{}, &os.PathError{Op: "open", Path: dir, Err: err}
	}
	defer func() { _ = unix.Close(root) }()
	x := &extractor{root: root, budget: b, buf: make([]byte, copyBuffer), implied: map[string]bool{}, parent: -1}
	defer x.forget()

	tr := tar.NewReader(bufio.NewReaderSize(r, copyBuffer))
	for {
		hdr, err := tr.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			if errors.Is(err, errBudget) {
				return tree{}, err
			}
			return tree{}, streamError{err}
		}
		if err := ctx.Err(); err != nil {
			return tree{}, err
		}
		if err := b.entry(); err != nil {
			return tree{}, err
		}
		x.tree.entries++
		if err := x.entry(hdr, tr); err != nil {
			if errors.Is(err, errBudget) {
				return tree{}, err
			}
			return tree{}, fmt.Errorf("entry %q: %w", shorten(hdr.Name), err)
		}
	}
	x.finish()
	return x.tree, nil
}

// streamError says that the archive could not be read: what feeds it may know
// why.
type streamError struct{ error }

func (e streamError) Unwrap() error { return e.error }

// badEntry is the error of an entry that no honest archive has.
func badEntry(format string, args ...any) error {
	return runner.Errorf(runner.ErrInvalid, format, args...)
}

func shorten(name string) string {
	if len(name) > 200 {
		return name[:200] + "…"
	}
	return name
}

// entry makes one entry.
func (x *extractor) entry(hdr *tar.Header, r io.Reader) error {
	if hdr.Typeflag == tar.TypeXGlobalHeader {
		return nil
	}
	name, err := cleanName(hdr.Name)
	if err != nil {
		return err
	}
	if name == "" {
		if hdr.Typeflag != tar.TypeDir {
			return badEntry("the root of a layer is no directory")
		}
		return x.attributes(x.root, ".", hdr, true)
	}
	dir, base := path.Split(name)
	dir = strings.TrimSuffix(dir, "/")
	if strings.HasPrefix(name, whiteoutMeta) && base != whiteoutOpaque {
		return nil // what AUFS kept for itself
	}
	if err := x.enter(dir); err != nil {
		return err
	}
	if strings.HasPrefix(base, whiteoutPrefix) {
		return x.whiteout(hdr, base)
	}
	return x.make(hdr, base, r)
}

// cleanName returns the name of an entry relative to the root, without a slash at
// its ends; it is empty for the root.
func cleanName(name string) (string, error) {
	if len(name) > maxName {
		return "", badEntry("a name of %d bytes", len(name))
	}
	clean := path.Clean(strings.TrimLeft(name, "/"))
	if clean == "." {
		return "", nil
	}
	if clean == ".." || strings.HasPrefix(clean, "../") {
		return "", badEntry("climbs out of its layer")
	}
	if strings.Count(clean, "/") > maxDepth {
		return "", badEntry("more than %d directories deep", maxDepth)
	}
	return clean, nil
}

// finish gives directories the times that making their entries has changed.
func (x *extractor) finish() {
	for _, d := range x.dirs {
		dir, base := path.Split(d.name)
		fd, err := openBeneath(x.root, strings.TrimSuffix(dir, "/"))
		if err != nil {
			continue // a later entry replaced it
		}
		_ = unix.UtimesNanoAt(fd, base, d.times[:], unix.AT_SYMLINK_NOFOLLOW)
		_ = unix.Close(fd)
	}
	for name := range x.implied {
		x.tree.implied = append(x.tree.implied, name)
	}
}
