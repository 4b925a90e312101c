package mem

import (
	"bytes"
	"context"
	"fmt"
	"iter"
	"maps"
	"slices"

	"github.com/berth-registry/berth/storage"
)

var _ storage.Notes = (*Blobs)(nil)

// PutNote implements storage.Notes.
func (b *Blobs) PutNote(_ context.Context, name string, data []byte) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.notes[name] = bytes.Clone(data)
	return nil
}

// DeleteNote implements storage.Notes.
func (b *Blobs) DeleteNote(_ context.Context, name string) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.notes, name)
	return nil
}

// Note implements storage.Notes.
func (b *Blobs) Note(_ context.Context, name string) ([]byte, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	data, ok := b.notes[name]
	if !ok {
		return nil, fmt.Errorf("note %s: %w", name, storage.ErrNotFound)
	}
	return data, nil
}

// NoteNames implements storage.Notes.
func (b *Blobs) NoteNames(context.Context) iter.Seq2[string, error] {
	b.mu.Lock()
	names := slices.Collect(maps.Keys(b.notes))
	b.mu.Unlock()
	return func(yield func(string, error) bool) {
		for _, name := range names {
			if !yield(name, nil) {
				return
			}
		}
	}
}
