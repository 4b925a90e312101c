package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/berth-registry/berth/e2e/berthtest"
)

// TestBuildKit keeps the cache of a build in the registry, in both forms that
// BuildKit has for it, and builds from it again with another, empty BuildKit.
func TestBuildKit(t *testing.T) {
	t.Parallel()
	berthtest.Root(t)
	s := berthtest.Start(t, berthtest.Options{})
	source := buildContext(t)
	mediaTypes := map[string]string{"true": ocispec.MediaTypeImageManifest, "false": ocispec.MediaTypeImageIndex}
	for asImage, mediaType := range mediaTypes {
		t.Run("image-manifest="+asImage, func(t *testing.T) {
			cache := s.Addr + "/buildkit/cache:" + asImage
			image := s.Addr + "/buildkit/image:" + asImage
			if out := startBuildKit(t, s.Addr).build(t, source, image, cache, asImage); strings.Contains(out, "CACHED") {
				t.Fatalf("the first build found a cache:\n%s", out)
			}
			crane := berthtest.NewCommand(t, "crane", "--insecure")
			if m := decode[ocispec.Manifest](t, crane.Run("manifest", cache)); m.MediaType != mediaType {
				t.Errorf("the cache is a %s: want a %s", m.MediaType, mediaType)
			}
			first := crane.Run("digest", image)
			if out := startBuildKit(t, s.Addr).build(t, source, image, cache, asImage); !strings.Contains(out, "CACHED") {
				t.Errorf("the second build found no cache:\n%s", out)
			}
			if second := crane.Run("digest", image); second != first {
				t.Errorf("the image from the cache is %s: want %s", second, first)
			}
			crane.Run("validate", "--remote", image)
		})
	}
}

// buildContext is a directory with something to build. Its one step takes its
// input from the clock, so that only a cache can give the same again.
func buildContext(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	busybox, err := os.ReadFile(berthtest.Tool(t, "busybox"))
	if err != nil {
		t.Fatal(err)
	}
	writeFile(t, dir, "rootfs.tar", tarball(t, map[string][]byte{"bin/busybox": busybox}))
	writeFile(t, dir, "Dockerfile", []byte(`FROM scratch
ADD rootfs.tar /
RUN ["/bin/busybox", "sh", "-c", "date +%s.%N >/now; cat /proc/sys/kernel/random/uuid >/random"]
`))
	return dir
}

type buildKit struct{ *berthtest.Command }

// startBuildKit starts a buildkitd with everything of it in a directory of the
// test, and returns its client.
func startBuildKit(t *testing.T, registry string) buildKit {
	t.Helper()
	dir := t.TempDir()
	addr := "unix://" + filepath.Join(dir, "buildkit.sock")
	config := writeFile(t, dir, "buildkitd.toml", fmt.Appendf(nil, "[registry.%q]\nhttp = true\n", registry))
	client := berthtest.NewCommand(t, "buildctl", "--addr", addr).Env("DOCKER_CONFIG=" + dir)
	berthtest.NewCommand(t, "buildkitd").Daemon(func() error {
		_, _, err := client.Try("debug", "workers")
		return err
	},
		"--config", config, "--addr", addr, "--root", filepath.Join(dir, "root"),
		"--oci-worker=true", "--containerd-worker=false",
		"--oci-worker-binary", berthtest.Tool(t, "runc"), "--oci-worker-net", "host",
		"--oci-worker-snapshotter", "overlayfs")
	return buildKit{client}
}

// build builds the context in dir, and returns what BuildKit says of it.
func (b buildKit) build(t *testing.T, dir, image, cache, asImage string) string {
	t.Helper()
	_, progress, err := b.Try("build", "--progress", "plain", "--frontend", "dockerfile.v0",
		"--local", "context="+dir, "--local", "dockerfile="+dir,
		"--output", "type=image,push=true,oci-mediatypes=true,name="+image,
		"--export-cache", "type=registry,mode=max,oci-mediatypes=true,image-manifest="+asImage+",ref="+cache,
		"--import-cache", "type=registry,ref="+cache)
	if err != nil {
		t.Fatalf("buildctl: %v\n%s", err, progress)
	}
	return progress
}
