package shim

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// oomQueue is how many containers OOMs remembers for who does not listen.
const oomQueue = 256

// OOMs gets the ID of a container in which the kernel has killed processes for
// want of memory, once or more since it was told last, while its first process
// lived on. What comes faster than it is taken is left out: OOMKills knows all.
func (s *Shim) OOMs() <-chan string { return s.ooms }

// OOMKills counts the processes of a container that the kernel has killed for want
// of memory since the container was created.
func (s *Shim) OOMKills(id string) int {
	b, err := s.get(id)
	if err != nil {
		return 0
	}
	return s.cgroups.oomKills(b.record.Cgroup)
}

// oomWatch is how a container's lack of memory becomes known.
type oomWatch struct {
	file *os.File
	key  int32

	mu      sync.Mutex
	kills   int  // that were told
	looking bool // for a kill that was announced
}

// watchOOM has lacks of memory of a container told that was just created, or taken
// up. Those of before are not.
func (s *Shim) watchOOM(b *bundle) error {
	if s.cgroups.memory == "" {
		return nil
	}
	file, events, err := s.cgroups.oomFile(b.record.Cgroup)
	if ignoreGone(err) != nil {
		return fmt.Errorf("watch the memory of container %s: %w", b.id, err)
	}
	if err != nil {
		return nil // it has ended, or has no cgroup there
	}
	w := &oomWatch{file: file, kills: s.cgroups.oomKills(b.record.Cgroup)}
	if w.key, err = s.watch.addFile(file, events, func() { s.lookForKills(b, w) }); err != nil {
		return errors.Join(err, file.Close())
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.oom = w
	return nil
}

// unwatchOOM ends what watchOOM began.
func (s *Shim) unwatchOOM(b *bundle) {
	b.mu.Lock()
	w := b.oom
	b.oom = nil
	b.mu.Unlock()
	if w != nil {
		s.watch.forget(w.key)
		_ = w.file.Close()
	}
}

// oomFile opens what epoll tells events of, when memory is wanting in a cgroup.
func (c cgroups) oomFile(path string) (_ *os.File, events uint32, err error) {
	dir := filepath.Join(c.memory, path)
	if c.unified {
		f, err := os.Open(filepath.Join(dir, "memory.events"))
		return f, unix.EPOLLPRI, err
	}
	control, err := os.Open(filepath.Join(dir, "memory.oom_control"))
	if err != nil {
		return nil, 0, err
	}
	defer control.Close() // the kernel keeps its own reference
	fd, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		return nil, 0, err
	}
	event := os.NewFile(uintptr(fd), "eventfd")
	ask := fmt.Sprintf("%d %d", fd, control.Fd())
	if err := os.WriteFile(filepath.Join(dir, "cgroup.event_control"), []byte(ask), 0); err != nil {
		return nil, 0, errors.Join(err, event.Close())
	}
	return event, unix.EPOLLIN, nil
}

// oomPatience is how long after the announcement version 1 may take to kill.
const oomPatience = 2 * time.Second

// lookForKills looks whether the kernel has killed. Version 1 announces that
// memory is wanting before it chooses whom to kill; a container whose limit kills
// nobody (--oom-kill-disable), or that goes away, is announced too.
func (s *Shim) lookForKills(b *bundle, w *oomWatch) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.looking {
		w.looking = true
		s.tellKills(b, w, time.Millisecond)
	}
}

// tellKills tells of kills that are new, or looks again after a while, until
// patience is at its end. The caller holds w.mu.
func (s *Shim) tellKills(b *bundle, w *oomWatch, after time.Duration) {
	kills := s.cgroups.oomKills(b.record.Cgroup)
	switch {
	case kills > w.kills:
		w.kills, w.looking = kills, false
		select {
		case s.ooms <- b.id:
		default:
		}
	case s.cgroups.unified || after > oomPatience:
		w.looking = false
	default:
		time.AfterFunc(after, func() {
			w.mu.Lock()
			defer w.mu.Unlock()
			s.tellKills(b, w, 2*after)
		})
	}
}
