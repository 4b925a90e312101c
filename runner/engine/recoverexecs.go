package engine

import (
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// exitGrace is how long the exit of an exec whose process is gone may take to
// become known, when an engine takes over.
const exitGrace = 3 * time.Second

// recoverExecs registers the execs of containers that run, so that their exit
// codes can still be asked for, and forgets the others.
func (e *Engine) recoverExecs() error {
	dir := filepath.Dir(e.execFile(""))
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, entry := range entries {
		path := filepath.Join(dir, entry.Name())
		st, err := readExec(path)
		c := e.containers[st.Container]
		if err != nil || c == nil || !strings.HasSuffix(path, "/"+st.ID+".json") {
			if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return err
			}
			continue
		}
		if c.unread != nil {
			continue
		}
		_, cst := c.snapshot()
		x := newExec(e.execFile, cst.PID, st)
		switch {
		case st.Probe:
			e.abandonProbe(x)
		case st.PID == 0:
			e.execs.add(x)
		case !cst.Running():
			e.execs.addRunning(x)
			e.endExec(x, execKilled)
		default:
			e.execs.addRunning(x)
			e.watchAdopted(x)
		}
	}
	return nil
}

func readExec(path string) (execState, error) {
	var st execState
	data, err := os.ReadFile(path)
	if err != nil {
		return st, err
	}
	err = json.Unmarshal(data, &st)
	return st, err
}

// watchAdopted ends an exec whose exit the daemon before has heard of but not
// written down: nobody is told of it again.
func (e *Engine) watchAdopted(x *exec) {
	pids, err := e.shim.PIDs(x.container)
	if err == nil && slices.Contains(pids, x.snapshot().PID) {
		return
	}
	e.work.run(func() {
		timer := time.NewTimer(exitGrace)
		defer timer.Stop()
		select {
		case <-timer.C:
			e.endExec(x, execKilled)
		case <-x.ended:
		case <-e.lifetime().Done():
		}
	})
}
