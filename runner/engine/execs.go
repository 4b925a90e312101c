package engine

import (
	"container/list"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/moby/moby/api/types/container"

	"github.com/berth-registry/berth/runner"
)

const (
	// execNotRun is the exit code of an exec that was given up before its start.
	execNotRun = 128
	// execRefused is that of one that cannot be, as of a user that there is not.
	execRefused = 126
	// execKilled is that of one that ended with its container.
	execKilled = 137
)

// exec is a further process of a running container. Its file lies in the run
// directory, for the next daemon: no exec outlives a reboot.
type exec struct {
	id, container string
	run           int // first process of the container's run that it belongs to
	file          string
	ended         chan struct{} // closed when the process has ended

	mu    sync.Mutex
	state execState
	gone  bool // forgotten: its file is not to be written again

	place *list.Element // in idle; both are guarded by the table
	idle  *idleExecs
}

// execState is what the file of an exec has.
type execState struct {
	ID, Container string
	Request       container.ExecCreateRequest
	Started       bool
	PID           int
	ExitCode      *int
	Probe         bool // a health check's
}

func newExec(file func(id string) string, run int, st execState) *exec {
	x := &exec{id: st.ID, container: st.Container, run: run, file: file(st.ID), state: st, ended: make(chan struct{})}
	if st.ExitCode != nil {
		close(x.ended)
	}
	return x
}

func (x *exec) snapshot() execState {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.state
}

func (e *Engine) execFile(id string) string {
	return filepath.Join(e.opts.Run, "execs", id+".json")
}

// save writes the exec's file.
func (x *exec) save() error {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.write()
}

func (x *exec) write() error {
	if x.gone {
		return nil
	}
	data, err := json.Marshal(x.state)
	if err != nil {
		return err
	}
	if err := os.WriteFile(x.file+".tmp", data, 0o600); err != nil {
		return err
	}
	return os.Rename(x.file+".tmp", x.file)
}

// begun records that the process runs.
func (x *exec) begun(pid int) error {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.state.ExitCode != nil {
		return nil // so short was it
	}
	x.state.PID = pid
	return x.write()
}

// end records the exit code. It returns false if there is one already.
func (x *exec) end(code int) (bool, error) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.state.ExitCode != nil {
		return false, nil
	}
	x.state.ExitCode, x.state.PID = &code, 0
	close(x.ended)
	return true, x.write()
}

// forget removes the exec's file for good.
func (x *exec) forget() error {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.gone = true
	if err := os.Remove(x.file); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// execTable has the execs that can be asked for. Of those that wait to be started
// and of those that have ended it keeps the latest, up to a bound.
type execTable struct {
	mu             sync.Mutex
	byID           map[string]*exec
	waiting, ended *idleExecs
}

// idleExecs are execs without a process, the oldest first.
type idleExecs struct {
	list.List
	size, maxCount, maxSize int
}

const (
	execsWaiting = 4096
	execsEnded   = 512
	execsSize    = 32 << 20 // bytes of the requests of either
)

func newExecTable() *execTable {
	return &execTable{
		byID:    map[string]*exec{},
		waiting: &idleExecs{maxCount: execsWaiting, maxSize: execsSize},
		ended:   &idleExecs{maxCount: execsEnded, maxSize: execsSize},
	}
}

// weight is about what the request of an exec takes in memory.
func (x *exec) weight() int {
	const fixed = 1 << 10
	r, n := x.state.Request, fixed
	for _, words := range [][]string{r.Cmd, r.Env} {
		for _, word := range words {
			n += len(word) + 16
		}
	}
	return n + len(r.User) + len(r.WorkingDir) + len(r.DetachKeys)
}

// add enters an exec that has no process.
func (t *execTable) add(x *exec) {
	t.mu.Lock()
	t.byID[x.id] = x
	in := t.waiting
	if x.snapshot().ExitCode != nil {
		in = t.ended
	}
	dropped := t.rest(x, in)
	t.mu.Unlock()
	forgetAll(dropped)
}

// addRunning enters an exec that has a process.
func (t *execTable) addRunning(x *exec) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.byID[x.id] = x
}

// claim lets one caller start an exec.
func (t *execTable) claim(x *exec) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.byID[x.id] != x {
		return runner.Errorf(runner.ErrNotFound, "No such exec instance: %s", x.id)
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	switch {
	case x.state.ExitCode != nil:
		return runner.Errorf(runner.ErrConflict, "exec %s has already run", x.id)
	case x.state.Started:
		return runner.Errorf(runner.ErrConflict, "exec %s has already been started", x.id)
	}
	x.state.Started = true
	x.leave()
	return nil
}

// end moves an exec to those that have ended.
func (t *execTable) end(x *exec) {
	t.mu.Lock()
	var dropped []*exec
	if t.byID[x.id] == x {
		dropped = t.rest(x, t.ended)
	}
	t.mu.Unlock()
	forgetAll(dropped)
}

// rest moves an exec to those without a process, and returns who must go for it.
func (t *execTable) rest(x *exec, in *idleExecs) (dropped []*exec) {
	x.leave()
	x.idle, x.place = in, in.PushBack(x)
	in.size += x.weight()
	for in.Len() > in.maxCount || in.size > in.maxSize && in.Len() > 1 {
		old := in.Front().Value.(*exec)
		old.leave()
		delete(t.byID, old.id)
		dropped = append(dropped, old)
	}
	return dropped
}

func (x *exec) leave() {
	if x.idle != nil {
		x.idle.Remove(x.place)
		x.idle.size -= x.weight()
		x.idle, x.place = nil, nil
	}
}

func forgetAll(list []*exec) {
	for _, x := range list {
		_ = x.forget() // what is left of it goes when the next engine starts
	}
}

// remove takes an exec out.
func (t *execTable) remove(x *exec) {
	t.mu.Lock()
	x.leave()
	delete(t.byID, x.id)
	t.mu.Unlock()
	forgetAll([]*exec{x})
}

func (t *execTable) get(id string) *exec {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.byID[id]
}

// of returns the execs of a container.
func (t *execTable) of(containerID string) []*exec {
	t.mu.Lock()
	defer t.mu.Unlock()
	var all []*exec
	for _, x := range t.byID {
		if x.container == containerID {
			all = append(all, x)
		}
	}
	return all
}

// endExec records how an exec has ended, unless that is known.
func (e *Engine) endExec(x *exec, code int) {
	first, err := x.end(code)
	if err != nil {
		e.log.Error("save an exec", "exec", x.id, "error", err)
	}
	if first {
		e.execs.end(x)
	}
}

// endExecs ends the execs of a container that has ended: their processes went
// with its first. Their exits are on the way, so each has a moment to tell its
// own code: one that was done just before its container was not killed.
func (e *Engine) endExecs(containerID string) {
	const grace = 2 * time.Second
	for _, x := range e.execs.of(containerID) {
		switch st := x.snapshot(); {
		case st.ExitCode != nil:
		case !st.Started: // and it must not be in the next run
			e.endExec(x, execKilled)
		default:
			time.AfterFunc(grace, func() { e.endExec(x, execKilled) })
		}
	}
}

// forgetExecs drops the execs of a container that is removed.
func (e *Engine) forgetExecs(containerID string) {
	for _, x := range e.execs.of(containerID) {
		_, _ = x.end(execKilled) // its file goes
		e.execs.remove(x)
	}
}

// execIDs lists the execs of a container that have not ended.
func (e *Engine) execIDs(containerID string) []string {
	var ids []string
	for _, x := range e.execs.of(containerID) {
		if x.snapshot().ExitCode == nil {
			ids = append(ids, x.id)
		}
	}
	return ids
}
