package shim

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// State is where a container is in its life.
type State string

// The states of a container.
const (
	StateCreated State = "created" // its first process waits for Start
	StateRunning State = "running"
	StatePaused  State = "paused"
	StateStopped State = "stopped" // its first process has ended, or never was
)

// Exit is the end of a container's first process, or of an exec.
type Exit struct {
	ID     string // the container
	ExecID string // the exec; empty for the container itself
	// Code is the exit code, or 128 and the signal. It is 137, as of SIGKILL, if
	// the monitor was killed and took the true one with it.
	Code int
	// OOMKilled says that the kernel killed a process of the container for want
	// of memory.
	OOMKilled bool
	OOMKills  int // how many
	At        time.Time
}

// Status is what is known of a container.
type Status struct {
	State State
	// Process is zero, or in part, for what has ended. A PID of 0 in StateCreated
	// is of a container that an earlier process was making when it ended: Start
	// waits for it.
	Process Process
	// Exit is set in StateStopped, unless the container was never whole: then all
	// that can be done with it is Delete.
	Exit *Exit
}

// exitWait is how long Status waits for the monitor to write down an exit that
// has happened.
const exitWait = 2 * time.Second

// Status finds out the state of a container from files and /proc.
func (s *Shim) Status(id string) (Status, error) {
	b, err := s.get(id)
	if err != nil {
		return Status{}, err
	}
	b.findInit()
	monitor, init := b.processes()
	var st Status
	if monitor.alive() {
		st.Process.MonitorPID = monitor.pid
	}
	b.mu.Lock()
	ended := b.exit != nil
	b.mu.Unlock()
	switch {
	case ended:
	case init.alive():
		st.Process.PID = init.pid
		st.State = StateRunning
		if s.waits(b, init) {
			st.State = StateCreated
		} else if s.cgroups.frozen(b.record.Cgroup) {
			st.State = StatePaused
		}
		return st, nil
	case init == nil && monitor.alive() && readPID(b.path("pid")) == 0:
		st.State = StateCreated
		return st, nil
	case monitor.alive():
		select {
		case <-b.ended:
		case <-time.After(exitWait):
		}
	}
	st.State = StateStopped
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.exit != nil {
		exit := *b.exit
		st.Exit = &exit
	}
	return st, nil
}

// readExit reads an exit file of conmon; nil if there is none.
func readExit(path string) (*Exit, error) {
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	fi, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	code, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		return nil, err
	}
	return &Exit{Code: code, At: fi.ModTime()}, nil
}

// killedCode is the exit code of what was killed unseen.
const killedCode = 137

// writeKilled writes an exit file in place of a monitor that was killed. It
// appears at once, as conmon's do.
func writeKilled(path string) error {
	tmp := filepath.Join(filepath.Dir(path), "."+filepath.Base(path)+".killed")
	if err := os.WriteFile(tmp, []byte(strconv.Itoa(killedCode)), 0o600); err != nil {
		return err
	}
	return os.Rename(tmp, path)
}
