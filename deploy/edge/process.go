package edge

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"time"

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
	// retryAfter is when one that could not take over is started again.
	retryAfter = time.Minute
)

// keep keeps the program running until the context ends.
func (e *Edge) keep(ctx context.Context) {
	defer close(e.ended)
	log := e.cfg.Log
	rest, serves := firstRest, 0
	for ctx.Err() == nil {
		status, err := e.ensure(ctx)
		began := time.Now()
		if err == nil {
			if status.PID != serves {
				log.InfoContext(ctx, "the HTTP edge serves", "pid", status.PID, "http", status.Options.HTTP, "https", status.Options.HTTPS, "log", e.cfg.Options.Log())
			}
			serves = status.PID
			e.up()
			err = e.watch(ctx, status)
		}
		if ctx.Err() != nil || err == nil {
			continue
		}
		e.down(err, serves == 0)
		serves = 0
		if time.Since(began) > steady {
			rest = firstRest
		}
		log.ErrorContext(ctx, "the HTTP edge does not serve", "error", err, "again_in", rest.String())
		select {
		case <-ctx.Done():
		case <-e.wanted:
		case <-time.After(rest):
		}
		rest = min(2*rest, lastRest)
	}
}

// watch returns when the program has ended, or after a while without an error if it is
// not the one that is to serve. One that does not answer any more is ended.
func (e *Edge) watch(ctx context.Context, status Status) error {
	ended := make(chan struct{})
	waiting, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() {
		defer close(ended)
		e.client.Wait(waiting)
	}()
	look := time.NewTicker(lookEvery)
	defer look.Stop()
	var retry <-chan time.Time
	if !e.isWanted(status) {
		retry = time.After(retryAfter)
	}
	for {
		select {
		case <-ended:
			if last := e.lastWords(); last != "" {
				return fmt.Errorf("%w: %s", errEnded, last)
			}
			return errEnded
		case <-retry:
			return nil
		case <-look.C:
		}
		if _, err := e.ask(ctx); errors.Is(err, errHung) {
			return errors.Join(err, killServer(ctx, e.cfg.Control()))
		}
	}
}

// isWanted says whether a program is the one that is to serve, with its options.
func (e *Edge) isWanted(s Status) bool {
	program, err := ProgramOf(e.cfg.Program)
	// One that is not there any more cannot be started in its place.
	return (err != nil || s.Program == program) && s.Options.equal(e.cfg.Options)
}

// ensure finds the program that is to serve, or starts it, in place of another one.
func (e *Edge) ensure(ctx context.Context) (Status, error) {
	old, err := e.ask(ctx)
	switch {
	case err == nil && e.isWanted(old):
		return old, nil
	case errors.Is(err, errHung):
		if err := killServer(ctx, e.cfg.Control()); err != nil {
			return Status{}, err
		}
	}
	status, startErr := e.start(ctx)
	switch {
	case startErr == nil || ctx.Err() != nil:
		return status, startErr
	case err == nil:
		// One that serves as it was told before is better than none.
		e.cfg.Log.ErrorContext(ctx, "the HTTP edge goes on as it was", "error", startErr, "again_in", retryAfter.String())
		return e.ask(ctx)
	}
	return Status{}, startErr
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
	if err := errors.Join(makeDirs(o), durable.WriteFile(o.optionsFile(), text)); err != nil {
		return Status{}, err
	}
	if e.lastWords() != "" {
		if err := os.Rename(o.crashFile(), o.crashFile()+".before"); err != nil {
			return Status{}, err
		}
	}
	crash, err := os.OpenFile(o.crashFile(), os.O_WRONLY|os.O_APPEND|os.O_CREATE|os.O_TRUNC, 0o600)
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
			return Status{}, fmt.Errorf("%s: %w: %s", e.cfg.Program, err, e.lastWords())
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

// lastWords is the first line of what the program that was started last has said before
// it ended: what a panic says of itself, or an error. Lines of Caddy's log are none.
func (e *Edge) lastWords() string {
	const most = 4096
	text, err := os.ReadFile(e.cfg.crashFile())
	if err != nil {
		return ""
	}
	for line := range strings.Lines(string(text)) {
		if line = strings.TrimSpace(line); line != "" && line[0] != '{' {
			return line[:min(len(line), most)]
		}
	}
	return ""
}
