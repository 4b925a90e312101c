package stats

import (
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/moby/moby/api/types/container"
	"golang.org/x/sys/unix"
)

const (
	// interval is the time from one sample of a watched container to the next.
	interval = time.Second
	// spacing is the least time between two: the processors' counters are in
	// hundredths of a second, and what is computed of two of them is to be true.
	spacing = interval / 2
)

// Target is one run of a container.
type Target struct {
	Cgroup string // path below the root of each hierarchy
	// PID is of a process in the network namespace whose interfaces are counted;
	// 0: none are.
	PID int
	// Limits of the container, which are others when they are elsewhere. nil: they
	// may be any, and change.
	Limits *container.Resources
}

// Subject is a container that is watched.
type Subject struct {
	// Find says before each sample which run there is, or that there is none.
	Find func() (Target, bool)
	// Failed is told why there is no sample of one, each time.
	Failed func(error)
}

// Sampler samples containers. It is safe for concurrent use.
type Sampler struct {
	sources []source
	memory  uint64 // bytes that the host has
	keep    int    // containers whose files may be kept open
	log     *slog.Logger

	absent sync.Map // names of files that this kernel does not have, of which was told

	mu      sync.Mutex
	watched map[string]*watched // by the container's ID
	looping bool
	closed  chan struct{}
	done    sync.WaitGroup
}

// Reader gets the samples of one container, for one client.
type Reader struct {
	// C has the latest sample that was not taken from it. It is shared with other
	// readers, and not to be changed. One whose Read is zero says that the
	// container does not run, or could not be sampled. C is closed with the sampler.
	C chan *container.StatsResponse

	leave func()
}

// Close ends the reader.
func (r *Reader) Close() { r.leave() }

// Open makes a sampler for the cgroups of this host. It logs which files of
// statistics the kernel does not have.
func Open(log *slog.Logger) (*Sampler, error) {
	sources, err := findSources()
	if err != nil {
		return nil, fmt.Errorf("stats: %w", err)
	}
	var info unix.Sysinfo_t
	if err := unix.Sysinfo(&info); err != nil {
		return nil, fmt.Errorf("stats: sysinfo: %w", err)
	}
	var files unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &files); err != nil {
		return nil, fmt.Errorf("stats: getrlimit: %w", err)
	}
	const most, of = 3, 4 // of the files that the process may have: three quarters
	return &Sampler{
		sources: sources,
		memory:  info.Totalram * uint64(info.Unit),
		keep:    int(min(files.Cur, 1<<30)) * most / of / (len(sources) + 1),
		log:     log,
		watched: map[string]*watched{},
		closed:  make(chan struct{}),
	}, nil
}

// Close ends all readers and the loop.
func (s *Sampler) Close() {
	s.mu.Lock()
	close(s.closed)
	for id, w := range s.watched {
		s.end(id, w)
	}
	s.mu.Unlock()
	s.done.Wait()
}

// Watch returns a reader of the container id. The first sample is ready at once.
// All readers of a container have the same subject.
func (s *Sampler) Watch(id string, of Subject) *Reader {
	r := &Reader{C: make(chan *container.StatsResponse, 1)}
	s.mu.Lock()
	select {
	case <-s.closed:
		s.mu.Unlock()
		close(r.C)
		r.leave = func() {}
		return r
	default:
	}
	w := s.watched[id]
	if w == nil {
		w = &watched{Subject: of, kept: len(s.watched) < s.keep, readers: map[*Reader]struct{}{}}
		s.watched[id] = w
	}
	w.readers[r] = struct{}{}
	r.leave = func() { s.drop(id, w, r) }
	if !s.looping {
		s.looping = true
		s.done.Go(s.loop)
	}
	s.mu.Unlock()
	now, buf := readSystem(nil)
	sample := w.sample(s, now, &buf)
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, ok := w.readers[r]; ok && len(r.C) == 0 {
		r.C <- sample
	}
	return r
}

// Read samples a container once, now. It fails with ErrGone if there is no such run
// any more, and if a file cannot be read.
func (s *Sampler) Read(t Target) (*container.StatsResponse, error) {
	h, err := s.open(t)
	if err != nil {
		return nil, err
	}
	defer h.close()
	now, buf := readSystem(nil)
	return h.sample(s, now, &buf)
}

// Stopped closes what is open of a container whose run ends: its network
// namespace would otherwise stay.
func (s *Sampler) Stopped(id string) {
	s.mu.Lock()
	w := s.watched[id]
	s.mu.Unlock()
	if w != nil {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.shut()
	}
}

// end must be called with the sampler locked.
func (s *Sampler) end(id string, w *watched) {
	delete(s.watched, id)
	for r := range w.readers {
		delete(w.readers, r)
		close(r.C)
	}
	w.finish()
}

// drop takes a reader out.
func (s *Sampler) drop(id string, w *watched, r *Reader) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, ok := w.readers[r]; !ok {
		return
	}
	delete(w.readers, r)
	if len(w.readers) == 0 {
		s.end(id, w)
	}
}

// loop samples what is watched until nothing is.
func (s *Sampler) loop() {
	ticker := time.NewTicker(interval)
	defer ticker.Stop()
	var list []*watched
	var buf []byte
	for {
		select {
		case <-ticker.C:
		case <-s.closed:
			return
		}
		list = list[:0]
		s.mu.Lock()
		for _, w := range s.watched {
			list = append(list, w)
		}
		if len(list) == 0 {
			s.looping = false
			s.mu.Unlock()
			return
		}
		s.mu.Unlock()
		var now system
		now, buf = readSystem(buf)
		for _, w := range list {
			if w.recent() {
				continue
			}
			s.publish(w, w.sample(s, now, &buf))
		}
	}
}

// publish gives a sample to all readers of a container. Who has not taken the
// one before gets this one instead.
func (s *Sampler) publish(w *watched, sample *container.StatsResponse) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for r := range w.readers {
		select {
		case <-r.C:
		default:
		}
		r.C <- sample // only here, and with the lock: there is room
	}
}
