package registry

import (
	"context"
	"errors"

	"github.com/opencontainers/go-digest"

	"github.com/berth-registry/berth/storage"
)

// DeleteTag removes a tag.
func (l *Local) DeleteTag(ctx context.Context, repo, tag string) error {
	return l.change(ctx, func(tx *changing) error {
		if _, err := getTag(tx, repo, tag); err != nil {
			return err
		}
		return moveTag(tx, repo, tag, "")
	})
}

// DeleteManifest removes a manifest and its tags.
func (l *Local) DeleteManifest(ctx context.Context, repo string, d digest.Digest) error {
	return l.change(ctx, func(tx *changing) error {
		row, err := getManifest(tx, repo, d)
		if err != nil {
			return err
		}
		if err := unreferenced(tx, repo, d, "manifest"); err != nil {
			return err
		}
		err = errors.Join(
			deleteTags(tx, repo, d),
			deleteManifestRows(tx, repo, d, row),
			leaveRepo(tx, repo))
		tx.note(Change{Kind: DeletedManifest, Repo: repo, Digest: d, MediaType: row.MediaType, Size: row.Size})
		return err
	})
}

// deleteTags removes the tags that point to a manifest.
func deleteTags(tx *changing, repo string, d digest.Digest) error {
	var tags []string
	for e, err := range storage.Tagged.Scan(tx, storage.Key(repo, storage.DigestPart(d), ""), nil) {
		if err != nil {
			return err
		}
		tags = append(tags, string(e.Rest))
	}
	for _, tag := range tags {
		if err := moveTag(tx, repo, tag, ""); err != nil {
			return err
		}
	}
	return nil
}

// deleteManifestRows removes what manifestWrite.write wrote for the manifest.
func deleteManifestRows(tx storage.Tx, repo string, d digest.Digest, row storage.Manifest) error {
	part := storage.DigestPart(d)
	for refs := row.Refs; len(refs) > 0; {
		ref, rest, err := storage.CutDigest(refs)
		if err != nil {
			return err
		}
		if err := storage.Parents.Delete(tx, storage.Key(repo, storage.DigestPart(ref), part)); err != nil {
			return err
		}
		refs = rest
	}
	if row.Subject != "" {
		subject := storage.DigestPart(digest.Digest(row.Subject))
		if err := storage.Referrers.Delete(tx, storage.Key(repo, subject, part)); err != nil {
			return err
		}
	}
	if err := storage.Manifests.Delete(tx, storage.Key(repo, part)); err != nil {
		return err
	}
	if err := dropHolder(tx, repo, part); err != nil {
		return err
	}
	_, err := storage.Count(tx, storage.CountManifests, -1)
	return err
}

// leaveRepo counts a manifest less in a repository, which is no longer listed
// after its last.
func leaveRepo(tx storage.Tx, repo string) error {
	key := storage.Key(repo)
	row, err := storage.Repos.Get(tx, key)
	if err != nil {
		return err
	}
	if row.Manifests--; row.Manifests > 0 {
		return storage.Repos.Put(tx, key, row)
	}
	if err := storage.Repos.Delete(tx, key); err != nil {
		return err
	}
	_, err = storage.Count(tx, storage.CountRepos, -1)
	return err
}
