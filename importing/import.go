package importing

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/berth-registry/berth/registry"
)

// maxDepth is how many indexes within indexes are followed.
const maxDepth = 32

// importer takes over a source.
type importer struct {
	src     source
	dst     Destination
	options Options
	report  Report
}

func (im *importer) skip(p Problem) {
	im.report.Skipped++
	if im.options.Skipped != nil {
		im.options.Skipped(p)
	}
}

func (im *importer) progress() {
	if im.options.Progress != nil {
		im.options.Progress(im.report)
	}
}

// repo takes over a repository. Only what is not the source's fault ends it.
func (im *importer) repo(ctx context.Context, r *repository) error {
	im.report.Repos++
	w := &work{importer: im, repo: r.name, known: map[digest.Digest]bool{}, manifests: map[digest.Digest]error{}, blobs: map[digest.Digest]error{}}
	for _, d := range r.manifests {
		w.known[d] = true
	}
	// In the order in which they were pushed, so that this is what is known of it here.
	slices.SortStableFunc(r.tags, func(a, b tag) int { return a.pushed.Compare(b.pushed) })
	for _, t := range r.tags {
		if err := w.tag(ctx, t); fatal(err) {
			return err
		}
	}
	for _, d := range r.manifests {
		if err := w.manifest(ctx, d, "", 0); fatal(err) {
			return err
		}
	}
	return nil
}

// work is what is done for a repository.
type work struct {
	*importer
	repo  string
	known map[digest.Digest]bool // manifests that it has
	// What was done, and why it was left out.
	manifests, blobs map[digest.Digest]error
}

// left is why something was left out, which was told.
type left struct{ reason string }

func (l left) Error() string { return l.reason }

// fatal says that an error is not about the source.
func fatal(err error) bool {
	_, is := errors.AsType[left](err)
	return err != nil && !is
}

// leave leaves something out, and tells that once.
func (w *work) leave(d digest.Digest, format string, args ...any) error {
	l := left{fmt.Sprintf(format, args...)}
	w.skip(Problem{Repo: w.repo, What: string(d), Reason: l.reason})
	return l
}

// tag takes over a tag, and what it names. One that is in the destination stays where
// it is: it may have been moved there since.
func (w *work) tag(ctx context.Context, t tag) error {
	if !w.known[t.digest] {
		w.skip(Problem{Repo: w.repo, What: t.name, Reason: fmt.Sprintf("the tag names %s, which the repository does not have", t.digest)})
		return nil
	}
	switch _, err := w.dst.StatManifest(ctx, w.repo, registry.Reference{Tag: t.name}); {
	case errors.Is(err, registry.ErrManifestUnknown):
		return w.manifest(ctx, t.digest, t.name, 0)
	case err != nil:
		return err
	}
	w.report.Tags.Present++
	return nil
}

// manifest takes over a manifest, and before it all that it needs; tag, if not empty,
// is to name it.
func (w *work) manifest(ctx context.Context, d digest.Digest, tag string, depth int) error {
	err, done := w.manifests[d]
	if done && (err != nil || tag == "") {
		return err
	}
	if depth > maxDepth {
		return w.leave(d, "indexes within indexes: more than %d", maxDepth)
	}
	err = w.takeManifest(ctx, d, tag, depth)
	w.manifests[d] = err
	w.progress()
	return err
}

func (w *work) takeManifest(ctx context.Context, d digest.Digest, tag string, depth int) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	data, doc, err := w.read(d)
	if err != nil {
		return w.leave(d, "the manifest %s", err)
	}
	_, done := w.manifests[d]
	_, err = w.dst.StatManifest(ctx, w.repo, registry.Reference{Digest: d})
	present := err == nil
	if !present && !errors.Is(err, registry.ErrManifestUnknown) {
		return err
	}
	if !present {
		if err := w.needs(ctx, d, &doc, depth); err != nil {
			return err
		}
	}
	if !present || tag != "" {
		if err := w.push(ctx, registry.ManifestPush{Data: data, MediaType: doc.mediaType(), Digest: d}, tag); err != nil {
			return err
		}
	}
	switch {
	case !present:
		w.report.Manifests.New++
	case !done:
		w.report.Manifests.Present++
	}
	return nil
}

// needs takes over what a manifest needs.
func (w *work) needs(ctx context.Context, d digest.Digest, doc *manifestDoc, depth int) error {
	for _, ref := range doc.refs() {
		if err := w.need(ctx, ref, doc.isIndex(), depth); err != nil {
			if fatal(err) {
				return err
			}
			return w.leave(d, "the manifest needs %s, which was left out: %s", ref.Digest, err)
		}
	}
	return nil
}

// push pushes a manifest.
func (w *work) push(ctx context.Context, m registry.ManifestPush, tag string) error {
	if tag != "" {
		m.Tags = []string{tag}
	}
	_, err := w.dst.PushManifest(ctx, w.repo, m)
	switch kind := (*registry.Error)(nil); {
	case errors.As(err, &kind) && kind.Status < 500:
		return w.leave(m.Digest, "the manifest is refused: %s", err)
	case err != nil:
		return fmt.Errorf("%s: manifest %s: %w", w.repo, m.Digest, err)
	}
	w.report.Tags.New += len(m.Tags)
	return nil
}

// need takes over what a manifest needs.
func (w *work) need(ctx context.Context, ref ocispec.Descriptor, index bool, depth int) error {
	d, err := registry.ParseDigest(string(ref.Digest))
	if err != nil {
		return left{"it is no digest"}
	}
	if index && w.isManifest(d, ref.MediaType) {
		return w.manifest(ctx, d, "", depth+1)
	}
	return w.blob(ctx, d)
}

// isManifest says whether an index needs something as a manifest: in a build cache
// it needs blobs.
func (w *work) isManifest(d digest.Digest, mediaType string) bool {
	switch mediaType {
	case ocispec.MediaTypeImageManifest, ocispec.MediaTypeImageIndex, dockerManifest, dockerList:
		return true
	}
	return w.known[d]
}

// blob takes over a blob.
func (w *work) blob(ctx context.Context, d digest.Digest) error {
	if err, ok := w.blobs[d]; ok {
		return err
	}
	err := w.takeBlob(ctx, d)
	w.blobs[d] = err
	w.progress()
	return err
}

func (w *work) takeBlob(ctx context.Context, d digest.Digest) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	_, err := w.dst.StatBlob(ctx, w.repo, d)
	if errors.Is(err, registry.ErrBlobUnknown) {
		_, err = w.dst.MountBlob(ctx, w.repo, "", d) // of another repository
	}
	if err == nil {
		w.report.Blobs.Present++
		return nil
	}
	if !errors.Is(err, registry.ErrBlobUnknown) {
		return err
	}
	f, err := openFile(w.src.path(d))
	if err != nil {
		return w.leave(d, "the blob %s", whatIsWrong(err))
	}
	defer f.Close()
	if fi, err := f.Stat(); err == nil && fi.Size() == 0 && d != emptyDigest(d) {
		return w.leave(d, "the blob is empty")
	}
	desc, linked, err := w.dst.PushFile(ctx, w.repo, d, f)
	switch kind, file := (*registry.Error)(nil), (*fs.PathError)(nil); {
	case errors.As(err, &file) && file.Op == "read":
		return w.leave(d, "the blob cannot be read: %s", file.Err)
	case errors.Is(err, registry.ErrDigestInvalid):
		return w.leave(d, "the blob is damaged: %s", err)
	case errors.As(err, &kind) && kind.Status < 500:
		return w.leave(d, "the blob is refused: %s", err)
	case err != nil:
		return fmt.Errorf("%s: blob %s: %w", w.repo, d, err)
	}
	w.report.Blobs.New++
	w.report.Bytes += desc.Size
	if linked {
		w.report.Linked++
	}
	return nil
}

func emptyDigest(like digest.Digest) digest.Digest { return like.Algorithm().FromBytes(nil) }

func whatIsWrong(err error) string {
	if errors.Is(err, fs.ErrNotExist) {
		return "is missing"
	}
	return reason(err)
}

// read reads a manifest of the source, and checks it.
func (w *work) read(d digest.Digest) (data []byte, doc manifestDoc, err error) {
	f, err := openFile(w.src.path(d))
	if err != nil {
		return nil, doc, errors.New(whatIsWrong(err))
	}
	defer f.Close()
	data, err = io.ReadAll(io.LimitReader(f, registry.MaxManifest+1))
	switch {
	case err != nil:
		return nil, doc, errors.New(reason(err))
	case len(data) == 0:
		return nil, doc, errors.New("is empty")
	case len(data) > registry.MaxManifest:
		return nil, doc, errors.New("is too large for one")
	case d.Algorithm().FromBytes(data) != d:
		return nil, doc, fmt.Errorf("is damaged: its %d bytes have another digest", len(data))
	}
	if err := json.Unmarshal(data, &doc); err != nil {
		return nil, doc, errors.New("is not valid JSON")
	}
	return data, doc, nil
}
