package edge

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/berth-registry/berth/internal/durable"
)

var (
	errStarting = errors.New("it is being started")
	errEnded    = errors.New("its program has ended, and is started again")
	errHung     = errors.New("it does not answer")
)

func isKind(err, kind error) bool { return errors.Is(err, kind) }

func makeDirs(o Options) error {
	return errors.Join(durable.MkdirAll(o.Data), durable.MkdirAll(o.Run))
}

const (
	firstRest = 100 * time.Millisecond // before a program that has ended is started again
	lastRest  = 10 * time.Second
	steady    = 10 * time.Second // after which an end is the first one again
	lookEvery = 10 * time.Second // that one that runs is looked after
)

// keep keeps the program running until the context ends.
func (e *Edge) keep(ctx context.Context) {
	defer close(e.ended)
	log := e.cfg.Log
	rest := firstRest
	for ctx.Err() == nil {
		status, err := e.ensure(ctx)
		began := time.Now()
		if err == nil {
			log.InfoContext(ctx, "the HTTP edge serves", "pid", status.PID, "http", e.cfg.HTTP, "https", e.cfg.HTTPS, "log", e.cfg.Options.Log())
			e.up()
			err = e.watch(ctx)
		}
		if ctx.Err() != nil {
			return
		}
		e.down(err)
		if time.Since(began) > steady {
			rest = firstRest
		}
		log.ErrorContext(ctx, "the HTTP edge does not serve", "error", err, "again_in", rest.String())
		select {
		case <-ctx.Done():
		case <-time.After(rest):
		}
		rest = min(2*rest, lastRest)
	}
}

// watch returns when the program has ended. One that does not answer any more is ended.
func (e *Edge) watch(ctx context.Context) error {
	ended := make(chan struct{})
	waiting, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() {
		defer close(ended)
		e.client.Wait(waiting)
	}()
	look := time.NewTicker(lookEvery)
	defer look.Stop()
	for {
		select {
		case <-ended:
			return errEnded
		case <-look.C:
		}
		if _, err := e.ask(ctx); errors.Is(err, errHung) {
			return errors.Join(err, killServer(ctx, e.cfg.Control()))
		}
	}
}

// ensure finds the program that is to serve, or starts it, in place of another one.
func (e *Edge) ensure(ctx context.Context) (Status, error) {
	program, err := ProgramOf(e.cfg.Program)
	if err != nil {
		return Status{}, err
	}
	old, err := e.ask(ctx)
	switch {
	case err == nil && old.Program == program && old.Options.equal(e.cfg.Options):
		return old, nil
	case errors.Is(err, errHung):
		if err := killServer(ctx, e.cfg.Control()); err != nil {
			return Status{}, err
		}
	}
	status, startErr := e.start(ctx)
	if startErr != nil && err == nil && ctx.Err() == nil {
		// One that serves as it was told before is better than none.
		e.cfg.Log.ErrorContext(ctx, "the HTTP edge goes on as it was", "error", startErr)
		return e.ask(ctx)
	}
	return status, startErr
}

// ask asks the program that serves how it is. One that has its socket and does not
// answer is errHung.
func (e *Edge) ask(ctx context.Context) (Status, error) {
	asking, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	status, err := e.client.Status(asking)
	if errors.Is(err, context.DeadlineExceeded) && ctx.Err() == nil {
		err = errHung
	}
	return status, err
}

// start starts the program, and returns when it serves.
func (e *Edge) start(ctx context.Context) (Status, error) {
	o := e.cfg.Options
	text, err := json.Marshal(o)
	if err != nil {
		return Status{}, err
	}
	if err := durable.WriteFile(o.optionsFile(), text); err != nil {
		return Status{}, err
	}
	crash, err := os.Create(o.crashFile())
	if err != nil {
		return Status{}, err
	}
	defer crash.Close()
	// Without the context: it outlives the daemon.
	cmd := exec.Command(e.cfg.Program, "--options", o.optionsFile()) //nolint:noctx // see above
	cmd.Dir, cmd.Stdout, cmd.Stderr = "/", crash, crash
	cmd.Env = environ(os.Environ(), o)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return Status{}, err
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	return e.await(ctx, cmd.Process, ended)
}

// await returns when a program that was started serves, or has ended.
func (e *Edge) await(ctx context.Context, process *os.Process, ended <-chan error) (Status, error) {
	late := time.After(startPatience)
	for {
		if status, err := e.ask(ctx); err == nil && status.PID == process.Pid {
			return status, nil
		}
		select {
		case err := <-ended:
			return Status{}, fmt.Errorf("%s: %w: %s", e.cfg.Program, err, lastLine(e.cfg.crashFile()))
		case <-late:
			return Status{}, errors.Join(fmt.Errorf("%s does not serve after %s", e.cfg.Program, startPatience), process.Kill())
		case <-ctx.Done():
			return Status{}, ctx.Err() // it goes on, and the next daemon finds it
		case <-time.After(again):
		}
	}
}

// environ is the environment of the program: without what tells systemd of the daemon,
// and with a home of its own, which is to stay empty.
func environ(env []string, o Options) []string {
	env = slices.DeleteFunc(slices.Clone(env), func(kv string) bool {
		name, _, _ := strings.Cut(kv, "=")
		switch name {
		case "NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES", "TMPDIR",
			"HTTP_PROXY", "http_proxy", "HOME", "XDG_DATA_HOME", "XDG_CONFIG_HOME":
			return true
		}
		return false
	})
	return append(env, "HOME="+o.Data, "XDG_DATA_HOME="+o.Data, "XDG_CONFIG_HOME="+o.Data)
}

// lastLine is the first line of what a program has said before it ended.
func lastLine(path string) string {
	const most = 4096
	text, err := os.ReadFile(path)
	if err != nil {
		return err.Error()
	}
	line, _, _ := strings.Cut(strings.TrimSpace(string(text)), "\n")
	return line[:min(len(line), most)]
}

// killServer ends the process that serves a socket and does not answer.
func killServer(ctx context.Context, socket string) error {
	var d net.Dialer
	c, err := d.DialContext(ctx, "unix", socket)
	if err != nil {
		if errors.Is(err, syscall.ECONNREFUSED) || errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return err
	}
	defer c.Close()
	raw, err := c.(*net.UnixConn).SyscallConn()
	if err != nil {
		return err
	}
	var cred *unix.Ucred
	var credErr error
	if err := raw.Control(func(fd uintptr) { cred, credErr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) }); err != nil {
		return err
	}
	if credErr != nil {
		return credErr
	}
	if cred.Pid <= 0 {
		return errHung
	}
	return unix.Kill(int(cred.Pid), unix.SIGKILL)
}

// Stop ends a program that serves although none is to, if there is one.
func Stop(ctx context.Context, o Options) error {
	if _, err := os.Stat(o.Control()); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	c := NewClient(o.Control())
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	status, err := c.Status(ctx)
	if err != nil {
		return nil // what does not answer is left over by one that has ended
	}
	if err := c.Stop(ctx); err != nil {
		return fmt.Errorf("stop the HTTP edge (process %d): %w", status.PID, err)
	}
	return nil
}
