package main

import (
	"context"
	"fmt"

	"github.com/berth-registry/berth/audit"
	"github.com/berth-registry/berth/auth"
	"github.com/berth-registry/berth/internal/config"
	"github.com/berth-registry/berth/registry"
)

// openHealth opens what is stored for a command, where no server runs. Its events
// wait in the outbox until one does.
func openHealth(ctx context.Context, cfg config.Config, data *stores, record audit.Recorder) (h *health, closeAll func(), err error) {
	hooks, err := webhookOptions(cfg)
	if err != nil {
		return nil, nil, err
	}
	outbox, err := audit.NewOutbox(data.meta, hooks, audit.OutboxOptions{Source: cfg.EventSource()})
	if err != nil {
		return nil, nil, fmt.Errorf("webhooks: %w", err)
	}
	queue, err := replicationQueue(cfg, data.meta)
	if err != nil {
		return nil, nil, err
	}
	local, err := registry.NewLocal(ctx, data.blobs, data.meta, registry.Options{
		UploadExpiry: cfg.Storage.UploadExpiry, Journal: queue.Journal(audit.NewJournal(record, outbox)), Actor: actor,
	})
	if err != nil {
		return nil, nil, err
	}
	defer func() {
		if err != nil {
			local.Close()
		}
	}()
	immutable, err := auth.NewTagPatterns(cfg.Immutable)
	if err != nil {
		return nil, nil, err
	}
	local.SetImmutable(rules{immutable: immutable}.isImmutable)
	h = newHealth(cfg, healthOptions{local: local, meta: data.meta, blobs: data.blobs, notes: data.notes, audit: record})
	apply, err := h.prepare(cfg)
	if err != nil {
		return nil, nil, err
	}
	apply()
	return h, local.Close, nil
}
