// Package mirror is a registry that has below a prefix what another registry has:
// Registry fetches it when it is asked for, keeps it in a cache, and serves from
// there what the other registry, the upstream, cannot give now.
//
// It promises: the bytes of a blob reach its readers as they arrive, once from the
// upstream however many there are, and the last of them only when they are found to
// be right; nothing else ever enters the cache. A reader that is slow or goes away
// neither slows nor ends the transfer. What is cached is served at once while the
// upstream is down, slow or limits how often it is asked. A repository's content is
// given to nobody on the word of another repository: the upstream is asked first.
//
// Repositories below a prefix take no pushes. What is deleted from one is dropped
// from the cache, and fetched again when it is asked for.
//
// It knows no credentials, and not who may do what: Options.MayFetch says whether the
// upstream may be asked on behalf of a caller. How the upstream is spoken to, what it
// may cost and when it is left alone are the business of package upstream; how long
// the cache keeps what nobody pulls is that of collection.
package mirror

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"iter"
	"log/slog"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/berth-registry/berth/registry"
)

// Cache is where content is kept: a registry.Local.
type Cache interface {
	registry.Registry
	// PushVerified makes a file whose size bytes are d the blob d of a repository.
	PushVerified(ctx context.Context, repo string, d digest.Digest, f *os.File, size int64) (desc registry.Descriptor, linked bool, err error)
	// CachedIn lists the repositories below a prefix that have a blob.
	CachedIn(ctx context.Context, prefix string, d digest.Digest) iter.Seq2[string, error]
	// Upstreamed is what SetUpstreamed has remembered of a tag, which goes with the
	// tag.
	Upstreamed(ctx context.Context, repo, tag string) (registry.Upstreamed, error)
	SetUpstreamed(ctx context.Context, repo, tag string, u registry.Upstreamed) error
}

// Remote is an upstream: a remote.Client, whose names have no prefix. A reader of one
// of its blobs that has failed goes on from where it was when it is read again.
type Remote interface {
	registry.Reader
	registry.Lister
}

// Unhashed is a Remote that leaves it to its caller to verify a blob, which is
// otherwise done twice.
type Unhashed interface {
	// OpenBlob is Blob without any verification.
	OpenBlob(ctx context.Context, repo string, d digest.Digest) (io.ReadSeekCloser, registry.Descriptor, error)
}

// Upstream is a registry that is mirrored.
type Upstream struct {
	// Name is how users know the mirror.
	Name string
	// Prefix is that of the repositories: with "hub", hub/library/nginx is the
	// upstream's library/nginx.
	Prefix string
	Remote Remote
	// Unavailable is nil, or the error that whoever asks the upstream now would get.
	// Nobody waits then who can be served from the cache. It may be nil itself.
	Unavailable func() error
	// Repo is the upstream's name of a repository, given without the prefix; nil if
	// it is the same.
	Repo func(string) string
	// Revalidate is how long a tag is not asked for again; 0 for a minute.
	Revalidate time.Duration
	// Negative is how long it is remembered that the upstream does not have
	// something; 0 for 30 seconds.
	Negative time.Duration
	// Patience is how long an upstream may take to answer before what is cached is
	// served; 0 for 2 seconds.
	Patience time.Duration
}

// Options are what a Registry can be told.
type Options struct {
	// Dir is the directory of what is under way, in the file system of the cache's
	// blobs if that has one. It is made if need be, and what is left in it from
	// before is removed.
	Dir string
	// MayFetch fails if the upstream of a repository must not be asked on behalf of
	// who acts in a context. It gets what is cached, and this error instead of the
	// rest. nil lets everybody.
	MayFetch func(ctx context.Context, repo string) error
	// Log receives what goes wrong that no caller is told.
	Log *slog.Logger
	// Now is the clock of Revalidate and Negative; nil for time.Now.
	Now func() time.Time
}

// Registry is a cache with mirrors below prefixes. Repositories below none are those
// of the cache, as if there were no mirrors.
type Registry struct {
	cache Cache
	o     Options
	ups   []*mirrored // those with longer prefixes first
	spool *spools

	ctx  context.Context //nolint:containedctx // of what goes on after its caller is gone, until Close
	stop context.CancelFunc

	mu     sync.Mutex // of closed, and of adding to work
	closed bool
	work   sync.WaitGroup
}

var (
	_ registry.Registry = (*Registry)(nil)
	_ registry.Admitter = (*Registry)(nil)
	_ Cache             = (*registry.Local)(nil)
)

// New makes a registry of a cache, which stays the caller's to close after Close. It
// fails if a prefix is no repository's name, or there twice.
func New(cache Cache, ups []Upstream, o Options) (*Registry, error) {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.MayFetch == nil {
		o.MayFetch = func(context.Context, string) error { return nil }
	}
	r := &Registry{cache: cache, o: o}
	for _, u := range ups {
		if !registry.ValidRepository(u.Prefix) {
			return nil, fmt.Errorf("mirror %s: prefix %q is not the name of a repository", u.Name, u.Prefix)
		}
		if slices.ContainsFunc(r.ups, func(m *mirrored) bool { return m.Prefix == u.Prefix }) {
			return nil, fmt.Errorf("mirror %s: prefix %s is another mirror's, too", u.Name, u.Prefix)
		}
		r.ups = append(r.ups, newMirrored(u))
	}
	slices.SortStableFunc(r.ups, func(a, b *mirrored) int { return cmp.Compare(len(b.Prefix), len(a.Prefix)) })
	var err error
	if r.spool, err = newSpools(o.Dir); err != nil {
		return nil, err
	}
	r.ctx, r.stop = context.WithCancel(context.Background())
	return r, nil
}

// Close ends what is under way, whose readers fail, and waits for that. Nothing is
// left in Options.Dir.
func (r *Registry) Close() error {
	r.mu.Lock()
	r.closed = true
	r.mu.Unlock()
	r.stop()
	r.work.Wait()
	return r.spool.close()
}

// errClosed is for who comes after Close.
var errClosed = registry.ErrUnavailable.With("the registry is shutting down")

// goes runs fn, which has to end when r.ctx does, unless the registry is closed.
func (r *Registry) goes(fn func()) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return errClosed
	}
	r.work.Go(fn)
	return nil
}

// warn logs an error that no caller is told, if it is one.
func (r *Registry) warn(what string, err error, attrs ...slog.Attr) {
	if err != nil && r.ctx.Err() == nil {
		attrs = append(attrs, slog.String("what", what), slog.Any("error", err))
		r.o.Log.LogAttrs(r.ctx, slog.LevelWarn, "something went wrong in a mirror", attrs...)
	}
}

// find returns the mirror that a repository is of, or nil.
func (r *Registry) find(repo string) *mirrored {
	for _, m := range r.ups {
		if n := len(m.Prefix); len(repo) > n && repo[n] == '/' && strings.HasPrefix(repo, m.Prefix) {
			return m
		}
	}
	return nil
}

// Mirrors says of which mirror a repository is, and what the upstream calls it.
func (r *Registry) Mirrors(repo string) (name, upstreamRepo string, ok bool) {
	m := r.find(repo)
	if m == nil {
		return "", "", false
	}
	return m.Name, m.theirs(repo), true
}
