package shim

import (
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// TestMonitorKilled kills a monitor: the container must not go on unseen.
func TestMonitorKilled(t *testing.T) {
	runtimes(t, func(t *testing.T, h *host) {
		req := h.request("sleep", "1000")
		p := h.create(req)
		h.start(req.ID)
		if err := unix.Kill(p.MonitorPID, unix.SIGKILL); err != nil {
			t.Fatal(err)
		}
		if e := h.exit(); e.ID != req.ID || e.Code != 137 {
			t.Errorf("exit: %+v", e)
		}
		if pids, err := h.PIDs(req.ID); err != nil || len(pids) > 0 {
			t.Errorf("processes: %v, %v", pids, err)
		}
		if st, err := h.Status(req.ID); err != nil || st.State != StateStopped || st.Exit == nil {
			t.Errorf("status: %+v, %v", st, err)
		}
	})
}

// TestHostPIDs runs a container without a PID namespace of its own: what it leaves
// behind is killed.
func TestHostPIDs(t *testing.T) {
	runtimes(t, func(t *testing.T, h *host) {
		hostPIDs := func(args ...string) CreateRequest {
			req := h.request(args...)
			req.Spec.Linux.Namespaces = req.Spec.Linux.Namespaces[1:]
			return req
		}
		req := hostPIDs("sh", "-c", "sleep 1000 >/dev/null 2>&1 & exit 3")
		h.create(req)
		h.start(req.ID)
		if e := h.exit(); e.Code != 3 {
			t.Errorf("exit: %+v", e)
		}
		if pids, err := h.PIDs(req.ID); err != nil || len(pids) > 0 {
			t.Errorf("processes after the exit: %v, %v", pids, err)
		}
		req = hostPIDs("sh", "-c", "sleep 1000 & sleep 1000 & wait")
		h.create(req)
		h.start(req.ID)
		waitFor(t, func() bool { pids, _ := h.PIDs(req.ID); return len(pids) == 3 })
		if err := h.Kill(t.Context(), req.ID, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		if e := h.exit(); e.Code != 137 {
			t.Errorf("exit: %+v", e)
		}
		if pids, err := h.PIDs(req.ID); err != nil || len(pids) > 0 {
			t.Errorf("processes after the kill: %v, %v", pids, err)
		}
	})
}

func TestOutOfMemory(t *testing.T) {
	runtimes(t, func(t *testing.T, h *host) {
		limit := int64(16 << 20)
		req := h.request("sh", "-c", "dd if=/dev/zero of=/dev/null bs=64M count=1")
		req.Spec.Linux.Resources = &specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: &limit, Swap: &limit}}
		h.create(req)
		h.start(req.ID)
		if e := h.exit(); !e.OOMKilled || e.Code == 0 {
			t.Errorf("exit: %+v", e)
		}
	})
}

func TestUpdate(t *testing.T) {
	runtimes(t, func(t *testing.T, h *host) {
		req := h.request("sleep", "1000")
		h.create(req)
		h.start(req.ID)
		limit := int64(64 << 20)
		if err := h.Update(t.Context(), req.ID, &specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: &limit}}); err != nil {
			t.Fatal(err)
		}
		file := filepath.Join(h.cgroups.memory, h.cgroup, req.ID, "memory.limit_in_bytes")
		text, err := os.ReadFile(file)
		if err != nil || strings.TrimSpace(string(text)) != strconv.FormatInt(limit, 10) {
			t.Errorf("%s: %q, %v", file, text, err)
		}
	})
}

// TestForkBomb deletes a container that makes processes as fast as it can.
func TestForkBomb(t *testing.T) {
	h := newHost(t, "crun")
	for _, own := range []bool{true, false} {
		req := h.request("sh", "-c", "while :; do (sleep 0.2 & sleep 0.2) & done")
		req.LogPath = ""
		if !own {
			req.Spec.Linux.Namespaces = req.Spec.Linux.Namespaces[1:]
		}
		h.create(req)
		h.start(req.ID)
		waitFor(t, func() bool { n, _ := h.PIDs(req.ID); return len(n) > 100 })
		h.delete(req.ID)
		if e := h.exit(); e.ID != req.ID {
			t.Errorf("exit: %+v", e)
		}
	}
}

func TestNetworkNamespace(t *testing.T) {
	h := newHost(t, "crun")
	var ns *os.File
	err := onThread(func() error {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return err
		}
		var err error
		ns, err = os.Open("/proc/thread-self/ns/net")
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	defer ns.Close()
	req := h.request("sleep", "1000")
	req.NetNS = ns
	p := h.create(req)
	var want, got unix.Stat_t
	if err := errors.Join(unix.Fstat(int(ns.Fd()), &want), unix.Stat("/proc/"+strconv.Itoa(p.PID)+"/ns/net", &got)); err != nil {
		t.Fatal(err)
	}
	if want.Ino != got.Ino {
		t.Error("the container is in another network namespace")
	}
}

// TestOutOfMemoryBeside has a child of a container's first process killed, again
// and again: it is told at once, and also to who takes the container up.
func TestOutOfMemoryBeside(t *testing.T) {
	runtimes(t, func(t *testing.T, h *host) {
		limit := int64(16 << 20)
		req := h.request("sh", "-c", "while read line; do dd if=/dev/zero of=/dev/null bs=64M count=1; done")
		req.Stdin = true
		req.Spec.Linux.Resources = &specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: &limit, Swap: &limit}}
		h.create(req)
		h.start(req.ID)
		for round := 1; round <= 3; round++ {
			c, err := h.Attach(h.ctx(), req.ID, "")
			if err != nil {
				t.Fatal(err)
			}
			if _, err := c.Write([]byte("again\n")); err != nil {
				t.Fatal(err)
			}
			select {
			case id := <-h.OOMs():
				if id != req.ID || h.OOMKills(id) != round {
					t.Errorf("told of %s, with %d kills: want %d", id, h.OOMKills(id), round)
				}
			case <-time.After(20 * time.Second):
				t.Fatalf("kill %d is not told", round)
			}
			_ = c.Close()
			if round == 2 { // what was told before is not again
				if err := h.Close(); err != nil {
					t.Fatal(err)
				}
				h.open(h.runtime.Name)
			}
		}
		h.delete(req.ID)
		if e := h.exit(); !e.OOMKilled || e.OOMKills != 3 {
			t.Errorf("exit: %+v", e)
		}
		select {
		case id := <-h.OOMs():
			t.Errorf("the end of %s is taken for a lack of memory", id)
		default:
		}
	})
}
