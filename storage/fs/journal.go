package fs

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"github.com/berth-registry/berth/internal/durable"
)

const (
	// segmentSize is how many bytes a segment of the journal holds before another
	// one is begun.
	segmentSize = 32 << 20
	// segmentAge is how long a segment that is not full is written to.
	segmentAge = 5 * time.Second
	// zeroAhead is how many bytes of zeros are written behind the end of a segment
	// at once. To sync bytes that replace others takes the file system a third of
	// the time that it takes when the file grows.
	zeroAhead = 1 << 20
)

var zeros [zeroAhead]byte

// journal makes small blobs durable together. Each has been written to its place
// already, but not synced; put appends its bytes to a file and syncs that, and
// whoever comes while a sync is under way shares the next one with all others
// who do. After a crash, replay writes again what the journal has.
//
// Now and then a checkpoint syncs the whole file system at once, after which the
// segments written before it are not needed and are removed.
type journal struct {
	dir string
	log *slog.Logger

	mu      sync.Mutex
	synced  sync.Cond // some segment's sync has ended
	current *segment  // or nil
	full    []*segment
	next    uint64 // number of the next segment

	checkpointing sync.Mutex         // held while there is a checkpoint
	suspect       bool               // the last checkpoint failed
	rewrite       func(record) error // writes a blob to its place again
	wake          chan struct{}
	stop          sync.Once
	stopped       chan struct{}
	done          chan struct{}
}

// segment is a file of the journal.
type segment struct {
	file    *os.File
	size    int64 // bytes written
	zeroed  int64 // behind size there are zeros up to here
	durable int64 // bytes synced
	syncing bool
	broken  error // a write or sync failed: nothing is added any more
	blobs   map[digest.Digest]struct{}
}

func openJournal(dir string, rewrite func(record) error, log *slog.Logger) *journal {
	j := &journal{
		dir: dir, log: log, rewrite: rewrite, next: 1,
		wake: make(chan struct{}, 1), stopped: make(chan struct{}), done: make(chan struct{}),
	}
	j.synced.L = &j.mu
	go j.checkpointForever()
	return j
}

// put makes a blob durable that was written to its place.
func (j *journal) put(d digest.Digest, data []byte) error {
	return j.append(record{kindPut, d, data}, true)
}

// remove makes sure that the journal does not bring a blob back that was
// removed from its place; unless durably is set, only if the machine does not go
// down before the next sync.
func (j *journal) remove(d digest.Digest, durably bool) error {
	if !j.holds(d) {
		return nil
	}
	return j.append(record{kindRemove, d, nil}, durably)
}

// holds says whether the journal has a record of a blob.
func (j *journal) holds(d digest.Digest) bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	for _, s := range append(slices.Clip(j.full), j.current) {
		if s != nil {
			if _, has := s.blobs[d]; has {
				return true
			}
		}
	}
	return false
}

// append writes a record, and with durably set returns when it is durable.
func (j *journal) append(r record, durably bool) error {
	encoded := r.encode()
	j.mu.Lock()
	defer j.mu.Unlock()
	s, err := j.segment()
	if err != nil {
		return err
	}
	if err := s.write(encoded); err != nil {
		return err
	}
	s.blobs[r.digest] = struct{}{}
	if s.size >= segmentSize {
		j.retire()
		select {
		case j.wake <- struct{}{}:
		default: // it will be looked at
		}
	}
	if !durably {
		return nil
	}
	return j.sync(s, s.size)
}

// segment returns the segment to write to. mu is held.
func (j *journal) segment() (*segment, error) {
	if j.current != nil && j.current.broken != nil {
		j.retire()
	}
	if j.current != nil {
		return j.current, nil
	}
	name := filepath.Join(j.dir, fmt.Sprintf("%016x", j.next))
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, err
	}
	if err := durable.SyncDir(j.dir); err != nil {
		return nil, errors.Join(err, f.Close(), os.Remove(name))
	}
	j.next++
	j.current = &segment{file: f, blobs: map[digest.Digest]struct{}{}}
	return j.current, nil
}

// retire makes the current segment one that waits for a checkpoint. mu is held.
func (j *journal) retire() {
	j.full = append(j.full, j.current)
	j.current = nil
}

// write appends to the segment. What was written in part is cut off again.
func (s *segment) write(b []byte) error {
	if s.size+int64(len(b)) > s.zeroed {
		if n, err := s.file.WriteAt(zeros[:], s.zeroed); err == nil { // else it grows as it is written to
			s.zeroed += int64(n)
		}
	}
	if _, err := s.file.WriteAt(b, s.size); err != nil {
		if terr := s.file.Truncate(s.size); terr != nil {
			s.broken = terr
		}
		s.zeroed = s.size
		return err
	}
	s.size += int64(len(b))
	s.zeroed = max(s.zeroed, s.size)
	return nil
}

// sync returns when the segment is durable up to end. mu is held, and let go of
// while somebody syncs.
func (j *journal) sync(s *segment, end int64) error {
	for s.durable < end && s.broken == nil {
		if s.syncing {
			j.synced.Wait()
			continue
		}
		s.syncing = true
		size := s.size
		j.mu.Unlock()
		err := unix.Fdatasync(int(s.file.Fd()))
		j.mu.Lock()
		s.syncing = false
		if err != nil {
			// What the kernel could not write it may have forgotten: another sync
			// that succeeds would say nothing of it.
			s.broken = fmt.Errorf("sync the journal: %w", err)
		} else {
			s.durable = max(s.durable, size)
		}
		j.synced.Broadcast()
	}
	if s.durable < end {
		return s.broken
	}
	return nil
}

func (j *journal) checkpointForever() {
	defer close(j.done)
	tick := time.NewTicker(segmentAge)
	defer tick.Stop()
	for {
		select {
		case <-j.stopped:
			return
		case <-j.wake:
		case <-tick.C:
		}
		if err := j.checkpoint(); err != nil {
			j.log.Warn("cannot write small blobs to their final place; they are safe in the journal, which grows until this works", "error", err)
		}
	}
}

// checkpoint makes all that the journal holds durable in its place, and removes
// the segments that held it.
func (j *journal) checkpoint() error {
	j.checkpointing.Lock()
	defer j.checkpointing.Unlock()
	j.mu.Lock()
	if j.current != nil {
		j.retire()
	}
	full := j.full
	j.mu.Unlock()
	if len(full) == 0 {
		return nil
	}
	if err := j.settle(full); err != nil {
		return err
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	j.full = j.full[len(full):]
	for _, s := range full {
		s.durable = s.size // for whoever still waits to sync it
		for s.syncing {
			j.synced.Wait()
		}
		_ = s.file.Close() // it has no name any more
	}
	return nil
}

// settle makes the blobs of segments durable in their places, and removes the
// segments.
func (j *journal) settle(full []*segment) error {
	for _, s := range full {
		if !j.suspect {
			break
		}
		if err := replaySegment(s.file.Name(), j.rewrite); err != nil {
			return err
		}
	}
	// If this fails, the kernel may have forgotten what it could not write, so
	// that to try again proves nothing until all is written again.
	j.suspect = true
	if err := syncFileSystem(j.dir); err != nil {
		return err
	}
	j.suspect = false
	for _, s := range full {
		if err := os.Remove(s.file.Name()); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	return durable.SyncDir(j.dir)
}

// syncFileSystem writes all that the file system of dir holds to disk.
func syncFileSystem(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer func() { _ = d.Close() }() // it was only named
	if err := unix.Syncfs(int(d.Fd())); err != nil {
		return fmt.Errorf("sync the file system of %s: %w", dir, err)
	}
	return nil
}

// close leaves nothing to be replayed. It may be called again.
func (j *journal) close() error {
	j.stop.Do(func() { close(j.stopped) })
	<-j.done
	return j.checkpoint()
}
