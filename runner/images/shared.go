package images

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"

	"github.com/distribution/reference"
	"github.com/moby/moby/api/types/events"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"

	"github.com/berth-registry/berth/runner"
)

// Content is what an image consists of, for those who build on it.
type Content struct {
	ID       string
	Names    []reference.Named // by tag and by digest
	Manifest ocispec.Descriptor
	Config   []byte
	Platform ocispec.Platform
	DiffIDs  []digest.Digest
	Layers   []ocispec.Descriptor // from the lowest up
}

// Content returns what the image of a name or an ID consists of. It fails with
// runner.ErrNotFound.
func (s *Store) Content(_ context.Context, ref string) (Content, error) {
	e, err := s.find(ref)
	if err != nil {
		return Content{}, err
	}
	config, err := s.readBlob(digest.Digest(e.id))
	if err != nil {
		return Content{}, err
	}
	return Content{
		ID: e.id, Names: e.refs, Manifest: e.rec.Manifest, Config: config, Platform: platformOf(e.config.Platform),
		DiffIDs: e.config.RootFS.DiffIDs, Layers: e.manifest.Layers,
	}, nil
}

// LinkBlob makes a file another name of a blob of the store, and says whether the
// store has it. The file is not to be written to.
func (s *Store) LinkBlob(d digest.Digest, path string) (bool, error) {
	if err := checkDigest(d); err != nil {
		return false, err
	}
	err := os.Link(s.blobPath(d), path)
	switch {
	case errors.Is(err, fs.ErrExist):
		return true, nil
	case errors.Is(err, fs.ErrNotExist):
		return false, nil
	}
	return err == nil, err
}

// ShareTree finds the unpacked tree of a layer that lies on those of below, the
// topmost first, and keeps it until Unshare. The directory is empty if the store
// has no such tree.
func (s *Store) ShareTree(diffID digest.Digest, below []string) (dir string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	l, ok := s.layers[diffKey(diffID)]
	if !ok {
		l, ok = s.treeAbove(diffID, below)
	}
	if !ok || l.Opaque || s.lost(l) {
		return ""
	}
	s.shared[l.Dir]++
	return s.layerDir(l.Dir)
}

// treeAbove finds a layer by the trees that an image has below it. The caller
// holds mu.
func (s *Store) treeAbove(diffID digest.Digest, below []string) (layerRecord, bool) {
	for _, e := range s.images {
		for i, d := range e.config.RootFS.DiffIDs {
			if d != diffID || i != len(below) || i >= len(e.rec.Layers) {
				continue
			}
			same := true
			for j, key := range e.rec.Layers[:i] {
				same = same && s.layerDir(s.layers[key].Dir) == below[i-1-j]
			}
			if same {
				return s.layers[e.rec.Layers[i]], true
			}
		}
	}
	return layerRecord{}, false
}

// Unshare gives up a tree that ShareTree or AddBuilt has returned, once for each
// time.
func (s *Store) Unshare(dir string) {
	n, err := strconv.ParseUint(filepath.Base(dir), 10, 64)
	if err != nil || s.layerDir(n) != dir {
		return
	}
	s.writeMu.Lock()
	defer s.writeMu.Unlock()
	s.mu.Lock()
	last := s.shared[n] == 1
	if s.shared[n]--; s.shared[n] <= 0 {
		delete(s.shared, n)
	}
	known := false
	for _, l := range s.layers {
		known = known || l.Dir == n
	}
	s.mu.Unlock()
	switch {
	case !last:
	case !known:
		s.removeTree(n)
	default:
		if err := s.collect(nil, nil); err != nil {
			s.log.Warn("a layer that is no longer used is left until the next start", "dir", dir, "error", err)
		}
	}
}

// keepShared keeps the trees that others link to from the beginning.
func (s *Store) keepShared(dirs []string) {
	for _, dir := range dirs {
		n, err := strconv.ParseUint(filepath.Base(dir), 10, 64)
		if err == nil && s.layerDir(n) == dir {
			s.shared[n]++
			s.number.Store(max(s.number.Load(), n))
		}
	}
}

// Built is an image that was made elsewhere on this host.
type Built struct {
	Config []byte
	Layers []BuiltLayer // from the lowest up
	Names  []string     // that it gets; short forms allowed
}

// BuiltLayer is a layer of an image that was made elsewhere.
type BuiltLayer struct {
	Blob   ocispec.Descriptor
	DiffID digest.Digest
	// File has the blob. It becomes another name of the store's.
	File string
	// Tree is the unpacked layer in overlayfs's form, on this file system, for the
	// store to take; a symbolic link to where it is then takes its place. Empty:
	// the layer is unpacked from its blob.
	Tree string
}

// AddBuilt makes an image that was made elsewhere one of the store, and returns
// its ID. The trees that it takes are shared.
func (s *Store) AddBuilt(ctx context.Context, b Built) (id string, err error) {
	img := &newImage{configRaw: b.Config}
	for _, l := range b.Layers {
		img.manifest.Layers = append(img.manifest.Layers, dockerDescriptor(l.Blob))
	}
	if err := firstError(img.parse(), img.makeManifest()); err != nil {
		return "", err
	}
	for _, name := range b.Names {
		named, err := s.newName(name, "")
		if err != nil {
			return "", err
		}
		img.names = append(img.names, named)
	}
	for i, l := range b.Layers {
		if l.DiffID != img.config.RootFS.DiffIDs[i] {
			return "", runner.Errorf(runner.ErrInvalid, "layer %d of the image is %s in its configuration, not %s", i, img.config.RootFS.DiffIDs[i], l.DiffID)
		}
	}
	unpin := s.pin(img.pins()...)
	defer func() { s.conclude(unpin, err) }()
	taken, err := s.takeLayers(ctx, img, b.Layers)
	defer func() {
		for _, t := range taken {
			s.settleTaken(t, err)
		}
		s.releaseAll(img)
	}()
	if err != nil {
		return "", err
	}
	changed, err := s.add(ctx, img)
	if err != nil {
		return "", err
	}
	if changed {
		s.imageEvent(events.ActionCreate, img.id(), img.id())
	}
	for _, n := range img.names {
		s.imageEvent(events.ActionTag, img.id(), s.Familiar(n))
	}
	return img.id(), nil
}

// takenTree is a tree that came from elsewhere.
type takenTree struct {
	from string
	u    *unpacked
}

// takeLayers brings the layers of an image that the store has not.
func (s *Store) takeLayers(ctx context.Context, img *newImage, layers []BuiltLayer) (taken []takenTree, err error) {
	img.layers = make([]*unpacked, len(layers))
	chains := img.chainIDs()
	for i, l := range layers {
		if err := s.takeBlob(l); err != nil {
			return taken, err
		}
		s.mu.RLock()
		key := s.layerKey(l.DiffID, chains[i])
		s.mu.RUnlock()
		switch {
		case key != "":
			continue
		case l.Tree != "":
			u, err := s.takeTree(l)
			if err == nil {
				img.layers[i], taken = u, append(taken, takenTree{l.Tree, u})
				continue
			}
			if !errors.Is(err, unix.EXDEV) {
				return taken, err
			}
		}
		desc := l.Blob
		u, err := s.ingest(ctx, layerInput{
			blob: desc, diffID: l.DiffID, stored: true,
			open: func(ctx context.Context) (io.ReadCloser, error) { return s.Open(ctx, desc) },
		}, nil)
		if err != nil {
			return taken, err
		}
		u.owners = 1
		img.layers[i] = u
	}
	return taken, nil
}

// takeBlob makes the file of a layer a blob of the store. The blob is pinned.
func (s *Store) takeBlob(l BuiltLayer) error {
	d := l.Blob.Digest
	if s.hasBlob(d) {
		return nil
	}
	s.blobMu.Lock()
	defer s.blobMu.Unlock()
	err := os.Link(l.File, s.blobPath(d))
	if errors.Is(err, unix.EXDEV) {
		err = copyContent(l.File, s.blobPath(d))
	}
	if err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	s.mu.Lock()
	s.blobs[d] = blob{size: l.Blob.Size, sources: s.blobs[d].sources}
	s.mu.Unlock()
	return nil
}

// takeTree makes a directory that is elsewhere that of a layer, at once: the link
// that takes its place is there in the instant in which it has gone.
func (s *Store) takeTree(l BuiltLayer) (*unpacked, error) {
	size, err := treeSize(l.Tree)
	if err != nil {
		return nil, err
	}
	u := &unpacked{dir: s.number.Add(1), diffID: l.DiffID, blob: l.Blob, owners: 1}
	// What the differ left out of the archive as unchanged is still there, so it
	// is only good on what is below it here.
	u.tree = tree{size: size, chained: true}
	dir := s.layerDir(u.dir)
	if err := os.Symlink(dir, dir); err != nil {
		return nil, err
	}
	s.mu.Lock()
	s.shared[u.dir]++
	s.mu.Unlock()
	if err := unix.Renameat2(unix.AT_FDCWD, l.Tree, unix.AT_FDCWD, dir, unix.RENAME_EXCHANGE); err != nil {
		s.mu.Lock()
		delete(s.shared, u.dir)
		s.mu.Unlock()
		_ = os.Remove(dir)
		return nil, fmt.Errorf("take over the layer %s: %w", l.DiffID, err)
	}
	u.unpin = s.pin(l.Blob.Digest.String())
	return u, nil
}

// settleTaken gives a tree back if the image did not come about. The tree of an
// image that another was faster to make stays where it is, for him who links to
// it.
func (s *Store) settleTaken(t takenTree, err error) {
	if err == nil {
		return
	}
	dir := s.layerDir(t.u.dir)
	if err := unix.Renameat2(unix.AT_FDCWD, t.from, unix.AT_FDCWD, dir, unix.RENAME_EXCHANGE); err != nil {
		s.log.Error("a tree cannot be given back", "dir", t.from, "error", err)
		return
	}
	s.mu.Lock()
	delete(s.shared, t.u.dir)
	s.mu.Unlock()
}

// treeSize is the bytes of the files of a tree.
func treeSize(dir string) (size int64, err error) {
	seen := map[uint64]bool{}
	err = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		var st unix.Stat_t
		if err := unix.Lstat(path, &st); err != nil {
			return err
		}
		if st.Nlink == 1 || !seen[st.Ino] {
			seen[st.Ino] = true
			size += st.Size
		}
		return nil
	})
	return size, err
}
