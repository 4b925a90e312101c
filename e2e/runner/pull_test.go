package runner

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/berth-registry/berth/e2e/berthtest"
	"github.com/berth-registry/berth/internal/freeaddr"
)

// htpasswd is the user "someone" with the password "correct horse".
const htpasswd = "someone:$2b$05$abcdefghijklmnopqrstuuHNbAKRhpaujgo33bRWs.NLUTJO3lOy2\n"

const registryConfig = `version: 0.1
log: {level: error}
storage: {filesystem: {rootdirectory: %q}}
auth: {htpasswd: {realm: berth-test, path: %q}}
http: {addr: %q}
`

// TestCredentials pulls from a registry that wants to know who asks, and pushes
// to it.
func TestCredentials(t *testing.T) {
	t.Parallel()
	h := newHost(t, berthtest.MachineOptions{})
	h.docker.Within(time.Minute) // it asks for a password where it should not
	guarded := guardedRegistry(t, h.Machine)
	seed(t, h.Machine, guarded, "REGISTRY_USER=someone", "REGISTRY_PASS=correct horse")
	image := guarded + "/seedtest/busybox"

	refused := func(want string, args ...string) {
		t.Helper()
		out, stderr, err := h.docker.Try(args...)
		if err == nil || !strings.Contains(strings.ToLower(stderr), want) {
			t.Fatalf("docker %s: %v\n%s%s\nwant: %s", strings.Join(args, " "), err, out, stderr, want)
		}
	}
	refused("no basic auth credentials", "pull", image)
	refused("unauthorized", "login", "-u", "someone", "-p", "wrong horse", guarded)
	refused("no basic auth credentials", "pull", image)
	if out := h.docker.Run("login", "-u", "someone", "-p", "correct horse", guarded); !strings.Contains(out, "Login Succeeded") {
		t.Errorf("docker login says %s", out)
	}
	h.docker.Run("pull", image)
	if out := h.docker.Run("run", "--rm", image, "echo", "hello"); out != "hello\n" {
		t.Errorf("docker run wrote %q", out)
	}
	refused("not found", "pull", guarded+"/seedtest/none")
	h.docker.Run("tag", image, guarded+"/mine/copy:v1")
	if out := h.docker.Run("push", guarded+"/mine/copy:v1"); !strings.Contains(out, "v1: digest: sha256:") {
		t.Errorf("docker push says %s", out)
	}
	h.docker.Run("logout", guarded)
	refused("no basic auth credentials", "push", guarded+"/mine/copy:v1")
	refused("no basic auth credentials", "pull", guarded+"/mine/copy:v1")
}

// guardedRegistry starts distribution's registry with one account and returns
// its host and port.
func guardedRegistry(t *testing.T, m *berthtest.Machine) string {
	t.Helper()
	dir := t.TempDir()
	_, port, err := net.SplitHostPort(freeaddr.For(t))
	if err != nil {
		t.Fatal(err)
	}
	addr := "localhost:" + port
	for name, text := range map[string]string{
		"htpasswd":   htpasswd,
		"config.yml": fmt.Sprintf(registryConfig, filepath.Join(dir, "data"), filepath.Join(dir, "htpasswd"), addr),
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	berthtest.NewCommand(t, "docker-registry").On(m).Daemon(func() error {
		c, err := m.Dial(t.Context(), "tcp", "127.0.0.1:"+port)
		if err == nil {
			_ = c.Close()
		}
		return err
	}, "serve", filepath.Join(dir, "config.yml"))
	return addr
}

// TestReferences pulls by everything that an image can be named by.
func TestReferences(t *testing.T) {
	t.Parallel()
	h := newHost(t, berthtest.MachineOptions{})
	repo := h.image("multi")
	out := h.docker.Run("pull", repo)
	_, rest, _ := strings.Cut(out, "Digest: ")
	digest, _, _ := strings.Cut(rest, "\n")
	id := func(ref string) string {
		t.Helper()
		return strings.TrimSpace(h.docker.Run("image", "inspect", "-f", "{{.Id}}", ref))
	}
	want := id(repo)
	for _, ref := range []string{repo + ":latest", repo + "@" + digest, repo + ":latest@" + digest, strings.Replace(repo, "localhost", "127.0.0.1", 1)} {
		h.docker.Run("rmi", "-f", want)
		h.docker.Run("pull", "-q", ref)
		if got := id(ref); got != want {
			t.Errorf("%s is %s: want %s", ref, got, want)
		}
	}
	for ref, text := range map[string]string{
		repo + ":none": "not found",
		repo + "@sha256:" + strings.Repeat("0", 64): "not found",
		repo + "@sha256:0":                          "invalid reference format",
		h.repository("Upper"):                       "must be lowercase",
		"127.0.0.1:1/none":                          "connection refused",
		h.repository(strings.Repeat("a", 300)):      "must not be more than 255",
	} {
		_, stderr, err := h.docker.Try("pull", ref)
		if err == nil || !strings.Contains(stderr, text) {
			t.Errorf("docker pull %.80s: %v: %s\nwant: %s", ref, err, stderr, text)
		}
	}
	other := strings.TrimSpace(h.docker.Run("pull", "-q", "--platform", "linux/"+otherArch(), repo))
	if got := strings.TrimSpace(h.docker.Run("image", "inspect", "-f", "{{.Architecture}}", other)); got != otherArch() {
		t.Errorf("pull --platform linux/%s brought %s", otherArch(), got)
	}
}

// otherArch is the architecture, beside this machine's, of the image multi.
func otherArch() string {
	if runtime.GOARCH == "arm64" {
		return "amd64"
	}
	return "arm64"
}

// TestPrivateAddress pulls from a registry at a private address by plain HTTP,
// and by the short name of an image that the default registry has.
func TestPrivateAddress(t *testing.T) {
	t.Parallel()
	m := berthtest.NewMachine(t, berthtest.MachineOptions{})
	_, port, err := net.SplitHostPort(freeaddr.For(t))
	if err != nil {
		t.Fatal(err)
	}
	addr := net.JoinHostPort(m.Address, port)
	berthtest.Start(t, berthtest.Options{Machine: m, Addr: addr})
	seed(t, m, addr, "PREFIX=library")
	r := berthtest.StartRunner(t, berthtest.RunnerOptions{Machine: m, Env: []string{"BERTH_RUNNER_REGISTRY_DEFAULT=" + addr}})
	docker := r.Docker(t)
	docker.Run("pull", addr+"/library/busybox")
	docker.Run("tag", addr+"/library/busybox", addr+"/busybox")
	docker.Run("push", addr+"/busybox")
	docker.Run("rmi", addr+"/busybox", addr+"/library/busybox")
	for _, ref := range []string{addr + "/library/busybox", "busybox", "busybox:latest"} {
		if out := docker.Run("run", "--rm", ref, "echo", "hello"); out != "hello\n" {
			t.Errorf("docker run %s wrote %q", ref, out)
		}
	}
}
