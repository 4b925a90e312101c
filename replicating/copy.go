package replicating

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/opencontainers/go-digest"
	"golang.org/x/time/rate"

	"github.com/berth-registry/berth/registry"
	"github.com/berth-registry/berth/registry/copying"
	"github.com/berth-registry/berth/storage"
)

var errNoTarget = errors.New("the registry to replicate to is not set up")

// outcome is what was done for a row.
type outcome struct {
	asked bool  // the target was
	sent  int64 // bytes
}

// job is the replication of one row.
type job struct {
	r       *Replicator
	t       *target
	source  registry.Registry
	target  registry.Registry
	row     row
	there   string // repository at the target
	outcome outcome
	moved   func() // something goes on
}

// stall is how long a target may do nothing with what is sent to it. It may have to
// read a large blob once more before it answers.
const stall = 15 * time.Minute

var errStalled = fmt.Errorf("the target does not go on: nothing has happened for %s", stall)

// do makes what the row is about at the target what it is here.
func (r *Replicator) do(ctx context.Context, t *target, w row) (outcome, error) {
	source := r.source.Load()
	if !t.matches(w.repo, r.mirrored(w.repo)) || source == nil {
		return outcome{}, nil // by rules that have changed since
	}
	there, err := t.there(w.repo)
	if err != nil {
		return outcome{}, err
	}
	to := r.o.Target(t.name)
	if to == nil {
		return outcome{}, errNoTarget
	}
	working, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	stalled := time.AfterFunc(stall, func() { cancel(errStalled) })
	defer stalled.Stop()
	j := &job{r: r, t: t, source: *source, row: w, there: there, moved: func() { stalled.Reset(stall) }}
	j.target = watched{to, j}
	err = j.do(working)
	if err != nil && ctx.Err() == nil && working.Err() != nil {
		err = context.Cause(working)
	}
	return j.outcome, err
}

func (j *job) do(ctx context.Context) error {
	w := j.row
	desc, err := j.source.StatManifest(ctx, w.repo, w.ref)
	if errors.Is(err, registry.ErrManifestUnknown) {
		return j.remove(ctx)
	}
	if err != nil {
		return &copying.SourceError{Err: err}
	}
	wanted, err := j.r.wanted(ctx, j.t, w.item)
	switch {
	case err != nil || !wanted:
		return err
	case w.ref.Tag != "":
		return j.tag(ctx, w.ref.Tag, desc.Digest)
	default:
		return j.copy(ctx, desc.Digest)
	}
}

// wanted says whether a rule is about something that is here: a tag that it names, or
// what is replicated along with one.
func (r *Replicator) wanted(ctx context.Context, t *target, i item) (wanted bool, err error) {
	d := i.ref.Digest
	if i.ref.Tag != "" {
		if t.wantsTag(i.ref.Tag) {
			return true, nil
		}
		var attaches bool
		if d, attaches = attachedTo(i.ref.Tag); !attaches {
			return false, nil
		}
	}
	err = r.meta.View(ctx, func(tx storage.Tx) (err error) {
		wanted, err = t.reaches(tx, i.repo, d)
		return err
	})
	return wanted, err
}

// remove deletes at the target what was deleted here.
func (j *job) remove(ctx context.Context) (err error) {
	if !j.row.Deleted || !j.t.deletes {
		return nil // what came and went unseen
	}
	j.outcome.asked = true
	if tag := j.row.ref.Tag; tag != "" {
		err = j.target.DeleteTag(ctx, j.there, tag)
	} else {
		err = j.target.DeleteManifest(ctx, j.there, j.row.ref.Digest)
	}
	if errors.Is(err, registry.ErrManifestUnknown) || errors.Is(err, registry.ErrNameUnknown) {
		return nil
	}
	if errors.Is(err, registry.ErrReferenced) {
		return &later{err} // until what references it is deleted, too
	}
	return err
}

// later is an error that passes, though registries mean something else by it.
type later struct{ err error }

func (l *later) Error() string { return l.err.Error() }

// tag points a tag at the manifest that it names here. If it does already, it is left
// alone, so that registries which replicate to each other come to rest.
func (j *job) tag(ctx context.Context, tag string, d digest.Digest) error {
	names, err := j.names(ctx, tag, d)
	if err != nil {
		return err
	}
	var tags []string
	if !names {
		tags = []string{tag}
	}
	if err := j.copy(ctx, d, tags...); err != nil {
		return err
	}
	if len(j.t.tags) == 0 {
		return nil // what is attached by tags comes by itself
	}
	return j.attached(ctx, d)
}

// names says whether a tag of the target names a manifest.
func (j *job) names(ctx context.Context, tag string, d digest.Digest) (bool, error) {
	desc, err := j.target.StatManifest(ctx, j.there, registry.Reference{Tag: tag})
	if errors.Is(err, registry.ErrManifestUnknown) || errors.Is(err, registry.ErrNameUnknown) {
		return false, nil
	}
	return desc.Digest == d, err
}

// attached copies what is attached to a manifest by tags.
func (j *job) attached(ctx context.Context, d digest.Digest) error {
	for _, suffix := range attached() {
		tag := attachedTag(d, suffix)
		desc, err := j.source.StatManifest(ctx, j.row.repo, registry.Reference{Tag: tag})
		if errors.Is(err, registry.ErrManifestUnknown) {
			continue
		}
		if err != nil {
			return &copying.SourceError{Err: err}
		}
		names, err := j.names(ctx, tag, desc.Digest)
		if err != nil {
			return err
		}
		if !names {
			if err := j.copy(ctx, desc.Digest, tag); err != nil {
				return err
			}
		}
	}
	return nil
}

// copy copies a manifest with all that belongs to it, and points tags at it.
func (j *job) copy(ctx context.Context, d digest.Digest, tags ...string) error {
	result, err := copying.Copy(ctx,
		copying.Source{Registry: slowed{j.source, j.t.limit}, Repo: j.row.repo, Ref: registry.Reference{Digest: d}},
		copying.Target{Registry: j.target, Repo: j.there, Tags: tags},
		copying.Options{
			Jobs: j.t.jobs, Referrers: true, MountFrom: j.there, // watched knows better from where
			Progress: func(copying.Event) { j.moved() },
		})
	j.outcome.sent += result.Bytes
	return err
}

// watched is a target at which blobs are mounted from any repository that has them.
// It tells that a job goes on.
type watched struct {
	registry.Registry
	job *job
}

// StatManifest describes a manifest.
func (m watched) StatManifest(ctx context.Context, repo string, ref registry.Reference) (registry.Descriptor, error) {
	m.job.outcome.asked = true
	m.job.moved()
	return m.Registry.StatManifest(ctx, repo, ref)
}

// maxMounts is how many repositories are tried for a blob.
const maxMounts = 2

// MountBlob mounts a blob from a repository that was replicated, or fails with
// ErrBlobUnknown.
func (m watched) MountBlob(ctx context.Context, repo, _ string, d digest.Digest) (registry.Descriptor, error) {
	from, err := m.job.holders(ctx, d)
	if err != nil {
		return registry.Descriptor{}, err
	}
	for _, f := range from {
		desc, err := m.Registry.MountBlob(ctx, repo, f, d)
		if err == nil || !errors.Is(err, registry.ErrBlobUnknown) && !errors.Is(err, registry.ErrDenied) && !errors.Is(err, registry.ErrNameUnknown) {
			return desc, err
		}
	}
	return registry.Descriptor{}, registry.ErrBlobUnknown
}

// holders are repositories of the target that may have a blob: those here that have
// it, as they are called there.
func (j *job) holders(ctx context.Context, d digest.Digest) (names []string, err error) {
	err = j.r.meta.View(ctx, func(tx storage.Tx) error {
		names = nil
		looked := 0
		for e, err := range storage.Holders.Scan(tx, storage.Key(storage.DigestPart(d), ""), nil) {
			if err != nil {
				return err
			}
			if looked++; looked > batch || len(names) == maxMounts {
				break
			}
			repo := string(e.Rest)
			if repo == j.row.repo || !j.t.matches(repo, j.r.mirrored(repo)) {
				continue
			}
			if there, err := j.t.there(repo); err == nil && there != j.there {
				names = append(names, there)
			}
		}
		return nil
	})
	return names, err
}

// slowed is a source whose blobs are read no faster than a limit.
type slowed struct {
	registry.Registry
	limit *rate.Limiter // nil for none
}

// Blob opens a blob.
func (s slowed) Blob(ctx context.Context, repo string, d digest.Digest) (io.ReadSeekCloser, registry.Descriptor, error) {
	r, desc, err := s.Registry.Blob(ctx, repo, d)
	if err != nil || s.limit == nil {
		return r, desc, err
	}
	wait := func(n int) error { return s.limit.WaitN(ctx, n) }
	return &slowReader{ReadSeekCloser: r, wait: wait, most: s.limit.Burst()}, desc, nil
}

type slowReader struct {
	io.ReadSeekCloser
	wait func(n int) error
	most int
}

// Read reads, and waits until as much may have been read.
func (r *slowReader) Read(p []byte) (int, error) {
	n, err := r.ReadSeekCloser.Read(p[:min(len(p), r.most)])
	if n > 0 {
		if werr := r.wait(n); werr != nil {
			return n, werr
		}
	}
	return n, err
}
