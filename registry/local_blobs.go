package registry

import (
	"context"
	"crypto/rand"
	"errors"
	"io"

	"github.com/opencontainers/go-digest"

	"github.com/berth-registry/berth/storage"
)

// mediaTypeBlob is the media type of a blob: a registry does not know better.
const mediaTypeBlob = "application/octet-stream"

func blobDescriptor(d digest.Digest, size int64) Descriptor {
	return Descriptor{MediaType: mediaTypeBlob, Digest: d, Size: size}
}

// Blob opens a blob.
func (l *Local) Blob(ctx context.Context, repo string, d digest.Digest) (io.ReadSeekCloser, Descriptor, error) {
	for again := false; ; again = true {
		link, err := l.link(ctx, repo, d)
		if err != nil {
			return nil, Descriptor{}, err
		}
		f, err := l.blobs.Open(ctx, d)
		switch {
		case err == nil:
			return f, blobDescriptor(d, link.Size), nil
		case again || !isNotFound(err): // else it may just have been collected
			l.doubt(d)
			return nil, Descriptor{}, missing(d, err)
		}
	}
}

// StatBlob describes a blob, which then has a lease.
func (l *Local) StatBlob(ctx context.Context, repo string, d digest.Digest) (Descriptor, error) {
	link, err := l.link(ctx, repo, d)
	if err == nil {
		l.tell(storage.ReviewLink, repo, d)
		link, err = l.link(ctx, repo, d)
	}
	if err == nil && l.stale(link.Watch) {
		err = leased(l.change(ctx, func(tx *changing) error {
			if _, err := getLink(tx, repo, d); err != nil {
				return err // it was removed meanwhile
			}
			return watchedLinks.touch(tx, repo, d)
		}))
	}
	return blobDescriptor(d, link.Size), err
}

func (l *Local) link(ctx context.Context, repo string, d digest.Digest) (link storage.Link, err error) {
	err = l.meta.View(ctx, func(tx storage.Tx) (err error) {
		link, err = getReadable(tx, repo, d)
		return err
	})
	return link, err
}

// getReadable is getLink for whoever wants the bytes: damaged ones are unknown.
func getReadable(tx storage.Tx, repo string, d digest.Digest) (storage.Link, error) {
	link, err := getLink(tx, repo, d)
	if err != nil {
		return link, err
	}
	damaged, err := isDamaged(tx, d)
	if damaged {
		err = ErrBlobUnknown.With("blob %s is unknown to repository %s: what was stored of it is damaged; push it again", d, repo)
	}
	return link, err
}

func getLink(tx storage.Tx, repo string, d digest.Digest) (storage.Link, error) {
	link, err := storage.Links.Get(tx, storage.Key(repo, storage.DigestPart(d)))
	if isNotFound(err) {
		err = ErrBlobUnknown.With("blob %s is unknown to repository %s", d, repo)
	}
	return link, err
}

// PushBlob stores a blob.
func (l *Local) PushBlob(ctx context.Context, repo string, d digest.Digest, r io.Reader) (Descriptor, error) {
	if err := l.roomFor(ctx, repo, d, r, 0); err != nil {
		return Descriptor{}, err
	}
	id := "push-" + rand.Text()
	stage, err := storage.StageFor(ctx, l.blobs, id, d)
	if err != nil {
		return Descriptor{}, err
	}
	limited, err := l.limit(r, 0)
	var size int64
	if err == nil {
		size, err = fill(stage, d, limited)
	}
	if err == nil {
		err = l.room(ctx, repo, d, size)
	}
	arrival := l.arriving(d)
	defer arrival.end()
	if err == nil {
		err = arrival.prepare(ctx)
	}
	if err == nil {
		err = stage.Commit(d)
	}
	if cerr := stage.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return Descriptor{}, errors.Join(err, l.blobs.Discard(context.WithoutCancel(ctx), id))
	}
	err = arrival.stored(ctx, func(tx *changing) error { return linkNew(tx, repo, d, size) })
	return blobDescriptor(d, size), err
}

// fill writes r to a stage and checks that it is d.
func fill(stage storage.Stage, d digest.Digest, r io.Reader) (int64, error) {
	h := d.Algorithm().Hash()
	size, err := receive(stage, h, r)
	if err != nil {
		return size, err
	}
	return size, isDigest(h, d, size)
}

// linkNew makes a blob that was just stored readable in a repository.
func linkNew(tx *changing, repo string, d digest.Digest, size int64) error {
	return errors.Join(putStored(tx, d, size), putLink(tx, repo, d, size))
}

// MountBlob makes a blob of one repository readable in another.
func (l *Local) MountBlob(ctx context.Context, repo, from string, d digest.Digest) (Descriptor, error) {
	var link storage.Link
	find := func(tx storage.Tx) (err error) {
		if from != "" {
			link, err = getReadable(tx, from, d)
			return err
		}
		link, err = anyLink(tx, d)
		return err
	}
	// Most mounts that fail do so here, without waiting for the writer.
	if err := l.meta.View(ctx, find); err != nil {
		return Descriptor{}, err
	}
	err := l.change(ctx, func(tx *changing) error {
		if err := find(tx); err != nil {
			return err
		}
		return putLink(tx, repo, d, link.Size)
	})
	return blobDescriptor(d, link.Size), err
}

// anyLink finds a repository in which d is readable as a blob.
func anyLink(tx storage.Tx, d digest.Digest) (storage.Link, error) {
	damaged, err := isDamaged(tx, d)
	if damaged {
		err = ErrBlobUnknown.With("what was stored of blob %s is damaged; push it again", d)
	}
	if err != nil {
		return storage.Link{}, err
	}
	part := storage.DigestPart(d)
	for holder, err := range storage.Holders.Scan(tx, storage.Key(part, ""), nil) {
		if err != nil {
			return storage.Link{}, err
		}
		link, err := storage.Links.Get(tx, storage.Key(string(holder.Rest), part))
		if !isNotFound(err) { // else its repository has it as a manifest
			return link, err
		}
	}
	return storage.Link{}, ErrBlobUnknown.With("blob %s is unknown to every repository", d)
}

// DeleteBlob removes a blob from a repository.
func (l *Local) DeleteBlob(ctx context.Context, repo string, d digest.Digest) error {
	return l.change(ctx, func(tx *changing) error {
		link, err := getLink(tx, repo, d)
		if err != nil {
			return err
		}
		if err := unreferenced(tx, repo, d, "blob"); err != nil {
			return err
		}
		return deleteLink(tx, repo, d, link)
	})
}

// deleteLink removes a blob that nothing in its repository needs.
func deleteLink(tx *changing, repo string, d digest.Digest, link storage.Link) error {
	tx.note(Change{Kind: DeletedBlob, Repo: repo, Digest: d, Size: link.Size})
	return errors.Join(
		tx.forgetPull(repo, d),
		tx.unqueue(storage.ReviewLink, repo, d, &link.Watch),
		storage.Links.Delete(tx, storage.Key(repo, storage.DigestPart(d))),
		dropHolder(tx, repo, d, link.Size))
}

// unreferenced fails with ErrReferenced if a manifest of repo needs d.
func unreferenced(tx storage.Tx, repo string, d digest.Digest, what string) error {
	for parent, err := range storage.Parents.Scan(tx, storage.Key(repo, storage.DigestPart(d), ""), nil) {
		if err != nil {
			return err
		}
		by, _, err := storage.CutDigest(parent.Rest)
		if err != nil {
			return err
		}
		return ErrReferenced.With("%s %s is referenced by manifest %s: delete that first", what, d, by)
	}
	return nil
}

// dropHolder forgets that repo needs bytes, once it has them neither as a blob
// nor as a manifest. If it was the last, they may be garbage.
func dropHolder(tx *changing, repo string, d digest.Digest, size int64) error {
	part := storage.DigestPart(d)
	key := storage.Key(repo, part)
	link, err := storage.Links.Has(tx, key)
	if link || err != nil {
		return err
	}
	manifest, err := storage.Manifests.Has(tx, key)
	if manifest || err != nil {
		return err
	}
	if err := release(tx, repo, part, size); err != nil {
		return err
	}
	held, err := hasAny(storage.Holders.Scan(tx, storage.Key(part, ""), nil))
	if held || err != nil {
		return err
	}
	return watchedBlobs.queue(tx, "", d, tx.orphaned())
}
