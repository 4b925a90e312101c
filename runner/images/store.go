package images

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/distribution/reference"
	"github.com/moby/moby/api/types/events"
	"github.com/opencontainers/go-digest"
	bolt "go.etcd.io/bbolt"

	"github.com/berth-registry/berth/internal/boltfile"
	"github.com/berth-registry/berth/internal/durable"
)

// Options say where a store is and what it heeds.
type Options struct {
	Root            string // the store's directory, made if need be
	DefaultRegistry string // host of short names; empty: docker.io, with library/
	Log             *slog.Logger
	// Event hears what happened to an image, named by its reference for pull and
	// by its ID for all else. It may be nil.
	Event  func(action events.Action, ref string, attrs map[string]string)
	Limits Limits
	// Shared lists the directories of layers that somebody has from ShareTree or
	// AddBuilt since before. It may be nil.
	Shared func() ([]string, error)
}

// Limits bound what a layer may take. A field that is zero has its default.
type Limits struct {
	// A layer may unpack to Ratio times its packed size (default 100), or to Floor
	// bytes (default 1 GiB) if that is more, and never to more than Unpacked
	// bytes (default 1 TiB).
	Ratio, Floor, Unpacked int64
	Entries                int64 // a layer has fewer (default 1,000,000)
	// MinFree is the room in bytes that an image leaves on the disk (default: a
	// hundredth of it, at most 1 GiB).
	MinFree int64
	// Archive bounds the bytes of an archive that is loaded (default 1 TiB).
	Archive   int64
	Downloads int // layers that download and unpack at a time (default 3)
}

func (l Limits) withDefaults() Limits {
	set := func(v *int64, def int64) {
		if *v == 0 {
			*v = def
		}
	}
	set(&l.Ratio, 100)
	set(&l.Floor, 1<<30)
	set(&l.Unpacked, 1<<40)
	set(&l.Entries, 1_000_000)
	set(&l.Archive, 1<<40)
	if l.Downloads == 0 {
		l.Downloads = 3
	}
	return l
}

// Store is the images of one directory. Its methods may be called concurrently.
type Store struct {
	opts   Options
	log    *slog.Logger
	unlock func() error
	db     *bolt.DB
	boot   string        // identifies this run of the kernel
	slots  chan struct{} // held while a layer downloads
	number atomic.Uint64 // the last that a directory or an ingest got

	writeMu sync.Mutex // one change at a time: database, then memory
	packMu  sync.Mutex // the layers of an image are compressed
	blobMu  sync.Mutex // a blob gets its name, or loses it

	mu      sync.RWMutex // what follows; never held while the disk is waited for
	images  map[string]*entry
	names   map[string]string // reference → image ID
	layers  map[string]layerRecord
	blobs   map[digest.Digest]blob
	pins    map[string]int // blobs and layers that an operation under way needs
	holds   map[string]int // images that are about to be used
	flights map[flightKey]*flight
	shared  map[uint64]int // trees that others have links to

	unsynced chan struct{} // there are layers to write out
	stop     context.CancelFunc
	tasks    sync.WaitGroup
}

// Open opens the store of a directory, which one process at a time may have, and
// clears what an earlier one left half made. It fails with durable.ErrLocked if
// another has it.
func Open(ctx context.Context, o Options) (_ *Store, err error) {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	o.Limits = o.Limits.withDefaults()
	if o.Root, err = filepath.Abs(o.Root); err != nil {
		return nil, err
	}
	s := &Store{
		opts: o, log: o.Log, slots: make(chan struct{}, o.Limits.Downloads),
		images: map[string]*entry{}, names: map[string]string{}, layers: map[string]layerRecord{},
		blobs: map[digest.Digest]blob{}, pins: map[string]int{}, holds: map[string]int{},
		flights: map[flightKey]*flight{}, shared: map[uint64]int{}, unsynced: make(chan struct{}, 1),
	}
	if s.unlock, err = durable.Lock(o.Root); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			_ = s.Close()
		}
	}()
	for _, dir := range []string{s.path("blobs", "sha256"), s.path("layers"), s.path("ingest")} {
		if err := durable.MkdirAll(dir); err != nil {
			return nil, err
		}
	}
	if s.boot, err = bootID(); err != nil {
		return nil, err
	}
	if err := s.checkDatabase(); err != nil {
		return nil, err
	}
	s.db, err = boltfile.Open(s.path("images.db"), 0o600, bolt.Options{Timeout: 5 * time.Second, FreelistType: bolt.FreelistMapType})
	if boltfile.Damaged(err) {
		return nil, s.damaged(err)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", s.path("images.db"), err)
	}
	if err := durable.SyncDir(o.Root); err != nil {
		return nil, err
	}
	if o.Shared != nil {
		dirs, err := o.Shared()
		if err != nil {
			return nil, err
		}
		s.keepShared(dirs)
	}
	if err := s.recover(ctx); err != nil {
		return nil, err
	}
	tasks, stop := context.WithCancel(context.WithoutCancel(ctx))
	s.stop = stop
	s.tasks.Go(func() { s.writeOut(tasks) })
	return s, nil
}

// checkDatabase returns an error if there is no database, or an empty one, though there
// are blobs or layers: they would be removed as what no image needs.
func (s *Store) checkDatabase() error {
	if fi, err := os.Stat(s.path("images.db")); err == nil && fi.Size() > 0 {
		return nil
	} else if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	for _, dir := range []string{s.path("blobs", "sha256"), s.path("layers")} {
		list, err := os.ReadDir(dir)
		if err != nil {
			return err
		}
		if len(list) > 0 {
			return s.damaged(fmt.Errorf("it is not there, or empty, and %s is not", dir))
		}
	}
	return nil
}

func (s *Store) damaged(err error) error {
	return fmt.Errorf("%s: %w; put the file back from a backup, or move %s away: images are to be pulled again then, and containers to be created again",
		s.path("images.db"), err, s.opts.Root)
}

// Close ends what the store does in the background and gives up its directory.
// Operations under way must have ended.
func (s *Store) Close() error {
	if s.stop != nil {
		s.stop()
	}
	s.tasks.Wait()
	var err error
	if s.db != nil {
		err = s.db.Close()
	}
	if uerr := s.unlock(); err == nil {
		err = uerr
	}
	return err
}

func (s *Store) path(elem ...string) string {
	return filepath.Join(append([]string{s.opts.Root}, elem...)...)
}

// nextName is a name that no directory or ingest has had.
func (s *Store) nextName() string { return strconv.FormatUint(s.number.Add(1), 10) }

func (s *Store) event(action events.Action, ref string, attrs map[string]string) {
	if s.opts.Event != nil {
		s.opts.Event(action, ref, attrs)
	}
}

// imageEvent tells of what happened to an image, with its labels.
func (s *Store) imageEvent(action events.Action, id, name string) {
	attrs := map[string]string{}
	s.mu.RLock()
	if e := s.images[id]; e != nil {
		maps.Copy(attrs, e.config.Config.Labels)
	}
	s.mu.RUnlock()
	if name != "" {
		attrs["name"] = name
	}
	s.event(action, id, attrs)
}

// ParseRef returns the full form of a name as users give it: with its host, the
// default one if need be, and with the tag latest if it has neither tag nor
// digest.
func (s *Store) ParseRef(ref string) (reference.Named, error) {
	named, err := s.parseName(ref)
	if err != nil {
		return nil, err
	}
	return reference.TagNameOnly(named), nil
}

func bootID() (string, error) {
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return "", err
	}
	return string(b[:36]), nil
}
