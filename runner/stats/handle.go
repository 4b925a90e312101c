package stats

import (
	"errors"
	"path/filepath"
	"strconv"
	"time"

	"github.com/moby/moby/api/types/container"
	"golang.org/x/sys/unix"
)

// errGone says that there is no such container any more.
var errGone = errors.New("the container does not run")

// handle has the open files of one run of a container. It is not safe for
// concurrent use.
type handle struct {
	target Target
	fds    []int // one for each source; negative: there is no such file
	net    int   // likewise
}

func (s *Sampler) open(t Target) *handle {
	h := &handle{target: t, net: -1}
	for _, src := range s.sources {
		h.fds = append(h.fds, openFile(filepath.Join(src.mount, t.Cgroup, src.name)))
	}
	if t.PID > 0 {
		h.net = openFile("/proc/" + strconv.Itoa(t.PID) + "/net/dev")
	}
	return h
}

func openFile(path string) int {
	for {
		fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return -1
		}
		return fd
	}
}

func (h *handle) close() {
	for _, fd := range append(h.fds, h.net) {
		if fd >= 0 {
			_ = unix.Close(fd)
		}
	}
	h.fds, h.net = nil, -1
}

// sample reads all files. buf is room to read into.
func (h *handle) sample(s *Sampler, now system, buf *[]byte) (*container.StatsResponse, error) {
	r := &container.StatsResponse{Read: time.Now().UTC()}
	alive := len(s.sources) == 0 // then there is nothing that could be gone
	for i, src := range s.sources {
		var ok bool
		if *buf, ok = read(h.fds[i], *buf); ok {
			src.parse(*buf, r)
			alive = true
		}
	}
	if !alive {
		return nil, errGone
	}
	var ok bool
	if *buf, ok = read(h.net, *buf); ok {
		parseNetDev(*buf, r)
	}
	r.CPUStats.SystemUsage, r.CPUStats.OnlineCPUs = now.usage, now.cpus
	if limit := r.MemoryStats.Limit; limit == 0 || limit > s.memory {
		r.MemoryStats.Limit = s.memory
	}
	return r, nil
}

// read reads a whole file from its beginning into buf, which is returned, grown
// if need be.
func read(fd int, buf []byte) (text []byte, ok bool) {
	const (
		enough  = 1 << 20
		partial = 2 << 10 // of a file of records the kernel gives a page at a time
	)
	buf = buf[:0]
	for fd >= 0 {
		if cap(buf)-len(buf) < partial {
			buf = append(make([]byte, 0, 2*cap(buf)+partial), buf...)
		}
		n, err := unix.Pread(fd, buf[len(buf):cap(buf)], int64(len(buf)))
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case err != nil:
			return buf[:0], false
		}
		buf = buf[:len(buf)+n]
		if n < partial || len(buf) > enough {
			return buf, true
		}
	}
	return buf, false
}

// system is what the host has used.
type system struct {
	usage uint64 // nanoseconds
	cpus  uint32
}

func readSystem(buf []byte) (system, []byte) {
	fd := openFile("/proc/stat")
	if fd < 0 {
		return system{}, buf
	}
	defer unix.Close(fd)
	var now system
	buf, _ = read(fd, buf)
	now.usage, now.cpus = parseStat(buf)
	return now, buf
}
