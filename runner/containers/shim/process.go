package shim

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// process is a process that cannot be mistaken for a later one of the same
// number: it holds a descriptor of it.
type process struct {
	pid int

	mu sync.Mutex
	fd int // pidfd; -1 when released
}

// openProcess returns the process pid, or an error if it does not hold what is
// asked, is dead or is no more.
func openProcess(pid int, is func(pid int) bool) (*process, error) {
	if pid <= 0 {
		return nil, unix.ESRCH
	}
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return nil, fmt.Errorf("process %d: %w", pid, err)
	}
	p := &process{pid: pid, fd: fd}
	// Asked after opening: if the answer is yes, it is of the process held.
	if !is(pid) || !p.alive() {
		p.release()
		return nil, unix.ESRCH
	}
	return p, nil
}

func (p *process) release() {
	if p == nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.fd >= 0 {
		_ = unix.Close(p.fd)
		p.fd = -1
	}
}

// signal sends a signal; unix.ESRCH if the process is no more.
func (p *process) signal(sig unix.Signal) error {
	if p == nil {
		return unix.ESRCH
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.fd < 0 {
		return unix.ESRCH
	}
	return unix.PidfdSendSignal(p.fd, sig, nil, 0)
}

// killGroup kills a monitor together with the child that is, or is about to be,
// the runtime. conmon asks the kernel to end that child with itself, but it may be
// killed before it has.
func (p *process) killGroup() {
	if p.signal(0) == nil {
		_ = unix.Kill(-p.pid, unix.SIGKILL)
	}
}

// alive says whether the process has not ended; a zombie has.
func (p *process) alive() bool { return p != nil && !p.ended(0) }

// ended waits for the end of the process. What is released, or nil, has ended.
func (p *process) ended(timeout time.Duration) bool {
	if p == nil {
		return true
	}
	p.mu.Lock()
	fd := -1
	if p.fd >= 0 {
		fd, _ = unix.FcntlInt(uintptr(p.fd), unix.F_DUPFD_CLOEXEC, 0)
	}
	p.mu.Unlock()
	if fd < 0 {
		return true
	}
	defer unix.Close(fd)
	deadline := time.Now().Add(timeout)
	for {
		left := max(0, time.Until(deadline))
		fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		n, err := unix.Poll(fds, int((left+time.Millisecond-1)/time.Millisecond))
		if !errors.Is(err, unix.EINTR) {
			return n > 0
		}
	}
}

// wait waits for the end of the process, and takes its status if it is a child.
func (p *process) wait(ctx context.Context, timeout time.Duration) bool {
	deadline := time.Now().Add(timeout)
	for step := 20 * time.Millisecond; ; {
		if p.ended(min(step, max(0, time.Until(deadline)))) {
			p.reap()
			return true
		}
		if ctx.Err() != nil || time.Now().After(deadline) {
			return false
		}
	}
}

// reap takes the status of a child that ended, so that it is no zombie. It does
// nothing to another's child.
func (p *process) reap() {
	if p == nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.fd >= 0 {
		_ = unix.Waitid(unix.P_PIDFD, p.fd, nil, unix.WEXITED|unix.WNOHANG, nil)
	}
}

// parentOf returns the parent of a process.
func parentOf(pid int) (int, error) {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, err
	}
	// The name, in parentheses, may hold anything.
	_, rest, ok := strings.Cut(string(stat[bytes.LastIndexByte(stat, ')')+1:]), " ")
	fields := strings.Fields(rest)
	if !ok || len(fields) < 2 {
		return 0, fmt.Errorf("/proc/%d/stat: %q", pid, stat)
	}
	return strconv.Atoi(fields[1])
}

// isMonitor returns a test for the monitor of the bundle in dir, by the
// command line that it was started with.
func isMonitor(dir string) func(pid int) bool {
	want := []byte("\x00" + bundleFlag + "\x00" + dir + "\x00")
	return func(pid int) bool {
		line, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
		return err == nil && bytes.Contains(line, want)
	}
}

// readPID reads a file that holds the number of a process; 0 if it is not there
// or not written yet.
func readPID(path string) int {
	text, err := os.ReadFile(path)
	if err != nil {
		return 0
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		return 0
	}
	return pid
}

// allPIDs returns the numbers of all processes.
func allPIDs() ([]int, error) {
	d, err := os.Open("/proc")
	if err != nil {
		return nil, err
	}
	defer d.Close()
	names, err := d.Readdirnames(-1)
	if err != nil {
		return nil, err
	}
	var pids []int
	for _, name := range names {
		if pid, err := strconv.Atoi(name); err == nil {
			pids = append(pids, pid)
		}
	}
	return pids, nil
}
