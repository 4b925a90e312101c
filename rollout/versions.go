package rollout

import (
	"context"
	"errors"
	"time"

	"github.com/berth-registry/berth/storage"
)

// Seen is what is to be seen of a tag without looking at its nodes.
type Seen struct {
	tag string
	row storage.Rollout
}

// Differs says whether there is something new for who waits with a version.
func (s *Seen) Differs(version string) bool { return Differs(version, s.tag, &s.row) }

// Version is a version that nothing is new for, now: to answer with.
func (s *Seen) Version() string { return version(s.tag, &s.row, true) }

// Next is when time alone may change something; zero for never.
func (s *Seen) Next() time.Time { return s.row.Next }

// See looks at tags, all in one transaction.
func (s *Store) See(ctx context.Context, refs []Ref) (seen []Seen, err error) {
	err = s.meta.View(ctx, func(tx storage.Tx) error {
		seen = make([]Seen, len(refs))
		for i, ref := range refs {
			key := storage.Key(ref.Repo, ref.Tag)
			tag, err := storage.Tags.Get(tx, key)
			if err != nil && !errors.Is(err, storage.ErrNotFound) {
				return err
			}
			seen[i].tag = tag.Digest
			if seen[i].row, err = storage.Rollouts.Get(tx, key); err != nil && !errors.Is(err, storage.ErrNotFound) {
				return err
			}
		}
		return nil
	})
	return seen, err
}
