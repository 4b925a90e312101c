// Package copying copies images and artifacts between registries: a manifest,
// all that it references, and on request all that refers to it. Bytes stay as
// they are, and so do digests.
//
// What the target has already is not sent again. A manifest is pushed after
// everything that it references, and the tags move last, so that a copy that
// was cut short shows nothing that is incomplete.
//
// It trusts no source: graphs have limits, and digests are verified by the
// target.
//
// A target may be a cache of the source, which holds manifests without all that
// they reference (Options.Sparse): it is then looked through down to the blobs.
package copying

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"slices"
	"sync"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sync/errgroup"

	"github.com/berth-registry/berth/registry"
)

// Reader is what a source must do.
type Reader interface {
	registry.Reader
	Referrers(ctx context.Context, repo string, d digest.Digest, artifactType string, after digest.Digest) iter.Seq2[registry.Descriptor, error]
}

// Writer is what a target must do.
type Writer interface {
	registry.Writer
	StatBlob(ctx context.Context, repo string, d digest.Digest) (registry.Descriptor, error)
	StatManifest(ctx context.Context, repo string, ref registry.Reference) (registry.Descriptor, error)
}

// Source is what to copy.
type Source struct {
	Registry Reader
	Repo     string
	Ref      registry.Reference
}

// Target is where to copy it.
type Target struct {
	Registry Writer
	Repo     string
	Tags     []string // to point at it
}

// Options say how to copy.
type Options struct {
	// Jobs is how many blobs, and then manifests, are copied at once; 0 means
	// DefaultJobs.
	Jobs int
	// Referrers copies what refers to any of the manifests, too: signatures,
	// SBOMs and the like, and what refers to these.
	Referrers bool
	// MountFrom is a repository of the target's registry that has the source's
	// blobs, so that they need not be sent; "" if there is none.
	MountFrom string
	// Sparse says that the target may hold a manifest without what it references,
	// and takes one so.
	Sparse bool
	// Platforms are those of an index that are copied; none means all. What is of no
	// platform is copied, and attestations (in BuildKit's manner) with what they are
	// of. The index itself stays as it is, and needs a Sparse target.
	Platforms []Platform
	// Group, if not nil, is what this copy shares with others that go on at once;
	// Jobs are then the group's.
	Group *Group
	// Progress, if not nil, is told what happens, one event at a time.
	Progress func(Event)
}

// DefaultJobs is how many blobs are copied at once.
const DefaultJobs = 4

// Event is a step in the copying of one blob or manifest.
type Event struct {
	Descriptor registry.Descriptor
	Manifest   bool // else a blob
	State      State
	Bytes      int64 // of Descriptor.Size that were sent so far
}

// State is how far a blob or manifest is.
type State int

// A blob is Sending, more than once, and then Copied, unless it is Present or
// Mounted at once. A manifest is Copied or Present.
const (
	Sending State = iota
	Copied        // sent, whole
	Mounted       // from another repository of the target
	Present       // in the target already
)

func (s State) String() string {
	return [...]string{"sending", "copied", "mounted", "present"}[s]
}

// Result sums up a copy.
type Result struct {
	Root      registry.Descriptor // of the manifest that was asked for
	Manifests Count
	Blobs     Count
	Bytes     int64 // sent, of blobs and manifests
}

// Count is how many blobs or manifests ended in which state.
type Count struct{ Copied, Mounted, Present int }

func (c *Count) add(s State) {
	switch s {
	case Copied:
		c.Copied++
	case Mounted:
		c.Mounted++
	case Present:
		c.Present++
	case Sending:
	}
}

// SourceError is an error that the source's registry gave; all others are the
// target's, or of the graph.
type SourceError struct{ Err error }

func (e *SourceError) Error() string { return e.Err.Error() }

// Unwrap returns the registry's error.
func (e *SourceError) Unwrap() error { return e.Err }

func ofSource(err error) error {
	if err == nil || errors.Is(err, io.EOF) {
		return err // the end is no error
	}
	return &SourceError{err}
}

// Copy copies what src names to dst. Its errors are those of the registries;
// ErrManifestInvalid is also the answer to a graph beyond the limits.
func Copy(ctx context.Context, src Source, dst Target, o Options) (Result, error) {
	if o.Jobs <= 0 {
		o.Jobs = DefaultJobs
	}
	if o.Group != nil {
		o.Jobs = o.Group.Jobs()
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	c := &copier{
		src: src, dst: dst, o: o, fail: cancel,
		nodes: map[digest.Digest]*node{}, blobs: map[digest.Digest]bool{},
		pool: pool{room: make(chan struct{}, o.Jobs)},
	}

	root, err := c.root(ctx)
	if err != nil {
		cancel(err)
	}
	c.pool.jobs.Wait()
	if ctx.Err() != nil {
		return c.result, context.Cause(ctx)
	}
	c.result.Root = root.desc
	return c.result, c.pushAll(ctx, root)
}

// copier is one copy under way. The graph is walked by one goroutine, while the
// pool copies the blobs that it finds; once all are there, manifests follow.
type copier struct {
	src   Source
	dst   Target
	o     Options
	pool  pool
	fail  context.CancelCauseFunc
	nodes map[digest.Digest]*node
	blobs map[digest.Digest]bool
	kept  int // bytes of manifests in memory

	mu     sync.Mutex // guards result, and calls of o.Progress
	result Result
}

func (c *copier) tell(e Event) {
	c.mu.Lock()
	defer c.mu.Unlock()
	count := &c.result.Blobs
	if e.Manifest {
		count = &c.result.Manifests
	}
	count.add(e.State)
	if e.State == Copied {
		c.result.Bytes += e.Descriptor.Size
	}
	if c.o.Progress != nil {
		c.o.Progress(e)
	}
}

// pool runs jobs at once, as many as it has room for.
type pool struct {
	room chan struct{}
	jobs sync.WaitGroup
}

// run runs a job, once there is room.
func (p *pool) run(job func()) {
	p.room <- struct{}{}
	p.jobs.Go(func() {
		defer func() { <-p.room }()
		job()
	})
}

// addBlob has a blob copied, once.
func (c *copier) addBlob(ctx context.Context, d registry.Descriptor) {
	if c.blobs[d.Digest] {
		return
	}
	c.blobs[d.Digest] = true
	c.pool.run(func() {
		if ctx.Err() != nil {
			return // the copy has failed already
		}
		if err := c.copyBlob(ctx, d); err != nil {
			c.fail(fmt.Errorf("copy blob %s: %w", d.Digest, err))
		}
	})
}

func (c *copier) copyBlob(ctx context.Context, d registry.Descriptor) error {
	to, repo := c.dst.Registry, c.dst.Repo
	if c.o.Group != nil {
		release, err := c.o.Group.claim(ctx, repo, d.Digest)
		if err != nil {
			return err
		}
		defer release()
	}
	_, err := to.StatBlob(ctx, repo, d.Digest)
	if err == nil {
		c.tell(Event{Descriptor: d, State: Present})
		return nil
	}
	if !errors.Is(err, registry.ErrBlobUnknown) {
		return err
	}
	if c.o.MountFrom != "" {
		_, err := to.MountBlob(ctx, repo, c.o.MountFrom, d.Digest)
		if err == nil {
			c.tell(Event{Descriptor: d, State: Mounted})
			return nil
		}
		if !errors.Is(err, registry.ErrBlobUnknown) && !errors.Is(err, registry.ErrDenied) {
			return err
		}
	}
	return c.sendBlob(ctx, d)
}

func (c *copier) sendBlob(ctx context.Context, d registry.Descriptor) error {
	r, got, err := c.src.Registry.Blob(ctx, c.src.Repo, d.Digest)
	if err != nil {
		return ofSource(err)
	}
	defer r.Close()
	if got.Size != d.Size {
		return registry.ErrManifestInvalid.With("the manifest says that %s has %d bytes: the source has %d", d.Digest, d.Size, got.Size)
	}
	c.tell(Event{Descriptor: d, State: Sending})
	body := &reporter{ReadSeeker: r, report: func(n int64) {
		c.tell(Event{Descriptor: d, State: Sending, Bytes: n})
	}}
	if _, err := c.dst.Registry.PushBlob(ctx, c.dst.Repo, d.Digest, body); err != nil {
		return err
	}
	c.tell(Event{Descriptor: d, State: Copied, Bytes: d.Size})
	return nil
}

// reporter reports how far a reader was read. It seeks, so that a target can
// know the length, and send again what it has to.
type reporter struct {
	io.ReadSeeker
	at     int64
	report func(n int64)
}

// Read reads on and reports.
func (r *reporter) Read(p []byte) (int, error) {
	n, err := r.ReadSeeker.Read(p)
	if n > 0 {
		r.at += int64(n)
		r.report(r.at)
	}
	return n, ofSource(err)
}

// Seek sets where the next Read begins.
func (r *reporter) Seek(offset int64, whence int) (int64, error) {
	at, err := r.ReadSeeker.Seek(offset, whence)
	if err == nil {
		r.at = at
	}
	return at, err
}

// pushAll pushes the manifests, those of one height at once, and moves the tags
// in the end.
func (c *copier) pushAll(ctx context.Context, root *node) error {
	var levels [][]*node
	for _, n := range c.nodes {
		for len(levels) <= n.height {
			levels = append(levels, nil)
		}
		levels[n.height] = append(levels[n.height], n)
	}
	for _, level := range levels {
		g, ctx := errgroup.WithContext(ctx)
		g.SetLimit(c.o.Jobs)
		for _, n := range level {
			if n == root && n.height == len(levels)-1 {
				continue // goes last anyway
			}
			g.Go(func() error { return c.pushNode(ctx, n, nil) })
		}
		if err := g.Wait(); err != nil {
			return err
		}
	}
	return c.pushNode(ctx, root, c.dst.Tags)
}

func (c *copier) pushNode(ctx context.Context, n *node, tags []string) error {
	if n.present && len(tags) == 0 {
		return nil // as was told
	}
	data := n.data
	if data == nil {
		var err error
		if data, _, err = c.manifest(ctx, n); err != nil {
			return err
		}
	}
	_, err := c.dst.Registry.PushManifest(ctx, c.dst.Repo, registry.ManifestPush{
		Data: data, MediaType: n.desc.MediaType, Digest: n.desc.Digest, Tags: slices.Clone(tags), Sparse: n.sparse,
	})
	if err != nil {
		return fmt.Errorf("push manifest %s: %w", n.desc.Digest, err)
	}
	if !n.present {
		n.present = true
		c.tell(Event{Descriptor: n.desc, Manifest: true, State: Copied, Bytes: n.desc.Size})
	}
	return nil
}
