package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"github.com/berth-registry/berth/admin"
	"github.com/berth-registry/berth/internal/config"
	"github.com/berth-registry/berth/internal/durable"
	"github.com/berth-registry/berth/migrating"
	"github.com/berth-registry/berth/storage"
	"github.com/berth-registry/berth/storage/replicas"
)

// migrate has the server that runs move, or moves its data if none does.
func migrate(ctx context.Context, from config.Config, r admin.MigrateRequest, tell func(admin.MigrateStep)) (err error) {
	if !from.Storage.Postgres.On() {
		a, err := openSocket(ctx, from)
		if err != nil {
			return err
		}
		if a != nil {
			return a.Migrate(ctx, r, func(step admin.MigrateStep) error { tell(step); return nil })
		}
	}
	data, closeData, err := openSource(ctx, from.Storage)
	if err != nil {
		return fmt.Errorf("the source: %w", err)
	}
	defer func() { err = errors.Join(err, closeData()) }()
	if err := nobodyServes(ctx, data.meta); err != nil {
		return err
	}
	source := migrateSource{storage: from.Storage, data: data}
	return source.migrate(ctx, r, tell)
}

// openSource opens the stores of a registry that no server of this machine has open.
func openSource(ctx context.Context, c config.Storage) (data *stores, closeData func() error, err error) {
	unlock := func() error { return nil }
	if !c.S3.On() || !c.Postgres.On() {
		if _, err := os.Stat(c.Data); err != nil {
			return nil, nil, err
		}
		if missing, err := lacksMeta(c.Data); err != nil || missing && !c.Postgres.On() {
			return nil, nil, errors.Join(err, fmt.Errorf("there is no data of a registry in %s", c.Data))
		}
		if unlock, err = lockOffline(c.Data); err != nil {
			return nil, nil, err
		}
	}
	err = usableStores(ctx, c)
	if err == nil {
		data, err = openUsable(ctx, c, nil)
	}
	if err != nil {
		return nil, nil, errors.Join(err, unlock())
	}
	return data, func() error { return errors.Join(data.close(), unlock()) }, nil
}

// serverLook is how often is looked for a server.
const serverLook = 200 * time.Millisecond

// nobodyServes fails if servers share the metadata: each says again and again that it
// lives (package replicas).
func nobodyServes(ctx context.Context, meta storage.Meta) error {
	if _, alone := meta.(storage.Versioner); alone {
		return nil
	}
	first, err := beats(ctx, meta)
	for begin := time.Now(); err == nil && len(first) > 0 && time.Since(begin) < replicas.Patience; {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(serverLook):
		}
		var now map[string]int64
		if now, err = beats(ctx, meta); err != nil {
			return err
		}
		for id, beat := range now {
			if first[id] != beat {
				return fmt.Errorf("a server runs on the metadata (%s): stop all servers first", id)
			}
		}
	}
	return err
}

// beats are what servers have said last, by their ids.
func beats(ctx context.Context, meta storage.Meta) (list map[string]int64, err error) {
	err = meta.View(ctx, func(tx storage.Tx) error {
		list = map[string]int64{}
		for e, err := range storage.Replicas.Scan(tx, nil, nil) {
			if err != nil {
				return err
			}
			list[string(e.Key)] = e.Value.Beat
		}
		return nil
	})
	return list, err
}

// reopen has a registry served again that was moved.
func reopen(ctx context.Context, cmd *cobra.Command, from config.Config) error {
	take := takeMark
	if from.Storage.Postgres.On() {
		take = takeMarkOfRows
	}
	was, err := take(ctx, from.Storage)
	switch {
	case err != nil:
		return err
	case !was:
		return fmt.Errorf("%s was not moved", storesName(from.Storage))
	}
	_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s can be served again\n", storesName(from.Storage))
	return err
}

// takeMark takes the mark of a directory away, and says whether there was one.
func takeMark(_ context.Context, c config.Storage) (was bool, err error) {
	unlock, err := lockOffline(c.Data)
	if err != nil {
		return false, err
	}
	defer func() { err = errors.Join(err, unlock()) }()
	if _, was, err = readMoved(c.Data); err == nil && was {
		err = durable.Remove(filepath.Join(c.Data, movedMark))
	}
	return was, err
}

// takeMarkOfRows is takeMark for metadata in PostgreSQL.
func takeMarkOfRows(ctx context.Context, c config.Storage) (was bool, err error) {
	data, closeData, err := openSource(ctx, c)
	if err != nil {
		return false, err
	}
	defer func() { err = errors.Join(err, closeData()) }()
	return migrating.Reopen(ctx, data.meta)
}
