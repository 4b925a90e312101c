package e2e

import (
	"slices"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/berth-registry/berth/storage"
	"github.com/berth-registry/berth/storage/postgres"
)

// openMeta opens the metadata that servers share, as one more of them.
func openMeta(t *testing.T, dsn string) storage.Meta {
	t.Helper()
	meta, err := postgres.Open(t.Context(), postgres.Options{DSN: dsn, Schema: "berth"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = meta.Close() })
	return meta
}

// age makes what the metadata knows older: leases end, and reviews are due, that much
// earlier. Nobody may rely on a lease meanwhile.
func age(t *testing.T, meta storage.Meta, by time.Duration) {
	t.Helper()
	err := meta.Update(t.Context(), func(tx storage.Tx) error {
		for _, of := range []func(storage.Tx, int64) error{ageReviews, ageStored, ageLinks, ageManifests} {
			if err := of(tx, by.Microseconds()); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func ageReviews(tx storage.Tx, by int64) error {
	type row struct {
		key []byte
		storage.Review
	}
	var rows []row
	for e, err := range storage.Reviews.Scan(tx, nil, nil) {
		if err != nil {
			return err
		}
		rows = append(rows, row{slices.Clone(e.Key), e.Value})
	}
	for _, r := range rows {
		due, err := storage.CutNumber(r.key)
		if err != nil {
			return err
		}
		if err := storage.Reviews.Delete(tx, r.key); err != nil {
			return err
		}
		if err := storage.Reviews.Put(tx, storage.ReviewKey(due-by, r.Kind, r.Repo, digest.Digest(r.Digest)), r.Review); err != nil {
			return err
		}
	}
	return nil
}

func ageStored(tx storage.Tx, by int64) error {
	return ageRows(tx, storage.Stored, func(b *storage.Blob) *storage.Watch { return &b.Watch }, by)
}

func ageLinks(tx storage.Tx, by int64) error {
	return ageRows(tx, storage.Links, func(l *storage.Link) *storage.Watch { return &l.Watch }, by)
}

func ageManifests(tx storage.Tx, by int64) error {
	return ageRows(tx, storage.Manifests, func(m *storage.Manifest) *storage.Watch { return &m.Watch }, by)
}

func ageRows[V any](tx storage.Tx, table storage.Table[V], watch func(*V) *storage.Watch, by int64) error {
	type row struct {
		key   []byte
		value V
	}
	var rows []row
	for e, err := range table.Scan(tx, nil, nil) {
		if err != nil {
			return err
		}
		rows = append(rows, row{slices.Clone(e.Key), e.Value})
	}
	for _, r := range rows {
		w := watch(&r.value)
		if w.Lease != 0 {
			w.Lease -= by
		}
		if w.Due != 0 {
			w.Due -= by
		}
		if err := table.Put(tx, r.key, r.value); err != nil {
			return err
		}
	}
	return nil
}
