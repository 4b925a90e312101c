package e2e

import (
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/berth-registry/berth/e2e/berthtest"
)

// TestRebuild loses the metadata of a registry that docker and skopeo have pushed to,
// and makes it anew.
func TestRebuild(t *testing.T) {
	t.Parallel()
	berthtest.Root(t)
	s := berthtest.Start(t, berthtest.Options{})
	docker := docker{startDocker(t, nil), "localhost:" + s.Port()}
	image := docker.build(t, "An image that is kept", map[string][]byte{"data": randomBytes(3, 1<<20)})
	ref := docker.registry + "/kept:v1"
	docker.Run("tag", image, ref)
	docker.Run("push", ref)
	docker.Run("rmi", "-f", image, ref)
	k := skopeo{berthtest.NewCommand(t, "skopeo"), "docker://" + s.Addr + "/team/index"}
	source, desc := sampleIndex(t)
	k.push("oci:"+source.dir+":latest", ":multi")

	s.Stop() // what has changed is noted by then
	meta := filepath.Join(s.Data, "meta.db")
	if err := os.Remove(meta); err != nil {
		t.Fatal(err)
	}
	if code, out := s.RunSecond(); code != 1 || !strings.Contains(out, "run 'berth rebuild") {
		t.Fatalf("without its metadata the server ends with %d and says\n%s", code, out)
	}
	killed(t, 10, 300*time.Millisecond, func() bool { return exists(meta) }, "rebuild", "--data", s.Data)
	if !exists(meta) {
		s.Berth().Run("rebuild")
	}
	s.Restart()
	if got := docker.Run("pull", "-q", ref); strings.TrimSpace(got) != ref {
		t.Errorf("docker pull says %q", got)
	}
	if got := strings.TrimSpace(docker.Run("image", "inspect", "-f", "{{.Id}}", ref)); got != image {
		t.Errorf("docker pulled %s: want %s", got, image)
	}
	for _, ref := range []string{":multi", "@" + desc.Digest.String()} {
		back := t.TempDir()
		k.pull(ref, "oci:"+back+":latest")
		sameBlobs(t, source.dir, back)
	}
	k.push("oci:"+source.dir+":latest", ":again") // and it goes on
}

// TestBackup makes backups while clients push and delete, and kills the server and the
// command at random; then restores, killed at random too, and checks that everything
// is there. Collection has tests of its own: the model of what clients did knows none.
func TestBackup(t *testing.T) {
	t.Parallel()
	s := berthtest.Start(t, berthtest.Options{Env: []string{"BERTH_LOG_ACCESS=false"}})
	s.Berth().Input("correct horse battery").Run("user", "add", "alice", "--password-stdin")
	c := newCrasher(t, s)
	target := filepath.Join(t.TempDir(), "backup")
	for round := range 4 {
		c.work(round, func() {
			never := func() bool { return false }
			killed(t, 3, 200*time.Millisecond, never, "backup", target, "--data", s.Data)
			if round%2 == 0 {
				cmd := berth(t, "backup", target, "--data", s.Data, "--keep", "2")
				if err := cmd.Start(); err != nil {
					t.Error(err)
				}
				time.Sleep(rand.N(200 * time.Millisecond))
				s.Kill()
				_ = cmd.Wait() // it may have been done
				s.Restart()
				return
			}
			s.Berth().Run("backup", target)
			s.Kill()
			s.Restart()
		})
		if t.Failed() {
			t.FailNow()
		}
	}
	for _, err := range c.model.check(c.wire, true) {
		t.Errorf("what was backed up: %v", err)
	}
	s.Berth().Run("backup", target, "--verify", "--keep", "1")

	data := filepath.Join(t.TempDir(), "data")
	meta := filepath.Join(data, "meta.db")
	killed(t, 15, 400*time.Millisecond, func() bool { return exists(meta) }, "restore", target, "--data", data)
	if out, err := berth(t, "restore", target, "--data", data).CombinedOutput(); err != nil && !strings.Contains(string(out), "is not empty") {
		t.Fatalf("%v: %s", err, out)
	}
	other := berthtest.Start(t, berthtest.Options{Data: data, Env: []string{"BERTH_LOG_ACCESS=false"}})
	for _, err := range c.model.check(newWire(other.URL), true) {
		t.Errorf("what was restored: %v", err)
	}
	if out := other.Berth().Run("user", "ls"); !strings.Contains(out, "alice") {
		t.Errorf("accounts are %s", out)
	}
	blobs, manifests := c.model.size()
	t.Logf("%d blobs and %d manifests there and back", blobs, manifests)
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

func berth(t *testing.T, args ...string) *exec.Cmd {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), berthtest.Binary(t, "berth"), args...)
	cmd.WaitDelay = time.Second
	return cmd
}

// killed runs a command some times, and kills it at random within a time, or until it
// is done.
func killed(t *testing.T, times int, within time.Duration, done func() bool, args ...string) {
	t.Helper()
	for range times {
		if done() {
			return
		}
		cmd := berth(t, args...)
		if err := cmd.Start(); err != nil {
			t.Error(err)
			return
		}
		time.Sleep(rand.N(within))
		_ = cmd.Process.Signal(syscall.SIGKILL) // unless it has ended
		_ = cmd.Wait()
	}
}
