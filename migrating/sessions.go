package migrating

import (
	"bytes"
	"context"
	"encoding"
	"errors"
	"fmt"
	"io"
	"maps"
	"strings"

	"github.com/berth-registry/berth/registry"
	"github.com/berth-registry/berth/storage"
)

// moveSessions moves the bytes of the upload sessions that are open. Those that have
// lost theirs are dropped: their clients are told to start again, as they would be at
// the source.
func (m *mover) moveSessions(ctx context.Context) error {
	m.dropped = map[string]bool{}
	if m.sameBlobs {
		return nil
	}
	if err := m.discard(ctx); err != nil {
		return err
	}
	open := map[string]storage.Upload{}
	for e, err := range entriesOf(ctx, m.from.Meta, storage.Uploads) {
		if err != nil {
			return err
		}
		if e.Value.State == storage.UploadOpen && e.Value.Size > 0 {
			open[string(e.Key)] = e.Value
		}
	}
	m.res.Sessions = 0
	for s, err := range m.from.Blobs.Stages(ctx) {
		if err != nil {
			return err
		}
		key, _, is := registry.SessionOfStage(s.ID)
		row, waits := open[string(key)]
		if !is || !waits {
			continue
		}
		switch moved, err := m.moveSession(ctx, s.ID, row); {
		case err != nil:
			return fmt.Errorf("move an upload session: %w", err)
		case moved:
			delete(open, string(key))
			m.res.Sessions++
		}
	}
	for key := range maps.Keys(open) {
		m.dropped[key] = true
	}
	m.res.DroppedSessions = int64(len(m.dropped))
	return nil
}

// discard discards what a migration that was cut short has left at the target.
func (m *mover) discard(ctx context.Context) error {
	var left []string
	for s, err := range m.to.Blobs.Stages(ctx) {
		if err != nil {
			return err
		}
		_, _, isSession := registry.SessionOfStage(s.ID)
		if isSession || strings.HasPrefix(s.ID, stagePrefix) {
			left = append(left, s.ID)
		}
	}
	for _, id := range left {
		if err := m.to.Blobs.Discard(ctx, id); err != nil {
			return err
		}
	}
	return nil
}

// moveSession copies what a session has received. It says that it has not if that is
// lost, or not what the session's hash says.
func (m *mover) moveSession(ctx context.Context, id string, row storage.Upload) (moved bool, err error) {
	from, err := m.from.Blobs.Stage(ctx, id, row.Size)
	if errors.Is(err, storage.ErrNotFound) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	defer func() { err = errors.Join(err, from.Close()) }()
	r, err := from.Reader()
	if err != nil {
		return false, err
	}
	defer func() { _ = r.Close() }() // it was only read
	to, err := m.to.Blobs.Stage(ctx, id, 0)
	if err != nil {
		return false, err
	}
	ok, err := m.pumpSession(ctx, id, row, io.LimitReader(r, row.Size), to)
	if err == nil && ok {
		err = to.Sync()
	}
	if cerr := to.Close(); err == nil {
		err = cerr
	}
	if err != nil || !ok {
		err = errors.Join(err, m.to.Blobs.Discard(context.WithoutCancel(ctx), id))
	}
	return ok && err == nil, err
}

// pumpSession copies the bytes of a session, and says whether they are all there.
func (m *mover) pumpSession(ctx context.Context, id string, row storage.Upload, r io.Reader, w io.Writer) (ok bool, err error) {
	_, alg, _ := registry.SessionOfStage(id)
	h := alg.Hash()
	n, err := m.pump(ctx, r, h, w)
	if isDamage(err) {
		return false, nil
	}
	if err != nil || n != row.Size {
		return false, err
	}
	state, err := h.(encoding.BinaryMarshaler).MarshalBinary()
	return err == nil && bytes.Equal(state, row.Hash), err
}
