// Package netns makes network namespaces and works in them.
//
// A namespace is that of a thread, and a goroutine has no thread of its own: what
// is done in another namespace is a function that is called on a thread set
// aside for it. What the function makes there, such as a socket, stays there and
// is used from anywhere.
package netns

import (
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

const ofThread = "/proc/thread-self/ns/net"

// New makes a namespace without a name and calls setup in it. It lives as long
// as the file is open, a process is in it, or a socket.
func New(setup func() error) (*os.File, error) {
	var ns *os.File
	err := onThread(func() error {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return os.NewSyscallError("unshare", err)
		}
		f, err := os.Open(ofThread)
		if err != nil {
			return err
		}
		if err := setup(); err != nil {
			_ = f.Close()
			return err
		}
		ns = f
		return nil
	})
	return ns, err
}

// Do calls f on a thread that is in the namespace.
func Do(ns *os.File, f func() error) error {
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
		home, err := os.Open(ofThread)
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
