package copying

import (
	"context"
	"errors"
	"slices"

	"github.com/opencontainers/go-digest"

	"github.com/berth-registry/berth/registry"
)

// Complete says whether a repository, one that may hold manifests without all that
// they reference, has a manifest and all that Copy would have copied with it, for
// platforms; none means all.
func Complete(ctx context.Context, r registry.Reader, repo string, d digest.Digest, platforms []Platform) (bool, error) {
	w := completeness{r: r, repo: repo, platforms: platforms, seen: map[digest.Digest]bool{}}
	ok, err := w.manifest(ctx, d, 0)
	if errors.Is(err, registry.ErrManifestUnknown) || errors.Is(err, registry.ErrBlobUnknown) || errors.Is(err, registry.ErrManifestInvalid) {
		return false, nil // what Copy says of it is what the user is to know
	}
	return ok, err
}

type completeness struct {
	r         registry.Reader
	repo      string
	platforms []Platform
	seen      map[digest.Digest]bool
}

// manifest looks at a manifest, and all below it.
func (w *completeness) manifest(ctx context.Context, d digest.Digest, depth int) (bool, error) {
	if w.seen[d] {
		return true, nil
	}
	if w.seen[d] = true; depth > maxDepth || len(w.seen) > maxManifests {
		return false, nil
	}
	data, _, err := w.r.Manifest(ctx, w.repo, registry.Reference{Digest: d})
	if err != nil {
		return false, err
	}
	doc, err := parse(data)
	if err != nil {
		return false, err
	}
	kept, left := doc.kept(w.platforms)
	if left && depth == 0 && !slices.ContainsFunc(kept, hasPlatform) {
		return false, nil // Copy fails
	}
	for _, ref := range kept {
		if ok, err := w.reference(ctx, ref, &doc, depth); !ok || err != nil {
			return false, err
		}
	}
	return true, nil
}

func (w *completeness) reference(ctx context.Context, ref registry.Descriptor, doc *document, depth int) (bool, error) {
	blob := doc.Manifests == nil || doc.Config != nil && doc.Config.Digest == ref.Digest
	if !blob {
		ok, err := w.manifest(ctx, ref.Digest, depth+1)
		if manifestTypes[ref.MediaType] || !errors.Is(err, registry.ErrManifestUnknown) {
			return ok, err
		}
	}
	if foreign(ref) {
		return true, nil
	}
	_, err := w.r.StatBlob(ctx, w.repo, ref.Digest)
	return err == nil, err
}
