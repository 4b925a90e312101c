package fs

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"os"
	"path/filepath"
	"strings"

	"github.com/berth-registry/berth/internal/durable"
	"github.com/berth-registry/berth/storage"
)

// noteSuffix is how the name of a note's file ends, so that no note is in the way
// of another's directory.
const noteSuffix = ".note"

var _ storage.Notes = (*Blobs)(nil)

func (b *Blobs) notePath(name string) (string, error) {
	if !filepath.IsLocal(name) || strings.ContainsRune(name, 0) {
		return "", fmt.Errorf("%q is no name of a note", name)
	}
	return filepath.Join(b.notes, filepath.FromSlash(name)+noteSuffix), nil
}

// PutNote implements storage.Notes.
func (b *Blobs) PutNote(_ context.Context, name string, data []byte) error {
	path, err := b.notePath(name)
	if err != nil {
		return err
	}
	if err := durable.MkdirAll(filepath.Dir(path)); err != nil {
		return storage.Classify(err)
	}
	return storage.Classify(durable.WriteFile(path, data))
}

// DeleteNote implements storage.Notes.
func (b *Blobs) DeleteNote(_ context.Context, name string) error {
	path, err := b.notePath(name)
	if err != nil {
		return err
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return storage.Classify(err)
	}
	return nil
}

// Note implements storage.Notes.
func (b *Blobs) Note(_ context.Context, name string) ([]byte, error) {
	path, err := b.notePath(name)
	if err != nil {
		return nil, err
	}
	data, err := os.ReadFile(path)
	return data, storage.Classify(err)
}

// NoteNames implements storage.Notes.
func (b *Blobs) NoteNames(ctx context.Context) iter.Seq2[string, error] {
	return func(yield func(string, error) bool) {
		err := filepath.WalkDir(b.notes, func(path string, entry fs.DirEntry, err error) error {
			if err == nil {
				err = ctx.Err()
			}
			name, isNote := strings.CutSuffix(path, noteSuffix)
			if err != nil || entry.IsDir() || !isNote {
				return err
			}
			name, err = filepath.Rel(b.notes, name)
			if err == nil && !yield(filepath.ToSlash(name), nil) {
				return fs.SkipAll
			}
			return err
		})
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			yield("", storage.Classify(err))
		}
	}
}
