package runner

import (
	"archive/tar"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/crypto/ssh/agent"

	"github.com/berth-registry/berth/e2e/berthtest"
)

// mounts has RUN use what is not of the image.
func (b *builder) mounts(t *testing.T) {
	t.Run("cache", func(t *testing.T) {
		dir := b.context(t, "Dockerfile", "FROM IMAGE\nARG N\nRUN --mount=type=cache,target=/cache echo $N >>/cache/f; cp /cache/f /f\n")
		b.build(t, "-t", "cached:1", "--build-arg", "N=one", dir)
		b.build(t, "-t", "cached:2", "--build-arg", "N=two", dir)
		b.prints(t, "cached:2", "one\ntwo", "cat", "/f")
		b.prints(t, "cached:2", "", "sh", "-c", "ls -A /cache 2>/dev/null || true")
	})
	t.Run("secret", func(t *testing.T) {
		dir := b.context(t, "secret", "hush", ".dockerignore", "secret",
			"Dockerfile", "FROM IMAGE\nRUN --mount=type=secret,id=s,required wc -c </run/secrets/s >/n\nRUN --mount=type=secret,id=e,env=E echo ${#E} >>/n\n")
		b.build(t, "-t", "secret", "--secret", "id=s,src="+dir+"/secret", "--secret", "id=e,env=SECRET", dir)
		b.prints(t, "secret", "4\n5", "cat", "/n")
		b.prints(t, "secret", "", "sh", "-c", "ls -A /run/secrets 2>/dev/null || true")
		b.refuses(t, "secret s: not found", "--no-cache", dir)
	})
	t.Run("ssh", func(t *testing.T) {
		dir := b.context(t, "Dockerfile", "FROM IMAGE\nRUN --mount=type=ssh test -S $SSH_AUTH_SOCK && echo forwarded >/f\n")
		b.build(t, "-t", "ssh", "--ssh", "default="+sshAgent(t), dir)
		b.prints(t, "ssh", "forwarded", "cat", "/f")
	})
	t.Run("bind", func(t *testing.T) {
		dir := b.context(t, "in/f", "bound", "Dockerfile", `FROM IMAGE AS other
RUN echo other >/o
FROM IMAGE
RUN --mount=type=bind,source=in,target=/in --mount=type=bind,from=other,source=/o,target=/o --mount=type=tmpfs,target=/t cat /in/f /o >/f && touch /t/x && ! touch /in/x
`)
		b.build(t, "-t", "bound", dir)
		b.prints(t, "bound", "boundother", "cat", "/f")
	})
}

// sshAgent serves a key.
func sshAgent(t *testing.T) (socket string) {
	t.Helper()
	_, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	keys := agent.NewKeyring()
	if err := keys.Add(agent.AddedKey{PrivateKey: key}); err != nil {
		t.Fatal(err)
	}
	socket = filepath.Join(t.TempDir(), "agent")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				_ = agent.ServeAgent(keys, conn)
				conn.Close()
			}()
		}
	}()
	return socket
}

// outputs has results go elsewhere than into the image store.
func (b *builder) outputs(t *testing.T) {
	dir := b.context(t, "f", "out", "Dockerfile", "FROM scratch\nCOPY f /d/f\n")
	out := t.TempDir()
	t.Run("local", func(t *testing.T) {
		b.build(t, "--output", "type=local,dest="+out+"/local", dir)
		if got, err := os.ReadFile(filepath.Join(out, "local/d/f")); string(got) != "out" || err != nil {
			t.Errorf("%q %v", got, err)
		}
	})
	t.Run("archives", func(t *testing.T) {
		b.build(t, "--output", "type=tar,dest="+out+"/tar", dir)
		b.build(t, "--output", "type=oci,dest="+out+"/oci", dir)
		b.build(t, "--output", "type=docker,dest="+out+"/docker,name=loaded:1", dir)
		for file, want := range map[string]string{"tar": "d/f", "oci": "oci-layout", "docker": "manifest.json"} {
			if names := archived(t, filepath.Join(out, file)); !slices.Contains(names, want) {
				t.Errorf("%s has %s", file, names)
			}
		}
		b.says(t, "load", "-i", out+"/docker")
		b.says(t, "image", "inspect", "loaded:1")
	})
	t.Run("metadata", func(t *testing.T) {
		b.build(t, "-t", "meta", "--metadata-file", out+"/meta", dir)
		raw, err := os.ReadFile(filepath.Join(out, "meta"))
		if err != nil {
			t.Fatal(err)
		}
		var meta map[string]any
		if err := json.Unmarshal(raw, &meta); err != nil {
			t.Fatal(err)
		}
		id := strings.TrimSpace(b.says(t, "image", "inspect", "-f", "{{.Id}}", "meta"))
		if meta["containerimage.config.digest"] != id && meta["containerimage.digest"] != id {
			t.Errorf("%s is not in %s", id, raw)
		}
	})
	t.Run("push", func(t *testing.T) {
		b.build(t, "-t", b.repository("pushed:1"), "--push", dir)
		_, _, _ = b.host.docker.Try("rmi", b.repository("pushed:1")) // whether it is kept, too
		b.says(t, "pull", b.repository("pushed:1"))
		b.refuses(t, "the image store keeps no attestations", "--provenance=mode=max", dir)
		b.build(t, "-t", b.repository("pushed:2"), "--provenance=mode=max", "--push", dir)
		index, _, err := berthtest.NewCommand(t, "curl", "-s", "-H", "Accept: application/vnd.oci.image.index.v1+json").On(b.Machine).Try("http://" + b.repository("v2/pushed/manifests/2"))
		if err != nil || !strings.Contains(index, "attestation-manifest") {
			t.Errorf("the provenance is not with the image: %v %s", err, index)
		}
	})
}

func archived(t *testing.T, path string) (names []string) {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for r := tar.NewReader(f); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return names
		}
		if err != nil {
			t.Fatal(err)
		}
		names = append(names, strings.TrimPrefix(h.Name, "./"))
	}
}

// caches has what was built before used again: that of this host, and that in a
// registry.
func (b *builder) caches(t *testing.T) {
	dir := b.context(t, "Dockerfile", "FROM IMAGE\nRUN cat /proc/sys/kernel/random/uuid >/uuid\nRUN cp /uuid /again\n")
	uuid := func(image string) string { return b.says(t, "run", "--rm", image, "cat", "/again") }
	t.Run("host", func(t *testing.T) {
		b.build(t, "-t", "uuid:1", dir)
		said := b.build(t, "-t", "uuid:2", dir)
		if uuid("uuid:1") != uuid("uuid:2") || strings.Count(said, "CACHED") != 2 {
			t.Errorf("the cache is not used:\n%s", said)
		}
		b.build(t, "-t", "uuid:3", "--no-cache", dir)
		if uuid("uuid:1") == uuid("uuid:3") {
			t.Error("--no-cache uses the cache")
		}
	})
	t.Run("registry", func(t *testing.T) {
		ref := "type=registry,ref=" + b.repository("cache")
		b.build(t, "-t", "uuid:4", "--no-cache", "--cache-to", ref+",mode=max", dir)
		b.plugin(t, "buildx", "prune", "-a", "-f")
		said := b.build(t, "-t", "uuid:5", "--cache-from", ref, dir)
		if uuid("uuid:4") != uuid("uuid:5") || !strings.Contains(said, "CACHED") {
			t.Errorf("the registry's cache is not used:\n%s", said)
		}
	})
	t.Run("inline", func(t *testing.T) {
		name := b.repository("inline:1")
		b.build(t, "-t", name, "--no-cache", "--push", "--cache-to", "type=inline", dir)
		b.says(t, "pull", name)
		want := uuid(name)
		b.plugin(t, "buildx", "prune", "-a", "-f")
		b.build(t, "-t", "uuid:6", "--cache-from", name, dir)
		if uuid("uuid:6") != want {
			t.Error("the cache in the image is not used")
		}
	})
	t.Run("prune", func(t *testing.T) {
		records := func() string {
			return strings.TrimSpace(b.says(t, "system", "df", "--format", "{{if eq .Type \"Build Cache\"}}{{.TotalCount}}{{end}}"))
		}
		if du := b.plugin(t, "buildx", "du"); !strings.Contains(du, "Reclaimable:") || strings.Count(du, "\n") < 4 || records() == "0" {
			t.Errorf("df counts %s, du says:\n%s", records(), du)
		}
		if out := b.plugin(t, "builder", "prune", "-a", "-f"); !strings.Contains(out, "Total") || records() != "0" {
			t.Errorf("df counts %s, prune says:\n%s", records(), out)
		}
		b.prints(t, "uuid:4", strings.TrimSpace(uuid("uuid:5")), "cat", "/again")
	})
}

// platforms has images for other machines built, as far as this one can.
func (b *builder) platforms(t *testing.T) {
	t.Run("platforms", func(t *testing.T) {
		dir := b.context(t, "f", "f", "Dockerfile", "FROM scratch\nARG TARGETARCH\nLABEL arch=$TARGETARCH\nCOPY f /f\n")
		b.build(t, "-t", "other", "--platform", "linux/s390x", dir)
		if got := b.says(t, "image", "inspect", "-f", "{{.Architecture}}/{{.Config.Labels.arch}}", "other"); strings.TrimSpace(got) != "s390x/s390x" {
			t.Errorf("the image is for %s", got)
		}
		const two = "linux/s390x,linux/amd64"
		b.refuses(t, "exporting multiple references to image store is currently unsupported", "--platform", two, dir)
		b.build(t, "-t", b.repository("two:1"), "--platform", two, "--push", dir)
		index, _, err := berthtest.NewCommand(t, "curl", "-s", "-H", "Accept: application/vnd.oci.image.index.v1+json").On(b.Machine).Try("http://" + b.repository("v2/two/manifests/1"))
		if err != nil || !strings.Contains(index, `"s390x"`) || !strings.Contains(index, `"amd64"`) {
			t.Errorf("the index is %v %s", err, index)
		}
	})
}
