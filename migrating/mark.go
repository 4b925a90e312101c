package migrating

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/berth-registry/berth/registry"
	"github.com/berth-registry/berth/storage"
)

// What a migration notes of itself is in Settings, under names with this prefix:
const markPrefix = "migration-"

var (
	// idKey is, at the source, the id of the migration from there.
	idKey = storage.Key(markPrefix + "from-here")
	// arrivalKey is, at the target, what has arrived there.
	arrivalKey = storage.Key(markPrefix + "to-here")
	// movedKey is, at a source, where it has moved to; see PutMoved.
	movedKey = storage.Key(markPrefix + "moved")
)

func isMark(key []byte) bool { return strings.HasPrefix(string(key), markPrefix) }

// arrival is the note at the target.
type arrival struct {
	ID   string    `json:"id"`
	From string    `json:"from"`
	Done bool      `json:"done"` // all has arrived
	At   time.Time `json:"at"`   // when it began, or was done
}

var (
	// ErrIncomplete says that a migration to this store has not come to its end.
	ErrIncomplete = errors.New("a migration to these stores has not come to its end")
	// ErrMoved says that the registry of this store was moved to another.
	ErrMoved = errors.New("this registry was moved")
	// ErrNotEmpty says that a target has data that is not of the migration.
	ErrNotEmpty = errors.New("the target is not empty")
)

// Check fails if a store must not be served: with ErrIncomplete or ErrMoved.
func Check(ctx context.Context, meta storage.Meta) error {
	return meta.View(ctx, func(tx storage.Tx) error {
		var a arrival
		there, err := getMark(tx, arrivalKey, &a)
		if err != nil {
			return err
		}
		if there && !a.Done {
			return fmt.Errorf("%w: do it again from %s with 'berth migrate', which goes on where it ended, or empty them", ErrIncomplete, a.From)
		}
		var m Moved
		if there, err = getMark(tx, movedKey, &m); err != nil || !there {
			return err
		}
		return fmt.Errorf("%w to %s on %s: serve that; 'berth migrate --reopen' goes back to what it was then", ErrMoved, m.To, m.At.Format(time.RFC3339))
	})
}

// PutMoved notes in a store that its registry was moved, for Check.
func PutMoved(ctx context.Context, meta storage.Meta, m Moved) error {
	return meta.Update(ctx, func(tx storage.Tx) error { return putMark(tx, movedKey, m) })
}

// Reopen takes back what PutMoved has noted, and says whether it had.
func Reopen(ctx context.Context, meta storage.Meta) (was bool, err error) {
	err = meta.Update(ctx, func(tx storage.Tx) error {
		was, err = storage.Settings.Has(tx, movedKey)
		if err != nil {
			return err
		}
		return storage.Settings.Delete(tx, movedKey)
	})
	return was, err
}

func getMark(tx storage.Tx, key []byte, v any) (there bool, err error) {
	row, err := storage.Settings.Get(tx, key)
	if errors.Is(err, storage.ErrNotFound) {
		return false, nil
	}
	if err == nil {
		err = json.Unmarshal(row.Value, v)
	}
	return err == nil, err
}

func putMark(tx storage.Tx, key []byte, v any) error {
	data, err := json.Marshal(v)
	if err != nil {
		return err
	}
	return storage.Settings.Put(tx, key, storage.Setting{Value: data})
}

// begin finds out whether the target can be used, and notes there that it is none yet.
// It says whether all was done before.
func (m *mover) begin(ctx context.Context) (done bool, err error) {
	if err := incomplete(ctx, m.from.Meta); err != nil {
		return false, err
	}
	if m.id, err = sourceID(ctx, m.from.Meta); err != nil {
		return false, err
	}
	a, there, err := m.arrived(ctx)
	switch {
	case err != nil:
		return false, err
	case there && a.ID == m.id && a.Done && !m.Keep:
		return true, m.already(ctx, a)
	case there && (a.ID != m.id || a.Done):
		return false, fmt.Errorf("%w: a migration from %s came there", ErrNotEmpty, a.From)
	case there:
		return false, nil
	}
	if err := m.empty(ctx); err != nil {
		return false, err
	}
	return false, m.to.Meta.Update(ctx, func(tx storage.Tx) error {
		return putMark(tx, arrivalKey, arrival{ID: m.id, From: m.From, At: time.Now().UTC()})
	})
}

// incomplete fails if the source is itself a target that has not got all.
func incomplete(ctx context.Context, meta storage.Meta) error {
	if err := Check(ctx, meta); errors.Is(err, ErrIncomplete) {
		return fmt.Errorf("the source: %w", err)
	}
	return nil
}

// already is for a migration that has come to its end before. Unless the source was
// marked then, both may have been written to since.
func (m *mover) already(ctx context.Context, a arrival) error {
	if m.Left == nil {
		return fmt.Errorf("%w: this registry came there on %s", ErrNotEmpty, a.At.Format(time.RFC3339))
	}
	left, err := m.Left(ctx)
	if err == nil && !left {
		err = fmt.Errorf("%w: this registry came there on %s, and was served here since: empty it to move it again", ErrNotEmpty, a.At.Format(time.RFC3339))
	}
	m.res.Already = err == nil
	return err
}

// arrived reads the note at the target.
func (m *mover) arrived(ctx context.Context) (a arrival, there bool, err error) {
	err = m.to.Meta.View(ctx, func(tx storage.Tx) error {
		a = arrival{}
		there, err = getMark(tx, arrivalKey, &a)
		return err
	})
	return a, there, err
}

// sourceID is the id of a migration from a store, always the same.
func sourceID(ctx context.Context, meta storage.Meta) (id string, err error) {
	get := func(tx storage.Tx) (bool, error) { return getMark(tx, idKey, &id) }
	there := false
	err = meta.View(ctx, func(tx storage.Tx) error {
		there, err = get(tx)
		return err
	})
	if err != nil || there {
		return id, err
	}
	err = meta.Update(ctx, func(tx storage.Tx) error {
		if there, err := get(tx); err != nil || there {
			return err
		}
		id = rand.Text()
		return putMark(tx, idKey, id)
	})
	return id, err
}

// empty fails if the target has any data.
func (m *mover) empty(ctx context.Context) error {
	if err := m.emptyMeta(ctx); err != nil || m.Verify {
		return err
	}
	shared, err := m.shareBlobs(ctx)
	if err != nil || shared {
		return err
	}
	for b, err := range m.to.Blobs.List(ctx, "") {
		if err != nil {
			return err
		}
		return fmt.Errorf("%w: it has blobs already (%s), and no metadata of them: empty it, or take them over with --verify, which reads them", ErrNotEmpty, b.Digest)
	}
	return nil
}

// emptyMeta fails if the target has any metadata.
func (m *mover) emptyMeta(ctx context.Context) error {
	return m.to.Meta.View(ctx, func(tx storage.Tx) error {
		for _, table := range storage.Tables() {
			for _, err := range tx.Scan(table, nil, nil) {
				if err != nil {
					return err
				}
				return fmt.Errorf("%w: its metadata has rows already, in %s: empty it, or choose another (storage.postgres.schema)", ErrNotEmpty, table)
			}
		}
		return nil
	})
}

// arrive makes the target one that can be served.
func (m *mover) arrive(ctx context.Context) error {
	m.mu.Lock()
	bad := make([]Problem, 0, len(m.bad))
	for _, p := range m.bad {
		bad = append(bad, p)
	}
	m.mu.Unlock()
	now := time.Now().UTC()
	return m.to.Meta.Update(ctx, func(tx storage.Tx) error {
		for _, p := range bad {
			if p.known {
				continue
			}
			if err := storage.Damages.Put(tx, storage.Key(storage.DigestPart(p.Digest)), storage.Damage{Kind: p.kind, Since: now, Size: p.size}); err != nil {
				return err
			}
		}
		return errors.Join(registry.ForgetNotes(tx), putMark(tx, arrivalKey, arrival{ID: m.id, From: m.From, Done: true, At: now}))
	})
}
