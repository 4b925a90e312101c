package registry

import (
	"context"
	"errors"
	"iter"
	"strings"

	"github.com/opencontainers/go-digest"

	"github.com/berth-registry/berth/storage"
)

// Repositories lists the repositories that have a manifest.
func (l *Local) Repositories(ctx context.Context, after string) iter.Seq2[string, error] {
	return sequence(ctx, l, func(tx storage.Tx, yield func(string) bool) error {
		for row, err := range tx.Scan(storage.Repos.Name(), nil, []byte(after)) {
			if err != nil {
				return err
			}
			if !yield(string(row.Key)) {
				break
			}
		}
		return nil
	})
}

// HasRepository says whether a repository has a manifest.
func (l *Local) HasRepository(ctx context.Context, repo string) (has bool, err error) {
	err = l.meta.View(ctx, func(tx storage.Tx) (err error) {
		has, err = storage.Repos.Has(tx, storage.Key(repo))
		return err
	})
	return has, err
}

// Tags lists the tags of a repository.
func (l *Local) Tags(ctx context.Context, repo, after string) iter.Seq2[string, error] {
	return sequence(ctx, l, func(tx storage.Tx, yield func(string) bool) error {
		known, err := storage.Repos.Has(tx, storage.Key(repo))
		if err != nil {
			return err
		}
		if !known {
			return ErrNameUnknown.With("repository %s is not known to the registry", repo)
		}
		prefix := storage.Key(repo, "")
		for row, err := range tx.Scan(storage.Tags.Name(), prefix, storage.Key(repo, after)) {
			if err != nil {
				return err
			}
			if !yield(string(row.Key[len(prefix):])) {
				break
			}
		}
		return nil
	})
}

// Referrers lists the manifests that refer to d.
func (l *Local) Referrers(ctx context.Context, repo string, d digest.Digest, artifactType string, after digest.Digest) iter.Seq2[Descriptor, error] {
	return sequence(ctx, l, func(tx storage.Tx, yield func(Descriptor) bool) error {
		prefix, start := storage.Key(repo, storage.DigestPart(d), ""), []byte(nil)
		if after != "" {
			start = storage.Key(repo, storage.DigestPart(d), storage.DigestPart(after))
		}
		for e, err := range storage.Referrers.Scan(tx, prefix, start) {
			if err != nil {
				return err
			}
			if artifactType != "" && e.Value.ArtifactType != artifactType {
				continue
			}
			by, _, err := storage.CutDigest(e.Rest)
			if err != nil {
				return err
			}
			if !yield(Descriptor{
				MediaType: e.Value.MediaType, Digest: by, Size: e.Value.Size,
				ArtifactType: e.Value.ArtifactType, Annotations: e.Value.Annotations,
			}) {
				break
			}
		}
		return nil
	})
}

// Search lists repositories with term in their name.
func (l *Local) Search(ctx context.Context, term string) iter.Seq2[SearchResult, error] {
	return sequence(ctx, l, func(tx storage.Tx, yield func(SearchResult) bool) error {
		for row, err := range tx.Scan(storage.Repos.Name(), nil, nil) {
			if err != nil {
				return err
			}
			name := string(row.Key)
			if !strings.Contains(name, term) {
				continue
			}
			repo, err := storage.Repos.Get(tx, row.Key)
			if err != nil {
				return err
			}
			if !yield(SearchResult{Name: name, Description: repo.Description}) {
				break
			}
		}
		return nil
	})
}

// sequence makes a sequence of what scan yields within one snapshot. It ends
// with scan's error.
func sequence[T any](ctx context.Context, l *Local, scan func(tx storage.Tx, yield func(T) bool) error) iter.Seq2[T, error] {
	return func(yield func(T, error) bool) {
		enough := false
		err := l.meta.View(ctx, func(tx storage.Tx) error {
			err := scan(tx, func(v T) bool {
				enough = !yield(v, nil)
				return !enough && ctx.Err() == nil
			})
			return errors.Join(err, ctx.Err())
		})
		if err != nil && !enough {
			var zero T
			yield(zero, err)
		}
	}
}
