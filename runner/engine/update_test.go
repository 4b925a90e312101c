package engine

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/events"

	"github.com/berth-registry/berth/runner"
)

const mega = 1 << 20

// TestUpdate changes limits while a container runs, while it does not, and in ways
// that the kernel refuses.
func TestUpdate(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	id := h.run(script("mkdir /tmp/x; dd if=/dev/zero of=/dev/shm/kept bs=1M count=24; echo ready; exec sleep 1000"))
	h.saysReady(id)
	update := func(r container.Resources) error {
		_, err := h.UpdateContainer(t.Context(), id, container.UpdateConfig{Resources: r})
		return err
	}
	h.must(update(container.Resources{Memory: 64 * mega, CPUShares: 512, BlkioWeight: 300, PidsLimit: new(int64(50)), CpusetCpus: "0"}))
	for file, want := range map[string]string{
		"memory/memory.limit_in_bytes": itoa(64 * mega), "memory/memory.memsw.limit_in_bytes": itoa(128 * mega),
		"cpu/cpu.shares": "512", "blkio/blkio.bfq.weight": "300", "pids/pids.max": "50", "cpuset/cpuset.cpus": "0",
	} {
		if got := h.kernel(id, file); got != want {
			t.Errorf("%s is %s: want %s", file, got, want)
		}
	}
	// Shared memory that is in use cannot go anywhere.
	err := update(container.Resources{Memory: 8 * mega, MemorySwap: 8 * mega, CPUShares: 256})
	if err == nil || !strings.HasPrefix(err.Error(), "Cannot update container "+id) {
		t.Errorf("less memory than in use: %v", err)
	}
	if got := h.kernel(id, "memory/memory.limit_in_bytes") + " " + h.kernel(id, "cpu/cpu.shares"); got != itoa(64*mega)+" 512" {
		t.Errorf("after an update that failed the limits are %s", got)
	}
	for _, wrong := range []container.Resources{
		{Memory: mega}, {Memory: 512 * mega}, {CPUPeriod: 1}, {CpusetCpus: "4096"}, {BlkioWeight: 5}, {Ulimits: []*container.Ulimit{{Name: "nofile", Soft: 1, Hard: 1}}},
	} {
		if err := update(wrong); err == nil {
			t.Errorf("%+v is taken", wrong)
		}
	}
	h.must(h.StopContainer(t.Context(), id, runner.StopOptions{Timeout: new(0)}))
	h.must(update(container.Resources{Memory: 96 * mega, PidsLimit: new(int64(0))}))
	h.must(h.StartContainer(t.Context(), id))
	if got := h.kernel(id, "memory/memory.limit_in_bytes") + " " + h.kernel(id, "pids/pids.max"); got != itoa(96*mega)+" max" {
		t.Errorf("what was updated while it did not run is %s", got)
	}
}

// kernel reads a file of a container's cgroup.
func (h *host) kernel(id, file string) string {
	h.t.Helper()
	controller, name := filepath.Split(file)
	text, err := os.ReadFile(filepath.Join("/sys/fs/cgroup", controller, h.cgroupParent(), id, name))
	h.must(err)
	return strings.TrimSpace(string(text))
}

// TestOutOfMemory has a container run out of memory while its first process lives
// on, and then end for it; also while no engine is there.
func TestOutOfMemory(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	since := time.Now()
	limited := func(req *runner.CreateRequest) {
		req.HostConfig.Memory, req.HostConfig.MemorySwap = 16*mega, 16*mega
		req.HostConfig.OomScoreAdj = 500
	}
	eats := "dd if=/dev/zero of=/dev/null bs=64M count=1"
	id := h.run(script("while ! [ -e /tmp/on ]; do sleep 0.05; done; "+eats+"; echo ready; while ! [ -e /tmp/again ]; do sleep 0.05; done; "+eats+"; exec sleep 1000", limited))
	if code, _ := h.exec(id, "/bin/touch", "/tmp/on"); code != 0 {
		t.Fatal(code)
	}
	told := func() (actions []events.Action) {
		for m := range h.Events(t.Context(), since, time.Now(), runner.Filters{"container": {id}}) {
			if m.Action == events.ActionOOM || m.Action == events.ActionDie {
				actions = append(actions, m.Action)
			}
		}
		return actions
	}
	h.eventually("it is told that a process was killed", func() bool { return slices.Equal(told(), []events.Action{events.ActionOOM}) })
	if st := h.state(id); !st.OOMKilled || st.Status != container.StateRunning {
		t.Errorf("it is %s, killed: %t", st.Status, st.OOMKilled)
	}
	h.reopen()
	if code, _ := h.exec(id, "/bin/touch", "/tmp/again"); code != 0 {
		t.Fatal(code)
	}
	h.eventually("it is told again by the next engine, once", func() bool { return slices.Equal(told(), []events.Action{events.ActionOOM}) })
	h.must(h.KillContainer(t.Context(), id, "KILL"))

	id = h.run(script("exec "+eats, limited))
	if r := h.wait(id, container.WaitConditionNotRunning); r.StatusCode != 137 || !h.state(id).OOMKilled {
		t.Errorf("it has ended with %d, killed: %t", r.StatusCode, h.state(id).OOMKilled)
	}
	if got := told(); !slices.Equal(got, []events.Action{events.ActionOOM, events.ActionDie}) {
		t.Errorf("told: %v", got)
	}
	h.must(h.StartContainer(t.Context(), id))
	h.wait(id, container.WaitConditionNotRunning)
	if _, err := h.UpdateContainer(t.Context(), "nobody", container.UpdateConfig{}); !errors.Is(err, runner.ErrNotFound) {
		t.Errorf("update of none: %v", err)
	}
}

// TestWaiters has several wait for each condition while a container restarts.
func TestWaiters(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	id := h.run(script("echo ready; while ! [ -e /tmp/on ]; do sleep 0.05; done; exit 5", restarted("always", 0)))
	h.saysReady(id)
	var next, removed []<-chan container.WaitResponse
	for range 3 {
		for until, list := range map[container.WaitCondition]*[]<-chan container.WaitResponse{
			container.WaitConditionNextExit: &next, container.WaitConditionNotRunning: &next, container.WaitConditionRemoved: &removed,
		} {
			done, err := h.WaitContainer(t.Context(), id, until)
			h.must(err)
			*list = append(*list, done)
		}
	}
	h.exec(id, "/bin/touch", "/tmp/on")
	for _, done := range next {
		select {
		case r := <-done:
			if r.StatusCode != 5 {
				t.Errorf("the next exit is %d", r.StatusCode)
			}
		case <-time.After(patience):
			t.Fatal("a waiter is not answered")
		}
	}
	if len(removed[0])+len(removed[1])+len(removed[2]) > 0 {
		t.Error("who waits for the removal is answered before")
	}
	h.eventually("it restarts", func() bool { return h.state(id).RestartCount >= 2 })
	if r := h.wait(id, container.WaitConditionNextExit); r.StatusCode != 5 {
		t.Errorf("while it restarts, the next exit is %d", r.StatusCode)
	}
	_, err := h.UpdateContainer(t.Context(), id, container.UpdateConfig{RestartPolicy: container.RestartPolicy{Name: "no"}})
	h.must(err)
	h.eventually("it stays down", func() bool { return h.state(id).Status == container.StateExited })
	h.must(h.RemoveContainer(t.Context(), id, runner.RemoveOptions{}))
	for _, done := range removed {
		if r := <-done; r.StatusCode != 5 {
			t.Errorf("at the removal: %d", r.StatusCode)
		}
	}
}
