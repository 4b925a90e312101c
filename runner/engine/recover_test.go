package engine

import (
	"os"
	"strings"
	"testing"
	"time"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/mount"

	"github.com/berth-registry/berth/runner"
	"github.com/berth-registry/berth/runner/containers"
)

// Containers go on while no engine is there, and what happened meanwhile is so.
func TestReopen(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	runs := h.run(script("echo ready; exec sleep 1000", named("runs")))
	paused := h.run(script("exec sleep 1000", named("paused")))
	h.must(h.PauseContainer(t.Context(), paused))
	ends := h.run(script("while [ ! -e /tmp/end ]; do sleep 0.02; done; exit 5", named("ends")))
	created := h.create(script("true", named("created")))
	h.saysReady(runs)
	pid := h.state(ends).PID
	h.must(h.Close())
	if err := os.WriteFile("/proc/"+itoa(pid)+"/root/tmp/end", nil, 0o600); err != nil {
		t.Fatal(err)
	}
	h.eventually("it ends", func() bool { _, err := os.Readlink("/proc/" + itoa(pid) + "/exe"); return err != nil })
	h.open()
	if r := h.wait(ends, container.WaitConditionNotRunning); r.StatusCode != 5 {
		t.Errorf("what ended meanwhile: %d", r.StatusCode)
	}
	for name, want := range map[string]container.ContainerState{
		runs: container.StateRunning, paused: container.StatePaused, created: container.StateCreated,
	} {
		if st := h.state(name); st.Status != want {
			t.Errorf("it is %s, want %s", st.Status, want)
		}
	}
	if code, _ := h.exec(runs, "/bin/true"); code != 0 {
		t.Errorf("exec: %d", code)
	}
}

// interrupted makes what a daemon leaves that was killed in the middle of a
// launch: everything but the last step, with the state before or after it.
func (h *host) interrupted(id string, saved bool) {
	h.t.Helper()
	c, err := h.find(id)
	h.must(err)
	rec, st := c.snapshot()
	files, err := h.prepareFiles(rec)
	h.must(err)
	h.must(h.fillHosts(rec, files, nil))
	proc, err := h.createProcess(h.t.Context(), rec, files, nil)
	h.must(err)
	if saved {
		st.Status, st.PID, st.MonitorPID, st.StartedAt = container.StateRunning, proc.PID, proc.MonitorPID, time.Now().UTC()
		h.must(h.store.SaveState(id, st))
	}
}

func TestInterruptedStart(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	host := func(req *runner.CreateRequest) { req.HostConfig.NetworkMode = "host" } // it needs no file of ours
	before := h.create(script("sleep 1000", host, named("before")))
	after := h.create(script("sleep 1000", host, named("after")))
	once := h.create(script("sleep 1000", host, named("once"), removedAtEnd))
	again := h.create(script("sleep 1000", host, named("again"), restarted("on-failure", 0)))
	h.interrupted(before, false)
	h.interrupted(after, true)
	h.interrupted(once, true)
	h.interrupted(again, true)
	h.reopen()
	for _, id := range []string{before, after} {
		if st := h.state(id); st.Status != container.StateCreated {
			t.Errorf("it is %q", st.Status)
		}
		h.must(h.StartContainer(t.Context(), id))
	}
	if st := h.state(once); st.Status != "" {
		t.Errorf("what is removed at its end is %s", st.Status)
	}
	h.eventually("the restart policy starts it", func() bool { return h.state(again).Status == container.StateRunning })
}

// The exit code is on disk before what told it is cleared away.
func TestInterruptedEnd(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	id := h.run(script("exit 6"))
	h.wait(id, container.WaitConditionNotRunning)
	saved := h.saved(id)
	if saved.State.Status != container.StateExited || saved.State.ExitCode != 6 {
		t.Fatalf("on disk it is %s, %d", saved.State.Status, saved.State.ExitCode)
	}
	// The daemon ended after it wrote that, before the shim cleared.
	id = h.run(script("sleep 1000"))
	st := h.state(id)
	st.Status, st.ExitCode, st.PID = container.StateExited, 9, 0
	h.must(h.store.SaveState(id, st))
	h.reopen()
	if st := h.state(id); st.Status != container.StateExited || st.ExitCode != 9 {
		t.Errorf("it is %s, %d", st.Status, st.ExitCode)
	}
	if ids, _ := h.shim.List(); len(ids) != 0 {
		t.Errorf("left in the shim: %v", ids)
	}
}

func (h *host) saved(id string) containers.Saved {
	h.t.Helper()
	all, err := h.store.Load()
	h.must(err)
	for _, one := range all {
		if one.Container.ID == id {
			return one
		}
	}
	h.t.Fatal("it is not on disk")
	return containers.Saved{}
}

// A daemon that was killed while it had frozen a container, for a commit or for a
// pause that it had not acknowledged, leaves it running.
func TestInterruptedFreeze(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	id := h.run(script("i=0; while true; do i=$((i+1)); echo $i > /tmp/n; sleep 0.02; done"))
	h.must(h.shim.Pause(t.Context(), id))
	h.reopen()
	if st := h.state(id); st.Status != container.StateRunning {
		t.Errorf("it is %s", st.Status)
	}
	read := func() string { _, out := h.exec(id, "/bin/cat", "/tmp/n"); return out }
	first := read()
	h.eventually("it goes on", func() bool { return read() != first })
}

func TestReboot(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	plain := h.run(script("exec sleep 1000", named("plain")))
	always := h.run(script("exec sleep 1000", named("always"), restarted("always", 0)))
	failed := h.run(script("exec sleep 1000", named("failed"), restarted("on-failure", 0)))
	stopped := h.run(script("exec sleep 1000", named("stopped"), restarted("unless-stopped", 0)))
	once := h.run(script("exec sleep 1000", named("once"), removedAtEnd))
	h.must(h.StopContainer(t.Context(), stopped, runner.StopOptions{Timeout: new(0)}))
	old := h.Engine
	old.stop() // nobody is told of the exits
	old.work.close()
	for _, id := range []string{plain, always, failed, once} {
		h.must(old.shim.Delete(t.Context(), id))
	}
	h.must(old.shim.Close())
	h.must(old.network.Close(t.Context()))
	old.keeper.Close()
	h.must(old.images.Close())
	h.must(old.unlock())
	h.open()
	if st := h.state(plain); st.Status != container.StateExited || st.ExitCode != lostExit {
		t.Errorf("without a policy: %s, %d", st.Status, st.ExitCode)
	}
	for _, id := range []string{always, failed} {
		h.eventually("it is started again", func() bool { return h.state(id).Status == container.StateRunning })
	}
	if st := h.state(stopped); st.Status != container.StateExited {
		t.Errorf("what was stopped is %s", st.Status)
	}
	if st := h.state(once); st.Status != "" {
		t.Errorf("what is removed at its end is %s", st.Status)
	}
}

// A create that fails leaves nothing, whatever it has made by then.
func TestCreateLeavesNothing(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	volume := func(name, at string) mount.Mount {
		return mount.Mount{Type: mount.TypeVolume, Source: name, Target: at}
	}
	_, err := h.CreateContainer(t.Context(), script("true", named("web"), func(req *runner.CreateRequest) {
		req.HostConfig.Mounts = []mount.Mount{volume("", "/a"), volume("mine", "/b"), volume("bad/name", "/c")}
	}))
	if err == nil {
		t.Fatal("a bad volume was made")
	}
	list, err := h.ListVolumes(t.Context(), nil)
	h.must(err)
	if len(list.Volumes) != 0 {
		t.Errorf("volumes are left: %+v", list.Volumes)
	}
	entries, err := os.ReadDir(h.store.Dir(""))
	h.must(err)
	if len(entries) != 0 {
		t.Errorf("left: %v", entries)
	}
	h.create(script("true", named("web")))
}

// Close waits for what is under way, and nothing begins after it.
func TestClose(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	id := h.create(script("exec sleep 1000"))
	stubborn := h.run(script("trap '' TERM; echo ready; while true; do sleep 0.1; done"))
	h.saysReady(stubborn)
	started, stopped := make(chan error, 1), make(chan error, 1)
	c, err := h.find(id)
	h.must(err)
	unlock, err := c.lock(t.Context())
	h.must(err)
	go func() { started <- h.StartContainer(t.Context(), id) }()
	go func() { stopped <- h.StopContainer(t.Context(), stubborn, runner.StopOptions{Timeout: new(600)}) }()
	h.eventually("it is being stopped", func() bool { return h.state(stubborn).StoppedByUser })
	closed := make(chan error, 1)
	old := h.Engine
	go func() { closed <- old.Close() }()
	select {
	case err := <-closed:
		t.Errorf("it did not wait for who has the turn: %v", err)
		closed <- nil
	case <-time.After(100 * time.Millisecond):
	}
	unlock()
	h.must(<-closed)
	if err := <-stopped; err == nil {
		t.Error("the stop is said to be done")
	}
	err = <-started
	h.open()
	if st := h.state(id); (st.Status == container.StateRunning) != (err == nil) {
		t.Errorf("start: %v, but it is %s", err, st.Status)
	}
	if err := old.StartContainer(t.Context(), id); err == nil || !strings.Contains(err.Error(), "stopping") {
		t.Errorf("started by an engine that is closed: %v", err)
	}
}
