package network

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"sync"
	"syscall"
	"unsafe"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// rtnl is a route netlink socket in one network namespace. Unlike the package
// netlink's it sends many requests by one call, and does not look up what the
// caller knows.
type rtnl struct {
	mu  sync.Mutex
	fd  int
	seq uint32
	buf []byte
}

// dialRtnl opens a socket in the namespace of the calling thread, which gets
// notices of the groups.
func dialRtnl(groups uint32) (*rtnl, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_ROUTE)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: groups}); err != nil {
		_ = unix.Close(fd)
		return nil, os.NewSyscallError("bind", err)
	}
	// Only notices are ever waited for; an answer is there when a request is sent.
	_ = unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 5})
	// An error comes with the kernel's own words, and without the request.
	_ = unix.SetsockoptInt(fd, unix.SOL_NETLINK, unix.NETLINK_EXT_ACK, 1)
	_ = unix.SetsockoptInt(fd, unix.SOL_NETLINK, unix.NETLINK_CAP_ACK, 1)
	return &rtnl{fd: fd, buf: make([]byte, 8192)}, nil
}

func (r *rtnl) close() { _ = unix.Close(r.fd) }

// request is a message for the kernel and what it is for, in an error's text.
type request struct {
	*nl.NetlinkRequest
	what string
}

func newRequest(what string, kind, flags int, data ...nl.NetlinkRequestData) request {
	req := nl.NewNetlinkRequest(kind, flags|unix.NLM_F_ACK)
	req.Data = data
	return request{NetlinkRequest: req, what: what}
}

// do sends all requests at once and returns the first one's error. The kernel
// carries out each, also after one that failed.
func (r *rtnl) do(requests ...request) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	first := r.seq + 1
	var msg []byte
	for _, req := range requests {
		r.seq++
		req.Seq = r.seq
		msg = append(msg, req.Serialize()...)
	}
	if err := unix.Sendto(r.fd, msg, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return os.NewSyscallError("sendto", err)
	}
	type answer struct{ err error }
	answers := make([]*answer, len(requests))
	for left := len(requests); left > 0; {
		n, _, err := unix.Recvfrom(r.fd, r.buf, 0)
		if err == unix.EINTR { //nolint:errorlint // a system call's own
			continue
		}
		if err != nil {
			return os.NewSyscallError("recvfrom", err)
		}
		msgs, err := syscall.ParseNetlinkMessage(r.buf[:n])
		if err != nil {
			return err
		}
		for _, m := range msgs {
			i := int(m.Header.Seq - first)
			if m.Header.Type != unix.NLMSG_ERROR || i < 0 || i >= len(answers) || answers[i] != nil {
				continue // of a request before, whose answer could not be read
			}
			left--
			answers[i] = &answer{ackError(m)}
		}
	}
	for i, req := range requests {
		if err := answers[i].err; err != nil {
			return fmt.Errorf("%s: %w", req.what, err)
		}
	}
	return nil
}

// ackError returns the error that an acknowledgement carries.
func ackError(m syscall.NetlinkMessage) error {
	if len(m.Data) < 4 {
		return fmt.Errorf("short answer of %d bytes", len(m.Data))
	}
	errno := int32(nl.NativeEndian().Uint32(m.Data))
	if errno == 0 {
		return nil
	}
	err := syscall.Errno(-errno)
	skip := 4 + unix.SizeofNlMsghdr
	if m.Header.Flags&unix.NLM_F_ACK_TLVS == 0 || len(m.Data) < skip {
		return err
	}
	attrs, perr := nl.ParseRouteAttr(m.Data[skip:])
	if perr != nil {
		return err
	}
	for _, a := range attrs {
		if a.Attr.Type == nl.NLMSGERR_ATTR_MSG {
			return fmt.Errorf("%w: %s", err, unix.ByteSliceToString(a.Value))
		}
	}
	return err
}

// awaitAddress returns when an IPv6 address is in use, which the kernel sees to in
// the background even if there is nothing to find out first (IFA_F_NODAD). Before,
// what is sent to it is dropped.
func (r *rtnl) awaitAddress(addr netip.Addr) error {
	for {
		n, _, err := unix.Recvfrom(r.fd, r.buf, 0)
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case errors.Is(err, unix.EAGAIN): // SO_RCVTIMEO: it will come yet
			return nil
		case errors.Is(err, unix.ENOBUFS):
			continue
		case err != nil:
			return os.NewSyscallError("recvfrom", err)
		}
		msgs, err := syscall.ParseNetlinkMessage(r.buf[:n])
		if err != nil {
			return err
		}
		for _, m := range msgs {
			if m.Header.Type != unix.RTM_NEWADDR || len(m.Data) < unix.SizeofIfAddrmsg {
				continue
			}
			attrs, err := nl.ParseRouteAttr(m.Data[unix.SizeofIfAddrmsg:])
			if err != nil {
				return err
			}
			for _, a := range attrs {
				got, ok := netip.AddrFromSlice(a.Value)
				if ok && got == addr && (a.Attr.Type == unix.IFA_ADDRESS || a.Attr.Type == unix.IFA_LOCAL) {
					return nil
				}
			}
		}
	}
}

// settle has the kernel act at once on an interface's carrier having come. Left to
// itself it does so in the background: until then a bridge forwards nothing to the
// interface, and what is sent by it is dropped.
func (r *rtnl) settle(name string) error {
	link := struct{ cmd, up uint32 }{cmd: unix.ETHTOOL_GLINK}
	var ifr struct {
		name [unix.IFNAMSIZ]byte
		data unsafe.Pointer
		_    [16]byte // of the union that data is in
	}
	copy(ifr.name[:unix.IFNAMSIZ-1], name)
	ifr.data = unsafe.Pointer(&link)                                                                                             //nolint:gosec // G103: as the ioctl wants it; x/sys has no wrapper
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(r.fd), unix.SIOCETHTOOL, uintptr(unsafe.Pointer(&ifr))); errno != 0 { //nolint:gosec // G103: as above
		return fmt.Errorf("link state of %s: %w", name, errno)
	}
	return nil
}

// indexOf returns the number of an interface in the socket's namespace. It takes
// no lock in the kernel.
func (r *rtnl) indexOf(name string) (int32, error) {
	ifr, err := unix.NewIfreq(name)
	if err != nil {
		return 0, err
	}
	if err := unix.IoctlIfreq(r.fd, unix.SIOCGIFINDEX, ifr); err != nil {
		return 0, err
	}
	return int32(ifr.Uint32()), nil
}
