package logs

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"
)

// inotify tells of changes of files and directories.
type inotify struct{ f *os.File }

func newInotify() (*inotify, error) {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return nil, os.NewSyscallError("inotify_init", err)
	}
	return &inotify{os.NewFile(uintptr(fd), "inotify")}, nil
}

func (n *inotify) close() { n.f.Close() }

// add watches a path. A path that was there twice has one number.
func (n *inotify) add(path string, mask uint32) (wd int, err error) {
	cerr := n.control(func(fd int) { wd, err = unix.InotifyAddWatch(fd, path, mask) })
	if cerr != nil {
		return 0, cerr
	}
	if err != nil {
		return 0, &fs.PathError{Op: "inotify_add_watch", Path: path, Err: err}
	}
	return wd, nil
}

// remove ends a watch. One that has ended by itself is no error.
func (n *inotify) remove(wd int) {
	_ = n.control(func(fd int) { _, _ = unix.InotifyRmWatch(fd, uint32(wd)) })
}

// control calls f with the descriptor, which stays open meanwhile.
func (n *inotify) control(f func(fd int)) error {
	c, err := n.f.SyscallConn()
	if err != nil {
		return err
	}
	return c.Control(func(fd uintptr) { f(int(fd)) })
}

// event is one change.
type event struct {
	wd   int
	mask uint32
	name string // in a directory
}

// each calls f with the changes as they come, until close. If it ends otherwise it
// returns why.
func (n *inotify) each(f func([]event)) error {
	buf := make([]byte, 64<<10)
	for {
		events, err := n.read(buf)
		switch {
		case errors.Is(err, fs.ErrClosed):
			return nil
		case err != nil:
			return err
		}
		f(events)
	}
}

// read waits for changes. It fails with fs.ErrClosed after close.
func (n *inotify) read(buf []byte) ([]event, error) {
	size, err := n.f.Read(buf)
	if err != nil {
		return nil, err
	}
	var events []event
	for rest := buf[:size]; len(rest) >= unix.SizeofInotifyEvent; {
		length := int(binary.NativeEndian.Uint32(rest[12:]))
		end := unix.SizeofInotifyEvent + length
		if end > len(rest) {
			return nil, errors.New("inotify: an event is cut off")
		}
		name, _, _ := bytes.Cut(rest[unix.SizeofInotifyEvent:end], []byte{0})
		events = append(events, event{
			wd:   int(int32(binary.NativeEndian.Uint32(rest))),
			mask: binary.NativeEndian.Uint32(rest[4:]),
			name: string(name),
		})
		rest = rest[end:]
	}
	return events, nil
}
