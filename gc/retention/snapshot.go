package retention

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/berth-registry/berth/storage"
)

const (
	chunkTags  = 5000 // tags that are read in one snapshot
	chunkRepos = 1000 // repositories that are
	// maxDepth is how many indexes within indexes are looked at.
	maxDepth = 4
)

// repositories reads some names of repositories, those after one.
func repositories(ctx context.Context, meta storage.Meta, after string) (names []string, err error) {
	err = meta.View(ctx, func(tx storage.Tx) error {
		names = nil
		for row, err := range tx.Scan(storage.Repos.Name(), nil, []byte(after)) {
			if err != nil {
				return err
			}
			if names = append(names, string(row.Key)); len(names) == chunkRepos {
				break
			}
		}
		return nil
	})
	return names, err
}

// readTags reads some tags of a repository, those after one; with pulls set, when
// they were pulled, too.
func readTags(ctx context.Context, meta storage.Meta, repo, after string, pulls bool) (tags []Tag, err error) {
	err = meta.View(ctx, func(tx storage.Tx) error {
		tags = nil
		for e, err := range storage.Tags.Scan(tx, storage.Key(repo, ""), storage.Key(repo, after)) {
			if err != nil {
				return err
			}
			t := Tag{Repo: repo, Name: string(e.Rest), Digest: digest.Digest(e.Value.Digest), Pushed: e.Value.Pushed()}
			if pulls {
				if t.Pulled, err = pulled(tx, repo, t.Name, t.Digest); err != nil {
					return err
				}
			}
			if tags = append(tags, t); len(tags) == chunkTags {
				break
			}
		}
		return nil
	})
	return tags, err
}

// pulled is when a tag, or what it names, was pulled last; zero for never.
func pulled(tx storage.Tx, repo, tag string, d digest.Digest) (at time.Time, err error) {
	byTag, err := storage.PulledTags.Get(tx, storage.Key(repo, tag))
	if err != nil && !isNotFound(err) {
		return at, err
	}
	byDigest, err := storage.PulledDigests.Get(tx, storage.Key(repo, storage.DigestPart(d)))
	if err != nil && !isNotFound(err) {
		return at, err
	}
	if byDigest.At.After(byTag.At) {
		return byDigest.At, nil
	}
	return byTag.At, nil
}

// runs says whether a node runs a manifest, or one that it leads to as an index.
func runs(tx storage.Tx, repo string, d digest.Digest, now time.Time, depth int) (bool, error) {
	part := storage.DigestPart(d)
	for e, err := range storage.RunningOn.Scan(tx, storage.Key(part, ""), nil) {
		if err != nil {
			return false, err
		}
		if e.Value.Until.After(now) {
			return true, nil
		}
	}
	row, err := storage.Manifests.Get(tx, storage.Key(repo, part))
	if isNotFound(err) || err == nil && (depth == 0 || !isIndex(row.MediaType)) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	for refs := row.Refs; len(refs) > 0; {
		child, rest, err := storage.CutDigest(refs)
		if err != nil {
			return false, err
		}
		if is, err := runs(tx, repo, child, now, depth-1); is || err != nil {
			return is, err
		}
		refs = rest
	}
	return false, nil
}

// isIndex says whether manifests of a media type lead to others.
func isIndex(mediaType string) bool {
	return strings.Contains(mediaType, "index") || strings.Contains(mediaType, "manifest.list")
}

// anyRuns says whether any node runs anything.
func anyRuns(tx storage.Tx) (bool, error) {
	for _, err := range storage.RunningOn.Scan(tx, nil, nil) {
		return err == nil, err
	}
	return false, nil
}

// watched is since when pulls are recorded; now, if they are not.
func watched(ctx context.Context, meta storage.Meta, now time.Time) (since time.Time, err error) {
	err = meta.View(ctx, func(tx storage.Tx) error {
		row, err := storage.Settings.Get(tx, storage.Key(watchedSince))
		if isNotFound(err) {
			since = now
			return nil
		}
		if err != nil {
			return err
		}
		if err := since.UnmarshalText(row.Value); err != nil {
			return fmt.Errorf("damaged setting %s: %w", watchedSince, err)
		}
		return nil
	})
	return since, err
}

func isNotFound(err error) bool { return errors.Is(err, storage.ErrNotFound) }
