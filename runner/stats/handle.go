package stats

import (
	"errors"
	"fmt"
	"hash/maphash"
	"math/rand/v2"
	"path/filepath"
	"strconv"
	"time"

	"github.com/moby/moby/api/types/container"
	"golang.org/x/sys/unix"
)

// ErrGone says that there is no cgroup of the container.
var ErrGone = errors.New("the container has no cgroup")

// refresh is after how many samples all files are read again, whatever is known
// of them: somebody else may have set a limit, or moved a process.
const refresh = 10

// handle has the open files of one run of a container, and what they said last. It
// is not safe for concurrent use.
type handle struct {
	target Target
	files  []file // one for each source
	net    file

	last  container.StatsResponse // what it points to is shared, and never changed
	seed  maphash.Seed
	left  int // samples until all files are read; none before the first
	quiet int // samples since a process has run, of which there is one more to read
}

// file is an open file, and what is known of it.
type file struct {
	fd   int // negative: there is none
	pace pace
	sum  uint64 // of what it said last
}

// open opens the files of a container. One that the kernel does not have stays
// closed.
func (s *Sampler) open(t Target) (*handle, error) {
	h := &handle{target: t, net: file{fd: -1}, seed: maphash.MakeSeed()}
	found := len(s.sources) == 0 // then there is nothing that could be gone
	for _, src := range s.sources {
		path := src.path(t)
		fd, err := openFile(path)
		switch {
		case err == nil:
			found = true
		case errors.Is(err, unix.ENOENT):
			s.tellAbsent(path)
		default:
			h.close()
			return nil, fmt.Errorf("open %s: %w", path, err)
		}
		h.files = append(h.files, file{fd: fd, pace: src.pace.of(t.Limits)})
	}
	if !found {
		return nil, ErrGone
	}
	if t.PID > 0 {
		path := netDev(t)
		fd, err := openFile(path)
		if err != nil && !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.ESRCH) { // those: it has just ended
			h.close()
			return nil, fmt.Errorf("open %s: %w", path, err)
		}
		h.net.fd = fd
	}
	return h, nil
}

// tellAbsent logs once that the kernel does not have a file, if its cgroup is there.
func (s *Sampler) tellAbsent(path string) {
	if unix.Access(filepath.Dir(path), unix.F_OK) != nil {
		return
	}
	if _, told := s.absent.LoadOrStore(filepath.Base(path), true); !told {
		s.log.Warn("statistics lack what the kernel does not tell: it counts as zero", "file", path)
	}
}

func (src *source) path(t Target) string { return filepath.Join(src.mount, t.Cgroup, src.name) }

// netDev is where the counters of the interfaces are.
func netDev(t Target) string { return "/proc/" + strconv.Itoa(t.PID) + "/net/dev" }

func (h *handle) close() {
	for _, f := range append(h.files, h.net) {
		if f.fd >= 0 {
			_ = unix.Close(f.fd)
		}
	}
	h.files, h.net.fd = nil, -1
}

// sample reads the files that may say something new. buf is room to read into.
func (h *handle) sample(s *Sampler, now system, buf *[]byte) (*container.StatsResponse, error) {
	if now.err != nil {
		return nil, now.err
	}
	all := h.left == 0
	switch {
	case h.last.Read.IsZero(): // from then on not those of all containers in the same second
		h.left = rand.N(refresh) //nolint:gosec // nothing to guess
	case all:
		h.left = refresh - 1
	default:
		h.left--
	}
	h.last.Read = time.Now().UTC()
	for i := range h.files {
		f, src := &h.files[i], &s.sources[i]
		if !all && (f.pace == set || f.pace == ran && h.quiet > 1) {
			continue
		}
		changed, err := h.read(f, src.parse, buf)
		switch {
		case errors.Is(err, unix.ENODEV):
			return nil, ErrGone
		case err != nil:
			return nil, fmt.Errorf("read %s: %w", src.path(h.target), err)
		case f.pace == clock && changed:
			h.quiet = 0
		case f.pace == clock && f.fd >= 0:
			h.quiet++
		}
	}
	if _, err := h.read(&h.net, parseNetDev, buf); err != nil {
		return nil, fmt.Errorf("read %s: %w", netDev(h.target), err)
	}
	h.last.CPUStats.SystemUsage, h.last.CPUStats.OnlineCPUs = now.usage, now.cpus
	r := h.last
	if limit := r.MemoryStats.Limit; limit == 0 || limit > s.memory {
		r.MemoryStats.Limit = s.memory
	}
	return &r, nil
}

// read reads a file, and parses it if it does not say what it said before.
func (h *handle) read(f *file, parse func([]byte, *container.StatsResponse), buf *[]byte) (changed bool, err error) {
	if f.fd < 0 {
		return false, nil
	}
	if *buf, err = read(f.fd, *buf); err != nil {
		return false, err
	}
	sum := maphash.Bytes(h.seed, *buf)
	if sum == f.sum {
		return false, nil
	}
	f.sum = sum
	parse(*buf, &h.last)
	return true, nil
}
