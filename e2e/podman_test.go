package e2e

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/berth-registry/berth/e2e/berthtest"
)

func TestPodman(t *testing.T) {
	t.Parallel()
	berthtest.Root(t)
	s := berthtest.Start(t, berthtest.Options{})
	dir := t.TempDir()
	podman := berthtest.NewCommand(t, "podman", "--root", filepath.Join(dir, "root"), "--runroot", filepath.Join(dir, "run"),
		"--storage-driver", "vfs", "--cgroup-manager", "cgroupfs", "--events-backend", "file")
	source, _ := sampleImage(t)
	archive := filepath.Join(dir, "image.tar")
	writeTar(t, archive, source.dir)
	podman.Run("load", "-q", "-i", archive)
	id := strings.TrimSpace(podman.Run("images", "-q", "--no-trunc"))
	id = strings.TrimPrefix(id, "sha256:")
	want := podmanTree(t, podman, id)

	repo := s.Addr + "/podman/image"
	digestFile := filepath.Join(dir, "digest")
	podman.Run("push", "-q", "--tls-verify=false", "--digestfile", digestFile, id, repo+":v1")
	for _, ref := range []string{":v1", "@" + readFile(t, digestFile)} {
		podman.Run("rmi", "--all", "--force")
		podman.Run("pull", "-q", "--tls-verify=false", repo+ref)
		got := strings.TrimSpace(podman.Run("image", "inspect", "--format", "{{.Id}}", repo+ref))
		if got != id {
			t.Errorf("pulled image %s: want %s", got, id)
		}
		podmanTree(t, podman, repo+ref).same(t, want)
	}
}

// podmanTree reads the files of an image as podman has unpacked it.
func podmanTree(t *testing.T, podman *berthtest.Command, image string) tree {
	t.Helper()
	dir := strings.TrimSpace(podman.Run("image", "mount", image))
	defer podman.Run("image", "unmount", image)
	return readTree(t, dir)
}
