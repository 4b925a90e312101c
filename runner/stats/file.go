package stats

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// openFile opens a file to read. It returns -1 with an error.
func openFile(path string) (int, error) {
	for {
		fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return -1, err
		}
		return fd, nil
	}
}

// read reads a whole file from its beginning into buf, which is returned, grown
// if need be.
func read(fd int, buf []byte) (text []byte, err error) {
	const (
		enough  = 1 << 20
		partial = 2 << 10 // of a file of records the kernel gives a page at a time
	)
	buf = buf[:0]
	for {
		if cap(buf)-len(buf) < partial {
			buf = append(make([]byte, 0, 2*cap(buf)+partial), buf...)
		}
		n, err := unix.Pread(fd, buf[len(buf):cap(buf)], int64(len(buf)))
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case err != nil:
			return buf[:0], err
		}
		buf = buf[:len(buf)+n]
		if n < partial || len(buf) > enough {
			return buf, nil
		}
	}
}

// system is what the host has used.
type system struct {
	usage uint64 // nanoseconds
	cpus  uint32
	err   error // why that is not known
}

// readSystem reads it. buf is room to read into, which is returned, grown if need
// be.
func readSystem(buf []byte) (system, []byte) {
	const path = "/proc/stat"
	fd, err := openFile(path)
	if err != nil {
		return system{err: fmt.Errorf("open %s: %w", path, err)}, buf
	}
	defer unix.Close(fd)
	if buf, err = read(fd, buf); err != nil {
		return system{err: fmt.Errorf("read %s: %w", path, err)}, buf
	}
	var now system
	now.usage, now.cpus = parseStat(buf)
	return now, buf
}
