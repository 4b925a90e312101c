package tokens_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/berth-registry/berth/auth/tokens"
	"github.com/berth-registry/berth/storage"
	"github.com/berth-registry/berth/storage/postgres"
	"github.com/berth-registry/berth/storage/postgres/postgrestest"
)

func TestMain(m *testing.M) { postgrestest.Main(m) }

func openPostgres(t *testing.T, dsn string) storage.Meta {
	t.Helper()
	meta, err := postgres.Open(t.Context(), postgres.Options{DSN: dsn})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = meta.Close() })
	return meta
}

// TestFirstStart has replicas that all begin for the first time make one key, and one
// new key when it is time.
func TestFirstStart(t *testing.T) {
	dsn, clock := postgrestest.Shared(t), newClock()
	const n = 5
	metas, services := make([]storage.Meta, n), make([]*tokens.Service, n)
	for i := range n {
		metas[i] = openPostgres(t, dsn)
	}
	var all sync.WaitGroup
	for i := range n {
		all.Go(func() {
			var err error
			services[i], err = tokens.New(t.Context(), metas[i], tokens.Options{Service: service, Now: clock.Now})
			if err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	if t.Failed() {
		return
	}
	if rows := signers(t, metas[0]); len(rows) != 1 {
		t.Errorf("%d keys", len(rows))
	}
	for i, s := range services {
		if _, _, err := services[(i+1)%n].Verify(issue(t, s).Text); err != nil {
			t.Errorf("number %d: %v", i, err)
		}
	}
	clock.add(30 * 24 * time.Hour)
	for _, s := range services {
		all.Go(func() { run(t, s.Run) })
	}
	all.Wait()
	eventually(t, "a new key", func() bool { return len(signers(t, metas[0])) == 2 })
	eventually(t, "one key that all know", func() bool {
		for _, s := range services {
			if len(s.JWKS().Keys) != 2 {
				return false
			}
		}
		return true
	})
	if rows := signers(t, metas[0]); len(rows) != 2 {
		t.Errorf("%d keys after they were rotated", len(rows))
	}
}

// TestRotatedElsewhere has what is signed with a key that another replica has made be
// valid at once, and what is signed with one that nobody has made cost one look in a
// while.
func TestRotatedElsewhere(t *testing.T) {
	dsn, clock := postgrestest.Shared(t), newClock()
	counted := &counting{Meta: openPostgres(t, dsn)}
	a, b := newService(t, openPostgres(t, dsn), clock), newService(t, counted, clock)
	for range 3 {
		if err := a.Rotate(t.Context()); err != nil {
			t.Fatal(err)
		}
		sealed, err := a.Seal("test", "x", time.Minute)
		if err != nil {
			t.Fatal(err)
		}
		var all sync.WaitGroup
		for range 20 {
			all.Go(func() {
				var text string
				if err := b.Open("test", sealed, &text); err != nil || text != "x" {
					t.Errorf("%q, %v", text, err)
				}
			})
		}
		all.Wait()
	}
	other := newService(t, newMem(t), clock)
	forged, before, begin := issue(t, other).Text, counted.views(), time.Now()
	var all sync.WaitGroup
	for range 100 {
		all.Go(func() {
			if _, _, err := b.Verify(forged); !errors.Is(err, tokens.ErrInvalid) {
				t.Error(err)
			}
		})
	}
	all.Wait()
	if n := counted.views() - before; n > 1+int(time.Since(begin)/time.Second) {
		t.Errorf("%d looks in %v", n, time.Since(begin))
	}
}

// counting counts what is read.
type counting struct {
	storage.Meta
	mu sync.Mutex
	n  int
}

func (c *counting) View(ctx context.Context, fn func(storage.Tx) error) error {
	c.mu.Lock()
	c.n++
	c.mu.Unlock()
	return c.Meta.View(ctx, fn)
}

func (c *counting) views() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.n
}

// TestRefreshAtOnce uses one refresh token at three replicas at the same time, when each
// of them extends it, and revokes it at one meanwhile: then it is no good at any.
func TestRefreshAtOnce(t *testing.T) {
	dsn, clock := postgrestest.Shared(t), newClock()
	var services []*tokens.Service
	for range 3 {
		services = append(services, newService(t, openPostgres(t, dsn), clock))
	}
	raw := issueRefresh(t, services[0], alice())
	for round := range 5 {
		clock.add(6 * 24 * time.Hour) // it is extended
		use(t, services, raw, func(who string, err error) {
			if err != nil {
				t.Errorf("round %d, %s: %v", round, who, err)
			}
		})
	}
	clock.add(6 * 24 * time.Hour)
	revoked := make(chan error, 1)
	go func() {
		_, err := services[1].RevokeRefresh(context.WithoutCancel(t.Context()), alice().Account)
		revoked <- err
	}()
	use(t, services, raw, func(who string, err error) {
		if err != nil && !errors.Is(err, tokens.ErrInvalid) {
			t.Errorf("%s: %v", who, err)
		}
	})
	if err := <-revoked; err != nil {
		t.Fatal(err)
	}
	use(t, services, raw, func(who string, err error) {
		if !errors.Is(err, tokens.ErrInvalid) {
			t.Errorf("%s: a revoked refresh token: %v", who, err)
		}
	})
}

// use uses a refresh token several times at each of some services at once.
func use(t *testing.T, services []*tokens.Service, raw string, check func(who string, err error)) {
	t.Helper()
	var all sync.WaitGroup
	for i, s := range services {
		for range 4 {
			all.Go(func() {
				_, err := s.Refresh(t.Context(), raw)
				check(fmt.Sprint("replica ", i), err)
			})
		}
	}
	all.Wait()
}
