package rollout

import (
	"context"
	"errors"
	"maps"
	"time"

	"github.com/berth-registry/berth/storage"
)

// errSlow says that all nodes are to be looked at.
var errSlow = errors.New("all nodes are to be looked at")

// quick takes the report of a node that runs what it is to run, and says what it has said
// before: most reports are so, and need no look at all the other nodes. It says whether
// this is one; what is decided is the same.
func (s *Store) quick(ctx context.Context, ref Ref, r *Report) (a Answer, ok bool, err error) {
	if r.State != NodeRunning {
		return a, false, nil
	}
	now, old, write := s.now().UTC().Truncate(time.Microsecond), storage.Follower{}, false
	look := func(tx storage.Tx) error {
		row, err := storage.Rollouts.Get(tx, storage.Key(ref.Repo, ref.Tag))
		if err != nil {
			return err
		}
		tag, err := storage.Tags.Get(tx, storage.Key(ref.Repo, ref.Tag))
		if err != nil {
			return err
		}
		if old, err = storage.Followers.Get(tx, storage.Key(ref.Repo, ref.Tag, r.Node)); err != nil {
			return err
		}
		n := Node{r.Node, old}
		due := row.Back || !row.Next.IsZero() && !row.Next.After(now)
		if due || tooEarly(old.Heard, now) || tag.Digest != row.Digest || !n.alive(now) || !n.runs(row.Digest) || n.Slot != "" || n.Failed != "" || !n.says(r) {
			return errSlow
		}
		write = now.Sub(old.Heard) >= n.Interval/4
		a = Answer{Digest: row.Digest, Tag: tag.Digest, Version: version(tag.Digest, &row, false), Rollout: AnswerRollout{row.State, row.Attempt}}
		return nil
	}
	err = s.meta.View(ctx, look)
	if err == nil && write {
		err = s.meta.Update(ctx, func(tx storage.Tx) error {
			if err := look(tx); err != nil {
				return err
			}
			old.Heard = now
			return storage.Followers.Put(tx, storage.Key(ref.Repo, ref.Tag, r.Node), old)
		})
	}
	if errors.Is(err, errSlow) || errors.Is(err, storage.ErrNotFound) {
		return a, false, nil
	}
	return a, err == nil, err
}

// says tells whether the node has reported the same before.
func (n *Node) says(r *Report) bool {
	return n.By == r.By && n.Running == r.Running && n.Target == r.Target && n.State == r.State && n.Error == r.Error &&
		n.Interval == time.Duration(r.Interval) && sameTime(n.Since, r.Since) && maps.Equal(n.Labels, r.Labels)
}
