package registry

import (
	"context"
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
