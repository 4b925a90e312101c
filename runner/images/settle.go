package images

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"github.com/berth-registry/berth/runner"
)

// diffKey is the key of a layer whose tree is the same whatever is below it, and
// chainKey that of one whose is not.
func diffKey(d digest.Digest) string  { return d.String() }
func chainKey(d digest.Digest) string { return "chain:" + d.String() }

// layerKey returns the key of the layer that the store has for a place in an
// image, or an empty one. The caller holds mu.
func (s *Store) layerKey(diffID, chainID digest.Digest) string {
	for _, key := range []string{diffKey(diffID), chainKey(chainID)} {
		if l, ok := s.layers[key]; ok && !s.lost(l) {
			return key
		}
	}
	return ""
}

// lost says whether a layer's tree went with the memory of a host that is down
// since.
func (s *Store) lost(l layerRecord) bool { return l.Boot != "" && l.Boot != s.boot }

// has says which layers of an image are in the store, packed and unpacked.
func (s *Store) has(img *newImage) []bool {
	s.mu.RLock()
	defer s.mu.RUnlock()
	had := make([]bool, len(img.manifest.Layers))
	for i, chain := range img.chainIDs() {
		_, packed := s.blobs[img.manifest.Layers[i].Digest]
		had[i] = packed && s.layerKey(img.config.RootFS.DiffIDs[i], chain) != ""
	}
	return had
}

// complete says whether the image is there, with all its layers.
func (s *Store) complete(img *newImage, had []bool) bool {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.images[img.id()].visible() && !slices.Contains(had, false)
}

// settle gives each layer of an image its place: the one that the store has, or
// the one that was ingested, made whole by what is below it. It returns the keys
// and the records to be written. The caller holds writeMu.
func (s *Store) settle(ctx context.Context, img *newImage) (keys []string, records map[string]layerRecord, err error) {
	records = map[string]layerRecord{}
	var below []string // the topmost first
	for i, chain := range img.chainIDs() {
		diffID := img.config.RootFS.DiffIDs[i]
		key, l := s.settled(records, diffID, chain)
		if key == "" {
			u := img.layers[i]
			if u == nil || !u.tree.standsAlone() && s.taken(u, records) {
				// It was an image's that has gone, or another has made it its own.
				if u, err = s.again(ctx, img, i); err != nil {
					return nil, nil, err
				}
				defer s.release(u) //nolint:gocritic // it is held until all are settled
			}
			key = diffKey(diffID)
			if !u.tree.standsAlone() {
				key = chainKey(chain)
				if err := complete(s.layerDir(u.dir), u.tree, below); err != nil {
					return nil, nil, fmt.Errorf("failed to register layer %s: %w", diffID, err)
				}
			}
			l = layerRecord{Dir: u.dir, DiffID: diffID, Size: u.tree.size, Opaque: u.tree.opaque, Boot: s.boot}
			records[key] = l
		}
		keys = append(keys, key)
		if l.Opaque {
			below = nil
		}
		below = slices.Insert(below, 0, s.layerDir(l.Dir))
	}
	return keys, records, nil
}

// settled finds a layer among those that are about to be written and those of
// the store.
func (s *Store) settled(records map[string]layerRecord, diffID, chain digest.Digest) (string, layerRecord) {
	for _, key := range []string{diffKey(diffID), chainKey(chain)} {
		if l, ok := records[key]; ok {
			return key, l
		}
	}
	s.mu.RLock()
	defer s.mu.RUnlock()
	key := s.layerKey(diffID, chain)
	return key, s.layers[key]
}

// taken says whether a layer's tree has become that of a key already.
func (s *Store) taken(u *unpacked, records map[string]layerRecord) bool {
	for _, l := range records {
		if l.Dir == u.dir {
			return true
		}
	}
	s.mu.RLock()
	defer s.mu.RUnlock()
	for _, l := range s.layers {
		if l.Dir == u.dir {
			return true
		}
	}
	return false
}

// again unpacks a layer of an image once more from its blob.
func (s *Store) again(ctx context.Context, img *newImage, i int) (*unpacked, error) {
	desc := img.manifest.Layers[i]
	u, err := s.ingest(ctx, layerInput{
		blob: desc, diffID: img.config.RootFS.DiffIDs[i], stored: true,
		open: func(ctx context.Context) (io.ReadCloser, error) { return s.Open(ctx, desc) },
	}, nil)
	if err == nil {
		u.owners = 1
	}
	return u, err
}

// complete does to a tree what needs the layers below it: directories that no
// entry told of are as they are there, and hard links to files of theirs become
// copies.
func complete(dir string, t tree, below []string) error {
	slices.Sort(t.implied)
	for _, name := range t.implied {
		layer, st, err := lookup(below, name)
		if errors.Is(err, unix.ENOENT) || err == nil && st.Mode&unix.S_IFMT != unix.S_IFDIR {
			continue
		}
		if err == nil {
			err = copyAttributes(filepath.Join(layer, name), filepath.Join(dir, name), &st)
		}
		if err != nil && !errors.Is(err, unix.ENOTDIR) {
			return err
		}
	}
	for _, l := range t.links {
		if err := copyLink(dir, l, below); err != nil {
			return fmt.Errorf("hard link %q to %q: %w", shorten(l.name), shorten(l.target), err)
		}
	}
	return nil
}

// copyLink makes a hard link whose file is of this layer after all, or else a
// copy of that of a layer below.
func copyLink(dir string, l hardLink, below []string) error {
	root, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(root) }()
	parent, base := filepath.Split(l.name)
	pfd, err := openBeneath(root, strings.TrimSuffix(parent, "/"))
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(pfd) }()
	var was unix.Stat_t
	if err := unix.Fstat(pfd, &was); err != nil {
		return err
	}
	layer, st, err := lookup(append([]string{dir}, below...), l.target)
	if err != nil || st.Mode&unix.S_IFMT == unix.S_IFDIR {
		return runner.Errorf(runner.ErrInvalid, "no layer has that file")
	}
	_ = unix.Unlinkat(pfd, base, 0)
	from, to := filepath.Join(layer, l.target), fmt.Sprintf("/proc/self/fd/%d/%s", pfd, base)
	if layer == dir {
		err = os.Link(from, to)
	} else {
		err = copyFile(from, to, &st)
	}
	if err != nil {
		return err
	}
	return unix.UtimesNanoAt(root, strings.TrimSuffix("./"+parent, "/"), []unix.Timespec{was.Atim, was.Mtim}, unix.AT_SYMLINK_NOFOLLOW)
}

// copyFile copies what is no directory, with its attributes.
func copyFile(from, to string, st *unix.Stat_t) error {
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		if err := copyContent(from, to); err != nil {
			return err
		}
	case unix.S_IFLNK:
		target, err := os.Readlink(from)
		if err != nil {
			return err
		}
		if err := os.Symlink(target, to); err != nil {
			return err
		}
	default:
		if err := unix.Mknod(to, st.Mode, int(st.Rdev)); err != nil {
			return err
		}
	}
	return copyAttributes(from, to, st)
}

func copyContent(from, to string) error {
	in, err := os.OpenFile(from, os.O_RDONLY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	if cerr := out.Close(); err == nil {
		err = cerr
	}
	return err
}

// copyAttributes gives owner, mode, times and extended attributes.
func copyAttributes(from, to string, st *unix.Stat_t) error {
	if err := unix.Lchown(to, int(st.Uid), int(st.Gid)); err != nil {
		return err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFLNK {
		if err := unix.Chmod(to, st.Mode&0o7777); err != nil {
			return err
		}
	}
	names, err := xattrNames(from)
	if err != nil {
		return err
	}
	for _, name := range names {
		if strings.HasPrefix(name, "trusted.overlay.") {
			continue
		}
		value, err := xattr(from, name)
		if err == nil {
			err = unix.Lsetxattr(to, name, value, 0)
		}
		if err != nil && !errors.Is(err, unix.ENODATA) && !errors.Is(err, unix.ENOTSUP) {
			return err
		}
	}
	return unix.UtimesNanoAt(unix.AT_FDCWD, to, []unix.Timespec{st.Atim, st.Mtim}, unix.AT_SYMLINK_NOFOLLOW)
}

func xattrNames(path string) ([]string, error) {
	b := make([]byte, 1<<16) // the kernel's limit
	n, err := unix.Llistxattr(path, b)
	if errors.Is(err, unix.ENOTSUP) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return strings.FieldsFunc(string(b[:n]), func(r rune) bool { return r == 0 }), nil
}

func xattr(path, name string) ([]byte, error) {
	b := make([]byte, 1<<16)
	n, err := unix.Lgetxattr(path, name, b)
	if err != nil {
		return nil, err
	}
	return b[:n], nil
}
