package importing

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/berth-registry/berth/registry"
)

// source is what is taken over.
type source interface {
	// repositories tells each of the repositories, one after the other, and skip of
	// what is none.
	repositories(ctx context.Context, skip func(Problem), each func(*repository) error) error
	// path is the file of a blob.
	path(d digest.Digest) string
}

// repository is what a repository of the source has.
type repository struct {
	name      string
	manifests []digest.Digest
	tags      []tag
}

type tag struct {
	name   string
	digest digest.Digest
	pushed time.Time // zero if it is not known
}

const (
	// maxLink is the greatest size of a link in bytes: a digest.
	maxLink = 1024
	// maxLayoutIndex is the greatest size of a layout's index in bytes.
	maxLayoutIndex = 64 << 20
)

// openSource finds out what there is at a path.
func openSource(path, repo string) (source, error) {
	path, err := filepath.EvalSymlinks(path)
	if err != nil {
		return nil, fmt.Errorf("cannot read what is to be imported: %w", err)
	}
	if _, err := os.Stat(filepath.Join(path, ocispec.ImageLayoutFile)); err == nil {
		if repo == "" {
			return nil, errors.New("an OCI layout does not say which repository it is: name one")
		}
		return &layout{dir: path, repo: repo}, nil
	}
	for _, below := range []string{"docker/registry/v2", "registry/v2", "v2", ""} {
		dir := filepath.Join(path, below)
		if isDir(filepath.Join(dir, "repositories")) && isDir(filepath.Join(dir, "blobs")) {
			if repo != "" {
				return nil, errors.New("the data of a registry says which repositories there are: name none")
			}
			return &distribution{dir: dir}, nil
		}
	}
	return nil, fmt.Errorf("%s is neither the data of a registry (it has no docker/registry/v2) nor an OCI layout (it has no %s)", path, ocispec.ImageLayoutFile)
}

func isDir(path string) bool {
	fi, err := os.Stat(path)
	return err == nil && fi.IsDir()
}

// distribution is the data directory of the CNCF distribution registry:
//
//	repositories/NAME/_manifests/revisions/ALGORITHM/HASH/link
//	repositories/NAME/_manifests/tags/TAG/current/link
//	repositories/NAME/_layers/ALGORITHM/HASH/link
//	blobs/ALGORITHM/TWO DIGITS/HASH/data
//
// A link holds a digest. A revision whose link is gone was deleted.
type distribution struct{ dir string }

func (s *distribution) path(d digest.Digest) string {
	hex := d.Encoded()
	return filepath.Join(s.dir, "blobs", string(d.Algorithm()), hex[:2], hex, "data")
}

func (s *distribution) repositories(ctx context.Context, skip func(Problem), each func(*repository) error) error {
	root := filepath.Join(s.dir, "repositories")
	return filepath.WalkDir(root, func(path string, e fs.DirEntry, err error) error {
		if cerr := ctx.Err(); cerr != nil {
			return cerr
		}
		name, _ := filepath.Rel(root, path) // path is below root
		switch {
		case err != nil && name == ".":
			return fmt.Errorf("cannot list the repositories: %w", err)
		case errors.Is(err, fs.ErrNotExist):
			return nil // gone since
		case err != nil:
			skip(Problem{What: name, Reason: reason(err)})
			return nil
		case e.Type()&fs.ModeSymlink != 0:
			skip(Problem{What: name, Reason: "is a symbolic link: import where it leads to"})
			return nil
		case !e.IsDir() || name == ".":
			return nil
		case e.Name() == "_manifests":
			return fs.SkipDir
		case strings.HasPrefix(e.Name(), "_"):
			return fs.SkipDir
		case !isDir(filepath.Join(path, "_manifests")):
			return nil
		case !registry.ValidRepository(name):
			skip(Problem{What: name, Reason: "is no name that a repository can have"})
			return nil
		}
		r := &repository{name: name}
		s.revisions(filepath.Join(path, "_manifests", "revisions"), r, skip)
		s.tags(filepath.Join(path, "_manifests", "tags"), r, skip)
		return each(r)
	})
}

// revisions lists the manifests of a repository.
func (s *distribution) revisions(dir string, r *repository, skip func(Problem)) {
	for _, alg := range list(dir, r.name, skip) {
		for _, hash := range list(filepath.Join(dir, alg), r.name, skip) {
			path := filepath.Join(dir, alg, hash, "link")
			d, _, err := readLink(path)
			if errors.Is(err, fs.ErrNotExist) {
				continue // it was deleted
			}
			if err == nil && string(d) != alg+":"+hash {
				err = fmt.Errorf("the link of %s:%s leads to %s", alg, hash, d)
			}
			if err != nil {
				skip(Problem{Repo: r.name, What: alg + ":" + hash, Reason: reason(err)})
				continue
			}
			r.manifests = append(r.manifests, d)
		}
	}
}

// tags lists the tags of a repository.
func (s *distribution) tags(dir string, r *repository, skip func(Problem)) {
	for _, name := range list(dir, r.name, skip) {
		d, written, err := readLink(filepath.Join(dir, name, "current", "link"))
		switch {
		case !registry.ValidTag(name):
			skip(Problem{Repo: r.name, What: name, Reason: "is no name that a tag can have"})
		case errors.Is(err, fs.ErrNotExist):
			skip(Problem{Repo: r.name, What: name, Reason: "the tag has no link to a manifest"})
		case err != nil:
			skip(Problem{Repo: r.name, What: name, Reason: reason(err)})
		default:
			r.tags = append(r.tags, tag{name, d, written})
		}
	}
}

// list lists the names of a directory, if it is there.
func list(dir, repo string, skip func(Problem)) (names []string) {
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		skip(Problem{Repo: repo, What: filepath.Base(dir), Reason: reason(err)})
	}
	for _, e := range entries {
		if e.IsDir() {
			names = append(names, e.Name())
		}
	}
	return names
}

// readLink reads the digest that a link holds, and when it was written.
func readLink(path string) (d digest.Digest, written time.Time, err error) {
	f, err := openFile(path)
	if err != nil {
		return "", written, err
	}
	defer f.Close()
	fi, err := f.Stat()
	if err != nil {
		return "", written, err
	}
	data, err := io.ReadAll(io.LimitReader(f, maxLink))
	if err != nil {
		return "", written, err
	}
	text := strings.TrimSpace(string(data))
	if text == "" {
		return "", written, errors.New("its link is empty")
	}
	d, err = registry.ParseDigest(text)
	if err != nil {
		return "", written, errors.New("its link holds no digest")
	}
	return d, fi.ModTime(), nil
}

// openFile opens a plain file: to open another may never end.
func openFile(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	fi, err := f.Stat()
	if err == nil && !fi.Mode().IsRegular() {
		err = errors.New("is no file")
	}
	if err != nil {
		_ = f.Close() // it was not even read
		return nil, err
	}
	return f, nil
}

// reason says what is wrong with a file, without its path.
func reason(err error) string {
	if p, ok := errors.AsType[*fs.PathError](err); ok {
		return p.Err.Error()
	}
	return err.Error()
}

// layout is an OCI image layout (image specification, "Image Layout").
type layout struct{ dir, repo string }

func (s *layout) path(d digest.Digest) string {
	return filepath.Join(s.dir, ocispec.ImageBlobsDir, string(d.Algorithm()), d.Encoded())
}

func (s *layout) repositories(_ context.Context, skip func(Problem), each func(*repository) error) error {
	f, err := openFile(filepath.Join(s.dir, ocispec.ImageIndexFile))
	if err != nil {
		return fmt.Errorf("cannot read the layout: %w", err)
	}
	defer f.Close()
	var index struct {
		Manifests []ocispec.Descriptor `json:"manifests"`
	}
	if err := json.NewDecoder(io.LimitReader(f, maxLayoutIndex)).Decode(&index); err != nil {
		return fmt.Errorf("cannot read the layout's %s: %w", ocispec.ImageIndexFile, err)
	}
	r := &repository{name: s.repo}
	for _, m := range index.Manifests {
		d, err := registry.ParseDigest(string(m.Digest))
		if err != nil {
			skip(Problem{Repo: s.repo, What: fmt.Sprintf("%.100q", m.Digest), Reason: "is no digest"})
			continue
		}
		r.manifests = append(r.manifests, d)
		name := m.Annotations[ocispec.AnnotationRefName]
		if name == "" {
			continue
		}
		if i := strings.LastIndexAny(name, ":/"); i >= 0 && name[i] == ':' {
			name = name[i+1:] // some write the whole reference
		}
		if !registry.ValidTag(name) {
			skip(Problem{Repo: s.repo, What: fmt.Sprintf("%.100q", name), Reason: "is no name that a tag can have"})
			continue
		}
		r.tags = append(r.tags, tag{name: name, digest: d})
	}
	return each(r)
}
