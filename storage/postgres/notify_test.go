package postgres

import (
	"context"
	"errors"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/berth-registry/berth/storage"
	"github.com/berth-registry/berth/storage/postgres/postgrestest"
)

// listen listens for a topic, and counts.
func listen(t *testing.T, m *Meta, topic string) (heard *atomic.Int64, stop func() error) {
	t.Helper()
	heard = new(atomic.Int64)
	ctx, cancel := context.WithCancel(t.Context())
	var err error
	var all sync.WaitGroup
	all.Go(func() { err = m.Listen(ctx, topic, func() { heard.Add(1) }) })
	stop = func() error {
		cancel()
		all.Wait()
		return err
	}
	t.Cleanup(func() { _ = stop() })
	return heard, stop
}

func TestNotify(t *testing.T) {
	server := postgrestest.New(t, postgrestest.Options{})
	o := Options{DSN: server.DSN()}
	sides := [2]*Meta{openMeta(t, o), openMeta(t, o)}
	elsewhere := openMeta(t, Options{DSN: server.DSN(), Schema: "elsewhere"})
	heard, stop := listen(t, sides[1], "tags")
	others, _ := listen(t, sides[1], "blobs")
	own, _ := listen(t, sides[0], "tags")
	far, _ := listen(t, elsewhere, "tags")
	for what, n := range map[string]*atomic.Int64{"tags": heard, "blobs": others, "own": own, "elsewhere": far} {
		soon(t, what+" are told at first, and when they are connected", func() bool { return n.Load() >= 2 })
	}
	before, beforeOwn, beforeOthers, beforeFar := heard.Load(), own.Load(), others.Load(), far.Load()
	must(t, "Notify", sides[0].Notify(t.Context(), "tags"))
	soon(t, "the other one hears it", func() bool { return heard.Load() > before })
	soon(t, "it hears it itself", func() bool { return own.Load() > beforeOwn })
	if others.Load() != beforeOthers || far.Load() != beforeFar {
		t.Error("one who listens for something else, or elsewhere, hears it")
	}

	// After the connection was lost, everybody is told.
	before, beforeOthers = heard.Load(), others.Load()
	server.Kill()
	server.Start()
	soon(t, "both are told when they are connected again", func() bool { return heard.Load() > before && others.Load() > beforeOthers })
	before = heard.Load()
	must(t, "Notify", sides[0].Notify(t.Context(), "tags"))
	soon(t, "the other one hears it again", func() bool { return heard.Load() > before })

	if err := stop(); !errors.Is(err, context.Canceled) {
		t.Errorf("Listen: %v", err)
	}
	for _, topic := range []string{"", strings.Repeat("x", 10_000)} {
		if sides[0].Notify(t.Context(), topic) == nil {
			t.Errorf("Notify of a topic of %d bytes: no error", len(topic))
		}
	}
	ended := make(chan error, 1)
	go func() { ended <- sides[0].Listen(context.Background(), "tags", func() {}) }()
	must(t, "Close", sides[0].Close())
	if err := <-ended; !errors.Is(err, storage.ErrClosed) {
		t.Errorf("Listen of a store that closes: %v", err)
	}
	if err := sides[0].Notify(t.Context(), "tags"); !errors.Is(err, storage.ErrClosed) {
		t.Errorf("Notify of a closed store: %v", err)
	}
}
