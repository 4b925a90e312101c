package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/berth-registry/berth/admin"
	"github.com/berth-registry/berth/audit"
	"github.com/berth-registry/berth/auth/accounts"
	"github.com/berth-registry/berth/auth/tokens"
	"github.com/berth-registry/berth/internal/config"
	"github.com/berth-registry/berth/internal/durable"
)

const (
	// startTime is how long a server that has just been started is waited for, or
	// another command that has the data.
	startTime  = 3 * time.Second
	startAgain = 50 * time.Millisecond
)

// openLocal opens the server whose data is in cfg's directory, or, if there is
// none, the data itself.
func openLocal(ctx context.Context, cfg config.Config, create bool, stderr io.Writer) (*administration, error) {
	dir := cfg.Storage.Data
	begin := time.Now()
	for {
		a, err := openSocket(ctx, cfg)
		if a != nil || err != nil {
			return a, err
		}
		a, err = openData(ctx, cfg, create, stderr)
		if !errors.Is(err, durable.ErrLocked) {
			return a, err
		}
		if time.Since(begin) > startTime {
			return nil, fmt.Errorf("%w: it has no %s there: it is of an older version, or hangs; restart it", err, admin.SocketName)
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("%s: %w", dir, ctx.Err())
		case <-time.After(startAgain):
		}
	}
}

// openSocket opens the server that runs, or returns nil.
func openSocket(ctx context.Context, cfg config.Config) (*administration, error) {
	path := filepath.Join(cfg.Storage.Data, admin.SocketName)
	conn, err := admin.DialSocket(ctx, path)
	switch {
	case err == nil:
		_ = conn.Close()
		return &administration{Client: admin.NewSocketClient(path), host: cfg.HTTP.Addr, local: true, close: func() error { return nil }}, nil
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ECONNREFUSED), errors.Is(err, syscall.ENOTDIR):
		return nil, nil //nolint:nilnil // there is none, and that is no error
	case errors.Is(err, fs.ErrPermission):
		return nil, notPermitted(cfg.Storage.Data)
	default:
		return nil, fmt.Errorf("cannot reach the server: %w", err)
	}
}

func notPermitted(dir string) error {
	return fmt.Errorf("no permission to administer the registry in %s: run this as the user that runs it, or over the network with --registry", dir)
}

// openData opens the data of a server that does not run.
func openData(ctx context.Context, cfg config.Config, create bool, stderr io.Writer) (*administration, error) {
	dir := cfg.Storage.Data
	fresh, err := isFresh(dir)
	if err != nil {
		return nil, err
	}
	fresh = fresh && !cfg.Storage.Postgres.On()
	if fresh && !create {
		return nil, fmt.Errorf("there is no data of a registry in %s: say where it is with --data or --config", dir)
	}
	unlock, err := durable.Lock(dir)
	switch {
	case errors.Is(err, fs.ErrPermission):
		return nil, notPermitted(dir)
	case errors.Is(err, durable.ErrLocked):
		return nil, err
	case err != nil:
		return nil, fmt.Errorf("cannot use the data directory: %w", err)
	}
	err = usableStores(ctx, cfg.Storage)
	var a *administration
	if err == nil {
		a, err = openStore(ctx, cfg)
	}
	if err != nil {
		return nil, errors.Join(err, unlock())
	}
	closeStore := a.close
	a.close = func() error { return errors.Join(closeStore(), unlock()) }
	if fresh {
		if abs, err := filepath.Abs(dir); err == nil {
			dir = abs
		}
		_, _ = fmt.Fprintf(stderr, "Made %s: 'berth serve' has to be started with this data directory.\n", dir)
	}
	return a, nil
}

// isFresh says whether the directory has no metadata yet. If it has another owner,
// nothing may be made in it: the server could not open that.
func isFresh(dir string) (bool, error) {
	fi, err := os.Stat(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return true, nil
	}
	if errors.Is(err, fs.ErrPermission) {
		return false, notPermitted(dir)
	}
	if err != nil {
		return false, fmt.Errorf("cannot use the data directory: %w", err)
	}
	if st, ok := fi.Sys().(*syscall.Stat_t); ok && int(st.Uid) != os.Geteuid() {
		return false, fmt.Errorf("%w: it belongs to user %d, who has to run this while no server does", notPermitted(dir), st.Uid)
	}
	_, err = os.Stat(filepath.Join(dir, metaFile))
	if errors.Is(err, fs.ErrNotExist) {
		return true, nil
	}
	return false, err
}

// metaFile is the name of the metadata in the data directory.
const metaFile = "meta.db"

// openStore makes an administration of the metadata, whose lock the caller has.
func openStore(ctx context.Context, cfg config.Config) (a *administration, err error) {
	data, err := openUsable(ctx, cfg.Storage, nil)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, data.close())
		}
	}()
	if err := migrated(ctx, cfg.Storage, data.meta); err != nil {
		return nil, err
	}
	store, err := accounts.New(ctx, data.meta, accounts.Options{})
	if err != nil {
		return nil, err
	}
	signer, err := tokens.New(ctx, data.meta, tokens.Options{
		Service: cfg.Auth.Tokens.Service, TTL: cfg.Auth.Tokens.TTL, RefreshTTL: cfg.Auth.Tokens.RefreshTTL, Rotate: cfg.Auth.Tokens.Rotate,
	})
	if err != nil {
		return nil, err
	}
	record, err := audit.NewLog(audit.LogOptions{Output: auditFile(cfg), MaxSize: cfg.Audit.MaxSize, Keep: cfg.Audit.Keep})
	if err != nil {
		return nil, err
	}
	content, closeContent, err := openHealth(ctx, cfg, data, record)
	if err != nil {
		return nil, errors.Join(err, record.Close())
	}
	options := admin.Options{Accounts: store, Tokens: signer, Audit: record}
	content.administer(&options)
	return &administration{
		Client: admin.NewHandlerClient(admin.Local(admin.New(options))), host: cfg.HTTP.Addr, local: true,
		close: func() error { closeContent(); return errors.Join(record.Close(), data.close()) },
	}, nil
}

// auditFile is the file that audit goes to. What a server would print has no place
// among what a command prints.
func auditFile(cfg config.Config) string {
	switch cfg.Audit.Output {
	case "stdout", "stderr":
		return ""
	}
	return cfg.Audit.Output
}
