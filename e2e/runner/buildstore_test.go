package runner

import (
	"fmt"
	"io"
	"net/http"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"

	"github.com/berth-registry/berth/e2e/berthtest"
)

// sh runs a script on the machine, in the runner's directory.
func (h *host) sh(t *testing.T, script string) string {
	t.Helper()
	return berthtest.NewCommand(t, "sh", "-c", "cd "+h.Data+" && "+script).On(h.Machine).Run()
}

// shared counts the trees of layers that the build cache and the image store have
// between them.
func (h *host) shared(t *testing.T) int {
	t.Helper()
	return strings.Count(h.sh(t, "find build/snapshots/snapshots -name fs -type l"), "\n")
}

// fourLayers is an image that adds, changes and removes files of its base.
const fourLayers = `FROM IMAGE
RUN echo one >/one && rm -rf /home && mkdir -p /etc/x
COPY file /file
RUN cat /file /one >/both && chmod 700 /tmp
CMD ["sh", "-c", "cat /both; stat -c %a /tmp; ls -d /home 2>&1"]
`

const fourLayersSay = "two\none\n700\nls: /home: No such file or directory\n"

// TestBuildStore checks what the build cache and the image store share, and that
// neither loses anything by it.
func TestBuildStore(t *testing.T) {
	t.Parallel()
	h := newHost(t, berthtest.MachineOptions{})
	b := h.buildx(t)
	four := b.context(t, "Dockerfile", fourLayers, "file", "two\n")
	// What a first build makes once is no leak of the next.
	h.docker.Run("pull", "-q", h.image("busybox"))
	b.build(t, "-t", "first", b.context(t, "Dockerfile", "FROM IMAGE\nRUN true\n"))
	h.docker.Run("run", "--rm", "first", "true")
	h.docker.Run("rmi", "first", h.image("busybox"))
	b.docker.Run("builder", "prune", "-af")
	before := h.Census(t)

	t.Run("trees and blobs are there once", func(t *testing.T) {
		h.docker.Run("pull", "-q", h.image("busybox"))
		b.build(t, "-t", "four", four)
		if got, _, _ := h.docker.Try("run", "--rm", "four"); !strings.HasPrefix(got, fourLayersSay) {
			t.Errorf("it says %q", got)
		}
		if n := h.shared(t); n != 4 {
			t.Errorf("%d of 4 layers are shared", n)
		}
		if n := strings.Count(h.sh(t, "find images/blobs -type f -links 2"), "\n"); n < 4 {
			t.Errorf("%d of 4 blobs are shared", n)
		}
	})
	t.Run("a built image is a base, and goes to a registry", func(t *testing.T) { h.goesRound(t, b) })
	t.Run("a registry gets compressed layers", func(t *testing.T) {
		b.build(t, "-t", h.repository("packed"), "--push", "--cache-to", "type=registry,mode=max,ref="+h.repository("packed/cache"), four)
		for _, name := range []string{"packed", "packed/cache"} {
			manifest := h.get(t, "/v2/"+name+"/manifests/latest")
			if digest := regexp.MustCompile(`sha256:[0-9a-f]{64}`).FindString(manifest); strings.Contains(manifest, "attestation") {
				manifest = h.get(t, "/v2/"+name+"/manifests/"+digest)
			}
			if n := strings.Count(manifest, "gzip"); n < 4 || strings.Contains(manifest, "diff.tar\"") || strings.Contains(manifest, "v1.tar\"") {
				t.Errorf("%s is %s", name, manifest)
			}
		}
		h.docker.Run("rmi", h.repository("packed"))
	})
	t.Run("linked copies on two bases", func(t *testing.T) { h.links(t, b) })
	t.Run("builds at once", func(t *testing.T) { h.buildAtOnce(t, b) })
	t.Run("what images lose the cache keeps", func(t *testing.T) {
		h.docker.Run("image", "prune", "-af")
		if said := b.build(t, "-t", "four", four); strings.Count(said, "CACHED") != 3 {
			t.Errorf("not from the cache:\n%s", said)
		}
		if got, _, _ := h.docker.Try("run", "--rm", "four"); !strings.HasPrefix(got, fourLayersSay) {
			t.Errorf("it says %q", got)
		}
	})
	t.Run("what nobody has is gone", func(t *testing.T) {
		h.docker.Run("image", "prune", "-af")
		b.docker.Run("builder", "prune", "-af")
		h.Settle(t, before)
	})
	t.Run("the host loses its power", func(t *testing.T) {
		b.build(t, "-t", "four", four)
		h.Machine.Reboot()
		h.registry.Restart()
		h.Restart()
		h.docker = h.Docker(t)
		if got, _, _ := h.docker.Try("run", "--rm", "four"); !strings.HasPrefix(got, fourLayersSay) {
			t.Errorf("it says %q", got)
		}
		b := h.buildx(t)
		b.build(t, "-t", "again", four)
		if got, _, _ := h.docker.Try("run", "--rm", "again"); !strings.HasPrefix(got, fourLayersSay) {
			t.Errorf("what was built since says %q", got)
		}
	})
}

// get returns what the registry has at a path.
func (h *host) get(t *testing.T, path string) string {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://localhost:"+h.registry.Port()+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Accept", "*/*")
	resp, err := h.Machine.Client().Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("%s: %s, %v\n%s", path, resp.Status, err, text)
	}
	return string(text)
}

// goesRound builds on what was built, and has a registry keep the result.
func (h *host) goesRound(t *testing.T, b *builder) {
	said := b.build(t, "-t", "child", b.context(t, "Dockerfile", "FROM four\nRUN echo three >>/both\nCMD [\"cat\", \"/both\"]\n"))
	if strings.Contains(said, "extracting") {
		t.Errorf("its base was unpacked:\n%s", said)
	}
	name := h.repository("built/child")
	h.docker.Run("tag", "child", name)
	h.docker.Run("push", "-q", name)
	b.prints(t, name, "two\none\nthree")
	h.docker.Run("rmi", name, "child")
	h.docker.Run("pull", "-q", name)
	b.prints(t, name, "two\none\nthree")
	h.docker.Run("rmi", name)
}

// links copies with --link, which merges layers that do not know each other.
func (h *host) links(t *testing.T, b *builder) {
	for i, base := range []string{"IMAGE", "four"} {
		name := fmt.Sprint("merged-", i)
		b.build(t, "-t", name, b.context(t, "f", "new\n", "Dockerfile", `FROM IMAGE AS a
RUN mkdir /d && echo a >/d/a && echo old >/d/f
FROM `+base+`
COPY --link --from=a /d /d
COPY --link f /d/f
RUN rm /d/a; echo b >/d/b
CMD ["sh", "-c", "cd /d; ls; cat f"]
`))
		b.prints(t, name, "b\nf\nnew")
	}
	tar := filepath.Join(t.TempDir(), "saved.tar")
	h.docker.Run("save", "-o", tar, "merged-0", "merged-1")
	h.docker.Run("rmi", "merged-0", "merged-1")
	h.docker.Run("load", "-q", "-i", tar)
	b.prints(t, "merged-0", "b\nf\nnew")
	b.prints(t, "merged-1", "b\nf\nnew")
}

// buildAtOnce has several builds share a step that takes a while.
func (h *host) buildAtOnce(t *testing.T, b *builder) {
	var wg sync.WaitGroup
	for i := range 4 {
		dir := b.context(t, "Dockerfile", fmt.Sprintf("FROM IMAGE\nRUN sleep 0.5; echo shared >/s\nRUN echo %d >/n\nCMD [\"cat\", \"/s\", \"/n\"]\n", i))
		wg.Go(func() {
			if said, err := b.try(t, "-t", fmt.Sprint("at-once-", i), dir); err != nil {
				t.Errorf("%v\n%s", err, said)
			}
		})
	}
	wg.Wait()
	for i := range 4 {
		b.prints(t, fmt.Sprint("at-once-", i), fmt.Sprintf("shared\n%d", i))
	}
}
