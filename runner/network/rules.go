package network

import (
	"errors"
	"fmt"
	"iter"
	"maps"
	"net/netip"
	"sync"

	"github.com/google/nftables"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// binding is a published port: connections to an address of the host go to one of
// a container.
type binding struct {
	proto uint8
	host  netip.AddrPort // an unspecified address: every one of its family
	to    netip.AddrPort
}

// segment is what rules know of a network that has a bridge.
type segment struct {
	bridge     string // name of the interface
	subnets    []netip.Prefix
	isolated   bool // its containers do not reach each other
	internal   bool // nothing goes in or out
	masquerade bool // what goes out has the host's address
}

// rules is the nftables table of an instance: chains that do not change, and sets
// and maps whose elements are networks and bindings. What it should hold is in
// memory too, so that it can be made again at any time, in one transaction.
type rules struct {
	name string
	pid  uint32 // of the socket, in the kernel's notices of what it did

	mu       sync.Mutex
	conn     *nftables.Conn
	segments map[string]segment // by the bridge
	bindings map[binding]struct{}
	services map[portAt][]share // none: the port leads nowhere
}

// openRules opens a socket; it changes nothing yet.
func openRules(name string) (*rules, error) {
	r := &rules{name: name, segments: map[string]segment{}, bindings: map[binding]struct{}{}, services: map[portAt][]share{}}
	var err error
	r.conn, err = nftables.New(nftables.AsLasting(), nftables.WithSockOptions(func(c *netlink.Conn) error {
		// A table of thousands of ports is one message, and many answers to it.
		if err := errors.Join(c.SetWriteBuffer(16<<20), c.SetReadBuffer(64<<20)); err != nil {
			return err
		}
		r.pid, err = portID(c)
		return err
	}))
	if err != nil {
		return nil, fmt.Errorf("nftables: %w", err)
	}
	return r, nil
}

func portID(c *netlink.Conn) (pid uint32, err error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return 0, err
	}
	cerr := raw.Control(func(fd uintptr) {
		var addr unix.Sockaddr
		if addr, err = unix.Getsockname(int(fd)); err == nil {
			pid = addr.(*unix.SockaddrNetlink).Pid //nolint:forcetypeassert // a netlink socket
		}
	})
	if err == nil {
		err = cerr
	}
	return pid, err
}

func (r *rules) close() { _ = r.conn.CloseLasting() }

// present says whether the table is there.
func (r *rules) present() (bool, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	tables, err := r.conn.ListTablesOfFamily(nftables.TableFamilyINet)
	if err != nil {
		return false, fmt.Errorf("list tables of nftables: %w", err)
	}
	for _, t := range tables {
		if t.Name == r.name {
			return true, nil
		}
	}
	return false, nil
}

// rebuild makes the table as it should be, in place of the one there is. A packet that
// is being looked up at that very instant may meet neither.
func (r *rules) rebuild() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.rebuildLocked()
}

func (r *rules) rebuildLocked() error {
	r.deleteTable()
	if err := r.queueTable(); err != nil {
		return err
	}
	if err := r.conn.Flush(); err != nil {
		return fmt.Errorf("make table %s of nftables: %w", r.name, err)
	}
	return nil
}

// queueTable queues the messages that make the table where there is none.
func (r *rules) queueTable() error {
	t := layout(r.name)
	r.conn.AddTable(t.Table)
	for _, s := range t.sets() {
		if err := r.conn.AddSet(s, nil); err != nil {
			return err
		}
	}
	for _, c := range r.chains(t) {
		r.add(c)
	}
	return r.queue(inChunks(r.elements(t)), r.conn.SetAddElements)
}

// remove deletes the table.
func (r *rules) remove() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.deleteTable()
	if err := r.conn.Flush(); err != nil {
		return fmt.Errorf("delete table %s of nftables: %w", r.name, err)
	}
	return nil
}

// deleteTable deletes the table whether it is there or not.
func (r *rules) deleteTable() {
	t := &nftables.Table{Name: r.name, Family: nftables.TableFamilyINet}
	r.conn.AddTable(t)
	r.conn.DelTable(t)
}

// open adds a network in one transaction.
func (r *rules) open(s segment) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.segments[s.bridge] = s
	t := layout(r.name)
	err := r.change(maps.All(t.members(s)), r.conn.SetAddElements)
	if err != nil {
		err = r.rebuildLocked()
	}
	if err != nil {
		delete(r.segments, s.bridge)
	}
	return err
}

// expect adds a network to what the table should hold, for the next rebuild.
func (r *rules) expect(s segment) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.segments[s.bridge] = s
}

// shut removes a network in one transaction.
func (r *rules) shut(s segment) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.segments, s.bridge)
	t := layout(r.name)
	err := r.change(maps.All(t.members(s)), r.conn.SetDeleteElements)
	if err != nil {
		err = r.rebuildLocked()
	}
	return err
}

// swap replaces bindings by others in one transaction. The time it takes does not
// depend on how many there are.
func (r *rules) swap(old, next []binding) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	old, next = without(old, next), without(next, old)
	if len(old)+len(next) == 0 {
		return nil
	}
	r.replace(old, next)
	t := layout(r.name)
	// The table of an older version, or none, is replaced whole.
	err := r.queue(t.bindings(old), r.conn.SetDeleteElements)
	if err == nil {
		err = r.change(t.bindings(next), r.conn.SetAddElements)
	}
	if err != nil {
		err = r.rebuildLocked()
	}
	if err != nil && len(next) > 0 { // what is to be closed is not opened again
		r.replace(next, old)
	}
	return err
}

func without(list, others []binding) (rest []binding) {
	known := make(map[binding]bool, len(others))
	for _, b := range others {
		known[b] = true
	}
	for _, b := range list {
		if !known[b] {
			rest = append(rest, b)
		}
	}
	return rest
}

func (r *rules) replace(old, next []binding) {
	for _, b := range old {
		delete(r.bindings, b)
	}
	for _, b := range next {
		r.bindings[b] = struct{}{}
	}
}

func (r *rules) change(changes iter.Seq2[*nftables.Set, []nftables.SetElement], f func(*nftables.Set, []nftables.SetElement) error) error {
	if err := r.queue(changes, f); err != nil {
		return err
	}
	return r.conn.Flush()
}

func (r *rules) queue(changes iter.Seq2[*nftables.Set, []nftables.SetElement], f func(*nftables.Set, []nftables.SetElement) error) error {
	for set, elements := range changes {
		if err := f(set, elements); err != nil {
			return err
		}
	}
	return nil
}

// adopt adds bindings to what the table should hold, for the next rebuild.
func (r *rules) adopt(list []binding) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, b := range list {
		r.bindings[b] = struct{}{}
	}
}
