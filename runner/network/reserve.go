package network

import (
	"errors"
	"net/netip"
	"sync"

	"golang.org/x/sys/unix"
)

// portAt is a port of the host: at one address, or at every one of its family if
// that is unspecified.
type portAt struct {
	proto uint8
	host  netip.AddrPort
}

// hold keeps a port of the host from its programs, and serves what no rule can: by
// the same socket, which is bound all the time and listens only while it has to.
type hold struct {
	portAt
	fd    int // -1: the kernel has not the protocol, or somebody else the port
	carry *carrier

	mu    sync.Mutex
	now   lead
	to    balance // of what is carried
	front front   // nil: not served
}

// front is what takes connections or packets from the socket of a hold.
type front interface{ stop() }

// reserve binds a port, beside what lends its own if that is said.
func reserve(at portAt, beside bool, c *carrier) (*hold, error) {
	fd, err := bind(at, beside)
	if err != nil {
		return nil, err
	}
	return &hold{portAt: at, fd: fd, carry: c}, nil
}

// prepare has the hold serve what the lead wants, while connections still go where
// they went; follow completes the change.
func (h *hold) prepare(l lead) error {
	if h == nil {
		return nil
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.now.shares) == 0 {
		h.to.set(l.shares)
	}
	if h.front == nil && h.serves(l) {
		return h.serve()
	}
	return nil
}

func (h *hold) serve() (err error) {
	switch h.proto {
	case unix.IPPROTO_TCP:
		h.front, err = listenTCP(h.fd, h.carry, &h.to)
	case unix.IPPROTO_UDP:
		h.front, err = listenUDP(h.fd, h.carry, &h.to)
	}
	return err
}

// follow has new connections go where the lead says.
func (h *hold) follow(l lead) {
	if h == nil {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.now = l
	h.settle()
}

// revert undoes prepare.
func (h *hold) revert() {
	if h == nil {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.settle()
}

func (h *hold) settle() {
	h.to.set(h.now.shares)
	if !h.serves(h.now) {
		h.stop()
	}
}

func (h *hold) stop() {
	if h.front != nil {
		h.front.stop()
		h.front = nil
	}
}

// serves says whether something of the lead is carried. To [::1] it always is.
func (h *hold) serves(l lead) bool {
	return h.fd >= 0 && len(l.shares) > 0 && (l.carried || h.host.Addr() == netip.IPv6Unspecified())
}

// close gives the port up. Connections over TCP that are carried go on.
func (h *hold) close() {
	if h == nil {
		return
	}
	h.follow(lead{})
	if h.fd >= 0 {
		_ = unix.Close(h.fd)
	}
}

// lend lets another socket be bound at an address that the hold has, too: until it
// is closed, or reclaims it.
func (h *hold) lend() error {
	if h == nil || h.fd < 0 {
		return nil
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.stop() // a socket that listens cannot
	return unix.SetsockoptInt(h.fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1)
}

// reclaim ends what lend began, if it did.
func (h *hold) reclaim() {
	if h == nil || h.fd < 0 {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	_ = unix.SetsockoptInt(h.fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 0)
	if h.front == nil && h.serves(h.now) {
		_ = h.serve()
	}
}

// bind returns a socket that is bound and no more: nothing is answered or queued
// by it. It is -1 for a protocol that the kernel has not: no program can have the
// port then. It may be bound beside one that shares its port.
func bind(at portAt, beside bool) (int, error) {
	family, kind := unix.AF_INET, unix.SOCK_STREAM
	var sa unix.Sockaddr
	if addr, port := at.host.Addr(), int(at.host.Port()); addr.Is4() {
		sa = &unix.SockaddrInet4{Port: port, Addr: addr.As4()}
	} else {
		family, sa = unix.AF_INET6, &unix.SockaddrInet6{Port: port, Addr: addr.As16()}
	}
	if at.proto == unix.IPPROTO_UDP {
		kind = unix.SOCK_DGRAM
	}
	fd, err := unix.Socket(family, kind|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, int(at.proto))
	if at.proto == unix.IPPROTO_SCTP && (errors.Is(err, unix.EPROTONOSUPPORT) || errors.Is(err, unix.ESOCKTNOSUPPORT)) {
		return -1, nil
	}
	if err != nil {
		return -1, err
	}
	bound := func() error { return unix.Bind(fd, sa) }
	if err = prepare(fd, family, at.proto); err == nil && !beside {
		err = bound()
	}
	// Connections of before that wait for their last packets do not count.
	if beside || errors.Is(err, unix.EADDRINUSE) && at.proto == unix.IPPROTO_TCP {
		err = sharing(fd, bound)
	}
	if err != nil {
		_ = unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

func prepare(fd, family int, proto uint8) error {
	if family == unix.AF_INET6 {
		if err := unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, 1); err != nil {
			return err
		}
	}
	if proto != unix.IPPROTO_UDP {
		return nil
	}
	return deaf(fd)
}

// deaf has what comes to a socket dropped rather than kept.
func deaf(fd int) error {
	nothing := unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K}
	return unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &unix.SockFprog{Len: 1, Filter: &nothing})
}

// sharing does something that a socket may while it shares its port: with those
// that do so, too, and do not listen.
func sharing(fd int, do func() error) error {
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1); err != nil {
		return err
	}
	return errors.Join(do(), unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 0))
}
