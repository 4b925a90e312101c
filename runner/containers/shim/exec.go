package shim

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/berth-registry/berth/runner"
)

// ExecRequest asks for a further process in a running container.
type ExecRequest struct {
	ContainerID, ExecID string
	Process             *specs.Process
	Stdin               bool // keep standard input open until a connection ends
	Attach              bool // connect to its streams before it starts
}

// execution is the live handle of an exec.
type execution struct {
	b       *bundle
	id, dir string
	monitor *process
	started bool // its exit counts; guarded by b.mu, as the rest
	ended   bool
}

// startedFile marks an exec that was asked to start.
const startedFile = "started"

// Exec is a process that is ready to start. One of Start and Abort must be
// called.
type Exec struct {
	shim      *Shim
	run       *execution
	process   *specs.Process
	conn      *Conn
	sync      *os.File // from conmon
	startPipe *os.File // to conmon
}

// PrepareExec starts the monitor of a further process of a running container, and
// connects to its streams if that is asked for, so that nothing that the process
// writes is missed. Its exit, if it is started, comes out of Exits.
func (s *Shim) PrepareExec(ctx context.Context, req ExecRequest) (*Exec, error) {
	if err := checkID("exec", req.ExecID); err != nil {
		return nil, err
	}
	if req.Process == nil || len(req.Process.Args) == 0 {
		return nil, runner.Errorf(runner.ErrInvalid, "exec %s has no command", req.ExecID)
	}
	b, err := s.get(req.ContainerID)
	if err != nil {
		return nil, err
	}
	if _, err := b.running(); err != nil {
		return nil, err
	}
	if s.cgroups.frozen(b.record.Cgroup) {
		return nil, runner.Errorf(runner.ErrConflict, "container %s is paused, unpause the container before exec", b.id)
	}
	run, err := s.newExecution(b, req)
	if err != nil {
		return nil, err
	}
	e := &Exec{shim: s, run: run, process: req.Process}
	if err := e.prepare(ctx, req); err != nil {
		e.Abort()
		return nil, err
	}
	return e, nil
}

// newExecution makes the directory of an exec, and watches it.
func (s *Shim) newExecution(b *bundle, req ExecRequest) (*execution, error) {
	run := &execution{b: b, id: req.ExecID, dir: b.path("exec", req.ExecID)}
	if err := os.MkdirAll(b.path("exec"), 0o700); err != nil {
		return nil, err
	}
	if err := os.Mkdir(run.dir, 0o700); err != nil {
		if errors.Is(err, fs.ErrExist) {
			return nil, runner.Errorf(runner.ErrConflict, "exec %s is there already", req.ExecID)
		}
		return nil, err
	}
	err := writeJSON(filepath.Join(run.dir, "process.json"), req.Process)
	if err == nil {
		err = s.watchExec(run)
	}
	if err != nil {
		return nil, errors.Join(err, os.RemoveAll(run.dir))
	}
	b.mu.Lock()
	b.execs[run.id] = run
	b.mu.Unlock()
	return run, nil
}

func (s *Shim) watchExec(run *execution) error {
	_, err := s.watch.addDir(run.dir, func(name string) {
		if name == run.b.id {
			s.noteExecExit(run)
		}
	})
	return err
}

func (e *Exec) prepare(ctx context.Context, req ExecRequest) error {
	s, run := e.shim, e.run
	var p pipes
	attached, err := e.openPipes(&p)
	defer func() { p.closeBut(e.sync, e.startPipe) }()
	if err != nil {
		return err
	}
	args := append(s.monitorArgs(run.b.id, run.id, run.dir, run.b.record.Runtime),
		"--exit-dir", run.dir, "-l", "off", "-e", "--exec-attach",
		"--exec-process-spec", filepath.Join(run.dir, "process.json"))
	if req.Process.Terminal {
		args = append(args, "-t")
	}
	if req.Stdin {
		args = append(args, "-i")
	}
	go s.cgroups.warm()
	monitor, _ := run.b.processes()
	own, err := s.spawn(run.b.id, args, run.dir, &p, func() error {
		return joinMounts(monitor.pid)
	})
	run.b.mu.Lock()
	run.monitor = own
	run.b.mu.Unlock()
	if err != nil {
		return err
	}
	p.closeBut(e.sync, e.startPipe, attached)
	if _, err := readMessage(ctx, attached); err != nil {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		own.wait(ctx, time.Second)
		return silence(run.dir, err)
	}
	if err := e.ownPipes(own.pid, req.Process.User); err != nil {
		return err
	}
	if req.Attach {
		e.conn, err = run.b.dial(ctx, run.dir)
	}
	return err
}

// ownPipes gives the pipes that the monitor has made to the user of the process,
// which is yet to be started.
func (e *Exec) ownPipes(monitor int, u specs.User) error {
	files, err := openFiles(monitor)
	if err != nil {
		return err
	}
	return ownPipes(monitor, files, u, e.run.b.record.IDs)
}

// openPipes makes the three pipes of an exec. conmon reads the start pipe twice:
// once before it does anything, which is answered in advance, and once when the
// client has attached.
func (e *Exec) openPipes(p *pipes) (attached *os.File, err error) {
	if e.sync, err = p.addReader("_OCI_SYNCPIPE"); err != nil {
		return nil, err
	}
	if attached, err = p.addReader("_OCI_ATTACHPIPE"); err != nil {
		return nil, err
	}
	if e.startPipe, err = p.addWriter("_OCI_STARTPIPE"); err != nil {
		return nil, err
	}
	_, err = e.startPipe.Write([]byte{0})
	return attached, err
}

// Conn is the connection to the streams; nil if none was asked for. It is the
// caller's to close.
func (e *Exec) Conn() *Conn { return e.conn }

// Start runs the command, also if ctx is done meanwhile, and returns the number of its process. After an error,
// in Docker's words and of runner.ErrInvalid if the command cannot be run, nothing
// is left of the exec, and no exit will be told.
func (e *Exec) Start(ctx context.Context) (pid int, err error) {
	run := e.run
	pid, err = e.start(ctx)
	if err != nil {
		e.Abort()
		return 0, err
	}
	e.closePipes()
	if err := e.shim.watch.addProcess(run.monitor, func() { e.shim.execMonitorEnded(run) }); err != nil {
		e.Abort()
		return 0, err
	}
	run.b.mu.Lock()
	run.started = true
	run.b.mu.Unlock()
	// It may have ended before that counted.
	if ended := !run.monitor.alive(); ended {
		e.shim.execMonitorEnded(run)
	} else {
		e.shim.noteExecExit(run)
	}
	return pid, nil
}

func (e *Exec) start(ctx context.Context) (pid int, err error) {
	if err := os.WriteFile(filepath.Join(e.run.dir, startedFile), nil, 0o600); err != nil {
		return 0, err
	}
	if _, err := e.startPipe.Write([]byte{0}); err != nil {
		return 0, err
	}
	// A client that goes away now does not take back what it asked for.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), createTimeout)
	defer cancel()
	m, err := readMessage(ctx, e.sync)
	if err != nil {
		if ctx.Err() != nil {
			return 0, runner.Errorf(runner.ErrUnavailable, "the runtime did not start the process in time")
		}
		e.run.monitor.wait(ctx, time.Second)
		return 0, e.failed(silence(e.run.dir, err).Error())
	}
	if m.Data <= 0 {
		return 0, e.failed(m.Message)
	}
	return m.Data, nil
}

func (e *Exec) failed(said string) error {
	return execError(e.run.b.record.Runtime, e.process.Args[0], e.process.Cwd, said)
}

// Abort gives up an exec that was not started.
func (e *Exec) Abort() {
	e.closePipes()
	if e.conn != nil {
		_ = e.conn.Close()
	}
	e.run.monitor.killGroup()
	e.shim.forgetExec(e.run)
}

func (e *Exec) closePipes() {
	for _, f := range []*os.File{e.sync, e.startPipe} {
		if f != nil {
			_ = f.Close()
		}
	}
}

func (b *bundle) executions() []*execution {
	b.mu.Lock()
	defer b.mu.Unlock()
	out := make([]*execution, 0, len(b.execs))
	for _, e := range b.execs {
		out = append(out, e)
	}
	return out
}

// noteExecExit reads an exec's exit file, if it is there and the exec was
// started, and tells of the exit once.
func (s *Shim) noteExecExit(run *execution) (ended bool) {
	exit, err := readExit(filepath.Join(run.dir, run.b.id))
	if exit == nil || err != nil {
		return false
	}
	s.setExecExit(run, *exit)
	return true
}

func (s *Shim) setExecExit(run *execution, exit Exit) {
	exit.ID, exit.ExecID = run.b.id, run.id
	run.b.mu.Lock()
	tell := run.started && !run.ended
	run.ended = run.ended || tell
	run.b.mu.Unlock()
	if tell {
		s.watch.tell(exit, func() { go s.forgetExec(run) })
	}
}

// forgetExec removes the files of an exec that has ended and was told, or never
// started.
func (s *Shim) forgetExec(run *execution) {
	run.b.mu.Lock()
	delete(run.b.execs, run.id)
	monitor := run.monitor
	run.b.mu.Unlock()
	monitor.wait(context.Background(), unmountWait)
	monitor.release()
	if err := os.RemoveAll(run.dir); err != nil {
		s.log.Error("files of an exec are left", "container", run.b.id, "exec", run.id, "err", err)
	}
}

// execMonitorEnded is called when an exec's monitor has ended, having written the
// exit unless it was killed.
func (s *Shim) execMonitorEnded(run *execution) {
	run.monitor.reap()
	if !s.noteExecExit(run) {
		s.setExecExit(run, Exit{Code: killedCode, At: time.Now()})
	}
}

// finishExec ends an exec whose container has ended.
func (s *Shim) finishExec(ctx context.Context, run *execution) error {
	run.b.mu.Lock()
	monitor, started := run.monitor, run.started
	run.b.mu.Unlock()
	err := endMonitor(ctx, monitor, func() bool { return !started || s.noteExecExit(run) })
	if err == nil && !s.noteExecExit(run) {
		s.setExecExit(run, Exit{Code: killedCode, At: time.Now()})
	}
	return err
}

// adoptExecs takes up the execs of an earlier process: those that were started go
// on, the others are ended.
func (s *Shim) adoptExecs(b *bundle) error {
	entries, err := os.ReadDir(b.path("exec"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, entry := range entries {
		run := &execution{b: b, id: entry.Name(), dir: b.path("exec", entry.Name())}
		if run.monitor, err = findMonitor(run.dir); err != nil {
			return err
		}
		if err := s.adoptExec(run); err != nil {
			return fmt.Errorf("exec %s: %w", run.id, err)
		}
	}
	return nil
}

func (s *Shim) adoptExec(run *execution) error {
	_, err := os.Stat(filepath.Join(run.dir, startedFile))
	if errors.Is(err, fs.ErrNotExist) {
		run.monitor.killGroup()
		s.forgetExec(run)
		return nil
	}
	if err != nil {
		return err
	}
	if err := s.watchExec(run); err != nil {
		return err
	}
	run.b.mu.Lock()
	run.started = true
	run.b.execs[run.id] = run
	run.b.mu.Unlock()
	switch {
	case s.noteExecExit(run):
		return nil
	case run.monitor != nil:
		return s.watch.addProcess(run.monitor, func() { s.execMonitorEnded(run) })
	default:
		s.setExecExit(run, Exit{Code: killedCode, At: time.Now()})
		return nil
	}
}
