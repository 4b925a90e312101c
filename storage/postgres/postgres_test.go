package postgres

import (
	"context"
	"fmt"
	"log/slog"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

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
		o.Log = slog.New(slog.NewTextHandler(t.Output(), nil))
	}
	m, err := Open(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = m.Close() })
	return m
}

func TestMeta(t *testing.T) {
	dsn := postgrestest.Start(t)
	storagetest.TestMeta(t, func(t *testing.T) storage.Meta {
		return openMeta(t, Options{DSN: dsn, Schema: newSchema()})
	})
}

func TestMetaReopen(t *testing.T) {
	dsn := postgrestest.Start(t)
	var mu sync.Mutex
	schema := map[string]string{} // by directory
	storagetest.TestMetaReopen(t, func(t *testing.T, dir string) storage.Meta {
		mu.Lock()
		defer mu.Unlock()
		if schema[dir] == "" {
			schema[dir] = newSchema()
		}
		return openMeta(t, Options{DSN: dsn, Schema: schema[dir]})
	})
}

func must(t *testing.T, what string, err error) {
	t.Helper()
	if err != nil {
		t.Fatalf("%s: %v", what, err)
	}
}

var _ = []any{context.Background, filepath.Join, strings.Cut}
