package registry

import (
	"context"
	"iter"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/berth-registry/berth/storage"
)

// TagMove says where a tag pointed from a time on.
type TagMove struct {
	Tag    string
	Number int64         // greater than that of every earlier move of any tag
	Digest digest.Digest // empty: the tag was deleted
	Moved  time.Time
	By     string // account that moved it; empty if that is not known
	Kept   bool   // whether the manifest is still there
}

// History tells all that the tags of a repository have named, tag by tag, the oldest
// first; of one tag, if tag is not empty. The history outlives what it tells of: tag
// and repository may be gone. A repository that never had a tag has no history.
func (l *Local) History(ctx context.Context, repo, tag string) iter.Seq2[TagMove, error] {
	prefix := storage.Key(repo, "")
	if tag != "" {
		prefix = storage.Key(repo, tag, "")
	}
	return sequence(ctx, l, func(tx storage.Tx, yield func(TagMove) bool) error {
		for e, err := range storage.History.Scan(tx, prefix, nil) {
			if err != nil {
				return err
			}
			move := TagMove{Digest: digest.Digest(e.Value.Digest), Moved: e.Value.Moved, By: e.Value.By}
			if move.Tag, move.Number, err = storage.CutTagMove(e.Key[len(storage.Key(repo, "")):]); err != nil {
				return err
			}
			if move.Digest != "" {
				if move.Kept, err = storage.Manifests.Has(tx, storage.Key(repo, storage.DigestPart(move.Digest))); err != nil {
					return err
				}
			}
			if !yield(move) {
				break
			}
		}
		return nil
	})
}
