package e2e

import (
	"archive/tar"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/berth-registry/berth/e2e/berthtest"
)

// TestContainerd pushes with one containerd and pulls with others, which have
// nothing yet.
func TestContainerd(t *testing.T) {
	t.Parallel()
	berthtest.Root(t)
	s := berthtest.Start(t, berthtest.Options{})
	source, desc := sampleIndex(t)
	source.write(ocispec.ImageIndexFile, source.read(desc.Digest)) // containerd imports the layout's own index
	archive := filepath.Join(t.TempDir(), "image.tar")
	writeTar(t, archive, source.dir)

	repo := s.Addr + "/containerd/image"
	ctr := startContainerd(t, t.TempDir())
	ctr.Run("images", "import", "--all-platforms", "--no-unpack", "--index-name", repo+":v1", archive)
	ctr.Run("images", "push", "--plain-http", repo+":v1")
	for _, ref := range []string{repo + ":v1", repo + "@" + desc.Digest.String()} {
		dir := t.TempDir()
		startContainerd(t, dir).Run("images", "pull", "--plain-http", "--all-platforms", ref)
		sameBlobs(t, source.dir, filepath.Join(dir, "root", "io.containerd.content.v1.content"))
	}
}

// startContainerd starts a containerd with everything of it in dir, and returns
// its client.
func startContainerd(t *testing.T, dir string) *berthtest.Command {
	t.Helper()
	return startContainerdOn(t, nil, dir)
}

// startContainerdOn is startContainerd on a machine.
func startContainerdOn(t *testing.T, m *berthtest.Machine, dir string) *berthtest.Command {
	t.Helper()
	socket := filepath.Join(dir, "containerd.sock")
	config := writeFile(t, dir, "config.toml", fmt.Appendf(nil, `version = 2
root = %q
state = %q
disabled_plugins = ["io.containerd.grpc.v1.cri", "io.containerd.internal.v1.opt"]
[grpc]
address = %q
[ttrpc]
address = %q
`, filepath.Join(dir, "root"), filepath.Join(dir, "state"), socket, socket+".ttrpc"))
	ctr := berthtest.NewCommand(t, "ctr", "--address", socket, "--namespace", "test").On(m)
	berthtest.NewCommand(t, "containerd").On(m).Daemon(func() error {
		_, _, err := ctr.Try("version")
		return err
	}, "--config", config)
	return ctr
}

// writeTar writes the files of a directory into an archive.
func writeTar(t *testing.T, path, dir string) {
	t.Helper()
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	w := tar.NewWriter(f)
	if err := w.AddFS(os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
}
