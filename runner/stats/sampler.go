package stats

import (
	"fmt"
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
}

// Sampler samples containers. It is safe for concurrent use.
type Sampler struct {
	sources []source
	memory  uint64 // bytes that the host has
	keep    int    // containers whose files may be kept open

	mu      sync.Mutex
	watched map[string]*watched // by the container's ID
	looping bool
	closed  chan struct{}
	done    sync.WaitGroup
}

// watched is a container that somebody reads.
type watched struct {
	find func() (Target, bool)
	kept bool // its files may stay open

	readers map[*Reader]struct{} // guarded by the sampler

	mu     sync.Mutex
	handle *handle
	last   *container.StatsResponse
	taken  time.Time // when last was
	ended  bool
}

// Reader gets the samples of one container, for one client.
type Reader struct {
	// C has the latest sample that was not taken from it. It is shared with other
	// readers, and not to be changed. One whose Read is zero says that the
	// container does not run. C is closed with the sampler.
	C chan *container.StatsResponse

	leave func()
}

// Close ends the reader.
func (r *Reader) Close() { r.leave() }

// Open makes a sampler for the cgroups of this host.
func Open() (*Sampler, error) {
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

// Watch returns a reader of the container id, which find looks up: before each
// sample it says which run there is, or that there is none. The first sample is
// ready at once.
func (s *Sampler) Watch(id string, find func() (Target, bool)) *Reader {
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
		w = &watched{find: find, kept: len(s.watched) < s.keep, readers: map[*Reader]struct{}{}}
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

// Read samples a container once, now. It fails if there is no such run any more.
func (s *Sampler) Read(t Target) (*container.StatsResponse, error) {
	h := s.open(t)
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

// recent says whether the last sample is too young for another.
func (w *watched) recent() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return time.Since(w.taken) < spacing
}

// sample samples a container, or returns what was sampled just now. buf is room to
// read into.
func (w *watched) sample(s *Sampler, now system, buf *[]byte) *container.StatsResponse {
	w.mu.Lock()
	defer w.mu.Unlock()
	if time.Since(w.taken) < spacing {
		return w.last
	}
	w.last, w.taken = &container.StatsResponse{}, time.Now()
	t, runs := w.find()
	if !runs || w.ended {
		w.shut()
		return w.last
	}
	if w.handle == nil || w.handle.target != t {
		w.shut()
		w.handle = s.open(t)
	}
	sample, err := w.handle.sample(s, now, buf)
	if err == nil {
		w.last = sample
	}
	if err != nil || !w.kept {
		w.shut()
	}
	return w.last
}

// shut closes the files. The caller has locked w.
func (w *watched) shut() {
	if w.handle != nil {
		w.handle.close()
		w.handle = nil
	}
}

// finish closes the files for good.
func (w *watched) finish() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.ended = true
	w.shut()
}
