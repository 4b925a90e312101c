package registry

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"regexp"
	"slices"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/berth-registry/berth/storage"
)

// A node reports which manifests it runs. Until its report ends they are kept,
// whatever tags do. A report is written in several transactions, so that no push
// waits for a long one: the first makes it the node's last report, and one that
// finds another to be that gives up. What a report adds is in Runs before the next
// one looks there for what to take away.

// Errors of reports of nodes, which are no part of the protocol.
var (
	// ErrNodeInvalid says that a report is not as it should be, and why.
	ErrNodeInvalid = errors.New("invalid report")
	// ErrNodeUnknown says that there is no such node.
	ErrNodeUnknown = errors.New("no such node")
	// ErrNodeTaken says that another account reports for the node.
	ErrNodeTaken = errors.New("another account reports for the node")
	// ErrNodeNewer says that a newer report of the node came at the same time.
	ErrNodeNewer = errors.New("a newer report of the node came at the same time")
	// ErrNodesMany says that the account reports for too many nodes.
	ErrNodesMany = errors.New("the account reports for too many nodes")
)

const (
	// MaxRunning is how many manifests a node can report.
	MaxRunning = 10_000
	// MaxReportTime is how long a report can hold.
	MaxReportTime = 7 * 24 * time.Hour
	// maxNodes is how many nodes an account can report for.
	maxNodes = 1000
	// reportBatch is how many manifests are written in one transaction.
	reportBatch = 128
	// lookBatch is how many are looked at there.
	lookBatch = 2500
)

var nodeName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,252}$`)

// Running is a manifest that a node runs.
type Running struct {
	Repo   string // that it was pulled from
	Digest digest.Digest
}

// Report is what a node says that it runs.
type Report struct {
	Node    string
	By      string // account that reports
	Any     bool   // whether it may report for the nodes of others, and for any number
	Running []Running
	TTL     time.Duration // for which it holds, at most MaxReportTime
}

// Node is a node that has reported.
type Node struct {
	Name     string
	By       string // account that reports for it
	Reported time.Time
	Until    time.Time // when its report ends
	Running  int       // manifests that it runs
}

// ReportRunning keeps what a node runs until the report ends, and lets go of what an
// earlier one had. It returns until when, and what is not in the registry and so
// cannot be kept. It fails with ErrNodeInvalid, ErrNodeTaken, ErrNodesMany, or
// ErrNodeNewer.
func (l *Local) ReportRunning(ctx context.Context, r Report) (until time.Time, unknown []Running, err error) {
	if err := r.check(); err != nil {
		return until, nil, err
	}
	var row storage.Node
	if err := l.change(ctx, func(tx *changing) (err error) {
		row, err = tx.beginReport(r)
		return err
	}); err != nil {
		return until, nil, err
	}
	keep := map[digest.Digest]bool{}
	for batch := range slices.Chunk(r.Running, reportBatch) {
		var there []bool
		if err := l.change(ctx, func(tx *changing) (err error) {
			there, err = tx.addRunning(r.Node, row, batch)
			return err
		}); err != nil {
			return until, nil, err
		}
		for i, known := range there {
			if known {
				keep[batch[i].Digest] = true
			} else {
				unknown = append(unknown, batch[i])
			}
		}
	}
	if err := l.dropRunning(ctx, r.Node, row.Report, keep); err != nil {
		return until, nil, err
	}
	row.Running = len(keep)
	return row.Until, unknown, l.change(ctx, func(tx *changing) error {
		if err := tx.isLast(r.Node, row.Report); err != nil {
			return err
		}
		return storage.Nodes.Put(tx, storage.Key(r.Node), row)
	})
}

func (r Report) check() error {
	switch {
	case !nodeName.MatchString(r.Node):
		return fmt.Errorf("%w: want a name of letters, digits, '.', '_' and '-', not starting with a mark, of at most 253 characters", ErrNodeInvalid)
	case len(r.Running) > MaxRunning:
		return fmt.Errorf("%w: more than %d manifests", ErrNodeInvalid, MaxRunning)
	case r.TTL < time.Second || r.TTL > MaxReportTime:
		return fmt.Errorf("%w: want a time to live from 1s to %s", ErrNodeInvalid, MaxReportTime)
	}
	return nil
}

// beginReport makes a report the last of its node.
func (c *changing) beginReport(r Report) (row storage.Node, err error) {
	old, err := storage.Nodes.Get(c, storage.Key(r.Node))
	switch {
	case isNotFound(err) && !r.Any:
		if err := c.roomForNode(r.By); err != nil {
			return row, err
		}
	case err != nil && !isNotFound(err):
		return row, err
	case err == nil && old.By != r.By && !r.Any && old.Until.After(c.now):
		return row, ErrNodeTaken
	}
	n, err := storage.Next(c, storage.CountReports)
	if err != nil {
		return row, err
	}
	row = storage.Node{By: r.By, Reported: c.now, Until: c.now.Add(r.TTL), Report: n, Running: old.Running}
	return row, storage.Nodes.Put(c, storage.Key(r.Node), row)
}

func (c *changing) roomForNode(by string) error {
	n := 0
	for e, err := range storage.Nodes.Scan(c, nil, nil) {
		if err != nil {
			return err
		}
		if e.Value.By == by {
			n++
		}
	}
	if n >= maxNodes {
		return ErrNodesMany
	}
	return nil
}

// isLast fails unless a report is the last of its node.
func (c *changing) isLast(node string, report int64) error {
	row, err := storage.Nodes.Get(c, storage.Key(node))
	if isNotFound(err) || err == nil && row.Report != report {
		return ErrNodeNewer
	}
	return err
}

// addRunning adds to a report what of running is there.
func (c *changing) addRunning(node string, row storage.Node, running []Running) (there []bool, err error) {
	if err := c.isLast(node, row.Report); err != nil {
		return nil, err
	}
	there = make([]bool, len(running))
	for i, r := range running {
		part := storage.DigestPart(r.Digest)
		if there[i], err = storage.Manifests.Has(c, storage.Key(r.Repo, part)); err != nil {
			return nil, err
		}
		if !there[i] {
			continue
		}
		if err := errors.Join(
			storage.RunningOn.Put(c, storage.Key(part, node), storage.NodeLease{Until: row.Until}),
			storage.Runs.Put(c, storage.Key(node, part), storage.Mark{})); err != nil {
			return nil, err
		}
	}
	return there, nil
}

// dropRunning lets go of what a node has reported but for keep, as long as report is
// its last.
func (l *Local) dropRunning(ctx context.Context, node string, report int64, keep map[digest.Digest]bool) error {
	var after []byte
	for more := true; more; {
		var last []byte
		err := l.change(ctx, func(tx *changing) (err error) {
			if err := tx.isLast(node, report); err != nil {
				return err
			}
			last, err = tx.dropSome(node, after, keep)
			return err
		})
		if err != nil {
			return err
		}
		after, more = last, last != nil
	}
	return nil
}

// dropSome is one transaction of dropRunning; it returns the key behind which there
// may be more, or nil.
func (c *changing) dropSome(node string, after []byte, keep map[digest.Digest]bool) (last []byte, err error) {
	var gone []digest.Digest
	seen, more := 0, false
	for e, err := range storage.Runs.Scan(c, storage.Key(node, ""), after) {
		if err != nil {
			return nil, err
		}
		if seen == lookBatch || len(gone) == reportBatch {
			more = true
			break
		}
		seen++
		last = slices.Clone(e.Key)
		d, _, err := storage.CutDigest(e.Rest)
		if err != nil {
			return nil, err
		}
		if !keep[d] {
			gone = append(gone, d)
		}
	}
	for _, d := range gone {
		part := storage.DigestPart(d)
		if err := errors.Join(
			storage.RunningOn.Delete(c, storage.Key(part, node)),
			storage.Runs.Delete(c, storage.Key(node, part)),
			c.notRunning(d)); err != nil {
			return nil, err
		}
	}
	if !more {
		last = nil
	}
	return last, nil
}

// notRunning has manifests reviewed after the grace period that were to be reviewed
// when a node would no longer run them.
func (c *changing) notRunning(d digest.Digest) error {
	var repos []string
	for e, err := range storage.Holders.Scan(c, storage.Key(storage.DigestPart(d), ""), nil) {
		if err != nil {
			return err
		}
		repos = append(repos, string(e.Rest))
	}
	for _, repo := range repos {
		err := watchedManifests.change(c, repo, d, func(w *storage.Watch) error {
			if due := c.afterGrace(); w.Due > due {
				return c.queue(storage.ReviewManifest, repo, d, w, due, 0)
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// Nodes lists the nodes whose reports hold, by name.
func (l *Local) Nodes(ctx context.Context) iter.Seq2[Node, error] {
	return sequence(ctx, l, func(tx storage.Tx, yield func(Node) bool) error {
		for e, err := range storage.Nodes.Scan(tx, nil, nil) {
			if err != nil {
				return err
			}
			n := e.Value
			if n.Until.After(l.now()) && !yield(Node{Name: string(e.Key), By: n.By, Reported: n.Reported, Until: n.Until, Running: n.Running}) {
				break
			}
		}
		return nil
	})
}

// RemoveNode lets go of all that a node has reported. It fails with ErrNodeUnknown
// or ErrNodeNewer.
func (l *Local) RemoveNode(ctx context.Context, name string) error {
	row, err := l.node(ctx, name)
	if isNotFound(err) {
		return ErrNodeUnknown
	}
	if err != nil {
		return err
	}
	return l.removeNode(ctx, name, row.Report)
}

func (l *Local) node(ctx context.Context, name string) (row storage.Node, err error) {
	if !nodeName.MatchString(name) {
		return row, storage.ErrNotFound
	}
	err = l.meta.View(ctx, func(tx storage.Tx) error {
		row, err = storage.Nodes.Get(tx, storage.Key(name))
		return err
	})
	return row, err
}

func (l *Local) removeNode(ctx context.Context, name string, report int64) error {
	for {
		if err := l.dropRunning(ctx, name, report, nil); err != nil {
			return err
		}
		var more bool
		err := l.change(ctx, func(tx *changing) (err error) {
			if err := tx.isLast(name, report); err != nil {
				return err
			}
			more, err = hasAny(storage.Runs.Scan(tx, storage.Key(name, ""), nil))
			if more || err != nil {
				return err // the report goes on
			}
			return storage.Nodes.Delete(tx, storage.Key(name))
		})
		if err != nil || !more {
			return err
		}
	}
}

// expireNodes removes the nodes whose reports have ended.
func (l *Local) expireNodes(ctx context.Context) error {
	type ended struct {
		name   string
		report int64
	}
	var all []ended
	err := l.meta.View(ctx, func(tx storage.Tx) error {
		all = nil
		for e, err := range storage.Nodes.Scan(tx, nil, nil) {
			if err != nil {
				return err
			}
			if !e.Value.Until.After(l.now()) {
				all = append(all, ended{string(e.Key), e.Value.Report})
			}
		}
		return nil
	})
	for _, n := range all {
		if err == nil {
			err = l.removeNode(ctx, n.name, n.report)
		}
		if errors.Is(err, ErrNodeNewer) { // it reports again
			err = nil
		}
	}
	return err
}
