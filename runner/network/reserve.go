package network

import (
	"errors"
	"io"
	"net/netip"

	"golang.org/x/sys/unix"
)

// hold keeps a port of the host from its programs, and serves what no rule can.
type hold struct {
	fd      int // bound, not listening; -1: none
	forward io.Closer
}

// carried says whether this process carries what comes to the binding, rather than
// a rule: from [::1], or from one family of addresses to the other.
func (b binding) carried() bool {
	return b.host.Addr() == netip.IPv6Loopback() || b.host.Addr().Is4() != b.to.Addr().Is4()
}

// reserve binds a port. An error of a port that is taken names who has it.
func reserve(b binding) (*hold, error) {
	h := &hold{fd: -1}
	if !b.carried() { // there the forwarder's own socket holds it
		fd, err := bind(b)
		if err != nil {
			return nil, inUse(b, err)
		}
		h.fd = fd
	}
	if err := h.serve(b); err != nil {
		h.close()
		return nil, inUse(b, err)
	}
	return h, nil
}

// serve starts the forwarder of a binding that is carried, or of [::1] where it is
// included.
func (h *hold) serve(b binding) (err error) {
	at := b.host
	switch {
	case b.carried():
	case b.host.Addr() == netip.IPv6Unspecified():
		at = netip.AddrPortFrom(netip.IPv6Loopback(), at.Port())
	default:
		return nil
	}
	if b.proto != unix.IPPROTO_TCP && b.proto != unix.IPPROTO_UDP {
		return nil
	}
	if h.fd >= 0 {
		// Two sockets share a port at different addresses only if both allow it. The
		// first must not go on doing so: it would not hold the port.
		if err := unix.SetsockoptInt(h.fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1); err != nil {
			return err
		}
		defer func() {
			if rerr := unix.SetsockoptInt(h.fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 0); err == nil {
				err = rerr
			}
		}()
	}
	if b.proto == unix.IPPROTO_TCP {
		h.forward, err = forwardTCP(at, b.to)
	} else {
		h.forward, err = forwardUDP(at, b.to, h.fd >= 0)
	}
	if at.Addr().IsLoopback() && h.fd >= 0 && errors.Is(err, unix.EADDRNOTAVAIL) {
		return nil // IPv6 is switched off for lo: there is no ::1
	}
	return err
}

func (h *hold) close() {
	if h == nil {
		return
	}
	if h.forward != nil {
		_ = h.forward.Close()
	}
	if h.fd >= 0 {
		_ = unix.Close(h.fd)
	}
}

// bind returns a socket that is bound and no more: nothing is answered or queued
// by it. It is -1 for a protocol that the kernel has not: no program can have the
// port then.
func bind(b binding) (int, error) {
	family, kind := unix.AF_INET, unix.SOCK_STREAM
	var sa unix.Sockaddr
	if addr, port := b.host.Addr(), int(b.host.Port()); addr.Is4() {
		sa = &unix.SockaddrInet4{Port: port, Addr: addr.As4()}
	} else {
		family, sa = unix.AF_INET6, &unix.SockaddrInet6{Port: port, Addr: addr.As16()}
	}
	if b.proto == unix.IPPROTO_UDP {
		kind = unix.SOCK_DGRAM
	}
	fd, err := unix.Socket(family, kind|unix.SOCK_CLOEXEC, int(b.proto))
	if b.proto == unix.IPPROTO_SCTP && (errors.Is(err, unix.EPROTONOSUPPORT) || errors.Is(err, unix.ESOCKTNOSUPPORT)) {
		return -1, nil
	}
	if err != nil {
		return -1, err
	}
	if err = prepare(fd, family, b.proto); err == nil {
		err = unix.Bind(fd, sa)
	}
	if errors.Is(err, unix.EADDRINUSE) && b.proto == unix.IPPROTO_TCP {
		// Connections of before that wait for their last packets do not count.
		err = bindBesideOld(fd, sa)
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
	// What comes past the rules is dropped rather than kept.
	nothing := unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K}
	return unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &unix.SockFprog{Len: 1, Filter: &nothing})
}

func bindBesideOld(fd int, sa unix.Sockaddr) error {
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1); err != nil {
		return err
	}
	if err := unix.Bind(fd, sa); err != nil {
		return err
	}
	return unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 0)
}
