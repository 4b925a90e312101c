package mirror

import (
	"context"
	"errors"
	"log/slog"
	"sync"

	"github.com/opencontainers/go-digest"
)

// fills are the blobs that are coming from an upstream.
type fills struct {
	mu      sync.Mutex
	running map[digest.Digest]*fill
}

// fill is a blob on its way from an upstream into the cache. It goes on to its end
// whether or not anybody waits for it.
type fill struct {
	r      *Registry
	m      *mirrored
	d      digest.Digest
	repo   string // that it is asked for as
	forced bool   // though the cache may have it

	mu      sync.Mutex
	changed chan struct{}   // closed when anything below changes; nil if nobody waits
	repos   map[string]bool // that get it
	spool   *spool          // nil before there is one, and when it is over
	size    int64           // bytes; -1 if that is not known yet
	written int64           // bytes in the spool
	whole   bool            // all of them, and they are right
	over    bool            // nothing will change any more
	err     error           // why it is not whole
	kept    error           // why it is not in the cache, though it is whole; set when it is over
}

var (
	// errCached says that the cache may have the blob by now.
	errCached = errors.New("the blob is to be looked for again")
	// errDirect says that a blob cannot be shared, and each reader has to fetch it.
	errDirect = errors.New("the blob does not fit on the disk")
)

// holdBack is how many bytes of a blob its readers get only when all of it is found
// to be right.
const holdBack = 4096

// fill returns the fill of a blob for a repository, which begins if need be. It fails
// with errCached if there was one that has just ended.
func (r *Registry) fill(ctx context.Context, m *mirrored, repo string, d digest.Digest) (*fill, error) {
	m.fills.mu.Lock()
	f := m.fills.running[d]
	m.fills.mu.Unlock()
	if f == nil {
		q := question{kind: aBlob, repo: repo, ref: string(d)}
		if err := r.allowed(ctx, m, q); err != nil {
			return nil, err
		}
		return r.begin(m, repo, d, false)
	}
	if err := r.o.MayFetch(ctx, repo); err != nil {
		return nil, err
	}
	if !f.has(repo) { // it may not have the blob
		if _, err := r.stat(ctx, m, repo, d); err != nil {
			return nil, err
		}
	}
	if err := f.add(ctx, repo); err != nil {
		return nil, err
	}
	return f, nil
}

// begin begins a fill, unless there is one for the repository; errCached says that
// there is one for another.
func (r *Registry) begin(m *mirrored, repo string, d digest.Digest, forced bool) (*fill, error) {
	m.fills.mu.Lock()
	defer m.fills.mu.Unlock()
	if f := m.fills.running[d]; f != nil {
		if !f.has(repo) {
			return nil, errCached
		}
		return f, nil
	}
	f := &fill{r: r, m: m, d: d, repo: repo, forced: forced, repos: map[string]bool{repo: true}, size: -1}
	if err := r.goes(f.run); err != nil {
		return nil, err
	}
	m.fills.running[d] = f
	m.counts.filling.Add(1)
	m.counts.misses.Add(1)
	return f, nil
}

// has says whether the upstream was found to have the blob in a repository, or is
// about to be asked.
func (f *fill) has(repo string) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.repos[repo] || f.repos == nil
}

// add has a repository get the blob, too. If it is too late for that, it waits for the
// end of the fill and fails with errCached.
func (f *fill) add(ctx context.Context, repo string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.repos != nil {
		f.repos[repo] = true
		return nil
	}
	for !f.over {
		if err := f.wait(ctx); err != nil {
			return err
		}
	}
	return errCached
}

// wait waits for a change. f.mu is held before and after it, and not meanwhile.
func (f *fill) wait(ctx context.Context) error {
	if f.changed == nil {
		f.changed = make(chan struct{})
	}
	changed := f.changed
	f.mu.Unlock()
	defer f.mu.Lock()
	select {
	case <-changed:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// update changes what readers wait for.
func (f *fill) update(fn func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	fn()
	if f.changed != nil {
		close(f.changed)
		f.changed = nil
	}
}

// run is the fill, from its start to its end.
func (f *fill) run() {
	ctx, m := f.r.ctx, f.m
	err := f.cached(ctx)
	if err == nil {
		err = f.fetch(ctx)
	}
	if err == nil {
		f.keep(ctx)
	}
	m.fills.mu.Lock()
	delete(m.fills.running, f.d)
	m.fills.mu.Unlock()
	m.counts.filling.Add(-1)
	f.update(func() {
		f.over, f.repos, f.err = true, nil, err
		if f.spool != nil {
			f.r.warn("what a mirror had under way was not removed", f.spool.close())
			f.spool = nil
		}
	})
}

// cached fails with errCached if the blob has come into the cache before the fill
// began, or is there for another repository and the upstream has it in this one, too.
func (f *fill) cached(ctx context.Context) error {
	if f.forced {
		return nil
	}
	if b, _, err := f.r.sound(ctx, f.repo, f.d); err == nil {
		_ = b.Close() // it was not even read
		return errCached
	}
	from := f.elsewhere(ctx)
	if from == "" {
		return nil
	}
	if _, err := f.r.stat(ctx, f.m, f.repo, f.d); err != nil {
		return err
	}
	if _, err := f.r.cache.MountBlob(ctx, f.repo, from, f.d); err != nil {
		return nil //nolint:nilerr // it has just gone
	}
	if b, _, err := f.r.sound(ctx, f.repo, f.d); err == nil {
		_ = b.Close() // it was not even read
		return errCached
	}
	return nil
}

// elsewhere is another repository with the blob, or empty. It is one of the same
// upstream: that another registry says to have what somebody has pushed here proves
// nothing.
func (f *fill) elsewhere(ctx context.Context) string {
	for repo, err := range f.r.cache.CachedIn(ctx, f.m.Prefix, f.d) {
		if err != nil {
			return "" // it can be fetched all the same
		}
		if f.r.find(repo) == f.m {
			return repo
		}
	}
	return ""
}

// keep puts what has come into the cache.
func (f *fill) keep(ctx context.Context) {
	_, _, err := f.r.cache.PushVerified(ctx, f.repo, f.d, f.spool.file, f.size)
	for done := map[string]bool{f.repo: true}; err == nil; {
		repo := f.another(done)
		if repo == "" {
			return
		}
		done[repo] = true
		_, err = f.r.cache.MountBlob(ctx, repo, f.repo, f.d)
	}
	f.kept = err
	f.r.warn("what a mirror fetched was not kept", err,
		slog.String("mirror", f.m.Name), slog.String("repo", f.repo), slog.String("blob", string(f.d)))
}

// another is a repository that waits for the blob and is not done; when there is
// none, it is too late for others.
func (f *fill) another(done map[string]bool) string {
	f.mu.Lock()
	defer f.mu.Unlock()
	for repo := range f.repos {
		if !done[repo] {
			return repo
		}
	}
	f.repos = nil
	return ""
}
