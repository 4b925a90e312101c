package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/berth-registry/berth/e2e/berthtest"
)

// TestDocker drives the docker command and a dockerd of the test's own.
func TestDocker(t *testing.T) {
	t.Parallel()
	berthtest.Root(t)
	s := berthtest.Start(t, berthtest.Options{})
	docker := docker{startDocker(t, nil), "localhost:" + s.Port()}

	image := docker.build(t, "An image of many colours", map[string][]byte{"small": []byte("small")})
	// A layer of more than 100 MB, which no compression makes smaller.
	large := docker.build(t, "An image of great weight", map[string][]byte{"large": randomBytes(2, 110<<20)})

	docker.roundTrip(t, image, "colours")
	docker.roundTrip(t, large, "heavy/weight")
	docker.list(t, image, large)
	docker.search(t)
}

// docker is the docker command and the registry that it pushes to.
type docker struct {
	*berthtest.Command
	registry string
}

// build makes an image in the daemon and returns its id.
func (d docker) build(t *testing.T, description string, files map[string][]byte) string {
	t.Helper()
	dir := t.TempDir()
	busybox, err := os.ReadFile(berthtest.Tool(t, "busybox"))
	if err != nil {
		t.Fatal(err)
	}
	writeFile(t, dir, "rootfs.tar", tarball(t, map[string][]byte{"bin/busybox": busybox}))
	dockerfile := "FROM scratch\nADD rootfs.tar /\n"
	for name, data := range files {
		writeFile(t, dir, name, data)
		dockerfile += "COPY " + name + " /data/" + name + "\n"
	}
	dockerfile += "LABEL org.opencontainers.image.description=\"" + description + "\"\n"
	writeFile(t, dir, "Dockerfile", []byte(dockerfile))
	return strings.TrimSpace(d.Run("build", "-q", "--network", "none", dir))
}

// roundTrip pushes an image and pulls it back, by tag and by digest.
func (d docker) roundTrip(t *testing.T, image, name string) {
	t.Helper()
	repo := d.registry + "/" + name
	ref := repo + ":v1"
	d.Run("tag", image, ref)
	want := d.save(t, ref)
	pushed := d.Run("push", ref)
	_, digest, ok := strings.Cut(pushed, "digest: ")
	if !ok {
		t.Fatalf("docker push says %s", pushed)
	}
	digest = strings.Fields(digest)[0]

	d.Run("rmi", "-f", image)
	d.Run("pull", ref)
	if got := d.save(t, ref); got != want {
		t.Errorf("%s came back changed", ref)
	}
	d.Run("rmi", "-f", image)
	d.Run("pull", repo+"@"+digest)
	d.Run("tag", repo+"@"+digest, ref)
	if got := d.save(t, ref); got != want {
		t.Errorf("%s@%s came back changed", repo, digest)
	}
	if got := strings.TrimSpace(d.Run("image", "inspect", "-f", "{{.Id}}", ref)); got != image {
		t.Errorf("%s came back with the id %s: want %s", ref, got, image)
	}
}

// save returns the hash of all that docker knows of an image: its layers, its
// configuration and its name.
func (d docker) save(t *testing.T, ref string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "image.tar")
	d.Run("save", "-o", path, ref)
	defer os.Remove(path)
	return hashFile(t, path)
}

// list pushes a list of images for two platforms, of which the daemon pulls its
// own.
func (d docker) list(t *testing.T, image, other string) {
	t.Helper()
	repo := d.registry + "/multi"
	for tag, id := range map[string]string{":amd64": image, ":arm64": other} {
		d.Run("tag", id, repo+tag)
		d.Run("push", repo+tag)
	}
	d.Run("manifest", "create", "--insecure", repo+":v1", repo+":amd64", repo+":arm64")
	d.Run("manifest", "annotate", "--arch", "arm64", repo+":v1", repo+":arm64")
	digest := strings.TrimSpace(d.Run("manifest", "push", "--insecure", "--purge", repo+":v1"))
	for _, ref := range []string{repo + ":v1", repo + "@" + digest} {
		d.Run("rmi", "-f", image)
		d.Run("pull", ref)
		if got := strings.TrimSpace(d.Run("image", "inspect", "-f", "{{.Id}}", ref)); got != image {
			t.Errorf("%s is image %s here: want %s", ref, got, image)
		}
	}
	raw := d.Run("manifest", "inspect", "--insecure", repo+":v1")
	if !strings.Contains(raw, `"arm64"`) || !strings.Contains(raw, "manifest.list.v2+json") {
		t.Errorf("the list in the registry is %s", raw)
	}
}

// search finds repositories by a part of their name, with the description of the
// image in them.
func (d docker) search(t *testing.T) {
	t.Helper()
	found := d.Run("search", "--no-trunc", "--format", "{{.Name}}|{{.Description}}", d.registry+"/eig")
	if got, want := strings.TrimSpace(found), "heavy/weight|An image of great weight"; got != want {
		t.Errorf("search found %q: want %q", got, want)
	}
	if got := d.Run("search", d.registry+"/nothing-like-it", "--format", "{{.Name}}"); strings.TrimSpace(got) != "" {
		t.Errorf("search for nothing found %q", got)
	}
}

// startDocker starts a dockerd, and so a containerd, with everything of them in
// a directory of the test, and returns its client. It runs on m, or on this host.
func startDocker(t *testing.T, m *berthtest.Machine) *berthtest.Command {
	t.Helper()
	return startDockerWith(t, m, "{}")
}

// startDockerWith is startDocker with a configuration of the daemon.
func startDockerWith(t *testing.T, m *berthtest.Machine, daemon string) *berthtest.Command {
	t.Helper()
	dir := t.TempDir()
	host := "unix://" + filepath.Join(dir, "docker.sock")
	config := writeFile(t, dir, "daemon.json", []byte(daemon))
	client := berthtest.NewCommand(t, "docker", "--config", filepath.Join(dir, "client"), "--host", host).On(m).
		Env("DOCKER_BUILDKIT=0", "DOCKER_CLI_EXPERIMENTAL=enabled")
	berthtest.NewCommand(t, "dockerd").On(m).Daemon(func() error {
		_, _, err := client.Try("info")
		return err
	},
		"--config-file", config, "--host", host,
		"--data-root", filepath.Join(dir, "data"), "--exec-root", filepath.Join(dir, "exec"),
		"--pidfile", filepath.Join(dir, "docker.pid"),
		"--bridge=none", "--iptables=false", "--ip6tables=false")
	return client
}
