package postgres

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/berth-registry/berth/storage"
	"github.com/berth-registry/berth/storage/postgres/postgrestest"
	"github.com/berth-registry/berth/storage/storagetest"
)

var schemas atomic.Int64

// newSchema is the name of a schema that nobody has.
func newSchema() string { return fmt.Sprintf("s%d", schemas.Add(1)) }

func openMeta(t *testing.T, o Options) *Meta {
	t.Helper()
	if o.Log == nil {
		o.Log = slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelWarn}))
	}
	m, err := Open(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = m.Close() })
	return m
}

func TestMain(m *testing.M) { postgrestest.Main(m) }

// fresh is an empty store on the shared server.
func fresh(t *testing.T) *Meta {
	t.Helper()
	return openMeta(t, Options{DSN: postgrestest.Shared(t), Schema: newSchema()})
}

// connect connects to a server beside a store.
func connect(t *testing.T, dsn string) *pgx.Conn {
	t.Helper()
	c, err := pgx.Connect(t.Context(), dsn)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close(context.WithoutCancel(t.Context())) })
	return c
}

func must(t *testing.T, what string, err error) {
	t.Helper()
	if err != nil {
		t.Fatalf("%s: %v", what, err)
	}
}

var (
	table = storage.Tags.Name()
	other = storage.Links.Name()
)

// putRow is an update that writes a row.
func putRow(m storage.Meta, key, value string) error {
	return m.Update(context.Background(), func(tx storage.Tx) error { return tx.Put(table, []byte(key), []byte(value)) })
}

func getRow(t *testing.T, m storage.Meta, key string) (value string) {
	t.Helper()
	must(t, "View", m.View(t.Context(), func(tx storage.Tx) error {
		b, err := tx.Get(table, []byte(key))
		if value = string(b); errors.Is(err, storage.ErrNotFound) {
			value = "-"
			return nil
		}
		return err
	}))
	return value
}

// soon waits until something is so.
func soon(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not in time: %s", what)
		}
	}
}

func TestMeta(t *testing.T) {
	storagetest.TestMeta(t, func(t *testing.T) storage.Meta { return fresh(t) })
}

func TestMetaReopen(t *testing.T) {
	schema := map[string]string{} // by directory
	storagetest.TestMetaReopen(t, func(t *testing.T, dir string) storage.Meta {
		if schema[dir] == "" {
			schema[dir] = newSchema()
		}
		return openMeta(t, Options{DSN: postgrestest.Shared(t), Schema: schema[dir]})
	})
}
