package registry

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"iter"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/berth-registry/berth/storage"
)

// Local is the registry over a store. The rules of the registry are here, once
// for every driver: what a manifest must be, who may see a blob, what is written
// together in one transaction.
//
// A blob's or manifest's bytes are durable before the transaction that makes
// them visible, and that transaction is durable before Local answers.
type Local struct {
	blobs    storage.Blobs
	meta     storage.Meta
	log      *slog.Logger
	journal  Journal                      // or nil
	actor    func(context.Context) string // or nil
	now      func() time.Time
	keeping  atomic.Pointer[Keeping]
	expiry   atomic.Int64 // nanoseconds
	limits   atomic.Pointer[Limits]
	fixed    atomic.Pointer[func(repo, tag string) bool]
	doubted  atomic.Pointer[func(digest.Digest)]
	quotas   atomic.Pointer[quotaSet]
	wanted   wantedQuotas
	key      []byte // signs ids of upload sessions
	id       string // of this process, or of this part of it; random
	cache    *cache
	known    known
	sessions sessions
	sweeper  sync.WaitGroup
	stop     context.CancelFunc

	collecting chan struct{} // holds a token of who collects
	holds      holds
	changes    atomic.Uint64 // transactions so far, but for those of collections; see pace
	told       told
	arrivals   arrivals
}

var _ Registry = (*Local)(nil)

// Options are what Local can be told.
type Options struct {
	// UploadExpiry is how long an upload session that nobody writes to is kept.
	UploadExpiry time.Duration
	// Journal, if set, is told of what changes.
	Journal Journal
	// Actor, if set, names the account that acts in a context, for the history of
	// tags.
	Actor func(context.Context) string
	// Now is the clock; nil for time.Now.
	Now func() time.Time
	// Log receives what goes wrong in the background.
	Log *slog.Logger
}

// Limits are how large content may be; 0 is no limit but that of the protocol.
type Limits struct {
	Blob     int64 // bytes
	Manifest int64 // bytes, at most MaxManifest
}

// NewLocal makes a registry over blobs and meta, which stay the caller's to
// close, after Close.
func NewLocal(ctx context.Context, blobs storage.Blobs, meta storage.Meta, o Options) (*Local, error) {
	l := &Local{blobs: blobs, meta: meta, journal: o.Journal, log: o.Log, cache: newCache(cacheBytes), collecting: make(chan struct{}, 1), told: newTold(), id: rand.Text()}
	l.actor, l.now = o.Actor, o.Now
	if l.now == nil {
		l.now = time.Now
	}
	l.SetLimits(Limits{})
	l.SetKeeping(defaultKeeping)
	l.SetImmutable(func(string, string) bool { return false })
	l.SetQuotas(nil)
	l.known.meta, _ = meta.(storage.Versioner)
	if l.log == nil {
		l.log = slog.New(slog.DiscardHandler)
	}
	if o.UploadExpiry == 0 {
		o.UploadExpiry = 24 * time.Hour
	}
	l.SetUploadExpiry(o.UploadExpiry)
	var err error
	if l.key, err = uploadKey(ctx, meta); err != nil {
		return nil, fmt.Errorf("prepare the metadata: %w", err)
	}
	ctx, l.stop = context.WithCancel(context.WithoutCancel(ctx))
	l.sweeper.Go(func() { l.sweepAlone(ctx) })
	return l, nil
}

// Close ends what Local does in the background.
func (l *Local) Close() {
	l.stop()
	l.sweeper.Wait()
}

// SetUploadExpiry changes Options.UploadExpiry.
func (l *Local) SetUploadExpiry(d time.Duration) { l.expiry.Store(int64(d)) }

// SetLimits sets how large content may be from now on.
func (l *Local) SetLimits(limits Limits) { l.limits.Store(&limits) }

// SetImmutable sets which tags can be created, and then neither moved nor
// removed. It is asked within transactions.
func (l *Local) SetImmutable(immutable func(repo, tag string) bool) { l.fixed.Store(&immutable) }

// Immutable says whether a tag that is there can be neither moved nor removed.
func (l *Local) Immutable(repo, tag string) bool { return (*l.fixed.Load())(repo, tag) }

func (l *Local) uploadExpiry() time.Duration { return time.Duration(l.expiry.Load()) }

// uploadKey is the key that signs upload sessions. It is in the store, so that
// a session survives a restart.
func uploadKey(ctx context.Context, meta storage.Meta) (key []byte, err error) {
	name := storage.Key("upload-key")
	get := func(tx storage.Tx) error {
		s, err := storage.Settings.Get(tx, name)
		key = s.Value
		return err
	}
	if err := meta.View(ctx, get); !errors.Is(err, storage.ErrNotFound) {
		return key, err
	}
	err = meta.Update(ctx, func(tx storage.Tx) error {
		if err := get(tx); !errors.Is(err, storage.ErrNotFound) {
			return err // another replica was first, or it failed
		}
		key = make([]byte, 32)
		_, _ = rand.Read(key) // never fails, crypto/rand says
		return storage.Settings.Put(tx, name, storage.Setting{Value: key})
	})
	return key, err
}

// Stats are sums over the whole registry.
type Stats struct {
	Blobs     int64 // stored, manifests included
	Bytes     int64 // in them
	Manifests int64
	Repos     int64
	Uploads   int64 // sessions that hold bytes
}

// Stats returns the sums, which are kept, not computed.
func (l *Local) Stats(ctx context.Context) (s Stats, err error) {
	err = l.meta.View(ctx, func(tx storage.Tx) error {
		for name, n := range map[string]*int64{
			storage.CountBlobs: &s.Blobs, storage.CountBytes: &s.Bytes, storage.CountManifests: &s.Manifests,
			storage.CountRepos: &s.Repos, storage.CountUploads: &s.Uploads,
		} {
			if *n, err = storage.Total(tx, name); err != nil {
				return err
			}
		}
		return nil
	})
	return s, err
}

// putStored notes that the bytes of a blob are stored, and needed. It fails with
// errDeleting if they are just being deleted or moved away, and with errDamaged as
// heal does.
func putStored(tx *changing, d digest.Digest, size int64) error {
	key := storage.Key(storage.DigestPart(d))
	row, err := storage.Stored.Get(tx, key)
	if err == nil && !row.Deleting {
		err = tx.heal(d)
	}
	switch {
	case err == nil && row.Deleting:
		return errDeleting
	case err == nil && row.Due == 0:
		return nil
	case err == nil:
		return watchedBlobs.clear(tx, "", d)
	case !isNotFound(err):
		return err
	}
	row = storage.Blob{Size: size, Created: tx.now}
	tx.keep(&row.Watch) // others may be about to store the same bytes; see arrive
	return errors.Join(
		storage.Add(tx, storage.CountBlobs, 1),
		storage.Add(tx, storage.CountBytes, size),
		storage.Stored.Put(tx, key, row))
}

// putLink makes a stored blob readable in a repository. Until a manifest needs it
// there, it may be garbage.
func putLink(tx *changing, repo string, d digest.Digest, size int64) error {
	part := storage.DigestPart(d)
	key := storage.Key(repo, part)
	link, err := storage.Links.Get(tx, key)
	if err != nil && !isNotFound(err) {
		return err
	}
	if link != (storage.Link{}) { // what becomes of it is not this client's alone
		tx.local.tell(storage.ReviewLink, repo, d)
		tx.keep(&link.Watch)
	}
	link.Size = size
	needed, err := hasAny(storage.Parents.Scan(tx, storage.Key(repo, part, ""), nil))
	if err == nil && tx.quotas().caches.has(repo) {
		err = storage.PulledDigests.Put(tx, key, storage.Pull{At: tx.now}) // who has it fetched pulls it
	}
	if err == nil && !needed {
		err = tx.queue(storage.ReviewLink, repo, d, &link.Watch, tx.afterGrace(), tx.lease())
	}
	return errors.Join(err,
		storage.Links.Put(tx, key, link),
		hold(tx, repo, part, size))
}

// hasAny says whether there is any row.
func hasAny[V any](rows iter.Seq2[storage.Entry[V], error]) (bool, error) {
	for _, err := range rows {
		return err == nil, err
	}
	return false, nil
}

// readAll reads a blob that is known to be of a size worth holding in memory.
func (l *Local) readAll(ctx context.Context, d digest.Digest) ([]byte, error) {
	f, err := l.blobs.Open(ctx, d)
	if err != nil {
		return nil, missing(d, err)
	}
	defer func() { _ = f.Close() }() // it was only read
	data, err := io.ReadAll(io.LimitReader(f, MaxManifest+1))
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", d, err)
	}
	return data, nil
}

// missing is the error for bytes that the metadata promises and the blob store
// does not have: damage of the store, not a mistake of the client.
func missing(d digest.Digest, err error) error {
	if errors.Is(err, storage.ErrNotFound) {
		return fmt.Errorf("the bytes of %s are missing from the blob store", d)
	}
	return fmt.Errorf("open %s: %w", d, err)
}

// isNotFound says that a row is not there.
func isNotFound(err error) bool { return errors.Is(err, storage.ErrNotFound) }
