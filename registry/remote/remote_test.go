package remote_test

import (
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/berth-registry/berth/registry"
	"github.com/berth-registry/berth/registry/registrytest"
	"github.com/berth-registry/berth/registry/remote"
	"github.com/berth-registry/berth/storage/mem"
)

// local is an empty registry in memory.
func local(t *testing.T) registry.Registry {
	t.Helper()
	meta := mem.NewMeta()
	l, err := registry.NewLocal(t.Context(), mem.NewBlobs(), meta, registry.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		l.Close()
		if err := meta.Close(); err != nil {
			t.Error(err)
		}
	})
	return l
}

// client is a client of a server, which both go away with t.
func client(t *testing.T, h http.Handler) *remote.Client {
	t.Helper()
	server := httptest.NewServer(h)
	t.Cleanup(server.Close)
	c, err := remote.New(server.URL, server.Client())
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestClient(t *testing.T) {
	registrytest.Test(t, func(t *testing.T) registry.Registry {
		return client(t, registry.NewServer(local(t), registry.ServerOptions{}))
	})
}
