package registry

import (
	"context"
	"errors"
	"slices"

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

// DeleteTagsIf removes some tags of a repository in one transaction, those of which
// ok says that they are still to be removed, and returns them. A tag that is not
// there, or that is immutable, is none of them. ok is asked within the transaction,
// which it only reads, and may be asked again about the same tag.
func (l *Local) DeleteTagsIf(ctx context.Context, repo string, tags []string, ok func(tx storage.Tx, tag string, row storage.Tag) (bool, error)) (deleted []string, err error) {
	err = l.change(ctx, func(tx *changing) error {
		deleted = nil
		for _, tag := range tags {
			row, err := storage.Tags.Get(tx, storage.Key(repo, tag))
			if isNotFound(err) {
				continue
			}
			if err != nil {
				return err
			}
			switch still, err := ok(tx, tag, row); {
			case err != nil:
				return err
			case !still || l.Immutable(repo, tag):
				continue
			}
			if err := moveTag(tx, repo, tag, ""); err != nil {
				return err
			}
			deleted = append(deleted, tag)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return deleted, nil
}

// DeleteManifest removes a manifest and its tags.
func (l *Local) DeleteManifest(ctx context.Context, repo string, d digest.Digest) error {
	return l.change(ctx, func(tx *changing) error {
		if _, err := getManifest(tx, repo, d); err != nil {
			return err
		}
		if err := unreferenced(tx, repo, d, "manifest"); err != nil {
			return err
		}
		if err := deleteTags(tx, repo, d); err != nil {
			return err
		}
		row, err := getManifest(tx, repo, d) // now, as a tag less has it watched
		if err != nil {
			return err
		}
		return removeManifest(tx, repo, d, row)
	})
}

// removeManifest removes a manifest that no tag names and no other needs. What
// it needed may be garbage then, and what refers to it.
func removeManifest(tx *changing, repo string, d digest.Digest, row storage.Manifest) error {
	tx.note(Change{Kind: DeletedManifest, Repo: repo, Digest: d, MediaType: row.MediaType, Size: row.Size})
	return errors.Join(
		tx.unqueue(storage.ReviewManifest, repo, d, &row.Watch),
		deleteManifestRows(tx, repo, d, row),
		orphanReferrers(tx, repo, d),
		deletePast(tx, repo, d),
		storage.PulledDigests.Delete(tx, storage.Key(repo, storage.DigestPart(d))),
		leaveRepo(tx, repo))
}

// orphanReferrers queues reviews of what refers to a manifest that is gone.
func orphanReferrers(tx *changing, repo string, d digest.Digest) error {
	var by []digest.Digest
	for e, err := range storage.Referrers.Scan(tx, storage.Key(repo, storage.DigestPart(d), ""), nil) {
		if err != nil {
			return err
		}
		referrer, _, err := storage.CutDigest(e.Rest)
		if err != nil {
			return err
		}
		by = append(by, referrer)
	}
	for _, referrer := range by {
		if err := tx.orphanManifest(repo, referrer, tx.orphaned()); err != nil {
			return err
		}
	}
	return nil
}

// deletePast forgets which tags have named a manifest that is gone. Their history
// goes on telling its digest.
func deletePast(tx *changing, repo string, d digest.Digest) error {
	var keys [][]byte
	for e, err := range storage.Past.Scan(tx, storage.Key(repo, storage.DigestPart(d), ""), nil) {
		if err != nil {
			return err
		}
		keys = append(keys, slices.Clone(e.Key))
	}
	for _, key := range keys {
		if err := storage.Past.Delete(tx, key); err != nil {
			return err
		}
	}
	return nil
}

// orphan queues reviews of what a manifest needed, unless another one does.
func orphan(tx *changing, repo string, d digest.Digest) error {
	needed, err := hasAny(storage.Parents.Scan(tx, storage.Key(repo, storage.DigestPart(d), ""), nil))
	if needed || err != nil {
		return err
	}
	due := tx.orphaned()
	if !tx.evicts { // somebody wants it gone from a cache, however lately it was pulled
		if err := tx.forgetPull(repo, d); err != nil {
			return err
		}
	}
	return errors.Join(tx.orphanManifest(repo, d, due), watchedLinks.queue(tx, repo, d, due))
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
func deleteManifestRows(tx *changing, repo string, d digest.Digest, row storage.Manifest) error {
	part := storage.DigestPart(d)
	for refs := row.Refs; len(refs) > 0; {
		ref, rest, err := storage.CutDigest(refs)
		if err != nil {
			return err
		}
		if err := storage.Parents.Delete(tx, storage.Key(repo, storage.DigestPart(ref), part)); err != nil {
			return err
		}
		if err := orphan(tx, repo, ref); err != nil {
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
	if err := dropHolder(tx, repo, d, row.Size); err != nil {
		return err
	}
	return storage.Add(tx, storage.CountManifests, -1)
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
	return storage.Add(tx, storage.CountRepos, -1)
}
