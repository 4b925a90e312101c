package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/berth-registry/berth/audit"
	"github.com/berth-registry/berth/auth"
	"github.com/berth-registry/berth/internal/config"
	"github.com/berth-registry/berth/registry"
	"github.com/berth-registry/berth/storage"
	"github.com/berth-registry/berth/storage/fs"
)

// openHealth opens what is stored for a command, where no server runs. Its events
// wait in the outbox until one does.
func openHealth(ctx context.Context, cfg config.Config, meta storage.Meta, record audit.Recorder) (h *health, closeAll func() error, err error) {
	blobs, err := fs.Open(cfg.Storage.Data, nil)
	if err != nil {
		return nil, nil, fmt.Errorf("cannot open the blobs: %w", err)
	}
	opened := blobs.Close
	defer func() {
		if err != nil {
			err = errors.Join(err, opened())
		}
	}()
	hooks, err := webhookOptions(cfg)
	if err != nil {
		return nil, nil, err
	}
	outbox, err := audit.NewOutbox(meta, hooks, audit.OutboxOptions{Source: cfg.EventSource()})
	if err != nil {
		return nil, nil, fmt.Errorf("webhooks: %w", err)
	}
	local, err := registry.NewLocal(ctx, blobs, meta, registry.Options{
		UploadExpiry: cfg.Storage.UploadExpiry, Journal: audit.NewJournal(record, outbox), Actor: actor,
	})
	if err != nil {
		return nil, nil, err
	}
	opened = func() error { local.Close(); return blobs.Close() }
	immutable, err := auth.NewTagPatterns(cfg.Immutable)
	if err != nil {
		return nil, nil, err
	}
	local.SetImmutable(rules{immutable: immutable}.isImmutable)
	h = newHealth(cfg, healthOptions{local: local, meta: meta, blobs: blobs, notes: blobs, audit: record})
	apply, err := h.prepare(cfg)
	if err != nil {
		return nil, nil, err
	}
	apply()
	return h, opened, nil
}
