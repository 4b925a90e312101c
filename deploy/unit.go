package deploy

import (
	"path/filepath"
	"sync"

	"github.com/moby/moby/api/types/network"

	"github.com/berth-registry/berth/runner"
)

// unit is a stack of this host with what goes on about it.
type unit struct {
	m     *Manager
	name  string
	store store
	// turn is held by whoever changes containers and traffic: an operation, or a
	// repair.
	turn chan struct{}

	traffic sync.Mutex // held while the traffic is set

	mu     sync.Mutex
	rec    record     // as it is on disk
	unread error      // why that, or what is in service, cannot be read; nil: it can
	op     *operation // that goes on; nil: none
	gone   bool       // it was removed: who comes now takes another
	drains map[string]*draining
	// What the traffic and the edge were told last, once they were: wanted is that of
	// the traffic if no replica had ended.
	wanted   []runner.Service
	told     []runner.Service
	ports    map[string]network.PortMap
	routes   []EdgeRoute
	routed   bool
	stacks   map[int]*versioned  // what revisions are made of, as far as it was read
	tries    map[string]*backoff // of containers that were started again, by ID
	fell     map[string]int      // containers that have ended, and have to be ready again
	falling  int                 // how many have
	rising   map[string]bool     // containers that are waited for
	failures int                 // repairs in a row that have failed
	ails     string              // why the last repair failed
	poked    bool                // a repair is to come
}

func (m *Manager) newUnit(name string) *unit {
	return &unit{
		m: m, name: name, store: store{filepath.Join(m.dir, name)}, turn: make(chan struct{}, 1), rec: record{Name: name},
		drains: map[string]*draining{}, tries: map[string]*backoff{}, stacks: map[int]*versioned{}, fell: map[string]int{}, rising: map[string]bool{},
	}
}

// known says whether the host has the stack, or is about to.
func (u *unit) known() bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	return len(u.rec.Revisions) > 0 || u.unread != nil
}

// record returns what is on disk.
func (u *unit) record() record {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.rec.clone()
}

// update changes the record, on disk first.
func (u *unit) update(change func(r *record)) error {
	u.mu.Lock()
	defer u.mu.Unlock()
	r := u.rec.clone()
	change(&r)
	if err := u.store.save(r); err != nil {
		return err
	}
	u.rec = r
	return nil
}

// stack returns what a revision is made of, which nobody may change, or
// runner.ErrNotFound.
func (u *unit) stack(number int) (*versioned, error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if v := u.stacks[number]; v != nil {
		return v, nil
	}
	v, err := u.store.stack(number)
	if err == nil {
		u.stacks[number] = v
	}
	return v, err
}

// saveStack makes durable what a revision is made of.
func (u *unit) saveStack(number int, v *versioned) error {
	u.mu.Lock()
	defer u.mu.Unlock()
	delete(u.stacks, number)
	return u.store.saveStack(number, v)
}

// forget forgets what all other revisions are made of.
func (u *unit) forget(keep map[int]bool) error {
	u.mu.Lock()
	defer u.mu.Unlock()
	for number := range u.stacks {
		if !keep[number] {
			delete(u.stacks, number)
		}
	}
	return u.store.forget(keep)
}
