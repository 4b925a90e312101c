// Package durable changes directories so that the change is on disk when a
// function returns nil, and reads what may have suffered since. Each function says,
// call by call, what it does.
//
// Whoever writes a file by other means than WriteFile calls Sync on it before giving
// it a name that others look for.
package durable

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// Rename renames a file and syncs the directory that it then is in. The
// directory that it was in is not synced: after a crash the old name may be
// there beside the new one. If the new name's directory is missing it is made.
func Rename(oldPath, newPath string) error {
	err := os.Rename(oldPath, newPath)
	if errors.Is(err, fs.ErrNotExist) {
		if err := MkdirAll(filepath.Dir(newPath)); err != nil {
			return err
		}
		err = os.Rename(oldPath, newPath)
	}
	if err != nil {
		return err
	}
	return SyncDir(filepath.Dir(newPath))
}

// Remove removes a file and syncs the directory that it was in.
func Remove(path string) error {
	if err := os.Remove(path); err != nil {
		return err
	}
	return SyncDir(filepath.Dir(path))
}

// MkdirAll makes a directory and its parents, with mode 0700, and syncs the
// parent of each that it made.
func MkdirAll(path string) error {
	err := os.Mkdir(path, 0o700)
	switch {
	case errors.Is(err, fs.ErrExist):
		return isDir(path)
	case errors.Is(err, fs.ErrNotExist):
		if err := MkdirAll(filepath.Dir(path)); err != nil {
			return err
		}
		if err = os.Mkdir(path, 0o700); errors.Is(err, fs.ErrExist) {
			return isDir(path) // made by somebody else, who syncs it
		}
	}
	if err != nil {
		return err
	}
	return SyncDir(filepath.Dir(path))
}

func isDir(path string) error {
	fi, err := os.Stat(path)
	if err == nil && !fi.IsDir() {
		err = &fs.PathError{Op: "mkdir", Path: path, Err: syscall.ENOTDIR}
	}
	return err
}

// WriteFile makes a file of data, in place of one that is there: after a crash it
// has all of data, or is as it was. Its mode is 0600.
func WriteFile(path string, data []byte) error {
	f, err := os.CreateTemp(filepath.Dir(path), ".new-*")
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err == nil {
		err = f.Sync()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = Rename(f.Name(), path)
	}
	if err != nil {
		_ = os.Remove(f.Name()) // it is of no use
	}
	return err
}

// ReadFile reads a file that this program has written, of at most bound bytes. What is
// something else by now is an error: it does not wait for the writer of a FIFO, and
// reads no device. Its errors do not name the path.
func ReadFile(path string, bound int64) ([]byte, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, withoutPath(err)
	}
	defer f.Close()
	switch fi, err := f.Stat(); {
	case err != nil:
		return nil, withoutPath(err)
	case !fi.Mode().IsRegular():
		return nil, errors.New("it is no file")
	case fi.Size() > bound:
		return nil, fmt.Errorf("it has more than %d bytes", bound)
	}
	data, err := io.ReadAll(f)
	if err != nil {
		return nil, withoutPath(err)
	}
	return data, nil
}

func withoutPath(err error) error {
	if e, ok := errors.AsType[*fs.PathError](err); ok {
		return e.Err
	}
	return err
}

// SyncDir makes the names in a directory durable.
func SyncDir(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	err = d.Sync()
	if cerr := d.Close(); err == nil {
		err = cerr
	}
	return err
}

// ErrLocked says that another process holds the lock of a directory.
var ErrLocked = errors.New("locked by another process")

// Lock makes the directory dir, if need be, and locks it against every other
// process that calls Lock, until the returned function is called or the process
// ends. It fails with ErrLocked, naming the holder. If that one has ended, a child
// that it was about to make into another program can have the lock for a moment
// longer: Lock waits for it, up to two seconds.
func Lock(dir string) (unlock func() error, err error) {
	const patience, again = 2 * time.Second, 20 * time.Millisecond
	if err := MkdirAll(dir); err != nil {
		return nil, err
	}
	for begin := time.Now(); ; time.Sleep(again) {
		unlock, holder, err := tryLock(dir)
		if !errors.Is(err, ErrLocked) || holder == 0 || lives(holder) || time.Since(begin) > patience {
			return unlock, err
		}
	}
}

// lives says whether there is a process of that number.
func lives(pid int) bool { return !errors.Is(syscall.Kill(pid, 0), syscall.ESRCH) }

// tryLock locks the directory at once, or says who has the lock, if it can.
func tryLock(dir string) (unlock func() error, holder int, err error) {
	path := filepath.Join(dir, "lock")
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, 0, err
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		_ = f.Close()
		if !errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, 0, fmt.Errorf("lock %s: %w", path, err)
		}
		text, _ := os.ReadFile(path) // only to say more
		pid := strings.TrimSpace(string(text))
		holder, _ = strconv.Atoi(pid)
		return nil, holder, fmt.Errorf("%s: %w (process %s)", dir, ErrLocked, pid)
	}
	// The number is for whoever finds the lock held; failing to write it, on a
	// full disk for example, does no harm.
	if err := f.Truncate(0); err == nil {
		_, _ = fmt.Fprintf(f, "%d\n", os.Getpid())
	}
	unlock = func() error {
		// Closing alone would leave it to a child that is just being forked.
		return errors.Join(syscall.Flock(int(f.Fd()), syscall.LOCK_UN), f.Close())
	}
	return unlock, os.Getpid(), nil
}

// SyncParent makes the name of a file durable.
func SyncParent(path string) error { return SyncDir(filepath.Dir(path)) }
