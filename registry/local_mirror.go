package registry

import (
	"context"
	"iter"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/berth-registry/berth/storage"
)

// Upstreamed is what was last learnt of a tag in the registry that its repository
// is a cache of; see package mirror.
type Upstreamed struct {
	Digest  digest.Digest // that it named; empty if nothing was learnt yet
	Checked time.Time     // when it was asked for last
}

// Upstreamed returns what SetUpstreamed has remembered of a tag, or the zero value.
func (l *Local) Upstreamed(ctx context.Context, repo, tag string) (u Upstreamed, err error) {
	err = l.meta.View(ctx, func(tx storage.Tx) error {
		row, err := storage.Mirrored.Get(tx, storage.Key(repo, tag))
		if isNotFound(err) {
			u = Upstreamed{}
			return nil
		}
		u = Upstreamed{Digest: digest.Digest(row.Digest), Checked: row.Checked}
		return err
	})
	return u, err
}

// SetUpstreamed remembers what was learnt of a tag; an empty digest forgets it.
func (l *Local) SetUpstreamed(ctx context.Context, repo, tag string, u Upstreamed) error {
	return l.meta.Update(ctx, func(tx storage.Tx) error {
		key := storage.Key(repo, tag)
		if u.Digest == "" {
			return storage.Mirrored.Delete(tx, key)
		}
		return storage.Mirrored.Put(tx, key, storage.MirroredTag{Digest: string(u.Digest), Checked: u.Checked})
	})
}

// CachedIn lists the repositories below a prefix that have the blob d.
func (l *Local) CachedIn(ctx context.Context, prefix string, d digest.Digest) iter.Seq2[string, error] {
	return sequence(ctx, l, func(tx storage.Tx, yield func(string) bool) error {
		part := storage.DigestPart(d)
		damaged, err := isDamaged(tx, d)
		if damaged || err != nil {
			return err
		}
		below := append(storage.Key(part, ""), prefix+"/"...)
		for holder, err := range storage.Holders.Scan(tx, below, nil) {
			if err != nil {
				return err
			}
			repo := prefix + "/" + string(holder.Rest)
			linked, err := storage.Links.Has(tx, storage.Key(repo, part)) // else it is a manifest there
			if err != nil {
				return err
			}
			if linked && !yield(repo) {
				break
			}
		}
		return nil
	})
}
