package shim

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// goneSuffix marks the bundle of a container that is being deleted. No ID has a
// point in it.
const goneSuffix = ".gone"

// recover takes up the containers that are there, and finishes deletions.
func (s *Shim) recover(ctx context.Context) error {
	entries, err := os.ReadDir(filepath.Join(s.dir, "containers"))
	if err != nil {
		return err
	}
	for _, e := range entries {
		id, gone := strings.CutSuffix(e.Name(), goneSuffix)
		b, err := s.load(id, e.Name())
		if err != nil {
			return fmt.Errorf("container %s: %w", id, err)
		}
		if gone {
			// One that does not go must not keep the others from being taken up.
			if err := s.clear(ctx, b); err != nil {
				s.log.ErrorContext(ctx, "finish the deletion of a container", "container", id, "error", err)
			}
			continue
		}
		if err := s.adopt(b); err != nil {
			return fmt.Errorf("container %s: %w", id, err)
		}
	}
	s.removeLitter()
	return nil
}

// load reads the files of a bundle and finds its processes.
func (s *Shim) load(id, name string) (*bundle, error) {
	b := newBundle(id, s.bundleDir(id))
	// The record is written whole before anything is started: without one there
	// is nothing but the directory.
	text, err := os.ReadFile(filepath.Join(s.dir, "containers", name, "shim.json"))
	if err == nil {
		_ = json.Unmarshal(text, &b.record)
	}
	b.adopted, b.created = true, true // nobody waits for Create
	b.monitor, err = findMonitor(b.dir)
	return b, err
}

// adopt enters a bundle, and looks after its exit and its execs.
func (s *Shim) adopt(b *bundle) error {
	b.findInit()
	s.mu.Lock()
	s.containers[b.id] = b
	s.mu.Unlock()
	if err := s.adoptExecs(b); err != nil {
		return err
	}
	switch {
	case s.noteExit(b):
	case b.monitor != nil:
		return errors.Join(s.watchInit(b), s.watchOOM(b), s.watch.addProcess(b.monitor, func() { s.monitorEnded(b) }))
	case readPID(b.path("pid")) != 0:
		go s.orphaned(b)
	}
	return nil
}

// findMonitor finds the monitor of the bundle in dir; nil if there is none. Its
// number may not have been written down.
func findMonitor(dir string) (*process, error) {
	is := isMonitor(dir)
	if p, err := openProcess(readPID(filepath.Join(dir, "monitor")), is); err == nil {
		return p, nil
	}
	pids, err := allPIDs()
	if err != nil {
		return nil, err
	}
	for _, pid := range pids {
		if !is(pid) {
			continue
		}
		// conmon forks before it executes the runtime: the child shows the same
		// command line for a moment, and the parent is the monitor.
		if parent, err := parentOf(pid); err == nil && is(parent) {
			pid = parent
		}
		if p, err := openProcess(pid, is); err == nil {
			return p, nil
		}
	}
	return nil, nil
}
