package mem

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"io"
	"iter"
	"slices"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/berth-registry/berth/storage"
)

// Blobs is a storage.Blobs in memory.
type Blobs struct {
	mu     sync.Mutex
	blobs  map[digest.Digest]kept
	stages map[string]staged
	notes  map[string][]byte
}

// kept is a blob.
type kept struct {
	data     []byte
	modified time.Time
}

// staged is what a stage holds. Readers share the array behind data, so what is
// written must never be written over.
type staged struct {
	data     []byte
	modified time.Time
}

// NewBlobs returns an empty store.
func NewBlobs() *Blobs {
	return &Blobs{blobs: map[digest.Digest]kept{}, stages: map[string]staged{}, notes: map[string][]byte{}}
}

// Open implements storage.Blobs.
func (b *Blobs) Open(_ context.Context, d digest.Digest) (io.ReadSeekCloser, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	blob, ok := b.blobs[d]
	if !ok {
		return nil, fmt.Errorf("blob %s: %w", d, storage.ErrNotFound)
	}
	return reader{bytes.NewReader(blob.data)}, nil
}

// Size implements storage.Blobs.
func (b *Blobs) Size(_ context.Context, d digest.Digest) (int64, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	blob, ok := b.blobs[d]
	if !ok {
		return 0, fmt.Errorf("blob %s: %w", d, storage.ErrNotFound)
	}
	return int64(len(blob.data)), nil
}

// Delete implements storage.Blobs.
func (b *Blobs) Delete(_ context.Context, d digest.Digest) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if _, ok := b.blobs[d]; !ok {
		return fmt.Errorf("blob %s: %w", d, storage.ErrNotFound)
	}
	delete(b.blobs, d)
	return nil
}

// List implements storage.Blobs.
func (b *Blobs) List(ctx context.Context, after digest.Digest) iter.Seq2[storage.BlobInfo, error] {
	b.mu.Lock()
	defer b.mu.Unlock()
	var infos []storage.BlobInfo
	for d, blob := range b.blobs {
		if d > after {
			infos = append(infos, storage.BlobInfo{Digest: d, Size: int64(len(blob.data)), Modified: blob.modified})
		}
	}
	slices.SortFunc(infos, func(x, y storage.BlobInfo) int { return cmp.Compare(x.Digest, y.Digest) })
	return func(yield func(storage.BlobInfo, error) bool) {
		for _, info := range infos {
			if err := ctx.Err(); err != nil {
				yield(storage.BlobInfo{}, err)
				return
			}
			if !yield(info, nil) {
				return
			}
		}
	}
}

// Quarantine forgets a blob: in memory there is nowhere to look at it.
func (b *Blobs) Quarantine(ctx context.Context, d digest.Digest) error { return b.Delete(ctx, d) }

// Stage implements storage.Blobs.
func (b *Blobs) Stage(_ context.Context, id string, off int64) (storage.Stage, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	data := b.stages[id].data
	if off < 0 || off > int64(len(data)) {
		return nil, fmt.Errorf("stage %s at %d: %w", id, off, storage.ErrNotFound)
	}
	// The limit of the capacity keeps the next Write off the bytes behind off.
	b.stages[id] = staged{data[:off:off], time.Now()}
	return &stage{b, id}, nil
}

// Discard implements storage.Blobs.
func (b *Blobs) Discard(_ context.Context, id string) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.stages, id)
	return nil
}

// Stages implements storage.Blobs.
func (b *Blobs) Stages(context.Context) iter.Seq2[storage.StageInfo, error] {
	b.mu.Lock()
	defer b.mu.Unlock()
	var infos []storage.StageInfo
	for id, s := range b.stages {
		infos = append(infos, storage.StageInfo{ID: id, Modified: s.modified})
	}
	return func(yield func(storage.StageInfo, error) bool) {
		for _, info := range infos {
			if !yield(info, nil) {
				return
			}
		}
	}
}

// stage is an open stage.
type stage struct {
	blobs *Blobs
	id    string
}

// Write implements storage.Stage.
func (s *stage) Write(p []byte) (int, error) {
	s.blobs.mu.Lock()
	defer s.blobs.mu.Unlock()
	held, err := s.held()
	if err != nil {
		return 0, err
	}
	s.blobs.stages[s.id] = staged{append(held, p...), time.Now()}
	return len(p), nil
}

// Reader implements storage.Stage.
func (s *stage) Reader() (io.ReadCloser, error) {
	s.blobs.mu.Lock()
	defer s.blobs.mu.Unlock()
	held, err := s.held()
	return reader{bytes.NewReader(held)}, err
}

// Sync implements storage.Stage.
func (s *stage) Sync() error {
	s.blobs.mu.Lock()
	defer s.blobs.mu.Unlock()
	_, err := s.held()
	return err
}

// Commit implements storage.Stage.
func (s *stage) Commit(d digest.Digest) error {
	s.blobs.mu.Lock()
	defer s.blobs.mu.Unlock()
	held, err := s.held()
	if err != nil {
		return err
	}
	s.blobs.blobs[d] = kept{held, time.Now()}
	delete(s.blobs.stages, s.id)
	return nil
}

// Close implements storage.Stage.
func (s *stage) Close() error { return nil }

// held returns what the stage holds, or ErrNotFound if it was committed or
// discarded. The caller holds the lock.
func (s *stage) held() ([]byte, error) {
	held, ok := s.blobs.stages[s.id]
	if !ok {
		return nil, fmt.Errorf("stage %s: %w", s.id, storage.ErrNotFound)
	}
	return held.data, nil
}

// reader reads bytes that never change.
type reader struct{ *bytes.Reader }

// Close implements io.Closer.
func (reader) Close() error { return nil }
