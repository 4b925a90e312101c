package deploy

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"sync"

	"github.com/berth-registry/berth/internal/durable"
	"github.com/berth-registry/berth/runner"
)

// Options configure a Manager.
type Options struct {
	Dir    string // that it keeps stacks and revisions in
	Engine Engine
	Edge   Edge // nil: a stack with routes is refused
	// History is how many revisions of a stack are remembered; 0: 20.
	History int
	Log     *slog.Logger // nil: nothing is logged
}

// Manager keeps the stacks of a host. Its methods may be called concurrently.
type Manager struct {
	dir     string
	engine  Engine
	edge    Edge
	history int
	log     *slog.Logger
	dial    func(ctx context.Context, addr netip.AddrPort) error

	lifetime func() context.Context
	stop     context.CancelCauseFunc
	unlock   func() error
	work     sync.WaitGroup

	mu    sync.Mutex
	units map[string]*unit
}

// errClosing is why what goes on ends when the Manager closes: it is left as it is.
var errClosing = errors.New("the daemon ends")

// Open opens what a directory has of stacks, and returns when it knows them.
// Deployments that were cut short are finished or taken back in the background;
// until then their stacks are being deployed. A stack whose files cannot be read is
// left as it is. It fails with durable.ErrLocked if another process has the directory.
func Open(ctx context.Context, o Options) (*Manager, error) {
	return open(ctx, o, dialTCP)
}

func open(ctx context.Context, o Options, dial func(context.Context, netip.AddrPort) error) (_ *Manager, err error) {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	dir, err := filepath.Abs(o.Dir)
	if err != nil {
		return nil, err
	}
	m := &Manager{
		dir: dir, engine: o.Engine, edge: o.Edge, history: cmp.Or(o.History, 20), log: o.Log,
		dial: dial, units: map[string]*unit{},
	}
	if m.unlock, err = durable.Lock(dir); err != nil {
		return nil, err
	}
	lifetime, stop := context.WithCancelCause(context.WithoutCancel(ctx))
	m.stop, m.lifetime = stop, func() context.Context { return lifetime }
	defer func() {
		if err != nil {
			_ = m.Close()
		}
	}()
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		if e.IsDir() && nameOfStack.MatchString(e.Name()) {
			if err := m.load(ctx, e.Name()); err != nil {
				return nil, err
			}
		}
	}
	for _, u := range m.all() {
		if u.sound() {
			u.resume()
		}
	}
	events := m.listen()
	m.work.Go(func() { m.watch(events) })
	return m, nil
}

// Close ends what goes on in the background. Deployments that have not ended are
// resumed by the next Open.
func (m *Manager) Close() error {
	m.stop(errClosing)
	m.work.Wait()
	return m.unlock()
}

func dialTCP(ctx context.Context, addr netip.AddrPort) error {
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", addr.String())
	if err != nil {
		return err
	}
	return conn.Close()
}

// all returns the stacks, sorted by name.
func (m *Manager) all() []*unit {
	m.mu.Lock()
	defer m.mu.Unlock()
	list := make([]*unit, 0, len(m.units))
	for _, u := range m.units {
		list = append(list, u)
	}
	slices.SortFunc(list, func(a, b *unit) int { return cmp.Compare(a.name, b.name) })
	return list
}

// unit returns a stack that the host has, or runner.ErrNotFound.
func (m *Manager) unit(name string) (*unit, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if u := m.units[name]; u != nil && u.known() {
		return u, nil
	}
	return nil, runner.Errorf(runner.ErrNotFound, "no such stack: %s", name)
}

// usable is unit for what needs to know what is in service: it fails with
// runner.ErrPrecondition if that cannot be read.
func (m *Manager) usable(ctx context.Context, name string) (*unit, error) {
	u, err := m.unit(name)
	if err == nil {
		err = u.mend(ctx)
	}
	return u, err
}

// unitOrNew returns a stack that the host has, or is going to have.
func (m *Manager) unitOrNew(name string) *unit {
	m.mu.Lock()
	defer m.mu.Unlock()
	u := m.units[name]
	if u == nil {
		u = m.newUnit(name)
		m.units[name] = u
	}
	return u
}

// drop forgets a stack.
func (m *Manager) drop(u *unit) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.units[u.name] == u {
		delete(m.units, u.name)
	}
}
