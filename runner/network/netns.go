package network

import (
	"fmt"
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

const threadNetNS = "/proc/thread-self/ns/net"

// NewNetNS makes a network namespace without a name, in which the loopback
// interface is up. It lives as long as the file is open or a process is in it.
func NewNetNS() (*os.File, error) {
	var ns *os.File
	err := onThread(func() error {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return os.NewSyscallError("unshare", err)
		}
		f, err := os.Open(threadNetNS)
		if err != nil {
			return err
		}
		if err := initNetNS(); err != nil {
			_ = f.Close()
			return err
		}
		ns = f
		return nil
	})
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
func inNetNS(ns *os.File, f func() error) error {
	return onThread(func() error {
		// Fd would make the file blocking; a namespace knows no such thing, but the
		// file may be somebody else's.
		raw, err := ns.SyscallConn()
		if err != nil {
			return err
		}
		var inner error
		if err := raw.Control(func(fd uintptr) { inner = unix.Setns(int(fd), unix.CLONE_NEWNET) }); err != nil {
			return err
		}
		if inner != nil {
			return os.NewSyscallError("setns", inner)
		}
		return f()
	})
}

// onThread calls f on a thread of its own, which f may move to another network
// namespace. The thread is used again if it can be brought back, and ends
// otherwise.
func onThread(f func() error) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread()
		home, err := os.Open(threadNetNS)
		if err != nil {
			runtime.UnlockOSThread()
			done <- err
			return
		}
		defer home.Close()
		err = f()
		// Without Unlock the thread ends with the goroutine.
		if unix.Setns(int(home.Fd()), unix.CLONE_NEWNET) == nil {
			runtime.UnlockOSThread()
		}
		done <- err
	}()
	return <-done
}
