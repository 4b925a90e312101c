package registry

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/berth-registry/berth/storage"
)

// Manifest returns a manifest and its bytes.
func (l *Local) Manifest(ctx context.Context, repo string, ref Reference) ([]byte, Descriptor, error) {
	for again := false; ; again = true {
		desc, _, err := l.stat(ctx, repo, ref)
		if err != nil {
			return nil, Descriptor{}, err
		}
		if data, ok := l.cache.get(desc.Digest); ok {
			return data, desc, nil
		}
		data, err := l.readAll(ctx, desc.Digest)
		if err == nil && desc.Digest.Algorithm().FromBytes(data) != desc.Digest {
			err = fmt.Errorf("the bytes of manifest %s are damaged", desc.Digest)
		}
		switch {
		case err == nil:
			l.cache.put(desc.Digest, data)
			return data, desc, nil
		case again: // else it may just have been collected
			l.doubt(desc.Digest)
			return nil, Descriptor{}, err
		}
	}
}

// StatManifest describes a manifest, which then has a lease.
func (l *Local) StatManifest(ctx context.Context, repo string, ref Reference) (Descriptor, error) {
	desc, watch, err := l.stat(ctx, repo, ref)
	for last := digest.Digest(""); err == nil && desc.Digest != last; {
		last = desc.Digest
		l.tell(storage.ReviewManifest, repo, last)
		desc, watch, err = l.stat(ctx, repo, ref)
	}
	cached := l.Cached(repo)
	stale := l.stale
	if cached {
		stale = l.unknownToOthers
	}
	if err == nil && stale(watch) {
		err = leased(l.change(ctx, func(tx *changing) error {
			if _, err := getManifest(tx, repo, desc.Digest); err != nil {
				return err // it was removed meanwhile
			}
			if cached {
				return watchedManifests.tellOthers(tx, repo, desc.Digest)
			}
			return watchedManifests.touch(tx, repo, desc.Digest)
		}))
	}
	return desc, err
}

func (l *Local) stat(ctx context.Context, repo string, ref Reference) (desc Descriptor, watch storage.Watch, err error) {
	version := l.known.version() // from before the snapshot: what is found is at least as new
	if desc, ok := l.known.get(version, repo, ref); ok {
		return desc, watch, nil
	}
	err = l.meta.View(ctx, func(tx storage.Tx) error {
		d := ref.Digest
		if ref.Tag != "" {
			if d, err = getTag(tx, repo, ref.Tag); err != nil {
				return err
			}
		}
		row, err := getManifest(tx, repo, d)
		if err != nil {
			return err
		}
		desc, watch = Descriptor{MediaType: row.MediaType, Digest: d, Size: row.Size}, row.Watch
		damaged, err := isDamaged(tx, d)
		if damaged {
			err = ErrManifestUnknown.With("manifest %s is unknown to repository %s: what was stored of it is damaged; push it again", d, repo)
		}
		return err
	})
	if err == nil && (watch.Due == 0 || l.Cached(repo)) { // else it may need a lease each time
		l.known.put(version, repo, ref, desc)
	}
	return desc, watch, err
}

func getTag(tx storage.Tx, repo, tag string) (digest.Digest, error) {
	row, err := storage.Tags.Get(tx, storage.Key(repo, tag))
	if isNotFound(err) {
		err = ErrManifestUnknown.With("tag %s is unknown to repository %s", tag, repo)
	}
	return digest.Digest(row.Digest), err
}

func getManifest(tx storage.Tx, repo string, d digest.Digest) (storage.Manifest, error) {
	row, err := storage.Manifests.Get(tx, storage.Key(repo, storage.DigestPart(d)))
	if isNotFound(err) {
		err = ErrManifestUnknown.With("manifest %s is unknown to repository %s", d, repo)
	}
	return row, err
}

// PushManifest stores a manifest.
func (l *Local) PushManifest(ctx context.Context, repo string, push ManifestPush) (ManifestPushed, error) {
	if most := l.limits.Load().Manifest; most > 0 && int64(len(push.Data)) > most {
		return ManifestPushed{}, ErrManifestTooLarge.With("manifest is larger than the %d bytes that this registry takes", most)
	}
	if len(push.Data) > MaxManifest {
		return ManifestPushed{}, ErrManifestTooLarge
	}
	if got := push.Digest.Algorithm().FromBytes(push.Data); got != push.Digest {
		return ManifestPushed{}, ErrDigestInvalid.With("the %d bytes sent have the digest %s, not %s", len(push.Data), got, push.Digest)
	}
	m, err := parseManifest(push.Data, push.MediaType)
	if err != nil {
		return ManifestPushed{}, err
	}
	w := manifestWrite{ManifestPush: push, manifest: m, repo: repo}
	// What is refused is refused here, before its bytes are stored.
	if err := l.meta.View(ctx, w.checkRefs); err != nil {
		return ManifestPushed{}, err
	}
	if err := l.room(ctx, repo, push.Digest, int64(len(push.Data)), push.Tags...); err != nil {
		return ManifestPushed{}, err
	}
	if len(push.Tags) > 0 {
		if w.description, err = l.describe(ctx, repo, &m); err != nil && !push.Sparse {
			return ManifestPushed{}, err
		}
	}
	arrival := l.arriving(push.Digest)
	defer arrival.end()
	if err := l.store(ctx, arrival, push.Data); err != nil {
		return ManifestPushed{}, err
	}
	err = arrival.stored(ctx, func(tx *changing) error {
		if err := w.checkRefs(tx); err != nil {
			return err
		}
		return w.write(tx)
	})
	if err != nil {
		return ManifestPushed{}, err
	}
	l.cache.put(push.Digest, push.Data)
	desc := Descriptor{MediaType: m.MediaType, Digest: push.Digest, Size: int64(len(push.Data))}
	return ManifestPushed{Descriptor: desc, Subject: m.Subject}, nil
}

// store makes data durable as the blob that arrives.
func (l *Local) store(ctx context.Context, a *arrival, data []byte) error {
	id := "manifest-" + rand.Text()
	stage, err := storage.StageFor(ctx, l.blobs, id, a.digest)
	if err != nil {
		return err
	}
	if _, err = stage.Write(data); err == nil {
		err = a.prepare(ctx)
	}
	if err == nil {
		err = stage.Commit(a.digest)
	}
	if cerr := stage.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return errors.Join(err, l.blobs.Discard(context.WithoutCancel(ctx), id))
	}
	return nil
}

// describe finds the description of an image; for an index that has none, that
// of its first image.
func (l *Local) describe(ctx context.Context, repo string, m *manifest) (string, error) {
	if s := m.Annotations[ocispec.AnnotationDescription]; m.Index && s == "" && len(m.Refs) > 0 {
		data, desc, err := l.Manifest(ctx, repo, Reference{Digest: m.Refs[0].Digest})
		if errors.Is(err, ErrManifestUnknown) { // a blob, in the index of a build cache
			return "", nil
		}
		if err != nil {
			return "", err
		}
		child, err := parseManifest(data, desc.MediaType)
		if err != nil || child.Index {
			return "", err
		}
		m = &child
	}
	return m.description(func(config digest.Digest) ([]byte, error) { return l.readAll(ctx, config) })
}

// manifestWrite is the transaction that makes a manifest visible.
type manifestWrite struct {
	ManifestPush
	manifest    manifest
	repo        string
	description string
}

// checkRefs fails unless all that the manifest references is in the repository,
// and is as large as the manifest says. Of one that is sparse it may be absent.
func (w *manifestWrite) checkRefs(tx storage.Tx) error {
	for _, d := range w.manifest.Refs {
		key := storage.Key(w.repo, storage.DigestPart(d.Digest))
		size, err := presentSize(tx, key, w.manifest.Index)
		if isNotFound(err) && w.Sparse {
			continue
		}
		if isNotFound(err) {
			return ErrManifestBlobUnknown.With("manifest references %s %s, which is unknown to repository %s", d.MediaType, d.Digest, w.repo)
		}
		if err != nil {
			return err
		}
		if size != d.Size {
			return ErrManifestInvalid.With("manifest says that %s has %d bytes: it has %d", d.Digest, d.Size, size)
		}
		damaged, err := isDamaged(tx, d.Digest)
		if err != nil {
			return err
		}
		if damaged && !w.Sparse {
			return ErrManifestBlobUnknown.With("manifest references %s %s, which is damaged: push it again", d.MediaType, d.Digest)
		}
	}
	return nil
}

// presentSize finds content of a repository: a blob or, for an index, rather a
// manifest.
func presentSize(tx storage.Tx, key []byte, index bool) (int64, error) {
	if index {
		row, err := storage.Manifests.Get(tx, key)
		if !isNotFound(err) {
			return row.Size, err
		}
	}
	link, err := storage.Links.Get(tx, key)
	return link.Size, err
}

// write writes all the rows that a manifest has.
func (w *manifestWrite) write(tx *changing) error {
	part := storage.DigestPart(w.Digest)
	key := storage.Key(w.repo, part)
	old, err := storage.Manifests.Get(tx, key)
	if err != nil && !isNotFound(err) {
		return err
	}
	known := err == nil
	size := int64(len(w.Data))
	row := storage.Manifest{
		MediaType: w.manifest.MediaType, Size: size, Pushed: tx.now, Subject: string(w.manifest.Subject), Watch: old.Watch,
		Sparse: w.Sparse && (!known || old.Sparse),
	}
	for _, d := range w.manifest.Refs {
		row.Refs = append(row.Refs, storage.DigestPart(d.Digest)...)
		if err := w.putParent(tx, d.Digest, part); err != nil {
			return err
		}
	}
	err = errors.Join(
		w.watch(tx, &row, known),
		storage.Manifests.Put(tx, key, row),
		hold(tx, w.repo, part, size),
		putStored(tx, w.Digest, size),
		w.putReferrer(tx),
		w.putRepo(tx, !known))
	if err != nil {
		return err
	}
	tx.note(Change{Kind: PushedManifest, Repo: w.repo, Tags: w.Tags, Digest: w.Digest, MediaType: w.manifest.MediaType, Size: size})
	for _, tag := range w.Tags {
		if err := moveTag(tx, w.repo, tag, w.Digest); err != nil {
			return err
		}
	}
	return nil
}

// putParent notes that the manifest needs d, which is no garbage then.
func (w *manifestWrite) putParent(tx *changing, d digest.Digest, part string) error {
	err := storage.Parents.Put(tx, storage.Key(w.repo, storage.DigestPart(d), part), storage.Mark{})
	if w.manifest.Index {
		err = errors.Join(err, tx.clearManifest(w.repo, d))
	}
	return errors.Join(err, watchedLinks.clear(tx, w.repo, d))
}

// watch queues a review of the manifest unless it is plain that something needs
// it. A tag takes that back.
func (w *manifestWrite) watch(tx *changing, row *storage.Manifest, known bool) error {
	if known { // what becomes of it is not this client's alone
		tx.local.tell(storage.ReviewManifest, w.repo, w.Digest)
		tx.keep(&row.Watch)
	}
	why, until, err := tx.needed(w.repo, w.Digest, row)
	switch {
	case err == nil && until != 0 && tx.quotas().caches.has(w.repo):
		return tx.queue(storage.ReviewManifest, w.repo, w.Digest, &row.Watch, until, 0)
	case err != nil, len(w.Tags) > 0:
		return err
	case until != 0: // a node runs it, say: it is garbage when that ends
		return tx.queue(storage.ReviewManifest, w.repo, w.Digest, &row.Watch, max(until, tx.afterGrace()), tx.lease())
	case why != "":
		return nil
	}
	return tx.queue(storage.ReviewManifest, w.repo, w.Digest, &row.Watch, tx.afterGrace(), tx.lease())
}

func (w *manifestWrite) putReferrer(tx storage.Tx) error {
	if w.manifest.Subject == "" {
		return nil
	}
	key := storage.Key(w.repo, storage.DigestPart(w.manifest.Subject), storage.DigestPart(w.Digest))
	return storage.Referrers.Put(tx, key, storage.Referrer{
		MediaType: w.manifest.MediaType, Size: int64(len(w.Data)),
		ArtifactType: w.manifest.ArtifactType, Annotations: w.manifest.Annotations,
	})
}

func (w *manifestWrite) putRepo(tx *changing, added bool) error {
	row, err := storage.Repos.Get(tx, storage.Key(w.repo))
	if isNotFound(err) {
		err = storage.Add(tx, storage.CountRepos, 1)
	}
	if err != nil {
		return err
	}
	if added {
		row.Manifests++
		if err := storage.Add(tx, storage.CountManifests, 1); err != nil {
			return err
		}
	}
	if len(w.Tags) > 0 {
		row.Description = w.description
	}
	row.Updated = tx.now
	return storage.Repos.Put(tx, storage.Key(w.repo), row)
}

// moveTag points a tag at a manifest, or removes it if d is empty, and writes
// that down in its history. An immutable tag is only ever created.
func moveTag(tx *changing, repo, tag string, d digest.Digest) error {
	key := storage.Key(repo, tag)
	old, err := storage.Tags.Get(tx, key)
	if err != nil && !isNotFound(err) {
		return err
	}
	if old.Digest == string(d) && d != "" {
		old.Again = tx.now
		return storage.Tags.Put(tx, key, old)
	}
	if old.Digest == string(d) {
		return nil
	}
	if was := digest.Digest(old.Digest); was != "" {
		if tx.fixed(repo, tag) {
			return ErrTagImmutable.With("tag %s of %s is immutable: it can be neither moved nor removed", tag, repo)
		}
		if err := errors.Join(
			storage.Tagged.Delete(tx, storage.Key(repo, storage.DigestPart(was), tag)),
			tx.orphanManifest(repo, was, tx.afterGrace())); err != nil {
			return err
		}
	}
	if err := countMove(tx, repo, tag, old.Digest, d); err != nil {
		return err
	}
	n, err := storage.Next(tx, storage.CountMoves)
	if err != nil {
		return err
	}
	if err := storage.History.Put(tx, storage.Key(repo, tag, storage.NumberPart(n)), storage.TagMove{Digest: string(d), Moved: tx.now, By: tx.by}); err != nil {
		return err
	}
	if d == "" {
		tx.note(Change{Kind: DeletedTag, Repo: repo, Tag: tag, Digest: digest.Digest(old.Digest)})
		return errors.Join(storage.Tags.Delete(tx, key), storage.PulledTags.Delete(tx, key), storage.Mirrored.Delete(tx, key))
	}
	tx.note(Change{Kind: MovedTag, Repo: repo, Tag: tag, Digest: d, Was: digest.Digest(old.Digest)})
	return errors.Join(
		tx.clearManifest(repo, d),
		storage.Past.Put(tx, storage.Key(repo, storage.DigestPart(d), tag, storage.NumberPart(n)), storage.Mark{}),
		storage.Tags.Put(tx, key, storage.Tag{Digest: string(d), Moved: tx.now}),
		storage.Tagged.Put(tx, storage.Key(repo, storage.DigestPart(d), tag), storage.Mark{}))
}
