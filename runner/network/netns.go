package network

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/berth-registry/berth/internal/netns"
)

// NewNetNS makes a network namespace without a name, in which the loopback
// interface is up. It lives as long as the file is open or a process is in it.
func NewNetNS() (*os.File, error) {
	ns, err := netns.New(initNetNS)
	if err != nil {
		return nil, fmt.Errorf("make a network namespace: %w", err)
	}
	return ns, nil
}

// initNetNS sets up the namespace of the calling thread.
func initNetNS() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return os.NewSyscallError("socket", err)
	}
	defer unix.Close(fd)
	lo, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	lo.SetUint16(unix.IFF_UP)
	if err := unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, lo); err != nil {
		return fmt.Errorf("set lo up: %w", err)
	}
	// Otherwise a container could, by advertising itself as a router, have all
	// others of its bridge send it their IPv6 packets. A host without IPv6 has no
	// such file.
	_ = os.WriteFile("/proc/sys/net/ipv6/conf/default/accept_ra", []byte("0"), 0)
	return nil
}

// inNetNS calls f on a thread that is in the namespace.
func inNetNS(ns *os.File, f func() error) error { return netns.Do(ns, f) }
