package rollout

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"time"

	"github.com/berth-registry/berth/storage"
)

type (
	// Summary is how a rollout is.
	Summary struct {
		Repo     string          `json:"repository"`
		Tag      string          `json:"tag"`
		Names    string          `json:"names,omitempty"` // what the tag names; none: it was deleted
		Digest   string          `json:"digest"`          // that the nodes are to run
		Previous string          `json:"previous,omitempty"`
		Bad      string          `json:"bad,omitempty"` // that they return from
		State    string          `json:"state"`
		Reason   string          `json:"reason,omitempty"`
		Policy   json.RawMessage `json:"policy,omitempty"` // none: the default
		Started  time.Time       `json:"started"`
		By       string          `json:"by,omitempty"`        // account that moved the tag
		PausedBy string          `json:"paused_by,omitempty"` // account, or "-"
		Updated  time.Time       `json:"updated"`
		Attempt  int64           `json:"attempt"`
		Progress Progress        `json:"progress"`
	}
	// Progress counts nodes. Those that are chosen by labels and there are each Done,
	// Deploying, Failed or Waiting.
	Progress struct {
		Nodes     int `json:"nodes"`  // that are known
		Chosen    int `json:"chosen"` // by labels, and there
		Done      int `json:"done"`
		Deploying int `json:"deploying"`
		Failed    int `json:"failed"`
		Waiting   int `json:"waiting"`
		Silent    int `json:"silent"` // that are not heard of
	}
	// Status is how a rollout and each of its nodes is.
	Status struct {
		Summary
		Nodes []NodeStatus `json:"nodes"`
		// LastFailure is what nodes have failed to run last; nil if another version has
		// come through since.
		LastFailure *Failure `json:"last_failure,omitempty"`
	}
	// NodeStatus is how a node is.
	NodeStatus struct {
		Name    string            `json:"name"`
		Account string            `json:"account,omitempty"`
		Labels  map[string]string `json:"labels,omitempty"`
		Running string            `json:"running,omitempty"`
		Target  string            `json:"target,omitempty"`
		State   string            `json:"state"` // as it has reported
		Chosen  bool              `json:"chosen"`
		Silent  bool              `json:"silent,omitempty"` // it is not heard of
		Failed  bool              `json:"failed,omitempty"` // it counts as a failure
		Error   string            `json:"error,omitempty"`
		Log     []string          `json:"log,omitempty"`
		Waits   string            `json:"waits,omitempty"` // why it is not to deploy
		Since   time.Time         `json:"since"`           // by its clock
		Heard   time.Time         `json:"heard"`
		Until   *time.Time        `json:"slot_until,omitempty"` // when its turn ends unless it reports
	}
)

// Status says how a rollout is, or fails with ErrUnknown.
func (s *Store) Status(ctx context.Context, ref Ref) (st Status, err error) {
	now := s.now()
	err = s.meta.View(ctx, func(tx storage.Tx) error {
		st = Status{Nodes: []NodeStatus{}}
		d, err := look(tx, ref, now, s.upSince(now))
		if err != nil {
			return err
		}
		st.Summary = d.summary(ref)
		for i := range d.Nodes {
			n := d.nodeStatus(&d.Nodes[i])
			if n.Failed || n.State == NodeFailed {
				log, err := storage.FollowerLogs.Get(tx, storage.Key(ref.Repo, ref.Tag, n.Name))
				if err != nil && !errors.Is(err, storage.ErrNotFound) {
					return err
				}
				n.Log = log.Lines
			}
			st.Nodes = append(st.Nodes, n)
		}
		st.LastFailure, err = lastFailure(tx, ref, d.Failure)
		return err
	})
	return st, err
}

// look reads a rollout as it is at a time, whether or not that is written already.
func look(tx storage.Tx, ref Ref, now, up time.Time) (*decision, error) {
	st, err := read(tx, ref, Target{})
	unloaded := new(errUnloaded)
	if err != nil && !errors.As(err, &unloaded) {
		return nil, err
	}
	if st.Rollout.Digest == "" {
		return nil, ErrUnknown
	}
	names := st.Tag.Digest
	if err != nil { // no node has asked since the tag was moved: they are where they were
		names, st.Tag.Digest = unloaded.digest, st.Rollout.Digest
		if st.Nodes, err = readNodes(tx, ref); err != nil {
			return nil, err
		}
	}
	st.Up = up
	d := &decision{Outcome: Decide(st, nil, now), now: now}
	d.Tag.Digest = names
	return d, nil
}

func (d *decision) summary(ref Ref) Summary {
	r := &d.Rollout
	s := Summary{
		Repo: ref.Repo, Tag: ref.Tag, Names: d.Tag.Digest, Digest: r.Digest, Previous: r.Previous, Bad: r.Bad, State: r.State, Reason: r.Reason,
		Started: r.Started.UTC(), By: r.By, PausedBy: r.PausedBy, Updated: r.Updated.UTC(), Attempt: r.Attempt,
	}
	if json.Valid([]byte(r.Policy)) {
		s.Policy = json.RawMessage(r.Policy)
	}
	s.Progress.Nodes = len(d.Nodes)
	for i := range d.Nodes {
		d.progress(&d.Nodes[i], &s.Progress)
	}
	return s
}

func (d *decision) progress(n *Node, p *Progress) {
	if !d.there(n, d.now) {
		p.Silent++
		return
	}
	if !d.chosen(n) {
		return
	}
	p.Chosen++
	switch {
	case n.runs(d.Rollout.Digest):
		p.Done++
	case d.busy(n, d.now):
		p.Deploying++
	case n.Failed == d.Rollout.Digest:
		p.Failed++
	default:
		p.Waiting++
	}
}

func (d *decision) nodeStatus(n *Node) NodeStatus {
	s := NodeStatus{
		Name: n.Name, Account: n.By, Labels: n.Labels, Running: n.Running, Target: n.Target, State: n.State, Chosen: d.chosen(n),
		Silent: !d.there(n, d.now), Failed: n.Failed != "" && n.Failed == d.Rollout.Digest, Error: cmp.Or(n.Cause, n.Error),
		Since: n.Since.UTC(), Heard: n.Heard.UTC(),
	}
	if n.Slot != "" {
		until := d.turnEnds(n).UTC()
		s.Until = &until
	}
	if !s.Silent {
		s.Waits, _ = d.waitsFor(n)
	}
	return s
}

// MaxList is how many rollouts List tells of at most.
const MaxList = 1000

// List tells of the rollouts of the repositories that may be seen, by name; more says that
// there are others.
func (s *Store) List(ctx context.Context, may func(repo string) bool) (list []Summary, more bool, err error) {
	now := s.now()
	err = s.meta.View(ctx, func(tx storage.Tx) error {
		list, more = []Summary{}, false
		for e, err := range storage.Rollouts.Scan(tx, nil, nil) {
			if err != nil {
				return err
			}
			ref, err := cutRef(e.Key)
			if err != nil {
				return err
			}
			if !may(ref.Repo) {
				continue
			}
			if more = len(list) == MaxList; more {
				break
			}
			d, err := look(tx, ref, now, s.upSince(now))
			if errors.Is(err, ErrUnknown) {
				continue
			}
			if err != nil {
				return err
			}
			list = append(list, d.summary(ref))
		}
		return nil
	})
	return list, more, err
}

// Counts are how many rollouts there are in each state, and how many nodes are there.
type Counts struct {
	Rollouts map[string]int
	Nodes    int // each once for each tag that it follows
	Silent   int // nodes that are not heard of
}

// Counts counts.
func (s *Store) Counts(ctx context.Context) (c Counts, err error) {
	now := s.now()
	err = s.meta.View(ctx, func(tx storage.Tx) error {
		c = Counts{Rollouts: map[string]int{Running: 0, Paused: 0, Done: 0, Failed: 0, Undone: 0}}
		for e, err := range storage.Rollouts.Scan(tx, nil, nil) {
			if err != nil {
				return err
			}
			c.Rollouts[e.Value.State]++
		}
		for e, err := range storage.Followers.Scan(tx, nil, nil) {
			if err != nil {
				return err
			}
			if n := (Node{Follower: e.Value}); n.alive(now) {
				c.Nodes++
			} else {
				c.Silent++
			}
		}
		return nil
	})
	return c, err
}
