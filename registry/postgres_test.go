package registry_test

import (
	"fmt"
	"testing"

	"github.com/berth-registry/berth/registry"
	"github.com/berth-registry/berth/registry/registrytest"
	"github.com/berth-registry/berth/storage/mem"
	"github.com/berth-registry/berth/storage/postgres"
	"github.com/berth-registry/berth/storage/postgres/postgrestest"
)

// TestPostgres runs the suite with metadata in PostgreSQL.
func TestPostgres(t *testing.T) {
	server := postgrestest.New(t, postgrestest.Options{})
	schemas := 0
	registrytest.Test(t, func(t *testing.T) registry.Registry {
		schemas++
		meta, err := postgres.Open(t.Context(), postgres.Options{DSN: server.DSN(), Schema: fmt.Sprint("s", schemas)})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = meta.Close() })
		return newLocal(t, mem.NewBlobs(), meta)
	})
}
