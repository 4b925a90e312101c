package runner

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/berth-registry/berth/e2e/berthtest"
	"github.com/berth-registry/berth/internal/freeaddr"
)

// TestTogether does what the README shows: it starts both programs as make run
// does, pushes images with several clients, and runs what was pushed.
func TestTogether(t *testing.T) {
	t.Parallel()
	m := berthtest.NewMachine(t, berthtest.MachineOptions{})
	dir := t.TempDir()
	_, port, err := net.SplitHostPort(freeaddr.For(t))
	if err != nil {
		t.Fatal(err)
	}
	registry := "localhost:" + port
	var said string
	both := berthtest.NewCommand(t, "bash", filepath.Join(berthtest.ModuleRoot(t), "hack", "run.sh")).On(m).
		Env("BERTH_BIN="+berthtest.Binary(t, "berth"), "BERTH_RUNNER_BIN="+berthtest.Binary(t, "berth-runner"),
			"BERTH_HTTP_ADDR="+registry, "BERTH_STORAGE_DATA="+filepath.Join(dir, "registry"), "BERTH_RUNNER_DATA="+filepath.Join(dir, "runner"))
	stop := both.Service(func(log string) error {
		said = log
		if !strings.Contains(log, "Ctrl-C stops both") {
			return fmt.Errorf("it has not said what to do: %s", log)
		}
		return nil
	})
	for _, want := range []string{"http://" + registry, "unix:///run/berth/runner.sock", "docker push " + registry, "docker run -d"} {
		if !strings.Contains(said, want) {
			t.Errorf("make run does not print %s: %s", want, said)
		}
	}
	seed(t, m, registry)
	docker := berthtest.NewCommand(t, "docker", "--config", filepath.Join(dir, "docker")).On(m).Env("DOCKER_HOST=unix:///run/berth/runner.sock")

	// What was built elsewhere, pushed with docker, skopeo and podman.
	web := registry + "/seedtest/web:v1"
	docker.Run("pull", web)
	archive := filepath.Join(dir, "web.tar")
	docker.Run("save", "-o", archive, web)
	docker.Run("tag", web, registry+"/by/docker")
	docker.Run("push", registry+"/by/docker")
	berthtest.NewCommand(t, "skopeo").On(m).Run("copy", "-q", "--insecure-policy", "--dest-tls-verify=false", "docker-archive:"+archive, "docker://"+registry+"/by/skopeo")
	podman := berthtest.NewCommand(t, "podman", "--root", filepath.Join(dir, "podman"), "--runroot", filepath.Join(dir, "podman-run"),
		"--storage-driver", "vfs", "--cgroup-manager", "cgroupfs", "--events-backend", "file").On(m)
	podman.Run("load", "-q", "-i", archive)
	podman.Run("push", "-q", "--tls-verify=false", web, registry+"/by/podman")
	docker.Run("rmi", web, registry+"/by/docker")

	for i, client := range []string{"docker", "skopeo", "podman"} {
		outer := fmt.Sprint(8080 + i)
		docker.Run("run", "-d", "-p", outer+":8080", "--name", client, registry+"/by/"+client)
		get(t, m, "http://localhost:"+outer, "seedtest web v1\n")
		get(t, m, "http://"+net.JoinHostPort(m.Address, outer), "seedtest web v1\n")
		get(t, m, "http://"+net.JoinHostPort(m.Address6, outer), "seedtest web v1\n")
		get(t, m, "http://"+net.JoinHostPort("::1", outer), "seedtest web v1\n")
	}
	if _, stderr, err := docker.Try("run", "-d", "-p", "8080:8080", "--name", "second", web); err == nil || !strings.Contains(stderr, "8080") || !strings.Contains(stderr, "docker") {
		t.Errorf("a port that is taken: %v: %s\nwant an error with the port and the container that has it", err, stderr)
	}

	// Ctrl-C ends both, and no container.
	if code := stop(syscall.SIGINT); code != 0 {
		t.Errorf("after Ctrl-C, it ends with %d", code)
	}
	if _, err := os.Stat(m.Path("run/berth/runner.sock")); err == nil {
		if _, _, err := docker.Try("info", "-f", "{{.ID}}"); err == nil {
			t.Error("after Ctrl-C, the runner answers")
		}
	}
	get(t, m, "http://localhost:8080", "seedtest web v1\n")
}

// get fetches a page on the machine, once it is there.
func get(t *testing.T, m *berthtest.Machine, url, want string) {
	t.Helper()
	if err := eventually(func() error { return fetch(m, url, want) }); err != nil {
		t.Error(err)
	}
}
