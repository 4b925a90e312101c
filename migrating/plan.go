package migrating

import (
	"context"
	"fmt"

	"github.com/berth-registry/berth/storage"
)

// Plan says what Run would do at this moment, and changes nothing. A target that is not
// there yet has no blobs and no metadata: they are nil.
func Plan(ctx context.Context, from Store, blobs storage.Blobs, meta storage.Meta, o Options) (Result, error) {
	m := newMover(from, Store{Blobs: blobs, Meta: meta}, o)
	err := m.plan(ctx)
	m.finishResult()
	return m.res, err
}

func (m *mover) plan(ctx context.Context) error {
	if err := incomplete(ctx, m.from.Meta); err != nil {
		return err
	}
	if err := m.planTarget(ctx); err != nil {
		return err
	}
	for _, name := range m.tables() {
		table := Table{Name: name}
		for _, err := range own(rowsOf(ctx, m.from.Meta, name), name) {
			if err != nil {
				return fmt.Errorf("read the rows of %s: %w", name, err)
			}
			table.Rows++
		}
		m.res.Tables = append(m.res.Tables, table)
	}
	for e, err := range entriesOf(ctx, m.from.Meta, storage.Uploads) {
		if err != nil {
			return err
		}
		if e.Value.State == storage.UploadOpen && e.Value.Size > 0 {
			m.res.Sessions++
		}
	}
	return m.planBlobs(ctx)
}

// planTarget fails if the target has data of something else.
func (m *mover) planTarget(ctx context.Context) error {
	if m.to.Meta == nil {
		return nil
	}
	var id string
	err := m.from.Meta.View(ctx, func(tx storage.Tx) error {
		_, err := getMark(tx, idKey, &id)
		return err
	})
	if err != nil {
		return err
	}
	a, there, err := m.arrived(ctx)
	switch {
	case err != nil:
		return err
	case !there:
		return m.emptyMeta(ctx)
	case a.ID == id && a.Done && !m.Keep:
		return m.already(ctx, a)
	case a.ID != id || a.Done:
		return fmt.Errorf("%w: a migration from %s came there", ErrNotEmpty, a.From)
	}
	return nil
}

// planBlobs counts the blobs that the target does not have.
func (m *mover) planBlobs(ctx context.Context) error {
	there := func(yield func(storage.BlobInfo, error) bool) {
		if m.to.Blobs == nil {
			return
		}
		for b, err := range m.to.Blobs.List(ctx, "") {
			if !yield(b, err) {
				return
			}
		}
	}
	return merge(blobsOf(ctx, m.from.Meta), there, byDigest, func(b *blob, there *storage.BlobInfo) error {
		if b == nil {
			return nil
		}
		m.res.Blobs++
		m.res.Bytes += b.size
		if there != nil && there.Size == b.size {
			m.res.PresentBlobs++
		} else {
			m.res.CopiedBlobs++
			m.res.CopiedBytes += b.size
		}
		return nil
	})
}
