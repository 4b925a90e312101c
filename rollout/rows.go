package rollout

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/berth-registry/berth/storage"
)

// read reads a state. t is what is known of the tag; if the tag names something that is
// not known yet, it fails with errUnloaded.
func read(tx storage.Tx, ref Ref, t Target) (s State, err error) {
	tag, err := storage.Tags.Get(tx, storage.Key(ref.Repo, ref.Tag))
	if err != nil && !errors.Is(err, storage.ErrNotFound) {
		return s, err
	}
	s.Rollout, err = storage.Rollouts.Get(tx, storage.Key(ref.Repo, ref.Tag))
	if err != nil && !errors.Is(err, storage.ErrNotFound) {
		return s, err
	}
	if s.Failure, err = readFailure(tx, ref); err != nil {
		return s, err
	}
	switch tag.Digest {
	case "", s.Rollout.Digest:
		s.Tag.Digest = tag.Digest
	case t.Digest:
		s.Tag = t
	default:
		return s, &errUnloaded{tag.Digest}
	}
	s.Nodes, err = readNodes(tx, ref)
	return s, err
}

func readNodes(tx storage.Tx, ref Ref) (nodes []Node, err error) {
	for e, err := range storage.Followers.Scan(tx, storage.Key(ref.Repo, ref.Tag, ""), nil) {
		if err != nil {
			return nil, err
		}
		nodes = append(nodes, Node{Name: string(e.Rest), Follower: e.Value})
	}
	return nodes, nil
}

// admit fails if a node may not report, or there are too many.
func admit(tx storage.Tx, ref Ref, s *State, r *Report, now time.Time) error {
	others := func(s *State, n *Node) bool { return n.By != r.By && !r.Any && s.there(n, now) }
	for i := range s.Nodes {
		if n := &s.Nodes[i]; n.Name == r.Node {
			if others(s, n) {
				return ErrTaken
			}
			return nil
		}
	}
	there := 0
	for i := range s.Nodes {
		if s.there(&s.Nodes[i], now) {
			there++
		}
	}
	if there >= MaxNodes {
		return fmt.Errorf("%w: %d nodes follow %s", ErrMany, there, ref)
	}
	known, err := storage.Nodes.Get(tx, storage.Key(r.Node))
	if err != nil && !errors.Is(err, storage.ErrNotFound) {
		return err
	}
	if err == nil && known.By != r.By && !r.Any && known.Until.After(now) {
		return ErrTaken
	}
	refs, err := followed(tx, r.Node)
	if err != nil {
		return err
	}
	if len(refs) >= MaxRefs {
		return fmt.Errorf("%w: the node follows %d tags", ErrMany, len(refs))
	}
	for _, other := range refs {
		row, err := storage.Followers.Get(tx, storage.Key(other.Repo, other.Tag, r.Node))
		if err != nil && !errors.Is(err, storage.ErrNotFound) {
			return err
		}
		if others(&State{Up: s.Up}, &Node{Name: r.Node, Follower: row}) {
			return ErrTaken
		}
	}
	return nil
}

// followed lists the tags that a node follows.
func followed(tx storage.Tx, node string) (refs []Ref, err error) {
	for e, err := range storage.Followed.Scan(tx, storage.Key(node, ""), nil) {
		if err != nil {
			return nil, err
		}
		ref, err := cutRef(e.Rest)
		if err != nil {
			return nil, err
		}
		refs = append(refs, ref)
	}
	return refs, nil
}

// cutRef reads a repository and a tag, the last two parts of a key.
func cutRef(b []byte) (Ref, error) {
	i := slices.Index(b, 0)
	if i < 0 {
		return Ref{}, fmt.Errorf("damaged key: %q is no tag of a repository", b)
	}
	return Ref{string(b[:i]), string(b[i+1:])}, nil
}

// compare says what is to be written if a state was changed before it was decided on.
func (o *Outcome) compare(before State) {
	d := decision{Outcome: Outcome{State: o.State}, before: before.Nodes}
	d.markDirty()
	o.Dirty, o.Changed = d.Dirty, o.Rollout != before.Rollout
}

// write writes what has changed.
func write(tx storage.Tx, ref Ref, before State, o *Outcome, r *Report) error {
	if o.Rollout.Digest == "" {
		return nil // nobody knows the tag
	}
	var errs []error
	if o.Changed {
		errs = append(errs, storage.Rollouts.Put(tx, storage.Key(ref.Repo, ref.Tag), o.Rollout), writeReturns(tx, ref, before.Rollout, o.Rollout))
	}
	errs = append(errs, writeFailure(tx, ref, before.Failure, o.Failure))
	for _, name := range o.Gone {
		errs = append(errs, forget(tx, ref, name))
	}
	for _, name := range o.Dirty {
		i, ok := slices.BinarySearchFunc(o.Nodes, name, compareName)
		if !ok {
			continue
		}
		errs = append(errs, storage.Followers.Put(tx, storage.Key(ref.Repo, ref.Tag, name), o.Nodes[i].Follower))
		if _, was := slices.BinarySearchFunc(before.Nodes, name, compareName); !was {
			errs = append(errs, storage.Followed.Put(tx, storage.Key(name, ref.Repo, ref.Tag), storage.Mark{}))
		}
	}
	if o.Log && r != nil {
		errs = append(errs, storage.FollowerLogs.Put(tx, storage.Key(ref.Repo, ref.Tag, r.Node), storage.FollowerLog{Lines: r.Log, Digest: r.Target}))
	}
	return errors.Join(errs...)
}

func compareName(n Node, name string) int { return cmp.Compare(n.Name, name) }

// forget removes all that is known of a node that follows a tag.
func forget(tx storage.Tx, ref Ref, node string) error {
	return errors.Join(
		storage.Followers.Delete(tx, storage.Key(ref.Repo, ref.Tag, node)),
		storage.FollowerLogs.Delete(tx, storage.Key(ref.Repo, ref.Tag, node)),
		storage.Followed.Delete(tx, storage.Key(node, ref.Repo, ref.Tag)))
}

// writeReturns has the manifests kept that nodes may come to run, and lets go of those
// that were.
func writeReturns(tx storage.Tx, ref Ref, was, is storage.Rollout) error {
	var errs []error
	old, kept := []string{was.Digest, was.Previous}, []string{is.Digest, is.Previous}
	key := func(d string) []byte { return storage.Key(ref.Repo, storage.DigestPart(digest.Digest(d)), ref.Tag) }
	for _, d := range old {
		if d != "" && !slices.Contains(kept, d) {
			errs = append(errs, storage.Returns.Delete(tx, key(d)))
		}
	}
	for _, d := range kept {
		if d != "" && !slices.Contains(old, d) {
			errs = append(errs, storage.Returns.Put(tx, key(d), storage.Mark{}))
		}
	}
	return errors.Join(errs...)
}
