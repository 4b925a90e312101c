package telemetry

import (
	"context"
	"io"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/berth-registry/berth/storage"
)

// timer measures an operation of a store.
type timer struct{ prometheus.Observer }

func (t timer) since(start time.Time) { t.Observe(time.Since(start).Seconds()) }

func (m *Metrics) timer(store, operation string) timer {
	return timer{m.store.WithLabelValues(store, operation)}
}

// Blobs measures how long the operations of b take. It is a storage.DigestStager and a
// storage.Adopter if b is one.
func (m *Metrics) Blobs(b storage.Blobs) storage.Blobs {
	timed := &blobs{
		Blobs: b, open: m.timer("blobs", "open"), size: m.timer("blobs", "size"), delete: m.timer("blobs", "delete"),
		stage: m.timer("blobs", "stage"), sync: m.timer("blobs", "sync"), commit: m.timer("blobs", "commit"),
	}
	stager, stages := b.(storage.DigestStager)
	adopter, adopts := b.(storage.Adopter)
	switch {
	case stages && adopts:
		return &struct {
			*digestBlobs
			storage.Adopter
		}{&digestBlobs{timed, stager}, adopter}
	case stages:
		return &digestBlobs{timed, stager}
	case adopts:
		return &struct {
			*blobs
			storage.Adopter
		}{timed, adopter}
	}
	return timed
}

type blobs struct {
	storage.Blobs
	open, size, delete, stage, sync, commit timer
}

func (b *blobs) Open(ctx context.Context, d digest.Digest) (io.ReadSeekCloser, error) {
	defer b.open.since(time.Now())
	return b.Blobs.Open(ctx, d)
}

func (b *blobs) Size(ctx context.Context, d digest.Digest) (int64, error) {
	defer b.size.since(time.Now())
	return b.Blobs.Size(ctx, d)
}

func (b *blobs) Delete(ctx context.Context, d digest.Digest) error {
	defer b.delete.since(time.Now())
	return b.Blobs.Delete(ctx, d)
}

func (b *blobs) Stage(ctx context.Context, id string, off int64) (storage.Stage, error) {
	defer b.stage.since(time.Now())
	s, err := b.Blobs.Stage(ctx, id, off)
	if err != nil {
		return nil, err
	}
	return &stage{s, b}, nil
}

// digestBlobs is blobs of a driver that does less when it knows digests.
type digestBlobs struct {
	*blobs
	stager storage.DigestStager
}

func (b *digestBlobs) StageFor(ctx context.Context, id string, d digest.Digest) (storage.Stage, error) {
	defer b.stage.since(time.Now())
	s, err := b.stager.StageFor(ctx, id, d)
	if err != nil {
		return nil, err
	}
	return &stage{s, b.blobs}, nil
}

type stage struct {
	storage.Stage
	blobs *blobs
}

func (s *stage) Sync() error {
	defer s.blobs.sync.since(time.Now())
	return s.Stage.Sync()
}

func (s *stage) Commit(d digest.Digest) error {
	defer s.blobs.commit.since(time.Now())
	return s.Stage.Commit(d)
}

// Meta measures how long the transactions of meta take. It is a storage.Versioner and a
// storage.Notifier if meta is one.
func (m *Metrics) Meta(meta storage.Meta) storage.Meta {
	return storage.Like(&metadata{Meta: meta, view: m.timer("meta", "view"), update: m.timer("meta", "update")}, meta)
}

type metadata struct {
	storage.Meta
	view, update timer
}

func (m *metadata) View(ctx context.Context, fn func(storage.Tx) error) error {
	defer m.view.since(time.Now())
	return m.Meta.View(ctx, fn)
}

func (m *metadata) Update(ctx context.Context, fn func(storage.Tx) error) error {
	defer m.update.since(time.Now())
	return m.Meta.Update(ctx, fn)
}
