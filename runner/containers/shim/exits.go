package shim

import (
	"context"
	"os"
	"path/filepath"
	"time"
)

// exitAppeared handles a file that conmon put into the directory of exits.
func (s *Shim) exitAppeared(name string) {
	s.mu.Lock()
	b := s.containers[name]
	s.mu.Unlock()
	if b != nil {
		s.noteExit(b)
	}
}

// noteExit reads a container's exit file, if it is there and was not read
// before, and tells of the exit.
func (s *Shim) noteExit(b *bundle) (ended bool) {
	select {
	case <-b.ended:
		return true
	default:
	}
	exit, err := readExit(s.exitFile(b.id))
	if err != nil {
		s.log.Error("exit file cannot be read", "container", b.id, "err", err)
		exit = &Exit{Code: killedCode, At: time.Now()}
	}
	if exit == nil {
		return false
	}
	exit.ID = b.id
	s.setExit(b, *exit)
	return true
}

func (s *Shim) setExit(b *bundle, exit Exit) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.exit != nil {
		return
	}
	// The cgroup is there until the container is deleted.
	exit.OOMKills = s.cgroups.oomKills(b.record.Cgroup)
	exit.OOMKilled = exit.OOMKills > 0
	b.exit = &exit
	close(b.ended)
	if !b.created {
		return // Create tells, after it has returned what was made
	}
	if b.record.OwnPIDs {
		s.watch.tell(exit, nil)
		return
	}
	go func() {
		if err := s.cgroups.killAll(context.Background(), b.record.Cgroup); err != nil {
			s.log.Error("processes outlive their container", "container", b.id, "err", err)
		}
		s.watch.tell(exit, nil)
	}()
}

// monitorEnded is called when a container's monitor has ended. It has written the
// exit, unless it was killed.
func (s *Shim) monitorEnded(b *bundle) {
	monitor, _ := b.processes()
	monitor.reap()
	s.mu.Lock()
	deleted := s.dying[b.id] == b
	s.mu.Unlock()
	if deleted {
		s.bury(b)
		return
	}
	if !s.noteExit(b) && readPID(b.path("pid")) != 0 {
		go s.orphaned(b)
	}
}

// orphaned ends a container whose monitor was killed: its streams lead nowhere,
// and its exit would be seen by nobody.
func (s *Shim) orphaned(b *bundle) {
	if held, err := s.lock(b.id); err != nil || held != b {
		return // deleted meanwhile
	}
	defer b.op.Unlock()
	if s.noteExit(b) {
		return
	}
	s.log.Warn("monitor was killed: its container is killed too", "container", b.id)
	_, init := b.processes()
	_ = init.signal(9)
	if err := s.cgroups.killAll(context.Background(), b.record.Cgroup); err != nil {
		s.log.Error("processes outlive their monitor", "container", b.id, "err", err)
	}
	if err := writeKilled(s.exitFile(b.id)); err != nil {
		s.log.Error("exit cannot be written", "container", b.id, "err", err)
	}
	s.noteExit(b)
}

// recount looks at everything that is watched, after the kernel dropped events.
func (s *Shim) recount() {
	s.mu.Lock()
	bundles := make([]*bundle, 0, len(s.containers))
	for _, b := range s.containers {
		bundles = append(bundles, b)
	}
	s.mu.Unlock()
	for _, b := range bundles {
		s.noteExit(b)
		for _, e := range b.executions() {
			s.noteExecExit(e)
		}
	}
}

// removeLitter removes files without a bundle that somebody who was killed has
// left.
func (s *Shim) removeLitter() {
	s.mu.Lock()
	defer s.mu.Unlock()
	keep := map[string]bool{}
	for id := range s.containers {
		keep[s.exitFile(id)] = true
		keep[s.consoles(id)] = true
	}
	for _, dir := range []string{"exits", "tmp"} {
		entries, _ := os.ReadDir(filepath.Join(s.dir, dir))
		for _, e := range entries {
			path := filepath.Join(s.dir, dir, e.Name())
			fi, err := e.Info()
			// What is young may be of a monitor that is just writing.
			if err == nil && !keep[path] && time.Since(fi.ModTime()) > time.Minute {
				_ = os.RemoveAll(path)
			}
		}
	}
}
