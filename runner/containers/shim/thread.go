package shim

import (
	"fmt"
	"runtime"
	"syscall"

	"golang.org/x/sys/unix"
)

// onThread runs f on an operating system thread of its own that ends with it:
// what f does to the thread's namespaces, root and working directory touches
// nobody else. A process that f starts inherits them.
func onThread(f func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		if unix.Gettid() == unix.Getpid() {
			// The main thread cannot end, and /proc/self shows its namespaces.
			// While this goroutine holds it the next one runs on another.
			defer runtime.UnlockOSThread()
			done <- onThread(f)
			return
		}
		done <- f()
	}()
	return <-done
}

// privateMounts gives the thread a copy of the mount namespace. Mounts keep
// their propagation, so that a bind of a shared mount is shared in a container.
func privateMounts() error {
	if err := unix.Unshare(unix.CLONE_FS | unix.CLONE_NEWNS); err != nil {
		return fmt.Errorf("new mount namespace: %w", err)
	}
	return nil
}

// joinMounts puts the thread into the mount namespace of a process.
func joinMounts(pid int) error {
	ns, err := unix.Open(fmt.Sprintf("/proc/%d/ns/mnt", pid), unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("mount namespace of %d: %w", pid, err)
	}
	defer unix.Close(ns)
	if err := unix.Unshare(unix.CLONE_FS); err != nil {
		return err
	}
	if err := unix.Setns(ns, unix.CLONE_NEWNS); err != nil {
		return fmt.Errorf("join mount namespace of %d: %w", pid, err)
	}
	return nil
}

// command is a program to start; it gets a session of its own, so that no signal
// meant for this process reaches it.
type command struct {
	argv  []string
	env   []string
	dir   string
	files []uintptr // from standard input on
}

// start starts the program in the namespaces of the calling thread.
func (c command) start() (*process, error) {
	pidfd := -1
	pid, err := syscall.ForkExec(c.argv[0], c.argv, &syscall.ProcAttr{
		Dir:   c.dir,
		Env:   c.env,
		Files: c.files,
		Sys:   &syscall.SysProcAttr{Setsid: true, PidFD: &pidfd},
	})
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", c.argv[0], err)
	}
	return &process{pid: pid, fd: pidfd}, nil
}
