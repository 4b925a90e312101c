package migrating

import (
	"bytes"
	"context"
	"errors"
	"fmt"

	"golang.org/x/sync/errgroup"

	"github.com/berth-registry/berth/storage"
)

// copyNotes copies the notes that differ. What changes later is noted anew by the
// target: see arrive.
func (m *mover) copyNotes(ctx context.Context) error {
	if m.sameBlobs {
		return nil
	}
	m.res.Notes = 0
	group, inner := errgroup.WithContext(ctx)
	group.SetLimit(m.Jobs)
	for name, err := range m.from.Notes.NoteNames(inner) {
		if err != nil {
			return errors.Join(err, group.Wait())
		}
		m.res.Notes++
		group.Go(func() error {
			if err := m.copyNote(inner, name); err != nil {
				return fmt.Errorf("copy note %s: %w", name, err)
			}
			return nil
		})
	}
	return group.Wait()
}

func (m *mover) copyNote(ctx context.Context, name string) error {
	data, err := m.from.Notes.Note(ctx, name)
	if errors.Is(err, storage.ErrNotFound) {
		return nil // it was removed meanwhile
	}
	if err != nil {
		return err
	}
	old, err := m.to.Notes.Note(ctx, name)
	if err == nil && bytes.Equal(old, data) {
		return nil
	}
	if err != nil && !errors.Is(err, storage.ErrNotFound) {
		return err
	}
	return m.to.Notes.PutNote(ctx, name, data)
}

// finishNotes has the target have a note of what the source has one of, and no others:
// those of repositories that are gone would bring them back.
func (m *mover) finishNotes(ctx context.Context) error {
	if m.sameBlobs {
		return nil
	}
	names := map[string]bool{}
	for name, err := range m.from.Notes.NoteNames(ctx) {
		if err != nil {
			return err
		}
		names[name] = true
	}
	var gone []string
	for name, err := range m.to.Notes.NoteNames(ctx) {
		if err != nil {
			return err
		}
		if !names[name] {
			gone = append(gone, name)
		}
		delete(names, name)
	}
	for _, name := range gone {
		if err := m.to.Notes.DeleteNote(ctx, name); err != nil {
			return err
		}
	}
	m.res.Notes += int64(len(names))
	for name := range names {
		if err := m.copyNote(ctx, name); err != nil {
			return err
		}
	}
	return nil
}
