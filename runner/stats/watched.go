package stats

import (
	"sync"
	"time"

	"github.com/moby/moby/api/types/container"
)

// watched is a container that somebody reads.
type watched struct {
	Subject
	kept bool // its files may stay open

	readers map[*Reader]struct{} // guarded by the sampler

	mu     sync.Mutex
	handle *handle
	last   *container.StatsResponse
	taken  time.Time // when last was
	ended  bool
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
	t, runs := w.Find()
	if !runs || w.ended {
		w.shut()
		return w.last
	}
	if w.handle != nil && w.handle.target != t {
		w.shut()
	}
	var err error
	if w.handle == nil {
		w.handle, err = s.open(t)
	}
	var sample *container.StatsResponse
	if err == nil {
		sample, err = w.handle.sample(s, now, buf)
	}
	if err == nil {
		w.last = sample
	} else {
		w.Failed(err)
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
