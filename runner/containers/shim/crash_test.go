package shim

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// victimDir, in the environment, makes the test program run containers in that
// directory until it is killed.
const victimDir = "BERTH_TEST_SHIM_DIR"

func TestMain(m *testing.M) {
	if dir := os.Getenv(victimDir); dir != "" {
		if err := victim(dir); err != nil {
			_, _ = fmt.Fprintln(os.Stdout, "error", err)
		}
		return
	}
	if os.Getenv(unifiedEnv) != "" {
		if err := mountUnified(); err != nil {
			_, _ = fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}
	os.Exit(m.Run())
}

// victim says on standard output what it has done and what it is about to do.
func victim(dir string) error {
	ctx := context.Background()
	s, err := Open(ctx, Options{Runtime: os.Getenv("BERTH_TEST_SHIM_RUNTIME"), RunDir: dir})
	if err != nil {
		return err
	}
	var mu sync.Mutex
	say := func(words ...any) {
		mu.Lock()
		defer mu.Unlock()
		_, _ = fmt.Fprintln(os.Stdout, words...)
	}
	go func() {
		for range s.Exits() {
		}
	}()
	say("open")
	for worker := range 3 {
		go func() {
			for {
				if err := errors.Join(life(ctx, s, worker, say)); err != nil {
					say("error", err)
				}
			}
		}()
	}
	select {}
}

// life is what befalls one container.
func life(ctx context.Context, s *Shim, worker int, say func(words ...any)) error {
	base := os.Getenv("BERTH_TEST_SHIM_LAYERS")
	id := randomID()
	script := "echo out; exit 7"
	if worker == 1 {
		script = "echo out; sleep 1000"
	}
	req := CreateRequest{ID: id, Spec: minimalSpec("sh", "-c", script), LogPath: filepath.Join(base, id, "log")}
	req.Spec.Process.Terminal = worker == 2
	req.Spec.Linux.CgroupsPath = os.Getenv("BERTH_TEST_SHIM_CGROUP") + "/" + id
	req.Rootfs = Rootfs{Lower: []string{filepath.Join(base, "lower")}, Upper: filepath.Join(base, id, "upper"), Work: filepath.Join(base, id, "work")}
	if err := errors.Join(os.MkdirAll(req.Rootfs.Upper, 0o755), os.MkdirAll(req.Rootfs.Work, 0o755)); err != nil {
		return err
	}
	if _, err := s.Create(ctx, req); err != nil {
		return err
	}
	say("created", id)
	if err := s.Start(ctx, id); err != nil {
		return err
	}
	say("started", id)
	if worker == 1 {
		e, err := s.PrepareExec(ctx, ExecRequest{ContainerID: id, ExecID: "x" + id, Attach: true, Process: &specs.Process{
			Args: []string{"sh", "-c", "exit 9"}, Cwd: "/", Env: []string{"PATH=/bin"}, Capabilities: &specs.LinuxCapabilities{},
		}})
		if err != nil {
			return err
		}
		if _, err := e.Start(ctx); err != nil {
			return err
		}
		defer e.Conn().Close()
	}
	time.Sleep(time.Duration(rand.IntN(10)) * time.Millisecond) // work that it does
	say("deleting", id)
	if err := s.Delete(ctx, id); err != nil {
		return err
	}
	say("deleted", id)
	return os.RemoveAll(filepath.Join(base, id))
}

// TestKilled kills whoever runs containers at random moments, and checks each time
// that the next one finds all of them and can clear all away.
func TestKilled(t *testing.T) {
	for _, runtime := range []string{"crun", "runc"} {
		t.Run(runtime, func(t *testing.T) {
			dir, base := shortTemp(t), t.TempDir()
			cgroup := "/berth-shim-killed-" + randomID()[:8]
			busybox(t, filepath.Join(base, "lower"))
			t.Cleanup(func() {
				c, _ := findCgroups()
				if err := c.remove(context.Background(), cgroup); err != nil {
					t.Error(err)
				}
			})
			rounds := 30
			if runtime == "runc" {
				rounds = 6
			}
			for range rounds {
				said := killVictim(t, runtime, dir, base, cgroup)
				inherit(t, runtime, dir, base, said)
				leftovers(t, dir, cgroup)
			}
		})
	}
}

// killVictim runs a victim for a random time, and returns the last word on each
// container.
func killVictim(t *testing.T, runtime, dir, base, cgroup string) map[string]string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), victimDir+"="+dir, "BERTH_TEST_SHIM_RUNTIME="+runtime, "BERTH_TEST_SHIM_LAYERS="+base, "BERTH_TEST_SHIM_CGROUP="+cgroup)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	said := map[string]string{}
	lines := bufio.NewScanner(out)
	for lines.Scan() {
		word, id, _ := strings.Cut(lines.Text(), " ")
		switch word {
		case "open":
			time.AfterFunc(rand.N(120*time.Millisecond), func() { _ = cmd.Process.Kill() })
		case "error":
			t.Errorf("victim: %s", id)
		default:
			said[id] = word
		}
	}
	_ = cmd.Wait()
	return said
}

// inherit takes over from a victim, checks what it said, and deletes everything.
func inherit(t *testing.T, runtime, dir, base string, said map[string]string) {
	t.Helper()
	s, err := Open(t.Context(), Options{Runtime: runtime, RunDir: dir})
	if err != nil {
		t.Fatal(err)
	}
	exits := make(chan map[string]int)
	go func() {
		codes := map[string]int{}
		for e := range s.Exits() {
			codes[e.ID+e.ExecID] = e.Code
		}
		exits <- codes
	}()
	ids, err := s.List()
	if err != nil {
		t.Fatal(err)
	}
	there := map[string]bool{}
	for _, id := range ids {
		there[id] = true
	}
	for id, word := range said {
		if (word == "created" || word == "started") && !there[id] {
			t.Errorf("container %s is lost", id)
		}
	}
	for _, id := range ids {
		st, err := s.Status(id)
		if err != nil {
			t.Error(err)
			continue
		}
		if said[id] == "started" {
			checkStarted(t, id, st, filepath.Join(base, id, "log"))
		}
		if said[id] == "created" && st.State == StateCreated && s.Start(t.Context(), id) != nil {
			t.Errorf("container %s cannot be started", id)
		}
	}
	for _, id := range ids {
		if err := s.Delete(t.Context(), id); err != nil {
			t.Errorf("delete %s: %v", id, err)
		}
	}
	waitFor(t, func() bool {
		s.watch.mu.Lock()
		defer s.watch.mu.Unlock()
		return len(s.watch.queue) == 0
	})
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	codes := <-exits
	for id, word := range said {
		if _, ok := codes[id]; word == "started" && !ok {
			t.Errorf("exit of container %s is lost", id)
		}
	}
}

// checkStarted checks a container that the victim had started.
func checkStarted(t *testing.T, id string, st Status, log string) {
	t.Helper()
	switch st.State {
	case StateRunning:
	case StateStopped:
		if st.Exit == nil || st.Exit.Code != 7 {
			t.Errorf("container %s: exit %+v", id, st.Exit)
		}
	default:
		t.Errorf("container %s was started, and is %s", id, st.State)
	}
	waitFor(t, func() bool {
		text, _ := os.ReadFile(log)
		return bytes.Contains(text, []byte("out"))
	})
}

// leftovers checks that nothing of the directory or the cgroup is left.
func leftovers(t *testing.T, dir, cgroup string) {
	t.Helper()
	var left []string
	waitFor(t, func() bool { // what was killed may still be dying
		left = left[:0]
		pids, _ := allPIDs()
		for _, pid := range pids {
			line, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
			if pid != os.Getpid() && bytes.Contains(line, []byte(dir)) {
				left = append(left, "process "+string(line))
			}
		}
		return len(left) == 0
	})
	mounts, _ := os.ReadFile("/proc/self/mountinfo")
	if bytes.Contains(mounts, []byte(dir)) {
		left = append(left, "a mount")
	}
	groups, _ := filepath.Glob(filepath.Join(cgroupRoot, cgroup, "*"))
	version1, _ := filepath.Glob(filepath.Join(cgroupRoot, "*", cgroup, "*"))
	groups = append(groups, version1...)
	for _, g := range groups {
		if fi, err := os.Stat(g); err == nil && fi.IsDir() {
			left = append(left, "cgroup "+g)
		}
	}
	err := filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		rel, _ := filepath.Rel(dir, path)
		if err == nil && (strings.Count(rel, "/") >= 1 && !strings.HasPrefix(rel, "oci/") || strings.Count(rel, "/") >= 2) {
			left = append(left, "file "+rel)
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
	if len(left) > 0 {
		t.Errorf("left: %v", left)
	}
	// No child is left that nobody has waited for.
	var info unix.WaitStatus
	if pid, err := unix.Wait4(-1, &info, unix.WNOHANG, nil); err == nil && pid > 0 {
		t.Errorf("zombie %d", pid)
	}
}

// TestInterruptedStart takes over from somebody who was killed in the middle of
// Start: with the byte written, and the fifo not removed.
func TestInterruptedStart(t *testing.T) {
	h := newHost(t, "crun")
	req := h.request("sleep", "1000")
	h.create(req)
	b, err := h.get(req.ID)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(h.gate(b), []byte{0}, 0); err != nil {
		t.Fatal(err)
	}
	_, init := b.processes()
	waitFor(t, func() bool { return !h.waits(b, init) })
	if err := h.Close(); err != nil {
		t.Fatal(err)
	}
	h.open("crun")
	if got := h.state(req.ID); got != StateRunning {
		t.Errorf("state: %s", got)
	}
	if err := h.Start(t.Context(), req.ID); err != nil {
		t.Error(err)
	}
	if got := h.state(req.ID); got != StateRunning {
		t.Errorf("state: %s", got)
	}
}
