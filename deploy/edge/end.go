package edge

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/berth-registry/berth/internal/durable"
	"github.com/berth-registry/berth/runner"
)

// Stop ends all programs that serve although none is to, and forgets what they served.
// They end when their requests have, or a few seconds have gone by.
func Stop(ctx context.Context, o Options) error {
	found, err := stopBehind(ctx, o.Control())
	errs := []error{err}
	if !found && err == nil {
		_, err := stopHolder(o)
		errs = append(errs, err)
	}
	for _, socket := range o.allRetired() {
		_, err := stopBehind(ctx, socket)
		errs = append(errs, err)
	}
	if err := os.Remove(o.Routes()); err != nil && !errors.Is(err, fs.ErrNotExist) {
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// stopBehind ends the program behind a control socket, and says whether there was one.
func stopBehind(ctx context.Context, socket string) (found bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	err = NewClient(socket).Stop(ctx)
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		err = killServer(context.WithoutCancel(ctx), socket)
	case errors.Is(err, runner.ErrUnavailable):
		return false, nil // what does not answer is left over by one that has ended
	}
	if err != nil {
		return true, fmt.Errorf("stop the HTTP edge behind %s: %w", filepath.Base(socket), err)
	}
	return true, nil
}

// stopHolder ends the program that holds the lock, and whose sockets are not to be
// found: somebody has removed them, or had it started for another directory. It returns
// its number, 0 if there is none.
func stopHolder(o Options) (pid int, err error) {
	text, err := os.ReadFile(filepath.Join(o.Lock(), "lock"))
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	if pid, err = strconv.Atoi(strings.TrimSpace(string(text))); err != nil || pid <= 0 {
		return 0, nil // it is just being written
	}
	process, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return 0, nil // it has ended
	}
	defer func() { _ = unix.Close(process) }()
	// Who holds it now, now that the process cannot become another one, is the holder.
	unlock, err := durable.Lock(o.Lock())
	switch {
	case err == nil:
		return 0, unlock()
	case !errors.Is(err, durable.ErrLocked) || !strings.Contains(err.Error(), fmt.Sprintf("(process %d)", pid)):
		return 0, err
	}
	return pid, unix.PidfdSendSignal(process, unix.SIGTERM, nil, 0)
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
